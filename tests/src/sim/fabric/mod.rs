//! Two hosts with several devices each, in virtual time: what is below virtual queue pairs.
//!
//! ```text
//!   host 0                                                             host 1
//!   memory <-- dma -- device 0 ====== link, 100 Gb/s each way ====== device 0 -- dma --> memory
//!   memory <-- dma -- device 1 ====== link                    ====== device 1 -- dma --> memory
//!                                                                        \-- completions, behind the writes of
//!                                                                            the same device only
//! ```
//!
//! What is modelled because something may go wrong by it:
//! - Messages of one queue pair arrive in order, those of two do not; delays are drawn by seed.
//! - A write is acknowledged when the device has it. It is seen in memory later, behind what the same device wrote before, and in no
//!   order with what others wrote. A read pushes the writes of its own device before it.
//! - A receive that is missing makes the queue pair wait (receiver not ready).
//! - An error puts both ends of a connection into the error state. What is behind it is flushed, or never spoken of again.
//! - On error, all that is undefined in a completion is garbage.
//! - Queues have depths: what would overflow one is noted, and found by [`Fabric::violation`].
//!
//! It knows nothing of virtual queue pairs, and everything is decided by a seed.

mod datagram;
mod execute;
mod fault;
mod memory;
mod queue;
mod world;

use core::cell::{Cell, RefCell};

use spinwire_dataplane::error::{Fatal, PostError, Retry};
use spinwire_dataplane::provider::{Access, Published};
use spinwire_dataplane::verbs::{
    CompletionQueue, Destination, Limits, QueuePair, RecvRequest, SendRequest, Wc,
};

pub use fault::{Death, Faults};
pub use world::Links;
use world::{State, Work};

/// Everything: hosts, devices, links and the time.
#[derive(Debug)]
pub struct Fabric {
    state: RefCell<State>,
    is_stubborn: Cell<bool>,
}

/// One end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct SimQp<'f> {
    fabric: &'f Fabric,
    index: usize,
    limits: Limits,
}

/// The completion queue of a device of a host.
#[derive(Clone, Copy, Debug)]
pub struct SimCq<'f> {
    fabric: &'f Fabric,
    host: usize,
    device: usize,
    depth: u32,
}

impl Fabric {
    /// Two hosts with `devices` devices each and `memory` bytes, all zero.
    #[must_use]
    pub fn new(devices: usize, memory: usize, links: Links, seed: u64) -> Self {
        let state = RefCell::new(State::new(devices, memory, links, seed));
        Self { state, is_stubborn: Cell::new(false) }
    }

    /// Connects a queue pair of device `device` of host 0 with one of the same device of host 1.
    pub fn connect(&self, device: usize, limits: Limits) -> (SimQp<'_>, SimQp<'_>) {
        self.connect_hosts([(0, device), (1, device)], limits)
    }

    /// Connects a queue pair of one host and device with one of another.
    pub fn connect_hosts(
        &self,
        ends: [(usize, usize); 2],
        limits: Limits,
    ) -> (SimQp<'_>, SimQp<'_>) {
        let first = self.state.borrow_mut().connect(ends);
        let end = |index| SimQp { fabric: self, index, limits };
        (end(first), end(first + 1))
    }

    /// Adds a host with one device, whose memory is that of this process as far as it is [registered](Fabric::register). Its number.
    pub fn add_host(&self) -> usize {
        self.state.borrow_mut().add_host()
    }

    /// A queue pair of a host for datagrams, and how others send to it: its address, and a destination. All of its bytes are `limits`' to say.
    pub fn datagrams(&self, host: usize, limits: Limits) -> (SimQp<'_>, ([u8; 16], Destination)) {
        let mut state = self.state.borrow_mut();
        let index = state.connect([(host, 0), (host, 0)]);
        let handle = u32::try_from(index).expect("few");
        let to = Destination { handle, qp_num: state.qps[index].number, qkey: datagram::QKEY };
        (SimQp { fabric: self, index, limits }, (datagram::gid(host), to))
    }

