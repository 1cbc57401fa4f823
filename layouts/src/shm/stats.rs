//! The stats page: what a plane counts, readable from outside while the plane runs, without
//! disturbing it.
//!
//! ```text
//!  offset 0        StatsHeader                  4 lines    seqlock: `sequence` covers header and counters
//!  offset 256      counters, 64 words           8 lines
//!  offset 768      histogram 0: HistogramHeader 1 line     seqlock of its own: `sequence` covers header and buckets
//!                               592 buckets    74 lines
//!                  histogram 1 ... 7
//!  offset 39168    PathRow 0 ... 63             1 line     of virtual queue pairs; a seqlock each
//!                  zeros up to 64 KiB
//! ```
//!
//! A seqlock is a counter that is odd while its part is written: the one writer makes it odd,
//! writes, makes it even again; a reader takes a copy only if the counter was even and the same
//! before and after (Boehm, "Can seqlocks get along with programming language memory models?",
//! 2012). The page has several, so that a writer may bring it up to date in small steps, one
//! histogram at a time.
//!
//! Histograms are log-linear, the idea of HdrHistogram: 16 buckets for each power of two, so a
//! value is known to 1 part in
//! 16. The arithmetic is here, so that writer and readers cannot disagree:
//!
//! ```text
//!   value       0 1 2 .. 15 | 16 17 .. 31 | 32-33 34-35 .. 62-63 | 64-67 .. | ... | .. up to 2^40 - 1
//!   bucket      0 1 2 .. 15 | 16 17 .. 31 | 32    33    .. 47    | 48    .. | ... | .. 591
//!   width           1       |     1       |        2             |   4      | ... | 2^35
//! ```

use crate::word::{from_usize, to_usize, widen};

/// Bytes of a stats page.
pub const STATS_PAGE_BYTES: usize = 65_536;

/// Words for counters in a stats page. The first [`Counter::COUNT`] have a meaning, the others are
/// zero.
pub const COUNTER_SLOT_COUNT: usize = 64;

/// Where the counters lie: bytes from the start of the page.
pub const COUNTERS_OFFSET: usize = 256;

/// Histograms in a stats page.
pub const HISTOGRAM_SLOT_COUNT: usize = 8;

/// Where the first histogram lies: bytes from the start of the page.
pub const HISTOGRAMS_OFFSET: usize = 768;

/// log2 of the number of buckets for each power of two: 16 buckets, an error of at most 1 part in
/// 16.
pub const SUB_BUCKET_BITS: u32 = 4;

/// Bits of the greatest value that has a bucket of its own kind.
pub const VALUE_BITS: u32 = 40;

/// Greatest value that is told apart: 2^40 - 1, in nanoseconds 18 minutes. Greater values count in
/// the last bucket.
pub const VALUE_MAX: u64 = 0x00ff_ffff_ffff;

/// Buckets of a histogram: 16 for the values below 16, and 16 for each of the 36 powers of two from
/// 2^4 to 2^39.
pub const BUCKET_COUNT: usize = 592;

/// Bytes of one histogram in the page: its header and its buckets.
pub const HISTOGRAM_BYTES: usize = 4800;

/// Rows for paths of virtual queue pairs in a stats page.
pub const PATH_SLOT_COUNT: usize = 64;

/// Where the first row of a path lies: bytes from the start of the page.
pub const PATHS_OFFSET: usize = 39_168;

const _: () = assert!(PATHS_OFFSET == HISTOGRAMS_OFFSET + HISTOGRAM_SLOT_COUNT * HISTOGRAM_BYTES);
const _: () = assert!(
    PATHS_OFFSET + PATH_SLOT_COUNT * size_of::<PathRow>() <= STATS_PAGE_BYTES,
    "the rows of paths do not fit into the page"
);
const _: () = assert!(COUNTERS_OFFSET == size_of::<StatsHeader>());
const _: () = assert!(HISTOGRAMS_OFFSET == COUNTERS_OFFSET + COUNTER_SLOT_COUNT * 8);
const _: () = assert!(HISTOGRAM_BYTES == size_of::<HistogramHeader>() + BUCKET_COUNT * 8);
const _: () = assert!(HISTOGRAM_BYTES.is_multiple_of(64));
const _: () = assert!(
    HISTOGRAMS_OFFSET + HISTOGRAM_SLOT_COUNT * HISTOGRAM_BYTES <= STATS_PAGE_BYTES,
    "the histograms do not fit into the page"
);
const _: () = assert!(Counter::COUNT <= COUNTER_SLOT_COUNT);
const _: () = assert!(HistogramId::COUNT <= HISTOGRAM_SLOT_COUNT);
const _: () = assert!(bucket_of(VALUE_MAX) == BUCKET_COUNT - 1);

