//! Frames on a byte stream: the incremental reader against an oracle that has the whole stream before it, every split of
//! every frame, every wrong field, and the credit of both directions.
//!
//! The oracle is written from the drawing of the layout and shares no code with the reader: it cuts fields out of a
//! slice by hand. Whatever the stream (honest, damaged, random) and wherever it is cut, both must say the same.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]

use std::collections::VecDeque;

use proptest::prelude::*;
use spinwire_dataplane::error::{Fatal, Misuse, PostError, Retry};
use spinwire_dataplane::id::Name;
use spinwire_dataplane::provider::tcp::frame::{
    End, Envelope, Event, FrameFault, Framing, Grant, Greeting, Limits, LimitsError,
};
use spinwire_layouts::abi::{WIRE_HASH, WIRE_VERSION};
use spinwire_layouts::shm::EndpointKind;

const HEADER: usize = 32;
const HELLO: usize = 128;
/// What the reading end takes in most of the tests.
const OWN: Limits = Limits { message_bytes_max: 300, credit_messages: 40, credit_bytes: 4000 };
const PEER: Limits = Limits { message_bytes_max: 100, credit_messages: 3, credit_bytes: 250 };

fn greeting(limits: Limits) -> Greeting {
    Greeting { name: Name::new("peer-7").unwrap(), kind: EndpointKind::Rdm, limits }
}

fn bytes(number: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((number * 31 + at * 7) % 251).unwrap()).collect()
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// What a stream says, with bodies put together. A message whose end has not come has no bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Said {
    Hello(Greeting),
    Begins { length: u32, envelope: Envelope, credit: Grant },
    Whole(Vec<u8>),
    Credit(Grant),
    Goodbye(Grant),
}

#[derive(PartialEq, Eq, Debug)]
struct Verdict {
    said: Vec<Said>,
    fault: Option<FrameFault>,
    end: End,
}

// ---------------------------------------------------------------- the oracle

/// Reads a whole stream at once. `open` is what the reading end has sent and not got back: messages, bytes.
fn oracle(stream: &[u8], mut open: (u64, u64)) -> Verdict {
    let mut said = Vec::new();
    let mut is_last = false;
    let mut held = (0_u64, 0_u64);
    let result = (|| {
        let mut rest = oracle_hello(stream, &mut said)?;
        let mut number = 0_u32;
        while rest.len() >= HEADER {
            let (header, behind) = rest.split_at(HEADER);
            let flags = header[7];
            let length = usize::try_from(word(header, 0) >> 32 & 0xff_ffff).unwrap();
            let (tag, imm) = (word(header, 8), word(header, 16));
            let credit = Grant { messages: half(header, 24), bytes: half(header, 28) };
            if flags & 1 == 0 || flags & 0b1111_0000 != 0 {
                return Err(FrameFault::Flags);
            }
            if half(header, 0) != number {
                return Err(FrameFault::Sequence);
            }
            number = number.wrapping_add(1);
            if flags & 8 != 0 {
                let event = oracle_control(flags, length, (tag, imm), credit, is_last)?;
                give_back(&mut open, credit)?;
                is_last |= matches!(event, Said::Goodbye(_));
                said.push(event);
                rest = behind;
                continue;
            }
            if is_last {
                return Err(FrameFault::AfterGoodbye);
            }
            if length > 300 {
                return Err(FrameFault::Length);
            }
            if flags & 2 == 0 && tag != 0 {
                return Err(FrameFault::Tag);
            }
            if flags & 4 == 0 && imm != 0 {
                return Err(FrameFault::Immediate);
            }
            give_back(&mut open, credit)?;
            held = (held.0 + 1, held.1 + u64::try_from(length).unwrap());
            if held.0 > 40 || held.1 > 4000 {
                return Err(FrameFault::Overrun);
            }
            let envelope = Envelope {
                tag: (flags & 2 != 0).then_some(tag),
                immediate: (flags & 4 != 0).then_some(imm),
            };
            said.push(Said::Begins { length: u32::try_from(length).unwrap(), envelope, credit });
            if behind.len() < length {
                return Ok(End::Cut);
            }
            said.push(Said::Whole(behind[..length].to_vec()));
            rest = &behind[length..];
        }
        Ok(match (rest.len(), said.is_empty(), is_last) {
            (0, _, true) => End::Orderly,
            (0, ..) => End::Gone,
            _ => End::Cut,
        })
    })();
    match result {
        Ok(end) => Verdict { said, fault: None, end },
        Err(fault) => Verdict { said, fault: Some(fault), end: End::Cut },
    }
}

