//! Connections through librdmacm: addresses and ports as of TCP, and a few bytes of private data with each step.
//!
//! ```text
//!   who calls                                                who listens
//!   resolve(to)      ── AddressResolved
//!   link.route()     ── RouteResolved     the device is known: a Pair is made on it
//!   link.prepare(pair)                                       (receives are posted now)
//!   link.connect(pair, data)  ────────────────────────────>  Request(link) + data     a Pair is made on link.open_device()
//!                                                            link.prepare(pair), receives
//!                                                            link.accept(pair, data), or link.reject(data)
//!   Answered + data (or Rejected) <────────────────────────
//!   link.establish(pair)      ────────────────────────────>  Established
//!                    Disconnected, on both, when one disconnects or is gone
//! ```
//!
//! The queue pair is made by us, on a device that we have opened, and not by the library: so it is the same `Pair` that
//! [`exchange`](super::exchange) connects, on the same completion queues. [`CmChannel::call`] and [`CmChannel::answer`] take all steps
//! at once, and wait. A program that must not wait asks [`CmChannel::next_event`] now and then, and takes each step when its event has come.
//!
//! A device that is taken away is told of to every id that is on it ([`CmChannel::watch`] makes one for that alone). The kernel then waits, unless its driver can do without, until
//! this process has closed it: what was made on it, its ids, and what librdmacm has opened there for itself, which it is made to close when the event is read. To find
//! that out librdmacm opens all devices that are left, and keeps them.

use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Instant;

use super::device::Device;
use super::error::VerbsError;
use super::pair::Pair;
use super::states::ConnectConfig;
use crate::raw::verbs::cm::{Channel, DATA_MAX, Id, Params, RawNews, close_removed};
use crate::raw::{file, syscall};

/// Which connection, or listener, an event is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LinkId(usize);

/// Bytes that the other end has sent with its step: up to 56 with a connect, 196 with an accept, 148 with a reject. What comes is
/// padded with zeros to that length.
#[derive(Clone, Copy)]
pub struct PrivateData {
    bytes: [u8; DATA_MAX],
    length: u8,
}

impl PrivateData {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

impl fmt::Debug for PrivateData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateData({} bytes)", self.length)
    }
}

/// What has happened to a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CmNews {
    /// The device that leads there is known.
    AddressResolved,
    /// So is the way.
    RouteResolved,
    /// Somebody calls.
    Request,
    /// The other end has accepted.
    Answered,
    /// The connection is there.
    Established,
    /// Nothing listens there (8), or the other end does not want to (28); else by the number of the reason in the specification.
    Rejected(i32),
    /// No way there, or no answer, by its errno.
    Failed(i32),
    /// Nothing has come within the time that was given.
    TimedOut,
    /// The other end has disconnected, or this one has.
    Disconnected,
    /// The device is taken away. Everything on it is to be dropped.
    DeviceRemoved,
    /// The device has another address now.
    AddressChanged,
    /// Nothing of the connection is on the way any more.
    Over,
    /// Anything else, by its number in `enum rdma_cm_event_type`.
    Other(u32),
}

/// The numbers of `enum rdma_cm_event_type` (`rdma/rdma_cma.h`).
const fn news(kind: u32, status: i32) -> CmNews {
    match kind {
        0 => CmNews::AddressResolved,
        2 => CmNews::RouteResolved,
        4 => CmNews::Request,
        5 => CmNews::Answered,
        1 | 3 | 6 | 7 => CmNews::Failed(status.saturating_abs()),
        8 => CmNews::Rejected(status),
        9 => CmNews::Established,
        10 => CmNews::Disconnected,
        11 => CmNews::DeviceRemoved,
        14 => CmNews::AddressChanged,
        15 => CmNews::Over,
        other => CmNews::Other(other),
    }
}

