//! A layout as data: for tools that print it, compare it with C headers or a live segment, and for
//! the hash by which two processes find out whether they were built with the same idea of the
//! shared memory.
//!
//! The hash is FNV-1a, 64 bits (Fowler, Noll, Vo; IETF draft-eastlake-fnv), over the parts of the
//! description in a fixed order. It does not depend on the compiler, on documentation, or on how a
//! type is spelt in the source: it is computed from names, numbers and the structural facts that
//! [`Field`] gives.

mod room;

pub use room::{Counterpart, Foreign, Number, Room};

use crate::pod::Field;
use crate::word;

/// In which order the bytes of a field lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endian {
    /// That of this machine: only for memory that never leaves it.
    Native,
    /// Little end first, on every machine.
    Little,
    /// Big end first, on every machine.
    Big,
    /// Single bytes: the question does not arise.
    Bytes,
    /// A structure with a description of its own.
    Nested,
}

impl Endian {
    /// Short lower-case name, for tables and for the hash.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Little => "little",
            Self::Big => "big",
            Self::Bytes => "bytes",
            Self::Nested => "nested",
        }
    }
}

impl core::fmt::Display for Endian {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(self.name())
    }
}

/// One field of a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldLayout {
    /// Name, as in the source.
    pub name: &'static str,
    /// Name of the element type: `u64` for a `u64` and for a `[u64; 8]`. See
    /// [`FieldLayout::type_name`].
    pub ty: &'static str,
    /// Number of elements: 1, or the length of the array, all dimensions multiplied.
    pub count: usize,
    /// Whether the field is an array.
    pub is_array: bool,
    /// Bytes from the start of the structure.
    pub offset: usize,
    /// Bytes of the whole field.
    pub size: usize,
    /// In which order the bytes of an element lie.
    pub endian: Endian,
    /// Hash of the element where it is a structure, else 0.
    pub element_hash: u64,
    /// What the field means. May hold several lines; each but the first starts with a space.
    pub doc: &'static str,
    /// Who alone writes it while others read, where the source says so: `by sender`. No part of the hash.
    pub writer: Option<&'static str>,
}

impl FieldLayout {
    /// Describes a field of type `T`.
    #[must_use]
    pub const fn new<T: Field>(name: &'static str, offset: usize, doc: &'static str) -> Self {
        Self {
            name,
            ty: T::ELEMENT,
            count: T::COUNT,
            is_array: T::IS_ARRAY,
            offset,
            size: size_of::<T>(),
            endian: T::ENDIAN,
            element_hash: T::HASH,
            doc,
            writer: None,
        }
    }

    /// The same field, written by `writer` alone.
    #[must_use]
    pub const fn written_by(self, writer: &'static str) -> Self {
        Self { writer: Some(writer), ..self }
    }

    /// The cache lines that the field touches, first and last, counted from the start of the
    /// structure.
    #[must_use]
    pub const fn lines(&self) -> (usize, usize) {
        let last = self.offset.saturating_add(self.size.saturating_sub(1));
        (self.offset / LINE_BYTES, last / LINE_BYTES)
    }

    /// The type as one would write it, `u64` or `[u64; 8]`, ready to be displayed.
    #[must_use]
    pub const fn type_name(&self) -> TypeName {
        TypeName { element: self.ty, count: self.count, is_array: self.is_array }
    }

    const fn hash_into(&self, hash: u64) -> u64 {
        let hash = hash_str(hash, self.name);
        let hash = hash_str(hash, self.ty);
        let hash = hash_word(hash, word::from_usize(self.count));
        let hash = hash_word(hash, word::from_usize(self.offset));
        let hash = hash_word(hash, word::from_usize(self.size));
        let hash = hash_str(hash, self.endian.name());
        hash_word(hash, self.element_hash)
    }
}

/// Displays the type of a field. Made by [`FieldLayout::type_name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeName {
    element: &'static str,
    count: usize,
    is_array: bool,
}

impl core::fmt::Display for TypeName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if self.is_array {
            write!(f, "[{}; {}]", self.element, self.count)
        } else {
            f.write_str(self.element)
        }
    }
}

