//! The server's side: what it remembers of orders and of streams, and what it does.

use core::cell::Cell;
use core::time::Duration;
use std::time::Instant;

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::{Completion, Kind};
use spinwire_dataplane::provider::{Provider, Status};
use spinwire_dataplane::raw::loan::Loan;

use super::super::datagrams::DatagramFloor;
use super::super::floor::{Floor, Witness};
use super::super::order::{Marking, Order};
use super::super::station::{DataUse, Heard, Station, data_to};
use super::{Quiet, STREAM_MAX, Took, say};
use crate::pattern;
use crate::report::{Failure, Verdict};

/// When nothing has come for so long, what was sent before the question has come or is lost.
const SETTLED: Duration = Duration::from_millis(2);

/// What came of a stream, while it comes.
#[derive(Debug)]
pub(in crate::pair) struct Tally {
    round: u64,
    count: u64,
    seen: Vec<u64>,
    took: Took,
    changed: u64,
    first: Option<u64>,
}

impl Tally {
    /// Of a stream of `count` messages whose order had this number.
    pub(in crate::pair) fn new(order: u64, count: u64) -> Self {
        let count = count.min(STREAM_MAX);
        let words = usize::try_from(count.div_ceil(64)).unwrap_or(0);
        let seen = vec![0; words];
        let took = Took::default();
        Self { round: order << 32, count, seen, took, changed: 0, first: None }
    }

    /// A message with such a number has come. Its place in the stream, where it is of this stream and came for the first time.
    pub(in crate::pair) fn note(&mut self, number: u64, now: u64) -> Option<u64> {
        let place = number ^ self.round;
        if place >= self.count {
            return None;
        }
        let word = self.seen.get_mut(usize::try_from(place / 64).ok()?)?;
        let bit = 1 << (place % 64);
        if *word & bit != 0 {
            self.took.repeated = self.took.repeated.saturating_add(1);
            return None;
        }
        *word |= bit;
        self.took.received = self.took.received.saturating_add(1);
        self.took.ns = now.saturating_sub(*self.first.get_or_insert(now));
        Some(place)
    }

    const fn answer(&self) -> Order {
        let Took { received, repeated, ns } = self.took;
        Order::Took { received, repeated, changed: self.changed, ns }
    }
}

/// The server's side: whose orders it takes, and which was the last.
#[derive(Debug)]
pub(in crate::pair) struct Desk {
    client: Addr,
    last: Cell<u64>,
    answer: Cell<Option<Order>>,
    /// What receives for messages are posted for.
    posted: Cell<(Marking, DataUse)>,
}

impl Desk {
    /// Of the client whose first order had this number.
    pub(in crate::pair) const fn new(client: Addr, first: u64) -> Self {
        let posted = Cell::new((Marking::Untagged, DataUse::OneMessage));
        Self { client, last: Cell::new(first), answer: Cell::new(None), posted }
    }

    /// The number of the order that is being done.
    pub(in crate::pair) const fn number(&self) -> u64 {
        self.last.get()
    }

    /// Answers the last order, now and whenever it comes again.
    pub(in crate::pair) fn answer<P: Provider, F: Witness>(
        &self,
        station: &Station<'_, P, F>,
        answer: Order,
    ) -> Result<(), Failure> {
        self.answer.set(Some(answer));
        say(station, self.client, (self.last.get(), answer))
    }

    /// The order, if it is the client's next.
    fn next_of<P: Provider, F: Witness>(
        &self,
        station: &Station<'_, P, F>,
        heard: Heard,
    ) -> Result<Option<Order>, Failure> {
        if heard.source != self.client {
            return Ok(None);
        }
        if heard.number == self.last.get() {
            if let Some(answer) = self.answer.get() {
                self.answer(station, answer)?;
            }
            return Ok(None);
        }
        if heard.number != self.last.get().wrapping_add(1) {
            return Ok(None);
        }
        self.last.set(heard.number);
        self.answer.set(None);
        Ok(Some(heard.order))
    }

