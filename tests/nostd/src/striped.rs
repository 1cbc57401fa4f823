//! A virtual queue pair over two paths of a device that has done everything at once.

use core::cell::Cell;

use heapless::VecView;
use spinwire_dataplane::error::{PostError, Retry};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::Published;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::Instant;
use spinwire_dataplane::verbs::{
    CompletionQueue, Limits, QueuePair, RecvRequest, SendRequest, Wc, WcFields, WcStatus,
};
use spinwire_dataplane::vqp::{
    Op, Regions, Remote, SendWr, Setup, Sge, Signal, VirtualCq, VirtualQp, VqpConfig,
};

const PLACES: usize = 32;

/// Queue pair 1, and the completion queue, of one device.
struct Device {
    done: [Cell<u64>; PLACES],
    head: Cell<usize>,
    tail: Cell<usize>,
    staged: Cell<u64>,
}

impl QueuePair for Device {
    type Key = u32;

    fn limits(&self) -> Limits {
        let message_bytes_max = 1 << 20;
        Limits { send_depth: 8, recv_depth: 8, sge_max: 4, message_bytes_max, inline_bytes_max: 0 }
    }

    fn qp_num(&self) -> u32 {
        1
    }

    fn post_send(&self, send: &SendRequest<'_, u32>) -> Result<(), PostError> {
        let tail = self.tail.get();
        let place = self.done.get(tail % PLACES).ok_or(Retry::SqFull)?;
        place.set(send.wr_id.as_raw());
        self.tail.set(tail.wrapping_add(1));
        self.staged.set(self.staged.get().wrapping_add(1));
        Ok(())
    }

    fn post_recv(&self, _: &RecvRequest<'_, u32>) -> Result<(), PostError> {
        Err(Retry::RqFull.into())
    }

    fn ring_doorbell(&self) -> Published {
        Published { count: self.staged.replace(0), error: None }
    }

    fn ring_recv_doorbell(&self) -> Published {
        Published::default()
    }
}

impl CompletionQueue for Device {
    fn depth(&self) -> u32 {
        64
    }

    fn poll_cq(&self, out: &mut VecView<Wc>) {
        while self.head.get() != self.tail.get() && !out.is_full() {
            let Some(place) = self.done.get(self.head.get() % PLACES) else { return };
            let wr_id = place.get();
            let status = WcStatus::SUCCESS;
            let (vendor, byte_len, immediate, is_written, source_qp) = (0, 0, None, false, 0);
            let qp_num = 1;
            let fields = WcFields {
                wr_id,
                qp_num,
                status,
                vendor,
                byte_len,
                immediate,
                is_written,
                source_qp,
            };
            let _fits = out.push(Wc::new(fields));
            self.head.set(self.head.get().wrapping_add(1));
        }
    }
}

/// A thousand messages of ten fragments. `None` where anything is not as it should be.
pub fn over_two_devices(bump: &Bump<'static>) -> Option<()> {
    let device = || Device {
        done: [const { Cell::new(0) }; PLACES],
        head: Cell::new(0),
        tail: Cell::new(0),
        staged: Cell::new(0),
    };
    let one: &'static Device = bump.value(device()).ok()?;
    let two: &'static Device = bump.value(device()).ok()?;
    let keys = [Some(1_u32), Some(2)];
    let local = Regions::place(bump, 1, 2).ok()?;
    let remote = Regions::place(bump, 1, 2).ok()?;
    let (here, there) =
        (local.register(0, 1 << 30, &keys).ok()?, remote.register(0, 1 << 30, &keys).ok()?);
    let (local, remote) = (bump.value(local).ok()?, bump.value(remote).ok()?);
    let config = VqpConfig {
        scheme: spinwire_dataplane::vqp::Scheme::Dqplb(
            spinwire_dataplane::vqp::sequence::SequenceCodec::Clean,
        ),
        max_message: 100,
        sends: 4,
        recvs: 4,
        send_depth: 4,
        recv_depth: 4,
        window: 16,
        ..VqpConfig::default()
    };
    let setup = Setup { paths: &[(one, 0), (two, 1)], notify: None, local, remote };
    let vqp = VirtualQp::place(bump, &setup, &config).ok()?;
    let vcq = VirtualCq::place(bump, &[(one, 0), (two, 1)], 1).ok()?;
    vcq.attach(vqp).ok()?;
    let sges = [Sge { region: here, offset: 5, length: 950 }];
    let remote = Some(Remote { region: there, offset: 7 });
    for context in 0..1000 {
        let (op, signal) = (Op::WriteNotify, Signal::Always);
        vqp.post_send(&SendWr { context, op, sges: &sges, remote, signal }).ok()?;
        vqp.ring_doorbell();
        let mut over = None;
        for _ in 0..10 {
            let _outcome = vcq.turn(Instant::from_nanos(context), Budget::DEFAULT);
            over = over.or_else(|| vcq.take());
        }
        let over = over?;
        if over.context != context || over.outcome.ok()?.bytes != 950 {
            return None;
        }
    }
    Some(())
}
