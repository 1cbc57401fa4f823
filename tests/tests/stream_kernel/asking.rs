//! Services that ask (`StreamConfig::ask_max`) and sleep in between: who is waited for in the end is who wakes them.

use core::time::Duration;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::stream::{StreamConfig, StreamEvent};
use spinwire_dataplane::sync::{AtomicU32, Ordering};
use spinwire_hostshim::uring::{FeatureSet, News};

use super::world::{CONFIG, PATIENCE, World, play};

const ASKING: StreamConfig = StreamConfig { ask_max: 2, ..CONFIG };

/// Sleeps of which nothing may wake but what comes.
const LONG: Duration = Duration::from_secs(20);

/// Turns until there is nothing to do; then sleeps. Whether it was woken.
fn turn_and_sleep(world: &mut World<'_, '_>, news: &News, sleeps: &AtomicU32) -> bool {
    let _told_before_these_turns = news.clear();
    loop {
        let outcome = world.streams.turn(world.clock.now(), Budget::DEFAULT);
        let mut events = false;
        while let Some(event) = world.streams.poll() {
            events = true;
            match event {
                StreamEvent::Received { conn, bytes } => {
                    world.streams.send_unsignaled(conn, bytes).unwrap();
                }
                StreamEvent::PeerClosed(conn) => world.streams.close(conn).unwrap(),
                other => world.heard.push(other),
            }
        }
        world.streams.audit().unwrap();
        if !outcome.is_busy() && !events {
            // Pairs with the Acquire of who waits for it: everybody was asked in vain.
            sleeps.store(1, Ordering::Release);
            let woken = news.sleep(world.streams, world.clock.now(), LONG).unwrap();
            sleeps.store(0, Ordering::Release);
            return woken;
        }
    }
}

#[test]
fn who_sleeps_is_woken_by_who_was_asked_in_vain() {
    play((&ASKING, FeatureSet::EMPTY), |world| {
        let news = world.uring.news().unwrap();
        let address = world.address;
        let sleeps = AtomicU32::new(0);
        std::thread::scope(|threads| {
            // Nobody does anything before it sleeps, having asked everybody in vain.
            let asleep = || {
                let deadline = Instant::now() + PATIENCE;
                while sleeps.load(Ordering::Acquire) == 0 {
                    assert!(Instant::now() < deadline, "it never sleeps, or is over");
                    std::thread::sleep(Duration::from_micros(100));
                }
            };
            for _ in 0..3 {
                threads.spawn(move || {
                    let mut client = TcpStream::connect(address).unwrap();
                    client.set_nodelay(true).unwrap();
                    client.set_read_timeout(Some(PATIENCE)).unwrap();
                    let mut back = [0; 5];
                    for _ in 0..10 {
                        asleep();
                        client.write_all(b"hello").unwrap();
                        client.read_exact(&mut back).unwrap();
                        assert_eq!(&back, b"hello");
                    }
                    asleep();
                });
            }
            let ended = |event: &StreamEvent<'_>| matches!(event, StreamEvent::Closed { .. });
            while world.heard.iter().filter(|event| ended(event)).count() < 3 {
                assert!(
                    turn_and_sleep(world, &news, &sleeps),
                    "nobody wakes it: {:?}",
                    world.heard
                );
            }
        });
        let counted = world.streams.counters();
        // Each is waited for when it has come, and again after each of its ten messages, when it was asked in vain.
        assert!(counted.waits == 33 && counted.vain_asks >= 60, "{counted:?}");
    });
}