codes! {
    /// What a plane counts. The number is the index of the word among the counters of the page.
    pub enum Counter: u8 {
        /// Messages handed over to the provider.
        MessagesSent = 0 "messages_sent",
        /// Messages delivered to the user.
        MessagesReceived = 1 "messages_received",
        /// Bytes of the messages sent, without headers.
        BytesSent = 2 "bytes_sent",
        /// Bytes of the messages received, without headers.
        BytesReceived = 3 "bytes_received",
        /// Messages sent by inject: the buffer was free at return.
        MessagesInjected = 4 "messages_injected",
        /// Batches published: doorbells that had something to publish.
        BatchesPublished = 5 "batches_published",
        /// Completions delivered.
        Completions = 6 "completions",
        /// Operations that ended by cancel.
        Cancelled = 7 "cancelled",
        /// Sends refused: the send queue was full.
        RetrySendQueueFull = 8 "retry_send_queue_full",
        /// Receives refused: the receive queue was full.
        RetryReceiveQueueFull = 9 "retry_receive_queue_full",
        /// Sends refused: the receiver had given no credit.
        RetryNoCredit = 10 "retry_no_credit",
        /// Operations refused: no slot was free in a table.
        RetryNoSlot = 11 "retry_no_slot",
        /// Operations refused: no buffer was free in a pool.
        RetryNoBuffer = 12 "retry_no_buffer",
        /// Polls that ended because the completion queue of the caller was full.
        RetryCompletionQueueFull = 13 "retry_completion_queue_full",
        /// Ids whose slot has been given to somebody else since.
        StaleIds = 14 "stale_ids",
        /// Ids that were never given out.
        UnknownIds = 15 "unknown_ids",
        /// Messages or words of a peer that broke the rules and were dropped.
        CorruptDrops = 16 "corrupt_drops",
        /// Tagged messages that came before a matching receive was posted.
        UnexpectedMessages = 17 "unexpected_messages",
        /// Polls of a lane that stopped because the queue of unexpected messages was full.
        UnexpectedStalls = 18 "unexpected_stalls",
        /// Messages cut to the length of the buffer that was posted for them.
        Truncated = 19 "truncated",
        /// Peers that a connection or an inbound lane was opened with.
        PeersConnected = 20 "peers_connected",
        /// Peers found dead or gone.
        PeersGone = 21 "peers_gone",
        /// Lanes taken back from the dead.
        LanesReclaimed = 22 "lanes_reclaimed",
        /// Credit returns written to senders.
        CreditReturns = 23 "credit_returns",
        /// Lanes looked at because their sender said that there is news.
        LanesVisited = 24 "lanes_visited",
        /// Lanes looked at in vain.
        LanesVisitedEmpty = 25 "lanes_visited_empty",
        /// Turns that did something.
        TurnsBusy = 26 "turns_busy",
        /// Turns that found nothing to do.
        TurnsIdle = 27 "turns_idle",
        /// Timers that fired.
        TimersFired = 28 "timers_fired",
        /// Rests by the pause instruction.
        RestsPause = 29 "rests_pause",
        /// Rests by a timed wait of the processor: umwait or monitorx.
        RestsWait = 30 "rests_wait",
        /// Rests by yielding to the scheduler.
        RestsYield = 31 "rests_yield",
        /// Rests by parking in the kernel.
        RestsPark = 32 "rests_park",
        /// Items set aside because a state was reached that should not exist.
        Quarantined = 33 "quarantined",
        /// Trace entries overwritten before anybody read them.
        TraceOverwritten = 34 "trace_overwritten",
        /// Times that this page was brought up to date.
        StatsPublished = 35 "stats_published",
        /// Parks that ended because somebody rang.
        ParksRung = 36 "parks_rung",
        /// Of those, the ones after which the next turn found nothing.
        ParksSpurious = 37 "parks_spurious",
        /// Peers that were woken because something was published to them.
        BellsRung = 38 "bells_rung",
    }
}

