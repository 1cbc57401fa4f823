//! A virtual queue pair over four paths of a device that has done everything at once, and a round of everything that is done with it.

use core::cell::Cell;
use core::mem::MaybeUninit;

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::Published;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_dataplane::verbs::{
    CompletionQueue, Limits, QueuePair, RecvRequest, SendRequest, Verb, Wc, WcFields, WcStatus,
};
use spinwire_dataplane::vqp::sequence::SequenceCodec;
use spinwire_dataplane::vqp::{
    Health, Op, RecvKind, RecvWr, RegionId, Regions, Remote, Replay, Scheme, SendWr, Setup, Sge,
    Signal, VirtualCq, VirtualQp, VqpConfig,
};

const PLACES: usize = 256;
const PATHS: usize = 4;

/// A queue pair that is connected to itself: what it writes with an immediate completes its own receives.
#[derive(Debug)]
pub(crate) struct Mirror {
    number: u32,
    recvs: [Cell<u64>; PLACES],
    recv_head: Cell<usize>,
    recv_tail: Cell<usize>,
    sends: Cell<u64>,
    staged_recvs: Cell<u64>,
    /// The next send fails.
    pub(crate) fails: Cell<bool>,
    cq: &'static Done,
}

#[derive(Debug)]
pub(crate) struct Done {
    places: &'static [Cell<Option<WcFields>>],
    head: Cell<usize>,
    tail: Cell<usize>,
}

impl Done {
    fn push(&self, fields: WcFields) {
        let tail = self.tail.get();
        self.places[tail % PLACES].set(Some(fields));
        self.tail.set(tail + 1);
    }
}

impl CompletionQueue for Done {
    fn depth(&self) -> u32 {
        1 << 16
    }

    fn poll_cq(&self, out: &mut heapless::VecView<Wc>) {
        while self.head.get() != self.tail.get() && !out.is_full() {
            let fields = self.places[self.head.get() % PLACES].take();
            self.head.set(self.head.get() + 1);
            let _fits = fields.map(|fields| out.push(Wc::new(fields)));
        }
    }
}

impl QueuePair for Mirror {
    type Key = u32;

    fn limits(&self) -> Limits {
        Limits {
            send_depth: 64,
            recv_depth: 64,
            sge_max: 4,
            message_bytes_max: 1 << 30,
            inline_bytes_max: 0,
        }
    }

    fn qp_num(&self) -> u32 {
        self.number
    }

    fn post_send(&self, send: &SendRequest<'_, u32>) -> Result<(), PostError> {
        let failed = self.fails.take();
        let status = if failed { WcStatus::RETRY_EXCEEDED } else { WcStatus::SUCCESS };
        let fields = WcFields {
            wr_id: send.wr_id.as_raw(),
            qp_num: self.number,
            status,
            vendor: 0,
            byte_len: 0,
            immediate: None,
            is_written: false,
            source_qp: 0,
        };
        if let (Verb::WriteImm(immediate), false) = (send.verb, failed) {
            let wr_id = self.recvs[self.recv_head.get() % PLACES].get();
            self.recv_head.set(self.recv_head.get() + 1);
            self.cq.push(WcFields { wr_id, immediate: Some(immediate), ..fields });
        }
        self.cq.push(fields);
        self.sends.set(self.sends.get() + 1);
        Ok(())
    }

    fn post_recv(&self, recv: &RecvRequest<'_, u32>) -> Result<(), PostError> {
        self.recvs[self.recv_tail.get() % PLACES].set(recv.wr_id.as_raw());
        self.recv_tail.set(self.recv_tail.get() + 1);
        self.staged_recvs.set(self.staged_recvs.get() + 1);
        Ok(())
    }

    fn ring_doorbell(&self) -> Published {
        Published { count: self.sends.replace(0), error: None }
    }

    fn ring_recv_doorbell(&self) -> Published {
        Published { count: self.staged_recvs.replace(0), error: None }
    }
}

