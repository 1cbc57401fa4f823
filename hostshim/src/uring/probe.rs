//! What a kernel can, found out by trying it on a small ring that is closed again.
//!
//! ```text
//!   IORING_REGISTER_PROBE    which operations there are
//!   registrations            tried: files, buffers, buffer rings, busy polling
//!   flags of operations      tried: a receive on a pair of sockets, an accept of a connection to ourselves
//!   io_uring_params          bits of `features`
//! ```
//!
//! A flag of an operation cannot be asked for: an old kernel answers EINVAL to the entry, a new one goes on after the first
//! completion and says so (`IORING_CQE_F_MORE`).

use core::time::Duration;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use spinwire_dataplane::raw::line;
use spinwire_dataplane::uring::{Enter, EnterError, Ring, RingMemory};
use spinwire_layouts::pod::Pod;
use spinwire_layouts::uring::{
    Buf, BufReg, Cqe, Napi, Params, Probe, ProbeOp, RsrcRegister, RsrcUpdate2, Sqe, accept,
    buffer_ring, cqe, enter, features, op, probe, recvsend, rsrc, sqe,
};

use super::feature::{Feature, FeatureSet, Features, Why};
use crate::error::Errno;
use crate::raw::uring::{
    self as raw, BufferRingMemory, PROBE_OPS, ProbeAnswer, Registration, RingMap,
    enter as enter_ring, register, setup,
};

/// Entries of the ring that is tried on.
const ENTRIES: u32 = 8;
/// How often and how long a completion is waited for that should be there at once.
const LOOKS: u32 = 100;
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// A ring to try things on.
struct Trial {
    fd: OwnedFd,
    map: RingMap,
    params: Params,
}

/// Enters by the descriptor.
struct ByFd<'f>(BorrowedFd<'f>);

impl Enter for ByFd<'_> {
    fn enter(&self, to_submit: u32, min_complete: u32, flags: u32) -> Result<u32, EnterError> {
        enter_ring(self.0.as_raw_fd(), to_submit, min_complete, flags)
            .map_err(|e| EnterError::Fatal(e.number()))
    }
}

/// The answer of something that was tried.
type Tried = Result<(), Why>;

const fn refused(e: Errno) -> Why {
    Why::Refused(e)
}

/// Finds out about everything that is not about the set-up itself, but for what `deny` has. `flags` are those of the set-up, without
/// a thread of the kernel.
pub(super) fn run(flags: u32, deny: FeatureSet, found: &mut Features) -> Result<(), Errno> {
    let mut params = Params { flags, cq_entries: 2 * ENTRIES, ..Params::ZERO };
    let fd = setup(ENTRIES, &mut params)?;
    let map = RingMap::new(fd.as_fd(), &params)?;
    let trial = Trial { fd, map, params };
    let operations = trial.operations()?;
    let memory = BufferRingMemory::new(line::LINE_BYTES)?;

    let mut note = |feature: Feature, tried: &mut dyn FnMut(&Features) -> Tried| {
        let answer = if deny.has(feature) { Err(Why::Denied) } else { tried(found) };
        match answer {
            Ok(()) => found.found(feature),
            Err(why) => found.lacks(feature, why),
        }
    };
    note(Feature::Files, &mut |_| trial.files());
    note(Feature::PromptClose, &mut |found| {
        needs(found, Feature::Files)?;
        trial.prompt_close(&memory)
    });
    note(Feature::Buffers, &mut |_| trial.buffers());
    note(Feature::BufferRings, &mut |_| trial.buffer_ring(&memory, 0));
    note(Feature::IncrementalBuffers, &mut |found| {
        needs(found, Feature::BufferRings)?;
        trial.buffer_ring(&memory, buffer_ring::INC)
    });
    note(Feature::Napi, &mut |_| trial.napi());
    note(Feature::MultishotAccept, &mut |_| trial.multishot_accept());
    note(Feature::MultishotReceive, &mut |found| {
        needs(found, Feature::BufferRings)?;
        trial.multishot_receive(&memory)
    });
    note(Feature::Bundles, &mut |found| {
        needs(found, Feature::BufferRings)?;
        let has = trial.params.features & features::RECVSEND_BUNDLE != 0;
        if has { Ok(()) } else { Err(refused(Errno::new(libc::EINVAL))) }
    });
    note(Feature::SendZc, &mut |_| supports(&operations, op::SEND_ZC));
    note(Feature::SendMsgZc, &mut |_| supports(&operations, op::SENDMSG_ZC));
    Ok(())
}

const fn needs(found: &Features, other: Feature) -> Tried {
    if found.has(other) { Ok(()) } else { Err(Why::Needs(other)) }
}

