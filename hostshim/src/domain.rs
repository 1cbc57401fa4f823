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
//! The watcher is the one thread that this crate starts. It runs no turn and holds no lock that a turn could want: it finds
//! a death by pidfd, marks the slot, takes back what the process held, and raises the epoch that every plane loads
//! once a turn; and wakes the planes that sleep. A process that is stopped is not dead.

use core::fmt;
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use spinwire_dataplane::error::Retry;
use spinwire_dataplane::id::{Name, NameError};
use spinwire_dataplane::msg::{Endpoint, EndpointConfig};
use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::provider::shm::{ShmConfig, ShmOpenError, ShmPort};
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::shm::lease::{self, Joiner, ProcessRow};
use spinwire_dataplane::shm::reclaim::reclaim;
use spinwire_dataplane::shm::{
    Geometry, GeometryError, Identity, JoinError, ProcessLease, Segment, SegmentShape, Waker,
    copy_header,
};
use spinwire_layouts::shm::LeaseState;

use crate::error::OsError;
use crate::liveness::{self, DeathWatch, Life};
use crate::mem::{MapError, PageKind, PagePolicy, Problem, SharedMapping};
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

/// Why a domain could not be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DomainError {
    /// The name is none.
    Name(NameError),
    /// A count is out of range.
    Geometry(GeometryError),
    /// The memory could not be had.
    Map(MapError),
    /// What lies under that name is no segment that this build can use.
    Join {
        /// The name.
        name: String,
        /// What is wrong.
        why: JoinError,
    },
    /// The segment was left behind before the machine was started anew.
    OtherBoot {
        /// The name.
        name: String,
    },
    /// The segment was made in another PID namespace, where process numbers mean other processes.
    OtherPidNamespace {
        /// The name.
        name: String,
    },
    /// All process slots are taken by live processes.
    Full {
        /// How many there are.
        process_count: u32,
    },
    /// The kernel said no.
    Os(OsError),
}

