//! The context table: a completion is matched with its own operation or with none.

use core::cell::RefCell;
use std::collections::BTreeSet;

use heapless::VecView;
use spinwire_dataplane::error::{Misuse, PostError, Retry};
use spinwire_dataplane::id::{Addr, Generation, Name, OpTag, WrId};
use spinwire_dataplane::msg::{
    Count, Counted, Endpoint, EndpointConfig, Flags, Kind, RecvFrom, SendTo,
};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::{
    Buffer, CancelError, Caps, Cqe, Event, Info, KeepsPosted, ParcelWr, Provider, Published,
    RecvWr, Select, SendWr, Source, Status, Waiting,
};
use spinwire_dataplane::time::Instant;

use super::world::{TURNS_MAX, past_injected};
use super::{Rig, World};
use crate::rng::pattern;

/// A provider that also reports what nobody asked it to.
#[derive(Debug)]
struct Forger<P> {
    inner: P,
    forged: RefCell<Vec<Cqe>>,
}

#[expect(unsafe_code, reason = "a promise, which the forgeries of these cases keep")]
// SAFETY: it hands everything on; what it forges names operations that are over or never were, a receive to which nobody sends, or a send whose
// buffer nobody writes.
unsafe impl<P: Provider> KeepsPosted for Forger<P> {}

impl<P: Provider> Provider for Forger<P> {
    fn info(&self) -> &Info {
        self.inner.info()
    }
    fn connect(&self, name: &Name) -> Result<Addr, PostError> {
        self.inner.connect(name)
    }
    fn disconnect(&self, addr: Addr) -> Result<(), Misuse> {
        self.inner.disconnect(addr)
    }
    fn post_send(&self, wr: &SendWr<'_>) -> Result<(), PostError> {
        self.inner.post_send(wr)
    }
    fn post_parcel(&self, wr: &ParcelWr) -> Result<u8, PostError> {
        self.inner.post_parcel(wr)
    }
    fn is_settled(&self, to: Addr, number: u8) -> bool {
        self.inner.is_settled(to, number)
    }
    fn settle(&self, source: Addr, numbers: u64) {
        self.inner.settle(source, numbers);
    }
    fn post_recv(&self, wr: &RecvWr) -> Result<(), PostError> {
        self.inner.post_recv(wr)
    }
    fn ring_doorbell(&self) -> Published {
        self.inner.ring_doorbell()
    }
    fn poll_cq(&self, now: Instant, out: &mut VecView<Cqe>) {
        for cqe in self.forged.borrow_mut().drain(..) {
            out.push(cqe).expect("few are forged at once");
        }
        self.inner.poll_cq(now, out);
    }
    fn poll_event(&self) -> Option<Event> {
        self.inner.poll_event()
    }
    fn cancel(&self, wr_id: WrId) -> Result<(), CancelError> {
        self.inner.cancel(wr_id)
    }
    fn peek(&self, from: Source, select: Select) -> Option<Waiting> {
        self.inner.peek(from, select)
    }
}

