//! `--zero-copy`: buffers of a pool that both ends have open, handed over uncopied.
//!
//! ```text
//!   client   acquire, write in place, send  ------->  server   take a guard, check in place, let go
//!            take a guard, check in place   <-------           or send the same buffer back
//! ```
//!
//! What is in a buffer is as in `pattern`, for all sizes; a buffer that was written before gets its stamps changed only.

use spinwire_dataplane::error::{PostError, Refused};
use spinwire_dataplane::msg::{Completion, Kind, Lender, SendTo};
use spinwire_dataplane::pool::{Exclusive, Guard, Mode, PoolError, PoolGeometry, Shared};
use spinwire_dataplane::provider::Provider;
use spinwire_dataplane::raw::place::Bump;
use spinwire_hostshim::mem::Problem;
use spinwire_hostshim::membership::MemberError;
use spinwire_hostshim::pool::{BufferPool, PoolConfig, PoolFiles, PoolHandle, PoolOpenError};

use super::floor::Witness;
use super::options::PairOptions;
use super::station::{Deadline, Station};
use crate::pattern::{FULL_EVERY, fixed, stamps};
use crate::report::Failure;

const WORD: usize = 8;
/// Bytes that are copied out at once where a buffer is compared in full.
const CHUNK_WORDS: usize = 256;
/// Bytes of all buffers together, at most; at least [`BUFFERS_MIN`] there are.
const POOL_BYTES: usize = 64 << 20;
const BUFFERS_MIN: usize = 16;

/// What an end lends from.
#[derive(Debug)]
pub(crate) struct Loans<'p> {
    pub(crate) lender: Lender<'p, 'p, PoolFiles>,
}

/// The name of the pool beside the domain of that name.
pub(super) fn pool_name(domain: &str) -> String {
    format!("{domain}.pool")
}

/// Makes the pool beside a domain, with buffers of `size` bytes.
pub(crate) fn make(domain: &str, size: usize) -> Result<BufferPool, Failure> {
    let slot_bytes = size.next_multiple_of(64);
    let buffers = (POOL_BYTES / slot_bytes).clamp(BUFFERS_MIN, 2 * 64);
    let geometry = PoolGeometry::new(8).class(u64::try_from(slot_bytes)?, u32::try_from(buffers)?);
    Ok(BufferPool::create(&pool_name(domain), &PoolConfig { geometry, ..PoolConfig::default() })?)
}

/// The pool beside a domain, which the other end has made before it; `None` where it has made none.
fn find(domain: &str) -> Result<Option<BufferPool>, Failure> {
    match BufferPool::open(&pool_name(domain), &PoolConfig::default()) {
        Err(PoolOpenError::Segment(MemberError::Map(map)))
            if map.problem() == Some(Problem::Missing) =>
        {
            Ok(None)
        }
        found => Ok(Some(found?)),
    }
}

/// Opens the pool beside a domain, if that is what was asked for: with buffers for the `largest` size. Fails where only one end
/// was asked.
pub(crate) fn open(
    domain: &str,
    options: &PairOptions,
    largest: usize,
) -> Result<Option<BufferPool>, Failure> {
    let pool = match (find(domain)?, options.zero_copy) {
        (None, false) => return Ok(None),
        (None, true) => {
            return Err(
                "--zero-copy: the other end has no pool; start it with --zero-copy too".into()
            );
        }
        (Some(_), false) => {
            return Err("the other end was started with --zero-copy; say it here too".into());
        }
        (Some(pool), true) => pool,
    };
    let segment = pool.segment();
    let most = segment.geometry().classes().iter().map(|class| class.slot_bytes).max();
    let most = most.unwrap_or(0);
    if u64::try_from(largest)? > most {
        return Err(format!("--size: the pool has buffers of up to {most} bytes; start the listening end with --size {largest}").into());
    }
    Ok(Some(pool))
}

impl<'p> Loans<'p> {
    pub(crate) fn place(handle: &'p PoolHandle<'_>, bump: &Bump<'p>) -> Result<Self, Failure> {
        // So few that neither end can hold all of them.
        let buffers = handle.segment().geometry().slot_count();
        Ok(Self { lender: Lender::place(handle, bump, buffers / 4)? })
    }

    /// A buffer of `size` bytes, as soon as there is one.
    pub(crate) fn acquire<P: Provider, F: Witness>(
        &self,
        station: &Station<'_, P, F>,
        size: usize,
        deadline: &Deadline,
    ) -> Result<Guard<'p, Exclusive, PoolFiles>, Failure> {
        loop {
            match self.lender.pool().acquire(size) {
                Err(PoolError::Retry(_)) => {}
                other => return Ok(other?),
            }
            self.lender.collect(&station.endpoint);
            station.turn_for_room(deadline, "the other end gives no buffers back")?;
        }
    }

    /// Sends a buffer, as soon as there is room.
    #[inline(always)]
    pub(crate) fn send<M: Mode, P: Provider, F: Witness>(
        &self,
        station: &Station<'_, P, F>,
        to: SendTo,
        mut guard: Guard<'p, M, PoolFiles>,
        deadline: &Deadline,
    ) -> Result<(), Failure> {
        loop {
            match station.endpoint.send_loan(&self.lender, to, guard) {
                Ok(()) => return Ok(()),
                Err(Refused { error: PostError::Retry(_), item }) => guard = item,
                Err(Refused { error, .. }) => return Err(error.into()),
            }
            station.turn_for_room(deadline, "the other end takes no buffers")?;
        }
    }

    /// The buffer in a completion; `None` where it is about something else.
    #[inline(always)]
    pub(crate) fn take(
        &self,
        completion: &mut Completion<'_>,
    ) -> Result<Option<Guard<'p, Shared, PoolFiles>>, Failure> {
        if completion.kind != Kind::Parcel {
            return Ok(None);
        }
        Ok(Some(completion.take_guard(self.lender.pool())?))
    }

    /// Waits until the other end has taken, and let go of, all that was sent to it.
    pub(crate) fn settle<P: Provider, F: Witness>(
        &self,
        station: &Station<'_, P, F>,
    ) -> Result<(), Failure> {
        let deadline = Deadline::new();
        while self.lender.under_way() > 0 {
            self.lender.collect(&station.endpoint);
            station.turn_for_room(&deadline, "the other end gives no buffers back")?;
        }
        Ok(())
    }
}

