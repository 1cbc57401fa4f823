//! Virtual queue pairs: what goes wrong elsewhere, by name, and what holds whatever the devices do.
//!
//! | what goes wrong elsewhere | the test that shows that it does not here |
//! |---|---|
//! | an error completion is taken for another request, because its undefined opcode is looked at | `rules::garbage_in_a_failed_completion_is_not_looked_at` |
//! | a dead queue pair gets its turn again and again | `rules::a_dead_path_gets_no_new_work` |
//! | a request that could be posted in part only never completes | `rules::a_doorbell_that_publishes_a_part_leaves_nothing_behind` |
//! | the original error gives way to whatever `errno` holds | `rules::the_first_cause_is_the_one_that_is_reported` |
//! | fragments are counted with signed or 32-bit numbers | `rules::lengths_of_more_than_4_gib_are_cut_exactly` |
//! | a notification that could not be posted is said to be | `rules::a_notification_that_finds_no_room_is_posted_later` |
//! | receives that could not be posted are said to be | `rules::a_receive_that_finds_no_room_is_refused` |
//! | sequence numbers collide after the wrap | `windows::numbers_wrap_without_collision`, `sizes::a_window_that_could_wrap_is_refused` |
//! | one poll drains everything | `rules::a_turn_takes_no_more_than_its_budget` |
//! | the notification overtakes the data on another device | `soak::notifications_never_overtake_data_of_another_device`, `canaries::without_a_flushing_read_data_is_overtaken` |
//! | destruction forgets what is on its way | `rules::closing_reports_everything_that_was_on_its_way` |
//! | all sends go to the first queue pair without bound | `rules::pinned_sends_wait_for_room`, `soak::sends_in_rotation_meet_their_receives` |
//! | a write without immediate uses up a sequence number that nobody sees | `rules::what_the_sequence_cannot_carry_is_refused` |
//! | queue pairs of two devices with one number are mixed up | `rules::equal_queue_pair_numbers_on_two_devices_are_kept_apart` |
//! | an unsignaled request never completes, or completes aloud | `rules::unsignaled_requests_complete_silently` |
//! | completions allocate | `no_alloc` (`vqp.rs`) |
//! | a missing key throws | `rules::a_missing_key_is_named` |
//! | fragments of 100 bytes | `sizes::the_default_fragment_is_1_mib` |
//! | a message of more than 4 GiB cannot be said | `rules::lengths_of_more_than_4_gib_are_cut_exactly` |
//! | it can be made without the proof of its sizes | there is no way but `VirtualQp::place` |
//! | a notify queue pair is made and never used | `sizes::a_notify_path_that_would_not_be_used_is_refused` |
//! | writes of no bytes are refused | `rules::a_write_of_no_bytes_is_posted_and_completed` |
//! | one segment only | `rules::several_segments_are_gathered_across_fragments` |
//! | segments of no bytes are a null pointer | a slice is none (`SendRequest::segments`) |
//! | keys are copied with every post | keys lie in `Regions`; a request names a region |
//! | without a limit no receives are posted beforehand | `sizes::every_depth_is_at_least_one` |
//! | the peer is notified although a fragment failed | `orders::every_order_of_completions_with_an_error_at_each_place` |
//! | a failed post uses up a sequence number | `rules::a_refused_post_uses_up_no_sequence_number` |
//! | a read uses up sequence numbers | `rules::a_read_uses_up_no_sequence_number` |
//! | the undefined immediate of a failed receive goes into the sequence | `rules::the_immediate_of_a_failed_receive_is_not_looked_at` |
//! | more messages than receives end the process | `rules::messages_without_a_receive_hold_the_peer_back` |
//! | the count of fragments wraps near 4 GiB | `rules::lengths_of_more_than_4_gib_are_cut_exactly` |
//! | a mismatch ends the process | `orders::devices_that_complete_in_any_order_cause_no_false_success` |
//! | queues of the device overflow | the devices of the simulator complain; `sizes::a_completion_queue_that_could_overflow_is_refused` |
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]

mod canaries;
mod failures;
mod faults;
mod manual;
mod orders;
mod pair;
mod rules;
mod shown;
mod sizes;
mod soak;
mod striping;
mod windows;

/// A number from the environment, or `otherwise`.
pub(crate) fn asked(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}
