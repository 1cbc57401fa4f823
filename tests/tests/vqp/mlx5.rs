//! Virtual queue pairs over queues of mlx5 devices: two hosts with two devices each, whose rings a model of the device reads, made by the host part that
//! makes those of real devices. Answers get lost, queue pairs fail and are set up anew; every request is over once and in order, and who is
//! notified has all of it in memory.

use core::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use spinwire_dataplane::error::Fatal;
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::mlx5::PairConfig;
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::raw::region::{Destroyed, MemoryKey, Region};
use spinwire_dataplane::sync::{AtomicU32, Ordering};
use spinwire_dataplane::time::Instant;
use spinwire_dataplane::verbs::{PairId, Segment};
use spinwire_dataplane::vqp::sequence::SequenceCodec;
use spinwire_dataplane::vqp::{
    Completion, Direction, Health, Op, RecvKind, RecvWr, Refusal, RegionId, Regions, Remote,
    Replay, Scheme, SendWr, Setup, Sge, Signal, VirtualCq, VirtualQp, Visibility, VqpConfig,
};
use spinwire_dataplane::wqe::Transport;
use spinwire_hostshim::mlx5::dv::{DvCq, DvQp};
use spinwire_hostshim::mlx5::{
    Completions, CompletionsHandle, Mlx5Error, Pair, PairHandle, QueueConfig,
};
use spinwire_tests::conformance::{describe_completions, describe_pair};
use spinwire_tests::rng::{Rng, pattern};
use spinwire_tests::sim::nic::bytes::{read_ring, write_lines};
use spinwire_tests::sim::nic::memory::Access;
use spinwire_tests::sim::nic::wqe::{Rules, Transport as Kind};
use spinwire_tests::sim::nic::{CqPlan, Fabric, Manner, QpPlan, Receives, Short, lines};

use crate::asked;
use crate::manual::block;
use crate::pair::quick;

const DEVICES: usize = 2;
const DOMAIN: u32 = 3;
const STRIDE: usize = 32;
/// Each message has memory of its own, so that a write that comes twice does no harm.
const SLOT: usize = 1024;
/// What the flushing reads bring, in front of the messages.
const FIRST: usize = 64;
const STEP_NS: u64 = 200;

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap()
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap()
}

/// Where the queues of a pair lie.
struct Ground {
    sq: Vec<Line>,
    rq: Vec<Line>,
    uar: Vec<Line>,
    record: [AtomicU32; 2],
    node: usize,
    qpn: u32,
}

impl Ground {
    fn new(node: usize, qpn: u32) -> Self {
        let record = [AtomicU32::new(0), AtomicU32::new(0)];
        Self { sq: lines(64), rq: lines(16), uar: lines(2), record, node, qpn }
    }

    const fn plan(&self) -> QpPlan<'_> {
        QpPlan {
            rules: Rules { qpn: self.qpn, transport: Kind::Rc, inline_max: 64 },
            domain: DOMAIN,
            sq: self.sq.as_slice(),
            rq: Receives::Ring(self.rq.as_slice(), STRIDE),
            record: &self.record,
            register: self.uar.as_slice(),
            cqs: (0, 0),
            qkey: 0,
            retries: 7,
            rnr_retries: 7,
            scatter_to_cqe: true,
        }
    }
}

struct OnGround<'w>(&'w Ground);

// SAFETY: the ground outlives all pairs and the model, and is seen as lines only; ids are those of the test.
unsafe impl<'w> PairHandle<'w> for OnGround<'w> {
    type Key = MemoryKey<'w>;
    type Error = Mlx5Error;

    fn qp_num(&self) -> u32 {
        self.0.qpn
    }

    fn id(&self) -> PairId {
        PairId::from_raw(u64::from(self.0.qpn) | wide(self.0.node) << 32)
    }

    fn describe(&self) -> Result<DvQp, Mlx5Error> {
        let Ground { sq, rq, uar, record, .. } = self.0;
        Ok(describe_pair([sq, rq, uar], record, STRIDE))
    }

    fn admits(&self, range: &Segment<MemoryKey<'w>>) -> Option<MemoryKey<'w>> {
        range.key.covers(range.address, range.length).then_some(range.key)
    }

    fn destroy(self) -> Result<Destroyed, Mlx5Error> {
        Err(Mlx5Error::Memory { field: "nobody destroys one here", value: 0 })
    }
}

