//! A device that does what the test says, one completion at a time.

use core::cell::{Cell, RefCell};
use core::mem::MaybeUninit;
use std::collections::VecDeque;

use spinwire_dataplane::error::{Fatal, PostError, Retry};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::Published;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::Instant;
use spinwire_dataplane::verbs::{
    CompletionQueue, Limits, QueuePair, RecvRequest, RemotePlace, SendRequest, Verb, Wc, WcFields,
    WcStatus,
};
use spinwire_dataplane::vqp::{
    Completion, Op, Refusal, RegionId, Regions, Remote, SendWr, Setup, Sge, Signal, VirtualCq,
    VirtualQp, VqpConfig,
};

pub(crate) const LIMITS: Limits = Limits {
    send_depth: 1024,
    recv_depth: 1024,
    sge_max: 4,
    message_bytes_max: 1 << 31,
    inline_bytes_max: 0,
};

/// A send that a device was given.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sent {
    pub(crate) wr_id: u64,
    pub(crate) verb: Verb,
    /// Address, length, key.
    pub(crate) segments: Vec<(u64, u32, u32)>,
    pub(crate) remote: Option<RemotePlace>,
}

impl Sent {
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| u64::from(segment.1)).sum()
    }
}

#[derive(Debug, Default)]
pub(crate) struct ManualQp {
    number: u32,
    staged: RefCell<Vec<Sent>>,
    staged_recvs: RefCell<Vec<u64>>,
    /// What the device has and was not completed.
    pub(crate) sent: RefCell<VecDeque<Sent>>,
    pub(crate) recvs: RefCell<VecDeque<u64>>,
    /// Lengths of the segments of every receive that was staged.
    pub(crate) buffers: RefCell<Vec<Vec<u32>>>,
    /// Everything that it ever had.
    pub(crate) log: RefCell<Vec<Sent>>,
    /// The next posts are refused like that.
    pub(crate) refuse: Cell<Option<PostError>>,
    /// The next doorbell publishes so many, and fails or not.
    pub(crate) publish: Cell<Option<(u64, Option<Fatal>)>>,
    /// The same for receives.
    pub(crate) publish_recvs: Cell<Option<(u64, Option<Fatal>)>>,
    /// After so many receives there is no room for the next ones.
    pub(crate) recv_room: Cell<Option<u32>>,
    /// So many posts are refused, as `refuse` says, and no more; 0 is without end.
    pub(crate) refusals: Cell<u32>,
}

impl ManualQp {
    fn refused(&self) -> Option<PostError> {
        let error = self.refuse.get();
        if error.is_some() && self.refusals.get() > 0 {
            self.refusals.set(self.refusals.get() - 1);
            if self.refusals.get() == 0 {
                self.refuse.set(None);
            }
        }
        error
    }
}

impl QueuePair for ManualQp {
    type Key = u32;

    fn limits(&self) -> Limits {
        LIMITS
    }

    fn qp_num(&self) -> u32 {
        self.number
    }

    fn post_send(&self, send: &SendRequest<'_, u32>) -> Result<(), PostError> {
        if let Some(error) = self.refused() {
            return Err(error);
        }
        let segments = send.segments.iter().map(|s| (s.address, s.length, s.key)).collect();
        let wr_id = send.wr_id.as_raw();
        let sent = Sent { wr_id, verb: send.verb, segments, remote: send.remote };
        self.staged.borrow_mut().push(sent);
        Ok(())
    }

    fn post_recv(&self, recv: &RecvRequest<'_, u32>) -> Result<(), PostError> {
        if let Some(error) = self.refused() {
            return Err(error);
        }
        if let Some(room) = self.recv_room.get() {
            let left = room.checked_sub(1).ok_or(Retry::RqFull)?;
            self.recv_room.set(Some(left));
        }
        self.buffers.borrow_mut().push(recv.segments.iter().map(|s| s.length).collect());
        self.staged_recvs.borrow_mut().push(recv.wr_id.as_raw());
        Ok(())
    }

