//! `lat` and `bw` over UDP: what they report, what strangers send them, and ends that are gone.
//!
//! Between the two ends stands, where a test wants it, a middle that passes datagrams on as it is told: it drops, repeats and
//! delays them.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use spinwire_dataplane::provider::udp::datagram;
use spinwire_dataplane::shm::lane::Envelope;

use crate::pair::positive;
use crate::rig::{Folder, command};

/// A listening end, and where it listens. Killed when this is dropped.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(folder: &Folder, args: &[&str]) -> Self {
        let mut child = command(folder.path(), args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).unwrap();
        let address = told["listening"].as_str().unwrap().strip_prefix("udp://").unwrap();
        Self { child, address: address.parse().unwrap() }
    }

    fn signal(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.child.id());
        assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Both ends of all these tests spin on the same two CPUs: one after the other they are done sooner.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const UDP: &[&str] = &["--provider", "udp", "--iters", "200", "--rounds", "2", "--json"];

#[test]
fn both_report_what_came_and_what_was_lost() {
    let _alone = one_at_a_time();
    let folder = Folder::new();
    let ran = folder.run(&[&["lat", "--tagged", "--size", "1,9k"][..], UDP].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    let json = ran.json();
    assert_eq!(json.as_array().map(Vec::len), Some(2), "{json}");
    for (report, size) in json.as_array().unwrap().iter().zip([1, 9216]) {
        assert_eq!((&report["provider"], &report["size"]), (&"udp".into(), &size.into()), "{json}");
        assert_eq!(report["iters"], 200, "each is sent until it is answered: {report}");
        positive(report, &["/ratio_p50", "/floor_rtt_ns/p50", "/rtt_ns/p50", "/loss/floor_sent"]);
        let loss = |field: &str| report["loss"][field].as_u64().unwrap();
        assert_eq!(loss("sent"), 200 + loss("lost"), "{report}");
        let paths = report["io_uring"].as_array().unwrap();
        assert!(paths.contains(&"copied-sends".into()), "{report}");
    }
    let ran = folder.run(&[&["bw", "--size", "1400"][..], UDP].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    let report = ran.json();
    positive(&report, &["/messages", "/bytes_per_s", "/floor_bytes_per_s", "/ratio"]);
    let loss = |field: &str| report["loss"][field].as_u64().unwrap();
    assert_eq!((loss("sent"), loss("floor_sent")), (200, 200), "{report}");
    let messages = report["messages"].as_u64().unwrap();
    assert_eq!(messages + loss("lost"), 200, "what was lost is not among what came: {report}");
}

/// Passes datagrams on between a client and a server. Of each, `fate` says what becomes of it.
struct Middle {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

enum Fate {
    Pass,
    Drop,
    Twice,
    /// It goes on behind the next one.
    Held,
}

/// By its bytes, whether it goes to the server, and how many went that way before.
type Judge = fn(&[u8], bool, u64) -> Fate;

impl Middle {
    fn start(server: SocketAddr, fate: Judge) -> Self {
        let socket = || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            Arc::new(socket)
        };
        let (front, back) = (socket(), socket());
        let address = front.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let client = Arc::new(Mutex::new(None));
        let threads = [true, false].map(|forth| {
            let (from, out) = if forth { (&front, &back) } else { (&back, &front) };
            let (from, out) = (Arc::clone(from), Arc::clone(out));
            let (stop, client) = (Arc::clone(&stop), Arc::clone(&client));
            std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                let mut held: Option<Vec<u8>> = None;
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    let Ok((length, source)) = from.recv_from(&mut buffer) else { continue };
                    let to = if forth {
                        *client.lock().unwrap() = Some(source);
                        server
                    } else {
                        client.lock().unwrap().unwrap()
                    };
                    let bytes = &buffer[..length];
                    let late = held.take();
                    let times = match fate(bytes, forth, number) {
                        Fate::Pass => 1,
                        Fate::Twice => 2,
                        Fate::Drop => 0,
                        Fate::Held => {
                            held = Some(bytes.to_vec());
                            0
                        }
                    };
                    number += 1;
                    // Whether it arrives, nobody promises.
                    for bytes in (0..times).map(|_| bytes).chain(late.as_deref()) {
                        let _sent = out.send_to(bytes, to);
                    }
                }
            })
        });
        Self { address, stop, threads: threads.into() }
    }
}

impl Drop for Middle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

/// The length of a packet with a message of 1,000 bytes: a header of 24 before it.
const MESSAGE_PACKET: usize = 1024;

