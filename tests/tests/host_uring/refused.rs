//! No io_uring, too little lockable memory, too few files: the error, the remedy, and what `doctor` says.
//!
//! Each is played in a process of its own. What the kernel answers is made up by a seccomp filter, which sees the numbers of a
//! system call and answers in its place.

use core::mem::offset_of;

use libc::{seccomp_data, sock_filter, sock_fprog};
use spinwire_hostshim::limits::{self, Limit};
use spinwire_hostshim::preflight::{Check, Probe, Verdict};
use spinwire_hostshim::uring::{Feature, Uring, UringConfig, UringError, Why, is_allowed};
use spinwire_layouts::uring::register;

use super::exchange::{Memory, Used, carries_bytes};
use super::host_process::private::{
    as_nobody, done, in_namespace, is_root, not_run, run_to_the_end, without_memlock,
};
use super::host_process::{Folder, again, role};

const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

/// From here on the system call `number` of this process is answered with `errno`: always, or where its second argument is
/// one of `second`.
fn answer(number: libc::c_long, second: Option<&[u32]>, errno: i32) {
    let at = |offset: usize| u32::try_from(offset).unwrap();
    let errno = libc::SECCOMP_RET_ERRNO | u32::try_from(errno).unwrap();
    let allow = statement(RETURN, libc::SECCOMP_RET_ALLOW);
    let is = |k: u32, jt: u8, jf: u8| sock_filter { code: JUMP_IF_EQUAL, jt, jf, k };
    let mut filter = vec![
        statement(LOAD_WORD, at(offset_of!(seccomp_data, nr))),
        is(u32::try_from(number).unwrap(), 1, 0),
        allow,
    ];
    if let Some(second) = second {
        // Arguments are 64 bits each; these have nothing in the upper half.
        filter.push(statement(LOAD_WORD, at(offset_of!(seccomp_data, args) + 8)));
        for value in second {
            filter.extend([is(*value, 0, 1), statement(RETURN, errno)]);
        }
        filter.push(allow);
    }
    filter.push(statement(RETURN, errno));
    let len = u16::try_from(filter.len()).unwrap();
    let program = sock_fprog { len, filter: filter.as_mut_ptr() };
    // SAFETY: gives up privileges of this process only; no pointers.
    let settled = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(settled, 0);
    // SAFETY: `program` and the filter that it points to live through the call; the kernel copies them.
    let filtered =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(filtered, 0, "{}", std::io::Error::last_os_error());
}

fn check(id: &str) -> Check {
    Probe::live().run().into_iter().find(|check| check.id == id).unwrap()
}

fn small() -> UringConfig {
    UringConfig { entries: 8, completions: 16, ..UringConfig::default() }
}

#[test]
fn a_kernel_without_it_and_a_filter_are_told_apart() {
    let test = "refused::a_kernel_without_it_and_a_filter_are_told_apart";
    match role().as_deref() {
        Some("ENOSYS") => {
            answer(libc::SYS_io_uring_setup, None, libc::ENOSYS);
            assert_eq!(Uring::open(&small()).unwrap_err(), UringError::NotInKernel);
            assert!(check("io_uring").remedy.unwrap().starts_with("uname -r"));
            done();
        }
        Some(_) => {
            answer(libc::SYS_io_uring_setup, None, libc::EPERM);
            let error = Uring::open(&small()).unwrap_err();
            assert!(matches!(error, UringError::Forbidden { .. }), "{error}");
            assert!(error.to_string().contains("remedy: docker run --security-opt seccomp"));
            let told = check("io_uring");
            assert_eq!(told.verdict, Verdict::Warn);
            assert!(told.found.contains("forbidden") && told.remedy.unwrap().contains("seccomp"));
            assert_eq!(check("io_uring_features").verdict, Verdict::Unknown);
            done();
        }
        None => {
            run_to_the_end(again(test, "ENOSYS"));
            if std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
                .is_ok_and(|text| text.trim() != "0")
            {
                return not_run(
                    test,
                    "io_uring is switched off here, so a filter cannot be told from that",
                );
            }
            run_to_the_end(again(test, "EPERM"));
        }
    }
}

