//! One queue pair of the data plane at each of two nodes, with a bus of the test's choice: what the random runs do not come to, and canaries:
//! buses and memory that are broken on purpose, each of which the device has to find out.

use core::cell::Cell;
use core::mem::MaybeUninit;

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::mmio::{Bus, Device};
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::raw::region::{LocalSge, Region};
use spinwire_dataplane::sync::{AtomicU32, AtomicU64, Ordering};
use spinwire_dataplane::wqe::{
    Access as Rights, Av, BlueFlame, Grh, IbPath, KeyUpdate, Qp, QpConfig, QpMemory, RecvConfig,
    RelaxedOrdering, RoceGrh, SendConfig, Straddle, Transport, UdPeer, Window, WqeFlags,
};
use spinwire_layouts::endian::Be32;
use spinwire_tests::sim::nic::bytes::{read_ring, write_lines};
use spinwire_tests::sim::nic::memory::Access;
use spinwire_tests::sim::nic::wqe::{Rules, Transport as Kind};
use spinwire_tests::sim::nic::{
    CqPlan, Fabric, Fault, Manner, QpPlan, Receives, Short, Totals, lines,
};

use crate::driven::node::region;
use crate::driven::reader::{Reader, Seen};

const QPN: [u32; 2] = [0x51, 0x52];
const KEY: [u32; 2] = [0x1000, 0x2000];
const WINDOW: u32 = 0x3300;
const DOMAIN: u32 = 9;

/// What a node lies in.
struct Ground {
    sq: Vec<Line>,
    rq: Vec<Line>,
    record: [AtomicU32; 2],
    register: Vec<Line>,
    cq: Vec<Line>,
    cq_record: [AtomicU32; 2],
    data: Vec<Line>,
}

impl Ground {
    fn new() -> Self {
        let record = || [AtomicU32::new(0), AtomicU32::new(0)];
        Self {
            sq: lines(16),
            rq: lines(8),
            record: record(),
            register: lines(8),
            cq: lines(64),
            cq_record: record(),
            data: lines(64),
        }
    }

    fn start(&self) -> u64 {
        u64::try_from(self.data.as_ptr().expose_provenance()).unwrap()
    }
}

/// Both nodes.
struct Wired<'m, B> {
    fabric: Fabric<'m>,
    qps: Vec<Qp<'m, u64, B>>,
    cqs: Vec<Reader<'m>>,
    regions: Vec<Region<'m>>,
    grounds: &'m [Ground; 2],
}

