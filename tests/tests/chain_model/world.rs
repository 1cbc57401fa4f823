//! The table and the oracle side by side: every call goes to both, and every answer and all that can be seen is compared.

use spinwire_dataplane::chain::{
    ChainError, ChainEvent, ChainFault, ChainId, ChainTable, Entry, Progress,
};

use crate::oracle::{Chain, Oracle};
use crate::{F_MORE, F_NOTIF};

pub(crate) struct World<'t, 'm> {
    pub(crate) table: &'t ChainTable<'m>,
    pub(crate) oracle: Oracle,
    completed: u64,
    abandoned: u64,
    refused: [u64; ChainError::ALL.len()],
}

impl<'t, 'm> World<'t, 'm> {
    pub(crate) fn new(table: &'t ChainTable<'m>) -> Self {
        let oracle = Oracle::new(table.capacity());
        Self { table, oracle, completed: 0, abandoned: 0, refused: [0; ChainError::ALL.len()] }
    }

    fn refuse<T>(&mut self, error: ChainError) -> Result<T, ChainError> {
        self.refused[ChainError::ALL.iter().position(|e| *e == error).unwrap()] += 1;
        Err(error)
    }

    fn whereabouts(&mut self, id: ChainId) -> Result<(), ChainError> {
        let Some(issued) = self.oracle.issued.get(usize::try_from(id.slot()).unwrap()) else {
            return self.refuse(ChainError::Unknown);
        };
        let (issued, generation) = (*issued, id.generation().as_raw());
        match self.oracle.live.contains_key(&id.slot()) {
            true if generation == issued => Ok(()),
            false if generation == issued + 1 => self.refuse(ChainError::Unknown),
            _ => self.refuse(ChainError::Stale),
        }
    }

    /// In the slot `at`, or in any.
    pub(crate) fn start(
        &mut self,
        at: Option<u32>,
        context: u64,
        entries: &[Entry],
    ) -> Result<ChainId, ChainError> {
        let got = match at {
            None => self.table.start(context, entries),
            Some(slot) => self.table.start_at(slot, context, entries),
        };
        let too_long = |e: &Entry| e.wanted().is_some_and(|wanted| i32::try_from(wanted).is_err());
        let expected = if entries.is_empty() {
            self.refuse(ChainError::NoEntries)
        } else if entries.len() > usize::from(self.table.entries_max()) {
            self.refuse(ChainError::TooManyEntries)
        } else if entries.iter().any(too_long) {
            self.refuse(ChainError::TooManyBytes)
        } else if at.is_some_and(|slot| slot >= self.table.capacity()) {
            self.refuse(ChainError::NoSlot)
        } else if at.is_some_and(|slot| self.oracle.live.contains_key(&slot)) {
            self.refuse(ChainError::Occupied)
        } else if at.is_none() && self.oracle.live.len() == self.oracle.issued.len() {
            self.refuse(ChainError::Full)
        } else {
            Ok(())
        };
        assert_eq!(got.map(|_| ()), expected);
        if let Ok(id) = got {
            assert!(at.is_none_or(|slot| slot == id.slot()), "{id:?}");
            self.oracle.start(id, context, entries);
        }
        got
    }

    pub(crate) fn on_cqe(
        &mut self,
        user_data: u64,
        res: i32,
        flags: u32,
    ) -> Result<Progress, ChainFault> {
        let expected = self.oracle.on_cqe(user_data, res, flags);
        let is_plain = expected.is_ok() && flags & (F_MORE | F_NOTIF) == 0;
        let chain = ChainId::of(user_data).and_then(|(id, _)| self.oracle.live.get(&id.slot()));
        if !(is_plain && chain.is_some_and(Chain::is_whole_send)) {
            // The short way does not take it, and leaves everything as it was.
            assert_eq!(self.table.take_whole(user_data, res, flags), None);
        }
        let got = self.table.on_cqe(user_data, res, flags);
        assert_eq!(got, expected, "user_data {user_data:#x} res {res} flags {flags}");
        if let Ok(Progress { event: ChainEvent::Complete { .. }, .. }) = got {
            self.completed += 1;
        }
        if let Some((id, _)) = ChainId::of(user_data) {
            self.look_at(id.slot());
        }
        got
    }

    /// For an entry of a chain that may have ended.
    pub(crate) fn entry_cqe(
        &mut self,
        (id, entry): (ChainId, u16),
        res: i32,
        flags: u32,
    ) -> Result<Progress, ChainFault> {
        self.on_cqe(id.user_data(entry).unwrap().as_raw(), res, flags)
    }

