//! Pools: buffers that processes share, created, opened, watched and removed.
//!
//! ```text
//!   BufferPool::create / open / open_or_create      one a process: maps, checks, takes back from the dead, starts the watcher
//!      |
//!   pool.handle(&bump)  -->  PoolHandle             one a thread: acquire, get, adopt, .. of the data plane's `Pool`
//!      |
//!   drop of a handle: gives its slot back; drop of the pool: unmaps; the name stays until `unlink`
//! ```
//!
//! A process that dies loses its guards: the watcher of every process that has the pool open takes them back. What it detached
//! stays, or goes with it: [`Orphans`](spinwire_layouts::shm::Orphans).
//!
//! Large buffers (of classes made by [`PoolGeometry::large_class`]) have segments of their own, `NAME.STAMP.SLOT`, which are
//! made when they are first used, mapped once a process, and removed with the pool.
//!
//! # Example
//!
//! ```
//! use spinwire_dataplane::pool::PoolError;
//! use spinwire_hostshim::plane::Plane;
//! use spinwire_hostshim::pool::{BufferPool, PoolConfig};
//!
//! # fn main() -> Result<(), Box<dyn core::error::Error>> {
//! # let name = format!("doc-pool-{}", std::process::id());
//! let pool = BufferPool::open_or_create(&name, &PoolConfig::default())?;
//! let mut memory = Plane::memory(pool.handle_bytes())?; // private, for the tables of one handle
//! let bump = Plane::arena(&mut memory);
//! let handle = pool.handle(&bump)?; // one a thread
//! let mut frame = handle.acquire(5)?; // a guard: nobody else has this buffer
//! frame.copy_from(0, b"hello")?;
//! let id = frame.detach().map_err(PoolError::from)?; // 64 bits, to be told to anybody
//!
//! let frame = handle.adopt(id)?; // in another process, say
//! let mut text = [0; 5];
//! frame.copy_to(0, &mut text)?;
//! assert_eq!(&text, b"hello");
//! drop(frame); // the last reference: the buffer is free
//! pool.unlink()?;
//! # Ok(())
//! # }
//! ```

mod host;
mod mend;

use core::fmt;
use core::ops::Deref;
use core::time::Duration;
use std::sync::Arc;

use spinwire_dataplane::error::Retry;
use spinwire_dataplane::pool::{
    ClassStats, ExclusiveGuard, Pool, PoolError, PoolGeometry, PoolSegment, PoolShape, Reclaimed,
};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::payload::PlainAccess;
use spinwire_dataplane::raw::place::{Bump, Exhausted};
use spinwire_dataplane::shm::{GeometryError, copy_header};
use spinwire_dataplane::time::Instant;

use self::host::Futexes;
pub use self::host::{LargeError, PoolFiles, large_prefix};
pub use self::mend::{detacher, free_detached_in, reclaim_in};
use crate::liveness;
use crate::mem::{
    Lasting, MapError, PagePolicy, PageReport, Problem, SegmentDir, SegmentName, SharedMapping,
};
use crate::membership::{self, MayBeMap, MemberError, Shape, Watcher};
use crate::raw::syscall::clock_ns;
use crate::raw::view;

/// How a pool is made and watched.
#[derive(Clone, Copy, Debug)]
pub struct PoolConfig {
    /// Which buffers, for how many handles, where the pool is made anew.
    pub geometry: PoolGeometry,
    /// Which pages: of the pool where it is made anew, and of its large buffers that this process makes. None that end with
    /// their maker: huge pages of the kernel's pool are had on a hugetlbfs only, not in a memfd.
    pub pages: PagePolicy,
    /// Within which time the death of a process is noticed.
    pub death_noticed_within: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            geometry: PoolGeometry::default(),
            pages: PagePolicy::Best,
            death_noticed_within: Duration::from_millis(100),
        }
    }
}

/// Why a pool could not be made, opened, or given a handle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PoolOpenError {
    /// The segment.
    Segment(MemberError),
    /// The arena has no room for a handle: see [`BufferPool::handle_bytes`].
    Arena(Exhausted),
    /// A large buffer, by [`BufferPool::map_large`].
    Large(LargeError),
    /// The name is too long for a pool whose large buffers have names of their own, which begin with that of the pool.
    LongName {
        /// Its bytes.
        bytes: usize,
        /// As many are allowed.
        most: usize,
    },
}

