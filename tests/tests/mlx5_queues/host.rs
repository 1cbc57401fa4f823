//! Opening a device, with a stand-in for the libraries: what is asked of them, what becomes of their memory, and what is said where
//! they refuse.

use core::mem::MaybeUninit;
use std::rc::Rc;

use spinwire_dataplane::cq::{Event, MonoCq, QueueTable};
use spinwire_dataplane::error::Misuse;
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::sync::Ordering;
use spinwire_dataplane::wqe::{Grh, RoceGrh, WqeFlags};
use spinwire_hostshim::mem::{Mapping, PageKind, PagePolicy};
use spinwire_hostshim::mlx5::{
    Library, MemoryAccess, Mlx5, Mlx5Config, Mlx5Error, PeerAddress, QueuePairConfig, devices, dv,
};

use crate::library::{CQES, QPN, RQ_WQES, SQ_BLOCKS, library, world};

const fn peer() -> PeerAddress {
    PeerAddress { qpn: 0x1234, psn: 0x0056_789a, lid: 7, gid: [9; 16], mtu: 5 }
}

fn open() -> Result<Mlx5, Mlx5Error> {
    Mlx5::open(library(), &Mlx5Config::default())
}

/// Everything that there is to open, in order.
fn open_all() -> Result<PeerAddress, Mlx5Error> {
    let device = open()?;
    let completions = device.completions(10)?;
    let pair = completions.queue_pair(QueuePairConfig::default())?;
    let memory = Mapping::anonymous(4096, PagePolicy::Only(PageKind::Base4K))?;
    let registered = device.register(memory, MemoryAccess::default())?;
    assert_eq!(pair.connect(peer()).unwrap_err(), Mlx5Error::NoCompletions);
    let _queue = completions.build()?;
    pair.connect(peer())?;
    assert!(registered.region().range(4095, 1).is_ok());
    Ok(pair.address())
}

fn words(line: &Line) -> [u64; 8] {
    line.words().each_ref().map(|word| word.load(Ordering::Relaxed))
}

