//! Discovery and negotiation open nothing: a process that would be killed for it does them, and ends well.
//!
//! ```text
//!   socket, bind, connect, memfd_create, clone, fallocate, ..     killed
//!   openat for writing, or to create                              killed
//!   io_uring_setup of no entries, which the kernel refuses        allowed: that is how it is asked, as are the two
//!                                                                 other calls, with what is no ring
//!   everything else                                               allowed: folders and files are looked at
//! ```

use core::mem::offset_of;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use libc::{c_long, seccomp_data, sock_filter, sock_fprog};
use spinwire_hostshim::discover::{Hints, discover};
use spinwire_hostshim::negotiate::{Requirements, negotiate};

/// Says what a child of this program does under the filter: `nothing but to look`, or one thing more that is to kill it.
const ROLE: &str = "SELECTION_TEST_QUIET";
const TEST: &str = "quiet::discovery_and_negotiation_open_nothing";

const FORBIDDEN: [c_long; 12] = [
    libc::SYS_socket,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_connect,
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_eventfd2,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_unlinkat,
    libc::SYS_mkdir,
];

const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_IF_ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

fn word(number: impl TryInto<u32>) -> u32 {
    number.try_into().unwrap_or(u32::MAX)
}

fn filter() -> Vec<sock_filter> {
    let argument = |at: usize| word(offset_of!(seccomp_data, args) + 8 * at);
    let jump = |code, k, (jt, jf)| sock_filter { code, jt, jf, k };
    let number = statement(LOAD_WORD, word(offset_of!(seccomp_data, nr)));
    let kill = statement(RETURN, libc::SECCOMP_RET_KILL_PROCESS);
    let mut filter = vec![number];
    for call in FORBIDDEN {
        filter.extend([jump(JUMP_IF_EQUAL, word(call), (0, 1)), kill]);
    }
    let writes = word(libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT);
    filter.extend([
        jump(JUMP_IF_EQUAL, word(libc::SYS_openat), (0, 3)),
        statement(LOAD_WORD, argument(2)),
        jump(JUMP_IF_ANY_BIT, writes, (0, 1)),
        kill,
        number,
        jump(JUMP_IF_EQUAL, word(libc::SYS_io_uring_setup), (0, 3)),
        statement(LOAD_WORD, argument(0)),
        jump(JUMP_IF_EQUAL, 0, (1, 0)),
        kill,
        statement(RETURN, libc::SECCOMP_RET_ALLOW),
    ]);
    filter
}

#[expect(unsafe_code, reason = "prctl(2)")]
fn forbid_to_open() {
    let mut filter = filter();
    let program =
        sock_fprog { len: u16::try_from(filter.len()).unwrap(), filter: filter.as_mut_ptr() };
    // SAFETY: gives up privileges of this process only; no pointers.
    let settled = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(settled, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: `program` and the filter that it points to live through the call; the kernel copies them. It holds for the calling thread.
    let filtered =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(filtered, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn discovery_and_negotiation_open_nothing() {
    if let Ok(role) = std::env::var(ROLE) {
        forbid_to_open();
        let found = discover(&Hints::default());
        let plan = negotiate(&Requirements::anything(), &found);
        assert!(plan.best().is_some());
        match role.as_str() {
            "socket" => drop(std::net::UdpSocket::bind("127.0.0.1:0")),
            "file" => drop(std::fs::File::create("/dev/null")),
            "ring" => drop(spinwire_hostshim::uring::Uring::open(&Default::default())),
            _ => {}
        }
        println!("ENDED WELL");
        return;
    }
    if std::fs::read_dir("/sys/class/infiniband").is_ok_and(|mut all| all.next().is_some()) {
        println!(
            "!! NOT RUN: discovery opens nothing: this machine has RDMA devices, which are opened to be asked"
        );
        return;
    }
    for (role, is_killed) in [("looks", false), ("socket", true), ("file", true), ("ring", true)] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let child = child.args(["--exact", TEST, "--nocapture"]).env(ROLE, role).output().unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        let killed_by = child.status.signal();
        assert_eq!(killed_by == Some(libc::SIGSYS), is_killed, "{role}: {child:?}");
        assert_eq!(said.contains("ENDED WELL"), !is_killed, "{role}: {said}");
    }
}