fn supports(operations: &ProbeAnswer, opcode: u8) -> Tried {
    let known = operations.ops.get(usize::from(opcode));
    let known = known.is_some_and(|it| it.flags & probe::OP_SUPPORTED != 0);
    if known { Ok(()) } else { Err(refused(Errno::new(libc::EOPNOTSUPP))) }
}

impl Trial {
    fn register(&self, what: Registration<'_>) -> Tried {
        register(self.fd.as_fd(), what).map(drop).map_err(refused)
    }

    fn operations(&self) -> Result<ProbeAnswer, Errno> {
        let mut answer = ProbeAnswer { head: Probe::ZERO, ops: [ProbeOp::ZERO; PROBE_OPS] };
        register(self.fd.as_fd(), Registration::Probe(&mut answer))?;
        Ok(answer)
    }

    fn files(&self) -> Tried {
        let table = RsrcRegister { nr: 2, flags: rsrc::SPARSE, ..RsrcRegister::ZERO };
        self.register(Registration::Files(&table))
    }

    /// Closes one file of the table while a receive waits on the other. Whether the other end of the closed one sees that.
    fn prompt_close(&self, memory: &BufferRingMemory) -> Tried {
        let io = |e: std::io::Error| refused(Errno::from_io(&e));
        let (used, used_far) = UnixStream::pair().map_err(io)?;
        let (closed, closed_far) = UnixStream::pair().map_err(io)?;
        closed_far.set_read_timeout(Some(BETWEEN_LOOKS)).map_err(io)?;
        let numbers = [used.as_raw_fd(), closed.as_raw_fd()];
        let data = u64::try_from(numbers.as_ptr().expose_provenance()).unwrap_or(0);
        let update = RsrcUpdate2 { data, nr: 2, ..RsrcUpdate2::ZERO };
        self.register(Registration::FilesUpdate(&update))?;
        drop(closed);
        let ring = self.ring()?;
        let addr = u64::try_from(memory.as_ptr().as_ptr().expose_provenance()).unwrap_or(0);
        let flags = sqe::FIXED_FILE;
        let wait = Sqe { opcode: op::RECV, flags, addr, len: 8, user_data: 1, ..Sqe::ZERO };
        let close = Sqe { opcode: op::CLOSE, file_index: 2, user_data: 2, ..Sqe::ZERO };
        for entry in [wait, close] {
            raw::push(&ring, &[entry]).map_err(|_full| refused(Errno::new(libc::EBADF)))?;
            // One after the other.
            let _submitted = ring.submit();
        }
        let answer = next_of(&ring, close.user_data)?;
        let ended = std::io::Read::read(&mut &closed_far, &mut [0]).is_ok();
        // The receive ends with this, and its memory is free.
        drop(used_far);
        next_of(&ring, wait.user_data)?;
        let number = if answer.res < 0 { -answer.res } else { libc::EBUSY };
        if answer.res == 0 && ended { Ok(()) } else { Err(refused(Errno::new(number))) }
    }

    fn ring(&self) -> Result<Ring<'_, ByFd<'_>>, Why> {
        let memory = RingMemory::new(self.map.rings(), self.map.sqes(), &self.params);
        let memory = memory.map_err(|_bad| refused(Errno::new(libc::EBADF)))?;
        Ok(Ring::new(memory, raw::no_arena(), ByFd(self.fd.as_fd())))
    }

    /// The table goes with the ring. To give it up before would wait: Linux 6.1 lets go of a file that was taken out of its table (by
    /// [`prompt_close`](Self::prompt_close)) after a second, and of a table when all before it is gone.
    fn buffers(&self) -> Tried {
        let table = RsrcRegister { nr: 1, flags: rsrc::SPARSE, ..RsrcRegister::ZERO };
        self.register(Registration::Buffers(&table))
    }

    fn buffer_ring(&self, memory: &BufferRingMemory, flags: u16) -> Tried {
        let group = group(memory, flags);
        self.register(Registration::BufferRing(&group))?;
        self.forget_buffer_ring()
    }

    /// Asked with the number of the group alone: whatever else it says is EINVAL.
    fn forget_buffer_ring(&self) -> Tried {
        self.register(Registration::NoBufferRing(&BufReg::ZERO))
    }

    fn napi(&self) -> Tried {
        let mut polling = Napi { busy_poll_to: 1, ..Napi::ZERO };
        self.register(Registration::Napi(&mut polling))?;
        self.register(Registration::NoNapi(&mut Napi { ..Napi::ZERO }))
    }

    /// Pushes `entry` and waits for its first completion; if more are to come, `end` sees to the last, which is waited for
    /// too. What the first one said.
    fn first_of(
        &self,
        entry: &Sqe,
        end: impl FnOnce(&Ring<'_, ByFd<'_>>, Cqe),
    ) -> Result<Cqe, Why> {
        let ring = self.ring()?;
        if raw::push(&ring, core::slice::from_ref(entry)).is_err() {
            return Err(refused(Errno::new(libc::EBADF)));
        }
        let first = next_of(&ring, entry.user_data)?;
        if first.flags & cqe::MORE != 0 {
            end(&ring, first);
            while next_of(&ring, entry.user_data)?.flags & cqe::MORE != 0 {}
        }
        if first.res < 0 { Err(refused(Errno::new(-first.res))) } else { Ok(first) }
    }

