//! The echo service as clients meet it that keep to the rules, and clients that do not.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A service at work.
struct Service {
    child: Option<Child>,
    out: BufReader<std::process::ChildStdout>,
    address: String,
}

impl Service {
    fn start(more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spinwire"));
        command.args(["echo", "--listen", "tcp://127.0.0.1:0", "--json"]).args(more);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let address = said["listening"].as_str().unwrap().strip_prefix("tcp://").unwrap();
        Self { child: Some(child), out, address: address.to_owned() }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Ends it as a user does, and hears what it has done.
    fn stop(mut self) -> Value {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let mut text = String::new();
        self.out.read_to_string(&mut text).unwrap();
        let status = self.child.take().unwrap().wait().unwrap();
        assert_eq!(status.code(), Some(0), "{text}");
        serde_json::from_str(&text).unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone_already = child.kill();
            let _reaped = child.wait();
        }
    }
}

fn bytes(count: usize, seed: usize) -> Vec<u8> {
    (0..count).map(|i| u8::try_from((i * 31 + seed * 7 + i / 251) % 251).unwrap()).collect()
}

/// Sends and receives at the same time, in pieces.
fn exchange(stream: &TcpStream, data: &[u8], piece: usize) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for part in data.chunks(piece) {
                (&mut &*stream).write_all(part).unwrap();
            }
        });
        let mut back = vec![0; data.len()];
        (&mut &*stream).read_exact(&mut back).unwrap();
        assert!(back == data, "{} bytes came back changed", data.len());
    });
}

#[test]
fn every_byte_comes_back_whatever_its_pieces() {
    every_byte_comes_back(&[], 0);
}

#[test]
fn every_byte_comes_back_uncopied() {
    every_byte_comes_back(&["--zero-copy", "4k", "--buffer", "64k"], 10);
}

