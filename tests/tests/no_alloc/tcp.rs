//! Two ports over TCP on the real kernel, and a round of everything that is done with them.

use core::net::{Ipv4Addr, SocketAddr};

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::{Completion, Endpoint, EndpointConfig, Kind, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::provider::tcp::TcpPort;
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::time::Instant;
use spinwire_hostshim::tcp::{TcpPlane, TcpPlaneConfig};
use spinwire_hostshim::uring::RingEntry;

/// More than is copied, and more than one buffer of the kernel holds.
const LONG: usize = 40_000;
const TURNS_MAX: u32 = 100_000;

type Port<'p> = TcpPort<'p, RingEntry<'p>>;

pub(crate) struct Traffic<'p> {
    ends: [Endpoint<'p, Port<'p>>; 2],
    pool: &'p LoanPool<'p>,
    there: Addr,
}

/// Runs `work` with two ports that are connected.
pub(crate) fn with<R>(work: impl FnOnce(&Traffic<'_>) -> R) -> R {
    let config = TcpPlaneConfig { arena_bytes: 8 << 20, ..TcpPlaneConfig::default() };
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let planes = [(); 2].map(|()| TcpPlane::open(Some(anywhere), &config).unwrap());
    let rings = [planes[0].ring().unwrap(), planes[1].ring().unwrap()];
    let names = ["a", "b"].map(|text| Name::new(text).unwrap());
    let end = |at: usize| {
        let port = planes[at].port(&rings[at], (&names[at], EndpointType::Rdm)).unwrap();
        Endpoint::new(port, rings[at].arena().bump(), &EndpointConfig::default()).unwrap()
    };
    let ends = [end(0), end(1)];
    planes[0].introduce(ends[0].provider(), &names[1], planes[1].local().unwrap()).unwrap();
    let there = ends[0].connect(&names[1]).unwrap();
    let pool = LoanPool::place(rings[0].arena().bump(), 16, LONG).unwrap();
    work(&Traffic { ends, pool, there })
}

impl<'p> Traffic<'p> {
    /// So many rounds; the number of those in which everything was as it should be.
    pub(crate) fn run(&self, rounds: u64) -> u64 {
        (0..rounds).map(|round| u64::from(self.is_good(round).is_some())).sum()
    }

    fn turn(&self) {
        for end in &self.ends {
            let _busy = end.turn(Instant::from_nanos(1), Budget::DEFAULT);
            while end.poll_event().is_some() {}
        }
    }

    fn next(&self, at: usize) -> Option<Completion<'p>> {
        (0..TURNS_MAX).find_map(|_| {
            self.turn();
            self.ends[at].poll()
        })
    }

    fn inject(&self, at: usize, to: SendTo, bytes: &[u8]) -> Option<()> {
        for _ in 0..TURNS_MAX {
            match self.ends[at].inject(to, bytes) {
                Ok(()) => return Some(()),
                Err(PostError::Retry(_)) => self.turn(),
                Err(_) => return None,
            }
        }
        None
    }

    /// `None` where a call was refused that should not be, or something else came than was sent.
    fn is_good(&self, round: u64) -> Option<()> {
        // One is asked for and one waits first; there and back.
        let to = SendTo::peer(self.there).tag(round);
        self.ends[1].post_recv(RecvFrom::any().tag(round), self.pool.lend()?, 1).ok()?;
        self.inject(0, to, b"asked for")?;
        let got = self.next(1)?;
        let back = SendTo::peer(got.source?);
        (got.loan.as_deref()? == b"asked for").then_some(())?;
        self.inject(1, back, b"waits")?;
        for _ in 0..20 {
            self.turn();
        }
        self.ends[0].post_recv(RecvFrom::any(), self.pool.lend()?, 2).ok()?;
        (self.next(0)?.loan.as_deref()? == b"waits").then_some(())?;
        // A long one, uncopied.
        let mut long = self.pool.lend()?;
        long.set_len(LONG).ok()?;
        self.ends[1].post_recv(RecvFrom::any(), self.pool.lend()?, 3).ok()?;
        self.ends[0].post_send(SendTo::peer(self.there), long, 4).ok()?;
        (self.next(1)?.length == LONG).then_some(())?;
        (self.next(0)?.kind == Kind::Sent).then_some(())
    }
}
