//! Receives that take many messages into one buffer.

use spinwire_dataplane::msg::{Kind, RecvFrom, SendTo};
use spinwire_dataplane::provider::Status;
use spinwire_dataplane::raw::loan::LoanPool;

use super::{Got, Node, Rig, World};
use crate::rng::pattern;

/// Posts a buffer of 256 bytes for many messages.
fn post<'m, R: Rig>(
    world: &World<'m, R>,
    b: &Node<'m, R>,
    pool: &'m LoanPool<'m>,
    room_bytes_min: u32,
    context: u64,
) {
    world.insist(&[b], || {
        let loan = pool.lend().expect("a loan");
        b.post_multi_recv(RecvFrom::any(), loan, room_bytes_min, context).map_err(|r| r.error)
    });
}

fn pool<'m, R: Rig>(world: &World<'m, R>) -> &'m LoanPool<'m> {
    LoanPool::place(world.bump(), 4, 256).unwrap()
}

/// Sends messages of these lengths, told apart by their number, and gives all completions of the receiver.
fn exchange<'m, R: Rig>(
    world: &World<'m, R>,
    (a, b, to_b): (&Node<'m, R>, &Node<'m, R>, spinwire_dataplane::id::Addr),
    lengths: &[usize],
) -> Vec<Got> {
    for (number, &length) in (0..).zip(lengths) {
        let to = SendTo::peer(to_b).immediate(number);
        world.insist(&[a, b], || a.inject(to, &pattern(number, length)));
    }
    let mut all = Vec::new();
    world.until("all are there", &[a, b], || {
        all.extend(core::iter::from_fn(|| b.take()));
        all.iter().filter(|got: &&Got| got.kind == Kind::Received).count() == lengths.len()
    });
    for got in all.iter().filter(|got| got.kind == Kind::Received) {
        let number = got.immediate.unwrap();
        let length = lengths[usize::try_from(number).unwrap()];
        if got.status == Status::Success {
            assert_eq!(got.bytes, pattern(number, length));
        }
    }
    all
}

fn places(all: &[Got]) -> Vec<(u64, usize, bool)> {
    all.iter().map(|got| (got.context, got.offset, got.returned)).collect()
}

/// Messages lie one behind the other in steps of 8, and the last brings the buffer back.
pub fn fills_one_buffer_with_many<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let pool = pool(world);
    post(world, &b, pool, 64, 5);
    let all = exchange(world, (&a, &b, to_b), &[10, 64, 1, 50, 60]);
    let expected = [(5, 0, false), (5, 16, false), (5, 80, false), (5, 88, false), (5, 144, true)];
    assert_eq!(places(&all), expected);
    assert_eq!((pool.free_count(), b.posted_count()), (4, 0));
}

/// A buffer that is too full for the next message is given back, and the message goes to the next receive.
pub fn gives_back_what_is_too_full<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let pool = pool(world);
    post(world, &b, pool, 0, 1);
    post(world, &b, pool, 0, 2);
    let all = exchange(world, (&a, &b, to_b), &[100, 100, 57, 48]);
    let expected = [(1, 0, false), (1, 104, false), (1, 0, true), (2, 0, false), (2, 64, false)];
    assert_eq!(places(&all), expected);
    assert_eq!((all[2].kind, all[2].status), (Kind::RecvEnded, Status::Success));
    assert_eq!(b.posted_count(), 1);
}

/// A message that fills the buffer to the last byte gives it back with itself.
pub fn an_exact_fit_gives_back<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let pool = pool(world);
    post(world, &b, pool, 0, 1);
    let all = exchange(world, (&a, &b, to_b), &[200, 56]);
    assert_eq!(places(&all), [(1, 0, false), (1, 200, true)]);
    post(world, &b, pool, 0, 2);
    let all = exchange(world, (&a, &b, to_b), &[256]);
    assert_eq!(places(&all), [(2, 0, true)]);
    // The last 3 bytes are no room for anything in steps of 8.
    post(world, &b, pool, 0, 3);
    let all = exchange(world, (&a, &b, to_b), &[253]);
    assert_eq!(places(&all), [(3, 0, true)]);
    // With a least room of 9 bytes, 8 are not enough; of 8, they are.
    for (room, returned) in [(9, true), (8, false)] {
        post(world, &b, pool, room, 4);
        let all = exchange(world, (&a, &b, to_b), &[248]);
        assert_eq!(places(&all), [(4, 0, returned)]);
    }
}

