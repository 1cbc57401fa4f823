//! Programs of rdma-core at the other end.

use core::time::Duration;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::rig::devices;

/// The example `rc_pingpong`, which `tests/vm/suite` has built beside this program.
fn ours() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples/rc_pingpong")
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
        let mut command = Command::new(ours());
        command.arg(device);
        command
    };
    play(ours("rxe0"), theirs("rxe1"));
    play(theirs("rxe0"), ours("rxe1"));
}
