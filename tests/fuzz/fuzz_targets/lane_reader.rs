//! A lane, driven by any schedule of both ends, with and without a scribbler.
//!
//! While nobody scribbles, an oracle (a queue of messages) says what must arrive: everything published, once, in order,
//! with its bytes, tag and immediate data; a number of a parcel is under way from its staging to its settlement, and no longer;
//! and what was refused must have had a reason. As soon as the scribbler has been at
//! work, anything may arrive, but only within the stated bounds, and errors stay errors, not panics.
#![no_main]

use std::collections::VecDeque;

use libfuzzer_sys::fuzz_target;
use spinwire_dataplane::error::{Fatal, PostError};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::shm::lane::{
    Arrival, Content, Descriptor, Envelope, LaneMemory, LaneRx, LaneTx,
};
use spinwire_fuzz::{GEOMETRY, Input, lines, scribble};
use spinwire_layouts::shm::BufferId;

const CELLS: usize = 8;
const SPILL_LINES: usize = 16;
/// What buffers hold where nobody may write.
const GUARD: u8 = 0xA5;

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let memory = lines();
    let (cells, rest) = memory.split_at(CELLS);
    let (spill, rest) = rest.split_at(SPILL_LINES);
    let lane = LaneMemory { cells, spill, credit: &rest[0] };
    lane.reset();
    let longest = GEOMETRY.message_bytes_max();
    let mut run = Run {
        lines: &memory[..CELLS + SPILL_LINES + 1],
        tx: LaneTx::new(lane),
        rx: LaneRx::new(lane, longest),
        longest,
        staged: VecDeque::new(),
        visible: VecDeque::new(),
        under_way: 0,
        held: 0,
        is_scribbled: false,
    };
    for _ in 0..400 {
        if input.is_empty() {
            break;
        }
        if run.step(&mut input).is_err() {
            assert!(run.is_scribbled, "an honest lane fails");
            break;
        }
    }
});

/// A message as the oracle remembers it.
#[derive(Debug)]
struct Message {
    bytes: Vec<u8>,
    envelope: Envelope,
    /// Then `bytes` is empty.
    parcel: Option<Descriptor>,
}

struct Run<'s> {
    lines: &'s [Line],
    tx: LaneTx<'s>,
    rx: LaneRx<'s>,
    longest: usize,
    /// Staged, and not yet seen to be published.
    staged: VecDeque<Message>,
    visible: VecDeque<Message>,
    /// Numbers of parcels that were staged and not settled, a bit each; and those of them that the receiver has.
    under_way: u64,
    held: u64,
    is_scribbled: bool,
}

