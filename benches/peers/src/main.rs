//! `peers`: Spinwire and its peers on the same two cores, in one table with ratios.
//!
//! ```text
//!   cli ──> schedule ──── round by round, work by work ────> report
//!              │                                              │
//!              ├─ peer/floor      bare cache lines            ├─ table   for people
//!              ├─ peer/spinwire   child: spinwire lat | bw    └─ json    for tools
//!              ├─ peer/ucx        two children: ucx_perftest       │
//!              ├─ peer/rtrb       two threads                    ratio   paired, steady rounds
//!              ├─ peer/iceoryx2   two processes                  bar     what the project promises
//!              ├─ peer/libfabric  two children: fi_pingpong
//!              ├─ peer/pool       Spinwire's pool, two processes
//!              ├─ peer/loan       iceoryx2's samples
//!              ├─ peer/sockets    the floor of what goes over TCP
//!              ├─ peer/echo       child: spinwire echo, or a server of ours; client: one for all
//!              └─ peer/resp       two children: a server, and redis-benchmark
//! ```
//!
//! A [`work::Work`] is what is measured (a round trip, a stream, a buffer in hand, requests), a
//! [`sample::Sample`] is one figure for it, and [`schedule`] says why absolute figures are only
//! context here and ratios are the claim.

mod bar;
mod cli;
mod client;
mod clock;
mod cpu;
mod peer;
mod process;
mod ratio;
mod report;
mod sample;
mod schedule;
mod server;
mod work;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

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
    if cli.inner.is_some() {
        process::end_with_parent();
    }
    match &cli.inner {
        Some(Inner::Iceoryx2(far)) => {
            return peer::iceoryx2::run_far_side(far).map(|()| ExitCode::SUCCESS);
        }
        Some(Inner::Pool(far)) => {
            return peer::pool::run_far_side(far).map(|()| ExitCode::SUCCESS);
        }
        Some(Inner::Socket(far)) => {
            return server::run_far_side(far).map(|()| ExitCode::SUCCESS);
        }
        None => {}
    }
    // A thousand connections need as many files; whoever is started inherits the limit.
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })
        .context("the limit of open files cannot be raised to what it may be")?;
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
