//! One-sided operations: on memory that a peer has exposed, checked by its owner's provider, seen by nobody but the initiator. Where a
//! provider has none, that each of them is refused.

use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::id::{Addr, WrId};
use spinwire_dataplane::msg::{Counted, Exposed, Kind, RecvFrom, SendTo, Target};
use spinwire_dataplane::provider::{
    Access, CancelError, Caps, EndpointType, Event, OneSided, RemotePlace, RemoteRegion, Status,
};

use super::node::{Got, Node};
use super::peers::next_end;
use super::rig::Rig;
use super::world::World;
use crate::rng::pattern;

/// Bytes that the cases look at, at the beginning of what is exposed.
pub(super) const BYTES: usize = 256;

/// Whether there are one-sided operations at all, in a world of nodes of that rig.
fn has_one_sided<R: Rig>(world: &World<'_, R>) -> bool {
    let port = world.port("probe");
    let caps = spinwire_dataplane::provider::Provider::info(&port).caps;
    let (all, rma) = (Caps::RMA.with(Caps::ATOMIC).with(Caps::EXPOSE), caps.has(Caps::RMA));
    assert_eq!(rma, caps.has(all), "the cases are for providers that have all or none");
    assert!(!rma || world.endpoint_type() != EndpointType::Dgram, "packets have no memory");
    rma
}

/// Two nodes, the second of which exposes zeros: with the first one's address of it.
pub(super) struct Scene<'m, R: Rig> {
    a: Node<'m, R>,
    pub(super) b: Node<'m, R>,
    to_b: Addr,
    exposed: Exposed,
}

impl<'m, R: Rig> Scene<'m, R> {
    /// `None` where the provider has no such thing.
    pub(super) fn new(world: &World<'m, R>, access: Access) -> Option<Self> {
        if !has_one_sided(world) {
            return None;
        }
        let (a, b, to_b, _) = world.pair();
        let exposed = b.expose(&vec![0; BYTES], access).unwrap();
        Some(Self { a, b, to_b, exposed })
    }

    const fn region(&self) -> RemoteRegion {
        self.exposed.region
    }

    fn place(&self, offset: u64, length: usize) -> RemotePlace {
        self.region().place(offset, length).unwrap()
    }

    /// What is in the memory now.
    fn memory(&self) -> Vec<u8> {
        let mut bytes = vec![0xEE; BYTES];
        self.b.copy_exposed(self.exposed.id, 0, &mut bytes).unwrap();
        for (at, word) in (0..BYTES).step_by(8).zip(bytes.chunks_exact(8)) {
            let loaded = self.b.load_exposed(self.exposed.id, at).unwrap();
            assert_eq!(u64::from_le(loaded).to_le_bytes(), word, "at {at}");
        }
        bytes
    }

    /// Posts, and turns both until it is over.
    pub(super) fn done(
        &self,
        world: &World<'m, R>,
        op: OneSided,
        place: RemotePlace,
        local: Local<'_>,
    ) -> Got {
        let target = Target::new(self.to_b, place);
        let nodes = [&self.a, &self.b];
        let id = world.insist(&nodes, || self.a.one_sided(op, target, local, 7));
        world.until("it is over", &nodes, || self.a.inbox_len() > 0);
        let got = self.a.take().unwrap();
        assert_eq!((got.id, got.context, got.returned, got.source), (id, 7, true, None));
        assert_eq!(
            self.a.inbox_len() + self.b.inbox_len(),
            0,
            "one completion, and the owner hears nothing"
        );
        got
    }
}

/// What a one-sided operation does with its local range.
#[derive(Clone, Copy, Debug)]
pub enum Local<'a> {
    /// Writes these bytes.
    Bytes(&'a [u8]),
    /// Reads as many.
    Length(usize),
}

const ATOMIC: Local<'_> = Local::Length(8);

