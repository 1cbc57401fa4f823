//! Memory that devices may touch, and the keys that let them.
//!
//! A key is a capability: it is made by a registration alone, says which bytes it is good for, and who posts with it is checked
//! against it. Registrations live as long as their protection domain, and every queue pair keeps its domain alive; so no key
//! ever names memory that is not mapped any more.

use core::any::Any;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};
use std::rc::Rc;

use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::raw::region::Loans;
use spinwire_dataplane::verbs::{RemotePlace, Segment};

use super::device::Device;
use super::error::VerbsError;
use super::queues::Queues;
use crate::mem::{Mapping, PagePolicy, PageReport};
use crate::raw::verbs::{self as raw, Registration};

/// What a peer may do to a region. This end may read and write it at any rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Access {
    /// Peers may read.
    pub remote_read: bool,
    /// Peers may write.
    pub remote_write: bool,
    /// Peers may add, and compare and swap.
    pub remote_atomic: bool,
    /// The device may write out of order, which is faster on some machines and makes "the last byte has come" mean nothing
    /// (`IBV_ACCESS_RELAXED_ORDERING`). Ignored where it cannot be had.
    pub relaxed_ordering: bool,
    /// Pages are brought in when they are touched, where the device can do that (`IBV_ACCESS_ON_DEMAND`); else registering fails, as it does on
    /// Soft-RoCE of Linux 6.1. **Unverified on hardware**: no device that takes it was at hand.
    pub on_demand: bool,
}

impl Access {
    /// Nobody but this end.
    pub const LOCAL: Self = Self {
        remote_read: false,
        remote_write: false,
        remote_atomic: false,
        relaxed_ordering: false,
        on_demand: false,
    };

    /// Peers may do anything.
    pub const REMOTE: Self =
        Self { remote_read: true, remote_write: true, remote_atomic: true, ..Self::LOCAL };

    /// By the bits of `enum ibv_access_flags`.
    pub(super) fn bits(self) -> u32 {
        1 | u32::from(self.remote_write) << 1
            | u32::from(self.remote_read) << 2
            | u32::from(self.remote_atomic) << 3
            | u32::from(self.on_demand) << 6
            | u32::from(self.relaxed_ordering) << 20
    }
}

/// What lets this end's device into a part of a region.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LocalKey {
    lkey: u32,
    domain: u32,
    start: u64,
    end: u64,
}

impl LocalKey {
    /// Whether it was given by that domain for that range.
    #[inline(always)]
    pub(super) fn covers(&self, domain: u32, address: u64, length: u32) -> bool {
        let Some(end) = address.checked_add(length.into()) else { return false };
        self.domain == domain && self.start <= address && end <= self.end
    }

    #[inline]
    pub(super) const fn lkey(self) -> u32 {
        self.lkey
    }

    /// What the device calls it, and where the memory lies that it is good for: where it was given by that domain for that range.
    #[cfg(feature = "mlx5")]
    #[inline]
    pub(crate) fn within(
        self,
        domain: &ProtectionDomain,
        address: u64,
        length: u32,
    ) -> Option<(u32, core::ptr::NonNull<u8>, u64)> {
        let start = usize::try_from(self.start).ok()?;
        let start = core::ptr::NonNull::new(core::ptr::with_exposed_provenance_mut(start))?;
        let bytes = self.end.saturating_sub(self.start);
        self.covers(domain.number(), address, length).then_some((self.lkey, start, bytes))
    }
}

impl fmt::Debug for LocalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalKey({:#x})", self.lkey)
    }
}

/// What a peer must know to reach a part of a region: plain numbers, to be sent to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RemoteKey {
    /// Where the part begins.
    pub address: u64,
    /// Its bytes.
    pub length: u64,
    /// The key.
    pub rkey: u32,
}

impl RemoteKey {
    /// The place so many bytes behind its beginning; `None` where fewer than `length` bytes are left there.
    #[must_use]
    pub fn place(&self, offset: u64, length: u64) -> Option<RemotePlace> {
        let fits = offset.checked_add(length).is_some_and(|end| end <= self.length);
        let address = self.address.checked_add(offset)?;
        fits.then_some(RemotePlace { address, key: self.rkey })
    }
}

/// Queue pairs and regions that may be used together.
#[derive(Clone)]
pub struct ProtectionDomain {
    inner: Rc<Inner>,
}

struct Inner {
    /// Dropped before the domain: they are what it was asked to hold.
    regions: RefCell<Vec<Rc<Registration>>>,
    borrowed: RefCell<Vec<raw::Borrowed>>,
    domain: Rc<raw::Domain>,
    device: Device,
    number: u32,
    registered: Cell<u64>,
}

