//! Chains: linked submissions of io_uring, followed from their start to the last word of the kernel about each.
//!
//! A message of many parts is a chain of sends, a record of a log is write, write and fdatasync: submissions joined by
//! `IOSQE_IO_LINK`, each of which ends in a completion (CQE) of its own, or in two. The table is told what was submitted,
//! is fed every CQE, and says what each one means. It knows nothing of opcodes: an [`Entry`] is a number of bytes, or none.
//!
//! ```text
//!   user_data   63      56 55              32 31                     6 5            0
//!              +----------+------------------+------------------------+--------------+
//!              | Chain: 3 |    generation    |    slot of the chain   | entry 0..=63 |
//!              +----------+------------------+------------------------+--------------+
//!
//!                 an entry                       what the kernel says        the memory of the entry
//!
//!                +-------------+
//!   start -----> | submitted   | ..................................... the kernel's
//!                +-------------+
//!                  |         |
//!       CQE with   |         |  CQE without
//!       F_MORE     v         |  F_MORE
//!   +-----------------+      |
//!   | notice awaited  | .....|......................................... the kernel's
//!   +-----------------+      |
//!                  |         |
//!       CQE with   v         v
//!       F_NOTIF  +-------------+
//!                | ended       | ..................................... yours: `Progress::returned`
//!                +-------------+
//!
//!                 a chain
//!
//!   start --> Pending --> AllOpsComplete --> Complete { bytes, result } --> take
//!             operations   every operation    every entry has ended          the slot is free, its
//!             under way    has its result     and its memory is back         generation has passed
//! ```
//!
//! # What is promised
//!
//! 1. **Memory comes back after the last CQE of its entry, once, and never before.** A notification is awaited if and only if
//!    the first CQE of the entry carried `IORING_CQE_F_MORE`, whatever its result was: an operation that failed or was
//!    cancelled may have handed pages to the network stack, and one that sent all may have sent a copy.
//! 2. **The outcome does not depend on the order in which CQEs come.** Results are kept by entry. The [`Cause`] of a broken
//!    chain is that of its first entry (in the order of the chain) that failed or fell short of its own; an
//!    `ECANCELED`, which is what the entries behind it get (and those before one that cannot even be submitted), is the
//!    cause only where there is no other.
//! 3. **A CQE that fits nothing changes nothing.** It is a [`ChainFault`], is counted by its kind, and the chain goes on as if it
//!    had not come. The CQE of a chain that has ended finds another generation: [`ChainFault::Stale`].
//! 4. **What is left can be submitted again from the exact byte** ([`Remains`]), or the table says that it cannot.
//!
//! # What the kernel does, and what is made of it
//!
//! - *A notification before the CQE of its operation.* The kernel does not post one: it lets go of its own reference to the
//!   notification while or after it completes the request, and leaves that to the clean-up of the request where
//!   the order of task work would not ensure it (`io_uring/net.c`, `io_send_zc` and `io_send_zc_cleanup`). So it is a fault,
//!   [`ChainFault::EarlyNotification`], and not kept for later: were it believed, a forged one could end an entry
//!   before the kernel has let go of it. The price is that an entry whose notification was so refused waits until the ring is closed.
//! - *A notification that was not announced.* Of zero-copy sends behind a broken link, and of such that are refused as they are submitted,
//!   the result has no `F_MORE`, and yet a notification follows: they are completed (`io_uring/timeout.c`, `io_req_tw_fail_links`) past the
//!   handler that sets the flag (`io_sendrecv_fail`), but their notification was made when they were prepared. Seen on Linux
//!   6.18. Such an operation never ran, the network has none of its pages, and its memory was rightly given back with its first CQE. The
//!   table does not wait for what another kernel would not send. It is [`ChainFault::Unannounced`], or `Stale`
//!   where the chain was taken meanwhile; both are [to be passed over](ChainFault::is_expected). Room for it is needed all the
//!   same: a zero-copy entry may take two places of the completion queue, however it ends.
//! - *A second CQE of an operation*, with or without `F_MORE`: [`ChainFault::Duplicate`]. Operations that complete more than once
//!   (multishot, bundles of sends) have no place in a chain.
//! - *A notification that says that more will follow* is not the last word: [`ChainFault::Endless`].
//! - *More bytes than were asked for* end the entry, as the kernel is done with it, but break the chain: [`Why::Overrun`].
//! - *A short send does not always break the link.* It does with `MSG_WAITALL`, which linked sends therefore must use; it does
//!   not without (seen on Linux 6.18). What is behind it was then sent all the same: [`Remains::Hole`].
//! - *A cancelled request* that had moved some bytes reports those as its result, not `ECANCELED`: it is short.
//! - `IOSQE_CQE_SKIP_SUCCESS` must not be set on an entry: the table waits for a CQE of every one. `IORING_OP_LINK_TIMEOUT` is not an
//!   entry, as its `ECANCELED` means success: give it a `user_data` of another kind, or let a timer call [`ChainTable::cancel`].
//!
//! The table is `!Sync` and belongs to one thread, as its ring does. Nothing in it allocates, and nothing in it can panic on
//! any CQE, id or argument.

mod entry;
mod outcome;
mod refusal;
mod state;
mod table;

pub use entry::{CHAINS_MAX, ChainId, ENTRIES_MAX, Entries, Entry, EntrySet};
pub use outcome::{
    Abandoned, Cause, ChainCounts, ChainEvent, ChainOutcome, Outstanding, Progress, Remains, Why,
};
pub use refusal::{ChainError, ChainFault, PlaceError};
pub use table::{ChainConfig, ChainTable};

/// `ECANCELED` of Linux, on every architecture that Spinwire is built for.
const ECANCELED: i32 = 125;
