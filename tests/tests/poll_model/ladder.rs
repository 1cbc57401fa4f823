//! The idle ladder: where its rungs begin, and that nobody parks over news.

use core::cell::RefCell;

use spinwire_dataplane::poll::{IdleLadder, Outcome, Rest, Rester, Rung, Thresholds};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::pause::{CpuWait, Watch};
use spinwire_dataplane::time::{Instant, Nanos};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Call {
    Yield,
    Arm,
    Disarm,
    Park(Option<Instant>),
}

#[derive(Default)]
struct Recorder(RefCell<Vec<Call>>);

impl Rester for Recorder {
    fn yield_now(&self) {
        self.0.borrow_mut().push(Call::Yield);
    }
    fn arm(&self) {
        self.0.borrow_mut().push(Call::Arm);
    }
    fn disarm(&self) {
        self.0.borrow_mut().push(Call::Disarm);
    }
    fn park(&self, until: Option<Instant>) {
        self.0.borrow_mut().push(Call::Park(until));
    }
}

fn rests(ladder: &IdleLadder, recorder: &Recorder, idle_turns: usize) -> Vec<Rest> {
    let line = Line::zeroed();
    let watch = Watch { line: &line, word: 0, seen: 0 };
    (0..idle_turns).map(|_| ladder.rest(Outcome::Idle, None, Some(watch), recorder)).collect()
}

#[test]
fn the_default_only_ever_spins() {
    let (ladder, recorder) = (IdleLadder::default(), Recorder::default());
    assert!(rests(&ladder, &recorder, 100_000).iter().all(|rest| *rest == Rest::On(Rung::Spin)));
    assert_eq!(*recorder.0.borrow(), []);
}

#[test]
fn each_rung_begins_where_its_threshold_says() {
    let thresholds = Thresholds { pause_after: 2, wait_after: 4, yield_after: 6, park_after: 8 };
    // On whatever this CPU can wait with, and bounded, as nobody writes the line.
    let ladder = IdleLadder::new(thresholds, CpuWait::detect(), 2).with_wait_ticks(500);
    let recorder = Recorder::default();
    let on = [Rung::Spin, Rung::Pause, Rung::Wait, Rung::Yield].map(Rest::On);
    let expected = [on[0], on[0], on[1], on[1], on[2], on[2], on[3], on[3], Rest::Arm];
    let park = Rest::On(Rung::Park);
    assert_eq!(rests(&ladder, &recorder, 9), expected);
    assert_eq!(rests(&ladder, &recorder, 4), [park, Rest::Arm, park, Rest::Arm]);
    use Call::{Arm, Disarm, Park, Yield};
    let calls = [Yield, Yield, Arm, Park(None), Arm, Park(None), Arm];
    assert_eq!(*recorder.0.borrow(), calls);
    assert_eq!(ladder.idle_turns(), 13);
    // A busy turn ends it all, and takes the mark back.
    let until = Some(Instant::from_nanos(7));
    assert_eq!(ladder.rest(Outcome::Busy, until, None, &recorder), Rest::On(Rung::Spin));
    assert_eq!(recorder.0.borrow().last(), Some(&Disarm));
    assert_eq!(ladder.idle_turns(), 0);
    assert_eq!(rests(&ladder, &recorder, 3)[2], Rest::On(Rung::Pause));
}

/// All sequences of outcomes: a park has an arm before it, a round of idle turns between, and its deadline; the
/// first busy turn after arms and parks brings one disarm, and nothing else does.
#[test]
fn no_park_without_an_idle_round_after_an_arm() {
    for (round_turns, park_after) in [(1, 0), (1, 1), (2, 0), (3, 1)] {
        for outcomes in 0..1u32 << 14 {
            let thresholds = Thresholds { park_after, ..Thresholds::SPIN };
            let ladder =
                IdleLadder::new(thresholds, CpuWait::NONE, 2).with_round_turns(round_turns);
            let recorder = Recorder::default();
            let mut idle_since_arm = None;
            for turn in 0..14u32 {
                let outcome = Outcome::from_count(outcomes >> turn & 1);
                let until = Some(Instant::from_nanos(turn.into()));
                idle_since_arm = match idle_since_arm {
                    Some(idle) if outcome == Outcome::Idle => Some(idle + 1),
                    _ => None,
                };
                let last = recorder.0.borrow().last().copied();
                let was_armed = last == Some(Call::Arm);
                let may_stand = last.is_some_and(|call| call != Call::Disarm);
                let before = recorder.0.borrow().len();
                let rest = ladder.rest(outcome, until, None, &recorder);
                let calls = recorder.0.borrow()[before..].to_vec();
                match rest {
                    Rest::On(Rung::Park) => {
                        assert_eq!(idle_since_arm, Some(round_turns));
                        assert_eq!(calls, [Call::Park(until)]);
                        idle_since_arm = None;
                    }
                    Rest::Arm => {
                        assert!(!was_armed, "armed twice");
                        assert_eq!(calls, [Call::Arm]);
                        idle_since_arm = Some(0);
                    }
                    Rest::On(_) => {
                        let gives_up = may_stand && outcome.is_busy();
                        assert_eq!(calls, if gives_up { vec![Call::Disarm] } else { vec![] });
                    }
                }
            }
        }
    }
}

#[test]
fn on_a_single_cpu_every_idle_turn_lets_others_run() {
    for thresholds in [Thresholds::SPIN, Thresholds::PAUSE, Thresholds::SHARED] {
        let ladder = IdleLadder::new(thresholds, CpuWait::NONE, 1);
        let recorder = Recorder::default();
        assert!(rests(&ladder, &recorder, 50).iter().all(|rest| *rest == Rest::On(Rung::Yield)));
        assert_eq!(recorder.0.borrow().len(), 50);
    }
    assert_eq!(Thresholds::SPIN.on_cpus(2), Thresholds::SPIN);
}

#[test]
fn lower_rungs_wake_later() {
    let rungs = [Rung::Spin, Rung::Pause, Rung::Wait, Rung::Yield, Rung::Park];
    assert!(rungs.map(Rung::wake_latency).is_sorted());
    assert_eq!(rungs[0].wake_latency(), Nanos::ZERO);
    assert!(rungs.is_sorted());
}