    pub(crate) fn take(&mut self, id: ChainId) {
        let expected = match self.whereabouts(id) {
            Err(error) => Err(error),
            Ok(()) if !self.oracle.live[&id.slot()].is_complete() => {
                self.refuse(ChainError::Pending)
            }
            Ok(()) => Ok(self.oracle.live.remove(&id.slot()).unwrap().outcome()),
        };
        assert_eq!(self.table.take(id), expected);
    }

    pub(crate) fn cancel(&mut self, id: ChainId) {
        let known = self.whereabouts(id);
        let got = self.table.cancel(id);
        assert_eq!(got.map(|_| ()), known);
        let Ok(outstanding) = got else { return };
        let chain = self.oracle.live.get_mut(&id.slot()).unwrap();
        chain.cancel();
        assert_eq!(outstanding.operations, chain.operations());
        assert_eq!(outstanding.notifications, chain.notifications());
        let names: Vec<_> =
            outstanding.user_data().map(|name| ChainId::of(name.as_raw())).collect();
        let entries: Vec<_> = chain.operations().iter().map(|entry| Some((id, entry))).collect();
        assert_eq!(names, entries);
        self.look_at(id.slot());
    }

    /// Returns the entries whose memory the kernel held.
    pub(crate) fn abandon(&mut self, id: ChainId) -> Vec<u16> {
        let known = self.whereabouts(id);
        let mut held = Vec::new();
        let got = self.table.abandon(id, |entry, context| held.push((entry, context)));
        assert_eq!(got.map(|_| ()), known);
        let Ok(abandoned) = got else {
            assert!(held.is_empty());
            return Vec::new();
        };
        let chain = self.oracle.live.remove(&id.slot()).unwrap();
        self.abandoned += u64::from(!chain.is_complete());
        assert_eq!((abandoned.context, abandoned.bytes), (chain.context, chain.bytes()));
        assert_eq!(abandoned.outstanding.chain, id);
        assert_eq!(abandoned.outstanding.operations, chain.operations());
        assert_eq!(abandoned.outstanding.notifications, chain.notifications());
        let entries: Vec<u16> = held.iter().map(|(entry, _)| *entry).collect();
        let expected: Vec<u16> = abandoned.outstanding.held().iter().collect();
        assert_eq!(entries, expected);
        for (entry, context) in held {
            assert_eq!(context, context_of(chain.context, entry));
            assert!(!chain.records[usize::from(entry)].has_ended(), "entry {entry} was given back");
        }
        expected
    }

    /// Compares all that can be seen of the chain in a slot.
    fn look_at(&self, slot: u32) {
        let Some(chain) = self.oracle.live.get(&slot) else { return };
        let outstanding = self.table.outstanding(chain.id).unwrap();
        assert_eq!(outstanding.operations, chain.operations());
        assert_eq!(outstanding.notifications, chain.notifications());
        assert_eq!(self.table.context(chain.id), Ok(chain.context));
        for (entry, record) in (0..).zip(&chain.records) {
            assert_eq!(self.table.result(chain.id, entry), Ok(record.result()));
        }
    }

    /// Compares what can be seen of the table.
    pub(crate) fn check(&self) {
        let live: Vec<ChainId> = self.table.live().collect();
        let expected: Vec<ChainId> = self.oracle.live.values().map(|chain| chain.id).collect();
        assert_eq!(live, expected);
        assert_eq!(usize::try_from(self.table.len()).unwrap(), live.len());
        assert_eq!(self.table.is_empty(), live.is_empty());
        assert_eq!(self.table.is_full(), live.len() == self.oracle.issued.len());
        for (fault, count) in ChainFault::ALL.iter().zip(self.oracle.faults) {
            assert_eq!(self.table.fault_count(*fault), count, "{fault:?}");
        }
        for (error, count) in ChainError::ALL.iter().zip(self.refused) {
            assert_eq!(self.table.refusal_count(*error), count, "{error:?}");
        }
        let counts = self.table.counts();
        assert_eq!(counts.started, self.oracle.issued.iter().map(|n| u64::from(*n)).sum::<u64>());
        assert_eq!((counts.completed, counts.abandoned), (self.completed, self.abandoned));
    }
}

/// The number that the tests give an entry of a chain.
pub(crate) fn context_of(chain: u64, entry: u16) -> u64 {
    chain * 100 + u64::from(entry)
}

/// Entries that ask for so many bytes, or for none.
pub(crate) fn entries(context: u64, wanted: &[Option<u32>]) -> Vec<Entry> {
    let make = |(entry, wanted): (u16, &Option<u32>)| {
        let context = context_of(context, entry);
        wanted.map_or(Entry::plain(context), |bytes| Entry::bytes(bytes, context))
    };
    (0..).zip(wanted).map(make).collect()
}
