//! A queue pair: its entry points.
//!
//! ```text
//!   with_sq_wqe(|wqe| ..)   with_ud_sq_wqe   with_rq_wqe       `&self`, a closure that the builder cannot leave, the flag
//!   with_sq_wqe_roce(&grh, |wqe| ..)   with_ud_sq_wqe_roce
//!   sq_borrow()   rq_borrow()                                  `&self`, a guard, many builders one after the other
//!   sq_wqe()   ud_sq_wqe()   rq_wqe()                          `&mut self`: the compiler is the flag
//!   unsafe sq_wqe_unchecked() ..                               `&self`, and the caller's word
//! ```
//!
//! All state is in `Cell`s, so a service holds an `Rc<Qp>` or a plain reference and needs no `RefCell`. Invariant: the flag of a queue is set
//! while a builder by `&self` may exist, and falls with it: when it is finished, or dropped.

use core::fmt;

use super::BadQueue;
use super::address::{Grh, RoceGrh};
use super::borrow::{BorrowGuard, Builds};
use super::builder::{Lent, RoceUdSqWqe, SqWqe, UdSqWqe};
use super::receive::{RecvConfig, RecvMemory, RecvQueue, RqWqe};
use super::send::{SendConfig, SendMemory, SendQueue};
use crate::error::{Misuse, PostError};
use crate::raw::line::Line;
use crate::raw::mmio::{Bus, DoorbellRecord};
use crate::raw::place::Bump;
use crate::sync::AtomicU32;

/// What a queue pair is connected to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// One other queue pair, reliably. The route is part of the queue pair, not of its WQEs; over RoCE it is kept here.
    // tidy-allow(alloc): the reliable connection of RDMA
    Rc {
        /// Over RoCE: as the queue pair was connected, as far as that is said when it is (`ibv_ah_attr.grh`). What is below it, MAC and
        /// port of UDP, the kernel finds out, and nobody here knows. Without it the forms over RoCE refuse every route.
        path: Option<Grh>,
    },
    /// Whoever a datagram names.
    Ud,
}

impl Transport {
    const fn builds(&self) -> Builds {
        match self {
            // tidy-allow(alloc): the reliable connection of RDMA
            Self::Rc { .. } => Builds::Connected,
            Self::Ud => Builds::Datagrams,
        }
    }
}

/// What a queue pair is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QpConfig {
    /// Its number, 24 bits.
    pub qpn: u32,
    /// To what it is connected.
    pub transport: Transport,
    /// Its send queue.
    pub send: SendConfig,
    /// Its receive queue; `None` where it uses a shared one.
    pub recv: Option<RecvConfig>,
}

/// Where a queue pair lies.
#[derive(Clone, Copy, Debug)]
pub struct QpMemory<'m> {
    /// Blocks of the send queue.
    pub sq: &'m [Line],
    /// WQEs of the receive queue.
    pub rq: &'m [Line],
    /// The doorbell record of both.
    pub record: &'m [AtomicU32; 2],
    /// The doorbell registers: see [`Uar::new`](super::Uar::new).
    pub uar: &'m [Line],
}

