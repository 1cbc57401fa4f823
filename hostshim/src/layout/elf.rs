//! The sections of an ELF file in which debug information lies: inflated where they are compressed, relocated where the file
//! is an object that was not linked, and looked up elsewhere where they were split off.
//!
//! ```text
//!   app            no .debug_info   build id    -> /usr/lib/debug/.build-id/12/3456.debug     (-dbgsym packages)
//!                                   .gnu_debuglink -> app.debug, .debug/app.debug
//!   app.debug      .gnu_debugaltlink            -> what several files share (dwz)
//! ```

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use gimli::{Dwarf, EndianSlice, RunTimeEndian, SectionId};
use object::{
    File, Object, ObjectSection, ObjectSymbol, RelocationKind, RelocationTarget, SectionIndex,
};

use super::error::Unreadable;

/// Where Debian keeps debug information that was split off.
const DEBUG_FOLDER: &str = "/usr/lib/debug";

/// What a section may grow to when it is inflated: what deflate can do at best is 1032.
const INFLATED_PER_BYTE_MAX: u64 = 1100;

pub(super) type Slice<'a> = EndianSlice<'a, RunTimeEndian>;

/// An ELF file in memory.
pub(super) struct Elf<'b> {
    file: File<'b>,
    endian: RunTimeEndian,
    origin: String,
}

impl<'b> Elf<'b> {
    /// Looks at the head of `bytes`.
    pub(super) fn parse(origin: &str, bytes: &'b [u8]) -> Result<Self, Unreadable> {
        let file = File::parse(bytes).map_err(|e| damaged(origin, &e.to_string()))?;
        let endian =
            if file.is_little_endian() { RunTimeEndian::Little } else { RunTimeEndian::Big };
        Ok(Self { file, endian, origin: origin.to_owned() })
    }

    /// Whether it says anything about types in DWARF.
    pub(super) fn has_dwarf(&self) -> bool {
        let filled = |name| {
            self.file
                .section_by_name(name)
                .is_some_and(|section| section.size() > 0 && section.file_range().is_some())
        };
        filled(".debug_info") || filled(".debug_types") || filled(".zdebug_info")
    }

    /// BTF, as in programs for the kernel and in its modules.
    pub(super) fn btf(&self) -> Option<&'b [u8]> {
        self.file.section_by_name(".BTF")?.data().ok().filter(|data| !data.is_empty())
    }

    /// Whether the debug information lies in `.dwo` files.
    pub(super) fn is_split(&self) -> bool {
        self.file.section_by_name(".debug_info.dwo").is_some()
    }

    /// All sections of DWARF.
    pub(super) fn sections(&self) -> Result<Sections<'b>, Unreadable> {
        // Of what lies where in the code, nothing is asked.
        let load = |id: SectionId| match id {
            SectionId::DebugInfo
            | SectionId::DebugTypes
            | SectionId::DebugAbbrev
            | SectionId::DebugStr
            | SectionId::DebugStrOffsets
            | SectionId::DebugLine
            | SectionId::DebugLineStr => self.section(id.name()),
            _ => Ok(Cow::Borrowed(&[][..])),
        };
        let loaded = gimli::DwarfSections::load(load)?;
        Ok(Sections { loaded, endian: self.endian })
    }

    /// All sections of that name, one behind the other: in an object, each type may have one of its own.
    fn section(&self, name: &str) -> Result<Cow<'b, [u8]>, Unreadable> {
        let mut all = Cow::Borrowed(&[][..]);
        let mut starts = Vec::new();
        for section in self.file.sections().filter(|section| section.name() == Ok(name)) {
            starts.push((section.index(), all.len()));
            let data = self.data(name, &section)?;
            if all.is_empty() { all = data } else { all.to_mut().extend_from_slice(&data) }
        }
        if starts.is_empty()
            && let Some(section) = self.file.section_by_name(name)
        {
            // The older way to name what is compressed: .zdebug_info.
            return self.data(name, &section);
        }
        if self.file.kind() == object::ObjectKind::Relocatable {
            let all_starts = self.starts();
            for (index, start) in starts {
                if let (Ok(section), Some(part)) =
                    (self.file.section_by_index(index), all.to_mut().get_mut(start..))
                {
                    self.relocate(&section, part, &all_starts);
                }
            }
        }
        Ok(all)
    }

    fn data(
        &self,
        name: &str,
        section: &object::Section<'b, '_>,
    ) -> Result<Cow<'b, [u8]>, Unreadable> {
        let fault = |e: object::Error| damaged(&self.origin, &format!("{name}: {e}"));
        let compressed = section.compressed_data().map_err(fault)?;
        let len = u64::try_from(compressed.data.len()).unwrap_or(u64::MAX);
        let most = len.saturating_mul(INFLATED_PER_BYTE_MAX);
        if compressed.uncompressed_size > most.max(len) {
            let why =
                format!("{name} says that it inflates to {} bytes", compressed.uncompressed_size);
            return Err(damaged(&self.origin, &why));
        }
        compressed.decompress().map_err(fault)
    }

    /// Where each section of types begins among those of its name. Of strings and abbreviations there is one section.
    fn starts(&self) -> HashMap<SectionIndex, u64> {
        let mut starts = HashMap::new();
        for name in [".debug_info", ".debug_types"] {
            let mut start = 0_u64;
            for section in self.file.sections().filter(|section| section.name() == Ok(name)) {
                starts.insert(section.index(), start);
                // As long as it is when it is inflated.
                let long = section.compressed_data().map_or(0, |data| data.uncompressed_size);
                start = start.wrapping_add(long);
            }
        }
        starts
    }

    /// Puts the values of relocations in: in an object file, every reference from one section to another is one.
    fn relocate(
        &self,
        section: &object::Section<'b, '_>,
        data: &mut [u8],
        starts: &HashMap<SectionIndex, u64>,
    ) {
        let is_little = self.file.is_little_endian();
        for (at, relocation) in section.relocations() {
            if relocation.kind() != RelocationKind::Absolute {
                continue;
            }
            let base = match relocation.target() {
                RelocationTarget::Symbol(index) => {
                    let symbol = self.file.symbol_by_index(index);
                    symbol.map_or(0, |symbol| {
                        let start = symbol.section_index().and_then(|index| starts.get(&index));
                        symbol.address().wrapping_add(start.copied().unwrap_or(0))
                    })
                }
                _ => 0,
            };
            let bytes = usize::from(relocation.size() / 8);
            let end = |start: usize| start.checked_add(bytes);
            let place = usize::try_from(at).ok().and_then(|at| data.get_mut(at..end(at)?));
            let Some(place) = place.filter(|place| (1..=8).contains(&place.len())) else {
                continue;
            };
            let mut value = base.wrapping_add_signed(relocation.addend());
            if relocation.has_implicit_addend() {
                let mut wide = [0; 8];
                for (to, from) in wide.iter_mut().zip(ordered(place, is_little)) {
                    *to = from;
                }
                value = value.wrapping_add(u64::from_le_bytes(wide));
            }
            let low = value.to_le_bytes();
            let len = place.len();
            for (to, from) in
                place.iter_mut().zip(ordered(low.get(..len).unwrap_or(&low), is_little))
            {
                *to = from;
            }
        }
    }

    /// The file that has what this one lacks, and where it was looked for.
    pub(super) fn split_off(&self, path: &Path) -> (Option<PathBuf>, Vec<PathBuf>) {
        let mut places = Vec::new();
        if let Ok(Some(id)) = self.file.build_id() {
            places.extend(by_build_id(id));
        }
        if let Ok(Some((name, _crc))) = self.file.gnu_debuglink()
            && let (Ok(name), Some(folder)) = (core::str::from_utf8(name), path.parent())
        {
            places.push(folder.join(name));
            places.push(folder.join(".debug").join(name));
            let below = folder.strip_prefix("/").unwrap_or(folder);
            places.push(Path::new(DEBUG_FOLDER).join(below).join(name));
        }
        (places.iter().find(|place| place.is_file() && *place != path).cloned(), places)
    }

    /// The file that this one shares debug information with, and the name under which it asks for it.
    pub(super) fn shared_part(&self, path: &Path) -> Option<(Option<PathBuf>, PathBuf)> {
        let (name, id) = self.file.gnu_debugaltlink().ok()??;
        let name = Path::new(core::str::from_utf8(name).ok()?);
        let beside = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let beside = beside.parent().unwrap_or_else(|| Path::new("/")).join(name);
        let found = [Some(beside), by_build_id(id)].into_iter().flatten().find(|p| p.is_file());
        Some((found, name.to_owned()))
    }
}