    /// A datagram comes, from a queue pair of host 0, whatever is in it.
    pub fn send_datagram(&self, to: Destination, bytes: &[u8]) {
        let mut state = self.state.borrow_mut();
        let from = state.connect([(0, 0), (0, 0)]);
        state.drop_in(from, to, bytes);
    }

    /// The same without a route, as within an InfiniBand subnet: the bytes in front are what they are.
    pub fn send_without_route(&self, to: Destination, bytes: &[u8]) {
        let mut state = self.state.borrow_mut();
        let from = state.connect([(0, 0), (0, 0)]);
        state.drop_from((from, 0), to, bytes);
    }

    /// Lets the device of a host into a range of memory of this process, and with that key the other ends of its queue pairs, as far as `rights`
    /// say. It has to stay for as long as time goes on, or until it is taken back.
    pub fn register(&self, host: usize, key: u32, (start, bytes): (u64, u64), rights: Access) {
        if let memory::Memory::Machine(ranges) = &mut self.state.borrow_mut().memory[host] {
            ranges.push(memory::Range { key, start, bytes, rights });
        }
    }

    /// Takes a range back. What the device was about to write there is written; nothing more will be.
    pub fn unregister(&self, host: usize, key: u32) -> bool {
        let mut state = self.state.borrow_mut();
        state.settle((host, 0), u64::MAX);
        let memory::Memory::Machine(ranges) = &mut state.memory[host] else { return false };
        let before = ranges.len();
        ranges.retain(|range| range.key != key);
        ranges.len() < before
    }

    /// A queue pair is no more. The other end finds that out when it sends.
    pub fn destroy(&self, qp: &SimQp<'_>) {
        self.state.borrow_mut().destroy(qp.index);
    }

    /// As [`destroy`](Fabric::destroy), of the queue pair of that number on a host with one device.
    pub fn destroy_numbered(&self, host: usize, number: u32) {
        let mut state = self.state.borrow_mut();
        if let Some(index) = state.numbered(host, number) {
            state.destroy(index);
        }
    }

    /// As [`mute`](Fabric::mute), of the queue pair of that number on a host with one device.
    pub fn mute_numbered(&self, host: usize, number: u32) {
        let mut state = self.state.borrow_mut();
        if let Some(index) = state.numbered(host, number) {
            state.mute(index, true);
        }
    }

    /// As [`is_dead`](Fabric::is_dead), of the queue pair of that number on a host with one device.
    #[must_use]
    pub fn is_dead_numbered(&self, host: usize, number: u32) -> bool {
        let state = self.state.borrow();
        state.numbered(host, number).is_none_or(|index| state.is_dead(index))
    }

