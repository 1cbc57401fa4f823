//! The oracle: all that is known about a chain is the list of what was submitted and of the CQEs that counted.

use std::collections::BTreeMap;

use spinwire_dataplane::chain::{
    Cause, ChainEvent, ChainFault, ChainId, ChainOutcome, Entry, EntrySet, Progress, Remains, Why,
};

use crate::{ECANCELED, F_MORE, F_NOTIF};

/// One entry and its CQEs.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    entry: Entry,
    operation: Option<(i32, bool)>,
    is_notified: bool,
}

impl Record {
    pub(crate) fn has_ended(&self) -> bool {
        self.operation.is_some_and(|(_, announced)| !announced || self.is_notified)
    }

    pub(crate) fn result(&self) -> Option<i32> {
        self.operation.map(|(res, _)| res)
    }

    /// Why it is not whole.
    fn why(&self) -> Option<Why> {
        let (res, _) = self.operation?;
        if res < 0 {
            return Some(Why::Errno(i32::try_from(-i64::from(res)).unwrap_or(i32::MAX)));
        }
        let wanted = self.entry.wanted()?;
        let bytes = u32::try_from(res).unwrap();
        match bytes.cmp(&wanted) {
            core::cmp::Ordering::Less => Some(Why::Short { bytes }),
            core::cmp::Ordering::Equal => None,
            core::cmp::Ordering::Greater => Some(Why::Overrun { bytes }),
        }
    }

    fn moved(&self) -> u64 {
        let (Some((res, _)), Some(wanted)) = (self.operation, self.entry.wanted()) else {
            return 0;
        };
        u64::try_from(res).unwrap_or(0).min(wanted.into())
    }

    fn did_something(&self) -> bool {
        match self.entry.wanted() {
            None => self.result().is_some_and(|res| res >= 0),
            Some(_) => self.result().is_some_and(|res| res > 0) && self.moved() > 0,
        }
    }
}

/// One chain.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) id: ChainId,
    pub(crate) context: u64,
    pub(crate) records: Vec<Record>,
    was_cancelled: bool,
}

impl Chain {
    fn set(&self, is_in: impl Fn(&Record) -> bool) -> EntrySet {
        let bits = self.records.iter().enumerate().map(|(i, r)| u64::from(is_in(r)) << i);
        EntrySet::from_bits(bits.sum())
    }

    pub(crate) fn operations(&self) -> EntrySet {
        self.set(|record| record.operation.is_none())
    }

    pub(crate) fn notifications(&self) -> EntrySet {
        self.set(|record| record.operation.is_some() && !record.has_ended())
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.records.iter().all(Record::has_ended)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.records.iter().map(Record::moved).sum()
    }

    fn result(&self) -> Result<(), Cause> {
        let broken: Vec<Cause> = (0..)
            .zip(&self.records)
            .filter_map(|(entry, record)| Some(Cause { entry, why: record.why()? }))
            .collect();
        let real = broken.iter().find(|cause| cause.errno() != Some(ECANCELED));
        real.or(broken.first()).map_or(Ok(()), |cause| Err(*cause))
    }

    fn remains(&self) -> Remains {
        let Some(at) = self.records.iter().position(|record| record.why().is_some()) else {
            return Remains::Nothing;
        };
        if self.records.iter().any(|r| matches!(r.why(), Some(Why::Overrun { .. }))) {
            return Remains::Unknown;
        }
        let later: Vec<usize> =
            (at + 1..self.records.len()).filter(|i| self.records[*i].did_something()).collect();
        let (entry, byte) =
            (u16::try_from(at).unwrap(), u32::try_from(self.records[at].moved()).unwrap());
        if later.is_empty() {
            return Remains::From { entry, byte };
        }
        let beyond = EntrySet::from_bits(later.iter().map(|i| 1_u64 << i).sum());
        Remains::Hole { entry, byte, beyond }
    }

    fn event(&self) -> ChainEvent {
        if self.is_complete() {
            ChainEvent::Complete { bytes: self.bytes(), result: self.result() }
        } else if self.operations().is_empty() {
            ChainEvent::AllOpsComplete
        } else {
            ChainEvent::Pending
        }
    }

