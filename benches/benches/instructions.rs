//! The instructions of every case, against stored limits: a regression fails.
//!
//! ```text
//!   cargo bench -p spinwire-benches --bench instructions               count, compare, table; exit code 1 if one is over
//!   cargo bench -p spinwire-benches --bench instructions -- --bless    write the limits anew: 5 % above today's counts
//! ```
//!
//! Valgrind runs this very program once for few rounds of a case and once for more; the difference is what the rounds
//! cost, without set-up. Counts are the same on a busy machine as on a quiet one, but not with another compiler.
//! `cargo test` runs every case for those rounds without valgrind, and checks the results only.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::arithmetic_side_effects,
    reason = "a bench stops at the first thing that is not as expected"
)]
#![allow(clippy::float_arithmetic, reason = "counts per operation are for people")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench reports")]

use core::fmt::Write as _;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use spinwire_benches::case::{Case, Entry, Role};
use spinwire_benches::{bare, catalogue, idle, wqe};

/// Which case the process under valgrind runs, and for how many rounds.
const CASE: &str = "SPINWIRE_COUNT_CASE";
const ROUNDS: &str = "SPINWIRE_COUNT_ROUNDS";
/// Rounds of the two runs: more than any ring has places, and a multiple of the turns between two sweeps.
const FEW_ROUNDS: u32 = 512;
const MANY_ROUNDS: u32 = 1536;
/// The limit is this much above the count.
const ALLOWANCE: f64 = 1.05;
/// Cases that have promised a number: their limit is never above it.
const BARS: [(&str, f64); 1] = [("wqe/inline_send/32", 60.0)];

fn main() -> ExitCode {
    if let Ok(name) = std::env::var(CASE) {
        let rounds = std::env::var(ROUNDS).expect("set with the case").parse().expect("a number");
        let entry = catalogue().into_iter().find(|entry| entry.name == name);
        let _hash = work(&entry.expect("a case of that name"), rounds);
        return ExitCode::SUCCESS;
    }
    let is_asked = |flag| std::env::args().any(|argument| argument == flag);
    let ours = catalogue().into_iter().filter(|entry| entry.role == Role::Ours);
    if !is_asked("--bench") {
        for entry in ours {
            check(&entry);
        }
        println!("results checked; `cargo bench` counts the instructions");
        return ExitCode::SUCCESS;
    }
    let mut counts = BTreeMap::new();
    for entry in ours {
        check(&entry);
        match count(&entry) {
            Ok(count) => counts.insert(entry.name, count),
            Err(why) => {
                eprintln!("instructions: {}: {why}", entry.name);
                return ExitCode::from(2);
            }
        };
    }
    if is_asked("--bless") {
        fs::write(limits_path(), print_limits(&counts)).expect("the limits are writable");
        println!("wrote {}", limits_path().display());
    }
    judge(&counts)
}

/// What is counted: the work alone, without the check of what came out of it.
fn work(entry: &Entry, rounds: u32) -> (Case, u64) {
    let mut case = (entry.build)();
    let hash = case.run(u64::from(rounds));
    (case, hash)
}

/// Stops where the work does not come to what it should.
fn check(entry: &Entry) {
    let (case, hash) = work(entry, FEW_ROUNDS);
    case.check(u64::from(FEW_ROUNDS), hash);
}

/// Instructions per operation.
fn count(entry: &Entry) -> Result<f64, String> {
    let few = under_valgrind(entry, FEW_ROUNDS)?;
    let many = under_valgrind(entry, MANY_ROUNDS)?;
    let difference = u32::try_from(many - few).map_err(|e| format!("{few}, then {many}: {e}"))?;
    let operations = f64::from(MANY_ROUNDS - FEW_ROUNDS) * f64::from(entry.ops_per_round);
    Ok(f64::from(difference) / operations)
}