impl fmt::Display for PoolOpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(e) => e.fmt(f),
            Self::Arena(e) => e.fmt(f),
            Self::Large(e) => e.fmt(f),
            Self::LongName { bytes, most } => write!(
                f,
                "the pool's name has {bytes} bytes; remedy: use at most {most}, as large buffers have names that begin with it"
            ),
        }
    }
}

impl core::error::Error for PoolOpenError {}

impl PoolOpenError {
    /// The same, with a field of the [`PoolGeometry`] called as the person calls it who gave the number: `names` has pairs of ours
    /// and theirs.
    #[must_use]
    pub fn renamed(self, names: &[(&str, &'static str)]) -> Self {
        let Self::Segment(MemberError::Geometry(error)) = self else { return self };
        let theirs = names.iter().find(|(ours, _)| *ours == error.field);
        let field = theirs.map_or(error.field, |(_, theirs)| theirs);
        Self::Segment(MemberError::Geometry(GeometryError { field, ..error }))
    }
}

impl MayBeMap for PoolOpenError {
    fn problem(&self) -> Option<Problem> {
        match self {
            Self::Segment(e) | Self::Large(LargeError::Segment { why: e, .. }) => e.problem(),
            Self::Large(_) | Self::Arena(_) | Self::LongName { .. } => None,
        }
    }
}

impl<E: Into<MemberError>> From<E> for PoolOpenError {
    fn from(value: E) -> Self {
        Self::Segment(value.into())
    }
}

/// A pool that this process has open. Share it between threads by reference; each takes a [`handle`](Self::handle) of its own.
///
/// It is this process's: in the child of a fork(2), pool and handles may be dropped, which changes nothing for the parent, and
/// guards must be forgotten ([`core::mem::forget`]); whoever wants to use the pool there opens it anew.
#[derive(Debug)]
pub struct BufferPool {
    mapping: Arc<SharedMapping>,
    shape: PoolShape,
    me: liveness::Identity,
    files: PoolFiles,
    access: Option<PlainAccess>,
    watcher: Option<Watcher>,
}

impl BufferPool {
    /// Makes a new pool and opens it.
    ///
    /// # Errors
    /// [`PoolOpenError`]; `Map` with [`Problem::Exists`] where the name is taken.
    pub fn create(name: &str, config: &PoolConfig) -> Result<Self, PoolOpenError> {
        Self::make(name, config)
    }

    /// As [`create`](Self::create), with `buffers` buffers of `buffer_bytes` bytes and nothing else.
    ///
    /// # Errors
    /// As there.
    pub fn create_with_capacity(
        name: &str,
        buffer_bytes: u64,
        buffers: u32,
    ) -> Result<Self, PoolOpenError> {
        let processes = PoolGeometry::default().process_count();
        let geometry = PoolGeometry::new(processes).class(buffer_bytes, buffers);
        Self::create(name, &PoolConfig { geometry, ..PoolConfig::default() })
    }

    /// Opens a pool that is there.
    ///
    /// # Errors
    /// [`PoolOpenError`]; `Map` with [`Problem::Missing`] where there is none.
    pub fn open(name: &str, config: &PoolConfig) -> Result<Self, PoolOpenError> {
        SegmentName::new(name).map_err(MapError::from)?;
        Self::enter(Arc::new(SharedMapping::open(name)?), config)
    }

    /// Opens the pool of that name, or makes it where there is none.
    ///
    /// # Errors
    /// [`PoolOpenError`].
    pub fn open_or_create(name: &str, config: &PoolConfig) -> Result<Self, PoolOpenError> {
        membership::open_or_create(|| Self::open(name, config), || Self::create(name, config))
    }

    fn make(name: &str, config: &PoolConfig) -> Result<Self, PoolOpenError> {
        let bytes = config.geometry.segment_bytes()?;
        host::check_name(name, &config.geometry)?;
        // In a memfd it would end with its maker for all who come later, and what is detached in it with it.
        let pages = (config.pages, Lasting::WithName);
        let mapping = membership::make(name, bytes, pages, |lines, identity| {
            PoolSegment::format(lines, &config.geometry, identity).map(drop)
        })?;
        let mapping = Arc::new(mapping);
        Self::enter(Arc::clone(&mapping), config).inspect_err(|_| {
            if let Ok(segment) = PoolSegment::attach(view::shared_lines(&mapping)) {
                membership::give_up(&segment, &mapping);
            }
        })
    }

    #[expect(
        clippy::large_stack_frames,
        reason = "set-up, once: the geometry is copied from hand to hand"
    )]
    fn enter(mapping: Arc<SharedMapping>, config: &PoolConfig) -> Result<Self, PoolOpenError> {
        let lines = view::shared_lines(&mapping);
        let broken = |why| membership::broken(&mapping, why);
        let segment = PoolSegment::attach(lines).map_err(broken)?;
        let header = copy_header(lines).map_err(broken)?;
        let (me, _maker) = membership::introduce(&mapping)?;
        let files = PoolFiles::new(&mapping, &segment, &header, config.pages);
        membership::take_back::<PoolShape>(&segment, me.boot_id);
        // From then on the watcher does it; who takes a buffer at once is to know the time as well.
        segment.tick(membership::unix_ns());
        let shape = segment.shape();
        let watcher = Watcher::start(Arc::clone(&mapping), shape, me, config.death_noticed_within)?;
        Ok(Self { mapping, shape, me, files, access: None, watcher: Some(watcher) })
    }

