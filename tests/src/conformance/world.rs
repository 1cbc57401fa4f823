//! The world of a case: its memory, its clock, and its nodes.

use core::cell::Cell;
use core::mem::MaybeUninit;
use core::time::Duration;

use spinwire_dataplane::error::{PostError, Retry};
use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::{Endpoint, EndpointConfig, RecvFrom};
use spinwire_dataplane::provider::{Caps, EndpointType, Event};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::Instant;

use super::node::Node;
use super::rig::{Rig, Sizes};
use crate::overdue;

/// After so many turns without result a case has failed.
pub const TURNS_MAX: u32 = 4000;
/// After so many turns in vain the processor is given up between them: what a kernel does in a thread of its own wants one, too.
const HASTY_TURNS: u32 = 1000;
/// After so many turns a message waits that nobody can look for.
const UNSEEN_TURNS: u32 = 100;
/// Bytes of the pool that all nodes of a world lend from, at least; in as many buffers as that makes, but not more than 4096.
const POOL_BYTES: usize = 4 << 20;
/// Bytes of the arena. Only what is placed is ever touched.
const ARENA_BYTES: usize = 256 << 20;

/// A name.
#[must_use]
pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Memory, clock and ground of one run of one case.
pub struct World<'m, R: Rig> {
    lines: &'m [Line],
    ground: &'m R::Ground<'m>,
    bump: Bump<'m>,
    pool: &'m LoanPool<'m>,
    sizes: Sizes,
    endpoint_type: EndpointType,
    clock: Cell<u64>,
}

impl<R: Rig> core::fmt::Debug for World<'_, R> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("World").field("sizes", &self.sizes).finish_non_exhaustive()
    }
}

