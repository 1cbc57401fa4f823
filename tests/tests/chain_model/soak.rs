//! A kernel in miniature that keeps its own books of which memory it holds, and a great many CQEs.
//!
//! A million of them by default. For 10^8, which takes seconds in an optimised build:
//!
//! ```text
//!   SPINWIRE_CQES=100000000 cargo test -p spinwire-tests --release --test chain_model soak -- --nocapture
//! ```
//!
//! `SPINWIRE_SEED` chooses another run.

use spinwire_dataplane::chain::{ChainEvent, ChainFault, ChainId, ChainTable, Entry};
use spinwire_tests::rng::Rng;

use crate::{ECANCELED, EPIPE, F_MORE, F_NOTIF, with_table};

const SLOTS: usize = 64;
const ENTRIES: usize = 8;
const WANTED: i32 = 100;

/// What the kernel has to do with one piece of memory.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Memory {
    /// It runs an operation on it.
    Runs,
    /// The network has it.
    Sent,
    /// Nothing.
    Free,
}

#[derive(Clone, Copy)]
struct Chain {
    id: ChainId,
    memory: [Memory; ENTRIES],
    count: usize,
    bytes: u64,
}

#[derive(Default, Debug)]
struct Books {
    cqes: u64,
    returned: u64,
    stale: u64,
    refused: u64,
    chains: u64,
    abandoned: u64,
}

struct Kernel<'t, 'm> {
    table: &'t ChainTable<'m>,
    chains: [Option<Chain>; SLOTS],
    ended: [Option<ChainId>; SLOTS],
    dice: Rng,
    books: Books,
}

fn context_of(place: usize, entry: usize) -> u64 {
    u64::try_from(place * ENTRIES + entry).unwrap()
}

impl Kernel<'_, '_> {
    fn start(&mut self, place: usize) {
        let count = 1 + self.dice.index(ENTRIES);
        let mut entries = [Entry::plain(0); ENTRIES];
        for (i, entry) in entries.iter_mut().enumerate().take(count) {
            *entry = Entry::bytes(WANTED.cast_unsigned(), context_of(place, i));
        }
        let context = u64::try_from(place).unwrap();
        let id = self.table.start(context, &entries[..count]).unwrap();
        let mut memory = [Memory::Free; ENTRIES];
        memory[..count].fill(Memory::Runs);
        self.chains[place] = Some(Chain { id, memory, count, bytes: 0 });
        self.books.chains += 1;
    }

    /// A CQE that means something, or nothing, of the chain in `place`.
    fn cqe(&mut self, place: usize, chain: Chain) {
        let held = |entry: usize| chain.memory[entry] != Memory::Free;
        let mut entry = self.dice.index(chain.count);
        // Most of the time one that the kernel has something to say about.
        if !held(entry) && self.dice.index(8) > 0 {
            entry = (0..chain.count).find(|entry| held(*entry)).unwrap();
        }
        let name = chain.id.user_data(u16::try_from(entry).unwrap()).unwrap().as_raw();
        let (res, flags) = match self.dice.index(8) {
            0..=3 => (WANTED, F_MORE),
            4 => (WANTED, 0),
            5 => (self.dice.index(100).try_into().unwrap(), F_MORE),
            6 => (-EPIPE, F_MORE),
            _ => (-ECANCELED, 0),
        };
        self.books.cqes += 1;
        match chain.memory[entry] {
            Memory::Runs => {
                let after = if flags & F_MORE == 0 { Memory::Free } else { Memory::Sent };
                self.proper(place, entry, (name, res, flags), after);
            }
            Memory::Sent => self.proper(place, entry, (name, 0, F_NOTIF), Memory::Free),
            Memory::Free => {
                let flags = if res == WANTED { flags } else { F_NOTIF };
                assert!(self.table.on_cqe(name, res, flags).is_err());
                self.books.refused += 1;
            }
        }
    }