/// A queue pair. One thread.
///
/// ```
/// use core::mem::MaybeUninit;
/// use spinwire_dataplane::error::PostError;
/// use spinwire_dataplane::raw::{line::Line, mmio::Device, place::Bump};
/// use spinwire_dataplane::sync::AtomicU32;
/// use spinwire_dataplane::wqe::{Qp, QpConfig, QpMemory, SendConfig, Transport, WqeFlags};
///
/// // The host maps these; here they are ordinary memory that no device reads.
/// let (sq, uar): (Vec<Line>, Vec<Line>) = ((0..16).map(|_| Line::zeroed()).collect(), vec![Line::zeroed()]);
/// let record = [AtomicU32::new(0), AtomicU32::new(0)];
/// let memory = QpMemory { sq: &sq, rq: &[], record: &record, uar: &uar };
/// let config = QpConfig {
///     qpn: 0x47,
///     transport: Transport::Rc { path: None },
///     send: SendConfig::DEFAULT,
///     recv: None,
/// };
/// let mut block = vec![MaybeUninit::uninit(); 4096];
/// let qp = std::rc::Rc::new(Qp::place(&Bump::new(&mut block), config, memory, Device)?);
///
/// qp.with_sq_wqe(|wqe| wqe.send(WqeFlags::NONE).inline(b"bid 101.25").finish_unsignaled())?;
/// qp.with_sq_wqe(|wqe| wqe.write(WqeFlags::FENCE, 0x1000, 7).inline(b"ask").finish_signaled(42))?;
/// assert_eq!(qp.ring_doorbell(), 2);
///
/// // The completion of the second one says that both are done.
/// let done = qp.sq().complete(1)?;
/// assert_eq!((done.entry, done.unsignaled), (42, 1));
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
pub struct Qp<'m, E: Copy, B> {
    transport: Transport,
    sq: SendQueue<'m, E, B>,
    rq: Option<RecvQueue<'m, E, B>>,
}

impl<'m, E: Copy, B: Bus + Clone> Qp<'m, E, B> {
    /// Places the trackers of a queue pair that was just made.
    ///
    /// # Errors
    /// [`BadQueue`].
    pub fn place(
        bump: &Bump<'m>,
        config: QpConfig,
        memory: QpMemory<'m>,
        bus: B,
    ) -> Result<Self, BadQueue> {
        let record = DoorbellRecord::new(memory.record);
        let send = SendMemory { ring: memory.sq, record, uar: memory.uar };
        let sq = SendQueue::place(
            bump,
            (config.qpn, config.transport.builds(), config.send),
            send,
            bus.clone(),
        )?;
        let recv = RecvMemory { ring: memory.rq, record };
        let rq = config.recv.map(|config| RecvQueue::place(bump, config, recv, bus));
        Ok(Self { transport: config.transport, sq, rq: rq.transpose()? })
    }
}

impl<'m, E: Copy, B: Bus> Qp<'m, E, B> {
    /// Its number.
    #[must_use]
    #[inline(always)]
    pub const fn qpn(&self) -> u32 {
        self.sq.qpn()
    }

