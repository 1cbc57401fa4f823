//! The bare provider: what the endpoint above it counts on.

use core::ptr::NonNull;

use heapless::Vec as FixedVec;
use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::{Addr, Generation, OpTag, WrId};
use spinwire_dataplane::provider::{
    Caps, Cqe, EndpointType, Payload, Provider, Published, RecvPartsWr, RecvWr, Select,
    SendPartsWr, SendWr, Sge, Source, Status, Use,
};

use super::world::past_injected;
use super::{Rig, World, name};
use crate::rng::pattern;

/// A range that a provider may write for as long as the world is there.
#[expect(unsafe_code, reason = "a bare provider is posted bare memory")]
fn sge<R: Rig>(world: &World<'_, R>, length: usize) -> Sge {
    let bytes = world.bump().slice_with(length, |_| 0_u8).unwrap();
    let length = u32::try_from(bytes.len()).unwrap();
    // SAFETY: just placed in the arena, which outlives every port in it; nobody else has the slice.
    unsafe { Sge::from_raw(NonNull::from_mut(bytes).cast(), length) }
}

/// Posts a receive of 64 bytes.
pub(super) fn post<R: Rig>(
    world: &World<'_, R>,
    port: &R::Port<'_>,
    number: u32,
) -> Result<WrId, PostError> {
    let wr_id = WrId::new(OpTag::Recv, Generation::FIRST, number);
    let wr = RecvWr {
        wr_id,
        sge: sge(world, 64),
        from: Source::Any,
        select: Select::Untagged,
        buffer: Use::Single,
    };
    past_injected(|| port.post_recv(&wr)).map(|()| wr_id)
}

/// Polls both, with nothing to be seen, until the one may send to the other.
fn meet<'m, R: Rig, const N: usize>(
    world: &World<'m, R>,
    (a, b, to_b): (&R::Port<'m>, &R::Port<'m>, Addr),
    out: &mut FixedVec<Cqe, N>,
) {
    for round in 0.. {
        if R::has_met(a, to_b) && round >= 5 {
            return;
        }
        for port in [a, b] {
            port.poll_cq(world.now(), out);
            if R::MEETS {
                port.ring_doorbell();
            }
        }
        assert!(round < super::TURNS_MAX, "they have not met");
        world.linger(round);
    }
}

/// With room for one completion a poll, each poll gives one, and none is lost.
pub fn one_completion_at_a_time<R: Rig>(world: &World<'_, R>) {
    let [a, b] = ["a", "b"].map(|text| world.port(text));
    let to_b = past_injected(|| a.connect(&name("b"))).unwrap();
    let mut none: FixedVec<Cqe, 4> = FixedVec::new();
    meet(world, (&a, &b, to_b), &mut none);
    assert!(none.is_empty());
    let receives: Vec<WrId> = (0..9).map(|number| post(world, &b, number).unwrap()).collect();
    let mut due = Vec::new();
    for number in 0..6 {
        let wr_id = WrId::new(OpTag::Send, Generation::FIRST, number);
        let payload = Payload::Posted { wr_id, sge: sge(world, 16) };
        let wr = SendWr { to: to_b, payload, tag: None, immediate: Some(u64::from(number)) };
        past_injected(|| a.post_send(&wr)).unwrap();
        due.push(wr_id);
    }
    a.ring_doorbell();
    for id in &receives[6..] {
        b.cancel(*id).unwrap();
    }
    let (mut sent, mut failed, mut received, mut cancelled) = (Vec::new(), 0, Vec::new(), 0);
    for _ in 0..200 {
        for port in [&a, &b] {
            let mut out: FixedVec<Cqe, 1> = FixedVec::new();
            port.poll_cq(world.now(), &mut out);
            match out.first() {
                Some(cqe) if due.contains(&cqe.wr_id) => {
                    failed += usize::from(cqe.status == Status::Injected);
                    sent.push(cqe.wr_id);
                }
                Some(cqe) if cqe.status == Status::Cancelled => cancelled += 1,
                Some(cqe) => received.push(cqe.wr_id),
                None => {}
            }
            port.ring_doorbell();
        }
    }
    sent.sort_unstable_by_key(|id| id.as_raw());
    assert_eq!((sent, cancelled), (due, 3));
    assert!(R::FAULTS || failed == 0);
    assert_eq!(received, receives[..6 - failed]);
}

