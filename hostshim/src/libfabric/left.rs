//! What libfabric's `shm` leaves in `/dev/shm` where a process is killed: a file of 16 MiB for each endpoint.
//!
//! ```text
//!   /dev/shm/4711:0:3     process 4711, user 0, the process's fourth endpoint (smr_endpoint_name of prov/shm/src/smr_ep.c)
//! ```
//!
//! A process that closes its endpoints removes them. Numbers of processes come again, and then such a file is in the way of an endpoint that has
//! nothing to do with it: see [`with_its_name_free`].

use std::path::Path;

use crate::raw::ofi::Answer;

/// Where the library's memory has its names (`shm_open(3)`).
const FOLDER: &str = "/dev/shm";
/// So many files that a process of the same number has left behind are in nobody's way.
const LEFT_MAX: u32 = 1024;

/// Removes what the endpoints over libfabric's `shm` of process `pid` have left behind: for who has killed that process, or ends without closing
/// what it has open. Says how many files there were.
///
/// Files that this user may not remove stay, and nobody is told: the library itself removes them when it comes upon them.
#[must_use]
pub fn remove_shm_left_by(pid: u32) -> usize {
    remove_from(Path::new(FOLDER), pid)
}

fn remove_from(folder: &Path, pid: u32) -> usize {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let of_it = files.filter(|file| file.file_name().to_str().and_then(maker_of) == Some(pid));
    of_it.filter(|file| std::fs::remove_file(file.path()).is_ok()).count()
}

/// Whose endpoint's memory has that name.
fn maker_of(name: &str) -> Option<u32> {
    let mut numbers = name.split(':').map(|part| part.parse::<u32>().ok());
    let (pid, user, index) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let _any = (user, index);
    numbers.next().is_none().then_some(pid)
}

/// Opens an endpoint, again where its name is taken, as far as the provider `names_by_pid`.
///
/// Where a killed process of the same number has left such a name, the library
/// takes the process for alive, for it is this one, says `FI_EBUSY`, and removes the name (`smr_retry_map` of prov/util/src/util_shm.c). The next
/// endpoint has the next name, which may be left over as well.
pub(super) fn with_its_name_free<T>(names_by_pid: bool, open: impl Fn() -> Answer<T>) -> Answer<T> {
    let tries = if names_by_pid { LEFT_MAX } else { 0 };
    for _ in 0..tries {
        match open() {
            Err(failed) if failed.code == libc::EBUSY => {}
            other => return other,
        }
    }
    open()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::ofi::Failed;

    #[test]
    fn names_of_the_library_are_told_from_others() {
        assert_eq!(maker_of("4711:0:3"), Some(4711));
        for other in ["4711", "4711:0", "4711:0:3:4", "4711:0:x", ":0:3", "spinwire.a", "4711:0:"] {
            assert_eq!(maker_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_taken_name_is_tried_again_only_where_names_have_numbers() {
        let taken = Failed { call: "fi_enable", code: libc::EBUSY };
        let other = Failed { call: "fi_enable", code: libc::ENOSPC };
        for (names_by_pid, answers, expected) in [
            (true, [taken, taken, other], (3, libc::ENOSPC)),
            (false, [taken, taken, other], (1, libc::EBUSY)),
            (true, [other, taken, taken], (1, libc::ENOSPC)),
        ] {
            let tried = core::cell::Cell::new(0_usize);
            let answer: Answer<()> = with_its_name_free(names_by_pid, || {
                let answer = answers[tried.get()];
                tried.set(tried.get() + 1);
                Err(answer)
            });
            assert_eq!((tried.get(), answer.unwrap_err().code), expected);
        }
        let tried = core::cell::Cell::new(0);
        let for_ever: Answer<()> = with_its_name_free(true, || {
            tried.set(tried.get() + 1);
            Err(taken)
        });
        assert_eq!((tried.get(), for_ever.unwrap_err().code), (LEFT_MAX + 1, libc::EBUSY));
    }

    #[test]
    fn only_what_that_process_has_left_is_removed() {
        let folder = std::env::temp_dir().join(format!("spinwire-left-{}", std::process::id()));
        // A killed process of this number may have left one.
        let _most_often_none = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        for name in ["12:0:0", "12:0:31", "12:7:0", "123:0:0", "1:0:0", "spinwire.12:0:0"] {
            std::fs::write(folder.join(name), b"").unwrap();
        }
        assert_eq!(remove_from(&folder, 12), 3);
        assert_eq!(remove_from(&folder, 12), 0);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3);
        assert_eq!(remove_from(&folder.join("none"), 12), 0);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
