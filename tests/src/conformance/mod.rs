//! The conformance suite: what every provider has to do, said once.
//!
//! ```text
//!   Rig (loopback, shm, tcp, fault<..>, trace<..>)  --ground, ports-->  World  --Node, Node, Node-->  case
//! ```
//!
//! A rig says how to make what its ports share (a hub, a segment) in plain memory, how to open a port, and how to kill one.
//! A case is a function over a [`World`] of any rig; [`conformance!`](macro@crate::conformance) makes a test of each case. Cases run
//! over [`Endpoint`](spinwire_dataplane::msg::Endpoint), and over the bare provider where that matters.
//!
//! Time is virtual. No case waits for it: it turns its nodes until something is so, at most [`TURNS_MAX`] times. Where a real kernel is below them the
//! last of these turns are taken at leisure ([`World::linger`]).

mod node;
#[cfg(feature = "libfabric")]
mod ofi;
mod rdma;
mod rdma_datagrams;
mod rdma_fabric;
mod rdma_mlx5;
mod rdma_stranger;
mod rig;
mod tcp;
mod udp;
mod world;

pub mod contexts;
pub mod fairness;
pub mod limits;
pub mod matching;
pub mod multi;
pub mod one_sided;
pub mod one_sided_model;
pub mod order;
pub mod parcels;
pub mod parts;
pub mod peers;
pub mod peers_msg;
pub mod random;
pub mod raw;
pub mod remains;
pub mod transfer;
pub mod unexpected;

pub use node::{Got, Node};
#[cfg(feature = "libfabric")]
pub use ofi::{Ofi, OfiChoice, OfiEnd, OfiGround, run_on};
pub use rdma::{Host, HostedPort, Network, NetworkKind, RdmaGround, RdmaRig};
pub use rdma_datagrams::{
    DatagramEnd, DatagramKind, DatagramNetwork, DatagramRig, HostedDgram, RdmaDgram,
    RdmaDgramGround, SimulatedDatagrams,
};
pub use rdma_fabric::{Keys, Pair, Rdma, Simulated};
pub use rdma_mlx5::{
    DeviceKeys, Devices, Mlx5, Mlx5Dgram, Mlx5Model, ModelCompletions, ModelPair,
    describe_completions, describe_pair,
};
pub use rdma_stranger::Stranger;
pub use rig::{AnyShm, Faulty, Loopback, Rig, Shm, ShmGround, Sizes, Traced};
pub use tcp::{NamedPort, Tcp, TcpGround};
pub use udp::{Udp, UdpGround, UdpOneByOne};
pub use world::{TURNS_MAX, World, name, run, run_case};

/// Makes a module of tests for each rig: one test for each case.
#[macro_export]
macro_rules! conformance {
    ($($module:ident: $rig:ty),* $(,)?) => { $(mod $module { use super::*; $crate::conformance_cases!($rig); })* };
}

/// The same for ports for datagrams. Left out are the cases of what those do not promise: that nothing is lost where a receiver has no room, that
/// the end of a peer is heard of, that senders share.
#[macro_export]
macro_rules! datagram_conformance {
    ($($module:ident: $rig:ty),* $(,)?) => { $(mod $module {
        use super::*;
        $crate::conformance_cases!(@ $rig;
            transfer: every_size_arrives_whole, too_long_is_refused, an_injected_buffer_is_free_at_once,
                posted_loans_come_back_once, tags_and_immediate_data_arrive, both_ways_at_once,
                sends_to_oneself;
            order: nothing_shows_before_the_doorbell_and_all_after;
            matching: tags_match_exactly, masks_ignore_their_bits, the_first_posted_wins,
                the_first_arrived_wins, tagged_and_untagged_never_mix, directed_receives_take_their_peer,
                a_post_never_completes_by_itself, peek_looks_and_leaves, many_tags_find_their_receives,
                a_short_receive_truncates;
            unexpected: waits_for_a_receive;
            multi: fills_one_buffer_with_many, gives_back_what_is_too_full, an_exact_fit_gives_back,
                the_first_may_be_too_long, empty_messages_take_no_room, takes_what_waited,
                can_be_cancelled_half_full;
            contexts: forged_completions_match_nothing, cancel_gives_the_loan_back,
                a_late_cancel_is_refused, cancelled_receives_take_nothing, a_flood_of_cancels_loses_none,
                ids_are_not_used_twice, a_failed_send_says_its_tag;
            limits: receive_queue_full, completion_queue_full, context_table_full, no_spill,
                address_table_full;
            peers: disconnect_gives_directed_receives_back, nothing_leaks_by_connecting_and_disconnecting,
                names_are_found_by_address;
            parts: several_parts_arrive_as_one, parts_are_refused_whole, one_message_fills_several,
                several_buffers_are_taken_back, parts_that_nobody_took_come_back;
            fairness: a_flood_of_sends_keeps_nothing_out, cold_peers_are_heard,
                a_short_batch_serves_all;
            raw: one_completion_at_a_time, a_full_batch_is_left_alone, doorbells_count_exactly,
                odd_ranges_fill_odd_ranges, info_says_what_is_so;
        );
    })* };
}

