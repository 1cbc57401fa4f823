//! Where two sources differ, and what a source says of one of our layouts.
//!
//! ```text
//!   mirror    both sides say all they know: every type, member and number must be on both and be the same
//!   opinion   ours against a witness, who may know more, may be older, and has names of its own: each property is
//!             confirmed, gainsaid, or not known to it
//! ```

use core::fmt;

use spinwire_layouts::describe::{Counterpart, Room, StructLayout};
use spinwire_layouts::word;

use super::model::{Catalog, Dialect, Member, Order, Site, Type, bare};
use super::ours;

/// What of a type, a member or a number differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aspect {
    /// Only one side has it.
    Presence,
    /// Bytes.
    Size,
    /// Alignment.
    Align,
    /// Bytes from the start.
    Offset,
    /// Which bits.
    Bits,
    /// In which order the bytes lie.
    Order,
    /// What it is: a number of another kind, another structure.
    Type,
    /// The value of a number.
    Value,
}

impl Aspect {
    /// A word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Presence => "presence",
            Self::Size => "size",
            Self::Align => "alignment",
            Self::Offset => "offset",
            Self::Bits => "bits",
            Self::Order => "byte order",
            Self::Type => "type",
            Self::Value => "value",
        }
    }
}

/// One thing that differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The type, the member as `type.member`, or the number.
    pub what: String,
    /// What of it.
    pub aspect: Aspect,
    /// What the left side says.
    pub left: String,
    /// Where it says so.
    pub left_at: Option<Site>,
    /// What the right side says.
    pub right: String,
    /// Where it says so.
    pub right_at: Option<Site>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.what, self.aspect.name(), self.left)?;
        if let Some(at) = &self.left_at {
            write!(f, " ({at})")?;
        }
        write!(f, " | {}", self.right)?;
        if let Some(at) = &self.right_at {
            write!(f, " ({at})")?;
        }
        Ok(())
    }
}

/// Collects what differs of one pair of types.
struct Pair<'a> {
    what: String,
    dialects: (Dialect, Dialect),
    sites: (&'a Option<Site>, &'a Option<Site>),
    found: Vec<Difference>,
}

impl Pair<'_> {
    fn differ(&mut self, aspect: Aspect, left: impl ToString, right: impl ToString) {
        self.found.push(Difference {
            what: self.what.clone(),
            aspect,
            left: left.to_string(),
            left_at: self.sites.0.clone(),
            right: right.to_string(),
            right_at: self.sites.1.clone(),
        });
    }

    fn orders(&mut self, left: Order, right: Order) {
        let says = |order, dialect| match (order, dialect) {
            // C has no word for the order of a plain number, so it says nothing.
            (Order::None, _) | (Order::Native, Dialect::C | Dialect::Kernel) => None,
            (order, _) => Some(order),
        };
        let both_weak = self.dialects.0 != Dialect::Ours && self.dialects.1 != Dialect::Ours;
        let differ = match (says(left, self.dialects.0), says(right, self.dialects.1)) {
            (Some(left), Some(right)) => left != right,
            // One of two C sources has given the number an order: that is a change.
            (Some(_), None) => both_weak && right == Order::Native,
            (None, Some(_)) => both_weak && left == Order::Native,
            (None, None) => false,
        };
        if differ {
            self.differ(Aspect::Order, left.name(), right.name());
        }
    }

    /// Offset, size and byte order; the size only where the right side has one.
    fn places(&mut self, left: &Member, right: &Member) {
        if left.bits != right.bits {
            let text = |member: &Member| match member.bits {
                Some(bits) => format!("{} at {}.{}", bits.count, bits.start / 8, bits.start % 8),
                None => format!("none, at byte {}", member.offset),
            };
            self.differ(Aspect::Bits, text(left), text(right));
            return;
        }
        if left.offset != right.offset {
            self.differ(Aspect::Offset, left.offset, right.offset);
        }
        // BTF does not tell an array of no elements from one without a length.
        if left.shape.size.unwrap_or(0) != right.shape.size.unwrap_or(0) {
            self.differ(Aspect::Size, bytes(left), bytes(right));
        }
        self.orders(left.shape.order, right.shape.order);
    }
}

fn bytes(member: &Member) -> String {
    member.shape.size.map_or_else(|| "without a length".to_owned(), |size| size.to_string())
}

/// Everything in which two sources differ. `renamed` has names of the left side with those of the right.
#[must_use]
pub fn mirror(left: &Catalog, right: &Catalog, renamed: &[(String, String)]) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut met = Vec::new();
    for ty in left.types() {
        let new = renamed.iter().find(|(old, _)| bare(old) == ty.name).map(|(_, new)| new.as_str());
        match right.find(new.unwrap_or(&ty.name)) {
            Some(other) => {
                met.push(other.name.as_str());
                types(ty, other, (left, right), &mut found);
            }
            None if right.is_whole => found.push(lacks(ty, (left, right), true)),
            None => {}
        }
    }
    met.sort_unstable();
    let only_right =
        right.types().iter().filter(|ty| met.binary_search(&ty.name.as_str()).is_err());
    if left.is_whole {
        found.extend(only_right.map(|ty| lacks(ty, (left, right), false)));
    }
    found.extend(numbers(left, right));
    found
}

