//! Credit of both directions: two ends that send, deliver and release as they are told.

use std::collections::VecDeque;

use proptest::prelude::*;
use spinwire_dataplane::error::{PostError, Retry};
use spinwire_dataplane::provider::tcp::frame::{Envelope, Event, FrameFault, Framing, Limits};

use super::{OWN, PEER, Writer, bytes, greeting, half, raw_frame};

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

/// The other end makes use of three messages where forty are allowed: a quarter of the three is due, or it would wait for ever.
#[test]
fn credit_is_due_by_what_the_other_end_makes_use_of() {
    let framing = Framing::new(OWN).unwrap();
    framing.next(&mut &greeting(PEER).to_wire()[..]).unwrap();
    framing.send_evenly();
    let frame = raw_frame(0, 1, 0, 0);
    assert!(framing.next(&mut &frame[..]).unwrap().is_some());
    framing.release(0).unwrap();
    assert_eq!(half(&framing.credit_frame().expect("1 of 3"), 24), 1);
}
