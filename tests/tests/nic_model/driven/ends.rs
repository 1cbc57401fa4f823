//! Queue pairs as a completion queue has them: the data plane dispatches what the device says to who has posted it.

use std::rc::Rc;

use spinwire_dataplane::cq::{Arrival, Cq, Event, Inline, MonoCq, QueueTable, Queues};
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::tracker::{Completed, Earlier, Failed, FailedBy, Posted, Stale};
use spinwire_dataplane::wqe::{Qp, SharedRecvQueue};

/// A queue pair, and the shared queue that it receives from, if so.
pub(crate) struct Ends<'m> {
    pub(crate) qp: Qp<'m, u64, Device>,
    pub(crate) srq: Option<Rc<SharedRecvQueue<'m, u64, Device>>>,
}

impl Queues for Ends<'_> {
    type Send = u64;
    type Receive = u64;

    fn qpn(&self) -> u32 {
        self.qp.qpn()
    }

    fn complete_send(&self, wqe_counter: u16) -> Result<Completed<u64>, Stale> {
        self.qp.sq().complete(wqe_counter)
    }

    fn fail_send(&self, wqe_counter: u16, by: FailedBy) -> Result<Failed<u64>, Stale> {
        self.qp.sq().fail(wqe_counter, by)
    }

    fn complete_receive(&self, wqe_counter: u16) -> Result<u64, Stale> {
        match &self.srq {
            Some(srq) => srq.complete(wqe_counter),
            None => self.qp.rq().unwrap().complete(wqe_counter).map(|completed| completed.entry),
        }
    }

    fn fail_receive(&self, wqe_counter: u16) -> Result<u64, Stale> {
        match &self.srq {
            Some(srq) => srq.complete(wqe_counter),
            None => match self.qp.rq().unwrap().fail(wqe_counter)?.wqe {
                Posted::Signaled(entry) => Ok(entry),
                Posted::Unsignaled | Posted::Fill => panic!("a receive is neither"),
            },
        }
    }
}

/// What has ended, by the number of its queue pair.
#[derive(Clone, Debug)]
pub(crate) enum Ended {
    Sent { entry: u64, unsignaled: u16, bytes: u32, inline: Option<Vec<u8>> },
    Received { entry: u64, arrival: Arrival, bytes: u32, inline: Option<Vec<u8>> },
    SendFailed { wqe: Posted<u64>, earlier: Earlier, is_flush: bool },
    ReceiveFailed { entry: u64 },
}

/// A completion queue, for queue pairs of the one kind that there is here.
pub(crate) struct Dispatch<'m>(MonoCq<'m, Device, Rc<Ends<'m>>>);

impl<'m> Dispatch<'m> {
    pub(crate) fn new(bump: &Bump<'m>, cq: Cq<'m, Device>, pairs: u32) -> Self {
        Self(MonoCq::new(cq, QueueTable::place(bump, pairs).unwrap()))
    }

    pub(crate) fn add(&self, ends: &Rc<Ends<'m>>) {
        let added = self.0.add(Rc::clone(ends));
        assert!(added.is_ok(), "there is room for it");
    }

    pub(crate) fn poll(&self, budget: u32) -> Vec<(u32, Ended)> {
        let mut all = Vec::new();
        self.0.poll(budget, |event| all.push(ended(&event)));
        all
    }
}

fn copied(inline: Option<Inline<'_>>) -> Option<Vec<u8>> {
    inline.map(|inline| {
        let mut bytes = vec![0; inline.len()];
        assert_eq!(inline.copy_out(&mut bytes), bytes.len());
        bytes
    })
}

fn ended(event: &Event<'_, u64, u64>) -> (u32, Ended) {
    match *event {
        Event::Sent { entry, unsignaled, cqe } => {
            let (bytes, inline) = (cqe.bytes(), copied(cqe.inline()));
            (cqe.qpn(), Ended::Sent { entry, unsignaled, bytes, inline })
        }
        Event::Received { entry, cqe } => {
            let (arrival, bytes, inline) = (cqe.arrival(), cqe.bytes(), copied(cqe.inline()));
            (cqe.qpn(), Ended::Received { entry, arrival, bytes, inline })
        }
        Event::SendFailed { wqe, earlier, failure } => {
            let is_flush = failure.syndrome.is_flush();
            (failure.qpn, Ended::SendFailed { wqe, earlier, is_flush })
        }
        Event::ReceiveFailed { entry, failure } => (failure.qpn, Ended::ReceiveFailed { entry }),
        Event::Stale { .. } | Event::UnknownQueue { .. } | Event::Odd(_) => {
            panic!("the device writes nothing of the kind: {event:?}")
        }
    }
}