impl fmt::Display for CmNews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AddressResolved => "the address is resolved",
            Self::RouteResolved => "the route is resolved",
            Self::Request => "a request has come",
            Self::Answered => "the other end has accepted",
            Self::Established => "the connection is established",
            Self::Rejected(8) => "nothing listens there; remedy: check address and port, and start the other end first",
            Self::Rejected(28) => "the other end has rejected it",
            Self::Rejected(reason) => return write!(f, "rejected, reason {reason}"),
            Self::Failed(libc::ETIMEDOUT) | Self::TimedOut => {
                "no answer in time; remedy: check that the address is on the network of an RDMA device"
            }
            Self::Failed(errno) => {
                let text = std::io::Error::from_raw_os_error(*errno);
                return write!(f, "{text}; remedy: name an address that an RDMA device leads to");
            }
            Self::Disconnected => "disconnected",
            Self::DeviceRemoved => "the device was taken away",
            Self::AddressChanged => "the device has another address now",
            Self::Over => "it is over",
            Self::Other(number) => return write!(f, "event {number}"),
        })
    }
}

/// An event.
#[derive(Debug)]
pub struct CmEvent {
    /// The connection; of a request, the listener.
    pub about: LinkId,
    /// What has happened.
    pub news: CmNews,
    /// Of a request: the new connection, to be accepted or rejected. Dropping it rejects it.
    pub link: Option<Link>,
    /// What the other end has sent along.
    pub data: PrivateData,
}

/// Where connections tell of themselves. One thread owns it, and all that is made of it.
#[derive(Debug)]
pub struct CmChannel {
    raw: Rc<Channel>,
}

impl AsFd for CmChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.fd()
    }
}

fn os(operation: &'static str) -> impl Fn(crate::error::Errno) -> VerbsError {
    move |e| VerbsError::os(operation, e)
}

/// Ids are told apart by a number that none has twice, as long as a process makes less than 2^32.
fn number() -> usize {
    static NUMBERS: AtomicU32 = AtomicU32::new(1);
    usize::try_from(NUMBERS.fetch_add(1, Ordering::Relaxed)).unwrap_or(0)
}

/// The kernel asks for a neighbour's address at the beginning of a resolve only; when nobody hears that, it is to be done again.
const RESOLVE_LIMIT: Duration = Duration::from_secs(2);

fn milliseconds(limit: Duration) -> i32 {
    i32::try_from(limit.as_millis()).unwrap_or(i32::MAX)
}

impl CmChannel {
    /// A channel.
    ///
    /// # Errors
    /// What the library says: ENODEV where the kernel's module `rdma_ucm` is missing.
    pub fn open() -> Result<Self, VerbsError> {
        let raw = Channel::make().map_err(os("rdma_create_event_channel"))?;
        file::set_nonblocking(raw.fd()).map_err(os("fcntl(O_NONBLOCK)"))?;
        Ok(Self { raw })
    }

    /// The next event; `None` where there is none just now. A system call: ask now and then, or when the descriptor of [`AsFd`] is
    /// readable.
    ///
    /// # Errors
    /// What the library says.
    pub fn next_event(&self) -> Result<Option<CmEvent>, VerbsError> {
        // The library takes memory from the heap before it looks whether there is one.
        let mut watched = [syscall::Readable::new(self.as_fd())];
        if syscall::poll(&mut watched, 0).map_err(os("poll"))? == 0 {
            return Ok(None);
        }
        let raw = match self.raw.next(number) {
            Ok(raw) => raw,
            Err(e) if matches!(e.number(), libc::EAGAIN | libc::EINTR) => return Ok(None),
            Err(e) => return Err(VerbsError::os("rdma_get_cm_event", e)),
        };
        let RawNews { kind, status, about, request, reads, data, data_len } = raw;
        let news = news(kind, status);
        if news == CmNews::DeviceRemoved {
            close_removed();
        }
        Ok(Some(CmEvent {
            about: LinkId(about),
            news,
            link: request.map(|raw| Link { raw, reads: Some(reads) }),
            data: PrivateData { bytes: data, length: data_len },
        }))
    }

