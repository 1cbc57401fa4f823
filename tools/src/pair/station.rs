//! One end of a measurement: an endpoint, its buffers, a clock.

use core::time::Duration;
use std::time::Instant;

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::{Completion, Endpoint, EndpointConfig, Kind, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::shm::{ShmConfig, ShmPort};
use spinwire_dataplane::provider::{EndpointType, Event, Provider, Status};
use spinwire_dataplane::raw::loan::{Loan, LoanPool};
use spinwire_dataplane::raw::pause::pause;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::Instant as PlaneInstant;
use spinwire_hostshim::clock::TscClock;
use spinwire_hostshim::domain::Domain;

use super::ending::Input;
use super::floor::{LaneFloor, Witness};
use super::order::{DATA_TAG, Marking, ORDER_BYTES, ORDER_TAG, Order};
use super::silence::Silence;
use crate::report::Failure;

/// What is said of an end that is no more.
pub(crate) const GONE: &str = "the other end is gone: its process ended";
/// What is said below a table where both ends have one CPU.
pub(crate) const ON_ONE_CPU: &str =
    "both ends on one CPU: who has nothing to do yields to the other\n";
/// How long an end waits for the other one before it gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Looks between two at the clock.
const CLOCK_EVERY: u32 = 1 << 14;
/// How long what somebody said is looked for who is gone.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// Looks between two at the events of the endpoint: well below a millisecond.
const WATCH_EVERY: u32 = 1 << 12;
/// The context of receives for orders; data receives have 0.
const ORDER_CONTEXT: u64 = 1;
/// Receives for data that are posted at once.
const DATA_RECEIVES: u32 = 8;
/// Buffers that are sent from where they lie.
const SOURCES: u32 = 8;
/// Receives for orders that are posted at once. Where strangers can send, they do not find all of them.
const ORDER_RECEIVES: u32 = 16;

/// One end: who, and with how large buffers.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    /// Its name in the domain.
    pub(crate) name: &'static str,
    /// Bytes of a data buffer.
    pub(crate) buffer_bytes: usize,
    /// Whether to yield when there is nothing to do: both ends share a CPU.
    pub(crate) yields: bool,
    /// What it waits with, where it waits for whoever comes.
    pub(crate) input: Input,
}

/// Bytes of arena that an end needs.
pub(crate) fn arena_bytes(role: &Role) -> usize {
    let buffers = usize::try_from(DATA_RECEIVES + SOURCES).unwrap_or(0) * (role.buffer_bytes + 128);
    (buffers + (4 << 20)).next_multiple_of(2 << 20)
}

/// One end at work.
#[derive(Debug)]
pub(crate) struct Station<'m, P, F> {
    pub(crate) endpoint: Endpoint<'m, P>,
    pub(crate) floor: F,
    pub(crate) clock: TscClock,
    data: &'m LoanPool<'m>,
    sources: &'m LoanPool<'m>,
    pub(crate) yields: bool,
    pub(crate) input: Input,
    /// An order that was met where something else was awaited.
    early: core::cell::RefCell<Option<Completion<'m>>>,
    /// Whether to pause, where it does not yield.
    pub(crate) pauses: bool,
}

impl<'s, 'm> Station<'m, ShmPort<'s, 'm>, LaneFloor<'s>> {
    /// An end in a domain.
    pub(crate) fn open(domain: &'s Domain, bump: &Bump<'m>, role: &Role) -> Result<Self, Failure> {
        let name = Name::new(role.name)?;
        let port = domain.open_port(bump, (&name, EndpointType::Rdm), &ShmConfig::default())?;
        let floor = LaneFloor::of(&domain.segment(), role.yields)
            .ok_or("the segment has no lane to spare for the floor")?;
        Self::over(port, floor, bump, role)
    }
}

