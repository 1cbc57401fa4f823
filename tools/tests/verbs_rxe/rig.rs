//! Two ends on two devices, in one thread.

use core::cell::RefCell;
use core::time::Duration;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use spinwire_dataplane::id::WrId;
use spinwire_dataplane::verbs::{
    CompletionQueue as _, QueuePair as _, RecvRequest, Segment, SendRequest, Wc, WcStatus,
};
use spinwire_hostshim::verbs::{
    Access, CompletionQueue, ConnectConfig, Device, LocalKey, Pair, PairConfig, PairKind,
    ProtectionDomain, Region,
};

/// One end: a pair, its completions, and a region.
pub(crate) struct End {
    pub device: Device,
    pub domain: ProtectionDomain,
    pub cq: Rc<CompletionQueue>,
    pub pair: Pair,
    pub region: Region,
}

/// Bytes of the region of an end.
pub(crate) const BYTES: usize = 1 << 20;

/// One test at a time has the devices, since one of them pulls the cable.
static TURN: Mutex<()> = Mutex::new(());

thread_local! {
    /// Held until the thread of the test ends.
    static MINE: RefCell<Option<MutexGuard<'static, ()>>> = const { RefCell::new(None) };
}

/// Both devices of the guest; `None`, said aloud, where this machine has none.
pub(crate) fn devices() -> Option<[Device; 2]> {
    MINE.with_borrow_mut(|mine| {
        let _held = mine.get_or_insert_with(|| TURN.lock().unwrap_or_else(PoisonError::into_inner));
    });
    match (Device::open("rxe0"), Device::open("rxe1")) {
        (Ok(a), Ok(b)) => Some([a, b]),
        (Err(e), _) | (_, Err(e)) => {
            assert!(
                std::env::var_os("SPINWIRE_VM").is_none(),
                "the guest of tests/vm has lost its RDMA devices: {e}"
            );
            eprintln!("!! NOT RUN: RDMA on rxe0 and rxe1: {e}");
            None
        }
    }
}

impl AsRef<Pair> for End {
    fn as_ref(&self) -> &Pair {
        &self.pair
    }
}

impl End {
    pub(crate) fn open(device: &Device, kind: PairKind, config: &PairConfig) -> Self {
        let domain = ProtectionDomain::new(device).unwrap();
        let cq = CompletionQueue::new(device, config.send_depth + config.recv_depth).unwrap();
        let pair = Pair::new(&domain, kind, (&cq, &cq), config).unwrap();
        let region = domain.register(BYTES, Access::REMOTE).unwrap();
        Self { device: device.clone(), domain, cq, pair, region }
    }

    pub(crate) fn segment(&self, offset: u64, length: u32) -> Segment<LocalKey> {
        self.region.segment(offset, length).unwrap()
    }

    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        for (at, &byte) in bytes.iter().enumerate() {
            let (line, word, shift) = place(offset + at);
            let word = &self.region.lines()[line].words()[word];
            let old = word.load(core::sync::atomic::Ordering::Relaxed);
            let new = old & !(0xff << shift) | u64::from(byte) << shift;
            word.store(new, core::sync::atomic::Ordering::Relaxed);
        }
    }

    pub(crate) fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        let byte = |at| {
            let (line, word, shift) = place(at);
            let word = &self.region.lines()[line].words()[word];
            (word.load(core::sync::atomic::Ordering::Relaxed) >> shift) as u8
        };
        (offset..offset + length).map(byte).collect()
    }

    /// Posts one send and rings.
    pub(crate) fn send(&self, request: &SendRequest<'_, LocalKey>) {
        self.pair.post_send(request).unwrap();
        let published = self.pair.ring_doorbell();
        assert_eq!((published.count, published.error), (1, None));
    }

    /// Posts one receive and rings.
    pub(crate) fn recv(&self, id: u32, segments: &[Segment<LocalKey>]) {
        self.pair.post_recv(&RecvRequest { wr_id: wr(id), segments }).unwrap();
        let published = self.pair.ring_recv_doorbell();
        assert_eq!((published.count, published.error), (1, None));
    }

    /// The next completion.
    pub(crate) fn next(&self) -> Wc {
        self.next_within(Duration::from_secs(60)).expect("no completion within a minute")
    }

    pub(crate) fn next_within(&self, limit: Duration) -> Option<Wc> {
        let until = Instant::now() + limit;
        let mut one: heapless::Vec<Wc, 1> = heapless::Vec::new();
        while Instant::now() < until {
            self.cq.poll_cq(&mut one);
            if let Some(wc) = one.pop() {
                return Some(wc);
            }
        }
        None
    }

    /// The next completion, which must be good and of that id.
    pub(crate) fn done(&self, id: u32) -> spinwire_dataplane::verbs::Received {
        let wc = self.next();
        assert_eq!(wc.wr_id(), wr(id));
        assert_eq!(wc.qp_num(), self.pair.qp_num());
        wc.outcome().unwrap()
    }

    /// The next completion, which must have failed like that.
    pub(crate) fn failed(&self, id: u32, status: WcStatus) {
        let wc = self.next();
        assert_eq!(wc.wr_id(), wr(id));
        let (found, _vendor) = wc.outcome().unwrap_err();
        assert_eq!(found, status, "{found}");
    }
}

const fn place(offset: usize) -> (usize, usize, usize) {
    (offset / 64, offset % 64 / 8, offset % 8 * 8)
}

pub(crate) fn wr(id: u32) -> WrId {
    WrId::from_raw(u64::from(id))
}

/// A shorter patience than usual: nothing is lost on the cable of the guest.
pub(crate) fn quick() -> ConnectConfig {
    ConnectConfig { timeout: 10, retry_count: 3, ..ConnectConfig::default() }
}

/// A connected pair of ends.
pub(crate) fn connected(config: &PairConfig, how: &ConnectConfig) -> Option<[End; 2]> {
    let ends = devices()?.map(|device| End::open(&device, PairKind::Rc, config));
    let [a, b] = &ends;
    a.pair.connect(b.pair.card(), how).unwrap();
    b.pair.connect(a.pair.card(), how).unwrap();
    Some(ends)
}
