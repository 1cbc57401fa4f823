//! What a source says of types: the one form into which headers, debug information, lock files and our own layouts are
//! brought before anything is compared or printed.
//!
//! ```text
//!   Catalog   origin, dialect                         "DWARF of app.o"
//!     Type    name, size, alignment, site             struct queue
//!       Member  name, offset, size, bits, shape       u.head @ 8
//!     numbers enumerators, macros, constants
//! ```
//!
//! Members of nameless structures and unions stand in the list of whoever has them, under the names by which C reaches them.
//! A member whose type has no name is followed by its own members, with its name before theirs: `stats`, `stats.count`.

use core::cell::Cell;
use std::collections::{BTreeMap, HashMap};

/// Most members that are kept of one type: the nesting of hostile debug information has no other bound.
pub(super) const MEMBERS_MAX: usize = 1 << 16;
/// Deepest nesting that is followed.
pub(super) const DEPTH_MAX: usize = 32;

/// Where something is defined.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Site {
    /// Path, as the source has it.
    pub file: String,
    /// Line, from 1; 0 where only the file is known.
    pub line: u64,
}

impl core::fmt::Display for Site {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// In whose words a source speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// Our own: byte orders are said, names are those of Rust.
    Ours,
    /// C and its like: a plain number may lie in any byte order.
    C,
    /// The type information of a kernel, which has names of its own for a few structures.
    Kernel,
}

/// In which order the bytes of a member lie, as far as its type says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// The machine's own; in C also: not said.
    Native,
    /// Little end first.
    Little,
    /// Big end first.
    Big,
    /// Single bytes, or no number.
    None,
}

impl Order {
    /// Short name, for tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Little => "little",
            Self::Big => "big",
            Self::None => "-",
        }
    }

    /// What a type name says by itself: `__be32`, `Be32`, `sw_le64`, `be16_t`.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let lower = name.to_ascii_lowercase();
        let word = lower.strip_suffix("_t").unwrap_or(&lower);
        let word = word.rsplit(['_', ':']).next().unwrap_or(word);
        let order = match word.get(..2)? {
            "be" => Self::Big,
            "le" => Self::Little,
            _ => return None,
        };
        matches!(word.get(2..)?, "16" | "32" | "64" | "128").then_some(order)
    }
}

/// The place of a bit field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bits {
    /// Its first bit, counted from the start of the structure.
    pub start: u64,
    /// How many.
    pub count: u64,
}

/// What a type is, as far as layouts go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shape {
    /// As the source writes it, for people.
    pub shown: String,
    /// The same without names of convenience: `u32`, `ptr`, `[byte; 16]`, `struct foo`. Sources of one dialect are compared by it.
    pub core: String,
    /// Bytes; `None` where it has none, as an array without a length.
    pub size: Option<u64>,
    /// In which order the bytes lie.
    pub order: Order,
    /// Whether it is meant to be changed by several at a time: atomic or volatile.
    pub is_shared: bool,
}

impl Shape {
    /// Something that is not understood.
    pub(super) fn unknown() -> Self {
        Self::new("?", "?", None)
    }

    /// One in native order.
    pub(super) fn new(shown: &str, core: &str, size: Option<u64>) -> Self {
        Self {
            shown: shown.to_owned(),
            core: core.to_owned(),
            size,
            order: Order::None,
            is_shared: false,
        }
    }

    /// A whole number or what is like one: `u32`, `i64`, `f32`, `bool`.
    pub(super) fn number(shown: &str, prefix: &str, size: u64) -> Self {
        let core = match (prefix, size) {
            ("bool", _) => "bool".to_owned(),
            ("u" | "i", 1) => "byte".to_owned(),
            _ => format!("{prefix}{}", size.saturating_mul(8)),
        };
        let order = if size > 1 { Order::Native } else { Order::None };
        Self { order, ..Self::new(shown, &core, Some(size)) }
    }