/// Runs `act` on two nodes whose queue pairs are of that kind, over those buses.
fn wired<B: Bus + Clone>(
    kind: Kind,
    straddle: Straddle,
    buses: [B; 2],
    act: impl FnOnce(&mut Wired<'_, B>),
) -> (Vec<Fault>, Totals) {
    let grounds = [Ground::new(), Ground::new()];
    let mut arena = vec![MaybeUninit::uninit(); 1 << 14];
    let bump = Bump::new(&mut arena);
    let mut fabric = Fabric::new(7, 2, Manner { timeout: 200, ..Manner::default() });
    let (mut qps, mut cqs, mut regions) = (Vec::new(), Vec::new(), Vec::new());
    for (node, (ground, bus)) in grounds.iter().zip(buses).enumerate() {
        let keys = &mut fabric.nodes[node].keys;
        keys.lines((KEY[node], DOMAIN), ground.start(), &ground.data, Access::ALL);
        keys.window(WINDOW, DOMAIN);
        cqs.push(Reader::new(&ground.cq, &ground.cq_record));
        let (ring, record) = (&ground.cq, &ground.cq_record);
        fabric.cq(node, CqPlan { number: 0, ring, cqe_bytes: 64, record, compress: Short::Never });
        let rules = Rules { qpn: QPN[node], transport: kind, inline_max: 256 };
        let plan = QpPlan {
            rules,
            domain: DOMAIN,
            sq: &ground.sq,
            rq: Receives::Ring(&ground.rq, 32),
            record: &ground.record,
            register: &ground.register,
            cqs: (0, 0),
            qkey: 0x11,
            retries: 3,
            rnr_retries: 3,
            scatter_to_cqe: false,
        };
        fabric.qp(node, plan);
        let rc = Transport::Rc { path: None };
        let config = QpConfig {
            qpn: QPN[node],
            transport: if kind == Kind::Rc { rc } else { Transport::Ud },
            send: SendConfig { wqe_blocks_max: 8, straddle, blue_flame: BlueFlame::Inline },
            recv: Some(RecvConfig { wqes: 16, sge_max: 2 }),
        };
        let memory = QpMemory {
            sq: &ground.sq,
            rq: &ground.rq,
            record: &ground.record,
            uar: &ground.register,
        };
        qps.push(Qp::place(&bump, config, memory, bus).unwrap());
        regions.push(region(&ground.data, KEY[node]));
    }
    if kind == Kind::Rc {
        fabric.connect((0, QPN[0]), (1, QPN[1]));
    }
    let mut wired = Wired { fabric, qps, cqs, regions, grounds: &grounds };
    act(&mut wired);
    wired.fabric.settle(20_000);
    let faults = wired.fabric.violations.iter().map(|violation| violation.fault).collect();
    (faults, wired.fabric.totals)
}

impl<B: Bus> Wired<'_, B> {
    fn sge(&self, node: usize, at: u64, length: u32) -> LocalSge {
        self.regions[node].range(at, length).unwrap()
    }

    /// What has completed at a node by now.
    fn seen(&mut self, node: usize) -> Vec<Seen> {
        self.fabric.settle(10_000);
        self.cqs[node].poll(64)
    }

    /// Rings at node 0, and says whether the only completion is a success.
    fn is_done(&mut self) -> bool {
        self.qps[0].ring_doorbell();
        match self.seen(0).as_slice() {
            [Seen::Sent { counter, .. }] => {
                self.qps[0].sq().complete(*counter).unwrap();
                true
            }
            [Seen::Failed { .. }] => false,
            other => panic!("one completion: {other:?}"),
        }
    }

    fn receive(&self, node: usize, at: u64, length: u32) {
        let sge = self.sge(node, at, length);
        self.qps[node].with_rq_wqe(|wqe| wqe.sge(sge).finish(at)).unwrap();
        self.qps[node].ring_doorbell();
    }

    fn put(&self, node: usize, at: usize, bytes: &[u8]) {
        write_lines(&self.grounds[node].data, at, bytes);
    }

    fn get(&self, node: usize, at: usize, length: usize) -> Vec<u8> {
        read_ring(&self.grounds[node].data, at, length)
    }
}

const fn rights() -> Rights {
    Rights { local_write: false, remote_write: true, remote_read: true, remote_atomic: false }
}