/// Bytes of every size go there and come back, at every offset, and nothing beside them changes.
pub fn writes_and_reads_arrive<R: Rig>(world: &World<'_, R>) {
    let Some(scene) = Scene::new(world, Access::READ.with(Access::WRITE)) else { return };
    let free = world.pool().free_count();
    let mut expected = vec![0; BYTES];
    for (round, (offset, length)) in
        [(0, 1), (0, 8), (3, 7), (8, 64), (63, 130), (255, 1), (0, 256)].into_iter().enumerate()
    {
        let bytes = pattern(round.try_into().unwrap(), length);
        let place = scene.place(offset.try_into().unwrap(), length);
        let got = scene.done(world, OneSided::Write, place, Local::Bytes(&bytes));
        assert_eq!((got.kind, got.status, got.length), (Kind::Written, Status::Success, length));
        assert_eq!(got.bytes, bytes, "the loan is as it was");
        expected[offset..offset + length].copy_from_slice(&bytes);
        assert_eq!(scene.memory(), expected);
        let got = scene.done(world, OneSided::Read, place, Local::Length(length));
        assert_eq!((got.kind, got.status, got.length), (Kind::Read, Status::Success, length));
        assert_eq!(got.bytes, bytes);
    }
    scene.b.fill_exposed(scene.exposed.id, 16, b"from its owner").unwrap();
    let got = scene.done(world, OneSided::Read, scene.place(16, 14), Local::Length(14));
    assert_eq!(got.bytes, b"from its owner");
    let longest = world.message_bytes_max();
    let bytes = pattern(9, longest);
    let got = scene.done(world, OneSided::Write, scene.place(0, longest), Local::Bytes(&bytes));
    assert_eq!((got.status, got.length), (Status::Success, longest));
    assert_eq!(world.pool().free_count(), free);
}

/// Atomics bring what was there, and change it once, whoever else does the same.
pub fn atomics_bring_what_was_there<R: Rig>(world: &World<'_, R>) {
    let Some(scene) = Scene::new(world, Access::ATOMIC) else { return };
    let place = scene.place(8, 8);
    let mut value = 0_u64;
    let expect = |op: OneSided, before: u64| {
        let got = scene.done(world, op, place, ATOMIC);
        assert_eq!((got.kind, got.status, got.length), (Kind::Atomic, Status::Success, 8));
        assert_eq!(got.bytes, before.to_le_bytes());
        op.applied_to(before)
    };
    for op in [
        OneSided::FetchAdd(5),
        OneSided::FetchAdd(u64::MAX),
        OneSided::CompareSwap { expected: 4, swap: 1 << 40 },
        OneSided::CompareSwap { expected: 4, swap: 9 },
        OneSided::FetchAdd(1),
    ] {
        value = expect(op, value);
    }
    assert_eq!(value, (1 << 40) + 1);
    let mut memory = vec![0; BYTES];
    memory[8..16].copy_from_slice(&value.to_le_bytes());
    assert_eq!(scene.memory(), memory);
}

/// Many at once from two sides: each number comes before exactly one of them.
pub fn atomics_of_many_meet_once<R: Rig>(world: &World<'_, R>) {
    if world.is_msg() {
        return;
    }
    let Some(scene) = Scene::new(world, Access::ATOMIC) else { return };
    let c = world.node("c");
    let (c_to_b, _) = world.introduce(&c, &scene.b);
    let nodes = [&scene.a, &scene.b, &c];
    let mut before = Vec::new();
    let take = |before: &mut Vec<u64>| {
        for node in [&scene.a, &c] {
            before.extend(core::iter::from_fn(|| node.take()).map(|got| {
                assert_eq!((got.kind, got.status), (Kind::Atomic, Status::Success));
                u64::from_le_bytes(got.bytes.try_into().unwrap())
            }));
        }
    };
    for round in 0..60_u64 {
        let (node, to) = if round % 3 == 0 { (&c, c_to_b) } else { (&scene.a, scene.to_b) };
        let target = Target::new(to, scene.place(0, 8));
        world.insist(&nodes, || node.one_sided(OneSided::FetchAdd(1), target, ATOMIC, round));
        take(&mut before);
    }
    world.until("all are over", &nodes, || {
        take(&mut before);
        before.len() == 60
    });
    before.sort_unstable();
    assert_eq!(before, (0..60).collect::<Vec<u64>>());
}

