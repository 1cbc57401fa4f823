//! What a port at a URI stands on: who is where, and a socket at which the ends tell each other.
//!
//! ```text
//!   end that listens, at HOST:PORT                       end that connects
//!     attend(&port)  <── TYPE TO spinwire-ofi-1 NAME ADDRESS ── call(&port, ..)
//!        enters NAME  ── spinwire-ofi-1 NAME ADDRESS ──>        enters NAME
//!                     <══ messages, through libfabric ══>
//! ```
//!
//! An address of libfabric is the provider's own, and a message of a stranger has no sender that could be answered; so both ends enter each
//! other before the first message. The connection of TCP stays as long as both ends live: when it ends, so does the peer, after
//! [`GRACE`] in which what the library still has comes in.
//!
//! `attend` never waits. It looks at its sockets every [`LOOK_EVERY`], at each call while somebody is being answered, and before a thread sleeps: then
//! they are in the set that it sleeps on ([`Opened::news`](crate::open::Opened::news)).

use core::cell::{Cell, RefCell};
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::rc::Rc;

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::provider::peers::Standing;
use spinwire_dataplane::provider::{EndpointType, Provider as _};
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::{Instant, Nanos};

use super::error::OfiError;
use super::names::{Names, line};
use super::port::OfiPort;
use super::setup::OfiConfig;
use crate::error::Errno;
use crate::raw::epoll::Epoll;

/// How often the sockets are looked at.
const LOOK_EVERY: Nanos = Nanos::from_millis(5);
/// How long a peer whose connection has ended may still be heard.
const GRACE: Nanos = Nanos::from_millis(50);
/// How long who calls may take to say who it is.
const HELLO_WITHIN: Nanos = Nanos::from_millis(2_000);
/// Bytes of a hello, at most.
const HELLO_BYTES_MAX: usize = 2048;
/// Who may be answered at once, beside the peers.
const CALLERS_MAX: usize = 16;

/// A connection to another end.
#[derive(Debug)]
struct Line {
    stream: TcpStream,
    heard: Vec<u8>,
    /// Who it is; `None` until it has said so.
    peer: Option<Addr>,
    /// When it began, or since when it is at its end.
    since: Instant,
    ended: bool,
}

/// Why a call came to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallError {
    /// Nobody answers.
    Nobody,
    /// Who answers does not take the call: an endpoint of another name or type, or of another version.
    Refused,
    /// The peer could not be entered.
    Post(PostError),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("nobody answers; remedy: start the end that listens first"),
            Self::Refused => f.write_str(
                "the call is not taken: an endpoint of another name or type, or of another version; remedy: run the same at both ends",
            ),
            Self::Post(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for CallError {}

/// What a port at a URI stands on. Belongs to the thread that opened it.
#[derive(Debug)]
pub struct OfiPlane {
    names: Names,
    config: OfiConfig,
    listener: Option<TcpListener>,
    lines: RefCell<Vec<Line>>,
    looked: Cell<Option<Instant>>,
    answering: Cell<bool>,
    /// Where a thread sleeps until something comes, calls and ends of peers included.
    watched: RefCell<Option<Rc<Epoll>>>,
}

/// Whether the provider's addresses are those of the network.
fn has_network_addresses(provider: &str) -> bool {
    matches!(provider.split(';').next(), Some("tcp" | "net" | "sockets" | "udp" | "verbs"))
}

/// The address of this machine from which `to` is reached. Nothing is sent.
fn towards(to: SocketAddr) -> io::Result<IpAddr> {
    let any = if to.is_ipv4() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    };
    let probe = UdpSocket::bind((any, 0))?;
    probe.connect(to)?;
    Ok(probe.local_addr()?.ip())
}

impl OfiPlane {
    /// For a port of `config`, whose provider has to be named: at `at` it is called where `listens`, else it calls who is there.
    ///
    /// # Errors
    /// What the system says of the socket.
    pub fn open(at: SocketAddr, listens: bool, config: OfiConfig) -> io::Result<Self> {
        let listener = if listens {
            let listener = TcpListener::bind(at)?;
            listener.set_nonblocking(true)?;
            Some(listener)
        } else {
            None
        };
        let from = if listens { at.ip() } else { towards(at)? };
        let is_placed = config.provider.as_deref().is_some_and(has_network_addresses);
        let node = (is_placed && !from.is_unspecified()).then(|| from.to_string());
        Ok(Self {
            names: Names::new(),
            config: OfiConfig { node, ..config },
            listener,
            lines: RefCell::default(),
            looked: Cell::new(None),
            answering: Cell::new(false),
            watched: RefCell::new(None),
        })
    }

