//! Sockets of the kernel that runs, over the loopback interface.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use super::*;

const ANY: &str = "127.0.0.1:0";

fn any() -> SocketAddr {
    ANY.parse().unwrap()
}

/// Every option that there is.
fn all() -> SocketOptions {
    SocketOptions {
        reuse_port: true,
        keepalive: Some(Keepalive {
            idle: Duration::from_secs(7),
            interval: Duration::from_millis(100),
            probes: 3,
        }),
        user_timeout: Some(Duration::from_millis(1500)),
        receive_bytes: Some(65_536),
        send_bytes: Some(32_768),
        ..SocketOptions::default()
    }
}

fn flags_of(fd: &OwnedFd, line: &str) -> u32 {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
    let flags = text.lines().find_map(|l| l.strip_prefix(line)).unwrap();
    u32::from_str_radix(flags.trim(), 8).unwrap()
}

#[test]
fn sockets_are_closed_on_exec_and_block() {
    let wanted = u32::try_from(libc::O_CLOEXEC).unwrap();
    let not = u32::try_from(libc::O_NONBLOCK).unwrap();
    let sockets = [
        listen(any(), 8, &SocketOptions::default()).unwrap().fd,
        unconnected(any(), &SocketOptions::default()).unwrap().fd,
        bind_udp(any(), &SocketOptions::default()).unwrap().fd,
    ];
    for fd in &sockets {
        assert_eq!(flags_of(fd, "flags:") & (wanted | not), wanted);
    }
}

#[test]
fn a_connection_inherits_the_options_of_the_socket_that_it_came_in_by() {
    let bound = listen(any(), 8, &all()).unwrap();
    assert_ne!(bound.local.port(), 0);
    let mut client = TcpStream::connect(bound.local).unwrap();
    let listener = TcpListener::from(bound.fd);
    let (mut server, _) = listener.accept().unwrap();
    let get = |option| raw::get(server.as_fd(), option).unwrap();
    assert_eq!(get(raw::TCP_NODELAY), 1);
    assert_eq!(get(raw::SO_KEEPALIVE), 1);
    assert_eq!(get(raw::TCP_KEEPIDLE), 7);
    assert_eq!(get(raw::TCP_KEEPINTVL), 1, "as little as there is");
    assert_eq!(get(raw::TCP_KEEPCNT), 3);
    assert_eq!(get(raw::TCP_USER_TIMEOUT), 1500);
    assert_eq!(buffer_bytes(server.as_fd()).unwrap(), (2 * 65_536, 2 * 32_768));
    client.write_all(b"x").unwrap();
    let mut byte = [0];
    server.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
}

#[test]
fn the_bytes_of_an_address_are_those_that_the_kernel_takes() {
    for host in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(bound) = listen(host.parse().unwrap(), 8, &SocketOptions::default()) else {
            assert!(host.starts_with('['), "only IPv6 may be missing");
            continue;
        };
        let out = unconnected(bound.local, &SocketOptions::default()).unwrap();
        assert_eq!(SockAddr::read(out.remote.as_bytes()), Some(bound.local));
        let udp = bind_udp(host.parse().unwrap(), &all()).unwrap();
        assert_eq!((udp.local.ip(), udp.local.port() != 0), (bound.local.ip(), true));
    }
}

#[test]
fn what_cannot_be_had_is_told_with_its_remedy() {
    let strict = SocketOptions { reuse_address: false, ..SocketOptions::default() };
    let first = listen(any(), 8, &strict).unwrap();
    let taken = listen(first.local, 8, &strict).unwrap_err();
    let port = first.local.port();
    assert!(taken.to_string().contains(&format!("ss -anp 'sport = :{port}'")), "{taken}");
    // TEST-NET-1 of RFC 5737 is nobody's.
    let foreign = listen("192.0.2.1:0".parse().unwrap(), 8, &strict).unwrap_err();
    assert_eq!(foreign.errno().number(), libc::EADDRNOTAVAIL);
    assert!(foreign.to_string().contains("ip addr"), "{foreign}");
    let busy =
        SocketError::Option { name: "SO_BUSY_POLL", value: 50, errno: Errno::new(libc::EPERM) };
    assert!(busy.to_string().contains("CAP_NET_ADMIN"), "{busy}");
    let full = SocketError::Open { errno: Errno::new(libc::EMFILE) };
    assert!(full.to_string().contains("LimitNOFILE"), "{full}");
}

/// Two at one port would both believe to be found there, and the last would have it all.
#[test]
fn a_port_of_udp_is_one_sockets_alone() {
    let first = bind_udp(any(), &SocketOptions::default()).unwrap();
    let taken = bind_udp(first.local, &SocketOptions::default()).unwrap_err();
    assert_eq!(taken.errno().number(), libc::EADDRINUSE, "{taken}");
    let shared = SocketOptions { reuse_port: true, ..SocketOptions::default() };
    let first = bind_udp(any(), &shared).unwrap();
    assert!(bind_udp(first.local, &shared).is_ok(), "where it is asked for");
}

#[test]
fn busy_polling_is_set_or_refused_with_the_remedy() {
    let options =
        SocketOptions { busy_poll: Some(Duration::from_micros(50)), ..SocketOptions::default() };
    match bind_udp(any(), &options) {
        Ok(bound) => assert_eq!(raw::get(bound.fd.as_fd(), raw::SO_BUSY_POLL).unwrap(), 50),
        Err(e) => assert_eq!(e.errno().number(), libc::EPERM, "{e}"),
    }
}