/// `bytes` from the least to the most significant, or the other way round.
fn ordered(bytes: &[u8], is_little: bool) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if !is_little {
        bytes.reverse();
    }
    bytes
}

fn by_build_id(id: &[u8]) -> Option<PathBuf> {
    let (first, rest) = id.split_first()?;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let folder = Path::new(DEBUG_FOLDER).join(".build-id").join(hex(&[*first]));
    Some(folder.join(format!("{}.debug", hex(rest))))
}

/// Sections of DWARF, in memory of their own where they were inflated or relocated.
pub(super) struct Sections<'b> {
    loaded: gimli::DwarfSections<Cow<'b, [u8]>>,
    endian: RunTimeEndian,
}

impl Sections<'_> {
    /// The sections as a reader takes them.
    pub(super) fn dwarf(&self) -> Box<Dwarf<Slice<'_>>> {
        Box::new(self.loaded.borrow(|section| EndianSlice::new(section, self.endian)))
    }

    /// The same, with those of the file that it shares a part with.
    pub(super) fn dwarf_with<'s>(&'s self, shared: &'s Self) -> Box<Dwarf<Slice<'s>>> {
        let borrow = |section: &'s Cow<'_, [u8]>| EndianSlice::new(section, self.endian);
        Box::new(self.loaded.borrow_with_sup(Some(&shared.loaded), borrow))
    }
}

/// A device that gives as many bytes is taken for one without an end.
const DEVICE_BYTES: u64 = 1 << 20;

/// The bytes of a file.
pub(super) fn bytes_of(path: &Path) -> Result<Vec<u8>, Unreadable> {
    let name = path.display().to_string();
    if path.is_dir() {
        return Err(Unreadable::new(name, "is a folder", "name a file, no folder"));
    }
    let kind = fs::metadata(path).map(|about| about.file_type());
    if !kind.is_ok_and(|kind| kind.is_char_device() || kind.is_block_device()) {
        return fs::read(path).map_err(|e| Unreadable::file(&name, &e));
    }
    // Of /dev/zero there is more than there is memory.
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|it| it.take(DEVICE_BYTES).read_to_end(&mut bytes));
    match read {
        Ok(count) if u64::try_from(count).is_ok_and(|count| count < DEVICE_BYTES) => Ok(bytes),
        Ok(_more) => {
            Err(Unreadable::new(name, "is a device without an end", "name a file, or a pipe"))
        }
        Err(e) => Err(Unreadable::file(&name, &e)),
    }
}

pub(super) fn damaged(origin: &str, why: &str) -> Unreadable {
    let remedy = "take a whole ELF file; `readelf -S` shows what is in it";
    Unreadable::new(origin, format!("damaged: {why}"), remedy)
}
