//! Chains of file operations over a kernel at the level of bytes: write, write, sync, with every result at every position, in every order of
//! completion, cancelled at every moment.
//!
//! The kernel here has a disk. Entries take effect in the order of the chain; their completions come in any. What is `Ok` must be on that
//! disk, and what a sync that is `Ok` stands for must have been there when the sync ran.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::large_stack_frames,
    reason = "a test stops at the first thing that is not as expected"
)]

use core::mem::MaybeUninit;

use spinwire_dataplane::error::{Misuse, PostError, Retry};
use spinwire_dataplane::file::{
    EntryError, EntryKind, FileCompletion, FileConfig, FileId, FileRef, FileShape, Files, OpId,
    PlaceError,
};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::Instant;
use spinwire_dataplane::uring::{EnterError, Ring};
use spinwire_layouts::uring::{Sqe, fsync, op, setup, sqe};
use spinwire_tests::fake_kernel::{FakeConfig, FakeKernel};
use spinwire_tests::rng::Rng;

const FD: i32 = 7;
const PAGE: usize = 4096;
const EINTR: i32 = 4;
const EIO: i32 = 5;
const EINVAL: i32 = 22;
const ECANCELED: i32 = 125;

type Service<'m> = Files<'m, &'m FakeKernel>;

const fn config() -> FileConfig {
    FileConfig { files: 2, operations: 4, entries_max: 4, buffers: (8, PAGE), fixed_buffers: false }
}

fn kernel() -> FakeKernel {
    let flags = setup::NO_SQARRAY | setup::DEFER_TASKRUN | setup::TASKRUN_FLAG;
    FakeKernel::new(FakeConfig { flags, ..FakeConfig::default() })
}

/// A service with a file of that alignment, over a kernel of its own.
fn with(config: &FileConfig, align: u32, test: impl FnOnce(&FakeKernel, &Service<'_>, FileId)) {
    let kernel = kernel();
    let mut block = vec![MaybeUninit::uninit(); config.arena_bytes()];
    let ring = Ring::new(kernel.memory().unwrap(), kernel.arena(&mut block), &kernel);
    let files = Files::place(&ring, config).unwrap();
    let shape = FileShape { offset_align: align, memory_align: align };
    let file = files.add(FileRef::Descriptor(FD), shape).unwrap();
    test(&kernel, &files, file);
}

/// A turn makes one call of the kernel at most.
fn turn(kernel: &FakeKernel, files: &Service<'_>) {
    let before = kernel.enters();
    let _busy_or_idle = files.turn(Instant::ORIGIN, Budget::DEFAULT);
    assert!(kernel.enters() <= before + 1);
}

/// How one entry ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Whole,
    /// So many bytes too few.
    Short(u32),
    Errno(i32),
}

impl End {
    const fn result(self, entry: &Sqe) -> i32 {
        match self {
            Self::Whole => entry.len.cast_signed(),
            Self::Short(by) => entry.len.saturating_sub(by).cast_signed(),
            Self::Errno(errno) => -errno,
        }
    }

    const fn passes(self) -> bool {
        matches!(self, Self::Short(_) | Self::Errno(EINTR | ECANCELED))
    }
}

const WRITE_ENDS: [End; 6] = [
    End::Whole,
    End::Short(96),
    End::Short(u32::MAX),
    End::Errno(EIO),
    End::Errno(ECANCELED),
    End::Errno(EINTR),
];
const SYNC_ENDS: [End; 4] = [End::Whole, End::Errno(EIO), End::Errno(ECANCELED), End::Errno(EINTR)];
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
/// Cancelled before it is submitted, or after so many completions, or never.
const CANCELS: [Option<usize>; 5] = [None, Some(0), Some(1), Some(2), Some(3)];

/// What was written, and what of it a sync has seen.
#[derive(Default)]
struct Disk {
    written: Vec<bool>,
    durable: Vec<bool>,
    launches: usize,
}

impl Disk {
    fn new() -> Self {
        Self { written: vec![false; 2 * PAGE], durable: vec![false; 2 * PAGE], launches: 0 }
    }

