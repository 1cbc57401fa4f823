//! Sources by the names that people give them on the command line.
//!
//! ```text
//!   ours                      the layouts of the program that asks
//!   a.h  <linux/io_uring.h>   a C header (header:NAME); several with commas
//!   app  lib.so  a.o          DWARF of an ELF file (elf:PATH), or of its -dbgsym; BTF where it has no DWARF
//!   btf  btf:PATH             type information of the running kernel, or of a file
//!   shm:NAME                  a live segment
//!   layouts.lock              a lock file (lock:PATH)
//! ```

use core::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use gimli::Dwarf;
use spinwire_layouts::describe::Room;

use super::elf::{Elf, Slice, bytes_of, damaged};
use super::error::Unreadable;
use super::header::Compiler;
use super::model::{Catalog, Wanted};
use super::units::Units;
use super::{btf, dwarf, header, lock, ours, segment};

/// Somebody who says how types lie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// The layouts of the program that asks.
    Ours,
    /// Headers of C or C++, included one after the other.
    Header(Vec<String>),
    /// An ELF file.
    Elf(PathBuf),
    /// BTF in a file.
    Btf(PathBuf),
    /// A live segment of that name.
    Segment(String),
    /// A lock file.
    Lock(PathBuf),
}

/// What sources are read with.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// The layouts of the program that asks.
    pub rooms: &'a [Room],
    /// How headers are compiled.
    pub compiler: &'a Compiler,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours => f.write_str("ours"),
            Self::Header(names) => f.write_str(&names.join(",")),
            Self::Elf(path) | Self::Btf(path) | Self::Lock(path) => path.display().fmt(f),
            Self::Segment(name) => write!(f, "shm:{name}"),
        }
    }
}

impl Source {
    /// What `text` names.
    ///
    /// # Errors
    /// It is not one of the forms, or a file that is none of the kinds.
    pub fn parse(text: &str) -> Result<Self, Unreadable> {
        let headers = |names: &str| Self::Header(names.split(',').map(str::to_owned).collect());
        if let Some((kind, rest)) = text.split_once(':') {
            let path = || PathBuf::from(rest);
            match kind {
                "header" => return Ok(headers(rest)),
                "elf" => return Ok(Self::Elf(path())),
                "btf" => return Ok(Self::Btf(path())),
                "shm" => return Ok(Self::Segment(rest.to_owned())),
                "lock" => return Ok(Self::Lock(path())),
                _ => {}
            }
        }
        match text {
            "ours" => return Ok(Self::Ours),
            "btf" => return Ok(Self::Btf(PathBuf::from(btf::KERNEL))),
            _ => {}
        }
        let is_header = [".h", ".hh", ".hpp", ".hxx"].iter().any(|ending| text.ends_with(ending));
        if is_header || text.starts_with('<') {
            return Ok(headers(text));
        }
        Self::of_file(text)
    }

    /// What a file is, by how it begins.
    fn of_file(text: &str) -> Result<Self, Unreadable> {
        let mut start = Vec::new();
        let path = PathBuf::from(text);
        let read = File::open(&path).and_then(|file| file.take(64).read_to_end(&mut start));
        read.map_err(|e| {
            let mut error = Unreadable::file(text, &e);
            if e.kind() == std::io::ErrorKind::NotFound {
                "name a file, shm:NAME for a segment, header:NAME for a header, btf for the running kernel"
                    .clone_into(&mut error.remedy);
            }
            error
        })?;
        if start.starts_with(b"\x7fELF") {
            return Ok(Self::Elf(path));
        }
        if start.starts_with(&btf::MAGIC) {
            return Ok(Self::Btf(path));
        }
        if start.starts_with(lock::FIRST_LINE.as_bytes()) {
            return Ok(Self::Lock(path));
        }
        let why = "neither ELF nor BTF nor a lock file nor a header";
        let remedy = "say what it is: header:, elf:, btf:, lock: or shm: before the name";
        Err(Unreadable::new(text, why, remedy))
    }

    /// Reads it.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub fn open(&self, with: &Reading<'_>, wanted: &Wanted) -> Result<Catalog, Unreadable> {
        match self {
            Self::Ours => Ok(ours::catalog(with.rooms)),
            Self::Header(names) => header::read(names, with.compiler, wanted),
            Self::Elf(path) => elf(path, &path.display().to_string(), wanted),
            Self::Btf(path) => btf_file(path, wanted),
            Self::Segment(name) => segment::read(name),
            Self::Lock(path) => {
                let name = path.display().to_string();
                let text = String::from_utf8(bytes_of(path)?).map_err(|_bytes| {
                    Unreadable::new(&name, "no text", "take the file of the repository")
                })?;
                lock::read(&name, &text)
            }
        }
    }
}

