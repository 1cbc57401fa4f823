//! What C and C++ headers say: a probe that includes them is compiled with debug information, and that is read.
//!
//! ```text
//!   probe.c   #include <linux/io_uring.h>                 -> every type, with the lines of the header
//!             #ifdef IORING_SETUP_IOPOLL                  -> macros, as enumerators of the probe
//!             enum { spinwire_number_0 = IORING_.. };
//!   second    enum { spinwire_align_0 = _Alignof(struct io_uring_sqe) };     of what the first has found
//! ```
//!
//! Nothing is run, so a cross compiler will do.

use core::fmt::Write as _;
use core::sync::atomic::{AtomicU32, Ordering};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::Unreadable;
use super::model::{Catalog, Wanted};
use super::source;

/// Most types whose alignment is asked for.
const ALIGNED_MAX: usize = 4096;

/// In which language a header is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Language {
    /// C11 with GNU extensions.
    C,
    /// C++17 with GNU extensions.
    Cxx,
}

/// How headers are compiled.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Compiler {
    /// The command; without one, `$CC` or `cc`, for C++ `$CXX` or `c++`.
    pub command: Option<String>,
    /// Further arguments: `-I`, `-D`.
    pub arguments: Vec<String>,
    /// In which language; without one, told by the ending of the first header.
    pub language: Option<Language>,
}

impl Compiler {
    fn language(&self, headers: &[String]) -> Language {
        let is_cxx = |name: &String| {
            [".hpp", ".hh", ".hxx"]
                .iter()
                .any(|ending| name.trim_end_matches('>').ends_with(ending))
        };
        let told = if headers.iter().any(is_cxx) { Language::Cxx } else { Language::C };
        self.language.unwrap_or(told)
    }

    fn command(&self, language: Language) -> String {
        let (variable, usual) = match language {
            Language::C => ("CC", "cc"),
            Language::Cxx => ("CXX", "c++"),
        };
        let set = std::env::var(variable).ok().filter(|command| !command.trim().is_empty());
        self.command.clone().or(set).unwrap_or_else(|| usual.to_owned())
    }
}

/// What `headers`, included one after the other, say.
///
/// # Errors
/// There is no compiler, or it does not take them.
pub fn read(
    headers: &[String],
    compiler: &Compiler,
    wanted: &Wanted,
) -> Result<Catalog, Unreadable> {
    let origin = headers.join(", ");
    let language = compiler.language(headers);
    let mut includes = String::new();
    if language == Language::C {
        includes.push_str("#define _GNU_SOURCE\n");
    }
    includes.push_str("#include <stddef.h>\n");
    for header in headers {
        includes.push_str(&include(header)?);
    }
    let probe = Probe { origin: &origin, compiler, language };

    let mut text = includes.clone();
    let macros = match wanted {
        Wanted::Named { numbers, .. } => numbers.as_slice(),
        Wanted::All => &[],
    };
    // Writing to a String does not fail.
    for (at, name) in macros.iter().enumerate() {
        let _written =
            writeln!(text, "#ifdef {name}\nenum {{ spinwire_number_{at} = ({name}) }};\n#endif");
    }
    let seen = wanting(wanted, "spinwire_number_", macros.len());
    let mut catalog = probe.compile(&text, &seen)?;
    for (at, name) in macros.iter().enumerate() {
        if let Some(value) = catalog.numbers.remove(&format!("spinwire_number_{at}")) {
            catalog.numbers.insert(name.clone(), value);
        }
    }
    if *wanted == Wanted::All {
        only_of(&mut catalog, headers);
    }
    probe.alignments(&includes, &mut catalog)?;
    catalog.origin = origin;
    catalog.aligns_by = None;
    Ok(catalog)
}

/// What is wanted, and the enumerators of the probe.
fn wanting(wanted: &Wanted, prefix: &str, count: usize) -> Wanted {
    match wanted {
        Wanted::All => Wanted::All,
        Wanted::Named { types, numbers } => {
            let mut numbers = numbers.clone();
            numbers.extend((0..count).map(|at| format!("{prefix}{at}")));
            numbers.sort_unstable();
            Wanted::Named { types: types.clone(), numbers }
        }
    }
}

/// Of all that a header drags in, only what stands in it.
fn only_of(catalog: &mut Catalog, headers: &[String]) {
    let names: Vec<&str> = headers
        .iter()
        .map(|header| header.trim_matches(['<', '>']).trim_start_matches("./"))
        .collect();
    let is_of = |site: &str| names.iter().any(|name| site.ends_with(name));
    let stands = |ty: &super::model::Type| ty.site.as_ref().is_some_and(|site| is_of(&site.file));
    if catalog.types().iter().any(stands) {
        catalog.retain(stands);
    }
}

/// A line that includes a header: `<in/angles.h>`, a path of a file, or what the compiler finds.
fn include(header: &str) -> Result<String, Unreadable> {
    let is_safe = |c: char| !c.is_control() && !matches!(c, '"' | '<' | '>' | '\\');
    let bare = header.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
    let name = bare.unwrap_or(header);
    if name.is_empty() || !name.chars().all(is_safe) {
        let why = "no name of a header";
        return Err(Unreadable::new(
            header,
            why,
            "name a file, or <a/header.h> that the compiler finds",
        ));
    }
    let file = Path::new(name);
    if bare.is_none() && file.is_file() {
        let whole = file.canonicalize().map_err(|e| Unreadable::file(header, &e))?;
        return Ok(format!("#include \"{}\"\n", whole.display()));
    }
    Ok(format!("#include <{name}>\n"))
}

