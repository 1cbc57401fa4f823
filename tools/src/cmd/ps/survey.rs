//! What segments there are, and what is in them: the facts that `ps` prints and `rm` judges.
//!
//! ```text
//!   folder --list--> name --open--> mapping --copy_header--> kind --+--> Domain   processes, endpoints, lanes
//!                      |               |           |                +--> Plane    one process
//!                      |               |           |                +--> Pool     processes, buffers by class
//!                      |               |           |                +--> Buffer   of which pool
//!                      |               |           '-- refused ------> Broken     why, and whose file it seems to be
//!                      '---------------'-------- of another user ----> Private    whose
//! ```
//!
//! Nothing is written, joined or taken back. Whatever a segment says was checked by those who read it; text out of it
//! may hold anything and is made plain where it is printed.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use spinwire_dataplane::poll::{PlaneSnapshot, StatsReader};
use spinwire_dataplane::pool::PoolSegment;
use spinwire_dataplane::shm::lease::{self, Members, ProcessRow};
use spinwire_dataplane::shm::{Segment, copy_header, directory, lane_table};
use spinwire_hostshim::domain::row_is_dead;
use spinwire_hostshim::error::{Errno, OsError};
use spinwire_hostshim::liveness::{Identity, Life, pid_namespace};
use spinwire_hostshim::mem::{Backing, Listed, MapError, Problem, SharedMapping};
use spinwire_hostshim::plane::stats_page;
use spinwire_layouts::abi::MAGIC;
use spinwire_layouts::shm::{LaneState, LeaseState, SegmentHeader, SegmentKind};

use super::holders::{FileKey, Holders};
use super::pools::{self, Class};
use crate::report::Failure;

/// One name in the folder.
#[derive(Debug, Serialize)]
pub(crate) struct Found {
    pub(crate) name: String,
    #[serde(serialize_with = "in_letters")]
    pub(crate) path: PathBuf,
    /// The owner of the file.
    pub(crate) uid: u32,
    pub(crate) bytes: Option<u64>,
    /// The pages that a mapping of it has: `2M`, `thp`, `4K`.
    pub(crate) page: Option<String>,
    pub(crate) backing: Option<String>,
    pub(crate) created_unix_ns: Option<u64>,
    pub(crate) age_s: Option<u64>,
    pub(crate) creator: Option<Party>,
    /// Other processes that have it mapped, as the kernel tells.
    pub(crate) mapped_by: Vec<u32>,
    #[serde(flatten)]
    pub(crate) what: What,
    /// Kept so that what is removed is what was looked at.
    #[serde(skip)]
    pub(crate) mapping: Option<SharedMapping>,
    /// Which file has the name: device and inode.
    #[serde(skip)]
    pub(crate) claim: Option<(u64, u64)>,
}

/// What a name stands for.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum What {
    /// A segment that processes meet in.
    Domain { processes: Vec<Process>, endpoints: Vec<Endpoint>, lanes: Lanes },
    /// The stats page of a plane.
    Stats {
        /// None where it could not be read, being written.
        plane: Option<PlaneRow>,
    },
    /// A pool of buffers.
    Pool { processes: Vec<Process>, classes: Vec<Class> },
    /// A large buffer of a pool.
    Buffer {
        /// The pool, if it is still there.
        pool: Option<String>,
    },
    /// Another user's, into which this one cannot look. [`Found::uid`] says whose.
    Private,
    /// Nothing that can be joined.
    Broken {
        why: String,
        /// What the file seems to be.
        content: Content,
    },
}

/// A process, and whether it lives.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Party {
    pub(crate) pid: u32,
    #[serde(serialize_with = "in_a_word")]
    pub(crate) life: Life,
}

impl Party {
    /// Whether it may still do something with its segment. True where that cannot be found out.
    pub(crate) const fn may_live(&self) -> bool {
        !matches!(self.life, Life::Dead(_))
    }
}

