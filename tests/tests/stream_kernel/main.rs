//! Streams on the kernel at hand: every path that a missing feature leads to, clients that behave and that do not, limits of descriptors and
//! buffers, rings that close with everything under way.
//!
//! Both ends turn in one thread, so that a test says in which order things happen; what the kernel does in between is the
//! kernel's own.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::large_stack_frames,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at the first thing that is not as expected"
)]

mod asking;
mod descriptors;
mod operations;
mod overflow;
mod soak;
mod world;

use core::time::Duration;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::IntoRawFd;
use std::time::Instant;

use spinwire_dataplane::stream::{CloseReason, StreamConfig, StreamEvent};
use spinwire_dataplane::time::Nanos;
use spinwire_hostshim::socket::{self, SocketOptions};
use spinwire_hostshim::uring::{Feature, FeatureSet, UringConfig};

use world::{CONFIG, PATIENCE, bytes, no_table, open_files, play, play_on, with_a_thread};

/// Rings without one thing each, without all, and with all.
fn denials() -> Vec<FeatureSet> {
    let each = [
        Feature::MultishotAccept,
        Feature::MultishotReceive,
        Feature::Bundles,
        Feature::SendZc,
        // Then messages of many parts go uncopied as one.
        Feature::Buffers,
        Feature::Files,
        Feature::PromptClose,
        Feature::DeferTaskrun,
        Feature::TaskrunFlag,
        Feature::NoSqArray,
        Feature::RegisteredRing,
        Feature::SubmitAll,
    ];
    let mut all: Vec<_> = each.iter().map(|one| FeatureSet::EMPTY.with(*one)).collect();
    all.push(each.into_iter().collect());
    all.push(FeatureSet::EMPTY);
    all
}

#[test]
fn bytes_go_both_ways_whatever_the_kernel_lacks() {
    for (deny, ask_max) in denials().into_iter().flat_map(|deny| [(deny, 0), (deny, 2)]) {
        let large = StreamConfig { send_buffers: (16, 64 << 10), ask_max, ..CONFIG };
        play((&large, deny), |world| {
            let (client, conn) = world.client();
            // Towards the service, by the byte and at once.
            let there = bytes(60_000, 1);
            for part in there[..50].chunks(1) {
                (&client).write_all(part).unwrap();
                world.turn();
            }
            let mut rest = &there[50..];
            let mut came = Vec::new();
            world.until("all of it", |world| {
                if let Ok(count) = (&client).write(rest) {
                    rest = &rest[count..];
                }
                came.extend(world.take_bytes(conn));
                came.len() == there.len()
            });
            assert!(came == there, "{deny}");
            // And back: small copies, which go together, and large loans among them, which go in chains.
            let back = bytes(300_000, 2);
            let mut wanted = Vec::new();
            let mut at = 0;
            for (round, size) in
                [10, 40_000, 7, 30_000, 50, 60, 64 << 10, 20_000].into_iter().enumerate()
            {
                let part = &back[at..at + size];
                at += size;
                wanted.extend_from_slice(part);
                if size > 4096 && round % 2 == 1 {
                    let loan = world.lend(part);
                    world.streams.send(conn, loan, size.try_into().unwrap()).unwrap();
                } else {
                    world.write(conn, part, 3000);
                }
            }
            let got = world.read(&client, wanted.len());
            assert!(got == wanted, "{deny}: {} bytes", got.len());
            let mut loans = 0;
            world.until("the loans", |world| {
                let before = world.heard.len();
                world.heard.retain(|event| !matches!(event, StreamEvent::Sent { .. }));
                loans += before - world.heard.len();
                loans == 3
            });
            // Half-closed by the client, then closed here.
            client.shutdown(Shutdown::Write).unwrap();
            world.event("the end of the stream", |event| {
                matches!(event, StreamEvent::PeerClosed(which) if *which == conn).then_some(())
            });
            world.write(conn, b"one more", 8);
            world.streams.close(conn).unwrap();
            assert_eq!(world.read(&client, 8), b"one more");
            world.read_end(&client);
            assert_eq!(world.closed(conn), CloseReason::Closed);
            assert_eq!((world.streams.len(), world.streams.counters().stale), (1, 0), "{deny}");
        });
    }
}

