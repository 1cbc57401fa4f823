//! Segments that processes are members of, whatever is in them: made, named last, checked, joined, watched and left.
//!
//! ```text
//!   make       stage, write the header, publish the name          nobody finds it half made
//!   introduce  of this boot, of this PID namespace?               else process numbers mean others
//!   join       take back from the dead, take a process slot
//!   Watcher    a thread that sleeps until a member dies           finds it by pidfd, marks the slot, takes back
//!   leave      mark the own slot, take back, like any other's
//! ```
//!
//! The watcher is the one thread that this crate starts, for each segment that is open. It runs no turn, holds no lock
//! that a turn could want, and takes no signals. A process that is stopped is not dead.

use core::fmt;
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use spinwire_dataplane::error::Retry;
use spinwire_dataplane::id::{Name, NameError};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::shm::lease::{self, Joiner, Members, ProcessRow};
use spinwire_dataplane::shm::{GeometryError, Identity, JoinError, ProcessLease, copy_header};
use spinwire_layouts::shm::LeaseState;

use crate::error::{Errno, OsError};
use crate::liveness::{self, DeathWatch, Life};
use crate::mem::{Lasting, MapError, PageKind, PagePolicy, Problem, SegmentDir, SharedMapping};
use crate::raw::{syscall, view};

/// What was checked of a segment of one kind, and what its members do with a dead one.
pub(crate) trait Shape: Copy + Send + 'static {
    /// The segment, seen in a mapping.
    type Seen<'s>: Members<'s>;

    /// Sees it. Fails for a mapping that is shorter than the one that was checked.
    fn see<'s>(&self, lines: &'s [Line]) -> Option<Self::Seen<'s>>;

    /// Takes back what the process in `slot`, which is marked dead, held. `true` where its slot is free by this call.
    fn reclaim(seen: &Self::Seen<'_>, slot: u16) -> bool;

    /// Called in every round of the watcher, with the time in nanoseconds since 1970 UTC.
    fn tick(seen: &Self::Seen<'_>, unix_ns: u64) {
        let _ = (seen, unix_ns);
    }
}

/// Why a segment could not be made, joined or opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MemberError {
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

