//! Links of documents lead somewhere, and the table of tests names files that there are.

use std::collections::BTreeSet;

use crate::rule::{self, Finding};
use crate::tree::Tree;

/// The document whose chapter *Tests* says which test shows what, by paths below `tests/` in the last column of a table.
const TABLE_OF_TESTS: (&str, &str, &str) = ("ARCHITECTURE.md", "## Tests", "tests/");

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let rust = tree.sources().map(|source| source.path.as_str());
    let files: BTreeSet<&str> = rust.chain(tree.texts.keys().map(String::as_str)).collect();
    let documents = tree.texts.iter().filter(|(path, _)| path.ends_with(".md"));
    documents.flat_map(|(path, text)| of_document(tree, &files, (path, text))).collect()
}

fn of_document(tree: &Tree, files: &BTreeSet<&str>, (path, text): (&str, &str)) -> Vec<Finding> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut found = Vec::new();
    let mut chapter = "";
    for (number, line) in prose(text) {
        if line.starts_with("## ") {
            chapter = line;
        }
        for target in links(line) {
            if let Err(why) = follow(tree, files, (path, folder), target) {
                found.push(Finding::new(path, number, rule::DEAD_LINK, why));
            }
        }
        if (path, chapter) == (TABLE_OF_TESTS.0, TABLE_OF_TESTS.1) {
            for name in places(line).filter(|name| !is_there(files, TABLE_OF_TESTS.2, name)) {
                let why = format!("there is no {name} (below {})", TABLE_OF_TESTS.2);
                found.push(Finding::new(path, number, rule::DEAD_LINK, why));
            }
        }
    }
    found
}

/// Lines, counted from 1, that are no code.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// Targets of `[text](target)`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
}

/// What stands between backticks in the last cell of a row and looks like a path.
fn places(line: &str) -> impl Iterator<Item = &str> {
    let cells = line.strip_prefix('|').and_then(|row| row.trim_end().strip_suffix('|'));
    let last = cells.and_then(|row| row.rsplit('|').next()).unwrap_or_default();
    last.split('`').skip(1).step_by(2).filter(|name| name.contains('/'))
}

/// A path below a folder, without `..`.
fn below(folder: &str, path: &str) -> String {
    let mut parts = Vec::new();
    for part in folder.split('/').chain(path.split('/')).filter(|part| !part.is_empty()) {
        if part == ".." {
            parts.pop();
        } else if part != "." {
            parts.push(part);
        }
    }
    parts.join("/")
}

/// Whether there is a file or a folder of that name; `*` stands for the rest of it.
fn is_there(files: &BTreeSet<&str>, folder: &str, path: &str) -> bool {
    let path = below(folder, path);
    let (start, is_open) =
        path.split_once('*').map_or((path.as_str(), false), |(start, _)| (start, true));
    files.iter().any(|file| {
        let rest = file.strip_prefix(start);
        rest.is_some_and(|rest| is_open || rest.is_empty() || rest.starts_with('/'))
    })
}

fn follow(
    tree: &Tree,
    files: &BTreeSet<&str>,
    (this, folder): (&str, &str),
    target: &str,
) -> Result<(), String> {
    if target.contains("://") {
        return Ok(());
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    if !path.is_empty() && !is_there(files, folder, path) {
        return Err(format!("{target}: there is no such file"));
    }
    let to = if path.is_empty() { this.to_owned() } else { below(folder, path) };
    let headings = tree.texts.get(&to).map_or("", String::as_str);
    if !anchor.is_empty()
        && !prose(headings).any(|(_, line)| anchor_of(line).as_deref() == Some(anchor))
    {
        return Err(format!("{target}: {to} has no such heading"));
    }
    Ok(())
}

/// How a heading is linked to: in small letters, without signs, with `-` for blanks.
fn anchor_of(line: &str) -> Option<String> {
    let title = line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#'))?;
    let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    Some(kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect())
}
