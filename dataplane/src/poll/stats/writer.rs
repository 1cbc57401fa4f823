//! The plane's side of the stats page.

use core::cell::Cell;

use spinwire_layouts::shm::stats::{Counter, HistogramId, PATH_SLOT_COUNT};
use spinwire_layouts::word::join;

use super::{GEOMETRY, PlaneIdentity, Sections, Stats, StatsError, WORD_BYTES, bucket, header};
use crate::id::Name;
use crate::poll::{Counters, Histogram, SectionWriter};
use crate::raw::line::Line;
use crate::time::{Instant, Nanos};

/// The one writer of a stats page.
#[derive(Debug)]
pub struct StatsWriter<'s> {
    pub(super) sections: Sections<'s>,
    interval: Nanos,
    due: Cell<Instant>,
    /// The section to write next: 0 the counters, then a histogram each.
    next: Cell<usize>,
}

impl<'s> StatsWriter<'s> {
    /// Takes over `page`, clears it and says who writes it. From then on it is brought up to date every `interval`.
    ///
    /// # Errors
    /// The page is too small.
    pub fn new(
        page: &'s [Line],
        plane: &PlaneIdentity,
        interval: Nanos,
    ) -> Result<Self, StatsError> {
        let sections = Sections::new(page)?;
        for id in HistogramId::ALL {
            if let Some(section) = sections.histogram(*id) {
                section.write(|words| {
                    words.clear();
                    words.set(bucket::IDENTITY, join(id.code(), id.unit().code()));
                    words.set(bucket::GEOMETRY, bucket::GEOMETRY_VALUE);
                });
            }
        }
        for row in 0..PATH_SLOT_COUNT {
            if let Some(section) = sections.path(row) {
                section.write(SectionWriter::clear);
            }
        }
        if let Some(section) = sections.plane() {
            section.write(|words| introduce(words, plane));
        }
        Ok(Self { sections, interval, due: Cell::new(Instant::ORIGIN), next: Cell::new(0) })
    }

    /// Says by what the plane's messages go, as provider and type: `tcp.rdm`. What was said before is no more.
    pub fn show_path(&self, path: &Name) {
        if let Some(section) = self.sections.plane() {
            section.write(|words| set_name(words, header::PATH, path));
        }
    }

    /// Writes the next section where a round is due. Once a turn; it is not work that should keep a plane from
    /// resting.
    #[inline]
    pub fn publish(&self, stats: &Stats<'_>, now: Instant) {
        if now >= self.due.get() {
            self.publish_section(stats, now);
        }
    }

    /// How long it is from one round to the next.
    #[must_use]
    pub const fn interval(&self) -> Nanos {
        self.interval
    }

    /// Writes everything that changed, at once: before a long rest, and at the end.
    pub fn flush(&self, stats: &Stats<'_>, now: Instant) {
        self.next.set(0);
        for _ in 0..=HistogramId::COUNT {
            self.publish_section(stats, now);
            if self.next.get() == 0 {
                break;
            }
        }
    }

    #[cold]
    fn publish_section(&self, stats: &Stats<'_>, now: Instant) {
        let next = self.next.get();
        if next == 0 {
            self.publish_counters(stats.counters(), now);
        }
        // The first histogram from here on that has news; the round ends where there is none.
        let changed = (next.saturating_sub(1)..HistogramId::COUNT).find_map(|index| {
            let id = *HistogramId::ALL.get(index)?;
            let histogram = stats.histogram(id).filter(|histogram| histogram.has_changed());
            histogram.map(|histogram| (index, id, histogram))
        });
        match changed {
            Some(_) if next == 0 => self.next.set(1),
            Some((index, id, histogram)) => {
                self.publish_histogram(id, histogram);
                self.next.set(index.wrapping_add(2));
            }
            None => {
                self.next.set(0);
                self.due.set(now.saturating_add(self.interval));
            }
        }
    }

    fn publish_counters(&self, counters: &Counters, now: Instant) {
        counters.increment(Counter::StatsPublished);
        let Some(section) = self.sections.plane() else {
            return;
        };
        section.write(|words| {
            words.set(header::UPDATED, now.as_nanos());
            for (counter, value) in counters.iter() {
                words.set(header::COUNTERS.wrapping_add(counter.index()), value);
            }
        });
    }

    fn publish_histogram(&self, id: HistogramId, histogram: &Histogram<'_>) {
        let Some(section) = self.sections.histogram(id) else {
            return;
        };
        section.write(|words| {
            let totals = histogram.totals();
            let places = [bucket::COUNT, bucket::SUM, bucket::MIN, bucket::MAX, bucket::OVERFLOW];
            for (place, value) in places.into_iter().zip(totals) {
                words.set(place, value);
            }
            for (index, value) in histogram.take_changed() {
                words.set(bucket::FIRST.wrapping_add(index), value);
            }
        });
    }
}

/// Clears the header section and writes what stays the same for the life of the plane.
fn introduce(words: &SectionWriter<'_>, plane: &PlaneIdentity) {
    words.clear();
    words.set(header::PID, u64::from(plane.pid));
    words.set(header::START_TIME, plane.start_time);
    words.set(header::CREATED, plane.created_unix_ns);
    words.set(header::TSC_HZ, plane.tsc_hz);
    words.set(header::CPU, plane.cpu.map_or(0, |cpu| u64::from(cpu).wrapping_add(1)));
    set_name(words, header::NAME, &plane.name);
    for (_, word, value) in GEOMETRY {
        words.set(word, value);
    }
}

fn set_name(words: &SectionWriter<'_>, first: usize, name: &Name) {
    let (chunks, _) = name.as_field().as_chunks::<WORD_BYTES>();
    for (index, chunk) in chunks.iter().enumerate() {
        words.set(first.wrapping_add(index), u64::from_le_bytes(*chunk));
    }
}