#[test]
fn a_service_connects_and_hears_why_it_could_not() {
    play((&CONFIG, FeatureSet::EMPTY), |world| {
        let there = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = |address| {
            let out = socket::unconnected(address, &SocketOptions::default()).unwrap();
            (out.fd.into_raw_fd(), out.remote)
        };
        let (fd, remote) = to(there.local_addr().unwrap());
        let conn = world.streams.connect(fd, &remote).unwrap();
        // Written before there is anybody.
        world.streams.write(conn, b"hello").unwrap();
        world.event("a connection", |event| {
            matches!(event, StreamEvent::Connected(which) if *which == conn).then_some(())
        });
        let (far, _) = there.accept().unwrap();
        far.set_nonblocking(true).unwrap();
        assert_eq!(world.read(&far, 5), b"hello");
        (&far).write_all(b"back").unwrap();
        assert_eq!(world.receive(conn, 4), b"back");
        // Nobody listens there.
        let nobody = there.local_addr().unwrap();
        drop((there, far));
        world.event("the end", |event| {
            matches!(event, StreamEvent::PeerClosed(which) if *which == conn).then_some(())
        });
        let (fd, remote) = to(nobody);
        let refused = world.streams.connect(fd, &remote).unwrap();
        assert_eq!(world.closed(refused), CloseReason::Errno(libc::ECONNREFUSED));
    });
}

#[test]
fn who_resets_or_never_reads_harms_nobody_else() {
    let config = StreamConfig {
        send_timeout: Nanos::from_millis(1000),
        queue_high: 64 << 10,
        queue_low: 16 << 10,
        queue_max: 256 << 10,
        send_buffers: (128, 4096),
        ..CONFIG
    };
    play((&config, FeatureSet::EMPTY), |world| {
        let (lazy, stuck) = world.client();
        let (good, conn) = world.client();
        let (rude, reset) = world.client();
        let block = bytes(4096, 3);
        // More than the sockets and the queue take.
        let mut refused = 0;
        world.until("no room", |world| {
            refused += u32::from(world.streams.write(stuck, &block).is_err());
            assert!(world.streams.queued(stuck).unwrap_or(0) <= 256 << 10);
            refused > 100
        });
        // A connection that is closed with bytes unread is reset.
        world.streams.write(reset, b"unread").unwrap();
        world.turn();
        std::thread::sleep(Duration::from_millis(5));
        drop(rude);
        for round in 0..20 {
            (&good).write_all(&block[..100 + round]).unwrap();
            let came = world.receive(conn, 100 + round);
            // What the stuck one holds may be all that there is.
            world.write(conn, &came, 4096);
            assert_eq!(world.read(&good, 100 + round), &block[..100 + round]);
        }
        let end = world.event("the reset", |event| match event {
            StreamEvent::Closed { conn: which, reason } if *which == reset => Some(Some(*reason)),
            StreamEvent::PeerClosed(which) if *which == reset => Some(None),
            _ => None,
        });
        assert!(
            [
                None,
                Some(CloseReason::Errno(libc::ECONNRESET)),
                Some(CloseReason::Errno(libc::EPIPE))
            ]
            .contains(&end),
            "{end:?}"
        );
        assert_eq!(world.closed(stuck), CloseReason::SendTimeout);
        world.read_end(&lazy);
    });
}

