//! The `spinwire` command: measure, look at and mend pinned-core data planes.
//!
//! ```text
//!   arguments     values of arguments, read alike by all commands
//!   cmd/      one file a command
//!   pair/     the two ends of a measurement
//!   hgrm, plot    percentiles as text, curves as SVG
//!   report    what a command ends with: exit codes, JSON, errors with a remedy
//! ```
#![allow(
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    reason = "figures for people: rates and ratios; nothing here runs in a turn"
)]
#![allow(
    clippy::large_stack_frames,
    reason = "stations and domains are built once, on the main thread's stack of 8 MiB"
)]
// `println!` and its kin end in a panic where nobody reads: what is printed goes through `report`.

use std::io::ErrorKind;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

mod arguments;
mod cmd;
mod hgrm;
mod pair;
mod pattern;
mod plot;
mod report;

const EXIT_CODES: &str = "Exit codes: 0 done, and all is well; 1 done, and something is not well; 2 not done, and standard error says why and what helps.";

/// Measure, look at and mend pinned-core data planes.
///
/// Start with `spinwire lat`: it starts a second process, exchanges messages with it through shared memory, and prints
/// how long that takes beside the floor of this machine. `spinwire doctor` says what stands in the way of better
/// figures.
#[derive(Debug, Parser)]
#[command(name = "spinwire", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure round trips between two pinned processes, beside the machine's own floor.
    Lat(cmd::lat::Args),
    /// Measure one-way streaming between two pinned processes, beside a bare copy.
    Bw(cmd::bw::Args),
    /// Send back every message, at any URI, for `spinwire ping`.
    Serve(cmd::serve::Args),
    /// Measure round trips to a `spinwire serve`, one by one.
    Ping(cmd::ping::Args),
    /// Send back whatever comes over TCP.
    Echo(cmd::echo::Args),
    /// Say what stands between this machine and low latency, and the command that mends it.
    Doctor(cmd::doctor::Args),
    /// List the endpoints that this machine can open, ranked by what a program needs.
    Providers(cmd::providers::Args),
    /// List the RDMA devices of this machine, and what they can do.
    Devices(cmd::devices::Args),
    /// Watch running planes by their stats pages.
    Top(cmd::top::Args),
    /// List segments, and who is in them.
    Ps(cmd::ps::Args),
    /// Make, show and mend pools of buffers that processes share.
    Pool(cmd::pool::Args),
    /// Remove segments that dead owners left behind.
    Rm(cmd::rm::Args),
    /// Check memory layouts, ours and other people's: print, compare, lock, export.
    Layout(cmd::layout::Args),
}

/// Joins the lines of each paragraph, so that it is the terminal that says where they end. What is indented stays as it is.
fn flowing(text: &str) -> String {
    let mut flowing = String::with_capacity(text.len());
    let mut is_open = false;
    for line in text.lines() {
        let is_prose = !line.is_empty() && !line.starts_with(' ');
        flowing.push_str(match (is_open, is_prose) {
            (true, true) => " ",
            _ if flowing.is_empty() => "",
            _ => "\n",
        });
        flowing.push_str(line);
        is_open = is_prose && !line.ends_with(':');
    }
    flowing
}

/// The command and all below it, with the text behind their options flowing, and what their exit codes mean.
fn with_flowing_help(command: clap::Command) -> clap::Command {
    let text = command.get_after_help().map(|text| flowing(&text.to_string()));
    let text = match text {
        Some(text) if text.contains("Exit code") => text,
        Some(text) => format!("{text}\n\n{EXIT_CODES}"),
        None => EXIT_CODES.to_owned(),
    };
    command.after_help(text).mut_subcommands(with_flowing_help)
}

/// What `--help` and its like end with: like any other command, not well where it could not be written.
fn told(text: &clap::Error) -> ExitCode {
    let is_asked = !text.use_stderr();
    match text.print() {
        Err(e) if is_asked && e.kind() != ErrorKind::BrokenPipe => {
            report::finish(Err(report::not_told(&e)))
        }
        _ if is_asked => ExitCode::SUCCESS,
        _ => ExitCode::from(2),
    }
}

fn main() -> ExitCode {
    if let Err(refused) = report::outlive_file_limits() {
        return report::finish(Err(refused));
    }
    let command = arguments::with_negative_numbers(with_flowing_help(Cli::command()));
    let cli = command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match cli {
        Ok(cli) => cli,
        Err(text) => return told(&text),
    };
    report::finish(run(cli.command))
}

fn run(command: Command) -> Result<report::Verdict, report::Failure> {
    match command {
        Command::Lat(args) => cmd::lat::run(&args),
        Command::Bw(args) => cmd::bw::run(&args),
        Command::Serve(args) => cmd::serve::run(&args),
        Command::Ping(args) => cmd::ping::run(&args),
        Command::Echo(args) => cmd::echo::run(&args),
        Command::Doctor(args) => cmd::doctor::run(&args),
        Command::Providers(args) => cmd::providers::run(&args),
        Command::Devices(args) => cmd::devices::run(&args),
        Command::Top(args) => cmd::top::run(&args),
        Command::Ps(args) => cmd::ps::run(&args),
        Command::Pool(args) => cmd::pool::run(&args),
        Command::Rm(args) => cmd::rm::run(&args),
        Command::Layout(args) => cmd::layout::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory as _};

    use super::{Cli, flowing, with_flowing_help};

    /// What is not broken into lines by the terminal's width fits into the usual one.
    fn fits(command: &Command) {
        let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for line in text.lines().filter(|line| line.starts_with(' ')) {
            assert!(line.chars().count() <= 80, "{}: {line}", command.get_name());
        }
        assert!(text.contains("Exit code"), "{}: {text}", command.get_name());
        command.get_subcommands().for_each(fits);
    }

    #[test]
    fn examples_fit_into_80_columns_and_exit_codes_are_told() {
        fits(&with_flowing_help(Cli::command()));
    }

    #[test]
    fn paragraphs_flow_and_examples_stay() {
        let text = "Examples:\n  spinwire a\n  spinwire b\n\nIt polls. It ends\nwith a signal,\nor so.\n\nNext:\nlast";
        let wanted = "Examples:\n  spinwire a\n  spinwire b\n\nIt polls. It ends with a signal, or so.\n\nNext:\nlast";
        assert_eq!(flowing(text), wanted);
    }
}