/// Wrong ranges, rights and keys end with `RemoteAccess`, and touch nothing on either side.
pub fn ranges_rights_and_keys_are_checked<R: Rig>(world: &World<'_, R>) {
    if R::REFUSALS_END {
        return each_refusal_ends(world);
    }
    let Some(scene) = Scene::new(world, Access::READ) else { return };
    let refused = |op: OneSided, place: RemotePlace, local: Local<'_>| {
        let got = scene.done(world, op, place, local);
        assert_eq!((got.status, got.length), (Status::RemoteAccess, 0), "{op:?} {place:?}");
        if let Local::Bytes(bytes) = local {
            assert_eq!(got.bytes, bytes, "what was not written comes back");
        }
        assert_eq!(scene.memory(), vec![0; BYTES], "{op:?} {place:?}");
    };
    let first = scene.place(0, 8);
    // It may be read only.
    refused(OneSided::Write, first, Local::Bytes(b"x"));
    refused(OneSided::FetchAdd(1), first, ATOMIC);
    let swap = OneSided::CompareSwap { expected: 0, swap: 1 };
    refused(swap, first, ATOMIC);
    // Another may be written and changed only.
    let access = Access::WRITE.with(Access::ATOMIC);
    let other = scene.b.expose(&[1; 16], access).unwrap().region;
    let of_other = |offset| other.place(offset, 8).unwrap();
    refused(OneSided::Read, of_other(0), Local::Length(8));
    for offset in [1, 4, 7] {
        let place = of_other(offset);
        refused(OneSided::FetchAdd(1), place, ATOMIC);
    }
    // Keys that nobody gave out, and the one of another range.
    for key in [0, 1, u64::MAX, first.key ^ 1, first.key ^ (1 << 32), first.key + (1 << 33)] {
        if key != other.key {
            refused(OneSided::Read, RemotePlace { key, ..first }, Local::Length(8));
        }
    }
    refused(OneSided::Write, RemotePlace { key: first.key, ..of_other(0) }, Local::Bytes(b"x"));
    if R::BOUNDS {
        let RemoteRegion { address, key, bytes, .. } = scene.region();
        for (address, length) in [
            (address + bytes, 1),
            (address + bytes - 7, 8),
            (address.wrapping_sub(1), 8),
            (u64::MAX, 1),
            (u64::MAX - 7, 8),
            (0, 8),
        ] {
            refused(OneSided::Read, RemotePlace { address, key }, Local::Length(length));
        }
    }
    let errors = scene.a.count(Counted::OneSided).errors;
    assert!(errors >= 10 && scene.a.count(Counted::OneSided).done == 0);
    // And it still works.
    let got = scene.done(world, OneSided::Read, first, Local::Length(8));
    assert_eq!((got.status, got.bytes), (Status::Success, vec![0; 8]));
}

