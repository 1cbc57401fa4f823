//! Two ends with two desks each, and what the model says of them, call by call.

use core::cell::Cell;

use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::{
    Completion, Endpoint, Exposed, Kind, Parts, RecvFrom, SendTo, Target,
};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::{CancelError, Caps, EndpointType, Event, Status};
use spinwire_dataplane::raw::loan::{Loan, LoanPool};
use spinwire_hostshim::desk::{CancelToken, Desk, Wait, WaitError};

use super::super::{Node, Rig, TURNS_MAX, World};
use super::calls::{Call, Remote, Step, WORDS, Wanted, Way};
use super::expected::{Done, Expected, Message, Posted};
use crate::rng::pattern;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

/// Bytes in a buffer of these ends.
pub(super) const ROOM: usize = 128;
/// Buffers.
pub(super) const LOANS: u32 = 400;
/// Messages that may wait for a receive at one end: fewer than there is room for, so that none is dropped where that may be.
const WAITING_MAX: usize = 6;
/// Receives that may be posted at one end.
const POSTED_MAX: usize = 12;
/// The tag of what both ends say to each other before one leaves.
const GREETING: u64 = 99;

type Played = Result<(), TestCaseError>;

/// Two ends, their desks, and the model of each.
pub(super) struct Game<'g, 'm, R: Rig> {
    world: &'g World<'m, R>,
    ends: [&'g Node<'m, R>; 2],
    desks: [[Desk<'g, 'm, R::Port<'m>>; 2]; 2],
    /// How often a desk has rested in its wait, and what ends that where it is too often.
    rests: &'g (Cell<u32>, CancelToken),
    to_other: [Addr; 2],
    pool: &'m LoanPool<'m>,
    exposed: [Option<Exposed>; 2],
    expected: [Expected; 2],
    sent: u64,
}

impl<'g, 'm, R: Rig> Game<'g, 'm, R> {
    pub(super) fn new(
        world: &'g World<'m, R>,
        (ends, to_other): ([&'g Node<'m, R>; 2], [Addr; 2]),
        pool: &'m LoanPool<'m>,
        rests: &'g (Cell<u32>, CancelToken),
    ) -> Self {
        let open = |at: usize| {
            let (endpoint, other): (&'g Endpoint<'m, R::Port<'m>>, &'g Endpoint<'m, R::Port<'m>>) =
                (ends[at], ends[1 - at]);
            let desk = Desk::open(endpoint, pool, || world.now()).unwrap().resting(move |_| {
                // What it finds stays where it is until it is asked for.
                let _busy = other.turn(world.now(), Budget::DEFAULT);
                rests.0.set(rests.0.get() + 1);
                world.linger(rests.0.get());
                if rests.0.get() > TURNS_MAX {
                    rests.1.cancel();
                }
            });
            [desk.another(), desk]
        };
        let expose = |end: &Node<'m, R>| {
            let has = end.info().caps.has(Caps::EXPOSE);
            has.then(|| {
                let mut loan = pool.lend().unwrap();
                loan.fill(&[0; WORDS * 8]).unwrap();
                let all = spinwire_dataplane::provider::Access::ALL;
                end.endpoint().expose(loan, all).map_err(|refused| refused.error).unwrap()
            })
        };
        Self {
            world,
            ends,
            desks: [open(0), open(1)],
            rests,
            to_other,
            pool,
            exposed: ends.map(expose),
            expected: <[Expected; 2]>::default(),
            sent: 0,
        }
    }

    pub(super) fn play(&mut self, Step { call, settles }: Step) -> Played {
        match call {
            Call::Recv { at, wanted, buffers, is_directed } => {
                if self.expected[at].posted.len() < POSTED_MAX {
                    self.recv(at, wanted, buffers, is_directed)?;
                }
            }
            Call::Many { at, wanted, room_bytes_min, is_directed } => {
                if self.expected[at].posted.len() < POSTED_MAX {
                    self.many(at, wanted, room_bytes_min, is_directed)?;
                }
            }
            Call::Send { at, tag, length, way } => {
                if self.expected[1 - at].waiting.len() < WAITING_MAX {
                    self.send(at, tag, length, way)?;
                }
            }
            Call::Cancel { at, which } => {
                // What is under way to it is to have come, or not to have been sent.
                self.settle()?;
                if !self.expected[at].posted.is_empty() {
                    let which = which.index(self.expected[at].posted.len());
                    self.cancel(at, which)?;
                }
            }
            Call::Glance { at, budget, asked } => self.glance(at, budget, asked)?,
            Call::Peek { at, wanted } => {
                self.settle()?;
                self.peek(at, wanted)?;
            }
            Call::OneSided { at, what, word } => {
                // Of those under way at once there is no order.
                self.settle()?;
                self.one_sided(at, what, word)?;
                self.settle()?;
            }
            Call::Ask { at, desk, wanted, room } => self.ask(at, desk, wanted, room)?,
            Call::Await { at, desk, which } => self.wait(at, desk, which)?,
            Call::Leave { at } => self.leave(at)?,
        }
        if settles { self.settle() } else { Ok(()) }
    }

    const fn from(&self, at: usize, wanted: Wanted, is_directed: bool) -> RecvFrom {
        let from = if is_directed { RecvFrom::peer(self.to_other[at]) } else { RecvFrom::any() };
        wanted.from(from)
    }

    /// Does something until it is not refused with `Retry`, and takes what comes meanwhile.
    fn insist<T>(
        &mut self,
        mut try_it: impl FnMut(&Self) -> Result<T, PostError>,
    ) -> Result<T, TestCaseError> {
        for turn in 0..TURNS_MAX {
            match try_it(self) {
                Ok(done) => return Ok(done),
                Err(PostError::Retry(_)) => {
                    self.collect()?;
                    self.world.linger(turn);
                }
                Err(refused) => return Err(TestCaseError::fail(format!("refused: {refused}"))),
            }
        }
        Err(TestCaseError::fail("still refused"))
    }

    fn loan(&self, bytes: &[u8]) -> Loan<'m> {
        let mut loan = self.pool.lend().unwrap();
        loan.fill(bytes).unwrap();
        loan
    }

