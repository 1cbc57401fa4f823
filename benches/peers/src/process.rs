//! Children: started, given a time limit, never left behind.
//!
//! While a child is measured nobody here wakes up: output is read by blocked threads, and the
//! waiter sleeps on a channel. A waiter that polled would run on one of the two processors that are
//! being measured.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::cpu;

/// How long a single measurement by a child may take before it is given up.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// How long a server may take until it listens.
const LISTEN_LIMIT: Duration = Duration::from_secs(5);

/// A child under a time limit; dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Running {
    name: String,
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

/// What a child said.
#[derive(Debug)]
pub(crate) struct Said {
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
    /// Nanoseconds that its first thread ran, where the kernel counts them.
    pub(crate) ran_ns: Option<f64>,
}

impl Running {
    /// Starts `command`, pinned to `cpu` where one is given.
    pub(crate) fn start(mut command: Command, cpu: Option<usize>) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        // Its input ends with this program, however that ends: what `end_with_parent` waits for.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut spawn = || command.spawn().with_context(|| format!("{name} cannot be started"));
        let mut child = match cpu {
            Some(cpu) => cpu::on(cpu, spawn)?,
            None => spawn()?,
        };
        let stdout = collect(child.stdout.take());
        let stderr = collect(child.stderr.take());
        Ok(Self { name, child, stdout, stderr })
    }

    /// The child's process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills the child; what it had said, in few words.
    pub(crate) fn stop(mut self) -> String {
        // Fails only where the child has ended already, which is what is wanted.
        self.child.kill().ok();
        let said = |from: &Receiver<String>| from.recv_timeout(LISTEN_LIMIT).unwrap_or_default();
        let (stdout, stderr) = (said(&self.stdout), said(&self.stderr));
        last_lines(if stderr.trim().is_empty() { &stdout } else { &stderr })
    }

    /// Asks the child to end (SIGTERM), and waits for that; what it has printed.
    pub(crate) fn end(self) -> String {
        // Fails only where the child has ended already, which is what is wanted.
        kill_process(Pid::from_child(&self.child), Signal::TERM).ok();
        self.stdout.recv_timeout(LISTEN_LIMIT).unwrap_or_default()
    }

    /// Waits until the child has ended well, at most `limit`.
    pub(crate) fn finish(mut self, limit: Duration) -> anyhow::Result<Said> {
        let deadline = Instant::now() + limit;
        let await_end = |from: &Receiver<String>| {
            from.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        };
        let (stdout, stderr) = (await_end(&self.stdout), await_end(&self.stderr));
        let (Ok(stdout), Ok(stderr)) = (stdout, stderr) else {
            bail!("{} did not end within {} s and was killed", self.name, limit.as_secs());
        };
        let ran_ns = ran_ns(&self.child);
        let status = self.child.wait().with_context(|| format!("{} was lost", self.name))?;
        if !status.success() {
            let words = if stderr.trim().is_empty() { &stdout } else { &stderr };
            bail!("{} failed ({status}): {}", self.name, last_lines(words));
        }
        Ok(Said { stdout, stderr, ran_ns })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only where the child has ended already, which is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// For children that are this program: they end when their standard input does. A server that spins must not outlive a measurement
/// that was killed.
pub(crate) fn end_with_parent() {
    thread::spawn(|| {
        let mut input = std::io::stdin();
        while input.read(&mut [0; 64]).is_ok_and(|bytes| bytes > 0) {}
        std::process::exit(0);
    });
}

/// Runs `command` to its end.
pub(crate) fn run(command: Command, cpu: Option<usize>) -> anyhow::Result<Said> {
    Running::start(command, cpu)?.finish(LIMIT)
}

/// Whether a program of this name is on the search path.
pub(crate) fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|paths| {
        std::env::split_paths(&paths).any(|folder| folder.join(program).is_file())
    })
}

/// A TCP port of the loopback interface that nobody uses now.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free TCP port")?;
    Ok(listener.local_addr()?.port())
}

