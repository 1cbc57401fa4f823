//! Two services in one thread hand over buffers of one pool, in every way that a service does in its turns.

use spinwire_dataplane::error::{PostError, Retry};
use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::{
    Completion, Endpoint, EndpointConfig, Kind, Lender, RecvFrom, SendTo,
};
use spinwire_dataplane::poll::{Budget, Outcome, Poll};
use spinwire_dataplane::pool::PoolGeometry;
use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::provider::shm::{ShmConfig, ShmPort};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::shm::Geometry;
use spinwire_dataplane::time::Instant;
use spinwire_hostshim::domain::{Domain, DomainConfig};
use spinwire_hostshim::plane::Plane;
use spinwire_hostshim::pool::{BufferPool, PoolConfig, PoolFiles, PoolHandle};

const BUFFERS: u32 = 8;
const BUFFER_BYTES: usize = 64 << 10;
/// Fewer than there are buffers, so that it fills.
const UNDER_WAY_MAX: u32 = 4;

/// One service.
struct Side<'d> {
    endpoint: Endpoint<'d, ShmPort<'d, 'd>>,
    lender: Lender<'d, 'd, PoolFiles>,
    receives: &'d LoanPool<'d>,
}

/// Both, and what each calls the other.
pub(crate) struct Parcels<'d> {
    a: Side<'d>,
    b: Side<'d>,
    to_b: Addr,
    to_a: Addr,
}

impl<'d> Side<'d> {
    fn open(domain: &'d Domain, handle: &'d PoolHandle<'d>, bump: &Bump<'d>, name: &Name) -> Self {
        let port = domain.open_port(bump, (name, EndpointType::Rdm), &ShmConfig::default());
        Self {
            endpoint: Endpoint::new(port.expect("port"), bump, &EndpointConfig::default())
                .expect("endpoint"),
            lender: Lender::place(handle, bump, UNDER_WAY_MAX).expect("lender"),
            receives: LoanPool::place(bump, 8, 64).expect("receives"),
        }
    }
}

