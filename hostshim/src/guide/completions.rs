//! Chapter 4: how operations end.
//!
//! A [`Completion`](spinwire_dataplane::msg::Completion) says which operation (`id`, and the `context` that you gave), how it ended (`status`), and what came of it. Read the status first: of an
//! operation that failed, nothing else means anything but `id`, `context`, `loan`, and what `failure()` says: its flags, the number that the transport gave for the reason (an `errno` over TCP, say), the
//! tag that a receive waited for.
//!
//! | status | what happened | the buffer |
//! |---|---|---|
//! | `Success` | as asked | back |
//! | `Truncated` | the message was longer than the buffer; `length` bytes are there, the rest is gone | back |
//! | `Cancelled` | you took it back by `cancel(id)` | back |
//! | `PeerGone` | the peer ended, or its connection did | back |
//! | `Corrupt` | the peer wrote what no correct peer writes; it is cut off | back |
//! | `RemoteAccess` | memory of the peer is not to be read or written like that: see its key, rights and range | back |
//! | `Parcel` | well: the message is a buffer of a pool, which `take_guard` takes out of the completion | back, unused |
//!
//! *An error that a call returns* says what to do by its kind, and has consumed nothing:
//!
//! ```
//! use spinwire_dataplane::error::PostError;
//!
//! fn what_to_do(error: PostError) -> &'static str {
//!     match error {
//!         PostError::Retry(_) => "turn, then try again: it names what is used up",
//!         PostError::Fatal(_) => "this connection is done; its neighbours live on",
//!         PostError::Misuse(_) => "the call cannot be right: mend the program",
//!     }
//! }
//! # let _ = what_to_do(PostError::Retry(spinwire_dataplane::error::Retry::NoCredit));
//! ```
//!
//! `Retry` is how back-pressure looks: the receiver has not caught up (`NoCredit`, or `NoSpill` for long messages), too many completions are outstanding (`CqFull`), the connection is not up yet
//! (`NotConnected`). A loop that retries must turn in between, or it waits for what it keeps from happening.
//!
//! *Events* are about peers, not operations: `poll_event` tells who connected, who is gone, who was refused. The order is kept: what a peer had sent before it
//! died comes first, then the receives that waited for it alone fail, then its end is reported. After that its address is stale, and
//! whoever comes back under the same name has a new one.
//!
//! *Handles have generations.* An id that is over matches nothing any more. A completion that names one is counted and reported as
//! `StaleCompletion`; it is never taken for another's.
//!
//! *Contexts* are yours: 64 bits that come back as they were given. Use them as an index into a table of your own, and give the entry up when the completion
//! has come, since it comes once: [`Contexts`](spinwire_dataplane::msg::Contexts) is such a table, whose numbers expire when they are released.
//!
//! Next: [`polling`](super::polling).
