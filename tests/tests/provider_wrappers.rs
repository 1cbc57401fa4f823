//! What the wrappers do beyond the conformance suite: faults that only an unreliable type may have, the same ones for the
//! same seed, and none that was not asked for; and a trace that can be read. And receives of several parts, of a provider that has
//! them: none of the suite's has.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]
#![allow(clippy::large_stack_frames, reason = "a test has a whole stack to itself")]

use core::cell::RefCell;
use core::mem::MaybeUninit;

use heapless::VecView;
use spinwire_dataplane::error::{Fatal, Misuse, PostError};
use spinwire_dataplane::id::{Addr, Generation, Name};
use spinwire_dataplane::msg::{Endpoint, EndpointConfig, Kind, Parts, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::fault::{Fault, FaultConfig, FaultCounts};
use spinwire_dataplane::provider::loopback::{Hub, HubConfig, Port, PortConfig};
use spinwire_dataplane::provider::trace::{Trace, TraceId};
use spinwire_dataplane::provider::{
    CancelError, Caps, Cqe, EndpointType, Event, Info, KeepsPosted, Limits, Provider, Published,
    RecvPartsWr, RecvWr, Select, SendWr, Source, Status, Waiting,
};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::Instant;
use spinwire_tests::rng::{Rng, pattern};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn with_arena<T>(work: impl FnOnce(&Bump<'_>) -> T) -> T {
    let mut block: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(16 << 20);
    work(&Bump::new(&mut block))
}

/// What came of a run.
#[derive(PartialEq, Eq, Debug)]
struct Run {
    counts: FaultCounts,
    accepted: Vec<u64>,
    failed: u64,
    arrived: Vec<u64>,
}

/// Sends messages of all kinds from a port with faults to one without, until all that arrives has arrived.
fn run(endpoint_type: EndpointType, config: FaultConfig) -> Run {
    with_arena(|bump| {
        let hub = bump.value(Hub::place(bump, &HubConfig::default()).unwrap()).unwrap();
        let port = |text| {
            Port::open(hub, bump, (&name(text), endpoint_type), &PortConfig::default()).unwrap()
        };
        let endpoint = EndpointConfig::default();
        let a = Fault::place(port("a"), bump, &config).unwrap();
        let a = Endpoint::new(a, bump, &endpoint).unwrap();
        let b = Endpoint::new(port("b"), bump, &endpoint).unwrap();
        let pool = LoanPool::place(bump, 256, 1024).unwrap();
        let (to_b, mut now) = (a.connect(&name("b")).unwrap(), 0);
        let mut result = Run {
            counts: FaultCounts::default(),
            accepted: Vec::new(),
            failed: 0,
            arrived: Vec::new(),
        };
        let mut open: Vec<u64> = Vec::new();
        let mut rng = Rng::new(3);
        for step in 0..4000_u64 {
            let to = SendTo::peer(to_b).immediate(step);
            let bytes = pattern(step, rng.index(300));
            if step < 3000 {
                let posted = rng.chance(50);
                let sent = if posted {
                    let mut loan = pool.lend().unwrap();
                    loan.fill(&bytes).unwrap();
                    a.post_send(to, loan, step).is_ok()
                } else {
                    a.inject(to, &bytes).is_ok()
                };
                if sent {
                    result.accepted.push(step);
                    if posted {
                        open.push(step);
                    }
                }
            }
            while b.posted_count() < 32 {
                b.post_recv(RecvFrom::any(), pool.lend().unwrap(), 0).unwrap();
            }
            now += 10;
            let _busy = a.turn(Instant::from_nanos(now), Budget::DEFAULT).is_busy();
            while let Some(completion) = a.poll() {
                let at = open.iter().position(|&context| context == completion.context);
                assert!(at.is_some(), "a completion for each posted send, once");
                open.remove(at.unwrap());
                assert_eq!(completion.kind, Kind::Sent);
                result.failed += u64::from(completion.status == Status::Injected);
            }
            let _busy = b.turn(Instant::from_nanos(now), Budget::DEFAULT).is_busy();
            while let Some(completion) = b.poll() {
                assert_eq!(completion.status, Status::Success);
                let number = completion.immediate.unwrap();
                let bytes = completion.bytes().unwrap();
                assert_eq!(bytes, pattern(number, bytes.len()), "uncorrupted");
                result.arrived.push(number);
            }
        }
        assert_eq!((open, a.provider().held_len()), (vec![], 0));
        result.counts = a.provider().counts();
        result
    })
}

fn times(run: &Run, number: u64) -> u64 {
    run.arrived.iter().map(|&arrived| u64::from(arrived == number)).sum()
}

const ALL_FAULTS: FaultConfig = FaultConfig {
    seed: 11,
    refuse_ppm: 50_000,
    fail_ppm: 50_000,
    delay_ppm: 50_000,
    reorder_ppm: 100_000,
    drop_ppm: 100_000,
    duplicate_ppm: 100_000,
    delay_polls_max: 12,
    held_max: 32,
    held_bytes_max: 1024,
};

#[test]
fn datagrams_get_lost_and_repeated_as_counted() {
    let run = run(EndpointType::Dgram, ALL_FAULTS);
    let FaultCounts { refused, failed, held, released, dropped, duplicated, orphaned } = run.counts;
    for (what, count) in [
        ("refused", refused),
        ("failed", failed),
        ("held", held),
        ("dropped", dropped),
        ("duplicated", duplicated),
    ] {
        assert!(count > 20, "{what}: {count} of {}", run.accepted.len());
    }
    assert_eq!((held, run.failed, orphaned), (released, failed, 0));
    let [mut lost, mut again] = [0, 0];
    for &number in &run.accepted {
        match times(&run, number) {
            0 => lost += 1,
            often => again += often - 1,
        }
    }
    assert_eq!((lost, again), (dropped + failed, duplicated));
    assert_eq!(run.arrived.iter().filter(|number| !run.accepted.contains(number)).count(), 0);
    let inversions = run.arrived.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!(inversions > 20, "{inversions} inversions: it does reorder");
}

#[test]
fn a_reliable_type_loses_repeats_and_reorders_nothing() {
    let run = run(EndpointType::Rdm, ALL_FAULTS);
    assert_eq!((run.counts.dropped, run.counts.duplicated), (0, 0));
    assert!(run.counts.held > 50 && run.counts.failed > 50, "{:?}", run.counts);
    assert!(run.arrived.windows(2).all(|pair| pair[0] < pair[1]), "in order, each once");
    let lost = run.accepted.iter().filter(|&&number| times(&run, number) == 0).count();
    assert_eq!(u64::try_from(lost).unwrap(), run.counts.failed, "only those that said so");
}

#[test]
fn delays_alone_keep_the_order_of_datagrams() {
    let config = FaultConfig { seed: 4, delay_ppm: 300_000, ..FaultConfig::default() };
    let run = run(EndpointType::Dgram, config);
    assert!(run.counts.held > 300);
    assert_eq!(run.arrived, run.accepted);
}

#[test]
fn the_same_seed_gives_the_same_faults() {
    for endpoint_type in [EndpointType::Rdm, EndpointType::Dgram] {
        let first = run(endpoint_type, ALL_FAULTS);
        assert_eq!(first, run(endpoint_type, ALL_FAULTS));
        assert_ne!(first, run(endpoint_type, FaultConfig { seed: 12, ..ALL_FAULTS }));
    }
}

#[test]
fn nothing_happens_unless_it_is_asked_for() {
    let run = run(EndpointType::Rdm, FaultConfig::default());
    assert_eq!(run.counts, FaultCounts::default());
    assert_eq!((&run.arrived, run.accepted.len()), (&run.accepted, 3000));
}

#[test]
fn what_is_held_goes_out_when_the_endpoint_closes() {
    with_arena(|bump| {
        let hub = bump.value(Hub::place(bump, &HubConfig::default()).unwrap()).unwrap();
        let port = |text| {
            let who = (&name(text), EndpointType::Rdm);
            Port::open(hub, bump, who, &PortConfig::default()).unwrap()
        };
        let config =
            FaultConfig { delay_ppm: 1_000_000, delay_polls_max: 1000, ..FaultConfig::default() };
        let a = Fault::place(port("a"), bump, &config).unwrap();
        let a = Endpoint::new(a, bump, &EndpointConfig::default()).unwrap();
        let b = Endpoint::new(port("b"), bump, &EndpointConfig::default()).unwrap();
        let pool = LoanPool::place(bump, 16, 64).unwrap();
        let to_b = a.connect(&name("b")).unwrap();
        for number in 0..9 {
            a.inject(SendTo::peer(to_b).immediate(number), b"held").unwrap();
            b.post_recv(RecvFrom::any(), pool.lend().unwrap(), 0).unwrap();
        }
        assert_eq!(a.provider().held_len(), 8, "the first shows that there is a way");
        assert!(a.poll_at().is_some(), "it has to be polled on");
        drop(a);
        let _busy = b.turn(Instant::ORIGIN, Budget::DEFAULT).is_busy();
        let arrived: Vec<u64> =
            core::iter::from_fn(|| b.poll()).map(|c| c.immediate.unwrap()).collect();
        assert_eq!(arrived, (0..9).collect::<Vec<u64>>());
    });
}

#[test]
fn a_trace_tells_what_happened() {
    with_arena(|bump| {
        let hub = bump.value(Hub::place(bump, &HubConfig::default()).unwrap()).unwrap();
        let port = |text| {
            let who = (&name(text), EndpointType::Rdm);
            Port::open(hub, bump, who, &PortConfig::default()).unwrap()
        };
        let a = Trace::place(port("a"), bump, 16).unwrap();
        let a = Endpoint::new(a, bump, &EndpointConfig::default()).unwrap();
        let b = port("b");
        let pool = LoanPool::place(bump, 16, 64).unwrap();
        assert!(a.connect(&name("nobody")).is_err());
        let to_b = a.connect(&name("b")).unwrap();
        let receive = a.post_recv(RecvFrom::any(), pool.lend().unwrap(), 1).unwrap();
        a.inject(SendTo::peer(to_b), &[7; 40]).unwrap();
        let mut loan = pool.lend().unwrap();
        loan.fill(&[8; 20]).unwrap();
        a.post_send(SendTo::peer(to_b), loan, 2).unwrap();
        a.cancel(receive).unwrap();
        let _busy = a.turn(Instant::from_nanos(1234), Budget::DEFAULT).is_busy();
        while a.poll().is_some() {}
        drop(b);
        assert!(a.inject(SendTo::peer(to_b), b"").is_err());
        let _busy = a.turn(Instant::from_nanos(2345), Budget::DEFAULT).is_busy();
        while a.poll_event().is_some() {}

        let mut records: Vec<_> = a.provider().newest(99).collect();
        records.reverse();
        let ids: Vec<TraceId> = records.iter().map(|record| record.id).collect();
        let expected = [
            TraceId::ConnectRefused,
            TraceId::Connect,
            TraceId::Recv,
            TraceId::Send,
            TraceId::Send,
            TraceId::Cancel,
            TraceId::Completion,
            TraceId::Completion,
            TraceId::Doorbell,
            TraceId::SendRefused,
            TraceId::Event,
        ];
        assert_eq!(ids, expected);
        assert_eq!(records[9].refused(), Some(PostError::Fatal(Fatal::PeerGone)));
        let mut over: Vec<_> =
            records[6..8].iter().map(|record| record.status().unwrap()).collect();
        over.sort_by_key(|status| *status == Status::Cancelled);
        assert_eq!(over, [Status::Success, Status::Cancelled]);
        let text: Vec<String> = records.iter().map(ToString::to_string).collect();
        for (line, part) in [
            (0, "connect-refused unknown address"),
            (3, "to 0.1  40 bytes  injected"),
            (4, "to 0.1  20 bytes  slot"),
            (8, "1234 ns  doorbell        2 published"),
            (9, "to 0.1  peer gone"),
            (10, "2345 ns  event           peer gone 0.1"),
        ] {
            assert!(text[line].contains(part), "{part:?} in {:#?}", text);
        }
        // Only the newest are kept, and counted on.
        for _ in 0..20 {
            assert!(a.connect(&name("nobody")).is_err());
        }
        assert_eq!(a.provider().ring().recorded(), 31);
        assert!(a.provider().newest(99).all(|record| record.id == TraceId::ConnectRefused));
        assert_eq!(a.provider().newest(99).count(), 16);
    });
}

#[test]
fn every_trace_number_comes_back() {
    for id in TraceId::ALL {
        assert_eq!(TraceId::from_raw(id.as_raw()), Some(id));
    }
    assert_eq!(TraceId::from_raw(0), None);
    assert_eq!(TraceId::from_raw(99), None);
    let mut names: Vec<&str> = TraceId::ALL.iter().map(|id| id.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), TraceId::ALL.len());
}

/// A provider that fills receives of several parts with the numbers from 0 on, as many as `lengths` says.
struct Filling {
    info: Info,
    lengths: Vec<u32>,
    ended: RefCell<Vec<Cqe>>,
}

#[expect(unsafe_code, reason = "the test has a provider of its own")]
// SAFETY: it writes within the post only, and completes each post once.
unsafe impl KeepsPosted for Filling {}

impl Provider for Filling {
    fn info(&self) -> &Info {
        &self.info
    }
    fn connect(&self, _: &Name) -> Result<Addr, PostError> {
        Err(Misuse::Unsupported.into())
    }
    fn disconnect(&self, _: Addr) -> Result<(), Misuse> {
        Err(Misuse::Unsupported)
    }
    fn post_send(&self, _: &SendWr<'_>) -> Result<(), PostError> {
        Err(Misuse::Unsupported.into())
    }
    fn post_recv(&self, _: &RecvWr) -> Result<(), PostError> {
        Err(Misuse::Unsupported.into())
    }
    fn post_recv_parts(&self, wr: &RecvPartsWr<'_>) -> Result<(), PostError> {
        let mut ended = self.ended.borrow_mut();
        let Some(&length) = self.lengths.get(ended.len()) else {
            return Err(Misuse::TooLong.into());
        };
        let mut number = 0..length;
        for part in wr.parts {
            let mut part = *part;
            let whole = part.length();
            for (place, number) in part.part(0, whole).unwrap().iter_mut().zip(&mut number) {
                *place = number.to_le_bytes()[0];
            }
        }
        let source = Some(Addr::new(0, Generation::FIRST));
        ended.push(Cqe { source, count: 1, ..Cqe::of_bytes(wr.wr_id, Status::Success, length) });
        Ok(())
    }
    fn ring_doorbell(&self) -> Published {
        Published::default()
    }
    fn poll_cq(&self, _: Instant, out: &mut VecView<Cqe>) {
        out.extend(self.ended.borrow().iter().copied());
    }
    fn poll_event(&self) -> Option<Event> {
        None
    }
    fn cancel(&self, _: spinwire_dataplane::id::WrId) -> Result<(), CancelError> {
        Err(CancelError::NotPosted)
    }
    fn peek(&self, _: Source, _: Select) -> Option<Waiting> {
        None
    }
}

#[test]
fn a_message_is_spread_over_several_parts() {
    with_arena(|bump| {
        let pool = LoanPool::place(bump, 16, 64).unwrap();
        let matching = PortConfig::default().matching;
        let limits = Limits { sge_max: 3, ..Limits::copied(4096, 4, 16, &matching) };
        let caps = Caps::MATCHED.with(Caps::SCATTER);
        let info = Info::of_type("filling", EndpointType::Rdm, caps, limits);
        let lengths = vec![0, 64, 65, 150, 192];
        let ended = RefCell::default();
        let filling = Filling { info, lengths: lengths.clone(), ended };
        let endpoint = Endpoint::new(filling, bump, &EndpointConfig::default()).unwrap();
        for &length in &lengths {
            let mut parts = Parts::of((0..3).map(|_| pool.lend().unwrap()));
            endpoint.post_recvv(RecvFrom::any(), &mut parts, length.into()).unwrap();
            assert_eq!(parts.iter().count(), 0);
        }
        let mut more = Parts::of((0..1).map(|_| pool.lend().unwrap()));
        let refused = endpoint.post_recvv(RecvFrom::any(), &mut more, 1);
        assert_eq!((refused, more.iter().count()), (Err(Misuse::TooLong.into()), 1));
        drop(more);
        assert!(endpoint.turn(Instant::ORIGIN, Budget::DEFAULT).is_busy());
        for &length in &lengths {
            let mut completion = endpoint.poll().unwrap();
            let length = usize::try_from(length).unwrap();
            assert_eq!((completion.kind, completion.length), (Kind::Received, length));
            let parts = endpoint.take_parts(&mut completion).unwrap();
            let each: Vec<usize> = parts.iter().map(|part| part.len()).collect();
            assert_eq!(each, [0, 64, 128].map(|before| length.saturating_sub(before).min(64)));
            let bytes: Vec<u8> = parts.into_loans().flat_map(|part| part.to_vec()).collect();
            assert!(bytes.iter().enumerate().all(|(at, &byte)| usize::from(byte) == at % 256));
        }
        assert_eq!(pool.free_count(), 16);
    });
}

/// Operations of two endpoints may be called the same.
#[test]
fn parts_that_are_posted_are_not_had_by_anybody_elses_completion() {
    with_arena(|bump| {
        let pool = LoanPool::place(bump, 8, 64).unwrap();
        let ends = [(); 2].map(|()| {
            let matching = PortConfig::default().matching;
            let limits = Limits { sge_max: 3, ..Limits::copied(4096, 4, 16, &matching) };
            let caps = Caps::MATCHED.with(Caps::SCATTER);
            let info = Info::of_type("filling", EndpointType::Rdm, caps, limits);
            let filling = Filling { info, lengths: vec![100], ended: RefCell::default() };
            Endpoint::new(filling, bump, &EndpointConfig::default()).unwrap()
        });
        let ids = ends.each_ref().map(|end| {
            let mut parts = Parts::of((0..3).map(|_| pool.lend().unwrap()));
            end.post_recvv(RecvFrom::any(), &mut parts, 0).unwrap()
        });
        assert_eq!(ids[0], ids[1]);
        let [a, b] = &ends;
        assert!(a.turn(Instant::ORIGIN, Budget::DEFAULT).is_busy());
        let mut of_a = a.poll().unwrap();
        assert!(b.take_parts(&mut of_a).is_none(), "its provider has them");
        assert_eq!(a.take_parts(&mut of_a).unwrap().len(), 100);
        assert_eq!(pool.free_count(), 5);
    });
}