#[test]
fn keys_are_bound_used_and_freed() {
    let (faults, _) = wired(Kind::Rc, Straddle::Wrap, [Device, Device], |wired| {
        let start = wired.grounds[0].start();
        let part = wired.sge(0, 256, 128);
        let window = Window { rkey: WINDOW, new_rkey: WINDOW, access: rights(), zero_based: true };
        let qp = &wired.qps[0];
        qp.with_sq_wqe(|w| w.bind_window(WqeFlags::NONE, &window, &part).finish_signaled(1))
            .unwrap();
        assert!(wired.is_done());
        let keys = &wired.fabric.nodes[0].keys;
        assert!(keys.find((WINDOW, DOMAIN), 0, 128, Access::REMOTE_WRITE).is_some());
        assert!(keys.find((WINDOW, DOMAIN), 0, 129, Access::REMOTE_WRITE).is_none());
        assert!(keys.find((WINDOW, DOMAIN), start + 256, 1, Access::REMOTE_WRITE).is_none());
        // The other end writes through it.
        wired.put(1, 0, b"through the window");
        let from = wired.sge(1, 0, 18);
        let qp = &wired.qps[1];
        qp.with_sq_wqe(|w| w.write(WqeFlags::NONE, 5, WINDOW).sge(from).finish_signaled(2))
            .unwrap();
        qp.ring_doorbell();
        assert!(matches!(wired.seen(1).as_slice(), [Seen::Sent { .. }]));
        assert_eq!(wired.get(0, 261, 18), b"through the window");
        // It is given other memory, in two pieces, and other rights.
        let pieces = [wired.sge(0, 1024, 10), wired.sge(0, 2048, 20)];
        let order = RelaxedOrdering { writes: true, reads: true };
        let update = KeyUpdate { access: Some(rights()), relaxed_ordering: Some(order) };
        let qp = &wired.qps[0];
        qp.with_sq_wqe(|w| {
            w.update_key(WqeFlags::NONE, WINDOW, &update, &pieces).finish_signaled(3)
        })
        .unwrap();
        assert!(wired.is_done());
        let from = wired.sge(1, 0, 18);
        let qp = &wired.qps[1];
        qp.with_sq_wqe(|w| w.write(WqeFlags::NONE, 0, WINDOW).sge(from).finish_signaled(4))
            .unwrap();
        qp.ring_doorbell();
        assert!(matches!(wired.seen(1).as_slice(), [Seen::Sent { .. }]));
        assert_eq!(wired.get(0, 1024, 10), b"through th");
        assert_eq!(wired.get(0, 2048, 8), b"e window");
        // Freed; what comes after that waits for it.
        let qp = &wired.qps[0];
        qp.with_sq_wqe(|w| w.local_inval(WqeFlags::NONE, WINDOW).finish_signaled(5)).unwrap();
        assert!(wired.is_done());
        let qp = &wired.qps[0];
        qp.with_sq_wqe(|w| w.nop(WqeFlags::NONE).finish_signaled(6)).unwrap();
        assert!(wired.is_done());
        let keys = &wired.fabric.nodes[0].keys;
        assert!(keys.find((WINDOW, DOMAIN), 0, 1, Access::REMOTE_WRITE).is_none());
        // Nobody writes through it any more.
        let qp = &wired.qps[1];
        qp.with_sq_wqe(|w| w.write(WqeFlags::NONE, 0, WINDOW).sge(from).finish_signaled(6))
            .unwrap();
        qp.ring_doorbell();
        let seen = wired.seen(1);
        assert!(matches!(seen.as_slice(), [Seen::Failed { send: true, .. }]), "{seen:?}");
    });
    assert_eq!(faults, []);
}

#[test]
fn a_send_invalidates_a_window_of_the_receiver() {
    let (faults, _) = wired(Kind::Rc, Straddle::Fill, [Device, Device], |wired| {
        let part = wired.sge(1, 0, 64);
        let window = Window { rkey: WINDOW, new_rkey: WINDOW, access: rights(), zero_based: false };
        let qp = &wired.qps[1];
        qp.with_sq_wqe(|w| w.bind_window(WqeFlags::NONE, &window, &part).finish_signaled(1))
            .unwrap();
        qp.ring_doorbell();
        assert!(matches!(wired.seen(1).as_slice(), [Seen::Sent { .. }]));
        wired.receive(1, 512, 64);
        let qp = &wired.qps[0];
        qp.with_sq_wqe(|w| {
            w.send_inval(WqeFlags::SOLICITED, WINDOW).inline(b"done").finish_signaled(2)
        })
        .unwrap();
        assert!(wired.is_done());
        let start = wired.grounds[1].start();
        let keys = &wired.fabric.nodes[1].keys;
        assert!(keys.find((WINDOW, DOMAIN), start, 1, Access::REMOTE_WRITE).is_none());
        assert_eq!(wired.get(1, 512, 4), b"done");
    });
    assert_eq!(faults, []);
}