/// The client has said more than the service reads, and is slow to read the answer. Where the connection does not linger, it is reset, and
/// the answer is lost on the way.
#[test]
fn the_last_bytes_arrive_though_not_all_was_read() {
    let answer = bytes(192 << 10, 7);
    for linger_timeout in [Nanos::ZERO, Nanos::from_millis(20_000)] {
        let lingers = linger_timeout != Nanos::ZERO;
        let config = StreamConfig { send_buffers: (64, 4096), linger_timeout, ..CONFIG };
        play((&config, FeatureSet::EMPTY), |world| {
            let (client, conn) = world.client();
            world.streams.pause(conn).unwrap();
            let mut unread = 0;
            while unread < 60_000 {
                unread += (&client).write(&bytes(60_000 - unread, 1)).unwrap_or(0);
            }
            world.write(conn, &answer, 4096);
            world.streams.close(conn).unwrap();
            if !lingers {
                // It does not wait for the client.
                assert_eq!(world.closed(conn), CloseReason::Closed);
            }
            let mut came = Vec::new();
            let mut buffer = [0; 1024];
            let begun = Instant::now();
            let end = loop {
                assert!(begun.elapsed() < PATIENCE);
                world.turn();
                match (&client).read(&mut buffer) {
                    Ok(0) => break Ok(()),
                    Ok(count) => came.extend_from_slice(&buffer[..count]),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                    Err(e) => break Err(e.kind()),
                }
            };
            assert!(answer.starts_with(&came));
            if !lingers {
                assert_eq!(end, Err(ErrorKind::ConnectionReset));
                return;
            }
            assert_eq!((end, came.len()), (Ok(()), answer.len()));
            // It waits for the client, and what that still says changes nothing.
            (&client).write_all(&bytes(1000, 2)).unwrap();
            for _ in 0..20 {
                world.turn();
            }
            assert!(world.streams.queued(conn).is_ok(), "it has its row");
            drop(client);
            assert_eq!(world.closed(conn), CloseReason::Closed);
            assert!(world.heard.is_empty(), "nobody wants to hear it: {:?}", world.heard);
        });
    }
}

#[test]
fn loans_that_went_uncopied_come_back_though_nobody_reads_them() {
    let config = StreamConfig {
        send_buffers: (32, 64 << 10),
        queue_max: 4 << 20,
        zero_copy_min: 4096,
        ..CONFIG
    };
    play((&config, FeatureSet::EMPTY), |world| {
        let block = bytes(64 << 10, 5);
        for round in 0..4 {
            let (lazy, conn) = world.client();
            let mut handed = 0;
            for context in 0..20 {
                let loan = world.lend(&block);
                handed += u32::from(world.streams.send(conn, loan, context).is_ok());
                world.turn();
            }
            if round % 2 == 0 {
                world.streams.abort(conn).unwrap();
            } else {
                // The other end goes instead.
                drop(lazy.try_clone().unwrap());
                lazy.shutdown(Shutdown::Both).unwrap();
                drop(lazy);
                world.streams.abort(conn).unwrap();
            }
            world.closed(conn);
            let before = world.heard.len();
            world.heard.retain(|event| {
                !matches!(event, StreamEvent::Sent { .. } | StreamEvent::NotSent { .. })
            });
            assert_eq!(u32::try_from(before - world.heard.len()).unwrap(), handed);
        }
        let mut all = Vec::new();
        while let Some(loan) = world.streams.lend() {
            all.push(loan);
        }
        assert_eq!(all.len(), 32, "every buffer is back");
    });
}

