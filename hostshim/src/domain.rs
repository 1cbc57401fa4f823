//! Domains: segments that processes meet in, opened, joined, watched and left.
//!
//! ```text
//!   Domain::create / join / create_or_join
//!      |  maps the segment, checks it, takes back what dead processes left, takes a process slot
//!      |  starts the watcher: a thread that sleeps until a process of the segment dies
//!      v
//!   domain.open_port(..)  -->  ShmPort, a provider of the data plane
//!      |
//!   drop: gives the slot back; the name stays until `unlink`
//! ```
//!
//! What a segment has of the dead is taken back by the watcher of [`membership`], which also raises the epoch
//! that every plane loads once a turn, and wakes the planes that sleep.

use core::fmt;
use core::time::Duration;
use std::sync::Arc;

use spinwire_dataplane::id::{Name, NameError};
use spinwire_dataplane::msg::{Endpoint, EndpointConfig};
use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::provider::shm::{ShmConfig, ShmOpenError, ShmPort};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::shm::lease::{self, ProcessRow};
use spinwire_dataplane::shm::reclaim::reclaim;
use spinwire_dataplane::shm::{Geometry, ProcessLease, Segment, SegmentShape, Waker};

use crate::discover::{Found, Hints, Transport};
use crate::liveness::{Identity, Life};
use crate::mem::{Lasting, MapError, PagePolicy, SharedMapping};
use crate::membership::{self, Shape, Watcher};
pub use crate::membership::{MemberError as DomainError, row_is_dead};
use crate::raw::{futex, syscall, view};

/// How this process wakes those who sleep in a segment.
const BELLS: Waker = Waker::new(futex::wake);

/// How a domain is made and watched.
#[derive(Clone, Copy, Debug)]
pub struct DomainConfig {
    /// How much of everything, where the domain is made anew.
    pub geometry: Geometry,
    /// Which pages, where it is made anew.
    pub pages: PagePolicy,
    /// Within which time the death of a process is noticed.
    pub death_noticed_within: Duration,
}

impl Default for DomainConfig {
    fn default() -> Self {
        Self {
            geometry: Geometry::default(),
            pages: PagePolicy::Best,
            death_noticed_within: Duration::from_millis(100),
        }
    }
}

