//! The poll loop's parts against naive oracles: turns, the idle ladder, histograms, the stats page, the trace ring.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::large_stack_arrays,
    reason = "a test stops at the first thing that is not as expected"
)]

mod ladder {
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
        assert!(
            rests(&ladder, &recorder, 100_000).iter().all(|rest| *rest == Rest::On(Rung::Spin))
        );
        assert_eq!(*recorder.0.borrow(), []);
    }

    #[test]
    fn each_rung_begins_where_its_threshold_says() {
        let thresholds =
            Thresholds { pause_after: 2, wait_after: 4, yield_after: 6, park_after: 8 };
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
            assert!(
                rests(&ladder, &recorder, 50).iter().all(|rest| *rest == Rest::On(Rung::Yield))
            );
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
}

mod turn {
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
                    assert!(
                        turn.iter().all(|name| turn.iter().filter(|n| *n == name).count() == 1)
                    );
                }
                for window in visits.windows(round) {
                    let seen = window.concat();
                    assert!((0..count).all(|name| seen.contains(&name)), "{count} {per_turn}");
                }
                let shares =
                    (0..count).map(|name| visits.iter().flatten().filter(|n| **n == name).count());
                let shares: Vec<_> = shares.collect();
                let (most, least) = (shares.iter().max(), shares.iter().min());
                assert!(
                    most.copied().unwrap_or(0) - least.copied().unwrap_or(0) <= 1,
                    "{shares:?}"
                );
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
}

mod histogram {
    use core::cell::Cell;

    use proptest::prelude::*;
    use spinwire_dataplane::poll::{Histogram, HistogramSnapshot};

    /// The upper end of the bucket of a value, said in another way: the five leading bits count.
    const fn rounded_up(value: u64) -> u64 {
        let dropped = (64 - value.leading_zeros()).saturating_sub(5);
        value | ((1 << dropped) - 1)
    }

    fn snapshot_of(values: &[u64]) -> Box<HistogramSnapshot> {
        let mut storage = vec![Cell::new(9); Histogram::BUCKETS];
        let histogram = Histogram::new(&mut storage);
        let mut snapshot = Box::new(HistogramSnapshot::EMPTY);
        for value in values {
            histogram.record(*value);
        }
        histogram.copy_to(&mut snapshot);
        assert_eq!(histogram.count(), snapshot.count);
        snapshot
    }

    fn value() -> impl Strategy<Value = u64> {
        (0..40u32, any::<u64>()).prop_map(|(bits, noise)| (1 << bits) | (noise & ((1 << bits) - 1)))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn quantiles_are_those_of_the_sorted_values(
            mut values in prop::collection::vec(value(), 1..200),
            parts in prop_oneof![0..=1_000_000u32, Just(500_000), Just(999_000), any::<u32>()],
        ) {
            let snapshot = snapshot_of(&values);
            values.sort_unstable();
            let parts_in_all = u64::from(parts.min(1_000_000));
            let count = u64::try_from(values.len()).unwrap();
            let rank = (count * parts_in_all).div_ceil(1_000_000).max(1);
            let exact = values[usize::try_from(rank - 1).unwrap()];
            let max = *values.last().unwrap();
            prop_assert_eq!(snapshot.value_at(parts), Some(rounded_up(exact).min(max)));
            let sum: u64 = values.iter().sum();
            prop_assert_eq!((snapshot.count, snapshot.sum), (count, sum));
            prop_assert_eq!((snapshot.min, snapshot.max), (values[0], max));
            prop_assert_eq!((snapshot.mean(), snapshot.overflow), (Some(sum / count), 0));
        }
    }

    #[test]
    fn nothing_recorded_is_no_value() {
        let snapshot = snapshot_of(&[]);
        assert_eq!((snapshot.mean(), snapshot.value_at(500_000)), (None, None));
        assert_eq!(*snapshot, HistogramSnapshot::EMPTY);
    }

