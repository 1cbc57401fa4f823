//! Processes of different builds refuse each other, and say that it is the version.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::provider::udp::datagram::{self, DatagramFault};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::shm::lane::Envelope;
use spinwire_hostshim::discover::{Hints, Transport, discover};
use spinwire_hostshim::domain::{Domain, DomainConfig};
use spinwire_hostshim::mem::{PageKind, PagePolicy, SegmentDir};
use spinwire_hostshim::negotiate::{Requirements, negotiate};
use spinwire_hostshim::open::{AnyPort, OpenConfig, with};
use spinwire_hostshim::uri::Uri;
use spinwire_layouts::abi::{LAYOUT_HASH, WIRE_HASH};
use spinwire_layouts::shm::SegmentHeader;
use spinwire_layouts::wire::{DatagramHeader, Hello};

fn connect(uri: &str, transport: Transport) -> String {
    let wanted =
        Requirements::default().of_types(&[EndpointType::Rdm]).for_peer_at(&[uri.parse().unwrap()]);
    let plan = negotiate(&wanted, &discover(&Hints::only(&[transport])));
    with(&plan, &OpenConfig::connect(), |_| ()).unwrap_err().to_string()
}

/// The segment of a process whose build has another version, or another layout of one structure.
#[test]
fn a_segment_of_another_build_is_not_joined() {
    for (field, at) in [
        ("abi_version", core::mem::offset_of!(SegmentHeader, abi_version)),
        ("layout_hash", core::mem::offset_of!(SegmentHeader, layout_hash)),
    ] {
        let name = format!("selection-build-{}", std::process::id());
        // Of pages that lie in the file that has the name.
        let pages = PagePolicy::Only(PageKind::Base4K);
        let config = DomainConfig { pages, ..DomainConfig::default() };
        let domain = Domain::create(&name, &config).unwrap();
        let path = SegmentDir::from_env().path().join(format!("spinwire.{name}"));
        let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        let at = u64::try_from(at).unwrap();
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
        let said = connect(&format!("shm://{name}"), Transport::Shm);
        file.write_all_at(&byte, at).unwrap();
        domain.unlink().unwrap();
        assert!(said.contains(&format!("{field}: found")), "{said}");
        assert!(said.contains("use the same version on both sides"), "{said}");
    }
}

/// The hello of this build, with a byte changed.
fn hello(at: usize) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("tcp://{}", listener.local_addr().unwrap());
    let asks = std::thread::spawn(move || connect(&uri, Transport::Tcp));
    let (mut stream, _) = listener.accept().unwrap();
    let mut bytes = vec![0; size_of::<Hello>()];
    stream.read_exact(&mut bytes).unwrap();
    drop(stream);
    assert!(
        asks.join().unwrap().contains("the connection was not taken"),
        "it says nothing and hangs up"
    );
    bytes[at] ^= 0x40;
    bytes
}

#[test]
fn a_connection_to_another_build_is_not_made() {
    for (at, says) in [
        (core::mem::offset_of!(Hello, version), "version: ours 2, theirs 66; remedy: "),
        (core::mem::offset_of!(Hello, wire_hash), "hash: "),
    ] {
        let answer = hello(at);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("tcp://{}", listener.local_addr().unwrap());
        let other = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&answer).unwrap();
            // Until it hangs up.
            let _all = stream.read_to_end(&mut Vec::new());
        });
        let said = connect(&uri, Transport::Tcp);
        other.join().unwrap();
        assert!(said.contains(&format!("what answers at {uri}: {says}")), "{said}");
    }
}

/// Over UDP there is no hello: each packet says what it is. One of another build is counted, with what was wrong with it, and nothing else.
#[test]
fn a_packet_of_another_build_is_counted_and_named() {
    let found = discover(&Hints::only(&[Transport::Udp]));
    let at: [_; 1] = ["udp://127.0.0.1:0".parse().unwrap()];
    let plan = negotiate(&Requirements::datagrams().for_peer_at(&at), &found);
    with(&plan, &OpenConfig::listen(), |end| {
        let buffers = LoanPool::place(end.bump(), 1, 64).unwrap();
        let from = spinwire_dataplane::msg::RecvFrom::any();
        end.endpoint.post_recv(from, buffers.lend().unwrap(), 1).unwrap();
        let to = end.uri.address().unwrap().resolve().unwrap()[0];
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        let AnyPort::Udp(port) = end.endpoint.provider() else { panic!("{end}") };
        assert_eq!(port.last_fault(), None);
        let ours = datagram::header(5, Envelope::default()).unwrap();
        for (at, fault, garbage) in [
            (core::mem::offset_of!(DatagramHeader, version), DatagramFault::Version, 1),
            (core::mem::offset_of!(DatagramHeader, hash), DatagramFault::Hash, 2),
        ] {
            let mut packet = [&ours[..], b"hello"].concat();
            packet[at] ^= 0x40;
            stranger.send_to(&packet, to).unwrap();
            crate::until("it is counted", &[&end.endpoint], || {
                (port.counters().garbage == garbage).then_some(())
            });
            assert_eq!(port.last_fault(), Some(fault));
            assert!(fault.to_string().contains("bring both to the same build"), "{fault}");
        }
        assert!(end.endpoint.poll().is_none());
    })
    .unwrap();
}

/// Says what a child of this program does: `serve URI`, `ask URI`.
const ROLE: &str = "SELECTION_TEST_BUILD";
const CHILD: &str = "builds::real_processes_of_different_builds_refuse_each_other";

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
fn real_processes_of_different_builds_refuse_each_other() {
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
            // Optimised, the hash that comes is compared byte by byte, which no search finds: that program says another one and takes ours. Then it
            // is this one that finds it out.
            let both = format!("{said}; {heard}");
            let by_ours = if client == &ours { &said } else { &heard };
            let who = if cfg!(debug_assertions) { &said } else { by_ours };
            assert!(who.contains("hash: the peer has other layouts"), "{uri}: {both}");
            assert!(who.contains("run the same version at both ends"), "{uri}: {both}");
        }
    }
}
