//! The timing wheel against a plain list of deadlines.

use core::cell::Cell;

use proptest::prelude::*;
use spinwire_dataplane::table::{
    Due, Fifos, Full, Head, Key, Link, SlabError, Slot, TimerStorage, Timers,
};
use spinwire_dataplane::time::{Instant, Nanos};

use crate::{every_sequence, with_arena};

/// Deadlines and steps in time are relative to the time of the last expiry; timers are numbered in the order in which
/// they were started.
#[derive(Clone, Copy, Debug)]
enum Op {
    Insert(i128),
    Cancel(usize),
    Reset(usize, i128),
    Expire { step: i128, budget: u32 },
}

struct Timer {
    key: Key,
    /// In ticks, rounded up.
    tick: u64,
    /// Whether the deadline was in the future when it was set.
    ahead: bool,
    running: bool,
}

struct Model {
    tick_ns: u64,
    now: u64,
    /// The time that the wheel reached is at least that of the last timer that fired.
    fired_until: u64,
    /// Nothing was cancelled or moved: `next_deadline` is exact.
    exact: bool,
    /// The last expiry brought the wheel to `now`, and left nothing over.
    drained: bool,
    timers: Vec<Timer>,
}

fn clamp(ns: i128) -> u64 {
    u64::try_from(ns.max(0)).unwrap_or(u64::MAX)
}

impl Model {
    const fn new(tick_ns: u64, now: u64) -> Self {
        Self { tick_ns, now, fired_until: 0, exact: true, drained: true, timers: Vec::new() }
    }

    fn deadline(&self, offset: i128) -> u64 {
        clamp(i128::from(self.now).saturating_add(offset))
    }

    fn running(&self) -> impl Iterator<Item = &Timer> {
        self.timers.iter().filter(|timer| timer.running)
    }

    fn apply(&mut self, wheel: &Timers<'_, usize>, op: Op) {
        match op {
            Op::Insert(offset) => {
                let deadline = self.deadline(offset);
                let number = self.timers.len();
                match wheel.insert(Instant::from_nanos(deadline), number) {
                    Ok(key) => {
                        let tick = deadline.div_ceil(self.tick_ns);
                        let ahead = tick > self.now / self.tick_ns;
                        self.timers.push(Timer { key, tick, ahead, running: true });
                    }
                    Err(Full(back)) => {
                        assert_eq!(back, number);
                        assert_eq!(self.running().count(), wheel.capacity().try_into().unwrap());
                    }
                }
            }
            Op::Cancel(number) => {
                let Some(timer) = self.timers.get_mut(number) else {
                    return;
                };
                let expected = if timer.running { Ok(number) } else { Err(SlabError::Stale) };
                assert_eq!(wheel.cancel(timer.key), expected);
                self.exact &= !timer.running;
                timer.running = false;
            }
            Op::Reset(number, offset) => {
                let deadline = self.deadline(offset);
                let (tick_ns, now) = (self.tick_ns, self.now);
                let Some(timer) = self.timers.get_mut(number) else {
                    return;
                };
                let expected = if timer.running { Ok(()) } else { Err(SlabError::Stale) };
                assert_eq!(wheel.reset(timer.key, Instant::from_nanos(deadline)), expected);
                self.exact &= !timer.running;
                timer.tick = deadline.div_ceil(tick_ns);
                timer.ahead = timer.tick > now / tick_ns;
            }
            Op::Expire { step, budget } => self.expire(wheel, step, budget),
        }
    }

    fn expire(&mut self, wheel: &Timers<'_, usize>, step: i128, budget: u32) {
        let asked = self.deadline(step);
        // Time that runs backwards counts as standing still, for a wheel that had got to where it stood.
        let settled = asked >= self.now || self.drained;
        self.now = self.now.max(asked);
        let now = self.now / self.tick_ns;
        let fired: Vec<_> = wheel.expire(Instant::from_nanos(asked), budget).collect();
        assert!(fired.len() <= budget.try_into().unwrap());
        for Due { key, deadline, payload } in &fired {
            let at = deadline.as_nanos() / self.tick_ns;
            let timer = &mut self.timers[*payload];
            assert!(timer.running, "timer {payload} fired though it did not run");
            assert_eq!(timer.key, *key);
            assert!(timer.tick <= now, "timer {payload} fired early");
            assert!(at >= self.fired_until, "out of order");
            if timer.ahead {
                assert_eq!(at, timer.tick, "timer {payload} has another deadline");
            }
            assert!((timer.tick..=now).contains(&at));
            timer.running = false;
            self.fired_until = at;
        }
        self.drained = settled && budget == u32::MAX;
        if self.drained {
            assert!(self.running().all(|timer| timer.tick > now), "a timer was left behind");
        }
    }

