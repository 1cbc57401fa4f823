//! Headers of C and C++ for layouts of ours, with an assertion for every number in them.
//!
//! ```text
//!   C     struct SW_ALIGNED(64) sw_lane_cell { uint64_t head; .. };   _Static_assert(offsetof(..) == 8, ..);
//!   C++   namespace spinwire { struct alignas(64) LaneCell { std::uint64_t head; .. }; }   static_assert(..);
//! ```
//!
//! A header for C is one for C++, too; that for C++ has namespaces and the names of Rust.

use core::fmt::Write as _;
use std::collections::BTreeSet;

use spinwire_layouts::describe::{Endian, FieldLayout, Room, StructLayout};

use super::compare::snake_case;
use super::header::Language;

/// What stands before names of C.
pub(super) const PREFIX: &str = "sw_";

/// Words that no member of C or C++ can have as a name.
const KEYWORDS: &[&str] = &[
    "alignas",
    "and",
    "asm",
    "auto",
    "bool",
    "break",
    "case",
    "catch",
    "char",
    "class",
    "concept",
    "const",
    "continue",
    "default",
    "delete",
    "do",
    "double",
    "else",
    "enum",
    "explicit",
    "export",
    "extern",
    "false",
    "float",
    "for",
    "friend",
    "goto",
    "if",
    "inline",
    "int",
    "long",
    "mutable",
    "namespace",
    "new",
    "not",
    "operator",
    "or",
    "private",
    "protected",
    "public",
    "register",
    "requires",
    "restrict",
    "return",
    "short",
    "signed",
    "sizeof",
    "static",
    "struct",
    "switch",
    "template",
    "this",
    "throw",
    "true",
    "try",
    "typedef",
    "typename",
    "union",
    "unsigned",
    "using",
    "virtual",
    "void",
    "volatile",
    "while",
    "xor",
];

const C_HEAD: &str = "\
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define SW_ALIGNED(bytes) alignas(bytes)
#define SW_ALIGNOF(type) alignof(type)
#define SW_ASSERT(what, why) static_assert(what, why)
#else
#define SW_ALIGNED(bytes) __attribute__((aligned(bytes)))
#define SW_ALIGNOF(type) _Alignof(type)
#define SW_ASSERT(what, why) _Static_assert(what, why)
#endif

/* Numbers of a fixed byte order: what they hold is not what they read as, on half of all machines. */
typedef uint16_t sw_be16;
typedef uint32_t sw_be32;
typedef uint64_t sw_be64;
typedef uint16_t sw_le16;
typedef uint32_t sw_le32;
typedef uint64_t sw_le64;
";

const CXX_HEAD: &str = "\
#include <cstddef>
#include <cstdint>

namespace spinwire {

// Numbers of a fixed byte order: what they hold is not what they read as, on half of all machines.
using be16 = std::uint16_t;
using be32 = std::uint32_t;
using be64 = std::uint64_t;
using le16 = std::uint16_t;
using le32 = std::uint32_t;
using le64 = std::uint64_t;
";

/// How the header is written.
struct Style<'a> {
    language: Language,
    prefix: &'a str,
}

/// The header for all structures of `rooms`.
#[must_use]
pub fn header(rooms: &[Room], language: Language, prefix: &str) -> String {
    let style = Style { language, prefix };
    let guard = "SPINWIRE_LAYOUTS_H";
    let mut text =
        format!("/* Written by `spinwire layout header`. */\n#ifndef {guard}\n#define {guard}\n\n");
    text.push_str(match language {
        Language::C => C_HEAD,
        Language::Cxx => CXX_HEAD,
    });
    for number in rooms.iter().flat_map(|room| room.numbers.iter().copied().flatten()) {
        // Writing to a String does not fail.
        let _written = match language {
            Language::C => {
                writeln!(text, "\n#define {} UINT64_C({:#x})", number.name, number.value)
            }
            Language::Cxx => {
                writeln!(
                    text,
                    "\ninline constexpr std::uint64_t {} = {:#x};",
                    number.name, number.value
                )
            }
        };
    }
    let all: Vec<&StructLayout> =
        rooms.iter().flat_map(|room| room.layouts.iter().copied()).collect();
    let mut written = BTreeSet::new();
    // What is a part of others comes before them.
    for _round in 0..=all.len() {
        for layout in &all {
            let waits = layout.fields.iter().any(|field| {
                field.endian == Endian::Nested
                    && all.iter().any(|other| other.name == field.ty)
                    && !written.contains(field.ty)
            });
            if !waits && written.insert(layout.name) {
                style.structure(layout, &all, &mut text);
            }
        }
    }
    if language == Language::Cxx {
        text.push_str("\n} // namespace spinwire\n");
    }
    let _written = writeln!(text, "\n#endif /* {guard} */");
    text
}

