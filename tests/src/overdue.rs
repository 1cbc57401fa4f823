//! Cases that stand still say so: which, on what, and what they waited for. Then the process ends, so that the whole suite is not waited for in vain.
//!
//! A case that turns what it waits for notices by itself when that does not come. One that stands in a call of a library does not. A thread beside all of
//! them counts seconds, of its own: where the whole process was stopped, they do not pass.

use core::cell::RefCell;
use core::fmt::Write as _;
use core::time::Duration;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex, Once, PoisonError};

/// So many seconds a case may take, on one provider. The longest takes a few on a quiet machine.
const SECONDS_MAX: u32 = 300;
/// Bytes of what it waits for that are kept.
const TEXT_BYTES_MAX: usize = 128;

/// A case that runs.
#[derive(Debug)]
struct Case {
    name: String,
    doing: Arc<Mutex<String>>,
    left: u32,
}

/// The cases that run, by the number of each.
#[derive(Debug)]
struct Cases {
    next: u64,
    all: BTreeMap<u64, Case>,
}

static CASES: Mutex<Cases> = Mutex::new(Cases { next: 0, all: BTreeMap::new() });

thread_local! {
    /// What the case of this thread does.
    static DOING: RefCell<Option<Arc<Mutex<String>>>> = const { RefCell::new(None) };
}

impl Cases {
    fn begin(&mut self, name: &str, seconds: u32) -> (u64, Arc<Mutex<String>>) {
        let mut text = String::with_capacity(TEXT_BYTES_MAX);
        text.push_str("it began");
        let doing = Arc::new(Mutex::new(text));
        let number = self.next;
        self.next += 1;
        let case = Case { name: name.to_owned(), doing: Arc::clone(&doing), left: seconds };
        self.all.insert(number, case);
        (number, doing)
    }

    /// A second has passed. What is to be told of those that stand still.
    fn tick(&mut self) -> Option<String> {
        let mut story = String::new();
        for case in self.all.values_mut() {
            case.left = case.left.saturating_sub(1);
            if case.left == 0 {
                let doing = case.doing.lock().unwrap_or_else(PoisonError::into_inner);
                let _written = writeln!(story, "!! {} stands still; last: {doing}", case.name);
            }
        }
        (!story.is_empty()).then_some(story)
    }
}

/// A case runs until this is dropped.
#[derive(Debug)]
pub struct Watched(u64);

impl Drop for Watched {
    fn drop(&mut self) {
        let ended = CASES.lock().unwrap_or_else(PoisonError::into_inner).all.remove(&self.0);
        debug_assert!(ended.is_some(), "it ran");
        DOING.with_borrow_mut(Option::take);
    }
}

/// The case of this thread begins, on what its name says besides that of the test.
#[must_use]
pub fn watch(on: &str) -> Watched {
    watch_for(on, SECONDS_MAX)
}

fn watch_for(on: &str, seconds: u32) -> Watched {
    static COUNTS: Once = Once::new();
    COUNTS.call_once(|| drop(std::thread::spawn(count)));
    let thread = std::thread::current();
    let name = format!("{} on {on}", thread.name().unwrap_or("a case"));
    let mut cases = CASES.lock().unwrap_or_else(PoisonError::into_inner);
    let (number, doing) = cases.begin(&name, seconds);
    DOING.with_borrow_mut(|mine| *mine = Some(doing));
    Watched(number)
}

/// The case of this thread waits for that, where one is watched.
pub fn waits_for(what: &str) {
    DOING.with_borrow(|mine| {
        if let Some(doing) = mine {
            let mut doing = doing.lock().unwrap_or_else(PoisonError::into_inner);
            doing.clear();
            // No more than there is room for: some cases watch the allocator.
            doing.extend(what.chars().take(TEXT_BYTES_MAX / 4));
        }
    });
}

/// Counts seconds for as long as the process lives.
fn count() {
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let story = CASES.lock().unwrap_or_else(PoisonError::into_inner).tick();
        if let Some(story) = story {
            let told = format!("{story}{}", threads());
            // Past the test harness, which keeps what tests print.
            let _told = std::io::stderr().write_all(told.as_bytes());
            std::process::abort();
        }
    }
}

/// What each thread of this process does, as the kernel says.
fn threads() -> String {
    let mut text = String::new();
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    for task in tasks {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let [name, place, call] = ["comm", "wchan", "syscall"].map(|it| read(it).trim().to_owned());
        let _written = writeln!(text, "   thread {name}: in {place}, system call {call}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stands_still_is_told_with_what_he_waited_for() {
        let mut cases = Cases { next: 0, all: BTreeMap::new() };
        let (first, doing) = cases.begin("a_case on tcp", 2);
        let (_second, _) = cases.begin("another on shm", 9);
        *doing.lock().unwrap() = "it is taken".to_owned();
        assert_eq!(cases.tick(), None);
        let story = cases.tick().unwrap();
        assert_eq!(story, "!! a_case on tcp stands still; last: it is taken\n");
        cases.all.remove(&first);
        assert_eq!((cases.tick(), cases.all.len()), (None, 1), "who is over is not told of");
        assert!(threads().contains("thread "), "{}", threads());
    }

    #[test]
    fn a_case_is_watched_until_it_is_over() {
        waits_for("nobody watches");
        let watched = watch("nothing");
        waits_for("the end");
        let seen = || DOING.with_borrow(|mine| mine.as_ref().map(|it| it.lock().unwrap().clone()));
        assert_eq!(seen().as_deref(), Some("the end"));
        waits_for(&"x".repeat(1000));
        assert_eq!(seen().map(|text| text.len()), Some(TEXT_BYTES_MAX / 4));
        drop(watched);
        assert!(seen().is_none());
    }

    /// The process in which [`who_stands_still_ends_the_process`] sees that.
    #[test]
    fn stands_still() {
        if std::env::var_os(ROLE).is_some() {
            let _watched = watch_for("a provider", 1);
            waits_for("the other end answers");
            std::thread::sleep(Duration::from_secs(60));
        }
    }

    const ROLE: &str = "SPINWIRE_TEST_STANDS_STILL";

    #[test]
    fn who_stands_still_ends_the_process() {
        let this = std::env::current_exe().unwrap();
        let case = "overdue::tests::stands_still";
        let child =
            std::process::Command::new(this).args(["--exact", case]).env(ROLE, "1").output();
        let child = child.unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&child.status),
            Some(6),
            "{child:?}"
        );
        let told = String::from_utf8(child.stderr).unwrap();
        let story = format!("!! {case} on a provider stands still; last: the other end answers\n");
        assert!(told.contains(&story), "{told}");
        assert!(told.contains("   thread overdue::tests"), "{told}");
    }
}
