//! Who lives and who is dead, by real processes: killed, stopped, not waited for, replaced.
#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]

mod host_process;

use core::time::Duration;
use std::process::{Child, Command, Stdio};

use host_process::private::{done, in_namespace, not_run, output, run_to_the_end};
use host_process::{again, role, signal};
use spinwire_hostshim::liveness::{Death, DeathWatch, Identity, Life, boot_id, is_alive};

const LONG: Duration = Duration::from_secs(60);

/// A process that waits for its input to end. Killed on drop, so that a failed test leaves none behind.
struct Waiter(Child);

impl Waiter {
    fn start() -> (Self, Identity) {
        let child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        (Self(child), identity)
    }

    fn id(&self) -> u32 {
        self.0.id()
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
    }

    fn wait(&mut self) {
        self.0.wait().unwrap();
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _status = self.0.wait();
    }
}

/// The kernel takes its time to deliver a signal: looks until the answer is the expected one.
fn becomes(identity: &Identity, expected: &Life) {
    let began = std::time::Instant::now();
    while identity.life() != *expected {
        assert!(began.elapsed() < LONG, "{} and not {expected}", identity.life());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_stopped_process_is_alive() {
    let (mut child, identity) = Waiter::start();
    let mut watches = [DeathWatch::new(), DeathWatch::by_lookup()];
    for watch in &mut watches {
        watch.watch(1, identity).unwrap();
    }
    for _ in 0..3 {
        signal(child.id(), "STOP");
        becomes(&identity, &Life::Stopped);
        assert!(is_alive(&identity));
        for watch in &mut watches {
            assert!(
                watch.poll(Duration::from_millis(30)).unwrap().is_empty(),
                "stopped is not dead"
            );
        }
        signal(child.id(), "CONT");
        becomes(&identity, &Life::Alive);
    }
    signal(child.id(), "STOP");
    child.kill();
    for watch in &mut watches {
        assert_eq!(watch.poll(LONG).unwrap(), [1], "killed while stopped");
    }
    child.wait();
}

#[test]
fn a_killed_process_is_dead_before_and_after_it_is_waited_for() {
    let (mut child, identity) = Waiter::start();
    assert!(is_alive(&identity));
    signal(child.id(), "KILL");
    becomes(&identity, &Life::Dead(Death::Zombie));
    assert!(!is_alive(&identity));
    child.wait();
    assert!(!is_alive(&identity));
}

#[test]
fn a_number_that_was_given_away_does_not_revive_the_dead() {
    let (mut child, identity) = Waiter::start();
    let predecessor = Identity { start_time: identity.start_time - 1, ..identity };
    assert_eq!(predecessor.life(), Life::Dead(Death::Replaced));
    assert!(is_alive(&identity));
    let mut watch = DeathWatch::new();
    watch.watch(1, predecessor).unwrap();
    watch.watch(2, identity).unwrap();
    assert_eq!(watch.poll(LONG).unwrap(), [1]);
    child.kill();
    child.wait();
    assert_eq!(watch.poll(LONG).unwrap(), [2]);
}

#[test]
fn a_crowd_dies_in_any_order() {
    const CROWD: u64 = 24;
    let mut watch = DeathWatch::new();
    let mut children: Vec<Waiter> = Vec::new();
    for key in 0..CROWD {
        let (child, identity) = Waiter::start();
        watch.watch(key, identity).unwrap();
        children.push(child);
    }
    let order: Vec<u64> = (0..CROWD).map(|n| n * 7 % CROWD).collect();
    for key in order {
        let child = children.get_mut(usize::try_from(key).unwrap()).unwrap();
        child.kill();
        assert_eq!(watch.poll(LONG).unwrap(), [key]);
        child.wait();
    }
    assert!(watch.is_empty());
}

/// A process that ends by itself is seen no later than its pipe closes, and its exit code stays for its parent.
#[test]
fn watching_takes_nothing_from_the_parent() {
    let mut child =
        Command::new("sh").args(["-c", "read _; exit 7"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut watch = DeathWatch::new();
    watch.watch(1, Identity::of(child.id()).unwrap()).unwrap();
    assert!(watch.poll(Duration::ZERO).unwrap().is_empty());
    drop(child.stdin.take());
    assert_eq!(watch.poll(LONG).unwrap(), [1]);
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

#[test]
fn a_proc_that_shows_other_processes_is_not_believed() {
    let test = "a_proc_that_shows_other_processes_is_not_believed";
    if role().is_some() {
        // The first of its namespace, and the machine's first in that `/proc`: somebody else, who runs.
        assert_eq!(std::process::id(), 1);
        let told = Identity::mine().unwrap_err().to_string();
        assert!(told.contains("remedy: mount -t proc proc /proc"), "{told}");
        let of_peer = Identity::of(2).unwrap_err().errno().number();
        assert_ne!(of_peer, libc::ESRCH, "that would say that it has ended");
        let boot_id = boot_id().unwrap();
        let life = Identity { pid: 1, start_time: u64::MAX, boot_id }.life();
        assert!(matches!(life, Life::Unknown(_)), "the time is that of another process: {life}");
        return done();
    }
    let script = "exec unshare --pid --fork --kill-child \"$0\" \"$@\"";
    let tried = output("unshare", &["--pid", "--fork", "true"]);
    match tried.and_then(|_silent| in_namespace(&again(test, "first"), script)) {
        Ok(command) => run_to_the_end(command),
        Err(why) => not_run(test, &why),
    }
}
