//! A node: an endpoint with an inbox, which keeps completions until the case looks at them.

use core::cell::RefCell;
use core::ops::Deref;
use std::collections::VecDeque;

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::{Addr, Name, WrId};
use spinwire_dataplane::msg::{
    Completion, Endpoint, Exposed, Kind, Parcel, RecvFrom, SendTo, Target,
};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::{Access, Event, OneSided, Status};
use spinwire_dataplane::raw::loan::{Loan, LoanPool};
use spinwire_dataplane::time::Instant;

use super::one_sided::Local;
use super::rig::Rig;
use super::world::past_injected;

/// A completion, with a copy of its message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Got {
    /// Which operation.
    pub id: WrId,
    /// What it was posted with.
    pub context: u64,
    /// What it is about.
    pub kind: Kind,
    /// How it ended.
    pub status: Status,
    /// The message; of one-sided operations the local range.
    pub bytes: Vec<u8>,
    /// Bytes of it, or bytes done.
    pub length: usize,
    /// Where it was in its buffer.
    pub offset: usize,
    /// Its tag.
    pub tag: Option<u64>,
    /// Its immediate data.
    pub immediate: Option<u64>,
    /// Its sender.
    pub source: Option<Addr>,
    /// Whether the buffer came back.
    pub returned: bool,
}

/// An endpoint with an inbox.
pub struct Node<'m, R: Rig> {
    endpoint: Endpoint<'m, R::Port<'m>>,
    name: Name,
    pool: &'m LoanPool<'m>,
    inbox: RefCell<VecDeque<Got>>,
    parcels: RefCell<VecDeque<Parcel<'m>>>,
}

impl<R: Rig> core::fmt::Debug for Node<'_, R> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Node").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<'m, R: Rig> Deref for Node<'m, R> {
    type Target = Endpoint<'m, R::Port<'m>>;

    fn deref(&self) -> &Self::Target {
        &self.endpoint
    }
}

impl<'m, R: Rig> Node<'m, R> {
    pub(super) fn new(
        endpoint: Endpoint<'m, R::Port<'m>>,
        name: Name,
        pool: &'m LoanPool<'m>,
    ) -> Self {
        let (inbox, parcels) = (RefCell::default(), RefCell::default());
        Self { endpoint, name, pool, inbox, parcels }
    }

    /// The endpoint itself.
    pub const fn endpoint(&self) -> &Endpoint<'m, R::Port<'m>> {
        &self.endpoint
    }

    /// Its name.
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// One turn; what came of it is in the inbox afterwards.
    pub fn turn(&self, now: Instant) {
        // What it found is in the inbox.
        let _busy = self.endpoint.turn(now, Budget::DEFAULT).is_busy();
        while let Some(mut completion) = self.endpoint.poll() {
            self.keep(&completion);
            if completion.kind == Kind::Sent {
                // Else the endpoint keeps them for whoever asks.
                drop(self.endpoint.take_parts(&mut completion));
            }
            self.parcels.borrow_mut().extend(completion.parcel.take());
        }
    }

