//! What the header of this machine says: a C program that prints it.
//!
//! Each property is asked for in a function of its own, on a line of its own. Of those that the header is too old for, the
//! compiler tells the lines; the program is then compiled without them.

use core::fmt::Write as _;
use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use super::host_process::Folder;
use super::host_process::private::output;
use super::{Known, names};

const INCLUDES: &str = "#define _GNU_SOURCE\n#include <stddef.h>\n#include <stdio.h>\n#include <sys/socket.h>\n\
                        #include <netinet/in.h>\n#include <linux/io_uring.h>\n";

/// The C expression whose value the property is.
fn expression(property: &str) -> String {
    if let Some(place) = property.strip_prefix('|') {
        let (structure, field) = place.trim_end_matches('|').split_once('.').unwrap();
        return format!("sizeof((({structure} *)0)->{field})");
    }
    match property.split_once('.') {
        Some((structure, field)) => format!("offsetof({structure}, {field})"),
        None if property.starts_with("struct ") => format!("sizeof({property})"),
        None => property.to_owned(),
    }
}

fn source(properties: &[String], without: &BTreeSet<usize>) -> String {
    let mut text = INCLUDES.to_owned();
    let mut calls = String::new();
    for (number, property) in properties.iter().enumerate() {
        let value = expression(property);
        if without.contains(&number) {
            text.push_str("/* too old */\n");
            continue;
        }
        writeln!(text, "static void ask{number}(void) {{ printf(\"%s=%llu\\n\", \"{property}\", (unsigned long long)({value})); }}").unwrap();
        writeln!(calls, "ask{number}();").unwrap();
    }
    writeln!(text, "int main(void) {{ {calls} return 0; }}").unwrap();
    text
}

/// Asks the header for all that is in `ours`, and for alignments. Names that it does not know are left out.
pub(crate) fn ask(ours: &[(String, u64)]) -> Result<Known, String> {
    output("cc", &["--version"]).map_err(|e| format!("{e}; remedy: apt-get install gcc"))?;
    let mut properties: Vec<String> =
        ours.iter().map(|(name, _)| name.clone()).filter(|name| !names::is_unused(name)).collect();
    let structures: Vec<_> =
        properties.iter().filter(|p| p.starts_with("struct ") && !p.contains('.')).collect();
    let alignments: Vec<_> = structures.iter().map(|s| format!("_Alignof({s})")).collect();
    properties.extend(alignments);
    properties.sort();
    properties.dedup();

    let folder = Folder::new();
    let (file, program) = (folder.path().join("probe.c"), folder.path().join("probe"));
    let mut without = BTreeSet::new();
    let lines_before = INCLUDES.lines().count();
    // The second round compiles what the first has found to be there.
    for _round in 0..2 {
        std::fs::write(&file, source(&properties, &without)).unwrap();
        let compiled = Command::new("cc")
            .args(["-std=gnu11", "-w", "-fmax-errors=0", "-fno-diagnostics-show-caret", "-o"])
            .args([&program, &file])
            .env("LC_ALL", "C")
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        if compiled.status.success() {
            let text = output(program.to_str().unwrap(), &[])?;
            return Ok(text.lines().map(parse).collect());
        }
        let errors = String::from_utf8_lossy(&compiled.stderr).into_owned();
        let at = |line: &str| {
            let (_path, rest) = line.split_once("probe.c:")?;
            let number: usize = rest.split(':').next()?.parse().ok()?;
            line.contains(" error: ").then(|| number.checked_sub(lines_before + 1)).flatten()
        };
        without.extend(errors.lines().filter_map(at));
        if without.is_empty() {
            return Err(errors);
        }
    }
    Err("the C program does not compile".to_owned())
}

fn parse(line: &str) -> (String, u64) {
    let (name, value) = line.rsplit_once('=').unwrap();
    (name.to_owned(), value.parse().unwrap())
}