/// The stream behind the hello; what is there of it where it is not whole.
fn oracle_hello<'b>(stream: &'b [u8], said: &mut Vec<Said>) -> Result<&'b [u8], FrameFault> {
    let mut wanted = b"SW-HELLO".to_vec();
    wanted.extend(WIRE_VERSION.to_le_bytes());
    wanted.extend([0; 4]);
    wanted.extend(WIRE_HASH.to_le_bytes());
    for (at, (wanted, byte)) in wanted.iter().zip(stream).enumerate() {
        if wanted != byte {
            return Err(match at {
                0..8 => FrameFault::Magic,
                8..12 => FrameFault::Version,
                12..16 => FrameFault::Reserved,
                _ => FrameFault::Hash,
            });
        }
    }
    if stream.len() < HELLO {
        // So short that the loop over frames takes nothing of it.
        return Ok(&stream[stream.len().saturating_sub(1)..]);
    }
    let (hello, rest) = stream.split_at(HELLO);
    let limits = Limits {
        message_bytes_max: half(hello, 24),
        credit_messages: half(hello, 28),
        credit_bytes: half(hello, 32),
    };
    if limits.message_bytes_max > 0xff_ffff {
        return Err(FrameFault::Limits(LimitsError::MessageBytesMax));
    }
    if limits.credit_messages == 0 {
        return Err(FrameFault::Limits(LimitsError::CreditMessages));
    }
    if limits.credit_bytes < limits.message_bytes_max {
        return Err(FrameFault::Limits(LimitsError::CreditBytes));
    }
    let kind = match half(hello, 36) {
        1 => EndpointKind::Msg,
        2 => EndpointKind::Rdm,
        _ => return Err(FrameFault::Kind),
    };
    if hello[40..64] != [0; 24] {
        return Err(FrameFault::Reserved);
    }
    let end = hello[64..].iter().position(|byte| *byte == 0).ok_or(FrameFault::Name)?;
    let (name, padding) = hello[64..].split_at(end);
    let text = core::str::from_utf8(name).ok().ok_or(FrameFault::Name)?;
    let name = Name::new(text).ok().ok_or(FrameFault::Name)?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(FrameFault::Name);
    }
    said.push(Said::Hello(Greeting { name, kind, limits }));
    Ok(rest)
}

const fn oracle_control(
    flags: u8,
    length: usize,
    (tag, imm): (u64, u64),
    credit: Grant,
    is_last: bool,
) -> Result<Said, FrameFault> {
    match (flags, length, imm, tag) {
        (9, 0, 0, 1) => Ok(Said::Credit(credit)),
        (9, 0, 0, 2) if is_last => Err(FrameFault::AfterGoodbye),
        (9, 0, 0, 2) => Ok(Said::Goodbye(credit)),
        (9, 0, 0, _) => Err(FrameFault::Control),
        (9, 0, ..) => Err(FrameFault::Immediate),
        (9, ..) => Err(FrameFault::Length),
        _ => Err(FrameFault::Flags),
    }
}

fn give_back(open: &mut (u64, u64), credit: Grant) -> Result<(), FrameFault> {
    let messages = open.0.checked_sub(u64::from(credit.messages)).ok_or(FrameFault::Credit)?;
    let bytes = open.1.checked_sub(u64::from(credit.bytes)).ok_or(FrameFault::Credit)?;
    *open = (messages, bytes);
    Ok(())
}

// ---------------------------------------------------------------- the reader