/// What a round works with.
pub(crate) struct Work {
    vqp: &'static VirtualQp<'static, &'static Mirror>,
    vcq: &'static VirtualCq<'static, &'static Mirror, &'static Done>,
    qps: [&'static Mirror; PATHS],
    here: RegionId,
    there: RegionId,
    now: Cell<u64>,
}

/// Set up once; leaked, as a plane's memory is.
pub(crate) fn place() -> Work {
    let bump = Bump::new(Box::leak(vec![MaybeUninit::uninit(); 1 << 20].into_boxed_slice()));
    let places = (0..PLACES).map(|_| Cell::new(None)).collect::<Vec<_>>().leak();
    let cq: &'static Done =
        Box::leak(Box::new(Done { places, head: Cell::new(0), tail: Cell::new(0) }));
    let qps = [1, 2, 3, 4].map(|number| {
        &*Box::leak(Box::new(Mirror {
            number,
            recvs: [const { Cell::new(0) }; PLACES],
            recv_head: Cell::new(0),
            recv_tail: Cell::new(0),
            sends: Cell::new(0),
            staged_recvs: Cell::new(0),
            fails: Cell::new(false),
            cq,
        }))
    });
    let table = || {
        let regions = Regions::place(&bump, 1, 1).unwrap();
        let id = regions.register(0, 1 << 30, &[Some(1)]).unwrap();
        (&*bump.value(regions).unwrap(), id)
    };
    let ((local, here), (remote, there)) = (table(), table());
    let config = VqpConfig {
        scheme: Scheme::Dqplb(SequenceCodec::Compatible),
        replay: Replay::Idempotent,
        max_message: 100,
        sends: 16,
        recvs: 16,
        send_depth: 16,
        recv_depth: 16,
        window: 32,
        flush_after: Nanos::from_millis(1),
        ..VqpConfig::default()
    };
    let paths = qps.map(|qp| (qp, 0));
    let setup = Setup { paths: &paths, notify: None, local, remote };
    let vqp = VirtualQp::place(&bump, &setup, &config).unwrap();
    let vcq = VirtualCq::place(&bump, &[(cq, 0)], 1).unwrap();
    vcq.attach(vqp).unwrap();
    Work { vqp, vcq, qps, here, there, now: Cell::new(0) }
}

/// So many rounds; the number of those in which everything was as it should be.
pub(crate) fn run(work: &Work, rounds: u64) -> u64 {
    (0..rounds).map(|round| u64::from(is_good(work, round).unwrap_or(false))).sum()
}

/// A message of seven fragments to itself; now and then a path dies under it, and is taken in again.
fn is_good(work: &Work, round: u64) -> Option<bool> {
    let dies = round % 16 == 5;
    let path = usize::try_from(round / 16).ok()? % PATHS;
    work.qps[path].fails.set(dies);
    work.vqp.post_recv(&RecvWr { context: round, kind: RecvKind::Notification, sges: &[] }).ok()?;
    let sges = [
        Sge { region: work.here, offset: round, length: 333 },
        Sge { region: work.here, offset: 4096, length: 333 },
    ];
    let remote = Some(Remote { region: work.there, offset: 0 });
    let (op, signal) = (Op::WriteNotify, Signal::Always);
    work.vqp.post_send(&SendWr { context: round, op, sges: &sges, remote, signal }).ok()?;
    work.vqp.ring_doorbell();
    let mut over = 0;
    for _ in 0..6 {
        work.now.set(work.now.get() + 1_000_000);
        let _outcome = work.vcq.turn(Instant::from_nanos(work.now.get()), Budget::DEFAULT);
        while let Some(completion) = work.vcq.take() {
            over += u32::from(completion.context == round && completion.outcome.is_ok());
        }
    }
    if dies {
        // What the mirror still had of its receives is never flushed.
        let at = u32::try_from(path).ok()?;
        for _ in 0..8 {
            work.now.set(work.now.get() + 1_000_000);
            let _outcome = work.vcq.turn(Instant::from_nanos(work.now.get()), Budget::DEFAULT);
        }
        work.qps[path].recv_head.set(work.qps[path].recv_tail.get());
        work.vqp.readmit(at).ok()?;
        work.vqp.ring_doorbell();
        return Some(over == 2 && work.vqp.path(at)?.health == Health::Recovered);
    }
    Some(over == 2)
}
