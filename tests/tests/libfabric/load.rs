//! The library is loaded when it is asked for something, and takes nothing away by that. Each case is a process of its own, which has not loaded it yet.

use std::process::Command;

use spinwire_hostshim::libfabric::{OfiError, library_version};

/// Where a child finds what it is to do.
const ROLE: &str = "SPINWIRE_OFI_LOAD";
const SIGNALS: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGSEGV, libc::SIGABRT];

/// What handles a signal.
#[expect(unsafe_code, reason = "sigaction(2)")]
fn handler_of(signal: i32) -> usize {
    // SAFETY: all bytes zero are a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    // SAFETY: room for one action; nothing is changed.
    assert_eq!(unsafe { libc::sigaction(signal, core::ptr::null(), &raw mut action) }, 0);
    action.sa_sigaction
}

fn is_loaded() -> bool {
    std::fs::read_to_string("/proc/self/maps").unwrap().contains("libfabric.so")
}

/// The child. Does nothing where it is run as a test.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    assert!(!is_loaded(), "before anything was asked");
    if role == "missing" {
        let error = library_version().unwrap_err();
        assert!(matches!(error, OfiError::Missing { .. }), "{error:?}");
        let told = error.to_string();
        assert!(told.contains("file too short") && told.contains("remedy: apt-get"), "{told}");
        return;
    }
    #[expect(unsafe_code, reason = "signal(2)")]
    // SAFETY: no handler.
    let _before = unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
    let before = SIGNALS.map(handler_of);
    assert_eq!(library_version().unwrap().0, 1);
    assert!(is_loaded());
    assert_eq!(SIGNALS.map(handler_of), before);
    assert_eq!(before[..2], [libc::SIG_IGN, libc::SIG_DFL]);
}

fn run(role: &str, folder: Option<&std::path::Path>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "load::child"]).env(ROLE, role);
    if let Some(folder) = folder {
        command.env("LD_LIBRARY_PATH", folder);
    }
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}

#[test]
fn signals_do_after_loading_what_they_did_before() {
    run("signals", None);
}

/// Where there is no such library the program runs, and says so when it is asked for it.
#[test]
fn a_library_that_cannot_be_loaded_is_told() {
    let folder = std::env::temp_dir().join(format!("spinwire-no-ofi-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("libfabric.so.1"), "none").unwrap();
    run("missing", Some(&folder));
    std::fs::remove_dir_all(&folder).unwrap();
}
