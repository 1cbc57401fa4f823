//! What all desks of an endpoint know together: who waits for what, and what nobody waits for.
//!
//! ```text
//!   Desk, Desk, ..  --Rc-->  Book   stands    operations that somebody waits for at one of them, or has given up
//!                                   letters   completions of nobody here
//!                                   claim     the endpoint has a book, and no other: a mark of the endpoint's own
//! ```
//!
//! Whichever desk turns the endpoint finds completions of all. It puts each where its waiter looks, so that it does not matter who found it.
//!
//! Invariants: (1) an endpoint has one book at most; (2) an operation that was given up is known until its completion has come.

use core::cell::{Cell, RefCell};
use core::task::Waker;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use spinwire_dataplane::id::WrId;
use spinwire_dataplane::msg::{Claimed, Completion, Endpoint, Kind};
use spinwire_dataplane::provider::{Provider, Status};

use super::{DeskCounts, Letter};

/// How an operation stands that somebody waits for, or did.
pub(super) enum Stand<'m> {
    Awaited(Option<Waker>),
    Here(Completion<'m>),
    GivenUp,
}

/// What the desks of an endpoint share.
pub(super) struct Book<'e, 'm> {
    _claim: Claimed<'e>,
    pub(super) stands: RefCell<HashMap<u64, Stand<'m>>>,
    letters: RefCell<VecDeque<Letter<'m>>>,
    counts: Cell<DeskCounts>,
}

impl<'e, 'm> Book<'e, 'm> {
    /// The book of an endpoint; `None` where there is one.
    pub(super) fn of<P: Provider>(endpoint: &'e Endpoint<'m, P>) -> Option<Rc<Self>> {
        Some(Rc::new(Self {
            _claim: endpoint.claim()?,
            stands: RefCell::default(),
            letters: RefCell::default(),
            counts: Cell::default(),
        }))
    }

    /// Brings a completion of that endpoint to its place.
    pub(super) fn sort<P: Provider>(
        &self,
        endpoint: &Endpoint<'m, P>,
        mut completion: Completion<'m>,
    ) {
        if completion.loan.is_none() && matches!(completion.kind, Kind::Received | Kind::Parcel) {
            // The receive goes on, and whoever waits for it, too.
            let copy = endpoint.read(&completion, <[u8]>::to_vec);
            self.keep(completion, copy);
            return;
        }
        let number = completion.id.as_raw();
        let before = self.stands.borrow_mut().remove(&number);
        match before {
            Some(Stand::Awaited(waker)) => {
                self.stands.borrow_mut().insert(number, Stand::Here(completion));
                // Last: a task may look at once.
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Some(Stand::GivenUp) => {
                if completion.status != Status::Cancelled {
                    self.count(|counts| counts.late += 1);
                }
                if matches!(completion.kind, Kind::Received | Kind::Parcel) {
                    self.keep(completion, None);
                } else {
                    // Of a message of several parts.
                    drop(endpoint.take_parts(&mut completion));
                }
            }
            // An id completes once with its loan, so that nothing is here yet.
            Some(Stand::Here(_)) | None => self.keep(completion, None),
        }
    }

    pub(super) fn keep(&self, completion: Completion<'m>, copy: Option<Vec<u8>>) {
        self.count(|counts| counts.letters += 1);
        self.letters.borrow_mut().push_back(Letter { completion, copy });
    }

    pub(super) fn next_letter(&self) -> Option<Letter<'m>> {
        self.letters.borrow_mut().pop_front()
    }

    /// The letter that is the end of an operation.
    pub(super) fn letter_of(&self, id: WrId) -> Option<Completion<'m>> {
        let mut letters = self.letters.borrow_mut();
        let is_end =
            |letter: &Letter<'m>| letter.completion.id == id && letter.completion.loan.is_some();
        let at = letters.iter().position(is_end)?;
        letters.remove(at).map(|letter| letter.completion)
    }

    /// Whether somebody waits for an operation already.
    pub(super) fn is_awaited(&self, id: WrId) -> bool {
        let has_waiter = |stand: &Stand<'_>| !matches!(stand, Stand::GivenUp);
        self.stands.borrow().get(&id.as_raw()).is_some_and(has_waiter)
    }

    pub(super) fn await_from_now(&self, id: WrId) {
        self.stands.borrow_mut().insert(id.as_raw(), Stand::Awaited(None));
    }

    /// The completion that somebody waits for, if it is here.
    pub(super) fn take_here(&self, id: WrId) -> Option<Completion<'m>> {
        let mut stands = self.stands.borrow_mut();
        if !matches!(stands.get(&id.as_raw()), Some(Stand::Here(_))) {
            return None;
        }
        let Some(Stand::Here(completion)) = stands.remove(&id.as_raw()) else { return None };
        self.count(|counts| counts.met += 1);
        Some(completion)
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut DeskCounts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    pub(super) const fn counts(&self) -> DeskCounts {
        self.counts.get()
    }
}
