//! Which CPUs this process may use, which of them suit pinned pollers, and pinning to one.
//!
//! | file | what it knows |
//! |---|---|
//! | `list` | lists of CPUs as the kernel prints them, `0-3,8` |
//! | `spread` | cores, siblings, caches and memory nodes, and the choice among them |
//!
//! Everything is restricted to the CPUs that the calling thread may run on: a container's cpuset or a `taskset` around
//! the command is obeyed, and a wish outside of it is an error that names both.

mod list;
mod spread;

use core::fmt;

pub use list::{CpuList, ListError};
pub use spread::{Sharing, Spread, Topology};

use crate::error::{Errno, OsError};
use crate::raw::syscall;

/// core_affinity keeps its mask in a cpu_set_t of so many bits, and panics beyond the end of it.
const CPU_SET_BITS: u32 = 1024;

/// A thread could not be pinned, or no CPU be chosen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AffinityError {
    /// That CPU is not among those that the thread may use.
    NotAllowed {
        /// The CPU that was asked for.
        cpu: u32,
        /// Those that may be had.
        allowed: CpuList,
    },
    /// That CPU may be used, but its number is beyond what can be pinned to.
    TooHigh {
        /// The CPU that was asked for.
        cpu: u32,
    },
    /// No CPU was asked for.
    None,
    /// The kernel said no.
    Os(OsError),
}

impl fmt::Display for AffinityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllowed { cpu, allowed } => write!(
                f,
                "CPU {cpu} is outside of the CPUs that this process may use ({allowed}); \
                 remedy: choose one of {allowed}, or widen the cpuset or taskset around it"
            ),
            Self::TooHigh { cpu } => write!(
                f,
                "CPU {cpu} may be used, but threads can be pinned to CPUs below {CPU_SET_BITS} only; \
                 remedy: choose a lower one"
            ),
            Self::None => f.write_str("no CPU asked for; remedy: ask for at least one"),
            Self::Os(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for AffinityError {}

impl From<OsError> for AffinityError {
    fn from(value: OsError) -> Self {
        Self::Os(value)
    }
}

/// The CPUs that the calling thread may run on (sched_getaffinity(2)). A thread inherits this from the one that starts
/// it, so ask before pinning if more threads are to be placed.
///
/// # Errors
/// The kernel's refusal, which no known kernel gives.
pub fn allowed_cpus() -> Result<CpuList, OsError> {
    syscall::affinity().map(CpuList::from_iter).map_err(|e| OsError::new("sched_getaffinity", e))
}

/// Pins the calling thread to `cpu`, which must be among those that it may run on now.
///
/// # Errors
/// As [`pin_within`].
pub fn pin(cpu: u32) -> Result<(), AffinityError> {
    pin_within(cpu, &allowed_cpus()?)
}

/// Pins the calling thread to `cpu`, which must be one of `allowed`: a list taken by [`allowed_cpus`] before the thread,
/// or the one that started it, was pinned elsewhere.
///
/// # Errors
/// [`AffinityError::NotAllowed`] for a CPU that is not listed, [`AffinityError::TooHigh`] for one from 1024 on,
/// [`AffinityError::Os`] where the kernel refuses it (it went
/// offline, or the cpuset shrank).
pub fn pin_within(cpu: u32, allowed: &CpuList) -> Result<(), AffinityError> {
    if !allowed.contains(cpu) {
        return Err(AffinityError::NotAllowed { cpu, allowed: allowed.clone() });
    }
    if cpu >= CPU_SET_BITS {
        return Err(AffinityError::TooHigh { cpu });
    }
    let id = usize::try_from(cpu).unwrap_or(usize::MAX);
    if core_affinity::set_for_current(core_affinity::CoreId { id }) {
        Ok(())
    } else {
        Err(OsError::new("sched_setaffinity", Errno::last()).into())
    }
}

/// Picks `count` CPUs for pinned pollers out of those that the calling thread may use: see [`Topology::spread`].
///
/// # Errors
/// [`AffinityError::None`] for a count of zero.
pub fn spread(count: usize) -> Result<Spread, AffinityError> {
    Topology::read(std::path::Path::new("/"), &allowed_cpus()?).spread(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinning_takes_effect_and_refuses_the_rest() {
        let allowed = allowed_cpus().unwrap();
        let outside = allowed.iter().max().unwrap() + 1;
        std::thread::spawn(move || {
            for cpu in allowed.iter() {
                pin_within(cpu, &allowed).unwrap();
                assert_eq!(allowed_cpus().unwrap(), CpuList::from_iter([cpu]));
            }
            let e = pin_within(outside, &allowed).unwrap_err();
            assert!(e.to_string().contains(&format!("CPU {outside} ")), "{e}");
            assert!(e.to_string().contains(&format!("({allowed})")), "{e}");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_pinned_thread_cannot_leave_by_itself() {
        let allowed = allowed_cpus().unwrap();
        let first = allowed.iter().next().unwrap();
        std::thread::spawn(move || {
            pin(first).unwrap();
            for other in allowed.iter().filter(|c| *c != first) {
                assert!(matches!(pin(other), Err(AffinityError::NotAllowed { .. })));
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_listed_cpu_that_is_not_there_is_an_error_of_the_kernel() {
        let ghost = 1000;
        if !allowed_cpus().unwrap().contains(ghost) {
            let wrong = CpuList::from_iter([ghost]);
            let e = std::thread::spawn(move || pin_within(ghost, &wrong)).join().unwrap();
            assert!(matches!(e, Err(AffinityError::Os(_))));
        }
    }

    #[test]
    fn a_cpu_beyond_the_mask_does_not_panic() {
        for cpu in [CPU_SET_BITS, 5000, u32::MAX] {
            let e = pin_within(cpu, &CpuList::from_iter([cpu])).unwrap_err();
            assert_eq!(e, AffinityError::TooHigh { cpu }, "not that it is not allowed");
            assert!(e.to_string().contains("remedy: "), "{e}");
        }
    }
}
