//! What the oracle and the reader say of a stream.

use spinwire_dataplane::error::Fatal;
use spinwire_dataplane::id::Name;
use spinwire_dataplane::provider::tcp::frame::{
    End, Envelope, Event, FrameFault, Framing, Grant, Greeting, Limits, LimitsError,
};
use spinwire_layouts::abi::{WIRE_HASH, WIRE_VERSION};
use spinwire_layouts::shm::EndpointKind;

use super::{HEADER, HELLO, OWN, Said, Verdict, half, word};

/// Reads a whole stream at once. `open` is what the reading end has sent and not got back: messages, bytes.
pub(crate) fn oracle(stream: &[u8], mut open: (u64, u64)) -> Verdict {
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
                // Which one it is has to be here.
                8..12 if stream.len() < 12 => break,
                8..12 => FrameFault::Version { theirs: half(stream, 8) },
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
    let token = u64::from_le_bytes(hello[40..48].try_into().unwrap());
    let number = u64::from_le_bytes(hello[48..56].try_into().unwrap());
    if hello[56..64] != [0; 8] {
        return Err(FrameFault::Reserved);
    }
    let end = hello[64..].iter().position(|byte| *byte == 0).ok_or(FrameFault::Name)?;
    let (name, padding) = hello[64..].split_at(end);
    let text = core::str::from_utf8(name).ok().ok_or(FrameFault::Name)?;
    let name = Name::new(text).ok().ok_or(FrameFault::Name)?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(FrameFault::Name);
    }
    said.push(Said::Hello(Greeting { name, kind, limits, token, number }));
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

/// Reads the same stream in pieces that end at `cuts`, and puts bodies together. The end that reads sends what it can as soon
/// as it may: one message of 100 bytes and one of 20.
pub(crate) fn read(stream: &[u8], cuts: &[usize]) -> Verdict {
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
pub(crate) fn open_of(stream: &[u8]) -> (u64, u64) {
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

pub(crate) fn agree(stream: &[u8], cuts: &[usize]) -> Verdict {
    let expected = oracle(stream, open_of(stream));
    let found = read(stream, cuts);
    assert_eq!(found, expected, "cut at {cuts:?}");
    found
}