/// The same where each refusal ends the connection: both ends hear that, and the memory is untouched.
fn each_refusal_ends<R: Rig>(world: &World<'_, R>) {
    let swap = OneSided::CompareSwap { expected: 0, swap: 1 };
    for case in 0..10 {
        let access = if case == 3 { Access::WRITE } else { Access::READ };
        let Some(scene) = Scene::new(world, access) else { return };
        let first = scene.place(0, 8);
        let RemoteRegion { address, key, bytes, .. } = scene.region();
        let write = Local::Bytes(b"x");
        let (op, place, local) = match case {
            // Rights.
            0 => (OneSided::Write, first, write),
            1 => (OneSided::FetchAdd(1), first, ATOMIC),
            2 => (swap, first, ATOMIC),
            3 => (OneSided::Read, first, Local::Length(8)),
            // Keys.
            4 => (OneSided::Read, RemotePlace { key: key ^ 1, ..first }, Local::Length(8)),
            5 => (OneSided::Read, RemotePlace { key: 0, ..first }, Local::Length(8)),
            // Ranges.
            6 => (OneSided::Read, RemotePlace { address: address + bytes, key }, Local::Length(1)),
            7 => (
                OneSided::Read,
                RemotePlace { address: address + bytes - 7, key },
                Local::Length(8),
            ),
            8 => (OneSided::Read, RemotePlace { address: address - 1, key }, Local::Length(8)),
            _ => (OneSided::Read, RemotePlace { address: u64::MAX, key }, Local::Length(1)),
        };
        let got = scene.done(world, op, place, local);
        assert_eq!((got.status, got.length), (Status::RemoteAccess, 0), "{op:?} {place:?}");
        assert_eq!(scene.memory(), vec![0; BYTES], "{op:?} {place:?}");
        let Scene { a, b, to_b, .. } = scene;
        assert_eq!(next_end(world, &a), Event::PeerGone(to_b));
        assert!(matches!(next_end(world, &b), Event::PeerGone(_)));
    }
    let Some(scene) = Scene::new(world, Access::ALL) else { return };
    // What no device does is refused before it costs a connection.
    for key in [u64::MAX, scene.region().key ^ (1 << 32)] {
        let place = RemotePlace { key, ..scene.place(0, 8) };
        let got = scene.done(world, OneSided::Read, place, Local::Length(8));
        assert_eq!((got.status, got.length), (Status::RemoteAccess, 0));
    }
    for offset in [1, 4, 7] {
        let got = scene.done(world, OneSided::FetchAdd(1), scene.place(offset, 8), ATOMIC);
        assert_eq!(got.status, Status::RemoteAccess);
    }
    let got = scene.done(world, OneSided::Read, scene.place(0, 8), Local::Length(8));
    assert_eq!((got.status, got.bytes), (Status::Success, vec![0; 8]));
}

/// A key that was withdrawn opens nothing, also when its place is taken again.
pub fn a_withdrawn_key_is_stale<R: Rig>(world: &World<'_, R>) {
    let Some(scene) = Scene::new(world, Access::ALL) else { return };
    let free = world.pool().free_count();
    let old = scene.place(0, 8);
    scene.done(world, OneSided::Write, old, Local::Bytes(b"bequeath"));
    let loan = match scene.b.withdraw(scene.exposed.id) {
        Ok(loan) => loan,
        Err(CancelError::Unsupported) => return,
        Err(refused) => panic!("{refused}"),
    };
    assert_eq!(&loan[..8], b"bequeath");
    assert_eq!(world.pool().free_count(), free);
    drop(loan);
    assert_eq!(world.pool().free_count(), free + 1);
    let id = scene.exposed.id;
    assert_eq!(scene.b.withdraw(id).unwrap_err(), CancelError::NotPosted);
    assert_eq!(scene.b.copy_exposed(id, 0, &mut [0]), Err(Misuse::StaleOperation));
    assert_eq!(scene.b.fill_exposed(id, 0, &[0]), Err(Misuse::StaleOperation));
    assert_eq!(scene.b.load_exposed(id, 0), Err(Misuse::StaleOperation));
    let got = scene.done(world, OneSided::Read, old, Local::Length(8));
    assert_eq!(got.status, Status::RemoteAccess);
    if R::REFUSALS_END {
        return;
    }
    let anew = scene.b.expose(&[7; BYTES], Access::ALL).unwrap();
    assert_ne!((anew.region.key, anew.id), (old.key, id));
    for op in [OneSided::Write, OneSided::FetchAdd(1)] {
        let local = if op.is_atomic() { ATOMIC } else { Local::Bytes(b"late") };
        assert_eq!(scene.done(world, op, old, local).status, Status::RemoteAccess);
    }
    let mut memory = [0; BYTES];
    scene.b.copy_exposed(anew.id, 0, &mut memory).unwrap();
    assert_eq!(memory, [7; BYTES]);
}

