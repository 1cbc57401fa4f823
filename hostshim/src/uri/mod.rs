//! Where an endpoint is found, as people write it: one form and one parser for all transports.
//!
//! ```text
//!   shm://DOMAIN[/NAME]                            a segment of this machine
//!   tcp://HOST:PORT[/NAME]
//!   udp://HOST:PORT                                the one endpoint at that port
//!   verbs://DEVICE[:PORT]/HOST:PORT[/NAME]         the two ends meet through librdmacm at HOST:PORT; for datagrams, over TCP
//!   mlx5://DEVICE[:PORT]/HOST:PORT[/NAME]
//!   ofi://PROVIDER[/HOST:PORT][/NAME]              a provider of libfabric; its ends tell each other of themselves at HOST:PORT
//! ```
//!
//! NAME is that of the endpoint, [`ENDPOINT`] where none is given. Packets of UDP name none, and a port has one endpoint: a NAME there is refused. Cards of
//! unconnected queue pairs (RDMA devices, datagrams) name none either; there it is what this end calls the peer. Names and domains are those of [`Name`]; a number of IPv6 stands in
//! brackets. There is no escaping: what a part may not hold cannot be written.
//!
//! Invariants: (1) what is written by `Display` is read back as the same, but for a name over UDP, which can be put together and is refused by all who open it; (2) any text is read, or refused with the part that is
//! wrong and the form that it should have; nothing panics, and nothing asks the network.

mod error;

use core::fmt;
use core::str::FromStr;

use spinwire_dataplane::id::Name;

pub use error::{Part, UriError};

use crate::socket::{Address, Scheme};
use error::Fault;

/// The name of an endpoint where a URI has none.
pub const ENDPOINT: &str = "server";
/// Longest text that is read.
pub const URI_BYTES_MAX: usize = 512;
/// Longest name of a device or of a provider of libfabric.
const WORD_BYTES_MAX: usize = 63;
/// Longest name of a host (RFC 1035).
const HOST_BYTES_MAX: usize = 253;

/// What carries the messages: the first part of a URI.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Transport {
    /// Segments of shared memory.
    Shm,
    /// Connections of TCP, through io_uring.
    Tcp,
    /// Packets of UDP, through io_uring.
    Udp,
    /// RDMA devices, through libibverbs.
    Verbs,
    /// Queues of ConnectX devices, written directly.
    Mlx5,
    /// Providers of libfabric.
    Ofi,
}

impl Transport {
    /// All that there are.
    pub const ALL: [Self; 6] =
        [Self::Shm, Self::Tcp, Self::Udp, Self::Verbs, Self::Mlx5, Self::Ofi];

    /// As in a URI.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shm => "shm",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Verbs => "verbs",
            Self::Mlx5 => "mlx5",
            Self::Ofi => "ofi",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == name)
    }

    /// How a URI of it is written.
    #[must_use]
    pub const fn form(self) -> &'static str {
        match self {
            Self::Shm => "shm://DOMAIN[/NAME]",
            Self::Tcp => "tcp://HOST:PORT[/NAME]",
            Self::Udp => "udp://HOST:PORT",
            Self::Verbs => "verbs://DEVICE[:PORT]/HOST:PORT[/NAME]",
            Self::Mlx5 => "mlx5://DEVICE[:PORT]/HOST:PORT[/NAME]",
            Self::Ofi => "ofi://PROVIDER[/HOST:PORT][/NAME]",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where, by one transport.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// A domain of this machine.
    Shm {
        /// Its name.
        domain: Name,
    },
    /// An address of TCP or UDP.
    Socket(Address),
    /// A port of an RDMA device. The ends meet through librdmacm.
    Device {
        /// Whether its queues are written directly.
        direct: bool,
        /// The name of the device of this end.
        device: String,
        /// Its port; the first that is up where none is given.
        port: Option<u8>,
        /// Where the ends meet.
        meet: Address,
    },
    /// A provider of libfabric.
    Fabric {
        /// Its name, as `fi_info -l` has it.
        provider: String,
        /// Where the ends tell each other their addresses.
        node: Option<Address>,
    },
}

/// Where an endpoint is found.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Uri {
    place: Place,
    endpoint: Option<Name>,
}

impl Uri {
    /// The endpoint of that name at `place`.
    #[must_use]
    pub const fn new(place: Place, endpoint: Option<Name>) -> Self {
        Self { place, endpoint }
    }