/// Completions of ids that are over, were never given out, or are no ids, are counted, reported, and take nothing.
pub fn forged_completions_match_nothing<R: Rig>(world: &World<'_, R>) {
    let config = EndpointConfig { contexts_max: 8 };
    let forger = Forger { inner: world.port("a"), forged: RefCell::default() };
    let a = Endpoint::new(forger, world.bump(), &config).unwrap();
    let loan = || world.pool().lend().unwrap();
    let post = |context| {
        past_injected(|| a.post_recv(RecvFrom::any(), loan(), context).map_err(|r| r.error))
    };
    let free = world.pool().free_count();
    let old = post(1).unwrap();
    a.cancel(old).unwrap();
    while a.posted_count() > 0 {
        let _busy = a.turn(world.now(), Budget::DEFAULT).is_busy();
        while a.poll().is_some() {}
    }
    let live = post(2).unwrap();
    let (_, generation, slot) = live.parts().unwrap();
    assert_eq!(old.parts().unwrap().2, slot, "the slot is used again");
    let mut expected = Vec::new();
    for wr_id in [
        old,
        WrId::new(OpTag::Recv, generation.next(), slot),
        WrId::new(OpTag::Recv, Generation::FIRST, slot + 1),
        WrId::new(OpTag::Send, generation, u32::MAX),
        WrId::new(OpTag::Recv, generation, 8),
        WrId::from_raw(0),
        WrId::from_raw(u64::MAX),
        WrId::from_raw(live.as_raw() & !(0xFF << 56)),
    ] {
        for buffer in [Buffer::Returned, Buffer::StillPosted] {
            let cqe = Cqe { buffer, ..Cqe::without_message(wr_id, Status::Success) };
            a.provider().forged.borrow_mut().push(cqe);
            expected.push(Event::StaleCompletion(wr_id));
        }
        let _busy = a.turn(world.now(), Budget::DEFAULT).is_busy();
        assert!(a.poll().is_none(), "{wr_id:?} matches nothing");
    }
    assert_eq!(a.posted_count(), 1);
    let events: Vec<Event> = core::iter::from_fn(|| a.poll_event()).collect();
    assert_eq!(events, expected);
    assert_eq!(a.totals().stale_ids, 16);
    // The live one still completes; told twice, it completes once.
    let cqe = Cqe::without_message(live, Status::Cancelled);
    a.provider().forged.borrow_mut().extend([cqe, cqe]);
    a.cancel(live).unwrap();
    let _busy = a.turn(world.now(), Budget::DEFAULT).is_busy();
    let completion = a.poll().unwrap();
    assert_eq!((completion.id, completion.context), (live, 2));
    assert!(a.poll().is_none());
    drop(completion);
    for _ in 0..20 {
        let _busy = a.turn(world.now(), Budget::DEFAULT).is_busy();
        assert!(a.poll().is_none());
    }
    assert_eq!(a.totals().stale_ids, 18, "the copy, and the true one");
    assert_eq!((a.posted_count(), world.pool().free_count()), (0, free));
}

/// A cancelled receive completes once, with its loan.
pub fn cancel_gives_the_loan_back<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let free = world.pool().free_count();
    let ids = [1, 2, 3].map(|context| b.recv(RecvFrom::any(), context).unwrap());
    b.cancel(ids[1]).unwrap();
    assert_eq!(b.cancel(ids[1]), Err(CancelError::NotPosted), "it is over already");
    world.until("it is back", &[&b], || b.inbox_len() > 0);
    let got = b.take().unwrap();
    assert_eq!((got.id, got.context, got.status), (ids[1], 2, Status::Cancelled));
    assert_eq!((got.kind, got.returned, got.source), (Kind::RecvEnded, true, None));
    for number in 0..2 {
        world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b).immediate(number), b"m"));
    }
    world.until("both are there", &[&a, &b], || b.inbox_len() == 2);
    assert_eq!([b.take(), b.take()].map(|got| got.unwrap().context), [1, 3]);
    assert_eq!((b.posted_count(), world.pool().free_count()), (0, free));
}

/// What has completed, was never posted, or is a send cannot be cancelled.
pub fn a_late_cancel_is_refused<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let id = b.recv(RecvFrom::any(), 1).unwrap();
    world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b), b"m"));
    world.until("it is there", &[&a, &b], || b.inbox_len() > 0);
    assert_eq!(b.cancel(id), Err(CancelError::NotPosted));
    // Its slot has another tenant now, who is not meant.
    let next = b.recv(RecvFrom::any(), 2).unwrap();
    assert_eq!(b.cancel(id), Err(CancelError::NotPosted));
    assert!(b.cancel(WrId::from_raw(0)).is_err());
    b.cancel(next).unwrap();
    let sent = world.insist(&[&a, &b], || a.send(SendTo::peer(to_b), b"m", 3));
    assert!(a.cancel(sent).is_err());
    world.until("both are over", &[&a, &b], || a.inbox_len() == 1 && b.inbox_len() == 2);
}

/// A message that comes after the cancel goes to the next receive.
pub fn cancelled_receives_take_nothing<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    // One is cancelled before the message comes, one after it was published, one while the message waits.
    let first = b.recv(RecvFrom::any(), 1).unwrap();
    let second = b.recv(RecvFrom::any(), 2).unwrap();
    b.cancel(first).unwrap();
    world.insist(&[&a], || a.inject(SendTo::peer(to_b), &pattern(1, 100)));
    a.flush();
    b.cancel(second).unwrap();
    world.until_it_waits(RecvFrom::any(), &[&a, &b]);
    let third = b.recv(RecvFrom::any(), 3).unwrap();
    b.cancel(third).unwrap();
    world.turns(5, &[&a, &b]);
    let over: Vec<(u64, Status)> =
        core::iter::from_fn(|| b.take()).map(|got| (got.context, got.status)).collect();
    assert_eq!(over, [1, 2, 3].map(|context| (context, Status::Cancelled)));
    b.recv(RecvFrom::any(), 4).unwrap();
    world.until("it is there", &[&a, &b], || b.inbox_len() > 0);
    assert_eq!(b.take().unwrap().bytes, pattern(1, 100));
}