/// Of the messages and the orders some are dropped, some come twice, some behind the next. No answer is taken for that to another message,
/// and every loss is counted.
#[test]
fn what_is_lost_repeated_or_late_is_counted_and_never_taken_for_something_else() {
    let _alone = one_at_a_time();
    let folder = Folder::new();
    for command in ["lat", "bw"] {
        let server = Server::start(&folder, &[command, "--listen", "udp://127.0.0.1:0", "--json"]);
        let middle = Middle::start(server.address, |bytes, forth, number| {
            let is_message = bytes.len() == MESSAGE_PACKET;
            match (is_message, forth, number % 25) {
                (true, true, 7) => Fate::Drop,
                (true, _, 1 | 11 | 21) => Fate::Twice,
                (true, false, 17) => Fate::Held,
                // The first order and the first answer too.
                (false, ..) if number % 3 == 0 => Fate::Drop,
                (false, ..) if number % 3 == 1 => Fate::Twice,
                _ => Fate::Pass,
            }
        });
        let to = format!("udp://{}", middle.address);
        let few = ["--size", "1000", "--iters", "300", "--rounds", "2", "--lost-after", "40"];
        let ran = folder.run(&[&[command, "--connect", to.as_str(), "--json"][..], &few].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        let report = ran.json();
        let loss = |field: &str| report["loss"][field].as_u64().unwrap();
        assert!(loss("lost") >= 5, "{report}");
        if command == "lat" {
            assert_eq!((report["iters"].as_u64(), loss("sent")), (Some(300), 300 + loss("lost")));
            assert!(loss("late") >= 10, "those that came twice, and those held: {report}");
        } else {
            assert_eq!(report["messages"].as_u64().unwrap() + loss("lost"), 300, "{report}");
            assert!(loss("repeated") >= 5, "{report}");
        }
    }
}

/// Strangers send garbage, messages, orders, hellos, before the client comes and while it measures.
#[test]
fn strangers_are_not_heard() {
    let _alone = one_at_a_time();
    let folder = Folder::new();
    let server = Server::start(&folder, &["lat", "--listen", "udp://127.0.0.1:0", "--json"]);
    let address = server.address;
    let order = |kind: u64, number: Option<u64>| {
        let mut words = [0_u64; 5];
        words[0] = kind;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let tag = Some(0x5350_494E_4F52_4452);
        let envelope = Envelope { tag, immediate: number };
        [&datagram::header(bytes.len(), envelope).unwrap()[..], &bytes].concat()
    };
    let message = |number| {
        let envelope = Envelope { tag: None, immediate: Some(number) };
        [&datagram::header(64, envelope).unwrap()[..], &[0x11; 64]].concat()
    };
    let tongues = [
        b"hello?".to_vec(),
        Vec::new(),
        vec![0xff; 2000],
        order(6, None),
        order(6, Some(1)),
        order(2, Some(7)),
        order(77, Some(1)),
        order(5, Some(0)),
        message(1),
        message(u64::MAX),
    ];
    // More of them than the server remembers addresses.
    for _ in 0..100 {
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        for tongue in &tongues {
            stranger.send_to(tongue, address).unwrap();
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let stranger = std::thread::spawn(move || {
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        while !stopped.load(Ordering::Relaxed) {
            for tongue in &tongues {
                let _sent = stranger.send_to(tongue, address);
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    });
    let to = format!("udp://{address}");
    let few = ["--iters", "500", "--rounds", "2", "--json"];
    let ran = folder.run(&[&["lat", "--connect", &to][..], &few].concat());
    stop.store(true, Ordering::Relaxed);
    stranger.join().unwrap();
    assert_eq!(ran.code, 0, "{ran:?}");
    let report = ran.json();
    assert_eq!(report["iters"], 500);
    // Were their messages answered, there would be many more answers than there are losses.
    let loss = |field: &str| report["loss"][field].as_u64().unwrap();
    assert!(loss("late") <= loss("lost"), "{report}");
}

#[test]
fn what_the_other_end_cannot_take_is_refused_with_the_remedy() {
    let _alone = one_at_a_time();
    let folder = Folder::new();
    let server = Server::start(&folder, &["bw", "--listen", "udp://[::1]:0", "--json"]);
    let to = format!("udp://{}", server.address);
    let ran = folder.run(&["bw", "--connect", &to, "--size", "4k"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("--size") && ran.err.contains("up to 1432 bytes"), "{ran:?}");
    assert!(ran.err.contains("start the listening end with --size 4096"), "{ran:?}");
    // It waits for another, and over IPv6 too.
    let ran = folder.run(&["bw", "--connect", &to, "--size", "1k", "--iters", "200", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// A killed end is seen by the other within moments.
#[test]
fn who_is_killed_in_the_middle_is_missed() {
    let _alone = one_at_a_time();
    let folder = Folder::new();
    let server = Server::start(&folder, &["lat", "--listen", "udp://127.0.0.1:0", "--json"]);
    let to = format!("udp://{}", server.address);
    let mut client = folder.start(&["lat", "--connect", &to, "--seconds", "60"]);
    std::thread::sleep(Duration::from_millis(300));
    assert!(client.runs());
    server.signal("KILL");
    let ran = client.ran();
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("gone"), "{ran:?}");

    let mut server = Server::start(&folder, &["bw", "--listen", "udp://127.0.0.1:0", "--json"]);
    let to = format!("udp://{}", server.address);
    let mut client = folder.start(&["bw", "--connect", &to, "--seconds", "60"]);
    std::thread::sleep(Duration::from_millis(300));
    assert!(client.runs());
    drop(client);
    let until = Instant::now() + Duration::from_secs(30);
    while server.child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < until, "the server waits for a client that is gone");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(server.child.wait().unwrap().code(), Some(2));
}
