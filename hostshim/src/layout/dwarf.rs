//! What debug information says of types: DWARF 2 to 5 (dwarfstd.org) of any ELF file, by the crates `object` and `gimli`.
//!
//! ```text
//!   compile_unit          units.rs finds the entry that a reference means, in this unit, another, or a file that is shared
//!     namespace ns        a part of the names of what lies in it
//!     structure_type      a Type; declarations without a body are passed over
//!       member            a Member; of a nameless structure, its members instead
//!     typedef             a Type where what it names has no name of its own
//!     enumeration_type    numbers
//! ```
//!
//! Nothing in the file is believed: references may lead in circles, so each walk has a bound.

use std::collections::HashMap;

use gimli::constants as dw;

use super::elf::damaged;
use super::error::Unreadable;
use super::model::{
    Bits, Catalog, DEPTH_MAX, Dialect, Kind, Member, Nest, Order, Shape, Type, Wanted,
    is_shared_name,
};
use super::units::{Entry, Place, Units};

/// The mark by which a pointer and its like are shown.
const fn mark(tag: gimli::DwTag) -> &'static str {
    match tag {
        dw::DW_TAG_reference_type => "&",
        dw::DW_TAG_rvalue_reference_type => "&&",
        dw::DW_TAG_ptr_to_member_type => "::*",
        _ => "*",
    }
}

const fn aggregate_word(tag: gimli::DwTag) -> Option<&'static str> {
    Some(match tag {
        dw::DW_TAG_structure_type | dw::DW_TAG_class_type => "struct",
        dw::DW_TAG_union_type => "union",
        _ => return None,
    })
}

/// All types of `units` that are wanted.
pub(super) fn read(
    origin: &str,
    units: &Units<'_>,
    wanted: &Wanted,
) -> Result<Catalog, Unreadable> {
    let out = Catalog::new(origin, Dialect::C);
    let mut reader = Reader { units, wanted, shapes: HashMap::new(), out };
    reader.out.aligns_by = units.aligns_by();
    for unit in 0..units.count() {
        reader.unit(unit).map_err(|e| damaged(origin, &e.to_string()))?;
    }
    if units.steps().is_spent() {
        return Err(damaged(origin, "types that contain themselves"));
    }
    if units.split() > 0 {
        let why = "the types lie in .dwo files, which are not read";
        let remedy = "compile without -gsplit-dwarf";
        if reader.out.types().is_empty() {
            return Err(Unreadable::new(origin, why, remedy));
        }
        reader.out.remarks.push(format!("of {} units, {why}; remedy: {remedy}", units.split()));
    }
    Ok(reader.out)
}

/// Reads types out of units.
struct Reader<'u, 'b> {
    units: &'u Units<'b>,
    wanted: &'u Wanted,
    shapes: HashMap<Place, Shape>,
    out: Catalog,
}