/// What is compiled, and by whom.
struct Probe<'a> {
    origin: &'a str,
    compiler: &'a Compiler,
    language: Language,
}

impl Probe<'_> {
    fn compile(&self, text: &str, wanted: &Wanted) -> Result<Catalog, Unreadable> {
        let io_fault = |e: &io::Error| {
            let why = format!("no folder for the probe: {e}");
            Unreadable::new(self.origin, why, "make room in TMPDIR, or name another one")
        };
        let folder = Folder::new().map_err(|e| io_fault(&e))?;
        let (file, object) = match self.language {
            Language::C => (folder.0.join("probe.c"), folder.0.join("probe.o")),
            Language::Cxx => (folder.0.join("probe.cc"), folder.0.join("probe.o")),
        };
        fs::write(&file, text).map_err(|e| io_fault(&e))?;
        let command = self.compiler.command(self.language);
        let standard = match self.language {
            Language::C => "-std=gnu11",
            Language::Cxx => "-std=gnu++17",
        };
        // Classes with virtual functions are otherwise left to the file that defines those; GCC and Clang have different words.
        let whole: &[&[&str]] = match self.language {
            Language::C => &[&[]],
            Language::Cxx => &[&["-femit-class-debug-always"], &["-fstandalone-debug"]],
        };
        let run = |whole: &[&str]| {
            let mut words = command.split_whitespace();
            Command::new(words.next().unwrap_or("cc"))
                .args(words)
                .args([standard, "-w", "-g", "-O0", "-c", "-fno-eliminate-unused-debug-types"])
                .args(["-gno-split-dwarf", "-gz=none"])
                .args(whole)
                .args(&self.compiler.arguments)
                .arg("-o")
                .args([&object, &file])
                .env("LC_ALL", "C")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .output()
        };
        let is_unknown = |ran: &std::process::Output| {
            String::from_utf8_lossy(&ran.stderr).contains("emit-class-debug-always")
        };
        let mut ran = run(whole.first().copied().unwrap_or_default());
        if let (Some(other), Ok(first)) = (whole.get(1), &ran)
            && !first.status.success()
            && is_unknown(first)
        {
            ran = run(other);
        }
        let ran = ran.map_err(|e| {
            let why = format!("the compiler '{command}' cannot be run: {e}");
            Unreadable::new(
                self.origin,
                why,
                "apt-get install gcc (or g++), or name another with --cc",
            )
        })?;
        if !ran.status.success() {
            return Err(self.refused(&command, &String::from_utf8_lossy(&ran.stderr)));
        }
        source::elf(&object, self.origin, wanted)
    }

    fn refused(&self, command: &str, said: &str) -> Unreadable {
        let errors: Vec<&str> =
            said.lines().filter(|line| line.contains("error")).take(3).collect();
        let why = format!("{command} does not take it: {}", errors.join("; "));
        let remedy = if said.contains("No such file") {
            "name the folder with -I, or install the package that has the header"
        } else {
            "see what the compiler says; -I and -D are passed on to it"
        };
        Unreadable::new(self.origin, why, remedy)
    }

    /// Asks for the alignment of each type that was found, which debug information does not tell.
    fn alignments(&self, includes: &str, catalog: &mut Catalog) -> Result<(), Unreadable> {
        let word = match self.language {
            Language::C => "_Alignof",
            Language::Cxx => "alignof",
        };
        let name = |ty: &super::model::Type| match ty.is_tagged {
            true => format!("{} {}", ty.kind.name(), ty.name),
            false => ty.name.clone(),
        };
        // A local type cannot be named from outside, nor one of a template written with certainty.
        let can_be_named = |name: &String| {
            name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ' ' | ':'))
        };
        let types = catalog.types().iter().map(name).filter(can_be_named);
        let types: Vec<String> = types.take(ALIGNED_MAX).collect();
        if types.is_empty() {
            return Ok(());
        }
        let mut text = includes.to_owned();
        for (at, ty) in types.iter().enumerate() {
            let _written = writeln!(text, "enum {{ spinwire_align_{at} = {word}({ty}) }};");
        }
        let none = Wanted::Named { types: Vec::new(), numbers: Vec::new() };
        let answers = match self.compile(&text, &wanting(&none, "spinwire_align_", types.len())) {
            Ok(answers) => answers,
            // Types within classes that are private, for instance.
            Err(e) if self.language == Language::Cxx => {
                catalog.remarks.push(format!("alignments are not known: {}", e.why));
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        for (at, ty) in types.iter().enumerate() {
            if let Some(align) = answers.numbers.get(&format!("spinwire_align_{at}")) {
                catalog.set_align(ty, *align);
            }
        }
        Ok(())
    }
}

/// A folder that vanishes.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("spinwire-layout-{}-{count}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                // Left behind by a process of the same number.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && count < 1000 => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _leftover_is_harmless = fs::remove_dir_all(&self.0);
    }
}
