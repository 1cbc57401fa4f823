//! The stats page: a plane's counters and histograms, for readers outside, who disturb nobody.
//!
//! ```text
//!   plane (private cells)                page (shared lines)                    reader (another process)
//!   Counters     --- section 0 --->  | header, counters     | 12 lines  ---> PlaneSnapshot
//!   Histogram 0  --- section 1 --->  | totals, 592 buckets  | 75 lines  ---> HistogramSnapshot
//!   ..                               | ..                   |
//!   paths        --- a row each ---> | path 0 .. 63         | 1 line    ---> PathStats
//! ```
//!
//! The layout is in [`spinwire_layouts::shm::stats`]. Every so often the writer starts a round: one section a turn,
//! histograms only where something was recorded, of their buckets only the range that changed. So a turn pays one
//! comparison as a rule, in a round some lines, 75 at the worst. A section is written within one call, so that it is
//! never left half written while the thread rests.

use core::mem::offset_of;

use spinwire_layouts::shm::stats::{
    BUCKET_COUNT, COUNTERS_OFFSET, Counter, HISTOGRAM_BYTES, HISTOGRAM_SLOT_COUNT,
    HISTOGRAMS_OFFSET, HistogramHeader, HistogramId, PATH_SLOT_COUNT, PATHS_OFFSET, PathRow,
    STATS_PAGE_BYTES, SUB_BUCKET_BITS, StatsHeader,
};
use spinwire_layouts::word::join;

mod path;
mod reader;
mod writer;

pub use path::{PathHealth, PathStats};
pub use reader::{PlaneSnapshot, StatsReader};
pub use writer::StatsWriter;

use super::seqlock::{ReadError, Section};
use super::{Counters, Histogram};
use crate::id::{Name, NameError};
use crate::raw::line::{LINE_BYTES, Line};
use crate::raw::place::{Bump, Exhausted};
use crate::table::{count, wide};

const WORD_BYTES: usize = 8;

/// Word numbers within the header section.
mod header {
    use super::{COUNTERS_OFFSET, StatsHeader, WORD_BYTES, offset_of};

    pub(super) const PID: usize = offset_of!(StatsHeader, writer_pid) / WORD_BYTES;
    pub(super) const START_TIME: usize = offset_of!(StatsHeader, writer_start_time) / WORD_BYTES;
    pub(super) const CREATED: usize = offset_of!(StatsHeader, created_unix_ns) / WORD_BYTES;
    pub(super) const UPDATED: usize = offset_of!(StatsHeader, updated_ns) / WORD_BYTES;
    pub(super) const TSC_HZ: usize = offset_of!(StatsHeader, tsc_hz) / WORD_BYTES;
    pub(super) const COUNTS: usize = offset_of!(StatsHeader, counter_count) / WORD_BYTES;
    pub(super) const OFFSETS: usize = offset_of!(StatsHeader, counters_offset) / WORD_BYTES;
    pub(super) const NAME: usize = offset_of!(StatsHeader, plane_name) / WORD_BYTES;
    pub(super) const SIZES: usize = offset_of!(StatsHeader, histogram_bytes) / WORD_BYTES;
    pub(super) const CPU: usize = offset_of!(StatsHeader, cpu_plus_one) / WORD_BYTES;
    pub(super) const PATH: usize = offset_of!(StatsHeader, path) / WORD_BYTES;
    pub(super) const COUNTERS: usize = COUNTERS_OFFSET / WORD_BYTES;
}

/// Word numbers within the section of a histogram.
mod bucket {
    use super::{
        BUCKET_COUNT, HistogramHeader, SUB_BUCKET_BITS, WORD_BYTES, count, join, offset_of,
    };

    pub(super) const IDENTITY: usize = offset_of!(HistogramHeader, id) / WORD_BYTES;
    pub(super) const COUNT: usize = offset_of!(HistogramHeader, count) / WORD_BYTES;
    pub(super) const SUM: usize = offset_of!(HistogramHeader, sum) / WORD_BYTES;
    pub(super) const MIN: usize = offset_of!(HistogramHeader, min) / WORD_BYTES;
    pub(super) const MAX: usize = offset_of!(HistogramHeader, max) / WORD_BYTES;
    pub(super) const GEOMETRY: usize = offset_of!(HistogramHeader, bucket_count) / WORD_BYTES;
    pub(super) const OVERFLOW: usize = offset_of!(HistogramHeader, overflow) / WORD_BYTES;
    pub(super) const FIRST: usize = size_of::<HistogramHeader>() / WORD_BYTES;

    /// What every histogram of this version says about itself.
    pub(super) const GEOMETRY_VALUE: u64 = join(count(BUCKET_COUNT), SUB_BUCKET_BITS);
}