/// Runs a case on a fresh world for each endpoint type of the rig, if that is here.
pub fn run_case<R: Rig>(case: impl Fn(&World<'_, R>)) {
    if !R::is_here() {
        return;
    }
    for &endpoint_type in R::TYPES {
        run(endpoint_type, Sizes::default(), &case);
    }
}

/// Runs `case` on a fresh world of that endpoint type.
pub fn run<R: Rig>(endpoint_type: EndpointType, sizes: Sizes, case: impl FnOnce(&World<'_, R>)) {
    let message_bytes_max = sizes.message_bytes_max.min(R::MESSAGE_BYTES_MAX);
    let sizes = Sizes { message_bytes_max, ..sizes };
    let lines: Vec<Line> = (0..R::lines(&sizes)).map(|_| Line::zeroed()).collect();
    let mut block: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(ARENA_BYTES);
    let bump = Bump::new(&mut block);
    let slot_bytes = usize::try_from(sizes.message_bytes_max).unwrap() + 64;
    let loans = (POOL_BYTES / slot_bytes).min(4096);
    let pool = LoanPool::place(&bump, u32::try_from(loans).unwrap(), slot_bytes).unwrap();
    let ground = bump.value(R::lay(&lines, &bump, &sizes)).unwrap();
    R::know_pool(ground, pool);
    let (lines, clock) = (&lines[..], Cell::new(0));
    case(&World { lines, ground, bump, pool, sizes, endpoint_type, clock });
}

impl<'m, R: Rig> World<'m, R> {
    /// The foreign memory that the ground lies in.
    #[must_use]
    pub const fn lines(&self) -> &'m [Line] {
        self.lines
    }

    /// What the ports share.
    #[must_use]
    pub const fn ground(&self) -> &'m R::Ground<'m> {
        self.ground
    }

    /// Where tables are placed.
    #[must_use]
    pub const fn bump(&self) -> &Bump<'m> {
        &self.bump
    }

    /// Buffers for everybody.
    #[must_use]
    pub const fn pool(&self) -> &'m LoanPool<'m> {
        self.pool
    }

    /// How much everything holds.
    #[must_use]
    pub const fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// Longest message, in bytes.
    #[must_use]
    pub fn message_bytes_max(&self) -> usize {
        usize::try_from(self.sizes.message_bytes_max).unwrap()
    }

    /// The type of the nodes.
    #[must_use]
    pub const fn endpoint_type(&self) -> EndpointType {
        self.endpoint_type
    }

    /// Whether nodes are connected to one peer.
    #[must_use]
    pub fn is_msg(&self) -> bool {
        self.endpoint_type == EndpointType::Msg
    }

    /// The next instant.
    pub fn now(&self) -> Instant {
        self.clock.set(self.clock.get() + 100);
        Instant::from_nanos(self.clock.get())
    }

    /// A bare port.
    pub fn port(&self, text: &str) -> R::Port<'m> {
        R::open(self.ground, &self.bump, (&name(text), self.endpoint_type), &self.sizes)
            .unwrap_or_else(|e| panic!("{text} opens: {e}"))
    }

    /// A node.
    pub fn node(&self, text: &str) -> Node<'m, R> {
        self.node_over(self.port(text), text)
    }

    /// A node over a port that is open already.
    pub fn node_over(&self, port: R::Port<'m>, text: &str) -> Node<'m, R> {
        let config = EndpointConfig { contexts_max: self.sizes.contexts_max };
        let endpoint = Endpoint::new(port, &self.bump, &config).unwrap();
        Node::new(endpoint, name(text), self.pool)
    }

    /// Two nodes that know each other, and each one's address of the other.
    pub fn pair(&self) -> (Node<'m, R>, Node<'m, R>, Addr, Addr) {
        let (a, b) = (self.node("a"), self.node("b"));
        let (to_b, to_a) = self.introduce(&a, &b);
        (a, b, to_b, to_a)
    }

    /// Makes two nodes known to each other: connected, where they are of type MSG.
    pub fn introduce(&self, a: &Node<'m, R>, b: &Node<'m, R>) -> (Addr, Addr) {
        let to_b = a.connect(b.name()).unwrap();
        if !self.is_msg() {
            let to_a = b.connect(a.name()).unwrap();
            self.until("they have met", &[a, b], || {
                let met = [R::has_met(a.provider(), to_b), R::has_met(b.provider(), to_a)];
                met == [true; 2]
            });
            return (to_b, to_a);
        }
        let (at_a, at_b) = (Cell::new(None), Cell::new(None));
        self.until("both are connected", &[a, b], || {
            at_a.set(at_a.get().or_else(|| a.poll_event()));
            at_b.set(at_b.get().or_else(|| b.poll_event()));
            at_a.get().is_some() && at_b.get().is_some()
        });
        assert_eq!(at_a.get(), Some(Event::Connected(to_b)));
        let Some(Event::Connected(to_a)) = at_b.get() else { panic!("{:?}", at_b.get()) };
        (to_b, to_a)
    }

    /// Where it takes both ends to begin, lets them.
    pub fn meet(&self, a: &Node<'m, R>, b: &Node<'m, R>, to_b: Addr) {
        self.until("they have met", &[a, b], || R::has_met(a.provider(), to_b));
    }

    /// Kills a node as kill -9 would.
    pub fn kill(&self, node: Node<'m, R>) {
        R::kill(self.ground, node.name());
        core::mem::forget(node);
    }

    /// One turn of each node.
    pub fn turn(&self, nodes: &[&Node<'m, R>]) {
        for node in nodes {
            node.turn(self.now());
        }
    }

    /// `count` turns of each node.
    pub fn turns(&self, count: u32, nodes: &[&Node<'m, R>]) {
        for _ in 0..count {
            self.turn(nodes);
        }
    }

    /// Between two turns of whoever waits for something: so many were in vain.
    pub fn linger(&self, turns: u32) {
        if turns >= HASTY_TURNS {
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Turns the nodes until something is so.
    pub fn until(&self, what: &str, nodes: &[&Node<'m, R>], mut so: impl FnMut() -> bool) {
        overdue::waits_for(what);
        for turn in 0..TURNS_MAX {
            if so() {
                return;
            }
            self.turn(nodes);
            self.linger(turn);
        }
        panic!("after {TURNS_MAX} turns: not {what} ({})", self.endpoint_type);
    }

    /// Turns the nodes until a message of that kind waits at the last of them; where there is no look at waiting messages, so long that it does.
    pub fn until_it_waits(&self, from: RecvFrom, nodes: &[&Node<'m, R>]) {
        let Some(at) = nodes.last() else { return };
        if at.info().caps.has(Caps::PEEK) {
            self.until("it waits", nodes, || at.peek(from).is_some());
        } else {
            self.turns(UNSEEN_TURNS, nodes);
        }
    }

    /// Does something until it is not refused with `Retry`, turning the nodes meanwhile.
    pub fn insist<T>(
        &self,
        nodes: &[&Node<'m, R>],
        mut try_it: impl FnMut() -> Result<T, PostError>,
    ) -> T {
        overdue::waits_for("it is taken");
        for turn in 0..TURNS_MAX {
            match try_it() {
                Ok(done) => return done,
                Err(PostError::Retry(_)) => {
                    self.turn(nodes);
                    self.linger(turn);
                }
                Err(refused) => panic!("refused: {refused}"),
            }
        }
        panic!("after {TURNS_MAX} turns: still refused ({})", self.endpoint_type);
    }
}

/// Tries again for as long as the refusal is a simulated one.
pub(super) fn past_injected<T>(
    mut try_it: impl FnMut() -> Result<T, PostError>,
) -> Result<T, PostError> {
    for _ in 0..30 {
        match try_it() {
            Err(PostError::Retry(Retry::Injected)) => {}
            other => return other,
        }
    }
    Err(Retry::Injected.into())
}
