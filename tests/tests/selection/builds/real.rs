//! Real processes, of which one is this very program with other constants. Only of a debug build: in an optimised one the compiler takes constants
//! apart (a hash is compared in pieces, or beside what lies next to it), so that no search finds them all.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::EndpointType;
use spinwire_hostshim::discover::{Hints, discover};
use spinwire_hostshim::negotiate::{Requirements, negotiate};
use spinwire_hostshim::open::{AnyPort, OpenConfig, with};
use spinwire_hostshim::uri::Uri;
use spinwire_layouts::abi::{LAYOUT_HASH, WIRE_HASH};

use super::connect;

/// Says what a child of this program does: `serve URI`, `ask URI`.
const ROLE: &str = "SELECTION_TEST_BUILD";
const CHILD: &str = "builds::real::processes_of_different_builds_refuse_each_other";

/// This very program, built for other layouts: each of its constants that is a hash of layouts is another.
fn another_build() -> OtherBuild {
    let mut program = fs::read(std::env::current_exe().unwrap()).unwrap();
    for hash in [LAYOUT_HASH, WIRE_HASH] {
        let bytes = hash.to_le_bytes();
        let mut found = Vec::new();
        let mut at = 0;
        // From one to the next of its first byte, by the search of the standard library, which is quick in any build.
        while let Ok(step @ 1..) = (&program[at..]).skip_until(bytes[0]) {
            at += step;
            if program[at - 1..].starts_with(&bytes) {
                found.push(at - 1);
            }
        }
        assert!(!found.is_empty(), "the hash is somewhere in it");
        for at in found {
            program[at] ^= 0x40;
        }
    }
    let path = std::env::temp_dir().join(format!("spinwire-other-build-{}", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o700).open(&path);
    file.as_mut().unwrap().write_all(&program).unwrap();
    OtherBuild(path)
}

/// A program that goes with this.
struct OtherBuild(PathBuf);

impl Drop for OtherBuild {
    fn drop(&mut self) {
        let _removed = fs::remove_file(&self.0);
    }
}

fn child(program: &Path, role: &str, uri: &str) -> Child {
    let mut command = Command::new(program);
    command.args(["--exact", CHILD, "--nocapture"]).env(ROLE, format!("{role} {uri}"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// What a child says behind that word.
fn line(child: &mut Child, word: &str) -> String {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines().map(Result::unwrap);
    let mut said = lines.filter_map(|line| Some(line.split_once(word)?.1.to_owned()));
    said.next().unwrap()
}

fn play(role: &str, uri: &str) {
    let transport = uri.parse::<Uri>().unwrap().transport();
    if role == "ask" {
        println!("SAID {}", connect(uri, transport).replace('\n', " "));
        return;
    }
    let wanted = Requirements::default().of_types(&[EndpointType::Rdm]);
    let wanted = wanted.for_peer_at(&[uri.parse().unwrap()]);
    let plan = negotiate(&wanted, &discover(&Hints::only(&[transport])));
    with(&plan, &OpenConfig::listen(), |end| {
        println!("AT {}", end.uri);
        let asked_to_go = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
        while !asked_to_go.is_finished() {
            if !end.endpoint.turn(end.now(), Budget::DEFAULT).is_busy() {
                std::thread::yield_now();
            }
        }
        let fault = match end.endpoint.provider() {
            AnyPort::Tcp(port) => port.last_fault(),
            #[cfg(feature = "verbs")]
            AnyPort::Verbs(port, _) => port.last_fault(),
            _ => None,
        };
        println!("HEARD {}", fault.map_or_else(String::new, |fault| fault.to_string()));
    })
    .unwrap();
}

/// The devices of the guest of `tests/vm`, where this is it.
fn devices() -> Option<[&'static str; 2]> {
    let is_here = cfg!(feature = "verbs") && Path::new("/sys/class/infiniband/rxe1").exists();
    is_here.then_some(["verbs://rxe1/10.77.0.2:0", "verbs://rxe0/"])
}

/// Two programs that differ in nothing but what they hold layouts to be, each asking the other, over shared memory, TCP, and RDMA devices where
/// there are any. Neither takes the other, and who finds it out says why.
#[test]
fn processes_of_different_builds_refuse_each_other() {
    if let Ok(role) = std::env::var(ROLE) {
        let (role, uri) = role.split_once(' ').unwrap();
        return play(role, uri);
    }
    let (ours, theirs) = (std::env::current_exe().unwrap(), another_build());
    let shm = format!("shm://selection-builds-{}", std::process::id());
    let mut uris = vec![shm.as_str(), "tcp://127.0.0.1:0"];
    let rdma = devices();
    uris.extend(rdma.map(|[listens, _]| listens));
    for uri in uris {
        for (server, client) in [(&theirs.0, &ours), (&ours, &theirs.0)] {
            let mut server = child(server, "serve", uri);
            let mut at = line(&mut server, "AT ");
            if let (Some([_, connects]), true) = (rdma, uri.starts_with("verbs")) {
                // The same place, by the device of the other end.
                at = format!("{connects}{}", at.rsplit_once('/').unwrap().1);
            }
            let mut asks = child(client, "ask", &at);
            let said = line(&mut asks, "SAID ");
            drop(server.stdin.take());
            let heard = line(&mut server, "HEARD ");
            assert!(asks.wait().unwrap().success() && server.wait().unwrap().success());
            if uri.starts_with("shm") {
                assert!(said.contains("layout_hash: found"), "{said}");
                assert!(said.contains("use the same version on both sides"), "{said}");
                continue;
            }
            assert!(said.contains("hash: the peer has other layouts"), "{uri}: {said}; {heard}");
            assert!(said.contains("run the same version at both ends"), "{uri}: {said}; {heard}");
        }
    }
}
