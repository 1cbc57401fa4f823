//! Reliable connections and datagrams of mlx5 devices: their queues as [`verbs`](crate::verbs) has queues, so that everything that stands on
//! those runs on these rings, without a library between.
//!
//! ```text
//!   ports, virtual queue pairs        generic over verbs::{QueuePair, CompletionQueue}
//!        | post_send, post_recv                  ^ poll_cq
//!        v                                       |
//!      Pair ── WQE ──> Qp            Completions <── CQE ── Cq
//!        '─────── ids, what was posted ───────'
//!      Shared ── WQE ──> SharedRecvQueue       receives of several pairs
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | [`pair`] | a queue pair: verbs to WQEs, short ones inline, ids for those that ask for no completion |
//! | [`completions`] | a completion queue: CQEs to completions, each work request once, errors in order |
//! | [`shared`] | a shared receive queue: receives that several pairs take from |
//! | [`config`] | sizes of a pair, and addresses of datagrams |
//! | `landing` | where data goes that the device has put into a completion |
//!
//! Nothing of it was ever run on a device: see [`wqe`](crate::wqe) and [`cq`](crate::cq).

pub mod completions;
pub mod config;
mod landing;
pub mod pair;
pub mod shared;

pub use completions::{Completions, CompletionsError};
pub use config::{BadPair, PairConfig, Route};
pub use pair::{Pair, Posting};
pub use shared::Shared;
