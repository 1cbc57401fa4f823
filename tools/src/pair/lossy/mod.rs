//! Orders and messages of which some may be lost.
//!
//! ```text
//!   client                                                    server
//!     order n  ------------- again, until it is answered -->    does it, and keeps the answer
//!              <-------------------------------- answer n --    says it once more where n comes again
//!     message k  ------------------------------------------>
//!                <-------------------------------------- k --   the same back
//!       none within the limit: lost; k + 1 goes in its place
//!       another than k: late, counted, and never taken for the answer to k
//! ```
//!
//! Numbers travel as immediate data. Those of orders begin with a number that the client has drawn, those of a stream with that of its
//! order, so that nothing of another time is taken for something of now. Only what comes from the other end's address
//! counts; strangers are not heard.

mod desk;

use core::cell::Cell;
use core::time::Duration;
use std::time::Instant;

use hdrhistogram::Histogram;
use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::{Completion, SendTo};
use spinwire_dataplane::provider::{Provider, Status};

pub(in crate::pair) use self::desk::{Desk, Tally, obey};
use super::client::Client;
use super::floor::{Floor, Witness};
use super::limit::Limit;
use super::order::{Marking, ORDER_TAG, Order};
use super::silence::{MOMENT, Silence};
use super::station::{DataUse, Heard, PATIENCE, Station, data_to};
use crate::pattern;
use crate::report::Failure;

/// Most messages of one stream: of each it is remembered whether it came.
pub(crate) const STREAM_MAX: u64 = 1 << 22;
/// Looks between two at the clock, while nothing comes.
const LOOKS: u32 = 1 << 10;
/// After so long a silence the other end is asked for: has anybody its port still?
const SILENCE: Duration = MOMENT;
/// How long a client waits for the answer to its last order, which it does not need.
const FAREWELL: Duration = Duration::from_millis(500);

/// How long nothing has come, and when the other end is asked for.
#[derive(Debug)]
pub(super) struct Quiet {
    looks: Cell<u32>,
    silence: Silence,
    asked_at: Cell<Duration>,
}

impl Quiet {
    pub(super) const fn new() -> Self {
        Self { looks: Cell::new(0), silence: Silence::new(), asked_at: Cell::new(Duration::ZERO) }
    }

    /// Something has come.
    #[inline(always)]
    pub(super) fn moved(&self) {
        self.silence.broken();
    }

    /// Now and then: fails where nobody has the port of the other end any more, or nothing came for too long.
    #[inline(always)]
    pub(super) fn check<F: Floor>(&self, floor: &F) -> Result<(), Failure> {
        let looks = self.looks.get().wrapping_add(1);
        self.looks.set(looks);
        if looks.is_multiple_of(LOOKS) { self.check_at(Instant::now(), floor) } else { Ok(()) }
    }

    #[cold]
    fn check_at<F: Floor>(&self, now: Instant, floor: &F) -> Result<(), Failure> {
        let silent = self.silence.at(now);
        if silent.is_zero() {
            self.asked_at.set(Duration::ZERO);
            return Ok(());
        }
        if silent > PATIENCE {
            return Err(no_answer());
        }
        if silent.saturating_sub(self.asked_at.get()) >= SILENCE {
            self.asked_at.set(silent);
            floor.is_there()?;
        }
        Ok(())
    }
}

/// Says an order, once. What finds no room is as good as lost: it is said again.
fn say<P: Provider, F: Witness>(
    station: &Station<'_, P, F>,
    to: Addr,
    (number, order): (u64, Order),
) -> Result<(), Failure> {
    let to = SendTo::peer(to).tag(ORDER_TAG).immediate(number);
    match station.endpoint.inject(to, &order.encode()) {
        Ok(()) | Err(PostError::Retry(_)) => station.endpoint.flush(),
        Err(refused) => return Err(refused.into()),
    }
    Ok(())
}

/// What became of the round trips of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Loss {
    /// Messages that were sent.
    pub(crate) sent: u64,
    /// Those that were not answered in time.
    pub(crate) lost: u64,
    /// Answers that came after that, or a second time.
    pub(crate) late: u64,
}

impl Loss {
    pub(crate) const fn add(&mut self, other: Self) {
        self.sent = self.sent.saturating_add(other.sent);
        self.lost = self.lost.saturating_add(other.lost);
        self.late = self.late.saturating_add(other.late);
    }
}

/// What came of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Took {
    /// Messages that came.
    pub(crate) received: u64,
    /// Messages that came again.
    pub(crate) repeated: u64,
    /// From the first to the last.
    pub(crate) ns: u64,
}

/// The client's side: what it counts.
#[derive(Debug)]
pub(crate) struct Exchange {
    limit: Duration,
    /// The number of the last order.
    order: Cell<u64>,
    /// The number of the last message of a round trip.
    message: Cell<u64>,
}

