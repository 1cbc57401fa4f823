//! Type information of a kernel: BTF (Linux Documentation/bpf/btf.rst).
//!
//! ```text
//!   | header | types: name, info (kind, count), size or type, then what the kind has | strings |
//! ```
//!
//! Types are numbered from 1 in the order in which they lie; 0 is `void`. What a module has goes on where the kernel itself
//! ends, in numbers and in strings ("split" BTF). Nothing in the file is believed: every place is looked up, and nesting has a
//! bound.

use super::error::Unreadable;
use super::model::{
    Bits, Catalog, DEPTH_MAX, Dialect, Kind, Member, Nest, Shape, Steps, Type, Wanted,
};

/// Where a running kernel shows its own.
pub const KERNEL: &str = "/sys/kernel/btf/vmlinux";

/// First two bytes of a file.
pub(super) const MAGIC: [u8; 2] = 0xeb9f_u16.to_le_bytes();

// Kinds.
const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FLOAT: u32 = 16;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

/// One type, as it lies in the file.
struct Raw<'b> {
    name: u32,
    kind: u32,
    /// Members have the size of a bit field in the upper byte of their offset.
    has_bit_fields: bool,
    size_or_type: u32,
    /// What follows the head: members, enumerators.
    tail: &'b [u8],
}

/// All types of a file, behind those of the kernel where it goes on from there.
struct Types<'b> {
    all: Vec<Raw<'b>>,
    strings: Vec<&'b [u8]>,
    steps: Steps,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(four.try_into().ok()?))
}

/// Bytes behind the head of a type of `kind` with `count` members.
const fn tail_bytes(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        INT | 14 | 17 => 4,
        PTR | 7..=12 | FLOAT | TYPE_TAG => 0,
        ARRAY => 12,
        STRUCT | UNION | 15 | ENUM64 => 12 * count,
        ENUM | 13 => 8 * count,
        _ => return None,
    })
}

impl<'b> Types<'b> {
    /// Appends the types of `bytes`; `None` where they are not as documented.
    fn append(&mut self, bytes: &'b [u8]) -> Option<()> {
        let word = |at| usize::try_from(u32_at(bytes, at)?).ok();
        let (head, types_at, types_len) = (word(4)?, word(8)?, word(12)?);
        let (strings_at, strings_len) = (word(16)?, word(20)?);
        let part = |at: usize, len: usize| bytes.get(head.checked_add(at)?..)?.get(..len);
        let types = part(types_at, types_len)?;
        self.strings.push(part(strings_at, strings_len)?);
        let mut rest = types;
        while !rest.is_empty() {
            let info = u32_at(rest, 4)?;
            let (kind, count) = (info >> 24 & 31, usize::try_from(info & 0xffff).ok()?);
            let tail = rest.get(12..)?;
            let length = tail_bytes(kind, count)?;
            self.all.push(Raw {
                name: u32_at(rest, 0)?,
                kind,
                has_bit_fields: info >> 31 == 1,
                size_or_type: u32_at(rest, 8)?,
                tail: tail.get(..length)?,
            });
            rest = tail.get(length..)?;
        }
        Some(())
    }

