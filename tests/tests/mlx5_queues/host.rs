//! The host part of queues: on memory that a stand-in for the library describes, what is written where, what is refused, and in which order all goes.

use core::cell::{Cell, RefCell};
use std::rc::Rc;

use heapless::Vec as Few;
use spinwire_dataplane::error::{Fatal, Misuse};
use spinwire_dataplane::id::WrId;
use spinwire_dataplane::provider::mlx5::{PairConfig, Route};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::region::{Destroyed, MemoryKey, Region};
use spinwire_dataplane::sync::{AtomicU32, Ordering};
use spinwire_dataplane::verbs::{
    CompletionQueue as _, Destination, PairId, QueuePair as _, RecvRequest, Segment, SendFlags,
    SendRequest, Verb, Wc, WcStatus,
};
use spinwire_dataplane::wqe::{Grh, RoceGrh, Transport};
use spinwire_hostshim::mlx5::dv::{DvCq, DvQp};
use spinwire_hostshim::mlx5::{
    Completions, CompletionsHandle, Mlx5Error, Pair, PairHandle, QueueConfig, is_linked,
};
use spinwire_tests::conformance::{describe_completions, describe_pair};

const SQ_BLOCKS: usize = 64;
const RQ_WQES: usize = 32;
const RQ_STRIDE: usize = 32;
const CQES: usize = 256;
const QPN: u32 = 0x00ab_cdef;
const LKEY: u32 = 0x11;

type Record = [AtomicU32; 2];

/// What lies there, and what has happened.
struct World {
    sq: Vec<Line>,
    rq: Vec<Line>,
    cq: Vec<Line>,
    records: [Record; 2],
    uar: Vec<Line>,
    data: Vec<Line>,
    log: RefCell<Vec<&'static str>>,
    /// Pairs that were made.
    made: Cell<u64>,
    /// Completions that were written.
    written: Cell<usize>,
    dv_qp: Cell<fn(&mut DvQp)>,
    dv_cq: Cell<fn(&mut DvCq)>,
    refuses: Cell<bool>,
    trouble: Cell<Option<Fatal>>,
}

fn lines(count: usize) -> Vec<Line> {
    (0..count).map(|_| Line::zeroed()).collect()
}

impl World {
    fn new() -> Self {
        Self {
            sq: lines(SQ_BLOCKS),
            rq: lines(RQ_WQES * RQ_STRIDE / 64),
            cq: lines(CQES),
            records: core::array::from_fn(|_| [AtomicU32::new(0), AtomicU32::new(0)]),
            uar: lines(8),
            data: lines(64),
            log: RefCell::default(),
            made: Cell::new(0),
            written: Cell::new(0),
            dv_qp: Cell::new(|_| ()),
            dv_cq: Cell::new(|_| ()),
            refuses: Cell::new(false),
            trouble: Cell::new(None),
        }
    }

    fn note(&self, what: &'static str) {
        self.log.borrow_mut().push(what);
    }

    /// A completion as the device writes it, into the next entry.
    fn complete(&self, qpn: u32, op_own: u8) {
        let at = self.written.replace(self.written.get() + 1);
        let [_, a, b, c] = qpn.to_be_bytes();
        let last = u64::from_le_bytes([0x0a, a, b, c, 0, 0, 0, op_own]);
        self.cq[at].words()[7].store(last, Ordering::Relaxed);
    }

    /// That the request of that number has failed, or was flushed.
    fn fail(&self, counter: u8, [vendor, syndrome]: [u8; 2]) {
        let at = self.written.replace(self.written.get() + 1);
        let [_, a, b, c] = QPN.to_be_bytes();
        let why = u64::from_le_bytes([0, 0, 0, 0, 0, 0, vendor, syndrome]);
        let last = u64::from_le_bytes([0x0a, a, b, c, 0, counter, 0, 0xd0]);
        self.cq[at].words()[6].store(why, Ordering::Relaxed);
        self.cq[at].words()[7].store(last, Ordering::Relaxed);
    }

