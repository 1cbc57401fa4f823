//! What a command ends with.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done, and all is well |
//! | 1 | done, and something is not well: see what was printed |
//! | 2 | not done: the arguments, or something that the message names, with its remedy |

use core::error::Error;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

/// What a command found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// All is well.
    Well,
    /// It did its work, and what it found is not well.
    NotWell,
}

/// Why a command could not do its work.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// Turns the outcome of a command into its exit code, and says what went wrong.
pub(crate) fn finish(outcome: Result<Verdict, Failure>) -> ExitCode {
    match outcome {
        Ok(Verdict::Well) => ExitCode::SUCCESS,
        Ok(Verdict::NotWell) => ExitCode::from(1),
        Err(failure) => {
            let mut said = failure.to_string();
            complain(&format!("spinwire: {said}\n"));
            let mut cause = failure.source();
            while let Some(error) = cause {
                let text = error.to_string();
                // Some errors say what their source says.
                if !said.contains(&text) {
                    complain(&format!("  because: {text}\n"));
                    said.push_str(&text);
                }
                cause = error.source();
            }
            ExitCode::from(2)
        }
    }
}

/// The middle one of `values`; 0 where there are none.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Why standard output could not be written to.
pub(crate) fn not_told(error: &io::Error) -> Failure {
    format!("standard output: {}", in_words(error)).into()
}

/// Writes to standard output: `false` where nobody reads it any more.
pub(crate) fn tell(text: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(not_told(&e)),
    }
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no failure.
pub(crate) fn emit(text: &str) -> Result<(), Failure> {
    tell(text).map(|_is_read| ())
}

/// Writes to standard error. Where that cannot be written to, nobody is there to be told, and the exit code says it all the same.
pub(crate) fn complain(text: &str) {
    let mut err = io::stderr().lock();
    let _nobody_is_there = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

/// What the system says of a file, and what helps where that is known.
fn in_words(error: &io::Error) -> String {
    let remedy = match error.raw_os_error() {
        Some(libc::EFBIG) => "raise the limit of file sizes: ulimit -f unlimited",
        Some(libc::ENOSPC | libc::EDQUOT) => "free space there: df -h",
        Some(libc::ENOENT) => "make its folder first",
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
            "name a file in a folder that this user may write in"
        }
        _ => return error.to_string(),
    };
    format!("{error}; remedy: {remedy}")
}

/// From now on a write beyond the limit of file sizes (`ulimit -f`) fails like any other that cannot be done. By default the kernel ends the process
/// by a signal, SIGXFSZ, and nothing is said. Processes that are started from here begin with the default again, and do this for themselves.
pub(crate) fn outlive_file_limits() -> Result<(), Failure> {
    // The flag is looked at by nobody: the write says it.
    signal_hook::flag::register(libc::SIGXFSZ, Arc::default())
        .map_err(|e| format!("sigaction(SIGXFSZ): {e}"))?;
    Ok(())
}

/// Writes the file of `argument`. What could not be written whole is not left there: half a plot looks like one.
pub(crate) fn write_file(argument: &str, path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |e: io::Error| format!("{argument} {}: {}", path.display(), in_words(&e));
    let mut file = File::create(path).map_err(failed)?;
    let written = file.write_all(text.as_bytes());
    if written.is_err() && path.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
        // That it was not written is told all the same.
        let _stays_there = fs::remove_file(path);
    }
    Ok(written.map_err(failed)?)
}

/// Whether the file of `argument` can be written, before minutes are spent on what is to be in it. One that is not there is not there
/// afterwards either.
pub(crate) fn check_file(argument: &str, path: &Path) -> Result<(), Failure> {
    let is_there = path.exists();
    let opened = File::options().append(true).create(true).open(path);
    opened.map_err(|e| format!("{argument} {}: {}", path.display(), in_words(&e)))?;
    if !is_there {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// Writes reports for machines: one as an object, several as a list.
pub(crate) fn print_json<T: serde::Serialize>(reports: &[T]) -> Result<(), Failure> {
    let text = match reports {
        [one] => serde_json::to_string_pretty(one)?,
        several => serde_json::to_string_pretty(several)?,
    };
    emit(&format!("{text}\n"))
}
