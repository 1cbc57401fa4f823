//! What has come: from a completion to a receive.

use core::cell::Cell;
use core::net::SocketAddr;

use heapless::VecView;
use spinwire_layouts::pod::Pod;
use spinwire_layouts::uring::{Cqe as RingCqe, RecvMsgOut, SockAddr, Sqe, cqe, op, recvsend, sqe};
use spinwire_layouts::word::{from_usize, low};

use super::UdpConfig;
use super::datagram::Datagram;
use super::port::UdpPort;
use crate::id::{Addr, Generation, OpTag, WrId};
use crate::msg::matching::Incoming;
use crate::provider::Cqe;
use crate::provider::queues::Found;
use crate::raw::kernel_memory::{KernelMemory, address_in, address_of};
use crate::raw::line::{partial_word, store_partial};
use crate::raw::loan::{Loan, LoanPool, Posted};
use crate::raw::place::Exhausted;
use crate::stream::provided::ProvidedBuffers;
use crate::table::{Fifos, wide};
use crate::time::Instant;
use crate::uring::Enter;

/// Bytes that are kept for the address of a sender, and for control messages: one of four bytes, with its header (cmsg(3)).
const NAME_BYTES: usize = 32;
const CONTROL_BYTES: usize = 24;
/// What comes before a packet in a provided buffer.
pub(super) const LEAD_BYTES: usize = size_of::<RecvMsgOut>() + NAME_BYTES + CONTROL_BYTES;
/// Level and type of a control message: `SOL_SOCKET` and `SO_RXQ_OVFL` of socket(7).
const OVERFLOW: u64 = 1 | 40 << 32;
/// Receives that are under way at once where each is for one packet.
const ONE_BY_ONE: u32 = 16;
/// The one list of slots that are not under way.
const IDLE: u32 = 0;

/// Where packets come into.
#[derive(Debug)]
pub(super) enum Inbox<'m> {
    /// One submission, into buffers of the kernel's choice.
    Provided(Provided<'m>),
    /// A submission for each packet.
    Slots(Slots<'m>),
}

/// Provided buffers, and the receive that is under way.
#[derive(Debug)]
pub(super) struct Provided<'m> {
    pub(super) buffers: ProvidedBuffers<'m>,
    /// `struct msghdr`.
    message: &'m [Cell<u64>],
    generation: Cell<Generation>,
    armed: Cell<bool>,
}

/// Receives for one packet each.
#[derive(Debug)]
pub(super) struct Slots<'m> {
    all: &'m [RecvSlot<'m>],
    pool: &'m LoanPool<'m>,
    idle: Fifos<'m>,
}

pub(super) struct RecvSlot<'m> {
    generation: Cell<Generation>,
    posted: Cell<Option<Posted<'m>>>,
    /// `struct msghdr`, its vector, the address, the control messages.
    message: [Cell<u64>; 7],
    vector: [Cell<u64>; 2],
    name: [Cell<u64>; NAME_BYTES / 8],
    control: [Cell<u64>; CONTROL_BYTES / 8],
}

impl core::fmt::Debug for RecvSlot<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RecvSlot").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// A packet that was received and is not yet delivered.
pub(super) struct Arrived<'m> {
    loan: Loan<'m>,
    /// Where in the buffer it begins.
    from: usize,
    source: SocketAddr,
}

impl<'m> Inbox<'m> {
    pub(super) fn place(
        arena: &KernelMemory<'m>,
        group: u16,
        config: &UdpConfig,
    ) -> Result<Self, Exhausted> {
        let bump = arena.bump();
        let packet = config.message_bytes_max.saturating_add(super::send::HEADER_BYTES);
        if config.multishot {
            let message = bump.slice_with(7, |_| Cell::new(0))?;
            // `struct msghdr`: what is kept in each buffer for name and control messages.
            for (place, word) in
                message.iter().zip(lengths((0, NAME_BYTES), (0, 0), (0, CONTROL_BYTES)))
            {
                place.set(word);
            }
            let bytes = packet.saturating_add(LEAD_BYTES);
            return Ok(Self::Provided(Provided {
                buffers: ProvidedBuffers::place(arena, group, (config.recv_buffers, bytes))?,
                message,
                generation: Cell::new(Generation::FIRST),
                armed: Cell::new(false),
            }));
        }
        let count = config.recv_buffers.clamp(1, ONE_BY_ONE);
        let idle = Fifos::place(bump, count, 1)?;
        for slot in 0..count {
            let _empty_before = idle.push_back(IDLE, slot);
        }
        // One more: that of the packet that waits for a batch of completions.
        let pool = LoanPool::place(bump, count.saturating_add(1), packet)?;
        let all = bump.slice_with(wide(count), |_| RecvSlot {
            generation: Cell::new(Generation::FIRST),
            posted: Cell::new(None),
            message: [const { Cell::new(0) }; 7],
            vector: [const { Cell::new(0) }; 2],
            name: [const { Cell::new(0) }; NAME_BYTES / 8],
            control: [const { Cell::new(0) }; CONTROL_BYTES / 8],
        })?;
        Ok(Self::Slots(Slots { all, pool, idle }))
    }
}

