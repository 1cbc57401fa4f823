//! Programs of rdma-core at the other end.

use core::time::Duration;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use spinwire_dataplane::verbs::{SendRequest, Verb, WcStatus};
use spinwire_hostshim::verbs::{CmChannel, CmNews, Link, VerbsError};

use super::cm::end_on;
use super::rig::{devices, quick, wr};

/// An example, which `tests/vm/suite` has built beside this program.
fn example(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples").join(name)
}

fn theirs(device: &str) -> Command {
    let mut command = Command::new("ibv_rc_pingpong");
    command.args(["-d", device, "-g", "1", "-n", "1000", "-s", "4096"]);
    command
}

fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Both ends, of which the first one listens.
fn play(listens: Command, mut connects: Command) {
    let server = start(listens);
    let until = Instant::now() + Duration::from_secs(20);
    // The listener takes one connection only, so it is looked for and not called.
    let listens = || {
        let sockets = |table| std::fs::read_to_string(table).unwrap_or_default();
        // Port 18515, in state 10: "listening", of proc(5).
        let all = sockets("/proc/net/tcp") + &sockets("/proc/net/tcp6");
        all.lines().any(|line| line.contains(":4853 ") && line.contains(" 0A "))
    };
    while !listens() {
        assert!(Instant::now() < until, "it does not listen on port 18515");
        std::thread::sleep(Duration::from_millis(10));
    }
    connects.arg("localhost");
    for end in [start(connects), server] {
        let ran = end.wait_with_output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
        let out = String::from_utf8_lossy(&ran.stdout);
        assert!(out.contains("1000 rounds of 4096 bytes") || out.contains("1000 iters"), "{out}");
    }
    assert!(TcpStream::connect(("localhost", 18515)).is_err(), "both have ended");
}

#[test]
fn pingpong_of_rdma_core_plays_with_ours_at_either_end() {
    if devices().is_none() {
        return;
    }
    let ours = |device: &str| {
        let mut command = Command::new(example("rc_pingpong"));
        command.arg(device);
        command
    };
    play(ours("rxe0"), theirs("rxe1"));
    play(theirs("rxe0"), ours("rxe1"));
}

/// Both ends of `rping`: the first one listens at 10.77.0.2.
fn ping(listens: Command, connects: impl Fn() -> Command) {
    let mut server = start(listens);
    let until = Instant::now() + Duration::from_secs(30);
    // The listener takes one caller only, and the callers of either program give up where nobody listens.
    let ran = loop {
        let ran = start(connects()).wait_with_output().unwrap();
        if ran.status.success() {
            break ran;
        }
        let gone = server.try_wait().unwrap();
        assert!(gone.is_none() && Instant::now() < until, "{gone:?} {ran:?}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let served = server.wait_with_output().unwrap();
    assert!(served.status.success(), "{served:?}, called by {ran:?}");
    let out = String::from_utf8_lossy(&[ran.stdout, served.stdout].concat()).into_owned();
    assert!(out.contains("10 rounds"), "{out}");
    assert!(out.contains("ping data: rdma-ping-9"), "what rping says of it: {out}");
}

#[test]
fn rping_of_rdma_core_plays_with_ours_at_either_end() {
    if devices().is_none() {
        return;
    }
    let with = |program: PathBuf, words: &[&str]| {
        let mut command = Command::new(program);
        command.args(words);
        command
    };
    let ours = |words: &[&str]| with(example("rping"), words);
    let theirs = |words: &[&str]| with("rping".into(), words);
    ping(ours(&["serve", "10.77.0.2"]), || {
        theirs(&["-c", "-v", "-V", "-C", "10", "-a", "10.77.0.2", "-I", "10.77.0.1"])
    });
    ping(theirs(&["-s", "-v", "-a", "10.77.0.2"]), || ours(&["call", "10.77.0.2", "10.77.0.1"]));
}

#[test]
fn a_process_that_is_killed_is_told_of_by_the_next_send_and_by_the_channel() {
    if devices().is_none() {
        return;
    }
    let mut command = Command::new(example("rping"));
    command.args(["serve", "10.77.0.2"]);
    let mut peer = start(command);
    let channel = CmChannel::open().unwrap();
    let to = "10.77.0.2:7174".parse().unwrap();
    let make = |link: &Link| Ok::<_, VerbsError>(end_on(link));
    let until = Instant::now() + Duration::from_secs(30);
    let how = quick();
    let (link, end, _data) = loop {
        match channel.call((None, to), (&how, &[]), Duration::from_secs(10), make) {
            Ok(called) => break called,
            Err(e) => assert!(Instant::now() < until, "{e}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    // Half a round of its game, so that it is known to be well.
    let key = end.region.remote_key();
    let place = [&key.address.to_be_bytes()[..], &key.rkey.to_be_bytes(), &64_u32.to_be_bytes()];
    end.write(0, &place.concat());
    end.recv(1, &[end.segment(64, 16)]);
    end.recv(2, &[end.segment(64, 16)]);
    end.send(&SendRequest::new(wr(3), Verb::Send, &[end.segment(0, 16)]));
    let mut both = [end.next(), end.next()].map(|wc| wc.outcome().map(|_| wc.wr_id()).unwrap());
    both.sort_by_key(|id| id.as_raw());
    assert_eq!(both, [wr(1), wr(3)]);
    peer.kill().unwrap();
    peer.wait().unwrap();
    let event = loop {
        let event = channel.wait(Duration::from_secs(30)).unwrap().expect("no word of it in 30 s");
        if event.about == link.id() {
            break event;
        }
    };
    assert_eq!(event.news, CmNews::Disconnected);
    let from = Instant::now();
    end.send(&SendRequest::new(wr(4), Verb::Send, &[end.segment(0, 16)]));
    end.failed(4, WcStatus::RETRY_EXCEEDED);
    end.failed(2, WcStatus::FLUSHED);
    // Four tries of 4 ms each; the emulated guest takes its time, and yet this is no 60 s.
    assert!(from.elapsed() < Duration::from_secs(20), "{:?}", from.elapsed());
}
