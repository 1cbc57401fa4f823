//! The panic handler of the probe: a call to a function that nobody defines.

use core::panic::PanicInfo;

unsafe extern "C" {
    fn spinwire_panic_path_survived() -> !;
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    // SAFETY: never linked into a program, so never run; the undefined name is the evidence that the scan looks for.
    unsafe { spinwire_panic_path_survived() }
}
