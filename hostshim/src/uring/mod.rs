//! Rings of io_uring: opened, mapped and registered with, by what the kernel can and not by what it is called.
//!
//! ```text
//!   UringConfig ──> settle   flags of io_uring_setup(2), stepped down one by one
//!                   probe    the rest: tried on a small ring that is closed again
//!                     |
//!                   Uring ── ring()          both queues, the system call of a turn, memory for buffers: dataplane::uring::Ring
//!                         ── streams()       connections on it
//!                         ── provide()       buffers that the kernel receives into
//!                         ── news()          a descriptor that tells when there is something to turn for
//!                         ── features()      which paths are taken, which fallbacks and why
//!                         ── table of files, buffers, rings of provided buffers
//! ```
//!
//! A ring belongs to the thread that opened it (`SINGLE_ISSUER`, and the index of a registered ring is the thread's), so it
//! is not `Send`. On drop what is under way is cancelled and waited for; then its memory is unmapped, and it closes.

mod config;
mod entry;
mod error;
mod feature;
mod fixed;
mod news;
mod probe;
mod provided;
mod settle;

use core::cell::Cell;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::time::Duration;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use spinwire_dataplane::raw::line::{LINE_BYTES, Line};
use spinwire_dataplane::stream::provided::ProvidedBuffers;
use spinwire_dataplane::stream::{StreamConfig, StreamFeatures, Streams};
use spinwire_dataplane::uring::{BadRing, Paths, Ring, RingMemory};
use spinwire_layouts::uring::{
    BufReg, IoVec, Napi, Params, QueryOpcodes, RsrcRegister, RsrcUpdate, RsrcUpdate2,
    SyncCancelReg, Timespec, cancel, rsrc, setup,
};

pub use config::{COMPLETIONS_MAX, ENTRIES_MAX, NapiConfig, PROVIDED_MAX, SqPoll, UringConfig};
pub use entry::RingEntry;
pub use error::UringError;
pub use feature::{Feature, FeatureSet, Features, Why};
pub use news::News;
pub use provided::{ProvidedRing, UseUp};

use crate::error::Errno;
use crate::mem::{Mapping, PagePolicy, PageReport};
use crate::raw::uring::{self as raw, Registration, RingMap};
use config::{bytes_about, check_sizes, is_young_enough, note_setup, params, wanted};
use error::explain;

/// A ring. See the module for what it offers.
#[derive(Debug)]
pub struct Uring {
    map: RingMap,
    fd: OwnedFd,
    params: Params,
    features: Features,
    /// The ring's place in the table of this thread.
    index: Option<u32>,
    files: u32,
    arena: ManuallyDrop<Option<Mapping>>,
    is_taken: Cell<bool>,
    /// Waits for completions poll the queues of the network.
    polls_queues: bool,
    /// Buffers that the arena is registered as.
    fixed: Cell<u32>,
    /// The index and the right to submit are this thread's.
    stays: PhantomData<*const ()>,
}

/// Whether this process may open rings, enter them and register with them: the kernel is asked for one without entries, which it refuses
/// as such where it would give one with some (io_uring_setup(2)), and to enter and register with what is no ring. Nothing is opened.
///
/// # Errors
/// [`UringError`] says why there is none, and what to do.
pub fn is_allowed() -> Result<(), UringError> {
    let mut of_nothing = Params::ZERO;
    match raw::setup(0, &mut of_nothing) {
        Ok(_a_ring) => {}
        Err(e) if e.number() == libc::EINVAL => {}
        Err(e) => return Err(explain("io_uring_setup", e, 0)),
    }
    let no_ring = std::io::stdin();
    let registered = raw::register(no_ring.as_fd(), Registration::NoBuffers);
    let answers = [raw::enter(NOWHERE, 0, 0, 0), registered];
    match answers.into_iter().filter_map(Result::err).find(is_filtered) {
        Some(errno) => Err(UringError::Forbidden { errno }),
        None => Ok(()),
    }
}

/// A descriptor that nothing has.
const NOWHERE: i32 = -1;

/// The answer of a filter that lets rings be opened, and does not let this call through.
const fn is_filtered(answer: &Errno) -> bool {
    matches!(answer.number(), libc::EPERM | libc::EACCES | libc::ENOSYS)
}

/// What the answer to a call about a ring means that was opened.
fn explain_later(operation: &'static str, errno: Errno, needed: u64) -> UringError {
    if is_filtered(&errno) {
        UringError::Forbidden { errno }
    } else {
        explain(operation, errno, needed)
    }
}