/// Instructions of a whole process that runs the case.
fn under_valgrind(entry: &Entry, rounds: u32) -> Result<u64, String> {
    let this =
        std::env::current_exe().map_err(|e| format!("this program is not to be found: {e}"))?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(this)
        .env(CASE, entry.name)
        .env(ROUNDS, rounds.to_string())
        .output()
        .map_err(|e| format!("valgrind does not start ({e}); remedy: apt-get install valgrind"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("the run under valgrind failed:\n{said}"));
    }
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    let (_, number) = collected.ok_or_else(|| format!("valgrind names no count:\n{said}"))?;
    number.trim().parse().map_err(|e| format!("`{number}` is no count: {e}"))
}

fn limits_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.toml")
}

fn print_limits(counts: &BTreeMap<&str, f64>) -> String {
    let mut text = String::from(
        "# The most instructions that an operation may take: 5 % (at least one) above the count when this was written, by\n\
         # `cargo bench -p spinwire-benches --bench instructions -- --bless`. Read the diff before you commit it.\n",
    );
    for (name, count) in counts {
        let bar = BARS.iter().find(|(of, _)| of == name).map_or(f64::INFINITY, |(_, bar)| *bar);
        let limit = (count * ALLOWANCE).max(count + 1.0).min(bar);
        writeln!(text, "\"{name}\" = {limit:.1} # counted {count:.1}").expect("a String takes all");
    }
    text
}

/// The limits by name, of lines like `"name" = 12.5 # remark`.
fn parse_limits(text: &str) -> Result<BTreeMap<String, f64>, String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let limit = |line: &str| {
        let (name, limit) = line.split_once('=')?;
        Some((name.trim().trim_matches('"').to_owned(), limit.trim().parse().ok()?))
    };
    lines
        .filter(|line| !line.is_empty())
        .map(|line| limit(line).ok_or_else(|| format!("not `\"name\" = number`: {line}")))
        .collect()
}

/// Prints the table. Fails where a count is over its limit or has none, and where a limit has no case.
fn judge(counts: &BTreeMap<&str, f64>) -> ExitCode {
    let text = fs::read_to_string(limits_path()).unwrap_or_default();
    let mut limits = match parse_limits(&text) {
        Ok(limits) => limits,
        Err(why) => {
            eprintln!("{}: {why}", limits_path().display());
            return ExitCode::from(2);
        }
    };
    let mut is_good = true;
    println!("{:36} {:>12} {:>12}", "instructions per operation", "counted", "limit");
    for (name, count) in counts {
        let limit = limits.remove(*name);
        let verdict = match limit {
            None => "NO LIMIT: --bless writes one",
            Some(limit) if *count > limit => "OVER",
            Some(_) => "",
        };
        is_good &= verdict.is_empty();
        let limit = limit.map_or_else(String::new, |limit| format!("{limit:.1}"));
        println!("{name:36} {count:12.1} {limit:>12} {verdict}");
    }
    for name in limits.keys() {
        println!("{name:36} a limit of no case: --bless takes it out");
        is_good = false;
    }
    if let (Some(many), Some(one)) = (counts.get("idle/turn/64"), counts.get("idle/turn/1")) {
        let ratio = many / one;
        let verdict = if ratio > idle::RATIO_MAX { "OVER" } else { "" };
        is_good &= verdict.is_empty();
        println!(
            "{:36} {ratio:12.2} {:12.2} {verdict}",
            "idle turn, 64 peers / 1 peer",
            idle::RATIO_MAX
        );
    }
    if let Some(count) = counts.get("wqe/inline_send/32") {
        let bar = wqe::SEND_INSTRUCTIONS_MAX;
        let verdict = if *count > bar { "OVER" } else { "" };
        is_good &= verdict.is_empty();
        println!("{:36} {count:12.1} {bar:>12.1} {verdict}", "inline SEND, the bar");
    }
    if let (Some(with), Some(alone)) =
        (counts.get("round/endpoint/32"), counts.get("round/bare/32"))
    {
        let (apart, bar) = (with - alone, bare::ENDPOINT_INSTRUCTIONS_MAX);
        let verdict = if apart > bar { "OVER" } else { "" };
        is_good &= verdict.is_empty();
        println!("{:36} {apart:12.1} {bar:>12.1} {verdict}", "an endpoint above its provider");
    }
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
