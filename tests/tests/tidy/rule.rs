//! The names of the rules, and a finding.

use core::fmt;

pub(crate) const STATIC_MUT: &str = "static-mut";
pub(crate) const NO_STD: &str = "no-std";
pub(crate) const ALLOC: &str = "alloc";
pub(crate) const HOT: &str = "hot-path";
pub(crate) const ATOMICS_DOOR: &str = "atomics-door";
pub(crate) const BARRIER: &str = "barrier";
pub(crate) const UNSAFE_FENCE: &str = "unsafe-fence";
pub(crate) const STRING_ERROR: &str = "string-error";
pub(crate) const LINT_GROUP: &str = "lint-group";
pub(crate) const IGNORED_TEST: &str = "ignored-test";
pub(crate) const LONE_SYNC: &str = "lone-sync";
pub(crate) const FILE_LENGTH: &str = "file-length";
pub(crate) const FN_LENGTH: &str = "fn-length";
pub(crate) const VAGUE_NAME: &str = "vague-name";
pub(crate) const TOP_LEVEL: &str = "top-level";
pub(crate) const ORPHAN: &str = "orphan";
pub(crate) const UNFINISHED: &str = "unfinished";
pub(crate) const TALK: &str = "talk";
pub(crate) const MACHINE_PATH: &str = "machine-path";
pub(crate) const DEAD_LINK: &str = "dead-link";
pub(crate) const ROOM_COMMENT: &str = "room-comment";
pub(crate) const DEPENDENCY: &str = "dependency";
pub(crate) const DIRECTION: &str = "direction";
pub(crate) const MANIFEST_LINTS: &str = "manifest-lints";
/// Reported apart, by the golden file; not one of [`ALL`].
pub(crate) const UNSAFE_COUNT: &str = "unsafe-count";

/// Every rule that needs a planted sin.
pub(crate) const ALL: &[&str] = &[
    STATIC_MUT,
    NO_STD,
    ALLOC,
    HOT,
    ATOMICS_DOOR,
    BARRIER,
    UNSAFE_FENCE,
    STRING_ERROR,
    LINT_GROUP,
    IGNORED_TEST,
    LONE_SYNC,
    FILE_LENGTH,
    FN_LENGTH,
    VAGUE_NAME,
    TOP_LEVEL,
    ORPHAN,
    UNFINISHED,
    TALK,
    MACHINE_PATH,
    DEAD_LINK,
    ROOM_COMMENT,
    DEPENDENCY,
    DIRECTION,
    MANIFEST_LINTS,
];

/// One broken rule at one place. `line` counts from 1; 0 means the whole file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) rule: &'static str,
    pub(crate) why: String,
}

impl Finding {
    pub(crate) fn new(path: &str, line: usize, rule: &'static str, why: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, rule, why: why.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: [{}] {}", self.path, self.line, self.rule, self.why)
    }
}
