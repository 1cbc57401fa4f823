//! Layouts that belong together, and what others call them.
//!
//! ```text
//!   Room "uring"    layouts   [Sqe, Cqe, ..]         what this crate says
//!                   numbers   [op::LIST, ..]         constants, with their names in C
//!                   foreign   headers, package       who else says it, and in which words:
//!                             names  Sqe -> struct io_uring_sqe, op_flags -> rw_flags
//! ```
//!
//! A [`Room`] is all that a tool needs for printing and checking: a new one is a list, no code. Whoever defines structures by
//! [`layout!`](crate::layout) in a crate of their own makes a room of them in the same way.

use super::StructLayout;
pub use crate::numbers::Number;

/// Layouts and numbers that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Short name, for the command line.
    pub name: &'static str,
    /// What it is, in a few words.
    pub doc: &'static str,
    /// Its structures.
    pub layouts: &'static [&'static StructLayout],
    /// Its constants, list by list.
    pub numbers: &'static [&'static [Number]],
    /// Where somebody else says the same; `None` where the layouts are our own.
    pub foreign: Option<Foreign>,
}

impl Room {
    /// A room of one's own: nobody else says what its layouts are.
    #[must_use]
    pub const fn own(
        name: &'static str,
        doc: &'static str,
        layouts: &'static [&'static StructLayout],
    ) -> Self {
        Self { name, doc, layouts, numbers: &[], foreign: None }
    }

    /// The same with constants.
    #[must_use]
    pub const fn with_numbers(self, numbers: &'static [&'static [Number]]) -> Self {
        Self { numbers, ..self }
    }

    /// The same with somebody to compare it with.
    #[must_use]
    pub const fn known_to(self, foreign: Foreign) -> Self {
        Self { foreign: Some(foreign), ..self }
    }

    /// What others call a layout of this room.
    #[must_use]
    pub fn counterpart(&self, layout: &str) -> Option<&'static Counterpart> {
        let foreign = self.foreign?;
        foreign.names.iter().find(|counterpart| counterpart.layout == layout)
    }
}

/// Who else says what the layouts of a room are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// C headers, in the order in which they are to be included.
    pub headers: &'static [&'static str],
    /// The Debian package that has them.
    pub package: &'static str,
    /// Whether a running kernel has the same structures in its type information.
    pub is_kernel: bool,
    /// Our names and theirs.
    pub names: &'static [Counterpart],
    /// Constants and layouts that no machine at hand could tell, as macros that are younger than its headers.
    pub unconfirmed: &'static [&'static str],
}

/// What one layout is called by others.
///
/// ```
/// use spinwire_layouts::describe::Counterpart;
///
/// const ENTRY: Counterpart = Counterpart::new("Entry", "struct queue_entry")
///     .members(&[("kind", "u.kind"), ("address", "addr")])
///     .reserved(&["unused"]);
/// assert_eq!(ENTRY.member("kind"), "u.kind");
/// assert_eq!(ENTRY.member("length"), "length");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counterpart {
    /// Our name of the structure.
    pub layout: &'static str,
    /// Theirs, as in C: `struct io_uring_sqe`, or the name of a typedef.
    pub theirs: &'static str,
    /// What the kernel calls it where its type information has another name than the header.
    pub in_kernel: Option<&'static str>,
    /// Our name of a field and theirs. Fields that are not listed have the same name on both sides.
    pub members: &'static [(&'static str, &'static str)],
    /// Fields of ours that are reserved. New fields were taken from them, so an older header may have more of them.
    pub reserved: &'static [&'static str],
    /// The field that is an array without a length on their side, at the end: their structure ends where it begins.
    pub flexible: Option<&'static str>,
    /// Fields of ours that have no member on their side: only that they lie within it is checked.
    pub ours_only: &'static [&'static str],
    /// Their alignment, where ours is another: a part of something larger may lie where C would not put it by itself.
    pub align_there: Option<usize>,
}

impl Counterpart {
    /// Our `layout` is `theirs`, and all fields have the same names.
    #[must_use]
    pub const fn new(layout: &'static str, theirs: &'static str) -> Self {
        Self {
            layout,
            theirs,
            in_kernel: None,
            members: &[],
            reserved: &[],
            flexible: None,
            ours_only: &[],
            align_there: None,
        }
    }

    /// With fields of another name: ours, theirs.
    #[must_use]
    pub const fn members(self, members: &'static [(&'static str, &'static str)]) -> Self {
        Self { members, ..self }
    }

    /// With reserved fields.
    #[must_use]
    pub const fn reserved(self, reserved: &'static [&'static str]) -> Self {
        Self { reserved, ..self }
    }

    /// With an array without a length at the end.
    #[must_use]
    pub const fn flexible(self, field: &'static str) -> Self {
        Self { flexible: Some(field), ..self }
    }

    /// With another name in the type information of the kernel.
    #[must_use]
    pub const fn in_kernel(self, name: &'static str) -> Self {
        Self { in_kernel: Some(name), ..self }
    }

    /// With fields that only we have.
    #[must_use]
    pub const fn ours_only(self, fields: &'static [&'static str]) -> Self {
        Self { ours_only: fields, ..self }
    }

    /// With another alignment on their side.
    #[must_use]
    pub const fn align_there(self, align: usize) -> Self {
        Self { align_there: Some(align), ..self }
    }

    /// What they call our `field`.
    #[must_use]
    pub fn member<'a>(&self, field: &'a str) -> &'a str {
        self.members.iter().find(|(ours, _)| *ours == field).map_or(field, |(_, theirs)| theirs)
    }
}
