//! Chapter 7: messages that may get lost.
//!
//! Endpoints of type DGRAM promise nothing, and say so: `info.reliability` is `Unreliable`, `info.order` is `None`. What they give instead: any number of
//! peers without connections, one packet a message, and nobody who can hold up anybody else.
//!
//! - *Addresses are by packet.* A completion names its sender (`source`), and that is where an answer goes. A sender that was never connected to takes a row of the
//!   address table; where that is full, the row of whoever was silent longest goes to it. So an address of a stranger can become stale: use it soon.
//! - *Nobody is seen to leave.* There is no `PeerGone`, and a packet to a port that nobody has ends nothing. Whoever must know asks, and gives the
//!   answer a time limit.
//! - *A message is one packet.* By default at most what an Ethernet frame holds (1,432 bytes). Longer ones are asked for by
//!   [`Sizes`](crate::discover::Sizes), and travel in fragments, all of which have to arrive. One that is longer than the receive is cut: `Truncated`.
//! - *What was lost is counted where it can be known*: what the kernel refused, what it had no room for, what nobody had asked for
//!   (`UdpCounters`). What the network lost nobody counts. Nor is there anybody to refuse another build: its packets are garbage here, and
//!   `last_fault` of `UdpPort` and of `RdmaDatagrams` (at the prompt, the last words of `spinwire serve`) says that it is the version.
//!
//! A program over datagrams therefore numbers what it sends, answers each number once, and knows a late answer by its number. That is all that `spinwire ping
//! udp://..` and the example `datagram_echo` do:
//!
//! ```
//! /// Which questions are open: the newest 64, by number.
//! #[derive(Default)]
//! struct Open {
//!     next: u64,
//!     bits: u64,
//! }
//!
//! impl Open {
//!     /// The number of the next question. What is older than 64 questions is given up by that.
//!     fn ask(&mut self) -> u64 {
//!         self.bits = self.bits << 1 | 1;
//!         self.next += 1;
//!         self.next - 1
//!     }
//!
//!     /// Whether an answer is the first to an open question: not late, not twice, not made up.
//!     fn answered(&mut self, number: u64) -> bool {
//!         let Some(age) = self.next.checked_sub(number + 1).filter(|age| *age < 64) else { return false };
//!         let bit = 1 << age;
//!         let is_open = self.bits & bit != 0;
//!         self.bits &= !bit;
//!         is_open
//!     }
//! }
//!
//! let mut open = Open::default();
//! let (first, second) = (open.ask(), open.ask());
//! assert!(open.answered(second) && open.answered(first), "in any order");
//! assert!(!open.answered(first) && !open.answered(99), "twice, or made up");
//! ```
//!
//! *Tests over other providers.* The tests of datagrams take providers from `SPINWIRE_TEST_DGRAM_PROVIDERS=udp,ofi`, and hints for each from
//! `SPINWIRE_TEST_DGRAM_HINTS='udp:cq_size=64,av_count=8'`; what cannot be had is said, and not passed over.
//!
//! Next: [`tuning`](super::tuning).
