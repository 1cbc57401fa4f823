//! The entry of the submission queue: one operation that the kernel is asked for.
//!
//! ```text
//!  byte 0        1       2        4            8                16               24       28
//!      +--------+-------+--------+------------+----------------+----------------+--------+----------+
//!      | opcode | flags | ioprio | fd         | off            | addr           | len    | op_flags |
//!      +--------+-------+--------+------------+----------------+----------------+--------+----------+
//!       32                40          42            44           48               56
//!      +----------------+-----------+-------------+------------+----------------+-------------------+
//!      | user_data      | buf_index | personality | file_index | addr3          | reserved          |
//!      +----------------+-----------+-------------+------------+----------------+-------------------+
//! ```

layout! {
    /// `struct io_uring_sqe`: one operation (io_uring_enter(2), "io_uring_sqe").
    pub struct Sqe, size 64, align 8 {
        /// What to do: one of [`op`].
        pub opcode: u8 @ 0,
        /// How to treat the entry: bits of [`sqe`].
        pub flags: u8 @ 1,
        /// Priority of a read or write (ioprio_set(2)); flags of sends and receives
        /// ([`recvsend`](super::recvsend)) and of accepts ([`accept`](super::accept)).
        pub ioprio: u16 @ 2,
        /// The file; with [`sqe::FIXED_FILE`] its slot in the table of registered files.
        pub fd: i32 @ 4,
        /// Place in a file. Also `addr2`: the address of a socket address (sends), of its length
        /// (accept), the length itself (connect); the number of completions (timeout); the new
        /// `user_data` (poll update); the command (`cmd_op`, low half) of a driver.
        pub off: u64 @ 8,
        /// Where the bytes, the vector or the message header lie. Also the `user_data` that a cancel
        /// or an update looks for; `splice_off_in`; level and option of a socket command.
        pub addr: u64 @ 16,
        /// Bytes, or pieces of the vector.
        pub len: u32 @ 24,
        /// Flags of the operation: `rw_flags`, `fsync_flags`, `poll32_events`, `msg_flags`,
        /// `timeout_flags`, `accept_flags`, `cancel_flags`, and so on.
        pub op_flags: u32 @ 28,
        /// Comes back in each completion of the entry.
        pub user_data: u64 @ 32,
        /// Registered buffer, or with [`sqe::BUFFER_SELECT`] the group that the kernel picks a
        /// buffer from (`buf_group`).
        pub buf_index: u16 @ 40,
        /// Registered credentials to use, or 0.
        pub personality: u16 @ 42,
        /// Slot of the table of files that the new file goes to, plus 1, or [`FILE_INDEX_ALLOC`].
        /// Also `splice_fd_in`; in its low half the length of the address of a send (`addr_len`).
        pub file_index: u32 @ 44,
        /// A third address; the first argument of a driver's command.
        pub addr3: u64 @ 48,
        /// Zero.
        pub reserved: u64 @ 56,
    }
}

/// In [`Sqe::file_index`]: the kernel chooses the slot, and says which in the completion
/// (`IORING_FILE_INDEX_ALLOC`).
pub const FILE_INDEX_ALLOC: u32 = u32::MAX;

