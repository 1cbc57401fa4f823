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

/// Writes to standard output: `false` where nobody reads it any more.
pub(crate) fn tell(text: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(format!("standard output: {e}").into()),
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

/// Whether the file of `argument` can be written, before minutes are spent on what is to be in it. One that is not there is not there
/// afterwards either.
pub(crate) fn check_file(argument: &str, path: &Path) -> Result<(), Failure> {
    let is_there = path.exists();
    let opened = File::options().append(true).create(true).open(path);
    opened.map_err(|e| format!("{argument} {}: {e}", path.display()))?;
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
