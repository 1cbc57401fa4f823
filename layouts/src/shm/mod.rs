//! Structures in memory that processes of one machine map: a segment and what lies in it.
//!
//! ```text
//!  SegmentHeader --process_table_offset--> ProcessEntry[process_count]    who is here: one lease each
//!       |--------endpoint_table_offset---> EndpointEntry[endpoint_count]  whom one may send to, by name
//!       |--------lane_table_offset-------> LaneHeader[lane_count]         who sends to whom; credit
//!       |--------lane_ring_offset--------> lane_count x ( LaneCell[lane_cell_count], lane_spill_bytes )
//!       '--------stats_offset------------> StatsHeader, counters, histograms  (0: none)
//!
//!  or, for a pool:  SegmentHeader PoolHeader SizeClass[16] ProcessEntry[] ClassLive[] BufferMeta[] arena   see `pool`
//! ```
//!
//! Every structure is made of 64-byte lines of 64-bit words and starts on a line. Every word is
//! accessed atomically: there is no reference to any of these types within a segment, only copies
//! of them outside.

pub mod endpoint;
pub mod lane;
pub mod name;
pub mod pool;
pub mod process;
pub mod segment;
pub mod stats;

pub use endpoint::{BELL_ARMED, EndpointEntry, EndpointId, EndpointKind, NEWS_LANE_COUNT};
pub use lane::{
    CELL_IMMEDIATE_BYTES, CELL_INLINE_BYTES, LaneCell, LaneHeader, LaneState, LaneWord, ParcelBody,
};
pub use name::{NAME_BYTES, NAME_LENGTH_MAX, NameError, check_name, pack_name, unpack_name};
pub use pool::{
    AccessMode, BufferId, BufferMeta, ClassLive, DType, Element, MAX_NDIM, Orphans, PoolHeader,
    SizeClass, SlotHome, SlotSplit, SlotWord, StorageType,
};
pub use process::{Lease, LeaseState, ProcessEntry};
pub use segment::{SegmentHeader, SegmentKind};
pub use stats::{Counter, HistogramHeader, HistogramId, PathHealth, PathRow, StatsHeader, Unit};