struct CqGround {
    ring: Vec<Line>,
    record: [AtomicU32; 2],
}

struct OnCqGround<'w>(&'w CqGround);

// SAFETY: as of pairs.
unsafe impl CompletionsHandle for OnCqGround<'_> {
    fn describe(&self) -> Result<DvCq, Mlx5Error> {
        Ok(describe_completions(&self.0.ring, &self.0.record, (0, 64)))
    }

    fn take_error(&self) -> Option<Fatal> {
        None
    }
}

type HostPair<'w> = Pair<'w, OnGround<'w>, OnCqGround<'w>>;
type HostCq<'w> = Completions<'w, OnGround<'w>, OnCqGround<'w>>;

/// One end.
struct End<'w> {
    vqp: &'w VirtualQp<'w, &'w HostPair<'w>>,
    vcq: &'w VirtualCq<'w, &'w HostPair<'w>, &'w HostCq<'w>>,
    pairs: &'w [HostPair<'w>],
    grounds: &'w [Ground],
    data: &'w [Line],
    own: RegionId,
    peer: RegionId,
}

/// Which paths there are, by device, and how messages are spread.
struct Plan {
    paths: &'static [usize],
    notify: Option<usize>,
    scheme: Option<SequenceCodec>,
    messages: u64,
    /// In so many of 1000 rounds a queue pair fails.
    deaths: u64,
    seed: u64,
}

const fn key(host: usize, device: usize) -> u32 {
    [[0x100, 0x200], [0x300, 0x400]][host][device]
}

const fn node(host: usize, device: usize) -> usize {
    host * DEVICES + device
}

fn manner() -> Manner {
    let (loses, loses_answers, tears, timeout) = (2, 2, 5, 150);
    Manner { loses, loses_answers, tears, timeout, ..Manner::default() }
}

#[derive(Debug, Default)]
struct Report {
    succeeded: u64,
    notified: u64,
    healed: u64,
}

fn run(plan: &Plan) -> Report {
    let all: Vec<usize> = plan.paths.iter().copied().chain(plan.notify).collect();
    let count = small(all.len());
    let grounds = [0, 1].map(|host| {
        let each = all.iter().zip(0_u32..);
        let ground = |(device, path): (&usize, u32)| {
            Ground::new(node(host, *device), small(host) * 16 + path + 1)
        };
        each.map(ground).collect::<Vec<_>>()
    });
    let cqs = [0, 1].map(|_host| {
        [0, 1].map(|_device| CqGround {
            ring: lines(512),
            record: [AtomicU32::new(0), AtomicU32::new(0)],
        })
    });
    let bytes = FIRST + usize::try_from(plan.messages).unwrap() * SLOT;
    let data = [0, 1].map(|_host| lines(bytes / 64));
    let fabric = RefCell::new(Fabric::new(plan.seed, 4, manner()));
    let (mut first, mut second) = (block(4 << 20), block(4 << 20));
    let bumps = [Bump::new(&mut first), Bump::new(&mut second)];
    let ends = [0, 1].map(|host: usize| {
        let bump = &bumps[host];
        let of_device = |device: usize| {
            let ground = &cqs[host][device];
            let ring = ground.ring.as_slice();
            let told = CqPlan {
                number: 0,
                ring,
                cqe_bytes: 64,
                record: &ground.record,
                compress: Short::Never,
            };
            let mut fabric = fabric.borrow_mut();
            fabric.cq(node(host, device), told);
            let keys = &mut fabric.nodes[node(host, device)].keys;
            keys.lines((key(host, device), DOMAIN), address(&data[host]), &data[host], Access::ALL);
            HostCq::new(OnCqGround(ground), count).unwrap()
        };
        let host_cqs = &*bump.value([of_device(0), of_device(1)]).unwrap();
        let config = QueueConfig {
            transport: Transport::Rc { path: None },
            send_depth: 16,
            recv_depth: 16,
            pair: PairConfig::DEFAULT,
        };
        let pairs = bump.slice_with(all.len(), |path| {
            let ground = &grounds[host][path];
            fabric.borrow_mut().qp(ground.node, ground.plan());
            HostPair::new(&host_cqs[all[path]], OnGround(ground), &config).unwrap()
        });
        end((host, plan, &all), bump, (pairs.unwrap(), host_cqs), (&grounds[host], &data))
    });
    for (one, other) in grounds[0].iter().zip(&grounds[1]) {
        fabric.borrow_mut().connect((one.node, one.qpn), (other.node, other.qpn));
    }
    let rng = Rng::new(plan.seed ^ 0xF00D);
    let run = Run {
        plan,
        ends: &ends,
        fabric: &fabric,
        rng,
        now: 0,
        resting: None,
        report: Report::default(),
    };
    let report = run.all();
    // Host pairs are not dropped: the model goes with their ground.
    report
}