    /// Where it is called.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        self.listener.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// How many others have said who they are, or were called, and are connected still. Of type MSG the library has the connection: the events of the
    /// port tell of it.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.lines.borrow().iter().filter(|line| line.peer.is_some() && !line.ended).count()
    }

    /// Another descriptor of the connection to `peer`, on which nothing comes but its end, when that of its process has come. `None` of type MSG, where
    /// events of the port tell of it, and where it has ended.
    ///
    /// # Errors
    /// What dup(2) says.
    pub fn connection_to(&self, peer: Addr) -> io::Result<Option<TcpStream>> {
        let lines = self.lines.borrow();
        let line = lines.iter().find(|line| line.peer == Some(peer) && !line.ended);
        line.map(|line| line.stream.try_clone()).transpose()
    }

    /// Whoever calls, and whose connection ends, makes `set` readable from now on.
    pub(crate) fn watch_in(&self, set: &Rc<Epoll>) -> Result<(), Errno> {
        let sockets = self.listener.iter().map(AsRawFd::as_raw_fd);
        let lines = self.lines.borrow();
        let lines = lines.iter().filter(|line| !line.ended).map(|line| line.stream.as_raw_fd());
        sockets.chain(lines).try_for_each(|fd| set.add(fd))?;
        self.watched.replace(Some(Rc::clone(set)));
        Ok(())
    }

    /// The next call of [`attend`](Self::attend) looks at the sockets.
    pub(crate) fn look_next(&self) {
        self.looked.set(None);
    }

    /// When the sockets are to be looked at though nothing comes: where a peer is at its end, or a caller says nothing.
    pub(crate) fn look_at(&self) -> Option<Instant> {
        let due = |line: &Line| match (line.ended, line.peer) {
            (true, _) => Some(line.since.saturating_add(GRACE)),
            (false, None) => Some(line.since.saturating_add(HELLO_WITHIN)),
            (false, Some(_)) => None,
        };
        self.lines.borrow().iter().filter_map(due).min()
    }

    /// A connection is there, and whoever sleeps is to hear of it.
    fn watch(&self, stream: &TcpStream) {
        if let Some(set) = &*self.watched.borrow() {
            // Without it the end of that peer is noticed by a later look.
            let _unwatched = set.add(stream.as_raw_fd());
        }
    }

    /// It is at its end, and can be read from for ever.
    fn unwatch(&self, stream: &TcpStream) {
        if let Some(set) = &*self.watched.borrow() {
            // It leaves the set when it is closed, at the latest.
            let _was_none_of_it = set.remove(stream.as_raw_fd());
        }
    }

    /// The port, placed in `bump`.
    ///
    /// # Errors
    /// [`OfiError`].
    pub fn port<'m>(&'m self, bump: &Bump<'m>, name: &Name) -> Result<OfiPort<'m>, OfiError> {
        OfiPort::open(bump, &self.names, name, &self.config)
    }

    /// Enters the end of that name which answers at `at`, and begins to connect to it: [`OfiPort::reach`] says when it is there. Waits as long as
    /// `patience`.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn call(
        &self,
        port: &OfiPort<'_>,
        (name, at): (&Name, SocketAddr),
        patience: Duration,
    ) -> Result<Addr, CallError> {
        let said = self.ask(port, (name, at), patience);
        let (stream, text) = said.map_err(|_unheard| CallError::Nobody)?;
        match self.names.enter(&text) {
            Ok(met) if met == *name => {}
            Ok(other) => {
                self.names.forget(&other);
                return Err(CallError::Refused);
            }
            Err(_other_words) => return Err(CallError::Refused),
        }
        let peer = port.connect(name).map_err(CallError::Post)?;
        if self.config.endpoint_type != EndpointType::Msg {
            let since = port.now.get();
            self.watch(&stream);
            let line = Line { stream, heard: Vec::new(), peer: Some(peer), since, ended: false };
            self.lines.borrow_mut().push(line);
        }
        Ok(peer)
    }

    /// What is answered at `at`; an empty text where the call is not taken.
    fn ask(
        &self,
        port: &OfiPort<'_>,
        (name, at): (&Name, SocketAddr),
        patience: Duration,
    ) -> io::Result<(TcpStream, String)> {
        let patience = patience.max(Duration::from_millis(1));
        let mut stream = TcpStream::connect_timeout(&at, patience)?;
        stream.set_read_timeout(Some(patience))?;
        let own = port.address().map_err(|e| io::Error::other(e.to_string()))?;
        let kind = self.config.endpoint_type;
        let hello = format!("{kind} {name} {}", line(&port.name, &own));
        stream.write_all(hello.as_bytes())?;
        let mut text = String::new();
        let most = u64::try_from(HELLO_BYTES_MAX).unwrap_or(u64::MAX);
        // Nothing is said after the answer.
        let _length = BufReader::new((&stream).take(most)).read_line(&mut text)?;
        stream.set_nonblocking(true)?;
        Ok((stream, text))
    }

    /// Answers those who call, and sees whose connection has ended. To be called between turns.
    #[inline]
    pub fn attend(&self, port: &OfiPort<'_>, now: Instant) {
        let is_due = |last: Instant| now.saturating_since(last) >= LOOK_EVERY;
        if self.answering.get() || self.looked.get().is_none_or(is_due) {
            self.look(port, now);
        }
    }

    #[cold]
    fn look(&self, port: &OfiPort<'_>, now: Instant) {
        self.looked.set(Some(now));
        let mut lines = self.lines.borrow_mut();
        let most = usize::try_from(self.config.peers_max).unwrap_or(usize::MAX);
        if let Some(listener) = &self.listener
            && lines.len() < most.saturating_add(CALLERS_MAX)
            && let Ok((stream, _)) = listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            self.watch(&stream);
            lines.push(Line { stream, heard: Vec::new(), peer: None, since: now, ended: false });
        }
        lines.retain_mut(|line| self.goes_on(port, line, now));
        self.answering.set(lines.iter().any(|line| line.peer.is_none()));
    }

    /// Whether there is anything more to hear of that end.
    fn goes_on(&self, port: &OfiPort<'_>, line: &mut Line, now: Instant) -> bool {
        if line.ended {
            let is_over = now.saturating_since(line.since) >= GRACE;
            if let (true, Some(peer)) = (is_over, line.peer) {
                port.lose(peer, Standing::Gone, 0);
            }
            return !is_over;
        }
        let mut bytes = [0; 256];
        match (&line.stream).read(&mut bytes) {
            Err(e)
                if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
            {
                line.peer.is_some() || now.saturating_since(line.since) < HELLO_WITHIN
            }
            Ok(0) | Err(_) if line.peer.is_some() => {
                (line.ended, line.since) = (true, now);
                self.unwatch(&line.stream);
                true
            }
            Ok(0) | Err(_) => false,
            // Nobody says more than a hello.
            Ok(_) if line.peer.is_some() => true,
            Ok(length) => {
                line.heard.extend_from_slice(bytes.get(..length).unwrap_or_default());
                self.answer(port, line)
            }
        }
    }

    /// Answers a hello that is whole. Whether the line stays.
    fn answer(&self, port: &OfiPort<'_>, caller: &mut Line) -> bool {
        if !caller.heard.ends_with(b"\n") {
            return caller.heard.len() < HELLO_BYTES_MAX;
        }
        let Some(name) = self.read_hello(port, &caller.heard) else { return false };
        if port.peers.in_use().any(|(_, row)| row.name.get() == Some(name)) {
            // Whoever has the name keeps it, until its end is told.
            self.names.forget(&name);
            return false;
        }
        let Ok(own) = port.address() else { return false };
        let is_connected = self.config.endpoint_type == EndpointType::Msg;
        // Of type MSG it is the caller who connects, by the address that it is told; and the library tells of its end.
        let entered = if is_connected { None } else { Some(port.connect(&name)) };
        self.names.forget(&name);
        match entered {
            Some(Ok(peer)) => caller.peer = Some(peer),
            Some(Err(_no_room)) => return false,
            None => {}
        }
        let told = (&caller.stream).write_all(line(&port.name, &own).as_bytes());
        if told.is_err() {
            caller.peer.into_iter().for_each(|peer| port.lose(peer, Standing::Gone, 0));
        }
        told.is_ok() && !is_connected
    }

    /// Who calls, where it is this end that is called.
    fn read_hello(&self, port: &OfiPort<'_>, heard: &[u8]) -> Option<Name> {
        let text = core::str::from_utf8(heard).ok()?;
        let (kind, rest) = text.split_once(' ')?;
        let (called, rest) = rest.split_once(' ')?;
        let is_this = EndpointType::of_name(kind) == Some(self.config.endpoint_type)
            && called == port.name.as_str();
        if is_this { self.names.enter(rest).ok() } else { None }
    }
}
