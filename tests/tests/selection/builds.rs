//! Processes of different builds refuse each other, and say that it is the version.

#[cfg(debug_assertions)]
mod real;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::FileExt;

use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::provider::udp::datagram::{self, DatagramFault};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::shm::lane::Envelope;
use spinwire_hostshim::discover::{Hints, Transport, discover};
use spinwire_hostshim::domain::{Domain, DomainConfig};
use spinwire_hostshim::mem::{PageKind, PagePolicy, SegmentDir};
use spinwire_hostshim::negotiate::{Requirements, negotiate};
use spinwire_hostshim::open::{AnyPort, OpenConfig, with};
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
