//! Values of arguments, read for all commands in the same way: whoever refuses one says what would do.

use core::fmt::Display;
use core::ops::RangeInclusive;
use core::time::Duration;

use clap::Command;

/// Largest size that is offered.
const SIZE_MAX: usize = 8 << 20;
/// The longest span of time that is offered.
const SECONDS_MAX: f64 = 3600.0;

/// The number of a CPU.
pub(crate) fn cpu(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_no_number| "give numbers of CPUs, like 2,3".to_owned())
}

/// The number of the one CPU to run on.
pub(crate) fn one_cpu(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_no_number| "give the number of one CPU, like 2".to_owned())
}

/// How many, of what there is no end to.
pub(crate) fn count(text: &str) -> Result<u64, String> {
    let count = text.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| "give a whole number above 0".to_owned())
}

/// A whole number within `range`.
pub(crate) fn whole<N>(
    range: RangeInclusive<N>,
) -> impl Fn(&str) -> Result<N, String> + Clone + Send + Sync
where
    N: core::str::FromStr + PartialOrd + Display + Clone + Send + Sync,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number
            .ok_or_else(|| format!("give a whole number from {} to {}", range.start(), range.end()))
    }
}

/// A number of bytes.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let lower = text.trim().to_ascii_lowercase();
    let (digits, unit) = match lower.strip_suffix('k') {
        Some(digits) => (digits, 1 << 10),
        None => match lower.strip_suffix('m') {
            Some(digits) => (digits, 1 << 20),
            None => (lower.as_str(), 1),
        },
    };
    let size: Option<usize> = digits.parse::<usize>().ok().and_then(|n| n.checked_mul(unit));
    match size {
        Some(size @ 1..=SIZE_MAX) => Ok(size),
        _ => Err("give a number of bytes from 1 to 8m, like 64, 4k or 1m".to_owned()),
    }
}

/// A span of seconds, of some length.
pub(crate) fn some_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= SECONDS_MAX => Ok(seconds),
        _ => Err("give seconds from above 0 to 3600, like 0.5".to_owned()),
    }
}

/// A span of seconds, which may be none.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds));
    let span = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    span.ok_or_else(|| "give seconds from 0 to 3600, like 0.5".to_owned())
}

/// The command and all below it, where a number below 0 is taken for a value, which its parser refuses, and for no option.
pub(crate) fn with_negative_numbers(command: Command) -> Command {
    let takes_them = |arg: clap::Arg| {
        let takes_values = arg.get_action().takes_values();
        arg.allow_negative_numbers(takes_values)
    };
    command.mut_args(takes_them).mut_subcommands(with_negative_numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_units_and_refused_out_of_range() {
        assert_eq!(size("64"), Ok(64));
        assert_eq!(size("4K"), Ok(4096));
        assert_eq!(size("1m"), Ok(1 << 20));
        for bad in ["", "0", "-1", "9m", "k", "1g", "18446744073709551615k"] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn spans_and_numbers_end_where_they_say() {
        assert_eq!(
            (seconds("0"), seconds("3600")),
            (Ok(Duration::ZERO), Ok(Duration::from_hours(1)))
        );
        assert_eq!((some_seconds("0.5"), some_seconds("3600")), (Ok(0.5), Ok(3600.0)));
        for bad in ["", "-1", "nan", "inf", "3600.1", "1s"] {
            assert!(seconds(bad).is_err() && some_seconds(bad).is_err(), "{bad:?}");
        }
        assert!(some_seconds("0").is_err());
        assert_eq!((count("1"), count("0").is_err(), count("-1").is_err()), (Ok(1), true, true));
        let few = whole(1..=9_u32);
        assert_eq!((few("1"), few("9")), (Ok(1), Ok(9)));
        for bad in ["", "0", "10", "-1", "1.5", "99999999999999999999"] {
            assert_eq!(few(bad), Err("give a whole number from 1 to 9".to_owned()), "{bad:?}");
        }
    }
}
