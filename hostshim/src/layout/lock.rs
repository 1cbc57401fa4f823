//! A file that holds layouts still: `layouts.lock`.
//!
//! ```text
//!   # written by `spinwire layout lock --write`
//!   struct shm::LaneCell size 64 align 64        name, bytes, alignment; then a line a field
//!     0 8 u64 native head                        offset, bytes, type, byte order, name
//!   number SPINWIRE_ABI_VERSION 0x1
//! ```
//!
//! It is made for `git diff`: whoever changes a layout changes a line of it, and that is a decision which is seen in a review.

use core::fmt::Write as _;

use super::error::Unreadable;
use super::model::{Catalog, Dialect, Kind, MEMBERS_MAX, Member, Order, Shape, Site, Type};

/// By what such a file is known.
pub(super) const FIRST_LINE: &str = "# spinwire layouts, version 1";

const HEAD: &str = "\
# Written by `spinwire layout lock --write`; checked by `spinwire layout lock`. A difference means that programs from before
# and after a change cannot share memory: write the file anew only where that is meant, and say so in the changelog.
# struct NAME size BYTES align BYTES; then its fields: offset, bytes, byte order, name: type
";

/// The text of the file for `catalog`.
#[must_use]
pub fn write(catalog: &Catalog) -> String {
    let mut text = format!("{FIRST_LINE}\n{HEAD}");
    // Writing to a String does not fail.
    for ty in catalog.types() {
        let align = ty.align.unwrap_or(0);
        let _written =
            writeln!(text, "\n{} {} size {} align {align}", ty.kind.name(), ty.name, ty.size);
        for member in &ty.members {
            let (size, order) = (member.shape.size.unwrap_or(0), member.shape.order.name());
            let (name, shown) = (&member.name, &member.shape.shown);
            let _written = writeln!(text, "  {} {size} {order} {name}: {shown}", member.offset);
        }
    }
    if !catalog.numbers.is_empty() {
        text.push('\n');
    }
    for (name, value) in &catalog.numbers {
        let _written = writeln!(text, "number {name} {value:#x}");
    }
    text
}

/// What the file at `path` with that `text` says.
///
/// # Errors
/// A line that is not understood, by its number.
pub fn read(path: &str, text: &str) -> Result<Catalog, Unreadable> {
    let mut lines = text.lines().enumerate();
    if lines.next().map(|(_, line)| line) != Some(FIRST_LINE) {
        let why = format!("no lock file: the first line is not '{FIRST_LINE}'");
        return Err(Unreadable::new(path, why, "write one: spinwire layout lock --write FILE"));
    }
    let mut catalog = Catalog::new(path, Dialect::Ours);
    let mut open: Option<Type> = None;
    for (at, line) in lines.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#')) {
        let number = u64::try_from(at).unwrap_or(0).saturating_add(1);
        let understood = match line.strip_prefix("  ") {
            Some(field) => open.as_mut().and_then(|ty| {
                let field = member(field, path, number).filter(|_| ty.members.len() < MEMBERS_MAX);
                field.map(|field| ty.members.push(field))
            }),
            None => {
                open.take().into_iter().for_each(|ty| catalog.add(ty));
                head(line, path, number, &mut open, &mut catalog)
            }
        };
        if understood.is_none() {
            let why = format!("line {number} is not understood: '{}'", shortened(line));
            let remedy =
                "take the file of the repository, or write it anew: spinwire layout lock --write";
            return Err(Unreadable::new(path, why, remedy));
        }
    }
    open.into_iter().for_each(|ty| catalog.add(ty));
    Ok(catalog)
}

fn shortened(line: &str) -> String {
    line.chars().take(60).flat_map(char::escape_debug).collect()
}

/// A line that is no field.
fn head(
    line: &str,
    path: &str,
    number: u64,
    open: &mut Option<Type>,
    catalog: &mut Catalog,
) -> Option<()> {
    let words: Vec<&str> = line.split(' ').collect();
    match *words.as_slice() {
        [word @ ("struct" | "union"), name, "size", size, "align", align] => {
            *open = Some(Type {
                name: name.to_owned(),
                kind: if word == "struct" { Kind::Struct } else { Kind::Union },
                size: size.parse().ok()?,
                align: align.parse().ok().filter(|align| *align > 0),
                members: Vec::new(),
                site: Some(Site { file: path.to_owned(), line: number }),
                is_tagged: false,
            });
        }
        ["number", name, value] => {
            let value = u64::from_str_radix(value.strip_prefix("0x")?, 16).ok()?;
            catalog.numbers.insert(name.to_owned(), value);
        }
        _ => return None,
    }
    Some(())
}

fn member(line: &str, path: &str, number: u64) -> Option<Member> {
    let (place, shown) = line.split_once(": ")?;
    let mut words = place.splitn(4, ' ');
    let (offset, size) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let order = match words.next()? {
        "native" => Order::Native,
        "little" => Order::Little,
        "big" => Order::Big,
        "-" => Order::None,
        _ => return None,
    };
    Some(Member {
        name: words.next()?.to_owned(),
        offset,
        bits: None,
        shape: Shape {
            shown: shown.to_owned(),
            core: shown.to_owned(),
            size: Some(size),
            order,
            is_shared: false,
        },
        writer: None,
        site: Some(Site { file: path.to_owned(), line: number }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let ours = crate::layout::ours::catalog(spinwire_layouts::ROOMS);
        let text = write(&ours);
        let back = read("a.lock", &text).unwrap();
        assert_eq!(write(&back), text);
        assert_eq!(back.types().len(), ours.types().len());
        assert_eq!(back.numbers, ours.numbers);
    }

    #[test]
    fn a_line_that_is_not_understood_is_named() {
        let cases = [
            ("struct a size 8\n", "line 2"),
            ("struct a size x align 8\n", "line 2"),
            ("  0 8 native a: u64\n", "line 2"),
            ("struct a size 8 align 8\n  0 8 strange a: u64\n", "line 3"),
            ("struct a size 8 align 8\n  0 8 native a\n", "line 3"),
            ("number a 7\n", "line 2"),
            ("nonsense\u{1b}[2J\n", "line 2"),
        ];
        for (text, says) in cases {
            let error = read("a.lock", &format!("{FIRST_LINE}\n{text}")).unwrap_err();
            assert!(error.why.contains(says), "{text:?}: {error}");
            assert!(!error.why.contains('\u{1b}'));
        }
        assert!(read("a.lock", "").is_err());
        assert!(read("a.lock", FIRST_LINE).unwrap().types().is_empty());
    }
}
