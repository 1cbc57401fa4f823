//! Private memory for tables and pools.

use core::ptr::NonNull;
use memmap2::Advice;

use super::settle::{ask_for_thp, is_there_memory, populate, report};
use super::{
    HUGE_BITS, HUGE_BYTES, MapError, PageKind, PagePolicy, PageReport, Refusal, Refused, hugetlb,
    whole,
};
use crate::error::OsError;
use crate::raw::mmap::Range;
use crate::raw::syscall::page_bytes;

/// Private memory of this process: zeroed, present, aligned to its pages, unmapped on drop. The mapping hands out its
/// address and no reference; who makes references of it must not outlive it.
#[derive(Debug)]
pub struct Mapping {
    range: Range,
    report: PageReport,
}

impl Mapping {
    /// At least `bytes` zeroed bytes, rounded up to whole pages of the kind that it gets.
    ///
    /// # Errors
    /// [`MapError::Zero`] and [`MapError::TooLarge`] for impossible sizes, [`MapError::Pages`] where `policy` insists on
    /// pages that cannot be had, [`MapError::Os`] where the kernel has not so much memory left.
    pub fn anonymous(bytes: usize, policy: PagePolicy) -> Result<Self, MapError> {
        let mut refused = Vec::new();
        if policy.permits(PageKind::Huge2M) {
            match pool(whole(bytes, HUGE_BYTES)?) {
                Ok(range) => return Ok(Self::settled(range, PageKind::Huge2M, None, refused)),
                Err(why) => refused.push(Refused { kind: PageKind::Huge2M, by: "pool", why }),
            }
        }
        if policy.permits(PageKind::Thp) {
            match transparent(whole(bytes, HUGE_BYTES)?) {
                Ok((range, huge)) => {
                    return Ok(Self::settled(range, PageKind::Thp, Some(huge), refused));
                }
                Err(why) => refused.push(Refused { kind: PageKind::Thp, by: "madvise", why }),
            }
        }
        if let PagePolicy::Only(kind) = policy
            && kind != PageKind::Base4K
        {
            return Err(MapError::Pages { kind, refused });
        }
        let range = base(whole(bytes, page_bytes())?)?;
        Ok(Self::settled(range, PageKind::Base4K, Some(0), refused))
    }

    /// `huge_bytes` of None stands for all of them.
    fn settled(
        range: Range,
        page: PageKind,
        huge_bytes: Option<usize>,
        refused: Vec<Refused>,
    ) -> Self {
        let huge_bytes = huge_bytes.unwrap_or(range.len());
        let report = report(&range, page, huge_bytes, refused);
        Self { range, report }
    }

    /// The first byte. Valid for reads and writes of [`Mapping::len`] bytes for as long as the mapping lives.
    #[must_use]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.range.as_ptr()
    }

    /// Bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.range.len()
    }

    /// Never: a mapping has at least one page.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.range.len() == 0
    }

    /// The pages that it got.
    #[must_use]
    pub const fn page(&self) -> PageKind {
        self.report.page()
    }

    /// What it got and what it did not.
    #[must_use]
    pub const fn report(&self) -> &PageReport {
        &self.report
    }
}

/// Pages of the kernel's pool.
fn pool(len: usize) -> Result<Range, Refusal> {
    let range = Range::anonymous_huge(len, HUGE_BITS)
        .map_err(|e| hugetlb::refusal(len, OsError::new("mmap(MAP_HUGETLB)", e)))?;
    populate(&range).map_err(|e| hugetlb::refusal(len, e))?;
    Ok(range)
}

/// Transparent huge pages, with the bytes that really are.
fn transparent(len: usize) -> Result<(Range, usize), Refusal> {
    is_there_memory(len).map_err(Refusal::Os)?;
    let range =
        Range::anonymous(len, HUGE_BYTES).map_err(|e| Refusal::Os(OsError::new("mmap", e)))?;
    let huge = ask_for_thp(&range)?;
    Ok((range, huge))
}