/// The list of all cases.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_cases {
    ($rig:ty) => {
        $crate::conformance_cases!(@ $rig;
            transfer: every_size_arrives_whole, too_long_is_refused, an_injected_buffer_is_free_at_once,
                posted_loans_come_back_once, tags_and_immediate_data_arrive, both_ways_at_once,
                sends_to_oneself;
            order: messages_of_a_peer_stay_in_order, order_holds_through_the_unexpected_queue,
                nothing_shows_before_the_doorbell_and_all_after;
            matching: tags_match_exactly, masks_ignore_their_bits, the_first_posted_wins,
                the_first_arrived_wins, tagged_and_untagged_never_mix, directed_receives_take_their_peer,
                a_post_never_completes_by_itself, peek_looks_and_leaves, many_tags_find_their_receives,
                a_short_receive_truncates;
            unexpected: waits_for_a_receive, a_full_queue_loses_nothing, a_long_one_stalls_and_resolves,
                a_stalled_peer_keeps_nobody_else;
            multi: fills_one_buffer_with_many, gives_back_what_is_too_full, an_exact_fit_gives_back,
                the_first_may_be_too_long, empty_messages_take_no_room, takes_what_waited,
                can_be_cancelled_half_full, runs_keep_every_message, runs_end_where_many_end;
            contexts: forged_completions_match_nothing, cancel_gives_the_loan_back,
                a_late_cancel_is_refused, cancelled_receives_take_nothing, a_flood_of_cancels_loses_none,
                ids_are_not_used_twice, failures_say_what_is_known, a_failed_send_says_its_tag, counters_count_what_ended;
            limits: receive_queue_full, completion_queue_full, context_table_full, no_credit,
                no_spill, address_table_full, names_are_taken_once;
            peers: a_dropped_peer_is_reported_after_its_messages, a_killed_peer_is_reported_after_its_messages,
                receives_of_the_gone_fail, sends_to_the_gone_fail, a_sender_that_was_never_met_is_heard,
                a_receiver_that_never_looked_is_reported, addresses_are_checked, disconnect_is_told,
                a_silent_end_disconnects_too, disconnect_gives_directed_receives_back,
                a_disconnected_peer_comes_back, a_peer_comes_back_under_its_name,
                a_fenced_endpoint_touches_nothing, nothing_leaks_by_coming_and_going,
                nothing_leaks_by_connecting_and_disconnecting, a_full_address_table_refuses,
                names_are_found_by_address;
            peers_msg: connects_once, crossing_connects_meet, a_second_is_refused, types_do_not_mix,
                disconnect_ends_the_other_end;
            remains: an_end_waits_for_no_receive, an_end_has_patience, the_gone_can_be_asked_for_what_waits,
                one_left_message_is_had_once, what_is_left_can_be_given_up,
                others_come_beside_what_is_left, a_fenced_endpoint_hears_an_end_once,
                a_fenced_endpoint_keeps_nothing, a_fenced_endpoint_ends_quietly;
            parcels: a_buffer_goes_uncopied, without_parcels_the_guard_comes_back, parcels_match_like_messages,
                parcels_wait_for_receives, a_parcel_that_nobody_takes_goes_back, another_pool_is_foreign,
                a_lender_is_full, a_lane_carries_sixty_four, the_last_reference_may_write,
                a_dead_receiver_keeps_nothing, a_dead_sender_keeps_nothing, a_lender_that_goes_lets_go,
                disconnecting_gives_back, what_the_gone_have_left_keeps_none_of_the_living, parcels_fill_no_buffer;
            one_sided: writes_and_reads_arrive, atomics_bring_what_was_there, atomics_of_many_meet_once,
                ranges_rights_and_keys_are_checked, a_withdrawn_key_is_stale, withdrawing_waits_for_nobody,
                local_ranges_are_checked, without_one_sided_the_loan_comes_back,
                writes_are_there_before_later_messages, a_flood_ends_once_each, the_gone_let_nobody_in,
                initiators_that_go_leave_nothing,
                nobody_inherits_what_was_asked, a_fenced_endpoint_ends_one_sided;
            one_sided_model: random_operations_match_a_model;
            parts: several_parts_arrive_as_one, parts_are_refused_whole, one_message_fills_several,
                several_buffers_are_taken_back, parts_that_nobody_took_come_back, several_buffers_outlive_the_gone;
            fairness: eight_senders_share, a_fast_receiver_hears_all, a_flood_of_sends_keeps_nothing_out, cold_peers_are_heard,
                a_short_batch_serves_all;
            raw: one_completion_at_a_time, a_full_batch_is_left_alone, doorbells_count_exactly,
                odd_ranges_fill_odd_ranges, info_says_what_is_so,
        );
    };
    (@ $rig:ty; $($room:ident: $($case:ident),* $(,)?);* $(;)?) => {
        $($(
            #[test]
            fn $case() {
                $crate::conformance::run_case::<$rig>($crate::conformance::$room::$case);
            }
        )*)*
    };
}