impl Uring {
    /// Opens a ring for the calling thread. Where little memory may be locked and closed rings still count, it waits for that, for half
    /// a second at most.
    ///
    /// # Errors
    /// [`UringError`] says why there is none, and what to do.
    pub fn open(config: &UringConfig) -> Result<Self, UringError> {
        let mut nap = NAP_FIRST;
        loop {
            match Self::open_now(config) {
                Err(e) if nap <= NAP_LAST && e.may_pass() => std::thread::sleep(nap),
                answer => return answer,
            }
            nap = nap.saturating_mul(2);
        }
    }

    fn open_now(config: &UringConfig) -> Result<Self, UringError> {
        check_sizes(config)?;
        let wanted = wanted(config);
        let needed = bytes_about(config.entries, config.completions);
        let mut found = Features::default();
        let attempt = |flags| {
            let mut params = params(config, flags);
            raw::setup(config.entries, &mut params).map(|fd| (fd, params))
        };
        let ((fd, params), have) = settle::settle(wanted, setup::SQ_AFF, attempt)
            .map_err(|e| explain("io_uring_setup", e, needed))?;
        note_setup(config, wanted, have, params.flags, &mut found);
        is_young_enough(params.features)?;
        let map = RingMap::new(fd.as_fd(), &params).map_err(|e| explain("mmap", e, needed))?;
        RingMemory::new(map.rings(), map.sqes(), &params).map_err(UringError::Bad)?;
        // For nothing: what is not let through would otherwise be found out by the first turn, which has nobody to tell it to.
        raw::enter(fd.as_raw_fd(), 0, 0, 0)
            .map_err(|e| explain_later("io_uring_enter", e, needed))?;
        let trial = params.flags & !(setup::SQPOLL | setup::SQ_AFF);
        probe::run(trial, config.deny, &mut found)
            .map_err(|e| explain_later("io_uring_register", e, needed))?;
        let stays = PhantomData;
        let arena = match config.arena_bytes {
            0 => None,
            bytes => Some(Mapping::anonymous(bytes, PagePolicy::Best).map_err(UringError::Arena)?),
        };
        let mut ring = Self {
            map,
            fd,
            params,
            features: found,
            index: None,
            files: 0,
            arena: ManuallyDrop::new(arena),
            is_taken: Cell::new(false),
            polls_queues: false,
            fixed: Cell::new(0),
            stays,
        };
        ring.register_itself(config.deny);
        ring.register_files(config.files)?;
        ring.poll_queues(config.napi);
        Ok(ring)
    }

    /// The ring as the data plane turns it, with the memory that its entries may name. Once: there is one owner of either queue.
    ///
    /// # Errors
    /// [`UringError::Taken`] the second time.
    pub fn ring(&self) -> Result<Ring<'_, RingEntry<'_>>, UringError> {
        if self.is_taken.replace(true) {
            return Err(UringError::Taken);
        }
        let memory = self.memory().map_err(UringError::Bad)?;
        let arena = self.arena.as_ref().map_or_else(raw::no_arena, raw::arena);
        Ok(Ring::new(memory, arena, self.enter_handle()).with_paths(self.paths()))
    }

    /// What of its ways through the kernel the flags of the set-up do not say.
    const fn paths(&self) -> Paths {
        let registered = self.index.is_some();
        Paths::NONE
            .with_either(registered, Paths::REGISTERED_RING, Paths::RING_BY_DESCRIPTOR)
            .with_if(self.polls_queues, Paths::NAPI)
    }

    /// The pages of the arena; `None` where there is none.
    #[must_use]
    pub fn arena_report(&self) -> Option<&PageReport> {
        self.arena.as_ref().map(Mapping::report)
    }

