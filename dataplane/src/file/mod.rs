//! Files over io_uring: reads, writes and syncs of owned buffers, one by one or as chains, for services that store.
//!
//! ```text
//!    your service, one thread on one core
//!      loop { files.turn(now, budget);  while let Some(done) = files.poll() { .. chain, read, write, sync .. } }
//!                 |                                        ^
//!   read, write, sync, chain: loans go in                  | FileCompletion: result of each entry, and its loan
//!                 v                                        |
//!    +-----------------------------------------------------------------+
//!    | rows     a file: descriptor, what direct I/O wants of it        |
//!    | ops      a chain of entries: what is done, what is still wanted |
//!    | chains   what the kernel has of it (crate::chain)               |
//!    +-----------------------------------------------------------------+
//!                 | linked submissions, one call a turn    ^ completions
//!                 v                                        |
//!    | uring::Ring                                                     |
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | `service` | the tables, what callers call, turns |
//! | `sequence` | a chain while it is put together, with all that is checked of an entry |
//! | `op` | one chain and its entries |
//! | `drive` | turns chains into linked submissions, as far as there is room for them |
//! | `arrive` | turns completions into results; goes on where a chain broke for a passing reason |
//!
//! *A chain is done in order.* Entry 1 begins when entry 0 is whole, and so on; a record of a log is write, write, sync. Each entry has its
//! own [`FileCompletion`], in the order of the chain. An entry is `Ok` only if it is whole and all before it are: a sync that is `Ok` has
//! made the writes before it in its chain durable.
//!
//! *A link of the kernel is not believed.* It does not always break where a write was short: of a direct write that the caller completes the
//! kernel takes the result without failing the link (Linux 6.6 to 6.18, `io_uring/rw.c`, `io_req_rw_complete`). So whatever was behind an entry
//! that is not whole is done again, the sync above all, and what is reported rests on the results alone.
//!
//! *What falls short goes on by itself* from the exact byte; of a file with direct I/O from the last aligned one before it, which writes the same
//! bytes again at the same place. So does what was interrupted, or cut in two because the kernel had no memory for it.
//!
//! *Buffers* are loans of the ring's arena. Where the host has registered the arena, the kernel finds its pages by index
//! (`READ_FIXED`, `WRITE_FIXED`), else by address.
//!
//! # Files and streams on one ring
//!
//! Completions of files carry a tag of their own ([`OpTag::File`](crate::id::OpTag::File)), though both services have chains. So one ring can carry
//! both: [`services`](crate::services) harvests, gives each completion to whose it is ([`Files::take_in`]), stages ([`Files::stage`]), and
//! submits once. [`Files`' own turn](crate::poll::Poll::turn) does just that for a ring with files alone.
//!
//! Invariants: (1) a loan is with the caller, or with one entry of one op; (2) an entry gives its loan back once, after the kernel's last word
//! about it, and never where that word cannot come any more; (3) a row is free only when no entry names it.

mod arrive;
mod drive;
mod op;
mod sequence;
mod service;

use core::fmt;

use crate::raw::loan::Loan;
use crate::table::Key;

pub use sequence::FileChain;
pub use service::{Files, PlaceError};

/// Entries in the longest chain.
pub const ENTRIES_MAX: u16 = 32;
/// Bytes that one entry may move: `MAX_RW_COUNT` of Linux (read(2), "Notes").
pub const ENTRY_BYTES_MAX: u32 = 0x7fff_f000;

/// A file as its [`Files`] knows it: slot and generation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FileId(pub(crate) Key);

impl FileId {
    /// Its slot, below [`FileConfig::files`]: for tables of the caller's own.
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.0.slot()
    }
}

/// A chain that was submitted, or a single operation: slot and generation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OpId(pub(crate) Key);

impl OpId {
    /// Its slot, below [`FileConfig::operations`]: for tables of the caller's own.
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.0.slot()
    }
}

/// What a file wants of offsets, lengths and addresses. The host finds it out (statx(2), `STATX_DIOALIGN`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileShape {
    /// Offsets and lengths are multiples of it, in bytes: a power of two. 1 without direct I/O.
    pub offset_align: u32,
    /// Addresses of buffers are multiples of it, in bytes: a power of two.
    pub memory_align: u32,
}

