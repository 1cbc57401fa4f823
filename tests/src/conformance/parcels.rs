//! Buffers of a pool as messages. Where a provider has none of that, the guard comes back, and that is all there is to check.

use spinwire_dataplane::error::{Misuse, PostError, Refused, Retry};
use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::{Kind, Lender, Parcel, RecvFrom, SendTo};
use spinwire_dataplane::pool::{Guard, Mode, NoHost, Pool, PoolError, PoolGeometry};
use spinwire_dataplane::provider::{Caps, Provider, Status};

use super::{Node, Rig, TURNS_MAX, World};
use crate::pool::Rig as Pools;
use crate::rng::pattern;

/// Buffers of the pools here.
const BUFFERS: u32 = 96;
/// Bytes of each: more than any message may have.
const BYTES: usize = 16 << 10;

type Handle = Pool<'static, NoHost>;

/// A pool for two, and what the first sends with.
struct Ground<'m> {
    pools: Pools,
    a: &'static Handle,
    b: &'static Handle,
    lender: Lender<'static, 'm, NoHost>,
}

impl<'m> Ground<'m> {
    fn new<R: Rig>(world: &World<'m, R>) -> Self {
        let bytes = u64::try_from(BYTES).unwrap();
        let pools = Pools::new(PoolGeometry::new(4).class(bytes, BUFFERS));
        let (a, b) = (pools.process(1), pools.process(2));
        Self { pools, a, b, lender: Lender::place(a, world.bump(), BUFFERS).unwrap() }
    }

    fn in_use(&self) -> u32 {
        self.pools.segment.stats().map(|class| class.slots - class.free).sum()
    }

    /// A buffer with a pattern in it.
    fn filled(&self, number: u64) -> Guard<'static, spinwire_dataplane::pool::Exclusive, NoHost> {
        let mut guard = self.a.acquire(BYTES).unwrap();
        guard.copy_from(0, &pattern(number, BYTES)).unwrap();
        guard
    }

    /// Turns the nodes and collects until nothing is under way and all buffers are free.
    fn until_free<R: Rig>(&self, world: &World<'m, R>, a: &Node<'m, R>, nodes: &[&Node<'m, R>]) {
        world.until("all buffers are free", nodes, || {
            self.lender.collect(a);
            self.in_use() == 0
        });
        assert_eq!(self.lender.under_way(), 0);
    }
}

fn has_parcels<R: Rig>(node: &Node<'_, R>) -> bool {
    node.info().caps.has(Caps::PARCEL)
}

fn contents<M: Mode>(guard: &Guard<'_, M, NoHost>) -> Vec<u8> {
    let mut bytes = vec![0; guard.len()];
    guard.copy_to(0, &mut bytes).unwrap();
    bytes
}

/// Sends, and tries again where it is refused for the moment.
fn lend<'m, R: Rig, M: Mode>(
    world: &World<'m, R>,
    (from, lender): (&Node<'m, R>, &Lender<'static, 'm, NoHost>),
    to: SendTo,
    mut guard: Guard<'static, M, NoHost>,
    nodes: &[&Node<'m, R>],
) {
    for _ in 0..TURNS_MAX {
        match from.send_loan(lender, to, guard) {
            Ok(()) => return,
            Err(Refused { error: PostError::Retry(_), item }) => guard = item,
            Err(Refused { error, .. }) => panic!("refused: {error}"),
        }
        world.turn(nodes);
    }
    panic!("still refused");
}

fn next_parcel<'m, R: Rig>(
    world: &World<'m, R>,
    at: &Node<'m, R>,
    nodes: &[&Node<'m, R>],
) -> Parcel<'m> {
    let mut found = None;
    world.until("a parcel has come", nodes, || {
        found = found.take().or_else(|| at.take_parcel());
        found.is_some()
    });
    found.unwrap()
}

/// A buffer longer than any message arrives as it is, with tag and immediate data, and without room in the receive.
pub fn a_buffer_goes_uncopied<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, to_a) = world.pair();
    if !has_parcels(&a) {
        return;
    }
    let ground = Ground::new(world);
    for number in 0..200 {
        b.recv(RecvFrom::peer(to_a).tag(7), 5).unwrap();
        let guard = ground.filled(number);
        let id = guard.id();
        let to = SendTo::peer(to_b).tag(7).immediate(number);
        lend(world, (&a, &ground.lender), to, guard, &[&a, &b]);
        let parcel = next_parcel(world, &b, &[&a, &b]);
        let got = b.take().unwrap();
        assert_eq!((got.kind, got.status, got.context), (Kind::Parcel, Status::Success, 5));
        assert_eq!((got.tag, got.immediate, got.source), (Some(7), Some(number), Some(to_a)));
        assert!(got.returned && got.bytes.is_empty());
        assert_eq!(parcel.id(), id, "the very buffer");
        let guard = parcel.take(ground.b).unwrap();
        assert!(contents(&guard) == pattern(number, BYTES));
        assert_eq!(ground.in_use(), 1);
        drop(guard);
        ground.until_free(world, &a, &[&a, &b]);
    }
}

