//! Ports over UDP on the kernel that runs: what is no message, what is too long, who comes and is never heard of again, who is not there.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::large_stack_frames,
    reason = "a test stops at the first thing that is not as expected"
)]

use core::mem::MaybeUninit;
use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::net::UdpSocket;
use std::time::Instant as Clock;

use spinwire_dataplane::error::{Misuse, PostError, Retry};
use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::{
    Completion, Endpoint, EndpointConfig, Kind, Parts, RecvFrom, SendTo,
};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::udp::{Route, Routes, UdpConfig, UdpCounters, UdpPort, datagram};
use spinwire_dataplane::provider::{EndpointType, Order, Paths, Provider, Reliability, Status};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::shm::lane::Envelope;
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_dataplane::uring::Ring;
use spinwire_hostshim::plane::Plane;
use spinwire_hostshim::udp::{self, UdpError, UdpHost, UdpOptions};
use spinwire_hostshim::uring::{Feature, FeatureSet, RingEntry, Uring, UringConfig};
use spinwire_layouts::uring::{SockAddr, op};
use spinwire_tests::conformance::name;
use spinwire_tests::fake_kernel::{FakeConfig, FakeKernel};
use spinwire_tests::rng::{Rng, pattern};

type Port<'m> = UdpPort<'m, RingEntry<'m>>;

/// One endpoint, buffers, and a clock that its test turns.
struct End<'m> {
    endpoint: Endpoint<'m, Port<'m>>,
    pool: &'m LoanPool<'m>,
    routes: &'m Routes<'m>,
    local: SocketAddr,
}

const DENIALS: [FeatureSet; 2] = [FeatureSet::EMPTY, FeatureSet::EMPTY.with(Feature::BufferRings)];

