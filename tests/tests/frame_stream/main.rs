//! Frames on a byte stream: the incremental reader against an oracle that has the whole stream before it, every split of
//! every frame, every wrong field, and the credit of both directions.
//!
//! The oracle is written from the drawing of the layout and shares no code with the reader: it cuts fields out of a
//! slice by hand. Whatever the stream (honest, damaged, random) and wherever it is cut, both must say the same.
//!
//! ```text
//!   verdict.rs   the oracle and the reader, and what they say
//!   credit.rs    two ends that send, deliver and release
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]

mod credit;
mod verdict;

use proptest::prelude::*;
use spinwire_dataplane::error::{Fatal, Misuse, PostError, Retry};
use spinwire_dataplane::id::Name;
use spinwire_dataplane::provider::tcp::frame::{
    End, Envelope, Event, FrameFault, Framing, Grant, Greeting, Limits, LimitsError,
};
use spinwire_layouts::abi::WIRE_VERSION;
use spinwire_layouts::shm::EndpointKind;

use verdict::{agree, read};

const HEADER: usize = 32;
const HELLO: usize = 128;
/// What the reading end takes in most of the tests.
const OWN: Limits = Limits { message_bytes_max: 300, credit_messages: 40, credit_bytes: 4000 };
const PEER: Limits = Limits { message_bytes_max: 100, credit_messages: 3, credit_bytes: 250 };

fn greeting(limits: Limits) -> Greeting {
    Greeting {
        name: Name::new("peer-7").unwrap(),
        kind: EndpointKind::Rdm,
        limits,
        token: 0x1234_5678_9ABC,
        number: 1 << 40,
    }
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
    for stranger in [&b"G"[..], b"SW-HELP", b"\x16\x03\x01", b"SW-HELLO\x07\0\0\0"] {
        let fault = read(stranger, &[]).fault;
        let wanted =
            if stranger.len() > 8 { FrameFault::Version { theirs: 7 } } else { FrameFault::Magic };
        assert_eq!(fault, Some(wanted), "{stranger:?}");
    }
    // A version is told as a whole, so it is waited for.
    assert_eq!(read(b"SW-HELLO\x07\0\0", &[]).fault, None);
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
    assert_eq!(hello(11, &[1]), Some(FrameFault::Version { theirs: WIRE_VERSION + (1 << 24) }));
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
    assert_eq!(
        FrameFault::Version { theirs: 1 }.to_string(),
        "version: ours 2, theirs 1; remedy: run the same version at both ends"
    );
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