#[test]
fn without_buffers_receiving_waits_and_goes_on() {
    let few = StreamConfig { recv_buffers: (2, 64), ..CONFIG };
    for deny in denials() {
        play((&few, deny), |world| {
            let clients: Vec<_> = (0..3).map(|_| world.client()).collect();
            let data: Vec<_> = (0..3).map(|seed| bytes(1500, seed)).collect();
            for ((client, _), data) in clients.iter().zip(&data) {
                (&mut &*client).write_all(data).unwrap();
            }
            // Everything that comes is held until there is nothing more to be had.
            let mut came = vec![Vec::new(); 3];
            let mut quiet = 0;
            while quiet < 50 {
                let before = world.heard.len();
                world.turn();
                quiet = if world.heard.len() == before { quiet + 1 } else { 0 };
            }
            let held =
                world.heard.iter().filter(|e| matches!(e, StreamEvent::Received { .. })).count();
            assert_eq!(held, 2, "{deny}: as many as there are buffers");
            world.until("everything", |world| {
                for (place, (_, conn)) in came.iter_mut().zip(&clients) {
                    place.extend(world.take_bytes(*conn));
                }
                came.iter().zip(&data).all(|(came, data)| came.len() == data.len())
            });
            assert!(came == data, "{deny}");
            assert!(world.streams.counters().out_of_buffers > 0, "{deny}");
        });
    }
}

#[test]
fn more_than_there_are_rows_for_wait_their_turn() {
    let few = StreamConfig { conns: 3, ..CONFIG };
    for deny in [FeatureSet::EMPTY, FeatureSet::EMPTY.with(Feature::MultishotAccept)] {
        play((&few, deny), |world| {
            let first: Vec<_> = (0..2).map(|_| world.client()).collect();
            let late = TcpStream::connect(world.address).unwrap();
            for _ in 0..50 {
                world.turn();
            }
            assert!(!world.heard.iter().any(|e| matches!(e, StreamEvent::Accepted { .. })));
            let (client, conn) = &first[0];
            client.shutdown(Shutdown::Both).unwrap();
            world.streams.close(*conn).unwrap();
            world.closed(*conn);
            let conn = world.event("the late one", |event| match event {
                StreamEvent::Accepted { conn, .. } => Some(*conn),
                _ => None,
            });
            late.set_nonblocking(true).unwrap();
            (&late).write_all(b"late").unwrap();
            assert_eq!(world.receive(conn, 4), b"late");
        });
    }
}

#[test]
fn without_descriptors_a_listener_tries_again_later() {
    // A table of files with no place for a second connection.
    let config = StreamConfig { conns: 8, ..CONFIG };
    let ring = UringConfig { files: 1, ..UringConfig::for_streams(&config) };
    play_on((&config, ring), |world| {
        if !world.uring.stream_features().direct_files {
            eprintln!(
                "\n!! NOT RUN: no descriptors: connections are no files of a table with this kernel"
            );
            return;
        }
        let (_client, conn) = world.client();
        let waiting = TcpStream::connect(world.address).unwrap();
        let listener = world.listener;
        let errno = world.event("a failure", |event| match event {
            StreamEvent::AcceptFailed { listener: which, errno } if *which == listener => {
                Some(*errno)
            }
            _ => None,
        });
        assert_eq!(errno, libc::ENFILE);
        world.streams.close(conn).unwrap();
        world.closed(conn);
        // The kernel had taken and dropped the one that found no place; the next one does.
        drop(waiting);
        let (client, conn) = world.client();
        (&client).write_all(b"here").unwrap();
        assert_eq!(world.receive(conn, 4), b"here");
    });
}

#[test]
fn a_thread_of_the_kernel_takes_what_streams_want() {
    let denials = [FeatureSet::EMPTY, no_table(), FeatureSet::EMPTY.with(Feature::SqPoll)];
    for (deny, ask_max) in denials.into_iter().flat_map(|deny| [(deny, 0), (deny, 2)]) {
        let config = StreamConfig { ask_max, ..CONFIG };
        // Who sends more than fills a buffer is not asked.
        let sent = if ask_max == 0 { 5_000 } else { 500 };
        play_on(with_a_thread(&config, deny), |world| {
            let has = world.streams.ring().modes().sq_poll;
            assert!(!(has && deny.has(Feature::SqPoll)));
            let (client, conn) = world.client();
            for round in 0..4 {
                if round == 2 {
                    // It is asleep meanwhile, and has to be woken.
                    std::thread::sleep(Duration::from_millis(10));
                }
                let there = bytes(20_000, round);
                (&client).write_all(&there[..sent]).unwrap();
                assert!(world.receive(conn, sent) == there[..sent], "{deny}");
                world.write(conn, &there, 3000);
                assert!(world.read(&client, there.len()) == there, "{deny}");
            }
            let entered = world.streams.ring().counters();
            assert!(!has || entered.enters < entered.harvested, "{entered:?}");
            let counted = world.streams.counters();
            assert_eq!(counted.asks > 0, ask_max > 0, "{counted:?}");
            client.shutdown(Shutdown::Write).unwrap();
            world.event("its end", |event| {
                matches!(event, StreamEvent::PeerClosed(of) if *of == conn).then_some(())
            });
            world.streams.close(conn).unwrap();
            assert_eq!(world.closed(conn), CloseReason::Closed);
        });
    }
}

