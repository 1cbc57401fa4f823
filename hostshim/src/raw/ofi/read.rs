//! Completions: `fi_cq(3)`.

use core::mem::MaybeUninit;

use spinwire_ofi_sys as sys;

use super::{Completions, NOBODY, number};

/// Entries that one call reads, at most.
pub(crate) const BATCH: usize = 16;

/// What the library says where there are no entries.
#[expect(clippy::as_conversions, reason = "a small number, in a const")]
const NONE_YET: isize = -(libc::EAGAIN as isize);

/// What a completion says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// The address of the space of its operation.
    pub(crate) space: usize,
    /// Bytes that have come.
    pub(crate) length: usize,
    /// The tag, where it has one.
    pub(crate) tag: u64,
    /// What came with it.
    pub(crate) data: Option<u64>,
    /// The number of the sender in the address vector, or [`NOBODY`].
    pub(crate) source: u64,
}

/// What a completion of an operation that has failed says: `struct fi_cq_err_entry`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    /// As of a completion that has not. Of a receive that was too short: what has come of the message, and what goes with it.
    pub(crate) entry: Entry,
    /// Why: a number of `fi_errno(3)`.
    pub(crate) code: i32,
    /// Why, in the provider's own numbers.
    pub(crate) provider_code: i32,
    /// `enum fi_op_flags` and others.
    pub(crate) flags: u64,
    /// Bytes of the message that found no room.
    pub(crate) overflow: usize,
}

impl Failure {
    /// The number that tells most: the provider's own, or else that of `fi_errno(3)`; without its sign, which some providers give it.
    pub(crate) const fn number(&self) -> u32 {
        let own = self.provider_code.unsigned_abs();
        if own == 0 { self.code.unsigned_abs() } else { own }
    }
}

/// What a look at the queue has brought.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seen {
    /// So many completions.
    Some(usize),
    /// None.
    Nothing,
    /// The next one is of an operation that has failed: [`Completions::read_failure`].
    Failure,
    /// The queue is of no use any more, for that reason.
    Lost(i32),
}

/// Both formats begin alike.
trait Format: Copy {
    fn entry(&self, source: u64) -> Entry;
}

const fn data_of(flags: u64, data: u64) -> Option<u64> {
    #[expect(clippy::as_conversions, reason = "a number, wider in a const fn")]
    if flags & sys::FI_REMOTE_CQ_DATA as u64 != 0 { Some(data) } else { None }
}

macro_rules! format {
    ($name:ident, $tag:expr) => {
        impl Format for sys::$name {
            #[inline(always)]
            fn entry(&self, source: u64) -> Entry {
                let tag: fn(&Self) -> u64 = $tag;
                Entry {
                    space: self.op_context.addr(),
                    length: self.len,
                    tag: tag(self),
                    data: data_of(self.flags, self.data),
                    source,
                }
            }
        }
    };
}

format!(fi_cq_tagged_entry, |entry| entry.tag);
format!(fi_cq_data_entry, |_| 0);

impl Completions {
    /// Reads what has come, at most [`BATCH`] entries and as many as there is `room` for, and lets the library make progress. What is in
    /// no entry is not touched either: this is what a turn in vain costs.
    #[inline(always)]
    pub(crate) fn read(&self, room: usize, give: impl FnMut(Entry)) -> Seen {
        if self.tagged {
            self.read_as::<sys::fi_cq_tagged_entry>(room, give)
        } else {
            self.read_as::<sys::fi_cq_data_entry>(room, give)
        }
    }

    #[inline(always)]
    fn read_as<F: Format>(&self, room: usize, mut give: impl FnMut(Entry)) -> Seen {
        let mut entries = [const { MaybeUninit::<F>::uninit() }; BATCH];
        let (queue, most, places) = (self.handle.raw(), room.min(BATCH), entries.as_mut_ptr());
        let read = if self.names_senders {
            // SAFETY: room for as many entries of that format, which is the queue's, and as many addresses.
            unsafe { sys::fi_cq_readfrom(queue, places.cast(), most, self.sources.as_ptr().cast()) }
        } else {
            // SAFETY: room for as many entries of that format, which is the queue's.
            unsafe { sys::fi_cq_read(queue, places.cast(), most) }
        };
        // What most looks find.
        if read == NONE_YET || read == 0 {
            return Seen::Nothing;
        }
        let Ok(count) = usize::try_from(read) else { return seen(read) };
        // Not every provider says who has sent something: each place says nobody before the next look.
        let sources = self.sources.replace([NOBODY; BATCH]);
        for (from, source) in entries.iter().zip(sources).take(count) {
            // SAFETY: the library has written as many entries as it says, the first ones.
            give(unsafe { from.assume_init_ref() }.entry(source));
        }
        Seen::Some(count.min(BATCH))
    }

    /// The completion of an operation that has failed; `None` where there is none.
    #[cold]
    pub(crate) fn read_failure(&self) -> Option<Failure> {
        // SAFETY: numbers and pointers; all bytes zero is such an entry, and asks for no data of the provider.
        let mut entry: sys::fi_cq_err_entry = unsafe { core::mem::zeroed() };
        // SAFETY: room for one entry.
        let read = unsafe { sys::fi_cq_readerr(self.handle.raw(), &raw mut entry, 0) };
        (read > 0).then(|| Failure {
            entry: Entry {
                space: entry.op_context.addr(),
                length: entry.len,
                tag: entry.tag,
                data: data_of(entry.flags, entry.data),
                source: NOBODY,
            },
            code: entry.err.saturating_abs(),
            provider_code: entry.prov_errno,
            flags: entry.flags,
            overflow: entry.olen,
        })
    }
}

#[cold]
fn seen(read: isize) -> Seen {
    match number(read) {
        code if u32::try_from(code) == Ok(sys::FI_EAVAIL) => Seen::Failure,
        code => Seen::Lost(code),
    }
}