impl FileShape {
    /// Without direct I/O: any.
    pub const BUFFERED: Self = Self { offset_align: 1, memory_align: 1 };

    /// Whether it wants anything at all.
    #[must_use]
    pub const fn is_direct(&self) -> bool {
        self.offset_align > 1
    }
}

/// Where a file is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileRef {
    /// A descriptor, which stays the caller's, and open as long as the file is here.
    Descriptor(i32),
    /// A slot of the ring's table of files.
    Slot(u32),
}

/// How many of everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileConfig {
    /// Files.
    pub files: u32,
    /// Chains and single operations that are put together, under way or not yet polled.
    pub operations: u32,
    /// Entries of the longest chain, 1 to [`ENTRIES_MAX`], and no more than the ring has.
    pub entries_max: u16,
    /// Buffers that [`Files::lend`] hands out, and their bytes: whole pages.
    pub buffers: (u32, usize),
    /// The host has registered the arena of the ring as buffers 0, 1, .. of [`FIXED_BYTES`](crate::raw::kernel_memory::FIXED_BYTES) each.
    pub fixed_buffers: bool,
}

impl Default for FileConfig {
    /// 16 files, 128 operations, chains of 8, 64 buffers of 64 KiB.
    fn default() -> Self {
        Self {
            files: 16,
            operations: 128,
            entries_max: 8,
            buffers: (64, 64 << 10),
            fixed_buffers: false,
        }
    }
}

/// What an entry does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EntryKind {
    /// Reads into its loan.
    Read,
    /// Writes what its loan holds.
    Write,
    /// Brings the data of the file to the disk, fdatasync(2).
    Sync,
}

/// Why an entry is not whole.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EntryError {
    /// The kernel refused it: the number of errno(3).
    Errno(i32),
    /// The file ends before the bytes that were to be read. Those there are, the loan holds.
    EndOfFile,
    /// The kernel writes nothing, and does not say why.
    NoProgress,
    /// It was not begun, or does not count, because this entry of its chain is not whole.
    After(u16),
    /// The caller cancelled it.
    Cancelled,
    /// The kernel says that it moved more than it was asked to.
    Overrun,
    /// The ring is lost. If the entry was under way its loan does not come back: the kernel may still have it.
    RingLost,
}

impl fmt::Display for EntryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(errno) => write!(f, "failed with errno {errno}"),
            Self::EndOfFile => f.write_str("end of file: read what is there, or write it first"),
            Self::NoProgress => f.write_str("the kernel writes nothing of it; look at the disk"),
            Self::After(entry) => {
                write!(f, "not done because entry {entry} of its chain failed")
            }
            Self::Cancelled => f.write_str("cancelled"),
            Self::Overrun => f.write_str("more bytes moved than were asked for; close the ring"),
            Self::RingLost => f.write_str("the ring is lost; open another"),
        }
    }
}

impl core::error::Error for EntryError {}

/// What became of one entry.
#[derive(Debug)]
pub struct FileCompletion<'m> {
    /// Of which chain, or which single operation.
    pub op: OpId,
    /// Which entry of it, from 0.
    pub entry: u16,
    /// Whether it was the last of its chain. The id is stale then.
    pub last: bool,
    /// What it did.
    pub kind: EntryKind,
    /// To which file.
    pub file: FileId,
    /// The number that was given with it.
    pub context: u64,
    /// Bytes that were moved, also where it failed.
    pub bytes: u32,
    /// Whether it is whole, and all before it.
    ///
    /// # Errors
    /// Why not.
    pub result: Result<(), EntryError>,
    /// Its buffer. Of a read it holds what was read.
    pub loan: Option<Loan<'m>>,
}

/// What a service has seen and done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FileCounters {
    /// Linked submissions, each of them one chain or the rest of one.
    pub launched: u64,
    /// Of those, such as go on where one before broke.
    pub resumed: u64,
    /// Bytes read and bytes written, as the kernel reports them.
    pub read_bytes: u64,
    /// See above.
    pub written_bytes: u64,
    /// Entries that named a registered buffer.
    pub fixed: u64,
    /// Completions that belong to nothing.
    pub stale: u64,
}
