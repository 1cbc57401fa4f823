//! Addresses as people write them: `tcp://host:port`, `udp://[::1]:7000`.

use core::fmt;
use core::net::SocketAddr;
use core::str::FromStr;
use std::net::ToSocketAddrs;

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
    /// It does not begin with `tcp://` or `udp://`.
    Scheme {
        /// The text.
        given: String,
    },
    /// There is no host between the scheme and the port.
    Host {
        /// The text.
        given: String,
    },
    /// It does not end in a colon and a port from 0 to 65535.
    Port {
        /// The text.
        given: String,
    },
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
        const FORM: &str =
            "remedy: write tcp://HOST:PORT or udp://HOST:PORT, numbers of IPv6 in brackets";
        match self {
            Self::Scheme { given } => write!(f, "{given:?} has no scheme; {FORM}"),
            Self::Host { given } => write!(
                f,
                "{given:?} has no host; {FORM} (0.0.0.0 and [::] are all addresses of this machine)"
            ),
            Self::Port { given } => write!(f, "{given:?} has no port from 0 to 65535; {FORM}"),
            Self::Unresolved { host, why } => {
                write!(f, "the host {host:?} has no address: {why}; remedy: getent ahosts {host}")
            }
        }
    }
}

impl core::error::Error for AddressError {}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let given = || text.to_owned();
        let (scheme, rest) = [Scheme::Tcp, Scheme::Udp]
            .into_iter()
            .find_map(|scheme| {
                let rest = text.strip_prefix(scheme.name())?.strip_prefix("://")?;
                Some((scheme, rest))
            })
            .ok_or_else(|| AddressError::Scheme { given: given() })?;
        let no_port = || AddressError::Port { given: given() };
        let (host, port) = rest.rsplit_once(':').ok_or_else(no_port)?;
        // A sign would be taken for part of a number.
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or_else(no_port)?;
        let no_host = || AddressError::Host { given: given() };
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').filter(|inner| inner.contains(':')),
            None => (!host.contains([':', '[', ']', '/', '@'])).then_some(host),
        };
        let host = host.filter(|host| !host.is_empty()).ok_or_else(no_host)?;
        Ok(Self { scheme, host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, host, port } = self;
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}")
        } else {
            write!(f, "{scheme}://{host}:{port}")
        }
    }
}

impl Address {
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
        let scheme = ["", "tcp", "http://a:1", "tcp:/a:1", "127.0.0.1:7000", "TCP://a:1"];
        let host = [
            "tcp://:1",
            "tcp://[]:1",
            "tcp://[abc]:1",
            "tcp://::1:7000",
            "tcp://a/b:1",
            "tcp://[::1:7",
            "udp://u@h:1",
        ];
        let port = [
            "tcp://a",
            "tcp://a:",
            "tcp://a:x",
            "tcp://a:65536",
            "tcp://a:-1",
            "tcp://a:+1",
            "tcp://a:1/",
        ];
        let check = |texts: &[&str], is: fn(&AddressError) -> bool| {
            for text in texts {
                let e = text.parse::<Address>().unwrap_err();
                assert!(is(&e) && e.to_string().contains("remedy: write tcp://HOST:PORT"), "{e}");
            }
        };
        check(&scheme, |e| matches!(e, AddressError::Scheme { .. }));
        check(&host, |e| matches!(e, AddressError::Host { .. }));
        check(&port, |e| matches!(e, AddressError::Port { .. }));
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
