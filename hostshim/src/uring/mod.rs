//! Rings of io_uring: opened, mapped and registered with, by what the kernel can and not by what it is called.
//!
//! ```text
//!   UringConfig ──> settle   flags of io_uring_setup(2), stepped down one by one
//!                   probe    the rest: tried on a small ring that is closed again
//!                     |
//!                   Uring ── ring()          both queues, the system call of a turn, memory for buffers: dataplane::uring::Ring
//!                         ── streams()       connections on it
//!                         ── provide()       buffers that the kernel receives into
//!                         ── features()      which paths are taken, which fallbacks and why
//!                         ── table of files, buffers, rings of provided buffers
//! ```
//!
//! A ring belongs to the thread that opened it (`SINGLE_ISSUER`, and the index of a registered ring is the thread's), so it
//! is not `Send`. On drop what is under way is cancelled and waited for; then its memory is unmapped, and it closes.

mod entry;
mod error;
mod feature;
mod probe;
mod settle;

use core::cell::Cell;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::time::Duration;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use spinwire_dataplane::raw::line::{LINE_BYTES, Line};
use spinwire_dataplane::stream::provided::ProvidedBuffers;
use spinwire_dataplane::stream::{StreamConfig, StreamFeatures, Streams};
use spinwire_dataplane::uring::{BadRing, Ring, RingMemory};
use spinwire_layouts::uring::{
    self as layout, BufReg, IoVec, Napi, Params, QueryOpcodes, RsrcRegister, RsrcUpdate,
    RsrcUpdate2, SyncCancelReg, Timespec, buffer_ring, cancel, rsrc, setup,
};

pub use entry::RingEntry;
pub use error::UringError;
pub use feature::{Feature, FeatureSet, Features, Why};

use crate::error::Errno;
use crate::mem::{Mapping, PagePolicy, PageReport};
use crate::raw::uring::{self as raw, BufferRingMemory, Registration, RingMap};
use error::explain;

/// Entries of the greatest submission queue, and of the greatest completion queue (io_uring_setup(2)).
pub const ENTRIES_MAX: u32 = 32_768;
/// See [`ENTRIES_MAX`].
pub const COMPLETIONS_MAX: u32 = 65_536;
/// Buffers of the greatest ring of provided buffers.
pub const PROVIDED_MAX: u32 = 32_768;

/// What a ring shall be like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UringConfig {
    /// Entries of the submission queue; the kernel rounds up to a power of two.
    pub entries: u32,
    /// Entries of the completion queue, at least as many; rounded up too. 0: twice the submission queue.
    pub completions: u32,
    /// Are sizes that are too great to become the greatest, and not to be refused?
    pub clamp: bool,
    /// Have a thread of the kernel take the entries.
    pub sq_poll: Option<SqPoll>,
    /// Slots of the table of files; 0: none.
    pub files: u32,
    /// Have waits for completions poll the network queues.
    pub napi: Option<NapiConfig>,
    /// Bytes of memory that entries may name, for whatever is placed on the ring: see [`Uring::ring`].
    pub arena_bytes: usize,
    /// What is not to be used though the kernel had it.
    pub deny: FeatureSet,
}

impl Default for UringConfig {
    fn default() -> Self {
        Self {
            entries: 256,
            completions: 4096,
            clamp: false,
            sq_poll: None,
            files: 0,
            napi: None,
            arena_bytes: 0,
            deny: FeatureSet::EMPTY,
        }
    }
}

impl UringConfig {
    /// A ring for streams: a table of files and an arena for so many connections.
    #[must_use]
    pub fn for_streams(streams: &StreamConfig) -> Self {
        Self {
            entries: streams.conns.saturating_mul(2).clamp(64, 4096),
            completions: streams.conns.saturating_mul(8).clamp(1024, COMPLETIONS_MAX),
            clamp: true,
            // A place is free again a moment after its row is.
            files: streams.conns.saturating_add(64),
            arena_bytes: streams.arena_bytes(),
            ..Self::default()
        }
    }
}

/// A thread of the kernel that takes the entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SqPoll {
    /// After how long without work it sleeps; the kernel counts in milliseconds.
    pub idle: Duration,
    /// On which CPU it runs; `None`: anywhere.
    pub cpu: Option<u32>,
}

