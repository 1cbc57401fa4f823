//! The command line of the layout checker, for `spinwire layout` and for programs of users with layouts of their own.
//!
//! ```text
//!   mod      arguments; dump, diff, lock, header
//!   check    our layouts against witnesses: what they confirm, gainsay, and do not know
//! ```

mod check;

pub use check::Check;

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use serde_json::json;
use spinwire_layouts::describe::Room;

use super::compare::{self, Difference, Naming};
use super::error::Unreadable;
use super::header::{Compiler, Language};
use super::model::{Catalog, Type, Wanted, bare};
use super::source::{Reading, Source};
use super::{export, lock, ours, print};

/// What the command knows of the program that it is a part of.
#[derive(Clone, Copy, Debug)]
pub struct Book<'a> {
    /// The layouts of the program.
    pub rooms: &'a [Room],
    /// The text of the lock file with which it was compiled, and where that lies in its source.
    pub lock: Option<&'a str>,
    /// The lock file that is meant where none is named.
    pub lock_path: &'a str,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// For standard output.
    pub text: String,
    /// Whether both sides say the same.
    pub is_same: bool,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum What {
    /// Print layouts: offsets, sizes, holes, cache lines, byte orders, who disturbs whom.
    Dump(Dump),
    /// Compare our layouts with those who know: headers, debug information, the kernel, a segment, a lock file.
    ///
    /// Without SOURCE: each room against its own witnesses (its headers, the kernel, the lock file of this build).
    #[command(after_help = CHECK_HELP)]
    Check(Check),
    /// Compare two sources with each other.
    #[command(after_help = SOURCE_HELP)]
    Diff(Diff),
    /// Compare our layouts with a lock file, or write it: so that a change of the ABI is a decision.
    #[command(after_help = LOCK_HELP)]
    Lock(Lock),
    /// Print our layouts as a header of C or C++, with an assertion for every number.
    Header(HeaderArgs),
}

/// What is printed under `--help` of whatever takes a SOURCE.
const SOURCE_HELP: &str = "\
A SOURCE is one of
  ours                      the layouts of this program
  a.h  <linux/io_uring.h>   C or C++ headers (header:A,B), compiled, and not run
  app  lib.so  a.o          debug information of an ELF file (elf:PATH), or of
                            its -dbgsym package
  btf  btf:PATH             types of the running kernel, a module, or a file
  shm:NAME                  a live segment, by its header
  layouts.lock              a lock file (lock:PATH)

Exit code 0: the same. 1: something differs. 2: a source cannot be read.

Examples
  spinwire layout diff old.o new.o --only queue
      did this change move a member?
  spinwire layout diff a.h elf:app --common
      is the program built with this header?";

const CHECK_HELP: &str = "\
A SOURCE is as in `spinwire layout diff --help`.

Each property (size, alignment, offset, constant) is confirmed by a source, gainsaid, or not known
to it. What nobody confirms is told. With sources that you name it is a failure; without it is not,
since a header or a kernel may be older.

Exit code 0: nobody gainsays. 1: somebody does. 2: a source cannot be read.

Examples
  spinwire layout check
      all that we ship, by who knows it
  spinwire layout check --room uring btf
      one room, by the kernel that runs
  spinwire layout check --as Quote=quote_v2 quotes.h
      a structure with another name there
  spinwire layout check --room shm shm:market
      did an equal build make this segment?";

const LOCK_HELP: &str = "\
Examples
  spinwire layout lock
      does this build still have the layouts of the file?
  spinwire layout lock --write
      yes, they were meant to change

Exit code 0: they do. 1: they do not, see what. 2: the file cannot be read.";

/// What `dump` takes.
#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = SOURCE_HELP)]
pub struct Dump {
    /// Whose layouts.
    #[arg(value_name = "SOURCE", default_value = "ours")]
    source: String,
    #[command(flatten)]
    select: Select,
    #[command(flatten)]
    build: Build,
    /// Print JSON: {"source", "types": [{"name", "size", "align", "members", "holes", ..}], "numbers"}.
    #[arg(long)]
    json: bool,
}

