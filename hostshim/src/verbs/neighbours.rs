//! Where datagrams are sent to, asked of the kernel without waiting for its answer.
//!
//! ```text
//!   find(gid)   librdmacm: the kernel looks for the way, and asks for the neighbour's place on the network (ARP, neighbour discovery)
//!   next()      found: a handle can be made now, and takes no longer than a system call; or nowhere to be found
//! ```
//!
//! libibverbs asks, too, when a handle is made, and waits for the answer: up to seconds. So it is let do so only when the kernel knows.
//!
//! The ids of these lookups are on the device, and one of them always is, so librdmacm tells here that it was taken away.

use core::cell::{Cell, RefCell};
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::os::fd::{AsFd, BorrowedFd};

use super::cm::{CmChannel, CmNews, Link};
use super::error::VerbsError;
use super::gid::Gid;

/// Lookups at a time. Each is over within [`LIMIT`].
const LOOKUPS: usize = 64;

/// How long the kernel looks.
const LIMIT: Duration = Duration::from_secs(1);

/// A lookup.
#[derive(Debug)]
struct Lookup {
    gid: Gid,
    link: Link,
}

/// What has become of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum News {
    /// The kernel knows the way there.
    Found(Gid),
    /// There is none, or nobody has answered.
    Nowhere(Gid),
    /// The device was taken away.
    Removed,
}

/// Those that are looked for from one address of a device.
#[derive(Debug)]
pub(super) struct Neighbours {
    lookups: RefCell<Vec<Lookup>>,
    is_removed: Cell<bool>,
    own: IpAddr,
    _watch: Link,
    channel: CmChannel,
}

/// It can be read from when something has become known.
impl AsFd for Neighbours {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Neighbours {
    /// # Errors
    /// As of [`CmChannel::open`] and [`CmChannel::watch`]: there is no `rdma_ucm`, or the address is not one of IP.
    pub(super) fn open(own: IpAddr) -> Result<Self, VerbsError> {
        let channel = CmChannel::open()?;
        let watch = channel.watch(own)?;
        let (lookups, is_removed) = (RefCell::default(), Cell::new(false));
        Ok(Self { lookups, is_removed, own, _watch: watch, channel })
    }

    /// Looks for the way to `gid`, unless it does so already. `false` where there is none, or too many are looked for.
    pub(super) fn find(&self, gid: Gid) -> bool {
        let mut lookups = self.lookups.borrow_mut();
        if lookups.iter().any(|lookup| lookup.gid == gid) {
            return true;
        }
        if lookups.len() >= LOOKUPS || self.is_removed.get() {
            return false;
        }
        let to = SocketAddr::new(gid.address(), 0);
        let Ok(link) = self.channel.resolve(Some(self.own), to, LIMIT) else { return false };
        lookups.push(Lookup { gid, link });
        true
    }

    /// How many are looked for.
    pub(super) fn count(&self) -> usize {
        self.lookups.borrow().len()
    }

    /// What has become known. A system call.
    ///
    /// # Errors
    /// As of [`CmChannel::next_event`].
    pub(super) fn next(&self) -> Result<Option<News>, VerbsError> {
        while let Some(event) = self.channel.next_event()? {
            let mut lookups = self.lookups.borrow_mut();
            if event.news == CmNews::DeviceRemoved {
                // Each of them is told, and the first is enough.
                lookups.clear();
                if self.is_removed.replace(true) {
                    continue;
                }
                return Ok(Some(News::Removed));
            }
            // One that was found may have more to tell: that its device has another address, say.
            let at = lookups.iter().position(|lookup| lookup.link.id() == event.about);
            let Some(Lookup { gid, .. }) = at.map(|at| lookups.swap_remove(at)) else { continue };
            let is_found = event.news == CmNews::AddressResolved;
            return Ok(Some(if is_found { News::Found(gid) } else { News::Nowhere(gid) }));
        }
        Ok(None)
    }
}