#[test]
fn a_filter_that_lets_rings_be_opened_and_not_be_used_is_told_before_the_first_turn() {
    let test =
        "refused::a_filter_that_lets_rings_be_opened_and_not_be_used_is_told_before_the_first_turn";
    let Some(role) = role() else {
        ["enter", "register"].into_iter().for_each(|call| run_to_the_end(again(test, call)));
        return;
    };
    let call = if role == "enter" { libc::SYS_io_uring_enter } else { libc::SYS_io_uring_register };
    assert_eq!(is_allowed(), Ok(()), "without the filter");
    for errno in [libc::EPERM, libc::ENOSYS] {
        // The last filter's answer counts where it is the graver, and that of equals.
        answer(call, None, errno);
        for error in [is_allowed().unwrap_err(), Uring::open(&small()).unwrap_err()] {
            assert!(matches!(error, UringError::Forbidden { .. }), "{role}: {error}");
        }
        assert!(check("io_uring").found.contains("forbidden"), "{role}");
    }
    done();
}

#[test]
fn a_switch_that_is_off_is_named() {
    let test = "refused::a_switch_that_is_off_is_named";
    if role().is_some() {
        answer(libc::SYS_io_uring_setup, None, libc::EPERM);
        let error = Uring::open(&small()).unwrap_err();
        assert_eq!(error, UringError::Disabled { setting: 2 });
        assert!(error.to_string().ends_with("remedy: sudo sysctl -w kernel.io_uring_disabled=0"));
        let told = check("io_uring");
        assert_eq!(told.remedy.as_deref(), Some("sudo sysctl -w kernel.io_uring_disabled=0"));
        return done();
    }
    if !std::path::Path::new("/proc/sys/kernel/io_uring_disabled").exists() {
        return not_run(test, "this kernel has no such switch, which came with Linux 6.6");
    }
    // The switch is one for the whole machine, so it is only made to look so.
    let folder = Folder::new();
    let switch = folder.path().join("switch");
    std::fs::write(&switch, "2\n").unwrap();
    let script = format!("mount --bind {} /proc/sys/kernel/io_uring_disabled", switch.display());
    match in_namespace(&again(test, "off"), &script) {
        Ok(command) => run_to_the_end(command),
        Err(why) => not_run(test, &why),
    }
}

#[test]
fn registrations_that_a_kernel_does_not_know_are_done_without() {
    let test = "refused::registrations_that_a_kernel_does_not_know_are_done_without";
    if role().is_none() {
        return run_to_the_end(again(test, "old"));
    }
    let unknown = [
        register::RING_FDS,
        register::FILES2,
        register::BUFFERS2,
        register::PBUF_RING,
        register::NAPI,
    ];
    answer(libc::SYS_io_uring_register, Some(&unknown), libc::EINVAL);
    let ring = Uring::open(&UringConfig { files: 8, ..small() }).unwrap();
    // Flags of set-up that the kernel has not are its own affair.
    let refused = ring.features().refused().filter(|feature| feature.setup_flag() == 0);
    let refused: Vec<_> = refused.collect();
    let wanted = [
        Feature::Files,
        Feature::Buffers,
        Feature::BufferRings,
        Feature::Napi,
        Feature::RegisteredRing,
    ];
    assert_eq!(refused, wanted);
    let needs = Why::Needs(Feature::BufferRings);
    assert!(ring.features().missing().contains(&(Feature::MultishotReceive, needs)));
    assert_eq!(ring.file_slots(), 0);
    carries_bytes(&Used::new(&ring));
    let told = check("io_uring_features");
    assert_eq!(told.verdict, Verdict::Warn);
    assert!(told.found.contains("without buffer_rings: each receive brings its own buffer"));
    done();
}