    /// An array of this; `None` where it has no length.
    pub(super) fn array(self, count: Option<u64>) -> Self {
        let size = count.map(|count| self.size.unwrap_or(0).saturating_mul(count));
        let length = |count: Option<u64>| count.map_or_else(String::new, |count| count.to_string());
        let shown = format!("[{}; {}]", self.shown, length(count));
        // Rows of rows are as many elements in a row, and BTF does not tell none from an unknown number.
        let inner = self.core.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let inner = inner.and_then(|inner| inner.rsplit_once("; "));
        let (element, times) = inner.unwrap_or((&self.core, "1"));
        let all = count.and_then(|count| times.parse::<u64>().ok()?.checked_mul(count));
        let core = format!("[{element}; {}]", length(all.filter(|all| *all > 0)));
        Self { shown, core, size, ..self }
    }

    /// This under another name.
    pub(super) fn called(self, name: &str) -> Self {
        let order = match (Order::of_name(name), self.size) {
            (Some(order), Some(2..)) => order,
            _ => self.order,
        };
        let is_shared = self.is_shared || is_shared_name(name);
        Self { shown: name.to_owned(), order, is_shared, ..self }
    }
}

/// Is this one of the names by which C, C++ and Rust call what several change at a time?
pub(super) fn is_shared_name(name: &str) -> bool {
    let last = name.split('<').next().unwrap_or(name).rsplit("::").next().unwrap_or(name);
    let known = [
        "atomic_t",
        "atomic64_t",
        "atomic_long_t",
        "refcount_t",
        "spinlock_t",
        "raw_spinlock_t",
        "atomic",
    ];
    known.contains(&last) || last.starts_with("Atomic") || last.starts_with("atomic_")
}

/// One member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its name, with those around it before it where they are nameless types: `stats.count`.
    pub name: String,
    /// Bytes from the start of the type; of a bit field, those of the byte with its first bit.
    pub offset: u64,
    /// Where it is a bit field: which bits.
    pub bits: Option<Bits>,
    /// What it is.
    pub shape: Shape,
    /// Who alone writes it, where the source says so.
    pub writer: Option<String>,
    /// Where it is declared.
    pub site: Option<Site>,
}

impl Member {
    /// The bytes that it covers; `None` without a size.
    #[must_use]
    pub fn bytes(&self) -> Option<core::ops::Range<u64>> {
        let size = match self.bits {
            Some(bits) => (bits.start % 8).saturating_add(bits.count).div_ceil(8),
            None => self.shape.size?,
        };
        Some(self.offset..self.offset.saturating_add(size))
    }

    /// Is it a part of another member of the list?
    #[must_use]
    pub fn is_inner(&self) -> bool {
        self.name.contains('.')
    }
}

/// What sort of type it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Members follow each other.
    Struct,
    /// Members lie over each other.
    Union,
}

impl Kind {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Struct => "struct",
            Self::Union => "union",
        }
    }
}

/// A structure or a union.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Type {
    /// Its name without `struct` or `union`; with namespaces: `ns::Queue`.
    pub name: String,
    /// What sort it is.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// Alignment in bytes, where the source says it.
    pub align: Option<u64>,
    /// Its members, in the order of the source.
    pub members: Vec<Member>,
    /// Where it is defined.
    pub site: Option<Site>,
    /// Whether the name is a tag, behind `struct` or `union` in C; else a typedef or a name of C++ or Rust.
    pub is_tagged: bool,
}

impl Type {
    /// Whether another one lies in the same way, wherever it is defined.
    fn lies_as(&self, other: &Self) -> bool {
        let same = |(one, other): (&Member, &Member)| {
            one.name == other.name
                && one.offset == other.offset
                && one.bits == other.bits
                && one.shape.size == other.shape.size
        };
        self.size == other.size
            && self.members.len() == other.members.len()
            && self.members.iter().zip(&other.members).all(same)
    }

    /// The member of that name.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }
}

