//! The files of the workspace, and which Rust file is declared by which.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::rule::Finding;
use crate::source::{Source, closing, item_end, words_in};

/// Folders that hold what tools write, never what people write.
const SKIPPED: &[&str] = &["target", ".git", "corpus", "artifacts", "coverage", "node_modules"];

/// Text files by ending. Files without an ending count when they start with `#!` or are licences.
const TEXT_ENDINGS: &[&str] =
    &["rs", "toml", "md", "txt", "sh", "yml", "yaml", "json", "c", "h", "stderr", "py"];

/// The workspace, in memory: read from disk, or planted by a test.
#[derive(Debug)]
pub(crate) struct Tree {
    rust: BTreeMap<String, Source>,
    /// Every text file that is not Rust.
    pub(crate) texts: BTreeMap<String, String>,
    /// Names in the root folder.
    pub(crate) top: BTreeSet<String>,
    /// Rust files that a target or a `mod` reaches.
    reached: BTreeSet<String>,
}

impl Tree {
    pub(crate) fn read(root: &Path) -> Self {
        let mut files = Vec::new();
        walk(root, root, &mut files);
        let mut tree =
            Self::from_texts(files.iter().map(|(path, text)| (path.as_str(), text.as_str())));
        tree.top = fs::read_dir(root)
            .expect("root folder")
            .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        tree
    }

    pub(crate) fn from_texts<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let (mut rust, mut texts) = (BTreeMap::new(), BTreeMap::new());
        for (path, text) in files {
            if path.ends_with(".rs") {
                rust.insert(path.to_owned(), Source::new(path, text));
            } else {
                texts.insert(path.to_owned(), text.to_owned());
            }
        }
        let all = rust.keys().chain(texts.keys());
        let top = all.map(|path| path.split('/').next().unwrap_or(path).to_owned()).collect();
        let mut tree = Self { rust, texts, top, reached: BTreeSet::new() };
        tree.reach();
        tree
    }

    pub(crate) fn sources(&self) -> impl Iterator<Item = &Source> {
        self.rust.values()
    }

    pub(crate) fn is_reached(&self, path: &str) -> bool {
        self.reached.contains(path)
    }

    /// Is there an excuse, with a reason, at the line of the finding or in the comment block right above it?
    pub(crate) fn allows(&self, finding: &Finding) -> bool {
        let text = match (self.rust.get(&finding.path), self.texts.get(&finding.path)) {
            (Some(source), _) => &source.comments,
            (None, Some(text)) => text,
            (None, None) => return false,
        };
        let marker = format!("tidy-allow({}):", finding.rule);
        let lines: Vec<&str> = text.lines().collect();
        let excused = |line: usize| {
            line.checked_sub(1).and_then(|at| lines.get(at)).is_some_and(|line| {
                line.split_once(&marker).is_some_and(|(_, reason)| reason.trim().len() >= 10)
            })
        };
        if finding.line == 0 {
            return (1..=lines.len().min(40)).any(excused);
        }
        excused(finding.line) || (1..=3).any(|up| excused(finding.line.saturating_sub(up)))
    }

    fn reach(&mut self) {
        let mut queue: Vec<(String, bool)> = self
            .rust
            .keys()
            .filter(|path| is_root(path))
            .map(|path| (path.clone(), false))
            .collect();
        queue.extend(self.named_targets().into_iter().map(|path| (path, false)));
        while let Some((path, in_test)) = queue.pop() {
            let Some(source) = self.rust.get_mut(&path) else {
                continue;
            };
            if in_test {
                source.all_tests();
            }
            if self.reached.insert(path) {
                queue.extend(declared(source));
            }
        }
    }

    /// Targets that a manifest names by `path = "x.rs"`.
    fn named_targets(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (path, text) in self.texts.iter().filter(|(path, _)| path.ends_with("Cargo.toml")) {
            let folder = path.trim_end_matches("Cargo.toml");
            for line in text.lines().map(str::trim).filter(|line| line.starts_with("path")) {
                if let Some(name) = line.split('"').nth(1).filter(|name| name.ends_with(".rs")) {
                    found.push(format!("{folder}{name}"));
                }
            }
        }
        found
    }
}

