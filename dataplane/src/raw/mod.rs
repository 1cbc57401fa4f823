//! The fenced yard: the only files of this crate with `unsafe` in them.
//!
//! | file | what it wraps |
//! |---|---|
//! | [`barrier`] | the one barrier that is not part of an access |
//! | [`mod@line`] | foreign memory as a bounded slice of cache lines of atomics, and copies in and out of it |
//! | [`place`] | tables put into a mapping that outlives them |
//! | [`loan`] | buffers that are owned by exactly one holder at a time |
//! | [`pause`] | the instructions of the idle ladder |

pub mod barrier;
pub mod line;
pub mod loan;
pub mod pause;
pub mod place;