/// All that a source says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Catalog {
    /// What the source is, for people.
    pub origin: String,
    /// In whose words it speaks.
    pub dialect: Dialect,
    types: Vec<Type>,
    by_name: HashMap<String, usize>,
    /// By the last part of a name that has several; `None` where more than one type ends so.
    by_last_name: HashMap<String, Option<usize>>,
    /// Constants by name.
    pub numbers: BTreeMap<String, u64>,
    /// What a reader of the answers ought to know of the source.
    pub remarks: Vec<String>,
    /// Whether it says all there is: what it does not have is then not there.
    pub is_whole: bool,
    /// The compiler, where only alignments are known that the source sets explicitly; each says it of other types.
    pub aligns_by: Option<String>,
}

impl Catalog {
    /// Nothing yet.
    #[must_use]
    pub fn new(origin: impl Into<String>, dialect: Dialect) -> Self {
        Self {
            origin: origin.into(),
            dialect,
            types: Vec::new(),
            by_name: HashMap::new(),
            by_last_name: HashMap::new(),
            numbers: BTreeMap::new(),
            remarks: Vec::new(),
            is_whole: true,
            aligns_by: None,
        }
    }

    /// All types, in the order of the source.
    #[must_use]
    pub fn types(&self) -> &[Type] {
        &self.types
    }

    /// Adds a type. One of the same name that says something else is told in the remarks; the first stays.
    pub fn add(&mut self, ty: Type) {
        match self.by_name.get(&ty.name).and_then(|at| self.types.get(*at)) {
            None => {
                self.enter(&ty.name, self.types.len());
                self.types.push(ty);
            }
            Some(first) if first.lies_as(&ty) => {}
            Some(first) => {
                let at = |site: &Option<Site>| {
                    site.as_ref().map_or_else(|| "somewhere".to_owned(), ToString::to_string)
                };
                let (name, one, other) = (&ty.name, at(&first.site), at(&ty.site));
                let remark = format!(
                    "{name} is defined twice, differently: {one}, and {other}; the first is used"
                );
                if self.remarks.len() < 20 {
                    self.remarks.push(remark);
                }
            }
        }
    }

    fn enter(&mut self, name: &str, at: usize) {
        self.by_name.insert(name.to_owned(), at);
        if let Some((_, last)) = name.rsplit_once("::") {
            let entry = self.by_last_name.entry(last.to_owned());
            entry.and_modify(|known| *known = None).or_insert(Some(at));
        }
    }

    /// Keeps the types that `wanted` takes.
    pub fn retain(&mut self, wanted: impl Fn(&Type) -> bool) {
        self.types.retain(wanted);
        self.by_name.clear();
        self.by_last_name.clear();
        let names: Vec<String> = self.types.iter().map(|ty| ty.name.clone()).collect();
        for (at, name) in names.iter().enumerate() {
            self.enter(name, at);
        }
    }

    /// Gives types their alignment.
    pub(super) fn set_align(&mut self, name: &str, align: u64) {
        if let Some(ty) = self.by_name.get(bare(name)).and_then(|at| self.types.get_mut(*at)) {
            ty.align = Some(align);
        }
    }

    /// The type of that name: `struct foo`, `foo`, or the last part of `ns::foo` where only one type ends so.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Type> {
        let name = bare(name);
        if let Some(at) = self.by_name.get(name) {
            return self.types.get(*at);
        }
        // A name of two parts may be the end of one of three.
        let at = match name.rsplit_once("::") {
            None => *self.by_last_name.get(name)?,
            Some((_, last)) => *self.by_last_name.get(last)?,
        };
        let found = self.types.get(at?)?;
        let rest = found.name.strip_suffix(name)?;
        rest.ends_with("::").then_some(found)
    }

    /// The number of that name. A flag may also be known by the place of its bit, under its name with `_BIT`.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        let direct = self.numbers.get(name).copied();
        direct.or_else(|| {
            let bit = self.numbers.get(&format!("{name}_BIT"))?;
            1_u64.checked_shl(u32::try_from(*bit).ok()?)
        })
    }
}

/// How many steps of walks through nested types are left for a file. Types that contain themselves, as no compiler writes
/// them, would otherwise be walked through without end.
pub(super) struct Steps(Cell<u64>);