    fn check(&self, wheel: &Timers<'_, usize>) {
        assert_eq!(wheel.len(), u32::try_from(self.running().count()).unwrap());
        let next = wheel.next_deadline().map(|deadline| deadline.as_nanos() / self.tick_ns);
        let Some(soonest) = self.running().map(|timer| timer.tick).min() else {
            assert_eq!(next, None);
            return;
        };
        let next = next.unwrap();
        let now = self.now / self.tick_ns;
        // A deadline beyond the end of time is shown as the end of time.
        let soonest = soonest.min(u64::MAX / self.tick_ns);
        assert!(next <= soonest.max(now), "it would wake up too late: {next} for {soonest}");
        if self.exact && self.drained {
            assert_eq!(next, soonest.max(now));
        }
    }

    /// In the end, everything fires, in a number of steps that is bounded.
    fn finish(mut self, wheel: &Timers<'_, usize>) {
        let running = u64::from(wheel.len());
        let mut steps = 0;
        while let Some(deadline) = wheel.next_deadline() {
            // Only what is never due stays.
            if deadline == Instant::NEVER {
                break;
            }
            let step = i128::from(deadline.as_nanos()) - i128::from(self.now);
            self.expire(wheel, step, 1);
            self.check(wheel);
            steps += 1;
            // Eleven steps each, and one each to find that a bound was that of a timer moved or cancelled since.
            assert!(steps <= 24 * running + 24, "no progress");
        }
        let end = u64::MAX / self.tick_ns;
        assert!(self.running().all(|timer| timer.tick >= end));
    }
}

fn run(capacity: u32, tick_ns: u64, start: u64, ops: &[Op]) {
    with_arena(64 << 10, |bump| {
        let wheel = Timers::place(bump, capacity, Nanos::new(tick_ns)).unwrap();
        assert_eq!(wheel.tick(), Nanos::new(tick_ns));
        let mut model = Model::new(tick_ns, start);
        model.expire(&wheel, 0, 1);
        for &op in ops {
            model.apply(&wheel, op);
            model.check(&wheel);
        }
        model.finish(&wheel);
    });
}

#[test]
fn all_orders_of_a_few_operations_around_the_edges_of_levels() {
    let alphabet = [
        Op::Insert(0),
        Op::Insert(1),
        Op::Insert(64),
        Op::Insert(4097),
        Op::Cancel(0),
        Op::Cancel(1),
        Op::Reset(0, 65),
        Op::Expire { step: 1, budget: 1 },
        Op::Expire { step: 63, budget: 2 },
        Op::Expire { step: -1, budget: u32::MAX },
        Op::Expire { step: 4096, budget: u32::MAX },
    ];
    for (capacity, start, length) in [(1, 63, 3), (2, 4032, 3), (3, 4095, 4)] {
        every_sequence(&alphabet, length, |ops| run(capacity, 1, start, ops));
    }
}