    /// A CQE that changes whose the memory is: the kernel lets go first, then says so.
    fn proper(&mut self, place: usize, entry: usize, cqe: (u64, i32, u32), after: Memory) {
        let Some(mut chain) = self.chains[place] else { return };
        if chain.memory[entry] == Memory::Runs && cqe.1 > 0 {
            chain.bytes += u64::try_from(cqe.1).unwrap();
        }
        chain.memory[entry] = after;
        let progress = self.table.on_cqe(cqe.0, cqe.1, cqe.2).unwrap();
        let returned = (after == Memory::Free).then(|| context_of(place, entry));
        assert_eq!(progress.returned, returned, "a wrong free, or none: {:?}", self.books);
        self.books.returned += u64::from(progress.returned.is_some());
        let is_over = chain.memory.iter().all(|memory| *memory == Memory::Free);
        self.chains[place] = Some(chain);
        match progress.event {
            ChainEvent::Complete { bytes, .. } => {
                assert!(is_over && bytes == chain.bytes);
                assert_eq!(self.table.take(chain.id).unwrap().bytes, chain.bytes);
                self.end(place, chain.id);
            }
            ChainEvent::Pending | ChainEvent::AllOpsComplete => assert!(!is_over),
        }
    }

    const fn end(&mut self, place: usize, id: ChainId) {
        self.chains[place] = None;
        self.ended[place] = Some(id);
    }

    /// What a wrong or a late kernel, or somebody else's ring, would say.
    fn wrong(&mut self) {
        self.books.cqes += 1;
        let flags = u32::try_from(self.dice.word() >> 60).unwrap();
        let place = self.dice.index(SLOTS);
        let entry = self.dice.index(ENTRIES);
        if let Some(id) = self.ended[place] {
            let name = id.user_data(u16::try_from(entry).unwrap()).unwrap().as_raw();
            assert_eq!(self.table.on_cqe(name, WANTED, flags), Err(ChainFault::Stale));
            self.books.stale += 1;
        } else {
            let name = self.dice.word() & !(0xff << 56);
            assert_eq!(self.table.on_cqe(name, WANTED, flags), Err(ChainFault::Unknown));
            self.books.refused += 1;
        }
    }

    fn abandon(&mut self, place: usize, chain: Chain) {
        let mut memory = chain.memory;
        let abandoned = self.table.abandon(chain.id, |entry, context| {
            let entry = usize::from(entry);
            assert_eq!(context, context_of(place, entry));
            assert_ne!(memory[entry], Memory::Free);
            memory[entry] = Memory::Free;
        });
        assert_eq!(abandoned.unwrap().bytes, chain.bytes);
        assert_eq!(memory, [Memory::Free; ENTRIES], "what the kernel holds was not said");
        self.end(place, chain.id);
        self.books.abandoned += 1;
    }

    fn step(&mut self) {
        match self.dice.index(64) {
            0..=4 => self.wrong(),
            kind => {
                let place = self.dice.index(SLOTS);
                match self.chains[place] {
                    None => self.start(place),
                    Some(chain) if kind == 5 && self.dice.index(16) == 0 => {
                        self.abandon(place, chain);
                    }
                    Some(chain) => self.cqe(place, chain),
                }
            }
        }
    }
}

fn run(cqes: u64, seed: u64) {
    let started = std::time::Instant::now();
    with_table(u32::try_from(SLOTS).unwrap(), 8, |table| {
        let mut kernel = Kernel {
            table,
            chains: [None; SLOTS],
            ended: [None; SLOTS],
            dice: Rng::new(seed),
            books: Books::default(),
        };
        while kernel.books.cqes < cqes {
            kernel.step();
        }
        let books = &kernel.books;
        println!("seed {seed}: {books:?} in {:?}", started.elapsed());
        let faults: u64 = ChainFault::ALL.iter().map(|fault| table.fault_count(*fault)).sum();
        assert_eq!(faults, books.refused + books.stale);
        assert_eq!(table.fault_count(ChainFault::Stale), books.stale);
        assert_eq!(table.counts().started, books.chains);
        assert!(books.returned > cqes / 3 && books.stale > cqes / 100, "{books:?}");
        assert!(books.abandoned > 0 && books.refused > 0, "{books:?}");
    });
}

fn number_of(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

#[test]
fn of_many_cqes_none_frees_what_the_kernel_holds() {
    run(number_of("SPINWIRE_CQES", 1_000_000), number_of("SPINWIRE_SEED", 0x5eed));
}