/// A poll without room takes nothing and loses nothing.
pub fn a_full_batch_is_left_alone<R: Rig>(world: &World<'_, R>) {
    let [a, b] = ["a", "b"].map(|text| world.port(text));
    let to_b = past_injected(|| a.connect(&name("b"))).unwrap();
    let mut out: FixedVec<Cqe, 2> = FixedVec::new();
    meet(world, (&a, &b, to_b), &mut out);
    let filler = Cqe::without_message(WrId::from_raw(0), Status::Corrupt);
    out.extend([filler, filler]);
    post(world, &b, 0).unwrap();
    let cancelled = post(world, &b, 1).unwrap();
    b.cancel(cancelled).unwrap();
    let bytes = pattern(1, 30);
    let wr = SendWr { to: to_b, payload: Payload::Inject(&bytes), tag: None, immediate: Some(5) };
    past_injected(|| a.post_send(&wr)).unwrap();
    for _ in 0..50 {
        a.ring_doorbell();
        a.poll_cq(world.now(), &mut out);
        b.poll_cq(world.now(), &mut out);
        assert_eq!(out[..], [filler, filler]);
    }
    out.clear();
    for _ in 0..50 {
        b.poll_cq(world.now(), &mut out);
    }
    assert_eq!(out.iter().filter(|cqe| cqe.immediate == Some(5)).count(), 1);
    assert_eq!(out.iter().filter(|cqe| cqe.status == Status::Cancelled).count(), 1);
}

/// `Published::count` is what was staged since the last doorbell, refused posts not counted.
pub fn doorbells_count_exactly<R: Rig>(world: &World<'_, R>) {
    let [a, b] = ["a", "b"].map(|text| world.port(text));
    let to_b = past_injected(|| a.connect(&name("b"))).unwrap();
    let mut out: FixedVec<Cqe, 4> = FixedVec::new();
    meet(world, (&a, &b, to_b), &mut out);
    assert_eq!(a.ring_doorbell(), Published::default());
    let wr = SendWr { to: to_b, payload: Payload::Inject(b"m"), tag: None, immediate: None };
    let long = vec![0; world.message_bytes_max() + 1];
    let too_long = SendWr { payload: Payload::Inject(&long), ..wr };
    for count in [1, 3, 0, 2] {
        for _ in 0..count {
            past_injected(|| a.post_send(&wr)).unwrap();
            assert!(a.post_send(&too_long).is_err());
        }
        assert_eq!(a.ring_doorbell(), Published { count, error: None });
    }
    let mut accepted = 0;
    while a.post_send(&wr).is_ok() {
        accepted += 1;
    }
    assert_eq!(a.ring_doorbell(), Published { count: accepted, error: None });
}

