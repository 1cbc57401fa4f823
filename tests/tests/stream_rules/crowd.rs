//! A crowd of clients, each of which sends again when it is answered, and a service that asks them: two processors, simulated by what their steps cost.
//!
//! ```text
//!   service   turn: sends, questions and waits are taken one after the other, each at its price  --answer--> client
//!   client    one after the other, in the order of their answers                                 --request-> socket
//! ```
//!
//! What one of both can do at most is known, so that a state in which both wait for each other is seen, whatever has led to it.

use std::collections::{BTreeMap, VecDeque};

use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::stream::{StreamConfig, StreamCounters, StreamEvent};
use spinwire_dataplane::time::Instant;
use spinwire_layouts::uring::{Sqe, cqe, op};
use spinwire_tests::fake_kernel::FakeConfig;
use spinwire_tests::fake_net::memory::BufferRing;

use super::asked::{DONT_WAIT, EAGAIN};
use super::{Rig, config, with};

/// What the steps of the service cost, in ns: a turn, a send, a receive that finds something, one that does not, and one that has waited.
const TURN: u64 = 500;
const SEND: u64 = 1_800;
const FOUND: u64 = 700;
const VAIN: u64 = 250;
const WAITED: u64 = 1_200;

/// Of errno(3).
const ENOBUFS: i32 = 105;

/// The clients' processor.
#[derive(Debug, Default)]
struct Clients {
    now: u64,
    /// What a request and its answer cost.
    each: u64,
    /// Who was answered, and when.
    answered: VecDeque<(usize, u64)>,
    /// Whose request lies in its socket, and since when.
    sockets: BTreeMap<usize, u64>,
    answers: u64,
    /// From when until when it stands still.
    stop: Option<(u64, u64)>,
}

impl Clients {
    /// What they have done by then.
    fn run_until(&mut self, now: u64) {
        while let Some((client, since)) = self.answered.front().copied() {
            let mut begin = self.now.max(since);
            if let Some((from, until)) = self.stop
                && (from..until).contains(&begin)
            {
                begin = until;
            }
            if begin + self.each > now {
                return;
            }
            self.now = begin + self.each;
            self.answered.pop_front();
            self.sockets.insert(client, self.now);
        }
    }
}

struct Crowd<'r, 's, 'k, 'm> {
    rig: &'r Rig<'s, 'k, 'm>,
    ring: BufferRing,
    clients: Clients,
    /// Receives that wait.
    waits: BTreeMap<usize, Sqe>,
    now: u64,
}

impl Crowd<'_, '_, '_, '_> {
    /// A receive gets what lies in the socket, or there is no buffer for it.
    fn come(&mut self, client: usize, entry: &Sqe) {
        if self.ring.available() == 0 {
            self.rig.complete(entry, -ENOBUFS, 0);
            return;
        }
        self.clients.sockets.remove(&client);
        let number = u32::from(self.ring.peek().2);
        self.ring.advance();
        self.rig.complete(entry, 1, cqe::BUFFER | number << cqe::BUFFER_SHIFT);
    }

    /// The kernel does what it was given.
    fn operate(&mut self, entry: &Sqe) {
        let client = usize::try_from(entry.fd).unwrap();
        match entry.opcode {
            op::SEND => {
                self.now += SEND;
                self.clients.answers += 1;
                self.clients.answered.push_back((client, self.now));
                self.rig.complete(entry, 1, 0);
            }
            op::RECV => {
                self.clients.run_until(self.now);
                if self.clients.sockets.contains_key(&client) {
                    self.now += FOUND;
                    self.come(client, entry);
                } else if entry.op_flags == DONT_WAIT {
                    self.now += VAIN;
                    self.rig.complete(entry, -EAGAIN, 0);
                } else {
                    self.waits.insert(client, *entry);
                }
            }
            _ => panic!("{entry:?}"),
        }
    }

    fn turn(&mut self) {
        self.now += TURN;
        let streams = self.rig.streams;
        let _busy = streams.turn(Instant::from_nanos(self.now), Budget::default());
        for entry in self.rig.taken() {
            self.operate(&entry);
        }
        self.clients.run_until(self.now);
        let heard = |(client, _): &(&usize, &Sqe)| self.clients.sockets.contains_key(*client);
        let news: Vec<usize> = self.waits.iter().filter(heard).map(|(client, _)| *client).collect();
        for client in news {
            self.now += WAITED;
            let entry = self.waits.remove(&client).unwrap();
            self.come(client, &entry);
        }
        while let Some(event) = streams.poll() {
            let StreamEvent::Received { conn, bytes } = event else { panic!("{event:?}") };
            streams.send_unsignaled(conn, bytes).unwrap();
        }
    }

    /// Answers in so many ns, and what the service has counted meanwhile.
    fn answers_in(&mut self, ns: u64) -> (u64, StreamCounters) {
        let (until, before) = (self.now + ns, self.clients.answers);
        let counted = self.rig.streams.counters();
        while self.now < until {
            self.turn();
        }
        self.rig.audit();
        let after = self.rig.streams.counters();
        let since = StreamCounters {
            waits: after.waits - counted.waits,
            asks: after.asks - counted.asks,
            vain_asks: after.vain_asks - counted.vain_asks,
            ..after
        };
        (self.clients.answers - before, since)
    }
}

/// So many clients, who cost so much each.
fn with_crowd(count: u32, each: u64, test: impl FnOnce(&mut Crowd<'_, '_, '_, '_>)) {
    let config = StreamConfig {
        conns: count,
        recv_buffers: (count * 2, 64),
        segments: count * 2,
        zero_copy_min: 0,
        ask_max: 16,
        ..config()
    };
    let rings = FakeConfig { sq_entries: 4096, cq_entries: 8192, ..FakeConfig::default() };
    with(&config, rings, |rig| {
        let ring = BufferRing::new(rig.streams.buffers().registration());
        let now = 1 << 40;
        let mut clients = Clients { now, each, ..Clients::default() };
        for client in 0..count {
            rig.streams.adopt(client.cast_signed()).unwrap();
            clients.answered.push_back((usize::try_from(client).unwrap(), now));
        }
        test(&mut Crowd { rig, ring, clients, waits: BTreeMap::new(), now });
    });
}

const MS: u64 = 1_000_000;

/// Both ends are never idle at the same time for long, however many clients there are and whichever end is the slower one; and who was held up finds his
/// way back, by whatever way it has come to that.
#[test]
fn a_crowd_is_answered_as_fast_as_the_slower_end_can() {
    for (count, each) in [(16, 2_900), (128, 2_900), (128, 1_000), (512, 2_900)] {
        with_crowd(count, each, |crowd| {
            let at_most = |ns: u64| ns / each.max(SEND + FOUND);
            crowd.answers_in(MS);
            for stop_ns in [0, 30_000, 100_000, MS] {
                crowd.clients.stop = Some((crowd.now, crowd.now + stop_ns));
                crowd.answers_in(stop_ns + MS / 2);
                let (answers, counted) = crowd.answers_in(2 * MS);
                let least = at_most(2 * MS) * 9 / 10;
                let about = format!(
                    "{count} x {each} ns after {stop_ns} ns: {answers} of {}: {counted:?}",
                    at_most(2 * MS)
                );
                assert!(answers >= least, "{about}");
                assert!(counted.vain_asks <= 2 * answers, "{about}");
            }
        });
    }
}