fn every_byte_comes_back(more: &[&str], zero_copies: u64) {
    let service = Service::start(more);
    let stream = service.connect();
    exchange(&stream, &bytes(300, 1), 1);
    for (count, piece) in [(1, 1), (64, 64), (70_000, 999), (3 << 20, 64 << 10), (5 << 20, 1 << 20)]
    {
        exchange(&stream, &bytes(count, piece), piece);
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!((&stream).read(&mut [0; 8]).unwrap(), 0, "it closes when its client does");
    let done = service.stop();
    assert_eq!(done["received_bytes"], done["sent_bytes"]);
    assert!(done["busy_ns"].as_u64().unwrap() > 0, "{done}");
    assert!(done["zero_copy_sends"].as_u64().unwrap() >= zero_copies, "{done}");
    assert_eq!((&done["accepted"], &done["stale_completions"]), (&Value::from(1), &Value::from(0)));
}

/// It listens when it is ready: who can connect does not wait for its memory and its clock. By comparison with what that takes; whoever is stopped in
/// the middle tries again.
#[test]
fn who_can_connect_is_served() {
    let is_served_at_once = |_try: u32| {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let began = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_spinwire"));
        command.args(["echo", "--connections", "8", "--listen", &format!("tcp://{free}")]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let _service = Service { child: Some(child), out, address: free.to_string() };
        let mut stream = loop {
            assert!(began.elapsed() < PATIENCE);
            match TcpStream::connect(free) {
                Ok(stream) => break stream,
                Err(_nobody_yet) => std::thread::sleep(Duration::from_micros(200)),
            }
        };
        let connected = Instant::now();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        let (start, answer) = (connected.duration_since(began), connected.elapsed());
        answer < start
    };
    assert!((0..5).any(is_served_at_once));
}

#[test]
fn a_client_that_never_reads_stops_only_itself() {
    let service = Service::start(&["--connections", "8"]);
    let lazy = service.connect();
    lazy.set_nonblocking(true).unwrap();
    let block = bytes(1 << 16, 3);
    // Until neither end takes any more.
    let mut taken = 0_usize;
    let began = Instant::now();
    let mut quiet = began;
    while quiet.elapsed() < Duration::from_millis(300) {
        match (&lazy).write(&block) {
            Ok(count) => {
                taken += count;
                quiet = Instant::now();
                assert!(taken < 256 << 20, "its memory has a bound");
            }
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
    let other = service.connect();
    exchange(&other, &bytes(1 << 20, 5), 1 << 14);
    // And when it reads at last, everything is there, unless, on a slow machine, it was cut off as `echo` promises: it has taken nothing for a second,
    // and held buffers that others lacked.
    lazy.set_nonblocking(false).unwrap();
    if lazy.shutdown(Shutdown::Write).is_err() {
        let (after, done) = (began.elapsed(), service.stop());
        assert!(after >= Duration::from_secs(1), "after {after:?}: {done}");
        assert!(done["out_of_buffers"].as_u64().unwrap() > 0, "{done}");
        return;
    }
    let mut back = Vec::new();
    (&lazy).read_to_end(&mut back).unwrap();
    assert_eq!(back.len(), taken);
    assert!(
        back.chunks(1 << 16).all(|part| block.starts_with(part)) || !taken.is_multiple_of(1 << 16)
    );
    service.stop();
}

/// They hold all buffers there are until they are cut off, which is soon while others wait.
#[test]
fn many_clients_that_never_read_stop_nobody_for_long() {
    let service = Service::start(&["--connections", "16"]);
    let block = bytes(1 << 16, 3);
    let lazy: Vec<_> = (0..12).map(|_| service.connect()).collect();
    let mut quiet = Instant::now();
    while quiet.elapsed() < Duration::from_millis(200) {
        for stream in &lazy {
            stream.set_nonblocking(true).unwrap();
            // One that is cut off already has an error of its own.
            if (&mut &*stream).write(&block).is_ok() {
                quiet = Instant::now();
            }
        }
    }
    exchange(&service.connect(), &bytes(1 << 20, 5), 1 << 14);
    service.stop();
}

#[test]
fn ten_thousand_clients_that_come_and_go_leave_nothing_behind() {
    let service = Service::start(&["--connections", "16"]);
    exchange(&service.connect(), b"warm", 4);
    let before = service.open_files();
    for round in 0..10_000 {
        let stream = service.connect();
        match round % 4 {
            // Reset: closed with an answer unread.
            0 => (&stream).write_all(&bytes(5000, round)).unwrap(),
            1 => exchange(&stream, &bytes(100, round), 100),
            2 => stream.shutdown(Shutdown::Write).unwrap(),
            _ => {}
        }
    }
    // More than there are rows for: those that are too many wait in the backlog.
    let crowd: Vec<_> = (0..24).map(|_| service.connect()).collect();
    for (seed, stream) in crowd.iter().enumerate().take(8) {
        exchange(stream, &bytes(64, seed), 64);
    }
    drop(crowd);
    let last = service.connect();
    exchange(&last, &bytes(64, 9), 64);
    drop(last);
    let deadline = Instant::now() + PATIENCE;
    while service.open_files() > before && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(service.open_files() <= before, "no descriptor stays");
    let done = service.stop();
    assert!(done["accepted"].as_u64().unwrap() >= 10_001, "{done}");
}

#[test]
fn the_idle_are_closed_when_that_was_asked_for() {
    let service = Service::start(&["--idle", "1"]);
    let mut talks = service.connect();
    exchange(&talks, b"first", 5);
    let silent = service.connect();
    let mut last = Instant::now();
    let begun = last;
    exchange(&silent, b"alive", 5);
    // From here on a read in vain is a look whether it is closed.
    silent.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    while !matches!((&silent).read(&mut [0; 8]), Ok(0)) {
        assert!(begun.elapsed() < PATIENCE, "who is silent is not closed");
        if last.elapsed() > Duration::from_millis(300) {
            // This process was stopped, and is silent itself.
            talks = service.connect();
        }
        last = Instant::now();
        exchange(&talks, b"still", 5);
    }
    assert!(begun.elapsed() > Duration::from_millis(900), "{:?}", begun.elapsed());
    service.stop();
}

#[test]
fn what_it_cannot_do_it_says_with_a_remedy() {
    let run = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_spinwire")).arg("echo").args(args).output();
        let out = out.unwrap();
        assert_eq!(out.status.code(), Some(2), "{args:?} {out:?}");
        String::from_utf8(out.stderr).unwrap()
    };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", taken.local_addr().unwrap());
    assert!(run(&["--listen", &address]).contains("in use"));
    for (address, part) in [
        ("127.0.0.1:7000", "tcp://"),
        ("tcp://127.0.0.1", "port"),
        ("tcp://127.0.0.1:99999", "port"),
        ("udp://127.0.0.1:7000", "tcp://"),
        ("tcp://:7000", "host"),
    ] {
        let said = run(&["--listen", address]);
        assert!(said.contains(part), "{address}: {said}");
    }
    run(&["--connections", "0"]);
    run(&["--cpus", "100000", "--listen", "tcp://127.0.0.1:0"]);
}
