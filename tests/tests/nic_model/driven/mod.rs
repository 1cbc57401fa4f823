//! The real queues drive the device: two nodes with work queues of the data plane, random work, random faults, and an oracle of every
//! message and every work request. By seed; `NIC_SEED` runs one again, `NIC_MESSAGES` sets how many messages there are in all.

mod ending;
mod ends;
pub(crate) mod node;
mod oracle;
pub(crate) mod reader;

use spinwire_dataplane::wqe::{BlueFlame, Straddle};
use spinwire_tests::rng::Rng;
use spinwire_tests::sim::nic::{Broken, Counters, Fabric, Flush, Manner, Short, State, Totals};

use node::{Memory, Node};
use oracle::Outcome;

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    seed: u64,
    pairs: usize,
    blocks: usize,
    wqe_blocks_max: u16,
    receives: u16,
    shared: bool,
    /// Each queue pair has a completion queue of its own; else they share one.
    own_cqs: bool,
    wide_cqe: bool,
    scatter: bool,
    compress: Short,
    straddle: Straddle,
    blue_flame: BlueFlame,
    register_lines: usize,
    signaled_percent: u64,
    /// Most requests before a doorbell.
    batch: usize,
    manner: Manner,
    /// Messages of each queue pair.
    messages: u64,
    /// Requests that are bad, in 10,000.
    bad: u64,
    /// Steps of the device between two turns of the drivers.
    steps: usize,
    /// After so many turns it has failed.
    turns_max: u32,
}

impl Plan {
    fn any(seed: u64, messages: u64, breaks: bool) -> Self {
        let mut rng = Rng::new(seed);
        let pairs = rng.between(1, 3);
        let wqe_blocks_max = [1, 2, 4, 8][rng.index(4)].max(2);
        let least = usize::from(wqe_blocks_max) * 2;
        let blocks = least << rng.index(4);
        let shared = rng.chance(30);
        let wide_cqe = rng.chance(40);
        let short = [
            Short::Never,
            Short::Never,
            Short::Basic(Counters::Counted),
            Short::Basic(Counters::Told),
            Short::Enhanced(Counters::Counted),
            Short::Enhanced(Counters::Told),
        ];
        let some = |rng: &mut Rng, percent: u64, most: u64| {
            if rng.chance(percent) { rng.below(most) } else { 0 }
        };
        let manner = Manner {
            loses: some(&mut rng, 40, 12),
            loses_answers: some(&mut rng, 40, 12),
            loses_datagrams: 0,
            tears: rng.below(60),
            timeout: [60, 300, 2000][rng.index(3)],
            rnr_wait: [5, 40, 300][rng.index(3)],
            window: [1, 4, 16, 48][rng.index(4)],
            flush: if rng.chance(50) { Flush::Every } else { Flush::Signaled },
            poisons: true,
            cut: false,
            broken: None,
            ..Manner::default()
        };
        Self {
            seed,
            pairs,
            blocks,
            wqe_blocks_max,
            receives: 1 << rng.between(1, 5),
            shared,
            own_cqs: rng.chance(50),
            wide_cqe,
            scatter: rng.chance(40),
            compress: if wide_cqe { Short::Never } else { short[rng.index(6)] },
            straddle: if rng.chance(50) { Straddle::Fill } else { Straddle::Wrap },
            blue_flame: [BlueFlame::Never, BlueFlame::Inline, BlueFlame::Always][rng.index(3)],
            register_lines: [1, 2, 4, 8][rng.index(4)],
            signaled_percent: [5, 30, 100][rng.index(3)],
            batch: [1, 4, 64][rng.index(3)],
            manner,
            messages,
            bad: if breaks { rng.below(100) + 5 } else { 0 },
            steps: [1, 10, 60][rng.index(3)],
            turns_max: 400_000,
        }
    }
}

/// What came of a run.
#[derive(Clone, Copy, Debug, Default)]
struct Report {
    delivered: u64,
    outcome: Outcome,
    totals: Totals,
}

