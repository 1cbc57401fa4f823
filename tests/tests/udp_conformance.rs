//! Ports for datagrams against the conformance suite: over UDP on the kernel that runs, with one submission for all packets and one for each, and over
//! simulated RDMA devices.
//!
//! Left out are the cases of what datagrams do not promise: that nothing is lost where a receiver has no room, that the end of a peer is heard
//! of, that senders share. What it does instead is tried in `udp_port`.

use spinwire_tests::conformance::{RdmaDgram, Udp, UdpOneByOne};

macro_rules! cases {
    ($($module:ident: $rig:ty;)+) => {$(
        mod $module {
            use super::*;
            spinwire_tests::conformance_cases!(@ $rig;
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
                    ids_are_not_used_twice;
                limits: receive_queue_full, completion_queue_full, context_table_full, no_spill,
                    address_table_full;
                peers: disconnect_gives_directed_receives_back, nothing_leaks_by_connecting_and_disconnecting;
                fairness: a_flood_of_sends_keeps_nothing_out, cold_peers_are_heard,
                    a_short_batch_serves_all;
                raw: one_completion_at_a_time, a_full_batch_is_left_alone, doorbells_count_exactly,
                    info_says_what_is_so;
            );
        }
    )+};
}

cases! {
    by_one_submission: Udp;
    one_by_one: UdpOneByOne;
    over_rdma: RdmaDgram;
}