    #[test]
    fn what_is_too_great_is_counted_and_its_maximum_kept() {
        let snapshot = snapshot_of(&[1, (1 << 40) - 1, 1 << 40, u64::MAX]);
        assert_eq!((snapshot.overflow, snapshot.max), (2, u64::MAX));
        assert_eq!(snapshot.value_at(1_000_000), Some(u64::MAX));
        assert_eq!(snapshot.value_at(0), Some(1));
        assert_eq!(snapshot.sum, (2 << 40) - 1, "modulo 2^64");
    }

    #[test]
    fn the_difference_of_two_copies_is_what_came_between() {
        let mut both = snapshot_of(&[5, 5, 1000, 70]);
        let earlier = snapshot_of(&[5, 1000]);
        both.subtract(&earlier);
        let between = snapshot_of(&[5, 70]);
        assert_eq!((both.count, both.sum, both.buckets), (2, 75, between.buckets));
        let mut copy = Box::new(HistogramSnapshot::EMPTY);
        copy.copy_from(&both);
        assert_eq!(copy, both);
    }
}

mod seqlock {
    use spinwire_dataplane::poll::{ReadError, Section};
    use spinwire_dataplane::raw::line::Line;
    use spinwire_dataplane::sync::Ordering;

    #[test]
    fn a_copy_is_taken_only_if_nothing_was_written_meanwhile() {
        let lines = [Line::zeroed(), Line::zeroed()];
        let section = Section::new(&lines).unwrap();
        section.write(|words| words.set(9, 70));
        let mut copied = 0;
        assert_eq!(section.read(1, |words| copied = words.get(9)), Ok(()));
        assert_eq!(copied, 70);
        // Another writing begins and ends within the copy.
        let mut attempts = 0;
        let torn = section.read(5, |words| {
            attempts += 1;
            section.write(|other| other.set(9, attempts));
            copied = words.get(9);
        });
        assert_eq!((torn, attempts), (Err(ReadError::Torn), 5));
        // It succeeds as soon as one attempt is left alone.
        let mut attempts = 0;
        let read = section.read(5, |words| {
            attempts += 1;
            if attempts < 3 {
                section.write(|other| other.set(9, attempts + 100));
            }
            copied = words.get(9);
        });
        assert_eq!((read, attempts, copied), (Ok(()), 3, 102));
    }

    #[test]
    fn an_open_section_is_busy_and_its_writers_successor_closes_it() {
        let lines = [Line::zeroed()];
        let section = Section::new(&lines).unwrap();
        let inside = section.write(|words| {
            words.set(1, 5);
            let mut untouched = true;
            let read = section.read(3, |_| untouched = false);
            assert!(untouched, "nothing is copied out of an open section");
            read
        });
        assert_eq!(inside, Err(ReadError::Busy));
        // A writer that died in the middle.
        lines[0].words()[0].store(7, Ordering::Relaxed);
        assert_eq!(section.read(3, |_| ()), Err(ReadError::Busy));
        let mut last = 0;
        assert!(!section.read_unsettled(|words| last = words.get(1)));
        assert_eq!(last, 5);
        section.write(|words| words.set(1, 6));
        assert_eq!(section.read(1, |words| last = words.get(1)), Ok(()));
        assert_eq!((last, lines[0].words()[0].load(Ordering::Relaxed)), (6, 8));
        assert!(section.read_unsettled(|_| ()));
        assert_eq!(section.read(0, |_| ()), Err(ReadError::Busy));
    }

    #[test]
    fn words_outside_are_zero_and_cannot_be_written() {
        let lines = [Line::zeroed(), Line::zeroed()];
        let section = Section::new(&lines[..1]).unwrap();
        section.write(|words| {
            words.set(8, 1);
            words.set(usize::MAX, 1);
        });
        assert_eq!(lines[1].words()[0].load(Ordering::Relaxed), 0);
        section.read(1, |words| assert_eq!(words.get(8) + words.get(usize::MAX), 0)).unwrap();
        assert!(Section::new(&[]).is_none());
    }