    /// The pool with plain slices of its buffers allowed, in handles that are taken from now on.
    #[must_use]
    pub const fn with_plain_access(mut self, access: PlainAccess) -> Self {
        self.access = Some(access);
        self
    }

    /// A handle for one thread, its tables placed in `bump`. It holds one of the pool's process slots until it is dropped.
    ///
    /// # Errors
    /// `Full` where live handles hold all slots, `Arena` where `bump` has no [`handle_bytes`](Self::handle_bytes) left.
    pub fn handle<'m>(&'m self, bump: &Bump<'m>) -> Result<PoolHandle<'m>, PoolOpenError> {
        let segment = self.segment();
        let lease = match membership::join(&segment, &self.me) {
            // The watcher may not have seen yet who died.
            Err(MemberError::Full { .. }) if self.take_back() > 0 => {
                membership::join(&segment, &self.me)
            }
            other => other,
        }?;
        match Pool::open(&segment, lease, bump, &self.files) {
            Ok(pool) => Ok(PoolHandle { owner: self, pool }),
            Err(e) => {
                membership::leave::<PoolShape>(&segment, &lease);
                Err(PoolOpenError::Arena(e))
            }
        }
    }

    /// Bytes that a handle takes in an arena.
    #[must_use]
    pub fn handle_bytes(&self) -> usize {
        self.segment().handle_bytes()
    }

    /// The pool as the data plane sees it, as it was when this process opened it: its headers are not read again.
    ///
    /// # Panics
    /// Never: that this mapping holds a pool of this shape was checked when it was opened, and neither changes.
    #[must_use]
    pub fn segment(&self) -> PoolSegment<'_> {
        #[expect(
            clippy::expect_used,
            reason = "a mapping does not shrink, and no foreign byte is read"
        )]
        let segment = self.shape.see(view::shared_lines(&self.mapping)).expect("a known length");
        match self.access {
            Some(access) => segment.with_plain_access(access),
            None => segment,
        }
    }

    /// What the pool needs of the host: for those who open handles on leases of their own.
    #[must_use]
    pub const fn host(&self) -> &PoolFiles {
        &self.files
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.mapping.name()
    }

    /// Which pages it got, and why not better ones.
    #[must_use]
    pub fn pages(&self) -> &PageReport {
        self.mapping.report()
    }

    /// The mapping of the pool without its large buffers.
    #[must_use]
    pub fn mapping(&self) -> &SharedMapping {
        &self.mapping
    }

    /// The buffers of each class, counted: a walk over all of them.
    #[must_use]
    pub fn stats(&self) -> Vec<ClassStats> {
        self.segment().stats().collect()
    }

    /// Takes back what dead processes held, without waiting for the watcher to see it.
    #[allow(clippy::must_use_candidate, reason = "the figures are for those who want to tell")]
    pub fn reclaim(&self) -> Reclaimed {
        mend::reclaim_dead(&self.segment(), self.me.boot_id)
    }

    fn take_back(&self) -> usize {
        membership::take_back::<PoolShape>(&self.segment(), self.me.boot_id)
    }

    /// Makes and maps every large buffer now, so that none has to be after `seal()`.
    ///
    /// # Errors
    /// `Large` with what the first that could not be had lacks.
    pub fn map_large(&self) -> Result<(), PoolOpenError> {
        self.files.map_all(&self.segment()).map_err(PoolOpenError::Large)
    }

    /// The large buffers that this process has mapped: the slot, and which pages it got, and why not better ones.
    pub fn large_pages(&self) -> impl Iterator<Item = (u32, &PageReport)> {
        self.files.mapped()
    }

    /// What stands behind a [`NotMapped`](PoolError::NotMapped) with that slot, with the remedy; `None` where another thread has
    /// had one of another slot since.
    #[must_use]
    pub fn why_not_mapped(&self, slot: u32) -> Option<LargeError> {
        self.files.refused().filter(|refused| refused.slot() == slot)
    }

    /// The instant in `span` from now, for [`acquire_until`](Pool::acquire_until).
    #[must_use]
    pub fn deadline(span: Duration) -> Instant {
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Instant::from_nanos(clock_ns(libc::CLOCK_MONOTONIC).saturating_add(span))
    }

    /// Removes the name, and the large buffers with it. Who has the pool open keeps what it has mapped; nobody can open it any
    /// more, and nobody can map a large buffer that it has not mapped before ([`map_large`](Self::map_large) does).
    ///
    /// # Errors
    /// [`MapError`].
    pub fn unlink(&self) -> Result<(), MapError> {
        self.mapping.unlink()?;
        unlink_large(self.mapping.directory(), &self.files.prefix()).map(|_how_many| ())
    }
}

