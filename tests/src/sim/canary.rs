//! Canaries: providers that are broken on purpose. The checkers have to find each of them out.

use core::cell::{Cell, RefCell};

use heapless::VecView;
use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::id::{Addr, Name, WrId};
use spinwire_dataplane::provider::{
    Buffer, CancelError, Cqe, EndpointType, Event, Info, KeepsPosted, ParcelWr, Payload, Provider,
    Published, RecvWr, Select, SendWr, Source, Waiting,
};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::Instant;

use crate::conformance::{Rig, Sizes};

/// What is broken. Most happen once in a while, not always.
pub mod flaw {
    /// An accepted message is not sent.
    pub const LOSES: u8 = 0;
    /// A message is sent twice.
    pub const REPEATS: u8 = 1;
    /// A message overtakes the one before it.
    pub const SWAPS: u8 = 2;
    /// A byte of a message is changed.
    pub const CORRUPTS: u8 = 3;
    /// The tag of a message is changed.
    pub const MISLABELS: u8 = 4;
    /// The completion of an operation never comes.
    pub const FORGETS: u8 = 5;
    /// The completion of an operation comes twice.
    pub const STUTTERS: u8 = 6;
    /// Two completions have each other's id.
    pub const CONFUSES: u8 = 7;
    /// A living peer is reported gone.
    pub const BURIES_ALIVE: u8 = 8;
    /// A directed receive takes messages of others.
    pub const MISDIRECTS: u8 = 9;
    /// A buffer that is under way is said to be settled. Only where there are such.
    pub const LETS_GO: u8 = 10;
    /// That a buffer is settled is not said.
    pub const KEEPS: u8 = 11;
    /// All of them.
    pub const ALL: [u8; 12] = [
        LOSES,
        REPEATS,
        SWAPS,
        CORRUPTS,
        MISLABELS,
        FORGETS,
        STUTTERS,
        CONFUSES,
        BURIES_ALIVE,
        MISDIRECTS,
        LETS_GO,
        KEEPS,
    ];
}

/// How rarely the flaw shows.
const EVERY: u32 = 23;

/// A send that waits to be overtaken.
type Kept = (Addr, Vec<u8>, Option<u64>, Option<u64>);

/// A provider with a flaw.
#[derive(Debug)]
pub struct Broken<P, const FLAW: u8> {
    inner: P,
    calls: Cell<u32>,
    kept: RefCell<Option<Kept>>,
    last_event: Cell<Option<Event>>,
}

impl<P: Provider, const FLAW: u8> Broken<P, FLAW> {
    /// Whether it is time.
    fn now_and_then(&self) -> bool {
        self.calls.set(self.calls.get() + 1);
        // There are fewer of these.
        let every = if [flaw::KEEPS, flaw::CONFUSES].contains(&FLAW) { 3 } else { EVERY };
        self.calls.get().is_multiple_of(every)
    }

    fn overtaken(&self) {
        if let Some((to, bytes, tag, immediate)) = self.kept.borrow_mut().take() {
            let wr = SendWr { to, payload: Payload::Inject(&bytes), tag, immediate };
            // Where there is no room it is lost, which is a flaw as well.
            let _lost = self.inner.post_send(&wr).is_err();
        }
    }

    fn spoil(&self, wr: &SendWr<'_>) -> Result<(), PostError> {
        let mut bytes = wr.payload.bytes().to_vec();
        if let Some(byte) = bytes.last_mut() {
            *byte ^= 0x10;
        }
        self.inner.post_send(&SendWr { payload: Payload::Inject(&bytes), ..*wr })
    }
}

#[expect(unsafe_code, reason = "a promise, which its flaws keep")]
// SAFETY: it hands requests on, or copies what they send within the post; what it reports twice, or one for the other, is over by then.
unsafe impl<P: Provider, const FLAW: u8> KeepsPosted for Broken<P, FLAW> {}

impl<P: Provider, const FLAW: u8> Provider for Broken<P, FLAW> {
    fn info(&self) -> &Info {
        self.inner.info()
    }

    fn connect(&self, name: &Name) -> Result<Addr, PostError> {
        self.inner.connect(name)
    }

    fn disconnect(&self, addr: Addr) -> Result<(), Misuse> {
        self.inner.disconnect(addr)
    }

    fn post_send(&self, wr: &SendWr<'_>) -> Result<(), PostError> {
        let injected = matches!(wr.payload, Payload::Inject(_));
        let sending = [flaw::LOSES, flaw::REPEATS, flaw::SWAPS, flaw::CORRUPTS, flaw::MISLABELS];
        if !sending.contains(&FLAW) || !injected || !self.now_and_then() {
            self.inner.post_send(wr)?;
            self.overtaken();
            return Ok(());
        }
        match FLAW {
            flaw::LOSES => Ok(()),
            flaw::REPEATS => {
                self.inner.post_send(wr)?;
                let _full = self.inner.post_send(wr).is_err();
                Ok(())
            }
            flaw::SWAPS => {
                let bytes = wr.payload.bytes().to_vec();
                let before = self.kept.replace(Some((wr.to, bytes, wr.tag, wr.immediate)));
                assert!(before.is_none(), "it is overtaken by the very next send");
                Ok(())
            }
            flaw::CORRUPTS => self.spoil(wr),
            _ => self.inner.post_send(&SendWr { tag: wr.tag.map(|tag| tag ^ 1), ..*wr }),
        }
    }

