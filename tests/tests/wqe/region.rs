//! Ranges that a WQE may name: inside of what was registered, and never empty, which would be 2 GiB to the device.

use core::ptr::NonNull;

use spinwire_dataplane::error::Misuse;
use spinwire_dataplane::raw::loan::Sge;
use spinwire_dataplane::raw::region::{LocalSge, RANGE_BYTES_MAX, Region, Registered};

use super::lines;

const BAD: Result<(u64, u32, u32), Misuse> = Err(Misuse::BadRange);

fn parts(range: Result<LocalSge, Misuse>) -> Result<(u64, u32, u32), Misuse> {
    range.map(|sge| (sge.addr(), sge.length(), sge.lkey()))
}

#[test]
fn ranges_are_inside_and_never_empty() {
    let memory = lines(4);
    let base = u64::try_from(memory.as_ptr().addr()).unwrap();
    // SAFETY: there is no device behind any queue of this test.
    let region = unsafe { Region::promise(memory, 9) };
    assert_eq!(parts(region.range(0, 256)), Ok((base, 256, 9)));
    assert_eq!(parts(region.range(255, 1)), Ok((base + 255, 1, 9)));
    for (offset, length) in [(0, 257), (256, 1), (1, 256), (0, 0), (u64::MAX, 1), (8, u32::MAX)] {
        assert_eq!(parts(region.range(offset, length)), BAD, "{length} bytes at {offset}");
    }
    let start = NonNull::from_ref(&memory[1]).cast::<u8>();
    // SAFETY: as above.
    let arena = unsafe { Registered::promise(start, 128, 7) };
    let posted = |offset: isize, length| {
        let at = NonNull::new(start.as_ptr().wrapping_offset(offset)).unwrap();
        // SAFETY: nobody posts it.
        parts(arena.posted(&unsafe { Sge::from_raw(at, length) }))
    };
    assert_eq!(posted(0, 128), Ok((base + 64, 128, 7)));
    assert_eq!(posted(127, 1), Ok((base + 191, 1, 7)));
    for (offset, length) in [(-1, 8), (-64, 64), (0, 129), (128, 1), (64, 65), (3, 0)] {
        assert_eq!(posted(offset, length), BAD, "{length} bytes at {offset}");
    }
    // SAFETY: as above.
    let raw = |length| parts(unsafe { LocalSge::from_raw(1, length, 2) });
    assert_eq!((raw(0), raw(RANGE_BYTES_MAX + 1)), (BAD, BAD));
    assert_eq!(raw(RANGE_BYTES_MAX), Ok((1, RANGE_BYTES_MAX, 2)));
}
