//! The simulator: actors over one provider, with everything decided by a seed, and a ledger that checks what comes of it.
//!
//! ```text
//!   seed --> taste, weights --> step, step, step, ..        --> quiet: nobody dies or leaves any more --> all that is owed
//!            (a swarm: each     turn, send, receive, cancel,     everything is asked for                    has arrived,
//!             run has its own)  connect, disconnect, close,                                                 nothing is
//!                               die, be buried, start again                                                 left over
//! ```
//!
//! Time is virtual, there are no threads, and the same seed gives the same run. What is checked:
//! - each message is delivered at most once, uncorrupted, and in order within its stream and kind, without gaps;
//! - each operation completes once; no completion names another one's;
//! - what was published before its sender was killed or closed is delivered; what was accepted from a living one too;
//! - nobody is told of the end of a peer that lives and is connected;
//! - what is in a buffer of the pool stays as it was sent for as long as anybody holds it, and it can be had for as long as its
//!   sender lives;
//! - in the end everything that is owed arrives in bounded time, and no lane, slot, message or buffer is left over.

mod actor;
pub mod canary;
pub mod fabric;
mod ledger;
mod lending;
pub mod nic;

use actor::{Actor, Taste};
pub use ledger::{Checked, Violation};
use ledger::{Ledger, ensure};
use lending::Warehouse;

use spinwire_dataplane::provider::EndpointType;

use crate::conformance::{Rig, Sizes, World, name, run};
use crate::rng::Rng;

/// Turns after which everything that is owed has to be there.
const QUIET_TURNS_MAX: u32 = 6000;

/// What a run has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Messages delivered.
    pub delivered: u64,
    /// Buffers of the pool that were taken by who they were sent to.
    pub lent: u64,
    /// Lives of actors.
    pub stays: u64,
    /// A number over all that has happened: two runs of one seed have the same.
    pub fingerprint: u64,
}

const SIZES: Sizes = Sizes {
    endpoints: 6,
    // Every pair, and those of the dead and the parted that are not yet let go of.
    pairs: 64,
    link_depth: 8,
    message_bytes_max: 1024,
    peers_max: 24,
    send_depth: 8,
    recv_depth: 24,
    unexpected_depth: 6,
    unexpected_bytes_max: 256,
    contexts_max: 48,
    regions_max: 1,
};

/// What can happen in a step.
#[derive(Clone, Copy, Debug)]
enum Step {
    Turn,
    Send,
    Receive,
    Cancel,
    Connect,
    Disconnect,
    Close,
    Die,
    Bury,
    Start,
    /// Many turns of one who has nothing to do: its lanes turn cold.
    Idle,
    /// Something is done with buffers of the pool.
    Handle,
}

const STEPS: [Step; 12] = [
    Step::Turn,
    Step::Send,
    Step::Receive,
    Step::Cancel,
    Step::Connect,
    Step::Disconnect,
    Step::Close,
    Step::Die,
    Step::Bury,
    Step::Start,
    Step::Idle,
    Step::Handle,
];

/// How often what happens, by seed.
fn weights(rng: &mut Rng) -> [u64; 12] {
    let mut some = |choices: [u64; 4]| choices[rng.index(4)];
    [
        some([100, 200, 300, 600]),
        some([50, 100, 200, 400]),
        some([20, 100, 200, 300]),
        some([0, 0, 5, 40]),
        some([10, 20, 40, 80]),
        some([0, 0, 2, 20]),
        some([0, 0, 2, 10]),
        some([0, 0, 2, 10]),
        some([2, 5, 10, 20]),
        some([5, 10, 20, 40]),
        some([0, 0, 1, 2]),
        some([50, 100, 200, 400]),
    ]
}

/// One run.
///
/// # Errors
/// The first thing that is wrong.
pub fn simulate<R: Rig>(endpoint_type: EndpointType, seed: u64) -> Result<Report, Violation> {
    let mut outcome = Err(Violation("it did not run".to_owned()));
    run::<R>(endpoint_type, SIZES, |world| {
        let mut rng = Rng::new(seed);
        let taste = Taste {
            length_max: [0, 60, 300, 1024][rng.index(4)],
            tagged_percent: [0, 20, 50, 100][rng.index(4)],
            posted_percent: [0, 30, 100][rng.index(3)],
            parcel_percent: [0, 30, 90][rng.index(3)],
            burst_max: [1, 4, 30][rng.index(3)],
            receives: [1, 4, 12][rng.index(3)],
        };
        let count = rng.between(2, 4);
        let actors = ["a", "b", "c", "d"].into_iter().take(count).map(|n| Actor::new(name(n)));
        let mut ledger = Ledger::default();
        ledger.faults = R::FAULTS;
        ledger.connected = endpoint_type == EndpointType::Msg;
        let warehouse = Warehouse::new();
        let mut play = Play { world, actors: actors.collect(), warehouse, ledger, taste, rng };
        outcome = play.act().map_err(|violation| play.ledger.explain(&violation));
    });
    outcome
}

