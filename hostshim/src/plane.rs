//! A plane: what a pinned thread needs beside its endpoints. Private memory for its tables, a clock, a stats page that others
//! can read, and the seal.
//!
//! ```text
//!   let mut memory = Plane::memory(64 << 20)?;             hugepages where there are any
//!   let bump = Plane::arena(&mut memory);                  tables are placed here
//!   let plane = Plane::open("quotes", &bump, ..)?;         clock, stats page
//!   ...                                                    domains, ports, endpoints, pools
//!   let seal = plane.seal();                               from here on: no allocation, no lock, no syscall
//!   loop { let now = plane.now(); ..turn(now, budget)..; plane.publish(now); }
//! ```

use core::fmt;

use spinwire_dataplane::id::{Name, NameError};
use spinwire_dataplane::msg::Totals;
use spinwire_dataplane::poll::{Counter, PlaneIdentity, Stats, StatsError, StatsWriter};
use spinwire_dataplane::provider::Info;
use spinwire_dataplane::raw::place::{Bump, Exhausted};
use spinwire_dataplane::shm::JoinError;
use spinwire_dataplane::shm::segment::{STATS_SEGMENT_BYTES, attach_stats, format_stats};
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_layouts::abi::{ABI_VERSION, MAGIC};
use spinwire_layouts::shm::SegmentKind;

use crate::alloc_gate::{OnUse, Sealed, seal};
use crate::clock::TscClock;
use crate::error::OsError;
use crate::idle::Parks;
use crate::mem::{MapError, Mapping, PageKind, PagePolicy, Problem, SharedMapping};
use crate::membership::identity;
use crate::raw::view;

/// Why a plane could not be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PlaneError {
    /// The name is none.
    Name(NameError),
    /// Memory for the stats page could not be had.
    Map(MapError),
    /// The stats page could not be made.
    Stats(StatsError),
    /// It is no stats page, or one of another version.
    Join(JoinError),
    /// The arena is too small.
    Arena(Exhausted),
    /// The kernel said no.
    Os(OsError),
}

impl fmt::Display for PlaneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(e) => e.fmt(f),
            Self::Map(e) => e.fmt(f),
            Self::Stats(e) => e.fmt(f),
            Self::Join(e) => e.fmt(f),
            Self::Arena(e) => e.fmt(f),
            Self::Os(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for PlaneError {}

impl From<JoinError> for PlaneError {
    fn from(value: JoinError) -> Self {
        Self::Join(value)
    }
}
impl From<MapError> for PlaneError {
    fn from(value: MapError) -> Self {
        Self::Map(value)
    }
}
impl From<OsError> for PlaneError {
    fn from(value: OsError) -> Self {
        Self::Os(value)
    }
}

/// How a plane is opened.
#[derive(Clone, Copy, Debug)]
pub struct PlaneConfig {
    /// The CPU that its thread is (about to be) pinned to, for those who look.
    pub cpu: Option<u32>,
    /// How often the stats page is brought up to date.
    pub stats_every: Nanos,
}

impl Default for PlaneConfig {
    /// Not pinned; the page is brought up to date every 10 ms.
    fn default() -> Self {
        Self { cpu: None, stats_every: Nanos::from_millis(10) }
    }
}

/// The stats page of a plane as shared memory, removed on drop.
#[derive(Debug)]
pub struct StatsPage {
    mapping: SharedMapping,
}

impl StatsPage {
    /// Reserves the stats page of the plane `name`: the segment `name.stats`. A page that a dead plane of that name left
    /// behind is replaced.
    ///
    /// # Errors
    /// [`PlaneError`].
    pub fn create(name: &Name) -> Result<Self, PlaneError> {
        let file = stats_name(name)?;
        match Self::create_file(&file) {
            Err(PlaneError::Map(e)) if e.problem() == Some(Problem::Exists) => {
                remove_if_dead(&file)?;
                Self::create_file(&file)
            }
            other => other,
        }
    }

    /// The page has its header before it has its name, so that nobody ever finds it without.
    fn create_file(file: &Name) -> Result<Self, PlaneError> {
        let policy = PagePolicy::Only(PageKind::Base4K);
        let staged = SharedMapping::stage(file.as_str(), STATS_SEGMENT_BYTES, policy)?;
        let identity = identity(*file, staged.page())?;
        format_stats(view::staged_lines(&staged), &identity, |_page| Ok::<(), PlaneError>(()))?;
        Ok(Self { mapping: staged.publish()? })
    }
}

impl Drop for StatsPage {
    fn drop(&mut self) {
        // Gone already where somebody removed it, which is as well.
        let _removed = self.mapping.unlink();
    }
}

/// The name of the segment that holds the stats page of a plane.
fn stats_name(plane: &Name) -> Result<Name, PlaneError> {
    Name::new(&format!("{plane}.stats")).map_err(PlaneError::Name)
}

/// Removes the page of a dead plane, and nothing else: what is no stats page, or one of another version, may be in use by
/// somebody whom its header does not tell.
fn remove_if_dead(file: &Name) -> Result<(), PlaneError> {
    let mapping = SharedMapping::open(file.as_str())?;
    let Ok(header) = spinwire_dataplane::shm::copy_header(view::shared_lines(&mapping)) else {
        return Ok(());
    };
    let is_page = header.magic == MAGIC
        && header.abi_version == ABI_VERSION
        && header.kind == SegmentKind::Stats.code();
    let creator = crate::liveness::Identity {
        pid: u32::try_from(header.creator_pid).unwrap_or(0),
        start_time: header.creator_start_time,
        boot_id: header.boot_id,
    };
    if is_page && !crate::liveness::is_alive(&creator) {
        mapping.unlink()?;
    }
    Ok(())
}

/// What a pinned thread needs beside its endpoints.
#[derive(Debug)]
pub struct Plane<'p, 'm> {
    clock: TscClock,
    stats: Stats<'m>,
    writer: StatsWriter<'p>,
}

impl Plane<'_, '_> {
    /// Private memory for tables and buffers: hugepages where there are any; the mapping says which it got.
    ///
    /// # Errors
    /// [`MapError`].
    pub fn memory(bytes: usize) -> Result<Mapping, MapError> {
        Mapping::anonymous(bytes, PagePolicy::Best)
    }

    /// The memory as an arena.
    #[must_use]
    pub fn arena(memory: &mut Mapping) -> Bump<'_> {
        Bump::new(view::block(memory))
    }
}