#[test]
fn every_atomic_does_what_its_operands_say() {
    for straddle in [Straddle::Fill, Straddle::Wrap] {
        let (faults, totals) = wired(Kind::Rc, straddle, [Device, Device], |wired| {
            let place = (wired.grounds[1].start() + 64, KEY[1]);
            let word = |wired: &Wired<'_, Device>| {
                u64::from_le_bytes(wired.get(1, 64, 8).try_into().unwrap())
            };
            let (eight, four) = (wired.sge(0, 0, 8), wired.sge(0, 0, 4));
            let none = WqeFlags::NONE;
            for lap in 0..16_u64 {
                wired.put(1, 64, &0x1122_3344_5566_7788_u64.to_le_bytes());
                let qp = &wired.qps[0];
                qp.with_sq_wqe(|w| {
                    w.atomic_cs(none, place, 0x1122_3344_5566_7788, lap)
                        .result(eight)?
                        .finish_signaled(1)
                })
                .unwrap();
                assert!(wired.is_done());
                assert_eq!(word(wired), lap);
                assert_eq!(wired.get(0, 0, 8), 0x1122_3344_5566_7788_u64.to_le_bytes());
                let qp = &wired.qps[0];
                qp.with_sq_wqe(|w| {
                    w.atomic_fa(none, place, 0xFF00).result(eight)?.finish_signaled(2)
                })
                .unwrap();
                assert!(wired.is_done());
                assert_eq!(word(wired), lap + 0xFF00);
                // Only the lowest byte is compared, only the highest is swapped.
                let qp = &wired.qps[0];
                qp.with_sq_wqe(|w| {
                    let masks = (0xFF, 0xFF << 56);
                    let values = (lap, 0xAB << 56 | 0x77);
                    w.masked_cs(none, place, values, masks).result(eight)?.finish_signaled(3)
                })
                .unwrap();
                assert!(wired.is_done());
                assert_eq!(word(wired), lap + 0xFF00 + (0xAB << 56));
                // Bytes are fields of their own: no carry leaves the second.
                let qp = &wired.qps[0];
                qp.with_sq_wqe(|w| {
                    w.masked_fa(none, place, 0x0100, 0x8080).result(eight)?.finish_signaled(4)
                })
                .unwrap();
                assert!(wired.is_done());
                assert_eq!(word(wired), lap + (0xAB << 56));
                let qp = &wired.qps[0];
                qp.with_sq_wqe(|w| {
                    let low = u32::try_from(lap).unwrap();
                    w.masked_cs32(none, place, (low, 0xFFFF_0001), (u32::MAX, 0xFFFF))
                        .result(four)?
                        .finish_signaled(5)
                })
                .unwrap();
                assert!(wired.is_done());
                assert_eq!(word(wired), 1 + (0xAB << 56));
                let qp = &wired.qps[0];
                qp.with_sq_wqe(|w| {
                    w.masked_fa32(none, place, u32::MAX, 0).result(four)?.finish_signaled(6)
                })
                .unwrap();
                assert!(wired.is_done());
                assert_eq!(word(wired), 0xAB << 56);
                assert_eq!(wired.get(0, 0, 4), [1, 0, 0, 0]);
            }
        });
        assert_eq!(faults, []);
        assert_eq!(totals.wrapped > 0, straddle == Straddle::Wrap);
    }
}

