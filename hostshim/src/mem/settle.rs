//! What every mapping goes through before it is handed out: pages brought in, locked where allowed, and looked at.

use core::ops::Range as Span;
use memmap2::Advice;
use std::fs;
use std::path::Path;

use super::{Locking, PageKind, PageReport, Refusal, Refused};
use crate::error::{Errno, OsError};
use crate::raw::mmap::Range;
use crate::raw::syscall::page_bytes;

/// Whether there is memory for so many bytes, by what the kernel holds to be free without swapping (`MemAvailable`), and what is left of its
/// swap. Where there is not, bringing the pages in would not fail: the kernel would kill processes, this one or others, until it can.
pub(super) fn is_there_memory(bytes: usize) -> Result<(), OsError> {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    match available_in(&text) {
        Some(available) if bytes > available => {
            Err(OsError::new("memory for all pages", Errno::new(libc::ENOMEM)))
        }
        Some(_) | None => Ok(()),
    }
}

/// Bytes that proc_meminfo(5) says are to be had; none where it does not say.
fn available_in(meminfo: &str) -> Option<usize> {
    let kib = |key: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
        line.strip_prefix(':')?.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()
    };
    let all = kib("MemAvailable")?.saturating_add(kib("SwapFree").unwrap_or(0));
    Some(all.saturating_mul(1024))
}

/// Brings in every page, writable, so that the first access costs no fault.
pub(super) fn populate(range: &Range) -> Result<(), OsError> {
    bring_in(range, range.len(), page_bytes())
}

/// The same for the first page, whatever its size: for a look.
pub(super) fn populate_first(range: &Range) -> Result<(), OsError> {
    bring_in(range, page_bytes(), range.len())
}

/// The first `len` bytes; where the kernel does not know how, by a touch every `step` bytes.
fn bring_in(range: &Range, len: usize, step: usize) -> Result<(), OsError> {
    loop {
        match range.advise_first(Advice::PopulateWrite, len).map_err(Errno::number) {
            Ok(()) => return Ok(()),
            Err(libc::EINTR | libc::EAGAIN) => {}
            // Linux before 5.14 does not know the advice.
            Err(libc::EINVAL) => {
                range.touch(step);
                return Ok(());
            }
            Err(number) => {
                return Err(OsError::new("madvise(MADV_POPULATE_WRITE)", Errno::new(number)));
            }
        }
    }
}

/// Has the kernel give transparent huge pages for a populated or empty range, as far as it will: the bytes that are in
/// huge pages afterwards, as smaps shows them.
pub(super) fn ask_for_thp(range: &Range) -> Result<usize, Refusal> {
    let refused = |operation| move |e| Refusal::Os(OsError::new(operation, e));
    range.advise(Advice::HugePage).map_err(refused("madvise(MADV_HUGEPAGE)"))?;
    populate(range).map_err(Refusal::Os)?;
    let huge = huge_bytes(range).map_err(Refusal::Os)?;
    if huge == range.len() {
        return Ok(huge);
    }
    // A /dev/shm without the mount option `huge=` gives base pages, and lets them be gathered by hand (Linux 6.1).
    match range.collapse() {
        Ok(()) => {}
        Err(e) if huge == 0 && e.number() == libc::EINVAL => return Err(Refusal::NotGiven),
        Err(e) if huge == 0 => return Err(Refusal::Os(OsError::new("madvise(MADV_COLLAPSE)", e))),
        Err(_some_are_huge_already) => {}
    }
    match huge_bytes(range).map_err(Refusal::Os)? {
        0 => Err(Refusal::NotGiven),
        huge => Ok(huge),
    }
}

/// Locks a populated range and writes the report.
pub(super) fn report(
    range: &Range,
    page: PageKind,
    huge_bytes: usize,
    refused: Vec<Refused>,
) -> PageReport {
    let locking = if page == PageKind::Huge2M {
        Locking::NeverSwapped
    } else {
        range.lock().map_or_else(Locking::Refused, |()| Locking::Locked)
    };
    PageReport { page, len: range.len(), huge_bytes, locking, refused }
}