    /// A receive that goes on: three bytes, then the end of the stream.
    fn multishot_receive(&self, memory: &BufferRingMemory) -> Tried {
        let group = group(memory, 0);
        self.register(Registration::BufferRing(&group))?;
        let tried = self.receive_twice(memory);
        self.forget_buffer_ring()?;
        tried
    }

    fn receive_twice(&self, memory: &BufferRingMemory) -> Tried {
        let io = |e: &std::io::Error| refused(Errno::from_io(e));
        let (near, far) = UnixStream::pair().map_err(|e| io(&e))?;
        std::io::Write::write_all(&mut &far, b"abc").map_err(|e| io(&e))?;
        // The second half of the page is the buffers.
        let base = memory.as_ptr().as_ptr().expose_provenance();
        let half = memory.lines().len() * line::LINE_BYTES / 2;
        for (index, bid) in (0_u16..2).enumerate() {
            let addr = base + half + index * line::LINE_BYTES;
            // The last field of the first entry is the tail.
            let resv = if index == 0 { 2 } else { 0 };
            let addr = u64::try_from(addr).unwrap_or(0);
            let buffer = Buf { addr, len: 64, bid, resv };
            let _fits = line::copy_in(memory.lines(), index * size_of::<Buf>(), buffer.as_bytes());
        }
        let entry = Sqe {
            opcode: op::RECV,
            flags: sqe::BUFFER_SELECT,
            ioprio: recvsend::RECV_MULTISHOT,
            fd: near.as_raw_fd(),
            user_data: 1,
            ..Sqe::ZERO
        };
        let first = self.first_of(&entry, |_ring, _first| drop(far))?;
        goes_on(first)
    }

    /// An accept that goes on: one connection of ours, then it is cancelled.
    fn multishot_accept(&self) -> Tried {
        let io = |e: &std::io::Error| refused(Errno::from_io(e));
        // A name in the abstract namespace, which is nobody else's: process and ring.
        let name = format!("spinwire-probe-{}-{}", std::process::id(), self.fd.as_raw_fd());
        let address = SocketAddr::from_abstract_name(name).map_err(|e| io(&e))?;
        let listener = UnixListener::bind_addr(&address).map_err(|e| io(&e))?;
        let _connection = UnixStream::connect_addr(&address).map_err(|e| io(&e))?;
        let entry = Sqe {
            opcode: op::ACCEPT,
            ioprio: accept::MULTISHOT,
            fd: listener.as_raw_fd(),
            user_data: 1,
            ..Sqe::ZERO
        };
        let first = self.first_of(&entry, |ring, first| {
            let close = Sqe { opcode: op::CLOSE, fd: first.res, user_data: 2, ..Sqe::ZERO };
            let cancel = Sqe { opcode: op::ASYNC_CANCEL, addr: 1, user_data: 3, ..Sqe::ZERO };
            // Two of eight entries: there is room.
            let _pushed = raw::push(ring, &[close]).and_then(|()| raw::push(ring, &[cancel]));
        })?;
        goes_on(first)
    }
}

const fn goes_on(first: Cqe) -> Tried {
    if first.flags & cqe::MORE != 0 { Ok(()) } else { Err(refused(Errno::new(libc::EINVAL))) }
}

/// The next completion of `user_data`; none of the others is wanted.
fn next_of(ring: &Ring<'_, ByFd<'_>>, user_data: u64) -> Result<Cqe, Why> {
    let mut found = None;
    for look in 0..LOOKS {
        let submitted = ring.submit();
        if let Some(e) = submitted.error {
            let EnterError::Fatal(number) = e else { continue };
            return Err(refused(Errno::new(number)));
        }
        if look > 0 {
            std::thread::sleep(BETWEEN_LOOKS);
            let _taken = ring.enter().enter(0, 0, enter::GETEVENTS);
        }
        // One at a time: what comes after it is for the next call.
        while found.is_none()
            && ring.harvest(1, |cqe| found = (cqe.user_data == user_data).then_some(cqe)) != 0
        {
        }
        if let Some(found) = found {
            return Ok(found);
        }
    }
    Err(refused(Errno::new(libc::ETIME)))
}

/// A ring of two buffers in `memory`.
fn group(memory: &BufferRingMemory, flags: u16) -> BufReg {
    let ring_addr = u64::try_from(memory.as_ptr().as_ptr().expose_provenance()).unwrap_or(0);
    BufReg { ring_addr, ring_entries: 2, flags, ..BufReg::ZERO }
}
