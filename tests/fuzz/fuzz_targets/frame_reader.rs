//! A connection between two ends, with and without damage on the way.
//!
//! Both ends send what credit allows, and what is under way reaches the other in pieces of any length. While nothing is damaged,
//! an oracle says what must arrive: every message, once, in order, with its bytes and envelope, and no fault. Once bytes
//! were damaged, lost or made up, anything may be said, but one thing stays true: a reader that gets the same bytes at once says
//! the same, and a fault stays a fault.
#![no_main]

use std::collections::VecDeque;

use libfuzzer_sys::fuzz_target;
use spinwire_dataplane::error::{Fatal, PostError};
use spinwire_dataplane::provider::tcp::frame::{
    Envelope, Event, FrameFault, Framing, Greeting, Limits, Reader,
};
use spinwire_fuzz::{Input, name};
use spinwire_layouts::shm::EndpointKind;

const LIMITS: [Limits; 2] = [
    Limits { message_bytes_max: 400, credit_messages: 9, credit_bytes: 700 },
    Limits { message_bytes_max: 64, credit_messages: 3, credit_bytes: 64 },
];

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let mut run = Run { ends: [0, 1].map(End::new) };
    for _ in 0..300 {
        if input.is_empty() {
            break;
        }
        run.step(&mut input);
    }
    run.finish();
});

/// What a reader said, with bodies put together.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    events: Vec<String>,
    body: Vec<u8>,
    /// Bytes of the message that is coming in, once it has begun.
    wanted: usize,
    messages: VecDeque<(Vec<u8>, Envelope)>,
    envelope: Envelope,
    fault: Option<FrameFault>,
}

impl Heard {
    fn note(&mut self, event: &Event<'_>) {
        match *event {
            Event::Message { length, envelope, credit, bytes } => {
                self.end_of_body();
                self.wanted = usize::try_from(length).expect("it fits");
                self.envelope = envelope;
                self.events.push(format!("{length} {envelope:?} {credit:?}"));
                self.body.extend(bytes);
            }
            Event::Body { offset, bytes } => {
                assert_eq!(usize::try_from(offset), Ok(self.body.len()));
                self.body.extend(bytes);
            }
            Event::Hello | Event::Credit(_) | Event::Goodbye(_) => {
                self.end_of_body();
                self.events.push(format!("{event:?}"));
            }
        }
        assert!(self.body.len() <= self.wanted, "more than the message has");
    }

    fn end_of_body(&mut self) {
        assert_eq!(self.body.len(), self.wanted, "a message ends early");
        self.body.clear();
        self.wanted = 0;
    }
}

struct End {
    number: usize,
    framing: Framing,
    /// Bytes on their way to this end.
    coming: VecDeque<u8>,
    /// All that came, for the reader that gets it at once.
    came: Vec<u8>,
    heard: Heard,
    /// Messages on their way to this end.
    expected: VecDeque<(Vec<u8>, Envelope)>,
    held: Vec<u32>,
    is_damaged: bool,
}

impl End {
    fn new(number: usize) -> Self {
        let greeting = Greeting {
            name: name("fuzz"),
            kind: EndpointKind::Msg,
            limits: LIMITS[1 - number],
            token: 0,
            number: 0,
        };
        Self {
            number,
            framing: Framing::new(LIMITS[number]).expect("they can be"),
            coming: greeting.to_wire().into_iter().collect(),
            came: Vec::new(),
            heard: Heard::default(),
            expected: VecDeque::new(),
            held: Vec::new(),
            is_damaged: false,
        }
    }

    fn take(&mut self, count: usize) {
        let count = count.min(self.coming.len());
        let bytes: Vec<u8> = self.coming.drain(..count).collect();
        self.came.extend(&bytes);
        let mut piece = &bytes[..];
        loop {
            let before = piece.len();
            match self.framing.next(&mut piece) {
                Ok(None) => {
                    assert!(piece.is_empty());
                    break;
                }
                Ok(Some(event)) => {
                    assert!(piece.len() < before);
                    self.heard.note(&event);
                    if let Event::Message { length, .. } = event {
                        self.held.push(length);
                    }
                    self.whole_message();
                }
                Err(fault) => {
                    assert!(self.is_damaged, "{fault} of an honest peer");
                    assert_eq!(*self.heard.fault.get_or_insert(fault), fault);
                    break;
                }
            }
        }
        let held: u32 = self.held.iter().sum();
        let limits = LIMITS[self.number];
        if self.heard.fault.is_none() {
            assert!(held <= limits.credit_bytes, "{held}");
            assert!(self.held.len() <= usize::try_from(limits.credit_messages).expect("it fits"));
        }
    }