impl fmt::Display for DomainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(e) => e.fmt(f),
            Self::Geometry(e) => e.fmt(f),
            Self::Map(e) => e.fmt(f),
            Self::Join { name, why } => write!(f, "segment {name}: {why}"),
            Self::OtherBoot { name } => write!(
                f,
                "segment {name}: boot_id: it is from before the last boot; remove it: spinwire rm {name}"
            ),
            Self::OtherPidNamespace { name } => write!(
                f,
                "segment {name}: pid_namespace: it was made in another one (a container?); share the PID namespace, or use another name"
            ),
            Self::Full { process_count } => write!(
                f,
                "process_count: all {process_count} process slots are taken by live processes; make the segment with more"
            ),
            Self::Os(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for DomainError {}

impl From<NameError> for DomainError {
    fn from(value: NameError) -> Self {
        Self::Name(value)
    }
}
impl From<GeometryError> for DomainError {
    fn from(value: GeometryError) -> Self {
        Self::Geometry(value)
    }
}
impl From<MapError> for DomainError {
    fn from(value: MapError) -> Self {
        Self::Map(value)
    }
}
impl From<OsError> for DomainError {
    fn from(value: OsError) -> Self {
        Self::Os(value)
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

/// A segment that this process is in.
#[derive(Debug)]
pub struct Domain {
    mapping: Arc<SharedMapping>,
    shape: SegmentShape,
    lease: ProcessLease,
    watcher: Option<Watcher>,
}

/// Now, in nanoseconds since 1970 UTC.
pub(crate) fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The command of this process, for people who look.
fn command() -> [u8; 64] {
    let mut field = [0; 64];
    let comm = std::fs::read("/proc/self/comm").unwrap_or_default();
    let text = comm.iter().take_while(|&&b| b != b'\n').take(63);
    for (to, from) in field.iter_mut().zip(text) {
        *to = *from;
    }
    field
}

/// Who makes a segment of that name: this process.
pub(crate) fn identity(name: Name, page: PageKind) -> Result<Identity, OsError> {
    let me = liveness::Identity::mine()?;
    Ok(Identity {
        name,
        boot_id: me.boot_id,
        created_unix_ns: unix_ns(),
        pid: me.pid,
        start_time: me.start_time,
        page_bytes: match page {
            PageKind::Huge2M => 2 << 20,
            PageKind::Thp | PageKind::Base4K => 4096,
        },
        pid_namespace: liveness::pid_namespace()?,
    })
}

impl Domain {
    /// Makes a new domain and joins it.
    ///
    /// # Errors
    /// [`DomainError`]; `Map` with [`Problem::Exists`] where the name is taken.
    pub fn create(name: &str, config: &DomainConfig) -> Result<Self, DomainError> {
        let checked = Name::new(name)?;
        let bytes = usize::try_from(config.geometry.segment_bytes()?).unwrap_or(usize::MAX);
        let staged = SharedMapping::stage(name, bytes, config.pages)?;
        let identity = identity(checked, staged.page())?;
        let formatted = Segment::format(view::staged_lines(&staged), config.geometry, &identity);
        formatted.map_err(|why| DomainError::Join { name: name.to_owned(), why })?;
        Self::enter(staged.publish()?, config)
    }

    /// Joins a domain that is there.
    ///
    /// # Errors
    /// [`DomainError`]; `Map` with [`Problem::Missing`] where there is none.
    pub fn join(name: &str, config: &DomainConfig) -> Result<Self, DomainError> {
        Name::new(name)?;
        Self::enter(SharedMapping::open(name)?, config)
    }

    /// Joins the domain of that name, or makes it where there is none.
    ///
    /// # Errors
    /// [`DomainError`].
    pub fn create_or_join(name: &str, config: &DomainConfig) -> Result<Self, DomainError> {
        // Whoever loses the race to create, joins; whoever finds it removed in between, creates. Not for ever.
        let mut last = None;
        for _attempt in 0..8 {
            match Self::join(name, config) {
                Err(DomainError::Map(e)) if e.problem() == Some(Problem::Missing) => {}
                other => return other,
            }
            match Self::create(name, config) {
                Err(DomainError::Map(e)) if e.problem() == Some(Problem::Exists) => {
                    last = Some(DomainError::Map(e));
                }
                other => return other,
            }
        }
        last.map_or_else(|| Self::join(name, config), Err)
    }

    fn enter(mapping: SharedMapping, config: &DomainConfig) -> Result<Self, DomainError> {
        let mapping = Arc::new(mapping);
        let name = mapping.name().to_owned();
        let lines = view::shared_lines(&mapping);
        let broken = |why| DomainError::Join { name: name.clone(), why };
        let segment = Segment::attach(lines).map_err(broken)?;
        let me = liveness::Identity::mine()?;
        let header = copy_header(lines).map_err(broken)?;
        if header.boot_id != me.boot_id {
            return Err(DomainError::OtherBoot { name });
        }
        if header.pid_namespace != liveness::pid_namespace()? {
            return Err(DomainError::OtherPidNamespace { name });
        }
        take_back_from_the_dead(&segment, me.boot_id);
        let joiner = Joiner {
            pid: me.pid,
            start_time: me.start_time,
            joined_unix_ns: unix_ns(),
            command: command(),
        };
        let lease = lease::join(&segment, &joiner).map_err(|_full: Retry| DomainError::Full {
            process_count: segment.geometry().process_count,
        })?;
        // A kernel without costs those who sleep time: they see that this process has not vowed.
        if syscall::register_for_barriers().is_ok() {
            lease::vow_to_ring(&segment, &lease);
        }
        let shape = segment.shape();
        let seat = (lease, shape);
        let watcher = Watcher::start(Arc::clone(&mapping), seat, me.boot_id, config)?;
        Ok(Self { mapping, shape, lease, watcher: Some(watcher) })
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
}

impl Drop for Domain {
    fn drop(&mut self) {
        if let Some(watcher) = self.watcher.take() {
            watcher.stop();
        }
        let segment = self.segment();
        let slot = self.lease.slot();
        let mine = lease::rows(&segment)
            .find(|row| row.slot == slot && row.lease.pack() == self.lease.word());
        if let Some(row) = mine
            && lease::mark_dead(&segment, slot, row.lease)
        {
            // Not free yet only if a survivor was faster: then it is free by its hand.
            let _freed_here = reclaim(&segment, slot);
        }
    }
}

/// Whether the process in a row is dead, as far as can be told.
#[must_use]
pub fn row_is_dead(row: &ProcessRow, boot_id: [u8; 16]) -> bool {
    let pid = row.lease.subject;
    match row.lease.state {
        LeaseState::Dead => true,
        // It has not written down its start time yet: only its number tells.
        LeaseState::Claiming => match liveness::Identity::of(pid) {
            Ok(identity) => matches!(identity.life(), Life::Dead(_)),
            Err(e) => e.errno().number() == libc::ESRCH,
        },
        LeaseState::Live => {
            let identity = liveness::Identity { pid, start_time: row.start_time, boot_id };
            matches!(identity.life(), Life::Dead(_))
        }
        LeaseState::Free => false,
    }
}

/// Takes back what dead processes left in a segment. Returns how many of them there were.
#[allow(clippy::must_use_candidate, reason = "the count is for those who want to tell")]
pub fn take_back_from_the_dead(segment: &Segment<'_>, boot_id: [u8; 16]) -> usize {
    let segment = &segment.with_waker(BELLS);
    lease::rows(segment)
        .filter(|row| row_is_dead(row, boot_id))
        .filter(|row| lease::mark_dead(segment, row.slot, row.lease) && reclaim(segment, row.slot))
        .count()
}

/// The thread that notices deaths.
#[derive(Debug)]
struct Watcher {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Watcher {
    fn start(
        mapping: Arc<SharedMapping>,
        (mine, shape): (ProcessLease, SegmentShape),
        boot_id: [u8; 16],
        config: &DomainConfig,
    ) -> Result<Self, DomainError> {
        // A newcomer is seen after at most one round; a death ends the sleep at once. A quarter leaves room for a busy CPU.
        let round = (config.death_noticed_within / 4).max(Duration::from_millis(1));
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("spinwire-watch".to_owned())
            .spawn(move || {
                // It must not share a pinned core with a turn loop for longer than it takes.
                let mut watched =
                    Watched { mine, boot_id, watch: DeathWatch::new(), keys: BTreeMap::new() };
                loop {
                    let lines = view::shared_lines(&mapping);
                    // Fails for a shorter mapping only, and this one stays as it is.
                    let Ok(segment) = Segment::reattach(lines, &shape) else { return };
                    watched.round(&segment.with_waker(BELLS), round);
                    match stopped.recv_timeout(Duration::ZERO) {
                        Err(RecvTimeoutError::Timeout) => {}
                        Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
            })
            .map_err(|e| {
                OsError::new("start the watcher thread", crate::error::Errno::from_io(&e))
            })?;
        Ok(Self { stop, thread })
    }

    fn stop(self) {
        // An error means that the thread has ended by itself, which is what is wanted.
        let _ended = self.stop.send(());
        drop(self.stop);
        // A panic of the watcher was printed by the runtime; there is nothing to add.
        let _joined = self.thread.join();
    }
}

struct Watched {
    mine: ProcessLease,
    boot_id: [u8; 16],
    watch: DeathWatch,
    /// Slots that are watched, with the lease words that they had.
    keys: BTreeMap<u16, u64>,
}

impl Watched {
    fn round(&mut self, segment: &Segment<'_>, timeout: Duration) {
        let rows: Vec<ProcessRow> =
            lease::rows(segment).filter(|row| row.slot != self.mine.slot()).collect();
        self.keys.retain(|slot, word| {
            let still = rows.iter().any(|row| row.slot == *slot && row.lease.pack() == *word);
            if !still {
                self.watch.forget(u64::from(*slot));
            }
            still
        });
        for row in &rows {
            if row.lease.state != LeaseState::Live {
                if row_is_dead(row, self.boot_id) {
                    bury(segment, row);
                }
            } else if !self.keys.contains_key(&row.slot) {
                let identity = liveness::Identity {
                    pid: row.lease.subject,
                    start_time: row.start_time,
                    boot_id: self.boot_id,
                };
                // Where it cannot be watched it is looked at in the next round.
                if self.watch.watch(u64::from(row.slot), identity).is_ok() {
                    self.keys.insert(row.slot, row.lease.pack());
                }
            }
        }
        let Ok(dead) = self.watch.poll(timeout) else {
            std::thread::sleep(timeout);
            return;
        };
        for key in dead {
            let found = rows.iter().find(|row| u64::from(row.slot) == key);
            if let Some(row) = found {
                bury(segment, row);
                self.keys.remove(&row.slot);
                self.watch.forget(key);
            }
        }
    }
}

fn bury(segment: &Segment<'_>, row: &ProcessRow) {
    if lease::mark_dead(segment, row.slot, row.lease) {
        // Not freed by this call where another survivor was faster.
        let _freed_here = reclaim(segment, row.slot);
    }
}