/// Why an endpoint could not be opened in a domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndpointError {
    /// The name is none.
    Name(NameError),
    /// The segment or the arena did not take it.
    Open(ShmOpenError),
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(e) => e.fmt(f),
            Self::Open(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for EndpointError {}

/// What shared memory has to offer.
pub(crate) fn found(hints: &Hints) -> Vec<Found> {
    if let Err(why) = hints.segments.is_of_use() {
        return vec![Found::absent(Transport::Shm, None, why.into())];
    }
    let longest = hints.sizes.domain().geometry.message_bytes_max();
    let config = hints.sizes.shm();
    [EndpointType::Rdm, EndpointType::Msg]
        .map(|kind| Found::ready(Transport::Shm, None, config.info(kind, longest)))
        .to_vec()
}

/// The segment of a domain, which stays mapped for a thread that may outlive the [`Domain`].
#[derive(Debug)]
pub(crate) struct KeptSegment {
    mapping: Arc<SharedMapping>,
    shape: SegmentShape,
}

impl KeptSegment {
    /// Does something with the segment. `None` for a mapping that is shorter than it was, which none becomes.
    pub(crate) fn with<R>(&self, act: impl FnOnce(&Segment<'_>) -> R) -> Option<R> {
        self.shape.see(view::shared_lines(&self.mapping)).as_ref().map(act)
    }
}

/// A segment that this process is in.
#[derive(Debug)]
pub struct Domain {
    mapping: Arc<SharedMapping>,
    shape: SegmentShape,
    lease: ProcessLease,
    /// As the header had it at the join.
    maker: Identity,
    watcher: Option<Watcher>,
}

impl Domain {
    /// Makes a new domain and joins it.
    ///
    /// # Errors
    /// [`DomainError`]; `Map` with [`Problem::Exists`](crate::mem::Problem::Exists) where the name is taken.
    pub fn create(name: &str, config: &DomainConfig) -> Result<Self, DomainError> {
        let bytes = config.geometry.segment_bytes()?;
        let mapping = membership::make(
            name,
            bytes,
            (config.pages, Lasting::WithMaker),
            |lines, identity| Segment::format(lines, config.geometry, identity).map(drop),
        )?;
        let mapping = Arc::new(mapping);
        Self::enter(Arc::clone(&mapping), config).inspect_err(|_| {
            if let Ok(segment) = Segment::attach(view::shared_lines(&mapping)) {
                membership::give_up(&segment, &mapping);
            }
        })
    }

    /// Joins a domain that is there.
    ///
    /// # Errors
    /// [`DomainError`]; `Map` with [`Problem::Missing`](crate::mem::Problem::Missing) where there is none.
    pub fn join(name: &str, config: &DomainConfig) -> Result<Self, DomainError> {
        Name::new(name)?;
        Self::enter(Arc::new(SharedMapping::open(name)?), config)
    }

    /// Joins the domain of that name, or makes it where there is none.
    ///
    /// # Errors
    /// [`DomainError`].
    pub fn create_or_join(name: &str, config: &DomainConfig) -> Result<Self, DomainError> {
        membership::open_or_create(|| Self::join(name, config), || Self::create(name, config))
    }

    fn enter(mapping: Arc<SharedMapping>, config: &DomainConfig) -> Result<Self, DomainError> {
        let segment = Segment::attach(view::shared_lines(&mapping));
        let segment = segment.map_err(|why| membership::broken(&mapping, why))?;
        let (me, maker) = membership::introduce(&mapping)?;
        take_back_from_the_dead(&segment, me.boot_id);
        let lease = mapping.while_named(|| membership::join(&segment, &me))??;
        // A kernel without costs those who sleep time: they see that this process has not vowed.
        if syscall::register_for_barriers().is_ok() {
            lease::vow_to_ring(&segment, &lease);
        }
        let shape = segment.shape();
        let watcher = Watcher::start(Arc::clone(&mapping), shape, me, config.death_noticed_within)
            .inspect_err(|_| membership::leave::<SegmentShape>(&segment, &lease))?;
        Ok(Self { mapping, shape, lease, maker, watcher: Some(watcher) })
    }

    /// The segment, as it was when this process joined: its header is not read again, whatever a peer made of it since.
    ///
    /// # Panics
    /// Never: that this mapping holds a segment of this shape was checked at the join, and neither changes.
    #[must_use]
    pub fn segment(&self) -> Segment<'_> {
        #[expect(
            clippy::expect_used,
            reason = "a mapping does not shrink, and no foreign byte is read"
        )]
        Segment::reattach(view::shared_lines(&self.mapping), &self.shape)
            .expect("the mapping is as long as it was at the join")
            .with_waker(BELLS)
    }

    /// Its segment, for another thread.
    pub(crate) fn kept_segment(&self) -> KeptSegment {
        KeptSegment { mapping: Arc::clone(&self.mapping), shape: self.shape }
    }

    /// This process's slot.
    #[must_use]
    pub const fn lease(&self) -> ProcessLease {
        self.lease
    }

    /// The mapping: which pages it got, and why not better ones.
    #[must_use]
    pub fn mapping(&self) -> &SharedMapping {
        &self.mapping
    }

    /// Opens an endpoint in this domain, its tables placed in `bump`.
    ///
    /// # Errors
    /// [`ShmOpenError`].
    pub fn open_port<'s, 'm>(
        &'s self,
        bump: &Bump<'m>,
        (name, endpoint_type): (&Name, EndpointType),
        config: &ShmConfig,
    ) -> Result<ShmPort<'s, 'm>, ShmOpenError> {
        ShmPort::open(self.segment(), self.lease, bump, (name, endpoint_type), config)
    }

    /// Opens an endpoint of that type under `name`, everything with its default capacity, its tables placed in `bump`.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub fn open_endpoint<'s, 'm>(
        &'s self,
        bump: &Bump<'m>,
        name: &str,
        endpoint_type: EndpointType,
    ) -> Result<Endpoint<'m, ShmPort<'s, 'm>>, EndpointError> {
        let name = Name::new(name).map_err(EndpointError::Name)?;
        let port = self
            .open_port(bump, (&name, endpoint_type), &ShmConfig::default())
            .map_err(EndpointError::Open)?;
        Endpoint::new(port, bump, &EndpointConfig::default())
            .map_err(|e| EndpointError::Open(ShmOpenError::Arena(e)))
    }

    /// Removes the name. Those who are in stay in; nobody can join any more.
    ///
    /// # Errors
    /// [`MapError`].
    pub fn unlink(&self) -> Result<(), MapError> {
        self.mapping.unlink().map(|_was_there| ())
    }

    /// Removes the name of a segment that is left to nobody: its maker is dead, and so is everybody else in it. Returns whether it did. Who joins at the
    /// same time is either seen here, or finds the name gone.
    ///
    /// # Errors
    /// [`MapError`].
    pub fn unlink_if_last(&self) -> Result<bool, MapError> {
        // In the child of a fork(2) the slot is its parent's, who may live.
        let is_mine = |row: &ProcessRow| {
            row.slot == self.lease.slot() && row.lease.subject == std::process::id()
        };
        let is_over = |row: &ProcessRow| is_mine(row) || row_is_dead(row, self.maker.boot_id);
        self.mapping.unlink_if(|| {
            matches!(self.maker.life(), Life::Dead(_))
                && lease::rows(&self.segment()).all(|row| is_over(&row))
        })
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        if let Some(watcher) = self.watcher.take() {
            watcher.stop();
        }
        membership::leave::<SegmentShape>(&self.segment(), &self.lease);
    }
}

impl Shape for SegmentShape {
    type Seen<'s> = Segment<'s>;

    fn see<'s>(&self, lines: &'s [Line]) -> Option<Segment<'s>> {
        Segment::reattach(lines, self).ok().map(|segment| segment.with_waker(BELLS))
    }

    fn reclaim(segment: &Segment<'_>, slot: u16) -> bool {
        reclaim(segment, slot)
    }
}

/// Takes back what dead processes left in a segment. Returns how many of them there were.
#[allow(clippy::must_use_candidate, reason = "the count is for those who want to tell")]
pub fn take_back_from_the_dead(segment: &Segment<'_>, boot_id: [u8; 16]) -> usize {
    membership::take_back::<SegmentShape>(&segment.with_waker(BELLS), boot_id)
}
