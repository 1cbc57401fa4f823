//! Sockets for rings: opened, bound and listened on, and their addresses.
//!
//! ```text
//!   "tcp://host:port" ── Address ── resolve() ── SocketAddr ── listen()   ── Bound: a socket that takes connections
//!                                                           ── unconnected() ── Outgoing: a socket and the bytes of the address to
//!                                                                           connect it to, which the ring does
//!                                                           ── bind_udp() ── Bound: a socket of datagrams
//! ```
//!
//! All are in blocking mode and closed on exec: a ring never blocks on them, and kernels have not always agreed on whether it
//! waits for a non-blocking one. A connection that is accepted has the options of the socket that it came in by
//! (tcp(7), socket(7)), so they are set once.

mod address;

use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use spinwire_layouts::uring::SockAddr;

pub use address::{Address, AddressError, Scheme};

use crate::error::Errno;
use crate::raw::socket::{self as raw, IntOption};

/// What a socket shall be like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SocketOptions {
    /// SO_REUSEADDR: an address can be bound again while old connections of it fade. TCP's alone: with UDP it would let any other program
    /// bind the same port, and have what is sent there.
    pub reuse_address: bool,
    /// SO_REUSEPORT: several sockets listen at one address, and the kernel spreads connections over them.
    pub reuse_port: bool,
    /// TCP_NODELAY: small pieces go out at once.
    pub no_delay: bool,
    /// SO_KEEPALIVE: a peer that is silent is asked whether it still lives.
    pub keepalive: Option<Keepalive>,
    /// TCP_USER_TIMEOUT: how long nobody may answer what was sent before the kernel gives the connection up; by default a quarter of an hour. It counts in
    /// milliseconds.
    pub user_timeout: Option<Duration>,
    /// SO_BUSY_POLL: how long a receive polls the queue of the network card; the kernel counts in microseconds.
    pub busy_poll: Option<Duration>,
    /// SO_RCVBUF: bytes that the kernel keeps for the receiver; it doubles them, and cuts them at `net.core.rmem_max`.
    pub receive_bytes: Option<u32>,
    /// SO_SNDBUF: likewise for the sender, and `net.core.wmem_max`.
    pub send_bytes: Option<u32>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            reuse_address: true,
            reuse_port: false,
            no_delay: true,
            keepalive: None,
            user_timeout: None,
            busy_poll: None,
            receive_bytes: None,
            send_bytes: None,
        }
    }
}

/// When a silent peer is asked, and when it is given up (tcp(7)). The kernel counts in seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keepalive {
    /// After how long a silence: TCP_KEEPIDLE.
    pub idle: Duration,
    /// How long between one question and the next: TCP_KEEPINTVL.
    pub interval: Duration,
    /// How many questions without an answer: TCP_KEEPCNT.
    pub probes: u32,
}

/// A socket could not be had. The text names the remedy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketError {
    /// No socket could be made.
    Open {
        /// What the kernel said.
        errno: Errno,
    },
    /// It could not have that address, or not be listened on.
    Bind {
        /// That address.
        address: SocketAddr,
        /// What the kernel said.
        errno: Errno,
    },
    /// It could not have that option.
    Option {
        /// Its name in socket(7) or tcp(7).
        name: &'static str,
        /// The value.
        value: i32,
        /// What the kernel said.
        errno: Errno,
    },
}

impl SocketError {
    /// The kernel's answer.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match *self {
            Self::Open { errno } | Self::Bind { errno, .. } | Self::Option { errno, .. } => errno,
        }
    }

    /// What mends it, where that is known.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        let text = match (self, self.errno().number()) {
            (Self::Bind { address, .. }, libc::EADDRINUSE) => {
                format!("see who has it: ss -anp 'sport = :{}'", address.port())
            }
            (Self::Bind { address, .. }, libc::EACCES) => format!(
                "sudo sysctl -w net.ipv4.ip_unprivileged_port_start={} # or take a port from 1024 on",
                address.port()
            ),
            (Self::Bind { .. }, libc::EADDRNOTAVAIL) => {
                "ip addr # the addresses that this machine has".to_owned()
            }
            (Self::Option { name: "SO_BUSY_POLL", value, .. }, libc::EPERM) => {
                format!("sudo sysctl -w net.core.busy_read={value} # or run with CAP_NET_ADMIN")
            }
            (Self::Open { .. }, libc::EAFNOSUPPORT) => {
                "this machine has no such protocol; take an address of the other version of IP"
                    .to_owned()
            }
            (_, libc::EMFILE) => crate::limits::open_files_remedy(65_536),
            (_, libc::ENFILE) => "sudo sysctl -w fs.file-max=1000000".to_owned(),
            _ => return None,
        };
        Some(text)
    }
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { errno } => write!(f, "no socket: {errno}")?,
            Self::Bind { address, errno } => write!(f, "the address {address}: {errno}")?,
            Self::Option { name, value, errno } => {
                write!(f, "the socket option {name} = {value}: {errno}")?;
            }
        }
        self.remedy().map_or(Ok(()), |remedy| write!(f, "; remedy: {remedy}"))
    }
}

impl core::error::Error for SocketError {}

/// A socket with an address of this machine.
#[derive(Debug)]
pub struct Bound {
    /// The socket.
    pub fd: OwnedFd,
    /// Its address, with the port that it got where 0 was asked for.
    pub local: SocketAddr,
}