impl fmt::Debug for ProtectionDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProtectionDomain")
            .field("device", &self.inner.device.name())
            .field("registered_bytes", &self.inner.registered.get())
            .finish_non_exhaustive()
    }
}

/// Domains are told apart by a number that none has twice.
static NUMBERS: AtomicU32 = AtomicU32::new(1);

impl ProtectionDomain {
    /// A domain of that device.
    ///
    /// # Errors
    /// What the library says.
    pub fn new(device: &Device) -> Result<Self, VerbsError> {
        let domain =
            raw::Domain::make(device.context()).map_err(|e| VerbsError::os("ibv_alloc_pd", e))?;
        let number = NUMBERS
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |number| number.checked_add(1))
            .map_err(|last| VerbsError::Limit {
                field: "protection domains of this process",
                asked: u64::from(last) + 1,
                most: u64::from(last),
            })?;
        let (regions, borrowed, registered) =
            (RefCell::default(), RefCell::default(), Cell::new(0));
        let inner = Inner { regions, borrowed, domain, device: device.clone(), number, registered };
        Ok(Self { inner: Rc::new(inner) })
    }

    /// Its device.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.inner.device
    }

    pub(crate) fn raw(&self) -> &Rc<raw::Domain> {
        &self.inner.domain
    }

    /// It, and all memory that was registered with it, for whoever keeps that.
    pub(super) fn registered(&self) -> Rc<dyn Any> {
        Rc::<Inner>::clone(&self.inner)
    }

    #[inline]
    pub(super) fn number(&self) -> u32 {
        self.inner.number
    }

    /// Whether each segment is memory that this domain has registered, and how many bytes they have together.
    #[inline]
    pub(super) fn check(
        &self,
        segments: &[Segment<LocalKey>],
        sge_max: u32,
    ) -> Result<u64, PostError> {
        if segments.len() > usize::try_from(sge_max).unwrap_or(0) {
            return Err(Misuse::TooLong.into());
        }
        let mut bytes = 0_u64;
        for segment in segments {
            if !segment.key.covers(self.number(), segment.address, segment.length) {
                return Err(Misuse::ForeignKey.into());
            }
            bytes = bytes.saturating_add(u64::from(segment.length));
        }
        Ok(bytes)
    }

    /// Bytes registered.
    #[must_use]
    pub fn registered_bytes(&self) -> u64 {
        self.inner.registered.get()
    }

    /// Maps memory, in the largest pages that can be had, and registers it. It stays so until the domain and all that was made of it
    /// are gone.
    ///
    /// # Errors
    /// [`VerbsError::Memory`], or what the library says: ENOMEM where so much may not be locked, EOPNOTSUPP for `on_demand` on devices
    /// without.
    pub fn register(&self, bytes: usize, access: Access) -> Result<Region, VerbsError> {
        let registration = Rc::new(self.registration(bytes, access)?);
        self.keep(&registration);
        Ok(Region { registration, domain: self.clone() })
    }

    /// The same, for tables and buffers of this process: lent once, and seen by no peer.
    pub(super) fn register_arena(&self, bytes: usize) -> Result<Arena, VerbsError> {
        let arena = raw::Arena::of(self.registration(bytes, Access::LOCAL)?);
        self.keep(arena.registration());
        Ok(Arena { raw: arena, domain: self.clone() })
    }

    /// Registers the memory of a region of another domain, of another device perhaps, with this one, too: both see the same bytes.
    ///
    /// # Errors
    /// What the library says.
    pub fn register_also(&self, region: &Region, access: Access) -> Result<Region, VerbsError> {
        let memory = Rc::clone(region.registration.memory());
        let registration = Rc::new(self.registration_of(memory, access)?);
        self.keep(&registration);
        Ok(Region { registration, domain: self.clone() })
    }

    fn registration(&self, bytes: usize, access: Access) -> Result<Registration, VerbsError> {
        let memory = Mapping::anonymous(bytes, PagePolicy::Best).map_err(VerbsError::Memory)?;
        self.registration_of(Rc::new(memory), access)
    }

    fn registration_of(
        &self,
        memory: Rc<Mapping>,
        access: Access,
    ) -> Result<Registration, VerbsError> {
        Registration::make(&self.inner.domain, memory, access.bits())
            .map_err(|e| VerbsError::os("ibv_reg_mr", e))
    }

    fn keep(&self, registration: &Rc<Registration>) {
        let length = u64::try_from(registration.memory().len()).unwrap_or(0);
        self.inner.regions.borrow_mut().push(Rc::clone(registration));
        self.inner.registered.set(self.inner.registered.get().saturating_add(length));
    }

    /// Keeps memory of somebody else's registered, and says what lets the device into it.
    pub(crate) fn keep_borrowed(
        &self,
        borrowed: raw::Borrowed,
        (start, bytes): (u64, u64),
    ) -> LocalKey {
        let lkey = borrowed.key();
        self.inner.borrowed.borrow_mut().push(borrowed);
        self.inner.registered.set(self.inner.registered.get().saturating_add(bytes));
        LocalKey { lkey, domain: self.number(), start, end: start.saturating_add(bytes) }
    }

    fn key_of(&self, registration: &Registration) -> LocalKey {
        let ((lkey, _), memory) = (registration.keys(), registration.memory());
        let start = u64::try_from(memory.as_ptr().as_ptr().expose_provenance()).unwrap_or(0);
        let end = start.saturating_add(u64::try_from(memory.len()).unwrap_or(0));
        LocalKey { lkey, domain: self.number(), start, end }
    }
}

