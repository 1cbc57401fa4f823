//! Two ends of a hub, one of which may be stubborn.

use core::cell::Cell;
use core::mem::MaybeUninit;

use heapless::VecView;
use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::id::{Addr, Name, WrId};
use spinwire_dataplane::msg::{Endpoint, EndpointConfig};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::loopback::{Hub, HubConfig, Port, PortConfig};
use spinwire_dataplane::provider::{
    CancelError, Cqe, EndpointType, Event, ExposeWr, Info, KeepsPosted, OneSidedWr, Provider,
    Published, RecvWr, RemoteRegion, Select, SendWr, Sight, Source, Waiting,
};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::Instant;

/// Bytes of a buffer of the pool.
pub(crate) const LOAN_BYTES: usize = 256;
/// Buffers of the pool.
pub(crate) const LOANS: u32 = 32;

/// A port that can be told to complete nothing, and to take nothing back.
pub(crate) struct Stubborn<'h> {
    inner: Port<'h, 'h>,
    pub(crate) is_deaf: Cell<bool>,
    pub(crate) keeps_receives: Cell<bool>,
}

#[expect(unsafe_code, reason = "a promise that holds because the port inside has made it")]
// SAFETY: it hands everything on, or nothing.
unsafe impl KeepsPosted for Stubborn<'_> {}

impl Provider for Stubborn<'_> {
    fn info(&self) -> &Info {
        self.inner.info()
    }
    fn connect(&self, name: &Name) -> Result<Addr, PostError> {
        self.inner.connect(name)
    }
    fn disconnect(&self, addr: Addr) -> Result<(), Misuse> {
        self.inner.disconnect(addr)
    }
    fn post_send(&self, wr: &SendWr<'_>) -> Result<(), PostError> {
        self.inner.post_send(wr)
    }
    fn post_one_sided(&self, wr: &OneSidedWr) -> Result<(), PostError> {
        self.inner.post_one_sided(wr)
    }
    fn expose(&self, wr: &ExposeWr) -> Result<RemoteRegion, PostError> {
        self.inner.expose(wr)
    }
    fn post_recv(&self, wr: &RecvWr) -> Result<(), PostError> {
        self.inner.post_recv(wr)
    }
    fn ring_doorbell(&self) -> Published {
        self.inner.ring_doorbell()
    }
    fn look(&self) -> Sight {
        if self.is_deaf.get() { Sight::Nothing } else { Sight::Work }
    }
    fn poll_cq(&self, now: Instant, out: &mut VecView<Cqe>) {
        self.inner.poll_cq(now, out);
    }
    fn poll_event(&self) -> Option<Event> {
        self.inner.poll_event()
    }
    fn cancel(&self, wr_id: WrId) -> Result<(), CancelError> {
        if self.keeps_receives.get() {
            Err(CancelError::Unsupported)
        } else {
            self.inner.cancel(wr_id)
        }
    }
    fn peek(&self, from: Source, select: Select) -> Option<Waiting> {
        self.inner.peek(from, select)
    }
}

pub(crate) type End<'m> = Endpoint<'m, Stubborn<'m>>;

/// Two ends that know each other, buffers for both, and a clock that goes on by 100 ns at each look.
pub(crate) struct Scene<'m> {
    pub(crate) a: End<'m>,
    pub(crate) b: End<'m>,
    pub(crate) to_b: Addr,
    pub(crate) to_a: Addr,
    pub(crate) pool: &'m LoanPool<'m>,
    clock: Cell<u64>,
}

impl Scene<'_> {
    pub(crate) fn now(&self) -> Instant {
        self.clock.set(self.clock.get() + 100);
        Instant::from_nanos(self.clock.get())
    }

    /// One turn of the other end, whose completions stay where they are.
    pub(crate) fn turn_b(&self) {
        let _busy = self.b.turn(self.now(), Budget::DEFAULT).is_busy();
    }

    /// Whether nothing is posted, and all buffers are back.
    pub(crate) fn is_at_rest(&self) -> bool {
        let all = usize::try_from(LOANS).unwrap();
        self.a.posted_count() == 0 && self.b.posted_count() == 0 && self.pool.free_count() == all
    }
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn with_scene(test: impl FnOnce(&Scene<'_>)) {
    let mut block: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(16 << 20);
    test(&scene(&mut block));
}

/// A scene in a block of memory.
pub(crate) fn scene(block: &mut [MaybeUninit<u8>]) -> Scene<'_> {
    let bump = Bump::new(block);
    let hub = HubConfig { link_depth: 8, ..HubConfig::default() };
    let hub = bump.value(Hub::place(&bump, &hub).unwrap()).unwrap();
    let end = |text: &str| {
        let who = (&name(text), EndpointType::Rdm);
        let inner = Port::open(hub, &bump, who, &PortConfig::default()).unwrap();
        let (is_deaf, keeps_receives) = (Cell::new(false), Cell::new(false));
        let port = Stubborn { inner, is_deaf, keeps_receives };
        Endpoint::new(port, &bump, &EndpointConfig::default()).unwrap()
    };
    let (a, b) = (end("a"), end("b"));
    let (to_b, to_a) = (a.connect(&name("b")).unwrap(), b.connect(&name("a")).unwrap());
    let pool = LoanPool::place(&bump, LOANS, LOAN_BYTES).unwrap();
    Scene { a, b, to_b, to_a, pool, clock: Cell::new(0) }
}
