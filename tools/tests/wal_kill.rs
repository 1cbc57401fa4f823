//! The example `wal`, killed at random moments: no acknowledged record is lost, and none is read back that was not written whole.
//!
//! The log is read here by a parser of its own, which knows what every record must hold. After each kill its end is torn on a copy, as a
//! loss of power would: sectors behind what was acknowledged lose their content, or keep an older one.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "a test stops at the first thing that is not as expected"
)]

mod examples_built;

use core::time::Duration;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::time::Instant;

use examples_built::ending_with_us;

const BLOCK: usize = 4096;
const SECTOR: usize = 512;
const ROUNDS: u64 = 100;
const AT_MOST: Duration = Duration::from_secs(60);

fn start(program: &Path, log: &Path) -> (Child, BufReader<ChildStdout>) {
    let mut child = ending_with_us(program).arg(log).stdout(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(child.stdout.take().unwrap());
    (child, said)
}

/// The number after `word`, in what the child says next.
fn number(said: &mut impl BufRead, word: &str) -> Option<u64> {
    let mut line = String::new();
    while said.read_line(&mut line).unwrap() > 0 {
        // A line that was cut short by the kill says nothing.
        let number = line.strip_suffix('\n').and_then(|line| line.strip_prefix(word));
        if let Some(number) = number {
            let digits = number.split(' ').find(|part| !part.is_empty());
            return Some(digits.unwrap().parse().unwrap());
        }
        line.clear();
    }
    None
}

/// How many records a log has up to the end of each of its blocks, as far as it goes on; every one must be what the example writes.
fn counts(bytes: &[u8]) -> Vec<u64> {
    let (mut next, mut sum) = (1_u64, 0xcbf2_9ce4_8422_2325_u64);
    let mut counts = Vec::new();
    for block in bytes.chunks(BLOCK) {
        let (mut at, before) = (0, next);
        while at + 24 <= block.len() {
            let word = |i: usize| u64::from_le_bytes(block[at + i..at + i + 8].try_into().unwrap());
            let length = usize::try_from(word(0)).unwrap_or(usize::MAX);
            let Some(payload) = block.get(at + 24..(at + 24).saturating_add(length)) else { break };
            let mut wanted = sum;
            for byte in next.to_le_bytes().iter().chain(payload) {
                wanted = (wanted ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
            if (word(8), word(16)) != (next, wanted) {
                break;
            }
            assert_eq!(payload, next.to_string().repeat(40).as_bytes(), "a record of its own");
            (next, sum, at) = (next + 1, wanted, at + 24 + length);
        }
        if next == before {
            break;
        }
        counts.push(next - 1);
    }
    counts
}

/// The records of a log.
fn records(bytes: &[u8]) -> u64 {
    counts(bytes).last().copied().unwrap_or(0)
}

struct Dice(u64);

impl Dice {
    const fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// The blocks that hold the first `count` records.
fn blocks_of(bytes: &[u8], count: u64) -> usize {
    if count == 0 {
        return 0;
    }
    counts(bytes).iter().position(|so_far| *so_far >= count).unwrap() + 1
}

/// Loses sectors behind the acknowledged part, on a copy, and recovers that with the example.
fn torn(program: &Path, log: &Path, (acknowledged, dice): (u64, &mut Dice)) {
    let mut bytes = fs::read(log).unwrap();
    let written = records(&bytes);
    let safe = blocks_of(&bytes, acknowledged) * BLOCK / SECTOR;
    let sectors = (safe + 64).min(bytes.len() / SECTOR);
    for sector in safe..sectors {
        let at = sector * SECTOR;
        match dice.below(3) {
            0 => bytes[at..at + SECTOR].fill(0),
            1 if safe > 0 => {
                let older = (dice.below(safe as u64) as usize) * SECTOR;
                bytes.copy_within(older..older + SECTOR, at);
            }
            _ => {}
        }
    }
    let kept = records(&bytes);
    assert!((acknowledged..=written).contains(&kept));
    let copy = log.with_extension("torn");
    fs::write(&copy, &bytes).unwrap();
    let (mut child, mut said) = start(program, &copy);
    assert_eq!(number(&mut said, "recovered"), Some(kept));
    let more = number(&mut said, "durable").unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(more > kept && records(&fs::read(&copy).unwrap()) >= more, "it goes on where it ended");
    fs::remove_file(copy).unwrap();
}

#[test]
fn no_acknowledged_record_is_lost_and_no_torn_one_is_read() {
    let program = &examples_built::all()["wal"];
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("wal-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let log = folder.join("log");
    let (mut dice, begin) = (Dice(3), Instant::now());
    let (mut acknowledged, mut rounds) = (0, 0);
    while rounds < ROUNDS && begin.elapsed() < AT_MOST {
        rounds += 1;
        let (mut child, mut said) = start(program, &log);
        let recovered = number(&mut said, "recovered").unwrap();
        assert!(
            recovered >= acknowledged,
            "{acknowledged} were acknowledged, {recovered} are left"
        );
        std::thread::sleep(Duration::from_micros(dice.below(20_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it was killed is still in the pipe.
        while let Some(durable) = number(&mut said, "durable") {
            assert!(durable > acknowledged);
            acknowledged = durable;
        }
        let found = records(&fs::read(&log).unwrap());
        assert!(found >= acknowledged, "{acknowledged} were acknowledged, {found} are found");
        if rounds % 10 == 0 {
            torn(program, &log, (acknowledged, &mut dice));
        }
        if found > 20_000 {
            // A new log, before reading takes longer than writing.
            fs::remove_file(&log).unwrap();
            acknowledged = 0;
        }
    }
    assert!(rounds >= 20, "{rounds} kills in {:?}", begin.elapsed());
    fs::remove_dir_all(folder).unwrap();
}