/// What is withdrawn while an operation is under way is touched by it before, or not at all.
pub fn withdrawing_waits_for_nobody<R: Rig>(world: &World<'_, R>) {
    let Some(scene) = Scene::new(world, Access::ALL) else { return };
    let target = Target::new(scene.to_b, scene.place(0, 8));
    let nodes = [&scene.a, &scene.b];
    let write = || scene.a.one_sided(OneSided::Write, target, Local::Bytes(b"too late"), 1);
    world.insist(&nodes, write);
    scene.a.flush();
    let Ok(loan) = scene.b.withdraw(scene.exposed.id) else { return };
    let then = loan[..8].to_vec();
    world.until("it is over", &nodes, || scene.a.inbox_len() > 0);
    let got = scene.a.take().unwrap();
    let whole = if got.status == Status::Success { *b"too late" } else { [0; 8] };
    assert!(matches!(got.status, Status::Success | Status::RemoteAccess), "{got:?}");
    assert_eq!((&loan[..8], &then[..]), (&whole[..], &whole[..]));
}

/// Local ranges that cannot be right are refused before anything is posted.
pub fn local_ranges_are_checked<R: Rig>(world: &World<'_, R>) {
    let Some(scene) = Scene::new(world, Access::ALL) else { return };
    let free = world.pool().free_count();
    let target = Target::new(scene.to_b, scene.place(0, 8));
    let refusal = |op, local| scene.a.one_sided(op, target, local, 1).unwrap_err();
    let bad: PostError = Misuse::BadRange.into();
    assert_eq!(refusal(OneSided::Write, Local::Bytes(b"")), bad);
    assert_eq!(refusal(OneSided::Read, Local::Length(0)), bad);
    assert_eq!(refusal(OneSided::Read, Local::Length(1 << 30)), bad);
    assert_eq!(refusal(OneSided::Read, Local::Length(usize::MAX)), bad);
    let longest = world.message_bytes_max();
    let too_long: PostError = Misuse::TooLong.into();
    assert_eq!(refusal(OneSided::Read, Local::Length(longest + 1)), too_long);
    assert_eq!(refusal(OneSided::Write, Local::Bytes(&vec![0; longest + 1])), too_long);
    let stranger = Addr::new(99, scene.to_b.generation());
    let nobody = Target::new(stranger, scene.place(0, 8));
    let refused = scene.a.one_sided(OneSided::Read, nobody, Local::Length(8), 1);
    assert_eq!(refused, Err(Misuse::UnknownAddress.into()));
    assert_eq!((scene.a.posted_count(), world.pool().free_count()), (0, free));
    let mut some = [0; 8];
    let id = scene.exposed.id;
    for offset in [usize::MAX, 1 << 20, 4] {
        assert_eq!(scene.b.copy_exposed(id, offset, &mut some), Err(Misuse::BadRange));
        assert_eq!(scene.b.fill_exposed(id, offset, &some), Err(Misuse::BadRange));
        assert_eq!(scene.b.load_exposed(id, offset), Err(Misuse::BadRange));
    }
    assert!(scene.b.load_exposed(id, BYTES - 8).is_ok());
    for offset in [1 << 20, usize::MAX & !7] {
        assert_eq!(scene.b.load_exposed(id, offset), Err(Misuse::BadRange));
    }
    assert_eq!(scene.b.load_exposed(WrId::from_raw(0), 0), Err(Misuse::StaleOperation));
    assert_eq!(scene.b.copy_exposed(WrId::from_raw(0), 0, &mut some), Err(Misuse::StaleOperation));
}