impl fmt::Display for MemberError {
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

impl core::error::Error for MemberError {}

impl From<NameError> for MemberError {
    fn from(value: NameError) -> Self {
        Self::Name(value)
    }
}
impl From<GeometryError> for MemberError {
    fn from(value: GeometryError) -> Self {
        Self::Geometry(value)
    }
}
impl From<MapError> for MemberError {
    fn from(value: MapError) -> Self {
        Self::Map(value)
    }
}
impl From<OsError> for MemberError {
    fn from(value: OsError) -> Self {
        Self::Os(value)
    }
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

/// Makes a segment of at least `bytes` bytes, which `format` fills before it gets its name.
pub(crate) fn make(
    name: &str,
    bytes: u64,
    (pages, lasting): (PagePolicy, Lasting),
    format: impl FnOnce(&[Line], &Identity) -> Result<(), JoinError>,
) -> Result<SharedMapping, MemberError> {
    let checked = Name::new(name)?;
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let staged = SegmentDir::from_env().stage_lasting(name, bytes, pages, lasting)?;
    let identity = identity(checked, staged.page())?;
    format(view::staged_lines(&staged), &identity)
        .map_err(|why| MemberError::Join { name: name.to_owned(), why })?;
    Ok(staged.publish()?)
}

/// The segment that this process has made and could not enter goes with its name, if nobody has come meanwhile: to whoever is told that
/// nothing was made, nothing is to be left.
#[expect(single_use_lifetimes, reason = "an anonymous one is unstable in `impl Trait`")]
pub(crate) fn give_up<'s>(members: &impl Members<'s>, mapping: &SharedMapping) {
    if lease::rows(members).next().is_none() {
        let _gone_already = mapping.unlink();
    }
}

/// Opens what is there, or creates it where there is nothing. Whoever loses the race to create, opens; whoever finds it removed
/// in between, creates. Not for ever.
pub(crate) fn open_or_create<T, E: MayBeMap>(
    open: impl Fn() -> Result<T, E>,
    create: impl Fn() -> Result<T, E>,
) -> Result<T, E> {
    let mut last = None;
    for _attempt in 0..8 {
        match open() {
            Err(e) if e.problem() == Some(Problem::Missing) => {}
            other => return other,
        }
        match create() {
            Err(e) if e.problem() == Some(Problem::Exists) => last = Some(e),
            other => return other,
        }
    }
    last.map_or_else(open, Err)
}

/// An error that may be about the file behind the name.
pub(crate) trait MayBeMap {
    /// What is the matter with that file.
    fn problem(&self) -> Option<Problem>;
}

impl MayBeMap for MemberError {
    fn problem(&self) -> Option<Problem> {
        match self {
            Self::Map(e) => e.problem(),
            Self::Name(_)
            | Self::Geometry(_)
            | Self::Join { .. }
            | Self::OtherBoot { .. }
            | Self::OtherPidNamespace { .. }
            | Self::Full { .. }
            | Self::Os(_) => None,
        }
    }
}

/// What is wrong with the segment in `mapping`.
pub(crate) fn broken(mapping: &SharedMapping, why: JoinError) -> MemberError {
    MemberError::Join { name: mapping.name().to_owned(), why }
}

/// Who this process is, and who made the segment, where process numbers in it mean what they mean here.
pub(crate) fn introduce(
    mapping: &SharedMapping,
) -> Result<(liveness::Identity, liveness::Identity), MemberError> {
    let name = || mapping.name().to_owned();
    let me = liveness::Identity::mine()?;
    let header = copy_header(view::shared_lines(mapping)).map_err(|why| broken(mapping, why))?;
    if header.boot_id != me.boot_id {
        return Err(MemberError::OtherBoot { name: name() });
    }
    if header.pid_namespace != liveness::pid_namespace()? {
        return Err(MemberError::OtherPidNamespace { name: name() });
    }
    let maker = liveness::Identity {
        pid: u32::try_from(header.creator_pid).unwrap_or(0),
        start_time: header.creator_start_time,
        boot_id: header.boot_id,
    };
    Ok((me, maker))
}

/// Takes a process slot.
#[expect(single_use_lifetimes, reason = "an anonymous one is unstable in `impl Trait`")]
pub(crate) fn join<'s>(
    members: &impl Members<'s>,
    me: &liveness::Identity,
) -> Result<ProcessLease, MemberError> {
    let joiner = Joiner {
        pid: me.pid,
        start_time: me.start_time,
        joined_unix_ns: unix_ns(),
        command: command(),
    };
    lease::join(members, &joiner).map_err(|_full: Retry| MemberError::Full {
        process_count: u32::from(members.process_table().count()),
    })
}

/// Gives a process slot back. Nothing happens in the child of a fork(2): the slot is its parent's.
pub(crate) fn leave<S: Shape>(seen: &S::Seen<'_>, lease: &ProcessLease) {
    let slot = lease.slot();
    let is_mine = |row: &ProcessRow| {
        row.slot == slot
            && row.lease.pack() == lease.word()
            && row.lease.subject == std::process::id()
    };
    let mine = lease::rows(seen).find(is_mine);
    if let Some(row) = mine {
        bury::<S>(seen, &row);
    }
}

/// Takes back what dead processes left in a segment. Returns how many of them there were.
pub(crate) fn take_back<S: Shape>(seen: &S::Seen<'_>, boot_id: [u8; 16]) -> usize {
    let mut count = 0_usize;
    for_each_dead(seen, boot_id, |slot| count += usize::from(S::reclaim(seen, slot)));
    count
}

/// Marks every dead member so, and has its slot taken back by `reclaim`.
pub(crate) fn for_each_dead<'s, M: Members<'s>>(
    members: &M,
    boot_id: [u8; 16],
    mut reclaim: impl FnMut(u16),
) {
    for row in lease::rows(members).filter(|row| row_is_dead(row, boot_id)) {
        if lease::mark_dead(members, row.slot, row.lease) {
            reclaim(row.slot);
        }
    }
}

