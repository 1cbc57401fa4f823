//! Lists of CPUs as the kernel prints them and as users type them: `0-3,8`.

use core::fmt;
use core::str::FromStr;

/// A set of CPU numbers, ascending.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CpuList(Vec<u32>);

/// More CPUs than any kernel can have (its NR_CPUS is at most 8192): what protects `0-4294967295` from being expanded.
const CPUS_MAX: u32 = 65_536;

impl CpuList {
    /// The CPUs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// None at all?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Is `cpu` one of them?
    #[must_use]
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.binary_search(&cpu).is_ok()
    }
}

impl FromIterator<u32> for CpuList {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        let mut cpus: Vec<u32> = cpus.into_iter().collect();
        cpus.sort_unstable();
        cpus.dedup();
        Self(cpus)
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut runs = self.0.chunk_by(|a, b| a.checked_add(1) == Some(*b)).peekable();
        if runs.peek().is_none() {
            return f.write_str("none");
        }
        while let Some(run) = runs.next() {
            match run {
                [first, .., last] => write!(f, "{first}-{last}")?,
                [only] => write!(f, "{only}")?,
                [] => {}
            }
            if runs.peek().is_some() {
                f.write_str(",")?;
            }
        }
        Ok(())
    }
}

/// A list of CPUs that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListError {
    part: String,
}

impl fmt::Display for ListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "'{}' is not a list of CPUs; remedy: write numbers and ranges up to {CPUS_MAX} as in 0-3,8",
            self.part
        )
    }
}

impl core::error::Error for ListError {}

impl FromStr for CpuList {
    type Err = ListError;

    /// An empty text is the empty list, as in `/sys/devices/system/cpu/isolated`.
    fn from_str(text: &str) -> Result<Self, ListError> {
        let text = text.trim();
        let parts = text.split(',').filter(|_| !text.is_empty());
        let mut cpus = Vec::new();
        for part in parts {
            let range =
                part_range(part.trim()).ok_or_else(|| ListError { part: part.to_owned() })?;
            cpus.extend(range);
        }
        Ok(Self::from_iter(cpus))
    }
}

fn part_range(part: &str) -> Option<core::ops::RangeInclusive<u32>> {
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last && last < CPUS_MAX).then_some(first..=last)
}

/// Digits only: `parse` alone would take a plus sign.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_it_reads() {
        for text in ["0", "0-3", "0-3,8", "0,2,4-5", "7-9,11"] {
            assert_eq!(text.parse::<CpuList>().unwrap().to_string(), text);
        }
        assert_eq!(" 3,1-2,2\n".parse::<CpuList>().unwrap().to_string(), "1-3");
        assert_eq!("\n".parse::<CpuList>().unwrap(), CpuList::default());
        assert_eq!(CpuList::default().to_string(), "none");
    }

    #[test]
    fn every_small_set_survives_the_trip() {
        for bits in 0_u32..1 << 9 {
            let list = CpuList::from_iter((0..9).filter(|b| bits >> b & 1 == 1));
            if !list.is_empty() {
                assert_eq!(list.to_string().parse::<CpuList>().unwrap(), list, "{bits:b}");
            }
        }
    }

    #[test]
    fn names_the_part_that_is_wrong() {
        for (text, part) in [
            ("0-3,x", "'x'"),
            ("3-1", "'3-1'"),
            ("1,,2", "''"),
            ("+1", "'+1'"),
            ("-1", "'-1'"),
            ("0-4294967295", "'0-4294967295'"),
            ("99999999999", "'99999999999'"),
        ] {
            let e = text.parse::<CpuList>().unwrap_err();
            assert!(e.to_string().starts_with(part), "{text}: {e}");
        }
    }

    #[test]
    fn contains_is_membership() {
        let list: CpuList = "1-2,9".parse().unwrap();
        assert!(list.contains(1) && list.contains(9) && !list.contains(3) && !list.contains(0));
        assert_eq!(list.len(), 3);
    }
}