    fn recv(&mut self, at: usize, wanted: Wanted, buffers: usize, is_directed: bool) -> Played {
        let from = self.from(at, wanted, is_directed);
        let id = self.insist(|game| {
            let mut parts = Parts::of((0..buffers).map(|_| game.pool.lend().unwrap()));
            if buffers > 1 {
                return game.ends[at].post_recvv(from, &mut parts, 1);
            }
            let loan = parts.into_loans().next().unwrap();
            game.ends[at].post_recv(from, loan, 1).map_err(|refused| refused.error)
        })?;
        let (room, many, offset) = (ROOM * buffers, None, 0);
        self.expected[at].post(Posted { id, wanted, is_directed, room, many, offset });
        Ok(())
    }

    fn many(&mut self, at: usize, wanted: Wanted, least: usize, is_directed: bool) -> Played {
        let from = self.from(at, wanted, is_directed);
        let room_bytes_min = u32::try_from(least).unwrap();
        let id = self.insist(|game| {
            let loan = game.pool.lend().unwrap();
            let posted = game.ends[at].post_multi_recv(from, loan, room_bytes_min, 1);
            posted.map_err(|refused| refused.error)
        })?;
        let (room, many, offset) = (ROOM, Some(least), 0);
        self.expected[at].post(Posted { id, wanted, is_directed, room, many, offset });
        Ok(())
    }