/// A process that is in a domain or a pool.
#[derive(Debug, Serialize)]
pub(crate) struct Process {
    pub(crate) slot: u16,
    #[serde(flatten)]
    pub(crate) party: Party,
    pub(crate) command: String,
    pub(crate) joined_unix_ns: u64,
    pub(crate) since_s: u64,
}

/// An endpoint of a domain.
#[derive(Debug, Serialize)]
pub(crate) struct Endpoint {
    pub(crate) slot: u32,
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) owner_slot: u16,
    pub(crate) owner_pid: Option<u32>,
}

/// The lanes of a domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Lanes {
    pub(crate) count: u32,
    pub(crate) open: u32,
    /// Opened or closed just now, or left by one end.
    pub(crate) changing: u32,
    /// With a state that does not exist.
    pub(crate) corrupt: u32,
}

/// The plane behind a stats page.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PlaneRow {
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) party: Party,
    pub(crate) cpu: Option<u32>,
    /// Provider and type of the endpoint by which its messages go, where it says so.
    pub(crate) path: Option<String>,
}

/// What a file that is no segment seems to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Content {
    /// It begins as segments do: cut off, damaged, or of another version.
    Segment,
    /// Nothing, or zeros where the header should be: not finished.
    Unfinished,
    /// A text that says where the memory is, and it is not there.
    Link,
    /// Not made by Spinwire.
    Foreign,
    /// It cannot be read, or is no file.
    Unreadable,
}

/// A path as text. Bytes that are none must not keep all the others from being shown.
fn in_letters<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&path.to_string_lossy())
}

fn in_a_word<S: Serializer>(life: &Life, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(word(life))
}

/// A life in one word.
pub(crate) const fn word(life: &Life) -> &'static str {
    match life {
        Life::Alive => "alive",
        Life::Stopped => "stopped",
        Life::Dead(_) => "dead",
        Life::Unknown(_) => "unknown",
    }
}

/// Seconds since an instant of the calendar; 0 for the future.
pub(crate) fn seconds_since(unix_ns: u64) -> u64 {
    unix_now_ns().saturating_sub(unix_ns) / 1_000_000_000
}

/// Now, in nanoseconds since 1970 UTC.
pub(crate) fn unix_now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Looks at one name.
pub(crate) fn look_at(listed: Listed, holders: &Holders) -> Found {
    let Listed { name, path, uid, state } = listed;
    let claim = claim_of(&path);
    let located = state.map(|(backing, bytes)| (backing_word(&backing), bytes));
    let opened = match &located {
        Ok(_) => SharedMapping::look(&name),
        Err(e) => Err(e.clone()),
    };
    let mut found = Found {
        bytes: located.as_ref().ok().map(|(_, bytes)| *bytes),
        page: None,
        backing: located.ok().map(|(backing, _)| backing.to_owned()),
        created_unix_ns: None,
        age_s: None,
        creator: None,
        mapped_by: Vec::new(),
        what: What::Broken { why: String::new(), content: Content::Unreadable },
        mapping: None,
        claim,
        name,
        path,
        uid,
    };
    match opened {
        Ok(mapping) => look_inside(mapping, &mut found, holders),
        Err(e) => look_from_outside(&e, &mut found, holders),
    }
    found
}

/// Which file has a name now, whatever it is.
pub(crate) fn claim_of(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

const fn backing_word(backing: &Backing) -> &'static str {
    match backing {
        Backing::File(_) => "file",
        Backing::Hugetlbfs(_) => "hugetlbfs",
        Backing::Memfd { .. } => "memfd",
        Backing::Anonymous => "anonymous",
    }
}

fn look_inside(mapping: SharedMapping, found: &mut Found, holders: &Holders) {
    if let Some(key) = FileKey::behind(&mapping) {
        found.mapped_by = holders.of(&key).collect();
    }
    found.page = Some(mapping.page().to_string());
    found.what = match copy_header(mapping.lines()) {
        Ok(header) => {
            introduce(&header, found);
            inside(&mapping, &header).unwrap_or_else(|why| {
                let content =
                    if header.magic == MAGIC { Content::Segment } else { Content::Foreign };
                What::Broken { why: why.to_string(), content }
            })
        }
        Err(why) => What::Broken { why: why.to_string(), content: content_of(&found.path) },
    };
    found.mapping = Some(mapping);
}