    /// Where.
    #[must_use]
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// By what.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        match &self.place {
            Place::Shm { .. } => Transport::Shm,
            Place::Socket(address) => match address.scheme() {
                Scheme::Tcp => Transport::Tcp,
                Scheme::Udp => Transport::Udp,
            },
            Place::Device { direct: false, .. } => Transport::Verbs,
            Place::Device { direct: true, .. } => Transport::Mlx5,
            Place::Fabric { .. } => Transport::Ofi,
        }
    }

    /// The name of the endpoint, where the text had one.
    #[must_use]
    pub const fn endpoint(&self) -> Option<&Name> {
        self.endpoint.as_ref()
    }

    /// The name of the endpoint: [`ENDPOINT`] where the text had none.
    ///
    /// # Panics
    /// Never: that this is a name is tested.
    #[must_use]
    pub fn endpoint_or_default(&self) -> Name {
        #[expect(clippy::expect_used, reason = "a constant, which a test reads")]
        self.endpoint.unwrap_or_else(|| Name::new(ENDPOINT).expect("a name"))
    }

    /// Whether it names an endpoint where none has a name.
    pub(crate) const fn names_in_vain(&self) -> bool {
        self.endpoint.is_some() && matches!(self.transport(), Transport::Udp)
    }

    /// The same place, and the endpoint of that name in it. Over UDP none has a name: such a URI is refused where it is opened.
    #[must_use]
    pub fn with_endpoint(&self, endpoint: Name) -> Self {
        Self { place: self.place.clone(), endpoint: Some(endpoint) }
    }

    /// The same where it names a port of a device, or another device; else on the port of what was found (`rxe0/2`).
    #[must_use]
    pub fn on_port_of(&self, found: Option<&str>) -> Self {
        let mut same = self.clone();
        if let (Place::Device { device, port: port @ None, .. }, Some((of, number))) =
            (&mut same.place, found.and_then(|found| found.rsplit_once('/')))
            && device == of
        {
            *port = number.parse().ok();
        }
        same
    }

    /// The address on a network that it has, if any: of a socket, of the meeting of two devices, or of a node.
    #[must_use]
    pub const fn address(&self) -> Option<&Address> {
        match &self.place {
            Place::Shm { .. } => None,
            Place::Socket(address) | Place::Device { meet: address, .. } => Some(address),
            Place::Fabric { node, .. } => node.as_ref(),
        }
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.transport())?;
        match &self.place {
            Place::Shm { domain } => write!(f, "{domain}")?,
            Place::Socket(address) => f.write_str(&address.authority())?,
            Place::Device { device, port, meet, .. } => {
                f.write_str(device)?;
                if let Some(port) = port {
                    write!(f, ":{port}")?;
                }
                write!(f, "/{}", meet.authority())?;
            }
            Place::Fabric { provider, node } => {
                f.write_str(provider)?;
                if let Some(node) = node {
                    write!(f, "/{}", node.authority())?;
                }
            }
        }
        self.endpoint.as_ref().map_or(Ok(()), |name| write!(f, "/{name}"))
    }
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let (transport, rest) = split(text)?;
        place_of(transport, rest)
            .map_err(|(part, fault)| UriError::new(text, Some(transport), part, fault))
    }
}

/// What a part is refused with.
type Wrong = (Part, Fault);

/// The transport, and what stands behind it.
fn split(text: &str) -> Result<(Transport, &str), UriError> {
    let wrong = |part, fault| Err(UriError::new(text, None, part, fault));
    if text.len() > URI_BYTES_MAX {
        return wrong(Part::Whole, Fault::TooLong { most: URI_BYTES_MAX });
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return wrong(Part::Scheme, Fault::Missing);
    };
    match Transport::of_name(scheme) {
        Some(transport) => Ok((transport, rest)),
        None if scheme.is_empty() => wrong(Part::Scheme, Fault::Missing),
        None => wrong(Part::Scheme, Fault::Unknown),
    }
}

