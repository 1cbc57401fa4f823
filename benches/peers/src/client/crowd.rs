//! Many connections: an epoll loop, edge-triggered, that is asked without waiting.
//!
//! An edge is reported once. A connection is therefore read until its socket is empty (a receive
//! that was short says so) or all that was asked for has come, and sent to until all is sent or the
//! socket is full. Nobody here closes before the end, so whoever hangs up fails the measurement.
//!
//! At the end of the time that counts no more requests are sent, but those under way are waited for:
//! a request that was slow is counted as slow, however late its echo comes.

use anyhow::Context;
use rustix::event::{Timespec, epoll};

use super::connection::{Check, Connection, Patience, pattern};
use super::{Fault, Task, Window, connect};
use crate::clock::Clock;
use crate::sample::Stream;

/// Events taken at once.
const EVENTS: usize = 1024;

/// Trips that are kept.
const TRIPS_MAX: usize = 1 << 21;

/// Never sleeps.
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Everything that a turn of the loop needs.
struct Crowd {
    connections: Vec<Connection>,
    pattern: Vec<u8>,
    window: Window,
    /// Requests under way, of all connections.
    outstanding: u64,
    /// Connections that were not answered yet.
    unanswered: u32,
}

/// Measures; the caller has pinned the thread. Also returns all requests that were answered, those of the warm-up and of the end
/// included.
pub(crate) fn run(task: &Task) -> anyhow::Result<(Stream, u64)> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut crowd = Crowd::connect(task, &poll)?;
    let mut events = Vec::with_capacity(EVENTS);
    let mut patience = Patience::new(task.clock.ticks_in(task.silence_ns));
    let mut turns = Turns::default();
    crowd.start(task.depth)?;
    let mut now = Clock::ticks();
    let served_by = now.saturating_add(task.clock.ticks_in(task.silence_ns));
    while crowd.outstanding > 0 {
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&AT_ONCE))?;
        let answered = crowd.window.answered;
        for event in &events {
            crowd.turn(event.data.u64(), event.flags)?;
        }
        let before = now;
        now = Clock::ticks();
        if events.is_empty() {
            patience.silent()?;
        } else {
            patience.heard(now);
            if crowd.unanswered > 0 && now > served_by {
                // Others are.
                return Err(Fault::Silent.into());
            }
            turns.add(crowd.window.answered - answered, now.saturating_sub(before));
        }
    }
    for connection in &mut crowd.connections {
        connection.finish()?;
    }
    let busy = turns.least_ticks().map(|ticks| {
        let each_ns = task.clock.ns(ticks);
        let window = crowd.window.until.saturating_sub(crowd.window.from);
        (crowd.window.answered as f64 * each_ns / task.clock.ns(window as f64)).min(1.0)
    });
    let all = crowd.connections.iter().map(Connection::answered).sum();
    Ok((crowd.window.finish(task, busy), all))
}

/// What a request costs the client, by how many came at once.
///
/// A client that always finds something to do is not at its limit: fewer at once cost more each.
/// What it would need at least is what its best turns took.
#[derive(Debug, Default)]
struct Turns {
    /// Requests and ticks, by the bits of the number that came at once.
    sums: [(u64, u64); 24],
}

impl Turns {
    /// A turn answered so many requests in so many ticks.
    #[inline]
    fn add(&mut self, requests: u64, ticks: u64) {
        let bits = u64::BITS - requests.leading_zeros();
        if requests > 0
            && let Some((all_requests, all_ticks)) = self.sums.get_mut(bits as usize)
        {
            *all_requests += requests;
            *all_ticks += ticks;
        }
    }

    /// The least ticks of a request, of the kinds of turns that were at least a hundredth of all.
    fn least_ticks(&self) -> Option<f64> {
        let all: u64 = self.sums.iter().map(|(requests, _)| requests).sum();
        let common = self.sums.iter().filter(|(requests, _)| *requests * 100 > all);
        common.map(|(requests, ticks)| *ticks as f64 / *requests as f64).reduce(f64::min)
    }
}

impl Crowd {
    fn connect(task: &Task, poll: impl std::os::fd::AsFd) -> anyhow::Result<Self> {
        let pattern = pattern(task.size as usize);
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        let mut connections = Vec::with_capacity(task.connections as usize);
        for number in 0..u64::from(task.connections) {
            let stream = connect(task.port)
                .with_context(|| format!("connection {number} of {}", task.connections))?;
            epoll::add(&poll, &stream, epoll::EventData::new_u64(number), flags)?;
            connections.push(Connection::new(stream, number, &pattern, task.depth as usize));
        }
        let window = Window::closed(task, TRIPS_MAX);
        Ok(Self { connections, pattern, window, outstanding: 0, unanswered: task.connections })
    }

    /// Sends the first requests of everybody.
    fn start(&mut self, depth: u32) -> Result<(), Fault> {
        for connection in &mut self.connections {
            let now = Clock::ticks();
            (0..depth).for_each(|_| connection.begin(now));
            self.outstanding += connection.outstanding();
            connection.send()?;
        }
        Ok(())
    }

    /// What an event asks for.
    fn turn(&mut self, number: u64, flags: epoll::EventFlags) -> Result<(), Fault> {
        let Self { connections, pattern, window, outstanding, unanswered } = self;
        let slot = usize::try_from(number).ok().and_then(|index| connections.get_mut(index));
        let Some(connection) = slot else { return Ok(()) };
        let gone = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        if flags.intersects(gone) {
            return Err(connection.gone());
        }
        // One reading of the clock for all echoes that came at once, and for the requests after them.
        let now = Clock::ticks();
        let check = if now < window.from { Check::Whole } else { Check::Part };
        let is_over = window.is_over(now);
        let was_answered = connection.answered() > 0;
        connection.receive()?;
        while let Some(sent) = connection.take(pattern, check)? {
            window.count(sent, now);
            if is_over {
                *outstanding -= 1;
            } else {
                connection.begin(now);
            }
        }
        if !was_answered && connection.answered() > 0 {
            *unanswered -= 1;
            if *unanswered == 0 {
                window.warm_up(now);
            }
        }
        connection.send()
    }
}