    fn segment(&self, offset: u64, length: u32) -> Segment<MemoryKey<'_>> {
        // SAFETY: nobody reads it but as lines, and there is no device.
        let key = unsafe { Region::promise(&self.data, LKEY) }.key();
        let address = u64::try_from(self.data.as_ptr().expose_provenance()).unwrap() + offset;
        Segment { address, length, key }
    }
}

/// A queue pair of the stand-in: all have the same memory.
struct LentPair<'w> {
    world: &'w World,
    qpn: u32,
    id: u64,
}

// SAFETY: the queues lie in lines of the world, which outlives the handle, and are seen as such only.
unsafe impl<'w> PairHandle<'w> for LentPair<'w> {
    type Key = MemoryKey<'w>;
    type Error = Mlx5Error;

    fn qp_num(&self) -> u32 {
        self.qpn
    }

    fn id(&self) -> PairId {
        PairId::from_raw(self.id)
    }

    fn describe(&self) -> Result<DvQp, Mlx5Error> {
        let World { sq, rq, uar, records, .. } = self.world;
        let mut told = describe_pair([sq, rq, uar], &records[0], RQ_STRIDE);
        (self.world.dv_qp.get())(&mut told);
        Ok(told)
    }

    fn admits(&self, range: &Segment<MemoryKey<'w>>) -> Option<MemoryKey<'w>> {
        range.key.covers(range.address, range.length).then_some(range.key)
    }

    fn destroy(self) -> Result<Destroyed, Mlx5Error> {
        if self.world.refuses.get() {
            return Err(Mlx5Error::Memory { field: "destroy", value: 5 });
        }
        // SAFETY: there is no device that could touch anything.
        Ok(unsafe { Destroyed::promise(self.id()) })
    }
}

impl Drop for LentPair<'_> {
    fn drop(&mut self) {
        // What was under way completes until it is gone.
        self.world.complete(self.qpn, 0x00);
        self.world.note("pair destroyed");
    }
}

struct LentCompletions<'w> {
    world: &'w World,
}

// SAFETY: as of pairs.
unsafe impl CompletionsHandle for LentCompletions<'_> {
    fn describe(&self) -> Result<DvCq, Mlx5Error> {
        let mut told = describe_completions(&self.world.cq, &self.world.records[1], (0x77, 64));
        (self.world.dv_cq.get())(&mut told);
        Ok(told)
    }

    fn take_error(&self) -> Option<Fatal> {
        self.world.trouble.take()
    }
}

impl Drop for LentCompletions<'_> {
    fn drop(&mut self) {
        self.world.note("completion queue destroyed");
    }
}

type HostCq<'w> = Completions<'w, LentPair<'w>, LentCompletions<'w>>;
type HostPair<'w> = Pair<'w, LentPair<'w>, LentCompletions<'w>>;

const fn config() -> QueueConfig {
    QueueConfig {
        transport: Transport::Rc { path: None },
        send_depth: 32,
        recv_depth: 32,
        pair: PairConfig::DEFAULT,
    }
}

fn completions(world: &World) -> Result<Rc<HostCq<'_>>, Mlx5Error> {
    HostCq::new(LentCompletions { world }, 8)
}

fn pair<'w>(
    (world, qpn): (&'w World, u32),
    completions: &Rc<HostCq<'w>>,
    config: &QueueConfig,
) -> Result<HostPair<'w>, Mlx5Error> {
    let id = world.made.replace(world.made.get() + 1);
    Pair::new(completions, LentPair { world, qpn, id }, config)
}

fn words(line: &Line) -> [u64; 8] {
    line.words().each_ref().map(|word| word.load(Ordering::Relaxed))
}

fn poll(completions: &HostCq<'_>) -> Vec<u64> {
    let mut out = Few::<Wc, 16>::new();
    completions.poll_cq(&mut out);
    out.iter().map(|wc| wc.wr_id().as_raw()).collect()
}

