//! A kernel with a network and a disk, both of which do things when they want.

use core::mem::MaybeUninit;

use spinwire_dataplane::file::{FileRef, FileShape, Files};
use spinwire_dataplane::id::{Generation, OpTag, WrId};
use spinwire_dataplane::services::{Strays, StreamsAndFiles, TwoRings};
use spinwire_dataplane::stream::{StreamConfig, Streams};
use spinwire_dataplane::time::Instant;
use spinwire_dataplane::uring::Ring;
use spinwire_layouts::uring::{Cqe, Sqe, op, setup};
use spinwire_tests::fake_kernel::{FakeConfig, FakeKernel};
use spinwire_tests::fake_net::plan::Plan;
use spinwire_tests::fake_net::{FakeNet, Manner, memory};
use spinwire_tests::rng::Rng;

use super::{CLIENTS, LoggedEcho, byte_of, file_config, of_client, stream_config};

const LOG: i32 = 7;
const EINTR: i32 = -4;
const ECANCELED: i32 = -125;
/// Bytes of each client.
const BYTES: usize = 1500;
const PATIENCE: usize = 60_000;

/// A file: what was written to it, and what of that a sync has made durable.
#[derive(Default)]
struct Disk {
    bytes: Vec<u8>,
    durable: usize,
    /// Chains under way, each with the entry that is next.
    chains: Vec<(Vec<Sqe>, usize)>,
    broken: usize,
}

impl Disk {
    /// Gets on with one entry of one chain.
    fn step(&mut self, kernel: &FakeKernel, rng: &mut Rng) {
        if self.chains.is_empty() {
            return;
        }
        let at = rng.index(self.chains.len());
        let (chain, next) = &mut self.chains[at];
        let entry = chain[*next];
        *next += 1;
        assert_eq!((entry.fd, entry.off), (LOG, entry.off), "of the log: {entry:?}");
        let wanted = i32::try_from(entry.len).unwrap();
        let result = match rng.below(10) {
            0 => EINTR,
            1 if wanted > 1 => {
                i32::try_from(rng.between(1, usize::try_from(wanted - 1).unwrap())).unwrap()
            }
            _ => wanted,
        };
        match entry.opcode {
            op::WRITE => self.write(&entry, result.max(0)),
            op::FSYNC if result == wanted => self.durable = self.bytes.len(),
            op::FSYNC => {}
            other => panic!("nobody asked for operation {other}"),
        }
        kernel.complete(entry.user_data, result, 0);
        let (chain, next) = &self.chains[at];
        if result == wanted && *next < chain.len() {
            return;
        }
        let (chain, next) = self.chains.swap_remove(at);
        self.broken += usize::from(next < chain.len());
        for entry in &chain[next..] {
            kernel.complete(entry.user_data, ECANCELED, 0);
        }
    }

    fn write(&mut self, entry: &Sqe, length: i32) {
        let (from, length) =
            (usize::try_from(entry.off).unwrap(), usize::try_from(length).unwrap());
        let end = from + length;
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[from..end].copy_from_slice(&memory::read(entry.addr, length));
    }
}

fn kernel_of(seed: u64) -> FakeConfig {
    let deferred = setup::DEFER_TASKRUN | setup::TASKRUN_FLAG;
    let flags = setup::NO_SQARRAY | if seed.is_multiple_of(3) { 0 } else { deferred };
    FakeConfig {
        sq_entries: 4 << (seed % 4),
        cq_entries: 8 << (seed % 4),
        flags,
        ..FakeConfig::default()
    }
}

