//! Virtual queue pairs: what goes wrong elsewhere, by name, and what holds whatever the devices do.
//!
//! Numbers with a letter are those of the list of gaps that the makers of the design behind this one have published; those without, of what
//! its code shows beside them.
//!
//! | | what goes wrong elsewhere | the tests that show that it does not here |
//! |---|---|---|
//! | T1 | an error completion is taken for another request, because its undefined opcode is looked at | `rules::garbage_in_a_failed_completion_is_not_looked_at`, `shares::garbage_beside_a_good_id_changes_nothing` |
//! | T2 | a dead queue pair gets its turn again and again | `rules::a_dead_path_gets_no_new_work`, `failures::when_all_paths_are_down_every_request_completes_once_with_the_cause`, `faults::a_write_that_nobody_could_be_told_of_is_refused` |
//! | T3 | a request that could be posted in part only never completes | `rules::a_doorbell_that_publishes_a_part_leaves_nothing_behind`, `failures::ids_that_a_doorbell_left_behind_are_not_used_again` |
//! | T4 | the original error gives way to whatever `errno` holds, or to its echoes | `rules::the_first_cause_is_the_one_that_is_reported`, `faults::what_is_flushed_fails_with_the_cause_of_the_flush`, `faults::what_a_device_calls_a_misuse_costs_the_request_and_not_the_path`, `failures::the_first_cause_is_kept_until_all_is_well_and_then_forgotten` |
//! | T5 | fragments are counted with signed or 32-bit numbers | `rules::lengths_of_more_than_4_gib_are_cut_exactly` |
//! | T6 | a notification that could not be posted is said to be | `rules::a_notification_that_finds_no_room_is_posted_later`, `faults::a_younger_notification_does_not_pass_one_that_was_taken_back`, `doorbells::who_was_not_told_was_not_written_to_with_success` |
//! | T7 | receives that could not be posted are said to be | `rules::a_receive_that_finds_no_room_is_refused`, `faults::a_receive_that_a_doorbell_left_behind_is_posted_again_in_its_place`, `doorbells::a_device_that_refuses_receives_for_good_has_its_path_taken_out`, `doorbells::receives_that_are_left_behind_twice_stay_in_their_order` |
//! | T8 | sequence numbers collide after the wrap | `windows::numbers_wrap_without_collision`, `sizes::a_window_that_could_wrap_is_refused` |
//! | T9 | one poll drains everything | `rules::a_turn_takes_no_more_than_its_budget`, `faults::one_turn_stages_no_more_than_its_posts_and_nobody_starves`, `faults::one_turn_looks_at_the_times_of_a_few_only`, `faults::a_lost_sequence_is_given_up_in_one_go`, `shares::a_budget_is_shared_by_the_devices_and_who_is_first_goes_round`, `shares::what_is_not_flushed_is_given_up_some_at_a_time` |
//! | T10 | the notification overtakes the data on another device. Here: all paths on one device at each end, or, after all data has completed, a flushing read over each other device | `orders::a_notification_waits_for_a_read_over_each_other_device`, `orders::reads_of_one_message_do_not_wait_for_those_of_another`, `sizes::several_devices_need_a_flushing_read`, `soak::notifications_never_overtake_data_of_another_device`, `canaries::without_a_flushing_read_data_is_overtaken`, `doorbells::nobody_is_told_while_a_read_finds_no_room`, `doorbells::a_read_that_failed_is_made_again_over_the_same_device_or_not_at_all`, `sizes::a_flushing_read_needs_8_bytes_with_a_key_for_each_device` |
//! | T11 | destruction forgets what is on its way | `rules::closing_reports_everything_that_was_on_its_way`, `orders::late_completions_of_a_former_user_of_the_queue_pairs_match_nothing` |
//! | T12 | all sends go to the first queue pair without bound | `rules::pinned_sends_wait_for_room`, `soak::sends_in_rotation_meet_their_receives`, `ranges::one_path_takes_over_no_more_requests_than_were_asked_for`, `ranges::receives_of_pinned_sends_are_where_these_go_and_atomics_take_no_turns` |
//! | T13 | a write without immediate uses up a sequence number that nobody sees | `rules::what_the_sequence_cannot_carry_is_refused` |
//! | T14 | queue pairs of two devices with one number are mixed up | `rules::equal_queue_pair_numbers_on_two_devices_are_kept_apart`, `shares::ids_of_one_device_mean_nothing_on_another_within_one_turn` |
//! | T15 | an unsignaled request never completes, or completes aloud | `rules::unsignaled_requests_complete_silently` |
//! | T16, T17, I11 | completions allocate | `no_alloc: virtual_queue_pairs_need_no_heap_no_system_call_and_no_page_fault` |
//! | T18 | a missing key throws | `rules::a_missing_key_is_named`, `ranges::memory_that_is_taken_back_fails_what_waits_and_names_the_device` |
//! | T19 | fragments of 100 bytes | `sizes::the_default_fragment_is_1_mib` |
//! | T20 | a message of more than 4 GiB cannot be said | `rules::lengths_of_more_than_4_gib_are_cut_exactly`, `ranges::more_than_4_gib_are_said_to_have_been_written`, `ranges::more_than_4_gib_are_said_to_have_come` |
//! | T21 | it can be made without the proof of its sizes: there is no way but `VirtualQp::place` | `sizes::every_depth_is_at_least_one`, `faults::a_time_of_zero_is_refused`, `ranges::what_the_device_allows_is_not_exceeded` |
//! | T22 | a notify queue pair is made and never used | `sizes::a_notify_path_that_would_not_be_used_is_refused` |
//! | T23 | a name has the form of another kind: the lints of the workspace |  |
//! | I3, I9, I15 | keys are copied with every post, or are those of one device: they lie in `Regions` | `rules::a_missing_key_is_named` |
//! | I7 | sends are never cut: one that is too long is refused | `orders::a_send_of_more_than_one_message_is_refused` |
//! | I8 | writes of no bytes are refused | `rules::a_write_of_no_bytes_is_posted_and_completed` |
//! | I13 | a reference into a table outlives its row: who was let go of is known by nobody | `rules::closing_reports_everything_that_was_on_its_way` |
//! | I14 | one segment only | `rules::several_segments_are_gathered_across_fragments`, `faults::segments_of_no_bytes_are_left_out`, `ranges::what_has_not_the_shape_of_its_kind_is_refused` |
//! | I17 | no segments are a null pointer: a slice is none (`SendRequest::segments`) | `rules::a_write_of_no_bytes_is_posted_and_completed` |
//! | I23 | without a limit no receives are posted beforehand | `sizes::every_depth_is_at_least_one` |
//! | 1 | the peer is notified although a fragment failed | `orders::every_order_of_completions_with_an_error_at_each_place` |
//! | 2 | a failed post uses up a sequence number | `rules::a_refused_post_uses_up_no_sequence_number` |
//! | 3 | a read uses up sequence numbers | `rules::a_read_uses_up_no_sequence_number` |
//! | 4 | the undefined immediate of a failed receive goes into the sequence | `rules::the_immediate_of_a_failed_receive_is_not_looked_at`, `failures::a_fragment_that_comes_twice_or_without_a_number_is_dropped` |
//! | 5 | more messages than receives end the process | `rules::messages_without_a_receive_hold_the_peer_back` |
//! | 6 | the count of fragments wraps near 4 GiB | `rules::lengths_of_more_than_4_gib_are_cut_exactly`, `ranges::lengths_whose_sum_is_no_number_are_refused` |
//! | 7 | a notification is marked as posted when it is queued, and a failure later leaves it there | `rules::a_notification_that_finds_no_room_is_posted_later`, `faults::two_short_doorbells_leave_the_order_of_notifications` |
//! | 8 | without a limit the receiver posts nothing | `sizes::every_depth_is_at_least_one` |
//! | 9 | a mismatch ends the process | `orders::devices_that_complete_in_any_order_cause_no_false_success` |
//! | 10 | queues of a device overflow, because numbers of two were one: its devices complain in the simulator | `rules::equal_queue_pair_numbers_on_two_devices_are_kept_apart`, `sizes::a_completion_queue_that_could_overflow_is_refused`, `canaries::a_completion_queue_that_overflows_is_seen`, `sizes::those_that_are_attached_count_together` |
//!
//! What was wrong here once has a test each in `faults`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]

