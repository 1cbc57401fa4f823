//! `--one-sided`: devices, or whatever the provider has, write into memory of the other end, which receives no message.
//!
//! ```text
//!   client                                                server
//!     exposes memory: order EchoWrites   ------------->     exposes memory too, and says where
//!     writes message n                   ------------->     looks at its last word until that is n
//!     looks at its last word until that is n  <--------     writes message n
//!
//!     order: TakeWrites                  ------------->     exposes memory, and says where
//!     writes all messages to that place  ------------->
//!     all are done: order Enough         ------------->     says whether the last one is there
//! ```
//!
//! That the last word is there when all others are is what devices do, and what such programs rest on; nothing promises it. So the whole of
//! a message is looked at when its writer has been told that it was done.

use core::time::Duration;

use hdrhistogram::Histogram;
use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::{Exposed, Target};
use spinwire_dataplane::provider::{Access, Caps, Provider, RemotePlace};

use super::client::Client;
use super::floor::{Floor, Witness};
use super::laps::Laps;
use super::limit::Limit;
use super::order::Order;
use super::sources::Sources;
use super::station::{Deadline, Station};
use crate::pattern::{Checker, last_word};
use crate::report::Failure;

const WORD: usize = 8;
/// What the end sleeps between two looks that devices write to in a stream.
const NAP: Duration = Duration::from_micros(500);
/// Looks at the memory between two turns, which see nothing of what devices write there.
const LOOKS: u32 = 512;

/// Whether this end can.
pub(crate) fn check<P: Provider, F: Witness>(station: &Station<'_, P, F>) -> Result<(), Failure> {
    let caps = station.endpoint.info().caps;
    if caps.has(Caps::RMA) && caps.has(Caps::EXPOSE) {
        return Ok(());
    }
    Err("--one-sided: this provider lets nobody into memory; use --provider verbs".into())
}

/// Memory of this end that the other one writes messages of one size into.
struct Open<'s, 'm, P: Provider, F: Witness> {
    station: &'s Station<'m, P, F>,
    exposed: Exposed,
    size: usize,
}

impl<'s, 'm, P: Provider, F: Witness> Open<'s, 'm, P, F> {
    /// Nothing has come.
    fn new(station: &'s Station<'m, P, F>, size: usize) -> Result<Self, Failure> {
        let mut loan = station.lend_data().ok_or("all buffers are out")?;
        loan.room().fill(0xff);
        let exposed = station.endpoint.expose(loan, Access::WRITE);
        Ok(Self { station, exposed: exposed.map_err(|refused| refused.error)?, size })
    }

    /// What the last word says.
    #[inline(always)]
    fn last_word(&self) -> Result<u64, Failure> {
        let at = self.size.saturating_sub(WORD);
        Ok(u64::from_le(self.station.endpoint.load_exposed(self.exposed.id, at)?))
    }

    /// Waits for a message whose last word is `expected`.
    #[inline(always)]
    fn wait_for(
        &self,
        expected: u64,
        sources: &mut Sources<'_, 'm, P, F>,
        deadline: &Deadline,
    ) -> Result<(), Failure> {
        loop {
            for _ in 0..LOOKS {
                if self.last_word()? == expected {
                    return Ok(());
                }
            }
            self.station.turn();
            sources.collect()?;
            self.station.watch(deadline, "the other end writes nothing")?;
        }
    }

    /// Whether message `number` is there, and nothing else.
    fn holds(&self, number: u64) -> Result<bool, Failure> {
        let mut bytes = vec![0; self.size];
        self.station.endpoint.copy_exposed(self.exposed.id, 0, &mut bytes)?;
        Ok(Checker::new(self.size).is_good(&bytes, number))
    }

    fn close(self) -> Result<(), Failure> {
        let closed = self.station.endpoint.withdraw(self.exposed.id);
        closed
            .map(drop)
            .map_err(|e| format!("memory that was exposed does not come back: {e}").into())
    }
}

/// Writes message `number` to the other end, as soon as there is room, and hands that to the device.
#[inline(always)]
fn write<'m, P: Provider, F: Witness>(
    station: &Station<'m, P, F>,
    sources: &mut Sources<'_, 'm, P, F>,
    target: Target,
    number: u64,
    deadline: &Deadline,
) -> Result<(), Failure> {
    while !sources.post(number, |endpoint, loan| endpoint.post_write(target, loan, 0))? {
        station.turn();
        sources.collect()?;
        station.watch(deadline, "the device takes no writes")?;
    }
    station.endpoint.flush();
    Ok(())
}

