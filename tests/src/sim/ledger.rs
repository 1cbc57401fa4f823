//! The ledger: who sent what to whom, and what became of it. Every checker is here.
//!
//! A *stay* is one life of one actor. A *stream* is what one stay sends to one address; what arrives of a stream arrives at
//! one stay, from one address. Within a stream, messages of one kind (untagged, or of one tag) are delivered in order and
//! without gaps.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::Kind;
use spinwire_dataplane::provider::Status;

use crate::conformance::Got;
use crate::rng::pattern;

/// What is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation(pub String);

/// Where a check ends.
pub type Checked = Result<(), Violation>;

/// Fails with a text where something is not so.
macro_rules! ensure {
    ($so:expr, $($text:tt)+) => {
        if !$so {
            return Err(Violation(format!($($text)+)));
        }
    };
}
pub(super) use ensure;

/// How a stay is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Life {
    Alive,
    /// Closed in good order.
    Dropped,
    /// Killed.
    Killed,
}

/// How a stream came to its end, as its sender sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// It disconnected.
    Disconnected,
    /// It was told that the peer is gone, or refuses.
    Told,
}

#[derive(Clone, Debug)]
struct Entry {
    length: usize,
    tag: Option<u64>,
    immediate: bool,
    /// Posted, so that it can fail.
    posted: bool,
    /// A buffer of a pool.
    parcel: bool,
    published: bool,
    delivered: bool,
    failed: bool,
    /// A later one was delivered; this one must turn out to have failed.
    passed_over: bool,
}

#[derive(Debug)]
struct Stream {
    from: usize,
    /// Who it goes to, as far as known.
    to: Option<usize>,
    /// From where it arrives there.
    arrives_from: Option<Addr>,
    entries: Vec<Entry>,
    /// By kind: the numbers of its messages, and how many of them are settled.
    kinds: BTreeMap<Option<u64>, (Vec<usize>, usize)>,
    end: Option<End>,
}

/// What a receive was posted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    Untagged(Option<Addr>),
    Tag(u64),
    AnyTag,
    /// Untagged, many.
    Many,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Send { stream: usize, number: usize },
    Recv(Wanted),
}

/// The whole book.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Whether sends may fail by simulation, and be lost with their sender though published.
    pub(super) faults: bool,
    pub(super) stays: Vec<Life>,
    streams: Vec<Stream>,
    by_addr: BTreeMap<(usize, (u32, u32)), usize>,
    by_source: BTreeMap<(usize, (u32, u32)), usize>,
    /// Who an address stands for, as far as known.
    peers: BTreeMap<(usize, (u32, u32)), usize>,
    /// Whether an endpoint has one peer, and connects and disconnects as a whole.
    pub(super) connected: bool,
    /// Which stays have disconnected which, and how often.
    cuts: BTreeMap<(usize, usize), u32>,
    /// Stays that have disconnected somebody unknown.
    vague: BTreeSet<usize>,
    ops: BTreeMap<(usize, u64), Op>,
    pub(super) delivered: u64,
    /// The newest notes, for whoever reads of a violation.
    notes: VecDeque<String>,
}

const fn key(addr: Addr) -> (u32, u32) {
    (addr.slot(), addr.generation().as_raw())
}

/// The identity of a message: stream 20 bits, number 24, length 20.
const fn identity(stream: usize, number: usize, length: usize) -> u64 {
    spinwire_layouts::word::from_usize(stream << 44 | number << 20 | length)
}

/// A message to be sent.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) stream: usize,
    pub(super) bytes: Vec<u8>,
    pub(super) tag: Option<u64>,
    pub(super) immediate: Option<u64>,
    /// A buffer of a pool.
    pub(super) parcel: bool,
}

/// Notes that are kept.
const NOTES: usize = 60;

impl Ledger {
    /// Notes what a stay does or hears.
    pub(super) fn note(&mut self, stay: usize, what: core::fmt::Arguments<'_>) {
        self.notes.truncate(NOTES);
        self.notes.push_front(format!("stay {stay}: {what}"));
    }

    /// A violation, with what went before it.
    pub(super) fn explain(&self, violation: &Violation) -> Violation {
        let notes: Vec<&str> = self.notes.iter().rev().map(String::as_str).collect();
        Violation(format!("{}\n  after: {}", violation.0, notes.join("\n         ")))
    }