impl<'m, P: Provider, F: Witness> Station<'m, P, F> {
    /// An end over a port. Posts receives for orders.
    pub(crate) fn over(port: P, floor: F, bump: &Bump<'m>, role: &Role) -> Result<Self, Failure> {
        let endpoint = Endpoint::new(port, bump, &EndpointConfig::default())?;
        let orders = LoanPool::place(bump, ORDER_RECEIVES, ORDER_BYTES)?;
        let data = LoanPool::place(bump, DATA_RECEIVES, role.buffer_bytes)?;
        let sources = LoanPool::place(bump, SOURCES, role.buffer_bytes)?;
        let (clock, yields) = (TscClock::calibrate(), role.yields);
        let station = Self {
            endpoint,
            floor,
            clock,
            data,
            sources,
            yields,
            input: role.input,
            early: core::cell::RefCell::default(),
            pauses: true,
        };
        while let Some(loan) = orders.lend() {
            station.post_order_receive(loan)?;
        }
        Ok(station)
    }

    /// The same, without pauses: for memory that a device writes, which no look at it holds up.
    #[cfg(feature = "verbs")]
    pub(crate) fn that_spins(self) -> Self {
        Self { pauses: false, ..self }
    }

    /// A buffer that none is posted with for data.
    pub(crate) fn lend_data(&self) -> Option<Loan<'m>> {
        self.data.lend()
    }

    /// A buffer to send from.
    pub(crate) fn lend_source(&self) -> Option<Loan<'m>> {
        self.sources.lend()
    }

    fn post_order_receive(&self, loan: Loan<'m>) -> Result<(), Failure> {
        let from = RecvFrom::any().tag(ORDER_TAG);
        self.endpoint.post_recv(from, loan, ORDER_CONTEXT).map_err(|refused| refused.error)?;
        Ok(())
    }

    /// Posts one buffer for data, for one message or for as many as fit.
    #[inline(always)]
    pub(crate) fn post_data(
        &self,
        loan: Loan<'m>,
        marking: Marking,
        use_for: DataUse,
    ) -> Result<(), PostError> {
        let from = data_from(marking);
        let posted = match use_for {
            DataUse::OneMessage => self.endpoint.post_recv(from, loan, 0),
            DataUse::ManyMessages { size } => self.endpoint.post_run_recv(from, loan, size, 0),
        };
        posted.map(|_| ()).map_err(|refused| refused.error)
    }

    /// Posts one data buffer, if there is one that is not posted yet.
    pub(crate) fn post_one_data(&self, marking: Marking, use_for: DataUse) -> Result<(), Failure> {
        match self.data.lend() {
            Some(loan) => Ok(self.post_data(loan, marking, use_for)?),
            None => Ok(()),
        }
    }

    /// Posts all data buffers that are not posted yet.
    pub(crate) fn post_all_data(&self, marking: Marking, use_for: DataUse) -> Result<(), Failure> {
        while let Some(loan) = self.data.lend() {
            self.post_data(loan, marking, use_for)?;
        }
        Ok(())
    }

    /// One turn. Where there was nothing to do it pauses, as the floor does: two CPUs may be threads of one core, and a
    /// receiver that looks too often takes the line away from a sender in the middle of writing it. Where the CPU is
    /// shared it yields.
    #[inline(always)]
    pub(crate) fn turn(&self) {
        let _is_busy = self.turn_at(PlaneInstant::ORIGIN);
    }

    /// The same, for who waits for one completion: whether a poll may find any.
    #[inline(always)]
    pub(crate) fn turns_up(&self) -> bool {
        self.turn_at(PlaneInstant::ORIGIN)
    }

    /// One turn, for a provider that has to know what time it is.
    #[inline(always)]
    pub(crate) fn turn_now(&self) {
        let _is_busy = self.turn_at(PlaneInstant::from_nanos(self.clock.now_ns()));
    }

    #[inline(always)]
    fn turn_at(&self, now: PlaneInstant) -> bool {
        if self.endpoint.turn(now, Budget::default()).is_busy() {
            return true;
        }
        if self.yields {
            std::thread::yield_now();
        } else if self.pauses {
            pause();
        }
        false
    }

    /// Sends an order, waiting for room.
    pub(crate) fn send_order(&self, peer: Addr, order: Order) -> Result<(), Failure> {
        let deadline = Deadline::new();
        loop {
            match self.endpoint.inject(SendTo::peer(peer).tag(ORDER_TAG), &order.encode()) {
                Ok(()) => {
                    self.endpoint.flush();
                    return Ok(());
                }
                Err(PostError::Retry(_)) => {}
                Err(refused) => return Err(refused.into()),
            }
            self.turn_for_room(&deadline, "an order could not be sent")?;
        }
    }

    /// One turn of who sends and waits for room, not for messages. An order that comes is kept; what else comes is taken, too: until
    /// then no turn looks for more, nor for the end of the other one.
    #[inline(always)]
    pub(crate) fn turn_for_room(
        &self,
        deadline: &Deadline,
        what: &'static str,
    ) -> Result<(), Failure> {
        self.turn();
        while let Some(completion) = self.endpoint.poll() {
            if Self::is_of_order(&completion) {
                self.keep(completion);
            }
        }
        self.watch(deadline, what)
    }

    /// How many messages a stream has that was cut short, by the order that came where they were awaited.
    #[cold]
    pub(crate) fn cut_short(&self, completion: Completion<'m>) -> Result<u64, Failure> {
        match self.heard(completion)?.map(|heard| heard.order) {
            Some(Order::Enough { count }) => Ok(count),
            _ => Err("the client sent an order where it was streaming".into()),
        }
    }

    /// Keeps an order for [`next_order`](Self::next_order).
    pub(crate) fn keep(&self, completion: Completion<'m>) {
        *self.early.borrow_mut() = Some(completion);
    }

    /// The next order or answer, and who sent it. Data that is still on its way is dropped.
    pub(crate) fn next_order(&self, patience: Patience) -> Result<(Addr, Order), Failure> {
        let (deadline, nap) = (Deadline::new(), Nap::new(self.input));
        loop {
            self.turn();
            while let Some(completion) = self.early.take().or_else(|| self.endpoint.poll()) {
                if !Self::is_of_order(&completion) {
                    continue;
                }
                let Some(Heard { source, order, .. }) = self.heard(completion)? else {
                    return Err(
                        "the other end sent something that is no order; is it the same version?"
                            .into(),
                    );
                };
                return Ok((source, order));
            }
            if let Some(event) = self.endpoint.poll_event() {
                mind(event)?;
            }
            match patience {
                Patience::Limited => self.watch(&deadline, "the other end does not answer")?,
                Patience::Unlimited => nap.rest(false)?,
            }
        }
    }

    /// Whether a completion is that of a receive for orders.
    pub(crate) fn is_of_order(completion: &Completion<'m>) -> bool {
        completion.context == ORDER_CONTEXT && completion.kind == Kind::Received
    }

    /// What such a completion says, if it is an order; its buffer is posted again.
    pub(crate) fn heard(&self, completion: Completion<'m>) -> Result<Option<Heard>, Failure> {
        let order = completion.bytes().and_then(Order::decode);
        let order = order.filter(|_| completion.status == Status::Success);
        let (source, number) = (completion.source, completion.immediate.unwrap_or(0));
        if let Some(loan) = completion.loan {
            self.post_order_receive(loan)?;
        }
        Ok(source.zip(order).map(|(source, order)| Heard { source, number, order }))
    }

    /// Now and then: has the other end gone, or stopped? Every look at it would be one in which no message is looked for.
    #[inline(always)]
    pub(crate) fn watch(&self, deadline: &Deadline, what: &'static str) -> Result<(), Failure> {
        if deadline.is_due(WATCH_EVERY) { self.watch_now(deadline, what) } else { Ok(()) }
    }

    #[cold]
    pub(crate) fn watch_now(&self, deadline: &Deadline, what: &'static str) -> Result<(), Failure> {
        while let Some(event) = self.endpoint.poll_event() {
            mind(event)?;
        }
        let silent = deadline.silence.at(Instant::now());
        if !silent.is_zero()
            && let Err(gone) = self.floor.is_there()
        {
            // What it has said before it went is looked for a little longer.
            let seen = deadline.seen_gone.get().unwrap_or_else(Instant::now);
            deadline.seen_gone.set(Some(seen));
            if seen.elapsed() > LAST_WORDS {
                return Err(gone);
            }
        }
        too_long(silent, what)
    }
}