/// Without the capability everything is refused, with the loan, and nothing is posted.
pub fn without_one_sided_the_loan_comes_back<R: Rig>(world: &World<'_, R>) {
    if has_one_sided(world) {
        return;
    }
    let (a, b, to_b, _) = world.pair();
    let free = world.pool().free_count();
    let target = Target::new(to_b, RemotePlace { address: 0, key: 0 });
    let swap = OneSided::CompareSwap { expected: 0, swap: 1 };
    let lacking: PostError = Misuse::Unsupported.into();
    for op in [OneSided::Write, OneSided::Read, OneSided::FetchAdd(1), swap] {
        let local = if op == OneSided::Write { Local::Bytes(b"x") } else { ATOMIC };
        assert_eq!(a.one_sided(op, target, local, 1), Err(lacking));
    }
    assert_eq!(b.expose(&[0; 8], Access::ALL).unwrap_err(), lacking);
    assert!(b.withdraw(WrId::from_raw(0)).is_err());
    assert_eq!((a.posted_count(), b.posted_count()), (0, 0));
    assert_eq!(world.pool().free_count(), free);
    world.turns(5, &[&a, &b]);
    assert_eq!((a.inbox_len(), b.inbox_len()), (0, 0));
}

/// What was written before a message was sent is there when the message is.
pub fn writes_are_there_before_later_messages<R: Rig>(world: &World<'_, R>) {
    let Some(scene) = Scene::new(world, Access::WRITE) else { return };
    let nodes = [&scene.a, &scene.b];
    let target = Target::new(scene.to_b, scene.place(0, 8));
    for round in 1..40_u64 {
        world.insist(&nodes, || scene.b.recv(RecvFrom::any(), round));
        let bytes = round.to_le_bytes();
        let write = || scene.a.one_sided(OneSided::Write, target, Local::Bytes(&bytes), round);
        world.insist(&nodes, write);
        if R::WRITES_COMPLETE_FIRST {
            world.until("it is written", &nodes, || scene.a.take().is_some());
        }
        world.insist(&nodes, || scene.a.inject(SendTo::peer(scene.to_b), b"look"));
        world.until("the message is there", &nodes, || scene.b.take_message().is_some());
        assert_eq!(&scene.memory()[..8], &bytes, "round {round}");
        world.until("it is over", &nodes, || scene.a.posted_count() == 0);
        while scene.a.take().is_some() {}
    }
}

