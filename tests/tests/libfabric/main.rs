//! Ports over libfabric, on those of its providers that need no hardware: the suite as far as each of them has what a case asks for, and what
//! only libfabric has.
//!
//! Left out are the cases of what no port over libfabric promises, which is told where the port is ([`spinwire_hostshim::libfabric`]): that
//! nothing shows before the doorbell, that a receive can be taken back which was posted for a message that waits, looks at waiting messages,
//! buffers for many, bounds for what waits, and, of type RDM, that the end of a peer is told by itself. What it does instead is in the other rooms here. What a provider is known to do wrong is told aloud.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::large_stack_frames,
    reason = "a test stops at the first thing that is not as expected"
)]

mod counts;
mod devices;
mod ends;
mod load;
mod memory;
mod packets;
mod pair;
mod parts;
mod processes;
mod rules;
mod waits;

use spinwire_dataplane::provider::EndpointType::{Msg, Rdm};
use spinwire_tests::conformance::{OfiChoice, run_on};

const TCP: OfiChoice = OfiChoice::new("tcp", Rdm);
const TCP_MSG: OfiChoice = OfiChoice::new("tcp", Msg);
const SOCKETS: OfiChoice = OfiChoice::new("sockets", Rdm);
const SOCKETS_MSG: OfiChoice = OfiChoice::new("sockets", Msg);
const SHM: OfiChoice = OfiChoice::new("shm", Rdm);
const UDP: OfiChoice = OfiChoice::new("udp", Rdm);

const ALL: &[OfiChoice] = &[TCP, TCP_MSG, SOCKETS, SOCKETS_MSG, SHM, UDP];
/// Connections of `tcp` have no tags.
const TAGGED: &[OfiChoice] = &[TCP, SOCKETS, SOCKETS_MSG, SHM, UDP];
/// Of type RDM: connections receive into one buffer.
const RELIABLE: &[OfiChoice] = &[TCP, SOCKETS, SHM, UDP];
/// `sockets` loses the immediate data of messages that have waited; and its threads run when they run, whatever number of turns a case counts.
const WAITING: &[OfiChoice] = &[TCP, TCP_MSG, SHM, UDP];
const WAITING_TAGGED: &[OfiChoice] = &[TCP, SHM, UDP];
/// `shm` does not find messages that have waited by masks.
const WAITING_MASKED: &[OfiChoice] = &[TCP, UDP];
const CONNECTED: &[OfiChoice] = &[TCP_MSG, SOCKETS_MSG];
/// Those that send to one who is gone and are refused at once.
const TOLD_AT_ONCE: &[OfiChoice] = &[TCP_MSG, SOCKETS, SOCKETS_MSG];
/// Of what is cut off the first bytes are there: the port's own byte behind the receive tells of it. Others tell of it, and not what was delivered.
const CUT_WHOLE: &[OfiChoice] = &[UDP];
/// Thousands of messages one by one, which takes long where threads of the library have to run.
const QUICK: &[OfiChoice] = &[TCP, SHM];
const BY_MEMORY: &[OfiChoice] = &[SHM];
const BY_STREAMS: &[OfiChoice] = &[TCP];
/// These cases have waiting messages with immediate data, or tags, besides.
const TCP_ALONE: &[OfiChoice] = &[TCP_MSG];
const SOCKETS_ALONE: &[OfiChoice] = &[SOCKETS_MSG];
/// Of those without hardware it alone checks ranges, rights and keys.
const GUARDED: &[OfiChoice] = &[SOCKETS, SOCKETS_MSG];

macro_rules! cases {
    ($($choices:ident { $($room:ident: $($case:ident),+ $(,)?;)+ })+) => {$($($(
        #[test]
        fn $case() {
            run_on($choices, spinwire_tests::conformance::$room::$case);
        }
    )+)+)+};
}