/// An order that has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    pub(crate) source: Addr,
    /// The number that came with it; 0 where orders are not numbered.
    pub(crate) number: u64,
    pub(crate) order: Order,
}

/// Which messages are data.
const fn data_from(marking: Marking) -> RecvFrom {
    match marking {
        Marking::Untagged => RecvFrom::any(),
        Marking::Tagged => RecvFrom::any().tag(DATA_TAG),
    }
}

/// Where data goes, and how it is marked.
#[inline(always)]
pub(crate) const fn data_to(peer: Addr, marking: Marking) -> SendTo {
    match marking {
        Marking::Untagged => SendTo::peer(peer),
        Marking::Tagged => SendTo::peer(peer).tag(DATA_TAG),
    }
}

/// An event that ends the measurement is an error.
pub(crate) fn mind(event: Event) -> Result<(), Failure> {
    match event {
        Event::Connected(_) | Event::StaleCompletion(_) => Ok(()),
        Event::PeerGone(_) => Err(GONE.into()),
        Event::PeerCorrupt(_) => Err("the other end wrote nonsense".into()),
        Event::Refused(_) => Err("the other end did not take the connection".into()),
    }
}

/// What a data buffer is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DataUse {
    /// For one message.
    OneMessage,
    /// For as many messages of this size as fit.
    ManyMessages { size: u32 },
}