/// Runs `work` with a fresh domain and a fresh pool.
pub(crate) fn with<R>(work: impl FnOnce(&Parcels<'_>) -> R) -> R {
    let stem = format!("no-alloc-parcels-{}", std::process::id());
    let geometry = PoolGeometry::new(4).class(64 << 10, BUFFERS);
    let config = PoolConfig { geometry, ..PoolConfig::default() };
    let pool = BufferPool::create(&format!("{stem}.pool"), &config).expect("a pool");
    let lanes =
        Geometry { process_count: 4, endpoint_count: 4, lane_count: 4, ..Geometry::default() };
    let domain =
        Domain::create(&stem, &DomainConfig { geometry: lanes, ..DomainConfig::default() })
            .expect("domain");
    let mut memory = Plane::memory(8 << 20).expect("memory");
    let bump = Plane::arena(&mut memory);
    let handles = [(); 2].map(|()| pool.handle(&bump).expect("a handle"));
    let names = ["a", "b"].map(|side| Name::new(side).expect("a good name"));
    let [name_a, name_b] = &names;
    let [handle_a, handle_b] = &handles;
    let a = Side::open(&domain, handle_a, &bump, name_a);
    let b = Side::open(&domain, handle_b, &bump, name_b);
    let to_b = a.endpoint.connect(name_b).expect("b is there");
    let to_a = b.endpoint.connect(name_a).expect("a is there");
    domain.unlink().expect("the name goes, the memory stays");
    pool.unlink().expect("the name goes, the memory stays");
    work(&Parcels { a, b, to_b, to_a })
}

/// Why a round was not as it should be is not for this test; a debugger says it.
type Good = Option<()>;

fn so(good: bool) -> Good {
    good.then_some(())
}

impl<'d> Parcels<'d> {
    /// So many rounds; the number of those in which everything was as it should be.
    pub(crate) fn run(&self, rounds: u64) -> u64 {
        (0..rounds).map(|round| u64::from(self.round(round).is_some())).sum()
    }

    fn round(&self, round: u64) -> Good {
        self.there_and_back(round)?;
        self.unasked_and_unread(round)?;
        self.too_many()?;
        self.settled()
    }

    fn turn(&self) {
        let _: Outcome = self.a.endpoint.turn(Instant::ORIGIN, Budget::DEFAULT)
            | self.b.endpoint.turn(Instant::ORIGIN, Budget::DEFAULT);
    }

    fn completion(&self, side: &Side<'d>) -> Option<Completion<'d>> {
        for _ in 0..64 {
            self.turn();
            if let Some(completion) = side.endpoint.poll() {
                return Some(completion);
            }
        }
        None
    }

    /// Written by one, read by the other, sent on, read by the first, and written by it again.
    fn there_and_back(&self, round: u64) -> Good {
        let Self { a, b, .. } = self;
        let mut bytes = [0; 8];
        b.endpoint.post_recv(RecvFrom::any().tag(1), b.receives.lend()?, round).ok()?;
        let mut guard = a.lender.pool().acquire(BUFFER_BYTES).ok()?;
        guard.copy_from(BUFFER_BYTES - 8, &round.to_le_bytes()).ok()?;
        a.endpoint.send_loan(&a.lender, SendTo::peer(self.to_b).tag(1), guard).ok()?;
        let mut came = self.completion(b)?;
        so((came.kind, came.context) == (Kind::Parcel, round))?;
        let read = came.take_guard(b.lender.pool()).ok()?;
        read.copy_to(BUFFER_BYTES - 8, &mut bytes).ok()?;
        so(u64::from_le_bytes(bytes) == round)?;
        a.endpoint.post_recv(RecvFrom::peer(self.to_b), a.receives.lend()?, round).ok()?;
        b.endpoint.send_loan(&b.lender, SendTo::peer(self.to_a), read).ok()?;
        let back = self.completion(a)?.take_guard(a.lender.pool()).ok()?;
        for _ in 0..64 {
            self.turn();
            a.lender.collect(&a.endpoint);
            b.lender.collect(&b.endpoint);
        }
        so(back.try_exclusive().ok()?.copy_from(0, &bytes).is_ok())
    }

    /// It comes before the receive, and is dropped.
    fn unasked_and_unread(&self, round: u64) -> Good {
        let Self { a, b, .. } = self;
        let guard = a.lender.pool().acquire(8).ok()?;
        a.endpoint.send_loan(&a.lender, SendTo::peer(self.to_b).immediate(round), guard).ok()?;
        for _ in 0..64 {
            self.turn();
        }
        b.endpoint.post_recv(RecvFrom::any(), b.receives.lend()?, round).ok()?;
        let came = self.completion(b)?;
        so((came.kind, came.immediate) == (Kind::Parcel, Some(round)) && came.parcel.is_some())
    }

    /// More than there may be under way; the one too many comes back.
    fn too_many(&self) -> Good {
        let Self { a, b, .. } = self;
        for _ in 0..64 {
            self.turn();
        }
        a.lender.collect(&a.endpoint);
        let mut sent = 0;
        let refused = loop {
            let guard = a.lender.pool().acquire(8).ok()?;
            match a.endpoint.send_loan(&a.lender, SendTo::peer(self.to_b), guard) {
                Ok(()) => sent += 1,
                Err(refused) => break refused,
            }
        };
        so(refused.error == PostError::Retry(Retry::NoSlot) && sent == UNDER_WAY_MAX)?;
        drop(refused);
        for _ in 0..sent {
            b.endpoint.post_recv(RecvFrom::any(), b.receives.lend()?, 0).ok()?;
            drop(self.completion(b)?.take_guard(b.lender.pool()).ok()?);
        }
        Some(())
    }

    /// Nothing is under way any more, and every buffer is free.
    fn settled(&self) -> Good {
        let Self { a, b, .. } = self;
        for _ in 0..64 {
            self.turn();
        }
        a.lender.collect(&a.endpoint);
        b.lender.collect(&b.endpoint);
        let free: u32 = a.lender.pool().segment().stats().map(|class| class.free).sum();
        so((a.lender.under_way(), b.lender.under_way(), free) == (0, 0, BUFFERS))
    }
}
