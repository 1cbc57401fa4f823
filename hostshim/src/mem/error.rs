//! Why memory could not be had.

use core::fmt;
use std::path::PathBuf;

use super::{NameError, PageKind, Refused};
use crate::error::OsError;

/// A mapping could not be made, found or removed. The text names the remedy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MapError {
    /// Zero bytes were asked for.
    Zero,
    /// More bytes than an address space has.
    TooLarge {
        /// That many.
        bytes: usize,
    },
    /// The name is not one.
    Name(NameError),
    /// The pages that alone would do could not be had.
    Pages {
        /// Those.
        kind: PageKind,
        /// What was tried.
        refused: Vec<Refused>,
    },
    /// The file system of the segment directory has too little room.
    DirectoryTooSmall {
        /// The segment directory.
        directory: PathBuf,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that are left.
        free: u64,
    },
    /// Something has that name already.
    Exists {
        /// Its file.
        path: PathBuf,
    },
    /// Nothing has that name.
    Missing {
        /// Where its file would be.
        path: PathBuf,
    },
    /// The name is a symbolic link, which is never followed.
    Symlink {
        /// That one.
        path: PathBuf,
    },
    /// The name belongs to something that is not a file.
    NotRegular {
        /// That one.
        path: PathBuf,
    },
    /// The file belongs to another user.
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// This process's effective user.
        euid: u32,
    },
    /// Other users may read or write the file.
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permissions, as chmod(2) takes them.
        mode: u32,
    },
    /// The file is empty or not a whole number of pages: half-created, cut off, or something else.
    Size {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The file says where the memory lies, but not in a way that can be understood.
    Link {
        /// The file.
        path: PathBuf,
        /// The field of it that is wrong or missing.
        field: &'static str,
    },
    /// The memory is in the hands of its creator, who is gone.
    CreatorGone {
        /// The file that names the creator.
        path: PathBuf,
        /// The creator.
        pid: u32,
    },
    /// The file names a place where the memory is not (yet, or any more).
    TargetMissing {
        /// The file that has the name.
        path: PathBuf,
        /// The place.
        target: PathBuf,
    },
    /// The kernel said no.
    Os(OsError),
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.write_str("a mapping of zero bytes was asked for; remedy: ask for at least one"),
            Self::TooLarge { bytes } => {
                write!(f, "a mapping of {bytes} bytes does not fit an address space; remedy: ask for less")
            }
            Self::Name(e) => e.fmt(f),
            Self::Pages { kind, refused } => {
                write!(f, "no {kind} pages to be had")?;
                refused.iter().try_for_each(|refused| write!(f, "\n  {refused}"))
            }
            Self::DirectoryTooSmall { directory, needed, free } => {
                let directory = directory.display();
                let size = needed.saturating_sub(*free).max(1).div_ceil(1 << 20);
                write!(
                    f,
                    "{directory} too small: {needed} bytes needed, {free} free; remedy: delete something there, \
                     or make it at least {size} MiB larger: mount -o remount,size=... {directory}"
                )
            }
            Self::Os(e) => e.fmt(f),
            Self::Exists { .. }
            | Self::Missing { .. }
            | Self::Symlink { .. }
            | Self::NotRegular { .. }
            | Self::Owner { .. }
            | Self::Mode { .. }
            | Self::Size { .. }
            | Self::Link { .. }
            | Self::CreatorGone { .. }
            | Self::TargetMissing { .. } => self.fmt_file(f),
        }
    }
}

impl MapError {
    /// The half of the texts that is about one file.
    fn fmt_file(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists { path } => write!(
                f,
                "{} exists already; remedy: join it, choose another name, or remove it if its owners are dead",
                path.display()
            ),
            Self::Missing { path } => {
                write!(f, "{} does not exist; remedy: start the side that creates it first", path.display())
            }
            Self::Symlink { path } => write!(
                f,
                "{} is a symbolic link, which is not followed; remedy: remove it, somebody put it there",
                path.display()
            ),
            Self::NotRegular { path } => {
                write!(f, "{} is not a regular file; remedy: remove it, or choose another name", path.display())
            }
            Self::Owner { path, uid, euid } => write!(
                f,
                "{} belongs to user {uid}, and this process runs as user {euid}; \
                 remedy: run both as one user, or choose another name",
                path.display()
            ),
            Self::Mode { path, mode } => write!(
                f,
                "{} has mode {mode:04o}, which lets others in; remedy: chmod 0600 it if you trust its contents",
                path.display()
            ),
            Self::Size { path, bytes } => write!(
                f,
                "{} has {bytes} bytes, which is no segment: it is half-created, cut off, or something else; \
                 remedy: try again, then remove it",
                path.display()
            ),
            Self::Link { path, field } => write!(
                f,
                "{} does not say where its memory lies: the field '{field}' is wrong; remedy: remove it",
                path.display()
            ),
            Self::CreatorGone { path, pid } => write!(
                f,
                "{} is held by process {pid}, which has ended or closed it; remedy: remove it and start anew",
                path.display()
            ),
            Self::TargetMissing { path, target } => write!(
                f,
                "{} says that its memory is {}, which does not exist; remedy: try again, then remove it",
                path.display(),
                target.display()
            ),
            _ => Ok(()),
        }
    }
}

impl core::error::Error for MapError {}

impl From<NameError> for MapError {
    fn from(value: NameError) -> Self {
        Self::Name(value)
    }
}

impl From<OsError> for MapError {
    fn from(value: OsError) -> Self {
        Self::Os(value)
    }
}
