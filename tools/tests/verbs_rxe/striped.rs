//! Virtual queue pairs over two devices, each on a cable of its own.

use core::mem::MaybeUninit;
use core::time::Duration;
use std::time::Instant as RealTime;

use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::raw::line::{copy_in, copy_out};
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_dataplane::vqp::sequence::SequenceCodec;
use spinwire_dataplane::vqp::{
    Direction, Health, Op, RecvKind, RecvWr, Refusal, RegionId, Regions, Remote, Replay, Scheme,
    SendWr, Setup, Sge, Signal, VirtualCq, VirtualQp, Visibility, VqpConfig,
};
use spinwire_hostshim::verbs::{
    Access, CompletionQueue, ConnectConfig, Device, Pair, PairConfig, PairKind, ProtectionDomain,
    Region,
};

use super::faults::{Mended, network, runs};
use super::rig::{BYTES, End, devices, quick};

/// Bytes of a write, and writes.
const WRITE: u64 = 64 << 10;
const WRITES: u64 = 24;
/// Writes under way.
const DEEP: u64 = 4;

/// A second cable, `wire0` and `wire1`, with `rxe2` and `rxe3` at its ends. The devices go with it.
pub(crate) fn lay_second_cable() -> bool {
    // A test that has failed takes its own away behind its back.
    let left = ["net/wire0", "infiniband/rxe2", "infiniband/rxe3"];
    let is_left = |name: &&str| std::path::Path::new("/sys/class").join(name).exists();
    let until = RealTime::now() + Duration::from_secs(30);
    while left.iter().any(is_left) && RealTime::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    if !network("ip link add wire0 mtu 9000 type veth peer name wire1 mtu 9000") {
        return false;
    }
    let steps = [
        "ip link set wire0 up",
        "ip link set wire1 up",
        "ip addr add 10.78.0.1/24 dev wire0",
        "ip addr add 10.78.0.2/24 dev wire1",
        "rdma link add rxe2 type rxe netdev wire0",
        "rdma link add rxe3 type rxe netdev wire1",
    ];
    if let Some(step) = steps.into_iter().find(|step| !runs(step)) {
        network("ip link del wire0");
        panic!("{step}");
    }
    true
}

fn second_cable() -> Option<(Mended, [Device; 2])> {
    lay_second_cable().then(|| {
        let gone = Mended("ip link del wire0");
        (gone, ["rxe2", "rxe3"].map(|name| Device::open(name).unwrap()))
    })
}

fn connect(near: &Pair, far: &Pair, how: &ConnectConfig) {
    near.connect(far.card(), how).unwrap();
    far.connect(near.card(), how).unwrap();
}

/// What the `number`th write brings: of each KiB, which one it is.
fn pattern(number: u64) -> Vec<u8> {
    let mut bytes = vec![number as u8 ^ 0x5A; WRITE as usize];
    bytes.iter_mut().step_by(1024).zip(0_u8..).for_each(|(byte, at)| *byte = at);
    bytes
}

type Vqp<'a> = VirtualQp<'a, &'a Pair>;
type Vcq<'a> = VirtualCq<'a, &'a Pair, &'a CompletionQueue>;

/// One end: a data path on either cable, and the path for notifications on the second.
struct Side {
    paths: Vec<End>,
    notify: Pair,
    /// The memory of the first path, by both devices.
    memory: [Region; 2],
}

impl Side {
    fn open(devices: [&Device; 2]) -> Self {
        let config = PairConfig { send_depth: 64, recv_depth: 4, ..PairConfig::default() };
        let pair = |domain: &_, cq: &_| Pair::new(domain, PairKind::Rc, (cq, cq), &config).unwrap();
        let paths = devices.map(|device| {
            let domain = ProtectionDomain::new(device).unwrap();
            let cq = CompletionQueue::new(device, 136).unwrap();
            let region = domain.register(BYTES, Access::REMOTE).unwrap();
            End { device: device.clone(), pair: pair(&domain, &cq), domain, cq, region }
        });
        let [first, second] = &paths;
        let notify = pair(&second.domain, &second.cq);
        let also = second.domain.register_also(&first.region, Access::REMOTE).unwrap();
        let memory = [first.region.clone(), also];
        Self { paths: paths.into(), notify, memory }
    }
}

/// How messages travel; the region is that for flushing reads.
type How = fn(RegionId) -> Scheme;

