//! What no text file may say, Rust or not.

use crate::rule::{self, Finding};
use crate::source::words_in;
use crate::tree::Tree;

/// Words about how the text came to be. Readers want to know how the product works.
const TALK: &[&str] = &[
    "session",
    "sessions",
    "colleague",
    "colleagues",
    "claude",
    "anthropic",
    "chatgpt",
    "copilot",
    "language model",
    "issues show",
    "this brief",
    "the brief",
    "the lead",
    "as requested",
    "as instructed",
];

/// Places that exist on one machine only.
const PATHS: &[&str] = &["/work/", "/root/", "/home/", "/Users/"];

const UNFINISHED: &[&str] = &["TODO", "FIXME", "XXX", "HACK"];

/// This test names what it bans.
const SELF: &str = "tests/tests/tidy/";

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let rust = tree
        .sources()
        .map(|source| (source.path.as_str(), source.text.as_str(), Some(&source.comments)));
    let texts = tree.texts.iter().map(|(path, text)| (path.as_str(), text.as_str(), None));
    let mut findings = Vec::new();
    for (path, text, comments) in rust.chain(texts) {
        let licence = path.starts_with("LICENSE");
        let foreign = path.ends_with("Cargo.lock");
        if path.starts_with(SELF) || licence || foreign {
            continue;
        }
        let spoken = comments.map_or(text, String::as_str);
        findings.extend(talk(path, spoken));
        findings.extend(paths(path, text));
        findings.extend(unfinished(path, spoken));
    }
    findings
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count()
}

fn talk(path: &str, text: &str) -> Vec<Finding> {
    let lower = text.to_ascii_lowercase();
    let mut found = Vec::new();
    for word in TALK {
        for at in words_in(&lower, word) {
            let why = format!("\"{word}\": say how the product works, not how the work was done");
            found.push(Finding::new(path, line_of(text, at), rule::TALK, why));
        }
    }
    for at in words_in(&lower, "issue") {
        let behind = lower[at + 5..].trim_start_matches([' ', '#']);
        if behind.starts_with(|c: char| c.is_ascii_digit()) {
            let why = "an issue number: state the fact itself";
            found.push(Finding::new(path, line_of(text, at), rule::TALK, why));
        }
    }
    found
}

fn paths(path: &str, text: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    for place in PATHS {
        for (at, _) in text.match_indices(place) {
            let inside =
                text[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || "._-*}".contains(c));
            if !inside {
                let why = format!(
                    "\"{place}\" exists on one machine only: use a path relative to the workspace"
                );
                found.push(Finding::new(path, line_of(text, at), rule::MACHINE_PATH, why));
            }
        }
    }
    found
}

fn unfinished(path: &str, text: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    for word in UNFINISHED {
        for at in words_in(text, word) {
            let why = format!("{word}: finish it, or write down what does not work as a limit");
            found.push(Finding::new(path, line_of(text, at), rule::UNFINISHED, why));
        }
    }
    found
}
