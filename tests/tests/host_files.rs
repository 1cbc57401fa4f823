//! Files over io_uring on the kernel that runs: on the disk and on a tmpfs, with direct I/O and without, against a plain array; errors by
//! entry; what is not there is said.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::large_stack_frames,
    clippy::print_stderr,
    reason = "a test stops at the first thing that is not as expected, and says what it could not look at"
)]

use core::time::Duration;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant as Clock;

use spinwire_dataplane::error::Misuse;
use spinwire_dataplane::file::{
    EntryError, EntryKind, FileCompletion, FileConfig, FileId, FileRef, FileShape, Files,
};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::time::Instant;
use spinwire_hostshim::file::{DirectIo, FileOptions, HostFile, Space};
use spinwire_hostshim::uring::{RingEntry, Uring, UringConfig, UringError};
use spinwire_tests::rng::{Rng, pattern};

const BUFFER: usize = 64 << 10;
const ENOSPC: i32 = 28;
const EBADF: i32 = 9;

/// A folder of its own on the disk, and one on a tmpfs.
fn folders(test: &str) -> Vec<PathBuf> {
    let places =
        [std::env::temp_dir(), PathBuf::from(env!("CARGO_TARGET_TMPDIR")), "/dev/shm".into()];
    let mut folders = Vec::new();
    for (index, place) in places.iter().enumerate() {
        let folder = place.join(format!("host-files-{test}-{}-{index}", std::process::id()));
        match fs::create_dir_all(&folder) {
            Ok(()) => folders.push(folder),
            Err(e) => eprintln!("NOT RUN in {}: {e}", place.display()),
        }
    }
    assert!(folders.len() > 1);
    folders
}

struct Gone(PathBuf);
impl Drop for Gone {
    fn drop(&mut self) {
        assert!(fs::remove_dir_all(&self.0).is_ok() || std::thread::panicking());
    }
}

type Live<'m> = Files<'m, RingEntry<'m>>;

/// A service on a ring of its own, with registered buffers where that goes.
fn with(fixed: bool, test: impl FnOnce(&Uring, &Live<'_>)) {
    let mut config = FileConfig { buffers: (16, BUFFER), ..FileConfig::default() };
    let arena_bytes = config.arena_bytes();
    let uring =
        Uring::open(&UringConfig { files: 4, arena_bytes, ..UringConfig::default() }).unwrap();
    if fixed {
        match uring.register_arena() {
            Ok(pieces) => assert_eq!(pieces, 1),
            Err(e @ UringError::MemlockTooLow { .. }) => {
                eprintln!("NOT RUN with registered buffers: {e}");
            }
            Err(e) => panic!("{e}"),
        }
        config.fixed_buffers = uring.forget_buffers().is_ok() && uring.register_arena().is_ok();
    }
    let ring = uring.ring().unwrap();
    let files = Files::place(&ring, &config).unwrap();
    test(&uring, &files);
}

/// The next completion; a turn makes one call of the kernel at most.
fn next<'m>(files: &Live<'m>) -> FileCompletion<'m> {
    let end = Clock::now() + Duration::from_secs(60);
    while Clock::now() < end {
        let before = files.ring().counters().enters;
        let _busy_or_idle = files.turn(Instant::ORIGIN, Budget::DEFAULT);
        assert!(files.ring().counters().enters <= before + 1);
        if let Some(done) = files.poll() {
            return done;
        }
        std::thread::yield_now();
    }
    panic!("the kernel never answered");
}

fn open(folder: &Path, direct: bool, files: &Live<'_>) -> (HostFile, FileId) {
    let options = FileOptions { direct, preallocate: 1 << 20, ..FileOptions::default() };
    let file = HostFile::open(&folder.join("file"), &options).unwrap();
    let id = files.add(file.file_ref(), file.shape()).unwrap();
    (file, id)
}