    fn send(&mut self, at: usize, tag: Option<u64>, length: usize, way: Way) -> Played {
        self.sent += 1;
        let number = self.sent;
        let length = if way == Way::AtADesk { length.min(ROOM) } else { length };
        let bytes = pattern(number, length);
        let to = SendTo::peer(self.to_other[at]).immediate(number);
        let to = tag.map_or(to, |tag| to.tag(tag));
        match way {
            Way::Copied => self.insist(|game| game.ends[at].endpoint().inject(to, &bytes))?,
            Way::Posted => {
                let id = self.insist(|game| game.ends[at].send(to, &bytes, 2))?;
                self.expected[at].sends.push(id);
            }
            Way::InParts => {
                let (first, rest) = bytes.split_at(length / 3);
                let id = self.insist(|game| {
                    let mut parts = Parts::of([first, rest].map(|part| game.ends[at].loan(part)));
                    game.ends[at].post_sendv(to, &mut parts, 2)
                })?;
                self.expected[at].sends.push(id);
            }
            Way::AtADesk => {
                let desk = &self.desks[at][usize::from(number.is_multiple_of(2))];
                prop_assert_eq!(desk.send(to, &bytes, self.patiently()), Ok(()));
            }
        }
        self.expected[1 - at].deliver(Message { tag, bytes, number });
        Ok(())
    }

    fn glance(&mut self, at: usize, budget: Option<u32>, asked: u32) -> Played {
        let end = self.ends[at];
        if let Some(completions) = budget {
            self.ends[1 - at].endpoint().flush();
            // What it found is asked for below, as far as it is.
            let budget = Budget { completions, ..Budget::DEFAULT };
            let _busy = end.endpoint().turn(self.world.now(), budget);
        }
        for had in 0..asked {
            let Some(got) = end.endpoint().poll() else { break };
            prop_assert!(budget.is_none_or(|most| had < most), "{} and {:?}", had, got);
            self.compare(at, got, None)?;
        }
        Ok(())
    }

    fn cancel(&mut self, at: usize, which: usize) -> Played {
        let id = self.expected[at].cancel(which);
        prop_assert_eq!(self.ends[at].cancel(id), Ok(()));
        prop_assert_eq!(self.ends[at].cancel(id), Err(CancelError::NotPosted));
        Ok(())
    }

    fn peek(&self, at: usize, wanted: Wanted) -> Played {
        let look = || self.ends[at].peek(wanted.from(RecvFrom::any()));
        match self.expected[at].first_waiting(wanted) {
            None => prop_assert_eq!(look(), None),
            Some(first) => {
                let message = &self.expected[at].waiting[first];
                self.world.until("it waits", &self.ends, || look().is_some());
                let seen = look().map(|seen| (seen.immediate, seen.tag, seen.length));
                let expected = (Some(message.number), message.tag, message.bytes.len());
                prop_assert_eq!(seen, Some(expected));
            }
        }
        Ok(())
    }

    fn one_sided(&mut self, at: usize, what: Remote, word: usize) -> Played {
        let Some(Exposed { region, .. }) = self.exposed[1 - at] else {
            return self.one_sided_is_refused(at, what);
        };
        let words = match what {
            Remote::Write { words } | Remote::Read { words } => words,
            Remote::Add(_) | Remote::Swap { .. } => 1,
        };
        let place = region.place(u64::try_from(word * 8).unwrap(), words * 8);
        let target = Target::new(self.to_other[at], place.unwrap());
        self.sent += 1;
        let bytes = pattern(self.sent, words * 8);
        let there = self.expected[1 - at].memory;
        let before = there[word];
        let id = self.insist(|game| {
            let end = game.ends[at];
            let posted = match what {
                Remote::Write { .. } => end.post_write(target, game.loan(&bytes), 3),
                Remote::Read { .. } => end.post_read(target, game.loan(&[]), words * 8, 3),
                Remote::Add(add) => end.post_fetch_add(target, game.loan(&[]), add, 3),
                Remote::Swap { is_right, swap } => {
                    let expected = if is_right { before } else { !before };
                    end.post_compare_swap(target, game.loan(&[]), (expected, swap), 3)
                }
            };
            posted.map_err(|refused| refused.error)
        })?;
        let memory = &mut self.expected[1 - at].memory;
        let done = match what {
            Remote::Write { .. } => {
                for (to, from) in memory[word..].iter_mut().zip(bytes.chunks_exact(8)) {
                    *to = u64::from_le_bytes(from.try_into().unwrap());
                }
                Done::Written
            }
            Remote::Read { .. } => {
                let mut seen = [0; WORDS];
                seen[..words].copy_from_slice(&there[word..word + words]);
                Done::Read(seen, words)
            }
            Remote::Add(add) => {
                memory[word] = before.wrapping_add(add);
                Done::Atomic(before)
            }
            Remote::Swap { is_right, swap } => {
                memory[word] = if is_right { swap } else { before };
                Done::Atomic(before)
            }
        };
        self.expected[at].remote.push((id, done));
        self.settle()?;
        // Its owner sees it.
        let Some(Exposed { id, .. }) = self.exposed[1 - at] else { return Ok(()) };
        let mut seen = [0; WORDS * 8];
        self.ends[1 - at].copy_exposed(id, 0, &mut seen).unwrap();
        let expected: Vec<u8> =
            self.expected[1 - at].memory.iter().flat_map(|word| word.to_le_bytes()).collect();
        prop_assert!(seen[..] == expected[..], "memory of end {}", 1 - at);
        Ok(())
    }

