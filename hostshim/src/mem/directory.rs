//! The folder of names, and what lies in it.
//!
//! ```text
//!   /dev/shm/spinwire.quotes     the memory itself, or a short text that says where it is
//! ```
//!
//! Whoever has the name in this folder has the segment; there is no second place to look. Nothing found here is believed:
//! a name is opened without following symlinks, and has to be a regular file of this user that nobody else may touch.

use core::time::Duration;
use std::env;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use super::draft::Draft;
use super::link::{self, Link};
use super::{Backing, MapError, Mount, Problem, SegmentName, file_bytes, hugetlb};
use crate::error::OsError;
use crate::liveness::Life;
use crate::raw::syscall;

const PREFIX: &str = "spinwire.";
const VARIABLE: &str = "SPINWIRE_SHM_DIR";
const DEFAULT: &str = "/dev/shm";
/// stat(2) counts blocks of this size, whatever the file system's own.
const STAT_BLOCK_BYTES: u64 = 512;
/// Where the folder of segments is not there.
const NO_FOLDER: &str = "sudo mkdir -p /dev/shm && sudo mount -t tmpfs tmpfs /dev/shm # or point SPINWIRE_SHM_DIR to a folder";
/// For so long a remover waits for another one, which needs microseconds.
const TURN_MAX: Duration = Duration::from_secs(1);

/// The folder that holds the names of segments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentDir {
    path: PathBuf,
}

/// One name in the folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The segment's name.
    pub name: String,
    /// Its file in the folder.
    pub path: PathBuf,
    /// The user whom that file belongs to.
    pub uid: u32,
    /// Where the memory is and how many bytes it has, or why it cannot be joined.
    pub state: Result<(Backing, u64), MapError>,
}

/// Which file it is, whatever its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// A segment that was found and checked, not yet mapped.
#[derive(Debug)]
pub(super) struct Located {
    /// What to map.
    pub(super) file: File,
    pub(super) bytes: u64,
    pub(super) backing: Backing,
    /// The file that has the name.
    pub(super) claim: FileId,
}

impl SegmentDir {
    /// The folder that the environment variable `SPINWIRE_SHM_DIR` names, else `/dev/shm`.
    #[must_use]
    pub fn from_env() -> Self {
        let chosen = env::var_os(VARIABLE).filter(|v| !v.is_empty());
        Self { path: chosen.map_or_else(|| PathBuf::from(DEFAULT), PathBuf::from) }
    }

    /// Any folder; a tmpfs is best.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tmpfs that the folder is on; none where it is on something else.
    pub(super) fn mount(&self) -> Option<Mount> {
        let fs = syscall::file_system(&self.path).ok().filter(|fs| fs.is_tmpfs())?;
        let path = fs::canonicalize(&self.path).ok()?;
        let device = |path: &Path| fs::metadata(path).ok().map(|m| m.dev());
        let here = device(&path)?;
        // The highest folder of the same device is where it is mounted.
        let point = path.ancestors().take_while(|above| device(above) == Some(here)).last()?;
        Some(Mount { point: point.to_path_buf(), bytes: fs.total_bytes()? })
    }