fn with(config: UdpConfig, address: &str, test: impl Fn(&End<'_>)) {
    for deny in DENIALS {
        let ring = UringConfig { deny, ..UringConfig::default() };
        let options = UdpOptions { port: config, ring, ..UdpOptions::default() };
        let host = UdpHost::open(&address.parse().unwrap(), &options).unwrap();
        assert_eq!(host.config().multishot, deny == FeatureSet::EMPTY);
        let mut memory = Plane::memory(8 << 20).unwrap();
        let bump = Plane::arena(&mut memory);
        let routes = Routes::place(&bump, 8).unwrap();
        let ring = host.uring().ring().unwrap();
        let port = host.port(&ring, &routes).unwrap();
        let endpoint = Endpoint::new(port, &bump, &EndpointConfig::default()).unwrap();
        let pool = LoanPool::place(&bump, 32, 4096).unwrap();
        let again = Paths::MULTISHOT_RECEIVE.with(Paths::PROVIDED_BUFFERS);
        let once = Paths::ONE_SHOT_RECEIVE.with(Paths::OWN_BUFFERS);
        let paths = endpoint.info().paths;
        assert_eq!(paths.has(again), host.config().multishot, "{paths}");
        assert_eq!(paths.has(once), !host.config().multishot, "{paths}");
        let info = endpoint.provider().info();
        assert_eq!(
            (info.endpoint_type, info.reliability, info.order),
            (EndpointType::Dgram, Reliability::Unreliable, Order::None)
        );
        test(&End { endpoint, pool, routes: &routes, local: host.local() });
    }
}

impl<'m> End<'m> {
    fn turn(&self, now: u64) {
        let before = self.enters();
        let _busy_or_idle = self.endpoint.turn(Instant::from_nanos(now), Budget::DEFAULT);
        assert!(self.enters() <= before + 1, "one call of the kernel a turn at most");
    }

    const fn enters(&self) -> u64 {
        self.endpoint.provider().ring().counters().enters
    }

    const fn counters(&self) -> UdpCounters {
        self.endpoint.provider().counters()
    }

    fn post(&self, context: u64) {
        self.endpoint.post_recv(RecvFrom::any(), self.pool.lend().unwrap(), context).unwrap();
    }

    /// Turns until something has come.
    fn next(&self, now: u64) -> Completion<'m> {
        let end = Clock::now() + Duration::from_secs(30);
        while Clock::now() < end {
            self.turn(now);
            if let Some(completion) = self.endpoint.poll() {
                return completion;
            }
        }
        panic!("nothing has come: {:?}", self.counters());
    }

    /// Turns until so many packets have come.
    fn until_received(&self, packets: u64, now: u64) {
        let end = Clock::now() + Duration::from_secs(30);
        while self.counters().received < packets {
            assert!(Clock::now() < end, "{:?} of {packets}", self.counters());
            self.turn(now);
        }
    }

    fn connect(&self, to: &UdpSocket) -> Addr {
        let address = SockAddr::new(to.local_addr().unwrap());
        self.routes.add(Route { name: name("peer"), address }).unwrap();
        self.endpoint.connect(&name("peer")).unwrap()
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket
}

/// A message as another end would send it.
fn packet(bytes: &[u8], tag: Option<u64>, immediate: Option<u64>) -> Vec<u8> {
    let header = datagram::header(bytes.len(), Envelope { tag, immediate }).unwrap();
    [&header[..], bytes].concat()
}

const LOCAL: &str = "udp://127.0.0.1:0";

#[test]
fn messages_go_there_and_back_with_tag_and_immediate_data() {
    for address in [LOCAL, "udp://[::1]:0"] {
        with(UdpConfig::default(), address, |end| {
            let host = if end.local.is_ipv6() { "[::1]:0" } else { "127.0.0.1:0" };
            let other = UdpSocket::bind(host).unwrap();
            other.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let to = end.connect(&other);
            let bytes = pattern(3, 1000);
            end.endpoint.inject(SendTo::peer(to).tag(7).immediate(9), &bytes).unwrap();
            end.turn(0);
            let mut came = [0; 2048];
            let (length, from) = other.recv_from(&mut came).unwrap();
            assert_eq!((from, &came[..length]), (end.local, &packet(&bytes, Some(7), Some(9))[..]));
            let loan = end.pool.lend().unwrap();
            end.endpoint.post_recv(RecvFrom::peer(to).tag(8), loan, 5).unwrap();
            other.send_to(&packet(b"back", Some(8), None), end.local).unwrap();
            let got = end.next(0);
            assert_eq!((got.kind, got.context, got.source), (Kind::Received, 5, Some(to)));
            assert_eq!((got.tag, got.immediate), (Some(8), None));
            assert_eq!(got.bytes(), Some(&b"back"[..]));
        });
    }
}

/// One call sends, and whatever else is to be said goes with it; one brings the answer.
/// Parts that lie in the arena of the ring go from where they are, one behind the other; the others are copied first.
#[test]
fn parts_go_in_their_order_from_the_arena_of_the_ring_and_from_elsewhere() {
    with(UdpConfig::default(), LOCAL, |end| {
        let other = socket();
        let to = end.connect(&other);
        let arena = end.endpoint.provider().ring().arena();
        let own = LoanPool::place(arena.bump(), 4, 256).unwrap();
        for pools in [[own, own, own], [own, end.pool, own]] {
            let bytes = pattern(5, 210);
            let (first, rest) = bytes.split_at(3);
            let (second, third) = rest.split_at(200);
            let parts = [first, second, third].into_iter().zip(pools).map(|(part, pool)| {
                let mut loan = pool.lend().unwrap();
                loan.fill(part).unwrap();
                loan
            });
            let mut parts = Parts::of(parts);
            end.endpoint.post_sendv(SendTo::peer(to).tag(7), &mut parts, 1).unwrap();
            end.turn(0);
            let mut came = [0; 2048];
            let (length, _) = other.recv_from(&mut came).unwrap();
            assert!(came[..length] == packet(&bytes, Some(7), None)[..]);
            let mut done = None;
            while done.is_none() {
                end.turn(0);
                done = end.endpoint.poll();
            }
            let parts = end.endpoint.take_parts(&mut done.unwrap()).unwrap();
            let back: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
            assert!(back == bytes && own.free_count() < 4);
            drop(parts);
            assert_eq!(own.free_count(), 4);
        }
    });
}

#[test]
fn a_round_trip_is_two_calls_of_the_kernel() {
    const TRIPS: u64 = 100;
    with(UdpConfig::default(), LOCAL, |end| {
        let other = socket();
        let to = end.connect(&other);
        let bytes = pattern(4, 1400);
        let mut came = [0; 2048];
        end.post(0);
        end.turn(0);
        let before = end.enters();
        for trip in 0..TRIPS {
            end.endpoint.inject(SendTo::peer(to), &bytes).unwrap();
            end.turn(0);
            other.recv_from(&mut came).unwrap();
            other.send_to(&packet(&bytes, None, None), end.local).unwrap();
            assert_eq!(end.next(0).bytes(), Some(&bytes[..]));
            end.post(trip);
            (0..3).for_each(|_| end.turn(0));
        }
        let calls = end.enters() - before;
        // Where packets come one by one, another call says that the next may come.
        let many = end.endpoint.info().paths.has(Paths::MULTISHOT_RECEIVE);
        let each = if many { 2 } else { 3 };
        // After some tens of messages the kernel asks to be called before it receives more; an older one may ask more often.
        let uring = Uring::open(&UringConfig::default()).unwrap();
        let spare = if uring.features().has(Feature::Bundles) { TRIPS / 10 } else { TRIPS };
        assert!(calls <= each * TRIPS + spare, "{calls} calls for {TRIPS} round trips");
    });
}

#[test]
fn what_is_no_message_is_counted_and_dropped() {
    with(UdpConfig::default(), LOCAL, |end| {
        let other = socket();
        let mut rng = Rng::new(1);
        let good = packet(b"good", None, None);
        let mut sent = 0;
        for length in 0..=100_usize {
            for kind in 0..4 {
                let mut bytes: Vec<u8> = (0..length).map(|_| rng.word().to_le_bytes()[0]).collect();
                // Random; or a message with one byte changed, cut, or with bytes behind it.
                if kind > 0 {
                    bytes.clone_from(&good);
                    match kind {
                        1 => bytes[rng.index(8)] ^= 1 << rng.index(8),
                        2 => bytes.truncate(length % 24),
                        _ => bytes.extend_from_slice(&[0; 100][..=length.min(99)]),
                    }
                }
                other.send_to(&bytes, end.local).unwrap();
                sent += 1;
            }
            end.until_received(sent, 0);
        }
        // A length that was raised makes it a message that was cut, a flag a tagged one; nobody waits for those here.
        let counters = end.counters();
        let wait = u64::from(end.endpoint.provider().matcher().unexpected_len());
        assert_eq!((counters.received, counters.garbage + counters.unasked + wait), (sent, sent));
        assert!(counters.garbage > sent - 60, "{counters:?}");
        end.post(1);
        other.send_to(&good, end.local).unwrap();
        assert_eq!(end.next(0).bytes(), Some(&b"good"[..]), "it lives on");
    });
}

#[test]
fn what_is_too_long_is_cut_and_says_so() {
    let config = UdpConfig { message_bytes_max: 2000, ..UdpConfig::default() };
    with(config, LOCAL, |end| {
        let other = socket();
        // Longer than anything that this end takes; longer than one receive.
        for length in [2100, 4000, 60_000] {
            end.post(1);
            let bytes = pattern(7, length);
            other.send_to(&packet(&bytes, None, Some(3)), end.local).unwrap();
            let got = end.next(0);
            assert_eq!((got.status, got.immediate), (Status::Truncated, Some(3)));
            let had = got.bytes().unwrap().len();
            assert!((2000..2100).contains(&had), "{had}");
            assert_eq!(got.bytes().unwrap(), &bytes[..had]);
        }
        end.post(2);
        other.send_to(&packet(&pattern(8, 2000), None, None), end.local).unwrap();
        let got = end.next(0);
        assert_eq!((got.status, got.bytes()), (Status::Success, Some(&pattern(8, 2000)[..])));
        let to = end.connect(&other);
        let refused = end.endpoint.inject(SendTo::peer(to), &[0; 2001]);
        assert_eq!(refused, Err(Misuse::TooLong.into()));
    });
}

#[test]
fn ten_thousand_senders_share_the_rows_that_there_are() {
    let config = UdpConfig { peers_max: 16, age_min: Nanos::new(10), ..UdpConfig::default() };
    with(config, LOCAL, |end| {
        let known = socket();
        let kept = end.connect(&known);
        let mut first = None;
        for number in 0..10_000_u64 {
            // Every address of 127/8 is this machine.
            let [.., a, b] = number.to_be_bytes();
            let sender = UdpSocket::bind((Ipv4Addr::new(127, 1, a, b), 0)).unwrap();
            end.post(number);
            sender.send_to(&packet(&number.to_le_bytes(), None, None), end.local).unwrap();
            let got = end.next(number * 20);
            assert_eq!(got.bytes(), Some(&number.to_le_bytes()[..]));
            let source = got.source.unwrap();
            let answered = end.endpoint.inject(SendTo::peer(source), b"answer");
            assert_eq!(answered, Ok(()), "the newest has a row");
            first.get_or_insert(source);
            end.turn(number * 20);
            assert!(end.endpoint.provider().peers_len() <= 16);
        }
        assert_eq!(end.counters().aged, 10_000 - 15);
        let stale = end.endpoint.inject(SendTo::peer(first.unwrap()), b"late");
        assert_eq!(stale, Err(PostError::Misuse(Misuse::StaleAddress)));
        assert_eq!(end.endpoint.inject(SendTo::peer(kept), b"kept"), Ok(()));
        // None is old enough: whoever is new has to wait, and those who are known are heard.
        let now = 10_000 * 20;
        let senders: Vec<_> = (0..35).map(|_| socket()).collect();
        let (young, late) = senders.split_at(15);
        for sender in young {
            end.post(0);
            sender.send_to(&packet(b"m", None, None), end.local).unwrap();
            end.next(now);
        }
        let aged = end.counters().aged;
        for sender in late {
            sender.send_to(&packet(b"m", None, None), end.local).unwrap();
        }
        let now = now + 5;
        known.send_to(&packet(b"known", Some(1), None), end.local).unwrap();
        let loan = end.pool.lend().unwrap();
        end.endpoint.post_recv(RecvFrom::peer(kept).tag(1), loan, 0).unwrap();
        assert_eq!(end.next(now).bytes(), Some(&b"known"[..]));
        let counters = end.counters();
        assert_eq!((counters.crowded, counters.aged), (20, aged));
        end.endpoint.disconnect(kept).unwrap();
        assert_eq!(end.endpoint.provider().peers_len(), 15);
    });
}

#[test]
fn a_peer_that_is_not_there_ends_nothing() {
    with(UdpConfig::default(), LOCAL, |end| {
        let gone = socket();
        let to = end.connect(&gone);
        drop(gone);
        let other = socket();
        for round in 0..50_u64 {
            let mut loan = end.pool.lend().unwrap();
            loan.fill(b"into the void").unwrap();
            end.endpoint.post_send(SendTo::peer(to), loan, round).unwrap();
            let sent = end.next(0);
            assert_eq!(
                (sent.kind, sent.status, sent.context),
                (Kind::Sent, Status::Success, round)
            );
            end.post(round);
            other.send_to(&packet(b"news", None, None), end.local).unwrap();
            assert_eq!(end.next(0).bytes(), Some(&b"news"[..]));
        }
        let counters = end.counters();
        assert_eq!((counters.sent + counters.send_errors, counters.stale), (50, 0));
    });
}

#[test]
fn what_nobody_asked_for_waits_as_far_as_there_is_room_and_is_counted_else() {
    with(UdpConfig::default(), LOCAL, |end| {
        let other = socket();
        for number in 0..100_u64 {
            other.send_to(&packet(&number.to_le_bytes(), None, None), end.local).unwrap();
            end.until_received(number + 1, 0);
        }
        assert_eq!(end.counters().unasked, 100 - 64);
        for number in 0..64_u64 {
            end.post(number);
            assert_eq!(end.next(0).bytes(), Some(&number.to_le_bytes()[..]));
        }
    });
}

#[test]
fn what_the_kernel_had_no_room_for_is_counted() {
    let socket_options = spinwire_hostshim::socket::SocketOptions {
        receive_bytes: Some(4096),
        ..spinwire_hostshim::socket::SocketOptions::default()
    };
    for deny in DENIALS {
        let ring = UringConfig { deny, ..UringConfig::default() };
        let options = UdpOptions {
            ring,
            socket: socket_options,
            port: UdpConfig { recv_buffers: 4, ..UdpConfig::default() },
        };
        let host = UdpHost::open(&LOCAL.parse().unwrap(), &options).unwrap();
        let mut memory = Plane::memory(8 << 20).unwrap();
        let bump = Plane::arena(&mut memory);
        let routes = Routes::place(&bump, 1).unwrap();
        let ring = host.uring().ring().unwrap();
        let port = host.port(&ring, &routes).unwrap();
        let endpoint = Endpoint::new(port, &bump, &EndpointConfig::default()).unwrap();
        let other = socket();
        for _ in 0..200 {
            other.send_to(&packet(&[0; 1000], None, None), host.local()).unwrap();
        }
        let end = Clock::now() + Duration::from_secs(30);
        let counters = || endpoint.provider().counters();
        while counters().overflowed == 0 {
            assert!(Clock::now() < end, "{:?}", counters());
            let _busy_or_idle = endpoint.turn(Instant::ORIGIN, Budget::DEFAULT);
            other.send_to(&packet(b"m", None, None), host.local()).unwrap();
        }
        assert!(counters().overflowed > 100, "{:?}", counters());
    }
}

#[test]
fn what_cannot_be_is_refused_with_the_remedy() {
    let options = UdpOptions::default();
    let tcp = UdpHost::open(&"tcp://127.0.0.1:0".parse().unwrap(), &options).unwrap_err();
    assert!(matches!(tcp, UdpError::Scheme(_)) && tcp.to_string().contains("udp://HOST:PORT"));
    let port = UdpConfig { message_bytes_max: 65_484, ..UdpConfig::default() };
    let host = UdpHost::open(&LOCAL.parse().unwrap(), &UdpOptions { port, ..options }).unwrap();
    let mut memory = Plane::memory(1 << 20).unwrap();
    let bump = Plane::arena(&mut memory);
    let routes = Routes::place(&bump, 1).unwrap();
    let ring = host.uring().ring().unwrap();
    let refused = host.port(&ring, &routes).unwrap_err();
    assert!(refused.to_string().contains("take at most 65483"), "{refused}");
    udp::route(&routes, name("a"), &"udp://127.0.0.1:7".parse().unwrap()).unwrap();
    udp::route(&routes, name("a"), &"udp://127.0.0.1:8".parse().unwrap()).unwrap();
    let full = udp::route(&routes, name("b"), &"udp://127.0.0.1:8".parse().unwrap());
    assert_eq!(full, Err(UdpError::Routes(Retry::AddressesFull)));
    assert_eq!(routes.remove(&name("b")), Err(Misuse::UnknownAddress));
    assert_eq!(routes.remove(&name("a")), Ok(()));
}

/// An endpoint over a kernel that is played, which knows `peer` by address `to`, and buffers for it.
struct Played<'m> {
    kernel: &'m FakeKernel,
    endpoint: Endpoint<'m, UdpPort<'m, &'m FakeKernel>>,
    pool: &'m LoanPool<'m>,
    to: Addr,
}

