//! The table of connections, and what callers call.

use core::cell::Cell;
use core::fmt;

use spinwire_layouts::uring::{Cqe, SockAddr};
use spinwire_layouts::word::{to_usize, widen};

use super::provided::{BUFFERS_MAX, Filled, ProvidedBuffers};
use super::row::{Phase, Row, RowAddress, flag, want};
use super::segment::{List, Report, Segment, Segments};
use super::share::{FRAME_BYTES, Owed};
use super::{CloseReason, ConnId, StreamConfig, StreamCounters, StreamEvent, Undone};
use crate::chain::{ChainConfig, ChainTable};
use crate::error::{Fatal, Misuse, PostError, Retry};
use crate::id::{Generation, OpTag, WrId};
use crate::raw::loan::LoanPool;
use crate::raw::place::Exhausted;
use crate::table::{self, Fifos, Key, Timers, wide};
use crate::time::{Instant, Nanos};
use crate::uring::ring::{CHAIN_MAX, UNHEARD};
use crate::uring::{Enter, Ring};

/// Why a service could not be placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlaceError {
    /// The arena of the ring is too small.
    Arena(Exhausted),
    /// The table of chains.
    Chains(crate::chain::PlaceError),
}

impl fmt::Display for PlaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arena(e) => e.fmt(f),
            Self::Chains(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for PlaceError {}

impl From<Exhausted> for PlaceError {
    fn from(value: Exhausted) -> Self {
        Self::Arena(value)
    }
}

/// Completions that are taken from the ring at once.
pub(super) const BATCH: usize = 64;
/// Connections that came when there was no row for them, until they are closed.
const ORPHANS: usize = 64;
/// Resolution of timeouts.
const TICK: Nanos = Nanos::from_millis(1);

/// Lists of rows that wait for buffers, and of rows that have something to report.
pub(super) const LIST: u32 = 0;
/// The list of rows that linger.
pub(super) const PARTING: u32 = 1;

/// In the place of a completion: none.
pub(super) const HEARD: Cqe = Cqe { user_data: UNHEARD, res: 0, flags: 0 };

/// What a chain carries: half a line.
#[derive(Debug)]
#[repr(align(32))]
pub(super) struct Flight {
    pub(super) conn: Cell<Option<ConnId>>,
    pub(super) segments: List,
    /// All segments in one entry.
    pub(super) gathered: Cell<bool>,
    /// Some of it goes uncopied.
    pub(super) uncopied: Cell<bool>,
    pub(super) stage: Cell<Stage>,
}

impl Flight {
    /// Begins anew, for a connection.
    #[inline(always)]
    pub(super) fn begin(&self, conn: ConnId, (gathered, uncopied): (bool, bool)) {
        self.conn.set(Some(conn));
        self.gathered.set(gathered);
        self.uncopied.set(uncopied);
        self.stage.set(Stage::Flying);
    }
}

/// How far a chain is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Operations are under way.
    Flying,
    /// They have ended well; notifications are to come. The connection goes on without it.
    Landed,
    /// They have ended, not all of them well; notifications are to come. The connection waits, as it has to go on from the right byte.
    Stranded,
}

