//! The library itself: loaded when it is first asked for something, and never unloaded.
//!
//! ```text
//!   first call ── signals are noted ── dlopen(libfabric.so.1) ── six functions ── signals as they were
//!                                                                    '── all else is reached through what those hand out
//! ```
//!
//! It is not linked. Debian's is linked with PSM and PSM2, and their constructors measure the clock for a tenth of a second each, and take the signals
//! that end a program. Who asks nothing of it, or does not have it, is spared that.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};
use std::sync::OnceLock;

use spinwire_ofi_sys as sys;

use super::{Answer, Failed};

/// What is loaded, as the linker would name it.
const NAME: &CStr = c"libfabric.so.1";
/// The call that is told of where that fails.
pub(crate) const CALL: &str = "dlopen(libfabric.so.1)";

/// The version of those functions whose structures are those of the headers: `libfabric.map` of each release.
const STRUCTURES: &CStr = match (sys::FI_MAJOR_VERSION, sys::FI_MINOR_VERSION) {
    (1, ..=19) => c"FABRIC_1.3",
    (1, _) => c"FABRIC_1.7",
    (2, ..=4) => c"FABRIC_1.8",
    _ => c"FABRIC_1.9",
};

type GetInfo = unsafe extern "C" fn(
    u32,
    *const c_char,
    *const c_char,
    u64,
    *const sys::fi_info,
    *mut *mut sys::fi_info,
) -> c_int;
type FreeInfo = unsafe extern "C" fn(*mut sys::fi_info);
type DupInfo = unsafe extern "C" fn(*const sys::fi_info) -> *mut sys::fi_info;
type OpenFabric =
    unsafe extern "C" fn(*mut sys::fi_fabric_attr, *mut *mut sys::fid_fabric, *mut c_void) -> c_int;
type Version = unsafe extern "C" fn() -> u32;
type StrError = unsafe extern "C" fn(c_int) -> *const c_char;

// Those are the types of the headers; nothing is linked by that.
const _: (GetInfo, FreeInfo, DupInfo) = (sys::fi_getinfo, sys::fi_freeinfo, sys::fi_dupinfo);
const _: (OpenFabric, Version, StrError) = (sys::fi_fabric, sys::fi_version, sys::fi_strerror);

/// The functions that the library exports, as far as they are used.
pub(super) struct Library {
    pub(super) getinfo: GetInfo,
    pub(super) freeinfo: FreeInfo,
    pub(super) dupinfo: DupInfo,
    pub(super) fabric: OpenFabric,
    pub(super) version: Version,
    pub(super) strerror: StrError,
}

static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();

/// The library, which is loaded by the first call of the process: that takes some 0.2 s with Debian's.
pub(super) fn library() -> Answer<&'static Library> {
    let missing = |_why: &String| Failed { call: CALL, code: libc::ENOENT };
    LIBRARY.get_or_init(load).as_ref().map_err(missing)
}

/// Why there is none, after a call has failed for that reason.
pub(crate) fn why_missing() -> Option<&'static str> {
    LIBRARY.get()?.as_ref().err().map(String::as_str)
}

fn load() -> Result<Library, String> {
    let noted = TAKEN.map(action_of);
    // SAFETY: a text that ends with a zero. The constructors of the library are trusted, like the rest of it.
    let handle = unsafe { libc::dlopen(NAME.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    TAKEN.into_iter().zip(noted).for_each(give_back);
    let handle = NonNull::new(handle).ok_or_else(trouble)?;
    let getinfo = symbol(handle, c"fi_getinfo", STRUCTURES)?;
    let freeinfo = symbol(handle, c"fi_freeinfo", STRUCTURES)?;
    let dupinfo = symbol(handle, c"fi_dupinfo", STRUCTURES)?;
    let fabric = symbol(handle, c"fi_fabric", c"FABRIC_1.1")?;
    let version = symbol(handle, c"fi_version", c"FABRIC_1.0")?;
    let strerror = symbol(handle, c"fi_strerror", c"FABRIC_1.0")?;
    Ok(Library {
        // SAFETY: the function of that name and version, whose type is the headers'.
        getinfo: unsafe { core::mem::transmute::<NonNull<c_void>, GetInfo>(getinfo) },
        // SAFETY: likewise.
        freeinfo: unsafe { core::mem::transmute::<NonNull<c_void>, FreeInfo>(freeinfo) },
        // SAFETY: likewise.
        dupinfo: unsafe { core::mem::transmute::<NonNull<c_void>, DupInfo>(dupinfo) },
        // SAFETY: likewise.
        fabric: unsafe { core::mem::transmute::<NonNull<c_void>, OpenFabric>(fabric) },
        // SAFETY: likewise.
        version: unsafe { core::mem::transmute::<NonNull<c_void>, Version>(version) },
        // SAFETY: likewise.
        strerror: unsafe { core::mem::transmute::<NonNull<c_void>, StrError>(strerror) },
    })
}

fn symbol(handle: NonNull<c_void>, name: &CStr, version: &CStr) -> Result<NonNull<c_void>, String> {
    // SAFETY: a handle that `dlopen` gave, and texts that end with a zero.
    let found = unsafe { libc::dlvsym(handle.as_ptr(), name.as_ptr(), version.as_ptr()) };
    NonNull::new(found).ok_or_else(trouble)
}

/// What the loader says of the last call of this thread.
fn trouble() -> String {
    // SAFETY: no arguments.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "it cannot be loaded".to_owned();
    }
    // SAFETY: a text that ends with a zero, the thread's until its next such call.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Those that `libinfinipath` (of PSM) handles from its constructor on: it prints a stack and exits with 1.
const TAKEN: [i32; 7] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGABRT,
    libc::SIGFPE,
];

/// What a signal does now.
fn action_of(signal: i32) -> Option<libc::sigaction> {
    let mut action = MaybeUninit::uninit();
    // SAFETY: room for one action; nothing is changed.
    let asked = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: the call has filled it in.
    (asked == 0).then(|| unsafe { action.assume_init() })
}

/// Makes a signal do again what it did.
fn give_back((signal, noted): (i32, Option<libc::sigaction>)) {
    let Some(noted) = noted else { return };
    // SAFETY: an action that the kernel has told of this signal. It cannot fail for these.
    let _set = unsafe { libc::sigaction(signal, &raw const noted, ptr::null_mut()) };
}
