//! What an entry of a socket operation points at. On the 64-bit machines that this crate is for,
//! the C library and the kernel agree on all of these.

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::endian::{Be16, Be32};
use crate::pod::Pod;

/// AF_INET of socket(2).
pub const AF_INET: u16 = 2;
/// AF_INET6 of socket(2).
pub const AF_INET6: u16 = 10;

layout! {
    /// `struct iovec`: one piece of memory (readv(2)).
    pub struct IoVec, size 16, align 8 {
        /// Where it lies.
        pub iov_base: u64 @ 0,
        /// Its bytes.
        pub iov_len: u64 @ 8,
    }
}

layout! {
    /// `struct msghdr`: the parts of a message (sendmsg(2), recvmsg(2)).
    pub struct MsgHdr, size 56, align 8 {
        /// Where the address of the peer lies, or zero.
        pub msg_name: u64 @ 0,
        /// Bytes of the address.
        pub msg_namelen: u32 @ 8,
        /// Nothing.
        pub pad1: u32 @ 12,
        /// Where the vector of [`IoVec`]s lies.
        pub msg_iov: u64 @ 16,
        /// Its pieces.
        pub msg_iovlen: u64 @ 24,
        /// Where the control messages lie, or zero.
        pub msg_control: u64 @ 32,
        /// Bytes of the control messages.
        pub msg_controllen: u64 @ 40,
        /// Flags of what was received.
        pub msg_flags: u32 @ 48,
        /// Nothing.
        pub pad2: u32 @ 52,
    }
}

layout! {
    /// `struct io_uring_recvmsg_out`: what a multishot receive of messages writes before the
    /// address, the control messages and the payload in the buffer.
    pub struct RecvMsgOut, size 16, align 4 {
        /// Bytes of the address; more than there was room for where it was cut.
        pub namelen: u32 @ 0,
        /// Bytes of the control messages.
        pub controllen: u32 @ 4,
        /// Bytes of the payload; more than there was room for where it was cut.
        pub payloadlen: u32 @ 8,
        /// Flags, as in [`MsgHdr::msg_flags`].
        pub flags: u32 @ 12,
    }
}

layout! {
    /// `struct sockaddr_in`: an address of IPv4 (ip(7)).
    pub struct SockAddrIn, size 16, align 4 {
        /// AF_INET: 2.
        pub sin_family: u16 @ 0,
        /// Port.
        pub sin_port: Be16 @ 2,
        /// Address.
        pub sin_addr: Be32 @ 4,
        /// Zero.
        pub sin_zero: [u8; 8] @ 8,
    }
}

layout! {
    /// `struct sockaddr_in6`: an address of IPv6 (ipv6(7)).
    pub struct SockAddrIn6, size 28, align 4 {
        /// AF_INET6: 10.
        pub sin6_family: u16 @ 0,
        /// Port.
        pub sin6_port: Be16 @ 2,
        /// Traffic class and flow.
        pub sin6_flowinfo: Be32 @ 4,
        /// Address.
        pub sin6_addr: [u8; 16] @ 8,
        /// Interface, for addresses that mean something on one link only.
        pub sin6_scope_id: u32 @ 24,
    }
}

/// Bytes of the longest address that [`SockAddr`] holds.
pub const SOCK_ADDR_BYTES: usize = size_of::<SockAddrIn6>();

/// An address of IPv4 or IPv6 as the kernel wants it, and as it hands it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SockAddr {
    /// A [`SockAddrIn`] or a [`SockAddrIn6`]; zero behind it.
    bytes: [u8; SOCK_ADDR_BYTES],
    is_v6: bool,
}

impl SockAddr {
    /// The bytes of `address`.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(v4) => {
                let form = SockAddrIn {
                    sin_family: AF_INET,
                    sin_port: Be16::new(v4.port()),
                    sin_addr: Be32::new(v4.ip().to_bits()),
                    ..SockAddrIn::ZERO
                };
                Self::of(form.as_bytes(), false)
            }
            SocketAddr::V6(v6) => {
                let form = SockAddrIn6 {
                    sin6_family: AF_INET6,
                    sin6_port: Be16::new(v6.port()),
                    // The standard library hands on the bytes as they lie.
                    sin6_flowinfo: Be32::new(u32::from_be(v6.flowinfo())),
                    sin6_addr: v6.ip().octets(),
                    sin6_scope_id: v6.scope_id(),
                };
                Self::of(form.as_bytes(), true)
            }
        }
    }

    fn of(from: &[u8], is_v6: bool) -> Self {
        let mut bytes = [0; SOCK_ADDR_BYTES];
        for (to, byte) in bytes.iter_mut().zip(from) {
            *to = *byte;
        }
        Self { bytes, is_v6 }
    }

    /// The address in `bytes`, as recvmsg(2) and accept(2) write it; `None` where it is of no such family, or cut.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<SocketAddr> {
        let family = u16::from_bytes(bytes.get(..size_of::<u16>())?)?;
        match family {
            AF_INET => {
                let form = SockAddrIn::from_bytes(bytes.get(..size_of::<SockAddrIn>())?)?;
                let ip = Ipv4Addr::from_bits(form.sin_addr.get());
                Some(SocketAddr::V4(SocketAddrV4::new(ip, form.sin_port.get())))
            }
            AF_INET6 => {
                let form = SockAddrIn6::from_bytes(bytes.get(..size_of::<SockAddrIn6>())?)?;
                let ip = Ipv6Addr::from(form.sin6_addr);
                let (port, scope) = (form.sin6_port.get(), form.sin6_scope_id);
                let flow = form.sin6_flowinfo.get().to_be();
                Some(SocketAddr::V6(SocketAddrV6::new(ip, port, flow, scope)))
            }
            _ => None,
        }
    }

    /// Whether it is an address of IPv6.
    #[must_use]
    pub const fn is_v6(&self) -> bool {
        self.is_v6
    }

    /// The bytes, as long as the family says.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        let length = if self.is_v6 { size_of::<SockAddrIn6>() } else { size_of::<SockAddrIn>() };
        self.bytes.get(..length).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back() {
        for text in
            ["1.2.3.4:80", "0.0.0.0:0", "255.255.255.255:65535", "[::1]:7000", "[2001:db8::7]:1"]
        {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(SockAddr::read(SockAddr::new(address).as_bytes()), Some(address));
        }
        let scoped = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 9, 0x0102_0304, 5).into();
        assert_eq!(SockAddr::read(SockAddr::new(scoped).as_bytes()), Some(scoped));
    }

    #[test]
    fn ports_and_addresses_lie_big_end_first() {
        let v4 = SockAddr::new("1.2.3.4:80".parse().unwrap());
        assert_eq!(v4.as_bytes(), [2, 0, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_cut_or_of_another_family_is_no_address() {
        for text in ["1.2.3.4:80", "[::1]:7000"] {
            let whole = SockAddr::new(text.parse().unwrap());
            for length in 0..whole.as_bytes().len() {
                assert_eq!(SockAddr::read(&whole.as_bytes()[..length]), None);
            }
        }
        for family in [0_u8, 1, 3, 9, 11, 255] {
            assert_eq!(SockAddr::read(&[family; 128]), None);
        }
    }
}