    fn post_parcel(&self, wr: &ParcelWr) -> Result<u8, PostError> {
        self.inner.post_parcel(wr)
    }

    fn is_settled(&self, to: Addr, number: u8) -> bool {
        self.inner.is_settled(to, number) || FLAW == flaw::LETS_GO && self.now_and_then()
    }

    fn settle(&self, source: Addr, numbers: u64) {
        if FLAW != flaw::KEEPS || !self.now_and_then() {
            self.inner.settle(source, numbers);
        }
    }

    fn post_recv(&self, wr: &RecvWr) -> Result<(), PostError> {
        if FLAW == flaw::MISDIRECTS && matches!(wr.from, Source::Only(_)) {
            return self.inner.post_recv(&RecvWr { from: Source::Any, ..*wr });
        }
        self.inner.post_recv(wr)
    }

    fn ring_doorbell(&self) -> Published {
        self.inner.ring_doorbell()
    }

    fn poll_cq(&self, now: Instant, out: &mut VecView<Cqe>) {
        self.inner.poll_cq(now, out);
        let completing = [flaw::FORGETS, flaw::STUTTERS, flaw::CONFUSES];
        // Buffers that stay posted are left alone: nobody is to write what another reads.
        let ended = out.iter().filter(|cqe| cqe.buffer == Buffer::Returned).count();
        let wanted = if FLAW == flaw::CONFUSES { 2 } else { 1 };
        if !completing.contains(&FLAW) || ended < wanted || !self.now_and_then() {
            return;
        }
        match FLAW {
            flaw::FORGETS => {
                out.pop();
            }
            flaw::STUTTERS => {
                let again = out[0];
                let _full = out.push(again).is_err();
            }
            _ => {
                let back = |cqe: &&mut Cqe| cqe.buffer == Buffer::Returned;
                let mut back = out.iter_mut().filter(back);
                if let (Some(one), Some(other)) = (back.next(), back.next()) {
                    core::mem::swap(&mut one.wr_id, &mut other.wr_id);
                }
            }
        }
    }

    fn poll_event(&self) -> Option<Event> {
        let event = self.inner.poll_event();
        if let Some(Event::Connected(addr)) = event {
            self.last_event.set(Some(Event::PeerGone(addr)));
        } else if FLAW == flaw::BURIES_ALIVE && event.is_none() && self.now_and_then() {
            return self.last_event.take();
        }
        event
    }

    fn cancel(&self, wr_id: WrId) -> Result<(), CancelError> {
        self.inner.cancel(wr_id)
    }

    fn peek(&self, from: Source, select: Select) -> Option<Waiting> {
        self.inner.peek(from, select)
    }
}

/// A rig whose ports have a flaw.
#[derive(Debug)]
pub struct Canary<R, const FLAW: u8>(R);

impl<R: Rig, const FLAW: u8> Rig for Canary<R, FLAW> {
    type Ground<'m> = R::Ground<'m>;
    type Port<'m> = Broken<R::Port<'m>, FLAW>;
    const TYPES: &'static [EndpointType] = R::TYPES;
    const FAULTS: bool = R::FAULTS;
    const SPILLS: bool = R::SPILLS;

    fn lines(sizes: &Sizes) -> usize {
        R::lines(sizes)
    }

    fn lay<'m>(lines: &'m [Line], bump: &Bump<'m>, sizes: &Sizes) -> Self::Ground<'m> {
        R::lay(lines, bump, sizes)
    }

    fn open<'m>(
        ground: &'m Self::Ground<'m>,
        bump: &Bump<'m>,
        who: (&Name, EndpointType),
        sizes: &Sizes,
    ) -> Result<Self::Port<'m>, String> {
        Ok(Broken {
            inner: R::open(ground, bump, who, sizes)?,
            calls: Cell::new(0),
            kept: RefCell::new(None),
            last_event: Cell::new(None),
        })
    }

    fn mark_dead<'m>(ground: &'m Self::Ground<'m>, who: &Name) {
        R::mark_dead(ground, who);
    }

    fn kill<'m>(ground: &'m Self::Ground<'m>, who: &Name) {
        R::kill(ground, who);
    }

    fn leftovers<'m>(ground: &'m Self::Ground<'m>) -> String {
        R::leftovers(ground)
    }
}