    /// A new stay.
    pub(super) fn begin(&mut self) -> usize {
        self.stays.push(Life::Alive);
        self.stays.len() - 1
    }

    /// An address that was looked up by name stands for that stay.
    pub(super) fn knows(&mut self, stay: usize, addr: Addr, peer: usize) -> Checked {
        let before = self.peers.insert((stay, key(addr)), peer);
        ensure!(
            before.is_none_or(|before| before == peer),
            "stay {stay}: address {addr} stands for {peer}, and stood for {before:?}"
        );
        Ok(())
    }

    fn stream(&mut self, stay: usize, addr: Addr) -> usize {
        let to = self.peers.get(&(stay, key(addr))).copied();
        let streams = &mut self.streams;
        *self.by_addr.entry((stay, key(addr))).or_insert_with(|| {
            streams.push(Stream {
                from: stay,
                to,
                arrives_from: None,
                entries: Vec::new(),
                kinds: BTreeMap::new(),
                end: None,
            });
            streams.len() - 1
        })
    }

    /// Writes the next message of a stream. It counts once it is [accepted](Self::accepted).
    pub(super) fn write(
        &mut self,
        (stay, addr): (usize, Addr),
        length: usize,
        tag: Option<u64>,
        immediate: bool,
    ) -> Letter {
        let stream = self.stream(stay, addr);
        let id = identity(stream, self.streams[stream].entries.len(), length);
        let mut bytes = pattern(id, length);
        let immediate = immediate || length < 8;
        if !immediate {
            bytes[..8].copy_from_slice(&id.to_le_bytes());
        }
        Letter { stream, bytes, tag, immediate: immediate.then_some(id), parcel: false }
    }

    /// The next message of a stream, as a buffer of a pool. What it stands for is in its immediate data.
    pub(super) fn write_parcel(&mut self, to: (usize, Addr), tag: Option<u64>) -> Letter {
        Letter { parcel: true, ..self.write(to, 0, tag, true) }
    }

    /// Whether what that stay has sent to the other may be gone before it is taken.
    pub(super) fn may_be_late(&self, from: Addr, at: usize) -> bool {
        self.peers.get(&(at, key(from))).is_none_or(|&sender| {
            self.stays[sender] != Life::Alive
                || self.cuts_between(sender, at) > 0
                || self.vague.contains(&sender)
                || self.vague.contains(&at)
        })
    }

    /// The provider took the message.
    pub(super) fn accepted(&mut self, letter: &Letter, context: Option<u64>) -> Checked {
        let stream = &mut self.streams[letter.stream];
        let number = stream.entries.len();
        stream.entries.push(Entry {
            length: letter.bytes.len(),
            tag: letter.tag,
            immediate: letter.immediate.is_some(),
            posted: context.is_some(),
            parcel: letter.parcel,
            published: false,
            delivered: false,
            failed: false,
            passed_over: false,
        });
        stream.kinds.entry(letter.tag).or_default().0.push(number);
        let from = stream.from;
        match context {
            Some(context) => self.open((from, context), Op::Send { stream: letter.stream, number }),
            None => Ok(()),
        }
    }

    pub(super) fn receives(&mut self, stay: usize, context: u64, wanted: Wanted) -> Checked {
        self.open((stay, context), Op::Recv(wanted))
    }

    fn open(&mut self, at: (usize, u64), op: Op) -> Checked {
        ensure!(self.ops.insert(at, op).is_none(), "context {at:?} is used twice");
        Ok(())
    }

    /// Everything that a stay has staged is visible now.
    pub(super) fn published(&mut self, stay: usize) {
        for stream in self.streams.iter_mut().filter(|stream| stream.from == stay) {
            stream.entries.iter_mut().rev().take_while(|e| !e.published).for_each(|e| {
                e.published = true;
            });
        }
    }

    /// A completion.
    pub(super) fn completed(&mut self, stay: usize, got: &Got) -> Checked {
        let at = (stay, got.context);
        let Some(op) = self.ops.get(&at).copied() else {
            return Err(Violation(format!("stay {stay}: completion of nothing: {got:?}")));
        };
        if got.returned {
            self.ops.remove(&at);
        }
        match op {
            Op::Send { stream, number } => self.sent((stream, number), got),
            Op::Recv(wanted) => self.received(stay, wanted, got),
        }
    }

