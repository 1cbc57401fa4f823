//! A network under a fake kernel: it does what the submissions of a stream service ask for, between sockets and scripted peers,
//! in an order that a seed decides.
//!
//! ```text
//!   Streams --- sqes ---> FakeKernel --- chains ---> FakeNet: sockets, operations under way, notifications that are due
//!           <-- cqes ---             <-- complete --    |  bytes
//!                                                       v
//!                                                    peers: what they send, what has reached them, how much they take
//! ```
//!
//! What it is strict about, as no kernel is: a descriptor is closed while operations of it are under way; memory of a
//! zero-copy send is changed before its notification; an entry asks for what no kernel does.

pub mod memory;
mod operate;
pub mod plan;
mod world;

use std::collections::{BTreeMap, VecDeque};

use spinwire_layouts::uring::{Sqe, cqe, op, sqe};

use crate::fake_kernel::FakeKernel;
use crate::rng::Rng;
use memory::BufferRing;

/// A descriptor, or a place in the table of files.
pub type Name = (bool, i32);

/// How this kernel and its network behave: in so many of 100 cases.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Places in the table of files.
    pub places: usize,
    /// An accept finds no descriptor.
    pub no_descriptor: u64,
    /// A multishot operation ends though nothing is wrong.
    pub ends: u64,
    /// A request to cancel does not find an operation, as that is on its way.
    pub misses: u64,
    /// A look for a bundle cuts a buffer.
    pub shortens: u64,
    /// A receive finds no buffer, though there is one.
    pub no_buffer: u64,
    /// A zero-copy send fails with this error instead.
    pub refuses: u64,
    /// See there.
    pub refusal: i32,
    /// A notification comes with the completion; else when the peer has the bytes.
    pub notifies: u64,
    /// A zero-copy send is copied, and has no notification.
    pub copies: u64,
    /// What was cancelled behind a broken link is told before what broke it.
    pub reverses: u64,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            places: 64,
            no_descriptor: 0,
            ends: 0,
            misses: 0,
            shortens: 0,
            no_buffer: 0,
            refuses: 0,
            refusal: 95,
            notifies: 50,
            copies: 10,
            reverses: 50,
        }
    }
}

/// The other end of a connection.
#[derive(Debug, Default)]
pub struct Peer {
    /// What it has sent, as far as it was not received.
    pub outgoing: VecDeque<u8>,
    /// It sends no more.
    pub fin: bool,
    /// It is gone.
    pub reset: bool,
    /// What has reached it.
    pub incoming: Vec<u8>,
    /// Bytes that it takes before it has to be asked again.
    pub window: usize,
    /// Nothing more will reach it.
    pub ended: bool,
    /// Its connection was closed with bytes in it that nobody had received: real networks reset it then.
    pub cut: bool,
    /// What it says to whoever connects: the number of errno(3), or `None` for nothing at all.
    pub refusal: Option<i32>,
    /// It answers nobody who connects.
    pub silent: bool,
}

#[derive(Debug, Default)]
struct Socket {
    peer: usize,
    connected: bool,
    shut: bool,
    backlog: Option<VecDeque<usize>>,
}

#[derive(Debug)]
struct Operation {
    entry: Sqe,
    name: Name,
    done: usize,
    behind: VecDeque<Sqe>,
}

#[derive(Debug)]
struct Notice {
    user_data: u64,
    name: Name,
    pieces: Vec<(u64, Vec<u8>)>,
}

/// The kernel's network.
#[derive(Debug)]
pub struct FakeNet<'k> {
    kernel: &'k FakeKernel,
    /// See there.
    pub manner: Manner,
    /// By number.
    pub peers: Vec<Peer>,
    buffers: BufferRing,
    sockets: BTreeMap<Name, Socket>,
    operations: Vec<Operation>,
    notices: Vec<Notice>,
}

impl<'k> FakeNet<'k> {
    /// A network that begins with nothing.
    #[must_use]
    pub fn new(kernel: &'k FakeKernel, buffers: (u64, u32), manner: Manner) -> Self {
        Self {
            kernel,
            manner,
            peers: Vec::new(),
            buffers: BufferRing::new(buffers),
            sockets: BTreeMap::new(),
            operations: Vec::new(),
            notices: Vec::new(),
        }
    }

    /// A socket that listens.
    pub fn listener(&mut self) -> i32 {
        self.socket(Socket { backlog: Some(VecDeque::new()), ..Socket::default() })
    }

    /// A socket that is to be connected to a peer.
    pub fn connector(&mut self, peer: usize) -> i32 {
        self.socket(Socket { peer, ..Socket::default() })
    }

    /// A socket that is connected to a peer.
    pub fn connected(&mut self, peer: usize) -> i32 {
        self.socket(Socket { peer, connected: true, ..Socket::default() })
    }

    fn socket(&mut self, socket: Socket) -> i32 {
        let fd = self.next_descriptor();
        self.sockets.insert((false, fd), socket);
        fd
    }

