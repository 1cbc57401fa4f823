//! What `tests/run` runs and says: no step names a target that it cannot run, and whatever fails is named.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{manifest, root};

/// A step that names a target with `required-features`, which it does not give, runs none of its tests.
#[test]
fn steps_name_targets_that_they_can_run() {
    let metadata = manifest::metadata(&root());
    let packages = metadata["packages"].as_array().expect("packages");
    let tests = packages.iter().find(|package| package["name"] == "spinwire-tests");
    let targets = tests.expect("the package")["targets"].as_array().expect("targets");
    for (step, one_of_them) in [("loom", "loom_lane"), ("stress", "tcp_port")] {
        let ran = Command::new(root().join("tests/run")).arg(format!("--targets={step}")).output();
        let flags = String::from_utf8(ran.expect("it starts").stdout).expect("text");
        let names: Vec<&str> =
            flags.lines().filter_map(|flag| flag.strip_prefix("--test=")).collect();
        assert!(names.contains(&one_of_them), "{step}: {flags}");
        for name in names {
            let target = targets.iter().find(|target| target["name"] == name);
            let target = target.unwrap_or_else(|| panic!("{step}: there is no target {name}"));
            let wants = &target["required-features"];
            assert!(wants.is_null(), "{step}: {name} wants {wants}, which this step does not give");
        }
    }
}

/// Lines as cargo and its tests print them, and what is said of them.
const LOGS: [(&str, &str); 3] = [
    (
        "     Running tests/a.rs (deps/a-1)
test one ... FAILED
test two - should panic ... FAILED

---- one stdout ----

thread 'one' (12) panicked at tests/a.rs:3:4:
assertion `left == right` failed: so it is
  left: 1
 right: 2

---- two stdout ----
note: test did not panic as expected

test result: FAILED. 1 passed; 2 failed
error: test failed, to rerun pass `--test a`
     Running tests/b.rs (deps/b-1)
error: test failed, to rerun pass `--test b`
  process didn't exit successfully: `deps/b-1` (signal: 6, SIGABRT: process abort signal)
",
        "FAILED a step: one: assertion `left == right` failed: so it is, tests/a.rs:3:4; left: 1; right: 2 [tests/a.rs]
FAILED a step: two: it has not said why [tests/a.rs]
FAILED a step: `deps/b-1` (signal: 6, SIGABRT: process abort signal) [tests/b.rs]
",
    ),
    (
        "error[E0308]: mismatched types\n  --> src/a.rs:1:2\nerror: could not compile `a`\n",
        "FAILED a step: error[E0308]: mismatched types, src/a.rs:1:2\n",
    ),
    (
        "copy/out/64  64.0  67.2 \nlane/look  21.0  20.0 OVER\nerror: bench failed\n",
        "FAILED a step: lane/look 21.0 20.0 OVER\n",
    ),
];

#[test]
fn what_failed_is_named_with_what_it_said() {
    let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults.log");
    for (text, wanted) in LOGS {
        fs::write(&log, text).expect("a file");
        let ran = Command::new(root().join("tests/faults")).arg("a step").arg(&log).output();
        assert_eq!(String::from_utf8_lossy(&ran.expect("it starts").stdout), wanted);
    }
}

/// What goes is a killed test's own, and old; everything else stays.
#[test]
fn what_killed_tests_left_is_swept() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sweep");
    let _of_an_earlier_run = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).expect("a folder");
    // A number that no process has.
    let (dead, alive) = (u32::MAX, std::process::id());
    let goes = [
        "host-test-D-0",
        "cli-test-D-12",
        "host-files-works-D-1",
        "soak-D-a.b",
        "spinwire.test-D-1-a.stats",
        "spinwire.host-bell-look-D",
    ];
    let stays = [
        "host-test-A-0",
        "host-test-D-0 x",
        "host-test--D-0",
        "xhost-test-D-0",
        "spinwire.test-A-1",
        "spinwire.mine-D-1",
        "spinwire.test",
        "host-test-0D-1",
    ];
    let path = |name: &str| {
        folder.join(name.replace('D', &dead.to_string()).replace('A', &alive.to_string()))
    };
    for name in goes.iter().chain(&stays) {
        fs::create_dir(path(name)).expect("a folder");
        fs::write(path(name).join("spinwire.segment"), [0; 8]).expect("a file");
    }
    let sweep = || {
        let ran =
            Command::new(root().join("tests/sweep")).arg(&folder).output().expect("it starts");
        assert!(ran.status.success(), "{ran:?}");
        let left = |name: &&&str| path(name).exists();
        (goes.iter().filter(left).count(), stays.iter().filter(left).count())
    };
    assert_eq!(
        sweep(),
        (goes.len(), stays.len()),
        "whoever made it may run on another machine's numbers"
    );
    let everything =
        fs::read_dir(&folder).expect("the folder").map(|entry| entry.expect("an entry").path());
    let aged = Command::new("touch").args(["-d", "2 hours ago"]).args(everything).status();
    assert!(aged.expect("it starts").success());
    assert_eq!(sweep(), (0, stays.len()));
}