    fn sent(&mut self, (stream, number): (usize, usize), got: &Got) -> Checked {
        ensure!(got.kind == Kind::Sent && got.returned, "a send ended as {got:?}");
        let entry = &mut self.streams[stream].entries[number];
        if got.status == Status::Success {
            return Ok(());
        }
        let simulated = matches!(got.status, Status::Injected | Status::PeerGone);
        ensure!(self.faults && simulated, "a send ended with {:?}", got.status);
        ensure!(!entry.delivered, "failed, and was delivered: {entry:?}");
        entry.failed = true;
        Ok(())
    }

    fn received(&mut self, stay: usize, wanted: Wanted, got: &Got) -> Checked {
        let Some(source) = got.source else {
            ensure!(got.returned && got.kind == Kind::RecvEnded, "a receive ended as {got:?}");
            let fine = matches!(got.status, Status::Cancelled | Status::PeerGone)
                || got.status == Status::Success && wanted == Wanted::Many;
            ensure!(fine, "a receive for {wanted:?} ended as {got:?}");
            return Ok(());
        };
        ensure!(got.status == Status::Success, "a message with {:?}", got.status);
        ensure!(got.returned || matches!(wanted, Wanted::Many), "not given back: {got:?}");
        let takes = match wanted {
            Wanted::Untagged(None) | Wanted::Many => got.tag.is_none(),
            Wanted::Untagged(Some(from)) => got.tag.is_none() && from == source,
            Wanted::Tag(tag) => got.tag == Some(tag),
            Wanted::AnyTag => got.tag.is_some(),
        };
        ensure!(takes, "a receive for {wanted:?} took {got:?}");
        self.deliver(stay, source, got)
    }

    fn deliver(&mut self, stay: usize, source: Addr, got: &Got) -> Checked {
        let id = match (got.immediate, got.bytes.first_chunk::<8>()) {
            (Some(id), _) => id,
            (None, Some(bytes)) => u64::from_le_bytes(*bytes),
            (None, None) => return Err(Violation(format!("a message without identity: {got:?}"))),
        };
        let part =
            |shift: u32, bits: u32| usize::try_from(id >> shift & ((1 << bits) - 1)).unwrap();
        let (at, number, length) = (part(44, 20), part(20, 24), part(0, 20));
        let known = self.streams.get(at).is_some_and(|stream| number < stream.entries.len());
        ensure!(known, "stay {stay}: a message that nobody sent: {got:?}");
        self.bind(stay, source, at)?;
        let (faults, stream) = (self.faults, &mut self.streams[at]);
        let entry = &stream.entries[number];
        let what = format!("message {number} of stream {at}");
        ensure!(!entry.delivered, "{what}: delivered twice");
        ensure!(!entry.failed, "{what}: delivered though it failed");
        let mut bytes = pattern(id, length);
        if !entry.immediate {
            bytes[..8].copy_from_slice(&id.to_le_bytes());
        }
        let whole = entry.length == length && got.bytes == bytes;
        ensure!(whole && got.tag == entry.tag, "{what}: corrupted: {got:?}");
        ensure!(got.immediate.is_some() == entry.immediate, "{what}: immediate data: {got:?}");
        ensure!((got.kind == Kind::Parcel) == entry.parcel, "{what}: corrupted kind: {got:?}");
        let (order, settled) = stream.kinds.get_mut(&entry.tag).unwrap();
        loop {
            let next = order[*settled];
            *settled += 1;
            if next == number {
                break;
            }
            let skipped = &mut stream.entries[next];
            ensure!(
                faults && skipped.posted,
                "{what}: came before message {next}, which is lost or late"
            );
            skipped.passed_over = true;
        }
        stream.entries[number].delivered = true;
        self.delivered += 1;
        Ok(())
    }

    /// What arrives at one stay from one address is one stream, and the other way round.
    fn bind(&mut self, stay: usize, source: Addr, at: usize) -> Checked {
        let before = *self.by_source.entry((stay, key(source))).or_insert(at);
        ensure!(before == at, "stay {stay}: {source} is stream {at}, and was {before}");
        let stream = &mut self.streams[at];
        let from = stream.from;
        let to = *stream.to.get_or_insert(stay);
        ensure!(to == stay, "stream {at} is for stay {to}, and arrives at {stay}");
        let arrives = *stream.arrives_from.get_or_insert(source);
        ensure!(arrives == source, "stream {at} arrives from {source}, and from {arrives}");
        self.knows(stay, source, from)
    }

