//! `peers`: Spinwire and its shared-memory peers on the same two cores, in one table with ratios.
//!
//! ```text
//!   cli ──> schedule ──── round by round, work by work ────> report
//!              │                                              │
//!              ├─ peer/floor      bare cache lines            ├─ table   for people
//!              ├─ peer/spinwire   child: spinwire lat | bw    └─ json    for tools
//!              ├─ peer/ucx        two children: ucx_perftest       │
//!              ├─ peer/rtrb       two threads                    ratio   paired, steady rounds
//!              ├─ peer/iceoryx2   two processes                  bar     what the project promises
//!              └─ peer/libfabric  two children: fi_pingpong
//! ```
//!
//! A [`work::Work`] is what is measured (a round trip or a stream, of one size), a
//! [`sample::Sample`] is one figure for it, and [`schedule`] says why absolute figures are only
//! context here and ratios are the claim.

mod bar;
mod cli;
mod clock;
mod cpu;
mod peer;
mod process;
mod ratio;
mod report;
mod sample;
mod schedule;
mod work;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Inner};

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    if let Some(Inner::Iceoryx2(far)) = &cli.inner {
        peer::iceoryx2::run_far_side(far)?;
        return Ok(ExitCode::SUCCESS);
    }
    let plan = cli.plan()?;
    let record = schedule::run(&plan, &cli.selection()?)?;
    let report = report::Report::new(&plan, &record);
    if cli.json {
        report::json::print(&report)?;
    } else {
        report::table::print(&report);
    }
    let all_met = report.bars.iter().all(bar::Judged::is_met);
    Ok(if cli.check && !all_met { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