const fn send<'a, 'w>(
    id: u64,
    segments: &'a [Segment<MemoryKey<'w>>],
) -> SendRequest<'a, MemoryKey<'w>> {
    SendRequest::new(WrId::from_raw(id), Verb::Send, segments)
}

#[test]
fn a_pair_works_in_the_memory_that_is_described() {
    let world = World::new();
    let queue = completions(&world).unwrap();
    assert!(world.cq.iter().all(|line| words(line)[7] >> 60 == 0xf), "all entries are invalid");
    let pair = pair((&world, QPN), &queue, &config()).unwrap();
    assert_eq!((pair.qp_num(), pair.limits().send_depth, pair.limits().recv_depth), (QPN, 64, 32));

    // A send: in the block, the record and the register that were described.
    world.data[0].words()[0].store(u64::from_le_bytes(*b"bid 101."), Ordering::Relaxed);
    pair.post_send(&send(42, &[world.segment(0, 8)])).unwrap();
    assert_eq!(pair.ring_doorbell().count, 1);
    let block = words(&world.sq[0]);
    assert_eq!(block[0].to_le_bytes()[..4], [0, 0, 0, 0x0a]);
    assert_eq!(block[0].to_le_bytes()[4..7], QPN.to_be_bytes()[1..]);
    let inline = block.map(u64::to_le_bytes).concat();
    assert_eq!(inline[20..28], *b"bid 101.", "within the request");
    assert_eq!(world.records[0][1].load(Ordering::Relaxed).to_le_bytes(), [0, 0, 0, 1]);
    assert_eq!(words(&world.uar[0])[0], block[0]);

    // A receive.
    pair.post_recv(&RecvRequest { wr_id: WrId::from_raw(43), segments: &[world.segment(64, 128)] })
        .unwrap();
    assert_eq!(pair.ring_recv_doorbell().count, 1);
    assert_eq!(world.records[0][0].load(Ordering::Relaxed).to_le_bytes(), [0, 0, 0, 1]);
    let receive = words(&world.rq[0]);
    assert_eq!(receive[0].to_le_bytes(), [0, 0, 0, 128, 0, 0, 0, 0x11]);
    assert_eq!(receive[1].swap_bytes(), world.segment(64, 128).address);

    world.complete(QPN, 0x00);
    world.complete(QPN, 0x20);
    assert_eq!(poll(&queue), [42, 43]);
    assert_eq!(world.records[1][0].load(Ordering::Relaxed).to_le_bytes(), [0, 0, 0, 2]);

    // The next doorbell goes to the other half of the register.
    pair.post_send(&send(44, &[world.segment(0, 8)])).unwrap();
    assert_eq!(pair.ring_doorbell().count, 1);
    assert_eq!(words(&world.uar[4])[0], words(&world.sq[1])[0]);

    // What was told in another way is handed on, once.
    world.trouble.set(Some(Fatal::QueueError));
    assert_eq!((queue.take_error(), queue.take_error()), (Some(Fatal::QueueError), None));
}

/// The flags of a request are those of its block: byte 11 of the control segment.
#[test]
fn flags_of_requests_reach_the_device() {
    let world = World::new();
    let queue = completions(&world).unwrap();
    let pair = pair((&world, QPN), &queue, &config()).unwrap();
    let none = SendFlags::default();
    let cases = [
        (none, 0x08),
        (SendFlags { fence: true, ..none }, 0x88),
        (SendFlags { solicited: true, ..none }, 0x0a),
        (SendFlags { unsignaled: true, ..none }, 0),
        (SendFlags { fence: true, solicited: true, unsignaled: true }, 0x82),
    ];
    let segment = [world.segment(0, 8)];
    for (at, (flags, byte)) in cases.into_iter().enumerate() {
        pair.post_send(&send(1, &segment).with(flags)).unwrap();
        let control = words(&world.sq[at]).map(u64::to_le_bytes).concat();
        assert_eq!(control[11], byte, "{flags:?}");
    }
}