    /// Runs a chain in order. Its completions, to be delivered.
    fn run(&mut self, chain: &[Sqe], mut end: impl FnMut(usize) -> End) -> Vec<(u64, i32)> {
        self.launches += 1;
        let skip = 3 - chain.len();
        let run = |(at, entry): (usize, &Sqe)| {
            let result = end(at + skip).result(entry);
            assert_eq!(entry.fd, FD);
            if entry.opcode == op::FSYNC {
                assert_eq!((entry.op_flags, entry.off, entry.len), (fsync::DATASYNC, 0, 0));
                if result >= 0 {
                    self.durable.clone_from(&self.written);
                }
            } else {
                assert_eq!(entry.opcode, op::WRITE);
                let from = entry.off as usize;
                for byte in 0..result.max(0).cast_unsigned() as usize {
                    self.written[from + byte] = true;
                }
            }
            (entry.user_data, result)
        };
        chain.iter().enumerate().map(run).collect()
    }
}

/// Loans with a pattern, in a chain of write, write, sync.
fn submit(files: &Service<'_>, file: FileId) -> OpId {
    let mut chain = files.chain().unwrap();
    for index in 0..2_u8 {
        let mut loan = files.lend().unwrap();
        loan.fill(&vec![b'a' + index; PAGE]).unwrap();
        chain.write(file, u64::from(index) * PAGE as u64, loan, 70 + u64::from(index)).unwrap();
    }
    chain.sync(file, 72).unwrap();
    chain.submit().unwrap()
}

/// What the ring was asked to run, without requests to cancel, which end as the kernel ends those that come too late.
fn next_chain(kernel: &FakeKernel, cancels: &mut Vec<u64>) -> Option<Vec<Sqe>> {
    loop {
        let chain = kernel.taken()?;
        if chain[0].opcode != op::ASYNC_CANCEL {
            let (last, links) = chain.split_last().unwrap();
            assert!(links.iter().all(|entry| entry.flags == sqe::IO_LINK) && last.flags == 0);
            return Some(chain);
        }
        cancels.extend(chain.iter().map(|entry| entry.addr));
    }
}

/// Whatever was said of a chain.
fn said<'m>(files: &Service<'m>, into: &mut Vec<FileCompletion<'m>>) {
    while let Some(done) = files.poll() {
        into.push(done);
    }
}

/// Of the three entries.
type Results = [Result<(), EntryError>; 3];

struct Case {
    ends: [End; 3],
    order: [usize; 3],
    cancel: Option<usize>,
    align: u32,
}

/// What the results have to be after the first round, where that decides. `None`: it goes on.
fn decided(case: &Case) -> Option<Results> {
    let Some(first) = case.ends.iter().position(|end| *end != End::Whole) else {
        return Some([Ok(()); 3]);
    };
    let mut results = [Ok(()); 3];
    let cancelled = case.cancel.is_some_and(|after| after < 3);
    let blamed = case.ends[first..].iter().position(|end| *end == End::Errno(EIO));
    let (failed, error) = match (case.ends[first], blamed) {
        (End::Errno(EIO), _) => (first, EntryError::Errno(EIO)),
        // An entry behind was refused, so that none was begun.
        (End::Errno(ECANCELED), Some(behind)) if !cancelled && cause(case) == first + behind => {
            (first + behind, EntryError::Errno(EIO))
        }
        _ if cancelled => (first, EntryError::Cancelled),
        _ => return None,
    };
    for (entry, result) in results.iter_mut().enumerate().skip(first) {
        *result = Err(if entry == failed || error == EntryError::Cancelled {
            error
        } else {
            EntryError::After(failed as u16)
        });
    }
    Some(results)
}

/// The first entry that is neither whole nor cancelled.
fn cause(case: &Case) -> usize {
    let is_cause = |end: &End| !matches!(end, End::Whole | End::Errno(ECANCELED));
    case.ends.iter().position(is_cause).unwrap_or(usize::MAX)
}