impl Run<'_> {
    fn step(&mut self, input: &mut Input<'_>) -> Result<(), Fatal> {
        let choice = input.byte();
        match choice % 8 {
            _ if choice >= 0xe0 => self.step_parcel(choice, input)?,
            0..=2 => self.send(input)?,
            3 => {
                self.tx.publish();
            }
            4..=5 => self.receive(input)?,
            6 => self.rx.return_credit(),
            _ => {
                let at = input.below(self.lines.len() * 8);
                // Half of the inputs never scribble, so that the oracle sees long runs.
                if at % 2 == 0 {
                    scribble(self.lines, at, input);
                    self.is_scribbled = true;
                }
            }
        }
        self.follow();
        Ok(())
    }

    /// A stage can publish on its own account: what the lane no longer holds staged is visible.
    fn follow(&mut self) {
        let staged = usize::try_from(self.tx.staged()).unwrap();
        assert!(staged <= CELLS);
        while self.staged.len() > staged {
            self.visible.extend(self.staged.pop_front());
        }
    }

    fn send(&mut self, input: &mut Input<'_>) -> Result<(), Fatal> {
        let kind = input.byte();
        let length = if kind & 4 == 0 { input.below(64) } else { input.below(self.longest + 1) };
        let mut bytes = input.bytes(length.min(16)).to_vec();
        bytes.resize(length, kind);
        let envelope = Envelope {
            tag: (kind & 1 != 0).then(|| input.word()),
            immediate: (kind & 2 != 0).then(|| input.word()),
        };
        match self.tx.stage(&bytes, envelope) {
            Ok(()) => self.staged.push_back(Message { bytes, envelope, parcel: None }),
            Err(refused) => self.refused(refused)?,
        }
        Ok(())
    }

    fn refused(&self, refused: PostError) -> Result<(), Fatal> {
        match refused {
            PostError::Fatal(fatal) => return Err(fatal),
            PostError::Retry(_) => {
                let waiting = self.staged.len() + self.visible.len();
                assert!(
                    self.is_scribbled || waiting > 0 || self.owes_credit(),
                    "an empty lane refuses"
                );
            }
            PostError::Misuse(misuse) => panic!("{misuse}"),
        }
        Ok(())
    }

    /// A parcel is sent, or some are settled; then every number is asked for.
    fn step_parcel(&mut self, choice: u8, input: &mut Input<'_>) -> Result<(), Fatal> {
        if choice % 4 == 0 {
            let numbers = input.word() & input.word();
            self.rx.settle(numbers);
            self.under_way &= !(numbers & self.held);
            self.held &= !numbers;
        } else {
            let (buffer, pool) = (BufferId::from_raw(input.word()), u32::from(input.half()));
            let envelope = Envelope { tag: (choice & 1 != 0).then_some(7), immediate: None };
            match self.tx.stage_parcel((buffer, pool), envelope) {
                Ok(number) => {
                    let bit = 1 << number;
                    assert!(self.is_scribbled || self.under_way & bit == 0, "{number} twice");
                    self.under_way |= bit;
                    let parcel = Some(Descriptor { buffer, pool, number });
                    self.staged.push_back(Message { bytes: Vec::new(), envelope, parcel });
                }
                Err(PostError::Retry(_)) if self.under_way == u64::MAX => {}
                Err(refused) => self.refused(refused)?,
            }
        }
        for number in 0..64 {
            let expected = self.under_way & 1 << number == 0;
            let settled = self.tx.is_settled(number);
            assert!(self.is_scribbled || settled == expected, "{number}: {settled}");
        }
        Ok(())
    }

    /// After all credit is returned, an empty lane takes any message.
    fn owes_credit(&self) -> bool {
        self.rx.return_credit();
        let probe = vec![0; self.longest];
        let refused = self.tx.stage(&probe, Envelope::default()).is_err();
        assert!(!refused || self.is_scribbled, "an empty lane with all its credit refuses");
        if !refused {
            self.tx.publish();
            if let Ok(Some(arrival)) = self.rx.peek() {
                self.rx.advance(&arrival);
            }
        }
        true
    }

    fn receive(&mut self, input: &mut Input<'_>) -> Result<(), Fatal> {
        let Some(arrival) = self.rx.peek()? else {
            assert!(
                self.is_scribbled || self.visible.is_empty(),
                "a published message is not there"
            );
            return Ok(());
        };
        assert!(arrival.length <= self.longest);
        if arrival.content == Content::Parcel {
            let descriptor = self.rx.read_parcel(&arrival)?;
            assert!(descriptor.number < 64 && descriptor.pool < 1 << 24, "out of bounds");
            self.rx.take_parcel(&arrival, &descriptor);
            self.held |= 1 << descriptor.number;
            let expected = self.visible.pop_front();
            let expected = expected.map(|message| (message.envelope, message.parcel));
            let found = Some((arrival.envelope, Some(descriptor)));
            assert!(self.is_scribbled || found == expected, "{found:?}, not {expected:?}");
            return Ok(());
        }
        let bytes = self.copy(&arrival, input.byte());
        self.rx.advance(&arrival);
        self.compare(&arrival, &bytes);
        if input.byte() % 2 == 0 {
            self.receive_run(&arrival, input);
        }
        Ok(())
    }

    /// What follows a message and is like it, in one call.
    fn receive_run(&mut self, like: &Arrival<'_>, input: &mut Input<'_>) {
        let stride = like.length.max(1) + usize::from(input.byte() % 9);
        let room = usize::from(input.byte() % 12);
        let mut to = vec![GUARD; stride * room];
        let count = usize::try_from(self.rx.take_run(like, &mut to, stride)).unwrap();
        assert!(count <= room);
        for slot in to.chunks_exact(stride).take(count) {
            self.compare(like, &slot[..like.length]);
            assert!(
                slot[like.length..].iter().all(|byte| *byte == GUARD),
                "written beside the message"
            );
        }
        assert!(to[stride * count..].iter().all(|byte| *byte == GUARD), "written behind the run");
    }

    /// The oldest message that was published is the one that has arrived.
    fn compare(&mut self, arrival: &Arrival<'_>, bytes: &[u8]) {
        let expected = self.visible.pop_front();
        if self.is_scribbled {
            return;
        }
        let expected = expected.expect("a message arrives that nobody published");
        assert_eq!(arrival.envelope, expected.envelope);
        assert_eq!(expected.parcel, None, "a parcel arrives as bytes");
        assert_eq!(arrival.length, expected.bytes.len());
        assert_eq!(bytes, expected.bytes);
    }

    /// Copies the message out, into the middle of a guarded buffer: not a byte beside it may be touched.
    fn copy(&self, arrival: &Arrival<'_>, gap: u8) -> Vec<u8> {
        let gap = usize::from(gap % 9);
        let mut room = vec![GUARD; gap + arrival.length + 8];
        let end = gap + arrival.length;
        self.rx.copy_out(arrival, &mut room[gap..end]);
        assert!(
            room[..gap].iter().chain(&room[end..]).all(|byte| *byte == GUARD),
            "written beside the message"
        );
        room[gap..end].to_vec()
    }
}
