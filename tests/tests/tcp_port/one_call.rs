//! Two ports, each on a kernel that is made up, and a wire between them: whatever the kernel does and says, and whenever, a turn enters it
//! once at the most, and every message arrives.
//!
//! ```text
//!   port a -- turn --> FakeKernel, FakeNet: peer of a  == bytes, by and by ==  peer of b: FakeNet, FakeKernel <-- turn -- port b
//! ```

use core::cell::Cell;
use core::mem::MaybeUninit;
use core::net::{Ipv4Addr, SocketAddr};

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::{Endpoint, EndpointConfig, Kind, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::tcp::{SpareSocket, TcpConfig, TcpPort};
use spinwire_dataplane::provider::{EndpointType, Status};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::stream::{StreamConfig, StreamFeatures, Streams};
use spinwire_dataplane::time::Instant;
use spinwire_dataplane::uring::{EnterError, Ring};
use spinwire_layouts::uring::SockAddr;
use spinwire_tests::fake_kernel::FakeKernel;
use spinwire_tests::fake_net::FakeNet;
use spinwire_tests::fake_net::plan::Plan;
use spinwire_tests::rng::{Rng, pattern};

use crate::station::name;

/// Turns of traffic, and turns that what is under way has to arrive within.
const TURNS: u64 = 400;
const PATIENCE: u64 = 60_000;
const LONGEST: usize = 6000;

/// What the ports of a case have.
fn config() -> TcpConfig {
    TcpConfig {
        message_bytes_max: u32::try_from(LONGEST).unwrap(),
        credit_messages: 8,
        credit_bytes: 20_000,
        peers_max: 2,
        ..TcpConfig::default()
    }
}

/// One end: its port, its kernel, and what it has sent and received.
struct End<'m> {
    endpoint: Endpoint<'m, TcpPort<'m, &'m FakeKernel>>,
    pool: &'m LoanPool<'m>,
    kernel: &'m FakeKernel,
    net: FakeNet<'m>,
    peer: usize,
    to: Cell<Option<Addr>>,
    sent: Cell<u64>,
    received: Cell<u64>,
    calls_max: Cell<u64>,
    turns: Cell<u64>,
}

fn with_end<R>(plan: &Plan, text: &str, work: impl FnOnce(End<'_>) -> R) -> R {
    let kernel = FakeKernel::new(plan.kernel);
    let features = StreamFeatures { direct_files: false, ..plan.config.features };
    let each = plan.config.recv_buffers.1;
    let streams = StreamConfig {
        recv_buffers: (plan.config.recv_buffers.0.max(4), each),
        ..config().streams(features)
    };
    let bytes = streams.arena_bytes() + config().arena_bytes() + (1 << 20);
    let mut block = vec![MaybeUninit::uninit(); bytes];
    let ring = Ring::new(kernel.memory().unwrap(), kernel.arena(&mut block), &kernel);
    let bump = ring.arena().bump();
    let streams = &*bump.value(Streams::place(&ring, 0, &streams).unwrap()).unwrap();
    let who = (&name(text), EndpointType::Rdm);
    let port = TcpPort::open(streams, bump, who, &config()).unwrap();
    let pool = LoanPool::place(bump, 16, LONGEST).unwrap();
    let mut net = FakeNet::new(&kernel, streams.buffers().registration(), plan.manner);
    let peer = net.peer();
    work(End {
        endpoint: Endpoint::new(port, bump, &EndpointConfig::default()).unwrap(),
        pool,
        kernel: &kernel,
        net,
        peer,
        to: Cell::new(None),
        sent: Cell::new(0),
        received: Cell::new(0),
        calls_max: Cell::new(0),
        turns: Cell::new(0),
    })
}

impl End<'_> {
    /// A turn, and what comes of it.
    fn turn(&self) {
        let before = self.kernel.enters();
        let turns = self.turns.get() + 1;
        self.turns.set(turns);
        let _busy = self.endpoint.turn(Instant::from_nanos(turns * 1000), Budget::DEFAULT);
        self.calls_max.set(self.calls_max.get().max(self.kernel.enters() - before));
        let due = self.endpoint.poll_at().is_some_and(|at| at.as_nanos() <= turns * 1000);
        assert!(due || !self.endpoint.provider().streams().is_busy(), "nobody rests over that");
        while self.endpoint.poll_event().is_some() {}
        while let Some(got) = self.endpoint.poll() {
            assert_eq!(got.status, Status::Success);
            if got.kind == Kind::Received {
                let number = self.received.get();
                assert_eq!(got.immediate, Some(number), "in order");
                let bytes = pattern(number, length(number));
                assert!(got.loan.as_deref() == Some(&bytes[..]), "message {number}");
                self.to.set(self.to.get().or(got.source));
                self.received.set(number + 1);
            }
        }
    }

    /// Now and then a message, from here or from there, and a receive.
    fn act(&self, rng: &mut Rng) {
        if self.pool.free_count() > 6 && rng.chance(60) {
            let loan = self.pool.lend().unwrap();
            self.endpoint.post_recv(RecvFrom::any(), loan, 0).map_err(|r| r.error).unwrap();
        }
        let Some(to) = self.to.get().filter(|_| rng.chance(70)) else { return };
        let number = self.sent.get();
        let bytes = pattern(number, length(number));
        let to = SendTo::peer(to).immediate(number);
        let accepted = match self.pool.lend().filter(|_| rng.chance(40)) {
            Some(mut loan) => {
                loan.fill(&bytes).unwrap();
                let posted = self.endpoint.post_send(to, loan, number);
                posted.map(|_| ()).map_err(|r| r.error)
            }
            None => self.endpoint.inject(to, &bytes),
        };
        match accepted {
            Ok(()) => self.sent.set(number + 1),
            Err(PostError::Retry(_)) => {}
            Err(refused) => panic!("{refused}"),
        }
    }

    /// What happens from one turn to the next, and the turn.
    fn step(&mut self, acts: bool, rng: &mut Rng) {
        if acts {
            self.act(rng);
            self.trouble(rng);
        } else if self.pool.free_count() > 6 {
            let loan = self.pool.lend().unwrap();
            self.endpoint.post_recv(RecvFrom::any(), loan, 0).map_err(|r| r.error).unwrap();
        }
        (0..rng.between(0, 3)).for_each(|_| self.net.step(rng));
        self.turn();
    }

    /// The kernel has trouble, now and then.
    fn trouble(&self, rng: &mut Rng) {
        if rng.chance(3) {
            let errors = [EnterError::Busy, EnterError::Again, EnterError::Interrupted];
            self.kernel.answer_with(&[errors[rng.index(3)]]);
        }
        if rng.chance(3) {
            self.kernel.take_at_most(u32::try_from(rng.below(4)).unwrap());
        }
    }
}