impl<'p, 'm> Plane<'p, 'm> {
    /// Opens the plane `name`: calibrates the clock, makes the stats page, places the counters in `bump`.
    ///
    /// # Errors
    /// [`PlaneError`].
    #[expect(
        clippy::large_stack_frames,
        reason = "set-up, once: the counters are built on the stack and moved to where they stay"
    )]
    pub fn open(
        name: &Name,
        page: &'p StatsPage,
        bump: &Bump<'m>,
        config: &PlaneConfig,
    ) -> Result<Self, PlaneError> {
        let clock = TscClock::calibrate();
        let identity = identity(stats_name(name)?, page.mapping.page())?;
        let plane = PlaneIdentity {
            name: *name,
            pid: identity.pid,
            start_time: identity.start_time,
            created_unix_ns: identity.created_unix_ns,
            tsc_hz: clock.ticks_per_second(),
            cpu: config.cpu,
        };
        let lines = stats_page(&page.mapping)?;
        let writer =
            StatsWriter::new(lines, &plane, config.stats_every).map_err(PlaneError::Stats)?;
        Ok(Self { clock, stats: Stats::place(bump).map_err(PlaneError::Arena)?, writer })
    }

    /// The clock.
    #[must_use]
    pub const fn clock(&self) -> &TscClock {
        &self.clock
    }

    /// Now, once a turn.
    #[must_use]
    #[inline]
    pub fn now(&self) -> Instant {
        Instant::from_nanos(self.clock.now_ns())
    }

    /// What this plane counts.
    #[must_use]
    pub const fn stats(&self) -> &Stats<'m> {
        &self.stats
    }

    /// Takes over what an endpoint has counted, for the stats page. With several endpoints: their sum.
    pub fn count(&self, totals: &[Totals]) {
        let sum = |field: fn(&Totals) -> u64| totals.iter().map(field).fold(0, u64::wrapping_add);
        let counters = self.stats.counters();
        counters.set(Counter::MessagesSent, sum(|t| t.messages_sent));
        counters.set(Counter::BytesSent, sum(|t| t.bytes_sent));
        counters.set(Counter::MessagesReceived, sum(|t| t.messages_received));
        counters.set(Counter::BytesReceived, sum(|t| t.bytes_received));
        counters.set(Counter::BatchesPublished, sum(|t| t.batches_published));
        counters.set(Counter::StaleIds, sum(|t| t.stale_ids));
        counters.set(Counter::TurnsBusy, sum(|t| t.turns_busy));
        counters.set(Counter::TurnsIdle, sum(|t| t.turns_idle));
    }

    /// Takes over how the thread has rested in the kernel, and how many peers its endpoints have woken, for the stats page.
    pub fn count_parks(&self, parks: &Parks, bells_rung: u64) {
        let counters = self.stats.counters();
        counters.set(Counter::RestsPark, parks.parks);
        counters.set(Counter::ParksRung, parks.rung);
        counters.set(Counter::ParksSpurious, parks.spurious);
        counters.set(Counter::BellsRung, bells_rung);
    }

    /// Says on the stats page by what this plane's messages go: provider and type of the endpoint that `info` is of. At set-up, or when
    /// another path was taken; never in a turn.
    pub fn goes_by(&self, info: &Info) {
        // A provider whose name is no word cannot be shown.
        if let Ok(path) = Name::new(&format!("{}.{}", info.provider, info.endpoint_type)) {
            self.writer.show_path(&path);
        }
    }

    /// Brings the stats page up to date where that is due: a bounded piece of it a turn.
    #[inline]
    pub fn publish(&self, now: Instant) {
        self.writer.publish(&self.stats, now);
    }

    /// The writer of the stats page, for what shows figures of its own there
    /// ([`VirtualCq::publish`](spinwire_dataplane::vqp::VirtualCq::publish)).
    #[must_use]
    pub const fn page(&self) -> &StatsWriter<'p> {
        &self.writer
    }

    /// Set-up is over: from here on this thread allocates nothing. Where the program's allocator is the
    /// [`CountingAlloc`](crate::alloc_gate::CountingAlloc), an allocation while the seal lives aborts the process.
    pub fn seal(&self) -> Sealed {
        seal(OnUse::Abort)
    }
}

/// The stats page in a mapped segment.
///
/// # Errors
/// [`PlaneError`] where it is none.
pub fn stats_page(
    mapping: &SharedMapping,
) -> Result<&[spinwire_dataplane::raw::line::Line], PlaneError> {
    Ok(attach_stats(view::shared_lines(mapping))?)
}
