//! What a turn takes from the heap, on devices as libibverbs has them: nothing, neither by this side nor by the library.

use core::hint::black_box;

use spinwire_dataplane::msg::{Kind, RecvFrom, SendTo};
use spinwire_hostshim::alloc_gate::{self, CountingAlloc, OnUse};

use super::endpoints::{Node, introduce, plane, until};
use super::heap;
use super::rig::{connected, devices, quick, wr};
use spinwire_dataplane::verbs::{SendRequest, Verb};
use spinwire_hostshim::verbs::PairConfig;

#[global_allocator]
static HEAP: CountingAlloc = CountingAlloc::new();

/// Messages there and back.
const ROUNDS: u64 = 200;

/// Without these the others would find nothing.
#[test]
fn canary_the_heap_of_both_languages_is_watched() {
    let before = heap::calls();
    drop(black_box(vec![1_u8; 100]));
    assert_eq!(heap::calls(), before + 2, "Rust's heap is that of C");
    let before = heap::calls();
    if devices().is_some() {
        // A library of C: it makes a list of devices, and frees it.
        let names = spinwire_hostshim::verbs::Device::open("rxe0").map(drop);
        assert!(names.is_ok() && heap::calls() > before + 10, "{}", heap::calls() - before);
    }
    let sealed = alloc_gate::seal(OnUse::Count);
    drop(black_box(vec![1_u8; 100]));
    assert_eq!(sealed.open().allocations, 1);
}

/// Endpoints turn, attend to their planes, send, receive, and post what has come again.
#[test]
fn turns_of_endpoints_on_devices_need_no_heap() {
    if devices().is_none() {
        return;
    }
    let planes = ["rxe0", "rxe1"].map(plane);
    let (a, b) = (Node::open(&planes[0], "a"), Node::open(&planes[1], "b"));
    let to = introduce(&a, "b", &b);
    until(&[&a, &b], || a.endpoint.provider().reach(to).unwrap().then_some(()));
    let mut back = None;
    let mut round = |number: u64| {
        let bytes = number.to_le_bytes();
        for (from, into) in [(&a, &b), (&b, &a)] {
            let peer = if core::ptr::eq(from, &raw const a) { Some(to) } else { back };
            let Some(peer) = peer else { return false };
            let Some(loan) = into.loans.lend() else { return false };
            if into.endpoint.post_recv(RecvFrom::any(), loan, 7).is_err() {
                return false;
            }
            while from.endpoint.inject(SendTo::peer(peer), &bytes).is_err() {
                a.turn();
                b.turn();
            }
            from.endpoint.flush();
            let got = loop {
                a.turn();
                b.turn();
                if let Some(got) = into.endpoint.poll().filter(|got| got.kind == Kind::Received) {
                    break got;
                }
            };
            if got.bytes() != Some(&bytes[..]) {
                return false;
            }
            back = back.or(got.source);
        }
        true
    };
    let idle = || {
        for _ in 0..3000 {
            a.turn();
            b.turn();
        }
    };
    assert!((0..20).all(&mut round), "what is made with the first message is made now");
    // What librdmacm has to tell of the connection is heard.
    idle();
    // Looks at the device and at the channel of librdmacm are among it: one in a thousand turns.
    let before = heap::calls();
    let sealed = alloc_gate::seal(OnUse::Count);
    let is_good = (20..20 + ROUNDS).all(&mut round);
    idle();
    let counts = sealed.open();
    let after = heap::calls();
    assert!(is_good);
    assert!(counts.is_clean(), "this side: {counts:?}");
    assert_eq!(after - before, 0, "calls into the heap, the library's among them");
}

/// And the queues themselves, with all that is posted on them.
#[test]
fn posts_doorbells_and_polls_need_no_heap() {
    let Some([a, b]) = connected(&PairConfig::default(), &quick()) else { return };
    let place = b.region.remote_key().place(4096, 4096).unwrap();
    let round = || {
        b.recv(1, &[b.segment(0, 512)]);
        a.send(&SendRequest::new(wr(2), Verb::SendImm(9), &[a.segment(0, 300)]));
        b.done(1);
        a.done(2);
        a.send(&SendRequest::new(wr(3), Verb::Write, &[a.segment(0, 4096)]).at(place));
        a.done(3);
        a.send(&SendRequest::new(wr(4), Verb::Read, &[a.segment(0, 4096)]).at(place));
        a.done(4);
        let word = b.region.remote_key().place(4096, 8).unwrap();
        a.send(&SendRequest::new(wr(5), Verb::FetchAdd(1), &[a.segment(0, 8)]).at(word));
        a.done(5);
    };
    round();
    let before = heap::calls();
    let sealed = alloc_gate::seal(OnUse::Count);
    for _ in 0..20 {
        round();
    }
    let counts = sealed.open();
    assert!(counts.is_clean(), "this side: {counts:?}");
    assert_eq!(heap::calls() - before, 0, "calls into the heap, the library's among them");
}