/// Cancelling everything again and again without a poll in between loses no completion.
pub fn a_flood_of_cancels_loses_none<R: Rig>(world: &World<'_, R>) {
    let free = world.pool().free_count();
    let b = world.node("b");
    let (mut cancelled, mut refused) = (0_u64, 0);
    while refused < 10 {
        match b.recv(RecvFrom::any(), cancelled) {
            Ok(id) => {
                b.cancel(id).unwrap();
                cancelled += 1;
            }
            Err(PostError::Retry(_)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    world.turns(20, &[&b]);
    let over: Vec<u64> = core::iter::from_fn(|| b.take())
        .map(|got| {
            assert_eq!((got.status, got.returned), (Status::Cancelled, true));
            got.context
        })
        .collect();
    assert_eq!(over, (0..cancelled).collect::<Vec<u64>>());
    assert_eq!((b.posted_count(), world.pool().free_count()), (0, free));
    b.recv(RecvFrom::any(), 1).unwrap();
}

/// An id that is over never names another operation.
pub fn ids_are_not_used_twice<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let mut seen = BTreeSet::new();
    for _ in 0..500 {
        assert!(seen.insert(b.recv(RecvFrom::any(), 0).unwrap().as_raw()));
        world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b), b""));
        world.until("it is there", &[&a, &b], || b.take().is_some());
    }
}

/// What did not do what was asked says all that is known of it: a cancelled receive, a message that was cut short, a failure with the
/// provider's own number.
pub fn failures_say_what_is_known<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let mut small = world.pool().lend().unwrap();
    small.set_len(0).unwrap();
    let capacity = small.capacity();
    drop(small);
    let cancelled = b.recv(RecvFrom::any().tag(9), 4).unwrap();
    b.cancel(cancelled).unwrap();
    let mut failure = None;
    world.until("it is over", &[&a], || {
        failure = b.completion(world.now()).map(|completion| completion.failure().unwrap());
        failure.is_some()
    });
    let seen = failure.unwrap();
    assert_eq!((seen.id, seen.context, seen.status), (cancelled, 4, Status::Cancelled));
    assert_eq!((seen.code, seen.length, seen.tag, seen.source), (0, 0, Some(9), None));
    assert!(seen.flags.has(Flags::RECV) && seen.flags.has(Flags::TAGGED));
    // What came as asked says nothing.
    b.recv(RecvFrom::any(), 5).unwrap();
    world.insist(&[&a], || a.inject(SendTo::peer(to_b).immediate(8), b"fine"));
    let mut fine = None;
    world.until("it is there", &[&a], || {
        fine = b.completion(world.now());
        fine.is_some()
    });
    let fine = fine.unwrap();
    assert!(fine.failure().is_none() && capacity > 4);
    assert!(fine.flags().has(Flags::RECV) && fine.flags().has(Flags::IMMEDIATE));
    // A failure with a number.
    let config = EndpointConfig { contexts_max: 8 };
    let forger = Forger { inner: world.port("c"), forged: RefCell::default() };
    let c = Endpoint::new(forger, world.bump(), &config).unwrap();
    let id = past_injected(|| {
        c.post_recv(RecvFrom::any(), world.pool().lend().unwrap(), 6).map_err(|r| r.error)
    });
    let forged = Cqe::without_message(id.unwrap(), Status::Corrupt).with_code(0xBAD_C0DE);
    c.provider().forged.borrow_mut().push(forged);
    assert!(c.turn(world.now(), Budget::DEFAULT).is_busy());
    let completion = c.poll().unwrap();
    assert_eq!((completion.kind, completion.status), (Kind::RecvEnded, Status::Corrupt));
    assert_eq!(completion.loan.as_ref().unwrap().len(), 0, "no byte has come");
    assert_eq!(completion.failure().unwrap().code, 0xBAD_C0DE);
    assert!(completion.failure().unwrap().to_string().ends_with("195936478)"));
    assert_eq!(c.count(Counted::Receives), Count { done: 0, errors: 1 });
}