/// Connections of one ring, for one thread. See the [module](super).
#[derive(Debug)]
pub struct Streams<'m, E: Enter> {
    pub(super) ring: &'m Ring<'m, E>,
    pub(super) config: StreamConfig,
    pub(super) rows: &'m [Row],
    free: Fifos<'m>,
    /// Rows that want something, each once ([`Row::listed`]); that wait for buffers; that are to be reported.
    pub(super) wanting: table::Ring<'m, u32>,
    pub(super) parked: Fifos<'m>,
    pub(super) noted: Fifos<'m>,
    /// Rows to which something was refused that others have; and in a list of their own ([`PARTING`]) those that linger, the oldest first, to
    /// which nobody writes any more.
    pub(super) refused: Fifos<'m>,
    /// Connections that have buffers of the service for what they send.
    pub(super) holders: Cell<u32>,
    /// Who waits for many buffers at once.
    pub(super) owed: Cell<Option<Owed>>,
    /// Rows that are about to come free.
    pub(super) ending: Cell<u32>,
    /// A listener waits for a row to come free.
    pub(super) starved: Cell<bool>,
    /// An accept is under way that brings as many as wait.
    pub(super) brings_many: Cell<bool>,
    pub(super) segments: Segments<'m>,
    pub(super) chains: ChainTable<'m>,
    pub(super) flights: &'m [Flight],
    pub(super) buffers: ProvidedBuffers<'m>,
    pub(super) copies: &'m LoanPool<'m>,
    pub(super) frames: &'m LoanPool<'m>,
    pub(super) timers: Timers<'m, ConnId>,
    pub(super) now: Cell<Instant>,
    /// There was a turn, so that it is known what time it is.
    pub(super) began: Cell<bool>,
    /// When it is looked next for who holds buffers that others lack.
    pub(super) hoards_at: Cell<Instant>,
    /// Somebody found no buffer to send since then.
    pub(super) none_to_send: Cell<bool>,
    /// The thread was away: turns that it has to hear all that came meanwhile.
    pub(super) deaf: Cell<u32>,
    /// Completions that were taken from the ring; [`HEARD`] where one was done with out of turn.
    pub(super) batch: &'m [Cell<Cqe>],
    pub(super) batch_at: Cell<usize>,
    pub(super) batch_end: Cell<usize>,
    /// What is left of a completion that has filled several buffers.
    pub(super) rest: Cell<Option<(ConnId, Filled)>>,
    orphans: &'m [Cell<u32>],
    orphan_count: Cell<usize>,
    pub(super) counters: Cell<StreamCounters>,
}

impl StreamConfig {
    /// Bytes that a service of this kind takes in the arena of its ring, with some to spare for alignment.
    #[must_use]
    pub fn arena_bytes(&self) -> usize {
        let conns = wide(self.conns);
        let segments = wide(self.segments);
        let recv = wide(self.recv_buffers.0.clamp(1, BUFFERS_MAX).next_power_of_two());
        let parts = super::row::PARTS_MAX;
        let per_recv = self.recv_buffers.1.next_multiple_of(64).saturating_add(96);
        let per_send = self.send_buffers.1.next_multiple_of(64).saturating_add(16);
        // Lists of rows, and the wheel of timers.
        let per_conn = size_of::<Row>().saturating_add(5 * 16).saturating_add(96);
        let chain = size_of::<Segment<'_>>()
            .saturating_add(size_of::<Flight>())
            .saturating_add(parts.saturating_mul(16).saturating_add(128));
        [
            conns.saturating_mul(per_conn),
            recv.saturating_mul(per_recv),
            wide(self.send_buffers.0).saturating_mul(per_send),
            segments.saturating_mul(chain),
            wide(self.frames()).saturating_mul(80),
            128 << 10,
        ]
        .into_iter()
        .fold(0, usize::saturating_add)
    }
}