#[test]
fn what_is_written_is_read_back_on_every_file_system_with_and_without_direct_io() {
    let mut seen = Vec::new();
    for folder in folders("array") {
        let folder = Gone(folder);
        for (direct, fixed) in [(true, true), (true, false), (false, true), (false, false)] {
            with(fixed, |_uring, files| {
                let (file, id) = open(&folder.0, direct, files);
                seen.push(format!("{}: {}", folder.0.display(), file.direct()));
                assert_eq!(
                    file.shape().is_direct(),
                    matches!(file.direct(), DirectIo::Active | DirectIo::ActiveAssumed)
                );
                assert!(direct || file.direct() == DirectIo::NotAsked);
                assert!(matches!(file.space(), Space::Reserved | Space::Sparse));
                assert_eq!(file.bytes().unwrap(), 1 << 20);
                against_an_array(files, id, file.shape());
                if fixed && files.config().fixed_buffers {
                    assert!(files.counters().fixed > 100);
                } else {
                    assert_eq!(files.counters().fixed, 0);
                }
            });
            fs::remove_file(folder.0.join("file")).unwrap();
        }
    }
    eprintln!("{}", seen.join("\n"));
}

/// Random reads and writes, several at a time, none of which overlap; now and then a sync.
fn against_an_array(files: &Live<'_>, id: FileId, shape: FileShape) {
    let align = shape.offset_align as usize;
    let mut rng = Rng::new(5);
    let mut oracle = vec![0_u8; 1 << 20];
    for round in 0..60_u64 {
        let mut wanted = Vec::new();
        for place in 0..8_usize {
            let start = place * (1 << 17);
            let offset = start + rng.index((1 << 16) / align) * align;
            let length = align * rng.between(1, BUFFER / align);
            let loan = files.lend().unwrap();
            if rng.chance(50) {
                let mut loan = loan;
                let bytes = pattern(round << 8 | place as u64, length);
                loan.fill(&bytes).unwrap();
                oracle[offset..offset + length].copy_from_slice(&bytes);
                files.write(id, offset as u64, loan, offset as u64).unwrap();
            } else {
                files.read(id, (offset as u64, length), loan, offset as u64).unwrap();
            }
            wanted.push(offset);
        }
        if round % 8 == 0 {
            files.sync(id, u64::MAX).unwrap();
            wanted.push(usize::MAX);
        }
        while !wanted.is_empty() {
            let done = next(files);
            assert_eq!((done.result, done.last, done.entry), (Ok(()), true, 0));
            let at = done.context as usize;
            let before = wanted.len();
            wanted.retain(|one| *one != at);
            assert_eq!(wanted.len() + 1, before, "each once");
            if done.kind != EntryKind::Sync {
                let loan = done.loan.unwrap();
                assert_eq!(done.bytes as usize, loan.len());
                assert!(oracle[at..at + loan.len()] == loan[..], "{:?} at {at}", done.kind);
            }
        }
    }
    assert_eq!(files.under_way(), 0);
}

