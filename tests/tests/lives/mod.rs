//! Lives that end before a store: what the tests by `--cfg spinwire_steps` have in common.
//!
//! ```text
//!   test  --starts-->  survivor  --starts-->  mortal, to be killed before store 0, then one for store 1, ..
//! ```
//!
//! All three are this test program again; the survivor gets its folder by the environment, as every program does.

use core::time::Duration;
use std::os::unix::process::ExitStatusExt;
use std::time::Instant;

use crate::host_process::{Folder, again, lines};

/// Lives come to their end long before that.
pub(crate) const LIVES_MAX: u64 = 20_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// The life of a mortal of `test` that is told `words`: it is killed, or comes to its end and tells something last, which is
/// returned. `meanwhile` is called over and over.
pub(crate) fn a_life(test: &str, words: &str, mut meanwhile: impl FnMut()) -> Option<String> {
    let mut child = again(test, words).spawn().unwrap();
    let began = Instant::now();
    let status = loop {
        meanwhile();
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("{words}: the mortal hangs");
        }
    };
    let said = lines(&mut child).last();
    let killed = status.signal() == Some(libc::SIGKILL);
    assert!(killed || (status.success() && said.is_some()), "{words}: {status}");
    said
}

/// Runs the survivor of `test`, which has seen a life come to its end.
pub(crate) fn survivor_of(test: &str) {
    let folder = Folder::new();
    let mut survivor =
        again(test, "survivor").env("SPINWIRE_SHM_DIR", folder.path()).spawn().unwrap();
    let said: Vec<String> = lines(&mut survivor).collect();
    let status = survivor.wait().unwrap();
    let ended = said.last().is_some_and(|last| last.starts_with("after "));
    assert!(status.success() && ended, "{status}: {said:?}");
}