/// Reads the same stream in pieces that end at `cuts`, and puts bodies together. The end that reads sends what it can as soon
/// as it may: one message of 100 bytes and one of 20.
fn read(stream: &[u8], cuts: &[usize]) -> Verdict {
    let framing = Framing::new(OWN).unwrap();
    let mut said = Vec::new();
    let mut current: Option<(u32, Vec<u8>)> = None;
    let mut from = 0;
    let mut fault = None;
    for to in cuts.iter().copied().chain([stream.len()]) {
        let mut piece = &stream[from..to];
        from = to;
        loop {
            let before = piece.len();
            match framing.next(&mut piece) {
                Ok(None) => break,
                Ok(Some(event)) => {
                    note(&framing, event, &mut said, &mut current);
                    assert!(piece.len() < before, "an event of nothing");
                }
                Err(found) => {
                    assert_eq!(framing.next(&mut piece), Err(found), "a fault is for ever");
                    assert_eq!(*fault.get_or_insert(found), found);
                    break;
                }
            }
        }
        assert!(fault.is_some() || piece.is_empty(), "something is left of a piece");
    }
    assert_eq!(framing.fault(), fault);
    if fault.is_some() {
        assert_eq!(framing.message(0, Envelope::default()), Err(Fatal::Corrupt.into()));
        assert_eq!((framing.credit_frame(), framing.goodbye()), (None, None));
        assert_eq!(framing.body_left(), 0, "of a message that nobody waits for any more");
    }
    Verdict { said, fault, end: framing.end() }
}

fn note(
    framing: &Framing,
    event: Event<'_>,
    said: &mut Vec<Said>,
    current: &mut Option<(u32, Vec<u8>)>,
) {
    match event {
        Event::Hello => {
            said.push(Said::Hello(framing.greeting().unwrap()));
            for length in [100, 20] {
                let _maybe = framing.message(length, Envelope::default());
            }
        }
        Event::Credit(credit) => said.push(Said::Credit(credit)),
        Event::Goodbye(credit) => said.push(Said::Goodbye(credit)),
        Event::Message { length, envelope, credit, bytes } => {
            assert!(current.is_none(), "a message within a message");
            said.push(Said::Begins { length, envelope, credit });
            *current = Some((length, bytes.to_vec()));
        }
        Event::Body { offset, bytes } => {
            let (_, sofar) = current.as_mut().expect("a message has begun");
            assert_eq!(sofar.len(), usize::try_from(offset).unwrap());
            assert!(!bytes.is_empty());
            sofar.extend_from_slice(bytes);
        }
    }
    if let Some((length, sofar)) = current {
        let left = usize::try_from(*length).unwrap().checked_sub(sofar.len()).expect("too much");
        assert_eq!(usize::try_from(framing.body_left()).unwrap(), left);
        if left == 0 {
            said.push(Said::Whole(current.take().expect("some").1));
        }
    }
}

/// What [`read`] has open when frames come: what its peer's limits let it send.
fn open_of(stream: &[u8]) -> (u64, u64) {
    if stream.len() < HELLO {
        return (0, 0);
    }
    let (longest, messages, bytes) = (half(stream, 24), half(stream, 28), half(stream, 32));
    let mut open = (0_u64, 0_u64);
    for length in [100_u32, 20] {
        let fits = open.0 < u64::from(messages) && open.1 + u64::from(length) <= u64::from(bytes);
        if fits && length <= longest {
            open = (open.0 + 1, open.1 + u64::from(length));
        }
    }
    open
}

fn agree(stream: &[u8], cuts: &[usize]) -> Verdict {
    let expected = oracle(stream, open_of(stream));
    let found = read(stream, cuts);
    assert_eq!(found, expected, "cut at {cuts:?}");
    found
}

// ---------------------------------------------------------------- honest streams

/// A peer that writes what a correct one may write.
struct Writer {
    framing: Framing,
    stream: Vec<u8>,
    sent: usize,
}

impl Writer {
    /// It has read a hello, so it may send, and holds a message of 100 bytes, so it can give credit.
    fn new() -> Self {
        let framing = Framing::new(PEER).unwrap();
        let other = Framing::new(OWN).unwrap();
        assert!(other.next(&mut &greeting(PEER).to_wire()[..]).unwrap().is_some());
        let mut came = greeting(OWN).to_wire().to_vec();
        came.extend(other.message(100, Envelope::default()).unwrap());
        came.extend([0; 100]);
        let mut piece = &came[..];
        while framing.next(&mut piece).unwrap().is_some() {}
        Self { framing, stream: greeting(PEER).to_wire().to_vec(), sent: 0 }
    }

    fn message(&mut self, length: usize, envelope: Envelope) {
        let header = self.framing.message(length, envelope).unwrap();
        self.stream.extend(header);
        self.stream.extend(bytes(self.sent, length));
        self.sent += 1;
    }

