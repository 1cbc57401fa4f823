//! Rows of the stats page about paths of virtual queue pairs: one line each, under a sequence of its own.

use core::mem::offset_of;

use spinwire_layouts::shm::stats::{PATH_SLOT_COUNT, PathRow};
use spinwire_layouts::word::{high, join, low};

pub use spinwire_layouts::shm::PathHealth;

use super::{StatsError, StatsReader, StatsWriter, WORD_BYTES};
use crate::poll::{SectionReader, SectionWriter};

const NAMES: usize = offset_of!(PathRow, vqp) / WORD_BYTES;
const PLACE: usize = offset_of!(PathRow, device) / WORD_BYTES;
const STATE: usize = offset_of!(PathRow, health) / WORD_BYTES;
const FRAGMENTS: usize = offset_of!(PathRow, fragments) / WORD_BYTES;
const BYTES: usize = offset_of!(PathRow, bytes) / WORD_BYTES;
const ERRORS: usize = offset_of!(PathRow, errors) / WORD_BYTES;
const STALE: usize = offset_of!(PathRow, stale) / WORD_BYTES;

/// What the stats page says of a path of a virtual queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathStats {
    /// Number of the virtual queue pair.
    pub vqp: u32,
    /// Number of the path in it.
    pub path: u32,
    /// Number of its device.
    pub device: u32,
    /// Number of its queue pair on that device.
    pub qp_num: u32,
    /// How it fares.
    pub health: PathHealth,
    /// Sends on their way.
    pub in_flight: u32,
    /// Work requests of the send queue that were completed without error.
    pub fragments: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Completions with errors.
    pub errors: u64,
    /// Completions that were nobody's.
    pub stale: u64,
}

impl PathStats {
    fn put(&self, words: &SectionWriter<'_>) {
        words.set(NAMES, join(self.vqp, self.path));
        words.set(PLACE, join(self.device, self.qp_num));
        words.set(STATE, join(self.health.code(), self.in_flight));
        words.set(FRAGMENTS, self.fragments);
        words.set(BYTES, self.bytes);
        words.set(ERRORS, self.errors);
        words.set(STALE, self.stale);
    }

    fn found(words: &SectionReader<'_>) -> Result<Option<Self>, StatsError> {
        let (names, place, state) = (words.get(NAMES), words.get(PLACE), words.get(STATE));
        let health = PathHealth::from_code(low(state)).ok_or(StatsError::Foreign {
            field: "health of a path",
            found: state,
            expected: join(PathHealth::None.code(), high(state)),
        })?;
        if health == PathHealth::None {
            return Ok(None);
        }
        Ok(Some(Self {
            vqp: low(names),
            path: high(names),
            device: low(place),
            qp_num: high(place),
            health,
            in_flight: high(state),
            fragments: words.get(FRAGMENTS),
            bytes: words.get(BYTES),
            errors: words.get(ERRORS),
            stale: words.get(STALE),
        }))
    }
}

impl StatsWriter<'_> {
    /// Writes row `row` of the paths, or clears it. What is beyond the last row is not shown.
    pub fn publish_path(&self, row: usize, path: Option<&PathStats>) {
        if let Some(section) = self.sections.path(row) {
            section.write(|words| match path {
                Some(path) => path.put(words),
                None => words.clear(),
            });
        }
    }
}

impl StatsReader<'_> {
    /// The rows of paths that are in use, by number. One that is being written just then is left out, as is one that
    /// says what this version does not know.
    pub fn paths(&self) -> impl Iterator<Item = PathStats> + '_ {
        (0..PATH_SLOT_COUNT).filter_map(|row| {
            let section = self.sections.path(row)?;
            let mut found = Ok(None);
            let settled = section.read(self.attempts, |words| found = PathStats::found(words));
            if settled.is_ok() { found.ok().flatten() } else { None }
        })
    }
}
