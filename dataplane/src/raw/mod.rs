//! The fenced yard: the only files of this crate with `unsafe` in them.
//!
//! | file | what it wraps |
//! |---|---|
//! | [`barrier`] | barriers that are not part of an access, between processes and towards a device |
//! | [`kernel_memory`] | memory that the kernel reads and writes by itself |
//! | [`mod@line`] | foreign memory as a bounded slice of cache lines of atomics, and copies in and out of it |
//! | [`mmio`] | what reaches a device, in order: records, registers, barriers |
//! | [`place`] | tables put into a mapping that outlives them |
//! | [`loan`] | buffers that are owned by exactly one holder at a time |
//! | [`region`] | memory that a device may read and write, and the ranges of it that are named to it |
//! | [`unchecked`] | builders without a look at the borrow flag |
//! | [`payload`] | the bytes of a shared buffer, by copies or as plain slices |
//! | [`posted`] | what a transport promises of memory that it is posted |
//! | [`pause`] | the instructions of the idle ladder |
//! | [`words`] | memory that the kernel maps too, as a bounded slice of 32-bit atomics |
//! | `step` | the question before each write, in builds for step tests |

pub mod barrier;
pub mod kernel_memory;
pub mod line;
pub mod loan;
pub mod mmio;
pub mod pause;
pub mod payload;
pub mod place;
pub mod posted;
pub mod region;
#[cfg(all(spinwire_steps, not(loom)))]
pub(crate) mod step;
pub mod unchecked;
pub mod words;
