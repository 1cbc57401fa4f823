//! Why there is no ring.

use core::fmt;

use spinwire_dataplane::stream::PlaceError;
use spinwire_dataplane::uring::BadRing;

use crate::error::{Errno, OsError};
use crate::mem::MapError;

/// A ring could not be opened, or something not be registered with it. The text names the remedy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UringError {
    /// The kernel has no io_uring: ENOSYS.
    NotInKernel,
    /// It is switched off for this process.
    Disabled {
        /// `kernel.io_uring_disabled`: 1 is open to a group, 2 to nobody.
        setting: u8,
    },
    /// Something else forbids the system call: a seccomp filter, as containers have, or a security module.
    Forbidden {
        /// What was answered.
        errno: Errno,
    },
    /// The memory of a ring counts as locked, and so does what is registered; the limit is too low for it.
    MemlockTooLow {
        /// Bytes that may be locked, by all processes of the user together.
        limit: u64,
        /// Bytes that this would lock, about.
        needed: u64,
    },
    /// There is too little memory.
    OutOfMemory {
        /// Bytes that were asked for, about.
        needed: u64,
    },
    /// A size is zero or too great.
    Size {
        /// The field of the configuration.
        field: &'static str,
        /// As many were asked for.
        asked: u32,
        /// From so many on.
        least: u32,
        /// Up to so many.
        most: u32,
    },
    /// The kernel lacks what every one since 5.11 has.
    TooOld {
        /// The missing flag of `io_uring_params.features`.
        missing: &'static str,
    },
    /// The table of files is to have more slots than there may be open files.
    TooManyFiles {
        /// Slots that were asked for.
        asked: u32,
        /// Files that may be open.
        limit: u64,
    },
    /// The ring is without what this call is for; the features say why.
    Without(super::Feature),
    /// The ring was handed out before.
    Taken,
    /// There is no memory for its arena.
    Arena(MapError),
    /// What was to be placed on the ring does not fit into its arena.
    Place(PlaceError),
    /// The kernel says of the ring what cannot be.
    Bad(BadRing),
    /// The kernel said no.
    Os(OsError),
}

impl From<UringError> for crate::discover::Absence {
    fn from(why: UringError) -> Self {
        Self { why: why.matter(), remedy: why.remedy() }
    }
}

impl UringError {
    /// May the same succeed in a moment, when the kernel has taken apart rings that are closed already?
    pub(super) const fn may_pass(&self) -> bool {
        matches!(self, Self::MemlockTooLow { limit, needed } if *limit >= *needed)
    }

    /// What is the matter, without the remedy.
    #[must_use]
    pub fn matter(&self) -> String {
        Matter(self).to_string()
    }

    /// What mends it, as a command where there is one.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::NotInKernel => {
                "uname -r # needs Linux 5.11 or later with CONFIG_IO_URING".to_owned()
            }
            Self::Disabled { setting: 1 } => {
                "sudo sysctl -w kernel.io_uring_disabled=0 # or join the group of sysctl kernel.io_uring_group".to_owned()
            }
            Self::Disabled { .. } => "sudo sysctl -w kernel.io_uring_disabled=0".to_owned(),
            Self::Forbidden { .. } => {
                "docker run --security-opt seccomp=unconfined ... # or a profile that allows io_uring_setup, io_uring_enter and io_uring_register".to_owned()
            }
            Self::MemlockTooLow { needed, .. } => {
                let kib = needed.div_ceil(1024).saturating_mul(2).max(8192);
                format!(
                    "ulimit -l {kib} # or: echo \"$USER - memlock {kib}\" | sudo tee /etc/security/limits.d/spinwire.conf; for a service: LimitMEMLOCK={kib}K"
                )
            }
            Self::OutOfMemory { .. } => "free memory, or ask for fewer entries".to_owned(),
            Self::Size { field, least, most, .. } => format!("set {field} to {least} up to {most}"),
            Self::TooOld { .. } => "uname -r # needs Linux 5.11 or later".to_owned(),
            Self::TooManyFiles { asked, .. } => {
                crate::limits::open_files_remedy(u64::from(*asked))
            }
            Self::Without(feature) => format!("without it: {}", feature.fallback()),
            // Their texts have what there is.
            Self::Bad(_) | Self::Os(_) | Self::Arena(_) | Self::Place(_) => return None,
            Self::Taken => "open another ring".to_owned(),
        })
    }
}

/// What is the matter, without the remedy.
struct Matter<'e>(&'e UringError);

