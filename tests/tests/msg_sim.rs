//! The simulator over every provider, and the canaries that it has to find out: see `spinwire_tests::sim`.
//!
//! `SPINWIRE_SIM_ROUNDS` sets how many seeds are tried, `SPINWIRE_SEED` with which to begin. A failure prints the command
//! that runs its seed again.
#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]
#![allow(clippy::print_stderr, reason = "a failure says how it is run again")]

use spinwire_dataplane::provider::EndpointType;
use spinwire_tests::conformance::{Faulty, Loopback, Rig, Shm, Traced};
use spinwire_tests::sim::canary::{Canary, flaw};
use spinwire_tests::sim::simulate;

/// Seeds tried for each provider and type.
const ROUNDS: u64 = 60;
/// Seeds within which a canary has to be found out.
const CANARY_ROUNDS: u64 = 40;

fn number_of(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Says how a seed is run again if a panic passes by.
struct Replay {
    test: &'static str,
    seed: u64,
}

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { test, seed } = self;
            eprintln!(
                "replay: SPINWIRE_SEED={seed} SPINWIRE_SIM_ROUNDS=1 cargo test -p spinwire-tests --test msg_sim {test}"
            );
        }
    }
}

/// Returns how many buffers of a pool were handed over.
fn rounds<R: Rig>(test: &'static str) -> u64 {
    let first = number_of("SPINWIRE_SEED", 1);
    let rounds = number_of("SPINWIRE_SIM_ROUNDS", ROUNDS);
    let mut lent = 0;
    for &endpoint_type in R::TYPES.iter().filter(|&&t| t != EndpointType::Dgram) {
        let (mut delivered, mut stays) = (0, 0);
        for seed in first..first + rounds {
            let _replay = Replay { test, seed };
            match simulate::<R>(endpoint_type, seed) {
                Ok(report) => {
                    delivered += report.delivered;
                    stays += report.stays;
                    lent += report.lent;
                }
                Err(violation) => panic!("{endpoint_type}, seed {seed}: {}", violation.0),
            }
        }
        // So that nobody takes an empty stage for a good play.
        if rounds >= 20 {
            assert!(delivered > rounds * 25, "{endpoint_type}: only {delivered} messages");
            assert!(stays > rounds * 4, "{endpoint_type}: only {stays} lives");
        }
    }
    lent
}

/// [`rounds`] where buffers of a pool go over.
fn lending_rounds<R: Rig>(test: &'static str) {
    let (lent, rounds) = (rounds::<R>(test), number_of("SPINWIRE_SIM_ROUNDS", ROUNDS));
    assert!(rounds < 20 || lent > rounds * 10, "only {lent} buffers");
}

#[test]
fn loopback() {
    assert_eq!(rounds::<Loopback>("loopback"), 0, "it has none of that");
}

#[test]
fn shm() {
    lending_rounds::<Shm>("shm");
}

#[test]
fn traced_shm() {
    lending_rounds::<Traced<Shm>>("traced_shm");
}

#[test]
fn faulty_loopback() {
    assert_eq!(rounds::<Faulty<Loopback, 3>>("faulty_loopback"), 0, "it has none of that");
}

#[test]
fn faulty_shm() {
    lending_rounds::<Faulty<Shm, 3>>("faulty_shm");
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 1..20 {
        let first = simulate::<Faulty<Shm, 9>>(EndpointType::Rdm, seed).expect("a good run");
        let again = simulate::<Faulty<Shm, 9>>(EndpointType::Rdm, seed).expect("a good run");
        assert_eq!(first, again);
    }
}

/// What the runs of some seeds are found guilty of.
fn findings<R: Rig>() -> Vec<String> {
    (1..=CANARY_ROUNDS)
        .filter_map(|seed| simulate::<R>(EndpointType::Rdm, seed).err())
        .map(|violation| violation.0)
        .collect()
}

/// The flaw is found out, in words that say what it is.
fn canary<const FLAW: u8>(words: &[&str]) {
    for (rig, found) in [
        ("loopback", findings::<Canary<Loopback, FLAW>>()),
        ("shm", findings::<Canary<Shm, FLAW>>()),
    ] {
        let said = found.iter().any(|text| words.iter().any(|word| text.contains(word)));
        assert!(said, "{rig}: flaw {FLAW} was found out as {found:#?}");
    }
}

/// The same, of what only shared memory has.
fn lending_canary<const FLAW: u8>(words: &[&str]) {
    let found = findings::<Canary<Shm, FLAW>>();
    let said = found.iter().any(|text| words.iter().any(|word| text.contains(word)));
    assert!(said, "flaw {FLAW} was found out as {found:#?}");
}

#[test]
fn every_canary_is_found_out() {
    assert_eq!(flaw::ALL.len(), 12);
    canary::<{ flaw::LOSES }>(&["lost or late"]);
    canary::<{ flaw::REPEATS }>(&["delivered twice"]);
    canary::<{ flaw::SWAPS }>(&["lost or late"]);
    canary::<{ flaw::CORRUPTS }>(&["corrupted", "that nobody sent"]);
    canary::<{ flaw::MISLABELS }>(&["corrupted"]);
    canary::<{ flaw::FORGETS }>(&["no progress"]);
    canary::<{ flaw::STUTTERS }>(&["names no operation", "completion of nothing"]);
    canary::<{ flaw::CONFUSES }>(&["took", "ended as", "not given back"]);
    canary::<{ flaw::BURIES_ALIVE }>(&["alive and connected"]);
    canary::<{ flaw::MISDIRECTS }>(&["took"]);
    lending_canary::<{ flaw::LETS_GO }>(&["not to be had", "somebody writes"]);
    lending_canary::<{ flaw::KEEPS }>(&["left over", "a good loan is refused"]);
}