/// Ranges of any length are sent, and filled, one behind the other: where one ends within a word, the next begins there.
pub fn odd_ranges_fill_odd_ranges<R: Rig>(world: &World<'_, R>) {
    let (a, b) = (world.port("a"), world.port("b"));
    let caps = a.info().caps;
    if !caps.has(Caps::GATHER.with(Caps::SCATTER)) {
        return;
    }
    let to_b = past_injected(|| a.connect(&name("b"))).unwrap();
    let mut none: FixedVec<Cqe, 4> = FixedVec::new();
    meet(world, (&a, &b, to_b), &mut none);
    assert!(none.is_empty());
    let most = usize::try_from(a.info().limits.sge_max).unwrap();
    let cuts: [&[usize]; 5] =
        [&[3, 0, 61, 7], &[1, 1, 1, 68], &[71], &[40, 8, 1, 22], &[5, 43, 20, 3]];
    let mut number = 0;
    for out in cuts.into_iter().filter(|cut| cut.len() <= most) {
        for into in cuts.into_iter().filter(|cut| cut.len() <= most) {
            number += 1;
            let bytes = pattern(number, 71);
            let parts = filled(world, out, &bytes);
            let places: Vec<Sge> = into.iter().map(|&length| sge(world, length)).collect();
            let slot = u32::try_from(number).unwrap();
            let wr_id = WrId::new(OpTag::Recv, Generation::FIRST, slot);
            let (from, select) = (Source::Any, Select::Untagged);
            let wr = RecvPartsWr { wr_id, parts: &places, from, select };
            past_injected(|| b.post_recv_parts(&wr)).unwrap();
            let sent = WrId::new(OpTag::Send, Generation::FIRST, slot);
            let immediate = (number % 2 == 0).then_some(number);
            let wr = SendPartsWr { wr_id: sent, to: to_b, parts: &parts, tag: None, immediate };
            let (mut at_a, mut at_b) = (FixedVec::<Cqe, 8>::new(), FixedVec::<Cqe, 8>::new());
            let mut is_posted = false;
            for turn in 0.. {
                is_posted = is_posted || a.post_send_parts(&wr).is_ok();
                a.ring_doorbell();
                a.poll_cq(world.now(), &mut at_a);
                b.poll_cq(world.now(), &mut at_b);
                b.ring_doorbell();
                if !(at_a.is_empty() || at_b.is_empty()) {
                    break;
                }
                assert!(turn < super::TURNS_MAX, "it has not come");
                world.linger(turn);
            }
            assert_eq!((at_a[0].wr_id, at_a[0].status), (sent, Status::Success));
            let got = at_b[0];
            assert_eq!((got.wr_id, got.length, got.immediate), (wr_id, 71, immediate));
            let seen: Vec<u8> = places.iter().flat_map(|place| place.bytes().to_vec()).collect();
            assert!(seen == bytes, "{out:?} into {into:?}");
        }
    }
}

/// Ranges of these lengths, which hold `bytes`.
fn filled<R: Rig>(world: &World<'_, R>, lengths: &[usize], bytes: &[u8]) -> Vec<Sge> {
    let mut rest = bytes;
    let range = |&length: &usize| {
        let (here, behind) = rest.split_at(length);
        rest = behind;
        let mut range = sge(world, length);
        range.part(0, length).unwrap().copy_from_slice(here);
        range
    };
    lengths.iter().map(range).collect()
}

/// What `info` says is what was asked for, and hangs together.
pub fn info_says_what_is_so<R: Rig>(world: &World<'_, R>) {
    let port = world.port("a");
    let info = port.info();
    assert_eq!(info.endpoint_type, world.endpoint_type());
    let limits = info.limits;
    assert_eq!(limits.message_bytes_max, world.message_bytes_max());
    assert!(limits.inject_bytes_max <= limits.message_bytes_max);
    assert!(limits.unexpected_bytes_max <= limits.message_bytes_max);
    let sizes = world.sizes();
    assert_eq!((limits.send_depth, limits.recv_depth), (sizes.send_depth, sizes.recv_depth));
    assert_eq!(limits.peers_max, sizes.peers_max);
    let of_parts = info.caps.has(Caps::GATHER) || info.caps.has(Caps::SCATTER);
    assert_eq!(limits.sge_max > 1, of_parts, "{} parts", limits.sge_max);
    assert!(info.caps.has(Caps::MESSAGE));
    let all = Caps::TAGGED.with(Caps::INJECT).with(Caps::IMMEDIATE).with(Caps::DIRECTED_RECV);
    let all = all.with(Caps::MULTI_RECV).with(Caps::SOURCE).with(Caps::PEEK).with(Caps::CANCEL);
    let there = all.without(R::LACKS);
    assert!(
        info.caps.has(there),
        "the suite checks all of them; a provider without one needs cases"
    );
    assert_eq!(R::LACKS.without(info.caps), R::LACKS, "what is there after all");
    if info.endpoint_type != EndpointType::Dgram {
        use spinwire_dataplane::provider::{Order, Reliability};
        assert_eq!((info.reliability, info.order), (Reliability::Reliable, Order::PerPeer));
    }
}