impl fmt::Display for Matter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            UringError::NotInKernel => f.write_str("io_uring is not in this kernel"),
            UringError::Disabled { setting } => {
                write!(f, "io_uring is switched off (kernel.io_uring_disabled is {setting})")
            }
            UringError::Forbidden { errno } => write!(
                f,
                "io_uring is forbidden ({errno}), most likely by a container's seccomp filter"
            ),
            UringError::MemlockTooLow { limit, needed } => write!(
                f,
                "io_uring: too little lockable memory: {} KiB may be locked by all processes of this user together, and {} KiB are needed",
                limit / 1024,
                needed.div_ceil(1024)
            ),
            UringError::OutOfMemory { needed } => {
                write!(f, "io_uring: no memory for {} KiB", needed.div_ceil(1024))
            }
            UringError::Size { field, asked, least, most } => {
                write!(f, "io_uring: {field} = {asked}, and there can be {least} up to {most}")
            }
            UringError::TooOld { missing } => {
                write!(f, "io_uring of this kernel is too old: it lacks {missing}")
            }
            UringError::TooManyFiles { asked, limit } => {
                write!(f, "io_uring: a table of {asked} files, where {limit} may be open")
            }
            UringError::Without(feature) => write!(f, "this ring is without {feature}"),
            UringError::Taken => f.write_str("this ring was handed out before"),
            UringError::Arena(e) => e.fmt(f),
            UringError::Place(e) => e.fmt(f),
            UringError::Bad(e) => e.fmt(f),
            UringError::Os(e) => e.fmt(f),
        }
    }
}

impl fmt::Display for UringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Matter(self).fmt(f)?;
        self.remedy().map_or(Ok(()), |remedy| write!(f, "; remedy: {remedy}"))
    }
}

impl core::error::Error for UringError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Bad(e) => Some(e),
            Self::Arena(e) => Some(e),
            Self::Place(e) => Some(e),
            Self::Os(e) => Some(e),
            Self::NotInKernel
            | Self::Disabled { .. }
            | Self::Forbidden { .. }
            | Self::MemlockTooLow { .. }
            | Self::OutOfMemory { .. }
            | Self::Size { .. }
            | Self::TooOld { .. }
            | Self::TooManyFiles { .. }
            | Self::Without(_)
            | Self::Taken => None,
        }
    }
}

/// `kernel.io_uring_disabled`; 0 where the kernel has no such setting (Linux Documentation/admin-guide/sysctl/kernel.rst).
fn switched_off() -> u8 {
    let text = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// What `errno` means as an answer to `operation`, which would lock about `needed` bytes.
pub(super) fn explain(operation: &'static str, errno: Errno, needed: u64) -> UringError {
    match errno.number() {
        libc::ENOSYS => UringError::NotInKernel,
        libc::EPERM | libc::EACCES => match switched_off() {
            0 => UringError::Forbidden { errno },
            setting => UringError::Disabled { setting },
        },
        libc::ENOMEM => match crate::limits::locked_bytes() {
            // Others of the user may have locked some already, so a limit that would do for this alone may be too low.
            Ok(limit) if limit.soft < needed.saturating_mul(16).max(1 << 20) => {
                UringError::MemlockTooLow { limit: limit.soft, needed }
            }
            _ => UringError::OutOfMemory { needed },
        },
        _ => UringError::Os(OsError::new(operation, errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_names_its_remedy() {
        let bad = BadRing { field: "flags", value: 1 };
        let errors = [
            (UringError::NotInKernel, "uname -r"),
            (UringError::Disabled { setting: 2 }, "sysctl -w kernel.io_uring_disabled=0"),
            (UringError::Disabled { setting: 1 }, "io_uring_group"),
            (UringError::Forbidden { errno: Errno::new(libc::EPERM) }, "seccomp=unconfined"),
            (UringError::MemlockTooLow { limit: 0, needed: 100 << 10 }, "ulimit -l 8192"),
            (UringError::MemlockTooLow { limit: 0, needed: 32 << 20 }, "LimitMEMLOCK=65536K"),
            (UringError::OutOfMemory { needed: 1 }, "free memory"),
            (
                UringError::Size { field: "entries", asked: 0, least: 1, most: 9 },
                "set entries to 1 up to 9",
            ),
            (UringError::TooOld { missing: "EXT_ARG" }, "uname -r"),
            (UringError::TooManyFiles { asked: 7, limit: 6 }, "LimitNOFILE=7"),
            (UringError::Without(super::super::Feature::Napi), "network queues interrupt"),
            (UringError::Bad(bad), "report the kernel's version"),
            (UringError::Os(OsError::new("x", Errno::new(libc::EMFILE))), "ulimit -n"),
        ];
        for (error, remedy) in errors {
            assert!(error.to_string().contains(remedy), "{error}");
        }
    }

    #[test]
    fn an_answer_is_told_from_another() {
        let of = |number| explain("io_uring_setup", Errno::new(number), 4096);
        assert_eq!(of(libc::ENOSYS), UringError::NotInKernel);
        assert!(matches!(
            of(libc::EPERM),
            UringError::Forbidden { .. } | UringError::Disabled { .. }
        ));
        assert!(matches!(
            of(libc::ENOMEM),
            UringError::OutOfMemory { .. } | UringError::MemlockTooLow { .. }
        ));
        assert!(matches!(of(libc::EMFILE), UringError::Os(_)));
    }
}