impl Drop for BufferPool {
    fn drop(&mut self) {
        if let Some(watcher) = self.watcher.take() {
            watcher.stop();
        }
    }
}

impl Shape for PoolShape {
    type Seen<'s> = PoolSegment<'s>;

    fn see<'s>(&self, lines: &'s [Line]) -> Option<PoolSegment<'s>> {
        PoolSegment::reattach(lines, self).ok()
    }

    fn reclaim(segment: &PoolSegment<'_>, slot: u16) -> bool {
        segment.reclaim(slot, &Futexes).is_some_and(|done| done.leases > 0)
    }

    fn tick(segment: &PoolSegment<'_>, unix_ns: u64) {
        segment.tick(unix_ns);
    }
}

/// Removes the large buffers of a pool, by the beginning of their names: see [`large_prefix`]. Returns how many.
///
/// # Errors
/// [`MapError`] of the first that does not go.
pub fn unlink_large(directory: &SegmentDir, prefix: &str) -> Result<u32, MapError> {
    let mut removed = 0_u32;
    for listed in directory.list()?.iter().filter(|listed| host::is_large_of(&listed.name, prefix))
    {
        match directory.unlink(&listed.name) {
            Ok(()) => removed = removed.saturating_add(1),
            Err(e) if e.problem() == Some(Problem::Missing) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(removed)
}

/// A handle on a pool, for one thread: a [`Pool`] of the data plane, whose calls it has, and a process slot that goes with it.
#[derive(Debug)]
pub struct PoolHandle<'m> {
    owner: &'m BufferPool,
    pool: Pool<'m, PoolFiles>,
}

impl<'m> Deref for PoolHandle<'m> {
    type Target = Pool<'m, PoolFiles>;

    fn deref(&self) -> &Self::Target {
        &self.pool
    }
}

impl PoolHandle<'_> {
    /// As [`acquire`](Pool::acquire), but sleeps until a buffer comes free, for `span` at most.
    ///
    /// Not for a thread that turns planes. [`acquire_until`](Pool::acquire_until) takes an instant, or waits for ever.
    ///
    /// # Errors
    /// As [`acquire`](Pool::acquire); `Retry(PoolFull)` where the time is over.
    pub fn acquire_timeout(
        &self,
        size: usize,
        span: Duration,
    ) -> Result<ExclusiveGuard<'_, PoolFiles>, PoolError> {
        match self.pool.acquire(size) {
            Err(PoolError::Retry(Retry::PoolFull)) if !span.is_zero() => {
                self.pool.acquire_until(size, Some(BufferPool::deadline(span)))
            }
            done => done,
        }
    }
}

impl Drop for PoolHandle<'_> {
    fn drop(&mut self) {
        // Guards borrow the handle, so there are none; what was leaked is taken back.
        membership::leave::<PoolShape>(&self.owner.segment(), self.pool.lease());
    }
}