codes! {
    /// What a plane keeps a histogram of. The number is the index of the histogram in the page.
    pub enum HistogramId: u32 {
        /// How long a busy turn took.
        TurnBusy = 0 "turn_busy",
        /// From posting a send to its completion.
        SendCompletion = 1 "send_completion",
        /// From a request to its answer, where the user records it.
        RoundTrip = 2 "round_trip",
        /// How late timers fired.
        TimerLateness = 3 "timer_lateness",
        /// Messages published by one doorbell.
        BatchMessages = 4 "batch_messages",
        /// Lengths of the messages received.
        MessageBytes = 5 "message_bytes",
        /// Whatever the user records.
        UserA = 6 "user_a",
        /// Whatever the user records.
        UserB = 7 "user_b",
    }
}

codes! {
    /// What the values of a histogram count.
    pub enum Unit: u32 {
        /// Nothing was said.
        None = 0 "",
        /// Nanoseconds.
        Nanoseconds = 1 "ns",
        /// Things, such as messages.
        Count = 2 "count",
        /// Bytes.
        Bytes = 3 "bytes",
    }
}

codes! {
    /// How a path of a virtual queue pair fares.
    pub enum PathHealth: u32 {
        /// The row is not in use.
        None = 0 "",
        /// In use.
        Ok = 1 "ok",
        /// Something is on its way and nothing was completed for long.
        Suspect = 2 "suspect",
        /// No longer in use; what is on its way is being flushed.
        Draining = 3 "draining",
        /// No longer in use, and nothing is on its way.
        Down = 4 "down",
        /// In use again, and nothing was completed yet.
        Recovered = 5 "recovered",
    }
}

impl HistogramId {
    /// What the values count; of the user's own histograms [`Unit::None`].
    #[must_use]
    pub const fn unit(self) -> Unit {
        match self {
            Self::TurnBusy | Self::SendCompletion | Self::RoundTrip | Self::TimerLateness => {
                Unit::Nanoseconds
            }
            Self::BatchMessages => Unit::Count,
            Self::MessageBytes => Unit::Bytes,
            Self::UserA | Self::UserB => Unit::None,
        }
    }

    /// Where the histogram lies: bytes from the start of the page, a multiple of 64.
    #[inline]
    #[must_use]
    pub const fn offset(self) -> usize {
        let index = to_usize(widen(self.code()));
        HISTOGRAMS_OFFSET.wrapping_add(index.wrapping_mul(HISTOGRAM_BYTES))
    }
}

impl Counter {
    /// Where the counter lies: bytes from the start of the page.
    #[inline]
    #[must_use]
    pub const fn offset(self) -> usize {
        COUNTERS_OFFSET.wrapping_add(self.index() << 3)
    }

    /// Index of the counter among the counters of the page: less than [`COUNTER_SLOT_COUNT`].
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        usize::from_le_bytes([self.code(), 0, 0, 0, 0, 0, 0, 0])
    }
}