/// Writes messages, and waits for each to be answered by one into memory of this end; records each, and returns the nanoseconds of all.
pub(crate) fn echo<P: Provider, F: Floor>(
    client: &Client<'_, '_, P, F>,
    (size, count): (usize, u64),
    into: &mut Histogram<u64>,
) -> Result<u64, Failure> {
    let station = &client.station;
    check(station)?;
    let open = Open::new(station, size)?;
    let mut sources = Sources::new(station, size)?;
    let RemotePlace { address, key } = open.exposed.region.place(0, size)?;
    let order = Order::EchoWrites { count, size: u64::try_from(size)?, address, key };
    let target = Target::new(client.server, client.ask_for_place(order)?);
    let deadline = Deadline::new();
    let mut laps = Laps::begin(&station.clock, into);
    if count > 0 {
        write(station, &mut sources, target, 0, &deadline)?;
    }
    for number in 0..count {
        let next = number.saturating_add(1);
        sources.make_up(next);
        open.wait_for(last_word(size, number), &mut sources, &deadline)?;
        laps.lap();
        if next < count {
            write(station, &mut sources, target, next, &deadline)?;
        }
        deadline.moved();
        laps.record();
    }
    let ns = laps.ns();
    sources.settle()?;
    // The server has been told that its last one was done.
    client.answer()?;
    if !open.holds(count.saturating_sub(1))? {
        return Err("a message came changed".into());
    }
    open.close().map(|()| ns)
}

/// Streams messages into memory of the other end, until `limit` at the latest; how many, and the seconds until all were done.
pub(crate) fn stream<P: Provider, F: Floor>(
    client: &Client<'_, '_, P, F>,
    (size, count, batch): (usize, u64, u64),
    limit: &Limit,
) -> Result<(u64, f64), Failure> {
    let station = &client.station;
    check(station)?;
    let mut sources = Sources::new(station, size)?;
    let place = client.ask_for_place(Order::TakeWrites { count, size: u64::try_from(size)? })?;
    let target = Target::new(client.server, place);
    let deadline = Deadline::new();
    let begin = station.clock.now_ns();
    let mut number = 0;
    while limit.goes_on(number, count) {
        let end = number.saturating_add(batch).min(count);
        while number < end
            && sources.post(number, |endpoint, loan| endpoint.post_write(target, loan, 0))?
        {
            number = number.saturating_add(1);
            deadline.moved();
        }
        station.turn();
        sources.collect()?;
        station.watch(&deadline, "the device takes no writes")?;
    }
    sources.settle()?;
    let ns = station.clock.now_ns().saturating_sub(begin);
    station.send_order(client.server, Order::Enough { count: number })?;
    match client.answer()? {
        0 => Ok((number, Duration::from_nanos(ns).as_secs_f64())),
        _ => Err("the last message did not come as it was written".into()),
    }
}

/// The server's half of [`echo`].
pub(crate) fn echo_back<P: Provider, F: Witness>(
    station: &Station<'_, P, F>,
    client: Addr,
    (count, size): (u64, u64),
    place: RemotePlace,
) -> Result<(), Failure> {
    let size = usize::try_from(size)?;
    check(station)?;
    let open = Open::new(station, size)?;
    let mut sources = Sources::new(station, size)?;
    let RemotePlace { address, key } = open.exposed.region.place(0, size)?;
    station.send_order(client, Order::Place { address, key })?;
    let target = Target::new(client, place);
    let deadline = Deadline::new();
    for number in 0..count {
        sources.make_up(number);
        open.wait_for(last_word(size, number), &mut sources, &deadline)?;
        write(station, &mut sources, target, number, &deadline)?;
        deadline.moved();
    }
    sources.settle()?;
    station.send_order(client, Order::Done { value: 0 })?;
    open.close()
}

/// The server's half of [`stream`].
pub(crate) fn take<P: Provider, F: Witness>(
    station: &Station<'_, P, F>,
    client: Addr,
    (count, size): (u64, u64),
) -> Result<(), Failure> {
    let size = usize::try_from(size)?;
    check(station)?;
    let open = Open::new(station, size)?;
    let RemotePlace { address, key } = open.exposed.region.place(0, size)?;
    station.send_order(client, Order::Place { address, key })?;
    let deadline = Deadline::new();
    let mut seen = open.last_word()?;
    let written = loop {
        station.turn();
        if let Some(completion) = station.endpoint.poll()
            && Station::<P, F>::is_of_order(&completion)
        {
            break station.cut_short(completion)?.min(count);
        }
        // Nobody waits for this end; and a CPU that has nothing to do may be shared with one that has.
        std::thread::sleep(NAP);
        // As long as something comes, the client is there.
        if core::mem::replace(&mut seen, open.last_word()?) != seen {
            deadline.moved();
        }
        station.watch_now(&deadline, "the client writes nothing")?;
    };
    let good = open.holds(written.saturating_sub(1))?;
    station.send_order(client, Order::Done { value: u64::from(!good) })?;
    open.close()
}