    /// Receives messages for this from now on.
    fn post<P: Provider, F: Witness>(
        &self,
        station: &Station<'_, P, F>,
        posted: (Marking, DataUse),
    ) -> Result<(), Failure> {
        self.posted.set(posted);
        station.post_all_data(posted.0, posted.1)
    }

    /// Posts the buffer of a message again.
    fn post_again<'m, P: Provider, F: Witness>(
        &self,
        station: &Station<'m, P, F>,
        loan: Option<Loan<'m>>,
    ) -> Result<(), Failure> {
        let Some(loan) = loan else { return Ok(()) };
        let (marking, use_for) = self.posted.get();
        Ok(station.post_data(loan, marking, use_for)?)
    }

    /// One turn. The client's next order, if it has come. Messages are dropped: those of strangers must not fill the room for those that
    /// wait.
    pub(in crate::pair) fn look<P: Provider, F: Witness>(
        &self,
        station: &Station<'_, P, F>,
    ) -> Result<Option<Order>, Failure> {
        station.turn_now();
        while let Some(completion) = station.endpoint.poll() {
            if !Station::<P, F>::is_of_order(&completion) {
                self.post_again(station, completion.loan)?;
                continue;
            }
            if let Some(heard) = station.heard(completion)?
                && let Some(order) = self.next_of(station, heard)?
            {
                return Ok(Some(order));
            }
        }
        Ok(None)
    }

    /// Turns until the client's next order has come.
    fn until_order<P: Provider, F: Floor>(
        &self,
        station: &Station<'_, P, F>,
    ) -> Result<Order, Failure> {
        let quiet = Quiet::new();
        loop {
            if let Some(order) = self.look(station)? {
                return Ok(order);
            }
            quiet.check(&station.floor)?;
        }
    }

    /// Turns until the client's next order has come, and does its work with every message of it until then. Where the order is to
    /// tell what has come, until nothing comes any more.
    fn work<'m, P: Provider, F: Floor>(
        &self,
        station: &Station<'m, P, F>,
        mut each: impl FnMut(&Completion<'m>) -> Result<(), Failure>,
    ) -> Result<Order, Failure> {
        let quiet = Quiet::new();
        let mut order = None;
        let mut moved = Instant::now();
        loop {
            station.turn_now();
            while let Some(completion) = station.endpoint.poll() {
                if Station::<P, F>::is_of_order(&completion) {
                    if let Some(heard) = station.heard(completion)?
                        && let Some(next) = self.next_of(station, heard)?
                    {
                        (order, moved) = (Some(next), Instant::now());
                    }
                    continue;
                }
                if completion.kind == Kind::Received
                    && completion.source == Some(self.client)
                    && completion.status == Status::Success
                {
                    each(&completion)?;
                    quiet.moved();
                    if order.is_some() {
                        moved = Instant::now();
                    }
                }
                self.post_again(station, completion.loan)?;
            }
            match order {
                Some(Order::Tally) if moved.elapsed() < SETTLED => {}
                Some(order) => return Ok(order),
                None => quiet.check(&station.floor)?,
            }
        }
    }
}

/// Sends back whatever comes, until the next order.
fn echo<'m, P: Provider, F: Floor>(
    (desk, station): (&Desk, &Station<'m, P, F>),
    marking: Marking,
) -> Result<Order, Failure> {
    let to = data_to(desk.client, marking);
    let each = |completion: &Completion<'m>| {
        let to = to.immediate(completion.immediate.unwrap_or(0));
        let sent = station.endpoint.read(completion, |bytes| station.endpoint.inject(to, bytes));
        match sent {
            // What finds no room is lost, as others are on the way.
            Some(Ok(()) | Err(PostError::Retry(_))) => station.endpoint.flush(),
            Some(Err(refused)) => return Err(refused.into()),
            None => return Err("a message came without its bytes".into()),
        }
        Ok(())
    };
    desk.work(station, each)
}

