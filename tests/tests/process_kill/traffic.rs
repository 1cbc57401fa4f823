//! Messages that tell by themselves whether they are the right ones, and an endpoint that sends and takes them.

use core::time::Duration;
use std::process::{Child, Command, Stdio};

use spinwire_dataplane::error::{Fatal, PostError};
use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::matching::MatchingConfig;
use spinwire_dataplane::msg::{Endpoint, EndpointConfig, Kind, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::shm::{ShmConfig, ShmPort};
use spinwire_dataplane::provider::{EndpointType, Event, Status};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::shm::{Geometry, directory, lane_table, lease};
use spinwire_dataplane::time::Instant;
use spinwire_hostshim::domain::{Domain, DomainConfig};
use spinwire_hostshim::mem::{PageKind, PagePolicy};
use spinwire_layouts::shm::LaneState;
use spinwire_tests::rng::{Rng, pattern};

use crate::host_process::again;

/// Within which time a death has to be noticed.
pub(crate) const DEATH: Duration = Duration::from_millis(100);
/// How much longer it may take on a machine that others use, too.
pub(crate) const PATIENCE: u32 = 20;
/// Longest message. Its rest fills a quarter of the spill, so that the ring wraps around at every place.
const LONGEST: usize = 2048;
/// Receives that are posted at once.
const RECEIVES: usize = 24;

/// Small lanes, so that every one wraps around many times, and few of them, so that one that leaks is missed.
pub(crate) const fn config() -> DomainConfig {
    DomainConfig {
        geometry: Geometry {
            process_count: 12,
            endpoint_count: 24,
            lane_count: 32,
            lane_cell_count: 16,
            lane_spill_bytes: 8 << 10,
        },
        pages: PagePolicy::Only(PageKind::Base4K),
        death_noticed_within: DEATH,
    }
}

/// This binary again in a role that is killed.
pub(crate) fn start(test: &str, role: &str) -> Child {
    let mut command: Command = again(test, role);
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

/// Message `number` of those that were sent on behalf of `stay`.
pub(crate) fn letter(stay: u64, number: u64) -> Vec<u8> {
    let seed = stay << 32 | number;
    let mut rng = Rng::new(seed);
    let length = match rng.below(5) {
        0 => rng.between(8, 48),
        1 | 2 => rng.between(49, 64),
        3 => rng.between(65, 300),
        _ => rng.between(300, LONGEST),
    };
    let mut bytes = pattern(seed, length);
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes
}

/// Which message that is, if it is whole.
pub(crate) fn check(bytes: &[u8]) -> (u64, u64) {
    let seed = u64::from_le_bytes(*bytes.first_chunk().expect("shorter than any letter"));
    let (stay, number) = (seed >> 32, seed & 0xffff_ffff);
    assert!(bytes == letter(stay, number), "message {number} of stay {stay} is torn");
    (stay, number)
}

/// An endpoint with its buffers.
#[derive(Debug)]
pub(crate) struct Station<'s, 'm> {
    endpoint: Endpoint<'m, ShmPort<'s, 'm>>,
    pool: &'m LoanPool<'m>,
}

/// A letter that has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Got {
    pub(crate) from: Addr,
    pub(crate) stay: u64,
    pub(crate) number: u64,
}

impl<'s, 'm> Station<'s, 'm> {
    pub(crate) fn open(
        domain: &'s Domain,
        bump: &Bump<'m>,
        name: &str,
        endpoint_type: EndpointType,
    ) -> Self {
        let config = ShmConfig {
            peers_max: 16,
            send_depth: 8,
            matching: MatchingConfig {
                recv_depth: 32,
                unexpected_depth: 8,
                unexpected_bytes_max: 256,
            },
        };
        let name = Name::new(name).unwrap();
        // The predecessor of that name is dead by now, and whoever joins takes back first: the name is free.
        let port = domain.open_port(bump, (&name, endpoint_type), &config).unwrap();
        let endpoint = Endpoint::new(port, bump, &EndpointConfig { contexts_max: 64 }).unwrap();
        Self { endpoint, pool: LoanPool::place(bump, 32, LONGEST).unwrap() }
    }

    pub(crate) fn connect(&self, to: &str) -> Result<Addr, PostError> {
        self.endpoint.connect(&Name::new(to).unwrap())
    }

    /// One turn. Every letter goes to `got`, checked. Returns whether there was anything to do.
    pub(crate) fn turn(&self, mut got: impl FnMut(Got)) -> bool {
        while self.pool.free_count() > 32 - RECEIVES {
            let loan = self.pool.lend().unwrap();
            self.endpoint.post_recv(RecvFrom::any(), loan, 0).map_err(|r| r.error).unwrap();
        }
        let outcome = self.endpoint.turn(Instant::from_nanos(0), Budget::DEFAULT);
        while let Some(completion) = self.endpoint.poll() {
            match (completion.kind, completion.status) {
                (Kind::Received, Status::Success) => {
                    let (stay, number) = check(completion.bytes().unwrap());
                    got(Got { from: completion.source.unwrap(), stay, number });
                }
                // A receive that was for one peer only; there are none here except on connected endpoints.
                (Kind::RecvEnded, Status::PeerGone) | (Kind::Sent, Status::Success) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(self.endpoint.totals().stale_ids, 0);
        outcome.is_busy()
    }

    pub(crate) fn event(&self) -> Option<Event> {
        self.endpoint.poll_event()
    }

    /// Sends a letter: every other one out of a buffer of the pool. Returns whether it was accepted.
    pub(crate) fn send(&self, to: Addr, stay: u64, number: u64) -> Result<bool, Fatal> {
        let bytes = letter(stay, number);
        let sent = match self.pool.lend().filter(|_| number.is_multiple_of(2)) {
            Some(mut loan) => {
                loan.fill(&bytes).unwrap();
                let posted = self.endpoint.post_send(SendTo::peer(to), loan, number);
                posted.map(|_id| ()).map_err(|refused| refused.error)
            }
            None => self.endpoint.inject(SendTo::peer(to), &bytes),
        };
        match sent {
            Ok(()) => Ok(true),
            Err(PostError::Retry(_)) => Ok(false),
            Err(PostError::Fatal(fatal)) => Err(fatal),
            Err(PostError::Misuse(misuse)) => panic!("{misuse}"),
        }
    }
}

/// What is in the segment: processes, endpoints, lanes that are not free.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Census {
    pub(crate) processes: usize,
    pub(crate) endpoints: usize,
    pub(crate) lanes: Vec<(u32, LaneState)>,
}

pub(crate) fn census(domain: &Domain) -> Census {
    let segment = domain.segment();
    let lanes = (0..segment.geometry().lane_count)
        .map(|lane| (lane, lane_table::state_of(&segment, lane).unwrap().state))
        .filter(|(_, state)| *state != LaneState::Free);
    Census {
        processes: lease::rows(&segment).count(),
        endpoints: directory::rows(&segment).count(),
        lanes: lanes.collect(),
    }
}
