//! A queue of completions that is too short for what completes: the kernel keeps the rest, and nothing of it is lost or out of order.

use std::io::Write;
use std::net::TcpStream;
use std::time::Instant;

use spinwire_dataplane::file::{FileConfig, Files};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::stream::{StreamConfig, StreamEvent};
use spinwire_hostshim::clock::TscClock;
use spinwire_hostshim::file::{FileOptions, HostFile};
use spinwire_hostshim::uring::{Feature, FeatureSet, Uring, UringConfig};

use super::world::{CONFIG, PATIENCE, bytes, no_table, play_on};

const ENTRIES: u32 = 4;

const fn narrow(ring: UringConfig, deny: FeatureSet) -> UringConfig {
    UringConfig { entries: ENTRIES, completions: ENTRIES, deny, ..ring }
}

/// Clients come and speak while the service hands in and hears nothing.
#[test]
fn streams_hear_what_did_not_fit() {
    let all = FeatureSet::EMPTY;
    for deny in [all, no_table(), all.with(Feature::DeferTaskrun).with(Feature::TaskrunFlag)] {
        let ring = narrow(UringConfig::for_streams(&CONFIG), deny);
        let most = StreamConfig { conns: 32, ..CONFIG };
        play_on((&most, UringConfig { arena_bytes: most.arena_bytes(), ..ring }), |world| {
            world.turn();
            let mut clients: Vec<TcpStream> = Vec::new();
            for round in 0..3 {
                for _ in 0..6 {
                    clients.push(TcpStream::connect(world.address).unwrap());
                    world.streams.flush();
                }
                for (number, mut client) in clients.iter().enumerate() {
                    client.write_all(&bytes(200, number + round)).unwrap();
                    world.streams.flush();
                }
                (0..3).for_each(|_| world.turn());
            }
            let mut conns = Vec::new();
            let mut came = vec![Vec::new(); clients.len()];
            world.until("everything", |world| {
                for event in world.heard.drain(..) {
                    match event {
                        StreamEvent::Accepted { conn, .. } => conns.push(conn),
                        StreamEvent::Received { conn, bytes } => {
                            let at = conns.iter().position(|of| *of == conn).unwrap();
                            came[at].extend_from_slice(&bytes);
                        }
                        other => panic!("{deny}: {other:?}"),
                    }
                }
                came.iter().map(Vec::len).sum::<usize>() == 200 * (18 + 12 + 6)
            });
            for (number, came) in came.iter().enumerate() {
                let from = number / 6;
                let said: Vec<u8> =
                    (from..3).flat_map(|round| bytes(200, number + round)).collect();
                assert!(*came == said, "{deny}: {number} is heard in order");
            }
            let counters = world.streams.ring().counters();
            assert!(counters.overflows > 0, "{deny}: {counters:?}");
            assert_eq!((world.streams.ring().lost(), counters.cut), ((0, 0), 0));
            assert_eq!(world.streams.counters().stale, 0);
        });
    }
}

/// As many chains as there are, handed in before the first result is looked at.
#[test]
fn files_end_what_did_not_fit() {
    let path = std::env::temp_dir().join(format!("overflow-{}.log", std::process::id()));
    let options = FileOptions { truncate: true, direct: false, ..FileOptions::default() };
    let file = HostFile::open(&path, &options).unwrap();
    let config = FileConfig {
        files: 1,
        operations: 40,
        entries_max: 2,
        buffers: (40, 4096),
        fixed_buffers: false,
    };
    let ring = UringConfig { arena_bytes: config.arena_bytes(), ..UringConfig::default() };
    let uring = Uring::open(&narrow(ring, FeatureSet::EMPTY)).unwrap();
    let ring = uring.ring().unwrap();
    let files = Files::place(&ring, &config).unwrap();
    let log = files.add(file.file_ref(), file.shape()).unwrap();
    let clock = TscClock::calibrate();
    for round in 0..3_u8 {
        for number in 0..40_u8 {
            let mut loan = files.lend().unwrap();
            loan.fill(&[number + round; 100]).unwrap();
            let mut chain = files.chain().unwrap();
            chain.write(log, u64::from(number) * 100, loan, 0).map_err(|r| r.error).unwrap();
            chain.sync(log, 1).unwrap();
            chain.submit().unwrap();
            files.flush();
        }
        let (mut ended, begun) = (0, Instant::now());
        while ended < 80 {
            assert!(begun.elapsed() < PATIENCE, "{ended} of 80");
            let _busy = files.turn(clock.now(), Budget::DEFAULT);
            while let Some(done) = files.poll() {
                assert_eq!(done.result, Ok(()));
                ended += 1;
            }
        }
        let wanted: Vec<u8> = (0..40).flat_map(|number| [number + round; 100]).collect();
        assert!(std::fs::read(&path).unwrap() == wanted);
    }
    assert!(ring.counters().overflows > 0, "{:?}", ring.counters());
    assert_eq!((ring.lost(), files.counters().stale, files.under_way()), ((0, 0), 0, 0));
    std::fs::remove_file(path).unwrap();
}