    fn everything() -> Vec<u8> {
        let mut writer = Self::new();
        writer.message(5, Envelope { tag: Some(7), immediate: None });
        writer.message(0, Envelope { tag: None, immediate: Some(u64::MAX) });
        writer.framing.release(100).unwrap();
        let credit = writer.framing.credit_frame().expect("100 of 250 bytes are due");
        writer.stream.extend(credit);
        writer.message(64, Envelope { tag: Some(0), immediate: Some(0) });
        writer.message(0, Envelope::default());
        let alive = writer.framing.sign_of_life().unwrap();
        writer.stream.extend(alive);
        let goodbye = writer.framing.goodbye().unwrap();
        writer.stream.extend(goodbye);
        let alive = writer.framing.sign_of_life().unwrap();
        writer.stream.extend(alive);
        writer.stream
    }
}

#[test]
fn every_split_of_every_kind_of_frame_says_the_same() {
    let stream = Writer::everything();
    let whole = agree(&stream, &[]);
    assert_eq!((whole.fault, whole.end), (None, End::Orderly));
    let credits: Vec<&Said> =
        whole.said.iter().filter(|said| matches!(said, Said::Credit(_))).collect();
    let given = Said::Credit(Grant { messages: 1, bytes: 100 });
    let none = Said::Credit(Grant::NONE);
    assert_eq!(credits, [&given, &none, &none]);
    let wholes = whole.said.iter().filter(|said| matches!(said, Said::Whole(_))).count();
    assert_eq!((wholes, whole.said.len()), (4, 13));
    for first in 0..=stream.len() {
        agree(&stream, &[first]);
        for width in [1, 2, 7, HEADER - 1, HEADER, HEADER + 1] {
            agree(&stream, &[first, (first + width).min(stream.len())]);
        }
    }
    let each: Vec<usize> = (0..stream.len()).collect();
    agree(&stream, &each);
}

#[test]
fn a_stream_may_end_anywhere() {
    let stream = Writer::everything();
    for length in 0..=stream.len() {
        agree(&stream[..length], &[]);
        agree(&stream[..length], &[length / 2]);
    }
    assert_eq!(read(&[], &[]).end, End::Gone);
    assert_eq!(read(&stream[..HELLO], &[]).end, End::Gone);
    assert_eq!(read(&stream[..HELLO - 1], &[]).end, End::Cut);
    assert_eq!(read(&stream[..HELLO + HEADER + 4], &[]).end, End::Cut);
}

#[test]
fn a_stranger_is_known_by_its_first_wrong_byte() {
    for stranger in [&b"G"[..], b"SW-HELP", b"\x16\x03\x01", b"SW-HELLO\x02"] {
        let fault = read(stranger, &[]).fault;
        let wanted = if stranger.len() > 8 { FrameFault::Version } else { FrameFault::Magic };
        assert_eq!(fault, Some(wanted), "{stranger:?}");
    }
    let mut hello = greeting(PEER).to_wire();
    hello[16] ^= 0x80;
    assert_eq!(read(&hello[..17], &[]).fault, Some(FrameFault::Hash));
    assert_eq!(read(&hello[..16], &[]).fault, None);
}

// ---------------------------------------------------------------- wrong fields

