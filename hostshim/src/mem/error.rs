//! Why memory could not be had.

use core::fmt;
use std::path::{Path, PathBuf};

use super::{NameError, PageKind, Refused, SegmentDir};
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
        /// The file system that can be made larger; none where it is no tmpfs.
        mount: Option<Mount>,
    },
    /// The file that has the name, or should have it, is not as it must be.
    File {
        /// That file.
        path: PathBuf,
        /// What is the matter with it.
        problem: Problem,
    },
    /// The kernel said no.
    Os(OsError),
}

/// A tmpfs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
}

/// What can be the matter with the file behind a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// Something has that name already.
    Exists,
    /// Nothing has that name.
    Missing,
    /// It is a symbolic link, which is never followed.
    Symlink,
    /// It is not a regular file.
    NotRegular,
    /// It belongs to another user.
    Owner {
        /// Its owner.
        uid: u32,
        /// This process's effective user.
        euid: u32,
    },
    /// Other users may read or write it.
    Mode {
        /// Its permissions, as chmod(2) takes them.
        mode: u32,
    },
    /// It is empty or not a whole number of pages: half-created, cut off, or something else.
    Size {
        /// Its size.
        bytes: u64,
    },
    /// It has holes: a size without the memory for it, which no segment ever has.
    Sparse {
        /// Its size.
        bytes: u64,
        /// How much of that is there.
        reserved: u64,
    },
    /// It should say where the memory lies, but not in a way that can be understood.
    Link {
        /// The field of it that is wrong or missing.
        field: &'static str,
    },
    /// It names a creator that holds the memory, and that process has ended or let go of it.
    CreatorGone {
        /// The creator.
        pid: u32,
    },
    /// Another file says that the memory is here, and it is not (yet, or any more).
    TargetMissing,
}

impl MapError {
    pub(super) fn file(path: &Path, problem: Problem) -> Self {
        Self::File { path: path.to_path_buf(), problem }
    }

    /// What is the matter with the file, where that is the reason.
    #[must_use]
    pub const fn problem(&self) -> Option<Problem> {
        match self {
            Self::File { problem, .. } => Some(*problem),
            Self::Zero
            | Self::TooLarge { .. }
            | Self::Name(_)
            | Self::Pages { .. }
            | Self::DirectoryTooSmall { .. }
            | Self::Os(_) => None,
        }
    }
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => {
                f.write_str("a mapping of zero bytes was asked for; remedy: ask for at least one")
            }
            Self::TooLarge { bytes } => {
                write!(
                    f,
                    "a mapping of {bytes} bytes does not fit an address space; remedy: ask for less"
                )
            }
            Self::Name(e) => e.fmt(f),
            Self::Pages { kind, refused } => {
                write!(f, "no {kind} pages to be had")?;
                refused.iter().try_for_each(|refused| write!(f, "\n  {refused}"))
            }
            Self::DirectoryTooSmall { directory, needed, free, mount } => {
                let directory = directory.display();
                write!(f, "{directory} too small: {needed} bytes needed, {free} free; remedy: ")?;
                match mount {
                    Some(Mount { point, bytes }) => {
                        let wanted =
                            bytes.saturating_add(needed.saturating_sub(*free)).div_ceil(1 << 20);
                        write!(f, "mount -o remount,size={wanted}M {}", point.display())
                    }
                    None => {
                        f.write_str("free some of it, or point SPINWIRE_SHM_DIR to a larger tmpfs")
                    }
                }
            }
            Self::File { path, problem } => {
                write!(f, "{} {problem}", path.display())?;
                match SegmentDir::name_in(path) {
                    Some(name) if *problem == Problem::Exists => write!(f, ": spinwire rm {name}"),
                    _ => Ok(()),
                }
            }
            Self::Os(e) => e.fmt(f),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists => f.write_str(
                "exists already; remedy: join it, choose another name, or remove it where its owners are dead",
            ),
            Self::Missing => f.write_str("does not exist; remedy: start the side that creates it first"),
            Self::Symlink => f.write_str(
                "is a symbolic link, which is not followed; remedy: remove it, or choose another name",
            ),
            Self::NotRegular => {
                f.write_str("is not a regular file; remedy: remove it, or choose another name")
            }
            Self::Owner { uid, euid } => write!(
                f,
                "belongs to user {uid}, and this process runs as user {euid}; \
                 remedy: run both sides as one user, or choose another name"
            ),
            Self::Mode { mode } => write!(
                f,
                "has mode {mode:04o}, which lets other users in; \
                 remedy: remove it, or chmod 0600 it if you trust what it holds"
            ),
            Self::Size { bytes } => write!(
                f,
                "has {bytes} bytes, which is no segment: half-created, cut off, or something else; \
                 remedy: try again, then remove it"
            ),
            Self::Sparse { bytes, reserved } => write!(
                f,
                "has {bytes} bytes and memory for {reserved} of them, which is no segment: something else, or damaged; \
                 remedy: remove it"
            ),
            Self::Link { field } => write!(
                f,
                "does not say where its memory lies: the field '{field}' is wrong; remedy: remove it"
            ),
            Self::CreatorGone { pid } => write!(
                f,
                "is held by process {pid}, which has ended or let go of it; remedy: remove it and create it anew"
            ),
            Self::TargetMissing => f.write_str(
                "should hold the memory and does not exist; remedy: try again, then remove the segment",
            ),
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