/// How long to wait for an order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Patience {
    /// As long as it takes: a server before its first client.
    Unlimited,
    /// Until the other end must be stuck.
    Limited,
}

/// A moment after which the other end is held to be stuck.
#[derive(Debug)]
pub(crate) struct Deadline {
    looks: core::cell::Cell<u32>,
    silence: Silence,
    /// Since when the other end is seen to be gone.
    seen_gone: core::cell::Cell<Option<Instant>>,
}

impl Deadline {
    pub(crate) const fn new() -> Self {
        Self {
            looks: core::cell::Cell::new(0),
            silence: Silence::new(),
            seen_gone: core::cell::Cell::new(None),
        }
    }

    /// Something has come of what is waited for: the time begins anew.
    #[inline(always)]
    pub(crate) fn moved(&self) {
        self.silence.broken();
    }

    /// Reads the clock only now and then.
    #[inline(always)]
    pub(crate) fn check(&self, what: &'static str) -> Result<(), Failure> {
        if self.is_due(CLOCK_EVERY) { self.check_now(what) } else { Ok(()) }
    }

    /// Once every so many looks; a power of two.
    #[inline(always)]
    fn is_due(&self, every: u32) -> bool {
        let looks = self.looks.get().wrapping_add(1);
        self.looks.set(looks);
        looks.is_multiple_of(every)
    }

    #[cold]
    pub(crate) fn check_now(&self, what: &'static str) -> Result<(), Failure> {
        too_long(self.silence.at(Instant::now()), what)
    }
}

/// Fails where a silence lasts longer than anybody waits.
fn too_long(silent: Duration, what: &'static str) -> Result<(), Failure> {
    if silent > PATIENCE {
        let seconds = PATIENCE.as_secs();
        return Err(format!("{what} for {seconds} s; remedy: see whether its process still runs, and has a CPU (--cpus)").into());
    }
    Ok(())
}