/// A type that one side has alone.
fn lacks(ty: &Type, (left, right): (&Catalog, &Catalog), is_left: bool) -> Difference {
    let there = format!("{} of {} bytes", ty.kind.name(), ty.size);
    let none = |side: &Catalog| format!("not in {}", side.origin);
    let site = ty.site.clone();
    let (left, left_at, right, right_at) =
        if is_left { (there, site, none(right), None) } else { (none(left), None, there, site) };
    Difference { what: ty.name.clone(), aspect: Aspect::Presence, left, left_at, right, right_at }
}

fn numbers(left: &Catalog, right: &Catalog) -> Vec<Difference> {
    let difference = |name: &String, left: Option<u64>, right: Option<u64>| {
        let text = |n: Option<u64>| n.map_or_else(|| "none".to_owned(), |n| format!("{n:#x}"));
        Difference {
            what: name.clone(),
            aspect: if left.is_some() && right.is_some() {
                Aspect::Value
            } else {
                Aspect::Presence
            },
            left: text(left),
            left_at: None,
            right: text(right),
            right_at: None,
        }
    };
    let mut found = Vec::new();
    for (name, value) in &left.numbers {
        match right.numbers.get(name) {
            Some(other) if other == value => {}
            Some(other) => found.push(difference(name, Some(*value), Some(*other))),
            None if right.is_whole => found.push(difference(name, Some(*value), None)),
            None => {}
        }
    }
    if left.is_whole {
        let new = right.numbers.iter().filter(|(name, _)| !left.numbers.contains_key(*name));
        found.extend(new.map(|(name, value)| difference(name, None, Some(*value))));
    }
    found
}

/// What differs of one type that both sides have.
fn types(left: &Type, right: &Type, sources: (&Catalog, &Catalog), found: &mut Vec<Difference>) {
    let dialects = (sources.0.dialect, sources.1.dialect);
    let mut pair = Pair {
        what: left.name.clone(),
        dialects,
        sites: (&left.site, &right.site),
        found: Vec::new(),
    };
    if left.kind != right.kind {
        pair.differ(Aspect::Type, left.kind.name(), right.kind.name());
    }
    if left.size != right.size {
        pair.differ(Aspect::Size, left.size, right.size);
    }
    // Debug information tells the alignment only where the source sets it: then to say nothing is to say "as its members".
    let set_only = sources.0.aligns_by.is_some() && sources.0.aligns_by == sources.1.aligns_by;
    if left.align != right.align && (set_only || left.align.is_some() && right.align.is_some()) {
        let text = |align: Option<u64>| {
            align.map_or_else(|| "as its members".to_owned(), |a| a.to_string())
        };
        pair.differ(Aspect::Align, text(left.align), text(right.align));
    }
    found.append(&mut pair.found);
    // Sizes of tables are all that a segment of another build tells.
    if left.members.is_empty() || right.members.is_empty() {
        return;
    }
    let is_ours = |dialect| dialect == Dialect::Ours;
    let same_words = is_ours(dialects.0) == is_ours(dialects.1);
    for member in &left.members {
        let mut pair = Pair {
            what: format!("{}.{}", left.name, member.name),
            dialects,
            sites: (&member.site, &right.site),
            found: Vec::new(),
        };
        match right.member(&member.name) {
            Some(other) => {
                pair.sites.1 = &other.site;
                pair.places(member, other);
                if same_words && member.shape.core != other.shape.core && pair.found.is_empty() {
                    pair.differ(Aspect::Type, &member.shape.shown, &other.shape.shown);
                }
            }
            None => pair.differ(Aspect::Presence, at(member), "none"),
        }
        found.append(&mut pair.found);
    }
    for member in right.members.iter().filter(|member| left.member(&member.name).is_none()) {
        let mut pair = Pair {
            what: format!("{}.{}", left.name, member.name),
            dialects,
            sites: (&left.site, &member.site),
            found: Vec::new(),
        };
        pair.differ(Aspect::Presence, "none", at(member));
        found.append(&mut pair.found);
    }
}

fn at(member: &Member) -> String {
    format!("{} at {}", member.shape.shown, member.offset)
}

/// What a witness says of one property of ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Opinion {
    /// It is so.
    Same,
    /// It is not so.
    Differs(Vec<Difference>),
    /// The witness does not know it.
    Silent,
}

/// How names of ours become names of a witness, beside what the room itself says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Naming {
    /// Ours and theirs.
    pub renamed: Vec<(String, String)>,
    /// What stands before all names of theirs.
    pub prefix: Option<String>,
}