#[test]
fn datagrams_go_by_either_kind_of_route() {
    let grh =
        Grh { dgid: [3; 16], sgid_index: 1, flow_label: 0xABCDE, traffic_class: 9, hop_limit: 64 };
    let peer = UdPeer { qpn: QPN[1], qkey: 0x11 };
    let ib = |grh| IbPath { dlid: 2, service_level: 3, static_rate: 0, path_bits: 0, grh };
    let avs = [Av::ib(&ib(None), peer), Av::ib(&ib(Some(grh)), peer)];
    let (faults, _) = wired(Kind::Ud, Straddle::Wrap, [Device, Device], |wired| {
        for (number, av) in (0..40_u64).zip(avs.iter().cycle()) {
            let length = usize::try_from(number * 5 % 150).unwrap();
            let text = spinwire_tests::rng::pattern(number, length);
            wired.receive(1, 0, 256);
            let qp = &wired.qps[0];
            qp.with_ud_sq_wqe(|w| {
                w.av(av).send_imm(WqeFlags::NONE, 7).inline(&text).finish_signaled(number)
            })
            .unwrap();
            assert!(wired.is_done());
            let seen = wired.seen(1);
            let [Seen::Received { counter, bytes, .. }] = seen.as_slice() else {
                panic!("{seen:?}")
            };
            wired.qps[1].rq().unwrap().complete(*counter).unwrap();
            assert_eq!(usize::try_from(*bytes).unwrap(), 40 + length);
            assert_eq!(wired.get(1, 40, length), text);
        }
    });
    assert_eq!(faults, []);
    let roce = RoceGrh {
        grh,
        mac: [2, 0, 0, 0, 0, 2],
        priority: 2,
        static_rate: 0,
        udp_source_port: 0xC000,
    };
    let (faults, _) = wired(Kind::UdRoce, Straddle::Fill, [Device, Device], |wired| {
        wired.receive(1, 0, 256);
        let qp = &wired.qps[0];
        qp.with_ud_sq_wqe_roce(&roce, |w| {
            w.to(peer).send(WqeFlags::NONE).inline(b"over Ethernet").finish_signaled(1)
        })
        .unwrap();
        assert!(wired.is_done());
        assert!(matches!(wired.seen(1).as_slice(), [Seen::Received { bytes: 53, .. }]));
        assert_eq!(wired.get(1, 40, 13), b"over Ethernet");
    });
    assert_eq!(faults, []);
}

/// A way to the device that goes wrong once, with the store of that number.
#[derive(Clone, Debug, Default)]
struct Broken<'c> {
    what: Option<What>,
    stores: Option<&'c Cell<u32>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    /// The record is not stored.
    RecordLost,
    /// It is stored as this machine has numbers.
    RecordSwapped,
    /// It is stored one block too far.
    RecordFar,
    /// It goes to the slot of the receives.
    RecordElsewhere,
    /// It is stored as it was before.
    RecordBack,
    /// The register is not written.
    RegisterLost,
    /// Another queue's number gets into it.
    RegisterOfAnother,
    /// The first block of a request that goes through the register is not the one in the ring.
    BlockDiffers,
}

impl Broken<'_> {
    /// Whether this is the one that goes wrong: the sixth.
    fn now(&self, what: What) -> bool {
        let wanted = self.what == Some(what);
        wanted
            && self.stores.is_some_and(|stores| {
                stores.set(stores.get() + 1);
                stores.get() == 6
            })
    }
}

