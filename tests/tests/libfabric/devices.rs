//! The same over libfabric's own provider for RDMA devices, `verbs`, and `ofi_rxm` on it: on Soft-RoCE, in the guest of `tests/vm`.
//!
//! The cases run in a process of their own: `ofi_rxm` asks the device for a completion queue that is long enough for as many peers as
//! `FI_UNIVERSE_SIZE` says, 256 where it says nothing, and that is more than Soft-RoCE has (32767 entries); the library reads it once. Each case
//! takes seconds there, so they are few. And without `FI_OFI_RXM_USE_SRX` it crashes when an endpoint is closed; so there is none.

use core::time::Duration;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use spinwire_dataplane::msg::SendTo;
use spinwire_dataplane::provider::EndpointType::{Msg, Rdm};
use spinwire_hostshim::libfabric::{OfiConfig, OfiError, OfiHints, OfiPort, found};
use spinwire_tests::conformance::{Ofi, OfiChoice, World, one_sided, parts, run_on, transfer};

use super::pair::{config, named, on_ground};

/// Where the guest has its first device.
const NODE: &str = "10.77.0.1";
const RELIABLE: OfiChoice = OfiChoice::new("verbs;ofi_rxm", Rdm).at(NODE);
const CONNECTED: OfiChoice = OfiChoice::new("verbs", Msg).at(NODE);
/// The same layer over a provider that needs no device.
const LAYERED: OfiChoice = OfiChoice::new("net;ofi_rxm", Rdm);
/// By one receive context for all connections it does not crash.
const SHARED: &str = "FI_OFI_RXM_USE_SRX";
/// Which provider a child opens.
const OPENED: &str = "SPINWIRE_OFI_OPENS";
/// Which cases a child runs: those with this text in their names.
const ROLE: &str = "SPINWIRE_OFI_DEVICES";

/// The end of an endpoint.
mod close {
    use super::{Duration, Ofi, SendTo, World};

    pub(super) fn the_unread_go_with_the_endpoint(world: &World<'_, Ofi>) {
        let (a, b, _, to_a) = world.pair();
        for _ in 0..3 {
            world.insist(&[&b], || b.inject(SendTo::peer(to_a), b"unread"));
        }
        // They arrive without anybody's doing; the device needs time for it.
        std::thread::sleep(Duration::from_millis(200));
        drop(a);
        drop(b);
    }
}

type Case = (&'static str, OfiChoice, fn(&World<'_, Ofi>));

macro_rules! cases {
    ($($choice:ident: $room:ident: $($case:ident),+;)+) => {
        &[$($((
            concat!(stringify!($choice), " ", stringify!($case)),
            $choice,
            $room::$case,
        )),+),+]
    };
}

const CASES: &[Case] = cases! {
    RELIABLE: transfer: an_injected_buffer_is_free_at_once, both_ways_at_once;
    RELIABLE: parts: parts_are_refused_whole;
    RELIABLE: close: the_unread_go_with_the_endpoint;
    CONNECTED: transfer: posted_loans_come_back_once;
    CONNECTED: one_sided: writes_and_reads_arrive;
};

/// The child: runs the cases, one after the other. Does nothing where it is run as a test.
#[test]
fn child() {
    let Ok(wanted) = std::env::var(ROLE) else { return };
    for (name, choice, case) in CASES.iter().filter(|(name, ..)| name.contains(&wanted)) {
        let since = Instant::now();
        println!("case {name}");
        run_on(&[*choice], case);
        println!("case {name}: {} ms", since.elapsed().as_millis());
    }
    println!("all is well");
}

/// An endpoint that crashes when it is closed is not opened, whatever faults are accepted; where the environment says what mends it, it is.
#[test]
fn what_crashes_when_it_is_closed_is_refused() {
    is_refused(&LAYERED);
    is_opened(&LAYERED);
}

/// What the environment says is read once: a process for each answer.
fn in_a_process(choice: &OfiChoice, shared: Option<&str>) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "devices::opens", "--nocapture"]).env_remove(SHARED);
    child.env(OPENED, choice.provider).env("FI_UNIVERSE_SIZE", "16");
    shared.into_iter().for_each(|value| {
        child.env(SHARED, value);
    });
    let ran = child.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}{err}");
    out.into_owned()
}

fn is_refused(choice: &OfiChoice) {
    for shared in [None, Some("0")] {
        let out = in_a_process(choice, shared);
        assert!(out.contains("refused, of 0 offers"), "{choice:?}, {shared:?}: {out}");
    }
}

fn is_opened(choice: &OfiChoice) {
    let out = in_a_process(choice, Some("1"));
    assert!(out.contains("opened, of ") && !out.contains("of 0 "), "{choice:?}: {out}");
}

/// Opens one in this process, or is refused for the one reason. Does nothing where it is run as a test.
#[test]
fn opens() {
    let Ok(provider) = std::env::var(OPENED) else { return };
    let both = [LAYERED, RELIABLE];
    let choice = both.iter().find(|choice| choice.provider == provider).unwrap();
    let hints = OfiHints { provider: Some(provider.clone()), ..OfiHints::default() };
    let offers = found(&hints).unwrap().len();
    on_ground(|ground| {
        let config = OfiConfig { accept_faults: true, ..config(choice) };
        let answer = match OfiPort::open(ground.bump, ground.names, &named("a"), &config) {
            Ok(port) => {
                assert_eq!(port.provider_name(), provider);
                "opened"
            }
            Err(error) => {
                assert_eq!(error, OfiError::Crashes { provider: provider.clone() });
                assert!(error.to_string().ends_with("FI_OFI_RXM_USE_SRX=1 in the environment"));
                "refused"
            }
        };
        println!("{answer}, of {offers} offers");
    });
}

/// Runs them, where there are such devices.
#[test]
fn verbs_of_libfabric() {
    let is_there =
        std::env::var_os("SPINWIRE_VM").is_some() && Path::new("/dev/infiniband").exists();
    if !is_there {
        super::not_run("libfabric's verbs on rxe0", "only in the guest of tests/vm");
        return;
    }
    is_refused(&RELIABLE);
    let ran = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "devices::child", "--nocapture"])
        .env(ROLE, "")
        .env("FI_UNIVERSE_SIZE", "16")
        .env(SHARED, "1")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && out.contains("all is well"), "{out}{err}");
}