/// How many bytes of `range` this process has mapped by transparent huge pages.
pub(super) fn huge_bytes(range: &Range) -> Result<usize, OsError> {
    let path = Path::new("/proc/self/smaps");
    let text = fs::read(path).map_err(|e| OsError::io("read", path, &e))?;
    let start = range.as_ptr().as_ptr().addr();
    Ok(huge_bytes_in(&String::from_utf8_lossy(&text), &(start..start.saturating_add(range.len()))))
}

/// The transparent huge pages that smaps reports for the mappings inside `span`: proc_pid_smaps(5).
fn huge_bytes_in(smaps: &str, span: &Span<usize>) -> usize {
    let mut inside = false;
    let mut kib = 0_usize;
    for line in smaps.lines() {
        if let Some(mapping) = mapping_line(line) {
            inside = span.start <= mapping.start && mapping.end <= span.end;
        } else if inside && let Some((key, value)) = line.split_once(':') {
            let counts = matches!(key, "AnonHugePages" | "ShmemPmdMapped" | "FilePmdMapped");
            let value =
                value.trim().strip_suffix("kB").and_then(|v| v.trim().parse::<usize>().ok());
            kib = kib.saturating_add(value.filter(|_| counts).unwrap_or(0));
        }
    }
    kib.saturating_mul(1024)
}

/// `7f0000000000-7f0000200000 rw-s ...`
fn mapping_line(line: &str) -> Option<Span<usize>> {
    let (first, last) = line.split_ascii_whitespace().next()?.split_once('-')?;
    let parse = |text| usize::from_str_radix(text, 16).ok();
    Some(parse(first)?..parse(last)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-3000 rw-p 00000000 00:00 0 [heap]
Rss:                   8 kB
AnonHugePages:      2048 kB
VmFlags: rd wr mr
200000-600000 rw-s 00000000 00:1a 7 /dev/shm/spinwire.a-b
Size:               4096 kB
AnonHugePages:         0 kB
ShmemPmdMapped:     2048 kB
FilePmdMapped:         0 kB
600000-800000 rw-p 00000000 00:00 0
AnonHugePages:      2048 kB
ShmemPmdMapped:        0 kB
";

    #[test]
    fn counts_inside_the_span_only() {
        assert_eq!(huge_bytes_in(SMAPS, &(0x20_0000..0x60_0000)), 2 << 20);
        assert_eq!(huge_bytes_in(SMAPS, &(0x20_0000..0x80_0000)), 4 << 20);
        assert_eq!(huge_bytes_in(SMAPS, &(0x60_0000..0x80_0000)), 2 << 20);
        assert_eq!(huge_bytes_in(SMAPS, &(0x3000..0x20_0000)), 0);
        assert_eq!(huge_bytes_in("", &(0..usize::MAX)), 0);
    }

    #[test]
    fn a_mapping_that_is_larger_than_the_span_tells_nothing() {
        assert_eq!(huge_bytes_in(SMAPS, &(0x60_1000..0x70_0000)), 0);
    }

    #[test]
    fn what_the_kernel_says_is_available() {
        let text = "MemTotal:  9 kB\nMemAvailable:   3 kB\nSwapTotal: 8 kB\nSwapFree:  2 kB\n";
        assert_eq!(available_in(text), Some(5 << 10));
        assert_eq!(available_in("MemAvailable: 3 kB\n"), Some(3 << 10));
        for unknown in ["", "MemAvailable: 3\n", "MemAvailable: -3 kB\n"] {
            assert_eq!(available_in(unknown), None);
        }
        is_there_memory(1 << 20).unwrap();
    }

    #[test]
    fn sees_base_pages_as_such() {
        let range = Range::anonymous(4 << 20, 2 << 20).unwrap();
        range.advise(Advice::NoHugePage).unwrap();
        populate(&range).unwrap();
        assert_eq!(huge_bytes(&range).unwrap(), 0);
    }
}
