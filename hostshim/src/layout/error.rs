//! Why a source cannot be read, and what to do about it.

use core::fmt;

/// A source that says nothing, because it cannot be read or is damaged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreadable {
    /// Which source.
    pub source: String,
    /// What is wrong with it.
    pub why: String,
    /// What to do.
    pub remedy: String,
}

impl Unreadable {
    /// `source` cannot be read.
    pub fn new(
        source: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { source: source.into(), why: why.into(), remedy: remedy.into() }
    }

    /// `source` cannot be read, as `text` says, which may name its remedy by itself.
    pub(super) fn told(source: &str, text: &str, remedy: &str) -> Self {
        let (why, remedy) = text.split_once("; remedy: ").unwrap_or((text, remedy));
        Self::new(source, why, remedy)
    }

    /// A file that the system does not let us read.
    pub(super) fn file(path: &str, error: &std::io::Error) -> Self {
        let remedy = match error.kind() {
            std::io::ErrorKind::NotFound => "look for a slip in the path",
            std::io::ErrorKind::IsADirectory => "name a file, no folder",
            std::io::ErrorKind::PermissionDenied => "run as a user who may read it",
            _ => "see the reason",
        };
        Self::new(path, error.to_string(), remedy)
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; remedy: {}", self.source, self.why, self.remedy)
    }
}

impl core::error::Error for Unreadable {}
