//! What a segment may be called.

use core::fmt;

/// A name that was checked: 1 to 63 of `A-Z a-z 0-9 . _ -`, and no dot in front. It can therefore stand in a path, in a
/// header field of 64 bytes and on a command line.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SegmentName(String);

impl SegmentName {
    /// Longest name in bytes.
    pub const BYTES_MAX: usize = 63;

    /// Checks `name`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if let Some((at, found)) = name.chars().enumerate().find(|(_at, c)| !is_allowed(*c)) {
            return Err(NameError::Character { found, at });
        }
        if name.starts_with('.') {
            return Err(NameError::LeadingDot);
        }
        if name.len() > Self::BYTES_MAX {
            return Err(NameError::TooLong { bytes: name.len() });
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const fn is_allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// Why a name is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameError {
    /// There is none.
    Empty,
    /// More than [`SegmentName::BYTES_MAX`] bytes.
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It would be a hidden file.
    LeadingDot,
    /// A character that is not allowed.
    Character {
        /// That one.
        found: char,
        /// Its place, counted from zero.
        at: usize,
    },
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the segment name is empty")?,
            Self::TooLong { bytes } => write!(f, "the segment name has {bytes} bytes")?,
            Self::LeadingDot => f.write_str("the segment name begins with a dot")?,
            Self::Character { found, at } => {
                write!(f, "the segment name has {found:?} at character {}", at.saturating_add(1))?;
            }
        }
        f.write_str("; remedy: use 1 to 63 of A-Z a-z 0-9 . _ - and no dot in front")
    }
}

impl core::error::Error for NameError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names() {
        for name in ["a", "quotes.v2", "A-b_c.9", "-x", "a..b", &"x".repeat(63)] {
            assert_eq!(SegmentName::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn bad_names_and_what_is_wrong_with_them() {
        assert_eq!(SegmentName::new(""), Err(NameError::Empty));
        assert_eq!(SegmentName::new(&"x".repeat(64)), Err(NameError::TooLong { bytes: 64 }));
        for name in [".", "..", ".a"] {
            assert_eq!(SegmentName::new(name), Err(NameError::LeadingDot), "{name}");
        }
        for (name, found, at) in
            [("a/b", '/', 1), ("../x", '/', 2), ("a b", ' ', 1), ("é", 'é', 0), ("a\0", '\0', 1)]
        {
            assert_eq!(SegmentName::new(name), Err(NameError::Character { found, at }), "{name}");
        }
        let text = SegmentName::new("a/b").unwrap_err().to_string();
        assert!(text.contains("'/' at character 2"), "{text}");
    }

    #[test]
    fn exactly_the_allowed_characters() {
        let allowed: String = (0_u8..=255)
            .map(char::from)
            .filter(|c| SegmentName::new(&format!("x{c}")).is_ok())
            .collect();
        assert_eq!(allowed, "-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz");
    }
}