    /// The stay disconnects that address.
    pub(super) fn cut(&mut self, stay: usize, addr: Addr) {
        match self.peers.get(&(stay, key(addr))) {
            Some(&peer) => {
                *self.cuts.entry((stay, peer)).or_default() += 1;
            }
            None => {
                self.vague.insert(stay);
            }
        }
        let at = self.stream(stay, addr);
        self.streams[at].end = Some(End::Disconnected);
        // Whatever was staged goes out with it.
        self.streams[at].entries.iter_mut().for_each(|entry| entry.published = true);
    }

    /// The stay is told that the peer at that address is gone.
    pub(super) fn told(&mut self, stay: usize, addr: Addr) -> Checked {
        let at = self.stream(stay, addr);
        self.streams[at].end = Some(End::Told);
        let Some(&peer) = self.peers.get(&(stay, key(addr))) else { return Ok(()) };
        let gone = self.stays[peer] != Life::Alive
            // Whoever cuts off another may be told by him in turn.
            || self.cuts_between(peer, stay) > 0
            || self.vague.contains(&peer)
            || self.vague.contains(&stay)
            || self.stays[stay] != Life::Alive;
        ensure!(gone, "stay {stay}: told that {peer} is gone, which is alive and connected");
        Ok(())
    }

    /// How often one of the two has disconnected the other.
    fn cuts_between(&self, a: usize, b: usize) -> u32 {
        [(a, b), (b, a)].iter().filter_map(|pair| self.cuts.get(pair)).sum()
    }

    pub(super) fn end(&mut self, stay: usize, life: Life) {
        self.stays[stay] = life;
        self.ops.retain(|(owner, _), _| *owner != stay);
    }

    /// Operations of that stay which have no completion yet and are sends.
    pub(super) fn sends_open(&self, stay: usize) -> usize {
        let mine = self.ops.range((stay, 0)..=(stay, u64::MAX));
        mine.filter(|(_, op)| matches!(op, Op::Send { .. })).count()
    }

    /// Receives of that kind which are posted.
    pub(super) fn receives_open(&self, stay: usize, wanted: Wanted) -> usize {
        let mine = self.ops.range((stay, 0)..=(stay, u64::MAX));
        mine.filter(|(_, op)| matches!(op, Op::Recv(posted) if *posted == wanted)).count()
    }

    /// What is still owed: the first message that has to arrive and has not.
    pub(super) fn owed(&self) -> Option<String> {
        self.streams.iter().enumerate().find_map(|(at, stream)| {
            // One who is not there any more did not hear how his sends ended.
            let alive = self.stays[stream.from] == Life::Alive;
            let lost = |entry: &Entry| alive && entry.passed_over && !entry.failed;
            if let Some(number) = stream.entries.iter().position(lost) {
                return Some(format!("message {number} of stream {at} was passed over"));
            }
            let needs = self.needs(stream)?;
            let number = stream
                .entries
                .iter()
                .position(|entry| !entry.delivered && !entry.failed && needs(entry))?;
            let Stream { from, to, end, .. } = stream;
            let (life, length) = (self.stays[*from], stream.entries.len());
            Some(format!(
                "message {number} of {length} of stream {at}, from {from} ({life:?}, {end:?}) to {to:?}"
            ))
        })
    }

    /// Which messages of a stream have to arrive: all of them, those that were published, or none.
    fn needs(&self, stream: &Stream) -> Option<fn(&Entry) -> bool> {
        let sender = self.stays[stream.from];
        let still_on = sender == Life::Alive && stream.end.is_none();
        if let Some(to) = stream.to {
            let cut = self.cuts.contains_key(&(to, stream.from)) || self.vague.contains(&to);
            if self.stays[to] != Life::Alive || cut && !still_on {
                return None;
            }
        } else if !still_on {
            return None;
        }
        match (sender, stream.end) {
            (_, Some(End::Told)) => None,
            (Life::Alive, None) => Some(|_| true),
            // What a wrapper holds back may be lost with its sender.
            _ if self.faults => None,
            (Life::Killed, _) => Some(|entry| entry.published),
            (Life::Alive | Life::Dropped, _) => Some(|_| true),
        }
    }
}
