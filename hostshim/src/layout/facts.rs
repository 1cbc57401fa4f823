//! What follows from where members lie: holes, cache lines that are straddled, and who disturbs whom.
//!
//! ```text
//!   line 0   | head  u64 by sender | tail  u64 by receiver |  ..     two writers, one line: each store takes it from the other
//!   line 1   | stamp u64 ..........|..... crosses into line 2        two lines move where one would do
//! ```
//!
//! Lines are counted from the start of the type, as if that lay at the start of a line.

use std::collections::BTreeMap;

use spinwire_layouts::describe::LINE_BYTES;
use spinwire_layouts::word;

use super::model::{Kind, Member, Type};

/// Bytes of a cache line.
const LINE: u64 = word::from_usize(LINE_BYTES);

/// A run of bits that no member has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hole {
    /// Its first bit, counted from the start of the type.
    pub start_bit: u64,
    /// How many bits.
    pub bits: u64,
    /// Whether it lies behind the last member.
    pub is_tail: bool,
}

impl Hole {
    /// In words: `4 bytes at 12`, `3 bits at 8.5`.
    #[must_use]
    pub fn text(&self) -> String {
        let (byte, bit) = (self.start_bit / 8, self.start_bit % 8);
        match (self.bits % 8, bit) {
            (0, 0) => format!("{} bytes at {byte}", self.bits / 8),
            _ => format!("{} bits at {byte}.{bit}", self.bits),
        }
    }
}

/// The bits that a member covers.
fn extent(member: &Member) -> (u64, u64) {
    match member.bits {
        Some(bits) => (bits.start, bits.start.saturating_add(bits.count)),
        None => {
            let size = member.shape.size.unwrap_or(0);
            let start = member.offset.saturating_mul(8);
            (start, start.saturating_add(size.saturating_mul(8)))
        }
    }
}

/// What no member covers.
#[must_use]
pub fn holes(ty: &Type) -> Vec<Hole> {
    let whole = ty.size.saturating_mul(8);
    if ty.kind == Kind::Union || ty.members.is_empty() {
        return Vec::new();
    }
    let mut extents: Vec<_> = ty.members.iter().filter(|m| !m.is_inner()).map(extent).collect();
    extents.sort_unstable();
    let mut found = Vec::new();
    let mut end = 0;
    for (start, stop) in extents {
        if start > end {
            found.push(Hole { start_bit: end, bits: start.saturating_sub(end), is_tail: false });
        }
        end = end.max(stop);
    }
    if whole > end {
        found.push(Hole { start_bit: end, bits: whole.saturating_sub(end), is_tail: true });
    }
    found
}

/// The cache lines that a member touches, first and last.
#[must_use]
pub fn lines(member: &Member) -> (u64, u64) {
    let range = member.bytes().unwrap_or(member.offset..member.offset);
    let last = range.end.saturating_sub(1).max(range.start);
    (range.start / LINE, last / LINE)
}

/// Whether a member lies in two lines though it would fit into one.
#[must_use]
pub fn straddles(member: &Member) -> bool {
    let (first, last) = lines(member);
    first != last && member.shape.size.is_some_and(|size| size <= LINE)
}

/// Who may disturb whom, in words; nothing where no member says who writes it.
#[must_use]
pub fn disturbances(ty: &Type) -> Vec<String> {
    let mut by_line: BTreeMap<u64, Vec<&Member>> = BTreeMap::new();
    let outer =
        ty.members.iter().filter(|m| !m.is_inner() && m.bytes().is_some_and(|b| !b.is_empty()));
    for member in outer {
        let (first, last) = lines(member);
        // A long array need not be gone through line by line: its ends are where others are.
        for line in [first, last] {
            let here = by_line.entry(line).or_default();
            if !here.iter().any(|m| m.name == member.name) {
                here.push(member);
            }
        }
    }
    let mut found = Vec::new();
    if ty.kind == Kind::Struct {
        found.extend(by_line.iter().filter_map(|(line, members)| on_line(*line, members)));
    }
    let is_moved = |m: &Member| m.writer.is_some() || m.shape.is_shared;
    if ty.members.iter().any(is_moved) && !ty.size.is_multiple_of(LINE) {
        found.push(format!(
            "{} bytes are no whole number of lines: in an array, neighbours share some",
            ty.size
        ));
    }
    found
}