    /// Streams on this ring, with what it can do, and buffers that the kernel receives into.
    ///
    /// # Errors
    /// [`UringError::Place`] where the arena is too small ([`StreamConfig::arena_bytes`]); those of [`Uring::provide`].
    #[expect(
        clippy::large_stack_frames,
        reason = "set-up: the streams are made here, and moved out"
    )]
    pub fn streams<'m>(
        &self,
        ring: &'m Ring<'m, RingEntry<'m>>,
        group: u16,
        config: &StreamConfig,
    ) -> Result<Streams<'m, RingEntry<'m>>, UringError> {
        let mut features = self.stream_features();
        if features.send_zero_copy && config.zero_copy_min != 0 {
            // Without, each send has its pages pinned, which is only slower.
            features.fixed_buffers = self.register_arena().is_ok();
        }
        let config = StreamConfig { features, ..*config };
        let streams = Streams::place(ring, group, &config).map_err(UringError::Place)?;
        self.provide(streams.buffers())?;
        Ok(streams)
    }

    /// Lets the kernel receive into a group of buffers that was placed on the ring.
    ///
    /// # Errors
    /// [`UringError::Without`] where there are no such rings, else what the kernel says: EEXIST where the group has one.
    pub fn provide(&self, buffers: &ProvidedBuffers<'_>) -> Result<(), UringError> {
        if !self.features.has(Feature::BufferRings) {
            return Err(UringError::Without(Feature::BufferRings));
        }
        let (ring_addr, ring_entries) = buffers.registration();
        let about = BufReg { ring_addr, ring_entries, bgid: buffers.group(), ..BufReg::ZERO };
        self.register(Registration::BufferRing(&about), u64::from(ring_entries) * 16).map(drop)
    }

    /// What streams on this ring can make use of.
    #[must_use]
    pub fn stream_features(&self) -> StreamFeatures {
        let has = |feature| self.features.has(feature);
        StreamFeatures {
            accept_multishot: has(Feature::MultishotAccept),
            recv_multishot: has(Feature::MultishotReceive),
            bundles: has(Feature::Bundles),
            send_zero_copy: has(Feature::SendZc),
            sendmsg_zero_copy: has(Feature::SendZc) && has(Feature::SendMsgZc),
            fixed_buffers: self.fixed.get() > 0,
            direct_files: self.files > 0 && has(Feature::PromptClose),
        }
    }

    /// What the data plane fills and harvests.
    ///
    /// # Errors
    /// None that [`Uring::open`] has not had: it has looked.
    fn memory(&self) -> Result<RingMemory<'_>, BadRing> {
        RingMemory::new(self.map.rings(), self.map.sqes(), &self.params)
    }

    /// By what the data plane enters the kernel.
    #[must_use]
    pub fn enter_handle(&self) -> RingEntry<'_> {
        RingEntry::new(self)
    }

    /// Which paths are taken.
    #[must_use]
    pub const fn features(&self) -> &Features {
        &self.features
    }

    /// What the kernel answered: sizes, flags, `features`, offsets.
    #[must_use]
    pub const fn params(&self) -> &Params {
        &self.params
    }

    /// Slots of the table of files; 0 where there is none.
    #[must_use]
    pub const fn file_slots(&self) -> u32 {
        self.files
    }

    /// Puts `file` into a slot of the table of files, or empties the slot. The table keeps a reference of its own.
    ///
    /// # Errors
    /// [`UringError::Without`] where there is no table, [`UringError::Size`] where it has no such slot, else what the kernel says.
    pub fn set_file(&self, slot: u32, file: Option<BorrowedFd<'_>>) -> Result<(), UringError> {
        if self.files == 0 {
            return Err(UringError::Without(Feature::Files));
        }
        if slot >= self.files {
            let most = self.files.saturating_sub(1);
            return Err(UringError::Size { field: "slot", asked: slot, least: 0, most });
        }
        let number = file.map_or(-1, |file| file.as_raw_fd());
        let data = address(core::ptr::from_ref(&number).cast());
        let update = RsrcUpdate2 { offset: slot, data, nr: 1, ..RsrcUpdate2::ZERO };
        self.register(Registration::FilesUpdate(&update), 0).map(drop)
    }

    /// Registers pieces of memory as buffers 0, 1, .., for operations that name a buffer by its index. The kernel pins
    /// them until the ring closes or [`Uring::forget_buffers`].
    ///
    /// # Errors
    /// [`UringError::Without`] where the ring has no such table, [`UringError::MemlockTooLow`] where so much may not be
    /// pinned, else what the kernel says: EBUSY where there are registered buffers already.
    pub fn register_buffers(&self, pieces: &[&[Line]]) -> Result<(), UringError> {
        if !self.features.has(Feature::Buffers) {
            return Err(UringError::Without(Feature::Buffers));
        }
        let piece = |lines: &&[Line]| {
            let bytes = lines.len().saturating_mul(LINE_BYTES);
            IoVec {
                iov_base: address(lines.as_ptr().cast()),
                iov_len: u64::try_from(bytes).unwrap_or(u64::MAX),
            }
        };
        let pieces: Vec<IoVec> = pieces.iter().map(piece).collect();
        let nr = u32::try_from(pieces.len()).unwrap_or(u32::MAX);
        let data = address(pieces.as_ptr().cast());
        let table = RsrcRegister { nr, data, ..RsrcRegister::ZERO };
        let needed = pieces.iter().fold(0_u64, |sum, piece| sum.saturating_add(piece.iov_len));
        self.register(Registration::Buffers(&table), needed).map(drop)
    }

    /// Ends what [`Uring::register_buffers`] began. Operations under way keep the memory pinned until they end.
    ///
    /// # Errors
    /// What the kernel says: ENXIO where there are none.
    pub fn forget_buffers(&self) -> Result<(), UringError> {
        self.fixed.set(0);
        self.register(Registration::NoBuffers, 0).map(drop)
    }

    fn register(&self, what: Registration<'_>, needed: u64) -> Result<u32, UringError> {
        raw::register(self.fd.as_fd(), what).map_err(|e| explain("io_uring_register", e, needed))
    }

    fn register_itself(&mut self, deny: FeatureSet) {
        if deny.has(Feature::RegisteredRing) {
            return self.features.lacks(Feature::RegisteredRing, Why::Denied);
        }
        let data = u64::try_from(self.fd.as_raw_fd()).unwrap_or(u64::MAX);
        let mut place = RsrcUpdate { offset: u32::MAX, resv: 0, data };
        match raw::register(self.fd.as_fd(), Registration::Ring(&mut place)) {
            Ok(_one) => {
                self.index = Some(place.offset);
                self.features.found(Feature::RegisteredRing);
            }
            // ENXIO, for instance: this thread has 16 of them already.
            Err(e) => self.features.lacks(Feature::RegisteredRing, Why::Refused(e)),
        }
    }

    fn register_files(&mut self, slots: u32) -> Result<(), UringError> {
        if slots == 0 || !self.features.has(Feature::Files) {
            return Ok(());
        }
        let table = RsrcRegister { nr: slots, flags: rsrc::SPARSE, ..RsrcRegister::ZERO };
        match raw::register(self.fd.as_fd(), Registration::Files(&table)) {
            Ok(_none) => {
                self.files = slots;
                Ok(())
            }
            // The kernel refuses a table larger than RLIMIT_NOFILE so.
            Err(e) if e.number() == libc::EMFILE => {
                let limit = crate::limits::open_files().map_or(0, |limit| limit.soft);
                Err(UringError::TooManyFiles { asked: slots, limit })
            }
            Err(e) => Err(explain("io_uring_register", e, u64::from(slots) * 16)),
        }
    }

    fn poll_queues(&mut self, how: Option<NapiConfig>) {
        let Some(how) = how else { return };
        if !self.features.has(Feature::Napi) {
            return;
        }
        let busy_poll_to = u32::try_from(how.busy_poll.as_micros()).unwrap_or(u32::MAX);
        let prefer_busy_poll = u8::from(how.prefer);
        let mut polling = Napi { busy_poll_to, prefer_busy_poll, ..Napi::ZERO };
        match raw::register(self.fd.as_fd(), Registration::Napi(&mut polling)) {
            Ok(_none) => self.polls_queues = true,
            Err(e) => self.features.lacks(Feature::Napi, Why::Refused(e)),
        }
    }
}