    /// Waits for the next event, at most that long.
    ///
    /// # Errors
    /// What the kernel or the library says.
    pub fn wait(&self, limit: Duration) -> Result<Option<CmEvent>, VerbsError> {
        let until = Instant::now() + limit;
        loop {
            if let Some(event) = self.next_event()? {
                return Ok(Some(event));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let mut watched = [syscall::Readable::new(self.as_fd())];
            let _ready =
                syscall::poll(&mut watched, milliseconds(left).max(1)).map_err(os("poll"))?;
        }
    }

    /// Listens at an address of a device, or of all (`0.0.0.0`); port 0 takes a free one.
    ///
    /// # Errors
    /// What the library says: EADDRINUSE, EADDRNOTAVAIL, ENODEV.
    pub fn listen(&self, at: SocketAddr, backlog: u32) -> Result<Listener, VerbsError> {
        let raw = Id::make(&self.raw, number()).map_err(os("rdma_create_id"))?;
        raw.listen(at, i32::try_from(backlog).unwrap_or(i32::MAX)).map_err(os("rdma_listen"))?;
        Ok(Listener { raw })
    }

    /// An end that leads nowhere, on the device of that address: it is told that the device was taken away, though there is no connection.
    ///
    /// # Errors
    /// What the library says: EADDRNOTAVAIL, ENODEV.
    pub fn watch(&self, at: IpAddr) -> Result<Link, VerbsError> {
        let raw = Id::make(&self.raw, number()).map_err(os("rdma_create_id"))?;
        raw.bind(SocketAddr::new(at, 0)).map_err(os("rdma_bind_addr"))?;
        Ok(Link { raw, reads: None })
    }

    /// Begins a connection: looks for the device that leads there, from `from` where that is said. The answer is an event:
    /// [`CmNews::AddressResolved`], or [`CmNews::Failed`]. Two seconds are a good limit: a neighbour is asked for its address at the beginning
    /// only, so after that it is better to begin anew.
    ///
    /// # Errors
    /// What the library says: ENODEV where no device leads there.
    pub fn resolve(
        &self,
        from: Option<IpAddr>,
        to: SocketAddr,
        limit: Duration,
    ) -> Result<Link, VerbsError> {
        let raw = Id::make(&self.raw, number()).map_err(os("rdma_create_id"))?;
        let from = from.map(|address| SocketAddr::new(address, 0));
        raw.resolve(from, to, milliseconds(limit)).map_err(os("rdma_resolve_addr"))?;
        Ok(Link { raw, reads: None })
    }

    /// Waits until `link` has that news; what other connections tell meanwhile is dropped, so this is for channels with one.
    fn until(
        &self,
        link: &Link,
        step: &'static str,
        want: CmNews,
        until: Instant,
    ) -> Result<CmEvent, VerbsError> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let event =
                self.wait(left)?.ok_or(VerbsError::Unreached { step, why: CmNews::TimedOut })?;
            if event.about != link.id() {
                continue;
            }
            if event.news == want {
                return Ok(event);
            }
            return Err(VerbsError::Unreached { step, why: event.news });
        }
    }

    /// Calls and waits: all steps of who calls, within `limit`. `make` makes the pair, on the device that leads there, prepares it, and posts
    /// its first receives. Returns what the other end has sent with its answer, too. For a channel that has no other connection.
    ///
    /// # Errors
    /// [`VerbsError::Unreached`], those of `make`, or what the library says.
    pub fn call<P: AsRef<Pair>, E: From<VerbsError>>(
        &self,
        (from, to): (Option<IpAddr>, SocketAddr),
        (how, data): (&ConnectConfig, &[u8]),
        limit: Duration,
        make: impl FnOnce(&Link) -> Result<P, E>,
    ) -> Result<(Link, P, PrivateData), E> {
        let until = Instant::now() + limit;
        let link = loop {
            let link = self.resolve(from, to, RESOLVE_LIMIT.min(limit))?;
            match self.until(&link, "finding the address", CmNews::AddressResolved, until) {
                Ok(_resolved) => break link,
                Err(VerbsError::Unreached { why: CmNews::Failed(libc::ETIMEDOUT), .. })
                    if Instant::now() < until => {}
                Err(e) => return Err(e.into()),
            }
        };
        link.route(limit)?;
        self.until(&link, "finding the way", CmNews::RouteResolved, until)?;
        let pair = make(&link)?;
        link.connect(pair.as_ref(), how, data)?;
        let answer = self.until(&link, "connecting", CmNews::Answered, until)?;
        link.establish(pair.as_ref(), how)?;
        Ok((link, pair, answer.data))
    }

    /// Waits for somebody who calls, and takes all steps of who listens, within `limit`. `make` sees what the caller has sent, makes the pair on the
    /// device of the connection, prepares it, posts its first receives, and says what is sent with the answer; its error rejects.
    ///
    /// # Errors
    /// [`VerbsError::Unreached`], those of `make`, or what the library says.
    pub fn answer<P: AsRef<Pair>, E: From<VerbsError>>(
        &self,
        listener: &Listener,
        how: &ConnectConfig,
        limit: Duration,
        make: impl FnOnce(&Link, &PrivateData) -> Result<(P, Vec<u8>), E>,
    ) -> Result<(Link, P), E> {
        let until = Instant::now() + limit;
        let step = "waiting for a caller";
        let (link, data) = loop {
            let left = until.saturating_duration_since(Instant::now());
            let event =
                self.wait(left)?.ok_or(VerbsError::Unreached { step, why: CmNews::TimedOut })?;
            if let (Some(link), true) = (event.link, event.about == listener.id()) {
                break (link, event.data);
            }
        };
        let (pair, data) = match make(&link, &data) {
            Ok(made) => made,
            Err(e) => {
                link.reject(&[])?;
                return Err(e);
            }
        };
        link.accept(pair.as_ref(), how, &data)?;
        self.until(&link, "accepting", CmNews::Established, until)?;
        Ok((link, pair))
    }
}

