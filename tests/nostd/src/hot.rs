//! Functions of a turn: lanes, tables, figures.

use spinwire_dataplane::chain::{
    ChainError, ChainFault, ChainId, ChainOutcome, ChainTable, Entry, Progress,
};
use spinwire_dataplane::error::{Fatal, PostError};
use spinwire_dataplane::id::{OpTag, WrId};
use spinwire_dataplane::poll::{
    Budget, HistogramId, Outcome, Poll, Rotation, Stats, StatsWriter, TraceRing,
};
use spinwire_dataplane::pool::{ExclusiveGuard, Pool, PoolError, SharedGuard};
use spinwire_dataplane::raw::line::{self, Line};
use spinwire_dataplane::shm::lane::{Arrival, Envelope, LaneRx, LaneTx};
use spinwire_dataplane::table::{BitSet, Due, Fifos, Full, Key, Ring, Slab, SlabError, Timers};
use spinwire_dataplane::time::Instant;
use spinwire_layouts::shm::BufferId;

#[unsafe(no_mangle)]
pub extern "C" fn probe_lane_stage(
    lane: &LaneTx<'_>,
    payload: &[u8],
    envelope: Envelope,
) -> Result<(), PostError> {
    lane.stage(payload, envelope)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_lane_publish(lane: &LaneTx<'_>) -> u64 {
    lane.publish()
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_lane_peek<'s>(lane: &LaneRx<'s>) -> Result<Option<Arrival<'s>>, Fatal> {
    lane.peek()
}

/// Whole receive step, with an arrival of any content.
#[unsafe(no_mangle)]
pub extern "C" fn probe_lane_take(lane: &LaneRx<'_>, arrival: &Arrival<'_>, to: &mut [u8]) {
    lane.copy_out(arrival, to);
    lane.advance(arrival);
    lane.return_credit();
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_lane_take_run(
    lane: &LaneRx<'_>,
    like: &Arrival<'_>,
    to: &mut [u8],
    stride: usize,
) -> u32 {
    lane.take_run(like, to, stride)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_line_copies(lines: &[Line], at: usize, from: &[u8], to: &mut [u8]) -> bool {
    line::prefetch(lines, at);
    line::copy_in(lines, at, from) && line::copy_out(lines, at, to)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_slab(slab: &Slab<'_, u64>, key: Key, value: u64) -> Result<u64, SlabError> {
    if let Ok(new) = slab.insert(value) {
        slab.set(new, value)?;
    }
    slab.get(key)?;
    slab.with(key, |held| *held ^= value)?;
    slab.remove(key)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_ring(ring: &Ring<'_, u64>, value: u64) -> Result<Option<u64>, Full<u64>> {
    ring.push(value)?;
    Ok(ring.pop())
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_fifos(fifos: &Fifos<'_>, list: u32, slot: u32) -> Option<u32> {
    fifos.push_back(list, slot).ok()?;
    fifos.unlink(slot).ok()?;
    fifos.iter(list, slot).last()?;
    fifos.pop_front(list)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_bitset(bits: &BitSet<'_>, number: u32) -> Option<u32> {
    bits.insert(number).ok()?;
    bits.remove(bits.first_absent()?).ok()?;
    bits.next_from(number)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_timers(
    timers: &Timers<'_, u64>,
    now: Instant,
    key: Key,
) -> Option<Due<u64>> {
    timers.insert(now, key.slot().into()).ok()?;
    timers.reset(key, now).ok()?;
    timers.cancel(key).ok()?;
    timers.next_deadline()?;
    timers.expire(now, key.slot()).last()
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_chain_start(
    chains: &ChainTable<'_>,
    context: u64,
    entries: &[Entry],
) -> Result<ChainId, ChainError> {
    chains.start_at(chains.start(context, entries)?.slot(), context, entries)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_chain_cqe(
    chains: &ChainTable<'_>,
    user_data: u64,
    res: i32,
    flags: u32,
) -> Result<Progress, ChainFault> {
    chains.on_cqe(user_data, res, flags)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_chain_take_whole(
    chains: &ChainTable<'_>,
    user_data: u64,
    res: i32,
    flags: u32,
) -> Option<(u32, u64)> {
    chains.take_whole(user_data, res, flags)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_chain_take(
    chains: &ChainTable<'_>,
    id: ChainId,
    entry: u16,
) -> Result<ChainOutcome, ChainError> {
    chains.result(id, entry)?;
    chains.entry_context(id, entry)?;
    chains.take(id)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_wr_id(raw: u64) -> Option<(OpTag, u32)> {
    let (op, generation, slot) = WrId::from_raw(raw).parts()?;
    let again = WrId::new(op, generation.next(), slot);
    again.parts().map(|(op, _, slot)| (op, slot))
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_stats(stats: &Stats<'_>, page: &StatsWriter<'_>, value: u64, now: Instant) {
    stats.record(HistogramId::RoundTrip, value);
    page.publish(stats, now);
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_trace_ring(ring: &TraceRing<'_>, at: Instant, count: u32) -> Option<u64> {
    ring.record(at, 1, 2, 3);
    ring.newest(count).last().map(|event| event.a)
}

/// Two sources that do nothing: what is left is the turning itself.
#[unsafe(no_mangle)]
pub extern "C" fn probe_rotation(
    sources: &Rotation<(Quiet, Quiet)>,
    now: Instant,
    budget: Budget,
) -> Outcome {
    sources.turn(now, budget)
}

/// A source that is always idle.
#[derive(Debug)]
pub struct Quiet;

impl Poll for Quiet {
    fn turn(&self, _: Instant, _: Budget) -> Outcome {
        Outcome::Idle
    }

    fn poll_at(&self) -> Option<Instant> {
        None
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_pool_acquire(pool: &Pool<'_>, size: usize) -> Result<u64, PoolError> {
    let mut guard = pool.acquire(size)?;
    guard.copy_from(0, b"probe")?;
    if let Some(first) = guard.as_mut_slice::<u64>()?.first_mut() {
        *first = 1;
    }
    Ok(guard.id().as_raw())
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_pool_get(
    pool: &Pool<'_>,
    id: BufferId,
    to: &mut [u8],
) -> Result<(), PoolError> {
    pool.get(id)?.copy_to(0, to)?;
    pool.adopt(id)?.copy_to(8, to)?;
    drop((pool.get_mut(id)?, pool.adopt_mut(id)?));
    pool.add_ref(id)?;
    pool.release(id)?;
    pool.ref_count(id)?;
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_pool_publish<'p>(
    guard: ExclusiveGuard<'p>,
) -> Result<SharedGuard<'p>, PoolError> {
    guard.set_ref_count(3)?;
    guard.publish()
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_pool_detach(guard: SharedGuard<'_>) -> Result<BufferId, PoolError> {
    guard.detach().map_err(PoolError::from)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_pool_tensor(
    guard: &SharedGuard<'_>,
    index: &[u64],
) -> Result<Option<u32>, PoolError> {
    Ok(guard.tensor::<u32>()?.get(index).copied())
}
