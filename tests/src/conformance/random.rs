//! Any sequence of calls of two ends, against a model of what matching means: who gets which message, how much of it, and how it ends.
//!
//! ```text
//!   calls      receives into one buffer, several, for many messages; sends of every kind; a part of a turn; cancel, peek; memory of the other end;
//!              desks; leaving
//!   expected   what the model knows of one end
//!   game       plays a call at the ends and at the model, and compares what comes
//! ```
//!
//! The model needs no clock. A message goes to the first posted receive that takes it, a receive takes the oldest message that it matches, and
//! each sender's messages keep their order; so what comes of a sequence is the same whenever things arrive. After some calls all that is due is waited
//! for, after others the next call is made at once; before what depends on what has arrived (a cancel, a look, a leave) it is always waited for. Each end has
//! two desks, which find what is not theirs. What fails is made shorter by proptest until every call in it is needed.

mod calls;
mod expected;
mod game;

use core::cell::Cell;

use proptest::test_runner::{Config, TestCaseError, TestRunner};
use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_hostshim::desk::CancelToken;

use self::calls::{Step, steps};
use self::game::{Game, LOANS, ROOM};
use super::{Rig, Sizes, World, run};

fn play<R: Rig>(world: &World<'_, R>, steps: &[Step]) -> Result<(), TestCaseError> {
    let (a, b, to_b, to_a) = world.pair();
    let pool = LoanPool::place(world.bump(), LOANS, ROOM).unwrap();
    let rests = (Cell::new(0), CancelToken::new());
    let mut game = Game::new(world, ([&a, &b], [to_b, to_a]), pool, &rests);
    steps.iter().try_for_each(|&step| game.play(step))?;
    game.end()
}

/// Plays `cases` sequences, times `SPINWIRE_RANDOM_TIMES` where that is set.
///
/// # Panics
/// Where an end does something else than the model; with the shortest sequence that was found for it.
pub fn any_sequence_is_as_the_model_says<R: Rig>(endpoint_type: EndpointType, cases: u32) {
    if !R::is_here() {
        return;
    }
    let times = std::env::var("SPINWIRE_RANDOM_TIMES").map_or(1, |text| text.parse().unwrap());
    let config = Config {
        cases: cases * times,
        max_shrink_iters: 400,
        failure_persistence: None,
        ..Config::default()
    };
    let played = TestRunner::new(config).run(&steps(), |steps| {
        let mut result = Ok(());
        run::<R>(endpoint_type, Sizes::default(), |world| result = play(world, &steps));
        result
    });
    if let Err(error) = played {
        panic!("{endpoint_type}: {error}");
    }
}