/// Pages of the base size, and no others.
fn base(len: usize) -> Result<Range, OsError> {
    is_there_memory(len)?;
    let range = Range::anonymous(len, page_bytes()).map_err(|e| OsError::new("mmap", e))?;
    // Refused by kernels without transparent huge pages, which give base pages anyway.
    let _without_thp = range.advise(Advice::NoHugePage);
    populate(&range)?;
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::settle::huge_bytes;

    fn is_zero_and_writable(m: &Mapping) {
        for offset in [0, m.len() / 2, m.len() - 1] {
            assert_eq!(m.range.swap_byte(offset, 0xa5), 0);
            assert_eq!(m.range.swap_byte(offset, 0), 0xa5);
        }
    }

    #[test]
    fn base_pages_are_base_pages() {
        let m = Mapping::anonymous(5 << 20, PagePolicy::Only(PageKind::Base4K)).unwrap();
        assert_eq!((m.page(), m.len(), m.report().huge_bytes()), (PageKind::Base4K, 5 << 20, 0));
        assert_eq!(
            huge_bytes(&m.range).unwrap(),
            0,
            "whatever the system's setting for huge pages"
        );
        assert!(m.report().refused().is_empty());
        is_zero_and_writable(&m);
    }

    #[test]
    fn the_best_reports_what_smaps_shows() {
        for bytes in [1, 2 << 20, (5 << 20) + 1] {
            let m = Mapping::anonymous(bytes, PagePolicy::Best).unwrap();
            assert!(m.len() >= bytes);
            let seen = huge_bytes(&m.range).unwrap();
            match m.page() {
                PageKind::Huge2M => assert_eq!(m.report().huge_bytes(), m.len()),
                PageKind::Thp => {
                    assert!(seen > 0);
                    assert_eq!(m.report().huge_bytes(), seen);
                    assert_eq!(m.report().refused().len(), 1);
                }
                PageKind::Base4K => {
                    assert_eq!(seen, 0);
                    assert_eq!(m.report().refused().len(), 2, "{}", m.report());
                }
            }
            if m.page() != PageKind::Base4K {
                assert_eq!(m.as_ptr().as_ptr().addr() % HUGE_BYTES, 0);
                assert_eq!(m.len() % HUGE_BYTES, 0);
            }
            is_zero_and_writable(&m);
        }
    }

    #[test]
    fn an_insistent_policy_gets_those_or_an_error_with_a_remedy() {
        for kind in [PageKind::Huge2M, PageKind::Thp] {
            match Mapping::anonymous(3 << 20, PagePolicy::Only(kind)) {
                Ok(m) => assert_eq!(m.page(), kind),
                Err(e) => {
                    assert!(matches!(e, MapError::Pages { kind: k, .. } if k == kind));
                    assert!(e.to_string().contains("remedy"), "{e}");
                }
            }
        }
    }

    #[test]
    fn a_pool_that_is_too_small_says_so() {
        // No machine has 64 TiB of huge pages.
        let e = Mapping::anonymous(1 << 46, PagePolicy::Only(PageKind::Huge2M)).unwrap_err();
        let text = e.to_string();
        assert!(text.contains("33554432 free 2M pages needed"), "{text}");
        assert!(text.contains("sysctl -w vm.nr_hugepages="), "{text}");
    }

    #[test]
    fn impossible_sizes_are_errors() {
        for policy in
            [PagePolicy::Best, PagePolicy::Only(PageKind::Base4K), PagePolicy::Only(PageKind::Thp)]
        {
            assert_eq!(Mapping::anonymous(0, policy).unwrap_err(), MapError::Zero);
            for bytes in [usize::MAX, usize::MAX / 2] {
                assert_eq!(
                    Mapping::anonymous(bytes, policy).unwrap_err(),
                    MapError::TooLarge { bytes }
                );
            }
        }
        // An address space has room for the last; no machine has the memory.
        for bytes in [1 << 62, 1 << 46] {
            let e = Mapping::anonymous(bytes, PagePolicy::Best).unwrap_err();
            assert!(matches!(&e, MapError::Os(_)) && e.to_string().contains("ask for less"), "{e}");
        }
    }
}
