//! The one that is killed: it joins, connects, and exchanges letters until its end.

use std::os::unix::process::parent_id;

use spinwire_dataplane::error::{Fatal, PostError};
use spinwire_dataplane::id::Addr;
use spinwire_dataplane::provider::{EndpointType, Event};
use spinwire_hostshim::domain::Domain;
use spinwire_hostshim::plane::Plane;

use crate::traffic::{Got, Station, config};

/// Letters sent to a peer in one go.
const BURST: usize = 6;

/// One way to the survivor.
struct Way<'s, 'm> {
    station: Station<'s, 'm>,
    peer: String,
    addr: Option<Addr>,
    stay: u64,
    next_out: u64,
    next_in: u64,
}

impl Way<'_, '_> {
    fn take(&mut self) -> bool {
        let (stay, addr, next_in) = (self.stay, self.addr, &mut self.next_in);
        let busy = self.station.turn(|got: Got| {
            assert_eq!(got.stay, stay, "meant for somebody who had this name before");
            assert_eq!(got.number, *next_in, "out of order, lost, or twice");
            assert!(addr.is_none_or(|addr| addr == got.from), "from somebody else");
            *next_in += 1;
        });
        while let Some(event) = self.station.event() {
            match event {
                Event::Connected(addr) => self.addr = Some(addr),
                // A predecessor of that name has the connection until its death is noticed: once more.
                Event::Refused(_) if self.next_in == 0 => {
                    self.addr = None;
                    self.next_out = 0;
                }
                other => panic!("stay {stay}: {other:?}, and the survivor lives"),
            }
        }
        busy
    }

    fn give(&mut self) {
        let Some(addr) = self.addr else {
            self.addr = match self.station.connect(&self.peer) {
                Ok(addr) => Some(addr),
                Err(PostError::Retry(_)) => None,
                Err(other) => panic!("stay {}: connect to {}: {other}", self.stay, self.peer),
            };
            return;
        };
        for _ in 0..BURST {
            match self.station.send(addr, self.stay, self.next_out) {
                Ok(true) => self.next_out += 1,
                Ok(false) | Err(Fatal::Refused) => break,
                Err(other) => panic!("stay {}: send: {other}", self.stay),
            }
        }
    }
}

/// `child SEAT STAY`
pub(crate) fn run(role: &str) {
    let mut words = role.split(' ').skip(1);
    let mut number = || words.next().unwrap().parse::<u64>().unwrap();
    let (seat, stay) = (number(), number());
    let parent = parent_id();
    let domain = Domain::join("kill", &config()).unwrap();
    let mut memory = Plane::memory(1 << 20).unwrap();
    let bump = Plane::arena(&mut memory);
    let way = |name: &str, endpoint_type, peer: &str| Way {
        station: Station::open(&domain, &bump, &format!("{name}-{seat}"), endpoint_type),
        peer: peer.to_owned(),
        addr: None,
        stay,
        next_out: 0,
        next_in: 0,
    };
    let mut ways = vec![
        way("rdm", EndpointType::Rdm, "hub"),
        way("msg", EndpointType::Msg, &format!("line-{seat}")),
    ];
    // Not for ever: where the survivor fails, this one ends.
    while parent_id() == parent {
        let mut busy = false;
        for way in &mut ways {
            way.give();
            busy |= way.take();
        }
        if !busy {
            std::thread::yield_now();
        }
    }
}