fn run(seed: u64) -> usize {
    let mut rng = Rng::new(seed);
    let (config, files) = (stream_config(), file_config());
    let features = Plan::any(seed).config.features;
    let config = StreamConfig { features, ..config };
    let kernel = FakeKernel::new(kernel_of(seed));
    let mut block =
        vec![MaybeUninit::uninit(); config.arena_bytes() + files.arena_bytes() + (64 << 10)];
    let ring = Ring::new(kernel.memory().unwrap(), kernel.arena(&mut block), &kernel);
    let streams = Streams::place(&ring, 0, &config).unwrap();
    let files = Files::place(&ring, &files).unwrap();
    let log = files.add(FileRef::Descriptor(LOG), FileShape::BUFFERED).unwrap();
    let both = StreamsAndFiles::new(&streams, &files).unwrap();
    let mut service = LoggedEcho::new(both, log);
    let manner = Manner { ends: 20, misses: 20, shortens: 20, ..Manner::default() };
    let mut net = FakeNet::new(&kernel, streams.buffers().registration(), manner);
    let listens_at = net.listener();
    streams.listen(listens_at).unwrap();
    let mut disk = Disk::default();
    for client in 0..CLIENTS {
        let peer = net.peer();
        assert_eq!(peer, client);
        net.arrive(listens_at, peer);
    }
    let mut said = [0; CLIENTS];
    for turn in 0..PATIENCE {
        let client = rng.index(CLIENTS);
        let more = rng.between(0, 300).min(BYTES - said[client]);
        net.peers[client].outgoing.extend((0..more).map(|at| byte_of(client, said[client] + at)));
        net.peers[client].window = rng.between(0, 2000);
        said[client] += more;
        service.turn(Instant::from_nanos(u64::try_from(turn).unwrap() * 1000));
        while let Some(chain) = kernel.taken() {
            match chain[0].opcode {
                op::WRITE | op::FSYNC => disk.chains.push((chain, 0)),
                _ => net.take(chain, &mut rng),
            }
        }
        (0..rng.between(0, 3)).for_each(|_| net.go_on(&mut rng));
        (0..rng.between(0, 3)).for_each(|_| disk.step(&kernel, &mut rng));
        // Nobody has an answer that a loss of power would make a lie.
        let durable = &disk.bytes[..disk.durable];
        for (client, peer) in net.peers.iter().enumerate() {
            assert!(
                of_client(durable, client).starts_with(&peer.incoming),
                "turn {turn}, seed {seed}"
            );
        }
        if net.peers.iter().all(|peer| peer.incoming.len() == BYTES) {
            break;
        }
    }
    for (client, peer) in net.peers.iter().enumerate() {
        let all: Vec<u8> = (0..BYTES).map(|at| byte_of(client, at)).collect();
        assert!(peer.incoming == all, "client {client} has all of its answers, seed {seed}");
    }
    assert!(service.is_at_rest());
    assert_eq!(service.both.strays(), Strays::default());
    assert_eq!((streams.counters().stale, files.counters().stale), (0, 0));
    disk.broken
}

#[test]
fn what_is_answered_is_on_the_disk_whatever_the_kernel_does() {
    let broken: usize = (0..10).map(run).sum();
    assert!(broken > 20, "chains broke: {broken}");
}

/// What belongs to neither is counted, and the last of it can be had; its buffer goes back.
#[test]
fn what_is_nobodys_is_said() {
    let (config, file_config) = (stream_config(), file_config());
    let kernels = [(); 2].map(|()| FakeKernel::new(kernel_of(1)));
    let bytes = config.arena_bytes() + file_config.arena_bytes() + (64 << 10);
    let mut blocks = [(); 2].map(|()| vec![MaybeUninit::uninit(); bytes]);
    let [block, other_block] = &mut blocks;
    let ring = Ring::new(kernels[0].memory().unwrap(), kernels[0].arena(block), &kernels[0]);
    let other = Ring::new(kernels[1].memory().unwrap(), kernels[1].arena(other_block), &kernels[1]);
    let streams = Streams::place(&ring, 0, &config).unwrap();
    let elsewhere = Files::place(&other, &file_config).unwrap();
    assert_eq!(StreamsAndFiles::new(&streams, &elsewhere).err(), Some(TwoRings));
    let files = Files::place(&ring, &file_config).unwrap();
    let log = files.add(FileRef::Descriptor(LOG), FileShape::BUFFERED).unwrap();
    let mut service = LoggedEcho::new(StreamsAndFiles::new(&streams, &files).unwrap(), log);
    service.turn(Instant::ORIGIN);
    let foreign = WrId::new(OpTag::Send, Generation::FIRST, 3).as_raw();
    for (count, user_data) in (1_u64..).zip([foreign, u64::MAX, 0xFF << 56]) {
        kernels[0].complete(user_data, -9, 0);
        (0..3).for_each(|_| service.turn(Instant::ORIGIN));
        let last = Some(Cqe { user_data, res: -9, flags: 0 });
        assert_eq!(service.both.strays(), Strays { count, last });
    }
    // Of a service, but of none of its operations: that service counts it.
    kernels[0].complete(WrId::new(OpTag::File, Generation::FIRST, 1).as_raw(), 0, 0);
    kernels[0].complete(WrId::new(OpTag::Receive, Generation::FIRST, 1).as_raw(), 0, 0);
    (0..3).for_each(|_| service.turn(Instant::ORIGIN));
    assert_eq!((streams.counters().stale, files.counters().stale), (1, 1));
    assert_eq!(service.both.strays().count, 3);
}