/// Where the provider cannot, the guard comes back as it was.
pub fn without_parcels_the_guard_comes_back<R: Rig>(world: &World<'_, R>) {
    let (a, _b, to_b, _) = world.pair();
    let ground = Ground::new(world);
    let guard = ground.filled(1);
    if has_parcels(&a) {
        // Nor does a guard of another handle go.
        let other = ground.b.acquire(8).unwrap();
        let refused = a.send_loan(&ground.lender, SendTo::peer(to_b), other).unwrap_err();
        assert_eq!(refused.error, PostError::Misuse(Misuse::Unsupported));
        return;
    }
    let refused = a.send_loan(&ground.lender, SendTo::peer(to_b), guard).unwrap_err();
    assert_eq!(refused.error, PostError::Misuse(Misuse::Unsupported));
    let mut guard = refused.item;
    guard.copy_from(0, b"still mine").unwrap();
    drop(guard);
    assert_eq!(ground.in_use(), 0);
}

/// Parcels and messages of one tag come in the order in which they were sent; each tag by itself.
pub fn parcels_match_like_messages<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    if !has_parcels(&a) {
        return;
    }
    let ground = Ground::new(world);
    let nodes = [&a, &b];
    for round in 0..20 {
        for context in 0..3 {
            b.recv(RecvFrom::any().tag(1), context).unwrap();
        }
        b.recv(RecvFrom::any().tag(2), 9).unwrap();
        let tagged = |tag| SendTo::peer(to_b).tag(tag);
        world.insist(&nodes, || a.inject(tagged(1), b"first"));
        lend(world, (&a, &ground.lender), tagged(2), ground.filled(round), &nodes);
        lend(world, (&a, &ground.lender), tagged(1), ground.filled(round + 1000), &nodes);
        world.insist(&nodes, || a.inject(tagged(1), b"last"));
        world.until("all are there", &nodes, || b.inbox_len() == 4);
        let mut seen: Vec<_> = core::iter::from_fn(|| b.take())
            .map(|got| (got.context, got.kind, got.bytes))
            .collect();
        seen.sort_by_key(|(context, ..)| *context);
        let expected = [
            (0, Kind::Received, b"first".to_vec()),
            (1, Kind::Parcel, vec![]),
            (2, Kind::Received, b"last".to_vec()),
            (9, Kind::Parcel, vec![]),
        ];
        assert_eq!(seen, expected);
        while b.take_parcel().is_some() {}
        ground.until_free(world, &a, &nodes);
    }
}

/// A parcel waits in the unexpected queue, or in its lane, like any message.
pub fn parcels_wait_for_receives<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, to_a) = world.pair();
    if !has_parcels(&a) {
        return;
    }
    let ground = Ground::new(world);
    let nodes = [&a, &b];
    let count = u64::from(world.sizes().unexpected_depth) + 3;
    for number in 0..count {
        let to = SendTo::peer(to_b).immediate(number);
        lend(world, (&a, &ground.lender), to, ground.filled(number), &nodes);
    }
    world.turns(60, &nodes);
    ground.lender.collect(&a);
    assert_eq!(u64::from(ground.in_use()), count, "all wait");
    let waiting = b.peek(RecvFrom::any()).unwrap();
    assert_eq!((waiting.source, waiting.length), (to_a, 0));
    for number in 0..count {
        b.recv(RecvFrom::any(), number).unwrap();
        let guard = next_parcel(world, &b, &nodes).take(ground.b).unwrap();
        let got = b.take().unwrap();
        assert_eq!((got.context, got.immediate), (number, Some(number)));
        assert!(contents(&guard) == pattern(number, BYTES));
    }
    ground.until_free(world, &a, &nodes);
}

/// Who drops a parcel, or the completion with it, wants nothing: the buffer is free.
pub fn a_parcel_that_nobody_takes_goes_back<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    if !has_parcels(&a) {
        return;
    }
    let ground = Ground::new(world);
    for number in 0..50 {
        b.recv(RecvFrom::any(), 0).unwrap();
        lend(world, (&a, &ground.lender), SendTo::peer(to_b), ground.filled(number), &[&a, &b]);
        let parcel = next_parcel(world, &b, &[&a, &b]);
        world.turns(20, &[&a, &b]);
        assert_eq!(ground.lender.collect(&a), 0, "not before it is dropped");
        drop(parcel);
        assert_eq!(b.take().unwrap().kind, Kind::Parcel);
        ground.until_free(world, &a, &[&a, &b]);
    }
}

