//! Single operations.

use spinwire_layouts::uring::{FILE_INDEX_ALLOC, Sqe, accept, cancel, cqe, op, recvsend, sqe};

use super::{FakeNet, Name, Notice, Operation, Socket, memory};
use crate::rng::Rng;

const EPIPE: i32 = -32;
const ENFILE: i32 = -23;
const EMFILE: i32 = -24;
const ECONNRESET: i32 = -104;
const ENOBUFS: i32 = -105;
const EAGAIN: i32 = -11;
const ENOENT: i32 = -2;
const ECANCELED: i32 = -125;

/// `MSG_DONTWAIT`.
const DONT_WAIT: u32 = 0x40;
/// `MSG_WAITALL`, `MSG_NOSIGNAL`.
const WHOLE: u32 = 0x100 | 0x4000;

fn result(bytes: usize) -> i32 {
    i32::try_from(bytes).unwrap()
}

/// What it sends: addresses and lengths.
fn pieces(entry: &Sqe) -> Vec<(u64, usize)> {
    if !matches!(entry.opcode, op::SENDMSG | op::SENDMSG_ZC) {
        return vec![(entry.addr, usize::try_from(entry.len).unwrap())];
    }
    // `struct msghdr`: the vector is its third word, and its length the fourth.
    let (vector, length) = (memory::word(entry.addr + 16), memory::word(entry.addr + 24));
    let piece = |index| {
        let at = vector + index * 16;
        (memory::word(at), usize::try_from(memory::word(at + 8)).unwrap())
    };
    (0..length).map(piece).collect()
}

/// Whether its completion may be followed by a notification.
const fn is_zero_copy(entry: &Sqe) -> bool {
    matches!(entry.opcode, op::SEND_ZC | op::SENDMSG_ZC)
}

fn bytes_of(entry: &Sqe) -> Vec<u8> {
    pieces(entry).into_iter().flat_map(|(at, length)| memory::read(at, length)).collect()
}

