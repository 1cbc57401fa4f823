//! Two ports over UDP in one thread, each on a ring of its own.

use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::{Endpoint, EndpointConfig, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::udp::{Route, Routes, UdpPort};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::time::Instant;
use spinwire_hostshim::plane::Plane;
use spinwire_hostshim::udp::{UdpHost, UdpOptions};
use spinwire_hostshim::uring::RingEntry;
use spinwire_layouts::uring::SockAddr;

pub(crate) struct Pair<'m> {
    ends: [Endpoint<'m, UdpPort<'m, RingEntry<'m>>>; 2],
    pool: &'m LoanPool<'m>,
    to: [Addr; 2],
}

/// Runs `work` with two ports that know each other.
pub(crate) fn with<R>(work: impl FnOnce(&Pair<'_>) -> R) -> R {
    let address = "udp://127.0.0.1:0".parse().expect("an address");
    let hosts =
        [(); 2].map(|()| UdpHost::open(&address, &UdpOptions::default()).expect("a socket"));
    let mut memory = Plane::memory(4 << 20).expect("memory");
    let bump = Plane::arena(&mut memory);
    let routes = Routes::place(&bump, 2).expect("room");
    let names = ["a", "b"].map(|text| Name::new(text).expect("a good name"));
    for (host, name) in hosts.iter().zip(names) {
        routes.add(Route { name, address: SockAddr::new(host.local()) }).expect("room");
    }
    let rings = hosts.each_ref().map(|host| host.uring().ring().expect("its first owner"));
    let [host_a, host_b] = &hosts;
    let [ring_a, ring_b] = &rings;
    let ends = [(host_a, ring_a), (host_b, ring_b)].map(|(host, ring)| {
        let port = host.port(ring, &routes).expect("a port");
        Endpoint::new(port, &bump, &EndpointConfig::default()).expect("room")
    });
    let pool = LoanPool::place(&bump, 16, 2048).expect("room");
    let [a, b] = &ends;
    let [name_a, name_b] = &names;
    let to = [a.connect(name_b).expect("a route"), b.connect(name_a).expect("a route")];
    work(&Pair { ends, pool, to })
}

impl Pair<'_> {
    /// So many messages there and back. How many came, and how many turns called the kernel more than once.
    pub(crate) fn run(&self, rounds: u64) -> (u64, u64) {
        let (mut good, mut bad_turns) = (0, 0);
        for round in 0..rounds {
            good += u64::from(self.round(round, &mut bad_turns).is_some());
        }
        (good, bad_turns)
    }

    fn round(&self, round: u64, bad_turns: &mut u64) -> Option<()> {
        let [a, b] = &self.ends;
        let [to_b, to_a] = self.to;
        a.post_recv(RecvFrom::any(), self.pool.lend()?, round).ok()?;
        b.post_recv(RecvFrom::any(), self.pool.lend()?, round).ok()?;
        a.inject(SendTo::peer(to_b).immediate(round), b"there").ok()?;
        let (mut there, mut back, mut sent) = (false, false, false);
        for _ in 0..1_000_000 {
            for end in [a, b] {
                let before = end.provider().ring().counters().enters;
                let _busy_or_idle = end.turn(Instant::ORIGIN, Budget::DEFAULT);
                *bad_turns += u64::from(end.provider().ring().counters().enters > before + 1);
            }
            if let Some(came) = b.poll() {
                let Some(immediate) = came.immediate else {
                    sent = true;
                    continue;
                };
                there = immediate == round;
                b.post_send(SendTo::peer(to_a).tag(1).immediate(round), came.loan?, 0).ok()?;
                a.post_recv(RecvFrom::any().tag(1), self.pool.lend()?, 0).ok()?;
            }
            while let Some(came) = a.poll() {
                back = came.tag == Some(1) && came.immediate == Some(round);
            }
            if there && back && sent {
                return self.take_back();
            }
        }
        None
    }

    /// The receive that no message was for.
    fn take_back(&self) -> Option<()> {
        let [a, b] = &self.ends;
        a.inject(SendTo::peer(self.to.first().copied()?), b"").ok()?;
        b.inject(SendTo::peer(self.to.last().copied()?), b"").ok()?;
        b.post_recv(RecvFrom::any(), self.pool.lend()?, 0).ok()?;
        let mut came = 0;
        for _ in 0..1_000_000 {
            for end in [a, b] {
                let _busy_or_idle = end.turn(Instant::ORIGIN, Budget::DEFAULT);
                came += usize::from(end.poll().is_some());
            }
            if came == 2 {
                return Some(());
            }
        }
        None
    }
}