impl Naming {
    /// What the witness may call a layout, the likeliest first.
    #[must_use]
    pub fn theirs(&self, room: &Room, layout: &StructLayout, dialect: Dialect) -> Vec<String> {
        let said = self.renamed.iter().find(|(ours, _)| ours == layout.name);
        if let Some((_, theirs)) = said {
            return vec![theirs.clone()];
        }
        if let Some(counterpart) = room.counterpart(layout.name) {
            let in_kernel = counterpart.in_kernel.filter(|_| dialect == Dialect::Kernel);
            return vec![in_kernel.unwrap_or(counterpart.theirs).to_owned()];
        }
        let mut names = vec![ours::qualified(room, layout), layout.name.to_owned()];
        let snake = snake_case(layout.name);
        names.extend(
            self.prefix.iter().flat_map(|p| [format!("{p}{snake}"), format!("{p}{}", layout.name)]),
        );
        names.push(snake);
        names
    }
}

/// `LaneCell` as `lane_cell`.
#[must_use]
pub fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len().saturating_add(4));
    for c in name.chars() {
        if c.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
    }
    snake
}

/// What `witness` says of each property of `layout`: of the structure itself (`None`), and of each field.
#[must_use]
pub fn opinions(
    room: &Room,
    layout: &StructLayout,
    witness: &Catalog,
    naming: &Naming,
) -> Vec<(Option<&'static str>, Opinion)> {
    let counterpart = room.counterpart(layout.name);
    let names = naming.theirs(room, layout, witness.dialect);
    let ours = ours::of(layout);
    let Some(theirs) = names.iter().find_map(|name| witness.find(name)) else {
        let fields = layout.fields.iter().map(|field| (Some(field.name), Opinion::Silent));
        return core::iter::once((None, Opinion::Silent)).chain(fields).collect();
    };
    let mut all = vec![(None, whole(&ours, theirs, counterpart, witness.dialect))];
    for (field, member) in layout.fields.iter().zip(&ours.members) {
        all.push((Some(field.name), one(member, theirs, counterpart, &ours, witness.dialect)));
    }
    all
}

fn opinion(found: Vec<Difference>) -> Opinion {
    if found.is_empty() { Opinion::Same } else { Opinion::Differs(found) }
}

fn whole(
    ours: &Type,
    theirs: &Type,
    counterpart: Option<&Counterpart>,
    dialect: Dialect,
) -> Opinion {
    let mut pair = Pair {
        what: ours.name.clone(),
        dialects: (Dialect::Ours, dialect),
        sites: (&ours.site, &theirs.site),
        found: Vec::new(),
    };
    let tail = counterpart.and_then(|c| c.flexible).and_then(|field| ours.member(field));
    let expected = tail.map_or(ours.size, |tail| tail.offset);
    if expected != theirs.size {
        pair.differ(Aspect::Size, expected, theirs.size);
    }
    let other = counterpart.and_then(|c| c.align_there).map(word::from_usize);
    if let (Some(left), Some(right)) = (other.or(ours.align), theirs.align)
        && left != right
    {
        pair.differ(Aspect::Align, left, right);
    }
    opinion(pair.found)
}

fn one(
    member: &Member,
    theirs: &Type,
    counterpart: Option<&Counterpart>,
    ours: &Type,
    dialect: Dialect,
) -> Opinion {
    let listed = |list: &[&str]| list.contains(&member.name.as_str());
    let range = member.bytes().unwrap_or_default();
    if counterpart.is_some_and(|c| listed(c.ours_only)) {
        return if range.end <= theirs.size { Opinion::Same } else { Opinion::Silent };
    }
    let name = counterpart.map_or(member.name.as_str(), |c| c.member(&member.name));
    let is_reserved = counterpart.is_some_and(|c| listed(c.reserved));
    // The last part is a bit of comfort for structures whose names ours had to change, being words of Rust.
    let found = theirs.member(name).or_else(|| theirs.member(&format!("{name}_")));
    let Some(other) = found else {
        // What nobody uses lies where the fields around it leave a gap: the size says as much.
        return if is_reserved { Opinion::Same } else { Opinion::Silent };
    };
    if is_reserved && other.bytes().is_some_and(|b| b.start <= range.start && b.end >= range.end) {
        return Opinion::Same;
    }
    let mut pair = Pair {
        what: format!("{}.{}", ours.name, member.name),
        dialects: (Dialect::Ours, dialect),
        sites: (&member.site, &other.site),
        found: Vec::new(),
    };
    if counterpart.and_then(|c| c.flexible) == Some(member.name.as_str()) {
        if member.offset != other.offset {
            pair.differ(Aspect::Offset, member.offset, other.offset);
        }
    } else if other.bits.is_some() {
        pair.differ(Aspect::Bits, "none", "some");
    } else {
        pair.places(member, other);
    }
    opinion(pair.found)
}
