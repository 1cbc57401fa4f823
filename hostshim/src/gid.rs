//! Addresses of ports: GIDs, what kind each is, and which one to take.

use core::fmt;
use core::net::{IpAddr, Ipv6Addr};
#[cfg(feature = "verbs")]
use std::path::Path;

/// The address of a port: 16 bytes, written like an address of IPv6, which for RoCE v2 it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gid([u8; 16]);

impl Gid {
    /// The address of these bytes, in network order.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes, in network order.
    #[must_use]
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }

    /// Whether it is nobody's: an empty entry of the table.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == [0; 16]
    }

    /// Whether it stands for an address of IPv4.
    #[must_use]
    pub fn is_ipv4(self) -> bool {
        Ipv6Addr::from(self.0).to_ipv4_mapped().is_some()
    }

    /// What it is called by those who know addresses of IP alone.
    #[must_use]
    pub fn address(self) -> IpAddr {
        let address = Ipv6Addr::from(self.0);
        address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
    }

    /// Whether it is good on one link only.
    #[must_use]
    pub fn is_link_local(self) -> bool {
        self.0.starts_with(&[0xfe, 0x80])
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv6Addr::from(self.0).fmt(f)
    }
}

impl fmt::Debug for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gid({self})")
    }
}

impl core::str::FromStr for Gid {
    type Err = core::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<Ipv6Addr>().map(|address| Self(address.octets()))
    }
}

/// What packets to such an address look like.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GidKind {
    /// InfiniBand.
    Infiniband,
    /// RDMA over Ethernet, without IP.
    RoceV1,
    /// RDMA over UDP.
    RoceV2,
}

impl fmt::Display for GidKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Infiniband => "IB",
            Self::RoceV1 => "RoCE v1",
            Self::RoceV2 => "RoCE v2",
        })
    }
}

/// An entry of the table of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GidEntry {
    /// Its place.
    pub index: u8,
    /// The address.
    pub gid: Gid,
    /// Its kind.
    pub kind: GidKind,
}

/// What the kernel says of the kind of an entry. Devices that are no Ethernet ones have no such file, or one that says IB.
#[cfg(feature = "verbs")]
pub(crate) fn kind_of(device: &str, port: u8, index: u8, is_ethernet: bool) -> GidKind {
    let file = Path::new("/sys/class/infiniband")
        .join(device)
        .join(format!("ports/{port}/gid_attrs/types/{index}"));
    match std::fs::read_to_string(file) {
        Ok(text) if text.trim() == "RoCE v2" => GidKind::RoceV2,
        Ok(text) if text.trim() == "IB/RoCE v1" && is_ethernet => GidKind::RoceV1,
        _ if is_ethernet => GidKind::RoceV1,
        _ => GidKind::Infiniband,
    }
}

/// Which entry to take where nobody said: RoCE v2 before anything else, of those an IPv4 one, then one that is good beyond its link.
#[cfg(any(feature = "verbs", test))]
pub(crate) fn best(entries: &[GidEntry]) -> Option<GidEntry> {
    let rank = |entry: &GidEntry| {
        let kind = match entry.kind {
            GidKind::RoceV2 | GidKind::Infiniband => 0,
            GidKind::RoceV1 => 1,
        };
        (kind, !entry.gid.is_ipv4(), entry.gid.is_link_local(), entry.index)
    };
    entries.iter().filter(|entry| !entry.gid.is_zero()).min_by_key(|entry| rank(entry)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u8, gid: &str, kind: GidKind) -> GidEntry {
        GidEntry { index, gid: gid.parse().unwrap(), kind }
    }

    #[test]
    fn the_best_is_routable_over_udp() {
        let link = entry(0, "fe80::1", GidKind::RoceV2);
        let old = entry(1, "::ffff:10.0.0.1", GidKind::RoceV1);
        let four = entry(2, "::ffff:10.0.0.1", GidKind::RoceV2);
        let six = entry(3, "2001:db8::1", GidKind::RoceV2);
        let empty = entry(4, "::", GidKind::RoceV2);
        assert_eq!(best(&[link, old, four, six, empty]), Some(four));
        assert_eq!(best(&[link, old, six]), Some(six));
        assert_eq!(best(&[link, old]), Some(link));
        assert_eq!(best(&[old]), Some(old));
        assert_eq!(best(&[empty]), None);
    }

    #[test]
    fn text_and_bytes_are_the_same_address() {
        let gid: Gid = "::ffff:10.77.0.2".parse().unwrap();
        assert_eq!(gid.bytes()[10..], [0xff, 0xff, 10, 77, 0, 2]);
        assert!(gid.is_ipv4() && !gid.is_link_local() && !gid.is_zero());
        assert_eq!(gid.to_string(), "::ffff:10.77.0.2");
        "10.77.0.2".parse::<Gid>().unwrap_err();
    }
}