    /// Two threads: every copy is of one writing.
    #[test]
    fn no_copy_mixes_two_writings() {
        let lines: Vec<_> = (0..4).map(|_| Line::zeroed()).collect();
        let section = Section::new(&lines).unwrap();
        const WRITINGS: u64 = 20_000;
        let (mut good, mut refused) = (0u64, 0u64);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for round in 1..=WRITINGS {
                    section.write(|words| (1..32).for_each(|index| words.set(index, round)));
                }
            });
            loop {
                let last = writer.is_finished();
                let mut copy = [0; 32];
                match section.read(10, |words| {
                    copy.iter_mut().enumerate().for_each(|(index, word)| *word = words.get(index));
                }) {
                    Ok(()) => {
                        good += 1;
                        assert!(copy[1..].iter().all(|word| *word == copy[1]), "{copy:?}");
                        assert_eq!(copy[0], 2 * copy[1]);
                        if last {
                            assert_eq!(copy[1], WRITINGS);
                            break;
                        }
                    }
                    Err(_) => refused += 1,
                }
            }
        });
        assert!(good > 0, "{refused} refused");
    }
}

mod stats {
    use core::mem::MaybeUninit;

    use spinwire_dataplane::id::Name;
    use spinwire_dataplane::poll::{
        Counter, HistogramId, HistogramSnapshot, PlaneIdentity, ReadError, Stats, StatsError,
        StatsReader, StatsWriter,
    };
    use spinwire_dataplane::raw::line::{Line, word};
    use spinwire_dataplane::raw::place::Bump;
    use spinwire_dataplane::sync::Ordering;
    use spinwire_dataplane::time::{Instant, Nanos};
    use spinwire_layouts::shm::stats::STATS_PAGE_BYTES;

    fn page() -> Vec<Line> {
        (0..STATS_PAGE_BYTES / 64).map(|_| Line::zeroed()).collect()
    }

    fn words(page: &[Line]) -> Vec<u64> {
        page.iter()
            .flat_map(|line| line.words().iter().map(|w| w.load(Ordering::Relaxed)))
            .collect()
    }

    fn identity() -> PlaneIdentity {
        PlaneIdentity {
            name: Name::new("quotes").unwrap(),
            pid: 4711,
            start_time: 123_456,
            created_unix_ns: 1 << 60,
            tsc_hz: 2_500_000_000,
            cpu: Some(0),
        }
    }