/// Memory that the device of a domain may touch where it was posted, and that is this process's own else.
#[derive(Debug)]
pub(super) struct Arena {
    raw: raw::Arena,
    domain: ProtectionDomain,
}

impl Arena {
    /// The memory. Once.
    pub(super) fn bump(&self) -> Option<Bump<'_>> {
        self.raw.bump()
    }

    /// What a port must know to hand buffers in it to the device.
    pub(super) fn loans<Q: Queues>(&self) -> Loans<Q::Pair, &Q::Completions> {
        self.raw.loans::<Q>(self.domain.key_of(self.raw.registration()))
    }
}

/// Memory that the device of a domain may touch. It is seen as lines of atomics, since a device, or a peer through it, may
/// write while somebody reads.
#[derive(Clone)]
pub struct Region {
    registration: Rc<Registration>,
    domain: ProtectionDomain,
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region").field("bytes", &self.len()).finish_non_exhaustive()
    }
}

impl Region {
    /// The memory.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        self.registration.lines()
    }

    /// Its bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.registration.memory().len()
    }

    /// Never: a region has at least a page.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pages that it got.
    #[must_use]
    pub fn report(&self) -> &PageReport {
        self.registration.memory().report()
    }

    /// Where it begins, as devices address it.
    #[must_use]
    pub fn address(&self) -> u64 {
        u64::try_from(self.registration.memory().as_ptr().as_ptr().expose_provenance()).unwrap_or(0)
    }

    /// What lets this end's device into all of it.
    #[must_use]
    pub fn local_key(&self) -> LocalKey {
        self.domain.key_of(&self.registration)
    }

    /// A part of it, for a work request; `None` where it does not lie within.
    #[must_use]
    pub fn segment(&self, offset: u64, length: u32) -> Option<Segment<LocalKey>> {
        let key = self.local_key();
        let address = self.address().checked_add(offset)?;
        key.covers(self.domain.number(), address, length).then_some(Segment {
            address,
            length,
            key,
        })
    }

    /// What a peer must know to reach it. What the peer may do there was said when it was registered.
    #[must_use]
    pub fn remote_key(&self) -> RemoteKey {
        let (_, rkey) = self.registration.keys();
        RemoteKey { address: self.address(), length: u64::try_from(self.len()).unwrap_or(0), rkey }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_good_for_its_bytes_and_its_domain_alone() {
        let key = LocalKey { lkey: 7, domain: 3, start: 4096, end: 8192 };
        assert!(key.covers(3, 4096, 4096) && key.covers(3, 8192, 0) && key.covers(3, 5000, 1));
        assert!(!key.covers(2, 4096, 1), "another domain");
        assert!(!key.covers(3, 4095, 1) && !key.covers(3, 8192, 1) && !key.covers(3, 8000, 193));
        assert!(!key.covers(3, u64::MAX, 2), "an end beyond all memory");
    }

    #[test]
    fn a_remote_place_lies_within() {
        let key = RemoteKey { address: 1 << 40, length: 4096, rkey: 9 };
        assert_eq!(key.place(96, 4000), Some(RemotePlace { address: (1 << 40) + 96, key: 9 }));
        assert_eq!(key.place(97, 4000), None);
        assert_eq!(key.place(u64::MAX, 2), None);
    }

    #[test]
    fn access_has_the_bits_of_the_header() {
        assert_eq!(Access::LOCAL.bits(), 1);
        assert_eq!(Access::REMOTE.bits(), 1 | 2 | 4 | 8);
        let all = Access { relaxed_ordering: true, on_demand: true, ..Access::REMOTE };
        assert_eq!(all.bits(), 0xf | 1 << 6 | 1 << 20);
    }
}