impl Exchange {
    /// Messages are lost after `limit`. Numbers of orders begin with `drawn`, which another client would hardly draw.
    pub(super) fn new(limit: Duration, drawn: u32) -> Self {
        let order = u64::from(drawn) << 32;
        Self { limit, order: Cell::new(order), message: Cell::new(0) }
    }

    /// What the messages of the stream of the last order begin with.
    pub(crate) const fn round(&self) -> u64 {
        self.order.get() << 32
    }

    /// Says an order until it is answered.
    pub(super) fn ask<P: Provider, F: Floor>(
        &self,
        station: &Station<'_, P, F>,
        (server, order): (Addr, Order),
        patience: Duration,
    ) -> Result<Option<Order>, Failure> {
        let number = self.order.get().wrapping_add(1);
        self.order.set(number);
        // So often, and not for so long: a process that is stopped for a while has lost little by it.
        for _ in 0..patience.as_nanos().div_ceil(self.limit.as_nanos().max(1)) {
            say(station, server, (number, order))?;
            let said = Instant::now();
            while said.elapsed() < self.limit {
                station.turn_now();
                while let Some(completion) = station.endpoint.poll() {
                    if !Station::<P, F>::is_of_order(&completion) {
                        continue;
                    }
                    if let Some(Heard { source, number: of, order }) = station.heard(completion)?
                        && source == server
                        && of == number
                    {
                        return Ok(Some(order));
                    }
                }
            }
            station.floor.is_there()?;
        }
        Ok(None)
    }

    /// Has the server prepare for an order.
    pub(super) fn prepare<P: Provider, F: Floor>(
        &self,
        station: &Station<'_, P, F>,
        server: Addr,
        order: Order,
    ) -> Result<(), Failure> {
        match self.ask(station, (server, order), PATIENCE)? {
            Some(Order::Done { .. }) => Ok(()),
            Some(_) => Err("the server sent an order where an answer was due".into()),
            None => Err(no_answer()),
        }
    }

    /// Lets the server go. Whether it has heard it does not matter: it sees that this end is gone.
    pub(super) fn part<P: Provider, F: Floor>(&self, station: &Station<'_, P, F>, server: Addr) {
        let _it_may_be_gone_before_us = self.ask(station, (server, Order::Bye), FAREWELL);
    }