fn address(data: &[Line]) -> u64 {
    wide(data.as_ptr().expose_provenance())
}

fn end<'w>(
    (host, plan, all): (usize, &Plan, &[usize]),
    bump: &Bump<'w>,
    (pairs, cqs): (&'w [HostPair<'w>], &'w [Rc<HostCq<'w>>; DEVICES]),
    (grounds, data): (&'w [Ground], &'w [Vec<Line>; 2]),
) -> End<'w> {
    let whole = wide(data[host].len() * 64);
    let key_of = |device| {
        // SAFETY: registered with the model under that key for as long as it runs, and seen as lines.
        Some(unsafe { Region::promise(&data[host], key(host, device)) }.key())
    };
    let local = Regions::place(bump, 4, 2).unwrap();
    let own = local.register(address(&data[host]), whole, &[key_of(0), key_of(1)]).unwrap();
    let scratch = local.register(address(&data[host]), 8, &[key_of(0), key_of(1)]).unwrap();
    let remote = Regions::place(bump, 4, 2).unwrap();
    let there = [0, 1].map(|device| Some(key(host ^ 1, device)));
    let peer = remote.register(address(&data[host ^ 1]), whole, &there).unwrap();
    let scheme = match plan.scheme {
        Some(codec) => Scheme::Dqplb(codec),
        None => Scheme::Spray(Visibility::FlushingRead(scratch)),
    };
    let config = quick(VqpConfig {
        scheme,
        replay: Replay::Idempotent,
        max_message: 300,
        sge_max: 1,
        sends: 32,
        recvs: 32,
        send_depth: 16,
        recv_depth: 16,
        window: 64,
        first_sequence: plan.scheme.map_or(0, |codec| codec.modulus() - 50),
        ..VqpConfig::default()
    });
    let paths: Vec<_> = pairs.iter().zip(all.iter().map(|device| small(*device))).collect();
    let (carry, rest) = paths.split_at(plan.paths.len());
    let (local, remote) = (&*bump.value(local).unwrap(), &*bump.value(remote).unwrap());
    let setup = Setup { paths: carry, notify: rest.first().copied(), local, remote };
    let vqp = VirtualQp::place(bump, &setup, &config).unwrap();
    let vcq = VirtualCq::place(bump, &[(&*cqs[0], 0), (&*cqs[1], 1)], 1).unwrap();
    vcq.attach(vqp).unwrap();
    End { vqp, vcq, pairs, grounds, data: &data[host], own, peer }
}

struct Run<'r, 'w> {
    plan: &'r Plan,
    ends: &'r [End<'w>; 2],
    fabric: &'r RefCell<Fabric<'w>>,
    rng: Rng,
    now: u64,
    /// A path that was reset at both ends, and has something to tell yet.
    resting: Option<u32>,
    report: Report,
}

