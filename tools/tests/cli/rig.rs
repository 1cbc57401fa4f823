//! Folders of segments, runs of the command in them, and processes that hold segments until they are killed.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

/// Says to this test program, started again, which segment it is to hold.
pub(crate) const ROLE: &str = "CLI_TEST_ROLE";

/// A folder of segments that vanishes, and the command in it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cli-test-{}-{count}", std::process::id());
        // Where segments live, if that can be written; else anywhere.
        let parents = [PathBuf::from("/dev/shm"), std::env::temp_dir()];
        let made = parents
            .iter()
            .map(|parent| parent.join(&name))
            .find(|path| fs::create_dir(path).is_ok());
        Self(made.unwrap())
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The file of a segment.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(format!("spinwire.{name}"))
    }

    /// Is there anything of that name? Symlinks that lead nowhere are.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.file(name).symlink_metadata().is_ok()
    }

    /// Is there anything at all?
    pub(crate) fn has_any(&self) -> bool {
        fs::read_dir(&self.0).unwrap().next().is_some()
    }

    /// Runs the command in this folder.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        run_in(&self.0, args)
    }

    /// The same with the folder as the one that it works in.
    pub(crate) fn run_here(&self, args: &[&str]) -> Ran {
        Ran::of(command(&self.0, args).current_dir(&self.0).output().unwrap())
    }

    /// Starts the command in this folder, and lets it run.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        let mut command = command(&self.0, args);
        Running(Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()))
    }

    /// What `ps --json` says about one segment.
    pub(crate) fn ps(&self, name: &str) -> Value {
        let ran = self.run(&["ps", "--json", name]);
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.json()[0].clone()
    }

    /// Starts a process that holds something: `domain NAME`, `page NAME`, `plane NAME`, or
    /// `late-plane NAME`, whose page is brought up to date only after a while.
    pub(crate) fn holder(&self, role: &str) -> Holder {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_holder_holds_and_lets_go", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env("SPINWIRE_SHM_DIR", &self.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let ready = out.by_ref().lines().map_while(Result::ok).any(|line| line.contains("HOLDS"));
        let holder = Holder { child, _out: out };
        assert!(ready, "the holder of {role} did not come so far");
        holder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _leftover_is_harmless = fs::remove_dir_all(&self.0);
    }
}

/// Runs the command with `folder` as the folder of segments, whatever that is.
pub(crate) fn run_in(folder: &Path, args: &[&str]) -> Ran {
    let mut command = command(folder, args);
    Ran::of(command.output().unwrap())
}

/// The command, not yet started.
pub(crate) fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spinwire"));
    command.args(args).env("SPINWIRE_SHM_DIR", folder).stdin(Stdio::null());
    command
}

/// How a run of the command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            // Killed by a signal is no way to end.
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// What `rm --json` did with a name.
    pub(crate) fn action(&self, name: &str) -> String {
        let json = self.json();
        let rows = json.as_array().unwrap().iter();
        let mut of_name = rows.filter(|row| row["name"] == name);
        let action = of_name.next().unwrap_or_else(|| panic!("{name}: {self:?}"))["action"].clone();
        assert!(of_name.next().is_none(), "{name} twice: {self:?}");
        action.as_str().unwrap().to_owned()
    }
}

/// A run of the command that goes on. Killed when this is dropped.
pub(crate) struct Running(Option<Child>);

impl Running {
    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    /// Whether it goes on.
    pub(crate) fn runs(&mut self) -> bool {
        self.0.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Waits for its end.
    pub(crate) fn ran(mut self) -> Ran {
        Ran::of(self.0.take().unwrap().wait_with_output().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ended_already = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// A process that holds something. Killed when this is dropped.
pub(crate) struct Holder {
    child: Child,
    /// What the test harness says at its end goes here; were it closed, the harness would fail.
    _out: BufReader<ChildStdout>,
}

impl Holder {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops it, or lets it go on: `STOP`, `CONT`. Returns when the kernel shows it.
    pub(crate) fn signal(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.pid());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        let stat = format!("/proc/{}/stat", self.pid());
        let stopped =
            || fs::read_to_string(&stat).unwrap().rsplit(") ").next().unwrap().starts_with('T');
        while stopped() != (signal == "STOP") {
            std::thread::yield_now();
        }
    }

    /// kill -9, and waits for the end.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Lets it end by itself.
    pub(crate) fn let_go(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}