    /// To what it is connected.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        self.transport
    }

    /// Its send queue: completions, doorbell.
    #[must_use]
    #[inline(always)]
    pub const fn sq(&self) -> &SendQueue<'m, E, B> {
        &self.sq
    }

    /// Its receive queue: completions, doorbell. `None` where it uses a shared one.
    #[must_use]
    #[inline(always)]
    pub const fn rq(&self) -> Option<&RecvQueue<'m, E, B>> {
        self.rq.as_ref()
    }

    /// Publishes all that is staged on both queues, receives first. Returns how many sends that were.
    #[inline]
    pub fn ring_doorbell(&self) -> u16 {
        if let Some(rq) = &self.rq {
            rq.ring_doorbell();
        }
        self.sq.ring_doorbell()
    }

    #[inline(always)]
    fn receives(&self) -> Result<&RecvQueue<'m, E, B>, Misuse> {
        self.rq.as_ref().ok_or(Misuse::Unsupported)
    }

    /// A queue pair is of one kind for good; this is for who has it alone.
    #[inline(always)]
    fn check(&self, wanted: Builds) -> Result<(), Misuse> {
        if self.transport.builds() == wanted { Ok(()) } else { Err(Misuse::Unsupported) }
    }

    /// Builds a send WQE in a closure, which cannot take the builder out. A closure that ends without having finished it has
    /// changed nothing.
    ///
    /// # Errors
    /// Those of the closure; `WouldBlock` where another builder of the send queue exists; [`Misuse::Unsupported`] where
    /// the queue pair is not RC.
    #[inline(always)]
    pub fn with_sq_wqe<R, X: From<PostError>>(
        &self,
        build: impl for<'a> FnOnce(SqWqe<'a, 'm, E, B>) -> Result<R, X>,
    ) -> Result<R, X> {
        let guard = self.sq.flag().try_borrow(Builds::Connected)?;
        build(SqWqe::new(Lent::new(&self.sq, Some(guard))))
    }

    /// As [`Qp::with_sq_wqe`], over RoCE. The route of a connected queue pair is in the queue pair, and no WQE has one; so `grh` is compared
    /// with it.
    ///
    /// # Errors
    /// As [`Qp::with_sq_wqe`], and [`Misuse::WrongPeer`] where the queue pair was connected by another route, or not over RoCE.
    #[inline(always)]
    pub fn with_sq_wqe_roce<R, X: From<PostError>>(
        &self,
        grh: &RoceGrh,
        build: impl for<'a> FnOnce(SqWqe<'a, 'm, E, B>) -> Result<R, X>,
    ) -> Result<R, X> {
        match &self.transport {
            // tidy-allow(alloc): the reliable connection of RDMA
            Transport::Rc { path: Some(path) } if *path == grh.grh => self.with_sq_wqe(build),
            // tidy-allow(alloc): the reliable connection of RDMA
            Transport::Rc { .. } => Err(PostError::from(Misuse::WrongPeer).into()),
            Transport::Ud => Err(PostError::from(Misuse::Unsupported).into()),
        }
    }

    /// As [`Qp::with_sq_wqe`], of a datagram.
    ///
    /// # Errors
    /// As [`Qp::with_sq_wqe`]; [`Misuse::Unsupported`] where the queue pair is not UD.
    #[inline(always)]
    pub fn with_ud_sq_wqe<R, X: From<PostError>>(
        &self,
        build: impl for<'a> FnOnce(UdSqWqe<'a, 'm, E, B>) -> Result<R, X>,
    ) -> Result<R, X> {
        let guard = self.sq.flag().try_borrow(Builds::Datagrams)?;
        build(UdSqWqe::new(Lent::new(&self.sq, Some(guard))))
    }

    /// As [`Qp::with_ud_sq_wqe`], over RoCE by that route.
    ///
    /// # Errors
    /// As [`Qp::with_ud_sq_wqe`].
    #[inline(always)]
    pub fn with_ud_sq_wqe_roce<R, X: From<PostError>>(
        &self,
        grh: &RoceGrh,
        build: impl for<'a> FnOnce(RoceUdSqWqe<'a, 'm, E, B>) -> Result<R, X>,
    ) -> Result<R, X> {
        let guard = self.sq.flag().try_borrow(Builds::Datagrams)?;
        build(RoceUdSqWqe::new(Lent::new(&self.sq, Some(guard)), *grh))
    }

    /// Builds a receive WQE in a closure, which cannot take the builder out.
    ///
    /// # Errors
    /// Those of the closure; `WouldBlock` where another builder of the receive queue exists; [`Misuse::Unsupported`] where
    /// the queue pair uses a shared queue.
    #[inline(always)]
    pub fn with_rq_wqe<R, X: From<PostError>>(
        &self,
        build: impl for<'a> FnOnce(RqWqe<'a, 'm, E, B>) -> Result<R, X>,
    ) -> Result<R, X> {
        let rq = self.receives().map_err(PostError::from)?;
        let _guard = rq.flag().try_borrow(Builds::Receives)?;
        build(RqWqe::new(rq))
    }

    /// The right to build on the send queue, until it is dropped.
    ///
    /// # Errors
    /// `WouldBlock` where somebody has it.
    #[inline(always)]
    pub fn sq_borrow(&self) -> Result<SqBorrow<'_, 'm, E, B>, PostError> {
        Ok(SqBorrow { guard: self.sq.flag().try_borrow_any()?, sq: &self.sq })
    }

    /// The right to build on the receive queue, until it is dropped.
    ///
    /// # Errors
    /// `WouldBlock` where somebody has it; [`Misuse::Unsupported`] where the queue pair uses a shared queue.
    #[inline(always)]
    pub fn rq_borrow(&self) -> Result<RqBorrow<'_, 'm, E, B>, PostError> {
        let rq = self.receives()?;
        Ok(RqBorrow { _guard: rq.flag().try_borrow_any()?, rq })
    }

    /// A builder of a send WQE, by exclusive access.
    ///
    /// # Errors
    /// [`Misuse::Unsupported`] where the queue pair is not RC.
    #[inline(always)]
    pub fn sq_wqe(&mut self) -> Result<SqWqe<'_, 'm, E, B>, PostError> {
        self.check(Builds::Connected)?;
        Ok(SqWqe::new(Lent::new(&self.sq, None)))
    }

    /// A builder of a datagram, by exclusive access.
    ///
    /// # Errors
    /// [`Misuse::Unsupported`] where the queue pair is not UD.
    #[inline(always)]
    pub fn ud_sq_wqe(&mut self) -> Result<UdSqWqe<'_, 'm, E, B>, PostError> {
        self.check(Builds::Datagrams)?;
        Ok(UdSqWqe::new(Lent::new(&self.sq, None)))
    }

    /// A builder of a receive WQE, by exclusive access.
    ///
    /// # Errors
    /// [`Misuse::Unsupported`] where the queue pair uses a shared queue.
    #[inline(always)]
    pub fn rq_wqe(&mut self) -> Result<RqWqe<'_, 'm, E, B>, PostError> {
        Ok(RqWqe::new(self.receives()?))
    }
}