impl Run<'_, '_> {
    fn all(mut self) -> Report {
        let messages = self.plan.messages;
        let (mut posted, mut over, mut receives, mut seen) = (0, 0, 0, 0);
        // Messages that have succeeded, and those that the peer was told of.
        let (mut good, mut told) = (BTreeSet::new(), BTreeSet::new());
        let mut quiet = 0_u64;
        while over < messages || !good.is_subset(&told) {
            while receives < seen + 24 && self.receive(receives) {
                receives += 1;
            }
            while posted < messages && self.rng.chance(70) && self.post(posted) {
                posted += 1;
            }
            self.trouble();
            let [here, there] = self.turn();
            quiet = if here.is_empty() && there.is_empty() { quiet + 1 } else { 0 };
            assert!(
                quiet < 20_000,
                "no progress: {:?} {:?}",
                self.ends[0].vqp.remains(),
                self.report
            );
            for completion in here {
                assert_eq!((completion.direction, completion.context), (Direction::Send, over));
                // What has failed may have been told to the peer all the same, and nothing more is known of it.
                if completion.outcome.is_ok() {
                    good.insert(over);
                    self.report.succeeded += 1;
                }
                over += 1;
            }
            for completion in there {
                assert_eq!((completion.direction, completion.context), (Direction::Recv, seen));
                seen += 1;
                let Ok(done) = completion.outcome else { continue };
                self.report.notified += 1;
                let number = self.told(done.immediate);
                self.is_intact(number);
                assert!(told.last().is_none_or(|last| *last < number), "in order, and once");
                told.insert(number);
            }
        }
        self.report
    }

    /// Of which message that is: the immediate of SPRAY says so, and the sequence of DQPLB loses none.
    fn told(&self, immediate: Option<u32>) -> u64 {
        match self.plan.scheme {
            None => u64::from(immediate.expect("SPRAY hands on the immediate")),
            Some(_) => self.report.notified - 1,
        }
    }

    fn is_intact(&self, number: u64) {
        let wanted = pattern(number, length_of(number));
        let at = FIRST + usize::try_from(number).unwrap() * SLOT;
        assert_eq!(read_ring(self.ends[1].data, at, wanted.len()), wanted, "message {number}");
    }

    fn post(&self, number: u64) -> bool {
        let end = &self.ends[0];
        let bytes = pattern(number, length_of(number));
        let at = FIRST + usize::try_from(number).unwrap() * SLOT;
        write_lines(end.data, at, &bytes);
        let sges = [Sge { region: end.own, offset: wide(at), length: wide(bytes.len()) }];
        let op = match self.plan.scheme {
            None => Op::WriteImm(u32::try_from(number).unwrap()),
            Some(_) => Op::WriteNotify,
        };
        let remote = Some(Remote { region: end.peer, offset: wide(at) });
        let wr = SendWr { context: number, op, sges: &sges, remote, signal: Signal::Always };
        self.accepted(end.vqp.post_send(&wr))
    }

    fn receive(&self, number: u64) -> bool {
        let wr = RecvWr { context: number, kind: RecvKind::Notification, sges: &[] };
        self.accepted(self.ends[1].vqp.post_recv(&wr))
    }

    #[expect(clippy::unused_self, reason = "of this run")]
    fn accepted(&self, answer: Result<(), Refusal>) -> bool {
        match answer {
            Ok(()) => true,
            Err(Refusal::Retry(_) | Refusal::Down(_)) => false,
            Err(Refusal::Misuse(error)) => panic!("{error}"),
        }
    }

    fn turn(&mut self) -> [Vec<Completion>; 2] {
        for _ in 0..self.rng.below(60) {
            self.fabric.borrow_mut().step();
            self.now += STEP_NS;
        }
        assert_eq!(self.fabric.borrow().violations, []);
        let now = Instant::from_nanos(self.now);
        let told = [0, 1].map(|host: usize| {
            let end = &self.ends[host];
            end.vqp.ring_doorbell();
            let _outcome = end.vcq.turn(now, Budget::DEFAULT);
            core::iter::from_fn(|| end.vcq.take()).collect()
        });
        self.heal();
        told
    }

