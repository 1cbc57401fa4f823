//! Nobody is kept waiting by somebody else.

use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::{RecvFrom, SendTo};
use spinwire_dataplane::provider::EndpointType;

use super::{Node, Rig, Sizes, World, run};

fn spread<'m, R: Rig>(
    world: &World<'m, R>,
    receiver: &Node<'m, R>,
    count: usize,
) -> Vec<(Node<'m, R>, Addr)> {
    (0..count)
        .map(|number| {
            let sender = world.node(&format!("s{number}"));
            let (to, _) = world.introduce(&sender, receiver);
            (sender, to)
        })
        .collect()
}

/// Eight who send as fast as they can are served alike.
pub fn eight_senders_share<R: Rig>(world: &World<'_, R>) {
    if world.is_msg() {
        return;
    }
    let b = world.node("b");
    let senders = spread(world, &b, 8);
    let mut taken = [0_u64; 8];
    for _ in 0..400 {
        for (number, (sender, to)) in (0..).zip(&senders) {
            while sender.inject(SendTo::peer(*to).immediate(number), b"m").is_ok() {}
            world.turn(&[sender]);
        }
        // A slow receiver: few receives a turn.
        for _ in 0..4 {
            let _refused_when_full = b.recv(RecvFrom::any(), 0);
        }
        world.turn(&[&b]);
        while let Some(got) = b.take_message() {
            taken[usize::try_from(got.immediate.unwrap()).unwrap()] += 1;
        }
    }
    let total: u64 = taken.iter().sum();
    assert!(total > 1000, "{taken:?}");
    let share = total / 8;
    assert!(taken.iter().all(|&t| t > share / 2 && t < share * 2), "{taken:?}");
}

/// The same where the receiver takes everything at once, and there is always more.
pub fn a_fast_receiver_hears_all<R: Rig>(world: &World<'_, R>) {
    if world.is_msg() {
        return;
    }
    let b = world.node("b");
    let senders = spread(world, &b, 8);
    let mut taken = [0_u64; 8];
    for _ in 0..2000 / R::SHORTENED {
        for (number, (sender, to)) in (0..).zip(&senders) {
            while sender.inject(SendTo::peer(*to).immediate(number), b"m").is_ok() {}
            world.turn(&[sender]);
        }
        while b.posted_count() < 20 {
            b.recv(RecvFrom::any(), 0).unwrap();
        }
        world.turn(&[&b]);
        while let Some(got) = b.take_message() {
            taken[usize::try_from(got.immediate.unwrap()).unwrap()] += 1;
        }
    }
    let total: u64 = taken.iter().sum();
    assert!(total > 2000 / u64::from(R::SHORTENED), "{taken:?}");
    assert!(taken.iter().all(|&t| t > total / 32), "{taken:?}");
}

/// One who sends all the time to a third still receives.
pub fn a_flood_of_sends_keeps_nothing_out<R: Rig>(world: &World<'_, R>) {
    if world.is_msg() {
        return;
    }
    let sizes = Sizes {
        send_depth: 256,
        link_depth: 256,
        recv_depth: 256,
        contexts_max: 600,
        ..*world.sizes()
    };
    run::<R>(EndpointType::Rdm, sizes, |world| {
        let [a, b, c] = ["a", "b", "c"].map(|text| world.node(text));
        let (to_c, _) = world.introduce(&a, &c);
        let (to_a, _) = world.introduce(&b, &a);
        let mut heard = 0;
        for _ in 0..60 {
            // More sends a turn than the endpoint takes completions in one.
            for _ in 0..100 {
                if world.pool().free_count() < 100 {
                    break;
                }
                let _refused_when_full = a.send(SendTo::peer(to_c), b"flood", 0);
            }
            let _refused_when_full = b.inject(SendTo::peer(to_a), b"small");
            let _refused_when_full = a.recv(RecvFrom::any(), 1);
            while c.posted_count() < 250
                && world.pool().free_count() > 50
                && c.recv(RecvFrom::any(), 0).is_ok()
            {}
            world.turn(&[&b, &a]);
            world.turns(3, &[&c]);
            heard += core::iter::from_fn(|| a.take_message()).count();
            while a.take().is_some() || c.take().is_some() {}
        }
        assert!(heard >= 10, "only {heard} of about 60 were heard");
    });
}

/// A peer that has been silent for long is heard soon when it speaks.
pub fn cold_peers_are_heard<R: Rig>(world: &World<'_, R>) {
    if world.is_msg() {
        return;
    }
    let b = world.node("b");
    let senders = spread(world, &b, 10);
    for (sender, to) in &senders {
        b.recv(RecvFrom::any(), 0).unwrap();
        world.insist(&[sender, &b], || sender.inject(SendTo::peer(*to), b"hello"));
        world.until("it is there", &[sender, &b], || b.take().is_some());
    }
    for round in 0..5_u64 {
        world.turns(6000 / R::SHORTENED, &[&b]);
        for (number, (sender, to)) in (0..).zip(&senders) {
            if (number + round) % 3 == 0 {
                continue;
            }
            let number = number + 100 * round;
            b.recv(RecvFrom::any(), 0).unwrap();
            world.insist(&[sender], || sender.inject(SendTo::peer(*to).immediate(number), b"up"));
            // Turns of the wrapper that may hold it are the sender's.
            world.turns(if R::FAULTS { 20 } else { 1 }, &[sender]);
            world.turns(if R::FAULTS { 200 } else { 3 }, &[&b]);
            assert_eq!(b.take().and_then(|got| got.immediate), Some(number));
        }
    }
}

/// With room for few completions a turn, all of many senders are served.
pub fn a_short_batch_serves_all<R: Rig>(world: &World<'_, R>) {
    use heapless::Vec as FixedVec;
    use spinwire_dataplane::provider::{Cqe, Provider};

    if world.is_msg() {
        return;
    }
    let b = world.port("b");
    let name_of_b = super::name("b");
    let senders: Vec<(Node<'_, R>, Addr)> = (0..8)
        .map(|number| {
            let sender = world.node(&format!("s{number}"));
            let to = sender.connect(&name_of_b).unwrap();
            (sender, to)
        })
        .collect();
    let mut taken = [0_u32; 8];
    let mut posted = 0;
    for round in 0..3000 / R::SHORTENED {
        for (number, (sender, to)) in (0..).zip(&senders) {
            let _refused_when_full = sender.inject(SendTo::peer(*to).immediate(number), b"m");
            world.turn(&[sender]);
        }
        if posted < 8 && super::raw::post(world, &b, round).is_ok() {
            posted += 1;
        }
        let mut out: FixedVec<Cqe, 1> = FixedVec::new();
        b.poll_cq(world.now(), &mut out);
        for cqe in &out {
            posted -= 1;
            if let Some(number) = cqe.immediate {
                taken[usize::try_from(number).unwrap()] += 1;
            }
        }
    }
    let total: u32 = taken.iter().sum();
    assert!(total > 1000 / R::SHORTENED, "{taken:?}");
    assert!(taken.iter().all(|&t| t > total / 24), "{taken:?}");
}