impl<E: Copy, B> fmt::Debug for Qp<'_, E, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Qp")
            .field("transport", &self.transport)
            .field("sq", &self.sq)
            .field("rq", &self.rq)
            .finish()
    }
}

/// The right to build on a send queue: one builder after the other.
pub struct SqBorrow<'q, 'm, E: Copy, B> {
    sq: &'q SendQueue<'m, E, B>,
    guard: BorrowGuard<'q>,
}

impl<'m, E: Copy, B: Bus> SqBorrow<'_, 'm, E, B> {
    /// A builder of a send WQE.
    ///
    /// # Errors
    /// [`Misuse::Unsupported`] where the queue pair is not RC.
    #[inline(always)]
    pub fn sq_wqe(&mut self) -> Result<SqWqe<'_, 'm, E, B>, PostError> {
        self.guard.check(Builds::Connected)?;
        Ok(SqWqe::new(Lent::new(self.sq, None)))
    }

    /// A builder of a datagram.
    ///
    /// # Errors
    /// [`Misuse::Unsupported`] where the queue pair is not UD.
    #[inline(always)]
    pub fn ud_sq_wqe(&mut self) -> Result<UdSqWqe<'_, 'm, E, B>, PostError> {
        self.guard.check(Builds::Datagrams)?;
        Ok(UdSqWqe::new(Lent::new(self.sq, None)))
    }
}

impl<E: Copy, B> fmt::Debug for SqBorrow<'_, '_, E, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqBorrow").field("sq", self.sq).finish_non_exhaustive()
    }
}

/// The right to build on a receive queue: one builder after the other.
pub struct RqBorrow<'q, 'm, E: Copy, B> {
    rq: &'q RecvQueue<'m, E, B>,
    _guard: BorrowGuard<'q>,
}

impl<'m, E: Copy, B: Bus> RqBorrow<'_, 'm, E, B> {
    /// A builder of a receive WQE.
    #[inline(always)]
    pub const fn rq_wqe(&mut self) -> RqWqe<'_, 'm, E, B> {
        RqWqe::new(self.rq)
    }
}

impl<E: Copy, B> fmt::Debug for RqBorrow<'_, '_, E, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RqBorrow").field("rq", self.rq).finish_non_exhaustive()
    }
}
