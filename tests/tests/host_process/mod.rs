//! Test binaries that start themselves again as another process, and folders that vanish.
//!
//! A test that needs a second process calls [`again`] with its own name. The new process runs that test alone, sees
//! [`role`], plays it, and never returns to the test proper.
#![allow(
    clippy::unwrap_used,
    dead_code,
    reason = "shared by several test binaries, each of which uses a part of it and stops at the first surprise"
)]

pub(crate) mod private;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use spinwire_hostshim::mem::SegmentDir;

const ROLE: &str = "HOST_TEST_ROLE";

/// The role of this process, if it was started by [`again`].
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// This test binary once more, for the test `name` alone, in `role`.
pub(crate) fn again(name: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    ends_with_this_thread(&mut command);
    command
}

/// The process is killed when the thread that starts it ends, however it ends: orphans of a test that was killed would go on, start
/// others, and take their processor from whatever is tested next. PR_SET_PDEATHSIG(2const).
#[expect(unsafe_code, reason = "what is done between fork(2) and execve(2) has no safe form")]
fn ends_with_this_thread(command: &mut Command) {
    let parent = std::process::id();
    let follow = move || {
        // SAFETY: takes numbers only.
        let asked = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        // Where it had ended before this was asked for, nobody will send anything.
        let follows = asked == 0 && std::os::unix::process::parent_id() == parent;
        if follows { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: between fork and execve it makes two system calls, as may be done there, and allocates nothing.
    unsafe { command.pre_exec(follow) };
}

/// A process that is killed when the test ends, however it ends: one that was stopped would stay for ever, and with it the
/// pipe that whoever runs the tests reads to its end.
pub(crate) struct Kept(pub(crate) Child);

impl Kept {
    /// Starts it.
    pub(crate) fn new(mut command: Command) -> Self {
        Self(command.spawn().unwrap())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _over_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// What a process started by [`again`] says with [`say`], line by line. What its test harness prints is left out.
pub(crate) fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let out = BufReader::new(child.stdout.take().unwrap());
    let lines = out.lines().map_while(Result::ok);
    // The harness prints `test name ... ` without a line end.
    lines.filter_map(|line| line.split_once("HOST>").map(|(_harness, text)| text.to_owned()))
}

/// Tells the process that started this one.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "HOST>{text}").unwrap();
    out.flush().unwrap();
}

/// Waits until the process that started this one closes its end of standard input, or dies.
pub(crate) fn wait_for_end_of_input() {
    let _count = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
}

/// Sends `signal` (`STOP`, `CONT`, `KILL`) by the shell's own kill.
pub(crate) fn signal(pid: u32, signal: &str) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status();
    assert!(sent.unwrap().success(), "kill -{signal} {pid}");
}

/// One byte of this process's memory, read and written through the kernel: what a test may do without unsafe code.
pub(crate) struct Memory(File);

impl Memory {
    pub(crate) fn open() -> Self {
        Self(File::options().read(true).write(true).open("/proc/self/mem").unwrap())
    }

    pub(crate) fn get(&self, address: core::ptr::NonNull<u8>, offset: usize) -> u8 {
        let mut byte = [0];
        self.0.read_exact_at(&mut byte, at(address, offset)).unwrap();
        byte[0]
    }

    pub(crate) fn set(&self, address: core::ptr::NonNull<u8>, offset: usize, value: u8) {
        self.0.write_all_at(&[value], at(address, offset)).unwrap();
    }
}

fn at(address: core::ptr::NonNull<u8>, offset: usize) -> u64 {
    u64::try_from(address.as_ptr().addr().wrapping_add(offset)).unwrap()
}

/// A folder that vanishes.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// In `/dev/shm` where that can be written, because that is where segments live, else among the temporary files.
    pub(crate) fn new() -> Self {
        let process = std::process::id();
        let parents = [PathBuf::from("/dev/shm"), std::env::temp_dir()];
        let mut candidates = parents.iter().flat_map(|parent| {
            (0..100).map(move |n| parent.join(format!("host-test-{process}-{n}")))
        });
        Self(candidates.find(|path| fs::create_dir(path).is_ok()).unwrap())
    }

    /// One that somebody else has made.
    pub(crate) const fn at(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The names in it, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Segments first: their memory may lie elsewhere.
        for listed in SegmentDir::new(&self.0).list().unwrap_or_default() {
            let _not_a_segment = SegmentDir::new(&self.0).unlink(&listed.name);
        }
        let _leftover_is_harmless = fs::remove_dir_all(&self.0);
    }
}
