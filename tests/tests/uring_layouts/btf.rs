//! What the kernel that runs says of its own types: BTF (Linux Documentation/bpf/btf.rst).
//!
//! ```text
//!   | header | types: name, info (kind, count), size or type, then what the kind has | strings |
//! ```

use std::path::Path;

use super::Known;

const FILE: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;

// Kinds.
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const ENUM64: u32 = 19;

/// One type.
struct Type<'b> {
    name: &'b str,
    kind: u32,
    /// Members have the size of a bit field in the upper byte of their offset.
    has_bit_fields: bool,
    size_or_type: u32,
    /// What follows the head: members, enumerators.
    tail: &'b [u8],
}

/// All of them, and the strings that they name.
struct Types<'b>(Vec<Type<'b>>, &'b [u8]);

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn text_at(strings: &[u8], at: u32) -> Option<&str> {
    let rest = strings.get(usize::try_from(at).ok()?..)?;
    core::str::from_utf8(rest.split(|byte| *byte == 0).next()?).ok()
}

/// Bytes behind the head of a type of `kind` with `count` members.
const fn tail_bytes(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        1 | 14 | 17 => 4,
        2 | 7..=12 | 16 | 18 => 0,
        ARRAY => 12,
        STRUCT | UNION | 15 | ENUM64 => 12 * count,
        ENUM | 13 => 8 * count,
        _ => return None,
    })
}

fn read(bytes: &[u8]) -> Option<Types<'_>> {
    let magic = u16::from_le_bytes([*bytes.first()?, *bytes.get(1)?]);
    let word = |at| usize::try_from(u32_at(bytes, at)?).ok();
    let (head, types_at, types_len) = (word(4)?, word(8)?, word(12)?);
    let (strings_at, strings_len) = (word(16)?, word(20)?);
    let types = bytes.get(head + types_at..)?.get(..types_len)?;
    let strings = bytes.get(head + strings_at..)?.get(..strings_len)?;
    let mut found = Vec::new();
    let mut at = 0;
    while at < types.len() && magic == MAGIC {
        let info = u32_at(types, at + 4)?;
        let (kind, count) = (info >> 24 & 31, usize::try_from(info & 0xffff).ok()?);
        let start = at + 12;
        let end = start + tail_bytes(kind, count)?;
        found.push(Type {
            name: text_at(strings, u32_at(types, at)?)?,
            kind,
            has_bit_fields: info >> 31 == 1,
            size_or_type: u32_at(types, at + 8)?,
            tail: types.get(start..end)?,
        });
        at = end;
    }
    Some(Types(found, strings))
}

impl<'b> Types<'b> {
    /// Type ids count from 1; 0 is `void`.
    fn get(&self, id: u32) -> Option<&Type<'b>> {
        self.0.get(usize::try_from(id).ok()?.checked_sub(1)?)
    }

    fn size(&self, id: u32) -> Option<u64> {
        let it = self.get(id)?;
        match it.kind {
            1 | STRUCT | UNION | ENUM | 16 | ENUM64 => Some(u64::from(it.size_or_type)),
            2 => Some(8),
            ARRAY => Some(self.size(u32_at(it.tail, 0)?)? * u64::from(u32_at(it.tail, 8)?)),
            8..=11 | 18 => self.size(it.size_or_type),
            _ => None,
        }
    }

    /// The members of a structure, and those of nameless ones in it. The nesting of C sources is its bound.
    fn members(&self, of: &Type<'b>, base: u64, name: &str, known: &mut Known) {
        for member in of.tail.chunks_exact(12) {
            let field = u32_at(member, 0).and_then(|at| text_at(self.1, at)).unwrap_or("");
            let (Some(ty), Some(bits)) = (u32_at(member, 4), u32_at(member, 8)) else {
                continue;
            };
            let bits = if of.has_bit_fields { bits & 0x00ff_ffff } else { bits };
            let offset = base + u64::from(bits / 8);
            if field.is_empty() {
                if let Some(inner) = self.get(ty).filter(|t| matches!(t.kind, STRUCT | UNION)) {
                    self.members(inner, offset, name, known);
                }
                continue;
            }
            known.insert(format!("{name}.{field}"), offset);
            if let Some(size) = self.size(ty) {
                known.insert(format!("|{name}.{field}|"), size);
            }
        }
    }
}

/// Structures and enumerators of the kernel. Only names of io_uring and of sockets are kept.
pub(crate) fn ask() -> Result<Known, String> {
    let bytes = std::fs::read(Path::new(FILE)).map_err(|e| format!("{FILE}: {e}"))?;
    let types = read(&bytes).ok_or_else(|| format!("{FILE}: not as documented"))?;
    let mut known = Known::new();
    for it in &types.0 {
        let name = match it.name {
            // The kernel has one for itself and one for programs.
            "msghdr" => continue,
            "user_msghdr" => "msghdr",
            name => name,
        };
        let wanted = ["io_uring_", "io_sqring_", "io_cqring_", "__kernel_timespec", "sockaddr_in"];
        let wanted = wanted.iter().any(|start| name.starts_with(start));
        match it.kind {
            STRUCT if wanted || matches!(name, "iovec" | "msghdr") => {
                let name = format!("struct {name}");
                known.insert(name.clone(), u64::from(it.size_or_type));
                types.members(it, 0, &name, &mut known);
            }
            ENUM => enumerators(it, types.1, &mut known),
            _ => {}
        }
    }
    if known.len() < 100 {
        return Err(format!("{FILE}: next to nothing of io_uring in it"));
    }
    Ok(known)
}

fn enumerators(of: &Type<'_>, strings: &[u8], known: &mut Known) {
    for pair in of.tail.chunks_exact(8) {
        let name = u32_at(pair, 0).and_then(|at| text_at(strings, at)).unwrap_or("");
        let value = u32_at(pair, 4).map_or(0, u64::from);
        if name.starts_with("IO") {
            known.insert(name.to_owned(), value);
        }
        // The header makes a flag of each bit by a macro.
        if let Some(flag) = name.strip_suffix("_BIT").filter(|flag| flag.starts_with("IOSQE_")) {
            known.insert(flag.to_owned(), 1 << value);
        }
    }
}