    /// One turn, and the first completion that came of it, as it is.
    pub fn completion(&self, now: Instant) -> Option<Completion<'m>> {
        // What it found is looked for next.
        let _busy = self.endpoint.turn(now, Budget::DEFAULT).is_busy();
        self.endpoint.poll()
    }

    /// Puts a completion into the inbox; of a run, each of its messages.
    fn keep(&self, completion: &Completion<'m>) {
        let messages: Vec<Vec<u8>> = if completion.kind == Kind::Received {
            let split = |bytes: &[u8]| completion.messages(bytes).map(<[u8]>::to_vec).collect();
            self.endpoint.read(completion, split).expect("a message that has arrived")
        } else if matches!(completion.kind, Kind::Written | Kind::Read | Kind::Atomic) {
            vec![completion.loan.as_deref().expect("it is over").to_vec()]
        } else {
            vec![Vec::new()]
        };
        let count = messages.len();
        let stride = completion.length.next_multiple_of(8);
        for (at, bytes) in messages.into_iter().enumerate() {
            self.inbox.borrow_mut().push_back(Got {
                id: completion.id,
                context: completion.context,
                kind: completion.kind,
                status: completion.status,
                bytes,
                length: completion.length,
                offset: completion.offset + at * stride,
                tag: completion.tag,
                immediate: completion.immediate,
                source: completion.source,
                returned: completion.loan.is_some() && at + 1 == count,
            });
        }
    }

    /// The oldest completion in the inbox.
    pub fn take(&self) -> Option<Got> {
        self.inbox.borrow_mut().pop_front()
    }

    /// The oldest completion in the inbox that is about a message that has come.
    pub fn take_message(&self) -> Option<Got> {
        let mut inbox = self.inbox.borrow_mut();
        let at = inbox.iter().position(|got| got.kind == Kind::Received)?;
        inbox.remove(at)
    }

    /// The oldest buffer of a pool that has come and was not taken from here.
    pub fn take_parcel(&self) -> Option<Parcel<'m>> {
        self.parcels.borrow_mut().pop_front()
    }

    /// How many completions are in the inbox.
    pub fn inbox_len(&self) -> usize {
        self.inbox.borrow().len()
    }

    /// How many messages are in the inbox.
    pub fn messages_len(&self) -> usize {
        self.inbox.borrow().iter().filter(|got| got.kind == Kind::Received).count()
    }

    /// A buffer that holds `bytes`.
    pub fn loan(&self, bytes: &[u8]) -> Loan<'m> {
        let mut loan = self.pool.lend().expect("a loan");
        loan.fill(bytes).unwrap();
        loan
    }

    /// Connects, whatever is simulated.
    ///
    /// # Errors
    /// As [`Endpoint::connect`].
    pub fn connect(&self, name: &Name) -> Result<Addr, PostError> {
        past_injected(|| self.endpoint.connect(name))
    }

    /// Sends a copy, whatever is simulated.
    ///
    /// # Errors
    /// As [`Endpoint::inject`].
    pub fn inject(&self, to: SendTo, bytes: &[u8]) -> Result<(), PostError> {
        past_injected(|| self.endpoint.inject(to, bytes))
    }

    /// Sends a buffer filled with `bytes`, whatever is simulated. The refused buffer is seen to be as it was, and dropped.
    ///
    /// # Errors
    /// As [`Endpoint::post_send`].
    pub fn send(&self, to: SendTo, bytes: &[u8], context: u64) -> Result<WrId, PostError> {
        past_injected(|| {
            self.endpoint.post_send(to, self.loan(bytes), context).map_err(|refused| {
                assert_eq!(&*refused.item, bytes, "a refused loan comes back as it was");
                refused.error
            })
        })
    }

    /// Posts a buffer for one message, whatever is simulated.
    ///
    /// # Errors
    /// As [`Endpoint::post_recv`].
    pub fn recv(&self, from: RecvFrom, context: u64) -> Result<WrId, PostError> {
        past_injected(|| {
            self.endpoint.post_recv(from, self.loan(&[]), context).map_err(|refused| refused.error)
        })
    }

    /// Posts a buffer for many messages, whatever is simulated.
    ///
    /// # Errors
    /// As [`Endpoint::post_multi_recv`].
    pub fn multi_recv(
        &self,
        from: RecvFrom,
        room_bytes_min: u32,
        context: u64,
    ) -> Result<WrId, PostError> {
        past_injected(|| {
            self.endpoint
                .post_multi_recv(from, self.loan(&[]), room_bytes_min, context)
                .map_err(|refused| refused.error)
        })
    }

    /// Posts a buffer for runs of messages, whatever is simulated.
    ///
    /// # Errors
    /// As [`Endpoint::post_run_recv`].
    pub fn run_recv(
        &self,
        from: RecvFrom,
        room_bytes_min: u32,
        context: u64,
    ) -> Result<WrId, PostError> {
        past_injected(|| {
            self.endpoint
                .post_run_recv(from, self.loan(&[]), room_bytes_min, context)
                .map_err(|refused| refused.error)
        })
    }

    /// Posts a one-sided operation, whatever is simulated.
    ///
    /// # Errors
    /// As [`Endpoint::post_write`].
    pub fn one_sided(
        &self,
        op: OneSided,
        target: Target,
        local: Local<'_>,
        context: u64,
    ) -> Result<WrId, PostError> {
        let (bytes, length) = match local {
            Local::Bytes(bytes) => (bytes, bytes.len()),
            Local::Length(length) => (&[][..], length),
        };
        past_injected(|| {
            let loan = self.loan(bytes);
            let posted = match op {
                OneSided::Write => self.endpoint.post_write(target, loan, context),
                OneSided::Read => self.endpoint.post_read(target, loan, length, context),
                OneSided::FetchAdd(add) => self.endpoint.post_fetch_add(target, loan, add, context),
                OneSided::CompareSwap { expected, swap } => {
                    self.endpoint.post_compare_swap(target, loan, (expected, swap), context)
                }
            };
            posted.map_err(|refused| {
                assert_eq!(&*refused.item, bytes, "a refused loan comes back as it was");
                refused.error
            })
        })
    }

    /// Exposes a buffer that begins with `bytes`.
    ///
    /// # Errors
    /// As [`Endpoint::expose`].
    pub fn expose(&self, bytes: &[u8], access: Access) -> Result<Exposed, PostError> {
        self.endpoint.expose(self.loan(bytes), access).map_err(|refused| refused.error)
    }

    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        core::iter::from_fn(|| self.endpoint.poll_event()).collect()
    }
}
