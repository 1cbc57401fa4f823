//! iceoryx2's buffers: `loan_uninit` and drop, in one process.
//!
//! A publisher loans a sample from the data segment that is its own, and gives it back unsent. It is
//! set up as it is quickest: `ipc::Service`, whose ports are not for several threads and so take no
//! lock (`ipc_threadsafe` does); a payload of fixed size and not a slice, for which `loan_uninit`
//! writes nothing; one publisher, room for one subscriber, and none there, as each loan first looks
//! through the connections for samples that come back; no history; one loan at a time.

use core::hint::black_box;
use core::mem::MaybeUninit;

use anyhow::anyhow;
use iceoryx2::prelude::*;

use super::Peer;
use super::pool::Pool;
use crate::cpu;
use crate::sample::{Sample, Trips};
use crate::schedule::Plan;
use crate::work::{Subject, Work};

/// 4 KiB.
type Payload = [u8; 4096];

/// The row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loan;

impl Peer for Loan {
    fn name(&self) -> &'static str {
        "iceoryx2 loan"
    }

    fn word(&self) -> &'static str {
        "iceoryx2"
    }

    fn measures(&self, work: Work) -> bool {
        work.size as usize == size_of::<Payload>()
            && matches!(work.subject, Subject::Acquire | Subject::Get)
    }

    fn rival(&self) -> Option<&'static str> {
        Some(Pool::One.name())
    }

    fn probe(&self, _plan: &Plan) -> Result<String, String> {
        set_log_level(LogLevel::Error);
        loans(1).map_err(|error| format!("iceoryx2 does not work here: {error:#}"))?;
        Ok("loan_uninit and drop of 4 KiB, ipc::Service, no subscriber".to_owned())
    }

    fn measure(&self, _work: Work, plan: &Plan) -> anyhow::Result<Sample> {
        let laps = cpu::on(plan.cpus.near, || loans(plan.effort.operations()))?;
        Ok(Sample::Rtt(laps.finish_blocks(&plan.clock)))
    }
}

fn loans(operations: u32) -> anyhow::Result<Trips> {
    let node = NodeBuilder::new()
        .create::<ipc::Service>()
        .map_err(|error| anyhow!("no iceoryx2 node: {error:?}"))?;
    let name = format!("spinwire-peers/{}/loan", std::process::id());
    let name = ServiceName::new(&name).map_err(|error| anyhow!("{name}: {error:?}"))?;
    let service = node
        .service_builder(&name)
        .publish_subscribe::<Payload>()
        .max_publishers(1)
        .max_subscribers(1)
        .history_size(0)
        .subscriber_max_buffer_size(1)
        .subscriber_max_borrowed_samples(1)
        .create()
        .map_err(|error| anyhow!("service {name}: {error:?}"))?;
    let publisher = service
        .publisher_builder()
        .max_loaned_samples(1)
        .create()
        .map_err(|error| anyhow!("no publisher: {error:?}"))?;
    Trips::of_blocks(operations, || {
        let mut sample = publisher.loan_uninit().map_err(|error| anyhow!("loan: {error:?}"))?;
        let payload: &mut MaybeUninit<Payload> = sample.payload_mut();
        black_box(payload.as_mut_ptr());
        Ok(())
    })
}
