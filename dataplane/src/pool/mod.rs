//! A pool of buffers that processes share.
//!
//! ```text
//!   process a                                        process b
//!     pool.acquire(4096) -> Guard<Exclusive>
//!     write, describe
//!     guard.detach() -> id  ---- message, file, argument ---->  pool.adopt(id) -> Guard<Shared>
//!                                                               read in place
//!                                                               drop: the last one frees the buffer
//! ```
//!
//! | part | what it is |
//! |---|---|
//! | [`PoolSegment`] | the mapping, checked: for every thread; [`reclaim`](PoolSegment::reclaim), [`mend`](PoolSegment::mend), [`rows`](PoolSegment::rows), [`stats`](PoolSegment::stats) |
//! | [`Pool`] | a handle with a lease, for one thread: [`acquire`](Pool::acquire), [`get`](Pool::get), [`adopt`](Pool::adopt), .. |
//! | [`Guard`] | a buffer in hand, [`Exclusive`] or [`Shared`] |
//! | [`BufferId`](spinwire_layouts::shm::BufferId) | one use of one buffer, as a word that goes anywhere |
//! | [`Description`], [`Tensor`], [`TensorMut`] | what is in a buffer |
//! | [`PoolHost`] | what only the host can do: sleep, wake, map |
//!
//! # Rules
//!
//! 1. A buffer that somebody may write has one guard in all processes, and no other. Everything that changes hands is one
//!    compare-and-swap on the slot word (`slot`); the handle keeps to it in private memory, too.
//! 2. A reference is a guard's, or detached: then it belongs to whoever knows the id. The last one that goes frees the buffer,
//!    whoever that is. A count never falls below zero and never rises from zero.
//! 3. An id names one use of one buffer. Once the buffer was freed it is `Stale`, until the generation comes round: after 2^39
//!    uses of that one slot where there is room for 16 handles.
//! 4. Who dies loses its guards and nobody else's. A buffer that was being written is freed with all its references, for nobody
//!    knows what is in it. Detached references stay, or go with who detached last: [`Orphans`](spinwire_layouts::shm::Orphans).
//! 5. Metadata are never trusted: no word of the mapping is an index, a length or a state before it was checked. Payload is
//!    copied, or seen in place by those who trust everybody who maps the pool: [`PlainAccess`](crate::raw::payload::PlainAccess).
//!
//! # Example
//!
//! Two handles of one thread on a pool in ordinary memory.
//!
//! ```
//! use core::mem::MaybeUninit;
//! use spinwire_dataplane::id::Name;
//! use spinwire_dataplane::pool::{NoHost, Pool, PoolError, PoolGeometry, PoolSegment};
//! use spinwire_dataplane::raw::{line::Line, place::Bump};
//! use spinwire_dataplane::shm::lease::{self, Joiner};
//! use spinwire_dataplane::shm::Identity;
//!
//! # fn main() -> Result<(), Box<dyn core::error::Error>> {
//! let geometry = PoolGeometry::new(2).class(4096, 8);
//! let bytes = usize::try_from(geometry.segment_bytes()?)?;
//! let lines: Vec<Line> = (0..bytes / 64).map(|_| Line::zeroed()).collect();
//! # let identity = Identity { name: Name::new("demo")?, boot_id: [0; 16], created_unix_ns: 1, pid: 1, start_time: 1,
//! #     page_bytes: 4096, pid_namespace: 0 };
//! let segment = PoolSegment::format(&lines, &geometry, &identity)?;
//! let mut block = vec![MaybeUninit::uninit(); 1 << 16];
//! let bump = Bump::new(&mut block);
//! let open = |pid| {
//!     let joiner = Joiner { pid, start_time: 1, joined_unix_ns: 1, command: [0; 64] };
//!     Pool::open(&segment, lease::join(&segment, &joiner)?, &bump, &NoHost).map_err(Box::<dyn core::error::Error>::from)
//! };
//! let (a, b) = (open(1)?, open(2)?);
//!
//! let mut guard = a.acquire(11)?;
//! guard.copy_from(0, b"hello there")?;
//! assert_eq!(b.get(guard.id()).unwrap_err(), PoolError::Busy, "it is being written");
//! let id = guard.detach().map_err(PoolError::from)?;
//!
//! let read = b.adopt(id)?;
//! let mut text = [0; 11];
//! read.copy_to(0, &mut text)?;
//! assert_eq!(&text, b"hello there");
//! drop(read);
//! assert_eq!(a.get(id).unwrap_err(), PoolError::Stale, "the last reference has gone");
//! # Ok(())
//! # }
//! ```

mod error;
mod free_map;
mod geometry;
mod guard;
mod handle;
mod host;
mod large;
mod mend;
mod reclaim;
mod segment;
mod slot;
mod tally;
mod tensor;

pub use error::PoolError;
pub use geometry::{ClassSpec, PoolGeometry};
pub use guard::{AnyGuard, Exclusive, ExclusiveGuard, Guard, Kept, Mode, Shared, SharedGuard};
pub use handle::Pool;
pub use host::{NoHost, PoolHost, Slept};
pub use large::{attach_large, format_large, large_bytes};
pub use reclaim::{BufferRow, ClassStats, Reclaimed};
pub use segment::{PoolSegment, PoolShape, TICK_NS};
pub use tensor::{Description, Shape, Tensor, TensorMut};
