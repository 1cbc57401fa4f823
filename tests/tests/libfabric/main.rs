//! Ports over libfabric, on those of its providers that need no hardware: the suite as far as each of them has what a case asks for, and what
//! only libfabric has.
//!
//! Left out are the cases of what no port over libfabric promises, which is told where the port is ([`spinwire_hostshim::libfabric`]): that
//! nothing shows before the doorbell, looks at waiting messages, buffers for many, bounds for what waits, and, of type RDM, that the end of a
//! peer is told by itself. What it does instead is in the other rooms here. What a provider is known to do wrong is told aloud.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::large_stack_frames,
    reason = "a test stops at the first thing that is not as expected"
)]

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
/// `sockets` loses the immediate data of messages that have waited; and its threads run when they run, whatever number of turns a case counts.
const WAITING: &[OfiChoice] = &[TCP, TCP_MSG, SHM, UDP];
const WAITING_TAGGED: &[OfiChoice] = &[TCP, SHM, UDP];
/// `shm` does not find messages that have waited by masks.
const WAITING_MASKED: &[OfiChoice] = &[TCP, UDP];
const CONNECTED: &[OfiChoice] = &[TCP_MSG, SOCKETS_MSG];
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
        contexts: forged_completions_match_nothing, cancel_gives_the_loan_back, a_late_cancel_is_refused,
            a_flood_of_cancels_loses_none, ids_are_not_used_twice;
        limits: receive_queue_full, completion_queue_full, context_table_full, address_table_full, names_are_taken_once;
        peers: addresses_are_checked, nothing_leaks_by_connecting_and_disconnecting;
        peers_msg: a_second_is_refused, disconnect_ends_the_other_end;
        parcels: without_parcels_the_guard_comes_back;
        raw: doorbells_count_exactly;
        parts: parts_are_refused_whole;
    }
    TAGGED {
        transfer: tags_and_immediate_data_arrive;
        matching: many_tags_find_their_receives;
        peers: disconnect_gives_directed_receives_back;
    }
    WAITING {
        order: messages_of_a_peer_stay_in_order;
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
        peers: a_disconnected_peer_comes_back, a_peer_comes_back_under_its_name, disconnect_is_told;
    }
    QUICK {
        transfer: every_size_arrives_whole;
    }
    BY_MEMORY {
        fairness: a_short_batch_serves_all;
    }
    BY_STREAMS {
        fairness: eight_senders_share, a_fast_receiver_hears_all;
    }
    TCP_ALONE {
        peers_msg: connects_once, crossing_connects_meet;
        peers: a_dropped_peer_is_reported_after_its_messages, a_killed_peer_is_reported_after_its_messages;
        remains: an_end_has_patience;
    }
    SOCKETS_ALONE {
        peers: receives_of_the_gone_fail, nothing_leaks_by_coming_and_going;
    }
    GUARDED {
        one_sided: writes_and_reads_arrive, atomics_bring_what_was_there, atomics_of_many_meet_once,
            ranges_rights_and_keys_are_checked, a_withdrawn_key_is_stale, withdrawing_waits_for_nobody,
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
            "an endpoint of type RDM that a MSG one connects to, over ofi sockets",
            "the library crashes",
        ),
        (
            "messages longer than their receives over ofi udp;ofi_rxd",
            "they are cut off and not told of",
        ),
        ("rights to memory over ofi tcp, shm and udp;ofi_rxd", "they are not checked"),
    ] {
        not_run(what, &format!("{version}: {why}"));
    }
}