    /// Now and then a queue pair fails, at one end.
    fn trouble(&mut self) {
        if self.resting.is_none() && self.rng.below(1000) < self.plan.deaths {
            let end = &self.ends[self.rng.index(2)];
            let ground = &end.grounds[self.rng.index(end.grounds.len())];
            self.fabric.borrow_mut().fail(ground.node, ground.qpn);
        }
    }

    /// Paths that are down at one end are taken out at the other; those that are down at both are set up anew.
    fn heal(&mut self) {
        if let Some(path) = self.resting {
            let at = usize::try_from(path).unwrap();
            if self.ends.iter().all(|end| end.pairs[at].restart().is_ok()) {
                self.revive(at);
                for end in self.ends {
                    let _broken = end.vqp.readmit(path);
                }
                self.report.healed += 1;
                self.resting = None;
            }
            return;
        }
        for path in 0..self.ends[0].vqp.path_count() {
            let [here, there] =
                [0, 1].map(|host: usize| self.ends[host].vqp.path(path).unwrap().health);
            let is_out = |health| matches!(health, Health::Draining | Health::Down);
            if is_out(here) && !is_out(there) {
                self.ends[1].vqp.exclude(path).unwrap();
            } else if is_out(there) && !is_out(here) {
                self.ends[0].vqp.exclude(path).unwrap();
            } else if here == Health::Down && there == Health::Down {
                let at = usize::try_from(path).unwrap();
                for end in self.ends {
                    let ground = &end.grounds[at];
                    self.fabric.borrow_mut().destroy(ground.node, ground.qpn);
                    end.pairs[at].was_reset().unwrap();
                }
                self.resting = Some(path);
                return;
            }
        }
    }

    /// The queue pairs of a path are ready again, as those that were reset and connected.
    fn revive(&self, at: usize) {
        let mut fabric = self.fabric.borrow_mut();
        let both = [0, 1].map(|host: usize| {
            let ground = &self.ends[host].grounds[at];
            ground.record.iter().for_each(|word| word.store(0, Ordering::Relaxed));
            fabric.qp(ground.node, ground.plan());
            (ground.node, ground.qpn)
        });
        fabric.connect(both[0], both[1]);
    }
}

/// Up to four fragments, and now and then none at all.
fn length_of(number: u64) -> usize {
    let length = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54;
    usize::try_from(if number.is_multiple_of(7) { length % 20 } else { length }).unwrap()
}

/// `SPINWIRE_VQP_MLX5_MESSAGES` makes it longer.
fn messages() -> u64 {
    asked("SPINWIRE_VQP_MLX5_MESSAGES", 300)
}

const SPRAY: Plan =
    Plan { paths: &[0, 1], notify: Some(0), scheme: None, messages: 0, deaths: 0, seed: 0 };
const DQPLB: Plan =
    Plan { paths: &[0, 1, 0], notify: None, scheme: Some(SequenceCodec::Clean), ..SPRAY };

#[test]
fn messages_go_over_the_rings_of_two_devices() {
    for (seed, plan) in [(1, SPRAY), (2, DQPLB)] {
        let messages = messages();
        let report = run(&Plan { messages, seed, ..plan });
        assert_eq!((report.succeeded, report.notified), (messages, messages), "{report:?}");
    }
}

#[test]
fn queue_pairs_of_the_rings_fail_and_come_back() {
    for (seed, plan) in [(3, SPRAY), (4, DQPLB)] {
        let messages = messages();
        let report = run(&Plan { messages, seed, deaths: 25, ..plan });
        assert!(report.healed > 2, "{report:?}");
        assert!(report.succeeded > messages / 2, "{report:?}");
    }
}