layout! {
    /// First 256 bytes of a stats page.
    pub struct StatsHeader, size 256, align 64 {
        /// Seqlock of the header and the counters: odd while they are written.
        pub sequence: u64 @ 0 by plane,
        /// Process id of the plane.
        pub writer_pid: u64 @ 8 by plane,
        /// Start time of that process: field 22 of `/proc/PID/stat` (proc(5)).
        pub writer_start_time: u64 @ 16 by plane,
        /// When the page was made: nanoseconds since 1970 UTC.
        pub created_unix_ns: u64 @ 24 by plane,
        /// When the page was last brought up to date: nanoseconds on the clock of the plane, which
        /// counts from an arbitrary moment. It stands still where the plane does.
        pub updated_ns: u64 @ 32 by plane,
        /// Ticks per second of the time-stamp counter by which the plane measures, or 0 where it
        /// uses a clock of the kernel.
        pub tsc_hz: u64 @ 40 by plane,
        /// Counters with a meaning: those of [`Counter`].
        pub counter_count: u32 @ 48 by plane,
        /// Histograms in the page.
        pub histogram_count: u32 @ 52 by plane,
        /// Where the counters lie: bytes from the start of the page.
        pub counters_offset: u32 @ 56 by plane,
        /// Where the first histogram lies: bytes from the start of the page.
        pub histograms_offset: u32 @ 60 by plane,

        /// Name of the plane, filled up with zeros.
        pub plane_name: [u8; 64] @ 64 by plane,

        /// Bytes from one histogram to the next.
        pub histogram_bytes: u32 @ 128 by plane,
        /// Bytes of the page.
        pub page_bytes: u32 @ 132 by plane,
        /// CPU to which the plane is pinned, plus one; 0 where it is not pinned.
        pub cpu_plus_one: u64 @ 136 by plane,
        /// By what its messages go, as provider and type of endpoint (`tcp.rdm`), filled up with
        /// zeros; all zero where it does not say.
        pub path: [u8; 64] @ 144 by plane,
        /// Zero.
        pub reserved: [u64; 6] @ 208,
    }
}

layout! {
    /// Before the buckets of a histogram.
    pub struct HistogramHeader, size 64, align 64 {
        /// Seqlock of this histogram: odd while it is written.
        pub sequence: u64 @ 0 by plane,
        /// Code of a [`HistogramId`].
        pub id: u32 @ 8 by plane,
        /// Code of a [`Unit`].
        pub unit: u32 @ 12 by plane,
        /// Values recorded.
        pub count: u64 @ 16 by plane,
        /// Sum of the values recorded, modulo 2^64.
        pub sum: u64 @ 24 by plane,
        /// Least value recorded; meaningless while `count` is 0.
        pub min: u64 @ 32 by plane,
        /// Greatest value recorded, even where it is above [`VALUE_MAX`].
        pub max: u64 @ 40 by plane,
        /// Buckets that follow, 8 bytes each: [`BUCKET_COUNT`].
        pub bucket_count: u32 @ 48 by plane,
        /// [`SUB_BUCKET_BITS`].
        pub sub_bucket_bits: u32 @ 52 by plane,
        /// Values above [`VALUE_MAX`], which are in the last bucket too.
        pub overflow: u64 @ 56 by plane,
    }
}

layout! {
    /// A path of a virtual queue pair: one physical queue pair of it.
    pub struct PathRow, size 64, align 64 {
        /// Seqlock of this row: odd while it is written.
        pub sequence: u64 @ 0,
        /// Number of the virtual queue pair.
        pub vqp: u32 @ 8,
        /// Number of the path in it.
        pub path: u32 @ 12,
        /// Number of its device.
        pub device: u32 @ 16,
        /// Number of its queue pair on that device.
        pub qp_num: u32 @ 20,
        /// Code of a [`PathHealth`].
        pub health: u32 @ 24,
        /// Sends on their way.
        pub in_flight: u32 @ 28,
        /// Work requests of the send queue that were completed without error.
        pub fragments: u64 @ 32,
        /// Bytes of them.
        pub bytes: u64 @ 40,
        /// Completions with errors.
        pub errors: u64 @ 48,
        /// Completions that were nobody's: late, repeated, out of order.
        pub stale: u64 @ 56,
    }
}

/// The bucket of `value`: less than [`BUCKET_COUNT`], for every value.
#[inline]
#[must_use]
pub const fn bucket_of(value: u64) -> usize {
    let value = if value > VALUE_MAX { VALUE_MAX } else { value };
    if value < 16 {
        return to_usize(value);
    }
    // 16 <= value < 2^40, so the exponent is 4 to 39 and the shift 0 to 35; the 5 leading bits are
    // 16 to 31.
    let exponent = 63_u32.wrapping_sub(value.leading_zeros());
    let shift = exponent.wrapping_sub(SUB_BUCKET_BITS);
    let leading = value >> shift;
    to_usize((widen(shift) << SUB_BUCKET_BITS).wrapping_add(leading))
}

