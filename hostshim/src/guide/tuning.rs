//! Chapter 8: what makes it fast, in the order in which it pays.
//!
//! 1. **The right path.** `spinwire providers --peer ..`, and the line that the program prints about itself. Shared memory takes some hundred nanoseconds there and back, the
//!    kernel's network stack some ten microseconds. No setting below makes up for that.
//! 2. **A core of its own, at either end.** A thread that polls and is descheduled is late by milliseconds. Pin it ([`affinity`](crate::affinity)), to cores that are
//!    close to each other, and keep others off (`isolcpus`, cgroups). `spinwire doctor` says what stands in the way, each with the command that mends it.
//! 3. **The machine's floor first.** `spinwire lat` measures the bare thing beside the messages, in turn, and prints the ratio. If the ratio is good and the time is not, the
//!    machine is slow, and no change of the program helps.
//! 4. **Batches.** What is posted goes out with the next turn, all by one doorbell. Post everything, then turn. Call `flush` where the answer is waited for and nothing more is to be sent.
//! 5. **Receives before they are needed.** A message that finds its receive is copied once; one that does not is copied twice, or waits and holds up its sender.
//!    For streams, `post_run_recv` takes many messages with one completion.
//! 6. **Short messages.** Up to 48 bytes are one cache line of shared memory. Beyond that the rest lies in a ring beside it; over 64 KiB or so, hand over buffers of a pool instead.
//! 7. **Memory.** Huge pages where there are any: everything that maps memory says which pages it got and why not better ones. Place tables and buffers at set-up, then
//!    [`seal`](crate::plane::Plane::seal): what allocates after that is found by a test, not by a percentile.
//! 8. **Limits that fit.** [`Sizes`](crate::discover::Sizes) says how much endpoints hold. Larger is not faster: a ring that fits into a cache is, and slots that share pages are.
//! 9. **One port on a thread.** Over RDMA such a port may ask its device several times before it goes around:
//!    [`RdmaConfig::polls`](spinwire_dataplane::provider::rdma::RdmaConfig::polls).
//!
//! ```
//! use spinwire_hostshim::discover::{Hints, Sizes, discover};
//!
//! // What would change if messages were longer? Nothing is opened by asking.
//! for found in discover(&Hints::default().with_sizes(Sizes::messages_of(1 << 20))) {
//!     if let Some(info) = found.info() {
//!         println!("{found}: {} bytes a message", info.limits.message_bytes_max);
//!     }
//! }
//! ```
//!
//! *What to look at while it runs*: `spinwire top` (rates, retries by reason, histograms, the path), which disturbs nobody. A `retry_no_credit` that grows is a receiver that is too slow;
//! `turns_idle` near zero is a loop with too much to do; a long `turn_busy` is something in the loop that takes its time.
//!
//! Next: [`cluster`](super::cluster).
