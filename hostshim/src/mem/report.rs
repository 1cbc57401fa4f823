//! What a mapping got, and what it asked for in vain.

use core::fmt;
use std::path::PathBuf;

use super::PageKind;
use crate::error::{Errno, OsError};

/// What holds the memory of a mapping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Backing {
    /// Nothing with a name: private memory.
    Anonymous,
    /// A file on a hugetlbfs. It outlives its creator.
    Hugetlbfs(PathBuf),
    /// A memfd of huge pages in its creator's hands. Others can join only while that process lives and holds it; those
    /// who have joined keep the memory.
    Memfd {
        /// The creator.
        pid: u32,
    },
    /// A file in the segment directory, most often `/dev/shm`. It outlives its creator.
    File(PathBuf),
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("private memory"),
            Self::Hugetlbfs(path) => write!(f, "hugetlbfs {}", path.display()),
            Self::Memfd { pid } => write!(f, "memfd of process {pid}"),
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

/// Why pages of some kind were not given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No hugetlbfs with pages of 2 MiB is mounted.
    NoMount,
    /// The pool of 2 MiB pages has too few left.
    PoolTooSmall {
        /// Pages that are needed.
        needed: usize,
        /// Pages that were free when it was looked at; none where the kernel does not tell.
        free: Option<u64>,
    },
    /// The kernel took the advice and gave base pages all the same.
    NotGiven,
    /// The kernel said no.
    Os(OsError),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMount => f.write_str(
                "no hugetlbfs with 2M pages is mounted; \
                 remedy: mount -t hugetlbfs -o pagesize=2M,mode=1777 none /dev/hugepages",
            ),
            Self::PoolTooSmall { needed, free } => {
                write!(f, "{needed} free 2M pages needed, ")?;
                match free {
                    Some(free) => write!(f, "{free} there")?,
                    None => f.write_str("this kernel has none")?,
                }
                write!(
                    f,
                    "; remedy: sysctl -w vm.nr_hugepages={} or more",
                    needed.next_power_of_two().max(64)
                )
            }
            Self::NotGiven => f.write_str(
                "the kernel gave base pages; remedy: \
                 echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, and free some memory",
            ),
            Self::Os(e) => e.fmt(f),
        }
    }
}

/// One thing that was tried in vain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The pages that were asked for.
    pub kind: PageKind,
    /// Where: `pool`, `hugetlbfs`, `memfd` or `madvise`.
    pub by: &'static str,
    /// Why not.
    pub why: Refusal,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}: {}", self.kind, self.by, self.why)
    }
}

/// Can the pages of a mapping be swapped out?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Locking {
    /// No: locked by mlock(2).
    Locked,
    /// No: pages of the pool never are.
    NeverSwapped,
    /// Yes, if the machine swaps: the kernel refused the lock, most often because of `ulimit -l`.
    Refused(Errno),
    /// Yes: it was mapped for a look only.
    NotAsked,
}

impl fmt::Display for Locking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked => f.write_str("locked"),
            Self::NeverSwapped => f.write_str("never swapped"),
            Self::NotAsked => f.write_str("not to be locked"),
            Self::Refused(e) => write!(f, "not locked ({e}; remedy: ulimit -l unlimited)"),
        }
    }
}

/// What a mapping got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageReport {
    pub(super) page: PageKind,
    pub(super) len: usize,
    pub(super) huge_bytes: usize,
    pub(super) locking: Locking,
    pub(super) refused: Vec<Refused>,
}

impl PageReport {
    /// The pages it is made of.
    #[must_use]
    pub const fn page(&self) -> PageKind {
        self.page
    }

    /// How many of its bytes are in huge pages: all or none, except for transparent ones.
    #[must_use]
    pub const fn huge_bytes(&self) -> usize {
        self.huge_bytes
    }

    /// Whether it can be swapped out.
    #[must_use]
    pub const fn locking(&self) -> Locking {
        self.locking
    }

    /// What was tried before, in order, and why it failed.
    #[must_use]
    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }
}

impl fmt::Display for PageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages, {} KiB", self.page, self.len / 1024)?;
        if self.page == PageKind::Thp {
            write!(f, " ({} KiB of them huge)", self.huge_bytes / 1024)?;
        }
        write!(f, ", {}", self.locking)?;
        self.refused.iter().try_for_each(|refused| write!(f, "\n  not {refused}"))
    }
}