/// As many as there is room for end once each; refused ones not at all.
pub fn a_flood_ends_once_each<R: Rig>(world: &World<'_, R>) {
    let Some(scene) = Scene::new(world, Access::ALL) else { return };
    let free = world.pool().free_count();
    let nodes = [&scene.a, &scene.b];
    for _ in 0..3 {
        let (mut posted, mut refused) = (0, 0);
        while refused < 10 {
            let target = Target::new(scene.to_b, scene.place(posted % 32 * 8, 8));
            match scene.a.one_sided(OneSided::FetchAdd(1), target, ATOMIC, posted) {
                Ok(_) => posted += 1,
                Err(PostError::Retry(_)) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert!(posted >= 4, "{posted}");
        let mut over = Vec::new();
        world.until("all are over", &nodes, || {
            over.extend(core::iter::from_fn(|| scene.a.take()).map(|got| got.context));
            scene.a.posted_count() == 0
        });
        over.sort_unstable();
        assert_eq!(over, (0..posted).collect::<Vec<u64>>());
        assert_eq!(world.pool().free_count(), free);
    }
}

/// Operations on the memory of one who dies or goes end, one way or the other, and later ones are refused.
pub fn the_gone_let_nobody_in<R: Rig>(world: &World<'_, R>) {
    for kills in [true, false] {
        let Some(scene) = Scene::new(world, Access::ALL) else { return };
        let Scene { a, b, to_b, exposed } = scene;
        let target = Target::new(to_b, exposed.region.place(0, 8).unwrap());
        for context in 0..3 {
            world.insist(&[&a, &b], || {
                a.one_sided(OneSided::Read, target, Local::Length(8), context)
            });
            a.flush();
        }
        if kills {
            world.kill(b);
        } else {
            drop(b);
        }
        world.until("all are over", &[&a], || a.inbox_len() == 3);
        for context in 0..3 {
            let got = a.take().unwrap();
            assert_eq!((got.context, got.kind, got.returned), (context, Kind::Read, true));
            assert!(matches!(got.status, Status::PeerGone | Status::Success), "{got:?}");
        }
        world.until("it is refused", &[&a], || {
            let refused = a.one_sided(OneSided::Read, target, Local::Length(8), 9).is_err();
            while a.take().is_some() {}
            refused && a.posted_count() == 0
        });
        drop(a);
    }
    assert_eq!(R::leftovers(world.ground()), "");
}

/// What was asked of an owner that has gone is not done to whoever has its place now.
pub fn nobody_inherits_what_was_asked<R: Rig>(world: &World<'_, R>) {
    let Some(scene) = Scene::new(world, Access::ALL) else { return };
    let target = Target::new(scene.to_b, scene.place(0, 8));
    let write = || scene.a.one_sided(OneSided::Write, target, Local::Bytes(&[7; 8]), 0);
    world.insist(&[&scene.a, &scene.b], write);
    let Scene { a, b, .. } = scene;
    drop(b);
    let heir = world.node("heir");
    let own = heir.expose(&[0; BYTES], Access::ALL).unwrap();
    drop(a);
    world.turns(20, &[&heir]);
    let mut memory = vec![0; BYTES];
    heir.copy_exposed(own.id, 0, &mut memory).unwrap();
    assert!(memory.iter().all(|byte| *byte == 0), "it was not asked of this one");
    drop(heir);
    assert_eq!(R::leftovers(world.ground()), "");
}

/// An initiator that dies or goes leaves nothing behind, answered or not. What a killed one has not published is not done.
pub fn initiators_that_go_leave_nothing<R: Rig>(world: &World<'_, R>) {
    for kills in [true, false] {
        let Some(scene) = Scene::new(world, Access::ALL) else { return };
        let target = Target::new(scene.to_b, scene.place(0, 8));
        for round in 0..3 {
            let add = || scene.a.one_sided(OneSided::FetchAdd(1), target, ATOMIC, 0);
            world.insist(&[&scene.a, &scene.b], add);
            if round == 0 {
                scene.a.flush();
                world.turns(3, &[&scene.b]);
            }
        }
        let Scene { a, b, exposed, .. } = scene;
        if kills {
            world.kill(a);
        } else {
            drop(a);
        }
        world.turns(20, &[&b]);
        let mut memory = [0; 8];
        b.copy_exposed(exposed.id, 0, &mut memory).unwrap();
        let times = u64::from_le_bytes(memory);
        assert!(times <= 3, "{times}");
        if b.info().provider == "loopback" && !R::FAULTS {
            assert_eq!(times, if kills { 1 } else { 3 }, "what is dropped in good order publishes");
        }
        drop(b);
    }
    assert_eq!(R::leftovers(world.ground()), "");
}

/// An endpoint that finds itself fenced has its loans back, and does nothing for others any more.
pub fn a_fenced_endpoint_ends_one_sided<R: Rig>(world: &World<'_, R>) {
    let Some(scene) = Scene::new(world, Access::ALL) else { return };
    if !R::FENCES {
        return;
    }
    let Scene { a, b, to_b, exposed } = scene;
    let target = Target::new(to_b, exposed.region.place(0, 8).unwrap());
    for context in 0..3 {
        world.insist(&[&a, &b], || a.one_sided(OneSided::FetchAdd(1), target, ATOMIC, context));
    }
    R::kill(world.ground(), a.name());
    world.until("all are over", &[&a, &b], || a.inbox_len() == 3);
    assert_eq!(a.posted_count(), 0);
    R::kill(world.ground(), b.name());
    world.turns(5, &[&a, &b]);
    let mut memory = [0; 8];
    b.copy_exposed(exposed.id, 0, &mut memory).unwrap();
    assert!(u64::from_le_bytes(memory) <= 3);
    core::mem::forget((a, b));
}