    /// Where there is nothing of that kind it is refused, and the buffer comes back.
    fn one_sided_is_refused(&self, at: usize, what: Remote) -> Played {
        let place = spinwire_dataplane::provider::RemotePlace { address: 0, key: 0 };
        let target = Target::new(self.to_other[at], place);
        let (end, loan) = (self.ends[at], self.loan(b"12345678"));
        let refused = match what {
            Remote::Write { .. } => end.post_write(target, loan, 3),
            Remote::Read { .. } => end.post_read(target, loan, 8, 3),
            Remote::Add(add) => end.post_fetch_add(target, loan, add, 3),
            Remote::Swap { swap, .. } => end.post_compare_swap(target, loan, (0, swap), 3),
        };
        let refused = refused.unwrap_err();
        prop_assert_eq!(refused.error, Misuse::Unsupported.into());
        prop_assert_eq!(&refused.item[..], b"12345678");
        Ok(())
    }

    /// A wait that ends only where the ends have been turned too often.
    fn patiently(&self) -> Wait<'g> {
        self.rests.0.set(0);
        Wait::FOREVER.unless(&self.rests.1)
    }

    fn ask(&mut self, at: usize, desk: usize, wanted: Wanted, room: usize) -> Played {
        let first = self.expected[at].first_waiting(wanted);
        let message = first.and_then(|first| self.expected[at].waiting.remove(first));
        let wait = if message.is_some() { self.patiently() } else { Wait::ONCE };
        let mut into = [0xEE; ROOM];
        let from = wanted.from(RecvFrom::any());
        let got = self.desks[at][desk].recv(from, &mut into[..room], wait);
        prop_assert!(into[room..].iter().all(|&byte| byte == 0xEE));
        let Some(message) = message else {
            prop_assert_eq!(got, Err(WaitError::Timeout));
            prop_assert!(into.iter().all(|&byte| byte == 0xEE));
            return Ok(());
        };
        let length = message.bytes.len().min(room);
        prop_assert!(into[..length] == message.bytes[..length], "message {}", message.number);
        if length < message.bytes.len() {
            prop_assert_eq!(got, Err(WaitError::Truncated { delivered: length }));
            return Ok(());
        }
        let got = got.map(|got| (got.length, got.tag, got.immediate, got.source));
        let expected = (length, message.tag, Some(message.number), Some(self.to_other[at]));
        prop_assert_eq!(got, Ok(expected));
        Ok(())
    }

    fn wait(&mut self, at: usize, desk: usize, which: prop::sample::Index) -> Played {
        let expected = &self.expected[at];
        // Of a receive for many messages the end alone is waited for, and only where nothing comes before it.
        let is_first = |place: usize| {
            let id = expected.due[place].id;
            expected.due.iter().position(|due| due.id == id) == Some(place)
        };
        let dues = (0..expected.due.len()).filter(|&at| expected.due[at].is_end && is_first(at));
        let mut ids: Vec<_> = dues.map(|at| (expected.due[at].id, true)).collect();
        ids.extend(expected.sends.iter().map(|id| (*id, true)));
        let goes_on = |posted: &&Posted| !expected.due.iter().any(|due| due.id == posted.id);
        ids.extend(expected.posted.iter().filter(goes_on).map(|posted| (posted.id, false)));
        if ids.is_empty() {
            return Ok(());
        }
        let (id, is_due) = ids[which.index(ids.len())];
        let wait = if is_due { self.patiently() } else { Wait::ONCE };
        match self.desks[at][desk].wait(id, wait) {
            Ok(completion) => {
                prop_assert!(is_due, "{:?} was not due", completion);
                self.compare(at, completion, None)
            }
            Err(error) => {
                prop_assert_eq!((error, is_due), (WaitError::NoCompletion, false));
                Ok(())
            }
        }
    }

    /// Takes what has come at both ends, once.
    fn collect(&mut self) -> Played {
        for at in [0, 1] {
            while let Some(letter) = self.desks[at][0].next_letter() {
                let bytes = letter.bytes().map(<[u8]>::to_vec);
                self.compare(at, letter.completion, bytes)?;
            }
            if let Some(got) = self.ends[at].completion(self.world.now()) {
                self.compare(at, got, None)?;
            }
        }
        Ok(())
    }

    /// Turns until what is due has come, and compares it.
    pub(super) fn settle(&mut self) -> Played {
        for turn in 0..TURNS_MAX {
            if self.expected.iter().all(Expected::is_settled) {
                return Ok(());
            }
            self.collect()?;
            self.world.linger(turn);
        }
        let due = self.expected.iter().map(|end| (&end.due, &end.sends, &end.remote));
        Err(TestCaseError::fail(format!("due, and not come: {:?}", due.collect::<Vec<_>>())))
    }

    fn compare(&mut self, at: usize, mut got: Completion<'m>, copy: Option<Vec<u8>>) -> Played {
        let end = self.ends[at];
        let expected = &mut self.expected[at];
        if let Some(sent) = expected.sends.iter().position(|id| *id == got.id) {
            expected.sends.remove(sent);
            prop_assert_eq!((got.kind, got.status), (Kind::Sent, Status::Success));
            drop(end.take_parts(&mut got));
            return Ok(());
        }
        if let Some(done) = expected.remote.iter().position(|(id, _)| *id == got.id) {
            let (_, done) = expected.remote.remove(done);
            prop_assert_eq!((got.status, done_of(&got)), (Status::Success, Some(done)));
            return Ok(());
        }
        self.compare_receive(at, got, copy)
    }

    fn compare_receive(
        &mut self,
        at: usize,
        mut got: Completion<'m>,
        copy: Option<Vec<u8>>,
    ) -> Played {
        let (end, expected) = (self.ends[at], &mut self.expected[at]);
        let due = expected.due.iter().position(|due| due.id == got.id);
        prop_assert!(due.is_some(), "end {}: {:?} was not due", at, got);
        let due = expected.due.remove(due.unwrap());
        prop_assert_eq!((got.status, got.loan.is_some()), (due.status, due.is_end));
        let Some(message) = due.message else {
            prop_assert_eq!((got.kind, got.tag), (Kind::RecvEnded, due.waited_for));
            drop(end.take_parts(&mut got));
            return Ok(());
        };
        prop_assert_eq!((got.kind, got.tag), (Kind::Received, message.tag));
        prop_assert_eq!(got.immediate, Some(message.number));
        prop_assert_eq!(got.source, Some(self.to_other[at]));
        prop_assert_eq!((got.length, got.offset), (message.bytes.len(), due.offset));
        let bytes = match end.take_parts(&mut got) {
            Some(parts) => Some(parts.iter().flat_map(|part| part.to_vec()).collect()),
            None => copy.or_else(|| end.read(&got, <[u8]>::to_vec)),
        };
        prop_assert!(bytes == Some(message.bytes), "message {} is another", message.number);
        Ok(())
    }

    /// One end gives the other up. Receives for that one alone end, here and, where it is told, there; then both know each other anew.
    fn leave(&mut self, at: usize) -> Played {
        // Who has never heard of somebody is not told of his end: they have, both.
        for from in [0, 1] {
            if self.expected[1 - from].waiting.len() >= WAITING_MAX {
                return Ok(());
            }
            self.recv(1 - from, Wanted::Tag(GREETING), 1, false)?;
            self.send(from, Some(GREETING), 1, Way::Copied)?;
        }
        self.settle()?;
        if self.expected.iter().any(|end| !end.waiting.is_empty()) {
            // What becomes of messages that wait for nobody is in cases of its own.
            return Ok(());
        }
        let (old, kind) = (self.to_other, self.world.endpoint_type());
        prop_assert_eq!(self.ends[at].disconnect(old[at]), Ok(()));
        let directed = |posted: &Posted| posted.is_directed;
        self.expected[at].bereave(Status::Cancelled, directed);
        let stale = PostError::Misuse(Misuse::StaleAddress);
        prop_assert_eq!(self.ends[at].inject(SendTo::peer(old[at]), b"m"), Err(stale));
        if kind != EndpointType::Dgram {
            let lost = |posted: &Posted| posted.is_directed || kind == EndpointType::Msg;
            self.expected[1 - at].bereave(Status::PeerGone, lost);
            prop_assert_eq!(self.next_event(1 - at)?, Event::PeerGone(old[1 - at]));
        }
        self.settle()?;
        let (to_b, to_a) = self.world.introduce(self.ends[0], self.ends[1]);
        self.to_other = [to_b, to_a];
        prop_assert!(self.to_other[at] != old[at], "another life of the row");
        Ok(())
    }

    fn next_event(&mut self, at: usize) -> Result<Event, TestCaseError> {
        for turn in 0..TURNS_MAX {
            self.collect()?;
            self.world.linger(turn);
            match self.ends[at].poll_event() {
                Some(Event::Connected(_)) | None => {}
                Some(event) => return Ok(event),
            }
        }
        Err(TestCaseError::fail("nothing is told"))
    }

    /// What is left is taken back, and every buffer is where it was.
    pub(super) fn end(&mut self) -> Played {
        self.settle()?;
        for at in [0, 1] {
            while !self.expected[at].posted.is_empty() {
                self.cancel(at, 0)?;
                self.settle()?;
            }
            if let Some(Exposed { id, .. }) = self.exposed[at].take() {
                drop(self.ends[at].withdraw(id).unwrap());
            }
        }
        for (end, desks) in self.ends.iter().zip(&self.desks) {
            prop_assert_eq!((end.posted_count(), end.inbox_len()), (0, 0));
            prop_assert!(end.completion(self.world.now()).is_none());
            prop_assert!(desks[0].next_letter().is_none());
            prop_assert_eq!(desks[1].counts().late, 0);
        }
        prop_assert_eq!(self.pool.free_count(), usize::try_from(LOANS).unwrap());
        Ok(())
    }
}

/// What a one-sided operation has done.
fn done_of(got: &Completion<'_>) -> Option<Done> {
    match got.kind {
        Kind::Written => Some(Done::Written),
        Kind::Atomic => got.before().map(Done::Atomic),
        Kind::Read => got.loan.as_deref().map(|bytes| {
            let mut words = [0; WORDS];
            for (to, from) in words.iter_mut().zip(bytes.chunks_exact(8)) {
                *to = u64::from_le_bytes(from.try_into().unwrap());
            }
            Done::Read(words, bytes.len() / 8)
        }),
        Kind::Sent | Kind::Received | Kind::Parcel | Kind::RecvEnded => None,
    }
}