    /// Sends `count` messages that come back, and others in the place of those that do not; records each that came, and returns the
    /// nanoseconds of all.
    pub(crate) fn echo<P: Provider, F: Floor>(
        &self,
        client: &Client<'_, '_, P, F>,
        (message, marking): (&[u8], Marking),
        count: u64,
        into: &mut Histogram<u64>,
    ) -> Result<(u64, Loss), Failure> {
        let station = &client.station;
        station.post_all_data(marking, DataUse::OneMessage)?;
        let size = u64::try_from(message.len())?;
        client.prepare(Order::Echo { count, size, marking })?;
        // What came from elsewhere in the meantime has used some of them up.
        station.post_all_data(marking, DataUse::OneMessage)?;
        let clock = &station.clock;
        let mut loss = Loss::default();
        let begin = clock.ticks();
        let mut unanswered = None;
        let mut left = count;
        while left > 0 {
            loss.sent = loss.sent.saturating_add(1);
            let sent = clock.ticks();
            let late = &mut loss.late;
            if let Some(back) = self.trip(client, (message, marking), sent, late)? {
                into.saturating_record(clock.ticks_to_ns(back.saturating_sub(sent)).max(1));
                left = left.saturating_sub(1);
                unanswered = None;
                continue;
            }
            loss.lost = loss.lost.saturating_add(1);
            station.floor.is_there()?;
            if unanswered.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                return Err(no_answer());
            }
        }
        Ok((clock.ticks_to_ns(clock.ticks().saturating_sub(begin)), loss))
    }

    /// One message there, and the tick at which it was back; `None` where that is not in time.
    #[inline(always)]
    fn trip<P: Provider, F: Floor>(
        &self,
        client: &Client<'_, '_, P, F>,
        (message, marking): (&[u8], Marking),
        sent: u64,
        late: &mut u64,
    ) -> Result<Option<u64>, Failure> {
        let station = &client.station;
        let clock = &station.clock;
        let limit = u64::try_from(self.limit.as_nanos())?;
        let number = self.message.get().wrapping_add(1);
        self.message.set(number);
        let to = data_to(client.server, marking).immediate(number);
        match station.endpoint.inject(to, message) {
            Ok(()) | Err(PostError::Retry(_)) => station.endpoint.flush(),
            Err(refused) => return Err(refused.into()),
        }
        loop {
            station.turn_now();
            while let Some(completion) = station.endpoint.poll() {
                if Station::<P, F>::is_of_order(&completion) {
                    // An answer that was said twice.
                    station.heard(completion)?;
                    continue;
                }
                let is_back = completion.immediate == Some(number);
                let is_theirs = completion.source == Some(client.server);
                let back = clock.ticks_after_loads();
                let same = is_same(station, &completion, message);
                if let Some(loan) = completion.loan {
                    station.post_data(loan, marking, DataUse::OneMessage)?;
                }
                match (is_theirs, is_back) {
                    (true, true) if same => return Ok(Some(back)),
                    (true, true) => return Err("a message came back changed".into()),
                    (true, false) => *late = late.saturating_add(1),
                    (false, _) => {}
                }
            }
            if clock.ticks_to_ns(clock.ticks().saturating_sub(sent)) > limit {
                return Ok(None);
            }
        }
    }

    /// Streams `count` messages, as fast as they are taken, and until `limit` at the latest; returns how many were sent, and what came of
    /// them.
    pub(crate) fn stream<P: Provider, F: Floor>(
        &self,
        client: &Client<'_, '_, P, F>,
        (size, marking): (usize, Marking),
        (count, batch): (u64, u64),
        limit: &Limit,
    ) -> Result<(u64, Took), Failure> {
        let station = &client.station;
        client.prepare(Order::Drain { count, size: u64::try_from(size)?, marking })?;
        let mut stamper = pattern::Stamper::new(size);
        let to = data_to(client.server, marking);
        let quiet = Quiet::new();
        let mut number = 0;
        while limit.goes_on(number, count) {
            let end = number.saturating_add(batch).min(count);
            while number < end {
                let to = to.immediate(self.round() | number);
                match station.endpoint.inject(to, stamper.message(number)) {
                    Ok(()) => {
                        number = number.saturating_add(1);
                        quiet.moved();
                    }
                    Err(PostError::Retry(_)) => break,
                    Err(refused) => return Err(refused.into()),
                }
            }
            station.turn_now();
            while let Some(completion) = station.endpoint.poll() {
                if Station::<P, F>::is_of_order(&completion) {
                    station.heard(completion)?;
                }
            }
            quiet.check(&station.floor)?;
        }
        Ok((number, self.tally(client)?))
    }

    /// What came of the last stream.
    pub(crate) fn tally<P: Provider, F: Floor>(
        &self,
        client: &Client<'_, '_, P, F>,
    ) -> Result<Took, Failure> {
        match self.ask(&client.station, (client.server, Order::Tally), PATIENCE)? {
            Some(Order::Took { received, repeated, changed: 0, ns }) => {
                Ok(Took { received, repeated, ns })
            }
            Some(Order::Took { received, changed, .. }) => {
                Err(format!("{changed} of {received} messages came changed").into())
            }
            Some(_) => Err("the server sent an order where an answer was due".into()),
            None => Err(no_answer()),
        }
    }
}

fn no_answer() -> Failure {
    format!("the other end does not answer for {} s", PATIENCE.as_secs()).into()
}

fn is_same<'m, P: Provider, F: Witness>(
    station: &Station<'m, P, F>,
    completion: &Completion<'m>,
    message: &[u8],
) -> bool {
    completion.status == Status::Success
        && station.endpoint.read(completion, |bytes| bytes == message) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody(bool);

    impl Witness for Nobody {
        fn is_there(&self) -> Result<(), Failure> {
            if self.0 { Ok(()) } else { Err("gone".into()) }
        }
    }

    impl Floor for Nobody {
        fn reset(&self) {}
        fn bounce(&self, _number: u64, _size: usize) -> Result<bool, Failure> {
            Ok(false)
        }
        fn copy_in(&self, _: u64, _: &[u8], (count, _): (u64, &Limit)) -> Result<u64, Failure> {
            Ok(count)
        }
    }

    #[test]
    fn who_is_silent_is_asked_for_and_given_up_in_the_end() {
        let quiet = Quiet::new();
        let mut now = Instant::now();
        let mut after = |span, floor: &Nobody| {
            now += span;
            quiet.check_at(now, floor).map_err(|e| e.to_string())
        };
        let (there, gone) = (Nobody(true), Nobody(false));
        assert_eq!(after(SILENCE * 2, &gone), Ok(()), "the first look");
        assert_eq!(after(SILENCE / 2, &gone), Ok(()), "not long yet");
        assert_eq!(after(SILENCE / 2, &gone), Err("gone".to_owned()));
        assert_eq!(after(SILENCE / 2, &gone), Ok(()), "not asked for again at once");
        quiet.moved();
        assert_eq!(after(SILENCE, &gone), Ok(()), "who is heard of need not be asked for");
        assert_eq!(after(PATIENCE * 3, &there), Ok(()), "this process was stopped");
        let most = PATIENCE.as_millis() / SILENCE.as_millis();
        let checks = (0..=most).take_while(|_| after(SILENCE, &there).is_ok()).count();
        assert_eq!(u128::try_from(checks), Ok(most - 1));
        assert_eq!(no_answer().to_string(), "the other end does not answer for 10 s");
    }
}