/// One structure. Made by [`layout!`](crate::layout), as the constant `LAYOUT` of the structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StructLayout {
    /// Name, as in the source.
    pub name: &'static str,
    /// Bytes.
    pub size: usize,
    /// Alignment in bytes.
    pub align: usize,
    /// What the structure is for. May hold several lines; each but the first starts with a space.
    pub doc: &'static str,
    /// The fields, by rising offset.
    pub fields: &'static [FieldLayout],
    /// FNV-1a over name, size, alignment and, for each field, name, type, offset, size and byte
    /// order.
    pub hash: u64,
    /// The source file in which it is defined; empty where that is not known.
    pub file: &'static str,
    /// The line there, from 1.
    pub line: u32,
}

impl StructLayout {
    /// Describes a structure and computes its hash.
    #[must_use]
    pub const fn new(
        name: &'static str,
        size: usize,
        align: usize,
        doc: &'static str,
        fields: &'static [FieldLayout],
    ) -> Self {
        let mut hash = hash_str(HASH_START, name);
        hash = hash_word(hash, word::from_usize(size));
        hash = hash_word(hash, word::from_usize(align));
        hash = hash_word(hash, word::from_usize(fields.len()));
        let mut rest = fields;
        while let [first, tail @ ..] = rest {
            hash = first.hash_into(hash);
            rest = tail;
        }
        Self { name, size, align, doc, fields, hash, file: "", line: 0 }
    }

    /// The same, defined at `line` of `file`.
    #[must_use]
    pub const fn at(self, file: &'static str, line: u32) -> Self {
        Self { file, line, ..self }
    }

    /// Whether two fields of which the source names different writers touch the same cache line:
    /// each write of the one then takes the line from the other.
    #[must_use]
    pub const fn has_rivals(&self) -> bool {
        let mut rest = self.fields;
        while let [first, tail @ ..] = rest {
            let mut others = tail;
            while let [second, more @ ..] = others {
                if let (Some(one), Some(other)) = (first.writer, second.writer) {
                    let ((from, to), (start, end)) = (first.lines(), second.lines());
                    if !is_same(one.as_bytes(), other.as_bytes()) && from <= end && start <= to {
                        return true;
                    }
                }
                others = more;
            }
            rest = tail;
        }
        false
    }

    /// Whether the fields follow each other without a gap or an overlap, from offset 0 to the size:
    /// no byte is padding.
    #[must_use]
    pub const fn is_dense(&self) -> bool {
        let mut end = 0_usize;
        let mut rest = self.fields;
        while let [first, tail @ ..] = rest {
            if first.offset != end {
                return false;
            }
            end = match first.offset.checked_add(first.size) {
                Some(next) => next,
                None => return false,
            };
            rest = tail;
        }
        end == self.size
    }

    /// The field called `name`.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'static FieldLayout> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// The field that holds the byte at `offset`.
    #[must_use]
    pub fn field_at(&self, offset: usize) -> Option<&'static FieldLayout> {
        self.fields.iter().find(|field| {
            offset.checked_sub(field.offset).is_some_and(|within| within < field.size)
        })
    }
}

/// Bytes of a cache line.
pub const LINE_BYTES: usize = 64;

const fn is_same(mut one: &[u8], mut other: &[u8]) -> bool {
    while let ([a, rest @ ..], [b, tail @ ..]) = (one, other) {
        if *a != *b {
            return false;
        }
        (one, other) = (rest, tail);
    }
    one.is_empty() && other.is_empty()
}

/// Where a hash starts: the offset basis of 64-bit FNV-1a.
pub const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;

/// The prime of 64-bit FNV-1a.
const HASH_PRIME: u64 = 0x0000_0100_0000_01b3;

/// `hash` continued over `bytes`, as FNV-1a does: exclusive or, then multiply.
#[must_use]
pub const fn hash_bytes(mut hash: u64, mut bytes: &[u8]) -> u64 {
    while let [first, tail @ ..] = bytes {
        let byte = u64::from_le_bytes([*first, 0, 0, 0, 0, 0, 0, 0]);
        hash = (hash ^ byte).wrapping_mul(HASH_PRIME);
        bytes = tail;
    }
    hash
}

/// `hash` continued over the eight bytes of `value`, little end first.
#[must_use]
pub const fn hash_word(hash: u64, value: u64) -> u64 {
    hash_bytes(hash, &value.to_le_bytes())
}