/// A `struct msghdr`: name, vector and control messages, each where it lies and how long it is.
const fn lengths(name: (u64, usize), vector: (u64, usize), control: (u64, usize)) -> [u64; 7] {
    [
        name.0,
        from_usize(name.1),
        vector.0,
        from_usize(vector.1),
        control.0,
        from_usize(control.1),
        0,
    ]
}

impl<'m, E: Enter> UdpPort<'m, E> {
    /// Sees to it that something is being received into.
    pub(super) fn arm(&self) {
        match &self.inbox {
            Inbox::Provided(provided) => {
                provided.buffers.refill();
                if provided.armed.get() || provided.buffers.given() == 0 {
                    return;
                }
                let generation = provided.generation.get().next();
                let entry = Sqe {
                    opcode: op::RECVMSG,
                    flags: sqe::BUFFER_SELECT,
                    ioprio: recvsend::RECV_MULTISHOT,
                    fd: self.fd,
                    addr: provided.message.first().map_or(0, address_in),
                    len: 1,
                    buf_index: provided.buffers.group(),
                    user_data: WrId::new(OpTag::Receive, generation, 0).as_raw(),
                    ..Sqe::ZERO
                };
                if self.ring.push(&[entry]).is_ok() {
                    provided.generation.set(generation);
                    provided.armed.set(true);
                }
            }
            Inbox::Slots(slots) => while self.arm_one(slots).is_some() {},
        }
    }

    fn arm_one(&self, slots: &Slots<'m>) -> Option<()> {
        let number = slots.idle.front(IDLE)?;
        let slot = slots.all.get(wide(number))?;
        let loan = slots.pool.lend()?;
        let vector = [address_of(loan.range().0), u64::from(slots.pool.slot_bytes())];
        for (place, word) in slot.vector.iter().zip(vector) {
            place.set(word);
        }
        let message = lengths(
            (address_in(&slot.name), NAME_BYTES),
            (address_in(&slot.vector), 1),
            (address_in(&slot.control), CONTROL_BYTES),
        );
        for (place, word) in slot.message.iter().zip(message) {
            place.set(word);
        }
        let entry = Sqe {
            opcode: op::RECVMSG,
            fd: self.fd,
            addr: address_in(&slot.message),
            len: 1,
            user_data: WrId::new(OpTag::Receive, slot.generation.get(), number).as_raw(),
            ..Sqe::ZERO
        };
        self.ring.push(&[entry]).ok()?;
        slot.posted.set(Some(loan.post()));
        slots.idle.unlink(number).ok().map(drop)
    }

