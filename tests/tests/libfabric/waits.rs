//! Sleeping until something comes, and telling each other who is where.

use core::time::Duration;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use spinwire_dataplane::msg::{RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::sync::{AtomicU32, Ordering};
use spinwire_hostshim::libfabric::{OfiConfig, OfiError};

use super::pair::{config, named, on_ground};
use super::{SOCKETS, TCP, TCP_MSG};

/// How long the sender says nothing.
const SILENCE: Duration = Duration::from_millis(100);

fn sleep_on(descriptors: &[i32], most: Duration) -> bool {
    let mut all: Vec<libc::pollfd> = descriptors
        .iter()
        .map(|&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 })
        .collect();
    let most = i32::try_from(most.as_millis()).unwrap();
    #[expect(unsafe_code, reason = "poll(2)")]
    // SAFETY: as many entries as are said.
    let ready = unsafe { libc::poll(all.as_mut_ptr(), all.len().try_into().unwrap(), most) };
    ready > 0
}

/// Who sleeps on the descriptors is woken by a message, and by nothing else for as long as there is none.
#[test]
fn a_message_wakes_who_sleeps_on_the_descriptors() {
    for choice in [TCP, TCP_MSG, SOCKETS] {
        let (here, there) = UnixStream::pair().unwrap();
        let silent = &AtomicU32::new(1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                on_ground(|ground| {
                    let a = ground.end("a", &config(&choice));
                    let me = (&named("a"), &a.provider().address().unwrap());
                    let other = ground.names.exchange(&there, me).unwrap();
                    let to = a.connect(&other).unwrap();
                    std::thread::sleep(SILENCE);
                    silent.store(0, Ordering::Relaxed);
                    let send = || a.inject(SendTo::peer(to), b"wake up").is_ok();
                    ground.until("it is taken", &[&a], send);
                    // Until the other end hangs up.
                    there.set_nonblocking(true).unwrap();
                    let heard = || (&there).read(&mut [0]).is_ok_and(|bytes| bytes == 0);
                    ground.until("it was heard", &[&a], heard);
                });
            });
            on_ground(|ground| {
                let b = ground.end("b", &OfiConfig { waits: true, ..config(&choice) });
                b.post_recv(RecvFrom::any(), ground.loan(), 1).unwrap();
                let me = (&named("b"), &b.provider().address().unwrap());
                assert_eq!(ground.names.exchange(&here, me).unwrap(), named("a"));
                let descriptors = b.provider().descriptors().unwrap();
                let (from, mut slept, mut looks) = (Instant::now(), Duration::ZERO, 0_u32);
                let got = loop {
                    assert!(from.elapsed() < super::pair::LONG, "{choice:?}");
                    if b.provider().may_wait() {
                        let before = Instant::now();
                        sleep_on(&descriptors, Duration::from_secs(1));
                        slept += before.elapsed();
                    }
                    looks += silent.load(Ordering::Relaxed);
                    let _busy = b.turn(ground.now(), Budget::DEFAULT).is_busy();
                    if let Some(got) = b.poll() {
                        break got;
                    }
                };
                assert_eq!(got.bytes(), Some(&b"wake up"[..]), "{choice:?}");
                // Who is not let sleep looks thousands of times in that silence. How long it sleeps is the machine's business, and what comes
                // after it as well: two ends that have begun to connect look for each other.
                assert!(looks < 1000, "{choice:?}: slept {slept:?}, looked {looks} times");
                here.shutdown(std::net::Shutdown::Both).unwrap();
            });
        });
    }
}

/// Without being asked for there are no descriptors.
#[test]
fn a_port_that_only_spins_has_no_descriptors() {
    on_ground(|ground| {
        let end = ground.end("a", &config(&TCP));
        let refused = end.provider().descriptors().unwrap_err();
        assert!(matches!(refused, OfiError::Refused { .. }), "{refused:?}");
    });
}