    fn ring_doorbell(&self) -> Published {
        let staged = self.staged.take();
        let whole = u64::try_from(staged.len()).unwrap();
        let (count, error) = self.publish.take().unwrap_or((whole, None));
        let taken: Vec<_> = staged.into_iter().take(usize::try_from(count).unwrap()).collect();
        self.log.borrow_mut().extend(taken.iter().cloned());
        self.sent.borrow_mut().extend(taken);
        Published { count, error }
    }

    fn ring_recv_doorbell(&self) -> Published {
        let staged = self.staged_recvs.take();
        let whole = u64::try_from(staged.len()).unwrap();
        let (count, error) = self.publish_recvs.take().unwrap_or((whole, None));
        self.recvs.borrow_mut().extend(staged.into_iter().take(usize::try_from(count).unwrap()));
        Published { count, error }
    }
}

#[derive(Debug, Default)]
pub(crate) struct ManualCq {
    pub(crate) ready: RefCell<VecDeque<WcFields>>,
}

impl CompletionQueue for ManualCq {
    fn depth(&self) -> u32 {
        1 << 20
    }

    fn poll_cq(&self, out: &mut heapless::VecView<Wc>) {
        while !out.is_full() {
            let Some(fields) = self.ready.borrow_mut().pop_front() else { break };
            let _fits = out.push(Wc::new(fields));
        }
    }
}

/// One virtual queue pair over devices that do what they are told.
pub(crate) struct Bench<'m> {
    pub(crate) vqp: &'m VirtualQp<'m, &'m ManualQp>,
    pub(crate) vcq: &'m VirtualCq<'m, &'m ManualQp, &'m ManualCq>,
    /// In the order of the paths; that for notifications is the last.
    pub(crate) qps: Vec<&'m ManualQp>,
    /// Others, and their queue pairs.
    pub(crate) neighbours: Vec<&'m VirtualQp<'m, &'m ManualQp>>,
    pub(crate) more: &'m [Vec<ManualQp>],
    devices: Vec<u32>,
    cqs: &'m [ManualCq],
    pub(crate) local: &'m Regions<'m, u32>,
    pub(crate) remote: &'m Regions<'m, u32>,
    pub(crate) here: RegionId,
    pub(crate) there: RegionId,
    now: Cell<u64>,
}

pub(crate) fn block(bytes: usize) -> Box<[MaybeUninit<u8>]> {
    Box::<[u8]>::new_uninit_slice(bytes)
}

/// Local keys are 1000 + device, remote ones 2000 + device.
pub(crate) fn keys(base: u32, devices: u32) -> Vec<Option<u32>> {
    (0..devices).map(|device| Some(base + device)).collect()
}

pub(crate) const LOCAL_BASE: u64 = 1 << 40;
pub(crate) const REMOTE_BASE: u64 = 1 << 44;

