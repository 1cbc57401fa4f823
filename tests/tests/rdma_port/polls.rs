//! How often a look asks the device.

use core::cell::{Cell, RefCell};
use core::mem::MaybeUninit;
use std::collections::VecDeque;

use heapless::VecView;
use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::Name;
use spinwire_dataplane::provider::rdma::{Memory, POLLS_MAX, RdmaConfig, RdmaPort};
use spinwire_dataplane::provider::{EndpointType, Provider, Published, Sight};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::verbs::{
    CompletionQueue, Limits, POLL_EACH_MAX, QueuePair, RecvRequest, SendRequest, Wc, WcFields,
    WcStatus,
};

/// A queue that counts its polls, with completions of nothing.
#[derive(Debug, Default)]
struct Counting {
    polls: Cell<u32>,
    done: RefCell<VecDeque<WcFields>>,
}

impl CompletionQueue for &Counting {
    fn depth(&self) -> u32 {
        1 << 20
    }

    fn poll_cq(&self, out: &mut VecView<Wc>) {
        self.polls.set(self.polls.get() + 1);
        while !out.is_full() {
            let Some(fields) = self.done.borrow_mut().pop_front() else { break };
            let _fits = out.push(Wc::new(fields));
        }
    }
}

/// There is none.
#[derive(Debug)]
struct NoPair;

impl QueuePair for NoPair {
    type Key = u32;

    fn limits(&self) -> Limits {
        panic!("there is no pair")
    }

    fn qp_num(&self) -> u32 {
        panic!("there is no pair")
    }

    fn post_send(&self, _send: &SendRequest<'_, u32>) -> Result<(), PostError> {
        panic!("there is no pair")
    }

    fn post_recv(&self, _recv: &RecvRequest<'_, u32>) -> Result<(), PostError> {
        panic!("there is no pair")
    }

    fn ring_doorbell(&self) -> Published {
        panic!("there is no pair")
    }

    fn ring_recv_doorbell(&self) -> Published {
        panic!("there is no pair")
    }
}

const STRAY: WcFields = WcFields {
    wr_id: u64::MAX,
    qp_num: 9,
    status: WcStatus::SUCCESS,
    vendor: 0,
    byte_len: 0,
    immediate: None,
    is_written: false,
    source_qp: 0,
};

#[test]
fn a_look_asks_as_often_as_it_was_told_where_nothing_comes() {
    let count = u32::try_from(POLL_EACH_MAX).unwrap();
    for (polls, in_vain) in [(0, 1), (1, 1), (5, 5), (u32::MAX, POLLS_MAX)] {
        let mut block: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(4 << 20);
        let (bump, queue) = (Bump::new(&mut block), Counting::default());
        let config =
            RdmaConfig { polls, slot_bytes: 128, message_bytes_max: 64, ..RdmaConfig::default() };
        let bytes = usize::try_from(config.memory_bytes()).unwrap();
        let lines = bump.slice_with(bytes.div_ceil(64), |_| Line::zeroed()).unwrap();
        let memory = Memory::<NoPair, &Counting> { lines, address: 0, key: 7, loans: None };
        let who = (&Name::new("counts").unwrap(), EndpointType::Rdm);
        let port = RdmaPort::place(&bump, who, &config, &queue, memory).unwrap();
        let polls_with = |strays: u32| {
            queue.done.borrow_mut().extend((0..strays).map(|_| STRAY));
            assert_eq!(port.look(), Sight::Nothing);
            queue.polls.replace(0)
        };
        assert_eq!(polls_with(0), in_vain);
        assert_eq!(polls_with(1), 1, "there is no more where a poll was not full");
        assert_eq!(polls_with(count), 1 + in_vain, "behind a full one there may be more");
        assert_eq!(port.counters().strays, u64::from(1 + count));
        assert!(port.has_heard_all());
    }
}
