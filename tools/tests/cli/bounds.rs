//! What a command leaves alone: names of others, streams that nobody reads, addresses of nobody.

use std::fs::{self, File};
use std::process::Stdio;

use crate::arguments::refused;
use crate::rig::{Folder, command};

/// `lat` and `bw` make a segment and remove it: one that has the name already is neither used nor removed.
#[test]
fn a_name_that_is_taken_stays_its_owners() {
    let folder = Folder::new();
    for pool in ["demo", "demo.pool"] {
        assert_eq!(folder.run(&["pool", "create", pool, "--class", "4Kx1"]).code, 0);
    }
    let holder = folder.holder("domain quotes");
    let before = folder.ps("quotes");
    for (command, name) in [("lat", "demo"), ("bw", "demo"), ("lat", "quotes"), ("bw", "quotes")] {
        let uri = format!("shm://{name}");
        for more in [&[][..], &["--zero-copy"]] {
            let brief = [command, "--uri", &uri, "--iters", "20", "--rounds", "1"];
            let ran = folder.run(&[&brief, more].concat());
            assert_eq!(ran.code, 2, "{ran:?}");
            assert!(ran.err.contains("exists already; remedy: "), "{ran:?}");
            let last = ran.err.lines().last().unwrap();
            assert!(last.contains("ended too early") && last.contains("remedy: "), "{ran:?}");
        }
    }
    let left = fs::read_dir(folder.path()).unwrap().count();
    assert!(folder.has("demo") && folder.has("demo.pool") && folder.has("quotes"));
    assert_eq!(left, 3, "and nothing beside them");
    assert_eq!(folder.ps("quotes")["processes"], before["processes"]);
    holder.let_go();
}

/// The exit code is the same where standard error cannot be written to.
#[test]
fn who_cannot_complain_ends_as_he_would() {
    let folder = Folder::new();
    for (args, code) in [
        (&["ps", "ghost"][..], 1),
        (&["top", "ghost", "--once"], 1),
        (&["rm", "a/b"], 2),
        (&["ping", "shm://ghost", "--count", "1"], 2),
        (&["lat", "--connect", "ghost"], 2),
        (&["lat", "--provider", "tcp", "--listen", "tcp://127.0.0.1:0/name"], 2),
    ] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut child = command(folder.path(), args);
        let mut child = child.stdout(Stdio::null()).stderr(full).spawn().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{args:?}");
    }
    let mut devices = command(folder.path(), &["devices"]);
    let mut devices = devices.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(devices.stdout.take());
    assert!(matches!(devices.wait().unwrap().code(), Some(0..=2)), "a reader that is gone");
}

#[test]
fn places_where_nobody_can_be() {
    for uri in ["tcp://127.0.0.1:0", "udp://127.0.0.1:0"] {
        refused(&["ping", uri, "--count", "1"], "nobody is found at port 0");
    }
    for command in ["lat", "bw"] {
        refused(&[command, "--connect", "tpc://h:1"], "the scheme is none of shm, tcp, udp");
        refused(&[command, "--listen", "demo://x"], "the scheme is none of shm, tcp, udp");
        refused(&[command, "--connect", "://x"], "the scheme is");
    }
    let folder = Folder::new();
    let twice = folder.run(&["serve", "shm://demo/a", "shm://demo/a"]);
    assert!(twice.code == 2 && twice.err.contains("shm://demo/a: name: "), "{twice:?}");
    assert!(!folder.has_any(), "{twice:?}");
}
