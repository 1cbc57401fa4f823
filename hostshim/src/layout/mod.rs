//! The layout checker: how types lie, by whoever knows it, and where two of them differ. Feature `layout`.
//!
//! ```text
//!   layout!           ours.rs    --.
//!   C and C++ headers header.rs  --|                          .-- print.rs    tables, JSON
//!   DWARF             elf.rs units.rs dwarf.rs --> Catalog ---+-- facts.rs    holes, lines, who disturbs whom
//!   BTF               btf.rs     --|              (model.rs)  +-- compare.rs  differences, opinions of witnesses
//!   a live segment    segment.rs --|                          +-- lock.rs     a file that holds layouts still
//!   a lock file       lock.rs    --'                          '-- export.rs   headers of C and C++
//!
//!   source.rs   sources by the names that people give them        command/   the command line over all of it
//! ```
//!
//! It is a room of `hostshim` and not of the command `spinwire`, because programs that define layouts of their own link this
//! crate anyway, and nothing of what only the command needs. A program with structures of its own, made by
//! [`layout!`](spinwire_layouts::layout), gets the whole checker for them by one line:
//!
//! ```no_run
//! use spinwire_layouts::describe::Room;
//!
//! spinwire_layouts::layout! {
//!     /// A price that many read.
//!     pub struct Quote, size 128, align 64 {
//!         /// The price, in ticks.
//!         pub price: u64 @ 0 by feed,
//!         /// Zero.
//!         pub unused: [u64; 7] @ 8 by feed,
//!         /// How far the reader is.
//!         pub seen: u64 @ 64 by reader,
//!         /// Zero.
//!         pub rest: [u64; 7] @ 72 by reader,
//!     }
//! }
//!
//! const MINE: &[Room] = &[Room::own("mine", "what my processes share", &[&Quote::LAYOUT])];
//!
//! fn main() -> std::process::ExitCode {
//!     spinwire_hostshim::layout::main(MINE) // `my-layouts check quotes.h`, `my-layouts lock --write`, ..
//! }
//! ```
//!
//! Files are taken for hostile: none of them can make a reader panic or run without end.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "what files, compilers and the crates `gimli` and `object` know has no end; what is not named here is not understood"
)]

mod btf;
mod command;
mod compare;
mod dwarf;
mod elf;
mod error;
mod export;
mod facts;
mod header;
mod lock;
mod model;
mod ours;
mod print;
mod segment;
mod source;
mod units;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser;
use spinwire_layouts::describe::Room;

pub use btf::{KERNEL as KERNEL_BTF, read as read_btf};
pub use command::{Book, Build, Check, Diff, Dump, HeaderArgs, Lock, Outcome, Select, What, run};
pub use compare::{Aspect, Difference, Naming, Opinion, mirror, opinions, snake_case};
pub use error::Unreadable;
pub use export::header as export_header;
pub use facts::{Hole, disturbances, holes, lines, straddles};
pub use header::{Compiler, Language, read as read_headers};
pub use lock::{read as read_lock, write as write_lock};
pub use model::{Bits, Catalog, Dialect, Kind, Member, Order, Shape, Site, Type, Wanted};
pub use ours::{catalog as catalog_of, of as type_of, qualified};
pub use print::{of_type as json_of_type, plain, table};
pub use source::{Reading, Source, elf_bytes as read_elf};

/// Our own layouts, with the lock file of this build.
pub const BOOK: Book<'static> = Book {
    rooms: spinwire_layouts::ROOMS,
    lock: Some(include_str!("../../../layouts/layouts.lock")),
    lock_path: "layouts/layouts.lock",
};

/// Check memory layouts: print them, and compare them with headers, debug information, the kernel, live memory, a lock file.
#[derive(Debug, Parser)]
#[command(max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

/// The checker as the whole of a program, for the layouts in `rooms`: reads the arguments, prints, and answers with the exit
/// code. 0: the same, 1: something differs, 2: a source cannot be read.
#[must_use]
pub fn main(rooms: &[Room]) -> ExitCode {
    let book = Book { rooms, lock: None, lock_path: "layouts.lock" };
    let (code, out, err) = match run(&Cli::parse().what, &book) {
        Ok(outcome) => (u8::from(!outcome.is_same), outcome.text, String::new()),
        Err(e) => (2, String::new(), format!("{}\n", plain(&e.to_string()))),
    };
    // A reader that has seen enough is no failure.
    let _closed = io::stdout().lock().write_all(out.as_bytes());
    let _closed = io::stderr().lock().write_all(err.as_bytes());
    ExitCode::from(code)
}
