//! Memory: private arenas and named shared segments, in the largest pages that can be had.
//!
//! ```text
//!                     huge pages of the pool      transparent huge pages     base pages
//!   private arena     MAP_HUGETLB             ->  madvise, populate, look -> 4 KiB
//!   named segment     hugetlbfs file, memfd   ->  the same on /dev/shm    -> 4 KiB
//!                     \___________ refused: recorded, with the reason and the remedy ______/
//! ```
//!
//! Asking for huge pages and getting them are two things, so a mapping says which pages it **got** ([`Mapping::page`],
//! [`SharedMapping::page`]), and transparent ones count only when `/proc/self/smaps` shows them. What was tried in vain is
//! kept in its [`PageReport`].
//!
//! | file | what it holds |
//! |---|---|
//! | `arena` | private memory for tables and pools |
//! | `shared` | named memory: create, open, unlink |
//! | `directory` | the folder of names, and what lies in it |
//! | `draft` | files that get their name last |
//! | `link` | names whose memory lies elsewhere: on a hugetlbfs, in a memfd |
//! | `hugetlb` | the places that give huge pages of the pool |
//! | `settle` | populate, lock, verify: common to all |
//! | `name` | what a segment may be called |
//!
//! Invariants: every page of a mapping is present, or reserved where it cannot be, before it is handed out, so that no
//! later access ends in SIGBUS, however full the machine gets; a mapping unmaps itself on drop, and nothing here keeps a
//! reference into it.
//!
//! # What is not defended against
//!
//! Whoever may write a file may cut it short, or punch holes into it, while others have it mapped. Their next access to
//! what is gone then ends in SIGBUS. The kernel can forbid the first for a memfd (`F_SEAL_SHRINK`, which is set here), but
//! for no file with a path: those of tmpfs and hugetlbfs are born with `F_SEAL_SEAL`, and a memfd cannot be linked into
//! a folder of another mount. It forbids holes only together with writing, which is what a segment is for.
//!
//! So files are of mode 0600, and whatever belongs to another user or lets one in is refused before it is mapped. Who is
//! left, other processes of the same user and root, could as well send the signal itself.

mod arena;
mod directory;
mod draft;
mod error;
mod hugetlb;
mod link;
mod name;
mod report;
mod settle;
mod shared;

use core::fmt;

pub use arena::Mapping;
pub use directory::{Listed, SegmentDir};
pub use error::{MapError, Mount, Problem};
pub use name::{NameError, SegmentName};
pub use report::{Backing, Locking, PageReport, Refusal, Refused};
pub use shared::{SharedMapping, Staged, list, unlink};

/// The pages that a mapping is made of. Ordered: more is better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PageKind {
    /// Pages of the base size, 4 KiB on x86.
    Base4K,
    /// Transparent huge pages of 2 MiB, in part or in whole: see [`PageReport::huge_bytes`].
    Thp,
    /// Pages of 2 MiB out of the kernel's pool, in whole.
    Huge2M,
}

impl fmt::Display for PageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Base4K => "4K",
            Self::Thp => "thp",
            Self::Huge2M => "2M",
        })
    }
}

/// The pages that a caller wants.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum PagePolicy {
    /// The best that can be had: [`PageKind::Huge2M`], else [`PageKind::Thp`], else [`PageKind::Base4K`].
    #[default]
    Best,
    /// These or none: an error that says why they could not be had.
    Only(PageKind),
}

/// For how long newcomers can open a segment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Lasting {
    /// At least while its maker lives: a memfd will do, to which only the maker's descriptor leads.
    WithMaker,
    /// As long as it has its name, whoever has ended: memory with a path of its own.
    WithName,
}

impl PagePolicy {
    fn permits(self, kind: PageKind) -> bool {
        match self {
            Self::Best => true,
            Self::Only(wanted) => wanted == kind,
        }
    }
}

/// Bytes of a huge page, transparent or not.
const HUGE_BYTES: usize = 2 << 20;
/// Its binary logarithm, as MAP_HUGETLB and memfd_create want it.
const HUGE_BITS: u8 = 21;

/// `bytes` as a whole number of units; the error says how many bytes were asked for.
fn whole(bytes: usize, unit: usize) -> Result<usize, MapError> {
    if bytes == 0 {
        return Err(MapError::Zero);
    }
    let whole = bytes.checked_next_multiple_of(unit).filter(|n| isize::try_from(*n).is_ok());
    whole.ok_or(MapError::TooLarge { bytes })
}

/// A length that fits a file offset. Lengths have been through [`whole`], so it always does.
fn file_bytes(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