/// No provider is asked for the tag of a send: the endpoint knows it, whatever was in the same row of its table before.
pub fn a_failed_send_says_its_tag<R: Rig>(world: &World<'_, R>) {
    let forger = Forger { inner: world.port("c"), forged: RefCell::default() };
    let config = EndpointConfig { contexts_max: 1 };
    let c = Endpoint::new(forger, world.bump(), &config).unwrap();
    let d = world.node("d");
    let peer = c.connect(d.name()).unwrap();
    let turn = || {
        let _busy = c.turn(world.now(), Budget::DEFAULT).is_busy();
        world.turn(&[&d]);
    };
    for (context, tag) in [(1, Some(5)), (2, None), (3, Some(0)), (4, Some(u64::from(u32::MAX)))] {
        let to = tag.map_or(SendTo::peer(peer), |tag| SendTo::peer(peer).tag(tag));
        let mut posted = Err(PostError::Retry(Retry::NotConnected));
        for _ in 0..TURNS_MAX {
            if R::has_met(&c.provider().inner, peer) {
                let loan = world.pool().lend().unwrap();
                posted = c.post_send(to, loan, context).map_err(|refused| refused.error);
            }
            if !matches!(posted, Err(PostError::Retry(_))) {
                break;
            }
            turn();
        }
        let id = posted.unwrap();
        // As a provider says it that has no room for tags, or for that of another.
        let said = Cqe { tag: Some(77), ..Cqe::without_message(id, Status::PeerGone).with_code(7) };
        c.provider().forged.borrow_mut().push(said);
        let stale = c.totals().stale_ids;
        let mut over = None;
        while over.is_none() {
            turn();
            over = c.poll();
        }
        let failure = over.as_ref().unwrap().failure().unwrap();
        assert_eq!((failure.id, failure.context, failure.code), (id, context, 7));
        assert_eq!(failure.tag, tag);
        assert!(failure.flags.has(Flags::SEND));
        assert_eq!(c.count(Counted::Sends), Count { done: 0, errors: context });
        assert_eq!(failure.flags.has(Flags::TAGGED), tag.is_some());
        // Its buffer is kept until the true one has come.
        for _ in 0..TURNS_MAX {
            if c.totals().stale_ids > stale {
                break;
            }
            turn();
            assert!(c.poll().is_none());
        }
        assert!(c.totals().stale_ids > stale, "it was sent");
        drop(over);
        assert_eq!(c.poll_event(), Some(Event::StaleCompletion(id)));
    }
}

/// Counters count what has ended, each operation once, well or otherwise.
pub fn counters_count_what_ended<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let (mut sent, mut failed) = (0_u64, 0);
    for round in 0..20_u64 {
        let tag = Some(round).filter(|_| a.info().caps.has(Caps::TAGGED));
        let to = tag.map_or(SendTo::peer(to_b), |tag| SendTo::peer(to_b).tag(tag));
        let from = tag.map_or(RecvFrom::any(), |tag| RecvFrom::any().tag_ignoring(tag, u64::MAX));
        b.recv(from, round).unwrap();
        world.insist(&[&a, &b], || a.send(to, b"m", round));
        world.until("it is sent", &[&a, &b], || a.inbox_len() > 0);
        let over = a.take().unwrap();
        let is_sent = over.status == Status::Success;
        assert_eq!(over.tag, tag.filter(|_| !is_sent), "what failed says its tag");
        *(if is_sent { &mut sent } else { &mut failed }) += 1;
        assert_eq!(a.count(Counted::Sends), Count { done: sent, errors: failed });
    }
    world.until("all that were sent are there", &[&a, &b], || {
        b.count(Counted::Receives) == Count { done: sent, errors: 0 }
    });
    let waiting = core::iter::from_fn(|| b.take()).count();
    assert_eq!(u64::try_from(waiting).unwrap(), sent);
    let left = b.posted_count();
    assert_eq!(u64::from(left), failed, "a send that failed used no receive");
    let id = b.recv(RecvFrom::any(), 99).unwrap();
    b.cancel(id).unwrap();
    world.until("it is over", &[&b], || b.take().is_some_and(|got| got.context == 99));
    assert_eq!(b.count(Counted::Receives), Count { done: sent, errors: 1 });
    assert_eq!(b.count(Counted::OneSided), Count::default());
    assert_eq!((a.totals().errors, a.totals().sends_ended), (failed, sent + failed));
}
