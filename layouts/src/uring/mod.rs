//! What the kernel and a process share for io_uring: the entries of the two rings, the parameters
//! of a ring, buffers that the kernel picks from, and the arguments of registrations.
//!
//! ```text
//!            process                       mapped memory                         kernel
//!         fills an [`Sqe`]     -->  SQEs, head and tail of the SQ     -->  takes what lies before the tail
//!         takes a [`Cqe`]      <--  CQEs, head and tail of the CQ     <--  writes what is complete
//!         gives a [`Buf`]      -->  a ring of provided buffers        -->  picks one for what arrives
//!
//!  room           what                                                          in the kernel's header
//!  ------------   -----------------------------------------------------------   -------------------------------
//!  submission     the entry of the submission queue, its flags, the opcodes     io_uring_sqe, IOSQE_, IORING_OP_
//!  flags          flags of single operations                                    IORING_RECVSEND_, IORING_TIMEOUT_ ..
//!  completion     the entry of the completion queue, its flags                  io_uring_cqe, IORING_CQE_F_
//!  ring           parameters of a ring, where its words lie, how it is entered  io_uring_params, IORING_SETUP_ ..
//!  registration   opcodes and arguments of registrations                        io_uring_register(2)
//!  socket         what an entry points at: vectors, message headers, addresses  struct iovec, msghdr, sockaddr_in
//! ```
//!
//! The numbers are those of `include/uapi/linux/io_uring.h` of Linux 6.18. Everything is in the
//! byte order of the machine. These layouts belong to the kernel and never change; so they are no
//! part of [`abi::MANIFEST`](crate::abi::MANIFEST), but of [`LAYOUTS`], which tests compare with
//! the header and with the type information of a running kernel.
//!
//! A union in C is one field here, named after what most operations use it for; its documentation
//! lists what others do with it.

use crate::describe::{Room, StructLayout};

mod completion;
mod counterparts;
mod flags;
mod registration;
mod ring;
mod socket;
mod submission;

pub use crate::numbers::Number;
pub use completion::{Cqe, Cqe32, cqe};
pub use flags::{
    accept, cancel, fsync, install, message_ring, napi_op, napi_tracking, nop, notification, poll,
    recvsend, splice, timeout, uring_cmd,
};
pub use registration::{
    Buf, BufReg, BufStatus, FileIndexRange, FilesUpdate, GetEventsArg, Napi, Probe, ProbeOp,
    QueryHeader, QueryOpcodes, RsrcRegister, RsrcUpdate, RsrcUpdate2, SyncCancelReg, Timespec,
    buffer_ring, probe, query, register, rsrc,
};
pub use ring::{CqOffsets, Params, SqOffsets, cq_flags, enter, features, mapping, setup, sq_flags};
pub use socket::{
    AF_INET, AF_INET6, IoVec, MsgHdr, RecvMsgOut, SOCK_ADDR_BYTES, SockAddr, SockAddrIn,
    SockAddrIn6,
};
pub use submission::{FILE_INDEX_ALLOC, Sqe, op, sqe};

/// All of this room, with what others call it.
pub const ROOM: Room = Room::own("uring", "what the kernel shares for io_uring", LAYOUTS)
    .with_numbers(NUMBERS)
    .known_to(counterparts::FOREIGN);

/// Every structure of this room, in a fixed order.
pub const LAYOUTS: &[&StructLayout] = &[
    &Sqe::LAYOUT,
    &Cqe::LAYOUT,
    &Cqe32::LAYOUT,
    &SqOffsets::LAYOUT,
    &CqOffsets::LAYOUT,
    &Params::LAYOUT,
    &Buf::LAYOUT,
    &BufReg::LAYOUT,
    &BufStatus::LAYOUT,
    &Probe::LAYOUT,
    &ProbeOp::LAYOUT,
    &FilesUpdate::LAYOUT,
    &RsrcRegister::LAYOUT,
    &RsrcUpdate::LAYOUT,
    &RsrcUpdate2::LAYOUT,
    &FileIndexRange::LAYOUT,
    &Timespec::LAYOUT,
    &SyncCancelReg::LAYOUT,
    &Napi::LAYOUT,
    &GetEventsArg::LAYOUT,
    &QueryHeader::LAYOUT,
    &QueryOpcodes::LAYOUT,
    &IoVec::LAYOUT,
    &MsgHdr::LAYOUT,
    &RecvMsgOut::LAYOUT,
    &SockAddrIn::LAYOUT,
    &SockAddrIn6::LAYOUT,
];

/// Every list of numbers of this room.
pub const NUMBERS: &[&[Number]] = &[
    op::LIST,
    sqe::LIST,
    cqe::LIST,
    setup::LIST,
    features::LIST,
    enter::LIST,
    sq_flags::LIST,
    cq_flags::LIST,
    mapping::LIST,
    accept::LIST,
    recvsend::LIST,
    notification::LIST,
    fsync::LIST,
    timeout::LIST,
    cancel::LIST,
    poll::LIST,
    splice::LIST,
    message_ring::LIST,
    install::LIST,
    nop::LIST,
    uring_cmd::LIST,
    register::LIST,
    buffer_ring::LIST,
    rsrc::LIST,
    probe::LIST,
    query::LIST,
    napi_op::LIST,
    napi_tracking::LIST,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::Pod;
    use std::string::String;
    use std::vec::Vec;

    fn sources() -> String {
        let room = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/uring");
        std::fs::read_dir(room)
            .unwrap()
            .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
            .collect()
    }

    /// The names that follow `start` in the sources, up to `end`.
    fn defined(start: &str, end: char) -> Vec<String> {
        let text = sources();
        text.lines()
            .filter_map(|line| line.trim_start().strip_prefix(start))
            .filter_map(|rest| rest.split_once(end))
            .map(|(name, _)| name.into())
            .filter(|name: &String| !name.contains(['$', ' ', '"']))
            .collect()
    }

    #[test]
    fn every_structure_is_listed_and_documented() {
        let mut defined: Vec<_> = defined("pub struct ", ',');
        let mut listed: Vec<String> = LAYOUTS.iter().map(|l| l.name.into()).collect();
        defined.sort();
        listed.sort();
        assert_eq!(defined, listed);
        for layout in LAYOUTS {
            assert!(!layout.doc.is_empty(), "{}", layout.name);
            for field in layout.fields {
                assert!(!field.doc.is_empty(), "{}.{}", layout.name, field.name);
            }
        }
    }

    #[test]
    fn every_list_of_numbers_is_listed_and_no_name_appears_twice() {
        assert_eq!(defined("pub mod ", ':').len(), NUMBERS.len());
        let names: Vec<_> = NUMBERS.iter().copied().flatten().map(|number| number.name).collect();
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name}");
        }
        assert!(names.contains(&"IORING_RECV_MULTISHOT") && names.contains(&"IOSQE_IO_LINK"));
    }

    #[test]
    fn an_entry_lies_as_drawn() {
        let entry = Sqe {
            opcode: op::SEND,
            flags: sqe::IO_LINK | sqe::FIXED_FILE,
            ioprio: recvsend::POLL_FIRST,
            fd: 7,
            addr: 0x1122_3344_5566_7788,
            len: 64,
            user_data: 0x0102_0304_0506_0708,
            ..Sqe::ZERO
        };
        let bytes = entry.as_bytes();
        assert_eq!(&bytes[..8], [26, 5, 1, 0, 7, 0, 0, 0]);
        assert_eq!(&bytes[16..28], [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 64, 0, 0, 0]);
        assert_eq!(&bytes[32..40], [8, 7, 6, 5, 4, 3, 2, 1]);
    }
}
