//! Turns of several sources: all are visited, in turn, and the soonest deadline counts.

use core::cell::{Cell, RefCell};

use spinwire_dataplane::poll::{Budget, Outcome, Poll, Rotation};
use spinwire_dataplane::time::Instant;

/// Notes its name in a shared log; busy while it has work.
struct Source<'l> {
    name: usize,
    work: Cell<u32>,
    deadline: Option<u64>,
    log: &'l RefCell<Vec<usize>>,
}

impl<'l> Source<'l> {
    const fn new(name: usize, log: &'l RefCell<Vec<usize>>) -> Self {
        Self { name, work: Cell::new(0), deadline: None, log }
    }
}

impl Poll for Source<'_> {
    fn turn(&self, now: Instant, budget: Budget) -> Outcome {
        assert_eq!((now.as_nanos(), budget), (9, Budget::MIN), "handed on unchanged");
        self.log.borrow_mut().push(self.name);
        let done = self.work.get().min(1);
        self.work.set(self.work.get() - done);
        Outcome::from_count(done)
    }

    fn poll_at(&self) -> Option<Instant> {
        self.deadline.map(Instant::from_nanos)
    }
}

const NOW: Instant = Instant::from_nanos(9);

fn turns(poll: &impl Poll, count: usize, log: &RefCell<Vec<usize>>) -> Vec<Vec<usize>> {
    (0..count)
        .map(|_| {
            assert_eq!(poll.turn(NOW, Budget::MIN), Outcome::Idle);
            log.take()
        })
        .collect()
}

#[test]
fn tuples_and_slices_visit_all_and_are_busy_where_one_is() {
    let log = RefCell::default();
    let source = |name| Source::new(name, &log);
    let tuple = (source(0), source(1), source(2));
    let array = [source(0), source(1), source(2)];
    assert_eq!(turns(&tuple, 2, &log), [[0, 1, 2], [0, 1, 2]]);
    assert_eq!(turns(&array, 1, &log), [[0, 1, 2]]);
    assert_eq!(turns(&&tuple, 1, &log), [[0, 1, 2]]);
    for (in_tuple, in_array) in
        [(&tuple.0, &array[0]), (&tuple.1, &array[1]), (&tuple.2, &array[2])]
    {
        in_tuple.work.set(1);
        in_array.work.set(1);
        assert_eq!(tuple.turn(NOW, Budget::MIN), Outcome::Busy);
        assert_eq!(array.turn(NOW, Budget::MIN), Outcome::Busy);
    }
    log.take();
    assert_eq!(turns(&tuple, 1, &log).len(), 1);
}

#[test]
fn the_soonest_deadline_counts() {
    let log = RefCell::default();
    let deadlines = [None, Some(5), Some(3), None];
    let sources = deadlines.map(|deadline| Source { deadline, ..Source::new(0, &log) });
    assert_eq!(sources.poll_at(), Some(Instant::from_nanos(3)));
    let [a, b, c, d] = &sources;
    assert_eq!((a, b, c, d).poll_at(), Some(Instant::from_nanos(3)));
    assert_eq!((a, d).poll_at(), None);
    assert_eq!(Rotation::new((a, b)).poll_at(), Some(Instant::from_nanos(5)));
}

#[test]
fn a_rotation_lets_each_be_first_in_turn() {
    let log = RefCell::default();
    let source = |name| Source::new(name, &log);
    let rotation = Rotation::new((source(0), source(1), source(2)));
    let round = [[0, 1, 2], [1, 2, 0], [2, 0, 1]];
    assert_eq!(turns(&rotation, 6, &log), [round, round].concat());
    assert_eq!(rotation.round_turns(), 1);
    rotation.sources().1.work.set(1);
    assert_eq!(rotation.turn(NOW, Budget::MIN), Outcome::Busy);
}

/// For all small numbers of sources and of visits: none is left out for longer than a round, none is visited twice
/// in one turn.
#[test]
fn a_bounded_rotation_visits_each_within_a_round() {
    for count in 0..7 {
        for per_turn in 0..9 {
            let log = RefCell::default();
            let sources: Vec<_> = (0..count).map(|name| Source::new(name, &log)).collect();
            let rotation = Rotation::at_most(sources.as_slice(), per_turn);
            let round = usize::try_from(rotation.round_turns()).unwrap();
            let visits = turns(&rotation, 50, &log);
            for turn in &visits {
                assert_eq!(turn.len(), per_turn.max(1).min(count));
                assert!(turn.iter().all(|name| turn.iter().filter(|n| *n == name).count() == 1));
            }
            for window in visits.windows(round) {
                let seen = window.concat();
                assert!((0..count).all(|name| seen.contains(&name)), "{count} {per_turn}");
            }
            let shares =
                (0..count).map(|name| visits.iter().flatten().filter(|n| **n == name).count());
            let shares: Vec<_> = shares.collect();
            let (most, least) = (shares.iter().max(), shares.iter().min());
            assert!(most.copied().unwrap_or(0) - least.copied().unwrap_or(0) <= 1, "{shares:?}");
        }
    }
}

#[test]
fn outcomes_join_to_busy() {
    use Outcome::{Busy, Idle};
    assert_eq!([Idle | Idle, Idle | Busy, Busy | Idle, Busy | Busy], [Idle, Busy, Busy, Busy]);
    let mut outcome = Outcome::from_count(0);
    outcome |= Outcome::from_count(3);
    assert!(outcome.is_busy());
}
