//! Traffic with everything decided by a seed, and what must hold whatever happens: each request over once, in order, intact,
//! no queue overflowing, and an end to it.

use std::collections::VecDeque;

use spinwire_dataplane::vqp::sequence::SequenceCodec;
use spinwire_dataplane::vqp::{
    Completion, Direction, Op, RecvKind, RecvWr, Refusal, Remains, Replay, Scheme, SendWr, Signal,
    Spread, Visibility, VqpConfig,
};
use spinwire_tests::rng::{Rng, pattern};
use spinwire_tests::sim::fabric::{Faults, Links};

use crate::asked;
use crate::pair::{Pair, Plan, quick};

const SLOTS: usize = 96;
const SLOT_BYTES: usize = 4096;
const FIRST_SLOT: usize = 4096;
/// Memory of which nobody may still write when it is used again: longer than any write is under way.
const REST_NS: u64 = 200_000;
const PATIENCE_NS: u64 = 1_000_000_000;

/// Which kinds of requests there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mix {
    /// Writes with and without notification, reads, atomics.
    Spray,
    /// Writes with notification, reads, atomics.
    Dqplb,
    /// Sends alone.
    Sends,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Report {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) notified: u64,
    pub(crate) healed: u32,
    pub(crate) stale: u64,
}

#[derive(Clone, Copy, Debug)]
struct Posted {
    op: Op,
    slot: usize,
    length: usize,
    is_silent: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Free,
    /// Whether the sender knows that it is over, and the receiver too (or need not).
    Busy {
        sent: bool,
        seen: bool,
    },
    Resting(u64),
}

struct Run<'r, 'f> {
    pair: &'r Pair<'f>,
    mix: Mix,
    rng: Rng,
    /// By number, from `first` on.
    posted: VecDeque<Posted>,
    first: u64,
    next: u64,
    places: Vec<Place>,
    /// Writes that are to be in memory by some time.
    due: VecDeque<(u64, u64, Posted)>,
    /// Numbers of the messages that the peer is to be notified of, in order.
    to_notify: VecDeque<(u64, Posted)>,
    recvs: u64,
    recvs_over: u64,
    added: (u64, u64),
    report: Report,
    last_progress: u64,
}

pub(crate) fn run(
    plan: &Plan,
    configure: impl Fn(VqpConfig, spinwire_dataplane::vqp::RegionId) -> VqpConfig,
    (mix, messages): (Mix, u64),
    faults: Faults,
) -> Result<Report, String> {
    let mut result = Err("it did not run".to_owned());
    plan.with(configure, |pair| {
        pair.fabric.set_faults(faults);
        let mut run = Run {
            pair,
            mix,
            rng: Rng::new(plan.seed ^ 0xF00D),
            posted: VecDeque::new(),
            first: 0,
            next: 0,
            places: vec![Place::Free; SLOTS],
            due: VecDeque::new(),
            to_notify: VecDeque::new(),
            recvs: 0,
            recvs_over: 0,
            added: (0, 0),
            report: Report::default(),
            last_progress: 0,
        };
        result = run.all(messages).map_err(|what| format!("seed {}: {what}", plan.seed));
    });
    result
}

const fn at(slot: usize) -> usize {
    FIRST_SLOT + slot * SLOT_BYTES
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap()
}

impl Run<'_, '_> {
    fn all(&mut self, messages: u64) -> Result<Report, String> {
        while self.first < messages {
            self.post_receives()?;
            if self.next < messages {
                for _ in 0..(1 + self.rng.below(6)).min(messages - self.next) {
                    self.post_one()?;
                }
            }
            for end in &self.pair.ends {
                if self.rng.chance(50) {
                    end.vqp.ring_doorbell();
                }
            }
            self.step()?;
            if self.pair.ends[0].vqp.remains().sends == 0 {
                // The last ones may be over in silence.
                while let Some(posted) = self.posted.pop_front() {
                    if !posted.is_silent {
                        return Err(format!("{} was never reported", self.first));
                    }
                    self.over(self.first, posted, true)?;
                    self.first += 1;
                }
            }
            if let Some(cause) = self.pair.ends[0].vqp.failure()
                && self.pair.ends[0].vqp.remains().sends == 0
                && self.posted.is_empty()
                && matches!(cause, spinwire_dataplane::vqp::Cause::SequenceLost)
            {
                return Err(format!("nothing can be sent any more: {cause}"));
            }
        }
        self.end()
    }