/// A receiver that has another pool open is told so, and still has the parcel.
pub fn another_pool_is_foreign<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    if !has_parcels(&a) {
        return;
    }
    let ground = Ground::new(world);
    let identity =
        spinwire_dataplane::shm::Identity { name: super::name("other"), ..crate::pool::identity() };
    let other = Pools::named(PoolGeometry::new(4).class(64, BUFFERS), &identity).process(1);
    let mine = other.acquire(8).unwrap();
    b.recv(RecvFrom::any(), 0).unwrap();
    lend(world, (&a, &ground.lender), SendTo::peer(to_b), ground.filled(1), &[&a, &b]);
    let parcel = next_parcel(world, &b, &[&a, &b]);
    assert!(parcel.is_of(ground.pools.segment) && !parcel.is_of(other.segment()));
    let untaken = parcel.take(other).unwrap_err();
    assert_eq!(untaken.error, PoolError::Foreign);
    assert_eq!(mine.ref_count(), 1, "nothing was done to it");
    let guard = untaken.parcel.take(ground.b).unwrap();
    assert!(contents(&guard) == pattern(1, BYTES));
    drop(guard);
    ground.until_free(world, &a, &[&a, &b]);
}

/// A lender without a free row refuses, and goes on when one is free.
pub fn a_lender_is_full<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    if !has_parcels(&a) {
        return;
    }
    let ground = Ground::new(world);
    let lender = Lender::place(ground.a, world.bump(), 2).unwrap();
    for number in 0..2 {
        lend(world, (&a, &lender), SendTo::peer(to_b), ground.filled(number), &[&a, &b]);
    }
    let refused = a.send_loan(&lender, SendTo::peer(to_b), ground.filled(3)).unwrap_err();
    assert_eq!(refused.error, PostError::Retry(Retry::NoSlot));
    assert!(contents(&refused.item) == pattern(3, BYTES));
    b.recv(RecvFrom::any(), 0).unwrap();
    drop(next_parcel(world, &b, &[&a, &b]));
    lend(world, (&a, &lender), SendTo::peer(to_b), refused.item, &[&a, &b]);
    assert_eq!(lender.under_way(), 2);
    drop(lender);
    ground.until_free(world, &a, &[&a, &b]);
}

/// Up to 64 are under way to one peer; more are refused until some are settled, in any order.
pub fn a_lane_carries_sixty_four<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    if !has_parcels(&a) {
        return;
    }
    let ground = Ground::new(world);
    let mut held = Vec::new();
    for number in 0..64 {
        b.recv(RecvFrom::any(), 0).unwrap();
        lend(world, (&a, &ground.lender), SendTo::peer(to_b), ground.filled(number), &[&a, &b]);
        held.push(next_parcel(world, &b, &[&a, &b]));
    }
    let mut guard = Some(ground.filled(64));
    for _ in 0..200 {
        let refused = a.send_loan(&ground.lender, SendTo::peer(to_b), guard.take().unwrap());
        guard = Some(refused.unwrap_err().item);
        world.turn(&[&a, &b]);
    }
    let mut rng = crate::rng::Rng::new(64);
    b.recv(RecvFrom::any(), 0).unwrap();
    drop(held.swap_remove(17));
    lend(world, (&a, &ground.lender), SendTo::peer(to_b), guard.unwrap(), &[&a, &b]);
    held.push(next_parcel(world, &b, &[&a, &b]));
    for left in (0..64).rev() {
        let at = rng.index(held.len());
        drop(held.swap_remove(at));
        world.until("one less", &[&a, &b], || {
            ground.lender.collect(&a);
            ground.in_use() == left
        });
    }
    assert_eq!(ground.lender.under_way(), 0);
}