fn on_line(line: u64, members: &[&Member]) -> Option<String> {
    let mut writers: Vec<&str> = members.iter().filter_map(|m| m.writer.as_deref()).collect();
    writers.sort_unstable();
    writers.dedup();
    let listed = |members: &[&Member]| {
        let names: Vec<&str> = members.iter().take(6).map(|m| m.name.as_str()).collect();
        let more = if members.len() > 6 { ", .." } else { "" };
        format!("{}{more}", names.join(", "))
    };
    if writers.len() > 1 {
        let who = |m: &&Member| m.writer.as_ref().map(|w| format!("{} by {w}", m.name));
        let who: Vec<String> = members.iter().filter_map(who).collect();
        return Some(format!("line {line} has several writers: {}", who.join(", ")));
    }
    let shared: Vec<&Member> = members.iter().copied().filter(|m| m.shape.is_shared).collect();
    let others: Vec<&Member> = members.iter().copied().filter(|m| !m.shape.is_shared).collect();
    match (shared.is_empty(), others.is_empty()) {
        (true, _) => None,
        (false, true) if shared.len() < 2 => None,
        (false, true) => Some(format!("line {line}: {} are atomic or volatile", listed(&shared))),
        (false, false) => Some(format!(
            "line {line}: whoever writes {} (atomic or volatile) takes {} from its readers",
            listed(&shared),
            listed(&others)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::model::Shape;

    fn member(name: &str, offset: u64, size: u64, writer: Option<&str>) -> Member {
        Member {
            name: name.to_owned(),
            offset,
            bits: None,
            shape: Shape::number("u", "u", size),
            writer: writer.map(str::to_owned),
            site: None,
        }
    }

    fn ty(size: u64, members: Vec<Member>) -> Type {
        Type {
            name: "T".to_owned(),
            kind: Kind::Struct,
            size,
            align: None,
            members,
            site: None,
            is_tagged: true,
        }
    }

    #[test]
    fn holes_are_what_nobody_covers() {
        let it =
            ty(32, vec![member("a", 0, 1, None), member("b", 8, 8, None), member("u", 8, 4, None)]);
        let texts: Vec<String> = holes(&it).iter().map(Hole::text).collect();
        assert_eq!(texts, ["7 bytes at 1", "16 bytes at 16"]);
        assert!(holes(&it)[1].is_tail && !holes(&it)[0].is_tail);
    }

    #[test]
    fn two_writers_of_a_line_disturb_each_other() {
        let it = ty(128, vec![member("a", 0, 8, Some("x")), member("b", 56, 8, Some("y"))]);
        assert_eq!(disturbances(&it), ["line 0 has several writers: a by x, b by y"]);
        let it = ty(128, vec![member("a", 0, 8, Some("x")), member("b", 64, 8, Some("y"))]);
        assert!(disturbances(&it).is_empty());
        let it = ty(72, vec![member("a", 0, 8, Some("x"))]);
        assert_eq!(disturbances(&it).len(), 1, "elements of 72 bytes share lines");
        let mut atomic = member("a", 0, 8, None);
        atomic.shape.is_shared = true;
        let it = ty(64, vec![atomic, member("b", 8, 8, None)]);
        assert!(disturbances(&it)[0].contains("takes b from its readers"));
    }

    #[test]
    fn a_member_across_the_end_of_a_line_is_seen() {
        assert!(straddles(&member("a", 60, 8, None)));
        assert!(!straddles(&member("a", 56, 8, None)));
        assert!(!straddles(&member("long", 0, 4096, None)), "that cannot be helped");
        assert_eq!(lines(&member("none", 64, 0, None)), (1, 1));
    }
}