mod canaries;
mod doorbells;
mod failures;
mod faults;
mod manual;
mod mlx5;
mod orders;
mod pair;
mod ranges;
mod rules;
mod shares;
mod shown;
mod sizes;
mod soak;
mod striping;
mod windows;

/// A number from the environment, or `otherwise`.
pub(crate) fn asked(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// The table at the head of this file names tests that there are.
#[test]
fn every_fault_has_its_tests() {
    let rooms = [
        ("canaries", include_str!("canaries.rs")),
        ("doorbells", include_str!("doorbells.rs")),
        ("failures", include_str!("failures.rs")),
        ("faults", include_str!("faults.rs")),
        ("no_alloc", include_str!("../no_alloc/main.rs")),
        ("orders", include_str!("orders.rs")),
        ("ranges", include_str!("ranges.rs")),
        ("rules", include_str!("rules.rs")),
        ("shares", include_str!("shares.rs")),
        ("sizes", include_str!("sizes.rs")),
        ("soak", include_str!("soak.rs")),
        ("windows", include_str!("windows.rs")),
    ];
    let rows = include_str!("main.rs").lines().filter(|line| line.starts_with("//! | "));
    let mut named = 0;
    for cell in rows.filter_map(|row| row.rsplit("| ").next()) {
        for name in cell.split('`').skip(1).step_by(2) {
            let (room, test) = name.split_once(':').expect("a room and a test");
            let (_, text) = rooms.iter().find(|it| it.0 == room).expect("a room of the tests");
            let test = test.trim_matches([':', ' ']);
            assert!(text.contains(&format!("#[test]\nfn {test}()")), "no test {name}");
            named += 1;
        }
    }
    assert!(named > 50, "{named}");
}
