//! What an operating system's runtime would bring: an entry, an exit, a panic handler, four memory functions, and a block
//! of static memory.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::panic::PanicInfo;

/// Static memory, aligned to a page.
#[repr(C, align(4096))]
pub struct Arena<const N: usize>(UnsafeCell<[u8; N]>);

// SAFETY: the program has one thread.
unsafe impl<const N: usize> Sync for Arena<N> {}

impl<const N: usize> Arena<N> {
    pub const fn zeroed() -> Self {
        Self(UnsafeCell::new([0; N]))
    }

    pub const fn base(&self) -> *mut u8 {
        self.0.get().cast()
    }

    /// The whole of it, once.
    pub fn take(&'static self) -> Option<&'static mut [MaybeUninit<u8>]> {
        // SAFETY: the program has one thread, and calls this once: `main` is the only caller.
        unsafe { self.0.get().cast::<[MaybeUninit<u8>; N]>().as_mut() }.map(<[_; N]>::as_mut_slice)
    }
}

// The kernel enters with an aligned stack and no return address; a function expects one.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "and rsp, -16",
    "call {main}",
    "ud2",
    main = sym crate::main
);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, #0", "bl {main}", "brk #1", main = sym crate::main);

#[cfg(target_arch = "x86_64")]
pub fn exit(code: i32) -> ! {
    // SAFETY: exit_group(code) of the Linux system call table; it does not return.
    unsafe { asm!("syscall", in("rax") 231, in("rdi") code, options(noreturn, nostack)) }
}

#[cfg(target_arch = "aarch64")]
pub fn exit(code: i32) -> ! {
    // SAFETY: exit_group(code) of the Linux system call table; it does not return.
    unsafe { asm!("svc #0", in("x8") 94, in("x0") code, options(noreturn, nostack)) }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    exit(101)
}

/// The precompiled core names this in the tables of its landing pads. Nothing unwinds here, so nothing calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// The compiler calls these for copies and comparisons; a libc would define them. Volatile, so that they are not turned
/// into calls of themselves.
mod memory {
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        for i in 0..count {
            // SAFETY: the caller gives `count` bytes on both sides.
            unsafe { to.add(i).write_volatile(from.add(i).read()) };
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        if to.addr() <= from.addr() {
            // SAFETY: the caller's promise; forward is right where the target comes first.
            return unsafe { memcpy(to, from, count) };
        }
        for i in (0..count).rev() {
            // SAFETY: the caller gives `count` bytes on both sides.
            unsafe { to.add(i).write_volatile(from.add(i).read()) };
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
        for i in 0..count {
            // SAFETY: the caller gives `count` bytes.
            unsafe { to.add(i).write_volatile(value as u8) };
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
        for i in 0..count {
            // SAFETY: the caller gives `count` bytes on both sides.
            let (x, y) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
            if x != y {
                return i32::from(x) - i32::from(y);
            }
        }
        0
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
        // SAFETY: the caller's promise.
        unsafe { memcmp(a, b, count) }
    }
}