/// What `diff` takes.
#[derive(Clone, Debug, ClapArgs)]
pub struct Diff {
    /// One side.
    #[arg(value_name = "SOURCE")]
    left: String,
    /// The other.
    #[arg(value_name = "SOURCE")]
    right: String,
    /// Only what both sides have: types and numbers that one lacks are no difference.
    #[arg(long)]
    common: bool,
    #[command(flatten)]
    select: Select,
    #[command(flatten)]
    build: Build,
    /// Print JSON: {"same", "left", "right", "compared", "differences": [{"what", "aspect", "left", "left_at", ..}]}.
    #[arg(long)]
    json: bool,
}

/// What `lock` takes.
#[derive(Clone, Debug, ClapArgs)]
pub struct Lock {
    /// The lock file.
    #[arg(value_name = "FILE")]
    path: Option<PathBuf>,
    /// Write it as the layouts are now.
    #[arg(long)]
    write: bool,
    /// Print JSON: {"same", "left", "right", "differences"}.
    #[arg(long)]
    json: bool,
}

/// What `header` takes.
#[derive(Clone, Debug, ClapArgs)]
pub struct HeaderArgs {
    /// Which rooms; those that are nobody else's unless said.
    #[arg(long, value_delimiter = ',')]
    room: Vec<String>,
    /// For which language.
    #[arg(long, value_name = "LANGUAGE", default_value = "c")]
    lang: Lang,
    /// What stands before names of structures in C.
    #[arg(long, default_value = export::PREFIX, value_parser = beginning)]
    prefix: String,
}

/// Which types.
#[derive(Clone, Debug, ClapArgs)]
pub struct Select {
    /// Only this type; may be repeated.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// The first side's name of a type and the other's; may be repeated.
    #[arg(long = "as", value_name = "OURS=THEIRS", value_parser = pair)]
    renamed: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), Unreadable> {
    let wrong = || Unreadable::new(text, "no '=' in it", "write OURS=THEIRS, as in Quote=quote_v2");
    text.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned())).ok_or_else(wrong)
}

/// What a name in C may begin with.
fn beginning(text: &str) -> Result<String, Unreadable> {
    let is_one = text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        && !text.starts_with(|first: char| first.is_ascii_digit());
    let wrong = || Unreadable::new(text, "begins no name in C", "take of A-Z a-z 0-9 _, as in sw_");
    if is_one { Ok(text.to_owned()) } else { Err(wrong()) }
}

/// How headers are compiled.
#[derive(Clone, Debug, ClapArgs)]
#[command(next_help_heading = "How headers are compiled")]
pub struct Build {
    /// The compiler; $CC or cc, for C++ $CXX or c++, unless said. A cross compiler will do.
    #[arg(long, value_name = "COMMAND")]
    cc: Option<String>,
    /// A folder with headers; may be repeated.
    #[arg(short = 'I', value_name = "FOLDER")]
    include: Vec<PathBuf>,
    /// A macro; may be repeated.
    #[arg(short = 'D', value_name = "NAME=VALUE")]
    define: Vec<String>,
    /// In which language; told by the ending of the header unless said.
    #[arg(long, value_name = "LANGUAGE")]
    lang: Option<Lang>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Lang {
    /// C.
    C,
    /// C++.
    #[value(name = "c++", alias = "cxx")]
    Cxx,
}

impl From<Lang> for Language {
    fn from(lang: Lang) -> Self {
        match lang {
            Lang::C => Self::C,
            Lang::Cxx => Self::Cxx,
        }
    }
}

impl Build {
    fn compiler(&self) -> Compiler {
        let include = self.include.iter().map(|folder| format!("-I{}", folder.display()));
        let define = self.define.iter().map(|name| format!("-D{name}"));
        Compiler {
            command: self.cc.clone(),
            arguments: include.chain(define).collect(),
            language: self.lang.map(Language::from),
        }
    }
}

impl Select {
    /// Whether a type is meant: by its whole name, or by the last part.
    fn takes(&self, ty: &Type) -> bool {
        let is_it = |name: &String| {
            let name = bare(name);
            ty.name == name || ty.name.ends_with(&format!("::{name}"))
        };
        let others = self.renamed.iter().map(|(_, theirs)| theirs);
        self.only.is_empty() || self.only.iter().chain(others).any(is_it)
    }

