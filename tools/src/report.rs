//! What a command ends with.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done, and all is well |
//! | 1 | done, and something is not well: see what was printed |
//! | 2 | not done: the arguments, or something that the message names, with its remedy |

use core::error::Error;
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
            eprintln!("spinwire: {failure}");
            let mut cause = failure.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
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

/// Prints reports for machines: one as an object, several as a list.
pub(crate) fn print_json<T: serde::Serialize>(reports: &[T]) -> Result<(), Failure> {
    match reports {
        [one] => println!("{}", serde_json::to_string_pretty(one)?),
        several => println!("{}", serde_json::to_string_pretty(several)?),
    }
    Ok(())
}
