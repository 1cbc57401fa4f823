//! `spinwire layout`: the layout checker over our own layouts.
//!
//! The checker is a room of `hostshim`, so that programs with layouts of their own have it, too; here it is only called.

use clap::Args as ClapArgs;
use spinwire_hostshim::layout::{self, BOOK, What};

use crate::report::{self, Failure, Verdict};

/// What `spinwire layout` takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

/// Not well where something differs.
pub(crate) fn run(args: &Args) -> Result<Verdict, Failure> {
    let outcome = layout::run(&args.what, &BOOK)?;
    report::emit(&outcome.text)?;
    Ok(if outcome.is_same { Verdict::Well } else { Verdict::NotWell })
}