    pub(crate) fn outcome(&self) -> ChainOutcome {
        ChainOutcome {
            context: self.context,
            entries: u16::try_from(self.records.len()).unwrap(),
            bytes: self.bytes(),
            result: self.result(),
            remains: self.remains(),
            was_cancelled: self.was_cancelled,
        }
    }

    /// Whether it is one send, which has moved all its bytes, and nobody has wanted it to end.
    pub(crate) fn is_whole_send(&self) -> bool {
        let [only] = self.records.as_slice() else { return false };
        !self.was_cancelled && only.entry.wanted().is_some() && only.why().is_none()
    }

    pub(crate) fn cancel(&mut self) {
        self.was_cancelled |= !self.operations().is_empty();
    }
}

/// Every chain that lives, and how many each slot ever had.
#[derive(Debug)]
pub(crate) struct Oracle {
    pub(crate) live: BTreeMap<u32, Chain>,
    pub(crate) issued: Vec<u32>,
    pub(crate) faults: [u64; ChainFault::ALL.len()],
}

impl Oracle {
    pub(crate) fn new(slots: u32) -> Self {
        Self {
            live: BTreeMap::new(),
            issued: vec![0; usize::try_from(slots).unwrap()],
            faults: [0; ChainFault::ALL.len()],
        }
    }

    pub(crate) fn start(&mut self, id: ChainId, context: u64, entries: &[Entry]) {
        let issued = &mut self.issued[usize::try_from(id.slot()).unwrap()];
        *issued += 1;
        assert_eq!(
            id.generation().as_raw(),
            *issued,
            "every use of a slot has a number of its own"
        );
        let record = |entry: &Entry| Record { entry: *entry, operation: None, is_notified: false };
        let records = entries.iter().map(record).collect();
        let chain = Chain { id, context, records, was_cancelled: false };
        assert!(self.live.insert(id.slot(), chain).is_none(), "{id:?} took an occupied slot");
    }

    pub(crate) fn on_cqe(
        &mut self,
        user_data: u64,
        res: i32,
        flags: u32,
    ) -> Result<Progress, ChainFault> {
        let answer = self.judge(user_data, res, flags);
        if let Err(fault) = answer {
            let index = ChainFault::ALL.iter().position(|f| *f == fault).unwrap();
            self.faults[index] += 1;
        }
        answer
    }

    fn judge(&mut self, user_data: u64, res: i32, flags: u32) -> Result<Progress, ChainFault> {
        let (tag, generation) = (user_data >> 56, user_data >> 32 & 0xff_ffff);
        let (slot, entry) = (user_data >> 6 & 0x3ff_ffff, user_data & 63);
        let Some(issued) = self.issued.get(usize::try_from(slot).unwrap()) else {
            return Err(ChainFault::Unknown);
        };
        if tag != 3 || generation == 0 {
            return Err(ChainFault::Unknown);
        }
        let slot = u32::try_from(slot).unwrap();
        let Some(chain) = self.live.get_mut(&slot) else {
            let is_next = generation == u64::from(*issued) + 1;
            return Err(if is_next { ChainFault::Unknown } else { ChainFault::Stale });
        };
        if generation != u64::from(*issued) {
            return Err(ChainFault::Stale);
        }
        let index = usize::try_from(entry).unwrap();
        let record = chain.records.get_mut(index).ok_or(ChainFault::NoEntry)?;
        let is_more = flags & F_MORE != 0;
        match (flags & F_NOTIF != 0, record.operation) {
            (false, None) => record.operation = Some((res, is_more)),
            (false, Some(_)) => return Err(ChainFault::Duplicate),
            (true, None) => return Err(ChainFault::EarlyNotification),
            (true, Some((_, false))) => return Err(ChainFault::Unannounced),
            (true, Some(_)) if record.is_notified => return Err(ChainFault::Underflow),
            (true, Some(_)) if is_more => return Err(ChainFault::Endless),
            (true, Some(_)) => record.is_notified = true,
        }
        let returned = record.has_ended().then(|| record.entry.context());
        Ok(Progress {
            chain: chain.id,
            entry: u16::try_from(entry).unwrap(),
            context: chain.context,
            returned,
            event: chain.event(),
        })
    }
}