#[test]
fn a_queue_pair_works_in_the_memory_that_the_library_hands_out() {
    let device = open().unwrap();
    assert_eq!((device.name(), device.port().gid), ("mlx5_0", [1; 16]));
    let completions = device.completions(10).unwrap();
    let pair = completions.queue_pair(QueuePairConfig::default()).unwrap();
    let mut block = vec![MaybeUninit::uninit(); 1 << 14];
    let bump = Bump::new(&mut block);
    let table = QueueTable::place(&bump, 1).unwrap();
    let cq = MonoCq::new(completions.build().unwrap(), table);
    pair.connect(peer()).unwrap();
    let qp = pair.build::<u64>(&bump).unwrap();
    cq.add(Rc::clone(&qp)).map_err(|(error, _)| error).unwrap();
    assert_eq!(completions.build().unwrap_err(), Mlx5Error::Taken);
    assert_eq!(pair.build::<u64>(&bump).unwrap_err(), Mlx5Error::Taken);

    // A send: in the block, the record and the register that the library named.
    let memory = world(|world| world.memory);
    qp.with_sq_wqe(|wqe| wqe.send(WqeFlags::NONE).inline(b"hello").finish_signaled(42)).unwrap();
    assert_eq!(qp.ring_doorbell(), 1);
    let block = words(&memory.sq[0]);
    assert_eq!(block[0].to_le_bytes()[..4], [0, 0, 0, 0x0a]);
    assert_eq!(block[0].to_le_bytes()[4..7], QPN.to_be_bytes()[1..]);
    assert_eq!(words(memory.records)[0].to_le_bytes(), [0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(words(&memory.uar[0])[0], block[0]);

    // A receive, and both completions, as a device writes them.
    let page = Mapping::anonymous(4096, PagePolicy::Only(PageKind::Base4K)).unwrap();
    let registered = device.register(page, MemoryAccess::default()).unwrap();
    let sge = registered.region().range(64, 128).unwrap();
    qp.with_rq_wqe(|wqe| wqe.sge(sge).finish(43)).unwrap();
    assert_eq!(qp.rq().unwrap().ring_doorbell(), 1);
    assert_eq!(words(memory.records)[0].to_le_bytes(), [0, 0, 0, 1, 0, 0, 0, 1]);
    let (at, _) = registered.remote();
    let receive = words(&memory.rq[0]);
    assert_eq!(receive[0].to_le_bytes(), [0, 0, 0, 128, 0, 0, 0, 0x11]);
    assert_eq!(receive[1].swap_bytes(), at + 64);
    for (entry, op_own) in [(0, 0x00), (1, 0x20)] {
        let [_, a, b, c] = QPN.to_be_bytes();
        let last = u64::from_le_bytes([0x0a, a, b, c, 0, 0, 0, op_own]);
        memory.cq[entry].words()[7].store(last, Ordering::Relaxed);
    }
    let mut seen = Vec::new();
    cq.poll(9, |event| match event {
        Event::Sent { entry, .. } => seen.push((entry, "sent")),
        Event::Received { entry, .. } => seen.push((entry, "received")),
        other => panic!("{other:?}"),
    });
    assert_eq!(seen, [(42, "sent"), (43, "received")]);
    assert_eq!(words(memory.records)[1].to_le_bytes()[..4], [0, 0, 0, 2]);
    assert!(cq.cq().arm(spinwire_dataplane::cq::Notify::Any));
    assert_eq!(words(&memory.cq_uar[0])[4].to_le_bytes(), [0, 0, 0, 2, 0, 0, 0, 0x77]);
    assert_eq!(cq.cq().entries(), u32::try_from(CQES).unwrap());

    // The next doorbell goes to the other half of the register.
    qp.with_sq_wqe(|wqe| wqe.send(WqeFlags::NONE).inline(b"again").finish_signaled(44)).unwrap();
    assert_eq!(qp.ring_doorbell(), 1);
    let other = &memory.uar[crate::library::BF_BYTES / 64];
    assert_eq!(words(other)[0], words(&memory.sq[1])[0]);
}

#[test]
fn the_three_steps_set_what_each_needs() {
    world(|world| world.port.lid = 3);
    let address = open_all().unwrap();
    assert_eq!((address.qpn, address.lid, address.gid), (QPN, 3, [1; 16]));
    let (made, steps) = world(|world| (world.made[0], world.modified.clone()));
    assert_eq!((made.qp_type, made.sq_sig_all), (dv::IBV_QPT_RC, 0));
    assert!(!made.send_cq.is_null() && made.send_cq == made.recv_cq);
    let states: Vec<_> = steps.iter().map(|(attr, _)| attr.qp_state).collect();
    assert_eq!(states, [dv::IBV_QPS_INIT, dv::IBV_QPS_RTR, dv::IBV_QPS_RTS]);
    // What each step must have: ibv_modify_qp(3), for RC.
    let masks: Vec<_> = steps.iter().map(|(_, mask)| *mask).collect();
    assert_eq!(masks, [0x39, 0x12_9181, 0x1_2e01]);
    let receive = steps[1].0;
    assert_eq!((receive.dest_qp_num, receive.rq_psn, receive.path_mtu), (0x1234, 0x56_789a, 5));
    let route = receive.ah_attr;
    assert_eq!((route.is_global, route.port_num, route.grh.dgid.0), (1, 1, [9; 16]));
    let send = steps[2].0;
    assert_eq!((send.sq_psn, send.retry_cnt, send.timeout), (address.psn, 7, 14));
    assert_eq!(world(|world| world.registered.clone()), [(4096, 1)]);
    assert!(world(|world| world.alive.is_empty()), "all was handed back");

    // Over InfiniBand, by the local address.
    world(|world| world.port.link_layer = 1);
    open_all().unwrap();
    let route = world(|world| world.modified[4].0.ah_attr);
    assert_eq!((route.is_global, route.dlid), (0, 7));
}

#[test]
fn whatever_refuses_is_named_and_all_is_handed_back() {
    open_all().unwrap();
    let calls = world(|world| core::mem::take(&mut world.log));
    let mut seen = Vec::new();
    for call in calls {
        seen.push(call);
        let number = seen.iter().filter(|other| **other == call).count();
        if call.contains("free")
            || call.contains("de") && !call.contains("device") && call != "ibv_modify_qp"
        {
            continue;
        }
        if call == "ibv_close_device" || call.starts_with("ibv_destroy") {
            continue;
        }
        world(|world| {
            world.log.clear();
            world.refuses = Some((call, number));
        });
        match open_all().unwrap_err() {
            Mlx5Error::Refused { call: named, errno } => {
                assert_eq!(named, call);
                assert_ne!(errno.number(), 0);
            }
            other => panic!("{call}: {other:?}"),
        }
        assert!(world(|world| world.alive.is_empty()), "{call} {number}");
    }
    assert!(seen.len() > 15, "{seen:?}");
}

#[test]
fn without_a_device_it_says_so_and_what_helps() {
    let say = |error: Mlx5Error| error.to_string();
    world(|world| world.devices.clear());
    assert_eq!(open().unwrap_err(), Mlx5Error::NoDevice);
    assert!(say(Mlx5Error::NoDevice).contains("remedy"));
    assert_eq!(devices(library()), Ok(vec![]));
    world(|world| world.devices.push((c"rxe0", false)));
    let error = open().unwrap_err();
    let found = vec![("rxe0".to_owned(), false)];
    assert_eq!(error, Mlx5Error::NotOne { wanted: None, found });
    assert!(say(error).contains("rxe0 (of another maker)"));
    world(|world| world.devices.push((c"mlx5_3", true)));
    let other = Mlx5Config { device: Some("mlx5_4".into()), ..Mlx5Config::default() };
    let error = say(Mlx5::open(library(), &other).unwrap_err());
    assert!(error.contains("mlx5_4") && error.contains("mlx5_3"), "{error}");
    world(|world| world.port.state = 1);
    let error = say(open().unwrap_err());
    assert!(error.contains("port 1 of mlx5_3 is not up; remedy"), "{error}");
    assert!(world(|world| world.alive.is_empty()));
    match Library::linked() {
        Err(error) => assert!(say(error).contains("--features mlx5")),
        Ok(linked) => drop(devices(linked)),
    }
}

#[test]
fn memory_that_cannot_be_a_queue_is_named() {
    let qp_says = |change: fn(&mut dv::DvQp)| {
        world(|world| world.dv_qp = change);
        let device = open().unwrap();
        let completions = device.completions(10).unwrap();
        let pair = completions.queue_pair(QueuePairConfig::default()).unwrap();
        let mut block = vec![MaybeUninit::uninit(); 1 << 14];
        pair.build::<u64>(&Bump::new(&mut block)).map(drop).unwrap_err()
    };
    let field = |error| match error {
        Mlx5Error::Memory { field, .. } => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(qp_says(|dv| dv.sq_stride = 128)), "mlx5dv_qp.sq.stride");
    assert_eq!(field(qp_says(|dv| dv.sq_buf = dv.sq_buf.wrapping_byte_add(8))), "mlx5dv_qp.sq.buf");
    assert_eq!(field(qp_says(|dv| dv.sq_wqe_cnt = 0)), "mlx5dv_qp.sq.buf");
    assert_eq!(field(qp_says(|dv| dv.dbrec = core::ptr::null_mut())), "mlx5dv_qp.dbrec");
    assert_eq!(field(qp_says(|dv| dv.bf_reg = core::ptr::null_mut())), "mlx5dv_qp.bf.reg");
    assert!(matches!(qp_says(|dv| dv.sq_wqe_cnt = 24), Mlx5Error::Queue(_)));
    let cq_says = |change: fn(&mut dv::DvCq)| {
        world(|world| world.dv_cq = change);
        open().unwrap().completions(10).unwrap().build().map(drop).unwrap_err()
    };
    assert_eq!(field(cq_says(|dv| dv.cqe_size = 32)), "mlx5dv_cq.cqe_size");
    assert_eq!(field(cq_says(|dv| dv.buf = core::ptr::null_mut())), "mlx5dv_cq.buf");
    assert!(matches!(cq_says(|dv| dv.cqe_cnt = 12), Mlx5Error::Completion(_)));
}

#[test]
fn a_device_without_blue_flame_has_one_register() {
    world(|world| world.dv_qp = |dv| dv.bf_size = 0);
    let device = open().unwrap();
    let completions = device.completions(10).unwrap();
    let pair = completions.queue_pair(QueuePairConfig::default()).unwrap();
    let mut block = vec![MaybeUninit::uninit(); 1 << 14];
    let qp = pair.build::<u64>(&Bump::new(&mut block)).unwrap();
    qp.with_sq_wqe(|wqe| wqe.send(WqeFlags::NONE).inline(b"x").finish_signaled(1)).unwrap();
    assert_eq!(qp.ring_doorbell(), 1);
    let memory = world(|world| world.memory);
    assert_eq!(words(&memory.uar[0])[0], words(&memory.sq[0])[0]);
    assert_eq!(words(&memory.uar[0])[1..], [0; 7], "eight bytes, and no more");
}

#[test]
fn addresses_go_through_text() {
    for address in
        [peer(), PeerAddress { qpn: 0, psn: 0x00ff_ffff, lid: 0xffff, gid: [0; 16], mtu: 1 }]
    {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
    for text in
        ["", "1:2:3:4", "1:2:3:4:5:5", "1000000:2:3:4:5", "1:2:10000:4:5", "x:2:3:4:5", "1:2:3:4:6"]
    {
        assert!(text.parse::<PeerAddress>().unwrap_err().to_string().contains("QPN:PSN"), "{text}");
    }
}

#[test]
fn packets_are_as_long_as_both_ports_carry_and_a_connected_pair_knows_its_route() {
    world(|world| world.port.gid_tbl_len = 3);
    let device = open().unwrap();
    assert_eq!((device.port().gid_index, device.port().gid), (0, [1; 16]), "all are as good");
    drop(device);
    let config = Mlx5Config { gid_index: Some(2), ..Mlx5Config::default() };
    let device = Mlx5::open(library(), &config).unwrap();
    assert_eq!((device.port().gid_index, device.port().gid), (2, [3; 16]));
    let completions = device.completions(10).unwrap();
    let pair = completions.queue_pair(QueuePairConfig::default()).unwrap();
    let _queue = completions.build().unwrap();
    pair.connect(PeerAddress { mtu: 3, ..peer() }).unwrap();
    assert_eq!(world(|world| world.modified[1].0.path_mtu), 3);
    let mut small = vec![MaybeUninit::uninit(); 8];
    let mut block = vec![MaybeUninit::uninit(); 1 << 14];
    // Too little room: it was not handed out by that.
    let refused = pair.build::<u64>(&Bump::new(&mut small)).map(drop).unwrap_err();
    assert!(matches!(refused, Mlx5Error::Queue(_)), "{refused}");
    let qp = pair.build::<u64>(&Bump::new(&mut block)).unwrap();
    let grh =
        Grh { dgid: peer().gid, sgid_index: 2, flow_label: 0, traffic_class: 0, hop_limit: 64 };
    let route = RoceGrh { grh, mac: [7; 6], priority: 0, static_rate: 0, udp_source_port: 0 };
    qp.with_sq_wqe_roce(&route, |wqe| wqe.nop(WqeFlags::NONE).finish_signaled(1)).unwrap();
    let other = RoceGrh { grh: Grh { dgid: [8; 16], ..grh }, ..route };
    let refused = qp.with_sq_wqe_roce(&other, |wqe| wqe.nop(WqeFlags::NONE).finish_signaled(1));
    assert_eq!(refused, Err(Misuse::WrongPeer.into()));
}

#[test]
fn queue_pairs_that_could_overrun_their_completions_are_refused() {
    let device = open().unwrap();
    let completions = device.completions(10).unwrap();
    let config = QueuePairConfig::default();
    let mut pairs = Vec::new();
    let refused = loop {
        match completions.queue_pair(config) {
            Ok(pair) => pairs.push(pair),
            Err(refused) => break refused,
        }
    };
    let each = u32::try_from(SQ_BLOCKS + RQ_WQES).unwrap();
    let entries = u32::try_from(CQES).unwrap();
    assert_eq!(pairs.len(), CQES / (SQ_BLOCKS + RQ_WQES));
    let needed = each * u32::try_from(pairs.len() + 1).unwrap();
    assert_eq!(refused, Mlx5Error::Entries { needed, entries });
    // One that goes makes room.
    drop(pairs.pop());
    completions.queue_pair(config).unwrap();
}