/// A socket that is to be connected.
#[derive(Debug)]
pub struct Outgoing {
    /// The socket.
    pub fd: OwnedFd,
    /// Whom to connect it to, as the kernel wants it.
    pub remote: SockAddr,
}

/// A socket that listens at `address`, for TCP. At most `backlog` connections wait to be accepted, and
/// `net.core.somaxconn`.
///
/// # Errors
/// [`SocketError`].
pub fn listen(
    address: SocketAddr,
    backlog: u32,
    options: &SocketOptions,
) -> Result<Bound, SocketError> {
    let fd = open(address, libc::SOCK_STREAM)?;
    configure(fd.as_fd(), options)?;
    configure_tcp(fd.as_fd(), options)?;
    let refused = |errno| SocketError::Bind { address, errno };
    raw::bind(fd.as_fd(), &SockAddr::new(address)).map_err(refused)?;
    raw::listen(fd.as_fd(), backlog).map_err(refused)?;
    let listener = TcpListener::from(fd);
    let local = listener.local_addr().map_err(|e| refused(Errno::from_io(&e)))?;
    Ok(Bound { fd: listener.into(), local })
}

/// A socket for TCP that a ring will connect to `remote`.
///
/// # Errors
/// [`SocketError`].
pub fn unconnected(remote: SocketAddr, options: &SocketOptions) -> Result<Outgoing, SocketError> {
    let fd = open(remote, libc::SOCK_STREAM)?;
    configure(fd.as_fd(), options)?;
    configure_tcp(fd.as_fd(), options)?;
    Ok(Outgoing { fd, remote: SockAddr::new(remote) })
}

/// A socket for UDP at `address`. The options that are TCP's alone do not count.
///
/// # Errors
/// [`SocketError`].
pub fn bind_udp(address: SocketAddr, options: &SocketOptions) -> Result<Bound, SocketError> {
    let fd = open(address, libc::SOCK_DGRAM)?;
    configure(fd.as_fd(), options)?;
    // What had no room is counted, and the count comes with what has (socket(7)).
    set(fd.as_fd(), raw::SO_RXQ_OVFL, 1)?;
    let refused = |errno| SocketError::Bind { address, errno };
    raw::bind(fd.as_fd(), &SockAddr::new(address)).map_err(refused)?;
    let socket = UdpSocket::from(fd);
    let local = socket.local_addr().map_err(|e| refused(Errno::from_io(&e)))?;
    Ok(Bound { fd: socket.into(), local })
}

/// Bytes that the kernel really keeps for a socket: for the receiver, and for the sender. Twice what was asked for, or what its
/// limits leave (socket(7)).
///
/// # Errors
/// [`SocketError::Option`].
pub fn buffer_bytes(socket: BorrowedFd<'_>) -> Result<(u32, u32), SocketError> {
    let get = |option: IntOption| {
        let value = raw::get(socket, option);
        let value =
            value.map_err(|errno| SocketError::Option { name: option.name, value: 0, errno })?;
        Ok(u32::try_from(value).unwrap_or(0))
    };
    Ok((get(raw::SO_RCVBUF)?, get(raw::SO_SNDBUF)?))
}

fn open(address: SocketAddr, kind: i32) -> Result<OwnedFd, SocketError> {
    raw::open(address.is_ipv6(), kind).map_err(|errno| SocketError::Open { errno })
}

fn set(socket: BorrowedFd<'_>, option: IntOption, value: u32) -> Result<(), SocketError> {
    let value = i32::try_from(value).unwrap_or(i32::MAX);
    let refused = |errno| SocketError::Option { name: option.name, value, errno };
    raw::set(socket, option, value).map_err(refused)
}

/// Options of every socket.
fn configure(socket: BorrowedFd<'_>, options: &SocketOptions) -> Result<(), SocketError> {
    if options.reuse_port {
        set(socket, raw::SO_REUSEPORT, 1)?;
    }
    if let Some(bytes) = options.receive_bytes {
        set(socket, raw::SO_RCVBUF, bytes)?;
    }
    if let Some(bytes) = options.send_bytes {
        set(socket, raw::SO_SNDBUF, bytes)?;
    }
    if let Some(span) = options.busy_poll {
        set(socket, raw::SO_BUSY_POLL, u32::try_from(span.as_micros()).unwrap_or(u32::MAX))?;
    }
    Ok(())
}

/// Options of sockets of TCP.
fn configure_tcp(socket: BorrowedFd<'_>, options: &SocketOptions) -> Result<(), SocketError> {
    set(socket, raw::SO_REUSEADDR, u32::from(options.reuse_address))?;
    set(socket, raw::TCP_NODELAY, u32::from(options.no_delay))?;
    if let Some(span) = options.user_timeout {
        set(socket, raw::TCP_USER_TIMEOUT, u32::try_from(span.as_millis()).unwrap_or(u32::MAX))?;
    }
    let Some(keepalive) = options.keepalive else {
        return Ok(());
    };
    // Less than a second is none at all to the kernel.
    let seconds = |span: Duration| u32::try_from(span.as_secs().max(1)).unwrap_or(u32::MAX);
    set(socket, raw::TCP_KEEPIDLE, seconds(keepalive.idle))?;
    set(socket, raw::TCP_KEEPINTVL, seconds(keepalive.interval))?;
    set(socket, raw::TCP_KEEPCNT, keepalive.probes)?;
    set(socket, raw::SO_KEEPALIVE, 1)
}

#[cfg(test)]
mod tests;