/// Those that did not ask to be told are flushed with the next one that did, and what the device says of that is not theirs.
#[test]
fn what_is_flushed_before_the_one_that_is_told_has_no_number_of_its_own() {
    let world = World::new();
    let queue = completions(&world).unwrap();
    let pair = pair((&world, QPN), &queue, &config()).unwrap();
    for id in 1..=4 {
        let unsignaled = matches!(id, 2 | 3);
        let flags = SendFlags { unsignaled, ..SendFlags::default() };
        pair.post_send(&send(id, &[world.segment(0, 8)]).with(flags)).unwrap();
    }
    assert_eq!(pair.ring_doorbell().count, 4);
    world.fail(0, [0x88, 0x13]);
    world.fail(3, [0x99, 0x05]);
    let mut ended = Vec::new();
    for _ in 0..4 {
        let mut out = Few::<Wc, 16>::new();
        queue.poll_cq(&mut out);
        ended.extend(out.iter().map(|wc| (wc.wr_id().as_raw(), wc.outcome().unwrap_err())));
    }
    let flushed = |vendor| (WcStatus::FLUSHED, vendor);
    let first = (WcStatus::REMOTE_ACCESS, 0x88);
    assert_eq!(ended, [(1, first), (2, flushed(0)), (3, flushed(0)), (4, flushed(0x99))]);
}

#[test]
fn what_no_key_opens_is_not_posted() {
    let world = World::new();
    let queue = completions(&world).unwrap();
    let pair = pair((&world, QPN), &queue, &config()).unwrap();
    let beyond = Segment { length: 8192, ..world.segment(0, 8) };
    assert_eq!(pair.post_send(&send(1, &[beyond])), Err(Misuse::ForeignKey.into()));
    let receive = RecvRequest { wr_id: WrId::from_raw(1), segments: &[beyond] };
    assert_eq!(pair.post_recv(&receive), Err(Misuse::ForeignKey.into()));
    let many = [world.segment(0, 8); 9];
    assert_eq!(pair.post_send(&send(1, &many)), Err(Misuse::TooLong.into()));
    assert_eq!((pair.ring_doorbell().count, pair.ring_recv_doorbell().count), (0, 0));
}

#[test]
fn a_pair_that_goes_leaves_nothing_to_a_later_one_of_its_number() {
    let world = World::new();
    let queue = completions(&world).unwrap();
    let first = pair((&world, QPN), &queue, &config()).unwrap();
    first.post_send(&send(1, &[world.segment(0, 8)])).unwrap();
    first.ring_doorbell();
    world.complete(QPN, 0x00);
    let id = first.id();
    assert_eq!(first.destroy().unwrap().pair(), id);
    assert_eq!(*world.log.borrow(), ["pair destroyed"]);
    // The queue is as long as all completions so far, and none of them is told: not the one before, nor the one while it went.
    assert_eq!(world.written.get(), 2);
    let second = pair((&world, QPN), &queue, &config()).unwrap();
    assert_ne!(second.id(), id, "it is another, whatever its number");
    second.post_send(&send(2, &[world.segment(0, 8)])).unwrap();
    second.ring_doorbell();
    assert!(poll(&queue).is_empty());
    assert_eq!(queue.counts().unknown_queue + queue.counts().stale, 0);
    world.complete(QPN, 0x00);
    assert_eq!(poll(&queue), [2]);
    // Ending it does the same; and the completion queue goes last.
    drop(queue);
    assert!(second.end());
    let log = world.log.borrow().clone();
    assert_eq!(log, ["pair destroyed", "pair destroyed", "completion queue destroyed"]);
}