/// The kernel takes closed rings apart in its own time, and their memory counts as locked until then: so long a new one waits for
/// that, doubling.
const NAP_FIRST: Duration = Duration::from_millis(1);
const NAP_LAST: Duration = Duration::from_millis(256);

/// How long the end of a ring waits for what the kernel is in the middle of.
const LAST_WAIT: Duration = Duration::from_secs(5);

impl Drop for Uring {
    /// Cancels what is under way and waits for it: the kernel must not write into memory that is given away. Where it will not let
    /// go within five seconds, the memory stays mapped for good.
    fn drop(&mut self) {
        if self.arena.is_some() && self.is_at_rest() {
            drop(self.arena.take());
        }
        if let Some(offset) = self.index {
            let mut place = RsrcUpdate { offset, ..RsrcUpdate::ZERO };
            // The kernel holds the ring open as long as it is in the table; the end of the thread empties it at last.
            let _gone = raw::register(self.fd.as_fd(), Registration::NoRing(&mut place));
        }
    }
}

impl Uring {
    /// Cancels everything. Whether nothing is under way then.
    fn is_at_rest(&self) -> bool {
        let any = SyncCancelReg {
            fd: -1,
            flags: cancel::ANY | cancel::ALL,
            timeout: Timespec {
                tv_sec: i64::try_from(LAST_WAIT.as_secs()).unwrap_or(1),
                tv_nsec: 0,
            },
            ..SyncCancelReg::ZERO
        };
        // More may be found behind what was cancelled; none is left when there is none to be found.
        for _ in 0..1024 {
            match raw::register(self.fd.as_fd(), Registration::Cancel(&any)) {
                // What was asked for is all there is, so the answer is how many were found, and none is no error.
                Ok(0) => return true,
                Ok(_found) => {}
                Err(e) if e.number() == libc::EINTR => {}
                Err(e) => return e.number() == libc::ENOENT,
            }
        }
        false
    }
}

/// What this kernel knows of operations and flags, without a ring.
///
/// # Errors
/// EINVAL, EBADF or whatever a kernel before Linux 6.18 says of a question that it does not know.
pub fn query() -> Result<QueryOpcodes, Errno> {
    raw::query_opcodes()
}

fn address(of: *const u8) -> u64 {
    u64::try_from(of.expose_provenance()).unwrap_or(0)
}
