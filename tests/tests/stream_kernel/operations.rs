//! Time limits of single operations on the kernel at hand: what it has is really cancelled.

use core::time::Duration;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;

use spinwire_dataplane::stream::{ConnId, StreamEvent, Undone};
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_hostshim::uring::{Feature, FeatureSet};

use super::world::{CONFIG, World, play};

impl World<'_, '_> {
    fn in_ms(&self, milliseconds: u64) -> Instant {
        self.clock.now().saturating_add(Nanos::from_millis(milliseconds))
    }

    /// A connection whose other end takes nothing: how much it has already.
    fn full(&self) -> (UnixStream, ConnId, usize) {
        let (client, end) = UnixStream::pair().unwrap();
        end.set_nonblocking(true).unwrap();
        let mut filled = 0;
        for piece in [4096, 1] {
            loop {
                match (&end).write(&vec![b'.'; piece]) {
                    Ok(count) => filled += count,
                    Err(e) => break assert_eq!(e.kind(), ErrorKind::WouldBlock),
                }
            }
        }
        end.set_nonblocking(false).unwrap();
        client.set_nonblocking(true).unwrap();
        (client, self.streams.adopt(end.into_raw_fd()).unwrap(), filled)
    }

    fn undone(&mut self, of: u64) -> Undone {
        self.event("what was taken back", |event| match event {
            StreamEvent::NotSent { context, why, .. } if *context == of => Some(*why),
            _ => None,
        })
    }
}

/// Nothing of it has gone: the connection goes on, and every byte that arrives is one that was not taken back.
#[test]
fn a_send_that_the_kernel_has_comes_back_when_its_time_is_up() {
    for deny in [FeatureSet::EMPTY, FeatureSet::EMPTY.with(Feature::SendZc)] {
        play((&CONFIG, deny), |world| {
            let (client, conn, filled) = world.full();
            for (context, cancel) in [(1, false), (2, true)] {
                let loan = world.lend(b"late");
                let until = if cancel { Instant::NEVER } else { world.in_ms(30) };
                world.streams.send_until(conn, (loan, context), until).unwrap();
                world.turn();
                if cancel {
                    world.streams.cancel_send(conn, context).unwrap();
                }
                let why = if cancel { Undone::Cancelled } else { Undone::TimedOut };
                assert_eq!(world.undone(context), why);
            }
            world.write(conn, b"more", 4);
            let mut came = Vec::new();
            let mut room = vec![0; 1 << 16];
            world.until("all of it", |_| {
                match (&client).read(&mut room) {
                    Ok(count) => came.extend_from_slice(&room[..count]),
                    Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
                }
                came.len() >= filled + 4
            });
            assert_eq!(came.get(filled..), Some(&b"more"[..]));
        });
    }
}

#[test]
fn nothing_comes_after_a_receive_was_late() {
    for deny in [FeatureSet::EMPTY, FeatureSet::EMPTY.with(Feature::MultishotReceive)] {
        play((&CONFIG, deny), |world| {
            let (client, conn) = world.client();
            world.streams.receive_until(conn, world.in_ms(20)).unwrap();
            world.event("that it was late", |event| {
                matches!(event, StreamEvent::ReceiveTimedOut(of) if *of == conn).then_some(())
            });
            (&client).write_all(b"here").unwrap();
            for _ in 0..20 {
                std::thread::sleep(Duration::from_millis(1));
                world.turn();
            }
            assert!(world.heard.is_empty(), "{:?}", world.heard);
            world.streams.receive_until(conn, world.in_ms(10_000)).unwrap();
            assert_eq!(world.receive(conn, 4), b"here");
        });
    }
}