/// What the header says about the segment as a whole.
fn introduce(header: &SegmentHeader, found: &mut Found) {
    let identity = Identity {
        pid: u32::try_from(header.creator_pid).unwrap_or(0),
        start_time: header.creator_start_time,
        boot_id: header.boot_id,
    };
    found.created_unix_ns = Some(header.created_unix_ns);
    found.age_s = Some(seconds_since(header.created_unix_ns));
    let life = if is_of_other_namespace(header) { unknowable() } else { identity.life() };
    found.creator = Some(Party { pid: identity.pid, life });
}

/// Whether the process numbers in the segment mean processes of another PID namespace.
fn is_of_other_namespace(header: &SegmentHeader) -> bool {
    // Where the own namespace cannot be told, nobody is declared dead.
    pid_namespace() != Ok(header.pid_namespace)
}

/// A process of another PID namespace: nothing can be said about it, least of all that it is dead.
const fn unknowable() -> Life {
    Life::Unknown(OsError::new("look into another PID namespace", Errno::new(libc::EXDEV)))
}

/// The parts of a segment, or what is wrong with it.
fn inside(mapping: &SharedMapping, header: &SegmentHeader) -> Result<What, Failure> {
    if header.kind == SegmentKind::Pool.code() {
        let pool = PoolSegment::attach(mapping.lines())?;
        let processes = members(&pool, header);
        return Ok(What::Pool { processes, classes: pools::classes(&pool) });
    }
    if header.kind == SegmentKind::Buffer.code() {
        return Ok(What::Buffer { pool: pools::pool_of(mapping.name()) });
    }
    if header.kind == SegmentKind::Stats.code() {
        let reader = StatsReader::new(stats_page(mapping)?)?;
        let plane =
            reader.plane().or_else(|_unsettled| reader.plane_unsettled().map(|(plane, _)| plane));
        return Ok(What::Stats {
            plane: plane.ok().map(|plane| plane_row(&plane, header.boot_id)),
        });
    }
    let segment = Segment::attach(mapping.lines())?;
    let processes = members(&segment, header);
    let owner = |slot| processes.iter().find(|process: &&Process| process.slot == slot);
    let endpoints = directory::rows(&segment)
        .map(|row| Endpoint {
            slot: row.id.slot,
            name: row.name.to_string(),
            kind: row.kind.name(),
            owner_slot: row.process,
            owner_pid: owner(row.process).map(|process| process.party.pid),
        })
        .collect();
    Ok(What::Domain { endpoints, lanes: lanes(&segment), processes })
}

/// The processes in a segment whose header is known, dead ones included.
#[expect(single_use_lifetimes, reason = "an anonymous one is unstable in `impl Trait`")]
pub(crate) fn members<'s>(segment: &impl Members<'s>, header: &SegmentHeader) -> Vec<Process> {
    let mut processes = processes(segment, header.boot_id);
    if is_of_other_namespace(header) {
        for process in &mut processes {
            process.party.life = unknowable();
        }
    }
    processes
}

pub(crate) fn plane_row(snapshot: &PlaneSnapshot, boot_id: [u8; 16]) -> PlaneRow {
    let plane = &snapshot.plane;
    let identity = Identity { pid: plane.pid, start_time: plane.start_time, boot_id };
    PlaneRow {
        name: plane.name.to_string(),
        party: Party { pid: plane.pid, life: identity.life() },
        cpu: plane.cpu,
        path: snapshot.path.map(|path| path.to_string()),
    }
}

/// The processes in a segment, dead ones included.
#[expect(single_use_lifetimes, reason = "an anonymous one is unstable in `impl Trait`")]
pub(crate) fn processes<'s>(segment: &impl Members<'s>, boot_id: [u8; 16]) -> Vec<Process> {
    lease::rows(segment)
        .map(|row| Process {
            slot: row.slot,
            party: Party { pid: row.lease.subject, life: life_of(&row, boot_id) },
            command: command(&row.command),
            joined_unix_ns: row.joined_unix_ns,
            since_s: seconds_since(row.joined_unix_ns),
        })
        .collect()
}