/// A receiver that has the last reference may become the writer, and sends the buffer back.
pub fn the_last_reference_may_write<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, to_a) = world.pair();
    if !has_parcels(&a) {
        return;
    }
    let ground = Ground::new(world);
    let back = Lender::place(ground.b, world.bump(), 4).unwrap();
    let nodes = [&a, &b];
    b.recv(RecvFrom::any(), 0).unwrap();
    lend(world, (&a, &ground.lender), SendTo::peer(to_b), ground.filled(1), &nodes);
    let guard = next_parcel(world, &b, &nodes).take(ground.b).unwrap();
    let kept = guard.try_exclusive().unwrap_err();
    assert_eq!(kept.error, PoolError::Busy, "the sender has not let go");
    world.until("it has", &nodes, || ground.lender.collect(&a) == 1);
    let mut guard = kept.guard.try_exclusive().unwrap();
    guard.copy_from(0, b"answer").unwrap();
    a.recv(RecvFrom::any(), 0).unwrap();
    lend(world, (&b, &back), SendTo::peer(to_a), guard, &nodes);
    let guard = next_parcel(world, &a, &nodes).take(ground.a).unwrap();
    assert!(contents(&guard).starts_with(b"answer"));
    drop(guard);
    world.until("all is free", &nodes, || {
        back.collect(&b);
        ground.in_use() == 0
    });
}

/// A receiver is killed with parcels in its lane, in its unexpected queue, in a completion, and taken: all come back.
pub fn a_dead_receiver_keeps_nothing<R: Rig>(world: &World<'_, R>) {
    for stage in 0..4 {
        let nodes = [world.node("a"), world.node("b")];
        let [a, b] = &nodes;
        if !has_parcels(a) {
            return;
        }
        let (to_b, _) = world.introduce(a, b);
        let ground = Ground::new(world);
        for number in 0..4 {
            lend(world, (a, &ground.lender), SendTo::peer(to_b), ground.filled(number), &[a]);
        }
        world.turns(30, &[a]);
        if stage > 0 {
            world.turns(30, &[b]);
        }
        let mut taken = Vec::new();
        if stage > 1 {
            b.recv(RecvFrom::any(), 0).unwrap();
            b.recv(RecvFrom::any(), 0).unwrap();
            world.until("two are there", &[a, b], || b.inbox_len() == 2);
        }
        if stage > 2 {
            taken.push(b.take_parcel().unwrap().take(ground.b).unwrap());
            world.turn(&[b]);
        }
        let [a, b] = nodes;
        core::mem::forget(taken);
        world.kill(b);
        assert!(ground.pools.mark_dead(ground.b.lease()));
        // By two survivors, one after the other, the second of which finds nothing.
        assert!(ground.pools.reclaim(ground.b.lease()).is_some());
        assert_eq!(ground.pools.reclaim(ground.b.lease()), None);
        ground.until_free(world, &a, &[&a]);
        let guard = ground.filled(9);
        let refused = a.send_loan(&ground.lender, SendTo::peer(to_b), guard).unwrap_err();
        assert!(!matches!(refused.error, PostError::Retry(Retry::NoSlot)), "{}", refused.error);
        drop(refused);
        assert_eq!(ground.in_use(), 0);
        drop(a);
    }
}

/// A sender is killed: what was not taken is stale, what was taken stays, and nothing is lost.
pub fn a_dead_sender_keeps_nothing<R: Rig>(world: &World<'_, R>) {
    for published in [false, true] {
        let nodes = [world.node("a"), world.node("b")];
        let [a, b] = &nodes;
        if !has_parcels(a) {
            return;
        }
        let (to_b, _) = world.introduce(a, b);
        let ground = Ground::new(world);
        for _ in 0..4 {
            b.recv(RecvFrom::any(), 0).unwrap();
        }
        for number in 0..2 {
            lend(world, (a, &ground.lender), SendTo::peer(to_b), ground.filled(number), &[a]);
        }
        let guard = next_parcel(world, b, &[a, b]).take(ground.b).unwrap();
        let untaken = next_parcel(world, b, &[a, b]);
        lend(world, (a, &ground.lender), SendTo::peer(to_b), ground.filled(2), &[a]);
        if published {
            world.turns(30, &[a]);
        }
        let written = ground.filled(3);
        let [a, b] = nodes;
        let Ground { pools, a: pool_a, b: pool_b, lender } = ground;
        core::mem::forget((lender, written));
        world.kill(a);
        assert!(pools.mark_dead(pool_a.lease()));
        assert!(pools.reclaim(pool_a.lease()).is_some());
        world.turns(300, &[&b]);
        assert_eq!(untaken.take(pool_b).unwrap_err().error, PoolError::Stale);
        if let Some(late) = b.take_parcel() {
            assert_eq!(late.take(pool_b).unwrap_err().error, PoolError::Stale);
        }
        let guard_holds = contents(&guard) == pattern(0, BYTES);
        assert!(guard_holds);
        let in_use = || pools.segment.stats().map(|class| class.slots - class.free).sum::<u32>();
        assert_eq!(in_use(), 1, "what the receiver has taken");
        drop(guard);
        assert_eq!(in_use(), 0);
        drop(b);
    }
}

