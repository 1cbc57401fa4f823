//! Layouts of the memory that Spinwire shares: with other processes of this machine, and with other
//! hosts.
//!
//! This crate only says where things lie and how numbers are packed. It never touches shared
//! memory: loads and stores belong to `spinwire-dataplane`, file descriptors and system calls to
//! `spinwire-hostshim`.
//!
//! ```text
//!            who else sees the bytes             byte order             room
//!            ------------------------------      ------------------     -------------------------------
//!  shm       another process, same machine       the machine's own      segment, process, endpoint, lane,
//!                                                                       stats: the structures of a segment
//!  wire      another host                        little-endian, fixed   hello, message, datagram: what opens a
//!                                                                       byte stream, a frame of it, a datagram
//!  uring     the kernel, through io_uring        the machine's own      its entries, rings and registrations
//!  mlx5      a device (ConnectX, BlueField)      big-endian             work-queue entries and what they are made of
//! ```
//!
//! The structures of one segment, in the order in which they lie in it:
//!
//! ```text
//!  +---------------+----------------+------------------+---------------+-----------------------------+
//!  | SegmentHeader | ProcessEntry[] | EndpointEntry[]  | LaneHeader[]  | per lane: LaneCell[] spill[]|
//!  +---------------+----------------+------------------+---------------+-----------------------------+
//!    256 B           128 B each       256 B each         256 B each      64 B each       bytes
//! ```
//!
//! The rooms that carry the others: [`pod`] (what may be read from raw bytes, and [`layout!`]),
//! [`endian`] (numbers of a fixed byte order), [`word`] (numbers packed in one 64-bit word),
//! [`describe`] (a layout as data, its hash, and what others call it), `codes` (numbered states and kinds), [`abi`]
//! (magic, version, and the hash over everything above).
//!
//! Rules that every structure here keeps:
//!
//! 1. It is defined once, by [`layout!`], which checks size, alignment, each offset and the absence
//!    of padding while compiling.
//! 2. It is a whole number of 64-bit words, and in `shm` of 64-byte cache lines. No `usize`, no
//!    `bool`, no pointer: offsets are counted in bytes from the start of the segment.
//! 3. Fields that different sides write lie in different cache lines.
//! 4. All zero bytes are a valid value, and mean "free", "empty" or "none".
//! 5. A change of anything in `shm` or `wire` changes [`abi::LAYOUT_HASH`], and a peer that was
//!    built with another hash is refused.
//!
//! What lies in `uring` and in `mlx5` is as the kernel and the device want it: only rule 1 holds, and tests
//! compare it with their headers, and `uring` with a running kernel.
#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

#[cfg(not(target_pointer_width = "64"))]
compile_error!(
    "Spinwire needs 64-bit pointers: offsets within a segment are u64 and are used as indices"
);

#[cfg(not(target_endian = "little"))]
compile_error!(
    "Spinwire needs a little-endian target: 32-bit fields are read as halves of 64-bit words"
);

pub mod abi;
#[macro_use]
mod codes;
pub mod describe;
pub mod endian;
#[macro_use]
mod numbers;
#[macro_use]
pub mod pod;
pub mod mlx5;
pub mod shm;
pub mod uring;
pub mod wire;
pub mod word;

/// Every room with layouts, in a fixed order: what `spinwire layout` prints, checks and locks.
pub const ROOMS: &[describe::Room] = &[abi::SHM_ROOM, abi::WIRE_ROOM, uring::ROOM, mlx5::ROOM];