    fn step(&mut self) -> Result<(), String> {
        let [here, there] = self.pair.turn();
        for completion in here {
            self.on_send(&completion)?;
        }
        for completion in there {
            self.on_recv(&completion)?;
        }
        self.look_at_memory()?;
        self.report.healed += self.pair.heal();
        self.pair.fabric.advance(1 + self.rng.below(4000));
        if let Some(what) = self.pair.fabric.violation() {
            return Err(what);
        }
        if self.pair.fabric.now() - self.last_progress > PATIENCE_NS {
            return Err(format!(
                "no progress: {:?}, {:?}",
                self.pair.ends[0].vqp.remains(),
                self.pair.ends[1].vqp.remains()
            ));
        }
        Ok(())
    }

    fn post_receives(&mut self) -> Result<(), String> {
        let end = &self.pair.ends[1];
        while self.recvs - self.recvs_over < 48 {
            let slot = usize::try_from(self.recvs).unwrap() % 48;
            let buffer = [end.sge(wide(at(slot)), wide(SLOT_BYTES))];
            let (kind, sges) = if self.mix == Mix::Sends {
                (RecvKind::Buffer, &buffer[..])
            } else {
                (RecvKind::Notification, &[][..])
            };
            match end.vqp.post_recv(&RecvWr { context: self.recvs, kind, sges }) {
                Ok(()) => self.recvs += 1,
                Err(Refusal::Retry(_) | Refusal::Down(_)) => break,
                Err(Refusal::Misuse(error)) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    fn post_one(&mut self) -> Result<(), String> {
        let Some(slot) = self.places.iter().position(|place| *place == Place::Free) else {
            return Ok(());
        };
        let number = self.next;
        let low = u32::try_from(number & 0xFFFF_FFFF).unwrap();
        let op = match (self.mix, self.rng.below(10)) {
            (Mix::Sends, 0..5) => Op::Send,
            (Mix::Sends, _) => Op::SendImm(low),
            (_, 0) => Op::Read,
            (_, 1) => Op::FetchAdd(1),
            (Mix::Spray, 2..4) => Op::Write,
            (Mix::Spray, _) => Op::WriteImm(low),
            (Mix::Dqplb, _) => Op::WriteNotify,
        };
        let length = match self.rng.below(8) {
            0 => 0,
            1 => self.rng.between(1, 16),
            2 => SLOT_BYTES,
            _ => self.rng.between(1, SLOT_BYTES),
        };
        let length = match op {
            Op::FetchAdd(_) => 8,
            Op::Send | Op::SendImm(_) => length.min(500),
            Op::Write | Op::WriteImm(_) | Op::WriteNotify | Op::Read | Op::CompareSwap { .. } => {
                length
            }
        };
        let end = &self.pair.ends[0];
        let bytes = pattern(number, length);
        let from = if op == Op::Read { 1 } else { 0 };
        self.pair.fabric.write(from, at(slot), &bytes);
        // Several segments, at random places.
        let cut = wide(self.rng.between(0, length));
        let (whole, base) = (wide(length), wide(at(slot)));
        let both = [end.sge(base, cut), end.sge(base + cut, whole - cut)];
        let one = [end.sge(base, whole)];
        let is_one = matches!(op, Op::FetchAdd(_)) || self.rng.chance(50);
        let sges = if is_one { &one[..] } else { &both[..] };
        let place = if matches!(op, Op::FetchAdd(_)) { 0 } else { base };
        let remote = (self.mix != Mix::Sends).then(|| end.remote(place));
        let is_silent = self.rng.chance(20);
        let signal = if is_silent { Signal::OnError } else { Signal::Always };
        match end.vqp.post_send(&SendWr { context: number, op, sges, remote, signal }) {
            Ok(()) => {}
            Err(Refusal::Retry(_) | Refusal::Down(_)) => return Ok(()),
            Err(Refusal::Misuse(error)) => return Err(format!("{op:?}: {error}")),
        }
        self.next += 1;
        let posted = Posted { op, slot, length, is_silent };
        self.posted.push_back(posted);
        let is_notified = matches!(op, Op::WriteImm(_) | Op::WriteNotify);
        self.places[slot] = Place::Busy { sent: false, seen: !is_notified };
        if is_notified || self.mix == Mix::Sends {
            self.to_notify.push_back((number, posted));
        }
        Ok(())
    }

    fn on_send(&mut self, completion: &Completion) -> Result<(), String> {
        if completion.direction != Direction::Send {
            return Err(format!("a receive of nobody: {completion:?}"));
        }
        self.last_progress = self.pair.fabric.now();
        // Those before it are over in silence.
        while self.first < completion.context {
            let posted = self.posted.pop_front().ok_or("a number from nowhere")?;
            if !posted.is_silent {
                return Err(format!("{} was left out before {completion:?}", self.first));
            }
            self.over(self.first, posted, true)?;
            self.first += 1;
        }
        if self.first != completion.context {
            return Err(format!("twice, or out of order: {completion:?}, not {}", self.first));
        }
        let posted = self.posted.pop_front().ok_or("a number from nowhere")?;
        self.first += 1;
        match completion.outcome {
            Ok(_) if posted.is_silent => return Err(format!("aloud: {completion:?}")),
            Ok(done) if done.bytes != wide(posted.length) => {
                return Err(format!("{done:?} of {posted:?}"));
            }
            outcome => self.over(completion.context, posted, outcome.is_ok())?,
        }
        Ok(())
    }

    fn over(&mut self, number: u64, posted: Posted, is_good: bool) -> Result<(), String> {
        let now = self.pair.fabric.now();
        if is_good {
            self.report.succeeded += 1;
        } else {
            self.report.failed += 1;
        }
        if let Op::FetchAdd(_) = posted.op {
            self.added = (self.added.0 + u64::from(is_good), self.added.1 + 1);
        }
        if posted.op == Op::Read && is_good {
            let bytes = self.pair.fabric.read(0, at(posted.slot), posted.length);
            if bytes != pattern(number, posted.length) {
                return Err(format!("read {number} brought something else"));
            }
        }
        let place = &mut self.places[posted.slot];
        match (is_good, *place) {
            (false, _) => *place = Place::Resting(now + 5 * REST_NS),
            (true, Place::Busy { seen, .. }) => *place = Place::Busy { sent: true, seen },
            (true, other) => return Err(format!("{number} is over, its place {other:?}")),
        }
        if is_good && posted.op == Op::Write {
            self.due.push_back((now + REST_NS, number, posted));
        } else {
            self.release(posted.slot);
        }
        Ok(())
    }

    fn release(&mut self, slot: usize) {
        if self.places[slot] == (Place::Busy { sent: true, seen: true }) {
            self.places[slot] = Place::Resting(self.pair.fabric.now() + REST_NS);
        }
    }

    fn look_at_memory(&mut self) -> Result<(), String> {
        let now = self.pair.fabric.now();
        while let Some((_, number, posted)) = self.due.front().copied().filter(|due| due.0 <= now) {
            self.due.pop_front();
            self.is_intact(number, posted)?;
            self.release(posted.slot);
        }
        for place in &mut self.places {
            if matches!(*place, Place::Resting(until) if until <= now) {
                *place = Place::Free;
            }
        }
        Ok(())
    }

    fn is_intact(&self, number: u64, posted: Posted) -> Result<(), String> {
        let bytes = self.pair.fabric.read(1, at(posted.slot), posted.length);
        if bytes == pattern(number, posted.length) {
            return Ok(());
        }
        Err(format!("message {number} ({posted:?}) is not intact"))
    }

    fn on_recv(&mut self, completion: &Completion) -> Result<(), String> {
        if completion.context != self.recvs_over {
            return Err(format!("receives out of order: {completion:?}, not {}", self.recvs_over));
        }
        self.recvs_over += 1;
        let Ok(done) = completion.outcome else { return Ok(()) };
        self.report.notified += 1;
        self.last_progress = self.pair.fabric.now();
        match self.mix {
            Mix::Dqplb => {
                let (number, posted) = self.to_notify.pop_front().ok_or("notified of nothing")?;
                if done.bytes != wide(posted.length) {
                    return Err(format!("{done:?} of {number} {posted:?}"));
                }
                self.notified(number, posted)?;
            }
            Mix::Spray => {
                let immediate = done.immediate.ok_or("without immediate")?;
                loop {
                    // Those that were left out must have failed.
                    let (number, posted) = self
                        .to_notify
                        .pop_front()
                        .ok_or_else(|| format!("notified of {immediate} twice, or too early"))?;
                    if number & 0xFFFF_FFFF == u64::from(immediate) {
                        self.notified(number, posted)?;
                        break;
                    }
                    if self.places[posted.slot] == (Place::Busy { sent: true, seen: false }) {
                        return Err(format!("{number} succeeded, and the peer was not told"));
                    }
                }
            }
            Mix::Sends => {
                let (number, posted) = self.to_notify.pop_front().ok_or("sent by nobody")?;
                let slot = usize::try_from(completion.context).unwrap() % 48;
                let bytes = self.pair.fabric.read(1, at(slot), posted.length);
                if done.bytes != wide(posted.length) || bytes != pattern(number, posted.length) {
                    return Err(format!("send {number} is not what came: {done:?}"));
                }
            }
        }
        Ok(())
    }

    fn notified(&mut self, number: u64, posted: Posted) -> Result<(), String> {
        self.is_intact(number, posted)?;
        if let Place::Busy { sent, .. } = self.places[posted.slot] {
            self.places[posted.slot] = Place::Busy { sent, seen: true };
        }
        self.release(posted.slot);
        Ok(())
    }

    /// Everything comes to an end: what was announced has come, both are closed, and nothing is left.
    fn end(&mut self) -> Result<Report, String> {
        let until = self.pair.fabric.now() + 2_000_000;
        self.pair.fabric.set_faults(Faults::default());
        while self.pair.fabric.now() < until {
            self.step()?;
        }
        let left = self.to_notify.iter().filter(|(_, posted)| {
            self.places[posted.slot] == (Place::Busy { sent: true, seen: false })
        });
        if self.mix != Mix::Sends && left.count() > 0 {
            return Err("some succeeded, and the peer was never told".to_owned());
        }
        let counter = self.pair.fabric.read(1, 0, 8);
        let sum = u64::from_le_bytes(counter.try_into().unwrap());
        if sum < self.added.0 || sum > self.added.1 {
            return Err(format!("{sum} was added, not {:?}", self.added));
        }
        for end in &self.pair.ends {
            end.vqp.close();
        }
        let until = self.pair.fabric.now() + 10_000_000;
        while self.pair.fabric.now() < until {
            self.pair.turn();
            self.pair.fabric.advance(10_000);
        }
        for end in &self.pair.ends {
            self.report.stale += end.vcq.strays().stale;
            if end.vqp.remains() != Remains::default() {
                return Err(format!("left over: {:?}", end.vqp.remains()));
            }
            end.vcq.detach(end.vqp).map_err(|left| format!("left over: {left:?}"))?;
        }
        Ok(self.report)
    }
}

pub(crate) fn base(scheme: Scheme, replay: Replay) -> VqpConfig {
    quick(VqpConfig {
        scheme,
        replay,
        max_message: 700,
        sends: 64,
        recvs: 64,
        send_depth: 16,
        recv_depth: 16,
        window: 64,
        ..VqpConfig::default()
    })
}

pub(crate) fn plan(devices: &[u32], notify: Option<u32>, config: VqpConfig, seed: u64) -> Plan {
    Plan {
        devices: devices.to_vec(),
        notify,
        config,
        links: Links::WILD,
        memory: FIRST_SLOT + SLOTS * SLOT_BYTES,
        seed,
        hides_devices: false,
        cq_depth: 4096,
    }
}

const FAULTS: Faults = Faults {
    deaths: 4,
    repeats: 300,
    partial_doorbells: 10,
    short_doorbells: 200,
    refusals: 200,
    receive_refusals: 0,
    corruptions: 0,
    losses: 0,
    reuses: false,
};

/// Faults that break no promise to a request.
const NUISANCES: Faults = Faults { deaths: 0, partial_doorbells: 0, ..FAULTS };

/// Scheme, what becomes of lost fragments, devices of the data paths and of the one for notifications, faults.
type Soaked<'c> = (Scheme, Replay, &'c [u32], Option<u32>, Faults);

/// `SPINWIRE_VQP_MESSAGES` makes it longer.
fn messages() -> u64 {
    asked("SPINWIRE_VQP_MESSAGES", 100_000)
}

#[test]
fn a_hundred_thousand_messages_in_every_scheme() {
    let spray = Scheme::Spray(Visibility::OneDevice);
    let clean = Scheme::Dqplb(SequenceCodec::Clean);
    let compatible = Scheme::Dqplb(SequenceCodec::Compatible);
    let near = |codec: SequenceCodec| codec.modulus() - 300;
    let never = Replay::Never;
    let again = Replay::Idempotent;
    let mut total = Report::default();
    let cases: [Soaked<'_>; 7] = [
        (spray, never, &[0, 0, 0, 0], Some(0), FAULTS),
        (spray, again, &[0, 0, 0], Some(0), FAULTS),
        (spray, never, &[0], None, FAULTS),
        (clean, again, &[0, 1, 2], None, FAULTS),
        (compatible, again, &[0, 1, 0, 1], None, FAULTS),
        (clean, never, &[0, 1], None, NUISANCES),
        (compatible, never, &[0, 0, 0, 0], None, NUISANCES),
    ];
    let each = messages() / u64::try_from(cases.len()).unwrap() + 1;
    for (number, (scheme, replay, devices, notify, faults)) in cases.into_iter().enumerate() {
        let mut config = base(scheme, replay);
        if let Scheme::Dqplb(codec) = scheme {
            config.first_sequence = near(codec);
        }
        let mix = if notify.is_some() || devices.len() == 1 { Mix::Spray } else { Mix::Dqplb };
        let seed = asked("SPINWIRE_VQP_SEED", 1) + u64::try_from(number).unwrap();
        let plan = plan(devices, notify, config, seed);
        let report = run(&plan, |config, _| config, (mix, each), faults)
            .unwrap_or_else(|what| panic!("case {number}: {what}"));
        println!("case {number}: {report:?}");
        assert!(faults.deaths == 0 || report.healed > 3, "{report:?}");
        assert!(faults.deaths > 0 || report.failed == 0, "{report:?}");
        total.succeeded += report.succeeded;
        total.stale += report.stale;
    }
    assert!(total.succeeded > messages() * 9 / 10, "{total:?}");
    assert!(total.stale > 100, "{total:?}");
}

#[test]
fn notifications_never_overtake_data_of_another_device() {
    for seed in 0..4 {
        let config = base(Scheme::Spray(Visibility::OneDevice), Replay::Never);
        let plan = plan(&[0, 1, 2, 1], Some(0), config, seed);
        let flushing = |config, scratch| VqpConfig {
            scheme: Scheme::Spray(Visibility::FlushingRead(scratch)),
            ..config
        };
        let report = run(&plan, flushing, (Mix::Spray, 1500), NUISANCES);
        let report = report.unwrap_or_else(|what| panic!("{what}"));
        assert!(report.notified > 500, "{report:?}");
        let report = run(&plan, flushing, (Mix::Spray, 1500), FAULTS);
        assert!(report.unwrap_or_else(|what| panic!("{what}")).notified > 500);
    }
}

#[test]
fn sends_in_rotation_meet_their_receives() {
    for spread in [Spread::Rotation, Spread::Pinned(1)] {
        let scheme = Scheme::Spray(Visibility::OneDevice);
        let config = VqpConfig { spread, ..base(scheme, Replay::Never) };
        let plan = plan(&[0, 0, 0], Some(0), config, 5);
        let faults = Faults { short_doorbells: 0, ..NUISANCES };
        let report = run(&plan, |config, _| config, (Mix::Sends, 3000), faults);
        let report = report.unwrap_or_else(|what| panic!("{spread:?}: {what}"));
        assert_eq!((report.succeeded, report.failed), (3000, 0), "{spread:?} {report:?}");
        assert!(report.notified >= 2999);
    }
}
