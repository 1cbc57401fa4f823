//! A write-ahead log: records are written in groups, as one chain of writes and a sync each, and acknowledged after the sync alone.
//!
//! `cargo run --release --example wal [FILE]` recovers the log, appends to it, and says what is durable; for ever to FILE.
#![allow(clippy::large_stack_frames, clippy::print_stdout, reason = "an example")]
#![allow(clippy::arithmetic_side_effects, reason = "a log does not have 2^64 records or bytes")]

use std::{env, fs, path::PathBuf};

use spinwire_dataplane::file::{FileConfig, Files};
use spinwire_dataplane::{poll::Budget, poll::Poll, time::Instant};
use spinwire_hostshim::error::InWords;
use spinwire_hostshim::file::{FileOptions, HostFile};
use spinwire_hostshim::uring::{Uring, UringConfig};

const BLOCK: usize = 4096;
const HEAD: usize = 24; // length, number, checksum

/// Where the log stands: the next block and record, and the checksum of all records so far, which that of the next goes on from.
struct Log {
    at: u64,
    next: u64,
    sum: u64,
}

impl Log {
    /// Up to the first block that does not go on with what is before it: what a crash has torn, or what is older.
    fn recover(bytes: &[u8]) -> Self {
        let mut log = Self { at: 0, next: 1, sum: 0xcbf2_9ce4_8422_2325 };
        for block in bytes.chunks(BLOCK) {
            let mut rest = block;
            while let Some(length) = log.check(rest) {
                rest = rest.get(HEAD + length..).unwrap_or_default();
            }
            log.at += if rest.len() < block.len() { 4096 } else { break };
        }
        log
    }

    /// The length of the record that `bytes` begin with, if it is the next one and whole.
    fn check(&mut self, bytes: &[u8]) -> Option<usize> {
        let word = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let (length, number, sum) = (usize::try_from(word(0)?).ok()?, word(8)?, word(16)?);
        let payload = bytes.get(HEAD..HEAD.checked_add(length)?)?;
        let whole = number == self.next && sum == self.sum_with(payload);
        whole.then(|| (self.next, self.sum) = (number + 1, sum)).map(|()| length)
    }

    /// Puts a record at the start of `room`, if it fits, and says how long it is.
    fn put(&mut self, room: &mut [u8], payload: &[u8]) -> Option<usize> {
        let sum = self.sum_with(payload);
        let length = u64::try_from(payload.len()).ok()?.to_le_bytes();
        let head = [length, self.next.to_le_bytes(), sum.to_le_bytes()].concat();
        room.get_mut(..HEAD + payload.len())?.copy_from_slice(&[&head, payload].concat());
        (self.next, self.sum) = (self.next + 1, sum);
        Some(HEAD + payload.len())
    }

    /// FNV-1a over everything so far and this record.
    fn sum_with(&self, payload: &[u8]) -> u64 {
        let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        self.next.to_le_bytes().iter().chain(payload).fold(self.sum, step)
    }
}

fn main() -> Result<(), InWords> {
    let path = env::args().nth(1).map_or_else(|| env::temp_dir().join("a.wal"), PathBuf::from);
    let options = FileOptions { preallocate: 32 << 20, ..FileOptions::default() };
    let file = HostFile::open(&path, &options)?;
    let mut log = Log::recover(&fs::read(&path)?);
    println!("recovered {} records; {}", log.next - 1, file.direct());
    let uring = Uring::open(&UringConfig { arena_bytes: 1 << 20, ..UringConfig::default() })?;
    let fixed_buffers = uring.register_arena().is_ok(); // else by address
    let config = FileConfig { buffers: (8, BLOCK), fixed_buffers, ..FileConfig::default() };
    let ring = uring.ring()?;
    let files = Files::place(&ring, &config)?;
    let wal = files.add(file.file_ref(), file.shape())?;
    while log.next < 1000 || env::args().len() > 1 {
        let mut group = files.chain()?;
        for _ in 0..3 {
            let mut block = files.lend().ok_or("no buffer")?;
            block.fill(&vec![0; BLOCK])?;
            let mut rest = &mut *block;
            while let Some(length) = log.put(rest, log.next.to_string().repeat(40).as_bytes()) {
                rest = rest.get_mut(length..).unwrap_or_default();
            }
            group.write(wal, log.at, block, 0).map_err(|refused| refused.error)?;
            log.at += 4096;
        }
        group.sync(wal, 0)?;
        group.submit()?;
        while files.under_way() > 0 {
            let _busy_or_idle = files.turn(Instant::ORIGIN, Budget::DEFAULT);
            while let Some(done) = files.poll() {
                done.result?; // of any entry: then the log ends
            }
        }
        println!("durable {}", log.next - 1);
    }
    Ok(fs::remove_file(path)?)
}
