//! Every result of an operation, with and without `F_MORE`, with its notification before it, after it, or never: for every
//! entry of chains of up to three, in every order of their CQEs. What nobody hears of any more is seen when the ring is closed.

use spinwire_dataplane::chain::{ChainEvent, ChainFault};

use crate::world::{World, context_of, entries};
use crate::{ECANCELED, EPIPE, F_MORE, F_NOTIF, digit, with_table};

const WANTED: u32 = 10;
const RESULTS: [i32; 4] = [10, 4, -EPIPE, -ECANCELED];

#[derive(Clone, Copy, PartialEq, Debug)]
enum Notice {
    Before,
    After,
    Never,
}

/// One cell of the matrix: what the kernel does with one entry.
#[derive(Clone, Copy, Debug)]
struct Cell {
    res: i32,
    more: bool,
    notice: Notice,
}

const CELLS: usize = 24;

impl Cell {
    const fn of(number: usize) -> Self {
        let notice = [Notice::Before, Notice::After, Notice::Never][number / 8];
        Self { res: RESULTS[number % 4], more: number / 4 % 2 == 1, notice }
    }

    /// The CQEs in their order: result and flags.
    fn cqes(self) -> Vec<(i32, u32)> {
        let operation = (self.res, if self.more { F_MORE } else { 0 });
        let notice = (0, F_NOTIF);
        match self.notice {
            Notice::Before => vec![notice, operation],
            Notice::After => vec![operation, notice],
            Notice::Never => vec![operation],
        }
    }

    /// What each of these CQEs must say: whether the memory came back, or what is wrong.
    fn answers(self) -> Vec<Result<bool, ChainFault>> {
        match (self.notice, self.more) {
            (Notice::Before, more) => vec![Err(ChainFault::EarlyNotification), Ok(!more)],
            (Notice::After, true) => vec![Ok(false), Ok(true)],
            (Notice::After, false) => vec![Ok(true), Err(ChainFault::Unannounced)],
            (Notice::Never, more) => vec![Ok(!more)],
        }
    }

    /// Whether the kernel has said its last word on the entry in the end.
    const fn ends(self) -> bool {
        !self.more || matches!(self.notice, Notice::After)
    }
}

/// Every order in which lists of so many steps can be interleaved: each a list of the numbers of the lists.
fn interleavings(lengths: &[usize]) -> Vec<Vec<usize>> {
    fn extend(left: &mut [usize], order: &mut Vec<usize>, found: &mut Vec<Vec<usize>>) {
        if left.iter().all(|n| *n == 0) {
            found.push(order.clone());
        }
        for at in 0..left.len() {
            if left[at] > 0 {
                left[at] -= 1;
                order.push(at);
                extend(left, order, found);
                order.pop();
                left[at] += 1;
            }
        }
    }
    let mut found = Vec::new();
    extend(&mut lengths.to_vec(), &mut Vec::new(), &mut found);
    found
}

/// What an entry does, CQE by CQE, and what each must say.
type Script = Vec<((i32, u32), Result<bool, ChainFault>)>;

fn run(world: &mut World<'_, '_>, cells: &[Cell], scripts: &[Script], order: &[usize]) {
    let wanted = [Some(WANTED); 3];
    let id = world.start(None, 3, &entries(3, &wanted[..cells.len()])).unwrap();
    let mut step = [0; 3];
    let mut completed = 0;
    for &at in order {
        let entry = u16::try_from(at).unwrap();
        let ((res, flags), expected) = scripts[at][step[at]];
        let answer = world.entry_cqe((id, entry), res, flags);
        let returned = answer.map(|progress| progress.returned.is_some());
        assert_eq!(returned, expected, "{cells:?} {order:?}");
        if let Ok(progress) = answer {
            completed += u32::from(matches!(progress.event, ChainEvent::Complete { .. }));
            let own = context_of(3, entry);
            assert!(progress.returned.is_none_or(|context| context == own));
        }
        step[at] += 1;
    }
    let unended: Vec<u16> =
        (0..).zip(cells).filter(|(_, cell)| !cell.ends()).map(|(entry, _)| entry).collect();
    assert_eq!(completed, u32::from(unended.is_empty()), "complete is said once: {cells:?}");
    world.take(id);
    if !unended.is_empty() {
        assert_eq!(world.abandon(id), unended, "{cells:?} {order:?}");
    }
}

/// Every cell for every one of `count` entries.
fn all(count: usize) {
    with_table(2, 4, |table| {
        let mut world = World::new(table);
        for number in 0..CELLS.pow(u32::try_from(count).unwrap()) {
            let cells: Vec<Cell> =
                (0..count).map(|at| Cell::of(digit(number, CELLS, at))).collect();
            let script = |cell: &Cell| cell.cqes().into_iter().zip(cell.answers()).collect();
            let scripts: Vec<Script> = cells.iter().map(script).collect();
            let lengths: Vec<usize> = scripts.iter().map(Vec::len).collect();
            for order in interleavings(&lengths) {
                run(&mut world, &cells, &scripts, &order);
            }
        }
        world.check();
    });
}

#[test]
fn one_entry() {
    all(1);
}

#[test]
fn two_entries() {
    all(2);
}

/// Three entries: results and flags in all combinations, each in all orders.
#[test]
fn three_entries() {
    all(3);
}
