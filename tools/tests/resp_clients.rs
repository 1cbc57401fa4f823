//! The example that speaks the protocol of Redis, driven by Redis's own clients, and beside its own server.
//!
//! The clients and the server are Debian's `redis-tools` and `redis-server`. Where they are missing, a line that begins with
//! `!! NOT RUN` says so.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]
#![allow(clippy::print_stderr, reason = "what could not be tested is said aloud")]

mod examples_built;

use core::time::Duration;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use examples_built::ending_with_us;

/// A server that ends with the test.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has noticed by then.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Server {
    fn example() -> Self {
        let mut command = ending_with_us(&examples_built::all()["resp"]);
        let child = command.arg("tcp://127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
        let mut server = Self { child, port: 0 };
        let mut line = String::new();
        BufReader::new(server.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        server.port = line.trim().rsplit(':').next().unwrap().parse().unwrap();
        server
    }

    /// A `redis-server` without files, on a port that was free a moment ago.
    fn redis() -> Option<Self> {
        Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().ok()?;
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let arguments = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--port"];
        let child = ending_with_us("redis-server")
            .args(arguments)
            .arg(port.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self { child, port };
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(server.child.try_wait().unwrap().is_none(), "redis-server ended");
            thread::sleep(Duration::from_millis(10));
        }
        Some(server)
    }

    /// Everything that comes back for `stream`, whose last request makes the server hang up.
    fn answers(&self, stream: &[u8]) -> String {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        connection.write_all(stream).unwrap();
        let mut answers = Vec::new();
        connection.read_to_end(&mut answers).unwrap();
        answers.escape_ascii().to_string()
    }
}

/// What a client says, if there is such a client.
fn client(program: &str, server: &Server, arguments: &[&str]) -> Option<String> {
    let port = server.port.to_string();
    let ran = Command::new(program).args(["-p", &port]).args(arguments).output();
    let Ok(ran) = ran else {
        eprintln!("\n!! NOT RUN: {program}: it is missing; remedy: apt-get install redis-tools");
        return None;
    };
    assert!(ran.status.success(), "{program} {arguments:?}: {ran:?}");
    assert_eq!(String::from_utf8(ran.stderr).unwrap(), "", "{program} {arguments:?}");
    Some(String::from_utf8(ran.stdout).unwrap())
}

#[test]
fn redis_cli_gets_what_it_asks_for() {
    let server = Server::example();
    let cases: [(&[&str], &str); 10] = [
        (&["PING"], "PONG"),
        (&["SET", "price", "101.25 EUR"], "OK"),
        (&["GET", "price"], "101.25 EUR"),
        (&["GET", "nothing"], ""),
        (&["SET", "price", "1", "NX"], ""),
        (&["EXISTS", "price", "nothing", "price"], "2"),
        (&["DEL", "price", "nothing"], "1"),
        (&["DBSIZE"], "0"),
        (&["ECHO", "\r\n"], "\r\n"),
        (&["LPUSH", "a", "b"], "ERR unknown command 'LPUSH', with args beginning with: 'a' 'b' \n"),
    ];
    for (arguments, wanted) in cases {
        let Some(said) = client("redis-cli", &server, arguments) else { return };
        assert_eq!(said, format!("{wanted}\n"), "{arguments:?}");
    }
}

#[test]
fn redis_benchmark_runs_to_its_end() {
    let server = Server::example();
    let run = ["-c", "1", "-P", "16", "-n", "5000", "-r", "100", "-t", "ping,set,get", "--csv"];
    let Some(said) = client("redis-benchmark", &server, &run) else { return };
    for test in ["PING_INLINE", "PING_MBULK", "SET", "GET"] {
        assert!(said.contains(&format!("\"{test}\",")), "{test} is not in {said}");
    }
    let size = client("redis-cli", &server, &["DBSIZE"]).unwrap();
    assert_eq!(size.trim(), "100");
}

fn request(arguments: &[&str]) -> String {
    let parts = arguments.iter().map(|text| format!("${}\r\n{text}\r\n", text.len()));
    format!("*{}\r\n{}", arguments.len(), parts.collect::<String>())
}

/// Both servers get the same bytes, and say the same, byte by byte.
#[test]
fn answers_are_those_of_redis() {
    let Some(redis) = Server::redis() else {
        eprintln!(
            "\n!! NOT RUN: redis-server: it is missing; remedy: apt-get install redis-server"
        );
        return;
    };
    let ours = Server::example();
    let long = "x".repeat(300);
    let requests: &[&[&str]] = &[
        &["FLUSHALL"],
        &["SET", "a", "1"],
        &["get", "a"],
        &["GET", "b"],
        &["SET", "a", "2", "NX"],
        &["SET", "b", "2", "XX"],
        &["SET", "a", "3", "XX", "GET"],
        &["SET", "c", "4", "NX", "GET"],
        &["SET", "c", "5", "NX", "GET"],
        &["SET", "c", "", "KEEPTTL"],
        &["GET", "c"],
        &["SET", "a", "b", "NX", "XX"],
        &["SET", "a", "b", "SOMETHING"],
        &["SET", "a"],
        &["GET"],
        &["GET", "a", "b"],
        &["DEL"],
        &["ECHO"],
        &["EXISTS", "a", "a", "c", "d"],
        &["DEL", "a", "a", "d"],
        &["DBSIZE"],
        &["PING"],
        &["PING", "x"],
        &["PING", "x", "y"],
        &["ECHO", &long],
        &["SELECT", "0"],
        &["SELECT", "99"],
        &["CONFIG", "GET", "save"],
        &["CONFIG", "GET", "appendonly"],
        &["HELLO", "9"],
        &["nothing"],
        &["nothing", "a", "b c"],
        &["no\r\nthing", "a\nb"],
        &["nothing", &long, &long],
        &[&long, "a"],
        &["nothing", &long[..50], &long[..50], &long[..50], "a"],
        &["FLUSHDB"],
    ];
    let honest: String = requests.iter().map(|arguments| request(arguments)).collect();
    let lines = "PING\r\n\r\n  set  'a b'  \"c d\" \nget 'a b'\r\n*0\r\n*-1\r\nDBSIZE\n";
    let ends = [
        "QUIT\r\n",
        "*x\r\n",
        "*01\r\n",
        "*99999999999\r\n",
        "*1\r\nPING\r\n",
        "*1\r\n$-1\r\n",
        "*1\r\n$01\r\n",
        "*1\r\n$x\r\n",
        "PING 'a\r\n",
        "PING 'a'b\r\n",
    ];
    for end in ends {
        let stream = format!("{honest}{lines}{end}");
        let wanted = redis.answers(stream.as_bytes());
        assert_eq!(ours.answers(stream.as_bytes()), wanted, "ends with {end:?}");
    }
}

/// Clients that ask without end and never read have all buffers after a while. They are cut off, and nobody else is forgotten meanwhile.
#[test]
fn clients_that_never_read_stop_nobody_for_long() {
    let server = Server::example();
    let connect = || TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    let block = b"*1\r\n$4\r\nPING\r\n".repeat(3000);
    let greedy: Vec<_> = (0..20).map(|_| connect()).collect();
    greedy.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    let mut quiet = Instant::now();
    let began = quiet;
    while quiet.elapsed() < Duration::from_millis(200) && began.elapsed() < Duration::from_secs(2) {
        for stream in &greedy {
            // One that is cut off already has an error of its own.
            if (&mut &*stream).write(&block).is_ok() {
                quiet = Instant::now();
            }
        }
    }
    let mut polite = connect();
    polite.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    polite.write_all(b"*1\r\n$4\r\nPING\r\n").unwrap();
    let mut answer = [0; 7];
    polite.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+PONG\r\n");
}
