//! Files for the data plane: opened with direct I/O where there is any, with their space reserved, and what each wants said.
//!
//! ```text
//!   open(2) O_DIRECT ──> statx(2) STATX_DIOALIGN ──> fallocate(2) ──> HostFile
//!      | EINVAL            | cannot                     | EOPNOTSUPP
//!      '--> buffered       '--> buffered, and why       '--> sparse
//! ```
//!
//! It is asked for with open(2) and not switched on later: a file of overlayfs lets it be switched on by fcntl(2) though the file system below has none,
//! and then every write fails.
//!
//! What reads and writes them is [`spinwire_dataplane::file`]; how its buffers are registered is
//! [`Uring::register_arena`](crate::uring::Uring::register_arena).

use core::fmt;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use spinwire_dataplane::file::{FileRef, FileShape};

use crate::error::{Errno, OsError};
use crate::raw::{file as raw, syscall};

/// How a file is to be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileOptions {
    /// To be written, too; and made where there is none.
    pub write: bool,
    /// What it holds is thrown away.
    pub truncate: bool,
    /// With direct I/O, where it can be had.
    pub direct: bool,
    /// Bytes from the first on that are reserved, so that no write finds the disk full; the file has at least that size then. 0: none.
    pub preallocate: u64,
}

impl Default for FileOptions {
    /// To be written, with direct I/O, nothing reserved.
    fn default() -> Self {
        Self { write: true, truncate: false, direct: true, preallocate: 0 }
    }
}

/// Whether reads and writes go past the page cache, and why not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirectIo {
    /// They do; statx(2) has said what it wants.
    Active,
    /// They do; nobody says what it wants, so that pages of 4 KiB are taken for enough.
    ActiveAssumed,
    /// It was not asked for.
    NotAsked,
    /// statx(2) says that this file cannot have it.
    Unsupported,
    /// The file system refuses it.
    Refused(Errno),
}

impl fmt::Display for DirectIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active => f.write_str("direct"),
            Self::ActiveAssumed => f.write_str("direct, alignment assumed"),
            Self::NotAsked => f.write_str("buffered, as asked"),
            Self::Unsupported => f.write_str("buffered: the file cannot have direct I/O"),
            Self::Refused(e) => write!(f, "buffered: no direct I/O here ({e})"),
        }
    }
}

/// What became of the space that was to be reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// None was asked for.
    NotAsked,
    /// It is reserved.
    Reserved,
    /// The file system reserves none; the file has the size, and the disk may be full when it is written.
    Sparse,
}

/// What is assumed of direct I/O where nobody says.
const ASSUMED: FileShape = FileShape { offset_align: 4096, memory_align: 4096 };

/// An open file. Its descriptor is closed on drop: not before the last operation on it was polled.
#[derive(Debug)]
pub struct HostFile {
    file: File,
    shape: FileShape,
    direct: DirectIo,
    space: Space,
}

impl HostFile {
    /// Opens `path`.
    ///
    /// # Errors
    /// What the kernel says to open(2), statx(2) or fallocate(2): ENOSPC where there is no room for what is to be reserved. That
    /// there is no direct I/O is none: see [`HostFile::direct`].
    pub fn open(path: &Path, options: &FileOptions) -> Result<Self, OsError> {
        let plain = || open(path, options, 0);
        let (file, direct, shape) = if options.direct {
            match open(path, options, libc::O_DIRECT) {
                Ok(file) => {
                    let said = settle(file.as_fd()).map_err(|e| OsError::at("statx", path, e))?;
                    (file, said.0, said.1)
                }
                // No direct I/O here.
                Err(e) if e.errno().number() == libc::EINVAL => {
                    (plain()?, DirectIo::Refused(e.errno()), FileShape::BUFFERED)
                }
                Err(e) => return Err(e),
            }
        } else {
            (plain()?, DirectIo::NotAsked, FileShape::BUFFERED)
        };
        let space =
            reserve(&file, options.preallocate).map_err(|e| OsError::at("fallocate", path, e))?;
        Ok(Self { file, shape, direct, space })
    }

    /// What it wants of offsets, lengths and addresses.
    #[must_use]
    pub const fn shape(&self) -> FileShape {
        self.shape
    }

    /// How the data plane names it. The file has to stay open meanwhile.
    #[must_use]
    pub fn file_ref(&self) -> FileRef {
        FileRef::Descriptor(self.file.as_raw_fd())
    }

    /// Whether it has direct I/O, and why not.
    #[must_use]
    pub const fn direct(&self) -> DirectIo {
        self.direct
    }

    /// What became of the space that was to be reserved.
    #[must_use]
    pub const fn space(&self) -> Space {
        self.space
    }

    /// Bytes that it has now.
    ///
    /// # Errors
    /// What the kernel says to fstat(2).
    pub fn bytes(&self) -> Result<u64, OsError> {
        let about = self.file.metadata();
        about.map(|about| about.len()).map_err(|e| OsError::new("fstat", Errno::from_io(&e)))
    }
}

impl AsFd for HostFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn open(path: &Path, options: &FileOptions, flags: i32) -> Result<File, OsError> {
    let opened = OpenOptions::new()
        .read(true)
        .write(options.write)
        .create(options.write)
        .truncate(options.truncate)
        .custom_flags(flags)
        .open(path);
    opened.map_err(|e| OsError::io("open", path, &e))
}

/// What a file that was opened for direct I/O wants, or that it cannot have it after all.
fn settle(file: BorrowedFd<'_>) -> Result<(DirectIo, FileShape), Errno> {
    let said = match raw::dio_alignment(file) {
        Ok(said) => said,
        // No such call, or nothing that it knows.
        Err(e) if matches!(e.number(), libc::ENOSYS | libc::EINVAL) => None,
        Err(e) => return Err(e),
    };
    Ok(match said {
        Some((0, _) | (_, 0)) => {
            raw::leave_direct(file)?;
            (DirectIo::Unsupported, FileShape::BUFFERED)
        }
        Some((offset_align, memory_align)) => {
            (DirectIo::Active, FileShape { offset_align, memory_align })
        }
        None => (DirectIo::ActiveAssumed, ASSUMED),
    })
}

fn reserve(file: &File, bytes: u64) -> Result<Space, Errno> {
    if bytes == 0 {
        return Ok(Space::NotAsked);
    }
    match syscall::reserve(file.as_fd(), bytes) {
        Ok(()) => Ok(Space::Reserved),
        Err(e) if matches!(e.number(), libc::EOPNOTSUPP | libc::ENOSYS) => {
            let has = file.metadata().map_err(|e| Errno::from_io(&e))?.len();
            if has < bytes {
                file.set_len(bytes).map_err(|e| Errno::from_io(&e))?;
            }
            Ok(Space::Sparse)
        }
        Err(e) => Err(e),
    }
}