impl Bus for Broken<'_> {
    fn to_device(&self) {}
    fn from_device(&self) {}
    fn wc_start(&self) {}
    fn flush(&self) {}

    fn store_record(&self, slot: &AtomicU32, value: Be32) {
        let word = value.get();
        if self.now(What::RecordLost) || self.now(What::RecordElsewhere) {
            return;
        }
        let value = match self.what {
            _ if self.now(What::RecordSwapped) => word.swap_bytes(),
            _ if self.now(What::RecordFar) => word + 1,
            _ if self.now(What::RecordBack) => word - 2,
            _ => word,
        };
        slot.store(value.to_be(), Ordering::Relaxed);
    }

    fn write_register(&self, register: &AtomicU64, word: u64) {
        if self.now(What::RegisterLost) {
            return;
        }
        let other = if self.now(What::RegisterOfAnother) { 1 << 48 } else { 0 };
        register.store(word ^ other, Ordering::Relaxed);
    }

    fn copy_block(&self, register: &Line, block: &Line) {
        let differs = u64::from(self.now(What::BlockDiffers)) << 40;
        for (at, (to, from)) in register.words().iter().zip(block.words()).enumerate() {
            let change = if at == 2 { differs } else { 0 };
            to.store(from.load(Ordering::Relaxed) ^ change, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_bus_that_is_broken_is_found_out() {
    let cases = [
        (What::RecordLost, false, Fault::RecordMismatch),
        (What::RecordElsewhere, true, Fault::RecordMismatch),
        (What::RecordSwapped, false, Fault::RecordTooWide),
        (What::RecordFar, false, Fault::RecordMismatch),
        (What::RecordBack, false, Fault::RecordBackwards),
        (What::RegisterLost, false, Fault::RecordWithoutDoorbell),
        (What::RegisterOfAnother, false, Fault::UnknownQueue),
        (What::BlockDiffers, true, Fault::RegisterDiffers),
    ];
    for (what, inline, fault) in cases {
        let stores = Cell::new(0);
        let broken = Broken { what: Some(what), stores: Some(&stores) };
        let buses = [broken, Broken::default()];
        let mut told = Vec::new();
        let (faults, _) = wired(Kind::Rc, Straddle::Fill, buses, |wired| {
            let far = (wired.grounds[1].start(), KEY[1]);
            for number in 0..6_u64 {
                let before = wired.fabric.violations.len();
                assert_eq!(before, 0, "{what:?}: too early, {:?}", wired.fabric.violations);
                let near = wired.sge(0, 0, 9);
                let post = |w: spinwire_dataplane::wqe::SqWqe<'_, '_, u64, Broken<'_>>| {
                    let write = w.write(WqeFlags::NONE, far.0, far.1);
                    if inline {
                        write.inline(&[5; 20]).finish_signaled(number)
                    } else {
                        write.sge(near).finish_signaled(number)
                    }
                };
                let posted: Result<(), PostError> = wired.qps[0].with_sq_wqe(post);
                posted.unwrap();
                wired.qps[0].ring_doorbell();
                if what == What::RecordElsewhere && stores.get() == 6 {
                    // As a driver would that took the wrong one of the two.
                    let end = u32::from(wired.qps[0].sq().tracker().pi());
                    wired.grounds[0].record[0].store(end.to_be(), Ordering::Relaxed);
                }
                wired.fabric.settle(1000);
                for seen in wired.cqs[0].poll(64) {
                    if let Seen::Sent { counter, .. } = seen {
                        wired.qps[0].sq().complete(counter).unwrap();
                    }
                }
            }
            told = wired.fabric.violations.clone();
        });
        assert!(faults.contains(&fault), "{what:?}: {faults:?}");
    }
}

#[test]
fn a_block_that_was_not_written_is_found_out() {
    // The second block of a request stays as it was a lap ago; once written over by the device, once just old.
    for poisons in [true, false] {
        let mut stale = false;
        let (faults, _) = wired(Kind::Rc, Straddle::Fill, [Device, Device], |wired| {
            wired.fabric.manner.poisons = poisons;
            let far = (wired.grounds[1].start(), KEY[1]);
            let mut old = Vec::new();
            for number in 0..9_u64 {
                let bytes = [u8::try_from(number).unwrap(); 90];
                let at = usize::from(wired.qps[0].sq().tracker().pi()) % 16 * 64;
                let before = read_ring(&wired.grounds[0].sq, at, 128);
                wired.qps[0]
                    .with_sq_wqe(|w| {
                        w.write(WqeFlags::NONE, far.0, far.1).inline(&bytes).finish_signaled(number)
                    })
                    .unwrap();
                if number == 8 {
                    // Its head is lost, or its tail.
                    let part = if poisons { 64..128 } else { 0..64 };
                    write_lines(&wired.grounds[0].sq, at + part.start, &before[part]);
                    old = before;
                }
                wired.qps[0].ring_doorbell();
                wired.fabric.settle(1000);
                for seen in wired.cqs[0].poll(64) {
                    if let Seen::Sent { counter, .. } = seen {
                        wired.qps[0].sq().complete(counter).unwrap();
                    }
                }
            }
            stale = old.iter().any(|byte| *byte != 0);
        });
        assert!(stale, "there was something to be stale");
        assert!(faults.contains(&Fault::StaleBlock), "{faults:?}");
    }
}
