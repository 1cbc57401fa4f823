//! The reader's side of the stats page: what is found there is checked before it is believed.

use spinwire_layouts::shm::name::NAME_BYTES;
use spinwire_layouts::shm::stats::{COUNTER_SLOT_COUNT, Counter, HISTOGRAMS_OFFSET, HistogramId};
use spinwire_layouts::word::{high, join, low, widen};

use super::{GEOMETRY, PlaneIdentity, Sections, StatsError, WORD_BYTES, bucket, header};
use crate::id::Name;
use crate::poll::{HistogramSnapshot, SectionReader};
use crate::raw::line::Line;
use crate::time::Instant;

/// A copy of the header and the counters of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaneSnapshot {
    /// Who wrote it.
    pub plane: PlaneIdentity,
    /// By what its messages go, as provider and type of endpoint (`tcp.rdm`), where it says so.
    pub path: Option<Name>,
    /// The plane's time when it last wrote; its origin is the plane's own.
    pub updated: Instant,
    counters: [u64; COUNTER_SLOT_COUNT],
}

impl PlaneSnapshot {
    /// What was counted.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.counters.get(counter.index()).copied().unwrap_or(0)
    }
}

/// Reads the stats page of another plane. What it finds there is checked before it is believed.
#[derive(Clone, Copy, Debug)]
pub struct StatsReader<'s> {
    pub(super) sections: Sections<'s>,
    pub(super) attempts: u32,
}

impl<'s> StatsReader<'s> {
    /// Attempts of a read before it gives up: a writing takes well below a microsecond, so that this many meet one that
    /// is settled unless the writer does not run.
    pub const ATTEMPTS: u32 = 1000;

    /// A reader of `page`.
    ///
    /// # Errors
    /// The page is too small.
    pub fn new(page: &'s [Line]) -> Result<Self, StatsError> {
        Ok(Self { sections: Sections::new(page)?, attempts: Self::ATTEMPTS })
    }

    /// This reader with another bound on its attempts.
    #[must_use]
    pub const fn with_attempts(self, attempts: u32) -> Self {
        Self { attempts, ..self }
    }

    /// Who writes the page, and the counters.
    ///
    /// # Errors
    /// The page was not settled, or is not one that this version can read.
    pub fn plane(&self) -> Result<PlaneSnapshot, StatsError> {
        let mut copy = [0; HISTOGRAMS_OFFSET / WORD_BYTES];
        let section = self.sections.plane().ok_or(TOO_SMALL)?;
        section.read(self.attempts, |words| fill(&mut copy, words))?;
        parse_plane(&copy)
    }

    /// As [`plane`](StatsReader::plane), of a writer that is known to be dead: the second value says whether the
    /// copy is whole.
    ///
    /// # Errors
    /// The page is not one that this version can read.
    pub fn plane_unsettled(&self) -> Result<(PlaneSnapshot, bool), StatsError> {
        let mut copy = [0; HISTOGRAMS_OFFSET / WORD_BYTES];
        let section = self.sections.plane().ok_or(TOO_SMALL)?;
        let whole = section.read_unsettled(|words| fill(&mut copy, words));
        Ok((parse_plane(&copy)?, whole))
    }

    /// Copies a histogram into `snapshot`.
    ///
    /// # Errors
    /// The histogram was not settled, or is not one that this version can read; `snapshot` is to be thrown away.
    pub fn histogram(
        &self,
        id: HistogramId,
        snapshot: &mut HistogramSnapshot,
    ) -> Result<(), StatsError> {
        let section = self.sections.histogram(id).ok_or(TOO_SMALL)?;
        let mut checked = Ok(());
        section.read(self.attempts, |words| checked = copy_histogram(id, words, snapshot))?;
        checked
    }

    /// As [`histogram`](StatsReader::histogram), of a writer that is known to be dead; says whether the copy is
    /// whole.
    ///
    /// # Errors
    /// The histogram is not one that this version can read.
    pub fn histogram_unsettled(
        &self,
        id: HistogramId,
        snapshot: &mut HistogramSnapshot,
    ) -> Result<bool, StatsError> {
        let section = self.sections.histogram(id).ok_or(TOO_SMALL)?;
        let mut checked = Ok(());
        let whole = section.read_unsettled(|words| checked = copy_histogram(id, words, snapshot));
        checked.map(|()| whole)
    }
}

/// A section that is not there; `Sections::new` has seen to it that all are.
const TOO_SMALL: StatsError = StatsError::TooSmall { bytes: 0 };

fn fill(copy: &mut [u64], words: &SectionReader<'_>) {
    for (index, word) in copy.iter_mut().enumerate() {
        *word = words.get(index);
    }
}

fn parse_plane(copy: &[u64]) -> Result<PlaneSnapshot, StatsError> {
    let word = |index: usize| copy.get(index).copied().unwrap_or(0);
    for (field, index, expected) in GEOMETRY {
        let found = word(index);
        if found != expected {
            return Err(StatsError::Foreign { field, found, expected });
        }
    }
    let field_at = |first: usize| {
        let mut field = [0; NAME_BYTES];
        for (index, chunk) in field.as_chunks_mut::<WORD_BYTES>().0.iter_mut().enumerate() {
            *chunk = word(first.wrapping_add(index)).to_le_bytes();
        }
        field
    };
    let pid = word(header::PID);
    if high(pid) != 0 {
        return Err(StatsError::Foreign {
            field: "writer_pid",
            found: pid,
            expected: widen(low(pid)),
        });
    }
    let plane = PlaneIdentity {
        name: Name::from_field(&field_at(header::NAME)).map_err(StatsError::BadName)?,
        pid: low(pid),
        start_time: word(header::START_TIME),
        created_unix_ns: word(header::CREATED),
        tsc_hz: word(header::TSC_HZ),
        cpu: word(header::CPU).checked_sub(1).and_then(|cpu| u32::try_from(cpu).ok()),
    };
    let mut counters = [0; COUNTER_SLOT_COUNT];
    for (index, value) in counters.iter_mut().enumerate() {
        *value = word(header::COUNTERS.wrapping_add(index));
    }
    // Nobody needs it to read the rest: what is no name is none.
    let path = Name::from_field(&field_at(header::PATH)).ok();
    let updated = Instant::from_nanos(word(header::UPDATED));
    Ok(PlaneSnapshot { plane, path, updated, counters })
}

fn copy_histogram(
    id: HistogramId,
    words: &SectionReader<'_>,
    snapshot: &mut HistogramSnapshot,
) -> Result<(), StatsError> {
    let geometry = [
        ("histogram id, unit", bucket::IDENTITY, join(id.code(), id.unit().code())),
        ("bucket_count, sub_bucket_bits", bucket::GEOMETRY, bucket::GEOMETRY_VALUE),
    ];
    for (field, index, expected) in geometry {
        let found = words.get(index);
        if found != expected {
            return Err(StatsError::Foreign { field, found, expected });
        }
    }
    snapshot.count = words.get(bucket::COUNT);
    snapshot.sum = words.get(bucket::SUM);
    let nothing = snapshot.count == 0;
    snapshot.min = if nothing { u64::MAX } else { words.get(bucket::MIN) };
    snapshot.max = words.get(bucket::MAX);
    snapshot.overflow = words.get(bucket::OVERFLOW);
    for (index, value) in snapshot.buckets.iter_mut().enumerate() {
        *value = words.get(bucket::FIRST.wrapping_add(index));
    }
    Ok(())
}