#[test]
fn the_idle_are_told_apart_from_those_that_talk() {
    let config = StreamConfig { idle_timeout: Nanos::from_millis(300), ..CONFIG };
    play((&config, FeatureSet::EMPTY), |world| {
        let (quiet, idle) = world.client();
        let (talks, conn) = world.client();
        let begun = Instant::now();
        let mut ended = None;
        while ended.is_none() {
            (&talks).write_all(b"x").unwrap();
            world.receive(conn, 1);
            ended = world.heard.iter().find_map(|event| match event {
                StreamEvent::Closed { conn, reason } => Some((*conn, *reason)),
                _ => None,
            });
            assert!(begun.elapsed() < PATIENCE);
        }
        assert_eq!(ended, Some((idle, CloseReason::IdleTimeout)));
        world.read_end(&quiet);
    });
}

/// In one test, as it counts the descriptors of the process: nobody else may open any meanwhile.
#[test]
fn rings_that_close_with_everything_under_way_leave_nothing_and_a_soak_neither() {
    if std::env::var_os("STREAM_ALONE").is_none() {
        let this = std::env::current_exe().unwrap();
        let name = "rings_that_close_with_everything_under_way_leave_nothing_and_a_soak_neither";
        let mut command = std::process::Command::new(this);
        let ran = command.args([name, "--exact"]).env("STREAM_ALONE", "1").output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
        return;
    }
    let before = open_files();
    for round in 0..20 {
        let config = StreamConfig { send_buffers: (8, 64 << 10), zero_copy_min: 4096, ..CONFIG };
        let files = if round % 2 == 0 { FeatureSet::EMPTY } else { no_table() };
        play((&config, files), |world| {
            let clients: Vec<_> = (0..4).map(|_| world.client()).collect();
            for (client, conn) in &clients {
                (&mut &*client).write_all(&bytes(5000, round)).unwrap();
                if let Some(mut loan) = world.streams.lend() {
                    loan.fill(&bytes(60_000, round)).unwrap();
                    world.streams.send(*conn, loan, 0).unwrap();
                }
            }
            for _ in 0..round {
                world.turn();
            }
        });
    }
    assert_eq!(open_files(), before, "closed rings have no descriptors");
    for turns in 0..4 {
        play((&CONFIG, no_table()), |world| {
            world.turn();
            let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(world.address)).collect();
            assert!(clients.iter().all(Result::is_ok));
            (0..turns).for_each(|_| world.turn());
        });
        assert_eq!(open_files(), before, "nor has what came in {turns} turns before the end");
        play_on(with_a_thread(&CONFIG, no_table()), |world| {
            let clients: Vec<_> = (0..3).map(|_| world.client()).collect();
            for (_, conn) in &clients[..turns.min(3)] {
                world.streams.abort(*conn).unwrap();
            }
            if turns == 2 {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        assert_eq!(open_files(), before, "nor where a thread of the kernel is to close them");
    }
    soak::of_streams(FeatureSet::EMPTY, before);
    soak::of_streams(no_table(), before);
}
