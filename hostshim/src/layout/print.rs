//! Types and differences for people and for programs.
//!
//! Names come out of files that anybody may have made: [`plain`] keeps them from playing with the terminal.

use core::fmt::Write as _;

use serde_json::{Value, json};

use super::compare::Difference;
use super::facts;
use super::model::{Catalog, Kind, Member, Site, Type};

/// `text` with control characters and the like made visible.
#[must_use]
pub fn plain(text: &str) -> String {
    let invisible = |c: char| {
        c.is_control()
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}'..='\u{200f}')
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if invisible(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// Rows of cells, each column as wide as its widest cell. The first `right` columns hold numbers.
pub(super) fn columns(rows: &[Vec<String>], right: usize, indent: &str) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Writing to a String does not fail.
            let _written = match at < right {
                true => write!(line, "{cell:>width$}  "),
                false => write!(line, "{cell:<width$}  "),
            };
        }
        let _written = writeln!(text, "{indent}{}", line.trim_end());
    }
    text
}

fn place(member: &Member) -> (String, String) {
    match member.bits {
        Some(bits) => {
            (format!("{}.{}", bits.start / 8, bits.start % 8), format!("{} bits", bits.count))
        }
        None => {
            let size = member.shape.size.map_or_else(|| "?".to_owned(), |size| size.to_string());
            (member.offset.to_string(), size)
        }
    }
}

fn line_text(member: &Member) -> String {
    let (first, last) = facts::lines(member);
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// One type as a table, with what follows from it below.
#[must_use]
pub fn table(ty: &Type) -> String {
    let align = ty.align.map_or_else(String::new, |align| format!(", align {align}"));
    let site = ty.site.as_ref().map_or_else(String::new, |site| format!("   {site}"));
    let (lines, word) = (ty.size.div_ceil(64), ty.kind.name());
    let lines = if lines == 1 { "1 line".to_owned() } else { format!("{lines} lines") };
    let mut text = plain(&format!("{word} {}: {} bytes{align}, {lines}{site}", ty.name, ty.size));
    text.push('\n');
    let has_writers = ty.members.iter().any(|member| member.writer.is_some());
    let mut head = vec!["OFFSET", "SIZE", "LINE", "ORDER", "NAME", "TYPE"];
    head.extend(has_writers.then_some("WRITER"));
    let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for member in &ty.members {
        let (offset, size) = place(member);
        let mut shown = plain(&member.shape.shown);
        if member.shape.is_shared {
            shown.push_str(" (atomic or volatile)");
        }
        let order = member.shape.order.name().to_owned();
        let mut row = vec![offset, size, line_text(member), order, plain(&member.name), shown];
        row.extend(has_writers.then(|| plain(member.writer.as_deref().unwrap_or("-"))));
        rows.push(row);
    }
    text.push_str(&columns(&rows, 3, "  "));
    for hole in facts::holes(ty) {
        let word = if hole.is_tail { "padding" } else { "hole" };
        let _written = writeln!(text, "  {word}: {}", hole.text());
    }
    for member in ty.members.iter().filter(|member| facts::straddles(member)) {
        let (first, last) = facts::lines(member);
        let _written =
            writeln!(text, "  straddles lines {first} and {last}: {}", plain(&member.name));
    }
    for risk in facts::disturbances(ty) {
        let _written = writeln!(text, "  false sharing: {}", plain(&risk));
    }
    text
}

fn site(at: Option<&Site>) -> Value {
    at.map_or(Value::Null, |at| json!({ "file": at.file, "line": at.line }))
}

/// One type for programs.
#[must_use]
pub fn of_type(ty: &Type) -> Value {
    let member = |member: &Member| {
        let (first, last) = facts::lines(member);
        json!({
            "name": member.name,
            "offset": member.offset,
            "size": member.shape.size,
            "bits": member.bits.map(|bits| json!({ "start": bits.start, "count": bits.count })),
            "type": member.shape.shown,
            "order": member.shape.order.name(),
            "shared": member.shape.is_shared,
            "writer": member.writer,
            "lines": [first, last],
            "straddles": facts::straddles(member),
            "at": site(member.site.as_ref()),
        })
    };
    let holes = facts::holes(ty).into_iter().map(
        |hole| json!({ "start_bit": hole.start_bit, "bits": hole.bits, "tail": hole.is_tail }),
    );
    json!({
        "name": ty.name,
        "kind": ty.kind.name(),
        "size": ty.size,
        "align": ty.align,
        "lines": ty.size.div_ceil(64),
        "at": site(ty.site.as_ref()),
        "members": ty.members.iter().map(member).collect::<Vec<_>>(),
        "holes": holes.collect::<Vec<_>>(),
        "false_sharing": facts::disturbances(ty),
        "union": ty.kind == Kind::Union,
    })
}

/// All types of a source for programs.
#[must_use]
pub(super) fn of_catalog(catalog: &Catalog, types: &[&Type]) -> Value {
    json!({
        "source": catalog.origin,
        "types": types.iter().map(|ty| of_type(ty)).collect::<Vec<_>>(),
        "numbers": catalog.numbers,
        "remarks": catalog.remarks,
    })
}

/// Differences for people: what, both sides, and where each says so.
#[must_use]
pub(super) fn differences(found: &[Difference], left: &str, right: &str) -> String {
    let mut text = String::new();
    for difference in found {
        let side = |name: &str, says: &str, at: Option<&Site>| {
            let at = at.map_or_else(String::new, |at| format!("   {at}"));
            plain(&format!("    {says:<12} {name}{at}"))
        };
        let _written = writeln!(
            text,
            "  {}: {} differs\n{}\n{}",
            plain(&difference.what),
            difference.aspect.name(),
            side(left, &difference.left, difference.left_at.as_ref()),
            side(right, &difference.right, difference.right_at.as_ref()),
        );
    }
    text
}

/// Differences for programs.
#[must_use]
pub(super) fn of_differences(found: &[Difference]) -> Value {
    let one = |difference: &Difference| {
        json!({
            "what": difference.what,
            "aspect": difference.aspect.name(),
            "left": difference.left,
            "left_at": site(difference.left_at.as_ref()),
            "right": difference.right,
            "right_at": site(difference.right_at.as_ref()),
        })
    };
    Value::Array(found.iter().map(one).collect())
}

/// A value as text, with a newline.
pub(super) fn json_text(value: &Value) -> String {
    format!("{value:#}\n")
}