/// An address that others may call. It listens as long as it lives.
#[derive(Debug)]
pub struct Listener {
    raw: Id,
}

impl Listener {
    /// What events call it.
    #[must_use]
    pub fn id(&self) -> LinkId {
        LinkId(self.raw.number())
    }

    /// The address that it listens at.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.raw.local()
    }
}

/// One end of a connection, without its queue pair. Dropping it gives the connection up: the other end is told, and the queue pair is to be
/// failed or dropped, too.
#[derive(Debug)]
pub struct Link {
    raw: Id,
    /// Of a request: reads and atomics that the caller will have under way, and that it answers at a time.
    reads: Option<(u8, u8)>,
}

impl Link {
    /// What events call it.
    #[must_use]
    pub fn id(&self) -> LinkId {
        LinkId(self.raw.number())
    }

    /// Its device by name, once it has one.
    #[must_use]
    pub fn device_name(&self) -> Option<String> {
        self.raw.device()
    }

    /// The port of its device, once it has one.
    #[must_use]
    pub fn port(&self) -> Option<u8> {
        Some(self.raw.port()).filter(|port| *port != 0)
    }

    /// This end's address.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.raw.local()
    }

    /// The other end's.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.raw.peer()
    }

    /// Opens its device, for a pair to be made on it. A device that is open already, and of that name, does as well.
    ///
    /// # Errors
    /// [`VerbsError::WrongKind`] before [`CmNews::AddressResolved`], and those of [`Device::open`].
    pub fn open_device(&self) -> Result<Device, VerbsError> {
        let wants = "an address that is resolved";
        let name = self.device_name();
        Device::open(&name.ok_or(VerbsError::WrongKind { call: "open_device", wants })?)
    }

    /// Looks for the way to the address that was resolved. The answer is an event.
    ///
    /// # Errors
    /// What the library says.
    pub fn route(&self, limit: Duration) -> Result<(), VerbsError> {
        self.raw.route(milliseconds(limit)).map_err(os("rdma_resolve_route"))
    }

    /// Makes a pair that is in state Reset take receives: those that the other end's first messages need are posted after this, and before
    /// [`Link::connect`] or [`Link::accept`].
    ///
    /// # Errors
    /// [`VerbsError::WrongKind`], or what the library says.
    pub fn prepare(&self, pair: &Pair, how: &ConnectConfig) -> Result<(), VerbsError> {
        self.suits("prepare", pair)?;
        pair.follow(&self.raw, how, 1)
    }

    /// Asks the other end for a connection with `pair`, which is new or prepared, of kind RC, and on the link's device. The answer is an event:
    /// [`CmNews::Answered`], [`CmNews::Rejected`] or [`CmNews::Failed`].
    ///
    /// # Errors
    /// [`VerbsError::WrongKind`], or what the library says: EINVAL for more than 56 bytes of data.
    pub fn connect(&self, pair: &Pair, how: &ConnectConfig, data: &[u8]) -> Result<(), VerbsError> {
        self.suits("connect", pair)?;
        pair.follow(&self.raw, how, 1)?;
        self.raw
            .connect(&params(pair, how, (how.reads, how.reads), data))
            .map_err(os("rdma_connect"))
    }

    /// Makes the pair ready to send, and tells the other end: after [`CmNews::Answered`].
    ///
    /// # Errors
    /// What the library says.
    pub fn establish(&self, pair: &Pair, how: &ConnectConfig) -> Result<(), VerbsError> {
        pair.follow(&self.raw, how, 2)?;
        pair.follow(&self.raw, how, 3)?;
        self.raw.establish().map_err(os("rdma_establish"))
    }

    /// Accepts a request with `pair`, as of [`Link::connect`]. [`CmNews::Established`] says that the other end is ready.
    ///
    /// # Errors
    /// [`VerbsError::WrongKind`], or what the library says: EINVAL for more than 196 bytes of data.
    pub fn accept(&self, pair: &Pair, how: &ConnectConfig, data: &[u8]) -> Result<(), VerbsError> {
        let params = self.ready(pair, how, data)?;
        self.welcome(&params)
    }

    /// The first half of an accept: the pair.
    pub(super) fn ready<'a>(
        &self,
        pair: &Pair,
        how: &ConnectConfig,
        data: &'a [u8],
    ) -> Result<Params<'a>, VerbsError> {
        self.suits("accept", pair)?;
        for state in 1..=3 {
            pair.follow(&self.raw, how, state)?;
        }
        let (theirs, answered) = self.reads.unwrap_or_default();
        let reads = (how.reads.min(theirs), how.reads.min(answered));
        Ok(params(pair, how, reads, data))
    }

    /// The other half: the other end.
    pub(super) fn welcome(&self, params: &Params<'_>) -> Result<(), VerbsError> {
        self.raw.accept(params).map_err(os("rdma_accept"))
    }

    /// Refuses a request. The caller sees up to 148 bytes of data.
    ///
    /// # Errors
    /// What the library says.
    pub fn reject(self, data: &[u8]) -> Result<(), VerbsError> {
        self.raw.reject(data).map_err(os("rdma_reject"))
    }

    /// Ends the connection: `pair` flushes what is posted, and both ends are told by [`CmNews::Disconnected`].
    ///
    /// # Errors
    /// What the library says.
    pub fn disconnect(&self, pair: &Pair) -> Result<(), VerbsError> {
        pair.fail()?;
        match self.raw.disconnect() {
            // The other end was first.
            Err(e) if e.number() == libc::EINVAL => Ok(()),
            done => done.map_err(os("rdma_disconnect")),
        }
    }

    fn suits(&self, call: &'static str, pair: &Pair) -> Result<(), VerbsError> {
        if pair.kind() != super::PairKind::Rc {
            return Err(VerbsError::WrongKind { call, wants: "a queue pair of kind RC" });
        }
        if self.device_name().as_deref() != Some(pair.domain().device().name()) {
            return Err(VerbsError::WrongKind {
                call,
                wants: "a queue pair on the device of the link",
            });
        }
        Ok(())
    }
}

const fn params<'a>(
    pair: &Pair,
    how: &ConnectConfig,
    reads: (u8, u8),
    data: &'a [u8],
) -> Params<'a> {
    Params {
        data,
        responder_resources: reads.0,
        initiator_depth: reads.1,
        retry_count: how.retry_count,
        rnr_retry_count: how.rnr_retry,
        has_shared_receives: pair.has_shared_receives(),
        qp_num: pair.card().qp_num,
    }
}