#[test]
fn each_wrong_field_is_named() {
    let hello = |at: usize, bytes: &[u8]| {
        let mut stream = greeting(PEER).to_wire().to_vec();
        stream[at..at + bytes.len()].copy_from_slice(bytes);
        agree(&stream, &[]).fault
    };
    assert_eq!(hello(0, b"s"), Some(FrameFault::Magic));
    assert_eq!(hello(11, &[1]), Some(FrameFault::Version));
    assert_eq!(hello(12, &[1]), Some(FrameFault::Reserved));
    assert_eq!(hello(23, &[0]), Some(FrameFault::Hash));
    let limits = |error| Some(FrameFault::Limits(error));
    assert_eq!(hello(27, &[1]), limits(LimitsError::MessageBytesMax));
    assert_eq!(hello(28, &[0; 4]), limits(LimitsError::CreditMessages));
    assert_eq!(hello(32, &[99]), limits(LimitsError::CreditBytes));
    assert_eq!(hello(36, &[3]), Some(FrameFault::Kind));
    assert_eq!(hello(37, &[1]), Some(FrameFault::Kind));
    assert_eq!(hello(63, &[1]), Some(FrameFault::Reserved));
    assert_eq!(hello(64, b"."), Some(FrameFault::Name));
    assert_eq!(hello(127, b"x"), Some(FrameFault::Name));
    assert_eq!(hello(64, b"p"), None);

    let frame = |at: usize, bytes: &[u8]| {
        let mut writer = Writer::new();
        writer.message(4, Envelope::default());
        let from = HELLO + at;
        writer.stream[from..from + bytes.len()].copy_from_slice(bytes);
        agree(&writer.stream, &[HELLO + 9]).fault
    };
    assert_eq!(frame(0, &[1]), Some(FrameFault::Sequence));
    assert_eq!(frame(4, &301_u16.to_le_bytes()), Some(FrameFault::Length));
    assert_eq!(frame(4, &300_u16.to_le_bytes()), None);
    assert_eq!(frame(6, &[1]), Some(FrameFault::Length));
    for flags in [0, 2, 8, 16 | 1, 32 | 1, 64 | 1, 128 | 1] {
        assert_eq!(frame(7, &[flags]), Some(FrameFault::Flags), "{flags}");
    }
    assert_eq!(frame(7, &[9]), Some(FrameFault::Length));
    assert_eq!(frame(15, &[1]), Some(FrameFault::Tag));
    assert_eq!(frame(16, &[1]), Some(FrameFault::Immediate));
    assert_eq!(frame(24, &[3]), Some(FrameFault::Credit));
    assert_eq!(frame(28, &[121]), Some(FrameFault::Credit));
    assert_eq!(frame(24, &[2, 0, 0, 0, 120]), None);

    let control = |at: usize, bytes: &[u8]| {
        let mut writer = Writer::new();
        let credit = writer.framing.sign_of_life().unwrap();
        writer.stream.extend(credit);
        let from = HELLO + at;
        writer.stream[from..from + bytes.len()].copy_from_slice(bytes);
        agree(&writer.stream, &[]).fault
    };
    assert_eq!(control(4, &[1]), Some(FrameFault::Length));
    assert_eq!(control(7, &[11]), Some(FrameFault::Flags));
    assert_eq!(control(8, &[3]), Some(FrameFault::Control));
    assert_eq!(control(8, &[0]), Some(FrameFault::Control));
    assert_eq!(control(9, &[1]), Some(FrameFault::Control));
    assert_eq!(control(16, &[1]), Some(FrameFault::Immediate));
    assert_eq!(control(24, &[3]), Some(FrameFault::Credit));
}