impl<'m, E: Enter> Streams<'m, E> {
    /// Places a service in the arena of `ring`. `group` is the number of its group of buffers, which the host registers then
    /// ([`buffers`](Self::buffers)) before the first turn.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn place(
        ring: &'m Ring<'m, E>,
        group: u16,
        config: &StreamConfig,
    ) -> Result<Self, PlaceError> {
        let bump = ring.arena().bump();
        let conns = config.conns;
        let chains = config.segments.max(1);
        let free = Fifos::place(bump, conns, 1)?;
        for slot in 0..conns {
            let _empty_before = free.push_back(LIST, slot);
        }
        let parts = u16::try_from(super::row::PARTS_MAX).unwrap_or(1);
        let buffers = ProvidedBuffers::place(ring.arena(), group, config.recv_buffers)?;
        buffers.want_few();
        let config_of_chains = ChainConfig { chains, entries_max: parts };
        Ok(Self {
            ring,
            config: *config,
            rows: bump.slice_with(wide(conns), |_| Row::free())?,
            free,
            wanting: table::Ring::place(bump, conns, 0)?,
            parked: Fifos::place(bump, conns, 1)?,
            noted: Fifos::place(bump, conns, 1)?,
            refused: Fifos::place(bump, conns, 2)?,
            holders: Cell::new(0),
            owed: Cell::new(None),
            ending: Cell::new(0),
            starved: Cell::new(false),
            brings_many: Cell::new(false),
            segments: Segments::place(bump, config.segments)?,
            chains: ChainTable::place(bump, config_of_chains).map_err(PlaceError::Chains)?,
            flights: bump.slice_with(wide(chains), |_| Flight {
                conn: Cell::new(None),
                segments: List::empty(),
                gathered: Cell::new(false),
                uncopied: Cell::new(false),
                stage: Cell::new(Stage::Flying),
            })?,
            buffers,
            copies: LoanPool::place(bump, config.send_buffers.0, config.send_buffers.1)?,
            frames: LoanPool::place(bump, config.frames(), FRAME_BYTES)?,
            timers: Timers::place(bump, conns, TICK)?,
            now: Cell::new(Instant::ORIGIN),
            began: Cell::new(false),
            hoards_at: Cell::new(Instant::ORIGIN),
            none_to_send: Cell::new(false),
            deaf: Cell::new(0),
            batch: bump.slice_with(BATCH.saturating_add(CHAIN_MAX), |_| Cell::new(HEARD))?,
            batch_at: Cell::new(0),
            batch_end: Cell::new(0),
            rest: Cell::new(None),
            orphans: bump.slice_with(ORPHANS, |_| Cell::new(0))?,
            orphan_count: Cell::new(0),
            counters: {
                // The last: nothing can fail any more.
                ring.joined();
                Cell::new(StreamCounters::default())
            },
        })
    }

    /// The group of buffers that the kernel receives into.
    #[must_use]
    pub const fn buffers(&self) -> &ProvidedBuffers<'m> {
        &self.buffers
    }

    /// The ring below.
    #[must_use]
    pub const fn ring(&self) -> &'m Ring<'m, E> {
        self.ring
    }

    /// What it has seen and done.
    #[must_use]
    pub const fn counters(&self) -> StreamCounters {
        self.counters.get()
    }

    /// Connections and listeners that there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.config.conns.saturating_sub(self.free.len(LIST))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Accepts connections on a socket that listens. The descriptor stays the caller's, who closes it after the listener is closed.
    ///
    /// # Errors
    /// `AddressesFull` where there is no row.
    pub fn listen(&self, fd: i32) -> Result<ConnId, PostError> {
        let id = self.open(Phase::Listening, fd, flag::BORROWED)?;
        self.want(id.slot(), want::ACCEPT);
        Ok(id)
    }

    /// Connects a socket, whose descriptor is the service's from now on.
    ///
    /// # Errors
    /// `AddressesFull` where there is no row.
    pub fn connect(&self, fd: i32, to: &SockAddr) -> Result<ConnId, PostError> {
        let id = self.open(Phase::Connecting, fd, 0)?;
        if let Some(row) = self.row_at(id.slot()) {
            row.address.set(RowAddress::new(to));
        }
        self.want(id.slot(), want::CONNECT);
        Ok(id)
    }

    /// Takes over a stream that is connected. The descriptor is the service's from now on.
    ///
    /// # Errors
    /// `AddressesFull` where there is no row.
    pub fn adopt(&self, fd: i32) -> Result<ConnId, PostError> {
        let id = self.open(Phase::Open, fd, 0)?;
        self.want(id.slot(), want::RECEIVE);
        Ok(id)
    }

    pub(super) fn open(&self, phase: Phase, fd: i32, flags: u16) -> Result<ConnId, PostError> {
        if self.ring.fatal().is_some() {
            return Err(Fatal::RingLost.into());
        }
        let slot = self.free.pop_front(LIST).ok_or(Retry::AddressesFull)?;
        let row = self.row_at(slot).ok_or(Retry::AddressesFull)?;
        row.phase.set(phase);
        row.fd.set(fd);
        row.flags.set(flags);
        row.wants.set(0);
        row.under_way.set(0);
        row.active.set(None);
        row.lingering.set(0);
        row.queued.set(0);
        self.gives_copies(row, row.copies.get());
        row.cause.set(None);
        row.context.set(0);
        row.soonest.set(Instant::NEVER);
        row.expects.set(Instant::NEVER);
        row.awaited.set(false);
        row.late.set(false);
        row.came.set(self.now.get());
        row.went.set(self.now.get());
        let id = row.id(slot);
        self.watch(row, id);
        Ok(id)
    }

    /// Whether there is no row for another connection.
    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty(LIST)
    }

    /// Whether the kernel may bring as many connections as wait, without asking for each: besides those that it has brought, and of which no
    /// event has told yet.
    pub(super) fn may_accept_many(&self) -> bool {
        let spare = self.free.len(LIST).saturating_sub(self.config.backlog);
        self.config.features.accept_multishot
            && spare > 0
            && (spare > self.unheard() || spare > self.unheard_guests())
    }

    /// The row is nobody's any more.
    pub(super) fn release(&self, slot: u32, row: &Row) {
        row.phase.set(Phase::Free);
        self.ending.set(self.ending.get().saturating_sub(1));
        row.generation.set(row.generation.get().next());
        let _not_in_a_list = self.free.push_front(LIST, slot);
        if self.starved.replace(false) {
            for (slot, row) in (0..self.config.conns).zip(self.rows) {
                if row.phase.get() == Phase::Listening && !row.has(flag::ARMED) {
                    self.want(slot, want::ACCEPT);
                }
            }
        }
    }

    #[inline(always)]
    pub(super) fn row_at(&self, slot: u32) -> Option<&'m Row> {
        self.rows.get(to_usize(widen(slot)))
    }

    /// The row of a connection that is there.
    #[inline(always)]
    pub(super) fn row(&self, id: ConnId) -> Result<&'m Row, Misuse> {
        let row = self.row_at(id.slot()).ok_or(Misuse::UnknownAddress)?;
        if row.generation.get() == id.0.generation() && row.phase.get() != Phase::Free {
            Ok(row)
        } else {
            Err(Misuse::StaleAddress)
        }
    }

    /// The row of an operation, and its id.
    #[inline(always)]
    pub(super) fn row_of(&self, generation: Generation, slot: u32) -> Option<(ConnId, &'m Row)> {
        let id = ConnId(Key::new(slot, generation));
        self.row(id).ok().map(|row| (id, row))
    }

    pub(super) fn want(&self, slot: u32, wants: u16) {
        if let Some(row) = self.row_at(slot) {
            self.want_of(slot, row, wants);
        }
    }

    /// The same of a row that was looked up. What it wanted already is looked at again, too.
    #[inline(always)]
    pub(super) fn want_of(&self, slot: u32, row: &Row, wants: u16) {
        let all = row.wants.get() | wants;
        row.wants.set(all);
        if all != 0 && !row.listed.replace(true) {
            // There is a place for every row.
            let _fits = self.wanting.push(slot);
        }
    }

    /// A number of the caller's own for a connection.
    ///
    /// # Errors
    /// `UnknownAddress` or `StaleAddress`.
    pub fn set_context(&self, conn: ConnId, context: u64) -> Result<(), Misuse> {
        self.row(conn).map(|row| row.context.set(context))
    }

    /// That number.
    ///
    /// # Errors
    /// `UnknownAddress` or `StaleAddress`.
    pub fn context(&self, conn: ConnId) -> Result<u64, Misuse> {
        self.row(conn).map(|row| row.context.get())
    }

    /// Bytes that were handed in for a connection and have not been sent.
    ///
    /// # Errors
    /// `UnknownAddress` or `StaleAddress`.
    pub fn queued(&self, conn: ConnId) -> Result<u64, Misuse> {
        self.row(conn).map(|row| row.queued.get())
    }

    /// Receives nothing from a connection, or accepts nothing by a listener, until [`resume`](Self::resume). What the kernel has taken
    /// already still comes. A limit of [`receive_until`](Self::receive_until) is forgotten.
    ///
    /// # Errors
    /// `UnknownAddress` or `StaleAddress`.
    pub fn pause(&self, conn: ConnId) -> Result<(), Misuse> {
        let row = self.row(conn)?;
        if row.phase.get() == Phase::Parting {
            return Ok(());
        }
        row.late.set(false);
        row.expects.set(Instant::NEVER);
        row.set(flag::PAUSED);
        self.want(conn.slot(), want::PAUSE);
        Ok(())
    }

    /// Receives, or accepts, again. Whoever does so before he is told that a receive was late is not told.
    ///
    /// # Errors
    /// `UnknownAddress` or `StaleAddress`.
    pub fn resume(&self, conn: ConnId) -> Result<(), Misuse> {
        let row = self.row(conn)?;
        if matches!(row.phase.get(), Phase::Draining | Phase::Parting) {
            return Ok(());
        }
        row.clear(flag::PAUSED);
        if row.late.replace(false) {
            // When it was to be stopped again.
            row.expects.set(Instant::NEVER);
        }
        if !row.has(flag::CROWDED) {
            row.wants.set(row.wants.get() & !want::PAUSE);
        }
        let listens = row.phase.get() == Phase::Listening;
        self.want(conn.slot(), if listens { want::ACCEPT } else { want::RECEIVE });
        Ok(())
    }

    /// The completions that were taken and are not done with.
    pub(super) fn taken(&self) -> &'m [Cell<Cqe>] {
        self.batch.get(self.batch_at.get()..self.batch_end.get()).unwrap_or_default()
    }

    /// The next event, if any.
    #[inline(always)]
    pub fn poll(&self) -> Option<StreamEvent<'m>> {
        let is_quiet = self.batch_at.get() >= self.batch_end.get()
            && self.rest.get().is_none()
            && !self.segments.has_ended()
            && self.noted.is_empty(LIST);
        if is_quiet { None } else { self.next_event() }
    }

    fn next_event(&self) -> Option<StreamEvent<'m>> {
        loop {
            if self.rest.get().is_some()
                && let Some(event) = self.rest_of_completion()
            {
                return Some(event);
            }
            if (self.segments.has_ended() || !self.noted.is_empty(LIST))
                && let Some(event) = self.next_report()
            {
                return Some(event);
            }
            let at = self.batch_at.get();
            if at >= self.batch_end.get() || self.orphan_count.get() >= ORPHANS {
                return None;
            }
            self.batch_at.set(at.wrapping_add(1));
            let Some(cqe) = self.batch.get(at).map(Cell::get) else { continue };
            // Sends may have been heard before: `hear_sends`.
            if cqe.user_data != UNHEARD
                && let Some(event) = self.arrived(cqe)
            {
                return Some(event);
            }
        }
    }

    #[inline(never)]
    fn next_report(&self) -> Option<StreamEvent<'m>> {
        while let Some((index, segment)) = self.segments.next_ended() {
            let (loan, conn) = (segment.loan.take(), segment.conn.get());
            let (sent, report) = (segment.sent.get(), segment.report.get());
            let why = segment.undone.get().unwrap_or(Undone::Ended);
            self.segments.put_free(index);
            if let (Some(conn), Report::Poster { context }) = (conn, report) {
                return Some(StreamEvent::RangeBack { conn, context, sent });
            }
            if let (Some(loan), Some(conn), Report::Owner { context }) = (loan, conn, report) {
                return Some(if sent {
                    StreamEvent::Sent { conn, context, loan }
                } else {
                    StreamEvent::NotSent { conn, context, loan, why }
                });
            }
        }
        while let Some(slot) = self.noted.pop_front(LIST) {
            let Some(row) = self.row_at(slot) else { continue };
            let id = row.id(slot);
            if row.phase.get() == Phase::Ended {
                let reason = row.cause.get().unwrap_or(CloseReason::Closed);
                self.release(slot, row);
                return Some(StreamEvent::Closed { conn: id, reason });
            }
            if row.late.get() && row.phase.get() == Phase::Open && !row.has(flag::ARMED) {
                row.late.set(false);
                if row.has(flag::WRITABLE) {
                    let _not_in_the_list = self.noted.push_back(LIST, slot);
                }
                return Some(StreamEvent::ReceiveTimedOut(id));
            }
            if row.has(flag::WRITABLE) {
                row.clear(flag::WRITABLE | flag::REFUSED);
                let _told = self.refused.unlink(slot);
                return Some(StreamEvent::Writable(id));
            }
        }
        None
    }

    /// Remembers a connection for which there is no row.
    pub(super) fn keep_orphan(&self, fd: u32) {
        let count = self.orphan_count.get();
        if let Some(place) = self.orphans.get(count) {
            place.set(fd);
            self.orphan_count.set(count.wrapping_add(1));
        }
        self.count(|c| c.turned_away = c.turned_away.wrapping_add(1));
    }

    pub(super) fn put_orphan_back(&self) {
        self.orphan_count.set(self.orphan_count.get().wrapping_add(1));
    }

    /// Whether there is one.
    #[inline(always)]
    pub(super) const fn has_orphans(&self) -> bool {
        self.orphan_count.get() != 0
    }

    pub(super) fn take_orphan(&self) -> Option<u32> {
        let last = self.orphan_count.get().checked_sub(1)?;
        self.orphan_count.set(last);
        self.orphans.get(last).map(Cell::get)
    }

    #[inline(always)]
    pub(super) fn count(&self, change: impl FnOnce(&mut StreamCounters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    /// The name of an operation of a row.
    pub(super) const fn name(op: OpTag, slot: u32, row: &Row) -> u64 {
        WrId::new(op, row.generation.get(), slot).as_raw()
    }
}
