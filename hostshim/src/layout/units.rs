//! The units of debug information, and what an entry of one says: its name, its type, its place in the source.
//!
//! A reference may mean an entry of the same unit, of another one, of a unit for a single type, or of the file that several
//! share (dwz). All of them are found here; nobody else knows the difference.

use std::collections::HashMap;

use gimli::constants as dw;
use gimli::{
    AttributeValue, DebugInfoOffset, Dwarf, Operation, Unit, UnitOffset, UnitRef, UnitType,
};

use super::elf::Slice;
use super::model::{Bits, Shape, Site, Steps};

pub(super) type Value<'b> = AttributeValue<Slice<'b>>;

/// An entry, out of its unit.
pub(super) struct Entry<'b>(gimli::DebuggingInformationEntry<Slice<'b>>);

/// Where an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Place {
    pub(super) unit: usize,
    pub(super) offset: UnitOffset,
}

struct Found<'b> {
    unit: Unit<Slice<'b>>,
    /// Where it begins in its section; of a unit in `.debug_types` nobody asks.
    start: usize,
    /// Whether it lies in the file that several share.
    is_shared: bool,
    /// Whether types lie in types: not in C, where all names of types are of one kind.
    has_scopes: bool,
}

/// All units.
pub(super) struct Units<'b> {
    dwarf: &'b Dwarf<Slice<'b>>,
    all: Vec<Found<'b>>,
    /// How many of them lie in `.debug_info` of the file itself; those of the shared file follow, then those of single types.
    own: usize,
    shared: usize,
    by_signature: HashMap<u64, Place>,
    steps: Steps,
    /// How many units have left their types in another file, with `-gsplit-dwarf`.
    split: usize,
}