/// Busy polling of network queues by who waits for completions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NapiConfig {
    /// How long; the kernel counts in microseconds.
    pub busy_poll: Duration,
    /// Whether interrupts of the queue stay off meanwhile.
    pub prefer: bool,
}

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
    /// The index and the right to submit are this thread's.
    stays: PhantomData<*const ()>,
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
        let trial = params.flags & !(setup::SQPOLL | setup::SQ_AFF);
        probe::run(trial, config.deny, &mut found)
            .map_err(|e| explain("io_uring_register", e, needed))?;
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
        Ok(Ring::new(memory, arena, self.enter_handle()))
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
    pub fn streams<'m>(
        &self,
        ring: &'m Ring<'m, RingEntry<'m>>,
        group: u16,
        config: &StreamConfig,
    ) -> Result<Streams<'m, RingEntry<'m>>, UringError> {
        let config = StreamConfig { features: self.stream_features(), ..*config };
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
            direct_files: self.files > 0,
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
        self.register(Registration::NoBuffers, 0).map(drop)
    }

    /// A ring of provided buffers for the group `group`, empty, with `entries` places: a power of two. `use_up` says whether a
    /// buffer is used up piece by piece.
    ///
    /// # Errors
    /// [`UringError::Without`] where there are no such rings, [`UringError::Size`], else what the kernel says: EEXIST where
    /// the group has one.
    pub fn provide_buffers(
        &self,
        group: u16,
        entries: u32,
        use_up: UseUp,
    ) -> Result<ProvidedRing<'_>, UringError> {
        let needs = match use_up {
            UseUp::Whole => Feature::BufferRings,
            UseUp::Pieces => Feature::IncrementalBuffers,
        };
        if !self.features.has(needs) {
            return Err(UringError::Without(needs));
        }
        if !entries.is_power_of_two() || entries > PROVIDED_MAX {
            return Err(UringError::Size {
                field: "entries",
                asked: entries,
                least: 1,
                most: PROVIDED_MAX,
            });
        }
        let bytes = usize::try_from(entries).unwrap_or(0) * size_of::<layout::Buf>();
        let needed = u64::try_from(bytes).unwrap_or(u64::MAX);
        let memory = BufferRingMemory::new(bytes).map_err(|e| explain("mmap", e, needed))?;
        let ring_addr = address(memory.as_ptr().as_ptr().cast_const());
        let flags = if use_up == UseUp::Pieces { buffer_ring::INC } else { 0 };
        let about = BufReg { ring_addr, ring_entries: entries, bgid: group, flags, ..BufReg::ZERO };
        self.register(Registration::BufferRing(&about), needed)?;
        Ok(ProvidedRing { of: self, memory, group, entries })
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
        if let Err(e) = raw::register(self.fd.as_fd(), Registration::Napi(&mut polling)) {
            self.features.lacks(Feature::Napi, Why::Refused(e));
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
    /// go within some seconds, the memory stays mapped for good.
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
                Ok(_cancelled) => {}
                Err(e) if e.number() == libc::EINTR => {}
                Err(e) => return e.number() == libc::ENOENT,
            }
        }
        false
    }
}

/// How a provided buffer is used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UseUp {
    /// Whole, by one completion.
    Whole,
    /// Piece by piece, by several: [`Feature::IncrementalBuffers`].
    Pieces,
}

/// A ring of provided buffers. The kernel lets go of it on drop.
#[derive(Debug)]
pub struct ProvidedRing<'u> {
    of: &'u Uring,
    memory: BufferRingMemory,
    group: u16,
    entries: u32,
}

impl ProvidedRing<'_> {
    /// The places: four [`layout::Buf`] in a line. The upper 16 bits of the second word are the tail, and the kernel may write
    /// addresses and lengths of a ring whose buffers are used up piece by piece.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        self.memory.lines()
    }

    /// The number of the group.
    #[must_use]
    pub const fn group(&self) -> u16 {
        self.group
    }

    /// Places.
    #[must_use]
    pub const fn entries(&self) -> u32 {
        self.entries
    }
}

