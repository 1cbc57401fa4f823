//! Processes none of which is special: whoever comes first creates the segment, and any of them, or all, are killed.

use core::time::Duration;
use std::os::unix::process::parent_id;
use std::process::Child;
use std::time::Instant;

use spinwire_dataplane::error::{Fatal, Misuse, PostError};
use spinwire_dataplane::id::Addr;
use spinwire_dataplane::provider::{EndpointType, Event};
use spinwire_hostshim::domain::Domain;
use spinwire_hostshim::mem::SegmentDir;
use spinwire_hostshim::plane::Plane;
use spinwire_tests::rng::Rng;

use crate::host_process::{again, lines, say};
use crate::traffic::{Census, Got, Station, census, config};

const ROUNDS: u64 = 25;

/// What a twin has of the other one.
#[derive(Default)]
struct Other {
    /// Where letters come from, on behalf of whom, and the next of them.
    inbound: Option<(Addr, u64, u64)>,
    outbound: Option<(Addr, u64)>,
    /// It has said that it talks with this stay.
    told: Option<u64>,
}

/// `twin NAME OTHER STAY`: talks to the twin OTHER, tells with whom, and when that one is gone.
pub(crate) fn twin(role: &str) {
    let words: Vec<&str> = role.split(' ').collect();
    let (name, other_name, stay) = (words[1], words[2], words[3].parse::<u64>().unwrap());
    let parent = parent_id();
    let domain = Domain::create_or_join("twins", &config()).unwrap();
    let mut memory = Plane::memory(1 << 20).unwrap();
    let bump = Plane::arena(&mut memory);
    let station = Station::open(&domain, &bump, name, EndpointType::Rdm);
    let mut other = Other::default();
    while parent_id() == parent {
        let busy = station.turn(|got: Got| {
            let (from, whose, next) = *other.inbound.get_or_insert((got.from, got.stay, 0));
            assert_eq!((got.from, got.stay, got.number), (from, whose, next), "lost, twice, mixed");
            other.inbound = Some((from, whose, next + 1));
        });
        if let Some((_, whose, next)) = other.inbound
            && next >= 50
            && other.told != Some(whose)
        {
            say(&format!("talks {whose}"));
            other.told = Some(whose);
        }
        while let Some(event) = station.event() {
            if let Event::PeerGone(addr) = event {
                other.outbound = other.outbound.filter(|(to, _)| *to != addr);
                if let Some((_, whose, _)) = other.inbound.take_if(|(from, ..)| *from == addr) {
                    say(&format!("gone {whose}"));
                }
            }
        }
        write(&station, other_name, stay, &mut other.outbound);
        if !busy {
            std::thread::yield_now();
        }
    }
}

fn write(station: &Station<'_, '_>, to: &str, stay: u64, outbound: &mut Option<(Addr, u64)>) {
    let Some((addr, next)) = outbound else {
        *outbound = match station.connect(to) {
            Ok(addr) => Some((addr, 0)),
            Err(PostError::Retry(_) | PostError::Misuse(Misuse::UnknownAddress)) => None,
            Err(other) => panic!("{other}"),
        };
        return;
    };
    match station.send(*addr, stay, *next) {
        Ok(true) => *next += 1,
        // Its end is told as an event.
        Ok(false) | Err(Fatal::PeerGone) => {}
        Err(other) => panic!("stay {stay}: {other}"),
    }
}

struct Twin {
    process: Child,
    said: Box<dyn Iterator<Item = String>>,
}

impl Twin {
    fn start(test: &str, (name, other): (&str, &str), stay: u64) -> Self {
        let mut process = again(test, &format!("twin {name} {other} {stay}")).spawn().unwrap();
        let said = Box::new(lines(&mut process));
        Self { process, said }
    }

    fn says(&mut self, expected: &str) {
        assert_eq!(self.said.next().as_deref(), Some(expected));
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// The creator is killed and comes back; then both are killed at once, and a third one finds a segment in order.
pub(crate) fn run(test: &'static str) {
    let mut rng = Rng::new(u64::from(std::process::id()));
    let mut slowest = Duration::ZERO;
    for round in 0..ROUNDS {
        let stay = round * 10;
        let pause = |rng: &mut Rng| {
            std::thread::sleep(Duration::from_micros(rng.below(3000)));
        };
        let mut a = Twin::start(test, ("a", "b"), stay + 1);
        // Half of the time the two race for the creation.
        if rng.chance(50) {
            pause(&mut rng);
        }
        let mut b = Twin::start(test, ("b", "a"), stay + 2);
        a.says(&format!("talks {}", stay + 2));
        b.says(&format!("talks {}", stay + 1));
        pause(&mut rng);
        let began = Instant::now();
        a.kill();
        b.says(&format!("gone {}", stay + 1));
        slowest = slowest.max(began.elapsed());
        let mut a = Twin::start(test, ("a", "b"), stay + 3);
        b.says(&format!("talks {}", stay + 3));
        a.says(&format!("talks {}", stay + 2));
        pause(&mut rng);
        // The third kind of end: one is killed while it comes to terms with the death of the other.
        b.process.kill().unwrap();
        std::thread::sleep(Duration::from_micros(rng.below(800)));
        a.process.kill().unwrap();
        b.kill();
        a.kill();
        // Who joins takes back what the dead held.
        let third = Domain::join("twins", &config()).unwrap();
        let alone = Census { processes: 1, endpoints: 0, lanes: Vec::new() };
        assert_eq!(census(&third), alone, "round {round}: the dead still hold something");
        let mut memory = Plane::memory(1 << 20).unwrap();
        let bump = Plane::arena(&mut memory);
        drop(Station::open(&third, &bump, "a", EndpointType::Msg));
        drop(Station::open(&third, &bump, "b", EndpointType::Rdm));
        // Every other round starts with what is there, and the next with nothing.
        if round % 2 == 1 || round + 1 == ROUNDS {
            third.unlink().unwrap();
            assert!(SegmentDir::from_env().list().unwrap().is_empty());
        }
    }
    say(&format!("{ROUNDS} rounds of 3 killed; the creator's end told after {slowest:?} at most"));
}