/// Receives and checks a stream, until the next order.
fn drain<'m, P: Provider, F: Floor>(
    (desk, station): (&Desk, &Station<'m, P, F>),
    (count, size): (u64, u64),
) -> Result<(Tally, Order), Failure> {
    let mut tally = Tally::new(desk.number(), count);
    let check = pattern::Checker::new(usize::try_from(size)?);
    let each = |completion: &Completion<'m>| {
        let number = completion.immediate.unwrap_or(u64::MAX);
        let Some(place) = tally.note(number, station.clock.now_ns()) else { return Ok(()) };
        let good = station.endpoint.read(completion, |bytes| check.is_good(bytes, place));
        tally.changed = tally.changed.saturating_add(u64::from(good != Some(true)));
        Ok(())
    };
    let next = desk.work(station, each)?;
    Ok((tally, next))
}

/// Does what the client orders until that was all.
pub(in crate::pair) fn obey<P: Provider>(
    (desk, station): (&Desk, &Station<'_, P, DatagramFloor>),
    most: usize,
) -> Result<Verdict, Failure> {
    let mut tally = Tally::new(0, 0);
    let done = Order::Done { value: 0 };
    let fits = |size: u64| {
        let fits = usize::try_from(size).is_ok_and(|size| size <= most);
        if fits { Ok(()) } else { Err("the client wants larger messages than it has said") }
    };
    let mut next = desk.until_order(station)?;
    loop {
        next = match next {
            Order::Floor { .. } => {
                desk.answer(station, done)?;
                station.floor.answer_until(|| desk.look(station))?
            }
            Order::CopyOut { count, .. } => {
                desk.answer(station, done)?;
                tally = Tally::new(desk.number(), count);
                station.floor.drain_until(&mut tally, || desk.look(station))?
            }
            Order::Echo { marking, size, .. } => {
                fits(size)?;
                desk.post(station, (marking, DataUse::OneMessage))?;
                desk.answer(station, done)?;
                echo((desk, station), marking)?
            }
            Order::Drain { count, size, marking } => {
                fits(size)?;
                let use_for = DataUse::ManyMessages { size: u32::try_from(size)? };
                desk.post(station, (marking, use_for))?;
                desk.answer(station, done)?;
                let (took, next) = drain((desk, station), (count, size))?;
                tally = took;
                next
            }
            Order::Tally => {
                desk.answer(station, tally.answer())?;
                desk.until_order(station)?
            }
            Order::Bye => {
                desk.answer(station, done)?;
                return Ok(Verdict::Well);
            }
            Order::OpenFloor { .. }
            | Order::EchoLoans { .. }
            | Order::DrainLoans { .. }
            | Order::EchoWrites { .. }
            | Order::TakeWrites { .. }
            | Order::Place { .. }
            | Order::Enough { .. }
            | Order::Done { .. }
            | Order::Took { .. }
            | Order::TooLong { .. } => {
                return Err("the client sent what is no order here".into());
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_stream_each_message_counts_once_and_others_not_at_all() {
        let mut tally = Tally::new(7, 100);
        let number = |order: u64, place: u64| order << 32 | place;
        assert_eq!(tally.note(number(7, 3), 1000), Some(3));
        assert_eq!(tally.note(number(7, 99), 1500), Some(99));
        assert_eq!(tally.note(number(7, 3), 1600), None, "again");
        assert_eq!(tally.note(number(7, 100), 1700), None, "beyond the last");
        assert_eq!(tally.note(number(6, 4), 1800), None, "of the stream before");
        assert_eq!(tally.note(number(8, 4), 1800), None, "of the next");
        assert_eq!(tally.took, Took { received: 2, repeated: 1, ns: 500 });
        let mut more = Tally::new(0, u64::MAX);
        assert_eq!(more.note(STREAM_MAX, 0), None, "a server does not remember without end");
        assert_eq!(more.note(STREAM_MAX - 1, 0), Some(STREAM_MAX - 1));
    }
}