#[test]
fn one_that_cannot_be_destroyed_gives_no_proof() {
    let world = World::new();
    let queue = completions(&world).unwrap();
    let first = pair((&world, QPN), &queue, &config()).unwrap();
    world.refuses.set(true);
    assert!(matches!(first.destroy(), Err(Mlx5Error::Memory { field: "destroy", .. })));
    assert!(poll(&queue).is_empty(), "it is nobody's any more");
    world.refuses.set(false);
    assert!(pair((&world, QPN), &queue, &config()).is_ok(), "its place is free");
}

#[test]
fn memory_that_cannot_be_a_queue_is_named() {
    let world = World::new();
    let qp_says = |change: fn(&mut DvQp)| {
        world.dv_qp.set(change);
        let queue = completions(&world).unwrap();
        pair((&world, QPN), &queue, &config()).map(drop).unwrap_err()
    };
    let field = |error| match error {
        Mlx5Error::Memory { field, .. } => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(qp_says(|dv| dv.sq_stride = 128)), "mlx5dv_qp.sq.stride");
    assert_eq!(field(qp_says(|dv| dv.rq_stride = 64)), "mlx5dv_qp.rq.stride");
    assert_eq!(field(qp_says(|dv| dv.rq_wqe_cnt = 1 << 16)), "mlx5dv_qp.rq.wqe_cnt");
    assert_eq!(field(qp_says(|dv| dv.sq_buf = dv.sq_buf.wrapping_byte_add(8))), "mlx5dv_qp.sq.buf");
    assert_eq!(field(qp_says(|dv| dv.sq_wqe_cnt = 0)), "mlx5dv_qp.sq.buf");
    assert_eq!(field(qp_says(|dv| dv.dbrec = core::ptr::null_mut())), "mlx5dv_qp.dbrec");
    assert_eq!(field(qp_says(|dv| dv.bf_reg = core::ptr::null_mut())), "mlx5dv_qp.bf.reg");
    assert!(matches!(qp_says(|dv| dv.sq_wqe_cnt = 24), Mlx5Error::Queue(_)));
    let short = qp_says(|dv| dv.sq_wqe_cnt = 16);
    assert_eq!(short, Mlx5Error::Short { field: "send queue", asked: 32, got: 16 });
    let short = qp_says(|dv| dv.rq_wqe_cnt = 16);
    assert_eq!(short, Mlx5Error::Short { field: "receive queue", asked: 32, got: 16 });
    let cq_says = |change: fn(&mut DvCq)| {
        world.dv_cq.set(change);
        completions(&world).map(drop).unwrap_err()
    };
    assert_eq!(field(cq_says(|dv| dv.cqe_size = 32)), "mlx5dv_cq.cqe_size");
    assert_eq!(field(cq_says(|dv| dv.buf = core::ptr::null_mut())), "mlx5dv_cq.buf");
    assert!(matches!(cq_says(|dv| dv.cqe_cnt = 12), Mlx5Error::Completion(_)));
}

#[test]
fn a_device_without_blue_flame_has_one_register() {
    let world = World::new();
    world.dv_qp.set(|dv| dv.bf_size = 0);
    let queue = completions(&world).unwrap();
    let pair = pair((&world, QPN), &queue, &config()).unwrap();
    pair.post_send(&send(1, &[world.segment(0, 8)])).unwrap();
    assert_eq!(pair.ring_doorbell().count, 1);
    assert_eq!(words(&world.uar[0])[0], words(&world.sq[0])[0]);
    assert_eq!(words(&world.uar[0])[1..], [0; 7], "eight bytes, and no more");
}

