//! `serve` and `ping`: round trips over every transport, several clients at once, ends that go.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::arguments::refused;
use crate::rig::{Folder, Ran, command};

/// A service at work in a folder of segments.
struct Service {
    child: Child,
    out: BufReader<ChildStdout>,
    uris: Vec<String>,
}

impl Service {
    fn start(folder: &Folder, uris: &[&str]) -> Self {
        let mut command = command(folder.path(), &["serve", "--json", "--nap"]);
        let mut child = command.args(uris).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let uris = said["serving"].as_array().unwrap().iter();
        let uris = uris.map(|uri| uri.as_str().unwrap().to_owned()).collect();
        Self { child, out, uris }
    }

    /// Ends it as a user does, and hears what it has done.
    fn stop(mut self) -> Value {
        let kill = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        let mut text = String::new();
        self.out.read_to_string(&mut text).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{text}");
        serde_json::from_str(&text).unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A `ping` that goes on until its service ends.
struct Pinging {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Pinging {
    /// It is connected when it says to whom, and an answer has come when it says how long that took.
    fn start(folder: &Folder, uri: &str) -> Self {
        let args = ["ping", uri, "--interval", "0", "--timeout", "20"];
        let mut child = command(folder.path(), &args).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        for begins in ["PING ", "64 bytes: seq=1 time="] {
            let mut line = String::new();
            out.read_line(&mut line).unwrap();
            assert!(line.starts_with(begins), "{uri}: {line}");
        }
        Self { child, out }
    }

    /// What had come until then is told.
    fn sees_the_service_go(mut self) {
        let mut said = String::new();
        self.out.read_to_string(&mut said).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(1), "{said}");
        assert!(said.ends_with("the service is gone\n"), "{said}");
        assert!(said.contains(" sent, ") && said.contains("rtt min/p50/p99/max"), "{said}");
    }
}

fn ping(folder: &Folder, args: &[&str]) -> Ran {
    folder.run(&[&["ping", "--json", "--interval", "0", "--timeout", "10"], args].concat())
}

#[test]
fn one_service_answers_several_clients_over_each_transport() {
    let folder = Folder::new();
    let places = ["shm://demo/echo", "tcp://127.0.0.1:0", "udp://127.0.0.1:0"];
    let service = Service::start(&folder, &places);
    std::thread::scope(|scope| {
        for uri in &service.uris {
            for size in ["1", "1400"] {
                let folder = &folder;
                scope.spawn(move || {
                    let ran = ping(folder, &[uri, "--count", "20", "--size", size]);
                    let said = ran.json();
                    assert_eq!((ran.code, &said["received"]), (0, &20.into()), "{ran:?}");
                    assert!(uri.starts_with(said["provider"].as_str().unwrap()), "{ran:?}");
                    assert!(said["ratio"].as_f64().unwrap() >= 1.0, "{ran:?}");
                });
            }
        }
    });
    // The first of each client is not counted by it.
    let done = service.stop();
    assert_eq!((&done["messages"], &done["answered"]), (&126.into(), &126.into()), "{done}");
    assert!(!folder.has("demo"), "the name goes with who made it");
}

/// It is taken for one's own by who serves there next, and stays as long as somebody is in it.
#[test]
fn a_segment_that_a_killed_service_left_goes_with_the_last_who_was_in_it() {
    let folder = Folder::new();
    let mut killed = Service::start(&folder, &["shm://demo"]);
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    let _served = Service::start(&folder, &["shm://demo"]).stop();
    assert!(!folder.has("demo"), "nobody else was in it");
    let mut killed = Service::start(&folder, &["shm://demo"]);
    let holder = folder.holder("domain demo");
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    let service = Service::start(&folder, &["shm://demo"]);
    assert_eq!(ping(&folder, &["shm://demo", "--count", "1"]).json()["received"], 1);
    let _served = service.stop();
    assert!(folder.has("demo"), "somebody is in it");
    assert_eq!(folder.ps("demo")["processes"][0]["pid"], holder.pid());
    holder.let_go();
    // Of one whose maker lives the maker disposes.
    let maker = folder.holder("domain quotes");
    let _served = Service::start(&folder, &["shm://demo", "shm://quotes"]).stop();
    assert!(!folder.has("demo") && folder.has("quotes"));
    maker.let_go();
}

/// Over libfabric each end is told of the other at HOST:PORT; when one goes, the other sees it.
#[cfg(feature = "libfabric")]
#[test]
fn services_answer_over_providers_of_libfabric() {
    let folder = Folder::new();
    for provider in ["tcp", "shm", "sockets"] {
        let uri = format!("ofi://{provider}/127.0.0.1:0/echo");
        let service = Service::start(&folder, &[&uri]);
        let at = service.uris[0].clone();
        for size in ["1", "1400"] {
            let ran = ping(&folder, &[&at, "--count", "20", "--size", size]);
            let said = ran.json();
            assert_eq!((ran.code, &said["received"]), (0, &20.into()), "{ran:?}");
            assert!(said["provider"].as_str().unwrap().starts_with("ofi:"), "{ran:?}");
        }
        let done = service.stop();
        // The first of each is not counted by it.
        assert_eq!(done["answered"], 42, "{done}");
        // The end of the last may not have been seen yet.
        assert!(done["clients_gone"].as_u64().unwrap() >= 1, "{done}");
        let mut service = Service::start(&folder, &[&uri]);
        let at = service.uris[0].clone();
        let other_name = at.replace("/echo", "/quotes");
        let ran = ping(&folder, &[&other_name, "--count", "1"]);
        assert!(ran.code == 2 && ran.err.contains("another name or type"), "{ran:?}");
        let pinging = Pinging::start(&folder, &at);
        service.child.kill().unwrap();
        service.child.wait().unwrap();
        // What libfabric's `shm` has there, 16 MiB, goes with who ends by himself.
        let _none_of_tcp = std::fs::remove_file(format!("/dev/shm/{}:0:0", service.child.id()));
        pinging.sees_the_service_go();
        let nobody = ping(&folder, &[&at, "--count", "1"]);
        assert!(nobody.code == 2 && nobody.err.contains("nobody answers"), "{nobody:?}");
    }
}

#[test]
fn the_best_way_is_taken_and_the_others_are_named() {
    let folder = Folder::new();
    let service = Service::start(&folder, &["tcp://127.0.0.1:0"]);
    let at = service.uris[0].as_str();
    let ran = ping(&folder, &["shm://missing", at, "--count", "1"]);
    let said = ran.json();
    assert_eq!((ran.code, &said["uri"]), (0, &at.into()), "{ran:?}");
    assert!(
        said["passed_over"][0].as_str().unwrap().starts_with("shm rdm shm://missing: "),
        "{ran:?}"
    );
    let words = folder.run(&["ping", at, "--count", "2", "--interval", "0"]);
    for word in [
        "PING tcp rdm tcp://",
        "seq=2 time=",
        "2 sent, 2 received, 0.0% lost",
        "rtt min/p50/p99/max",
        "ratio ",
    ] {
        assert!(words.out.contains(word), "{word}: {words:?}");
    }
    let wrong_name = format!("{at}/quotes");
    let ran = ping(&folder, &[&wrong_name]);
    assert!(ran.code == 2 && ran.err.contains("another name or type"), "{ran:?}");
}

#[test]
fn ends_that_go_are_seen_and_what_nobody_answers_is_lost() {
    let folder = Folder::new();
    for uri in ["shm://demo", "tcp://127.0.0.1:0"] {
        let mut service = Service::start(&folder, &[uri]);
        let pinging = Pinging::start(&folder, &service.uris[0]);
        service.child.kill().unwrap();
        service.child.wait().unwrap();
        pinging.sees_the_service_go();
        let _left_by_the_killed = folder.run(&["rm", "--dead"]);
    }
    // A datagram is lost without a word.
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let uri = format!("udp://{}", nobody.local_addr().unwrap());
    let ran = folder.run(&[
        "ping",
        &uri,
        "--json",
        "--count",
        "2",
        "--interval",
        "0",
        "--timeout",
        "0.05",
    ]);
    assert_eq!((ran.code, &ran.json()["loss_percent"]), (1, &100.0.into()), "{ran:?}");
    let nobody = folder.run(&["ping", "shm://nobody", "--count", "1"]);
    assert!(nobody.code == 2 && nobody.err.contains("does not exist"), "{nobody:?}");
    refused(&["ping"], "URI");
    refused(&["serve", "tcp://host"], "the port is missing");
    let says =
        if cfg!(feature = "libfabric") { "no address" } else { "cannot be opened by this build" };
    refused(&["serve", "ofi://tcp"], says);
}

#[test]
fn pairs_are_measured_by_a_uri() {
    let folder = Folder::new();
    let brief = ["--iters", "100", "--rounds", "1", "--json"];
    for (command, uri) in
        [("lat", "shm://pair"), ("lat", "udp://127.0.0.1:0"), ("bw", "tcp://127.0.0.1:0")]
    {
        let ran = folder.run(&[&[command, "--uri", uri][..], &brief].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(uri.starts_with(ran.json()["provider"].as_str().unwrap()), "{ran:?}");
    }
    assert!(!folder.has("pair"));
    refused(&["lat", "--uri", "tcp://127.0.0.1:0", "--provider", "udp"], "--provider");
    refused(&["bw", "--uri", "tcp://127.0.0.1:0/quotes"], "leave out /quotes");
    refused(&["lat", "--uri", "mlx5://mlx5_0/h:1/name"], "leave out /name");
    refused(&["lat", "--uri", "ofi://tcp/h:1"], "--listen ofi://tcp/h:1 there");
    refused(&["bw", "--uri", "ofi://tcp/127.0.0.1:0/name"], "leave out /name");
    refused(&["lat", "--listen", "shm://"], "--listen: \"shm://\": the domain is missing");
}
