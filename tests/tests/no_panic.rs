//! No-panic scan: in optimised code, no path leads from a hot function to a panic.
//!
//! ```text
//!   probe_lane_stage ──> LaneTx::stage ──> .. ──> core::panicking::panic_bounds_check ──> panic handler
//!   (tests/nostd/src/lib.rs)                      only if the optimiser could not exclude it   │
//!                                                                      undefined symbol  <─────┘
//! ```
//!
//! The probe exports one C function for each hot function, and nothing else, so the linker drops all that they do not
//! reach. Its panic handler calls a function that does not exist: where any panic path survives, that name is left
//! undefined in the library. The disassembly then names the path.
//!
//! The build has overflow checks on, so arithmetic that neither wraps nor is checked is found too. The canary builds
//! a probe with a planted panic, two calls deep, beside others, and expects the scan to name that one.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod nostd_build;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use nostd_build::{Build, read_object};

/// What the panic handler of the probe calls, and nobody defines.
const SINK: &str = "spinwire_panic_path_survived";

/// The folder of what was built.
fn build(target: &str) -> PathBuf {
    let flags = ["-Clink-arg=-nostartfiles"];
    Build { target, profile: "release", flags: &flags }.run()
}

/// A function of the disassembly: its name, and the addresses that its instructions mention, each with the address of the
/// first instruction that does.
#[derive(Debug, Default)]
struct Function {
    name: String,
    targets: BTreeMap<u64, u64>,
    is_sink: bool,
}

/// Functions by start address.
fn functions(disassembly: &str) -> BTreeMap<u64, Function> {
    let mut functions: BTreeMap<u64, Function> = BTreeMap::new();
    let mut current = None;
    for line in disassembly.lines() {
        if let Some((address, name)) =
            line.strip_suffix(">:").and_then(|head| head.split_once(" <"))
        {
            let address = u64::from_str_radix(address, 16).expect("an address");
            functions.insert(address, Function { name: name.to_owned(), ..Function::default() });
            current = Some(address);
            continue;
        }
        let Some(function) = current.and_then(|address| functions.get_mut(&address)) else {
            continue;
        };
        function.is_sink |= line.contains(SINK);
        // "    1374:\tcall   1392 <name+0x..>": the operand, or the address that a comment after '#' works out.
        let mut parts = line.split_whitespace();
        let Some(site) = parts.next().and_then(|site| hex(site.trim_end_matches(':'))) else {
            continue;
        };
        for target in parts.skip(1).filter_map(hex) {
            function.targets.entry(target).or_insert(site);
        }
    }
    functions
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()
}

/// The shortest chain of calls from `start` to the panic handler: names, each with the instruction that leads on.
fn path_to_sink(functions: &BTreeMap<u64, Function>, start: u64) -> Option<Vec<(String, u64)>> {
    let mut came_from = BTreeMap::from([(start, (start, 0))]);
    let mut queue = VecDeque::from([start]);
    while let Some(at) = queue.pop_front() {
        let function = functions.get(&at)?;
        if function.is_sink {
            let (mut path, mut here, mut site) = (Vec::new(), at, 0);
            loop {
                path.push((functions.get(&here)?.name.clone(), site));
                if here == start {
                    path.reverse();
                    return Some(path);
                }
                (here, site) = *came_from.get(&here)?;
            }
        }
        for (target, site) in &function.targets {
            // A jump may land inside of a function.
            let Some((entry, _)) = functions.range(..=target).next_back() else {
                continue;
            };
            if !came_from.contains_key(entry) {
                came_from.insert(*entry, (at, *site));
                queue.push_back(*entry);
            }
        }
    }
    None
}

/// The path in words, with the source lines (innermost first) from which the last function that is not core's leaves.
///
/// The optimiser merges the calls of a function to one panic into one block without a line of its own; the jumps into
/// that block still have theirs.
fn describe(functions: &BTreeMap<u64, Function>, library: &Path, path: &[(String, u64)]) -> String {
    let names: Vec<&str> = path.iter().map(|(name, _)| name.as_str()).collect();
    let mut text = names.join("\n    -> ");
    let foreign = |name: &str| name.starts_with("core::") || name.contains("rust_begin_unwind");
    let Some((_, site)) = path.iter().rev().find(|(name, _)| !foreign(name)) else {
        return text;
    };
    let Some((_, function)) = functions.range(..=site).next_back() else {
        return text;
    };
    let block = site.saturating_sub(40)..=*site;
    let jumps: Vec<u64> = function.targets.range(block).map(|(_, site)| *site).collect();
    for site in if jumps.is_empty() { vec![*site] } else { jumps } {
        let address = format!("0x{site:x}");
        let arguments = ["--inlines", "--basenames", &address, "--exe"];
        let lines = read_object("addr2line", &arguments, library);
        let lines: Vec<&str> = lines.lines().take(4).collect();
        text.push_str("\n    at ");
        text.push_str(&lines.join(", in "));
    }
    text
}

/// One line per probe that can panic; a line for the whole library where a panic survives that no path explains.
fn scan(library: &Path) -> Vec<String> {
    let disassembly = read_object("objdump", &["-d", "-C", "--no-show-raw-insn"], library);
    let functions = functions(&disassembly);
    let probes = functions.iter().filter(|(_, function)| function.name.starts_with("probe_"));
    let mut findings: Vec<String> = probes
        .filter_map(|(address, _)| path_to_sink(&functions, *address))
        .map(|path| describe(&functions, library, &path))
        .collect();
    let undefined = read_object("nm", &["--dynamic", "--undefined-only"], library);
    if findings.is_empty() && undefined.contains(SINK) {
        findings
            .push("a panic survives behind a function pointer: look with objdump -dC".to_owned());
    }
    findings
}

fn probes(library: &Path) -> Vec<String> {
    let symbols = read_object("nm", &["--dynamic", "--defined-only"], library);
    let names = symbols.lines().filter_map(|line| line.split_whitespace().last());
    names.filter(|name| name.starts_with("probe_")).map(str::to_owned).collect()
}

#[test]
fn hot_functions_cannot_panic() {
    let library = build("--lib").join("libspinwire_probe.so");
    let probes = probes(&library);
    assert!(probes.len() >= 3, "the probe exports next to nothing: {probes:?}");
    let findings = scan(&library);
    assert!(
        findings.is_empty(),
        "panic paths in optimised code, overflow checks on ({} of {} probes):\n{}",
        findings.len(),
        probes.len(),
        findings.join("\n")
    );
}

/// The scan finds a panic that is really there, in the probe that has it and in no other.
#[test]
fn canary_is_found() {
    let folder = build("--example=canary");
    let findings = scan(&folder.join("examples/libcanary.so"));
    let ours: Vec<&String> = findings.iter().filter(|path| path.contains("canary")).collect();
    let [finding] = ours.as_slice() else {
        panic!("one planted panic, found {}:\n{}", ours.len(), findings.join("\n"));
    };
    assert!(finding.starts_with("probe_canary\n"), "{finding}");
    assert!(
        finding.contains("unchecked"),
        "the path does not name the function between: {finding}"
    );
    assert!(finding.contains("panic_bounds_check"), "{finding}");
}