fn place_of(transport: Transport, rest: &str) -> Result<Uri, Wrong> {
    let (first, path) = cut(rest);
    match transport {
        Transport::Shm => {
            let domain = name(first, Part::Domain)?;
            Ok(Uri::new(Place::Shm { domain }, endpoint(path)?))
        }
        Transport::Tcp => {
            Ok(Uri::new(Place::Socket(host_port(Scheme::Tcp, first)?), endpoint(path)?))
        }
        Transport::Udp => {
            let uri = Uri::new(Place::Socket(host_port(Scheme::Udp, first)?), endpoint(path)?);
            if uri.names_in_vain() { Err((Part::Endpoint, Fault::Unwanted)) } else { Ok(uri) }
        }
        Transport::Verbs | Transport::Mlx5 => {
            let (device, port) = device(first)?;
            let (meet, path) = cut(path.ok_or((Part::Host, Fault::Missing))?);
            let meet = host_port(Scheme::Tcp, meet)?;
            let direct = transport == Transport::Mlx5;
            Ok(Uri::new(Place::Device { direct, device, port, meet }, endpoint(path)?))
        }
        Transport::Ofi => {
            let provider = word(first, Part::Provider, ";_-.")?;
            // A colon tells an address from a name, which has none.
            let (node, path) = match path.map(cut) {
                Some((at, rest)) if at.contains(':') => (Some(host_port(Scheme::Tcp, at)?), rest),
                _ => (None, path),
            };
            Ok(Uri::new(Place::Fabric { provider, node }, endpoint(path)?))
        }
    }
}

/// Up to the first slash, and what stands behind it where there is one.
fn cut(text: &str) -> (&str, Option<&str>) {
    text.split_once('/').map_or((text, None), |(first, rest)| (first, Some(rest)))
}

fn name(text: &str, part: Part) -> Result<Name, Wrong> {
    if text.is_empty() {
        return Err((part, Fault::Missing));
    }
    Name::new(text).map_err(|e| (part, Fault::Name(e)))
}

fn endpoint(path: Option<&str>) -> Result<Option<Name>, Wrong> {
    path.map(|text| name(text, Part::Endpoint)).transpose()
}

/// A word of letters, digits and `others`.
fn word(text: &str, part: Part, others: &str) -> Result<String, Wrong> {
    allowed(text, part, others, WORD_BYTES_MAX)?;
    Ok(text.to_owned())
}

fn allowed(text: &str, part: Part, others: &str, most: usize) -> Result<(), Wrong> {
    if text.is_empty() {
        return Err((part, Fault::Missing));
    }
    if text.len() > most {
        return Err((part, Fault::TooLong { most }));
    }
    match text.chars().find(|c| !c.is_ascii_alphanumeric() && !others.contains(*c)) {
        Some(found) => Err((part, Fault::Character { found })),
        None => Ok(()),
    }
}

fn device(text: &str) -> Result<(String, Option<u8>), Wrong> {
    let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    let device = word(name, Part::Device, "_-.")?;
    let port = port.map(|digits| number(digits, Part::DevicePort, 255)).transpose()?;
    match port.map(u8::try_from) {
        None => Ok((device, None)),
        Some(Ok(port @ 1..)) => Ok((device, Some(port))),
        Some(_) => Err((Part::DevicePort, Fault::Number { least: 1, most: 255 })),
    }
}

/// Digits alone: a sign would be taken for part of a number.
fn number(digits: &str, part: Part, most: u16) -> Result<u16, Wrong> {
    if digits.is_empty() {
        return Err((part, Fault::Missing));
    }
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let value = digits.parse().ok().filter(|value| is_number && *value <= most);
    value.ok_or((part, Fault::Number { least: 0, most }))
}

/// `host:port`, `[::1]:port`.
fn host_port(scheme: Scheme, text: &str) -> Result<Address, Wrong> {
    let bare = |text: &str| allowed(text, Part::Host, "._-", HOST_BYTES_MAX);
    let Some((host, port)) = text.rsplit_once(':') else {
        bare(text)?;
        return Err((Part::Port, Fault::Missing));
    };
    let host = match host.strip_prefix('[') {
        Some(inner) => {
            let inner = inner.strip_suffix(']').ok_or((Part::Host, Fault::Brackets))?;
            allowed(inner, Part::Host, ":.%_-", HOST_BYTES_MAX)?;
            Some(inner).filter(|inner| inner.contains(':')).ok_or((Part::Host, Fault::Brackets))?
        }
        None if host.contains(':') => return Err((Part::Host, Fault::Brackets)),
        None => {
            bare(host)?;
            host
        }
    };
    Ok(Address::new(scheme, host, number(port, Part::Port, u16::MAX)?))
}

#[cfg(test)]
mod tests;
