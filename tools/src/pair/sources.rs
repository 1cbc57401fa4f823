//! Buffers that are handed to the provider and sent, or written to the other end, from where they lie.

use std::collections::VecDeque;

use spinwire_dataplane::error::{PostError, Refused};
use spinwire_dataplane::id::WrId;
use spinwire_dataplane::msg::{Endpoint, Kind};
use spinwire_dataplane::provider::{Modes, Provider, Status};
use spinwire_dataplane::raw::loan::Loan;

use super::floor::Witness;
use super::station::{Deadline, Station};
use crate::pattern::Stamps;
use crate::report::Failure;

/// From so many bytes on a message is worth it, where the provider has a device read memory that is registered.
const UNCOPIED_BYTES_MIN: usize = 4096;

/// Whether a stream of such messages goes from where they lie.
pub(crate) fn are_better<P: Provider, F: Witness>(
    station: &Station<'_, P, F>,
    size: usize,
) -> bool {
    size >= UNCOPIED_BYTES_MIN && station.endpoint.info().modes.has(Modes::REGISTRATION)
}

/// A buffer that holds the message of that number.
struct Message<'m> {
    number: u64,
    loan: Loan<'m>,
    stamps: Stamps,
}

/// Buffers of one size.
pub(crate) struct Sources<'s, 'm, P, F> {
    station: &'s Station<'m, P, F>,
    free: Vec<(Loan<'m>, Stamps)>,
    /// The next message, made up before it is posted.
    made_up: Option<Message<'m>>,
    /// What those hold that are under way, the oldest first: they come back in order.
    under_way: VecDeque<Stamps>,
}

impl<'s, 'm, P: Provider, F: Witness> Sources<'s, 'm, P, F> {
    /// All that the station has to spare.
    pub(crate) fn new(station: &'s Station<'m, P, F>, size: usize) -> Result<Self, Failure> {
        let mut free = Vec::new();
        while let Some(mut loan) = station.lend_source() {
            loan.set_len(size)?;
            let stamps = Stamps::fill(loan.room().get_mut(..size).unwrap_or_default());
            free.push((loan, stamps));
        }
        let under_way = VecDeque::with_capacity(free.len());
        Ok(Self { station, free, made_up: None, under_way })
    }

    /// Makes message `number` up in a free one, if there is one: for who knows what is to be posted before it is time to.
    #[inline(always)]
    pub(crate) fn make_up(&mut self, number: u64) {
        if self.made_up.as_ref().is_none_or(|message| message.number != number) {
            let unposted = self.made_up.take().map(|Message { loan, stamps, .. }| (loan, stamps));
            let Some((mut loan, mut stamps)) = unposted.or_else(|| self.free.pop()) else { return };
            let size = loan.len();
            stamps.stamp(loan.room().get_mut(..size).unwrap_or_default(), number);
            self.made_up = Some(Message { number, loan, stamps });
        }
    }

    /// Hands one to `post`, as message `number`. Whether it was taken.
    #[inline(always)]
    pub(crate) fn post(
        &mut self,
        number: u64,
        post: impl FnOnce(&Endpoint<'m, P>, Loan<'m>) -> Result<WrId, Refused<Loan<'m>>>,
    ) -> Result<bool, Failure> {
        self.make_up(number);
        let Some(Message { loan, stamps, .. }) = self.made_up.take() else { return Ok(false) };
        match post(&self.station.endpoint, loan) {
            Ok(_id) => {
                self.under_way.push_back(stamps);
                Ok(true)
            }
            Err(Refused { error: PostError::Retry(_), item: loan }) => {
                self.made_up = Some(Message { number, loan, stamps });
                Ok(false)
            }
            Err(Refused { error, .. }) => Err(error.into()),
        }
    }

    /// Takes back those that are done.
    #[inline(always)]
    pub(crate) fn collect(&mut self) -> Result<(), Failure> {
        while !self.under_way.is_empty()
            && let Some(completion) = self.station.endpoint.poll()
        {
            if Station::<P, F>::is_of_order(&completion) {
                self.station.keep(completion);
                continue;
            }
            if !matches!(completion.kind, Kind::Sent | Kind::Written) {
                continue;
            }
            if completion.status != Status::Success {
                return Err(format!("a buffer was not sent: {:?}", completion.status).into());
            }
            if let (Some(loan), Some(stamps)) = (completion.loan, self.under_way.pop_front()) {
                self.free.push((loan, stamps));
            }
        }
        Ok(())
    }

    /// Waits until all are done.
    pub(crate) fn settle(&mut self) -> Result<(), Failure> {
        let deadline = Deadline::new();
        while !self.under_way.is_empty() {
            self.station.turn();
            self.collect()?;
            self.station.watch(&deadline, "the device does not end what it was handed")?;
        }
        Ok(())
    }
}
