//! A child that is stopped for longer than a death takes to be noticed.

use core::time::Duration;
use std::process::Child;
use std::time::Instant;

use spinwire_dataplane::id::Addr;
use spinwire_dataplane::provider::{EndpointType, Event};
use spinwire_hostshim::domain::Domain;
use spinwire_hostshim::plane::Plane;

use crate::host_process::signal;
use crate::traffic::{DEATH, PATIENCE, Station, census, config, start};

/// Both ways on both endpoints, as numbers of letters.
#[derive(Default)]
struct Counts {
    addr: [Option<Addr>; 2],
    came: [u64; 2],
    went: [u64; 2],
}

const STAY: u64 = 7;

/// Killed at the end, whatever comes: one that is stopped would never end by itself.
struct Stoppable(Child);

impl Drop for Stoppable {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _status = self.0.wait();
    }
}

fn turn(stations: &[Station<'_, '_>; 2], counts: &mut Counts) {
    for (i, station) in stations.iter().enumerate() {
        let busy = station.turn(|got| {
            assert_eq!((got.stay, got.number), (STAY, counts.came[i]), "lost, twice, or torn");
            counts.addr[i] = Some(got.from);
            counts.came[i] += 1;
        });
        while let Some(event) = station.event() {
            assert!(matches!(event, Event::Connected(_)), "stopped is not gone: {event:?}");
        }
        if let Some(addr) = counts.addr[i]
            && station.send(addr, STAY, counts.went[i]).unwrap()
        {
            counts.went[i] += 1;
        }
        if !busy {
            std::thread::yield_now();
        }
    }
}

/// Turns until 100 more letters have come and gone on both endpoints.
fn talk(stations: &[Station<'_, '_>; 2], counts: &mut Counts) {
    let (came, went, began) = (counts.came, counts.went, Instant::now());
    let enough =
        |now: [u64; 2], before: [u64; 2]| now[0] > before[0] + 100 && now[1] > before[1] + 100;
    while !(enough(counts.came, came) && enough(counts.went, went)) {
        turn(stations, counts);
        assert!(began.elapsed() < Duration::from_secs(30), "the traffic does not go on");
    }
}

#[allow(clippy::large_stack_arrays, reason = "two endpoints, on a stack of their own")]
pub(crate) fn run(test: &'static str) {
    let domain = Domain::create("kill", &config()).unwrap();
    let mut memory = Plane::memory(2 << 20).unwrap();
    let bump = Plane::arena(&mut memory);
    let stations = [
        Station::open(&domain, &bump, "hub", EndpointType::Rdm),
        Station::open(&domain, &bump, "line-0", EndpointType::Msg),
    ];
    let child = Stoppable(start(test, &format!("child 0 {STAY}")));
    let mut counts = Counts::default();
    talk(&stations, &mut counts);
    for _ in 0..3 {
        let before = census(&domain);
        signal(child.0.id(), "STOP");
        let stopped = Instant::now();
        while stopped.elapsed() < DEATH * 3 {
            turn(&stations, &mut counts);
        }
        // Its lanes are full or empty by now: nothing moves.
        let came = counts.came;
        (0..1000).for_each(|_| turn(&stations, &mut counts));
        assert_eq!(counts.came, came, "a stopped process sends nothing");
        assert_eq!(census(&domain), before, "everything is as it was");
        signal(child.0.id(), "CONT");
        talk(&stations, &mut counts);
    }
    drop(child);
    let killed = Instant::now();
    let mut gone = 0;
    while gone < 2 {
        for station in &stations {
            station.turn(|_late| {});
            while let Some(event) = station.event() {
                assert!(matches!(event, Event::PeerGone(_)), "{event:?}");
                gone += 1;
            }
        }
        assert!(killed.elapsed() < DEATH * PATIENCE, "its end is not noticed");
    }
    domain.unlink().unwrap();
}
