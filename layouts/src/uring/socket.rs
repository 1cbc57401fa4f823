//! What an entry of a socket operation points at. On the 64-bit machines that this crate is for,
//! the C library and the kernel agree on all of these.

use crate::endian::{Be16, Be32};

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
        /// Flow.
        pub sin6_flowinfo: Be32 @ 4,
        /// Address.
        pub sin6_addr: [u8; 16] @ 8,
        /// Interface, for addresses that mean something on one link only.
        pub sin6_scope_id: u32 @ 24,
    }
}
