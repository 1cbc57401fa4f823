//! Queues of mlx5 devices (ConnectX, BlueField), written and read directly: whatever else there is of a device is `verbs`', and libibverbs'.
//!
//! **Unverified on hardware.** The queues were run over a model of the device. With the real libraries nothing but the refusal of other
//! devices was seen: there is no mlx5 device here.
//!
//! ```text
//!   verbs::{Device, ProtectionDomain, Region}      opened, registered, connected as for libibverbs' own posting
//!      '─ verbs::{CompletionQueue, Pair}           made by the libraries; nobody polls them, nobody posts to them
//!           '─ mlx5dv_init_obj                     where they lie: dv::DvQp, dv::DvCq
//!                '─ Completions, Pair, SharedReceives   the rings of the data plane on that memory: dataplane::verbs' traits
//!
//!   Direct: verbs::Queues      what a plane is made over:  VerbsPlane<Direct>
//! ```
//!
//! *Order.* The completion queue is asked about and all its entries are made invalid before there is a pair; from then on libmlx5 leaves it alone. A
//! pair is asked about in state Reset, then goes through its states by libibverbs, which writes nothing to its queues. At the end
//! the pair is taken out of its completion queue, then `ibv_destroy_qp` ends what was posted, then what it has completed and nobody has
//! polled is taken out of the completion queue, so that a later pair of that number is not told of it. [`Pair`] keeps its completion queue
//! alive, and that its protection domain.
//!
//! *Whoever has made the queues* is behind three traits, [`PairHandle`], [`CompletionsHandle`] and [`SharedHandle`]: the libraries (with the feature `mlx5`), or a model of a
//! device, on which the tests run all of this but the calls themselves.
//!
//! What is assumed of libmlx5, by its source (rdma-core, `providers/mlx5`): a send queue has basic blocks of 64 bytes; receives lie at a power of two of
//! bytes, 16 for each segment; the doorbell record has the counter of receives, then that of sends; the register of doorbells has two
//! halves of `bf.size` bytes, or is one line where that is 0, and several pairs may share it, so they belong to one thread; `ibv_modify_qp`
//! touches records only on the way to Reset, and sets them to 0, where a pair that [begins anew](Pair::restart) begins.

mod completions;
#[cfg(feature = "mlx5")]
pub mod direct;
pub mod dv;
mod error;
mod pair;
mod shared;

pub use crate::raw::mlx5::{CompletionsHandle, PairHandle, SharedHandle};
pub use completions::Completions;
pub(crate) use completions::entry_bytes;
#[cfg(feature = "mlx5")]
pub use direct::Direct;
pub use error::Mlx5Error;
pub use pair::{Pair, QueueConfig};
pub use shared::{SharedReceives, shared_config};

/// Whether this build is linked with libmlx5.
///
/// # Errors
/// [`Mlx5Error::NotBuilt`], with the remedy.
pub const fn is_linked() -> Result<(), Mlx5Error> {
    if cfg!(feature = "mlx5") { Ok(()) } else { Err(Mlx5Error::NotBuilt) }
}
