//! Chapter 3: who owns a buffer.
//!
//! A buffer has one holder at any moment: the program, the endpoint, or the pool.
//!
//! ```text
//!   LoanPool ── lend() ──> Loan ── post_send, post_recv ──> posted: nobody can touch it
//!      ^                    ^                                        |
//!      '───── drop ─────────'──────────── Completion::loan ──────────'
//! ```
//!
//! A post *takes* the loan, and the completion gives it back. In between there is nothing to read or write by mistake, since there is no
//! value to do it with; a program that tries does not compile. A post that is refused gives the loan back with the reason
//! ([`Refused`](spinwire_dataplane::error::Refused)), and nothing was consumed.
//!
//! ```
//! # use core::mem::MaybeUninit;
//! use spinwire_dataplane::raw::{loan::LoanPool, place::Bump};
//!
//! # fn main() -> Result<(), Box<dyn core::error::Error>> {
//! # let mut block = vec![MaybeUninit::uninit(); 64 << 10];
//! # let bump = Bump::new(&mut block);
//! let buffers = LoanPool::place(&bump, 2, 256)?; // placed once, at set-up
//! let mut loan = buffers.lend().ok_or("all are lent")?;
//! loan.fill(b"hello")?; // or loan.room(), and set_len
//! assert_eq!((&loan[..], loan.capacity(), buffers.free_count()), (&b"hello"[..], 256, 1));
//! drop(loan); // back to the pool
//! assert_eq!(buffers.free_count(), 2);
//! # Ok(())
//! # }
//! ```
//!
//! Three ways to send, by what the bytes are:
//!
//! | the bytes | call | copies here |
//! |---|---|---|
//! | short, or on the stack | `inject(to, &bytes)`: the slice is yours again at return, there is no completion | one |
//! | in a loan | `post_send(to, loan, context)`: comes back with the completion | one, or none where the transport can |
//! | large, and read by several processes | `send_loan(&lender, to, guard)`: the buffer of a pool itself, over shared memory | none |
//!
//! A message of several parts (a header here, a body there) goes out of several loans without being put together first: `post_sendv`, where `info.caps` has `GATHER`; and `post_recvv` takes
//! one into several, with `SCATTER`. `take_parts` gives all loans of such an operation back with its completion, and
//! `drop_parts` those of completions that were dropped without it.
//!
//! And three to receive: one buffer a message (`post_recv`); one buffer for many (`post_multi_recv`, and `post_run_recv` for streams of equal messages), which
//! stays posted while its messages are shown by `Endpoint::read`; and none at all, for messages that are buffers of a pool.
//!
//! *Lifetimes.* Pools and tables live in an arena ([`Bump`](spinwire_dataplane::raw::place::Bump)), and loans live no longer than that. Place buffers in
//! [`Opened::bump`](crate::open::Opened::bump): what lies there the kernel may send uncopied.
//!
//! *A message that nobody has posted a receive for* waits: in the endpoint's queue of unexpected messages, or where it came, and its sender is told in the end
//! that there is no room. Post receives before they are needed. Datagrams are dropped then, and counted.
//!
//! Next: [`completions`](super::completions).