/// A message longer than a whole fresh buffer is cut off.
pub fn the_first_may_be_too_long<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let pool = pool(world);
    post(world, &b, pool, 64, 1);
    let all = exchange(world, (&a, &b, to_b), &[300]);
    assert_eq!(places(&all), [(1, 0, true)]);
    assert_eq!(all[0].status, Status::Truncated);
    assert_eq!(all[0].bytes, pattern(0, 300)[..256]);
    // In a buffer that is in use it gives that back first.
    post(world, &b, pool, 64, 2);
    post(world, &b, pool, 64, 3);
    let all = exchange(world, (&a, &b, to_b), &[8, 300]);
    assert_eq!(places(&all), [(2, 0, false), (2, 0, true), (3, 0, true)]);
    assert_eq!(all[2].status, Status::Truncated);
}

/// Messages without bytes can go on for ever.
pub fn empty_messages_take_no_room<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let pool = pool(world);
    post(world, &b, pool, 64, 1);
    let all = exchange(world, (&a, &b, to_b), &[0; 100]);
    assert!(places(&all).iter().all(|&place| place == (1, 0, false)));
    let all = exchange(world, (&a, &b, to_b), &[256]);
    assert_eq!(places(&all), [(1, 0, true)]);
}

/// Messages that waited go into it in order, then those that come.
pub fn takes_what_waited<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let pool = pool(world);
    for number in 0..6 {
        let to = SendTo::peer(to_b).immediate(number);
        world.insist(&[&a, &b], || a.inject(to, &pattern(number, 40)));
    }
    world.turns(40, &[&a, &b]);
    post(world, &b, pool, 0, 1);
    post(world, &b, pool, 0, 2);
    for number in 6..9 {
        let to = SendTo::peer(to_b).immediate(number);
        world.insist(&[&a, &b], || a.inject(to, &pattern(number, 40)));
    }
    let mut all = Vec::new();
    world.until("all are there", &[&a, &b], || {
        all.extend(core::iter::from_fn(|| b.take()));
        all.iter().filter(|got: &&Got| got.kind == Kind::Received).count() == 9
    });
    let expected: Vec<(u64, usize, bool)> = (0..6)
        .map(|i| (1, i * 40, false))
        .chain([(1, 0, true)])
        .chain((0..3).map(|i| (2, i * 40, false)))
        .collect();
    assert_eq!(places(&all), expected);
    let numbers: Vec<u64> = all.iter().filter_map(|got| got.immediate).collect();
    assert_eq!(numbers, (0..9).collect::<Vec<u64>>());
    for got in all.iter().filter(|got| got.kind == Kind::Received) {
        assert_eq!(got.bytes, pattern(got.immediate.unwrap(), 40));
    }
}

/// Cancelled half full it comes back, and takes nothing any more.
pub fn can_be_cancelled_half_full<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let pool = pool(world);
    post(world, &b, pool, 64, 1);
    let all = exchange(world, (&a, &b, to_b), &[100]);
    assert_eq!(places(&all), [(1, 0, false)]);
    b.cancel(all[0].id).unwrap();
    world.until("it is back", &[&b], || b.inbox_len() > 0);
    let got = b.take().unwrap();
    assert_eq!((got.id, got.status, got.kind), (all[0].id, Status::Cancelled, Kind::RecvEnded));
    assert!(got.returned);
    assert_eq!(pool.free_count(), 4);
    post(world, &b, pool, 64, 2);
    let all = exchange(world, (&a, &b, to_b), &[100]);
    assert_eq!(places(&all), [(2, 0, false)]);
}