impl Bench<'_> {
    /// Data paths on the devices `data`, and one for notifications on `notify`.
    pub(crate) fn with(
        (data, notify): (&[u32], Option<u32>),
        config: &VqpConfig,
        test: impl FnOnce(&Bench<'_>),
    ) {
        Self::beside(0, (data, notify), config, test);
    }

    /// The same beside `others` of its kind, which were attached before it.
    pub(crate) fn beside(
        others: usize,
        (data, notify): (&[u32], Option<u32>),
        config: &VqpConfig,
        test: impl FnOnce(&Bench<'_>),
    ) {
        let rows = usize::try_from(config.sends).unwrap();
        let mut block = block((4 << 20) + (others << 16) + rows * 512);
        let bump = Bump::new(&mut block);
        let devices: Vec<u32> = data.iter().copied().chain(notify).collect();
        let count = devices.iter().max().unwrap() + 1;
        let local = &*bump.value(Regions::place(&bump, 8, count).unwrap()).unwrap();
        let remote = &*bump.value(Regions::place(&bump, 8, count).unwrap()).unwrap();
        let here = local.register(LOCAL_BASE, 1 << 36, &keys(1000, count)).unwrap();
        let there = remote.register(REMOTE_BASE, 1 << 36, &keys(2000, count)).unwrap();
        // Devices number their queue pairs alike: a number names one only together with the device.
        let mut used = vec![0; usize::try_from(count).unwrap()];
        let made: Vec<ManualQp> = devices
            .iter()
            .map(|device| {
                let on = &mut used[usize::try_from(*device).unwrap()];
                *on += 1;
                ManualQp { number: 6 + *on, ..ManualQp::default() }
            })
            .collect();
        let qps: Vec<&ManualQp> = made.iter().collect();
        let cqs: Vec<ManualCq> = (0..count).map(|_| ManualCq::default()).collect();
        let with_devices: Vec<_> = cqs.iter().zip(0..).collect();
        let room = u32::try_from(others).unwrap() + 4;
        let vcq = VirtualCq::place(&bump, &with_devices, room).unwrap();
        let number = 6;
        let more: Vec<Vec<ManualQp>> = (0..others)
            .map(|_| devices.iter().map(|_| ManualQp { number, ..ManualQp::default() }).collect())
            .collect();
        let mut vqps = Vec::new();
        for qps in more.iter().chain([&made]) {
            let paths: Vec<_> = qps.iter().zip(devices.iter().copied()).collect();
            let (paths, rest) = paths.split_at(data.len());
            let setup = Setup { paths, notify: rest.first().copied(), local, remote };
            let vqp = VirtualQp::place(&bump, &setup, config).unwrap();
            vcq.attach(vqp).unwrap();
            vqps.push(vqp);
        }
        let (vqp, neighbours) = (vqps.pop().unwrap(), vqps);
        let now = Cell::new(0);
        let cqs = &*cqs;
        test(&Bench {
            vqp,
            vcq,
            qps,
            neighbours,
            more: &more,
            devices,
            cqs,
            local,
            remote,
            here,
            there,
            now,
        });
    }

    /// Another virtual queue pair over the same devices, when the first one was let go of.
    pub(crate) fn again(&self, config: &VqpConfig, test: impl FnOnce(&Bench<'_>)) {
        // As long as the completion queue, which knows it.
        let bump = Bump::new(Box::leak(block(1 << 20)));
        let paths: Vec<_> = self.qps.iter().copied().zip(self.devices.iter().copied()).collect();
        let count = paths.len() - 1;
        let (data, rest) = paths.split_at(count);
        let (local, remote) = (self.local, self.remote);
        let setup = Setup { paths: data, notify: rest.first().copied(), local, remote };
        let vqp = VirtualQp::place(&bump, &setup, config).unwrap();
        self.vcq.attach(vqp).unwrap();
        let number = vqp.slot();
        test(&Bench {
            vqp,
            qps: self.qps.clone(),
            neighbours: Vec::new(),
            devices: self.devices.clone(),
            now: self.now.clone(),
            ..*self
        });
        assert_eq!(number, self.vqp.slot());
    }

    pub(crate) const fn sge(&self, offset: u64, length: u64) -> Sge {
        Sge { region: self.here, offset, length }
    }

    /// Posts a request with local memory from 0 and remote memory from 0.
    pub(crate) fn post(&self, context: u64, op: Op, length: u64) {
        self.post_as(context, op, length, Signal::Always);
    }

    pub(crate) fn post_as(&self, context: u64, op: Op, length: u64, signal: Signal) {
        let is_send = matches!(op, Op::Send | Op::SendImm(_));
        let remote = (!is_send).then_some(Remote { region: self.there, offset: 0 });
        let sges = [self.sge(0, length)];
        self.vqp.post_send(&SendWr { context, op, sges: &sges, remote, signal }).unwrap();
        self.vqp.ring_doorbell();
    }

    /// The same, and no doorbell is rung.
    pub(crate) fn stage(&self, context: u64, op: Op, length: u64) -> Result<(), Refusal> {
        let is_send = matches!(op, Op::Send | Op::SendImm(_));
        let remote = (!is_send).then_some(Remote { region: self.there, offset: 0 });
        let sges = [self.sge(0, length)];
        let signal = Signal::Always;
        self.vqp.post_send(&SendWr { context, op, sges: &sges, remote, signal })
    }

    /// Names of what was staged on a path, and its device was not told of.
    pub(crate) fn staged(&self, path: usize) -> Vec<u64> {
        self.qps[path].staged.borrow().iter().map(|sent| sent.wr_id).collect()
    }

    /// What the device of a path was given, in bytes.
    pub(crate) fn given(&self, path: usize) -> Vec<u64> {
        self.qps[path].log.borrow().iter().map(Sent::bytes).collect()
    }

    /// The oldest send of a path is completed.
    pub(crate) fn complete(&self, path: usize, status: WcStatus) -> Sent {
        let sent = self.qps[path].sent.borrow_mut().pop_front().expect("something on its way");
        self.completes(path, sent.wr_id, status, (0xDEAD_BEEF, Some(0x8BAD_F00D)));
        sent
    }

    /// The oldest receive of a path is completed.
    pub(crate) fn receive(&self, path: usize, status: WcStatus, bytes: u32, immediate: u32) {
        let wr_id = self.qps[path].recvs.borrow_mut().pop_front().expect("a receive");
        self.completes(path, wr_id, status, (bytes, Some(immediate)));
    }

    pub(crate) fn completes(
        &self,
        path: usize,
        wr_id: u64,
        status: WcStatus,
        (byte_len, immediate): (u32, Option<u32>),
    ) {
        let device = usize::try_from(self.devices[path]).unwrap();
        let qp_num = self.qps[path].number;
        let (vendor, source_qp) = (0x77, 0xBAD);
        let is_written = immediate.is_some();
        let fields =
            WcFields { wr_id, qp_num, status, vendor, byte_len, immediate, is_written, source_qp };
        self.cqs[device].ready.borrow_mut().push_back(fields);
    }

    /// Queue pair `qp_num` of a device has completed something.
    pub(crate) fn completes_for(&self, device: usize, qp_num: u32, wr_id: u64) {
        let (vendor, byte_len, immediate, is_written, source_qp) = (0, 0, None, false, 0);
        let status = WcStatus::SUCCESS;
        let fields =
            WcFields { wr_id, qp_num, status, vendor, byte_len, immediate, is_written, source_qp };
        self.stray(device, fields);
    }

    /// A completion as any device might write it.
    pub(crate) fn stray(&self, device: usize, fields: WcFields) {
        self.cqs[device].ready.borrow_mut().push_back(fields);
    }

    /// A turn, later by `ns`.
    pub(crate) fn turn_after(&self, ns: u64, budget: Budget) {
        self.now.set(self.now.get() + ns);
        let _outcome = self.vcq.turn(Instant::from_nanos(self.now.get()), budget);
    }

    /// Turns until nothing changes, and what was over then.
    pub(crate) fn drain(&self) -> Vec<Completion> {
        let mut all = Vec::new();
        for _ in 0..8 {
            self.turn_after(1, Budget::DEFAULT);
            while let Some(completion) = self.vcq.take() {
                all.push(completion);
            }
        }
        all
    }

    /// The same, `ns` later, polled all the time.
    pub(crate) fn drain_after(&self, ns: u64) -> Vec<Completion> {
        let until = self.now.get() + ns + 100_000;
        let mut all = Vec::new();
        while self.now.get() < until {
            let step = (until - self.now.get()).min(20_000_000).min(ns / 16 + 1);
            self.turn_after(step, Budget::DEFAULT);
            while let Some(completion) = self.vcq.take() {
                all.push(completion);
            }
        }
        all.extend(self.drain());
        all
    }

    /// How much each path has on its way.
    pub(crate) fn loads(&self) -> Vec<usize> {
        self.qps.iter().map(|qp| qp.sent.borrow().len()).collect()
    }
}