const SPRAY: How = |scratch| Scheme::Spray(Visibility::FlushingRead(scratch));
const DQPLB: How = |_scratch| Scheme::Dqplb(SequenceCodec::Clean);

/// A virtual queue pair with its queue, and what it calls the memory of either end.
struct Placed<'a> {
    vqp: &'a Vqp<'a>,
    vcq: &'a Vcq<'a>,
    own: RegionId,
    peer: RegionId,
}

impl Side {
    /// Places a virtual queue pair of this side, whose peer is one of `far`.
    fn place<'a>(&'a self, bump: &Bump<'a>, far: &Self, how: How) -> Placed<'a> {
        let length = BYTES as u64;
        let address = self.memory[0].address();
        let local = &*bump.value(Regions::place(bump, 4, 2).unwrap()).unwrap();
        let keys = self.memory.each_ref().map(|region| Some(region.local_key()));
        let own = local.register(address, length - 64, &keys).unwrap();
        let scratch = local.register(address + length - 64, 8, &keys).unwrap();
        let remote = &*bump.value(Regions::place(bump, 4, 2).unwrap()).unwrap();
        let keys = far.memory.each_ref().map(|region| Some(region.remote_key().rkey));
        let peer = remote.register(far.memory[0].address(), length, &keys).unwrap();
        let scheme = how(scratch);
        let config = VqpConfig {
            scheme,
            replay: Replay::Idempotent,
            max_message: 16 << 10,
            send_depth: 64,
            recv_depth: 4,
            recvs: 4,
            suspect_after: Nanos::from_millis(500),
            silent_after: Nanos::from_millis(5000),
            flush_after: Nanos::from_millis(500),
            ..VqpConfig::default()
        };
        let [first, second] = &self.paths[..] else { panic!("two paths") };
        let paths = [(&first.pair, 0), (&second.pair, 1)];
        let notify = matches!(scheme, Scheme::Spray(_)).then_some((&self.notify, 1));
        let setup = Setup { paths: &paths, notify, local, remote };
        let vqp = VirtualQp::place(bump, &setup, &config).unwrap();
        let queues = [(&*first.cq, 0), (&*second.cq, 1)];
        let vcq = VirtualCq::place(bump, &queues, 4).unwrap();
        vcq.attach(vqp).unwrap();
        Placed { vqp, vcq, own, peer }
    }

    /// Whether the `number`th write is here, whole.
    fn is_whole(&self, number: u64) -> bool {
        let mut came = vec![0; WRITE as usize];
        let at = (number % DEEP * WRITE) as usize;
        assert!(copy_out(self.memory[1].lines(), at, &mut came));
        came == pattern(number)
    }
}

/// Both ends.
struct Ends {
    near: Side,
    far: Side,
}

impl Ends {
    fn open(first: &[Device; 2], second: &[Device; 2], how: &ConnectConfig) -> Self {
        let side = |at: usize| Side::open([&first[at], &second[at]]);
        let (near, far) = (side(0), side(1));
        for (near, far) in near.paths.iter().zip(&far.paths) {
            connect(&near.pair, &far.pair, how);
        }
        connect(&near.notify, &far.notify, how);
        Self { near, far }
    }

    /// Sets the first path up anew, at both ends.
    fn renew(&self) {
        let (near, far) = (&self.near.paths[0].pair, &self.far.paths[0].pair);
        for pair in [near, far] {
            pair.fail().unwrap();
            pair.reset().unwrap();
        }
        connect(near, far, &quick());
    }
}

fn post(ends: &Ends, near: &Placed<'_>, op: Op, number: u64) -> Result<(), Refusal> {
    let offset = number % DEEP * WRITE;
    assert!(copy_in(ends.near.memory[0].lines(), offset as usize, &pattern(number)));
    let sges = [Sge { region: near.own, offset, length: WRITE }];
    let remote = Some(Remote { region: near.peer, offset });
    let signal = Signal::Always;
    near.vqp.post_send(&SendWr { context: number, op, sges: &sges, remote, signal })?;
    near.vqp.ring_doorbell();
    Ok(())
}

fn clock() -> impl Fn() -> (Instant, Duration) {
    let from = RealTime::now();
    move || {
        let passed = from.elapsed();
        (Instant::from_nanos(u64::try_from(passed.as_nanos()).unwrap()), passed)
    }
}