cases! {
    ALL {
        transfer: too_long_is_refused, an_injected_buffer_is_free_at_once, posted_loans_come_back_once,
            both_ways_at_once, sends_to_oneself;
        unexpected: a_stalled_peer_keeps_nobody_else;
        contexts: forged_completions_match_nothing, counters_count_what_ended, cancel_gives_the_loan_back, a_late_cancel_is_refused,
            a_flood_of_cancels_loses_none, ids_are_not_used_twice;
        limits: receive_queue_full, completion_queue_full, context_table_full, address_table_full, names_are_taken_once;
        peers: addresses_are_checked, names_are_found_by_address, nothing_leaks_by_connecting_and_disconnecting;
        peers_msg: a_second_is_refused, disconnect_ends_the_other_end;
        parcels: without_parcels_the_guard_comes_back;
        raw: doorbells_count_exactly, odd_ranges_fill_odd_ranges;
        parts: parts_are_refused_whole;
    }
    TAGGED {
        transfer: tags_and_immediate_data_arrive;
        matching: many_tags_find_their_receives;
        contexts: failures_say_what_is_known, a_failed_send_says_its_tag;
        peers: disconnect_gives_directed_receives_back;
    }
    WAITING {
        order: messages_of_a_peer_stay_in_order;
        unexpected: waits_for_a_receive;
        matching: directed_receives_take_their_peer, a_post_never_completes_by_itself;
        limits: no_credit;
        raw: one_completion_at_a_time, a_full_batch_is_left_alone;
    }
    WAITING_TAGGED {
        matching: the_first_posted_wins, tags_match_exactly, tagged_and_untagged_never_mix;
        unexpected: a_long_one_stalls_and_resolves;
    }
    WAITING_MASKED {
        order: order_holds_through_the_unexpected_queue;
        matching: masks_ignore_their_bits, the_first_arrived_wins;
    }
    CONNECTED {
        peers_msg: types_do_not_mix;
        peers: a_disconnected_peer_comes_back, disconnect_is_told;
    }
    RELIABLE {
        parts: several_buffers_are_taken_back, parts_that_nobody_took_come_back;
        raw: info_says_what_is_so;
    }
    QUICK {
        transfer: every_size_arrives_whole;
        parts: several_parts_arrive_as_one;
    }
    BY_MEMORY {
        fairness: a_short_batch_serves_all;
    }
    BY_STREAMS {
        fairness: eight_senders_share, a_fast_receiver_hears_all, a_flood_of_sends_keeps_nothing_out;
    }
    TCP_ALONE {
        peers_msg: connects_once, crossing_connects_meet;
        peers: a_dropped_peer_is_reported_after_its_messages, a_killed_peer_is_reported_after_its_messages,
            a_peer_comes_back_under_its_name;
        remains: an_end_has_patience;
    }
    SOCKETS_ALONE {
        peers: receives_of_the_gone_fail, nothing_leaks_by_coming_and_going;
    }
    TOLD_AT_ONCE {
        peers: sends_to_the_gone_fail;
    }
    CUT_WHOLE {
        matching: a_short_receive_truncates;
        parts: one_message_fills_several;
    }
    GUARDED {
        one_sided: writes_and_reads_arrive, atomics_bring_what_was_there, atomics_of_many_meet_once,
            ranges_rights_and_keys_are_checked, a_withdrawn_key_is_stale, withdrawing_waits_for_nobody,
            a_flood_ends_once_each, initiators_that_go_leave_nothing, nobody_inherits_what_was_asked,
            local_ranges_are_checked, writes_are_there_before_later_messages;
    }
}

/// Says past the test harness, which keeps what tests print, what was not checked.
fn not_run(what: &str, why: &str) {
    use std::io::Write as _;
    let line = format!("\n!! NOT RUN: {what}: {why}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

#[test]
fn what_the_library_gets_wrong_is_told() {
    let (major, minor) = spinwire_hostshim::libfabric::library_version().unwrap();
    let version = format!("libfabric {major}.{minor}");
    for (what, why) in [
        (
            "waiting messages with immediate data over ofi sockets",
            "their receives complete without it",
        ),
        ("masked tags of waiting messages over ofi shm", "they are never found"),
        ("the end of a peer of the same process over ofi shm", "the library crashes"),
        (
            "what was sent before a connection ended, over ofi sockets",
            "its end comes by another connection, and may overtake it",
        ),
        (
            "buffers for many messages over ofi shm, sockets and udp;ofi_rxd",
            "a message longer than what is left of one is followed by others behind its end",
        ),
        ("looks at waiting messages over ofi", "FI_PEEK tells neither sender nor immediate data"),
        ("rights to memory over ofi tcp, shm and udp;ofi_rxd", "they are not checked"),
    ] {
        not_run(what, &format!("{version}: {why}"));
    }
}