impl Drop for ProvidedRing<'_> {
    fn drop(&mut self) {
        let about = BufReg { bgid: self.group, ..BufReg::ZERO };
        // Fails only for a group that is not registered. The kernel has pinned the pages, so the memory may go.
        let _gone = self.of.register(Registration::NoBufferRing(&about), 0);
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

fn check_sizes(config: &UringConfig) -> Result<(), UringError> {
    let within = |field, asked: u32, least: u32, most: u32| {
        let too_great = asked > most && !config.clamp;
        if asked < least || too_great {
            return Err(UringError::Size { field, asked, least, most });
        }
        Ok(())
    };
    within("entries", config.entries, 1, ENTRIES_MAX)?;
    if config.completions == 0 {
        return Ok(());
    }
    within("completions", config.completions, config.entries, COMPLETIONS_MAX)
}

/// Bytes of the memory of a ring, about.
fn bytes_about(entries: u32, completions: u32) -> u64 {
    let entries = entries.min(ENTRIES_MAX).next_power_of_two();
    let completions = completions.min(COMPLETIONS_MAX).next_power_of_two().max(2 * entries);
    u64::from(entries) * 68 + u64::from(completions) * 16 + 4096
}

/// The flags that suit a thread that polls, and those that were asked for.
fn wanted(config: &UringConfig) -> FeatureSet {
    let always = [
        Feature::SubmitAll,
        Feature::TaskrunFlag,
        Feature::CoopTaskrun,
        Feature::SingleIssuer,
        Feature::DeferTaskrun,
        Feature::NoSqArray,
    ];
    let asked = [
        (Feature::Clamp, config.clamp),
        (Feature::CqSize, config.completions != 0),
        (Feature::SqPoll, config.sq_poll.is_some()),
    ];
    let asked = asked.into_iter().filter(|(_, asked)| *asked).map(|(feature, _)| feature);
    let all = always.into_iter().chain(asked);
    all.filter(|feature| !config.deny.has(*feature)).collect()
}

fn params(config: &UringConfig, flags: u32) -> Params {
    let poll = config.sq_poll.filter(|_| flags & setup::SQPOLL != 0);
    let pinned = poll.and_then(|poll| poll.cpu);
    let flags = if pinned.is_some() { flags } else { flags & !setup::SQ_AFF };
    let idle = poll.map_or(0, |poll| poll.idle.as_millis());
    Params {
        flags,
        cq_entries: if flags & setup::CQSIZE == 0 { 0 } else { config.completions },
        sq_thread_cpu: pinned.unwrap_or(0),
        sq_thread_idle: u32::try_from(idle).unwrap_or(u32::MAX),
        ..Params::ZERO
    }
}

/// Says of each flag of the set-up whether it is there, and if not why.
fn note_setup(
    config: &UringConfig,
    wanted: FeatureSet,
    have: FeatureSet,
    flags: u32,
    found: &mut Features,
) {
    let possible = settle::compatible(wanted);
    for feature in Feature::ALL.iter().copied().filter(|feature| feature.setup_flag() != 0) {
        // A kernel may take a flag back: SINGLE_ISSUER, where it has a thread of its own.
        if flags & feature.setup_flag() != 0 {
            found.found(feature);
        } else if config.deny.has(feature) {
            found.lacks(feature, Why::Denied);
        } else if possible.has(feature) && !have.has(feature) {
            found.lacks(feature, Why::Refused(Errno::new(libc::EINVAL)));
        } else {
            found.lacks(feature, Why::NotAsked);
        }
    }
}

/// What the data plane counts on, and every kernel since 5.11 has.
fn is_young_enough(features: u32) -> Result<(), UringError> {
    use layout::features as f;
    let counted_on = [f::SINGLE_MMAP, f::NODROP, f::SUBMIT_STABLE, f::FAST_POLL, f::EXT_ARG];
    let missing = f::LIST.iter().find(|number| {
        let bit = u32::try_from(number.value).unwrap_or(0);
        counted_on.contains(&bit) && features & bit == 0
    });
    missing.map_or(Ok(()), |number| Err(UringError::TooOld { missing: number.name }))
}