#[test]
fn too_little_lockable_memory_is_told_with_its_remedy() {
    let test = "refused::too_little_lockable_memory_is_told_with_its_remedy";
    let Some(bytes) = role() else {
        for bytes in [0, 65_536] {
            run_to_the_end(without_memlock(&again(test, &bytes.to_string()), bytes));
        }
        return;
    };
    let limit: u64 = bytes.parse().unwrap();
    let soft = limits::locked_bytes().unwrap().soft;
    assert_eq!(soft, limit, "the capability is gone");
    let is_told = |error: UringError| {
        let text = error.to_string();
        assert!(
            matches!(error, UringError::MemlockTooLow { limit: l, .. } if l == limit),
            "{text}"
        );
        assert!(text.contains("remedy: ulimit -l ") && text.contains("LimitMEMLOCK="), "{text}");
    };
    let large = UringConfig { entries: 4096, completions: 16_384, ..UringConfig::default() };
    match Uring::open(&large) {
        Err(error) => is_told(error),
        // Between Linux 5.12 and 6.13 the memory of rings was not counted.
        Ok(_ring) => not_run(&format!("{test}: rings"), "this kernel does not count their memory"),
    }
    match Uring::open(&small()) {
        Ok(ring) => {
            let used = Used::new(&ring);
            carries_bytes(&used);
            is_told(ring.register_buffers(&[Memory::new(1 << 20).lines()]).unwrap_err());
            carries_bytes(&used);
        }
        // Other rings of this user count too, so even a small one may not fit.
        Err(error) => {
            is_told(error);
            assert!(limit != 0 || check("io_uring").remedy.unwrap().starts_with("ulimit -l "));
        }
    }
    done();
}

#[test]
fn the_memory_of_a_closed_ring_can_be_locked_again() {
    let test = "refused::the_memory_of_a_closed_ring_can_be_locked_again";
    if role().is_none() {
        return run_to_the_end(without_memlock(&again(test, "limited"), 1 << 20));
    }
    // The kernel takes a ring apart in its own time, and its memory counts until then.
    for round in 0..100 {
        let ring = Uring::open(&UringConfig::default());
        assert!(ring.is_ok(), "round {round}: {}", ring.unwrap_err());
    }
    done();
}

#[test]
fn another_user_has_rings_too() {
    let test = "refused::another_user_has_rings_too";
    if role().is_some() {
        let ring = Uring::open(&UringConfig { files: 8, ..small() }).unwrap();
        carries_bytes(&Used::new(&ring));
        return done();
    }
    if !is_root() {
        return not_run(
            test,
            "only root can be somebody else; this user's rings are those of the other tests",
        );
    }
    run_to_the_end(as_nobody(&again(test, "nobody")));
}

#[test]
fn open_files_are_raised_as_far_as_may_be() {
    let test = "refused::open_files_are_raised_as_far_as_may_be";
    match role().as_deref() {
        Some(_) => {
            assert_eq!(limits::open_files().unwrap(), Limit { soft: 100, hard: 200 });
            let error = Uring::open(&UringConfig { files: 150, ..small() }).unwrap_err();
            assert_eq!(error, UringError::TooManyFiles { asked: 150, limit: 100 });
            assert!(error.to_string().contains("LimitNOFILE=150"), "{error}");

            let enough = limits::raise_open_files(150).unwrap();
            assert_eq!((enough.before, enough.now, enough.is_enough()), (100, 150, true));
            drop(Uring::open(&UringConfig { files: 150, ..small() }).unwrap());
            let few = limits::raise_open_files(5000).unwrap();
            assert_eq!((few.before, few.now, few.is_enough()), (150, 200, false));
            assert!(
                few.to_string().contains("remedy: ") && few.to_string().contains("nofile 5000")
            );
            assert_eq!(limits::open_files().unwrap(), Limit { soft: 200, hard: 200 });
            let told = check("nofile");
            assert_eq!(
                (told.verdict, told.found.as_str()),
                (Verdict::Warn, "200, may be raised to 200")
            );
            done();
        }
        None if !is_root() => run_to_the_end(limited(&again(test, "limited"))),
        None => run_to_the_end(limited(&as_nobody(&again(test, "limited")))),
    }
}

/// `inner` with at most 100 open files, and 200 if it likes.
fn limited(inner: &std::process::Command) -> std::process::Command {
    let mut command = std::process::Command::new("prlimit");
    command.arg("--nofile=100:200").arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    command
}