#[test]
fn one_of_two_cables_is_pulled_and_put_back_under_load_and_nothing_is_lost() {
    let Some(first) = devices() else { return };
    let Some((_gone, second)) = second_cable() else { return };
    let ends = Ends::open(&first, &second, &quick());
    let mut block: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(4 << 20);
    let bump = Bump::new(&mut block);
    let near = ends.near.place(&bump, &ends.far, SPRAY);
    let (vqp, vcq) = (near.vqp, near.vcq);
    let now = clock();
    let (mut posted, mut done, mut bytes_before) = (0, 0, None);
    let mut pulled = None;
    while done < WRITES {
        assert!(now().1 < Duration::from_secs(100), "{done} of {WRITES}: {:?}", vqp.path(0));
        // The last quarter goes over both paths again.
        let most = if bytes_before.is_some() { WRITES } else { WRITES / 4 * 3 };
        if posted < most && posted < done + DEEP {
            post(&ends, &near, Op::Write, posted).unwrap();
            posted += 1;
        }
        let _outcome = vcq.turn(now().0, Budget::DEFAULT);
        while let Some(completion) = vcq.take() {
            assert_eq!(completion.context, done, "in posting order");
            completion.outcome.unwrap();
            assert!(ends.far.is_whole(done), "write {done} is whole");
            done += 1;
        }
        if done >= WRITES / 4 && pulled.is_none() {
            network("ip link set cable0 down");
            pulled = Some(Mended("ip link set cable0 up"));
        }
        let path = vqp.path(0).unwrap();
        if path.health == Health::Down && done >= WRITES / 2 && bytes_before.is_none() {
            pulled = Some(Mended("ip link set cable0 up"));
            network("ip link set cable0 up");
            ends.renew();
            bytes_before = Some(path.bytes);
            vqp.readmit(0).unwrap();
        }
    }
    let path = vqp.path(0).unwrap();
    assert!(
        bytes_before.is_some_and(|bytes| path.bytes > bytes),
        "found out, used again: {path:?}"
    );
    assert!(matches!(path.health, Health::Ok | Health::Recovered), "{path:?}");
    drop(pulled);
}

/// Who is told has all of it in memory, and is told once and in order, with the word of the sender where there is one.
#[test]
fn who_is_told_over_two_devices_has_all_of_it() {
    let Some(first) = devices() else { return };
    let Some((_gone, second)) = second_cable() else { return };
    for (how, op) in [
        (SPRAY, (|number| Op::WriteImm(7 + number as u32)) as fn(u64) -> Op),
        (DQPLB, |_number| Op::WriteNotify),
    ] {
        let ends = Ends::open(&first, &second, &ConnectConfig::default());
        let mut block: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(8 << 20);
        let bump = Bump::new(&mut block);
        let near = ends.near.place(&bump, &ends.far, how);
        let far = ends.far.place(&bump, &ends.near, how);
        let now = clock();
        let (mut receives, mut posted, mut over, mut told) = (0, 0, 0, 0);
        while over < WRITES || told < WRITES {
            let paths = [near.vqp, far.vqp].map(|vqp| [0, 1].map(|path| vqp.path(path)));
            assert!(now().1 < Duration::from_secs(60), "{over} over, {told} told: {paths:?}");
            while receives < told + 4 {
                let kind = RecvKind::Notification;
                let wr = RecvWr { context: receives, kind, sges: &[] };
                far.vqp.post_recv(&wr).unwrap();
                receives += 1;
            }
            // A place is written again when its former message was looked at.
            while posted < WRITES.min(told + DEEP) {
                post(&ends, &near, op(posted), posted).unwrap();
                posted += 1;
            }
            for (end, count) in [(&near, &mut over), (&far, &mut told)] {
                let _outcome = end.vcq.turn(now().0, Budget::DEFAULT);
                while let Some(completion) = end.vcq.take() {
                    assert_eq!(completion.context, *count, "once, in order");
                    let done = completion.outcome.unwrap();
                    if completion.direction == Direction::Recv {
                        assert!(ends.far.is_whole(*count), "message {count} is there");
                        let word =
                            if let Op::WriteImm(word) = op(*count) { Some(word) } else { None };
                        assert_eq!(done.immediate, word);
                    }
                    *count += 1;
                }
            }
        }
        for path in 0..2 {
            let figures = near.vqp.path(path).unwrap();
            assert!(figures.bytes > WRITE, "either device carries: {figures:?}");
        }
        assert_eq!([near.vcq, far.vcq].map(|vcq| vcq.strays().unknown), [0, 0]);
    }
}