/// Marks a process dead and takes back what it held. `false` where another survivor was faster: then it is free by its hand.
fn bury<S: Shape>(seen: &S::Seen<'_>, row: &ProcessRow) -> bool {
    lease::mark_dead(seen, row.slot, row.lease) && S::reclaim(seen, row.slot)
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

/// Where a thread cannot be started.
pub(crate) const TOO_MANY_THREADS: &str = "raise the limit of processes and threads: ulimit -u unlimited # for a service: LimitNPROC, TasksMax";

/// The thread that notices deaths.
#[derive(Debug)]
pub(crate) struct Watcher {
    /// In which process the thread runs.
    pid: u32,
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Watcher {
    /// Watches all members but `me`; a death is noticed within `within`.
    pub(crate) fn start<S: Shape>(
        mapping: Arc<SharedMapping>,
        shape: S,
        me: liveness::Identity,
        within: Duration,
    ) -> Result<Self, MemberError> {
        // A newcomer is seen after at most one round; a death ends the sleep at once. A quarter leaves room for a busy CPU.
        let round = (within / 4).max(Duration::from_millis(1));
        let (stop, stopped) = mpsc::channel();
        let watch = move || {
            // It must not share a pinned core with a turn loop for longer than it takes.
            let mut watched = Watched { me, watch: DeathWatch::new(), keys: BTreeMap::new() };
            loop {
                // Fails for a shorter mapping only, and this one stays as it is.
                let Some(seen) = shape.see(view::shared_lines(&mapping)) else { return };
                S::tick(&seen, unix_ns());
                watched.round::<S>(&seen, round);
                match stopped.recv_timeout(Duration::ZERO) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let builder = std::thread::Builder::new().name("spinwire-watch".to_owned());
        let thread = syscall::with_signals_blocked(|| builder.spawn(watch)).map_err(|e| {
            let refused = OsError::new("start the watcher thread", Errno::from_io(&e));
            refused.with_remedy(TOO_MANY_THREADS)
        })?;
        Ok(Self { pid: std::process::id(), stop, thread })
    }

    /// Ends the thread, which may take a round. In the child of a fork(2) there is no such thread to wait for.
    pub(crate) fn stop(self) {
        if self.pid != std::process::id() {
            return;
        }
        // An error means that the thread has ended by itself, which is what is wanted.
        let _ended = self.stop.send(());
        drop(self.stop);
        // A panic of the watcher was printed by the runtime; there is nothing to add.
        let _joined = self.thread.join();
    }
}

struct Watched {
    me: liveness::Identity,
    watch: DeathWatch,
    /// Slots that are watched, with the lease words that they had.
    keys: BTreeMap<u16, u64>,
}

impl Watched {
    fn round<S: Shape>(&mut self, seen: &S::Seen<'_>, timeout: Duration) {
        let me = self.me;
        let mine = |row: &ProcessRow| {
            row.lease.state == LeaseState::Live
                && (row.lease.subject, row.start_time) == (me.pid, me.start_time)
        };
        let rows: Vec<ProcessRow> = lease::rows(seen).filter(|row| !mine(row)).collect();
        self.keys.retain(|slot, word| {
            let still = rows.iter().any(|row| row.slot == *slot && row.lease.pack() == *word);
            if !still {
                self.watch.forget(u64::from(*slot));
            }
            still
        });
        for row in &rows {
            if row.lease.state != LeaseState::Live {
                if row_is_dead(row, me.boot_id) {
                    bury::<S>(seen, row);
                }
            } else if !self.keys.contains_key(&row.slot) {
                let identity = liveness::Identity {
                    pid: row.lease.subject,
                    start_time: row.start_time,
                    boot_id: me.boot_id,
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
                bury::<S>(seen, row);
                self.keys.remove(&row.slot);
                self.watch.forget(key);
            }
        }
    }
}