/// Writes messages in place. Knows what it has written into which buffer.
#[derive(Debug)]
pub(crate) struct Stamper {
    /// By slot: the number of the last message.
    stamped: Vec<Option<u64>>,
    words: usize,
}

impl Stamper {
    pub(crate) const fn new(size: usize) -> Self {
        Self { stamped: Vec::new(), words: size / WORD }
    }

    /// Makes message `number` of what is in the buffer.
    #[inline(always)]
    pub(crate) fn write(
        &mut self,
        guard: &mut Guard<'_, Exclusive, PoolFiles>,
        number: u64,
    ) -> Result<(), Failure> {
        let slot = usize::try_from(guard.id().slot())?;
        if self.stamped.len() <= slot {
            self.stamped.resize(slot.saturating_add(1), None);
        }
        let before = self.stamped.get_mut(slot).and_then(|seen| seen.replace(number));
        match before {
            None => fill(guard, self.words)?,
            Some(before) => {
                for at in stamps(self.words, before) {
                    guard.copy_from(at * WORD, &fixed(at).to_le_bytes())?;
                }
            }
        }
        for at in stamps(self.words, number) {
            guard.copy_from(at * WORD, &number.to_le_bytes())?;
        }
        Ok(())
    }
}

fn fill(guard: &mut Guard<'_, Exclusive, PoolFiles>, words: usize) -> Result<(), PoolError> {
    let mut bytes = Vec::new();
    for start in (0..words).step_by(CHUNK_WORDS) {
        let end = start.saturating_add(CHUNK_WORDS).min(words);
        bytes.clear();
        bytes.extend((start..end).flat_map(|at| fixed(at).to_le_bytes()));
        guard.copy_from(start * WORD, &bytes)?;
    }
    Ok(())
}

/// One in so many buffers that go there and back is looked at on both ends, the others where they begin.
const ENDS_EVERY: u64 = 16;

/// Whether a buffer that goes there and back looks like message `number`.
#[inline(always)]
pub(crate) fn looks_like(
    guard: &Guard<'_, Shared, PoolFiles>,
    size: usize,
    number: u64,
) -> Result<bool, PoolError> {
    if number.is_multiple_of(ENDS_EVERY) {
        return has_ends(guard, size, number);
    }
    let mut first = [0; WORD];
    guard.copy_to(0, &mut first)?;
    Ok(guard.len() == size && u64::from_le_bytes(first) == number)
}

/// Whether a buffer begins and ends as message `number` does.
#[inline(always)]
fn has_ends(
    guard: &Guard<'_, Shared, PoolFiles>,
    size: usize,
    number: u64,
) -> Result<bool, PoolError> {
    let mut ends = [[0; WORD]; 2];
    let [first, last] = &mut ends;
    guard.copy_to(0, first)?;
    guard.copy_to(size.saturating_sub(WORD), last)?;
    Ok(guard.len() == size && ends.map(u64::from_le_bytes) == [number; 2])
}

/// Whether a buffer holds message `number`: its stamps and the line behind the moving one, and every byte of one in 64.
#[inline(always)]
pub(crate) fn is_good(
    guard: &Guard<'_, Shared, PoolFiles>,
    size: usize,
    number: u64,
) -> Result<bool, PoolError> {
    if !has_ends(guard, size, number)? {
        return Ok(false);
    }
    let words = size / WORD;
    let [_, moving, _] = stamps(words, number);
    if number.is_multiple_of(FULL_EVERY) {
        return are_words(guard, (0, words), (words, number));
    }
    are_words(guard, (moving, words.min(moving.saturating_add(WORD))), (words, number))
}

fn are_words(
    guard: &Guard<'_, Shared, PoolFiles>,
    (from, to): (usize, usize),
    (words, number): (usize, u64),
) -> Result<bool, PoolError> {
    let stamps = stamps(words, number);
    let expected = |at: usize| if stamps.contains(&at) { number } else { fixed(at) };
    let mut bytes = [0; CHUNK_WORDS * WORD];
    for start in (from..to).step_by(CHUNK_WORDS) {
        let end = start.saturating_add(CHUNK_WORDS).min(to);
        let chunk = bytes.get_mut(..(end - start) * WORD).unwrap_or_default();
        guard.copy_to(start * WORD, chunk)?;
        let found = chunk.as_chunks::<WORD>().0.iter().map(|word| u64::from_le_bytes(*word));
        if !found.eq((start..end).map(expected)) {
            return Ok(false);
        }
    }
    Ok(true)
}