    /// The lowest that is free, as kernels have it: who names one too late names a stranger's.
    fn next_descriptor(&self) -> i32 {
        (100..).find(|fd| !self.sockets.contains_key(&(false, *fd))).unwrap()
    }

    /// Another peer, which says nothing yet.
    pub fn peer(&mut self) -> usize {
        self.peers.push(Peer::default());
        self.peers.len() - 1
    }

    /// A peer connects.
    pub fn arrive(&mut self, listener: i32, peer: usize) {
        let socket = self.sockets.get_mut(&(false, listener)).unwrap();
        socket.backlog.as_mut().unwrap().push_back(peer);
    }

    /// Sockets that are open, operations under way, notifications to come.
    #[must_use]
    pub fn load(&self) -> (usize, usize, usize) {
        (self.sockets.len(), self.operations.len(), self.notices.len())
    }

    /// The application closes a descriptor.
    pub fn close_unused(&mut self, fd: i32) {
        let socket = self.sockets.remove(&(false, fd)).unwrap();
        self.peers[socket.peer].ended = true;
    }

    /// Whether that peer has ended its connection by force.
    #[must_use]
    pub fn has_failed(&self, peer: usize) -> bool {
        self.peers[peer].reset || self.peers[peer].refusal.is_some()
    }

    /// Whether nothing is under way but that listener waits for nobody.
    #[must_use]
    pub fn is_quiet(&self, listener: i32) -> bool {
        let backlog = self.sockets[&(false, listener)].backlog.as_ref().unwrap();
        backlog.is_empty() && self.sockets.len() == 1
    }

    /// Takes what was submitted, and gets on with one thing.
    pub fn step(&mut self, rng: &mut Rng) {
        while let Some(chain) = self.kernel.taken() {
            self.begin(chain.into(), rng);
        }
        self.go_on(rng);
    }

    /// Begins a chain of network operations, for who takes what was submitted himself.
    pub fn take(&mut self, chain: Vec<Sqe>, rng: &mut Rng) {
        self.begin(chain.into(), rng);
    }

    /// Gets on with one thing.
    pub fn go_on(&mut self, rng: &mut Rng) {
        if !self.operations.is_empty() {
            let at = rng.index(self.operations.len());
            self.advance(at, rng);
        }
        if !self.notices.is_empty() {
            let at = rng.index(self.notices.len());
            let name = self.notices[at].name;
            let peer = self.sockets.get(&name).map(|socket| &self.peers[socket.peer]);
            if peer.is_none_or(|peer| peer.reset || peer.window > 0) {
                self.notify(at);
            }
        }
    }

    fn notify(&mut self, at: usize) {
        let notice = self.notices.swap_remove(at);
        for (address, bytes) in &notice.pieces {
            let now = memory::read(*address, bytes.len());
            assert!(now == *bytes, "the network sends what was changed under it");
        }
        self.kernel.complete(notice.user_data, 0, cqe::NOTIF);
    }

    /// The network lets go of all that was sent by a socket.
    fn forget(&mut self, name: Name) {
        while let Some(at) = self.notices.iter().position(|notice| notice.name == name) {
            self.notify(at);
        }
    }

    fn begin(&mut self, mut chain: VecDeque<Sqe>, rng: &mut Rng) {
        let Some(entry) = chain.pop_front() else { return };
        let name = (entry.flags & sqe::FIXED_FILE != 0, entry.fd);
        match entry.opcode {
            op::NOP => self.kernel.complete(entry.user_data, 0, 0),
            op::ASYNC_CANCEL => self.cancel(&entry, rng),
            op::CLOSE => self.close(&entry),
            op::ACCEPT
            | op::CONNECT
            | op::RECV
            | op::SEND
            | op::SENDMSG
            | op::SEND_ZC
            | op::SENDMSG_ZC
            | op::SHUTDOWN => {
                assert!(self.sockets.contains_key(&name), "EBADF: {entry:?}");
                let operation = Operation { entry, name, done: 0, behind: chain };
                self.operations.push(operation);
                if rng.chance(50) {
                    // Much is done at once.
                    self.advance(self.operations.len() - 1, rng);
                }
            }
            other => panic!("nobody asked for operation {other}"),
        }
    }

    fn close(&mut self, entry: &Sqe) {
        let name = match entry.file_index.checked_sub(1) {
            Some(place) => (true, i32::try_from(place).unwrap()),
            None => (false, entry.fd),
        };
        assert!(!name.0 || entry.fd == 0, "EINVAL");
        let under_way = self.operations.iter().any(|operation| operation.name == name);
        assert!(!under_way, "{name:?} is closed while it has operations: {:?}", self.operations);
        assert!(
            self.notices.iter().all(|notice| notice.name != name),
            "and what it sent is not there"
        );
        let socket = self.sockets.remove(&name).expect("EBADF: closed twice, or never opened");
        if socket.backlog.is_none() {
            let peer = &mut self.peers[socket.peer];
            peer.ended = true;
            peer.cut = socket.connected && !peer.outgoing.is_empty();
        }
        self.kernel.complete(entry.user_data, 0, 0);
    }
}