/// Frames of control by hand: what a [`Framing`] would not write.
fn raw_frame(sequence: u32, flags: u8, length: u32, tag: u64) -> Vec<u8> {
    let head = u64::from(sequence) | u64::from(length) << 32 | u64::from(flags) << 56;
    [head, tag, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn nothing_but_credit_follows_a_goodbye() {
    for (flags, tag, fault) in [
        (9, 1, None),
        (9, 2, Some(FrameFault::AfterGoodbye)),
        (1, 0, Some(FrameFault::AfterGoodbye)),
    ] {
        let mut stream = greeting(PEER).to_wire().to_vec();
        stream.extend(raw_frame(0, 9, 0, 2));
        stream.extend(raw_frame(1, flags, 0, tag));
        assert_eq!(agree(&stream, &[]).fault, fault);
    }
}

#[test]
fn who_sends_more_than_allowed_is_cut_off() {
    let hello = greeting(PEER).to_wire();
    let mut stream = hello.to_vec();
    for sequence in 0..41 {
        assert_eq!(agree(&stream, &[]).fault, None);
        stream.extend(raw_frame(sequence, 1, 0, 0));
    }
    assert_eq!(agree(&stream, &[]).fault, Some(FrameFault::Overrun));
    let mut stream = hello.to_vec();
    for (sequence, length) in (0..).zip([300_u32; 13].into_iter().chain([100, 1])) {
        assert_eq!(agree(&stream, &[]).fault, None, "{sequence}");
        stream.extend(raw_frame(sequence, 1, length, 0));
        stream.extend(bytes(0, usize::try_from(length).unwrap()));
    }
    assert_eq!(agree(&stream, &[]).fault, Some(FrameFault::Overrun));
}

#[test]
fn faults_say_the_field_and_are_fatal_for_the_connection() {
    assert_eq!(Fatal::from(FrameFault::Sequence), Fatal::Corrupt);
    assert!(FrameFault::Version.to_string().starts_with("version: "));
    let limits = FrameFault::Limits(LimitsError::CreditBytes);
    assert_eq!(limits.to_string(), "credit_bytes: allow at least message_bytes_max");
    assert_eq!(
        Framing::new(Limits { credit_bytes: 299, ..OWN }).map(|_| ()),
        Err(LimitsError::CreditBytes)
    );
}

// ---------------------------------------------------------------- sending

#[test]
fn what_cannot_be_sent_consumes_nothing() {
    let framing = Framing::new(OWN).unwrap();
    let plain = Envelope::default();
    let refused = |length, error: PostError| {
        assert_eq!(framing.may_send(length), Err(error));
        assert_eq!(framing.message(length, plain), Err(error));
    };
    refused(0, Retry::NotConnected.into());
    assert_eq!((framing.credit_frame(), framing.sign_of_life()), (None, None));
    framing.next(&mut &greeting(PEER).to_wire()[..]).unwrap();
    refused(101, Misuse::TooLong.into());
    refused(1 << 24, Misuse::TooLong.into());
    refused(usize::MAX, Misuse::TooLong.into());
    for (number, length) in (0_u32..).zip([100, 100]) {
        assert_eq!(framing.may_send(length), Ok(()));
        assert_eq!(half(&framing.message(length, plain).unwrap(), 0), number);
    }
    refused(51, Retry::NoCredit.into());
    assert_eq!(half(&framing.message(50, plain).unwrap(), 0), 2);
    refused(0, Retry::NoCredit.into());
    assert!(!framing.is_drained());
    let mut back = raw_frame(0, 9, 0, 1);
    back[24..32].copy_from_slice(&[3, 0, 0, 0, 250, 0, 0, 0]);
    framing.next(&mut &back[..]).unwrap();
    assert!(framing.is_drained());
    assert_eq!(half(&framing.message(50, plain).unwrap(), 0), 3);
    assert!(framing.goodbye().is_some());
    assert_eq!(framing.goodbye(), None);
    refused(0, Retry::NotConnected.into());
    assert!(framing.sign_of_life().is_some());
    framing.reset();
    refused(0, Retry::NotConnected.into());
    assert_eq!(framing.end(), End::Gone);
}

#[test]
fn a_body_may_bypass_the_reader() {
    let mut writer = Writer::new();
    writer.message(200, Envelope::default());
    writer.message(3, Envelope::default());
    let (first, rest) = writer.stream.split_at(HELLO + HEADER + 50);
    let framing = Framing::new(OWN).unwrap();
    let mut piece = first;
    while framing.next(&mut piece).unwrap().is_some() {}
    assert_eq!(framing.body_left(), 150);
    assert_eq!(framing.body_taken(100), 100);
    let mut piece = &rest[100..110];
    let event = framing.next(&mut piece).unwrap();
    assert_eq!(event, Some(Event::Body { offset: 150, bytes: &rest[100..110] }));
    assert_eq!(framing.body_taken(41), 40, "no more than is left");
    assert_eq!((framing.body_left(), framing.body_taken(1)), (0, 0));
    let mut piece = &rest[150..];
    let event = framing.next(&mut piece).unwrap();
    assert!(matches!(event, Some(Event::Message { length: 3, .. })), "{event:?}");
}

// ---------------------------------------------------------------- random streams

#[derive(Clone, Debug)]
enum Damage {
    None,
    Flip { at: usize, bit: u8 },
    Set { at: usize, byte: u8 },
    Remove { at: usize, count: usize },
    Repeat { at: usize, count: usize },
}

fn damages() -> impl Strategy<Value = Damage> {
    let at = 0..2000_usize;
    prop_oneof![
        2 => Just(Damage::None),
        3 => (at.clone(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip { at, bit }),
        3 => (at.clone(), any::<u8>()).prop_map(|(at, byte)| Damage::Set { at, byte }),
        1 => (at.clone(), 1..80_usize).prop_map(|(at, count)| Damage::Remove { at, count }),
        1 => (at, 1..80_usize).prop_map(|(at, count)| Damage::Repeat { at, count }),
    ]
}

fn apply(stream: &mut Vec<u8>, damage: &Damage) {
    let size = stream.len();
    match *damage {
        Damage::None => {}
        Damage::Flip { at, bit } => stream[at % size] ^= 1 << bit,
        Damage::Set { at, byte } => stream[at % size] = byte,
        Damage::Remove { at, count } => {
            let at = at % size;
            stream.drain(at..(at + count).min(size));
        }
        Damage::Repeat { at, count } => {
            let at = at % size;
            let part = stream[at..(at + count).min(size)].to_vec();
            stream.splice(at..at, part);
        }
    }
}

fn envelopes() -> impl Strategy<Value = Envelope> {
    (any::<Option<u64>>(), any::<Option<u64>>())
        .prop_map(|(tag, immediate)| Envelope { tag, immediate })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_stream_cut_anywhere_says_what_the_oracle_reads(
        messages in prop::collection::vec((0..120_usize, envelopes()), 0..8),
        says_goodbye in any::<bool>(),
        damage in damages(),
        mut cuts in prop::collection::vec(0..1500_usize, 0..12),
    ) {
        let mut writer = Writer::new();
        for (length, envelope) in messages {
            writer.message(length, envelope);
        }
        if says_goodbye {
            let goodbye = writer.framing.goodbye().unwrap();
            writer.stream.extend(goodbye);
        }
        let mut stream = writer.stream;
        apply(&mut stream, &damage);
        for cut in &mut cuts {
            *cut %= stream.len() + 1;
        }
        cuts.sort_unstable();
        let verdict = agree(&stream, &cuts);
        if matches!(damage, Damage::None) {
            prop_assert_eq!(verdict.fault, None);
        }
    }

    #[test]
    fn random_bytes_behind_a_hello_are_read_alike(
        frames in prop::collection::vec((0..4_u32, 0..16_u8, 0..400_u32, 0..4_u64), 0..6),
        tail in prop::collection::vec(any::<u8>(), 0..200),
        cut in 0..600_usize,
    ) {
        let mut stream = greeting(PEER).to_wire().to_vec();
        for (sequence, flags, length, tag) in frames {
            stream.extend(raw_frame(sequence, flags | 1, length, tag));
            stream.extend(bytes(0, usize::try_from(length).unwrap() % 300));
        }
        stream.extend(tail);
        let cut = cut % (stream.len() + 1);
        agree(&stream, &[cut]);
    }
}

// ---------------------------------------------------------------- credit of both directions

#[derive(Clone, Copy, Debug)]
enum Act {
    Send { end: usize, length: usize },
    Deliver { end: usize, count: usize },
    Release { end: usize, count: usize },
}

/// One end, with the bytes that are on their way to it, and the messages that it holds.
struct Side {
    framing: Framing,
    coming: VecDeque<u8>,
    held: VecDeque<u32>,
    received: Vec<u32>,
    sent: Vec<u32>,
}

struct Talk {
    sides: [Side; 2],
    limits: [Limits; 2],
}

impl Talk {
    fn new(limits: [Limits; 2]) -> Self {
        let sides = [0, 1].map(|end: usize| Side {
            framing: Framing::new(limits[end]).unwrap(),
            coming: greeting(limits[1 - end]).to_wire().into_iter().collect(),
            held: VecDeque::new(),
            received: Vec::new(),
            sent: Vec::new(),
        });
        Self { sides, limits }
    }

    /// Sends if credit allows, and checks the answer against the sum of everything that is not yet back.
    fn send(&mut self, end: usize, length: usize) -> bool {
        let sent = self.sides[end].framing.message(length, Envelope::default());
        let other = &mut self.sides[1 - end];
        match sent {
            Ok(header) => {
                other.coming.extend(header);
                other.coming.extend(bytes(0, length));
                self.sides[end].sent.push(u32::try_from(length).unwrap());
                true
            }
            Err(PostError::Retry(Retry::NoCredit | Retry::NotConnected)) => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn deliver(&mut self, end: usize, count: usize) {
        let side = &mut self.sides[end];
        let count = count.min(side.coming.len());
        let bytes: Vec<u8> = side.coming.drain(..count).collect();
        let mut piece = &bytes[..];
        while let Some(event) = side.framing.next(&mut piece).expect("honest") {
            if let Event::Message { length, .. } = event {
                side.held.push_back(length);
                side.received.push(length);
            }
        }
        let limits = self.limits[end];
        let bytes: u64 = side.held.iter().map(|length| u64::from(*length)).sum();
        assert!(side.held.len() <= usize::try_from(limits.credit_messages).unwrap());
        assert!(bytes <= u64::from(limits.credit_bytes));
    }

    fn release(&mut self, end: usize, count: usize) {
        let side = &mut self.sides[end];
        let count = count.min(side.held.len());
        for length in side.held.drain(..count) {
            side.framing.release(length).unwrap();
        }
        if let Some(frame) = side.framing.credit_frame() {
            self.sides[1 - end].coming.extend(frame);
        }
    }

    fn settle(&mut self) {
        for _ in 0..3 {
            for end in [0, 1] {
                self.deliver(end, usize::MAX);
                self.release(end, usize::MAX);
            }
        }
    }
}

fn limits() -> impl Strategy<Value = Limits> {
    (0..200_u32, 1..9_u32, 0..200_u32).prop_map(|(longest, credit_messages, more)| Limits {
        message_bytes_max: longest,
        credit_messages,
        credit_bytes: longest + more,
    })
}

fn acts() -> impl Strategy<Value = Act> {
    let end = 0..2_usize;
    prop_oneof![
        (end.clone(), 0..200_usize).prop_map(|(end, length)| Act::Send { end, length }),
        (end.clone(), 1..300_usize).prop_map(|(end, count)| Act::Deliver { end, count }),
        (end, 1..4_usize).prop_map(|(end, count)| Act::Release { end, count }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Neither end is ever cut off, nobody holds more than it allowed, and once everything is read and released both may send
    /// their longest message: credit does not leak and nobody waits for ever.
    #[test]
    fn credit_is_kept_and_comes_back(
        mine in limits(),
        theirs in limits(),
        acts in prop::collection::vec(acts(), 0..120),
    ) {
        let mut talk = Talk::new([mine, theirs]);
        for act in acts {
            match act {
                Act::Send { end, length } => {
                    let longest = usize::try_from(talk.limits[1 - end].message_bytes_max).unwrap();
                    talk.send(end, length.min(longest));
                }
                Act::Deliver { end, count } => talk.deliver(end, count),
                Act::Release { end, count } => talk.release(end, count),
            }
        }
        talk.settle();
        for end in [0, 1] {
            let longest = usize::try_from(talk.limits[1 - end].message_bytes_max).unwrap();
            prop_assert!(talk.send(end, longest), "end {} waits for ever", end);
        }
        talk.settle();
        for end in [0, 1] {
            prop_assert_eq!(&talk.sides[1 - end].received, &talk.sides[end].sent);
        }
    }
}

/// Credit goes back by itself only once it is worth a frame, and until it has gone the peer does not have it.
#[test]
fn what_is_due_is_not_yet_given() {
    let [early, late] = [9, 10].map(|released| {
        let framing = Framing::new(OWN).unwrap();
        framing.next(&mut &greeting(PEER).to_wire()[..]).unwrap();
        for sequence in 0..40 {
            let frame = raw_frame(sequence, 1, 0, 0);
            assert!(framing.next(&mut &frame[..]).unwrap().is_some());
        }
        assert_eq!(framing.credit_frame(), None, "nothing was released");
        for _ in 0..released {
            framing.release(0).unwrap();
        }
        framing
    });
    assert_eq!(early.credit_frame(), None, "9 of 40");
    assert_eq!(half(&late.credit_frame().expect("10 of 40"), 24), 10);
    assert_eq!(late.credit_frame(), None, "it has gone");
    let next = raw_frame(40, 1, 0, 0);
    assert_eq!(early.next(&mut &next[..]), Err(FrameFault::Overrun));
    assert!(late.next(&mut &next[..]).is_ok());
    early.release(0).unwrap();
    assert_eq!(early.credit_frame(), None, "nothing is written after a fault");
}

#[test]
fn what_is_not_held_cannot_be_released() {
    let mut writer = Writer::new();
    writer.message(10, Envelope::default());
    let framing = Framing::new(OWN).unwrap();
    let mut piece = &writer.stream[..];
    while framing.next(&mut piece).unwrap().is_some() {}
    assert!(framing.release(11).is_err());
    assert!(framing.release(10).is_ok());
    assert!(framing.release(0).is_err());
}
