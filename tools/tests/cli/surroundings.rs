//! Users, networks and terminals that are not as the command would like to have them.
//!
//! Some of it takes what only root may, or a namespace; where there is neither, that is said aloud.

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::rig::{Folder, Ran, run_in};

/// Nobody.
const OTHER_USER: &str = "65534";
/// What a terminal is told when a screen is begun, and when it is over.
const SCREEN: &str = "\u{1b}[?1049h";
const SCREEN_OVER: &str = "\u{1b}[?1049l";

/// Says past the test harness what this machine does not allow to be checked. `tests/run` lists it.
fn not_run(what: &str, why: &str) {
    let line = format!("\n!! NOT RUN: {what}: {}\n", why.trim().replace('\n', "; "));
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Says once what helps.
fn says_once(ran: &Ran, remedy: &str) {
    let told = format!("{}{}", ran.out, ran.err);
    assert!(told.contains(remedy), "{remedy}: {ran:?}");
    assert_eq!(told.matches("remedy: ").count(), 1, "{ran:?}");
}

#[test]
fn what_is_of_another_user_is_left_to_that_user() {
    let folder = Folder::new();
    let theirs = folder.file("theirs");
    fs::write(&theirs, vec![0; 4096]).unwrap();
    fs::set_permissions(&theirs, Permissions::from_mode(0o600)).unwrap();
    let given = Command::new("chown").arg(OTHER_USER).arg(&theirs).output().unwrap();
    if !given.status.success() {
        let why = String::from_utf8_lossy(&given.stderr).into_owned();
        return not_run("surroundings::what_is_of_another_user_is_left_to_that_user", &why);
    }
    // Nobody else sees whether it is in use: to remove the file would be bad advice.
    for how in [&["rm", "theirs"][..], &["rm", "--dead"], &["pool", "rm", "theirs"]] {
        let ran = folder.run(how);
        says_once(&ran, "remedy: sudo -u '#65534' spinwire rm theirs");
        assert!(ran.out.contains("belongs to user 65534"), "{ran:?}");
        assert!(folder.has("theirs"), "{ran:?}");
    }
    let checked = folder.run(&["layout", "check", "shm:theirs"]);
    assert_eq!(checked.code, 2, "{checked:?}");
    says_once(&checked, "remedy: run both sides as one user");
}

#[test]
fn a_leftover_that_is_no_pool_goes_by_the_other_command() {
    let folder = Folder::new();
    fs::write(folder.file("half"), vec![0; 4096]).unwrap();
    fs::set_permissions(folder.file("half"), Permissions::from_mode(0o600)).unwrap();
    let ran = folder.run(&["pool", "rm", "half"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    says_once(&ran, "remedy: spinwire rm half");
    assert!(folder.has("half"), "{ran:?}");
    let ran = folder.run(&["layout", "check", "shm:half"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    says_once(&ran, "remedy: see what it is: spinwire ps half");
}

#[test]
fn a_folder_that_is_not_there_is_told_with_what_helps() {
    let nowhere = Path::new("/nowhere/at/all");
    for how in
        [&["ps"][..], &["pool", "create", "x"], &["serve", "shm://x"], &["lat", "--listen", "x"]]
    {
        let ran = run_in(nowhere, how);
        assert_eq!(ran.code, 2, "{ran:?}");
        says_once(&ran, "or point SPINWIRE_SHM_DIR to a folder");
    }
}

#[test]
fn what_has_no_end_is_no_source_of_layouts() {
    let folder = Folder::new();
    for how in [["lock", "/dev/zero"], ["dump", "btf:/dev/zero"]] {
        // Not all of this machine's memory, should it be read.
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -v 2000000; exec \"$0\" layout \"$@\""]);
        let ran = command.arg(env!("CARGO_BIN_EXE_spinwire")).args(how).output().unwrap();
        let told = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(2), "{told}");
        let says = "/dev/zero: is a device without an end; remedy: name a file";
        assert!(told.contains(says), "{told}");
    }
    let ran = folder.run(&["layout", "header", "--prefix", "a b"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("begins no name in C"), "{ran:?}");
}

#[test]
fn seconds_are_asked_for_as_everywhere() {
    let folder = Folder::new();
    let ran = folder.run(&["pool", "gc", "--detached", "--untouched", "soon", "x"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("give seconds from 0 to 3600, like 0.5"), "{ran:?}");
}

#[test]
fn a_network_that_leads_nowhere_is_not_taken_for_nobody() {
    let alone = [&["--net"][..], &["--map-root-user", "--net"]].into_iter().find(|flags| {
        let tried = Command::new("unshare").args(*flags).arg("true").output();
        tried.is_ok_and(|tried| tried.status.success())
    });
    let Some(alone) = alone else {
        let test = "surroundings::a_network_that_leads_nowhere_is_not_taken_for_nobody";
        return not_run(test, "no network namespace to be had: unshare --net true");
    };
    // Where even the loop-back device is down.
    let fabric = cfg!(feature = "libfabric").then_some("ofi://tcp/127.0.0.1:7000");
    for uri in ["tcp://127.0.0.1:7000", "udp://127.0.0.1:7000"].into_iter().chain(fabric) {
        let mut command = Command::new("unshare");
        command.args(alone).arg(env!("CARGO_BIN_EXE_spinwire")).args(["ping", uri, "--count", "1"]);
        let ran = command.output().unwrap();
        let told = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(2), "{told}");
        assert!(told.contains("Network is unreachable"), "{told}");
        assert!(!told.contains("nobody answers"), "{told}");
        assert!(told.contains("remedy: ip -br address"), "{told}");
    }
}

#[test]
fn a_folder_that_nobody_can_write_to_offers_nothing() {
    let folder = Folder::new();
    let script = "mount -t tmpfs -o ro tmpfs \"$SPINWIRE_SHM_DIR\" && exec \"$0\" providers --need parcel --json";
    let ran = [&["--mount"][..], &["--map-root-user", "--mount"]].map(|flags| {
        let mut command = Command::new("unshare");
        command.args(flags).args(["sh", "-c", script, env!("CARGO_BIN_EXE_spinwire")]);
        command.env("SPINWIRE_SHM_DIR", folder.path()).output()
    });
    let Some(told) = ran.into_iter().flatten().find_map(|ran| match ran.status.code() {
        Some(1) if ran.stderr.is_empty() => String::from_utf8(ran.stdout).ok(),
        Some(0) => panic!("shared memory was offered: {ran:?}"),
        _ => None,
    }) else {
        let test = "surroundings::a_folder_that_nobody_can_write_to_offers_nothing";
        return not_run(test, "no mount namespace to be had: unshare --mount true");
    };
    assert!(told.contains("Read-only file system"), "{told}");
    assert!(told.contains("point SPINWIRE_SHM_DIR to a writable tmpfs"), "{told}");
}

/// The only child of a process.
fn child_of(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.trim().parse().ok()
}

#[test]
fn a_screen_that_is_ended_by_a_signal_leaves_the_terminal_in_order() {
    let test = "surroundings::a_screen_that_is_ended_by_a_signal_leaves_the_terminal_in_order";
    for signal in ["TERM", "INT", "HUP"] {
        let folder = Folder::new();
        let top = format!("exec {} top --interval 60000", env!("CARGO_BIN_EXE_spinwire"));
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &top, "/dev/null"]);
        script.env("SPINWIRE_SHM_DIR", folder.path()).env("TERM", "xterm");
        script.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut script = match script.spawn() {
            Ok(script) => script,
            Err(e) => return not_run(test, &format!("script(1) of bsdutils: {e}")),
        };
        let mut terminal = script.stdout.take().unwrap();
        let (mut told, mut piece) = (String::new(), [0; 1024]);
        let began = Instant::now();
        let mut sent = false;
        loop {
            let count = terminal.read(&mut piece).unwrap();
            told += &String::from_utf8_lossy(&piece[..count]);
            if count == 0 {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{told:?}");
            // The screen is there: it is drawn after the signals are heeded.
            if !sent && told.contains(SCREEN) {
                let top = child_of(script.id()).unwrap().to_string();
                let kill = Command::new("kill").args([&format!("-{signal}"), &top]).status();
                sent = kill.unwrap().success();
                assert!(sent, "{signal}");
            }
        }
        assert_eq!(script.wait().unwrap().code(), Some(0), "{signal}: {told:?}");
        assert!(told.contains(SCREEN_OVER), "{signal}: {told:?}");
    }
}