numbers! {
    /// Operations, for [`Sqe::opcode`](super::Sqe::opcode). Those above SENDMSG_ZC are younger than Linux 6.1: whether
    /// they are there is asked with [`register::PROBE`](crate::uring::register::PROBE).
    pub mod op: u8 "IORING_OP_" {
        /// Does nothing, and completes.
        NOP = 0;
        /// Reads into a vector of pieces, preadv2(2).
        READV = 1;
        /// Writes a vector of pieces, pwritev2(2).
        WRITEV = 2;
        /// Brings a file to the disk, fsync(2); [`fsync`](crate::uring::fsync).
        FSYNC = 3;
        /// Reads into a registered buffer.
        READ_FIXED = 4;
        /// Writes from a registered buffer.
        WRITE_FIXED = 5;
        /// Waits until a file is ready, poll(2); [`poll`](crate::uring::poll).
        POLL_ADD = 6;
        /// Ends or changes a POLL_ADD.
        POLL_REMOVE = 7;
        /// Writes a range of a file, sync_file_range(2).
        SYNC_FILE_RANGE = 8;
        /// Sends a message, sendmsg(2).
        SENDMSG = 9;
        /// Receives a message, recvmsg(2).
        RECVMSG = 10;
        /// Completes after a time, or after a number of other completions; [`timeout`](crate::uring::timeout).
        TIMEOUT = 11;
        /// Ends or changes a TIMEOUT.
        TIMEOUT_REMOVE = 12;
        /// Takes a connection, accept4(2); [`accept`](crate::uring::accept).
        ACCEPT = 13;
        /// Cancels other operations; [`cancel`](crate::uring::cancel).
        ASYNC_CANCEL = 14;
        /// Limits the time of the entry before it, which it is linked to.
        LINK_TIMEOUT = 15;
        /// Connects a socket, connect(2).
        CONNECT = 16;
        /// Changes the space of a file, fallocate(2).
        FALLOCATE = 17;
        /// Opens a file, openat(2).
        OPENAT = 18;
        /// Closes a file, close(2), or empties a slot of the table of files.
        CLOSE = 19;
        /// Changes the table of registered files.
        FILES_UPDATE = 20;
        /// Asks about a file, statx(2).
        STATX = 21;
        /// Reads, pread(2).
        READ = 22;
        /// Writes, pwrite(2).
        WRITE = 23;
        /// Says how a file will be used, posix_fadvise(2).
        FADVISE = 24;
        /// Says how memory will be used, madvise(2).
        MADVISE = 25;
        /// Sends, send(2).
        SEND = 26;
        /// Receives, recv(2).
        RECV = 27;
        /// Opens a file, openat2(2).
        OPENAT2 = 28;
        /// Changes an epoll, epoll_ctl(2).
        EPOLL_CTL = 29;
        /// Moves bytes between files, splice(2).
        SPLICE = 30;
        /// Gives buffers to a group, one by one; buffer rings do it without a system call.
        PROVIDE_BUFFERS = 31;
        /// Takes buffers from a group.
        REMOVE_BUFFERS = 32;
        /// Copies bytes between pipes, tee(2).
        TEE = 33;
        /// Ends one or both directions of a socket, shutdown(2).
        SHUTDOWN = 34;
        /// Renames a file, renameat2(2).
        RENAMEAT = 35;
        /// Removes a file, unlinkat(2).
        UNLINKAT = 36;
        /// Makes a directory, mkdirat(2).
        MKDIRAT = 37;
        /// Makes a symbolic link, symlinkat(2).
        SYMLINKAT = 38;
        /// Makes a hard link, linkat(2).
        LINKAT = 39;
        /// Posts a completion to another ring; [`message_ring`](crate::uring::message_ring).
        MSG_RING = 40;
        /// Sets an attribute, fsetxattr(2).
        FSETXATTR = 41;
        /// Sets an attribute, setxattr(2).
        SETXATTR = 42;
        /// Reads an attribute, fgetxattr(2).
        FGETXATTR = 43;
        /// Reads an attribute, getxattr(2).
        GETXATTR = 44;
        /// Makes a socket, socket(2).
        SOCKET = 45;
        /// Is for the driver behind the file; [`uring_cmd`](crate::uring::uring_cmd).
        URING_CMD = 46;
        /// Sends without a copy; Linux 6.0.
        SEND_ZC = 47;
        /// Sends a message without a copy; Linux 6.1.
        SENDMSG_ZC = 48;
        /// Reads again and again into provided buffers; Linux 6.7.
        READ_MULTISHOT = 49;
        /// Waits for a process, waitid(2); Linux 6.7.
        WAITID = 50;
        /// Waits on a futex; Linux 6.7.
        FUTEX_WAIT = 51;
        /// Wakes who waits on a futex; Linux 6.7.
        FUTEX_WAKE = 52;
        /// Waits on several futexes; Linux 6.7.
        FUTEX_WAITV = 53;
        /// Makes a registered file an ordinary descriptor; Linux 6.8.
        FIXED_FD_INSTALL = 54;
        /// Sets the length of a file, ftruncate(2); Linux 6.9.
        FTRUNCATE = 55;
        /// Gives a socket its address, bind(2); Linux 6.11.
        BIND = 56;
        /// Lets a socket be connected to, listen(2); Linux 6.11.
        LISTEN = 57;
        /// Receives into memory that the network card writes; Linux 6.15.
        RECV_ZC = 58;
        /// Waits for an epoll, epoll_wait(2); Linux 6.15.
        EPOLL_WAIT = 59;
        /// Reads into pieces of a registered buffer; Linux 6.15.
        READV_FIXED = 60;
        /// Writes from pieces of a registered buffer; Linux 6.15.
        WRITEV_FIXED = 61;
        /// Makes a pipe, pipe2(2); Linux 6.16.
        PIPE = 62;
    }

    /// Flags of an entry, for [`Sqe::flags`](super::Sqe::flags).
    pub mod sqe: u8 "IOSQE_" {
        /// `fd` is a slot of the table of registered files.
        FIXED_FILE = 1;
        /// Starts only when all entries before it are complete.
        IO_DRAIN = 1 << 1;
        /// The next entry starts only when this one has succeeded.
        IO_LINK = 1 << 2;
        /// The next entry starts when this one is complete, whether it has succeeded or not.
        IO_HARDLINK = 1 << 3;
        /// Goes to a worker at once.
        ASYNC = 1 << 4;
        /// The kernel picks a buffer of the group `buf_index`.
        BUFFER_SELECT = 1 << 5;
        /// No completion where the entry succeeds.
        CQE_SKIP_SUCCESS = 1 << 6;
    }
}