fn with_played(
    (kernel, config): (FakeConfig, UdpConfig),
    loans: u32,
    test: impl FnOnce(&Played<'_>),
) {
    let kernel = FakeKernel::new(kernel);
    let mut block = vec![MaybeUninit::uninit(); config.arena_bytes()];
    let ring = Ring::new(kernel.memory().unwrap(), kernel.arena(&mut block), &kernel);
    let mut memory = Plane::memory(4 << 20).unwrap();
    let bump = Plane::arena(&mut memory);
    let routes = Routes::place(&bump, 1).unwrap();
    udp::route(&routes, name("peer"), &"udp://127.0.0.1:9".parse().unwrap()).unwrap();
    let port = UdpPort::place(&ring, (3, 0), &routes, &config).unwrap();
    let endpoint = Endpoint::new(port, &bump, &EndpointConfig::default()).unwrap();
    let pool = LoanPool::place(&bump, loans, 256).unwrap();
    let to = endpoint.connect(&name("peer")).unwrap();
    test(&Played { kernel: &kernel, endpoint, pool, to });
}

/// A kernel that completes whatever it likes: sends complete once each, and nothing is made of what was not asked for.
#[test]
fn completions_of_any_content_harm_nobody() {
    for multishot in [true, false] {
        let kernel = FakeConfig { sq_entries: 64, cq_entries: 256, ..FakeConfig::default() };
        let config = UdpConfig { multishot, recv_buffers: 8, ..UdpConfig::default() };
        with_played((kernel, config), 64, |&Played { kernel, ref endpoint, pool, to }| {
            let mut rng = Rng::new(21);
            let (mut posted, mut over, mut taken, mut names) = (0_u64, 0_u64, 0, Vec::new());
            for _ in 0..20_000 {
                if let Some(mut loan) = pool.lend() {
                    loan.fill(b"m").unwrap();
                    posted += u64::from(endpoint.post_send(SendTo::peer(to), loan, posted).is_ok());
                }
                let _busy_or_idle = endpoint.turn(Instant::ORIGIN, Budget::DEFAULT);
                while let Some(chain) = kernel.taken() {
                    for entry in chain {
                        if entry.opcode == op::SENDMSG {
                            taken += 1;
                            kernel.complete(entry.user_data, 25, 0);
                        }
                        names.push(entry.user_data);
                    }
                }
                for _ in 0..rng.below(4) {
                    let name = if rng.chance(80) && !names.is_empty() {
                        names[names.len() - 1 - rng.index(names.len().min(16))]
                    } else {
                        rng.word()
                    };
                    let [low, high] = [rng.word(), rng.word()].map(|word| word.to_le_bytes());
                    let res = i32::from_le_bytes(*low.first_chunk().unwrap()) >> rng.below(32);
                    let flags = u32::from_le_bytes(*high.first_chunk().unwrap()) & 0x0007_000b;
                    kernel.complete(name, res, flags);
                }
                while let Some(completion) = endpoint.poll() {
                    assert_eq!(completion.kind, Kind::Sent);
                    over += 1;
                }
                assert!(posted - over <= 64);
            }
            let counters = endpoint.provider().counters();
            assert!(over > 10_000 && counters.stale > 1000);
            assert!(counters.sent + counters.send_errors <= taken, "each is over once");
        });
    }
}

#[test]
fn a_late_completion_is_not_taken_for_that_of_a_later_send() {
    // Two slots.
    let config = UdpConfig { send_depth: 1, ..UdpConfig::default() };
    with_played(
        (FakeConfig::default(), config),
        4,
        |&Played { kernel, ref endpoint, pool, to }| {
            let turn = || {
                let _busy_or_idle = endpoint.turn(Instant::ORIGIN, Budget::DEFAULT);
            };
            let send = |context| {
                endpoint.post_send(SendTo::peer(to), pool.lend().unwrap(), context).unwrap();
                turn();
                let all = core::iter::from_fn(|| kernel.taken()).flatten();
                all.filter(|entry| entry.opcode == op::SENDMSG).last().unwrap().user_data
            };
            let mut names = Vec::new();
            for context in 0..9 {
                let name = send(context);
                for late in &names {
                    kernel.complete(*late, 24, 0);
                    turn();
                    turn();
                    assert!(endpoint.poll().is_none(), "{context} is under way");
                }
                kernel.complete(name, 24, 0);
                turn();
                turn();
                assert_eq!(endpoint.poll().unwrap().context, context);
                names.push(name);
            }
            assert_eq!(endpoint.provider().counters().stale, 36);
        },
    );
}