    /// A completion of a receive; the packet, if it brought one.
    pub(super) fn received(
        &self,
        (generation, number): (Generation, u32),
        cqe: &RingCqe,
    ) -> Option<Arrived<'m>> {
        if cqe.res < 0 {
            self.count(|c| c.recv_errors = c.recv_errors.wrapping_add(1));
        }
        match &self.inbox {
            Inbox::Provided(provided) => {
                if provided.generation.get() == generation && cqe.flags & cqe::MORE == 0 {
                    provided.armed.set(false);
                }
                if cqe.flags & cqe::BUFFER == 0 {
                    return None;
                }
                let bytes = cqe.res.max(0).cast_unsigned();
                let mut filled = provided.buffers.filled(cqe.flags >> cqe::BUFFER_SHIFT, bytes);
                let Some(loan) = provided.buffers.take(&mut filled) else {
                    self.stale();
                    return None;
                };
                self.take_provided(loan)
            }
            Inbox::Slots(slots) => {
                let slot = slots.all.get(wide(number))?;
                if slot.generation.get() != generation {
                    self.stale();
                    return None;
                }
                let Some(posted) = slot.posted.take() else {
                    self.stale();
                    return None;
                };
                slot.generation.set(generation.next());
                let _it_was_under_way = slots.idle.push_back(IDLE, number);
                let bytes = usize::try_from(cqe.res).ok();
                let loan = posted.complete(Some(bytes.unwrap_or(0)));
                bytes?;
                self.take_slot(slot, loan)
            }
        }
    }

    /// The parts of what the kernel has written into a provided buffer: `struct io_uring_recvmsg_out`, address, control messages, packet.
    fn take_provided(&self, loan: Loan<'m>) -> Option<Arrived<'m>> {
        let (out, rest) = loan.split_first_chunk::<{ size_of::<RecvMsgOut>() }>()?;
        let out = RecvMsgOut::from_bytes(out)?;
        let (name, rest) = rest.split_first_chunk::<NAME_BYTES>()?;
        let control = rest.first_chunk::<CONTROL_BYTES>()?;
        if wide(out.controllen) >= CONTROL_BYTES - 4 {
            let mut words = control.chunks(8).map(partial_word);
            self.overflowed([words.next()?, words.next()?, words.next()?]);
        }
        let source = SockAddr::read(name.get(..wide(out.namelen)).unwrap_or(name));
        self.arrived(loan, LEAD_BYTES, source)
    }

    fn take_slot(&self, slot: &RecvSlot<'m>, loan: Loan<'m>) -> Option<Arrived<'m>> {
        let mut name = [0; NAME_BYTES];
        for (bytes, word) in name.chunks_mut(8).zip(&slot.name) {
            store_partial(word.get(), bytes);
        }
        let [_, length, _, _, _, control, _] = &slot.message;
        if control.get() >= from_usize(CONTROL_BYTES - 4) {
            self.overflowed(slot.control.each_ref().map(Cell::get));
        }
        let length = wide(low(length.get()));
        let source = SockAddr::read(name.get(..length).unwrap_or(&name));
        self.arrived(loan, 0, source)
    }

    fn arrived(
        &self,
        loan: Loan<'m>,
        from: usize,
        source: Option<SocketAddr>,
    ) -> Option<Arrived<'m>> {
        self.count(|c| c.received = c.received.wrapping_add(1));
        let Some(source) = source else {
            self.count(|c| c.garbage = c.garbage.wrapping_add(1));
            return None;
        };
        Some(Arrived { loan, from, source })
    }

    /// A control message: length, level and type, a number. The kernel counts all that it had no room for.
    fn overflowed(&self, [_length, kind, number]: [u64; 3]) {
        if kind == OVERFLOW {
            let lost = u64::from(low(number));
            self.count(|c| c.overflowed = c.overflowed.max(lost));
        }
    }

    /// Delivers a packet, or drops it. It comes back where `out` is full.
    pub(super) fn deliver(
        &self,
        arrived: Arrived<'m>,
        out: &mut VecView<Cqe>,
    ) -> Option<Arrived<'m>> {
        let packet = arrived.loan.get(arrived.from..).unwrap_or_default();
        let datagram = match Datagram::from_wire(packet) {
            Ok(datagram) => datagram,
            Err(fault) => {
                self.last_fault.set(Some(fault));
                self.count(|c| c.garbage = c.garbage.wrapping_add(1));
                return None;
            }
        };
        let Some(source) = self.heard(arrived.source) else {
            self.count(|c| c.crowded = c.crowded.wrapping_add(1));
            return None;
        };
        let (bytes, cut) = (datagram.bytes, datagram.is_truncated());
        let message = Incoming { source, envelope: datagram.envelope, length: datagram.length };
        match self.queues.find_receive(&message, out) {
            Found::NoRoom => Some(arrived),
            Found::Receive(mut landing) => {
                if cut {
                    landing.cut(bytes.len());
                }
                self.queues.matcher().fill(&mut landing, 0, bytes);
                self.queues.land(&landing, &message, out);
                None
            }
            Found::Nobody => {
                let copy = |to: &mut [u8]| {
                    if let Some(from) = bytes.get(..to.len()) {
                        to.copy_from_slice(from);
                    }
                };
                if cut || !self.queues.matcher().stash(&message, copy) {
                    self.count(|c| c.unasked = c.unasked.wrapping_add(1));
                }
                None
            }
        }
    }

    /// The row of a sender.
    fn heard(&self, source: SocketAddr) -> Option<Addr> {
        let now = self.now.get();
        let old = |addr: Addr, heard: Instant| {
            heard.saturating_add(self.config.age_min) <= now
                && !self.queues.matcher().holds_of(addr)
        };
        let (addr, before) = self.peers.hear(source, now, old)?;
        if let Some(before) = before {
            self.count(|c| c.aged = c.aged.wrapping_add(1));
            self.queues.end_hopeless(before);
        }
        Some(addr)
    }
}
