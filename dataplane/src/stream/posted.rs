//! What providers of messages hand in to be sent: a message is two writes or a write and posted memory, and goes whole or not at all.

use spinwire_layouts::word::{from_usize, low, widen};

use super::row::{Phase, flag, want};
use super::segment::Report;
use super::service::{HEARD, Streams};
use super::{ConnId, StreamFeatures};
use crate::error::{Misuse, PostError};
use crate::id::{OpTag, WrId};
use crate::provider::Sge;
use crate::raw::kernel_memory::address_of;
use crate::table::{count, wide};
use crate::uring::{Enter, Paths};

impl<E: Enter> Streams<'_, E> {
    /// Whether there are so many rows besides a listener's, and as many bytes can wait for one connection.
    #[must_use]
    pub fn has_room_for(&self, conns: u32, bytes: usize) -> bool {
        let copies = u64::from(self.copies_max()).saturating_mul(widen(self.copies.slot_bytes()));
        let bytes = from_usize(bytes);
        conns < self.config.conns && bytes <= copies.min(widen(self.config.queue_max))
    }

    /// Which ways of the kernel it takes.
    #[must_use]
    pub const fn features(&self) -> StreamFeatures {
        self.config.features
    }

    /// Those, with names, and the ring's. Streams always receive into provided buffers.
    #[must_use]
    pub const fn paths(&self) -> Paths {
        let (features, config) = (self.config.features, &self.config);
        // With fewer rows than may wait, no accept ever brings many.
        let accepts_many = features.accept_multishot && config.conns > config.backlog;
        let uncopied = features.send_zero_copy && config.zero_copy_min != 0;
        self.ring
            .paths()
            .with(Paths::PROVIDED_BUFFERS)
            .with_either(features.direct_files, Paths::REGISTERED_FILES, Paths::DESCRIPTORS)
            .with_either(accepts_many, Paths::MULTISHOT_ACCEPT, Paths::ONE_SHOT_ACCEPT)
            .with_either(features.recv_multishot, Paths::MULTISHOT_RECEIVE, Paths::ONE_SHOT_RECEIVE)
            .with_if(features.bundles, Paths::BUNDLES)
            .with_either(uncopied, Paths::ZERO_COPY_SENDS, Paths::COPIED_SENDS)
            .with_if(uncopied && features.fixed_buffers, Paths::REGISTERED_BUFFERS)
            .with_if(uncopied && self.gathers_uncopied(), Paths::ZERO_COPY_MESSAGES)
    }

    /// The descriptors that it has and would close: what is left for the host to close where the ring was given up in the middle.
    pub fn descriptors(&self) -> impl Iterator<Item = i32> + '_ {
        self.rows.iter().filter_map(|row| {
            let is_there = match row.phase.get() {
                Phase::Connecting | Phase::Open | Phase::Draining | Phase::Parting => true,
                Phase::Closing => row.wants.get() & want::CLOSE != 0,
                Phase::Free | Phase::Listening | Phase::Ended => false,
            };
            let is_own = !row.has(flag::DIRECT | flag::BORROWED);
            (is_there && is_own).then_some(row.fd.get())
        })
    }

    /// Looks for sends that have ended, and for nothing else, so that what waits behind them goes with the next
    /// [`flush`](Self::flush). All other events come by [`poll`](Self::poll), as ever.
    pub fn hear_sends(&self) {
        self.harvest(u32::MAX);
        for place in self.taken() {
            let cqe = place.get();
            let op = WrId::from_raw(cqe.user_data).parts().map(|(op, ..)| op);
            if op == Some(OpTag::Chain) {
                place.set(HEARD);
                let _nothing_to_tell = self.arrived(cqe);
            }
        }
    }

    /// Whether so many bytes could be written for a connection now, in any pieces, and `ranges` pieces of posted memory besides.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    #[inline]
    pub fn accepts(&self, conn: ConnId, bytes: usize, ranges: u32) -> Result<(), PostError> {
        let row = self.writable(conn, bytes)?;
        let pieces = self.pieces(row, bytes);
        self.leaves_enough(conn, row, pieces)?;
        let segments = pieces.saturating_add(wide(ranges));
        if self.copies.free_count() >= pieces && wide(self.segments.free_count()) >= segments {
            return Ok(());
        }
        let needs = (count(segments), count(pieces));
        if needs.0 > self.config.segments || needs.1 > self.copies_max() {
            return Err(Misuse::TooLong.into());
        }
        Err(self.refuse_for_now(conn, row, needs))
    }

    /// Whether so many bytes can wait for a connection besides what does, however they are handed in.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn has_send_room(&self, conn: ConnId, bytes: usize) -> Result<(), PostError> {
        self.writable(conn, bytes).map(drop)
    }

    /// Sends posted memory, uncopied. [`StreamEvent::RangeBack`](super::StreamEvent::RangeBack) gives `context` back when the kernel
    /// has done with it.
    ///
    /// # Errors
    /// As [`send`](Self::send): `Unsupported` for memory of another arena.
    pub fn send_posted(&self, conn: ConnId, sge: &Sge, context: u64) -> Result<(), PostError> {
        let row = self.writable(conn, sge.length())?;
        if !self.ring.arena().covers_posted(sge) {
            return Err(Misuse::Unsupported.into());
        }
        let Some((index, segment)) = self.segments.take_free() else {
            return Err(self.refuse_for_now(conn, row, (1, 0)));
        };
        let length = from_usize(sge.length());
        segment.to.set(low(length));
        segment.address.set(address_of(sge.start()));
        segment.report.set(Report::Poster { context });
        segment.conn.set(Some(conn));
        self.segments.push_back((&row.first, &row.last), index);
        self.queued_more(row, length);
        self.want(conn.slot(), want::SEND);
        Ok(())
    }
}