struct Play<'w, 'm, R: Rig> {
    world: &'w World<'m, R>,
    actors: Vec<Actor<'m, R>>,
    warehouse: Warehouse,
    ledger: Ledger,
    taste: Taste,
    rng: Rng,
}

impl<R: Rig> Play<'_, '_, R> {
    fn act(&mut self) -> Result<Report, Violation> {
        let weights = weights(&mut self.rng);
        let steps = self.rng.between(200, 1500);
        for actor in &mut self.actors {
            actor.start(self.world, &self.warehouse, &mut self.ledger);
        }
        for _ in 0..steps {
            let step = STEPS[self.rng.weighted(&weights)];
            self.step(step)?;
        }
        self.quiet()?;
        let stays = self.ledger.stays.len();
        for actor in &mut self.actors {
            actor.close(&self.warehouse, &mut self.ledger);
        }
        let left = R::leftovers(self.world.ground());
        ensure!(left.is_empty(), "left over: {left}");
        let delivered = self.ledger.delivered;
        let stays = u64::try_from(stays).unwrap();
        let lent = self.warehouse.taken;
        let fingerprint = self.rng.word() ^ delivered << 32 ^ lent << 16 ^ stays;
        Ok(Report { delivered, lent, stays, fingerprint })
    }

    fn step(&mut self, step: Step) -> Checked {
        let at = self.rng.index(self.actors.len());
        let Self { world, actors, warehouse, ledger, taste, rng } = self;
        let alone = actors.iter().filter(|actor| actor.is_there()).count() < 2;
        let other = rng.index(actors.len());
        let peer = (actors[other].name, actors[other].stay);
        let actor = &mut actors[at];
        match step {
            Step::Turn => actor.turn(world, ledger),
            Step::Send => actor.send((warehouse, ledger), taste, rng),
            Step::Receive => {
                for _ in 0..rng.index(taste.receives) + 1 {
                    actor.receive(world, ledger, rng)?;
                }
                Ok(())
            }
            Step::Cancel => actor.cancel(rng),
            Step::Connect => {
                // Nobody who is connected to one peer can be his own.
                let own = other == at && world.endpoint_type() == EndpointType::Msg;
                if own { Ok(()) } else { actor.connect((&peer.0, peer.1), ledger) }
            }
            Step::Disconnect => {
                actor.disconnect(ledger, rng);
                Ok(())
            }
            Step::Close if !alone => {
                actor.close(warehouse, ledger);
                Ok(())
            }
            Step::Die if !alone => {
                actor.die(ledger);
                Ok(())
            }
            Step::Close | Step::Die => Ok(()),
            Step::Bury => {
                actor.bury(world, warehouse);
                Ok(())
            }
            Step::Start => {
                actor.start(world, warehouse, ledger);
                Ok(())
            }
            Step::Handle => actor.handle(warehouse, ledger, rng),
            Step::Idle => (0..4500).try_for_each(|_| actor.turn(world, ledger)),
        }
    }

    /// Nobody comes or goes any more; everything that is owed arrives.
    fn quiet(&mut self) -> Checked {
        let Self { world, actors, warehouse, ledger, .. } = self;
        for actor in actors.iter_mut() {
            actor.bury(world, warehouse);
            actor.bury(world, warehouse);
            actor.widen()?;
        }
        for _ in 0..QUIET_TURNS_MAX {
            for actor in actors.iter_mut() {
                actor.turn(world, ledger)?;
                actor.open_up(ledger)?;
            }
            let open = |actor: &Actor<'_, R>| actor.is_there() && ledger.sends_open(actor.stay) > 0;
            if ledger.owed().is_none() && !actors.iter().any(open) {
                // Nothing more comes of it, but buffers that go back.
                let mut under_way = 0;
                for _ in 0..20 {
                    under_way = 0;
                    for actor in actors.iter_mut() {
                        actor.turn(world, ledger)?;
                        under_way += actor.let_go()?;
                    }
                }
                let missing = warehouse.missing();
                ensure!(
                    (under_way, missing) == (0, 0),
                    "left over: {missing} buffers, {under_way} of them under way"
                );
                return Ok(());
            }
        }
        let owed = ledger.owed().unwrap_or_else(|| "the completion of a send".to_owned());
        Err(Violation(format!("no progress: {owed}")))
    }
}