impl FakeNet<'_> {
    /// Gets on with an operation, as far as it can.
    pub(super) fn advance(&mut self, at: usize, rng: &mut Rng) {
        let operation = &self.operations[at];
        let (entry, name) = (operation.entry, operation.name);
        match entry.opcode {
            op::ACCEPT => self.accept(at, &entry, rng),
            op::CONNECT => self.connect(at, &entry, name, rng),
            op::RECV => self.receive(at, &entry, name, rng),
            op::SHUTDOWN => {
                self.sockets.get_mut(&name).unwrap().shut = true;
                self.end(at, 0, 0, rng);
            }
            _ => self.send(at, &entry, name, rng),
        }
    }

    /// An operation has ended; what is linked to it begins, or ends too.
    fn end(&mut self, at: usize, res: i32, flags: u32, rng: &mut Rng) {
        let Operation { entry, behind, .. } = self.operations.swap_remove(at);
        let wanted = match entry.opcode {
            op::SEND | op::SEND_ZC => i32::try_from(entry.len).unwrap(),
            _ => 0,
        };
        let broken = res < wanted && !behind.is_empty();
        let before = broken && rng.chance(self.manner.reverses);
        if !before {
            self.kernel.complete(entry.user_data, res, flags);
        }
        if broken {
            for entry in &behind {
                self.cancel_linked(entry, rng);
            }
        } else {
            self.begin(behind, rng);
        }
        if before {
            self.kernel.complete(entry.user_data, res, flags);
        }
    }

    /// What never began. A zero-copy send has a notification even so, announced or not.
    fn cancel_linked(&mut self, entry: &Sqe, rng: &mut Rng) {
        let zero_copy = is_zero_copy(entry) && rng.chance(50);
        let flags = if zero_copy { cqe::MORE } else { 0 };
        self.kernel.complete(entry.user_data, ECANCELED, flags);
        if zero_copy {
            let name = (entry.flags & sqe::FIXED_FILE != 0, entry.fd);
            let notice = Notice { user_data: entry.user_data, name, pieces: Vec::new() };
            self.notices.push(notice);
        } else if is_zero_copy(entry) && rng.chance(50) {
            self.kernel.complete(entry.user_data, 0, cqe::NOTIF);
        }
    }

    fn accept(&mut self, at: usize, entry: &Sqe, rng: &mut Rng) {
        let again = entry.ioprio & accept::MULTISHOT != 0;
        let direct = entry.file_index == FILE_INDEX_ALLOC;
        let name = self.operations[at].name;
        let backlog = self.sockets[&name].backlog.as_ref().unwrap();
        let Some(&peer) = backlog.front() else { return };
        if rng.chance(self.manner.no_descriptor) {
            return self.end(at, if direct { ENFILE } else { EMFILE }, 0, rng);
        }
        let free = |fd: &i32| !self.sockets.contains_key(&(true, *fd));
        let place = (0..i32::try_from(self.manner.places).unwrap()).find(free);
        let fd = match place {
            Some(place) if direct => place,
            None if direct => return self.end(at, ENFILE, 0, rng),
            _ => self.next_descriptor(),
        };
        let listener = self.sockets.get_mut(&name).unwrap();
        listener.backlog.as_mut().unwrap().pop_front();
        let socket = Socket { peer, connected: true, ..Socket::default() };
        self.sockets.insert((direct, fd), socket);
        if again && !rng.chance(self.manner.ends) {
            self.kernel.complete(entry.user_data, fd, cqe::MORE);
        } else {
            self.end(at, fd, 0, rng);
        }
    }

    fn connect(&mut self, at: usize, entry: &Sqe, name: Name, rng: &mut Rng) {
        let family = u16::from_le_bytes(memory::read(entry.addr, 2).try_into().unwrap());
        let peer = self.sockets[&name].peer;
        if family == 0 {
            self.sockets.get_mut(&name).unwrap().connected = false;
            self.peers[peer].ended = true;
            self.end(at, 0, 0, rng);
            self.forget(name);
        } else if let Some(errno) = self.peers[peer].refusal {
            self.end(at, -errno, 0, rng);
        } else if !self.peers[peer].silent {
            self.sockets.get_mut(&name).unwrap().connected = true;
            self.end(at, 0, 0, rng);
        }
    }

    fn receive(&mut self, at: usize, entry: &Sqe, name: Name, rng: &mut Rng) {
        assert!(entry.flags & sqe::BUFFER_SELECT != 0 && entry.len == 0 && entry.addr == 0);
        let again = entry.ioprio & recvsend::RECV_MULTISHOT != 0;
        let peer = &self.peers[self.sockets[&name].peer];
        let waiting = peer.outgoing.len();
        let available = self.buffers.available();
        if available == 0 || (waiting > 0 && rng.chance(self.manner.no_buffer)) {
            return self.end(at, ENOBUFS, 0, rng);
        }
        if peer.reset {
            return self.end(at, ECONNRESET, 0, rng);
        }
        if waiting == 0 {
            if peer.fin {
                self.end(at, 0, 0, rng);
            } else if entry.op_flags & DONT_WAIT != 0 {
                self.end(at, EAGAIN, 0, rng);
            }
            return;
        }
        let bundle = entry.ioprio & recvsend::BUNDLE != 0;
        let (first, length, number) = self.buffers.peek();
        if bundle && length > 1 && rng.chance(self.manner.shortens) {
            let length = rng.between(1, length - 1);
            self.buffers.shorten(length);
            if rng.chance(50) {
                // It takes it later.
                return;
            }
        }
        let most = if bundle { rng.between(1, usize::from(available)) } else { 1 };
        let mut left = rng.between(1, waiting);
        let (mut bytes, mut taken) = (0, 0);
        let flags = cqe::BUFFER | u32::from(number) << cqe::BUFFER_SHIFT;
        assert!(first != 0);
        while left > 0 && taken < most {
            let (address, length, _) = self.buffers.peek();
            let part = left.min(length);
            let peer = &mut self.peers[self.sockets[&name].peer];
            let bytes_of_part: Vec<u8> = peer.outgoing.drain(..part).collect();
            memory::write(address, &bytes_of_part);
            self.buffers.advance();
            (left, bytes, taken) = (left - part, bytes + part, taken + 1);
        }
        let more = !self.peers[self.sockets[&name].peer].outgoing.is_empty();
        let flags = flags | if more && rng.chance(50) { cqe::SOCK_NONEMPTY } else { 0 };
        if again && !rng.chance(self.manner.ends) {
            self.kernel.complete(entry.user_data, result(bytes), flags | cqe::MORE);
        } else {
            self.end(at, result(bytes), flags, rng);
        }
    }

    fn send(&mut self, at: usize, entry: &Sqe, name: Name, rng: &mut Rng) {
        assert!(
            entry.op_flags & WHOLE == WHOLE,
            "a short send would not break its chain, or kills"
        );
        let zero_copy = is_zero_copy(entry);
        let socket = &self.sockets[&name];
        let (peer, gone) = (socket.peer, socket.shut || !socket.connected);
        let bytes = bytes_of(entry);
        let done = self.operations[at].done;
        if zero_copy && done == 0 && rng.chance(self.manner.refuses) {
            return self.fail(at, -self.manner.refusal, rng);
        }
        if gone || self.peers[peer].reset {
            let errno = if gone { EPIPE } else { ECONNRESET };
            let res = if done > 0 { result(done) } else { errno };
            return if zero_copy { self.sent(at, res, rng) } else { self.end(at, res, 0, rng) };
        }
        let to = &mut self.peers[peer];
        let part = (bytes.len() - done).min(to.window);
        let part = if part > 1 { rng.between(1, part) } else { part };
        to.window -= part;
        to.incoming.extend_from_slice(&bytes[done..done + part]);
        self.operations[at].done += part;
        if done + part == bytes.len() {
            let res = result(bytes.len());
            if zero_copy { self.sent(at, res, rng) } else { self.end(at, res, 0, rng) }
        }
    }

    /// A zero-copy send that failed before anything else: with a notification or without.
    fn fail(&mut self, at: usize, res: i32, rng: &mut Rng) {
        let zero_copy = is_zero_copy(&self.operations[at].entry);
        if zero_copy && rng.chance(50) {
            self.sent(at, res, rng)
        } else {
            self.end(at, res, 0, rng)
        }
    }

    /// A zero-copy send has its result, and its notification is due.
    fn sent(&mut self, at: usize, res: i32, rng: &mut Rng) {
        if rng.chance(self.manner.copies) {
            return self.end(at, res, 0, rng);
        }
        let Operation { entry, name, done, .. } = self.operations[at];
        let mut left = done;
        let pieces = pieces(&entry).into_iter().filter_map(|(at, length)| {
            let part = length.min(left);
            left -= part;
            (part > 0).then(|| (at, memory::read(at, part)))
        });
        let pieces = pieces.collect();
        self.end(at, res, cqe::MORE, rng);
        self.notices.push(Notice { user_data: entry.user_data, name, pieces });
        if rng.chance(self.manner.notifies) {
            self.notify(self.notices.len() - 1);
        }
    }

    pub(super) fn cancel(&mut self, request: &Sqe, rng: &mut Rng) {
        let by_file = request.op_flags & cancel::FD != 0;
        let name = (request.op_flags & cancel::FD_FIXED != 0, request.fd);
        assert!(
            !by_file || self.sockets.contains_key(&name),
            "EBADF, or a stranger's: {request:?}"
        );
        let found = |operation: &Operation| {
            if by_file { operation.name == name } else { operation.entry.user_data == request.addr }
        };
        let mut hits: Vec<u64> =
            self.operations.iter().filter(|o| found(o)).map(|o| o.entry.user_data).collect();
        let count = hits.len();
        hits.retain(|_| !rng.chance(self.manner.misses));
        for user_data in hits {
            let hit = |operation: &Operation| operation.entry.user_data == user_data;
            if let Some(at) = self.operations.iter().position(hit) {
                self.cancel_one(at, rng);
            }
        }
        self.kernel.complete(request.user_data, if count == 0 { ENOENT } else { 0 }, 0);
    }

    fn cancel_one(&mut self, at: usize, rng: &mut Rng) {
        let Operation { entry, done, .. } = self.operations[at];
        match (entry.opcode, done) {
            // That runs, and ends soon.
            (op::SHUTDOWN, _) => {}
            (op::SEND_ZC | op::SENDMSG_ZC, 0) => self.fail(at, ECANCELED, rng),
            (op::SEND_ZC | op::SENDMSG_ZC, done) => self.sent(at, result(done), rng),
            (_, 0) => self.end(at, ECANCELED, 0, rng),
            (_, done) => self.end(at, result(done), 0, rng),
        }
    }
}