impl Steps {
    /// As many as a file of so many bytes can have use for.
    pub(super) fn for_bytes(bytes: usize) -> Self {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        Self(Cell::new(bytes.saturating_mul(4).saturating_add(1 << 16)))
    }

    /// Takes one; whether there was one.
    pub(super) fn take(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left > 0
    }

    /// Whether none is left.
    pub(super) const fn is_spent(&self) -> bool {
        self.0.get() == 0
    }
}

/// Where a walk through nested types is.
pub(super) struct Nest<'a> {
    /// Bytes from the start of the outermost type.
    pub(super) base: u64,
    /// What stands before the names of members.
    pub(super) prefix: &'a str,
    pub(super) depth: usize,
}

impl<'a> Nest<'a> {
    /// At the outermost type.
    pub(super) const OUTERMOST: Self = Self { base: 0, prefix: "", depth: 0 };

    /// In a member that begins at `base`.
    pub(super) const fn inner(&self, base: u64, prefix: &'a str) -> Self {
        Self { base, prefix, depth: self.depth.saturating_add(1) }
    }

    /// Whether to go no deeper.
    pub(super) const fn is_enough(&self, found: &[Member]) -> bool {
        self.depth >= DEPTH_MAX || found.len() >= MEMBERS_MAX
    }
}

/// A name without the word before it.
pub(super) fn bare(name: &str) -> &str {
    let words = ["struct ", "union ", "class "];
    words.iter().find_map(|word| name.strip_prefix(word)).unwrap_or(name).trim()
}

/// Which types are asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// All there are.
    All,
    /// Those of these names; and these constants, which a header knows as macros.
    Named {
        /// As C writes them: `struct foo`.
        types: Vec<String>,
        /// Macros and enumerators.
        numbers: Vec<String>,
    },
}

impl Wanted {
    /// Whether a type is asked for.
    #[must_use]
    pub fn takes(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named { types, .. } => types.iter().any(|wanted| {
                let wanted = bare(wanted);
                wanted == name || name.strip_suffix(wanted).is_some_and(|rest| rest.ends_with("::"))
            }),
        }
    }

    /// Whether a number is asked for.
    #[must_use]
    pub fn takes_number(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named { numbers, .. } => {
                let flag = name.strip_suffix("_BIT").unwrap_or(name);
                numbers.binary_search_by(|n| n.as_str().cmp(name)).is_ok()
                    || numbers.binary_search_by(|n| n.as_str().cmp(flag)).is_ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_order_of_bytes() {
        for (name, order) in [
            ("__be32", Some(Order::Big)),
            ("Be16", Some(Order::Big)),
            ("sw_le64", Some(Order::Little)),
            ("le16_t", Some(Order::Little)),
            ("endian::Be64", Some(Order::Big)),
            ("u32", None),
            ("beam", None),
            ("be12", None),
            ("b", None),
            ("é", None),
        ] {
            assert_eq!(Order::of_name(name), order, "{name}");
        }
    }

    #[test]
    fn a_type_is_found_by_its_last_name_where_that_is_clear() {
        let mut catalog = Catalog::new("test", Dialect::C);
        let named = |name: &str| Type {
            name: name.to_owned(),
            kind: Kind::Struct,
            size: 8,
            align: None,
            members: Vec::new(),
            site: None,
            is_tagged: false,
        };
        for name in ["a::Queue", "b::Queue", "a::Row", "Plain"] {
            catalog.add(named(name));
        }
        assert!(catalog.find("Queue").is_none(), "two end so");
        assert_eq!(catalog.find("struct Row").map(|t| t.name.as_str()), Some("a::Row"));
        assert_eq!(catalog.find("struct Plain").map(|t| t.name.as_str()), Some("Plain"));
        catalog.add(Type { size: 9, ..named("Plain") });
        assert_eq!(catalog.remarks.len(), 1, "{:?}", catalog.remarks);
        assert_eq!(catalog.types().len(), 4);
    }
}
