//! The stats page: what a reader sees of it, and when it is written.

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
    page.iter().flat_map(|line| line.words().iter().map(|w| w.load(Ordering::Relaxed))).collect()
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
    page.iter()
        .for_each(|line| line.words().iter().for_each(|w| w.store(u64::MAX, Ordering::Relaxed)));
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
    for ((_, text), field) in
        refused.iter().zip(["busy", "writer_pid", "counter_count", "counters_offset", "plane_name"])
    {
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