    fn with_stats(use_it: impl FnOnce(&Stats<'_>)) {
        let mut block = vec![MaybeUninit::uninit(); 64 << 10];
        let bump = Bump::new(&mut block);
        use_it(&Stats::place(&bump).unwrap());
    }

    const fn at(ns: u64) -> Instant {
        Instant::from_nanos(ns)
    }

    fn read(reader: &StatsReader<'_>, id: HistogramId) -> Box<HistogramSnapshot> {
        let mut snapshot = Box::new(HistogramSnapshot::EMPTY);
        reader.histogram(id, &mut snapshot).unwrap();
        snapshot
    }

    #[test]
    fn a_reader_sees_what_the_plane_counted() {
        let page = page();
        // Whatever was there before is gone.
        page.iter().for_each(|line| {
            line.words().iter().for_each(|w| w.store(u64::MAX, Ordering::Relaxed))
        });
        with_stats(|stats| {
            let writer = StatsWriter::new(&page, &identity(), Nanos::new(100)).unwrap();
            let reader = StatsReader::new(&page).unwrap();
            let plane = reader.plane().unwrap();
            assert_eq!((plane.plane, plane.updated), (identity(), Instant::ORIGIN));
            for (factor, &counter) in (1..).zip(Counter::ALL) {
                assert_eq!(plane.get(counter), 0);
                stats.counters().add(counter, factor * 1000);
            }
            for (factor, &id) in (1..).zip(HistogramId::ALL) {
                assert_eq!(*read(&reader, id), HistogramSnapshot::EMPTY);
                (0..500).for_each(|value| stats.record(id, value * value * factor));
            }
            writer.flush(stats, at(77));
            let plane = reader.plane().unwrap();
            assert_eq!(plane.updated, at(77));
            for (factor, &counter) in (1..).zip(Counter::ALL) {
                let own = u64::from(counter == Counter::StatsPublished);
                assert_eq!(plane.get(counter), factor * 1000 + own, "{counter}");
            }
            for &id in HistogramId::ALL {
                let mut own = Box::new(HistogramSnapshot::EMPTY);
                stats.histogram(id).unwrap().copy_to(&mut own);
                assert_eq!(read(&reader, id), own, "{id}");
            }
        });
    }

    #[test]
    fn a_turn_writes_one_section_and_only_when_it_is_time() {
        let page = page();
        with_stats(|stats| {
            let writer = StatsWriter::new(&page, &identity(), Nanos::new(100)).unwrap();
            let reader = StatsReader::new(&page).unwrap();
            let round = |now: u64| {
                // How many words each turn changed, until one changes none.
                let mut changed = Vec::new();
                loop {
                    let before = words(&page);
                    writer.publish(stats, at(now));
                    let after = words(&page);
                    let count = before.iter().zip(&after).filter(|(old, new)| old != new).count();
                    if count == 0 {
                        return changed;
                    }
                    changed.push(count);
                    assert!(changed.len() < 20, "a round has an end");
                }
            };
            for value in [9, 1 << 20, 3] {
                stats.record(HistogramId::RoundTrip, value);
            }
            stats.record(HistogramId::UserB, 7);
            // Sequence, time and one counter; then sequence, totals and buckets of the two that changed.
            assert_eq!(round(1000), [3, 1 + 4 + 3, 1 + 4 + 1]);
            assert_eq!(reader.plane().unwrap().updated, at(1000));
            assert_eq!(read(&reader, HistogramId::RoundTrip).count, 3);
            stats.record(HistogramId::RoundTrip, 4);
            assert_eq!(round(1099), [], "not yet");
            assert_eq!(read(&reader, HistogramId::RoundTrip).count, 3);
            assert_eq!(round(1100), [3, 1 + 2 + 1]);
            assert_eq!(read(&reader, HistogramId::RoundTrip).buckets[4], 1);
            assert_eq!(round(1300), [3], "counters always, unchanged histograms never");
        });
    }

    #[test]
    fn a_histogram_that_always_changes_keeps_no_other_from_the_page() {
        let page = page();
        with_stats(|stats| {
            let writer = StatsWriter::new(&page, &identity(), Nanos::new(50)).unwrap();
            let reader = StatsReader::new(&page).unwrap();
            stats.record(HistogramId::UserB, 1);
            for now in 0..20 {
                stats.record(HistogramId::TurnBusy, now);
                stats.record(HistogramId::SendCompletion, now);
                writer.publish(stats, at(1000 + now));
            }
            assert_eq!(read(&reader, HistogramId::UserB).count, 1);
            let before = reader.plane().unwrap().get(Counter::StatsPublished);
            for now in 0..200 {
                stats.record(HistogramId::TurnBusy, now);
                writer.publish(stats, at(1100 + now));
            }
            let rounds = reader.plane().unwrap().get(Counter::StatsPublished) - before;
            assert!((3..=4).contains(&rounds), "{rounds} rounds in 200 ns of 50 ns each");
        });
    }

    #[test]
    fn a_page_that_is_none_is_refused_by_the_name_of_the_field() {
        let short = &page()[1..];
        let bytes = STATS_PAGE_BYTES - 64;
        assert_eq!(StatsReader::new(short).err(), Some(StatsError::TooSmall { bytes }));
        let too_small = StatsWriter::new(short, &identity(), Nanos::ZERO).err();
        assert_eq!(too_small, Some(StatsError::TooSmall { bytes }));

        let page = page();
        let reader = StatsReader::new(&page).unwrap().with_attempts(3);
        assert!(matches!(reader.plane(), Err(StatsError::Foreign { found: 0, .. })), "all zero");
        StatsWriter::new(&page, &identity(), Nanos::ZERO).unwrap();
        // Scribble over each word of the header in turn: an answer or an error, never a panic.
        let mut refused = Vec::new();
        for index in 0..96 {
            let cell = word(&page, index).unwrap();
            let good = cell.swap(u64::MAX, Ordering::Relaxed);
            if let Err(error) = reader.plane() {
                refused.push((index, error.to_string()));
            }
            cell.store(good, Ordering::Relaxed);
        }
        let indices: Vec<_> = refused.iter().map(|(index, _)| *index).collect();
        assert_eq!(indices, [0, 1, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16], "{refused:?}");
        for ((_, text), field) in refused.iter().zip([
            "busy",
            "writer_pid",
            "counter_count",
            "counters_offset",
            "plane_name",
        ]) {
            assert!(text.contains(field), "{text}");
        }
        let mut snapshot = Box::new(HistogramSnapshot::EMPTY);
        for index in 0..8 {
            let cell = word(&page, HistogramId::UserA.offset() / 8 + index).unwrap();
            let good = cell.swap(u64::MAX, Ordering::Relaxed);
            let read = reader.histogram(HistogramId::UserA, &mut snapshot);
            assert_eq!(read.is_err(), [0, 1, 6].contains(&index), "{index}: {read:?}");
            let _ = (snapshot.mean(), snapshot.value_at(990_000));
            cell.store(good, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_last_words_of_a_dead_plane_can_be_read() {
        let page = page();
        with_stats(|stats| {
            let writer = StatsWriter::new(&page, &identity(), Nanos::ZERO).unwrap();
            stats.counters().add(Counter::PeersGone, 3);
            stats.record(HistogramId::TurnBusy, 50);
            writer.flush(stats, at(5));
            // It died while it wrote.
            for offset in [0, HistogramId::TurnBusy.offset() / 8] {
                word(&page, offset).unwrap().fetch_or(1, Ordering::Relaxed);
            }
            let reader = StatsReader::new(&page).unwrap().with_attempts(2);
            assert_eq!(reader.plane().err(), Some(StatsError::Read(ReadError::Busy)));
            let (plane, whole) = reader.plane_unsettled().unwrap();
            assert_eq!((plane.get(Counter::PeersGone), whole), (3, false));
            let mut snapshot = Box::new(HistogramSnapshot::EMPTY);
            let whole = reader.histogram_unsettled(HistogramId::TurnBusy, &mut snapshot);
            assert_eq!((whole, snapshot.count), (Ok(false), 1));
            let whole = reader.histogram_unsettled(HistogramId::UserA, &mut snapshot);
            assert_eq!(whole, Ok(true));
        });
    }
}

mod trace {
    use core::cell::Cell;

    use spinwire_dataplane::poll::{TraceEvent, TraceRing};
    use spinwire_dataplane::time::Instant;

    #[test]
    fn the_newest_events_are_kept_and_come_newest_first() {
        for capacity in 0..5 {
            let mut storage = vec![Cell::new(TraceEvent::NONE); capacity];
            let trace = TraceRing::new(&mut storage);
            let mut all = Vec::new();
            for number in 0..12u16 {
                let kept: Vec<_> = all.iter().rev().take(capacity).copied().collect();
                for count in 0..7 {
                    let newest: Vec<_> = trace.newest(count).collect();
                    let count = usize::try_from(count).unwrap().min(kept.len());
                    assert_eq!(newest, kept[..count]);
                }
                assert_eq!(trace.recorded(), u64::from(number));
                let event = TraceEvent {
                    at: Instant::from_nanos(number.into()),
                    id: number,
                    a: u64::from(number) << 40,
                    b: !0,
                };
                trace.record(event.at, event.id, event.a, event.b);
                all.push(event);
            }
        }
    }
}