#[test]
fn a_chain_is_write_write_sync_and_its_errors_are_by_entry() {
    for folder in folders("chain") {
        let folder = Gone(folder);
        with(true, |uring, files| {
            let (file, id) = open(&folder.0, true, files);
            uring.set_file(2, Some(std::os::fd::AsFd::as_fd(&file))).unwrap();
            let by_slot = files.add(FileRef::Slot(2), file.shape()).unwrap();
            let full = HostFile::open(Path::new("/dev/full"), &FileOptions::default()).unwrap();
            assert!(matches!(full.direct(), DirectIo::Unsupported | DirectIo::Refused(_)));
            assert_eq!(full.shape(), FileShape::BUFFERED, "it falls back");
            let full = files.add(full.file_ref(), full.shape()).map(|id| (full, id)).unwrap();
            let filled = |byte: u8| {
                let mut loan = files.lend().unwrap();
                loan.fill(&vec![byte; 8192]).unwrap();
                loan
            };
            let mut chain = files.chain().unwrap();
            chain.write(by_slot, 0, filled(1), 10).unwrap();
            chain.write(id, 8192, filled(2), 11).unwrap();
            chain.sync(id, 12).unwrap();
            chain.read(id, (0, 16384), files.lend().unwrap(), 13).unwrap();
            chain.submit().unwrap();
            let done: Vec<_> = (0..4).map(|_| next(files)).collect();
            assert!(done.iter().all(|done| done.result.is_ok()), "{done:?}");
            assert_eq!(done.iter().map(|d| d.context).collect::<Vec<_>>(), [10, 11, 12, 13]);
            let read = done[3].loan.as_ref().unwrap();
            assert!(read[..8192] == vec![1; 8192] && read[8192..] == vec![2; 8192]);
            let mut chain = files.chain().unwrap();
            chain.write(id, 0, filled(3), 20).unwrap();
            chain.write(full.1, 0, filled(4), 21).unwrap();
            chain.sync(id, 22).unwrap();
            chain.submit().unwrap();
            let done: Vec<_> = (0..3).map(|_| next(files)).collect();
            let results: Vec<_> = done.iter().map(|done| done.result).collect();
            let wanted = [Ok(()), Err(EntryError::Errno(ENOSPC)), Err(EntryError::After(1))];
            assert_eq!(results, wanted);
            assert!(done[1].loan.as_ref().is_some_and(|loan| loan[..] == vec![4; 8192]));
            drop(done);
            // The last read ends where the file does.
            files.read(id, ((1 << 20) - 4096, 8192), files.lend().unwrap(), 30).unwrap();
            let end = next(files);
            assert_eq!((end.result, end.bytes), (Err(EntryError::EndOfFile), 4096));
            // A descriptor that is none.
            let none = files.add(FileRef::Descriptor(-1), FileShape::BUFFERED).unwrap();
            files.sync(none, 40).unwrap();
            assert_eq!(next(files).result, Err(EntryError::Errno(EBADF)));
            if file.shape().is_direct() {
                let refused = files.write(id, 1, filled(1), 0).unwrap_err();
                assert_eq!(refused.error, Misuse::UnalignedOffset.into());
            }
        });
    }
}

#[test]
fn what_runs_can_be_cancelled_and_the_answer_is_true() {
    for folder in folders("cancel") {
        let folder = Gone(folder);
        with(true, |_uring, files| {
            let (_file, id) = open(&folder.0, true, files);
            let mut rng = Rng::new(9);
            for _ in 0..50 {
                let mut chain = files.chain().unwrap();
                for at in 0..4 {
                    let mut loan = files.lend().unwrap();
                    loan.set_len(BUFFER).unwrap();
                    chain.write(id, at * BUFFER as u64, loan, at).unwrap();
                }
                chain.sync(id, 4).unwrap();
                let op = chain.submit().unwrap();
                let mut done = Vec::new();
                for _ in 0..rng.below(3) {
                    let _busy_or_idle = files.turn(Instant::ORIGIN, Budget::DEFAULT);
                    done.extend(files.poll());
                }
                let _perhaps_over = files.cancel(op);
                while done.last().is_none_or(|done: &FileCompletion<'_>| !done.last) {
                    done.push(next(files));
                }
                let failed = done.iter().position(|done| done.result.is_err()).unwrap_or(5);
                for (at, done) in done.iter().enumerate() {
                    let wanted = if at < failed { Ok(()) } else { Err(EntryError::Cancelled) };
                    assert_eq!((done.entry as usize, done.result), (at, wanted));
                    assert_eq!(done.loan.is_some(), at < 4);
                }
                assert_eq!(done.len(), 5);
            }
            assert_eq!(files.under_way(), 0);
        });
    }
}

#[test]
fn a_ring_without_an_arena_registers_none_and_goes_by_address() {
    let folder = Gone(folders("locked").swap_remove(0));
    for other in folders("locked").into_iter().skip(1) {
        drop(Gone(other));
    }
    let uring = Uring::open(&UringConfig::default()).unwrap();
    assert!(matches!(uring.register_arena(), Err(UringError::Without(_))), "it has no arena");
    with(false, |_uring, files| {
        let (_file, id) = open(&folder.0, true, files);
        files.sync(id, 1).unwrap();
        assert_eq!(next(files).result, Ok(()));
    });
}
