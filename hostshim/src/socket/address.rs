//! Addresses as people write them: `tcp://host:port`, `udp://[::1]:7000`.

use core::fmt;
use core::net::SocketAddr;
use core::str::FromStr;
use std::net::ToSocketAddrs;

use crate::uri::{Part, Place, Uri, UriError};

/// What is spoken at an address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scheme {
    /// A stream of bytes (tcp(7)).
    Tcp,
    /// Datagrams (udp(7)).
    Udp,
}

impl Scheme {
    /// As in an address.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// An address, not yet resolved.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Address {
    scheme: Scheme,
    /// A name or a number, without brackets.
    host: String,
    port: u16,
}

/// A text that is no address, or one that leads nowhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AddressError {
    /// It is no URI, or one with more in it than an address.
    Uri(UriError),
    /// The host has no address.
    Unresolved {
        /// The host.
        host: String,
        /// What the resolver said.
        why: String,
    },
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(e) => e.fmt(f),
            Self::Unresolved { host, why } => {
                write!(f, "the host {host:?} has no address: {why}; remedy: getent ahosts {host}")
            }
        }
    }
}

impl core::error::Error for AddressError {}

impl FromStr for Address {
    type Err = AddressError;

    /// A URI of TCP or UDP that names no endpoint.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let uri: Uri = text.parse().map_err(AddressError::Uri)?;
        let unwanted = |part| AddressError::Uri(UriError::unwanted(text, uri.transport(), part));
        match uri.place() {
            Place::Socket(_) if uri.endpoint().is_some() => Err(unwanted(Part::Endpoint)),
            Place::Socket(address) => Ok(address.clone()),
            Place::Shm { .. } | Place::Device { .. } | Place::Fabric { .. } => {
                Err(unwanted(Part::Scheme))
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority())
    }
}

impl Address {
    /// What was checked by the one parser, [`Uri`].
    pub(crate) fn new(scheme: Scheme, host: &str, port: u16) -> Self {
        Self { scheme, host: host.to_owned(), port }
    }

    /// `host:port`, a number of IPv6 in brackets.
    #[must_use]
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// What is spoken there.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// All addresses of the host, in the order of the resolver; at least one. May ask the network, and wait for it.
    ///
    /// # Errors
    /// [`AddressError::Unresolved`].
    pub fn resolve(&self) -> Result<Vec<SocketAddr>, AddressError> {
        let unresolved = |why: String| AddressError::Unresolved { host: self.host.clone(), why };
        let found = (self.host.as_str(), self.port).to_socket_addrs();
        let found: Vec<_> = found.map_err(|e| unresolved(e.to_string()))?.collect();
        if found.is_empty() {
            Err(unresolved("the resolver knows none".to_owned()))
        } else {
            Ok(found)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for text in
            ["tcp://127.0.0.1:7000", "udp://[::1]:0", "tcp://localhost:65535", "udp://a.b-c:1"]
        {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        let six: Address = "tcp://[fe80::1%eth0]:9".parse().unwrap();
        assert_eq!((six.scheme(), six.host(), six.port()), (Scheme::Tcp, "fe80::1%eth0", 9));
    }

    #[test]
    fn what_is_none_is_refused_with_the_form() {
        for (text, says) in [
            ("", "the scheme is missing; remedy: write tcp://HOST:PORT"),
            ("tcp://:1", "the host is missing; remedy: write tcp://HOST:PORT"),
            ("tcp://a", "the port is missing; remedy: write tcp://HOST:PORT"),
            (
                "udp://a:65536",
                "the port is no number from 0 to 65535; remedy: write udp://HOST:PORT",
            ),
            (
                "tcp://a:1/b",
                "the name of the endpoint has no place here; remedy: leave it out: tcp://HOST:PORT",
            ),
            ("shm://a", "the scheme has no place here; remedy: write tcp://HOST:PORT or udp://"),
            ("ofi://tcp/h:1", "the scheme has no place here"),
        ] {
            let e = text.parse::<Address>().unwrap_err().to_string();
            assert!(e.contains(says), "{e}");
        }
    }

    #[test]
    fn numbers_are_resolved_without_asking_anybody() {
        let found = "udp://[::1]:7".parse::<Address>().unwrap().resolve().unwrap();
        assert_eq!(found, ["[::1]:7".parse().unwrap()]);
        // A name that no resolver may know: RFC 6761.
        let e = "tcp://nobody.invalid:1".parse::<Address>().unwrap().resolve().unwrap_err();
        assert!(e.to_string().contains("getent ahosts nobody.invalid"), "{e}");
    }
}