/// A distance in time of any order of magnitude, mostly ahead.
fn offset() -> impl Strategy<Value = i128> {
    prop_oneof![
        2 => -70..1i128,
        4 => 0..200i128,
        2 => -5000..5000i128,
        3 => (0..64u32, -2..3i128).prop_map(|(bit, near)| (1i128 << bit) + near),
        1 => Just(i128::from(u64::MAX)),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let budget = prop_oneof![0..4u32, Just(u32::MAX)];
    let step = prop_oneof![
        2 => -70..1i128,
        6 => 0..70i128,
        3 => 0..9000i128,
        1 => (0..60u32).prop_map(|bit| 1i128 << bit),
    ];
    prop_oneof![
        6 => offset().prop_map(Op::Insert),
        2 => (0..60usize).prop_map(Op::Cancel),
        2 => (0..60usize, offset()).prop_map(|(number, offset)| Op::Reset(number, offset)),
        5 => (step, budget).prop_map(|(step, budget)| Op::Expire { step, budget }),
    ]
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn random_operations(
        capacity in 1..40u32,
        tick_exponent in prop_oneof![Just(0u32), 1..12u32, Just(20)],
        start in prop_oneof![Just(0u64), 0..1_000_000u64, 0..=u64::MAX / 2],
        ops in prop::collection::vec(op(), 0..80),
    ) {
        run(capacity, 1 << tick_exponent, start, &ops);
    }
}

#[test]
fn a_jump_far_ahead_fires_all_in_order_and_in_few_steps() {
    with_arena(1 << 20, |bump| {
        let wheel = Timers::place(bump, 1000, Nanos::new(1)).unwrap();
        // A deadline in every order of magnitude, started in no order.
        for number in 0..1000u64 {
            let deadline = 1 + (number * 7919 % 1000) * (1 << (number % 40));
            wheel.insert(Instant::from_nanos(deadline), deadline).unwrap();
        }
        let fired: Vec<_> =
            wheel.expire(Instant::from_nanos(1 << 60), 11_000).map(|due| due.payload).collect();
        assert_eq!(fired.len(), 1000);
        assert!(fired.is_sorted());
        assert!(wheel.is_empty());
    });
}

#[test]
fn a_budget_bounds_the_steps_of_a_call_even_where_none_fires() {
    with_arena(1 << 20, |bump| {
        let wheel = Timers::place(bump, 100, Nanos::new(1)).unwrap();
        for _ in 0..100 {
            wheel.insert(Instant::from_nanos(64 * 64 + 70), ()).unwrap();
        }
        // 100 moves from level 2 to 1, 100 from 1 to 0, 100 firings: 10 a call.
        let now = Instant::from_nanos(1 << 20);
        let fired: Vec<_> = (0..30).map(|_| wheel.expire(now, 10).count()).collect();
        assert_eq!(fired, [[0; 10], [0; 10], [10; 10]].concat());
    });
}

#[test]
fn the_moment_that_never_comes_never_comes() {
    with_arena(64 << 10, |bump| {
        let wheel = Timers::place(bump, 4, Nanos::new(1000)).unwrap();
        assert_eq!(wheel.tick(), Nanos::new(512));
        let key = wheel.insert(Instant::NEVER, 'n').unwrap();
        assert_eq!(wheel.next_deadline(), Some(Instant::NEVER));
        assert_eq!(wheel.expire(Instant::NEVER, 100).count(), 0);
        assert_eq!(wheel.cancel(key), Ok('n'));
        assert_eq!(wheel.next_deadline(), None);
    });
}

#[test]
fn a_timer_cancelled_between_two_firings_of_one_expiry_does_not_fire() {
    with_arena(64 << 10, |bump| {
        let wheel = Timers::place(bump, 4, Nanos::new(1)).unwrap();
        let keys = [10, 10, 11].map(|at| wheel.insert(Instant::from_nanos(at), at).unwrap());
        let mut expiry = wheel.expire(Instant::from_nanos(100), 100);
        let first = expiry.next().unwrap();
        for key in keys.into_iter().filter(|key| *key != first.key) {
            wheel.cancel(key).unwrap();
        }
        wheel.insert(Instant::from_nanos(5), 5).unwrap();
        assert_eq!(expiry.map(|due| due.payload).collect::<Vec<_>>(), [5]);
    });
}

#[test]
fn storage_that_is_too_short_makes_a_wheel_that_refuses() {
    let lists = usize::try_from(TimerStorage::<u8>::LISTS).unwrap();
    for (entries, links, heads, soonest, capacity) in [
        (2, 1, lists, lists, 1),
        (1, 2, lists, lists, 1),
        (2, 2, lists - 1, lists, 0),
        (2, 2, lists, lists - 1, 0),
    ] {
        let storage = TimerStorage {
            entries: &mut (0..entries).map(|_| Slot::vacant()).collect::<Vec<_>>(),
            links: &mut (0..links).map(|_| Link::unlinked()).collect::<Vec<_>>(),
            heads: &mut (0..heads).map(|_| Head::empty()).collect::<Vec<_>>(),
            soonest: &mut (0..soonest).map(|_| Cell::new(0)).collect::<Vec<_>>(),
        };
        let wheel = Timers::new(storage, Nanos::new(0));
        assert_eq!((wheel.capacity(), wheel.tick()), (capacity, Nanos::new(1)));
        for _ in 0..capacity {
            wheel.insert(Instant::ORIGIN, 7u8).unwrap();
        }
        assert_eq!(wheel.insert(Instant::ORIGIN, 8), Err(Full(8)));
        assert_eq!(wheel.expire(Instant::ORIGIN, 9).count(), usize::try_from(capacity).unwrap());
    }
    with_arena(256, |bump| {
        assert!(Fifos::place(bump, 4, 100).is_err());
        assert!(Timers::<u8>::place(bump, 4, Nanos::new(1)).is_err());
    });
}
