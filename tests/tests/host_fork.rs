//! A child of fork(2) drops what it has of its parent's pools and domains, and the parent keeps it.
#![expect(unsafe_code, reason = "fork(2), waitpid(2) and _exit(2) have no safe form")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that is not as expected")]

mod host_process;

use core::mem::ManuallyDrop;

use host_process::{Folder, again, role};
use spinwire_dataplane::shm::lease;
use spinwire_hostshim::domain::{Domain, DomainConfig};
use spinwire_hostshim::plane::Plane;
use spinwire_hostshim::pool::{BufferPool, PoolConfig};

#[test]
fn what_a_child_drops_stays_with_its_parent() {
    if role().is_none() {
        let folder = Folder::new();
        let mut inside = again("what_a_child_drops_stays_with_its_parent", "parent");
        let status = inside.env("SPINWIRE_SHM_DIR", folder.path()).status().unwrap();
        assert!(status.success(), "see above");
        return;
    }
    let domain = Domain::create("market", &DomainConfig::default()).unwrap();
    let pool = BufferPool::create("frames", &PoolConfig::default()).unwrap();
    let mut memory = Plane::memory(pool.handle_bytes()).unwrap();
    let bump = Plane::arena(&mut memory);
    let handle = pool.handle(&bump).unwrap();
    let guard = ManuallyDrop::new(handle.acquire(1).unwrap());
    // SAFETY: the child drops what it has and ends; it takes no lock that another thread could have held.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork");
    if child == 0 {
        // Not the guard.
        drop(handle);
        drop(pool);
        drop(domain);
        // SAFETY: ends the process, and nothing else.
        unsafe { libc::_exit(0) };
    }
    let mut status = -1;
    // SAFETY: `status` outlives the call.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((waited, status), (child, 0), "it ended by itself: there is no thread to wait for");
    assert_eq!(lease::rows(&pool.segment()).count(), 1, "the handle is the parent's");
    assert_eq!(lease::rows(&domain.segment()).count(), 1);
    assert_eq!(handle.ref_count(guard.id()), Ok(1));
    drop(ManuallyDrop::into_inner(guard));
    assert_eq!(handle.acquire(1).unwrap().id().generation(), 2);
    pool.unlink().unwrap();
    domain.unlink().unwrap();
}
