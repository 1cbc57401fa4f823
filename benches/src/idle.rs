//! A turn in which nothing has come, by how many peers are connected; in the same segment, with lanes for 64.

use core::hint::black_box;

use spinwire_dataplane::msg::{Kind, RecvFrom, SendTo};
use spinwire_dataplane::poll::Outcome;
use spinwire_dataplane::raw::loan::LoanPool;

use crate::case::{Case, Entry};
use crate::memory::{self, ShmEndpoint};

/// The cases.
pub const ENTRIES: &[Entry] = &[
    Entry::new("idle/turn/1", || idle_turn(1)),
    Entry::new("idle/turn/64", || idle_turn(PEERS_MAX)),
];

/// An idle turn with 64 peers may cost so many times one with a single peer.
pub const RATIO_MAX: f64 = 2.0;
/// Lanes that are looked at every turn, however quiet they are.
const HOT_KEPT: u32 = 4;
/// Every hub is in a segment that has room for so many peers.
const PEERS_MAX: u32 = 64;
const TURNS_MAX: u32 = 1_000_000;

/// A hub that has sent to, and heard of, every one of its peers; then nobody said anything for so long that it has settled.
#[must_use]
pub fn idle_turn(peers: u32) -> Case {
    let (hub, others) = star(peers);
    for _ in 0..TURNS_MAX {
        let _outcome = memory::turn(&hub);
        if hub.provider().hot_count() <= HOT_KEPT {
            break;
        }
    }
    assert!(hub.provider().hot_count() <= HOT_KEPT, "quiet peers are still looked at every turn");
    let rounds = move |rounds| {
        assert!(!others.is_empty());
        let idle = (0..rounds).filter(|_| memory::turn(black_box(&hub)) == Outcome::Idle);
        u64::try_from(idle.count()).unwrap()
    };
    Case::new(rounds, |rounds| rounds)
}

/// A hub, and peers with which it has exchanged one message each way.
fn star(peers: u32) -> (ShmEndpoint, Vec<ShmEndpoint>) {
    let segment = memory::segment(PEERS_MAX + 1);
    let bump = memory::arena(16 << 20);
    let pool = LoanPool::place(&bump, 2 * peers, 64).unwrap();
    let hub = memory::endpoint(segment, &bump, "hub", peers);
    let mut others = Vec::new();
    for i in 0..peers {
        let name = format!("peer-{i}");
        let other = memory::endpoint(segment, &bump, &name, 4);
        let to_hub = other.connect(&memory::name("hub")).unwrap();
        let to_other = hub.connect(&memory::name(&name)).unwrap();
        hub.inject(SendTo::peer(to_other), &[1; 32]).unwrap();
        hub.flush();
        other.inject(SendTo::peer(to_hub), &[1; 32]).unwrap();
        other.flush();
        receive(&hub, pool);
        receive(&other, pool);
        others.push(other);
    }
    (hub, others)
}

fn receive(at: &ShmEndpoint, pool: &'static LoanPool<'static>) {
    at.post_recv(RecvFrom::any(), pool.lend().unwrap(), 0).unwrap();
    for _ in 0..TURNS_MAX {
        let _outcome = memory::turn(at);
        if let Some(completion) = at.poll() {
            assert_eq!((completion.kind, completion.length), (Kind::Received, 32));
            while at.poll_event().is_some() {}
            return;
        }
    }
    panic!("the message did not come");
}
