//! What the operating system answered, kept whole: the operation, the path, the error number.
//!
//! Each room of this crate has its own error type for what can go wrong there; all of them carry an [`OsError`] where the
//! kernel said no. Formatting happens here and in the tools, never in the data plane.

use core::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// An error number of the kernel, as in errno(3).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

impl Errno {
    /// Wraps a number, for instance `libc::ENOSPC`.
    #[must_use]
    pub const fn new(number: i32) -> Self {
        Self(number)
    }

    /// The number that the calling thread's last failed libc call left behind.
    #[must_use]
    pub fn last() -> Self {
        Self::from_io(&io::Error::last_os_error())
    }

    /// The number inside `error`; EIO where the standard library made the error up itself.
    #[must_use]
    pub fn from_io(error: &io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// The bare number.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }

    /// What a user can do about the errors that have one usual cause.
    #[must_use]
    pub const fn remedy(self) -> Option<&'static str> {
        match self.0 {
            libc::EACCES | libc::EPERM => {
                Some("run as a user who may, or point SPINWIRE_SHM_DIR to a folder of this user")
            }
            libc::ENOSPC => Some("free space or inodes there: df -h, df -i"),
            libc::EMFILE => Some("raise the limit of open files: ulimit -n 65536"),
            libc::ENFILE => Some("raise the system's limit of open files: sysctl fs.file-max"),
            libc::ENOMEM => Some("free memory, or ask for less"),
            libc::EFBIG => {
                Some("raise the limit of file sizes: ulimit -f unlimited; or ask for less")
            }
            libc::EROFS => Some("point SPINWIRE_SHM_DIR to a writable tmpfs"),
            _ => None,
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The standard library knows the texts of strerror(3).
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}: {self})", self.0)
    }
}

/// The kernel refused an operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OsError {
    operation: &'static str,
    path: Option<PathBuf>,
    errno: Errno,
    /// What helps here; else what usually helps against that number.
    remedy: Option<&'static str>,
}

impl OsError {
    /// `operation` is the name of the system call or of the step, as a user would search for it.
    #[must_use]
    pub const fn new(operation: &'static str, errno: Errno) -> Self {
        Self { operation, path: None, errno, remedy: None }
    }

    /// The same, for an operation on a file.
    #[must_use]
    pub fn at(operation: &'static str, path: &Path, errno: Errno) -> Self {
        Self { operation, path: Some(path.to_path_buf()), errno, remedy: None }
    }

    pub(crate) fn io(operation: &'static str, path: &Path, error: &io::Error) -> Self {
        Self::at(operation, path, Errno::from_io(error))
    }

    /// The same, where more is known about what helps than the number tells.
    #[must_use]
    pub const fn with_remedy(mut self, remedy: &'static str) -> Self {
        self.remedy = Some(remedy);
        self
    }

    /// What a user can do about it, where that is known.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        self.remedy.or_else(|| self.errno.remedy())
    }

    /// The step that was refused.
    #[must_use]
    pub const fn operation(&self) -> &'static str {
        self.operation
    }

    /// The file it was about, if any.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The kernel's answer.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        self.errno
    }
}

/// What is the matter, without the remedy.
struct Matter<'e>(&'e OsError);

impl fmt::Display for Matter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.operation)?;
        if let Some(path) = &self.0.path {
            write!(f, " {}", path.display())?;
        }
        write!(f, ": {}", self.0.errno)
    }
}

impl From<OsError> for crate::discover::Absence {
    fn from(why: OsError) -> Self {
        Self { why: Matter(&why).to_string(), remedy: why.remedy().map(str::to_owned) }
    }
}

impl fmt::Display for OsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Matter(self).fmt(f)?;
        self.remedy().map_or(Ok(()), |remedy| write!(f, "; remedy: {remedy}"))
    }
}

impl core::error::Error for OsError {}

/// What `main` may end with. The standard library prints the `Debug` form of an error that comes out of `main`; that of this one is the text of the
/// error, in which errors of this crate name the remedy.
///
/// ```
/// use spinwire_hostshim::error::InWords;
///
/// fn main() -> Result<(), InWords> {
///     let port: u16 = "7000".parse()?; // any error will do
///     if port == 0 {
///         Err("port 0 is nobody's")?; // and any text
///     }
///     Ok(())
/// }
/// ```
pub struct InWords(String);

impl<E: fmt::Display> From<E> for InWords {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl fmt::Debug for InWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_operation_path_reason_and_remedy() {
        let e = OsError::at("open", Path::new("/x/y"), Errno::new(libc::EMFILE));
        let text = e.to_string();
        assert!(text.starts_with("open /x/y: "), "{text}");
        assert!(text.contains("remedy: raise the limit"), "{text}");
        assert_eq!(e.errno().number(), libc::EMFILE);
        let text = e.with_remedy("close some").to_string();
        assert!(text.ends_with("; remedy: close some") && !text.contains("raise"), "{text}");
    }

    #[test]
    fn what_comes_out_of_main_is_in_words() {
        let refused = OsError::at("open", Path::new("/x/y"), Errno::new(libc::EMFILE));
        let boxed: Box<dyn core::error::Error> = refused.clone().into();
        for told in [InWords::from(refused.to_string()), boxed.into(), refused.clone().into()] {
            assert_eq!(format!("{told:?}"), refused.to_string());
        }
    }

    #[test]
    fn an_error_without_number_is_not_taken_for_success() {
        let made_up = io::Error::other("made up");
        assert_eq!(Errno::from_io(&made_up), Errno::new(libc::EIO));
    }
}
