//! Processes in surroundings of their own: another `/dev/shm`, other limits, another user.
//!
//! ```text
//!   inner test role  ->  in_namespace(script)   a mount namespace, in which the script runs first: tmpfs, hugetlbfs
//!                    ->  without_memlock(bytes) a limit of locked memory, and no capability to ignore it
//!                    ->  as_nobody()            user 65534
//! ```
//!
//! By the commands of util-linux, which every Debian has. Where the machine does not allow it, [`not_run`] says so aloud.

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};

use super::{lines, say};

/// The last word of a process that came to the end of its role.
const DONE: &str = "done";

/// Says on standard error, past the test harness, what this machine does not allow to be checked. `tests/run` lists it.
pub(crate) fn not_run(what: &str, why: &str) {
    let why = why.trim().replace('\n', "; ");
    // Not by eprintln, which the harness keeps to itself where the test passes.
    let line = format!("\n!! NOT RUN: {what}: {why}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Is this process root, as far as it can tell?
pub(crate) fn is_root() -> bool {
    output("id", &["-u"]).is_ok_and(|id| id.trim() == "0")
}

/// Is this process root in a namespace of its own only?
pub(crate) fn in_user_namespace() -> bool {
    // The first namespace maps all there are: user_namespaces(7).
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !map.trim().ends_with("4294967295"))
}

/// What a command prints, or why it failed.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Result<String, String> {
    let ran = Command::new(program).args(arguments).output();
    let ran = ran.map_err(|e| format!("{program}: {e}"))?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    if ran.status.success() { Ok(text(&ran.stdout)) } else { Err(text(&ran.stderr)) }
}

/// `inner` behind `wrapper`, with the surroundings that it had.
fn wrapped(inner: &Command, wrapper: &[&str]) -> Command {
    let (program, before) = wrapper.split_first().unwrap();
    let mut command = Command::new(program);
    command.args(before).arg(inner.get_program()).args(inner.get_args());
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    // The folder of the tests is none of theirs, unless they were given it.
    command.env_remove("SPINWIRE_SHM_DIR");
    command.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command
}

/// The flags of `unshare` with which this machine lets us mount what we like, or why it does not.
fn unshare() -> Result<Vec<&'static str>, String> {
    let mut why = String::new();
    for user in [&[][..], &["--map-root-user"]] {
        let mut flags = vec!["--mount", "--propagation", "private"];
        flags.extend(user);
        let probe = ["sh", "-c", "mount -t tmpfs -o size=1m tmpfs /dev/shm"];
        match output("unshare", &[flags.as_slice(), &probe].concat()) {
            Ok(_silent) => return Ok(flags),
            Err(e) => why = e,
        }
    }
    Err(format!("no mount namespace to be had, neither as root nor in a user namespace: {why}"))
}

/// `inner` in a mount namespace in which the shell has run `script` before.
pub(crate) fn in_namespace(inner: &Command, script: &str) -> Result<Command, String> {
    let flags = unshare()?;
    let script = format!("set -e; {script}; exec \"$0\" \"$@\"");
    Ok(wrapped(inner, &[&["unshare"], flags.as_slice(), &["sh", "-c", &script]].concat()))
}

/// `inner` with so many bytes of lockable memory, and without the capability that ignores the limit.
pub(crate) fn without_memlock(inner: &Command, bytes: u64) -> Command {
    let limit = format!("--memlock={bytes}:{bytes}");
    let drop = ["setpriv", "--bounding-set", "-ipc_lock", "--inh-caps", "-ipc_lock"];
    let privileged: &[&str] = if is_root() { &drop } else { &[] };
    wrapped(inner, &[privileged, &["prlimit", limit.as_str()]].concat())
}

/// `inner` as user 65534. The program is opened before, since that user may not be let to where it lies. Only for root.
pub(crate) fn as_nobody(inner: &Command) -> Command {
    let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    let script = format!("exec 9<\"$0\"; exec {nobody} /proc/self/fd/9 \"$@\"");
    wrapped(inner, &["sh", "-c", &script])
}

/// Ends a role well.
pub(crate) fn done() {
    say(DONE);
}

/// Runs a role to its end. A process that a signal ended, a failed assertion, and a role that was never played are failures.
pub(crate) fn run_to_the_end(mut command: Command) {
    let child = command.spawn().unwrap();
    finish(child);
}

/// What is left of [`run_to_the_end`] for a process that runs already.
pub(crate) fn finish(mut child: Child) {
    let said: Vec<String> = lines(&mut child).collect();
    let status = child.wait().unwrap();
    assert!(status.success() && said.last().is_some_and(|s| s == DONE), "{status}: {said:?}");
}
