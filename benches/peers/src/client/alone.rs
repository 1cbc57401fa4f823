//! One connection, one request under way: the client spins on the socket.

use super::connection::{Check, Connection, Patience, pattern};
use super::{Fault, Task, Window, connect};
use crate::clock::Clock;
use crate::sample::Rtt;

/// Trips that are kept.
const TRIPS_MAX: usize = 1 << 20;

/// Measures; the caller has pinned the thread.
pub(crate) fn run(task: &Task) -> anyhow::Result<Rtt> {
    let pattern = pattern(task.size as usize);
    let mut connection = Connection::new(connect(task.port)?, 0, &pattern, 1);
    let mut window = Window::closed(task, TRIPS_MAX);
    let mut patience = Patience::new(task.clock.ticks_in(task.silence_ns));
    let mut now = Clock::ticks();
    while !window.is_over(now) {
        let check = if now < window.from { Check::Whole } else { Check::Part };
        connection.begin(now);
        let sent = trip(&mut connection, &mut patience, (&pattern, check))?;
        let answered = Clock::ticks();
        if connection.answered() == 1 {
            window.warm_up(answered);
        }
        window.count(sent, answered);
        patience.heard(answered);
        now = answered;
    }
    connection.finish()?;
    Ok(window.trips.finish(&task.clock))
}

/// From the request that has begun to its echo: when it was begun.
fn trip(
    connection: &mut Connection,
    patience: &mut Patience,
    (pattern, check): (&[u8], Check),
) -> Result<u64, Fault> {
    loop {
        // A long request does not fit the socket: its echo must be read while it is written.
        connection.send()?;
        connection.receive()?;
        if let Some(sent) = connection.take(pattern, check)? {
            return Ok(sent);
        }
        patience.silent()?;
    }
}
