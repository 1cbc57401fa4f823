//! The header of a segment: who made it, by which rules, and where everything lies in it.
//!
//! ```text
//!  line 0   identity   magic, version, kind, hash, bytes, boot, time, ready     written once, before `ready`
//!  line 1   geometry   page size, counts, offsets                               written once, before `ready`
//!  line 2   name       64 bytes                                                 written once, before `ready`
//!  line 3   live       liveness_epoch; creator                                  the epoch: by anybody, at any time
//! ```
//!
//! The creator fills the header, sets up all tables, and stores `ready` last with Release. Whoever
//! joins loads `ready` with Acquire, copies lines 0 to 2 once, and checks the copy; after that
//! nothing of them is read again.

codes! {
    /// What a segment is for.
    pub enum SegmentKind: u32 {
        /// A domain: processes, endpoints and lanes.
        Domain = 1 "domain",
        /// The stats page of one plane, and nothing else.
        Stats = 2 "stats",
        /// A pool of buffers.
        Pool = 3 "pool",
        /// One large buffer of a pool: a page for the header, then its bytes.
        Buffer = 4 "buffer",
    }
}

layout! {
    /// First 256 bytes of every segment.
    pub struct SegmentHeader, size 256, align 64 {
        /// [`MAGIC`](crate::abi::MAGIC): the bytes `SPINWIRE`.
        pub magic: u64 @ 0,
        /// [`ABI_VERSION`](crate::abi::ABI_VERSION) of the creator. Low half of word 1.
        pub abi_version: u32 @ 8,
        /// Code of a [`SegmentKind`]. High half of word 1.
        pub kind: u32 @ 12,
        /// [`LAYOUT_HASH`](crate::abi::LAYOUT_HASH) of the creator.
        pub layout_hash: u64 @ 16,
        /// Bytes of the whole segment. The mapping must be at least as long.
        pub segment_bytes: u64 @ 24,
        /// Boot id of the machine when the segment was made: the UUID of
        /// `/proc/sys/kernel/random/boot_id`, as 16 bytes (random(4)). A segment of another boot is
        /// a leftover, or a file of another machine.
        pub boot_id: [u8; 16] @ 32,
        /// When the segment was made: nanoseconds since 1970 UTC.
        pub created_unix_ns: u64 @ 48,
        /// [`READY`](crate::abi::READY) once everything else is written; stored last, with Release.
        pub ready: u64 @ 56,

        /// Bytes of the pages that the creator got: 4096, 2 MiB or 1 GiB.
        pub page_bytes: u64 @ 64,
        /// Entries of the process table.
        pub process_count: u32 @ 72,
        /// Entries of the endpoint directory.
        pub endpoint_count: u32 @ 76,
        /// Entries of the lane table.
        pub lane_count: u32 @ 80,
        /// Cells of each lane: a power of two.
        pub lane_cell_count: u32 @ 84,
        /// Bytes of the spill ring of each lane: zero or a power of two, a whole number of lines.
        pub lane_spill_bytes: u32 @ 88,
        /// Zero.
        pub reserved0: u32 @ 92,
        /// Where the process table starts: bytes from the start of the segment, a multiple of 64.
        /// So are the others.
        pub process_table_offset: u64 @ 96,
        /// Where the endpoint directory starts.
        pub endpoint_table_offset: u64 @ 104,
        /// Where the lane table starts.
        pub lane_table_offset: u64 @ 112,
        /// Where the rings of the lanes start: lane after lane, cells first, then spill.
        pub lane_ring_offset: u64 @ 120,

        /// Name of the segment, filled up with zeros.
        pub name: [u8; 64] @ 128,

        /// Raised by one whenever a process is marked dead, so that one load a turn tells whether
        /// anybody died.
        pub liveness_epoch: u64 @ 192,
        /// Process id of the creator, in its own pid namespace.
        pub creator_pid: u64 @ 200,
        /// Start time of the creator: field 22 of `/proc/PID/stat`, clock ticks since boot
        /// (proc(5)).
        pub creator_start_time: u64 @ 208,
        /// Where the stats page lies: bytes from the start of the segment, or 0 where there is
        /// none.
        pub stats_offset: u64 @ 216,
        /// The PID namespace of the creator: the inode of `/proc/self/ns/pid` (pid_namespaces(7)). Whoever lives in another
        /// one means other processes by the same numbers, and must not judge who is dead.
        pub pid_namespace: u64 @ 224,
        /// Zero.
        pub reserved: [u64; 3] @ 232,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_documented_numbers() {
        assert_eq!(SegmentKind::from_code(0), None);
        assert_eq!(SegmentKind::from_code(1), Some(SegmentKind::Domain));
        assert_eq!(SegmentKind::from_code(2), Some(SegmentKind::Stats));
        assert_eq!(SegmentKind::from_code(3), Some(SegmentKind::Pool));
        assert_eq!(SegmentKind::from_code(4), Some(SegmentKind::Buffer));
        assert_eq!(SegmentKind::from_code(5), None);
    }
}