fn walk(root: &Path, folder: &Path, out: &mut Vec<(String, String)>) {
    let mut entries: Vec<_> =
        fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry").path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().expect("name").to_string_lossy().into_owned();
        if path.is_dir() {
            if !SKIPPED.contains(&name.as_str()) {
                walk(root, &path, out);
            }
            continue;
        }
        let ending = path.extension().map(|ending| ending.to_string_lossy().into_owned());
        let wanted = match ending.as_deref() {
            Some(ending) => TEXT_ENDINGS.contains(&ending),
            None => true,
        };
        if wanted && let Ok(text) = fs::read_to_string(&path) {
            let short =
                path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
            out.push((short, text));
        }
    }
}

/// Is it a file that cargo, or the compile-fail test, finds by itself?
fn is_root(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let Some((file, folders)) = parts.split_last() else {
        return false;
    };
    let last = folders.last().copied().unwrap_or_default();
    let above = folders.iter().rev().nth(1).copied().unwrap_or_default();
    match *file {
        "build.rs" => true,
        "lib.rs" | "main.rs" if last == "src" => true,
        "main.rs" => matches!(above, "tests" | "benches" | "examples" | "bin"),
        _ if path.starts_with("dataplane/tests/ui/") => true,
        _ if path.starts_with("tests/fuzz/") => last == "fuzz_targets",
        _ => {
            matches!(last, "benches" | "examples" | "bin") || (last == "tests" && folders.len() > 1)
        }
    }
}

/// Files that `source` declares by `mod x;`, as every candidate path, with "is it declared under cfg(test)?".
fn declared(source: &Source) -> Vec<(String, bool)> {
    let (parent, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let stem = file.trim_end_matches(".rs");
    let owns_folder = is_root(&source.path) || stem == "mod";
    let base = if owns_folder { parent.to_owned() } else { format!("{parent}/{stem}") };
    let mut found = Vec::new();
    for at in words_in(&source.code, "mod") {
        let name: String = source.code[at + 3..]
            .trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        let end = item_end(&source.code, at);
        if name.is_empty() || source.code[..end].ends_with('}') {
            continue;
        }
        let in_test = source.is_test_line(source.line_of(at));
        if let Some(path) = path_attribute(source, at) {
            found.push((format!("{parent}/{path}"), in_test));
            continue;
        }
        let folder = enclosing(&source.code, at)
            .into_iter()
            .fold(base.clone(), |dir, inner| dir + "/" + &inner);
        found.push((format!("{folder}/{name}.rs"), in_test));
        found.push((format!("{folder}/{name}/mod.rs"), in_test));
    }
    for at in words_in(&source.code, "include!") {
        let end = item_end(&source.code, at);
        if let Some(name) = source.text[at..end].split('"').nth(1) {
            found.push((format!("{parent}/{name}"), source.is_test_line(source.line_of(at))));
        }
    }
    found
}

/// The value of a `#[path = ".."]` among the attributes right before the item at `at`.
fn path_attribute(source: &Source, at: usize) -> Option<&str> {
    let before = source.code[..at].rfind(['}', ';']).map_or(0, |end| end + 1);
    let offset = source.code[before..at].find("#[path")? + before;
    source.text[offset..at].split('"').nth(1)
}

/// Names of the inline modules around an offset, outermost first.
fn enclosing(code: &str, at: usize) -> Vec<String> {
    let mut names = Vec::new();
    for start in words_in(&code[..at], "mod") {
        let Some(open) = code[start..at].find('{').map(|open| start + open) else {
            continue;
        };
        let head = code[start + 3..open].trim();
        let is_name = !head.is_empty() && head.chars().all(|c| c.is_alphanumeric() || c == '_');
        if is_name && closing(code, open).is_some_and(|end| end > at) {
            names.push(head.to_owned());
        }
    }
    names
}