/// A lender that is dropped lets go of what is under way; numbers that are settled afterwards harm nobody.
pub fn a_lender_that_goes_lets_go<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    if !has_parcels(&a) {
        return;
    }
    let ground = Ground::new(world);
    for round in 0..80 {
        let lender = Lender::place(ground.a, world.bump(), 4).unwrap();
        b.recv(RecvFrom::any(), 0).unwrap();
        lend(world, (&a, &lender), SendTo::peer(to_b), ground.filled(round), &[&a, &b]);
        let parcel = next_parcel(world, &b, &[&a, &b]);
        drop(lender);
        assert_eq!(ground.in_use(), 0);
        assert_eq!(parcel.take(ground.b).unwrap_err().error, PoolError::Stale);
        world.turn(&[&a, &b]);
    }
}

/// Either end disconnects with parcels under way.
pub fn disconnecting_gives_back<R: Rig>(world: &World<'_, R>) {
    for receiver_does in [false, true] {
        let nodes = [world.node("a"), world.node("b")];
        let [a, b] = &nodes;
        if !has_parcels(a) {
            return;
        }
        let (to_b, to_a): (Addr, Addr) = world.introduce(a, b);
        let ground = Ground::new(world);
        b.recv(RecvFrom::any(), 0).unwrap();
        for number in 0..3 {
            lend(world, (a, &ground.lender), SendTo::peer(to_b), ground.filled(number), &[a, b]);
        }
        let parcel = next_parcel(world, b, &[a, b]);
        let done = if receiver_does { b.disconnect(to_a) } else { a.disconnect(to_b) };
        done.unwrap();
        world.turns(200, &[a, b]);
        let _events = (a.events(), b.events());
        ground.until_free(world, a, &[a, b]);
        assert_eq!(parcel.take(ground.b).unwrap_err().error, PoolError::Stale);
        world.turns(5, &[a, b]);
    }
}

/// What somebody left waiting comes after the parcels of its successor in the address table, whose buffers go back all the same.
pub fn what_the_gone_have_left_keeps_none_of_the_living<R: Rig>(world: &World<'_, R>) {
    let [a, b] = ["a", "b"].map(|text| world.node(text));
    if !has_parcels(&a) {
        return;
    }
    let (ground, nodes) = (Ground::new(world), [&a, &b]);
    for round in 0..5 {
        let (to_b, to_a) = world.introduce(&a, &b);
        lend(world, (&a, &ground.lender), SendTo::peer(to_b).tag(1), ground.filled(round), &nodes);
        world.turns(30, &nodes);
        a.disconnect(to_b).unwrap();
        world.turns(200, &nodes);
        let _ends = (a.events(), b.events());
        let (to_b, back) = world.introduce(&a, &b);
        lend(world, (&a, &ground.lender), SendTo::peer(to_b).tag(2), ground.filled(round), &nodes);
        b.recv(RecvFrom::any().tag(2), 2).unwrap();
        let living = next_parcel(world, &b, &nodes);
        assert_eq!(b.take().unwrap().source, Some(back));
        b.recv(RecvFrom::any().tag(1), 1).unwrap();
        let left = next_parcel(world, &b, &nodes);
        assert_eq!(b.take().unwrap().source, Some(to_a));
        if round % 2 == 0 {
            drop((living, left));
        } else {
            drop((left, living));
        }
        ground.until_free(world, &a, &nodes);
        a.disconnect(to_b).unwrap();
        world.turns(200, &nodes);
        let _ends = (a.events(), b.events());
    }
}

/// A parcel takes no room in a buffer for many, and leaves it posted.
pub fn parcels_fill_no_buffer<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    if !has_parcels(&a) {
        return;
    }
    let ground = Ground::new(world);
    let nodes = [&a, &b];
    b.run_recv(RecvFrom::any(), 64, 3).unwrap();
    for number in 0..40 {
        lend(world, (&a, &ground.lender), SendTo::peer(to_b), ground.filled(number), &nodes);
        let guard = next_parcel(world, &b, &nodes).take(ground.b).unwrap();
        assert!(contents(&guard) == pattern(number, BYTES));
        let got = b.take().unwrap();
        assert_eq!((got.kind, got.context, got.returned), (Kind::Parcel, 3, false));
    }
    world.insist(&nodes, || a.inject(SendTo::peer(to_b), b"a message"));
    world.until("it is there", &nodes, || b.inbox_len() > 0);
    let got = b.take().unwrap();
    assert_eq!((got.kind, got.offset, got.bytes), (Kind::Received, 0, b"a message".to_vec()));
    ground.until_free(world, &a, &nodes);
    assert!(b.provider().info().caps.has(Caps::PARCEL));
}
