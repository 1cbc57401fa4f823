//! Providers behind the fault wrapper and the trace wrapper against the one conformance suite: see `spinwire_tests::conformance`.

use spinwire_tests::conformance;
use spinwire_tests::conformance::{Faulty, Loopback, Shm, Traced};

conformance! {
    traced_loopback: Traced<Loopback>,
    faulty_loopback: Faulty<Loopback, 1>,
    faulty_loopback_2: Faulty<Loopback, 0xDEAD_BEEF>,
    faulty_loopback_3: Faulty<Loopback, 0x0123_4567_89AB_CDEF>,
    faulty_shm: Faulty<Shm, 5>,
    traced_faulty_shm: Traced<Faulty<Shm, 77>>,
}