/// What a page says about its geometry, as the words that hold two halves each: name of the field, word, value.
const GEOMETRY: [(&str, usize, u64); 3] = [
    (
        "counter_count, histogram_count",
        header::COUNTS,
        join(count(Counter::COUNT), count(HistogramId::COUNT)),
    ),
    (
        "counters_offset, histograms_offset",
        header::OFFSETS,
        join(count(COUNTERS_OFFSET), count(HISTOGRAMS_OFFSET)),
    ),
    (
        "histogram_bytes, page_bytes",
        header::SIZES,
        join(count(HISTOGRAM_BYTES), count(STATS_PAGE_BYTES)),
    ),
];

/// Everything that one plane counts.
#[derive(Debug)]
pub struct Stats<'m> {
    counters: Counters,
    histograms: [Histogram<'m>; HISTOGRAM_SLOT_COUNT],
}

impl<'m> Stats<'m> {
    /// Places the histograms: 38 KB.
    ///
    /// # Errors
    /// The arena has too little room left.
    pub fn place(bump: &Bump<'m>) -> Result<Self, Exhausted> {
        let place = || Histogram::place(bump);
        let histograms =
            [place()?, place()?, place()?, place()?, place()?, place()?, place()?, place()?];
        Ok(Self { counters: Counters::new(), histograms })
    }

    /// The counters.
    #[inline]
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Counts `value` in a histogram.
    #[inline]
    pub fn record(&self, id: HistogramId, value: u64) {
        if let Some(histogram) = self.histogram(id) {
            histogram.record(value);
        }
    }

    /// One of the histograms; every id has one.
    #[inline]
    #[must_use]
    pub fn histogram(&self, id: HistogramId) -> Option<&Histogram<'m>> {
        self.histograms.get(wide(id.code()))
    }
}

/// Who writes a stats page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaneIdentity {
    /// Name of the plane.
    pub name: Name,
    /// Process id.
    pub pid: u32,
    /// Start time of the process: field 22 of `/proc/PID/stat`, in clock ticks since boot.
    pub start_time: u64,
    /// When the plane was built: nanoseconds since 1970 UTC.
    pub created_unix_ns: u64,
    /// Ticks per second of the time-stamp counter; 0 where time comes from the kernel.
    pub tsc_hz: u64,
    /// The CPU that the plane is pinned to.
    pub cpu: Option<u32>,
}

/// Why a page cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatsError {
    /// The page is shorter than 64 KiB.
    TooSmall {
        /// Bytes it has.
        bytes: usize,
    },
    /// A field has another value than this version gives it.
    Foreign {
        /// Its name.
        field: &'static str,
        /// The word that it lies in, as found.
        found: u64,
        /// The word as this version writes it.
        expected: u64,
    },
    /// The name of the plane is none.
    BadName(NameError),
    /// The page could not be copied.
    Read(ReadError),
}

impl From<ReadError> for StatsError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl core::fmt::Display for StatsError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::TooSmall { bytes } => {
                write!(f, "stats page of {bytes} bytes: give it {STATS_PAGE_BYTES}")
            }
            Self::Foreign { field, found, expected } => write!(
                f,
                "stats page: {field} is {found:#x}, not {expected:#x}: read it with the version that wrote it"
            ),
            Self::BadName(error) => write!(f, "stats page: plane_name: {error}"),
            Self::Read(error) => write!(f, "stats page: {error}"),
        }
    }
}

impl core::error::Error for StatsError {}

/// The sections of a page: header and counters, then the histograms.
#[derive(Clone, Copy, Debug)]
struct Sections<'s> {
    page: &'s [Line],
}

impl<'s> Sections<'s> {
    const fn new(page: &'s [Line]) -> Result<Self, StatsError> {
        let bytes = page.len().saturating_mul(LINE_BYTES);
        if bytes < STATS_PAGE_BYTES {
            return Err(StatsError::TooSmall { bytes });
        }
        Ok(Self { page })
    }

    fn section(&self, offset: usize, bytes: usize) -> Option<Section<'s>> {
        let first = offset / LINE_BYTES;
        Section::new(self.page.get(first..first.checked_add(bytes / LINE_BYTES)?)?)
    }

    fn plane(&self) -> Option<Section<'s>> {
        self.section(0, HISTOGRAMS_OFFSET)
    }

    fn histogram(&self, id: HistogramId) -> Option<Section<'s>> {
        self.section(id.offset(), HISTOGRAM_BYTES)
    }

    fn path(&self, row: usize) -> Option<Section<'s>> {
        let offset = row.checked_mul(size_of::<PathRow>())?.checked_add(PATHS_OFFSET)?;
        if row < PATH_SLOT_COUNT { self.section(offset, size_of::<PathRow>()) } else { None }
    }
}
