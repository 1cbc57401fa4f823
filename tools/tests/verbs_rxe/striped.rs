//! A virtual queue pair over two devices, each on a cable of its own.

use core::mem::MaybeUninit;
use core::time::Duration;
use std::time::Instant as RealTime;

use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::raw::line::{copy_in, copy_out};
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_dataplane::vqp::{
    Health, Op, RegionId, Regions, Remote, Replay, Scheme, SendWr, Setup, Sge, Signal, VirtualCq,
    VirtualQp, Visibility, VqpConfig,
};
use spinwire_hostshim::verbs::{
    Access, CompletionQueue, Device, Pair, PairConfig, PairKind, ProtectionDomain, Region,
};

use super::faults::{Mended, network};
use super::rig::{BYTES, End, devices, quick};

/// Bytes of a write, and writes.
const WRITE: u64 = 64 << 10;
const WRITES: u64 = 24;
/// Writes under way.
const DEEP: u64 = 4;

/// A second cable, `wire0` and `wire1`, with `rxe2` and `rxe3` at its ends. The devices go with it.
pub(crate) fn lay_second_cable() -> bool {
    network("ip link add wire0 mtu 9000 type veth peer name wire1 mtu 9000")
        && [
            "ip link set wire0 up",
            "ip link set wire1 up",
            "ip addr add 10.78.0.1/24 dev wire0",
            "ip addr add 10.78.0.2/24 dev wire1",
            "rdma link add rxe2 type rxe netdev wire0",
            "rdma link add rxe3 type rxe netdev wire1",
        ]
        .into_iter()
        .all(network)
}

fn second_cable() -> Option<(Mended, [Device; 2])> {
    lay_second_cable().then(|| {
        let gone = Mended("ip link del wire0");
        (gone, ["rxe2", "rxe3"].map(|name| Device::open(name).unwrap()))
    })
}

fn connect(near: &Pair, far: &Pair) {
    near.connect(far.card(), &quick()).unwrap();
    far.connect(near.card(), &quick()).unwrap();
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

/// Both ends.
struct Ends {
    near: Side,
    far: Side,
}

impl Ends {
    fn open(first: &[Device; 2], second: &[Device; 2]) -> Self {
        let side = |at: usize| Side::open([&first[at], &second[at]]);
        let (near, far) = (side(0), side(1));
        near.paths.iter().zip(&far.paths).for_each(|(near, far)| connect(&near.pair, &far.pair));
        connect(&near.notify, &far.notify);
        Self { near, far }
    }

    /// The virtual queue pair, its queue, and the names of either memory.
    fn place<'a>(&'a self, bump: &Bump<'a>) -> (&'a Vqp<'a>, &'a Vcq<'a>, RegionId, RegionId) {
        let length = BYTES as u64;
        let (ours, theirs) = (&self.near.memory, &self.far.memory);
        let address = ours[0].address();
        let local = &*bump.value(Regions::place(bump, 4, 2).unwrap()).unwrap();
        let keys = [0, 1].map(|device: usize| Some(ours[device].local_key()));
        let own = local.register(address, length - 64, &keys).unwrap();
        let scratch = local.register(address + length - 64, 8, &keys).unwrap();
        let remote = &*bump.value(Regions::place(bump, 4, 2).unwrap()).unwrap();
        let keys = [0, 1].map(|device: usize| Some(theirs[device].remote_key().rkey));
        let peer = remote.register(theirs[0].address(), length, &keys).unwrap();
        let config = VqpConfig {
            scheme: Scheme::Spray(Visibility::FlushingRead(scratch)),
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
        let [first, second] = &self.near.paths[..] else { panic!("two paths") };
        let paths = [(&first.pair, 0), (&second.pair, 1)];
        let setup = Setup { paths: &paths, notify: Some((&self.near.notify, 1)), local, remote };
        let vqp = VirtualQp::place(bump, &setup, &config).unwrap();
        let queues = [(&*first.cq, 0), (&*second.cq, 1)];
        let vcq = VirtualCq::place(bump, &queues, 4).unwrap();
        vcq.attach(vqp).unwrap();
        (vqp, vcq, own, peer)
    }

    /// Sets the first path up anew, at both ends.
    fn renew(&self) {
        let (near, far) = (&self.near.paths[0].pair, &self.far.paths[0].pair);
        for pair in [near, far] {
            pair.fail().unwrap();
            pair.reset().unwrap();
        }
        connect(near, far);
    }
}

fn post(ends: &Ends, vqp: &Vqp<'_>, (own, peer): (RegionId, RegionId), number: u64) {
    let offset = number % DEEP * WRITE;
    assert!(copy_in(ends.near.memory[0].lines(), offset as usize, &pattern(number)));
    let sges = [Sge { region: own, offset, length: WRITE }];
    let remote = Some(Remote { region: peer, offset });
    let signal = Signal::Always;
    vqp.post_send(&SendWr { context: number, op: Op::Write, sges: &sges, remote, signal }).unwrap();
    vqp.ring_doorbell();
}

#[test]
fn one_of_two_cables_is_pulled_and_put_back_under_load_and_nothing_is_lost() {
    let Some(first) = devices() else { return };
    let Some((_gone, second)) = second_cable() else { return };
    let ends = Ends::open(&first, &second);
    let mut block: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(4 << 20);
    let bump = Bump::new(&mut block);
    let (vqp, vcq, own, peer) = ends.place(&bump);
    let from = RealTime::now();
    let now = || Instant::from_nanos(u64::try_from(from.elapsed().as_nanos()).unwrap());
    let (mut posted, mut done, mut bytes_before) = (0, 0, None);
    let mut pulled = None;
    while done < WRITES {
        assert!(from.elapsed() < Duration::from_secs(100), "{done} of {WRITES}: {:?}", vqp.path(0));
        // The last quarter goes over both paths again.
        let most = if bytes_before.is_some() { WRITES } else { WRITES / 4 * 3 };
        if posted < most && posted < done + DEEP {
            post(&ends, vqp, (own, peer), posted);
            posted += 1;
        }
        let _outcome = vcq.turn(now(), Budget::DEFAULT);
        while let Some(completion) = vcq.take() {
            assert_eq!(completion.context, done, "in posting order");
            completion.outcome.unwrap();
            let mut came = vec![0; WRITE as usize];
            assert!(copy_out(
                ends.far.memory[1].lines(),
                (done % DEEP * WRITE) as usize,
                &mut came
            ));
            assert!(came == pattern(done), "write {done} is whole");
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
