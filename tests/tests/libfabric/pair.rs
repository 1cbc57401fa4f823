//! Two endpoints of this thread, or one here and one elsewhere, turned by the clock of the machine.

use core::mem::MaybeUninit;
use core::time::Duration;

use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::{Completion, Endpoint, EndpointConfig};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::raw::loan::{Loan, LoanPool};
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::Instant;
use spinwire_hostshim::libfabric::{Names, OfiConfig, OfiPort};
use spinwire_tests::conformance::{OfiChoice, name};
use spinwire_tests::overdue;

/// After that long a test has failed. Machines may stop for a while.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) type End<'m> = Endpoint<'m, OfiPort<'m>>;

/// Where everything of one test lies.
pub(crate) struct Ground<'m> {
    pub(crate) bump: &'m Bump<'m>,
    pub(crate) names: &'m Names,
    /// Buffers of 4 KiB.
    pub(crate) pool: &'m LoanPool<'m>,
    since: std::time::Instant,
}

/// Small, like everything here.
pub(crate) fn config(choice: &OfiChoice) -> OfiConfig {
    OfiConfig {
        provider: Some(choice.provider.into()),
        endpoint_type: choice.endpoint_type,
        node: choice.node.map(Into::into),
        peers_max: 8,
        send_depth: 16,
        recv_depth: 16,
        message_bytes_max: 4096,
        ..OfiConfig::default()
    }
}

/// Runs `body` on fresh memory.
pub(crate) fn on_ground(body: impl FnOnce(&Ground<'_>)) {
    let _watched = overdue::watch("libfabric");
    let mut block: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(8 << 20);
    let bump = Bump::new(&mut block);
    let pool = LoanPool::place(&bump, 64, 4096).unwrap();
    let names = Names::new();
    body(&Ground { bump: &bump, names: &names, pool, since: std::time::Instant::now() });
}

impl<'m> Ground<'m> {
    /// An endpoint that the others here can find.
    pub(crate) fn end(&self, text: &str, config: &OfiConfig) -> End<'m> {
        let port = OfiPort::open(self.bump, self.names, &name(text), config).unwrap();
        self.names.introduce(&name(text), port.address().unwrap());
        Endpoint::new(port, self.bump, &EndpointConfig { contexts_max: 64 }).unwrap()
    }

    /// Two that know each other, connected where they are of type MSG; and each one's address of the other.
    pub(crate) fn pair(&self, config: &OfiConfig) -> (End<'m>, End<'m>, Addr, Addr) {
        let (a, b) = (self.end("a", config), self.end("b", config));
        let to_b = a.connect(&name("b")).unwrap();
        if config.endpoint_type != EndpointType::Msg {
            let to_a = b.connect(&name("a")).unwrap();
            return (a, b, to_b, to_a);
        }
        let mut up = [None, None];
        self.until("both are connected", &[&a, &b], || {
            up = [up[0].or_else(|| a.poll_event()), up[1].or_else(|| b.poll_event())];
            up.iter().all(Option::is_some)
        });
        let to_a = b.connect(&name("a")).unwrap();
        (a, b, to_b, to_a)
    }

    /// A buffer.
    pub(crate) fn loan(&self) -> Loan<'m> {
        self.pool.lend().unwrap()
    }

    /// The next instant.
    pub(crate) fn now(&self) -> Instant {
        Instant::from_nanos(self.since.elapsed().as_nanos().try_into().unwrap())
    }

    /// Turns the ends until something is so.
    pub(crate) fn until(&self, what: &str, ends: &[&End<'m>], mut so: impl FnMut() -> bool) {
        overdue::waits_for(what);
        let from = std::time::Instant::now();
        while !so() {
            let on: Vec<&str> = ends.iter().map(|end| end.info().provider).collect();
            assert!(from.elapsed() < LONG, "not {what}, on {on:?}");
            // All of them, whoever is busy with what was not asked for yet.
            let turn = |end: &&End<'m>| end.turn(self.now(), Budget::DEFAULT).is_busy();
            if ends.iter().filter(|end| turn(end)).count() == 0 {
                std::thread::sleep(Duration::from_micros(20));
            }
        }
    }

    /// The next completion of `end`.
    pub(crate) fn next(&self, end: &End<'m>, ends: &[&End<'m>]) -> Completion<'m> {
        let mut found = None;
        self.until("there is a completion", ends, || {
            found = end.poll();
            found.is_some()
        });
        found.unwrap()
    }
}

/// The name of an endpoint.
pub(crate) fn named(text: &str) -> Name {
    name(text)
}
