//! One Rust file, split into what the compiler reads and what people read.
//!
//! `code` and `comments` have the same length and the same line breaks as the text: whatever belongs to the other one
//! is blanked. The insides of string and char literals are blanked in both, so that a rule never fires on them.

/// A Rust file and its two views.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) code: String,
    pub(crate) comments: String,
    /// Per line: does it belong to an item under `#[cfg(test)]`?
    pub(crate) test_lines: Vec<bool>,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let (code, comments) = split(text);
        let test_lines = mark_tests(&code);
        Self { path: path.to_owned(), text: text.to_owned(), code, comments, test_lines }
    }

    /// The line, from 1, of a byte offset.
    pub(crate) fn line_of(&self, offset: usize) -> usize {
        1 + self.text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count()
    }

    pub(crate) fn is_test_line(&self, line: usize) -> bool {
        self.test_lines.get(line - 1).copied().unwrap_or(false)
    }

    /// Offsets of `word` in the code, outside of tests unless `with_tests`.
    pub(crate) fn words(&self, word: &str, tests: Tests) -> Vec<usize> {
        let mut found = words_in(&self.code, word);
        if tests == Tests::Skip {
            found.retain(|offset| !self.is_test_line(self.line_of(*offset)));
        }
        found
    }

    /// Marks the whole file as a test, because its parent declares it under `#[cfg(test)]`.
    pub(crate) fn all_tests(&mut self) {
        self.test_lines.iter_mut().for_each(|line| *line = true);
    }
}

/// Whether a search looks into test items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tests {
    Skip,
    Search,
}

/// Offsets of `word` in `text`, where the neighbours are no identifier characters (if the word's ends are some).
pub(crate) fn words_in(text: &str, word: &str) -> Vec<usize> {
    let is_ident = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = text.as_bytes();
    let first = word.as_bytes()[0];
    let last = word.as_bytes()[word.len() - 1];
    text.match_indices(word)
        .map(|(at, _)| at)
        .filter(|at| {
            let before = at.checked_sub(1).map(|i| bytes[i]);
            let after = bytes.get(at + word.len()).copied();
            let begins = !is_ident(first) || !before.is_some_and(is_ident);
            let ends = !is_ident(last) || !after.is_some_and(is_ident);
            begins && ends
        })
        .collect()
}

/// The offset of the bracket that closes the one at `open`, in blanked code.
pub(crate) fn closing(code: &str, open: usize) -> Option<usize> {
    let bytes = code.as_bytes();
    let (up, down) = match bytes[open] {
        b'{' => (b'{', b'}'),
        b'(' => (b'(', b')'),
        b'[' => (b'[', b']'),
        _ => return None,
    };
    let mut depth = 0_usize;
    for (at, byte) in bytes.iter().enumerate().skip(open) {
        if *byte == up {
            depth += 1;
        } else if *byte == down {
            depth -= 1;
            if depth == 0 {
                return Some(at);
            }
        }
    }
    None
}

/// Where the item that starts at `from` ends: behind its `;`, or behind the brace that closes its body.
pub(crate) fn item_end(code: &str, from: usize) -> usize {
    let bytes = code.as_bytes();
    let mut at = from;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'(' | b'[' => match closing(code, at) {
                Some(end) => at = end,
                None => return code.len(),
            },
            b'{' => return closing(code, at).map_or(code.len(), |end| end + 1),
            b';' => return at + 1,
            _ => {}
        }
        at += 1;
    }
    code.len()
}

fn mark_tests(code: &str) -> Vec<bool> {
    let mut lines = vec![false; code.lines().count()];
    for (at, _) in code.match_indices("#[cfg(") {
        let open = at + "#[cfg".len();
        let Some(close) = closing(code, open) else {
            continue;
        };
        let condition = &code[open..close];
        if words_in(condition, "test").is_empty() || condition.contains("not(test") {
            continue;
        }
        let end = item_end(code, close + 2);
        let first = code[..at].matches('\n').count();
        let last = code[..end].matches('\n').count();
        for line in lines.iter_mut().take(last + 1).skip(first) {
            *line = true;
        }
    }
    lines
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

fn split(text: &str) -> (String, String) {
    let mut code = String::with_capacity(text.len());
    let mut comments = String::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let (kind, length) = token(text, at);
        for (offset, byte) in text.as_bytes()[at..at + length].iter().enumerate() {
            let edge = offset == 0 || offset + 1 == length;
            let shown = if byte.is_ascii() { char::from(*byte) } else { ' ' };
            let blank = if *byte == b'\n' { '\n' } else { ' ' };
            code.push(if kind == Kind::Code || (kind == Kind::Literal && edge) {
                shown
            } else {
                blank
            });
            comments.push(if kind == Kind::Comment { shown } else { blank });
        }
        at += length;
    }
    (code, comments)
}

/// What starts at `at`, and how many bytes it takes.
fn token(text: &str, at: usize) -> (Kind, usize) {
    let rest = &text[at..];
    let width = rest.chars().next().map_or(1, char::len_utf8);
    let fresh = text[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '_');
    if rest.starts_with("//") {
        return (Kind::Comment, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (Kind::Comment, block_comment(rest));
    }
    if fresh && let Some(length) = raw_string(rest) {
        return (Kind::Literal, length);
    }
    if rest.starts_with('"') {
        return (Kind::Literal, quoted(rest, '"'));
    }
    if rest.starts_with('\'') {
        let mut next = rest.chars().skip(1);
        let (first, second) = (next.next(), next.next());
        if first == Some('\\') || second == Some('\'') {
            return (Kind::Literal, quoted(rest, '\''));
        }
    }
    (Kind::Code, width)
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The length of `r"..."`, `r#"..."#`, `br"..."` or `cr"..."` at the start of `rest`.
fn raw_string(rest: &str) -> Option<usize> {
    let body = rest
        .strip_prefix("br")
        .or_else(|| rest.strip_prefix("cr"))
        .or_else(|| rest.strip_prefix('r'))?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let inside = body[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let start = rest.len() - inside.len();
    Some(inside.find(&close).map_or(rest.len(), |end| start + end + close.len()))
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return at + 1;
        }
    }
    rest.len()
}

#[cfg(test)]
mod lexer {
    use super::{Source, Tests, words_in};

    #[test]
    fn literals_and_comments_are_blanked() {
        let text = "let a = \"fn // x\"; // say fn\nlet c = '\"'; let l: &'a str = r#\"fn \" \"#; /* fn /* fn */ fn */ fn g() {}";
        let source = Source::new("x.rs", text);
        assert_eq!(source.code.len(), text.len());
        assert_eq!(source.comments.len(), text.len());
        assert_eq!(source.words("fn", Tests::Search).len(), 1, "{}", source.code);
        assert_eq!(words_in(&source.comments, "fn").len(), 4, "{}", source.comments);
    }

    #[test]
    fn non_ascii_keeps_offsets() {
        let source = Source::new("x.rs", "// é → x\nfn f() { 'é'; }\n");
        assert_eq!(source.line_of(source.words("fn", Tests::Search)[0]), 2);
    }

    #[test]
    fn test_items_are_marked_and_others_are_not() {
        let text = "fn a() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n fn b() {}\n}\nfn c() {}\n#[cfg(not(test))]\nfn d() {}\n#[cfg(test)]\nextern crate std;\nfn e() {}\n";
        let source = Source::new("x.rs", text);
        let marked: Vec<usize> = (1..=12).filter(|line| source.is_test_line(*line)).collect();
        assert_eq!(marked, [2, 3, 4, 5, 6, 10, 11]);
    }
}