fn check(case: &Case, rng: &mut Rng) {
    with(&config(), case.align, |kernel, files, file| {
        let mut disk = Disk::new();
        let op = submit(files, file);
        let (mut seen, mut cancels) = (Vec::new(), Vec::new());
        turn(kernel, files);
        let chain = next_chain(kernel, &mut cancels).unwrap();
        assert_eq!((chain.len(), next_chain(kernel, &mut cancels)), (3, None));
        let completions = disk.run(&chain, |at| case.ends[at]);
        for (count, at) in case.order.into_iter().enumerate() {
            if case.cancel == Some(count) {
                files.cancel(op).unwrap();
                turn(kernel, files);
                assert_eq!(next_chain(kernel, &mut cancels), None);
                assert_eq!(cancels.len(), 3 - count, "whatever runs is cancelled");
            }
            let (name, result) = completions[at];
            kernel.complete(name, result, 0);
            turn(kernel, files);
            turn(kernel, files);
            said(files, &mut seen);
        }
        let decided = decided(case);
        if let (None, Some(3)) = (decided, case.cancel) {
            files.cancel(op).unwrap();
        }
        for round in 0..100 {
            let Some(chain) = next_chain(kernel, &mut cancels) else { break };
            assert_eq!((decided, case.cancel.unwrap_or(3)), (None, 3), "it was over");
            let first = &chain[0];
            if first.opcode == op::WRITE {
                let page = first.off as usize / PAGE;
                let next = disk.written[page * PAGE..].iter().take_while(|done| **done).count();
                let from = first.off as usize % PAGE;
                assert_eq!(from, next - next % case.align as usize, "from the exact byte");
                assert_eq!(from + first.len as usize, PAGE);
            }
            let ends = if round == 0 { &WRITE_ENDS[..3] } else { &WRITE_ENDS[..1] };
            let completions = disk
                .run(&chain, |at| if at == 2 { End::Whole } else { ends[rng.index(ends.len())] });
            for (name, result) in completions.into_iter().rev() {
                kernel.complete(name, result, 0);
            }
            turn(kernel, files);
            turn(kernel, files);
            said(files, &mut seen);
        }
        judge(case, &disk, (&seen, decided));
        drop(seen);
        assert_eq!(files.under_way(), 0);
        let loans: Vec<_> = core::iter::from_fn(|| files.lend()).collect();
        assert_eq!(loans.len(), 8, "every loan is back");
        assert_eq!(files.cancel(op), Err(Misuse::StaleOperation));
        assert_eq!(files.counters().stale, 0);
    });
}