impl<'b> Reader<'_, 'b> {
    fn unit(&mut self, unit: usize) -> gimli::Result<()> {
        let units = self.units;
        // Names of what stands around the entry, each with its depth.
        let mut around: Vec<(isize, String)> = Vec::new();
        units.walk(unit, |depth, entry, place| {
            while around.last().is_some_and(|(above, _)| *above >= depth) {
                around.pop();
            }
            let is_bound = usize::try_from(depth).is_ok_and(|depth| depth < 2 * DEPTH_MAX);
            let tag = entry.tag();
            if !is_bound {
                return;
            }
            match tag {
                dw::DW_TAG_namespace | dw::DW_TAG_subprogram => {
                    around.extend(units.name(unit, entry).map(|name| (depth, name)));
                }
                dw::DW_TAG_typedef => self.typedef(place, entry, &around),
                dw::DW_TAG_enumerator => self.enumerator(unit, entry),
                _ if aggregate_word(tag).is_some() => {
                    let Some(name) = units.name(unit, entry) else {
                        return;
                    };
                    let full = full_name(&around, &name);
                    if !entry.is_declaration() && self.wanted.takes(&full) {
                        let ty = self.ty(place, entry, full);
                        self.out.add(ty);
                    }
                    if units.has_scopes(unit) {
                        around.push((depth, name));
                    }
                }
                _ => {}
            }
        })
    }

    /// A name for a type that has none of its own.
    fn typedef(&mut self, place: Place, entry: &Entry<'b>, around: &[(isize, String)]) {
        let Some(name) = self.units.name(place.unit, entry) else {
            return;
        };
        let full = full_name(around, &name);
        let inner = self.units.type_of(place.unit, entry);
        if self.wanted.takes(&full)
            && let Some((inner, false)) = inner.and_then(|inner| self.aggregate(inner))
            && let Some(entry) = self.units.entry(inner)
            && self.units.name(inner.unit, &entry).is_none()
        {
            let ty = self.ty(inner, &entry, full);
            self.out.add(ty);
        }
    }

    fn enumerator(&mut self, unit: usize, entry: &Entry<'b>) {
        if let (Some(name), Some(value)) =
            (self.units.name(unit, entry), entry.number(dw::DW_AT_const_value))
            && self.wanted.takes_number(&name)
        {
            self.out.numbers.entry(name).or_insert(value);
        }
    }

    fn ty(&mut self, place: Place, entry: &Entry<'b>, name: String) -> Type {
        let mut members = Vec::new();
        self.members(place, &Nest::OUTERMOST, &mut members);
        Type {
            name,
            kind: match entry.tag() {
                dw::DW_TAG_union_type => Kind::Union,
                _ => Kind::Struct,
            },
            size: entry.unsigned(dw::DW_AT_byte_size).unwrap_or(0),
            align: entry.unsigned(dw::DW_AT_alignment),
            members,
            site: self.units.site(place.unit, entry),
            is_tagged: !self.units.has_scopes(place.unit)
                && self.units.name(place.unit, entry).is_some(),
        }
    }

    /// The structure or union that a type is, behind arrays and words like `const`; and whether there was an array.
    fn aggregate(&self, mut place: Place) -> Option<(Place, bool)> {
        let mut is_array = false;
        for _step in 0..DEPTH_MAX {
            let entry = self.units.entry(place)?;
            match entry.tag() {
                tag if aggregate_word(tag).is_some() => return Some((place, is_array)),
                dw::DW_TAG_array_type => is_array = true,
                dw::DW_TAG_const_type | dw::DW_TAG_volatile_type | dw::DW_TAG_atomic_type => {}
                _ => return None,
            }
            place = self.units.type_of(place.unit, &entry)?;
        }
        None
    }

    fn members(&mut self, of: Place, nest: &Nest<'_>, out: &mut Vec<Member>) {
        let units = self.units;
        for child in units.children(of) {
            if nest.is_enough(out) || !units.steps().take() {
                return;
            }
            let is_base = child.tag() == dw::DW_TAG_inheritance;
            // Static members of C++ are declarations, or were given a place outside.
            let is_static = child.is_declaration() || child.has(dw::DW_AT_external);
            if !(is_base || child.tag() == dw::DW_TAG_member) || is_static {
                continue;
            }
            let ty = units.type_of(of.unit, &child);
            let shape = ty.map_or_else(Shape::unknown, |ty| self.shape(ty, 0));
            let bits = units.bits(of.unit, &child, &shape);
            let offset = nest.base.saturating_add(match bits {
                Some(bits) => bits.start / 8,
                None => units.member_offset(of.unit, &child),
            });
            let inner = ty.and_then(|ty| self.aggregate(ty));
            let name = match units.name(of.unit, &child) {
                Some(name) => name,
                None if is_base => format!("({})", shape.shown),
                None => {
                    // C reaches the members of a nameless member directly.
                    if let Some((inner, _is_array)) = inner {
                        self.members(inner, &nest.inner(offset, nest.prefix), out);
                    }
                    continue;
                }
            };
            out.push(Member {
                name: format!("{}{name}", nest.prefix),
                offset,
                bits: bits.map(|bits| Bits {
                    start: bits.start.saturating_add(nest.base.saturating_mul(8)),
                    ..bits
                }),
                shape,
                writer: None,
                site: units.site(of.unit, &child),
            });
            let nameless = inner.filter(|(inner, _)| {
                units.entry(*inner).is_some_and(|entry| units.name(inner.unit, &entry).is_none())
            });
            if let Some((inner, is_array)) = nameless {
                let dot = if is_array { "[]." } else { "." };
                let prefix = format!("{}{name}{dot}", nest.prefix);
                self.members(inner, &nest.inner(offset, &prefix), out);
            }
        }
    }

    /// What a type is, through the names that others have given it.
    fn shape(&mut self, place: Place, depth: usize) -> Shape {
        if let Some(known) = self.shapes.get(&place) {
            return known.clone();
        }
        let Some(entry) = self.units.entry(place).filter(|_| depth < DEPTH_MAX) else {
            return Shape::unknown();
        };
        let name = self.units.name(place.unit, &entry);
        let size = entry.unsigned(dw::DW_AT_byte_size);
        let shape = match entry.tag() {
            dw::DW_TAG_base_type => base(&entry, &name.unwrap_or_default()),
            tag if aggregate_word(tag).is_some() => {
                let name = name.as_deref().unwrap_or("{..}");
                let word = aggregate_word(tag).unwrap_or_default();
                let shape = Shape::new("", &format!("{word} {name}"), size).called(name);
                Shape { shown: format!("{word} {name}"), is_shared: is_shared_name(name), ..shape }
            }
            dw::DW_TAG_enumeration_type => {
                let shape = Shape::number("", "enum", size.unwrap_or(4));
                Shape { shown: format!("enum {}", name.as_deref().unwrap_or("{..}")), ..shape }
            }
            dw::DW_TAG_array_type => {
                let element = self.target(place, &entry, depth);
                let dimensions = self.units.dimensions(place);
                dimensions.into_iter().rev().fold(element, Shape::array)
            }
            dw::DW_TAG_typedef => {
                self.target(place, &entry, depth).called(&name.unwrap_or_default())
            }
            dw::DW_TAG_volatile_type | dw::DW_TAG_atomic_type => {
                Shape { is_shared: true, ..self.target(place, &entry, depth) }
            }
            dw::DW_TAG_const_type | dw::DW_TAG_restrict_type => self.target(place, &entry, depth),
            dw::DW_TAG_subroutine_type => Shape::new("fn", "fn", None),
            dw::DW_TAG_pointer_type
            | dw::DW_TAG_reference_type
            | dw::DW_TAG_rvalue_reference_type
            | dw::DW_TAG_ptr_to_member_type => {
                let target = self.target(place, &entry, depth).shown;
                let size = size.unwrap_or_else(|| self.units.address_bytes(place.unit));
                let shown = name.unwrap_or_else(|| format!("{target} {}", mark(entry.tag())));
                Shape { order: Order::Native, ..Shape::new(&shown, "ptr", Some(size)) }
            }
            _ => {
                let name = name.as_deref().unwrap_or("?");
                Shape::new(name, name, size)
            }
        };
        self.shapes.insert(place, shape.clone());
        shape
    }

    /// What the type of an entry is; nothing where it has none.
    fn target(&mut self, place: Place, entry: &Entry<'b>, depth: usize) -> Shape {
        match self.units.type_of(place.unit, entry) {
            Some(inner) => self.shape(inner, depth + 1),
            None if entry.value(dw::DW_AT_type).is_some() => Shape::unknown(),
            None => Shape::new("void", "void", None),
        }
    }
}

