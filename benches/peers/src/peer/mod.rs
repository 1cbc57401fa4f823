//! Everybody who is measured: a file for each, and the one trait that the schedule knows them by.

use crate::sample::Sample;
use crate::schedule::Plan;
use crate::work::Work;

pub(crate) mod echo;
pub(crate) mod floor;
pub(crate) mod iceoryx2;
pub(crate) mod libfabric;
pub(crate) mod loan;
pub(crate) mod pool;
pub(crate) mod resp;
pub(crate) mod rtrb;
pub(crate) mod sockets;
pub(crate) mod spinwire;
pub(crate) mod ucx;

/// One row of the table: something that can be measured at some works.
pub(crate) trait Peer {
    /// The name of the row; also the key of bars and ratios.
    fn name(&self) -> &'static str;

    /// The word that `--only` takes; several rows may share one.
    fn word(&self) -> &'static str;

    /// Whether this row exists for `work`.
    fn measures(&self, work: Work) -> bool;

    /// The Spinwire row that this one is set against: tag matching against tag matching, plain
    /// against plain.
    fn rival(&self) -> Option<&'static str>;

    /// What was found (a version, a path), or why this row must be skipped.
    fn probe(&self, plan: &Plan) -> Result<String, String>;

    /// Measures once, shortly.
    fn measure(&self, work: Work, plan: &Plan) -> anyhow::Result<Sample>;
}

/// Every row below the floor, in the order of the table.
pub(crate) fn all() -> Vec<Box<dyn Peer>> {
    vec![
        Box::new(floor::Reference::Pause),
        Box::new(floor::Reference::TwoLines),
        Box::new(spinwire::Spinwire::Plain),
        Box::new(spinwire::Spinwire::Tagged),
        Box::new(spinwire::Spinwire::Lent),
        Box::new(spinwire::Spinwire::Small),
        Box::new(echo::Echo::Spinwire),
        Box::new(resp::Resp::Spinwire),
        Box::new(echo::Echo::Ringline),
        Box::new(echo::Echo::Monoio),
        Box::new(echo::Echo::Tokio),
        Box::new(echo::Echo::Epoll),
        Box::new(echo::Echo::InTurn),
        Box::new(resp::Resp::Redis),
        Box::new(resp::Resp::Bare),
        Box::new(resp::Resp::BareInTurn),
        Box::new(ucx::Ucx::Posix),
        Box::new(ucx::Ucx::PosixAndCma),
        Box::new(rtrb::Rtrb),
        Box::new(iceoryx2::Iceoryx2 { plain: false }),
        Box::new(iceoryx2::Iceoryx2 { plain: true }),
        Box::new(loan::Loan),
        Box::new(libfabric::Libfabric),
        Box::new(pool::Pool::One),
        Box::new(pool::Pool::Two),
        Box::new(pool::Pool::Alone),
    ]
}