/// `hash` continued over the length of `text` and its bytes, so that "ab", "c" and "a", "bc"
/// differ.
#[must_use]
pub const fn hash_str(hash: u64, text: &str) -> u64 {
    hash_bytes(hash_word(hash, word::from_usize(text.len())), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv_1a() {
        // Test vectors of the FNV reference code, as listed in IETF draft-eastlake-fnv.
        assert_eq!(hash_bytes(HASH_START, b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash_bytes(HASH_START, b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash_bytes(HASH_START, b"foobar"), 0x8594_4171_f739_67e8);
    }

    const A: FieldLayout = FieldLayout::new::<u64>("a", 0, "");
    const B: FieldLayout = FieldLayout::new::<[u8; 8]>("b", 8, "");

    fn hash_of(name: &'static str, align: usize, fields: &'static [FieldLayout]) -> u64 {
        StructLayout::new(name, 16, align, "", fields).hash
    }

    #[test]
    fn every_part_but_the_doc_counts() {
        let base = hash_of("S", 8, &[A, B]);
        let others = [
            hash_of("T", 8, &[A, B]),
            hash_of("S", 16, &[A, B]),
            hash_of("S", 8, &[A]),
            hash_of("S", 8, &[B, A]),
            hash_of("S", 8, &[FieldLayout { name: "c", ..A }, B]),
            hash_of("S", 8, &[FieldLayout { ty: "i64", ..A }, B]),
            hash_of("S", 8, &[FieldLayout { count: 2, ..A }, B]),
            hash_of("S", 8, &[FieldLayout { offset: 1, ..A }, B]),
            hash_of("S", 8, &[FieldLayout { size: 4, ..A }, B]),
            hash_of("S", 8, &[FieldLayout { endian: Endian::Big, ..A }, B]),
            hash_of("S", 8, &[FieldLayout { element_hash: 1, ..A }, B]),
            StructLayout::new("S", 24, 8, "", &[A, B]).hash,
        ];
        for (index, other) in others.iter().enumerate() {
            assert_ne!(*other, base, "variant {index}");
            assert!(!others[..index].contains(other), "variant {index} collides");
        }
        assert_eq!(hash_of("S", 8, &[FieldLayout { doc: "words", ..A }, B]), base);
        assert_eq!(StructLayout::new("S", 16, 8, "words", &[A, B]).hash, base);
    }

    #[test]
    fn gaps_overlaps_and_short_ends_are_not_dense() {
        assert!(StructLayout::new("S", 16, 8, "", &[A, B]).is_dense());
        assert!(!StructLayout::new("S", 24, 8, "", &[A, B]).is_dense());
        assert!(!StructLayout::new("S", 16, 8, "", &[B]).is_dense());
        assert!(!StructLayout::new("S", 16, 8, "", &[B, A]).is_dense());
        const GAP: FieldLayout = FieldLayout { offset: 9, ..B };
        assert!(!StructLayout::new("S", 17, 8, "", &[A, GAP]).is_dense());
        const HUGE: FieldLayout = FieldLayout { size: usize::MAX, ..B };
        assert!(!StructLayout::new("S", 7, 8, "", &[A, HUGE]).is_dense());
    }

    #[test]
    fn two_writers_of_one_line_are_seen() {
        const SENDER: FieldLayout = A.written_by("sender");
        const SAME: FieldLayout = B.written_by("sender");
        const OTHER: FieldLayout = B.written_by("receiver");
        const LONGER: FieldLayout = FieldLayout { writer: Some("senders"), ..B };
        const FAR: FieldLayout = FieldLayout { offset: 64, ..OTHER };
        const WIDE: FieldLayout = FieldLayout { offset: 8, size: 120, ..OTHER };
        let rivals = |fields| StructLayout::new("S", 192, 8, "", fields).has_rivals();
        assert!(!rivals(&[A, B]) && !rivals(&[SENDER, B]) && !rivals(&[SENDER, SAME]));
        assert!(rivals(&[SENDER, OTHER]) && rivals(&[SENDER, LONGER]));
        assert!(!rivals(&[SENDER, FAR]));
        assert!(rivals(&[WIDE, FieldLayout { offset: 70, ..SENDER }]));
    }

    #[test]
    fn a_byte_belongs_to_its_field() {
        let layout = StructLayout::new("S", 16, 8, "", &[A, B]);
        assert_eq!(layout.field_at(0).map(|f| f.name), Some("a"));
        assert_eq!(layout.field_at(7).map(|f| f.name), Some("a"));
        assert_eq!(layout.field_at(8).map(|f| f.name), Some("b"));
        assert_eq!(layout.field_at(15).map(|f| f.name), Some("b"));
        assert_eq!(layout.field_at(16), None);
    }
}