    /// What sources are asked for: a kernel has more types than anybody wants to wait for.
    fn wanted(&self) -> Wanted {
        if self.only.is_empty() {
            return Wanted::All;
        }
        let others = self.renamed.iter().map(|(_, theirs)| theirs);
        let types = self.only.iter().chain(others).cloned().collect();
        Wanted::Named { types, numbers: Vec::new() }
    }

    /// Names that no type has.
    fn missing(&self, catalogs: &[&Catalog]) -> Option<Unreadable> {
        let has = |name: &&String| catalogs.iter().any(|catalog| catalog.find(name).is_some());
        let missing = self.only.iter().find(|name| !has(name))?;
        let origins: Vec<&str> = catalogs.iter().map(|catalog| catalog.origin.as_str()).collect();
        let remedy = "see what there is: spinwire layout dump SOURCE; a name that several types end with wants its namespace";
        Some(Unreadable::new(
            missing,
            format!("no type of that name in {}", origins.join(", ")),
            remedy,
        ))
    }
}

/// Does it.
///
/// # Errors
/// A source cannot be read, or a name is not known.
pub fn run(what: &What, book: &Book<'_>) -> Result<Outcome, Unreadable> {
    match what {
        What::Dump(args) => dump(args, book),
        What::Check(args) => check::run(args, book),
        What::Diff(args) => diff(args, book),
        What::Lock(args) => locked(args, book),
        What::Header(args) => header(args, book),
    }
}

/// The rooms of these names; all without names.
fn rooms_of(names: &[String], book: &Book<'_>) -> Result<Vec<Room>, Unreadable> {
    let known: Vec<&str> = book.rooms.iter().map(|room| room.name).collect();
    if let Some(wrong) = names.iter().find(|name| !known.contains(&name.as_str())) {
        let remedy = format!("one of {}", known.join(", "));
        return Err(Unreadable::new(wrong, "no room of that name", remedy));
    }
    let wanted = |room: &&Room| names.is_empty() || names.iter().any(|name| name == room.name);
    Ok(book.rooms.iter().filter(wanted).copied().collect())
}

fn dump(args: &Dump, book: &Book<'_>) -> Result<Outcome, Unreadable> {
    let compiler = args.build.compiler();
    let with = Reading { rooms: book.rooms, compiler: &compiler };
    let catalog = Source::parse(&args.source)?.open(&with, &args.select.wanted())?;
    if let Some(error) = args.select.missing(&[&catalog]) {
        return Err(error);
    }
    let types: Vec<&Type> = catalog.types().iter().filter(|ty| args.select.takes(ty)).collect();
    let text = if args.json {
        print::json_text(&print::of_catalog(&catalog, &types))
    } else {
        let mut tables: Vec<String> = types.iter().map(|ty| print::table(ty)).collect();
        tables.extend(
            catalog.remarks.iter().map(|remark| format!("note: {}\n", print::plain(remark))),
        );
        tables.join("\n")
    };
    Ok(Outcome { text, is_same: true })
}

fn diff(args: &Diff, book: &Book<'_>) -> Result<Outcome, Unreadable> {
    let compiler = args.build.compiler();
    let with = Reading { rooms: book.rooms, compiler: &compiler };
    let open = |name: &str| Source::parse(name)?.open(&with, &args.select.wanted());
    let (mut left, mut right) = (open(&args.left)?, open(&args.right)?);
    if let Some(error) = args.select.missing(&[&left, &right]) {
        return Err(error);
    }
    for side in [&mut left, &mut right] {
        side.retain(|ty| args.select.takes(ty));
        if !args.select.only.is_empty() || left_out(args) {
            side.numbers.clear();
        }
        side.is_whole &= !args.common;
    }
    let found = compare::mirror(&left, &right, &args.select.renamed);
    let compared = left.types().iter().filter(|ty| right.find(&ty.name).is_some()).count();
    let compared = compared.max(usize::from(!args.select.renamed.is_empty()));
    if compared == 0 && found.is_empty() {
        let why = "they have no type in common";
        let both = format!("{} and {}", args.left, args.right);
        return Err(Unreadable::new(both, why, "name pairs of types: --as LEFT=RIGHT"));
    }
    Ok(told(&found, (&left, &right), compared, args.json))
}

/// Numbers of a header are those of everything it includes; of debug information, those that were used. They say nothing
/// about each other.
fn left_out(args: &Diff) -> bool {
    let is_ours = |name: &str| {
        matches!(Source::parse(name), Ok(Source::Ours | Source::Lock(_) | Source::Segment(_)))
    };
    !(is_ours(&args.left) && is_ours(&args.right))
}

/// Differences, in words or as JSON.
fn told(
    found: &[Difference],
    (left, right): (&Catalog, &Catalog),
    compared: usize,
    json: bool,
) -> Outcome {
    let is_same = found.is_empty();
    let remarks: Vec<&String> = left.remarks.iter().chain(&right.remarks).collect();
    let text = if json {
        print::json_text(&json!({
            "same": is_same,
            "left": left.origin,
            "right": right.origin,
            "compared": compared,
            "differences": print::of_differences(found),
            "remarks": remarks,
        }))
    } else {
        let mut text = print::differences(found, &left.origin, &right.origin);
        for remark in remarks {
            text.push_str(&format!("note: {}\n", print::plain(remark)));
        }
        let end = match found.len() {
            0 => format!("{compared} types compared: the same.\n"),
            count => format!("{compared} types compared, {count} differences.\n"),
        };
        text.push_str(&end);
        text
    };
    Outcome { text, is_same }
}

fn locked(args: &Lock, book: &Book<'_>) -> Result<Outcome, Unreadable> {
    let path = args.path.as_deref().unwrap_or_else(|| Path::new(book.lock_path));
    let name = path.display().to_string();
    let now = ours::catalog(book.rooms);
    let before = Source::Lock(path.to_owned());
    let compiler = Compiler::default();
    let with = Reading { rooms: book.rooms, compiler: &compiler };
    let before = match before.open(&with, &Wanted::All) {
        Err(_none_yet) if args.write && !path.exists() => Catalog::new(&name, now.dialect),
        // What is no lock file is not overwritten.
        Err(e) => return Err(missing_lock(e, path)),
        Ok(before) => before,
    };
    let found = compare::mirror(&before, &now, &[]);
    if !args.write {
        let mut outcome = told(&found, (&before, &now), now.types().len(), args.json);
        if !outcome.is_same && !args.json {
            outcome.text.push_str(
                "Builds from before and after this change cannot share memory. If it is meant: spinwire layout lock --write, \
                 and say so in the changelog.\n",
            );
        }
        return Ok(outcome);
    }
    fs::write(path, lock::write(&now)).map_err(|e| Unreadable::file(&name, &e))?;
    let text = format!("{name} written: {} types, {} changes.\n", now.types().len(), found.len());
    Ok(Outcome { text, is_same: true })
}

fn missing_lock(error: Unreadable, path: &Path) -> Unreadable {
    if path.exists() {
        return error;
    }
    let remedy = format!("write it: spinwire layout lock --write {}", path.display());
    Unreadable { remedy, ..error }
}

fn header(args: &HeaderArgs, book: &Book<'_>) -> Result<Outcome, Unreadable> {
    let mut rooms = rooms_of(&args.room, book)?;
    if args.room.is_empty() {
        rooms.retain(|room| room.foreign.is_none());
    }
    let text = export::header(&rooms, args.lang.into(), &args.prefix);
    Ok(Outcome { text, is_same: true })
}

/// Names of `--as` for witnesses.
fn naming(select: &Select, prefix: Option<&String>) -> Naming {
    Naming { renamed: select.renamed.clone(), prefix: prefix.cloned() }
}
