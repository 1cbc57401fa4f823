//! The loop that drives a plane, what it counts, and how it rests.
//!
//! ```text
//!   now --> turn(now, budget) --> Busy | Idle --> ladder --> spin, pause, wait, yield, park
//!             |        |                                     (a Rester of the host does the last two)
//!             v        v
//!         Counters  TraceRing         private cells: an addition each
//!         Histograms
//!             |  StatsWriter, one section a turn, every so often
//!             v
//!         stats page (shared, seqlocked) <-- StatsReader: another process, which disturbs nobody
//! ```
//!
//! Rules of this room: a turn is bounded by its [`Budget`] and never blocks; time comes in as an argument; whatever is
//! counted is counted in private memory, and only copied out.

mod budget;
mod counters;
mod histogram;
mod idle;
mod outcome;
mod relay;
mod seqlock;
mod stats;
mod trace;
mod turn;
mod wake;

pub use budget::Budget;
pub use counters::{Counter, Counters};
pub use histogram::{Histogram, HistogramId, HistogramSnapshot};
pub use idle::{IdleLadder, Rest, Rester, Rung, Thresholds};
pub use outcome::Outcome;
pub use relay::{Duty, Relay};
pub use seqlock::{ReadError, Section, SectionReader, SectionWriter};
pub use stats::{
    PathHealth, PathStats, PlaneIdentity, PlaneSnapshot, Stats, StatsError, StatsReader,
    StatsWriter,
};
pub use trace::{TraceEvent, TraceRing};
pub use turn::{Poll, Rotation, Sources};
pub use wake::{Armed, WakeSource};
