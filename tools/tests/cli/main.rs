//! The `spinwire` command as users run it: good arguments, bad ones, and folders full of traps.
//!
//! | file | what is tried |
//! |---|---|
//! | [`arguments`] | what is not understood, and folders that are none |
//! | [`bounds`] | names of others, streams that nobody reads, places where nobody is |
//! | [`echo`] | the echo service and clients of all manners |
//! | [`holders`] | segments of processes that live, are stopped, or were killed |
//! | [`pair`] | `lat` and `bw` |
//! | [`datagrams`] | `lat` and `bw` over UDP: losses, strangers, ends that are gone |
//! | [`layout`] | the layout checker |
//! | [`loans`] | `lat` and `bw` with `--zero-copy` |
//! | [`ping`] | `serve` and `ping`, and `lat` and `bw` by a URI |
//! | [`pools`] | pools of buffers, and who holds them |
//! | [`providers`] | what this machine can open, by what is asked for |
//! | [`surroundings`] | other users, networks that lead nowhere, terminals |
//! | [`traps`] | files that are no segments, or not any more |
//! | [`planes`] | stats pages |
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::disallowed_types,
    clippy::std_instead_of_core,
    reason = "a test stops at the first thing that is not as expected"
)]

mod arguments;
mod bounds;
mod datagrams;
mod echo;
mod holders;
mod layout;
mod loans;
mod pair;
mod ping;
mod planes;
mod pools;
mod providers;
mod rig;
mod surroundings;
mod traps;

use std::time::{Duration, Instant};

use spinwire_dataplane::id::Name;
use spinwire_dataplane::poll::Counter;
use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::provider::shm::ShmConfig;
use spinwire_dataplane::shm::Geometry;
use spinwire_dataplane::time::Nanos;
use spinwire_hostshim::domain::{Domain, DomainConfig};
use spinwire_hostshim::plane::{Plane, PlaneConfig, StatsPage};

/// The process that holds something for the other tests; and the proof that it does.
#[test]
fn a_holder_holds_and_lets_go() {
    if let Ok(role) = std::env::var(rig::ROLE) {
        hold(&role);
        return;
    }
    let folder = rig::Folder::new();
    let holder = folder.holder("domain held");
    assert!(folder.has("held"));
    holder.let_go();
    assert_eq!(
        folder.ps("held")["processes"].as_array().unwrap().len(),
        0,
        "it gave its slot back"
    );
}

fn hold(role: &str) {
    let (what, name) = role.split_once(' ').unwrap();
    match what {
        "domain" => {
            let geometry = Geometry {
                process_count: 4,
                endpoint_count: 4,
                lane_count: 4,
                lane_cell_count: 8,
                lane_spill_bytes: 1024,
            };
            let config = DomainConfig { geometry, ..DomainConfig::default() };
            let _domain = Domain::create_or_join(name, &config).unwrap();
            say_and_wait(|| {});
        }
        "pool" => pools::hold(name),
        "page" => {
            let _page = StatsPage::create(&Name::new(name).unwrap()).unwrap();
            say_and_wait(|| {});
        }
        "plane" | "late-plane" => {
            let name = Name::new(name).unwrap();
            let page = StatsPage::create(&name).unwrap();
            let mut memory = Plane::memory(1 << 20).unwrap();
            let bump = Plane::arena(&mut memory);
            let config = PlaneConfig { cpu: None, stats_every: Nanos::from_millis(1) };
            let plane = Plane::open(&name, &page, &bump, &config).unwrap();
            plane.goes_by(&ShmConfig::default().info(EndpointType::Rdm, 64));
            let turn = || {
                plane.stats().counters().increment(Counter::MessagesSent);
                plane.stats().counters().add(Counter::BytesSent, 32);
                plane.stats().counters().increment(Counter::TurnsBusy);
                plane.publish(plane.now());
            };
            if what == "plane" {
                turn();
            }
            let held_since = Instant::now();
            say_and_wait(|| {
                if what == "plane" || held_since.elapsed() > Duration::from_millis(200) {
                    turn();
                }
            });
        }
        other => panic!("{other}"),
    }
}

/// Tells that it holds, and turns until nobody wants it any more.
fn say_and_wait(turn: impl Fn()) {
    println!("HOLDS");
    let waiter = std::thread::spawn(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    while !waiter.is_finished() {
        turn();
        std::thread::sleep(Duration::from_micros(100));
    }
}
