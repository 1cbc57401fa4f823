//! The fenced yard: the only files of this crate with `unsafe` in them.
//!
//! | file | what it wraps |
//! |---|---|
//! | [`mmap`] | ranges of address space that are owned: mapped at an alignment, advised, locked, unmapped on drop |
//! | [`syscall`] | the system calls that the standard library lacks, with their answers as `Result` |
//! | `epoll` | a set of descriptors that is one (features `verbs`, `libfabric`) |
//! | [`mod@file`] | direct I/O of files |
//! | [`futex`] | sleeping on a word of shared memory |
//! | [`tsc`] | the time-stamp counter and the processor's description of itself |
//! | [`gate`] | the allocator that counts |
//! | [`mlx5`] | queues of mlx5 devices: their memory, who owns what of it; libmlx5 (feature `mlx5`) |
//! | `posted` | what ports of this crate promise of posted memory |
//! | `ofi` | libfabric (feature `libfabric`) |
//! | [`uring`] | the system calls of io_uring, and the memory of a ring |
//! | [`socket`] | the calls on sockets that the standard library lacks |
//! | `verbs` | libibverbs (feature `verbs`) |
//! | [`view`] | mappings as the data plane wants to see them |

#[cfg(any(feature = "verbs", feature = "libfabric"))]
pub(crate) mod epoll;
pub(crate) mod file;
pub(crate) mod futex;
pub(crate) mod gate;
pub(crate) mod mlx5;
pub(crate) mod mmap;
#[cfg(feature = "libfabric")]
pub(crate) mod ofi;
mod posted;
pub(crate) mod socket;
pub(crate) mod syscall;
pub(crate) mod tsc;
pub(crate) mod uring;
#[cfg(feature = "verbs")]
pub(crate) mod verbs;
pub(crate) mod view;