/// Waits until somebody listens on `port`, without connecting: a test connection would be taken for
/// the client.
pub(crate) fn await_listener(port: u16) -> anyhow::Result<()> {
    let deadline = Instant::now() + LISTEN_LIMIT;
    while Instant::now() < deadline {
        if ["/proc/net/tcp", "/proc/net/tcp6"]
            .iter()
            .any(|table| fs::read_to_string(table).is_ok_and(|text| listens(&text, port)))
        {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(2));
    }
    bail!("nobody listens on port {port} after {} s", LISTEN_LIMIT.as_secs())
}

/// The end of a text, for an error message.
pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail: Vec<&str> = lines.iter().rev().take(4).rev().map(|line| line.trim()).collect();
    if tail.is_empty() { "it said nothing".to_owned() } else { tail.join(" | ") }
}

/// How long the first thread of a child ran, which has closed its output: what the kernel counted,
/// between its end and its burial.
fn ran_ns(child: &Child) -> Option<f64> {
    let pid = Pid::from_child(child);
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).ok()?;
    let counted = fs::read_to_string(format!("/proc/{}/schedstat", child.id())).ok()?;
    counted.split_whitespace().next()?.parse().ok()
}

/// How long all threads of a process have run so far, as the kernel counts it.
pub(crate) fn ran_so_far_ns(process: u32) -> Option<f64> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).ok()?;
    let each = threads.map(|thread| {
        let counted = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        counted.split_whitespace().next()?.parse::<f64>().ok()
    });
    each.sum()
}

/// Reads a pipe to its end on a thread of its own.
fn collect<R: Read + Send + 'static>(pipe: Option<R>) -> Receiver<String> {
    let (send, receive) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What arrived before an error is still worth reading.
            pipe.read_to_end(&mut bytes).ok();
        }
        send.send(String::from_utf8_lossy(&bytes).into_owned()).ok();
    });
    receive
}

/// Whether a table in the form of `/proc/net/tcp` has a socket in LISTEN (0A) on `port`.
fn listens(table: &str, port: u16) -> bool {
    let suffix = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace();
        words.nth(1).is_some_and(|local| local.ends_with(&suffix)) && words.nth(1) == Some("0A")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_without_connecting() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        await_listener(listener.local_addr().unwrap().port()).unwrap();
    }

    #[test]
    fn only_the_listen_state_counts() {
        let table =
            "  sl  local_address rem_address   st\n   0: 0100007F:1F90 00000000:0000 01 0\n";
        assert!(!listens(table, 8080));
        assert!(listens(&table.replace(" 01 ", " 0A "), 8080));
    }

    #[test]
    fn a_child_that_hangs_is_killed() {
        let mut sleeper = Command::new("sleep");
        sleeper.arg("30");
        let error =
            Running::start(sleeper, None).unwrap().finish(Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
    }

    #[test]
    fn the_time_that_a_child_ran_is_known() {
        let mut counting = Command::new("sh");
        counting.args(["-c", "i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done"]);
        let ran_ns = run(counting, None).unwrap().ran_ns;
        assert!(ran_ns.is_some_and(|ns| ns > 1e6), "{ran_ns:?}");
    }

    #[test]
    fn the_time_of_all_threads_is_known_while_they_run() {
        let this = std::process::id();
        let before = ran_so_far_ns(this).unwrap();
        let busy = Instant::now();
        thread::spawn(move || while busy.elapsed() < Duration::from_millis(30) {});
        thread::sleep(Duration::from_millis(60));
        // Another thread than this one, which slept.
        thread::spawn(|| {}).join().unwrap();
        assert!(ran_so_far_ns(this).unwrap() >= before, "it only grows while nobody ends");
    }

    #[test]
    fn a_child_that_is_asked_to_end_has_said_what_it_had_to() {
        let mut server = Command::new("sh");
        server.args([
            "-c",
            "trap 'echo so long; exit 0' TERM; echo ready; while :; do sleep 0.01; done",
        ]);
        let server = Running::start(server, None).unwrap();
        thread::sleep(Duration::from_millis(100));
        assert_eq!(server.end(), "ready\nso long\n");
    }

    #[test]
    fn a_child_that_fails_is_quoted() {
        let mut failing = Command::new("sh");
        failing.args(["-c", "echo no luck >&2; exit 3"]);
        let error = run(failing, None).unwrap_err().to_string();
        assert!(error.contains("no luck") && error.contains('3'), "{error}");
    }
}