    fn text(&self, at: u32) -> &'b str {
        let mut at = usize::try_from(at).unwrap_or(usize::MAX);
        for strings in &self.strings {
            if let Some(rest) = strings.get(at..).filter(|rest| !rest.is_empty()) {
                let name = rest.split(|byte| *byte == 0).next().unwrap_or_default();
                return core::str::from_utf8(name).unwrap_or_default();
            }
            at = at.saturating_sub(strings.len());
        }
        ""
    }

    fn get(&self, id: u32) -> Option<&Raw<'b>> {
        self.all.get(usize::try_from(id).ok()?.checked_sub(1)?)
    }

    /// What a type is, through the names that others have given it.
    fn shape(&self, id: u32, depth: usize) -> Shape {
        let Some(raw) = self.get(id).filter(|_| depth < DEPTH_MAX) else {
            return if id == 0 { Shape::new("void", "void", None) } else { Shape::unknown() };
        };
        let name = self.text(raw.name);
        let inner = || self.shape(raw.size_or_type, depth + 1);
        let size = u64::from(raw.size_or_type);
        match raw.kind {
            INT => {
                let encoding = u32_at(raw.tail, 0).unwrap_or(0) >> 24;
                let prefix = match encoding {
                    _ if encoding & 4 != 0 => "bool",
                    _ if encoding & 1 != 0 => "i",
                    _ => "u",
                };
                Shape::number(name, prefix, size)
            }
            FLOAT => Shape::number(name, "f", size),
            PTR => {
                // The type of a function has no name worth the trouble.
                let target = self.target(raw.size_or_type, depth + 1);
                Shape {
                    order: super::model::Order::Native,
                    ..Shape::new(&format!("{target} *"), "ptr", Some(8))
                }
            }
            ARRAY => {
                let element = self.shape(u32_at(raw.tail, 0).unwrap_or(0), depth + 1);
                let count = u32_at(raw.tail, 8).map(u64::from).filter(|count| *count > 0);
                element.array(count)
            }
            STRUCT | UNION => {
                let word = if raw.kind == STRUCT { "struct" } else { "union" };
                let shown = format!("{word} {}", if name.is_empty() { "{..}" } else { name });
                Shape {
                    is_shared: super::model::is_shared_name(name),
                    ..Shape::new(&shown, &shown, Some(size))
                }
            }
            ENUM | ENUM64 => {
                let shape = Shape::number("", "enum", size);
                Shape { shown: format!("enum {name}"), ..shape }
            }
            TYPEDEF => inner().called(name),
            VOLATILE => Shape { is_shared: true, ..inner() },
            CONST | RESTRICT | TYPE_TAG => inner(),
            _ => Shape::unknown(),
        }
    }

    /// What a pointer points at, in a word.
    fn target(&self, id: u32, depth: usize) -> String {
        match self.get(id) {
            None => "void".to_owned(),
            Some(raw) if matches!(raw.kind, 12 | 13) => "fn".to_owned(),
            Some(_) => self.shape(id, depth).shown,
        }
    }

    /// The structure or union behind names; and whether it is an array of them.
    fn aggregate(&self, id: u32) -> Option<(&Raw<'b>, bool)> {
        let (mut id, mut is_array) = (id, false);
        for _step in 0..DEPTH_MAX {
            let raw = self.get(id)?;
            match raw.kind {
                STRUCT | UNION => return Some((raw, is_array)),
                ARRAY => (id, is_array) = (u32_at(raw.tail, 0)?, true),
                VOLATILE | CONST | RESTRICT | TYPE_TAG => id = raw.size_or_type,
                _ => return None,
            }
        }
        None
    }

    fn members(&self, of: &Raw<'b>, nest: &Nest<'_>, out: &mut Vec<Member>) {
        for raw in of.tail.chunks_exact(12) {
            let (Some(name), Some(ty), Some(place)) =
                (u32_at(raw, 0), u32_at(raw, 4), u32_at(raw, 8))
            else {
                continue;
            };
            if nest.is_enough(out) || !self.steps.take() {
                return;
            }
            let (bit, bit_count) =
                if of.has_bit_fields { (place & 0x00ff_ffff, place >> 24) } else { (place, 0) };
            let offset = nest.base.saturating_add(u64::from(bit / 8));
            let name = self.text(name);
            let nameless = self.aggregate(ty).filter(|(inner, _)| self.text(inner.name).is_empty());
            if name.is_empty() {
                if let Some((inner, _)) = self.aggregate(ty) {
                    self.members(inner, &nest.inner(offset, nest.prefix), out);
                }
                continue;
            }
            let start = nest.base.saturating_mul(8).saturating_add(u64::from(bit));
            out.push(Member {
                name: format!("{}{name}", nest.prefix),
                offset,
                bits: (bit_count > 0).then(|| Bits { start, count: u64::from(bit_count) }),
                shape: self.shape(ty, 0),
                writer: None,
                site: None,
            });
            if let Some((inner, is_array)) = nameless {
                let dot = if is_array { "[]." } else { "." };
                let prefix = format!("{}{name}{dot}", nest.prefix);
                self.members(inner, &nest.inner(offset, &prefix), out);
            }
        }
    }

    fn ty(&self, raw: &Raw<'b>, name: &str) -> Type {
        let mut members = Vec::new();
        self.members(raw, &Nest::OUTERMOST, &mut members);
        Type {
            name: name.to_owned(),
            kind: if raw.kind == STRUCT { Kind::Struct } else { Kind::Union },
            size: u64::from(raw.size_or_type),
            align: None,
            members,
            site: None,
            is_tagged: self.text(raw.name) == name,
        }
    }

    fn enumerators(&self, of: &Raw<'b>, wanted: &Wanted, out: &mut Catalog) {
        let step = if of.kind == ENUM { 8 } else { 12 };
        for each in of.tail.chunks_exact(step) {
            let name = self.text(u32_at(each, 0).unwrap_or(0));
            let low = u64::from(u32_at(each, 4).unwrap_or(0));
            let high = u64::from(u32_at(each, 8).unwrap_or(0));
            if wanted.takes_number(name) {
                out.numbers.insert(name.to_owned(), high << 32 | low);
            }
        }
    }
}

/// What BTF says: `bytes`, which go on from those of the kernel in `base` where there are any. `origin` is what the source
/// is called.
///
/// # Errors
/// The bytes are not as documented.
pub fn read(
    origin: &str,
    bytes: &[u8],
    base: Option<&[u8]>,
    wanted: &Wanted,
) -> Result<Catalog, Unreadable> {
    let damaged = |why: &str| {
        let remedy = "take a whole file: BTF as in /sys/kernel/btf, of a little-endian machine";
        Unreadable::new(origin, why, remedy)
    };
    if bytes.get(..2) != Some(&MAGIC) {
        return Err(damaged("no BTF: it does not begin with 0xeb9f"));
    }
    let parts = base.into_iter().chain([bytes]);
    let steps = Steps::for_bytes(parts.clone().map(<[u8]>::len).sum());
    let mut types = Types { all: Vec::new(), strings: Vec::new(), steps };
    for part in parts {
        types.append(part).ok_or_else(|| damaged("damaged BTF: a length or a kind is wrong"))?;
    }
    let mut catalog = Catalog::new(origin, Dialect::Kernel);
    for raw in &types.all {
        let name = types.text(raw.name);
        match raw.kind {
            STRUCT | UNION if !name.is_empty() && wanted.takes(name) => {
                catalog.add(types.ty(raw, name));
            }
            TYPEDEF if wanted.takes(name) => {
                let inner = types.aggregate(raw.size_or_type);
                let inner = inner
                    .filter(|(inner, is_array)| !*is_array && types.text(inner.name).is_empty());
                if let Some((inner, _)) = inner {
                    catalog.add(types.ty(inner, name));
                }
            }
            ENUM | ENUM64 => types.enumerators(raw, wanted, &mut catalog),
            _ => {}
        }
    }
    if types.steps.is_spent() {
        return Err(damaged("damaged BTF: types that contain themselves"));
    }
    Ok(catalog)
}