/// For who may wait for hours: after a while he looks only now and then, and as long as his input goes on.
#[derive(Debug)]
pub(crate) struct Nap {
    looks: core::cell::Cell<u32>,
    input: Input,
}

impl Nap {
    /// So many looks in vain before it sleeps; and between two looks at the input.
    const SLEEPS_AFTER: u32 = 1 << 22;
    const INPUT_EVERY: u32 = 1 << 14;

    pub(crate) const fn new(input: Input) -> Self {
        Self { looks: core::cell::Cell::new(0), input }
    }

    /// Sleeps where nothing has come for so long that spinning is a waste. Fails where there is nobody any more to wait for.
    pub(crate) fn rest(&self, has_come: bool) -> Result<(), Failure> {
        let looks = if has_come { 0 } else { self.looks.get().saturating_add(1) };
        self.looks.set(looks);
        let sleeps = looks > Self::SLEEPS_AFTER;
        if sleeps {
            std::thread::sleep(Duration::from_millis(1));
        }
        if sleeps || looks.is_multiple_of(Self::INPUT_EVERY) {
            self.input.goes_on()
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use spinwire_hostshim::domain::DomainConfig;
    use spinwire_hostshim::plane::Plane;

    use super::super::silence::MOMENT;
    use super::*;

    /// Who sends looks for nothing that comes, and hears of the other end's end all the same.
    #[test]
    fn who_waits_for_room_hears_that_the_other_end_has_gone() -> Result<(), Failure> {
        let name = format!("room-{}", std::process::id());
        let domain = Domain::create(&name, &DomainConfig::default())?;
        let input = Input::Ignored;
        let role = |name| Role { name, buffer_bytes: 64, yields: true, input };
        let mut memory =
            [Plane::memory(arena_bytes(&role("a")))?, Plane::memory(arena_bytes(&role("b")))?];
        let [near, far] = &mut memory;
        let near = Station::open(&domain, &Plane::arena(near), &role("near"))?;
        let far_end = Station::open(&domain, &Plane::arena(far), &role("far"))?;
        domain.unlink()?;
        let far = near.endpoint.connect(&Name::new("far")?)?;
        let to = data_to(far, Marking::Untagged);
        // A message that nobody here takes, as the answer to the last stream may be; and no room.
        let back = far_end.endpoint.connect(&Name::new("near")?)?;
        far_end.send_order(back, Order::Done { value: 7 })?;
        while near.endpoint.inject(to, &[7; 64]).is_ok() {}
        let deadline = Deadline::new();
        let turns =
            |most: u32| (0..most).find_map(|_| near.turn_for_room(&deadline, "too late").err());
        assert!(turns(WATCH_EVERY * 2).is_none(), "it is there");
        drop(far_end);
        let error = turns(WATCH_EVERY * 4).ok_or("it is not missed")?;
        assert_eq!(error.to_string(), GONE);
        let kept = near.early.take().map(|completion| near.heard(completion)).transpose()?;
        let kept = kept.flatten().map(|heard| heard.order);
        assert_eq!(kept, Some(Order::Done { value: 7 }));
        Ok(())
    }

    #[test]
    fn time_begins_anew_with_everything_that_comes() {
        let (deadline, mut now) = (Deadline::new(), Instant::now());
        let mut wait = |span| {
            now += span;
            let _lasts = deadline.silence.at(now);
            deadline.check_now("nothing has come")
        };
        assert!(wait(PATIENCE * 3).is_ok(), "this process was stopped");
        let moments = PATIENCE.as_millis() / MOMENT.as_millis();
        assert!((0..moments).all(|_| wait(MOMENT).is_ok()));
        let error = wait(MOMENT).unwrap_err();
        assert!(error.to_string().starts_with("nothing has come for 10 s; remedy: "));
        deadline.moved();
        assert!(wait(MOMENT).is_ok());
    }
}