#[test]
fn pairs_that_could_overrun_their_completions_are_refused() {
    let world = World::new();
    let queue = completions(&world).unwrap();
    let mut pairs = Vec::new();
    let refused = (1..).find_map(|qpn| match pair((&world, qpn), &queue, &config()) {
        Ok(pair) => {
            pairs.push(pair);
            None
        }
        Err(refused) => Some(refused),
    });
    assert_eq!(pairs.len(), CQES / (SQ_BLOCKS + RQ_WQES));
    let text = refused.unwrap().to_string();
    assert!(text.contains("(288) <= entries of their completion queue (256)"), "{text}");
    assert_eq!(*world.log.borrow(), ["pair destroyed"], "the one that was refused");
    // One that goes makes room.
    drop(pairs.pop());
    assert!(pair((&world, 99), &queue, &config()).is_ok());
    assert!(pair((&world, 1), &queue, &config()).is_err(), "that number is taken");
}

#[test]
fn datagrams_go_to_addresses_that_were_entered() {
    let world = World::new();
    let queue = completions(&world).unwrap();
    let wanted = QueueConfig {
        transport: Transport::Ud,
        send_depth: 16,
        pair: PairConfig { routes_max: 2, message_bytes_max: 1024, ..PairConfig::DEFAULT },
        ..config()
    };
    let pair = pair((&world, QPN), &queue, &wanted).unwrap();
    let segment = [world.segment(64, 100)];
    let to = Destination { handle: 0, qp_num: 0x1234, qkey: 0x1111_1111 };
    let datagram = send(1, &segment).to(to);
    assert_eq!(pair.post_send(&datagram), Err(Misuse::UnknownAddress.into()));
    let grh = Grh { dgid: [9; 16], sgid_index: 3, flow_label: 0, traffic_class: 0, hop_limit: 64 };
    let route = RoceGrh { grh, mac: [7; 6], priority: 0, static_rate: 0, udp_source_port: 0 };
    pair.set_route(0, Route::Roce(route)).unwrap();
    pair.set_route(1, Route::Roce(route)).unwrap();
    assert!(pair.set_route(2, Route::Roce(route)).is_err(), "the table has two rows");
    pair.post_send(&datagram).unwrap();
    assert_eq!(pair.ring_doorbell().count, 1);
    let block = words(&world.sq[0]).map(u64::to_le_bytes).concat();
    assert_eq!(
        block[24..28],
        [0x80, 0, 0x12, 0x34],
        "the receiver's number, behind the control segment"
    );
    assert_eq!(block[36..42], [7; 6], "the receiver's MAC");
    assert!(pair.remove_route(0) && !pair.remove_route(0));
    assert_eq!(pair.post_send(&datagram), Err(Misuse::UnknownAddress.into()));
}

#[test]
fn a_build_without_libmlx5_says_how_to_get_one() {
    match is_linked() {
        Ok(()) => {}
        Err(error) => assert!(error.to_string().contains("--features mlx5"), "{error}"),
    }
    let have = vec!["mlx5_0".to_owned()];
    let error = Mlx5Error::NotMlx5 { device: "rxe0".to_owned(), have }.to_string();
    assert!(error.starts_with("rxe0 is not an mlx5 device"), "{error}");
    assert!(error.contains("remedy: name mlx5_0, or use --provider verbs"), "{error}");
}

/// Tables are placed with room to spare, whatever the sizes.
#[test]
fn the_largest_queues_fit_into_their_tables() {
    let mut world = World::new();
    (world.sq, world.rq, world.cq) = (lines(1 << 14), lines(1 << 14), lines(1 << 17));
    let queue = HostCq::new(LentCompletions { world: &world }, 1000).unwrap();
    world.dv_qp.set(|dv| (dv.rq_stride, dv.rq_wqe_cnt) = (128, 1 << 13));
    let largest = QueueConfig {
        send_depth: 3000,
        recv_depth: 1 << 13,
        pair: PairConfig { sge_max: 8, inline_bytes_max: 220, ..PairConfig::DEFAULT },
        ..config()
    };
    let pairs: Vec<_> = (1..=5).map(|qpn| pair((&world, qpn), &queue, &largest).unwrap()).collect();
    assert!(pairs.iter().all(|pair| pair.limits().send_depth >= 3000));
}