impl Style<'_> {
    fn name(&self, layout: &str) -> String {
        match self.language {
            Language::C => format!("{}{}", self.prefix, snake_case(layout)),
            Language::Cxx => layout.to_owned(),
        }
    }

    fn structure(&self, layout: &StructLayout, all: &[&StructLayout], text: &mut String) {
        let name = self.name(layout.name);
        let head = match self.language {
            Language::C => format!("struct SW_ALIGNED({}) {name}", layout.align),
            Language::Cxx => format!("struct alignas({}) {name}", layout.align),
        };
        let _written = writeln!(text, "\n{}{head} {{", comment(layout.doc, ""));
        for field in layout.fields {
            let by = field.writer.map_or_else(String::new, |by| format!(" Written by the {by}."));
            let note = comment(&format!("{}{by}", field.doc), "    ");
            let ty = self.ty(field, all);
            let count = if field.is_array { format!("[{}]", field.count) } else { String::new() };
            let count = if ty.1 { format!("[{}]", field.size) } else { count };
            let _written = writeln!(text, "{note}    {} {}{count};", ty.0, member(field.name));
        }
        text.push_str("};\n");
        let (of, assert, align) = match self.language {
            Language::C => (format!("struct {name}"), "SW_ASSERT", "SW_ALIGNOF"),
            Language::Cxx => (name.clone(), "static_assert", "alignof"),
        };
        let mut claim = |what: String, why: &str| {
            let _written = writeln!(text, "{assert}({what}, \"{name}: {why}\");");
        };
        claim(format!("sizeof({of}) == {}", layout.size), "size");
        claim(format!("{align}({of}) == {}", layout.align), "alignment");
        for field in layout.fields {
            let field_name = member(field.name);
            claim(format!("offsetof({of}, {field_name}) == {}", field.offset), field.name);
        }
    }

    /// The type of an element; and whether it is unknown here, and stands for its bytes.
    fn ty(&self, field: &FieldLayout, all: &[&StructLayout]) -> (String, bool) {
        let space = if self.language == Language::Cxx { "std::" } else { "" };
        let fixed = match self.language {
            Language::C => "sw_",
            Language::Cxx => "",
        };
        let name = match field.ty {
            "u8" | "u16" | "u32" | "u64" => format!("{space}uint{}_t", &field.ty.replace('u', "")),
            "i8" | "i16" | "i32" | "i64" => format!("{space}int{}_t", &field.ty.replace('i', "")),
            "Be16" | "Be32" | "Be64" | "Le16" | "Le32" | "Le64" => {
                format!("{fixed}{}", field.ty.to_lowercase())
            }
            other if all.iter().any(|layout| layout.name == other) => match self.language {
                Language::C => format!("struct {}", self.name(other)),
                Language::Cxx => other.to_owned(),
            },
            _ => return (format!("{space}uint8_t"), true),
        };
        (name, false)
    }
}

/// A name that C takes.
fn member(name: &str) -> String {
    if KEYWORDS.contains(&name) { format!("{name}_") } else { name.to_owned() }
}

/// The first paragraph of a text, as a comment.
fn comment(doc: &str, indent: &str) -> String {
    let paragraph: Vec<&str> =
        doc.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    // Links of the documentation: [`Name`](path) is Name.
    let mut plain = String::new();
    let mut rest = paragraph.join(" ").replace('`', "");
    while let Some((before, link)) = rest.split_once('[') {
        plain.push_str(before);
        let Some((name, behind)) = link.split_once(']') else {
            rest = link.to_owned();
            continue;
        };
        plain.push_str(name);
        let path = behind.strip_prefix('(').and_then(|path| path.split_once(')'));
        rest = path.map_or(behind, |(_path, behind)| behind).to_owned();
    }
    plain.push_str(&rest);
    format!("{indent}/* {} */\n", plain.replace("*/", "* /"))
}
