//! One-sided operations: reads, writes and atomics on the peer's memory.

use core::ptr::NonNull;

use spinwire_dataplane::provider;
use spinwire_dataplane::provider::rdma::Registrar as _;
use spinwire_dataplane::raw::loan::Sge;
use spinwire_dataplane::verbs::{RemotePlace, SendFlags, SendRequest, Verb, WcStatus};
use spinwire_hostshim::verbs::{Access, PairConfig, ProtectionDomain};

use super::rig::{connected, devices, quick, wr};

#[test]
fn writes_and_reads_reach_the_peers_memory() {
    let Some([a, b]) = connected(&PairConfig::default(), &quick()) else { return };
    let there = b.region.remote_key();
    a.write(0, b"written from afar");
    let place = there.place(4096, 17).unwrap();
    a.send(&SendRequest::new(wr(1), Verb::Write, &[a.segment(0, 17)]).at(place));
    a.done(1);
    let fenced = SendFlags { fence: true, ..SendFlags::default() };
    let into = [a.segment(8192, 17)];
    a.send(&SendRequest::new(wr(2), Verb::Read, &into).at(place).with(fenced));
    a.done(2);
    assert_eq!(a.read(8192, 17), b"written from afar");
    assert_eq!(b.read(4096, 17), b"written from afar");
}

#[test]
fn a_write_with_immediate_completes_an_empty_receive() {
    let Some([a, b]) = connected(&PairConfig::default(), &quick()) else { return };
    b.recv(7, &[]);
    a.write(0, &[9; 100]);
    let place = b.region.remote_key().place(500, 100).unwrap();
    a.send(&SendRequest::new(wr(1), Verb::WriteImm(77), &[a.segment(0, 100)]).at(place));
    let came = b.done(7);
    assert_eq!((came.bytes, came.immediate), (100, Some(77)));
    assert_eq!(b.read(500, 100), [9; 100]);
    a.done(1);
    // None of its bytes: the immediate alone.
    b.recv(8, &[]);
    a.send(&SendRequest::new(wr(2), Verb::WriteImm(78), &[]).at(place));
    assert_eq!(b.done(8).immediate, Some(78));
    a.done(2);
}

#[test]
fn atomics_bring_what_was_there() {
    let Some([a, b]) = connected(&PairConfig::default(), &quick()) else { return };
    b.write(64, &100_u64.to_ne_bytes());
    let place = b.region.remote_key().place(64, 8).unwrap();
    let seen = |end: &super::rig::End, at| u64::from_ne_bytes(end.read(at, 8).try_into().unwrap());
    a.send(&SendRequest::new(wr(1), Verb::FetchAdd(5), &[a.segment(0, 8)]).at(place));
    a.done(1);
    assert_eq!((seen(&a, 0), seen(&b, 64)), (100, 105));
    for (id, expected, now) in [(2, 105, 1000), (3, 105, 1000)] {
        let swap = Verb::CompareSwap { expected, swap: 1000 };
        a.send(&SendRequest::new(wr(id), swap, &[a.segment(8, 8)]).at(place));
        a.done(id);
        assert_eq!(seen(&a, 8), if id == 2 { 105 } else { 1000 });
        assert_eq!(seen(&b, 64), now);
    }
}

#[test]
fn a_key_lets_in_as_far_as_it_says() {
    let closed = |access: Access, verb: Verb| {
        let [a, b] = connected(&PairConfig::default(), &quick())?;
        let region = b.domain.register(8192, access).unwrap();
        let place = region.remote_key().place(0, 8).unwrap();
        a.send(&SendRequest::new(wr(1), verb, &[a.segment(0, 8)]).at(place));
        a.failed(1, WcStatus::REMOTE_ACCESS);
        Some(())
    };
    let reads = Access { remote_read: true, ..Access::LOCAL };
    let writes = Access { remote_write: true, ..Access::LOCAL };
    let all =
        [closed(reads, Verb::Write), closed(writes, Verb::Read), closed(writes, Verb::FetchAdd(1))];
    if all.contains(&None) {
        return;
    }
    // A key that nobody gave, and an address beyond the region.
    for (offset, key) in [(0, 0xdead_0000), (1 << 30, 0)] {
        let [a, b] = connected(&PairConfig::default(), &quick()).unwrap();
        let mut place = b.region.remote_key().place(0, 8).unwrap();
        place.address += offset;
        place.key ^= key;
        a.send(&SendRequest::new(wr(1), Verb::Write, &[a.segment(0, 8)]).at(place));
        a.failed(1, WcStatus::REMOTE_ACCESS);
    }
}

/// Keys that a port has given for buffers go with what has given them, though nobody has taken them back.
#[test]
#[expect(unsafe_code, reason = "memory that is posted by hand")]
fn grants_that_go_let_nobody_in_any_more() {
    let Some([a, b]) = connected(&PairConfig::default(), &quick()) else { return };
    let memory: &'static mut [u8] = Box::leak(vec![0; 4096].into_boxed_slice());
    let address = u64::try_from(memory.as_ptr().expose_provenance()).unwrap();
    let length = u32::try_from(memory.len()).unwrap();
    // SAFETY: never given back, and named nowhere else.
    let whole = unsafe { Sge::from_raw(NonNull::from_mut(memory).cast(), length) };
    let lost = spinwire_hostshim::verbs::lost();
    let grants = b.domain.grants();
    let key = grants.register(&whole, provider::Access::ALL).unwrap();
    let place = RemotePlace { address, key };
    a.write(0, b"let in");
    a.send(&SendRequest::new(wr(1), Verb::Write, &[a.segment(0, 6)]).at(place));
    a.done(1);
    a.send(&SendRequest::new(wr(2), Verb::Read, &[a.segment(64, 6)]).at(place));
    a.done(2);
    assert_eq!(a.read(64, 6), b"let in");
    drop(grants);
    assert_eq!(spinwire_hostshim::verbs::lost(), lost, "the device has let go of it");
    a.send(&SendRequest::new(wr(3), Verb::Write, &[a.segment(0, 6)]).at(place));
    a.failed(3, WcStatus::REMOTE_ACCESS);
    drop((a, b));
    // Who was let in to read does not write.
    let [a, b] = connected(&PairConfig::default(), &quick()).unwrap();
    let grants = b.domain.grants();
    let key = grants.register(&whole, provider::Access::READ).unwrap();
    let place = RemotePlace { address, key };
    a.send(&SendRequest::new(wr(1), Verb::Read, &[a.segment(64, 6)]).at(place));
    a.done(1);
    assert_eq!(a.read(64, 6), b"let in");
    a.send(&SendRequest::new(wr(2), Verb::Write, &[a.segment(0, 6)]).at(place));
    a.failed(2, WcStatus::REMOTE_ACCESS);
    assert!(grants.unregister(key) && !grants.unregister(key), "once");
}

#[test]
fn pages_on_demand_are_refused_where_the_device_has_none() {
    let Some([device, _]) = devices() else { return };
    let domain = ProtectionDomain::new(&device).unwrap();
    let on_demand = Access { on_demand: true, ..Access::REMOTE };
    let refused = domain.register(4096, on_demand).unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("ibv_reg_mr") && text.contains("without on_demand"), "{text}");
    assert_eq!(domain.registered_bytes(), 0);
    domain.register(4096, Access::REMOTE).unwrap();
}