impl<'b> Units<'b> {
    /// Finds all units of `dwarf`.
    pub(super) fn of(dwarf: &'b Dwarf<Slice<'b>>) -> gimli::Result<Self> {
        use gimli::{Reader as _, Section as _};
        let bytes = |dwarf: &Dwarf<Slice<'b>>| {
            dwarf.debug_info.reader().len().saturating_add(dwarf.debug_types.reader().len())
        };
        let steps = Steps::for_bytes(bytes(dwarf).saturating_add(dwarf.sup().map_or(0, bytes)));
        let by_signature = HashMap::new();
        let mut units =
            Self { dwarf, all: Vec::new(), own: 0, shared: 0, by_signature, steps, split: 0 };
        units.take_all(dwarf, false)?;
        units.own = units.all.len();
        if let Some(shared) = dwarf.sup() {
            units.take_all(shared, true)?;
        }
        units.shared = units.all.len();
        let mut headers = dwarf.type_units();
        while let Some(header) = headers.next()? {
            units.take(dwarf, header, false)?;
        }
        Ok(units)
    }

    fn take_all(&mut self, dwarf: &'b Dwarf<Slice<'b>>, is_shared: bool) -> gimli::Result<()> {
        let mut headers = dwarf.units();
        while let Some(header) = headers.next()? {
            self.take(dwarf, header, is_shared)?;
        }
        Ok(())
    }

    fn take(
        &mut self,
        dwarf: &'b Dwarf<Slice<'b>>,
        header: gimli::UnitHeader<Slice<'b>>,
        is_shared: bool,
    ) -> gimli::Result<()> {
        let start = header.debug_info_offset().map_or(usize::MAX, |offset| offset.0);
        if let UnitType::Type { type_signature, type_offset } = header.type_() {
            let place = Place { unit: self.all.len(), offset: type_offset };
            self.by_signature.insert(type_signature.0, place);
        }
        let unit = dwarf.unit(header)?;
        let mut found = Found { unit, start, is_shared, has_scopes: true };
        let mut cursor = found.unit.entries();
        let root = cursor.next_dfs()?;
        let is_split = root.is_some_and(|root| {
            root.has_attr(dw::DW_AT_dwo_name) || root.has_attr(dw::DW_AT_GNU_dwo_name)
        });
        let language = root.and_then(|root| root.attr_value(dw::DW_AT_language));
        if let Some(AttributeValue::Language(language)) = language {
            found.has_scopes = !matches!(
                language,
                dw::DW_LANG_C
                    | dw::DW_LANG_C89
                    | dw::DW_LANG_C99
                    | dw::DW_LANG_C11
                    | dw::DW_LANG_C17
            );
        }
        drop(cursor);
        self.split = self.split.saturating_add(usize::from(is_split));
        self.all.push(found);
        Ok(())
    }

    /// How many units have their types in another file.
    pub(super) const fn split(&self) -> usize {
        self.split
    }

    /// What is left of the walks through nested types.
    pub(super) const fn steps(&self) -> &Steps {
        &self.steps
    }

    pub(super) const fn count(&self) -> usize {
        self.all.len()
    }

    /// The first word of the compiler's name, where it says every alignment that the source sets: since DWARF 5.
    pub(super) fn aligns_by(&self) -> Option<String> {
        if self.all.is_empty() || self.all.iter().any(|found| found.unit.header.version() < 5) {
            return None;
        }
        let first = self.all.first()?;
        let root = Entry(first.unit.entry(first.unit.header.root_offset()).ok()?);
        let producer = self.text(0, root.value(dw::DW_AT_producer)?)?;
        let word = |word: &&str| ["GNU", "clang", "rustc"].contains(word);
        producer.split_whitespace().find(word).map(str::to_owned)
    }

    /// Whether names of types are part of the names of types in them.
    pub(super) fn has_scopes(&self, unit: usize) -> bool {
        self.all.get(unit).is_some_and(|found| found.has_scopes)
    }

    fn unit(&self, unit: usize) -> Option<UnitRef<'_, Slice<'b>>> {
        let found = self.all.get(unit)?;
        let dwarf = if found.is_shared { self.dwarf.sup()? } else { self.dwarf };
        Some(found.unit.unit_ref(dwarf))
    }

    /// Walks over all entries of a unit: `each` is told the depth.
    pub(super) fn walk(
        &self,
        unit: usize,
        mut each: impl FnMut(isize, &Entry<'b>, Place),
    ) -> gimli::Result<()> {
        let Some(found) = self.all.get(unit) else {
            return Ok(());
        };
        let mut cursor = found.unit.entries();
        while let Some(entry) = cursor.next_dfs()? {
            let (depth, place) = (entry.depth(), Place { unit, offset: entry.offset() });
            each(depth, &Entry(entry.clone()), place);
        }
        Ok(())
    }

    pub(super) fn entry(&self, place: Place) -> Option<Entry<'b>> {
        self.all.get(place.unit)?.unit.entry(place.offset).ok().map(Entry)
    }

    /// What lies directly in an entry. Damaged parts are left out: whoever walks the unit hears of them.
    pub(super) fn children(&self, of: Place) -> Vec<Entry<'b>> {
        let mut found = Vec::new();
        let Some(unit) = self.all.get(of.unit) else {
            return found;
        };
        let Ok(mut cursor) = unit.unit.entries_at_offset(of.offset) else {
            return found;
        };
        match cursor.next_dfs() {
            Ok(Some(entry)) if entry.has_children() => {}
            _ => return found,
        }
        let Ok(true) = cursor.next_entry() else {
            return found;
        };
        let mut next = cursor.current().cloned();
        while let Some(entry) = next.take().filter(|entry| !entry.is_null()) {
            found.push(Entry(entry));
            next = cursor.next_sibling().ok().flatten().cloned();
        }
        found
    }

    /// The entry that a reference means.
    fn resolve(&self, unit: usize, value: &Value<'b>) -> Option<Place> {
        match *value {
            AttributeValue::UnitRef(offset) => Some(Place { unit, offset }),
            AttributeValue::DebugInfoRef(offset) => {
                let is_shared = self.all.get(unit)?.is_shared;
                self.find(offset, if is_shared { self.own..self.shared } else { 0..self.own })
            }
            AttributeValue::DebugInfoRefSup(offset) => self.find(offset, self.own..self.shared),
            AttributeValue::DebugTypesRef(signature) => {
                self.by_signature.get(&signature.0).copied()
            }
            _ => None,
        }
    }

    /// The unit with that offset, among those that follow each other in one section.
    fn find(&self, offset: DebugInfoOffset, among: core::ops::Range<usize>) -> Option<Place> {
        let first = among.start;
        let section = self.all.get(among)?;
        let behind = section.partition_point(|found| found.start <= offset.0);
        let unit = first.checked_add(behind.checked_sub(1)?)?;
        let offset = offset.to_unit_offset(&self.all.get(unit)?.unit.header)?;
        Some(Place { unit, offset })
    }

    /// The type that an entry names.
    pub(super) fn type_of(&self, unit: usize, entry: &Entry<'b>) -> Option<Place> {
        let place = self.resolve(unit, &entry.value(dw::DW_AT_type)?)?;
        // A type that has a unit for itself leaves an entry without members where it was.
        let elsewhere = self.entry(place).and_then(|entry| entry.value(dw::DW_AT_signature));
        elsewhere.and_then(|value| self.resolve(place.unit, &value)).or(Some(place))
    }

    /// The name of an entry, or of what it completes.
    pub(super) fn name(&self, unit: usize, entry: &Entry<'b>) -> Option<String> {
        if let Some(value) = entry.value(dw::DW_AT_name) {
            return self.text(unit, value);
        }
        let first = self.resolve(unit, &entry.value(dw::DW_AT_specification)?)?;
        self.text(first.unit, self.entry(first)?.value(dw::DW_AT_name)?)
    }

    fn text(&self, unit: usize, value: Value<'b>) -> Option<String> {
        let text = self.unit(unit)?.attr_string(value).ok()?;
        Some(String::from_utf8_lossy(text.slice()).into_owned())
    }

    /// Where an entry is declared.
    pub(super) fn site(&self, unit: usize, entry: &Entry<'b>) -> Option<Site> {
        let line = entry.unsigned(dw::DW_AT_decl_line)?;
        let file = match entry.value(dw::DW_AT_decl_file)? {
            AttributeValue::FileIndex(file) => file,
            value => value.udata_value()?,
        };
        let unit_ref = self.unit(unit)?;
        let header = self.all.get(unit)?.unit.line_program.as_ref()?.header();
        let file = header.file(file)?;
        let text = |value| -> Option<String> {
            let text = unit_ref.attr_string(value).ok()?;
            Some(String::from_utf8_lossy(text.slice()).into_owned())
        };
        let name = text(file.path_name())?;
        let folder = match file.directory_index() {
            // The folder in which the compiler ran.
            0 => None,
            _ => file.directory(header).and_then(text),
        };
        let file = match folder {
            Some(folder) if !name.starts_with('/') => format!("{folder}/{name}"),
            _ => name,
        };
        Some(Site { file, line })
    }

    /// Bytes of an address.
    pub(super) fn address_bytes(&self, unit: usize) -> u64 {
        self.all.get(unit).map_or(8, |found| u64::from(found.unit.encoding().address_size))
    }

    /// Where a member begins, in bytes.
    pub(super) fn member_offset(&self, unit: usize, entry: &Entry<'b>) -> u64 {
        let by_expression = |value: Value<'b>| {
            let expression = value.exprloc_value()?;
            let mut operations = expression.operations(self.all.get(unit)?.unit.encoding());
            match operations.next().ok()?? {
                Operation::PlusConstant { value } => Some(value),
                _ => None,
            }
        };
        let value = entry.value(dw::DW_AT_data_member_location);
        value.and_then(|v| v.udata_value().or_else(|| by_expression(v))).unwrap_or(0)
    }

    /// Which bits a member is, where it is a bit field.
    pub(super) fn bits(&self, unit: usize, entry: &Entry<'b>, shape: &Shape) -> Option<Bits> {
        let count = entry.unsigned(dw::DW_AT_bit_size)?;
        let byte = self.member_offset(unit, entry).saturating_mul(8);
        if let Some(start) = entry.unsigned(dw::DW_AT_data_bit_offset) {
            return Some(Bits { start: byte.saturating_add(start), count });
        }
        // DWARF 2 and 3 count from the most significant bit of what the field is a part of, and below it where the field
        // goes on behind that (Clang).
        let skipped = entry.number(dw::DW_AT_bit_offset).unwrap_or(0).cast_signed();
        let whole = entry.unsigned(dw::DW_AT_byte_size).or(shape.size).unwrap_or(0);
        let within = if self.is_little_endian() {
            let behind = whole.saturating_mul(8).cast_signed().saturating_sub(skipped);
            behind.saturating_sub_unsigned(count)
        } else {
            skipped
        };
        Some(Bits { start: byte.saturating_add_signed(within), count })
    }

    fn is_little_endian(&self) -> bool {
        use gimli::{Endianity as _, Reader as _, Section as _};
        self.dwarf.debug_info.reader().endian().is_little_endian()
    }

    /// Lengths of the dimensions of an array, the outermost first; `None` for one without.
    pub(super) fn dimensions(&self, of: Place) -> Vec<Option<u64>> {
        let subranges = self.children(of).into_iter();
        let subranges = subranges.filter(|child| child.tag() == dw::DW_TAG_subrange_type);
        subranges
            .map(|range| {
                let last = || match range.value(dw::DW_AT_upper_bound)? {
                    AttributeValue::Sdata(-1) => Some(0),
                    value => value.udata_value().map(|last| last.wrapping_add(1)),
                };
                range.unsigned(dw::DW_AT_count).or_else(last)
            })
            .collect()
    }
}

impl<'b> Entry<'b> {
    pub(super) fn tag(&self) -> gimli::DwTag {
        self.0.tag()
    }

    pub(super) fn value(&self, name: gimli::DwAt) -> Option<Value<'b>> {
        self.0.attr_value(name)
    }

    /// The value of an attribute that is a number of at least 0.
    pub(super) fn unsigned(&self, name: gimli::DwAt) -> Option<u64> {
        self.value(name)?.udata_value()
    }

    /// The value of an attribute that is any number, as 64 bits.
    pub(super) fn number(&self, name: gimli::DwAt) -> Option<u64> {
        let value = self.value(name)?;
        value.udata_value().or_else(|| value.sdata_value().map(i64::cast_unsigned))
    }

    /// Whether it only says that there is something.
    pub(super) fn is_declaration(&self) -> bool {
        matches!(self.value(dw::DW_AT_declaration), Some(AttributeValue::Flag(true)))
    }

    pub(super) fn has(&self, name: gimli::DwAt) -> bool {
        self.0.has_attr(name)
    }
}