/// A number that the machine knows.
fn base(entry: &Entry<'_>, name: &str) -> Shape {
    let size = entry.unsigned(dw::DW_AT_byte_size).unwrap_or(0);
    let encoding = match entry.value(dw::DW_AT_encoding) {
        Some(gimli::AttributeValue::Encoding(encoding)) => encoding,
        _ => dw::DwAte(0),
    };
    let prefix = match encoding {
        dw::DW_ATE_boolean => "bool",
        dw::DW_ATE_signed | dw::DW_ATE_signed_char => "i",
        dw::DW_ATE_unsigned | dw::DW_ATE_unsigned_char => "u",
        dw::DW_ATE_float => "f",
        dw::DW_ATE_UTF => "char",
        _ => "other",
    };
    let shape = Shape::number(name, prefix, size);
    let order = match entry.value(dw::DW_AT_endianity) {
        Some(gimli::AttributeValue::Endianity(dw::DW_END_big)) => Order::Big,
        Some(gimli::AttributeValue::Endianity(dw::DW_END_little)) => Order::Little,
        _ => shape.order,
    };
    Shape { order, ..shape }
}

fn full_name(around: &[(isize, String)], name: &str) -> String {
    let mut full: String = around.iter().map(|(_, part)| format!("{part}::")).collect();
    full.push_str(name);
    full
}