/// The least value of bucket `index`. An index that is too great counts as that of the last bucket.
#[inline]
#[must_use]
pub const fn bucket_low(index: usize) -> u64 {
    let index = from_usize(clamp(index));
    if index < 16 {
        return index;
    }
    // The inverse of `bucket_of`: index = 16 * shift + leading, with leading in 16 to 31.
    let shift = (index >> SUB_BUCKET_BITS).wrapping_sub(1);
    ((index & 15) | 16) << shift
}

/// The greatest value of bucket `index`. An index that is too great counts as that of the last
/// bucket.
#[inline]
#[must_use]
pub const fn bucket_high(index: usize) -> u64 {
    let index = clamp(index);
    if index == BUCKET_COUNT - 1 {
        return VALUE_MAX;
    }
    bucket_low(index.wrapping_add(1)).wrapping_sub(1)
}

/// A value in the middle of bucket `index`: what to report for it.
#[inline]
#[must_use]
pub const fn bucket_middle(index: usize) -> u64 {
    bucket_low(index).midpoint(bucket_high(index))
}

const fn clamp(index: usize) -> usize {
    if index < BUCKET_COUNT { index } else { BUCKET_COUNT - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_all_values_without_gap_or_overlap() {
        assert_eq!(bucket_low(0), 0);
        for index in 0..BUCKET_COUNT {
            let (low, high) = (bucket_low(index), bucket_high(index));
            assert!(low <= high, "{index}");
            assert_eq!((bucket_of(low), bucket_of(high)), (index, index));
            assert!((low..=high).contains(&bucket_middle(index)));
            if index > 0 {
                assert_eq!(low, bucket_high(index - 1) + 1, "{index}");
                assert_eq!(bucket_of(low - 1), index - 1);
            }
        }
        assert_eq!(bucket_high(BUCKET_COUNT - 1), VALUE_MAX);
    }

    #[test]
    fn every_small_value_falls_into_the_bucket_that_holds_it() {
        let mut before = 0;
        for value in 0..200_000 {
            let index = bucket_of(value);
            assert!(index == before || index == before + 1, "{value}");
            assert!((bucket_low(index)..=bucket_high(index)).contains(&value), "{value}");
            before = index;
        }
    }

    #[test]
    fn the_error_is_at_most_one_part_in_sixteen() {
        for index in 0..BUCKET_COUNT {
            let width = bucket_high(index) - bucket_low(index) + 1;
            assert!(width == 1 || width * 16 <= bucket_low(index), "{index}");
        }
    }

    #[test]
    fn what_is_too_great_counts_in_the_last_bucket() {
        for value in [VALUE_MAX, VALUE_MAX + 1, 1 << 63, u64::MAX] {
            assert_eq!(bucket_of(value), BUCKET_COUNT - 1);
        }
        for index in [BUCKET_COUNT, usize::MAX] {
            assert_eq!(bucket_low(index), bucket_low(BUCKET_COUNT - 1));
            assert_eq!(bucket_high(index), VALUE_MAX);
        }
    }

    #[test]
    fn the_numbers_of_the_drawing_are_right() {
        for (value, index) in [(15, 15), (16, 16), (31, 31), (32, 32), (33, 32), (62, 47), (64, 48)]
        {
            assert_eq!(bucket_of(value), index, "{value}");
        }
        assert_eq!(VALUE_MAX, (1 << VALUE_BITS) - 1);
    }

    #[test]
    fn counters_and_histograms_are_numbered_without_gaps() {
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(counter.index(), index, "{counter}");
            assert_eq!(counter.offset(), 256 + 8 * index);
        }
        for (index, id) in HistogramId::ALL.iter().enumerate() {
            assert_eq!(id.offset(), 768 + 4800 * index, "{id}");
            assert!(id.offset() + HISTOGRAM_BYTES <= STATS_PAGE_BYTES);
            assert_eq!(id.offset() % 64, 0);
        }
    }
}
