//! The same over libfabric's own provider for RDMA devices, `verbs`, and `ofi_rxm` on it: on Soft-RoCE, in the guest of `tests/vm`.
//!
//! The cases run in a process of their own: `ofi_rxm` asks the device for a completion queue that is long enough for as many peers as
//! `FI_UNIVERSE_SIZE` says, 256 where it says nothing, and that is more than Soft-RoCE has (32767 entries); the library reads it once. Each case
//! takes seconds there, so they are few.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use spinwire_dataplane::provider::EndpointType::{Msg, Rdm};
use spinwire_tests::conformance::{Ofi, OfiChoice, World, run_on};

/// Where the guest has its first device.
const NODE: &str = "10.77.0.1";
const RELIABLE: OfiChoice = OfiChoice::new("verbs;ofi_rxm", Rdm).at(NODE);
const CONNECTED: OfiChoice = OfiChoice::new("verbs", Msg).at(NODE);
/// Which cases a child runs: those with this text in their names.
const ROLE: &str = "SPINWIRE_OFI_DEVICES";

type Case = (&'static str, OfiChoice, fn(&World<'_, Ofi>));

macro_rules! cases {
    ($($choice:ident: $room:ident: $($case:ident),+;)+) => {
        &[$($((
            concat!(stringify!($choice), " ", stringify!($case)),
            $choice,
            spinwire_tests::conformance::$room::$case,
        )),+),+]
    };
}

const CASES: &[Case] = cases! {
    RELIABLE: transfer: an_injected_buffer_is_free_at_once, both_ways_at_once;
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

/// Runs them, where there are such devices.
#[test]
fn verbs_of_libfabric() {
    let is_there =
        std::env::var_os("SPINWIRE_VM").is_some() && Path::new("/dev/infiniband").exists();
    if !is_there {
        super::not_run("libfabric's verbs on rxe0", "only in the guest of tests/vm");
        return;
    }
    let ran = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "devices::child", "--nocapture"])
        .env(ROLE, "")
        .env("FI_UNIVERSE_SIZE", "16")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && out.contains("all is well"), "{out}{err}");
}