fn length(number: u64) -> usize {
    let lengths = [1, 64, 700, 4096, 5000, LONGEST];
    lengths[usize::try_from(number % 6).unwrap()]
}

/// What has reached the peer of one end is what the other end's has to say.
fn carry(from: &mut End<'_>, to: &mut End<'_>, rng: &mut Rng) {
    let peer = &mut from.net.peers[from.peer];
    let much = if rng.chance(50) { 100_000 } else { rng.between(0, 200) };
    peer.window = much;
    let ready = peer.incoming.len();
    let count = if rng.chance(70) { ready } else { rng.between(0, ready) };
    let bytes: Vec<u8> = peer.incoming.drain(..count).collect();
    to.net.peers[to.peer].outgoing.extend(bytes);
}

/// Returns how many messages went there and back, and the most calls of the kernel that a turn made.
fn run(seed: u64) -> (u64, u64) {
    let mut rng = Rng::new(seed);
    let mut plan = Plan::any(seed);
    // Neither end is to be lost: that is what other tests are for.
    plan.manner.no_descriptor = 0;
    plan.manner.refuses = 0;
    plan.kernel.cq_entries = plan.kernel.cq_entries.max(4);
    with_end(&plan, "a", |mut a| {
        with_end(&plan, "b", |mut b| {
            let listens_at = b.net.listener();
            b.endpoint.provider().listen(listens_at).unwrap();
            let (fd, address) =
                (a.net.connector(a.peer), SocketAddr::from((Ipv4Addr::LOCALHOST, 7)));
            let port = a.endpoint.provider();
            port.give_socket(SpareSocket { fd, is_v6: false }).unwrap();
            port.set_route(&name("b"), SockAddr::new(address)).unwrap();
            a.to.set(Some(a.endpoint.connect(&name("b")).unwrap()));
            b.net.arrive(listens_at, b.peer);
            let mut left = TURNS + PATIENCE;
            let is_over = |a: &End<'_>, b: &End<'_>| {
                a.received.get() == b.sent.get() && b.received.get() == a.sent.get()
            };
            while left > PATIENCE || !is_over(&a, &b) {
                left = left.checked_sub(1).expect("what was sent arrives");
                a.step(left > PATIENCE, &mut rng);
                b.step(left > PATIENCE, &mut rng);
                carry(&mut a, &mut b, &mut rng);
                carry(&mut b, &mut a, &mut rng);
            }
            let messages = a.received.get().min(b.received.get());
            (messages, a.calls_max.get().max(b.calls_max.get()))
        })
    })
}

#[test]
fn a_turn_enters_the_kernel_once() {
    let mut messages = 0;
    for seed in 0..20 {
        let (there_and_back, calls_max) = run(seed);
        assert_eq!(calls_max, 1, "calls of the kernel in one turn, seed {seed}");
        messages += there_and_back;
    }
    assert!(messages > 200, "there was traffic: {messages}");
}