    /// Whether it can be read, and is on no file system that nobody can write to: to make a segment takes that, and so does to join one.
    /// Nothing is made; whether there is room is not asked.
    pub(crate) fn is_of_use(&self) -> Result<(), OsError> {
        let operation = "the folder of segments";
        fs::read_dir(&self.path).map_err(|e| refused_by(operation, &self.path, &e))?;
        match syscall::may_write(&self.path) {
            // Whoever may not make segments there may have been given one.
            Err(errno) if errno.number() == libc::EROFS => {
                Err(OsError::at(operation, &self.path, errno))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Makes a file and lets it vanish: the proof that segments can be made here.
    pub(crate) fn try_file(&self) -> Result<(), OsError> {
        Draft::new(&self.path).map(drop)
    }

    /// The name that a file in such a folder stands for.
    pub(super) fn name_in(path: &Path) -> Option<&str> {
        path.file_name()?.to_str()?.strip_prefix(PREFIX)
    }

    pub(super) fn file_of(&self, name: &SegmentName) -> PathBuf {
        self.path.join(format!("{PREFIX}{name}"))
    }

    /// Finds the segment behind `name` and checks everything that can be checked before mapping it.
    pub(super) fn locate(&self, name: &SegmentName) -> Result<Located, MapError> {
        let path = self.file_of(name);
        let mut file = open_strictly(&path, Problem::Missing)?;
        let metadata = check(&file, &path)?;
        let claim = FileId::of(&metadata);
        let bytes = metadata.len();
        if (1..=link::BYTES_MAX).contains(&bytes) {
            let link = read_link(&mut file, &path)?;
            return follow(&link, &path, claim);
        }
        if bytes == 0 || !bytes.is_multiple_of(file_bytes(syscall::page_bytes())) {
            return Err(MapError::file(&path, Problem::Size { bytes }));
        }
        check_reserved(&file, &metadata, &path)?;
        Ok(Located { file, bytes, backing: Backing::File(path), claim })
    }

    /// Removes the name, and the memory as soon as nobody maps it any more. Who has joined keeps what it has. Asks nobody
    /// whether the owners live: see [`super::SharedMapping::unlink`] for removing exactly what was looked at.
    ///
    /// # Errors
    /// [`Problem::Missing`] where there is nothing, [`MapError::Name`] and [`MapError::Os`].
    pub fn unlink(&self, name: &str) -> Result<(), MapError> {
        let name = SegmentName::new(name)?;
        let _turn = self.take_turn(&name);
        self.unlink_in_turn(&name)
    }

    /// [`unlink`](Self::unlink), if the name still stands for the file `claim`. Returns whether it did.
    pub(super) fn unlink_exactly(
        &self,
        name: &SegmentName,
        claim: FileId,
    ) -> Result<bool, MapError> {
        // Without it, another could remove the name after the look at it, and a third give it to a new segment.
        let _turn = self.take_turn(name);
        self.unlink_claim(name, claim)
    }

    /// [`unlink_exactly`](Self::unlink_exactly), if `may` says so, which is asked while nobody can come in [by name](Self::while_named).
    pub(super) fn unlink_if(
        &self,
        (name, claim): (&SegmentName, FileId),
        may: impl FnOnce() -> bool,
    ) -> Result<bool, MapError> {
        match self.take_turn(name) {
            Some(_turn) if may() => self.unlink_claim(name, claim),
            Some(_) | None => Ok(false),
        }
    }

    fn unlink_claim(&self, name: &SegmentName, claim: FileId) -> Result<bool, MapError> {
        if !self.still_names(name, claim) {
            return Ok(false);
        }
        match self.unlink_in_turn(name) {
            Ok(()) => Ok(true),
            Err(e) if e.problem() == Some(Problem::Missing) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Does something while nobody removes the name, if it still stands for the file `claim`.
    ///
    /// # Errors
    /// [`Problem::Missing`] where it does not.
    pub(super) fn while_named<R>(
        &self,
        (name, claim): (&SegmentName, FileId),
        act: impl FnOnce() -> R,
    ) -> Result<R, MapError> {
        let _turn = self.take_turn(name);
        if self.still_names(name, claim) {
            return Ok(act());
        }
        Err(MapError::file(&self.file_of(name), Problem::Missing))
    }

    /// Locks the file that `name` stands for (flock(2)), as everybody does who removes a name: while it is locked, the name
    /// stands for it or for nothing. `None` where there is no file of this user, or somebody has held the lock for
    /// [`TURN_MAX`]: a process that was stopped in the middle keeps nobody from removing.
    pub(super) fn take_turn(&self, name: &SegmentName) -> Option<File> {
        let path = self.file_of(name);
        let began = Instant::now();
        loop {
            let file = open_strictly(&path, Problem::Missing).ok()?;
            let claim = FileId::of(&check(&file, &path).ok()?);
            loop {
                match file.try_lock() {
                    Ok(()) => break,
                    Err(TryLockError::WouldBlock) if began.elapsed() < TURN_MAX => {
                        thread::sleep(Duration::from_millis(1));
                    }
                    Err(_) => return None,
                }
            }
            if self.still_names(name, claim) {
                return Some(file);
            }
            if began.elapsed() > TURN_MAX {
                return None;
            }
        }
    }

    pub(super) fn unlink_in_turn(&self, name: &SegmentName) -> Result<(), MapError> {
        let path = self.file_of(name);
        // Only a link that passes every check is followed, and only to the very file that was made along with it.
        if let Ok(mut file) = open_strictly(&path, Problem::Missing)
            && let Ok(metadata) = check(&file, &path)
            && (1..=link::BYTES_MAX).contains(&metadata.len())
            && let Ok(Link::Hugetlbfs(target)) = read_link(&mut file, &path)
            && is_memory_of(&target, name)
        {
            remove(&target, true)?;
        }
        remove(&path, false)
    }

    /// Every name in the folder, sorted; other users' too, and what cannot be joined with the reason.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, MapError> {
        let refused = |e: io::Error| MapError::Os(refused_by("read the folder", &self.path, &e));
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(refused)? {
            let file_name = entry.map_err(refused)?.file_name();
            let Some(name) = file_name.to_string_lossy().strip_prefix(PREFIX).map(str::to_owned)
            else {
                continue;
            };
            let path = self.path.join(&file_name);
            // Gone between the reading of the folder and now: no longer in the list.
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                continue;
            };
            let located =
                SegmentName::new(&name).map_err(MapError::from).and_then(|name| self.locate(&name));
            let state = located.map(|l| (l.backing, l.bytes));
            found.push(Listed { name, path, uid: metadata.uid(), state });
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Does `name` still stand for the file `claim`?
    pub(super) fn still_names(&self, name: &SegmentName, claim: FileId) -> bool {
        fs::symlink_metadata(self.file_of(name)).is_ok_and(|m| FileId::of(&m) == claim)
    }
}

/// What the kernel says of the folder of segments.
pub(super) fn refused_by(operation: &'static str, folder: &Path, error: &io::Error) -> OsError {
    let refused = OsError::io(operation, folder, error);
    let is_there = !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    if is_there { refused } else { refused.with_remedy(NO_FOLDER) }
}

/// Removes a file, never what a symlink points to.
pub(super) fn remove(path: &Path, may_be_absent: bool) -> Result<(), MapError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound && may_be_absent => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Err(MapError::file(path, Problem::Missing))
        }
        Err(e) => Err(OsError::io("unlink", path, &e).into()),
    }
}

/// The file that is to hold a segment's memory on the hugetlbfs `mount`. The number of its inode makes the name one that
/// no other file there has, because segments of several folders, and leftovers, may share the mount.
pub(super) fn target_on(mount: &Path, name: &SegmentName, memory: FileId) -> PathBuf {
    mount.join(format!("{PREFIX}{name}.{}", memory.inode))
}

/// Is `target` what [`target_on`] gave to the segment `name`, and not another segment's memory?
fn is_memory_of(target: &Path, name: &SegmentName) -> bool {
    let (Some(mount), Ok(found)) = (target.parent(), fs::symlink_metadata(target)) else {
        return false;
    };
    target_on(mount, name, FileId::of(&found)) == target && hugetlb::has_huge_blocks(mount)
}

/// Opens for reading and writing; waits for nothing, follows nothing.
fn open_strictly(path: &Path, if_absent: Problem) -> Result<File, MapError> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    opened.map_err(|e| match e.raw_os_error() {
        Some(libc::ENOENT) => MapError::file(path, if_absent),
        Some(libc::ELOOP) => MapError::file(path, Problem::Symlink),
        Some(libc::EISDIR | libc::ENXIO) => MapError::file(path, Problem::NotRegular),
        Some(libc::EACCES) => denied(path, &e),
        _ => OsError::io("open", path, &e).into(),
    })
}

/// Tells whose file it is that may not be opened.
fn denied(path: &Path, error: &io::Error) -> MapError {
    let euid = syscall::effective_uid();
    match fs::symlink_metadata(path) {
        Ok(m) if m.uid() != euid => MapError::file(path, Problem::Owner { uid: m.uid(), euid }),
        Ok(_) | Err(_) => OsError::io("open", path, error).into(),
    }
}

/// A regular file of this user, closed to all others.
fn check(file: &File, path: &Path) -> Result<Metadata, MapError> {
    let metadata = file.metadata().map_err(|e| OsError::io("fstat", path, &e))?;
    let (uid, euid) = (metadata.uid(), syscall::effective_uid());
    let mode = metadata.mode() & 0o7777;
    let problem = if !metadata.is_file() {
        Problem::NotRegular
    } else if uid != euid {
        Problem::Owner { uid, euid }
    } else if mode & !0o600 != 0 {
        Problem::Mode { mode }
    } else {
        return Ok(metadata);
    };
    Err(MapError::file(path, problem))
}

/// Every page of a segment is there from the start, so a file with holes is none. To map it would take what is left of the
/// folder's memory, or end in SIGBUS where there is none left.
fn check_reserved(file: &File, metadata: &Metadata, path: &Path) -> Result<(), MapError> {
    let (bytes, reserved) = (metadata.len(), metadata.blocks().saturating_mul(STAT_BLOCK_BYTES));
    // Others than tmpfs count blocks in ways of their own, compressed for instance.
    if reserved < bytes && syscall::file_system(&descriptor(file)).is_ok_and(|fs| fs.is_tmpfs()) {
        return Err(MapError::file(path, Problem::Sparse { bytes, reserved }));
    }
    Ok(())
}

/// A path to an open file itself, whatever has its name by now.
fn descriptor(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn read_link(file: &mut File, path: &Path) -> Result<Link, MapError> {
    let mut text = String::new();
    let length = file.take(link::BYTES_MAX).read_to_string(&mut text);
    let parsed = length.map_err(|_not_text| "first line").and_then(|_length| Link::parse(&text));
    parsed.map_err(|field| MapError::file(path, Problem::Link { field }))
}

/// Goes where a link leads, and checks what is there as strictly as the link itself.
fn follow(link: &Link, claim_path: &Path, claim: FileId) -> Result<Located, MapError> {
    let (file, path, backing) = match link {
        Link::Hugetlbfs(target) => {
            let file = open_strictly(target, Problem::TargetMissing)?;
            (file, target.clone(), Backing::Hugetlbfs(target.clone()))
        }
        Link::Memfd { creator, fd, inode } => {
            let pid = creator.pid;
            let gone = || MapError::file(claim_path, Problem::CreatorGone { pid });
            if let Life::Dead(_) = creator.life() {
                return Err(gone());
            }
            let path = PathBuf::from(format!("/proc/{pid}/fd/{fd}"));
            // Here alone a link is followed: this one is the kernel's own.
            // Nothing is waited for: the descriptor may be anything by now.
            let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
            let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path);
            let file = opened.map_err(|e| {
                if e.kind() == io::ErrorKind::NotFound {
                    gone()
                } else {
                    OsError::io("open", &path, &e).into()
                }
            })?;
            let metadata = file.metadata().map_err(|e| OsError::io("fstat", &path, &e))?;
            if metadata.ino() != *inode {
                return Err(gone());
            }
            (file, path, Backing::Memfd { pid })
        }
    };
    let bytes = check(&file, &path)?.len();
    // Through the descriptor that was checked, not through the name, which could have changed hands.
    if !hugetlb::has_huge_blocks(&descriptor(&file)) {
        return Err(MapError::file(claim_path, Problem::Link { field: "kind" }));
    }
    if bytes == 0 || !bytes.is_multiple_of(file_bytes(super::HUGE_BYTES)) {
        return Err(MapError::file(&path, Problem::Size { bytes }));
    }
    Ok(Located { file, bytes, backing, claim })
}