    /// Compares a message that is complete with what was sent.
    fn whole_message(&mut self) {
        let is_message = !self.heard.events.is_empty() && self.framing.body_left() == 0;
        if self.is_damaged || !is_message || self.held.len() == self.heard.messages.len() {
            return;
        }
        let found = (self.heard.body.clone(), self.heard.envelope);
        assert_eq!(Some(&found), self.expected.front());
        self.expected.pop_front();
        self.heard.messages.push_back(found);
    }
}

struct Run {
    ends: [End; 2],
}

impl Run {
    fn step(&mut self, input: &mut Input<'_>) {
        let action = input.byte();
        let [near, far] = &mut self.ends;
        let (near, far) = if action & 1 == 0 { (near, far) } else { (far, near) };
        match action >> 1 & 15 {
            0..=3 => send(near, far, input),
            4..=8 => near.take(1 + input.below(600)),
            9 | 10 => release(near, far, 1 + input.below(3)),
            11 => far.coming.extend(near.framing.sign_of_life().into_iter().flatten()),
            12 if input.byte() < 8 => {
                far.coming.extend(near.framing.goodbye().into_iter().flatten());
            }
            13 if input.byte() < 64 => damage(near, far, input),
            _ => {}
        }
    }

    /// Everything arrives, and a reader that gets all of it at once has heard the same.
    fn finish(&mut self) {
        for end in &mut self.ends {
            end.take(usize::MAX);
            if !end.is_damaged {
                assert!(end.expected.is_empty(), "a message was lost");
            }
            let reader = Reader::new(LIMITS[end.number].message_bytes_max);
            let mut heard = Heard::default();
            let mut piece = &end.came[..];
            while let Ok(Some(event)) = reader.next(&mut piece) {
                heard.note(&event);
            }
            heard.fault = reader.fault();
            // Credit is known to the framing alone: it may have stopped earlier.
            if matches!(end.heard.fault, Some(FrameFault::Credit | FrameFault::Overrun)) {
                assert!(heard.events.starts_with(&end.heard.events));
            } else {
                assert_eq!(heard.fault, end.heard.fault);
                assert_eq!(
                    (heard.events, heard.body),
                    (std::mem::take(&mut end.heard.events), std::mem::take(&mut end.heard.body),)
                );
            }
        }
    }
}

fn send(near: &mut End, far: &mut End, input: &mut Input<'_>) {
    let envelope = Envelope {
        tag: (input.byte() & 1 == 1).then(|| input.word()),
        immediate: (input.byte() & 1 == 1).then(|| input.word()),
    };
    let length = input.below(450);
    let allowed = near.framing.may_send(length);
    match near.framing.message(length, envelope) {
        Ok(header) => {
            let mut bytes = input.bytes(length).to_vec();
            bytes.resize(length, 0xA5);
            far.coming.extend(header);
            far.coming.extend(&bytes);
            far.expected.push_back((bytes, envelope));
            assert_eq!(allowed, Ok(()));
        }
        Err(error) => {
            assert_eq!(allowed, Err(error));
            let is_fatal = error == PostError::Fatal(Fatal::Corrupt);
            assert_eq!(is_fatal, near.heard.fault.is_some());
        }
    }
}

fn release(near: &mut End, far: &mut End, count: usize) {
    // A message whose end has not come yet is still being written.
    let done = near.held.len() - usize::from(near.framing.body_left() > 0);
    for length in near.held.drain(..count.min(done)) {
        near.framing.release(length).expect("it is held");
        near.heard.messages.pop_front();
    }
    far.coming.extend(near.framing.credit_frame().into_iter().flatten());
}

/// Damages what is on its way to one end; whose credit was damaged may then do wrong itself.
fn damage(near: &mut End, far: &mut End, input: &mut Input<'_>) {
    near.is_damaged = true;
    far.is_damaged = true;
    if near.coming.is_empty() {
        let made_up = input.below(80);
        near.coming.extend(input.bytes(made_up));
        return;
    }
    let at = input.below(near.coming.len());
    match input.byte() % 4 {
        0 => near.coming[at] = input.byte(),
        1 => near.coming[at] ^= 1 << (input.byte() % 8),
        2 => drop(near.coming.remove(at)),
        _ => near.coming.insert(at, input.byte()),
    }
}