/// Streams into buffers for runs: every message of every run is there, whole and in order, and every buffer comes back.
pub fn runs_keep_every_message<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let pool = pool(world);
    let mut rng = crate::rng::Rng::new(8);
    // Stretches of one kind: length, tagged or not, with immediate data or not.
    let mut stream: Vec<(usize, bool, bool)> = Vec::new();
    while stream.len() < 1500 {
        let kind = (
            [0, 1, 8, 32, 40, 41, 48, 49, 100, 250, 300][rng.index(11)],
            rng.chance(40),
            rng.chance(20),
        );
        stream.extend(vec![kind; rng.between(1, 40)]);
    }
    let number = |at: usize| u64::try_from(at).unwrap();
    // What is still to come, of either kind: they may pass each other.
    let (tagged, untagged): (Vec<usize>, Vec<usize>) =
        (0..stream.len()).partition(|&i| stream[i].1);
    let mut to_come = [untagged, tagged].map(std::collections::VecDeque::from);
    let (mut sent, mut posted) = (0, [0; 2]);
    world.until("all are there", &[&a, &b], || {
        for _ in 0..rng.index(30) {
            let Some(&(length, tagged, immediate)) = stream.get(sent) else { break };
            let mut to = SendTo::peer(to_b);
            if tagged {
                to = to.tag(5);
            }
            if immediate {
                to = to.immediate(number(sent));
            }
            sent += usize::from(a.inject(to, &pattern(number(sent), length)).is_ok());
        }
        for (kind, from) in [RecvFrom::any(), RecvFrom::any().tag(5)].into_iter().enumerate() {
            if posted[kind] < 2 {
                let room = [0, 8, 64, 256][rng.index(4)];
                let loan = pool.lend().unwrap();
                posted[kind] +=
                    usize::from(b.post_run_recv(from, loan, room, number(kind)).is_ok());
            }
        }
        while let Some(got) = b.take() {
            let kind = usize::try_from(got.context).unwrap();
            posted[kind] -= usize::from(got.returned);
            if got.kind == Kind::RecvEnded {
                assert!(got.returned && got.status == Status::Success);
                continue;
            }
            let at = to_come[kind].pop_front().unwrap();
            let (length, tagged, immediate) = stream[at];
            let bytes = pattern(number(at), length);
            assert!(got.bytes == bytes[..length.min(256)], "message {at} of {length}");
            assert_eq!(got.status == Status::Truncated, length > 256);
            assert_eq!(got.tag, tagged.then_some(5));
            assert_eq!(got.immediate, immediate.then_some(number(at)));
        }
        to_come.iter().all(std::collections::VecDeque::is_empty)
    });
    assert_eq!(pool.free_count() + posted[0] + posted[1], 4, "no buffer is lost");
}

/// What 12 messages of `length` bytes become in buffers of 256 bytes: where each lies, and with which a buffer comes back.
fn places_of_twelve<R: Rig>(
    world: &World<'_, R>,
    (room, length): (u32, usize),
    in_runs: bool,
) -> Vec<Got> {
    let (a, b, to_b, _) = world.pair();
    let pool = pool(world);
    for number in 0..12 {
        world.insist(&[&a], || a.inject(SendTo::peer(to_b), &pattern(number, length)));
    }
    world.turns(30, &[&a]);
    let mut all = Vec::new();
    world.until("all are there", &[&a, &b], || {
        if b.posted_count() == 0 {
            let (from, loan) = (RecvFrom::any(), pool.lend().unwrap());
            // Where it is refused it is posted at the next look.
            let _posted = if in_runs {
                b.post_run_recv(from, loan, room, 1).is_ok()
            } else {
                b.post_multi_recv(from, loan, room, 1).is_ok()
            };
        }
        all.extend(core::iter::from_fn(|| b.take()));
        all.iter().filter(|got: &&Got| got.kind == Kind::Received).count() == 12
    });
    all
}

/// A run ends where a buffer for many would be given back: with fewer than the least room left.
pub fn runs_end_where_many_end<R: Rig>(world: &World<'_, R>) {
    let step = usize::try_from(R::SHORTENED.min(3)).unwrap();
    for room in [0, 1, 32, 33, 64, 100, 224, 225, 256].into_iter().step_by(step) {
        for length in [8, 30, 32, 60] {
            let [many, runs] = [false, true].map(|in_runs| {
                let all = places_of_twelve(world, (room, length), in_runs);
                let bytes: Vec<_> = all.iter().map(|got| got.bytes.clone()).collect();
                (places(&all), bytes)
            });
            assert_eq!(many, runs, "room {room}, length {length}");
        }
    }
}