fn judge(case: &Case, disk: &Disk, (seen, decided): (&[FileCompletion<'_>], Option<Results>)) {
    let text = format!("{:?} {:?} cancel {:?}", case.ends, case.order, case.cancel);
    let order: Vec<_> = seen.iter().map(|done| (done.entry, done.context, done.last)).collect();
    assert_eq!(order, [(0, 70, false), (1, 71, false), (2, 72, true)], "{text}");
    let results: Vec<_> = seen.iter().map(|done| done.result).collect();
    if let Some(decided) = decided {
        assert_eq!(results, decided, "{text}");
    } else if case.cancel.is_none() {
        assert!(case.ends.iter().any(|end| end.passes()), "{text}");
        assert_eq!(results, [Ok(()); 3], "what passes is gone on with: {text}");
        assert!(disk.launches > 1);
    }
    for (index, done) in seen.iter().enumerate() {
        if done.result.is_ok() {
            assert!(seen[..index].iter().all(|before| before.result.is_ok()), "{text}");
        }
        if done.kind == EntryKind::Sync {
            let durable = disk.durable.iter().all(|byte| *byte);
            assert!(durable || done.result.is_err(), "{text}: synced too soon");
            assert!(done.loan.is_none());
            continue;
        }
        let range = &disk.written[index * PAGE..(index + 1) * PAGE];
        assert!(done.result.is_err() || range.iter().all(|byte| *byte), "{text}");
        let known = range.iter().take_while(|byte| **byte).count();
        assert!(done.bytes as usize <= known, "{text}: no more than was written");
        let wanted = vec![b"ab"[index]; PAGE];
        assert_eq!(done.loan.as_deref(), Some(&wanted[..]), "{text}");
    }
}

#[test]
fn every_result_at_every_position_in_every_order_cancelled_at_every_moment() {
    let mut rng = Rng::new(11);
    let mut cases = 0;
    for align in [1, 512] {
        for first in WRITE_ENDS {
            for second in WRITE_ENDS {
                for third in SYNC_ENDS {
                    for order in ORDERS {
                        for cancel in CANCELS {
                            let ends = [first, second, third];
                            check(&Case { ends, order, cancel, align }, &mut rng);
                            cases += 1;
                        }
                    }
                }
            }
        }
    }
    assert_eq!(cases, 2 * 36 * 4 * 6 * 5);
}

/// One entry, which the kernel ends so.
fn one(kernel: &FakeKernel, files: &Service<'_>, wanted: u8, result: i32) -> Sqe {
    turn(kernel, files);
    let chain = next_chain(kernel, &mut Vec::new()).unwrap();
    assert_eq!((chain.len(), chain[0].opcode), (1, wanted));
    kernel.complete(chain[0].user_data, result, 0);
    turn(kernel, files);
    turn(kernel, files);
    chain[0]
}

#[test]
fn a_read_goes_on_where_it_stopped_until_the_file_ends() {
    with(&config(), 1, |kernel, files, file| {
        files.read(file, (100, 1000), files.lend().unwrap(), 5).unwrap();
        let first = one(kernel, files, op::READ, 400);
        assert_eq!((first.off, first.len), (100, 1000));
        let second = one(kernel, files, op::READ, 250);
        assert_eq!((second.off, second.len, second.addr), (500, 600, first.addr + 400));
        assert!(files.poll().is_none());
        one(kernel, files, op::READ, 0);
        let done = files.poll().unwrap();
        assert_eq!((done.result, done.bytes, done.last), (Err(EntryError::EndOfFile), 650, true));
        assert_eq!(done.loan.unwrap().len(), 650);
    });
    with(&config(), 512, |kernel, files, file| {
        // Direct reads stop at a multiple of the alignment, or at the end.
        files.read(file, (512, 2048), files.lend().unwrap(), 5).unwrap();
        one(kernel, files, op::READ, 512);
        let second = one(kernel, files, op::READ, 100);
        assert_eq!((second.off, second.len), (1024, 1536));
        let done = files.poll().unwrap();
        assert_eq!((done.result, done.bytes), (Err(EntryError::EndOfFile), 612));
        files.read(file, (0, 512), files.lend().unwrap(), 6).unwrap();
        one(kernel, files, op::READ, 512);
        assert_eq!(files.poll().unwrap().result, Ok(()));
    });
}

#[test]
fn what_makes_no_progress_is_given_up_in_the_end() {
    for (result, wanted) in [
        (0, EntryError::NoProgress),
        (-EINTR, EntryError::Errno(EINTR)),
        (-ECANCELED, EntryError::Errno(ECANCELED)),
    ] {
        with(&config(), 1, |kernel, files, file| {
            let mut loan = files.lend().unwrap();
            loan.fill(b"abc").unwrap();
            files.write(file, 0, loan, 1).unwrap();
            turn(kernel, files);
            let mut tries = 0;
            while let Some(chain) = next_chain(kernel, &mut Vec::new()) {
                tries += 1;
                kernel.complete(chain[0].user_data, result, 0);
                turn(kernel, files);
                turn(kernel, files);
            }
            assert_eq!((tries, files.poll().unwrap().result), (65, Err(wanted)));
        });
    }
}

#[test]
fn what_does_not_fit_is_refused_and_comes_back() {
    with(&config(), 512, |_kernel, files, file| {
        let refused = |offset, bytes: usize| {
            let mut loan = files.lend().unwrap();
            loan.set_len(bytes).unwrap();
            let refused = files.write(file, offset, loan, 0).unwrap_err();
            assert_eq!(refused.item.len(), bytes);
            refused.error
        };
        assert_eq!(refused(100, 512), Misuse::UnalignedOffset.into());
        assert_eq!(refused(512, 100), Misuse::UnalignedLength.into());
        assert_eq!(refused(u64::MAX - 511, 512), Misuse::TooLong.into());
        assert_eq!(refused((1 << 63) - 512, 1024), Misuse::TooLong.into());
        let loan = files.lend().unwrap();
        let refused = files.read(file, (0, PAGE + 512), loan, 0).unwrap_err();
        assert_eq!(refused.error, Misuse::TooLong.into());
        drop(refused);
        // Of two buffers that begin at cache lines side by side, one at least does not begin at a block.
        let pool = LoanPool::place(files.ring().arena().bump(), 2, 64).unwrap();
        let lent = [pool.lend().unwrap(), pool.lend().unwrap()];
        let odd = lent.into_iter().find(|l| !l.as_ptr().addr().is_multiple_of(512)).unwrap();
        let refused = files.write(file, 0, odd, 0).unwrap_err();
        assert_eq!(refused.error, Misuse::UnalignedMemory.into());
        drop(refused);
        let mut chain = files.chain().unwrap();
        for context in 0..4 {
            chain.sync(file, context).unwrap();
        }
        assert_eq!(chain.sync(file, 4), Err(Misuse::TooLong.into()));
        assert_eq!(
            chain.write(file, 0, files.lend().unwrap(), 4).unwrap_err().error,
            Misuse::TooLong.into()
        );
        drop(chain);
        let mut chain = files.chain().unwrap();
        chain.write(file, 0, files.lend().unwrap(), 0).unwrap();
        drop(chain);
        let loans: Vec<_> = core::iter::from_fn(|| files.lend()).collect();
        assert_eq!(loans.len(), 8, "a chain that is dropped gives its loans back");
        drop(loans);
        assert_eq!(files.chain().unwrap().submit(), Err(Misuse::Unsupported.into()));
        let bad = FileShape { offset_align: 3, memory_align: 1 };
        assert_eq!(files.add(FileRef::Slot(0), bad), Err(Misuse::Unsupported.into()));
        assert!(files.add(FileRef::Slot(0), FileShape::BUFFERED).is_ok());
        let full = files.add(FileRef::Slot(1), FileShape::BUFFERED);
        assert_eq!(full, Err(Retry::NoSlot.into()));
        let chains: Vec<_> = (0..4).map(|_| files.chain().unwrap()).collect();
        assert_eq!(files.sync(file, 0), Err(PostError::Retry(Retry::NoSlot)));
        drop(chains);
        assert_eq!(files.under_way(), 0);
    });
    let mut other = vec![MaybeUninit::uninit(); 64 << 10];
    let bump = Bump::new(&mut other);
    let foreign = LoanPool::place_pages(&bump, 1, PAGE).unwrap();
    let outside = foreign.lend().unwrap();
    assert_eq!(outside.as_ptr().addr() % PAGE, 0);
    with(&config(), 1, |kernel, _files, _file| {
        let mut block = vec![MaybeUninit::uninit(); config().arena_bytes()];
        let memory = kernel.memory().unwrap();
        let ring = Ring::new(memory, kernel.arena(&mut block), kernel);
        for asked in [0, 9] {
            let wrong = FileConfig { entries_max: asked, ..config() };
            let error = Files::place(&ring, &wrong).unwrap_err();
            assert_eq!(error, PlaceError::EntriesMax { asked, most: 8 });
        }
    });
}

#[test]
fn an_entry_that_is_refused_at_once_is_blamed_for_those_before_it() {
    with(&config(), 1, |kernel, files, file| {
        submit(files, file);
        turn(kernel, files);
        let chain = next_chain(kernel, &mut Vec::new()).unwrap();
        for (entry, result) in chain.iter().zip([-ECANCELED, -EINVAL, -ECANCELED]) {
            kernel.complete(entry.user_data, result, 0);
        }
        turn(kernel, files);
        turn(kernel, files);
        let results: Vec<_> = core::iter::from_fn(|| files.poll()).map(|d| d.result).collect();
        let after = Err(EntryError::After(1));
        assert_eq!(results, [after, Err(EntryError::Errno(EINVAL)), after]);
    });
}

#[test]
fn a_chain_that_the_kernel_cuts_in_two_is_done_all_the_same() {
    for taken in 1..=2 {
        with(&config(), 1, |kernel, files, file| {
            let mut disk = Disk::new();
            submit(files, file);
            kernel.take_at_most(taken);
            turn(kernel, files);
            let head = kernel.taken().unwrap();
            assert_eq!(head.len(), taken as usize);
            for (name, result) in disk.run(&head, |_| End::Whole) {
                kernel.complete(name, result, 0);
            }
            for _ in 0..3 {
                turn(kernel, files);
            }
            let mut rest = Vec::new();
            while let Some(chain) = kernel.taken() {
                rest.extend(chain.into_iter().filter(|entry| entry.opcode != op::NOP));
            }
            assert_eq!(rest.len(), 3 - taken as usize, "what was cut, and not what was done");
            for (name, result) in disk.run(&rest, |_| End::Whole) {
                kernel.complete(name, result, 0);
            }
            turn(kernel, files);
            turn(kernel, files);
            let done: Vec<_> = core::iter::from_fn(|| files.poll()).collect();
            assert!(done.len() == 3 && done.iter().all(|done| done.result.is_ok()));
            assert!(disk.durable.iter().all(|byte| *byte));
        });
    }
}

#[test]
fn chains_that_find_no_room_wait_and_all_are_done() {
    let config = FileConfig { operations: 16, buffers: (32, PAGE), ..config() };
    with(&config, 1, |kernel, files, file| {
        for _ in 0..10 {
            submit(files, file);
        }
        // Chains of three, in a queue of eight: two a turn.
        let mut done = Vec::new();
        for _ in 0..5 {
            turn(kernel, files);
            for _ in 0..2 {
                let chain = next_chain(kernel, &mut Vec::new()).unwrap();
                assert_eq!(chain.len(), 3, "never split");
                for entry in chain {
                    kernel.complete(entry.user_data, entry.len.cast_signed(), 0);
                }
            }
            assert_eq!(kernel.taken(), None);
        }
        turn(kernel, files);
        turn(kernel, files);
        said(files, &mut done);
        assert!(done.len() == 30 && done.iter().all(|done| done.result.is_ok()));
    });
}

#[test]
fn what_was_not_submitted_is_cancelled_at_once_and_files_go_when_nobody_names_them() {
    with(&config(), 1, |kernel, files, file| {
        let op = submit(files, file);
        files.remove(file).unwrap();
        assert_eq!(files.remove(file), Err(Misuse::UnknownFile));
        assert_eq!(files.sync(file, 0), Err(Misuse::UnknownFile.into()));
        assert!(files.add(FileRef::Slot(3), FileShape::BUFFERED).is_ok());
        let full = files.add(FileRef::Slot(4), FileShape::BUFFERED);
        assert_eq!(full, Err(Retry::NoSlot.into()), "its row is still named");
        files.cancel(op).unwrap();
        turn(kernel, files);
        assert_eq!(kernel.taken(), None);
        let done: Vec<_> = core::iter::from_fn(|| files.poll()).collect();
        let all = done.iter().all(|done| done.result == Err(EntryError::Cancelled));
        assert!(done.len() == 3 && all && done[0].loan.is_some());
        assert!(files.add(FileRef::Slot(4), FileShape::BUFFERED).is_ok());
        assert_eq!(files.cancel(op), Err(Misuse::StaleOperation));
    });
}

#[test]
fn of_a_lost_ring_only_what_the_kernel_never_had_comes_back() {
    with(&config(), 1, |kernel, files, file| {
        submit(files, file);
        turn(kernel, files);
        kernel.answer_with(&[EnterError::Fatal(9)]);
        submit(files, file);
        submit(files, file);
        files.flush();
        turn(kernel, files);
        let done: Vec<_> = core::iter::from_fn(|| files.poll()).collect();
        assert_eq!(done.len(), 9);
        assert!(done.iter().all(|done| done.result == Err(EntryError::RingLost)));
        let back = done.iter().filter(|done| done.loan.is_some()).count();
        drop(done);
        // The kernel may have seen what was published.
        let loans: Vec<_> = core::iter::from_fn(|| files.lend()).collect();
        assert_eq!(loans.len(), 2 + back);
        let _idle = files.turn(Instant::ORIGIN, Budget::DEFAULT);
        assert!(files.poll().is_none());
    });
}

#[test]
fn completions_that_nobody_asked_for_change_nothing() {
    with(&config(), 1, |kernel, files, file| {
        let mut rng = Rng::new(3);
        for round in 0..3000_u64 {
            if files.under_way() < 2 {
                submit(files, file);
            }
            turn(kernel, files);
            let mut honest = Vec::new();
            while let Some(chain) = next_chain(kernel, &mut Vec::new()) {
                honest.extend(chain);
            }
            for _ in 0..rng.below(4) {
                let name = match honest.first() {
                    Some(entry) if rng.chance(50) => entry.user_data ^ (1 << rng.below(64)),
                    _ => rng.word(),
                };
                kernel.complete(name, (rng.word() as u32).cast_signed(), rng.word() as u32);
            }
            for entry in honest {
                kernel.complete(entry.user_data, entry.len.cast_signed(), 0);
            }
            turn(kernel, files);
            turn(kernel, files);
            while let Some(done) = files.poll() {
                assert!(done.loan.is_some() || done.kind == EntryKind::Sync, "{round}");
            }
        }
        assert!(files.counters().stale > 1000);
    });
}

#[test]
fn a_turn_may_be_shared_with_others_on_the_ring() {
    with(&config(), 1, |kernel, files, file| {
        submit(files, file);
        let nop = Sqe { opcode: op::NOP, user_data: 77, ..Sqe::ZERO };
        FakeKernel::push(files.ring(), &[nop]).unwrap();
        files.stage(64);
        files.ring().submit();
        while let Some(chain) = kernel.taken() {
            for entry in chain {
                kernel.complete(entry.user_data, entry.len.cast_signed(), 0);
            }
        }
        let mut others = Vec::new();
        files.ring().submit();
        files.ring().harvest(64, |cqe| {
            if !files.take_in(&cqe) {
                others.push(cqe.user_data);
            }
        });
        assert_eq!(others, [77]);
        assert_eq!(core::iter::from_fn(|| files.poll()).count(), 3);
        assert_eq!(kernel.enters(), 2);
    });
}