fn run(plan: &Plan) -> Report {
    let memory: [Memory; 2] = core::array::from_fn(|_| Memory::new(plan));
    let mut arenas: [_; 2] = core::array::from_fn(|_| node::arena(plan));
    let mut fabric = Fabric::new(plan.seed, 2, plan.manner);
    let mut rng = Rng::new(plan.seed ^ 0xD21E);
    let [one, other] = &mut arenas;
    let mut nodes = [
        Node::new(0, plan, &memory, one, &mut fabric),
        Node::new(1, plan, &memory, other, &mut fabric),
    ];
    for pair in 0..plan.pairs {
        fabric.connect((0, node::qpn(0, pair)), (1, node::qpn(1, pair)));
    }
    let (mut quiet, mut turns) = (0, 0);
    while quiet < 3 {
        let mut busy = nodes.iter().any(|node| !node.is_done());
        for node in &mut nodes {
            busy |= node.turn(&mut rng);
        }
        turns += 1;
        assert!(turns < plan.turns_max, "no end");
        for _ in 0..rng.between(1, plan.steps) {
            busy |= fabric.step();
        }
        let faults: Vec<_> = fabric.violations.iter().map(ToString::to_string).collect();
        assert!(faults.is_empty(), "the device complains: {faults:?}");
        if busy {
            quiet = 0;
            if !fabric.step() {
                // Nobody has anything to do but to wait.
                fabric.settle(1);
            }
        } else {
            fabric.settle(50_000);
            quiet += 1;
        }
    }
    let mut report = Report { totals: fabric.totals, ..Report::default() };
    let [one, other] = &mut nodes;
    for node in [&mut *one, &mut *other] {
        node.finish(&fabric);
    }
    for pair in 0..plan.pairs {
        for (from, to) in [(&*one, &*other), (&*other, &*one)] {
            let (sent, got) = (&from.pairs[pair].oracle, &to.pairs[pair].oracle);
            report.delivered += got.delivered;
            report.outcome.add(&sent.outcome);
            // What is said to be done has arrived, once, and nothing has that was not sent.
            let (done, posted) = (sent.messages_done, sent.messages_posted);
            let fits = done <= got.delivered && got.delivered <= posted;
            assert!(fits, "{done} done, {} delivered, {posted} posted", got.delivered);
            let broken = fabric.state(from.number, node::qpn(from.number, pair)) == State::Error;
            if !broken {
                assert_eq!((got.delivered, sent.messages_done), (plan.messages, plan.messages));
            }
        }
    }
    report
}

fn seeds(default: u64) -> (Vec<u64>, u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let messages: u64 = number("NIC_MESSAGES").unwrap_or(default);
    match number("NIC_SEED") {
        Some(seed) => (vec![seed], messages),
        None => {
            let runs = (messages / 400).clamp(1, 400);
            ((1..=runs).collect(), messages / runs)
        }
    }
}

/// Says on the way out of a panic how to have that run again.
struct Again(u64, u64);

impl Drop for Again {
    #[expect(clippy::print_stderr, reason = "so that it can be had again")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("again: NIC_SEED={} NIC_MESSAGES={}", self.0, self.1);
        }
    }
}

fn all(breaks: bool, default: u64) -> Report {
    let (seeds, messages) = seeds(default);
    let mut sum = Report::default();
    for seed in seeds {
        let mut plan = Plan::any(seed, messages, breaks);
        plan.messages = messages / (2 * u64::try_from(plan.pairs).unwrap()) + 1;
        let _again = Again(seed, messages);
        let report = run(&plan);
        sum.delivered += report.delivered;
        sum.outcome.add(&report.outcome);
        let (all, here) = (&mut sum.totals, report.totals);
        all.read += here.read;
        all.lost += here.lost;
        all.completions += here.completions;
        all.compressed += here.compressed;
        all.errors += here.errors;
        all.not_ready += here.not_ready;
        all.blue_flame += here.blue_flame;
        all.wrapped += here.wrapped;
    }
    sum
}

#[test]
fn each_message_arrives_once_and_intact() {
    let sum = all(false, 8_000);
    let totals = sum.totals;
    assert_eq!(totals.errors, 0);
    let seen =
        [totals.lost, totals.compressed, totals.not_ready, totals.blue_flame, totals.wrapped];
    assert!(seen.iter().all(|count| *count > 0), "all of it happened: {totals:?}");
}

#[test]
fn what_fails_is_told_once_and_its_neighbours_live() {
    let sum = all(true, 5_000);
    let Outcome { done, failed, flushed } = sum.outcome;
    assert!(done > 0 && failed > 0 && flushed > 0, "{:?}", sum.outcome);
}

/// The oracle finds a device out that is broken in any way, over some seeds.
#[test]
fn a_broken_device_is_found_out() {
    let ways = [Broken::Spoils, Broken::Repeats, Broken::Swallows, Broken::Forgets];
    for broken in ways {
        let is_found = |seed: u64| {
            let mut plan = Plan::any(seed, 60, false);
            plan.manner.broken = Some((broken, 20));
            plan.turns_max = 3000;
            std::panic::catch_unwind(|| run(&plan)).is_err()
        };
        assert!((1..=3).all(is_found), "{broken:?}");
    }
}
