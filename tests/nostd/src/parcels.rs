//! Buffers of a pool as messages: at the lane, at the endpoint, and in the hands of who receives.

use spinwire_dataplane::error::{Fatal, PostError, Refused};
use spinwire_dataplane::msg::{Completion, Endpoint, Lender, Parcel, SendTo};
use spinwire_dataplane::pool::{ExclusiveGuard, NoHost, Pool, PoolError, SharedGuard};
use spinwire_dataplane::provider::Cqe;
use spinwire_dataplane::provider::fault::Fault;
use spinwire_dataplane::provider::shm::ShmPort;
use spinwire_dataplane::provider::trace::Trace;
use spinwire_dataplane::shm::lane::{Arrival, Descriptor, Envelope, LaneRx, LaneTx};
use spinwire_layouts::shm::BufferId;

#[unsafe(no_mangle)]
pub extern "C" fn probe_lane_stage_parcel(
    lane: &LaneTx<'_>,
    buffer: BufferId,
    pool: u32,
    envelope: Envelope,
) -> Result<u8, PostError> {
    lane.stage_parcel((buffer, pool), envelope)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_lane_is_settled(lane: &LaneTx<'_>, number: u8) -> bool {
    lane.is_settled(number)
}

/// Whole receive step, with an arrival of any content.
#[unsafe(no_mangle)]
pub extern "C" fn probe_lane_take_parcel(
    lane: &LaneRx<'_>,
    arrival: &Arrival<'_>,
    numbers: u64,
) -> Result<Descriptor, Fatal> {
    let descriptor = lane.read_parcel(arrival)?;
    lane.take_parcel(arrival, &descriptor);
    lane.settle(numbers);
    Ok(descriptor)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_cqe_parcel(cqe: &Cqe, descriptor: Descriptor) -> Option<Descriptor> {
    cqe.with_parcel(descriptor).parcel()
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_parcel_take<'p>(
    completion: &mut Completion<'_>,
    pool: &'p Pool<'p>,
) -> Result<SharedGuard<'p>, PoolError> {
    completion.take_guard(pool)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_parcel_is_of(parcel: Parcel<'_>, pool: &Pool<'_>) -> bool {
    parcel.is_of(pool.segment())
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_guard_try_exclusive<'p>(
    guard: SharedGuard<'p>,
) -> Result<ExclusiveGuard<'p>, PoolError> {
    guard.try_exclusive().map_err(PoolError::from)
}

/// The probes of a lender over one endpoint type.
macro_rules! lender_probes {
    ($module:ident, $provider:ty) => {
        mod $module {
            use super::*;

            #[unsafe(export_name = concat!("probe_", stringify!($module), "_send_loan"))]
            extern "C" fn send_loan<'p>(
                endpoint: &Endpoint<'p, $provider>,
                lender: &Lender<'p, 'p, NoHost>,
                to: SendTo,
                guard: ExclusiveGuard<'p>,
            ) -> Result<(), Refused<ExclusiveGuard<'p>>> {
                endpoint.send_loan(lender, to, guard)
            }

            #[unsafe(export_name = concat!("probe_", stringify!($module), "_send_shared"))]
            extern "C" fn send_shared<'p>(
                endpoint: &Endpoint<'p, $provider>,
                lender: &Lender<'p, 'p, NoHost>,
                to: SendTo,
                guard: SharedGuard<'p>,
            ) -> Result<(), Refused<SharedGuard<'p>>> {
                endpoint.send_loan(lender, to, guard)
            }

            #[unsafe(export_name = concat!("probe_", stringify!($module), "_collect"))]
            extern "C" fn collect<'p>(
                endpoint: &Endpoint<'p, $provider>,
                lender: &Lender<'p, 'p, NoHost>,
            ) -> usize {
                lender.collect(endpoint)
            }
        }
    };
}

lender_probes!(shm, ShmPort<'p, 'p>);
lender_probes!(fault, Fault<'p, ShmPort<'p, 'p>>);
lender_probes!(trace, Trace<'p, ShmPort<'p, 'p>>);

#[unsafe(no_mangle)]
pub extern "C" fn probe_lender_drop(lender: Lender<'_, '_, NoHost>) {
    drop(lender);
}