fn life_of(row: &ProcessRow, boot_id: [u8; 16]) -> Life {
    use spinwire_hostshim::liveness::Death;
    let identity = Identity { pid: row.lease.subject, start_time: row.start_time, boot_id };
    match row.lease.state {
        LeaseState::Live => identity.life(),
        // Marked dead by a survivor, or joining, which only its number tells about.
        LeaseState::Dead | LeaseState::Claiming | LeaseState::Free => {
            if row_is_dead(row, boot_id) {
                Life::Dead(Death::Gone)
            } else {
                Life::Alive
            }
        }
    }
}

fn command(field: &[u8; 64]) -> String {
    let text: Vec<u8> = field.iter().copied().take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&text).into_owned()
}

fn lanes(segment: &Segment<'_>) -> Lanes {
    let count = segment.geometry().lane_count;
    let mut lanes = Lanes { count, ..Lanes::default() };
    for lane in 0..count {
        let counted = match lane_table::state_of(segment, lane).map(|word| word.state) {
            Some(LaneState::Free) => continue,
            Some(LaneState::Open) => &mut lanes.open,
            Some(LaneState::Claiming | LaneState::SenderLeft | LaneState::ReceiverLeft) => {
                &mut lanes.changing
            }
            None => &mut lanes.corrupt,
        };
        *counted = counted.saturating_add(1);
    }
    lanes
}

/// What can be said of a segment that cannot be mapped.
fn look_from_outside(error: &MapError, found: &mut Found, holders: &Holders) {
    let mut files = vec![found.path.clone()];
    if let MapError::File { path, .. } = error {
        // For memory that lies elsewhere: there.
        files.push(path.clone());
    }
    files.dedup();
    let keys = files.iter().filter_map(|path| fs::symlink_metadata(path).ok());
    let keys = keys.map(|m| FileKey::of(&m)).chain(memory_without_name(error));
    let mut pids: Vec<u32> = keys.flat_map(|key| holders.of(&key).collect::<Vec<_>>()).collect();
    pids.sort_unstable();
    pids.dedup();
    found.mapped_by = pids;
    let content = match error.problem() {
        Some(Problem::Owner { .. }) => {
            found.what = What::Private;
            return;
        }
        Some(Problem::Symlink | Problem::NotRegular) => Content::Foreign,
        Some(_) | None => content_of(&found.path),
    };
    found.what = What::Broken { why: error.to_string(), content };
}

/// The memory that a link leads to and that has no name there, or not yet: it may be about to get one. The link tells its
/// inode, `spinwire.NAME.INODE`.
fn memory_without_name(error: &MapError) -> Option<FileKey> {
    let MapError::File { path, problem: Problem::TargetMissing } = error else {
        return None;
    };
    let (_, inode) = path.to_str()?.rsplit_once('.')?;
    let mount = fs::metadata(path.parent()?).ok()?;
    Some(FileKey::new(mount.dev(), inode.parse().ok()?))
}

/// Bytes of a header.
const HEADER_BYTES: usize = size_of::<SegmentHeader>();

/// Looks at the beginning of a file, follows nothing and waits for nothing.
fn content_of(path: &Path) -> Content {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let regular = |file: &File| file.metadata().is_ok_and(|m| m.is_file());
    let Some(file) = opened.ok().filter(regular) else {
        return Content::Unreadable;
    };
    let mut start = Vec::new();
    let most = u64::try_from(HEADER_BYTES).unwrap_or(0);
    if file.take(most).read_to_end(&mut start).is_err() {
        return Content::Unreadable;
    }
    if start.starts_with(&MAGIC.to_le_bytes()) {
        Content::Segment
    } else if start.iter().all(|byte| *byte == 0) {
        Content::Unfinished
    } else if start.starts_with(b"spinwire-link ") {
        Content::Link
    } else {
        Content::Foreign
    }
}