fn btf_file(path: &Path, wanted: &Wanted) -> Result<Catalog, Unreadable> {
    let bytes = bytes_of(path).map_err(|e| {
        if path == Path::new(btf::KERNEL) {
            let remedy = "run a kernel with CONFIG_DEBUG_INFO_BTF, or name a file: btf:PATH";
            return Unreadable { remedy: remedy.to_owned(), ..e };
        }
        e
    })?;
    let origin = path.display().to_string();
    if bytes.starts_with(b"\x7fELF") {
        let elf = Elf::parse(&origin, &bytes)?;
        let part = elf.btf().ok_or_else(|| no_types(&origin))?;
        return btf::read(&origin, part, None, wanted);
    }
    // Modules go on where the kernel ends.
    let kernel = Path::new(btf::KERNEL);
    let is_module = path.parent() == kernel.parent() && path != kernel;
    let base = if is_module { Some(bytes_of(kernel)?) } else { None };
    btf::read(&origin, &bytes, base.as_deref(), wanted)
}

fn no_types(origin: &str) -> Unreadable {
    let remedy = "compile with -g, or install its -dbgsym package";
    Unreadable::new(origin, "no debug information in it", remedy)
}

/// What an ELF file says, called `origin`.
pub(super) fn elf(path: &Path, origin: &str, wanted: &Wanted) -> Result<Catalog, Unreadable> {
    let bytes = bytes_of(path)?;
    let elf = Elf::parse(origin, &bytes)?;
    if elf.has_dwarf() {
        return with_dwarf(&elf, path, origin, wanted);
    }
    let (found, looked_at) = elf.split_off(path);
    if let Some(found) = found {
        let bytes = bytes_of(&found)?;
        let apart = Elf::parse(&found.display().to_string(), &bytes)?;
        if apart.has_dwarf() {
            let mut catalog = with_dwarf(&apart, &found, origin, wanted)?;
            catalog.remarks.push(format!("the debug information is that of {}", found.display()));
            return Ok(catalog);
        }
    }
    if let Some(part) = elf.btf() {
        return btf::read(origin, part, None, wanted);
    }
    let mut error = no_types(origin);
    if elf.is_split() {
        "compile without -gsplit-dwarf: .dwo files are not read".clone_into(&mut error.remedy);
    }
    if !looked_at.is_empty() {
        let places: Vec<String> = looked_at.iter().map(|p| p.display().to_string()).collect();
        error.why.push_str(&format!(", nor at {}", places.join(", ")));
    }
    Err(error)
}

/// What the units of one file say.
fn in_units(
    origin: &str,
    dwarf: &Dwarf<Slice<'_>>,
    wanted: &Wanted,
) -> Result<Catalog, Unreadable> {
    let units = Units::of(dwarf).map_err(|e| damaged(origin, &e.to_string()))?;
    dwarf::read(origin, &units, wanted)
}

fn with_dwarf(
    elf: &Elf<'_>,
    path: &Path,
    origin: &str,
    wanted: &Wanted,
) -> Result<Catalog, Unreadable> {
    let sections = elf.sections()?;
    let mut remark = None;
    match elf.shared_part(path) {
        Some((Some(shared), _name)) => {
            let bytes = bytes_of(&shared)?;
            let shared = Elf::parse(&shared.display().to_string(), &bytes)?.sections()?;
            return in_units(origin, &sections.dwarf_with(&shared), wanted);
        }
        Some((None, name)) => {
            remark = Some(format!(
                "shares types with {}, which is not there: they are left out; remedy: install its -dbgsym package",
                name.display()
            ));
        }
        None => {}
    }
    let mut catalog = in_units(origin, &sections.dwarf(), wanted)?;
    catalog.remarks.extend(remark);
    Ok(catalog)
}

/// What `bytes` say, if they are an ELF file with its debug information in it. For programs that have a file in memory.
///
/// # Errors
/// They are none, or damaged.
pub fn elf_bytes(origin: &str, bytes: &[u8], wanted: &Wanted) -> Result<Catalog, Unreadable> {
    let elf = Elf::parse(origin, bytes)?;
    if !elf.has_dwarf() {
        return Err(no_types(origin));
    }
    in_units(origin, &elf.sections()?.dwarf(), wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_by_their_names() {
        let header =
            |names: &[&str]| Source::Header(names.iter().map(|n| (*n).to_owned()).collect());
        for (text, source) in [
            ("ours", Source::Ours),
            ("btf", Source::Btf(PathBuf::from(btf::KERNEL))),
            ("btf:x", Source::Btf(PathBuf::from("x"))),
            ("shm:quotes", Source::Segment("quotes".to_owned())),
            ("elf:a:b", Source::Elf(PathBuf::from("a:b"))),
            ("lock:x", Source::Lock(PathBuf::from("x"))),
            ("<linux/io_uring.h>", header(&["<linux/io_uring.h>"])),
            ("a.hpp", header(&["a.hpp"])),
            ("header:a,b", header(&["a", "b"])),
        ] {
            assert_eq!(Source::parse(text), Ok(source), "{text}");
        }
        let none = Source::parse("no/such/file").unwrap_err();
        assert!(none.to_string().contains("shm:NAME"), "{none}");
        let text = Source::parse("Cargo.toml").unwrap_err();
        assert!(text.to_string().contains("header:"), "{text}");
        assert!(Source::parse("/usr/bin/env").is_ok_and(|s| matches!(s, Source::Elf(_))));
    }
}
