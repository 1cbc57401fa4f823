//! A service that stores: chains of write, write and sync, and reads, on the kernel that runs.

use spinwire_dataplane::file::{FileConfig, FileId, Files};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::time::Instant;
use spinwire_hostshim::file::{FileOptions, HostFile};
use spinwire_hostshim::uring::{RingEntry, Uring, UringConfig};

const BLOCK: usize = 4096;

pub(crate) struct Store<'s, 'm> {
    files: &'s Files<'m, RingEntry<'m>>,
    file: FileId,
}

/// Runs `work` with a file of its own.
pub(crate) fn with<R>(work: impl FnOnce(&Store<'_, '_>) -> R) -> R {
    let path = std::env::temp_dir().join(format!("no-alloc-file-{}", std::process::id()));
    let options = FileOptions { preallocate: 1 << 20, ..FileOptions::default() };
    let file = HostFile::open(&path, &options).expect("a file");
    std::fs::remove_file(&path).expect("the name goes, the file stays");
    let config = FileConfig { buffers: (8, BLOCK), ..FileConfig::default() };
    let arena_bytes = config.arena_bytes();
    let uring =
        Uring::open(&UringConfig { arena_bytes, ..UringConfig::default() }).expect("a ring");
    let ring = uring.ring().expect("its first owner");
    let files = Files::place(&ring, &config).expect("an arena of that size");
    let id = files.add(file.file_ref(), file.shape()).expect("the first file");
    work(&Store { files: &files, file: id })
}

impl Store<'_, '_> {
    /// So many chains, each of which is read back. How many were as they should be, and how many turns called the kernel more
    /// than once.
    pub(crate) fn run(&self, rounds: u64) -> (u64, u64) {
        let (mut good, mut bad_turns) = (0, 0);
        for round in 0..rounds {
            if self.round(round, &mut bad_turns).is_some_and(|sum| sum == 4 * 4096) {
                good += 1;
            }
        }
        (good, bad_turns)
    }

    fn round(&self, round: u64, bad_turns: &mut u64) -> Option<u64> {
        let mut chain = self.files.chain().ok()?;
        let at = round % 64 * 8192;
        for offset in [at, at + 4096] {
            let mut loan = self.files.lend()?;
            loan.set_len(BLOCK).ok()?;
            *loan.first_chunk_mut()? = (round + offset).to_le_bytes();
            chain.write(self.file, offset, loan, offset).ok()?;
        }
        chain.sync(self.file, 0).ok()?;
        for offset in [at, at + 4096] {
            chain.read(self.file, (offset, BLOCK), self.files.lend()?, offset).ok()?;
        }
        chain.submit().ok()?;
        let mut sum = 0;
        while self.files.under_way() > 0 {
            let before = self.files.ring().counters().enters;
            let _busy_or_idle = self.files.turn(Instant::ORIGIN, Budget::DEFAULT);
            *bad_turns += u64::from(self.files.ring().counters().enters > before + 1);
            while let Some(done) = self.files.poll() {
                done.result.ok()?;
                sum += u64::from(done.bytes);
                let Some(loan) = done.loan else { continue };
                if loan.first_chunk() != Some(&(round + done.context).to_le_bytes()) {
                    return None;
                }
            }
        }
        Some(sum)
    }
}
