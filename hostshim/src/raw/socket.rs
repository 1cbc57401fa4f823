//! The calls on sockets that the standard library lacks, or makes with options of its own.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use spinwire_layouts::uring::SockAddr;

use super::syscall::own;
use crate::error::Errno;

/// An option of setsockopt(2) whose value is an `int`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct IntOption {
    pub(crate) name: &'static str,
    level: i32,
    number: i32,
}

macro_rules! options {
    ($($name:ident: $level:ident;)+) => {
        $(pub(crate) const $name: IntOption =
            IntOption { name: stringify!($name), level: libc::$level, number: libc::$name };)+
    };
}

options! {
    SO_REUSEADDR: SOL_SOCKET;
    SO_REUSEPORT: SOL_SOCKET;
    SO_KEEPALIVE: SOL_SOCKET;
    SO_RCVBUF: SOL_SOCKET;
    SO_SNDBUF: SOL_SOCKET;
    SO_BUSY_POLL: SOL_SOCKET;
    SO_RXQ_OVFL: SOL_SOCKET;
    TCP_NODELAY: IPPROTO_TCP;
    TCP_KEEPIDLE: IPPROTO_TCP;
    TCP_KEEPINTVL: IPPROTO_TCP;
    TCP_KEEPCNT: IPPROTO_TCP;
    TCP_USER_TIMEOUT: IPPROTO_TCP;
}

fn check(answer: i32) -> Result<(), Errno> {
    if answer < 0 { Err(Errno::last()) } else { Ok(()) }
}

/// socket(2), close-on-exec.
pub(crate) fn open(is_v6: bool, kind: i32) -> Result<OwnedFd, Errno> {
    let family = if is_v6 { libc::AF_INET6 } else { libc::AF_INET };
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) };
    own(fd)
}

/// bind(2).
pub(crate) fn bind(socket: BorrowedFd<'_>, to: &SockAddr) -> Result<(), Errno> {
    let bytes = to.as_bytes();
    let length = libc::socklen_t::try_from(bytes.len()).unwrap_or(0);
    // SAFETY: pointer and length are those of a live slice, which is only read.
    check(unsafe { libc::bind(socket.as_raw_fd(), bytes.as_ptr().cast(), length) })
}

/// listen(2).
pub(crate) fn listen(socket: BorrowedFd<'_>, backlog: u32) -> Result<(), Errno> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    // SAFETY: takes numbers only.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog) })
}

/// setsockopt(2).
pub(crate) fn set(socket: BorrowedFd<'_>, option: IntOption, value: i32) -> Result<(), Errno> {
    let length = libc::socklen_t::try_from(size_of::<i32>()).unwrap_or(0);
    let value = core::ptr::from_ref(&value).cast();
    // SAFETY: `value` is an int that outlives the call, which is what each of these options reads.
    let answer =
        unsafe { libc::setsockopt(socket.as_raw_fd(), option.level, option.number, value, length) };
    check(answer)
}

/// getsockopt(2).
pub(crate) fn get(socket: BorrowedFd<'_>, option: IntOption) -> Result<i32, Errno> {
    let (mut value, mut length) = (0_i32, libc::socklen_t::try_from(size_of::<i32>()).unwrap_or(0));
    let to = core::ptr::from_mut(&mut value).cast();
    // SAFETY: `value` has room for the int that each of these options is, and both outlive the call.
    let answer = unsafe {
        libc::getsockopt(socket.as_raw_fd(), option.level, option.number, to, &raw mut length)
    };
    check(answer).map(|()| value)
}