    /// The completion queue of a device.
    #[must_use]
    pub const fn cq(&self, host: usize, device: usize, depth: u32) -> SimCq<'_> {
        SimCq { fabric: self, host, device, depth }
    }

    /// Devices do not look at keys any more.
    pub fn accept_any_key(&self) {
        self.state.borrow_mut().is_lax = true;
    }

    /// Completion queues hold so many, whatever they say.
    pub fn limit_cqs(&self, depth: u32) {
        self.state.borrow_mut().cq_limit = depth;
    }

    /// From now on, faults by seed.
    pub fn set_faults(&self, faults: Faults) {
        self.state.borrow_mut().faults = faults;
    }

    /// Connections that have died, of a fault or because they were told to.
    #[must_use]
    pub fn deaths(&self) -> u64 {
        self.state.borrow().deaths
    }

    /// The completion queues of a host break: they bring nothing any more, and say so once.
    pub fn break_cqs(&self, host: usize) {
        self.state.borrow_mut().broken.push((host, false));
    }

    /// From now on no queue pair can be destroyed by its owner.
    pub fn keep_pairs(&self) {
        self.is_stubborn.set(true);
    }

    /// Whether that is so.
    #[must_use]
    pub const fn keeps_pairs(&self) -> bool {
        self.is_stubborn.get()
    }

    /// From now on, other links.
    pub fn set_links(&self, links: Links) {
        self.state.borrow_mut().links = links;
    }

    /// Whether the connection of `qp` works no more, noticed or not.
    #[must_use]
    pub fn is_dead(&self, qp: &SimQp<'_>) -> bool {
        self.state.borrow().is_dead(qp.index)
    }

    /// The connection of `qp` dies, as `death` says.
    pub fn kill(&self, qp: &SimQp<'_>, death: Death) {
        self.state.borrow_mut().kill(qp.index, death);
    }

    /// The connection of `qp` is set up anew: what it had is forgotten. What lies in completion queues stays there.
    pub fn reset(&self, qp: &SimQp<'_>) {
        self.state.borrow_mut().reset(qp.index);
    }

    /// What completes for `qp` from now on is held back until it is set to false.
    pub fn mute(&self, qp: &SimQp<'_>, is_muted: bool) {
        self.state.borrow_mut().mute(qp.index, is_muted);
    }

    /// The time, in nanoseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.state.borrow().now
    }

    /// Moves on to the next thing that happens, or by `most_ns` at most. Says whether anything has happened.
    pub fn advance(&self, most_ns: u64) -> bool {
        self.state.borrow_mut().advance(most_ns)
    }

    /// Writes to the memory of a host.
    pub fn write(&self, host: usize, at: usize, bytes: &[u8]) {
        self.state.borrow_mut().memory[host].store(at.try_into().expect("an address"), bytes);
    }

    /// Reads the memory of a host.
    #[must_use]
    pub fn read(&self, host: usize, at: usize, length: usize) -> Vec<u8> {
        let number = |value: usize| value.try_into().expect("a number");
        self.state.borrow().memory[host].load(number(at), number(length))
    }

    /// The key of a device for the memory of its host.
    #[must_use]
    pub const fn key(host: usize, device: usize) -> u32 {
        world::key(host, device)
    }

    /// The first rule that whoever uses the devices has broken.
    #[must_use]
    pub fn violation(&self) -> Option<String> {
        self.state.borrow().violation.clone()
    }

    /// Receives posted at the end `qp`.
    #[must_use]
    pub fn credits(&self, qp: &SimQp<'_>) -> usize {
        self.state.borrow().qps[qp.index].rq.len()
    }
}

impl QueuePair for SimQp<'_> {
    type Key = u32;

    fn limits(&self) -> Limits {
        self.limits
    }

    fn qp_num(&self) -> u32 {
        self.fabric.state.borrow().qps[self.index].number
    }

    fn post_send(&self, send: &SendRequest<'_, u32>) -> Result<(), PostError> {
        let depth = self.limits.send_depth;
        self.fabric.state.borrow_mut().post_send(self.index, Work::of(send), depth)
    }

    fn post_recv(&self, recv: &RecvRequest<'_, u32>) -> Result<(), PostError> {
        let depth = self.limits.recv_depth;
        let mut state = self.fabric.state.borrow_mut();
        if state.is_receive_refused() {
            return Err(PostError::Retry(Retry::Injected));
        }
        state.post_recv(self.index, recv, depth)
    }

    fn ring_doorbell(&self) -> Published {
        self.fabric.state.borrow_mut().ring(self.index)
    }

    fn ring_recv_doorbell(&self) -> Published {
        self.fabric.state.borrow_mut().ring_recv(self.index)
    }
}

impl CompletionQueue for SimCq<'_> {
    fn depth(&self) -> u32 {
        self.depth
    }

    fn take_error(&self) -> Option<Fatal> {
        self.fabric.state.borrow_mut().take_cq_error(self.host).then_some(Fatal::QueueError)
    }

    fn poll_cq(&self, out: &mut heapless::VecView<Wc>) {
        let mut state = self.fabric.state.borrow_mut();
        if state.is_cq_broken(self.host) {
            return;
        }
        state.check_depth(self.host, self.device, self.depth);
        while !out.is_full() {
            let Some(fields) = state.cqs[self.host][self.device].pop_front() else { break };
            let _fits = out.push(Wc::new(fields));
        }
    }
}
