//! rtrb: the SPSC ring of the Rust audio world, between two threads of one process.
//!
//! It has no processes, no tags and no shared memory object to care for, so it shows what those
//! cost. One `push` and one `pop` a message, as Spinwire is called; its slice calls, which move
//! many messages at once, are not used. Payloads are aligned to their size, so that none straddles
//! two lines. Waiting costs one `spin_loop` hint a look, which makes its round trip about a sixth
//! quicker than bare loads do.

use core::hint;

use anyhow::{bail, ensure};
use rtrb::{Consumer, Producer, RingBuffer};

use super::Peer;
use super::floor::WARM_UP_PART;
use super::spinwire::Spinwire;
use crate::clock::Clock;
use crate::sample::{Sample, Stream, Trips};
use crate::schedule::Plan;
use crate::work::{Kind, Work};

/// Messages that a ring holds.
const CAPACITY: usize = 1024;

/// The rtrb row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rtrb;

impl Peer for Rtrb {
    fn name(&self) -> &'static str {
        "rtrb"
    }

    fn word(&self) -> &'static str {
        "rtrb"
    }

    fn measures(&self, work: Work) -> bool {
        work.is_copied() && work.size <= 64
    }

    fn rival(&self) -> Option<&'static str> {
        Some(Spinwire::Plain.name())
    }

    fn probe(&self, _plan: &Plan) -> Result<String, String> {
        Ok(format!("two threads, rings of {CAPACITY}, one push and one pop a message"))
    }

    fn measure(&self, work: Work, plan: &Plan) -> anyhow::Result<Sample> {
        match (work.kind, work.size) {
            (Kind::Rtt, 32) => ping_pong::<Bytes32>(work, plan),
            (Kind::Rtt, 64) => ping_pong::<Bytes64>(work, plan),
            (Kind::Stream, 32) => stream::<Bytes32>(work, plan),
            (Kind::Stream, 64) => stream::<Bytes64>(work, plan),
            _ => bail!("rtrb is not set up for {work}"),
        }
    }
}

/// A message that carries its number in every word.
trait Message: Copy + Send {
    fn numbered(number: u64) -> Self;
    fn is_numbered(&self, number: u64) -> bool;
}

#[derive(Clone, Copy)]
#[repr(align(32))]
struct Bytes32([u64; 4]);

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Bytes64([u64; 8]);

impl Message for Bytes32 {
    fn numbered(number: u64) -> Self {
        Self([number; 4])
    }

    fn is_numbered(&self, number: u64) -> bool {
        self.0 == [number; 4]
    }
}

impl Message for Bytes64 {
    fn numbered(number: u64) -> Self {
        Self([number; 8])
    }

    fn is_numbered(&self, number: u64) -> bool {
        self.0 == [number; 8]
    }
}

#[inline]
fn send<M: Message>(ring: &mut Producer<M>, message: M) {
    while ring.push(message).is_err() {
        hint::spin_loop();
    }
}

#[inline]
fn receive<M: Message>(ring: &mut Consumer<M>) -> M {
    loop {
        if let Ok(message) = ring.pop() {
            return message;
        }
        hint::spin_loop();
    }
}

fn ping_pong<M: Message>(work: Work, plan: &Plan) -> anyhow::Result<Sample> {
    let (mut ping_in, mut ping_out) = RingBuffer::<M>::new(CAPACITY);
    let (mut pong_in, mut pong_out) = RingBuffer::<M>::new(CAPACITY);
    let trips = plan.effort.trips(work.size);
    let warm_up = trips / WARM_UP_PART;
    let total = u64::from(trips + warm_up);
    let near = || {
        let mut laps = Trips::new(trips as usize);
        let mut wrong = 0_u64;
        for trip in 0..total {
            if trip == u64::from(warm_up) {
                laps.start();
            }
            send(&mut ping_in, M::numbered(trip));
            wrong += u64::from(!receive(&mut pong_out).is_numbered(trip));
            if trip >= u64::from(warm_up) {
                laps.lap();
            }
        }
        (laps, wrong)
    };
    let far = || {
        for _ in 0..total {
            let message = receive(&mut ping_out);
            send(&mut pong_in, message);
        }
    };
    let ((laps, wrong), ()) = plan.cpus.run_pair(near, far)?;
    ensure!(wrong == 0, "{wrong} messages came back wrong");
    Ok(Sample::Rtt(laps.finish(&plan.clock)))
}

fn stream<M: Message>(work: Work, plan: &Plan) -> anyhow::Result<Sample> {
    let (mut ring_in, mut ring_out) = RingBuffer::<M>::new(CAPACITY);
    let messages = plan.effort.messages(work.size);
    let warm_up = messages / WARM_UP_PART;
    let total = u64::from(messages + warm_up);
    let near = || {
        for number in 0..total {
            send(&mut ring_in, M::numbered(number));
        }
    };
    let far = || {
        let mut wrong = 0_u64;
        let mut started = Clock::ticks();
        for number in 0..total {
            if number == u64::from(warm_up) {
                started = Clock::ticks();
            }
            wrong += u64::from(!receive(&mut ring_out).is_numbered(number));
        }
        (Clock::ticks().wrapping_sub(started), wrong)
    };
    let ((), (ticks, wrong)) = plan.cpus.run_pair(near, far)?;
    ensure!(wrong == 0, "{wrong} messages arrived wrong");
    let ns = plan.clock.ns(ticks as f64);
    Ok(Sample::Stream(Stream {
        messages_per_s: f64::from(messages) / ns * 1e9,
        ..Stream::default()
    }))
}
