//! UCX: `ucx_perftest -t tag_lat | tag_bw` between two processes, over POSIX shared memory.
//!
//! * **Half a trip.** `tag_lat` prints one-way latency, which is half of its ping-pong; the figures
//!   here are twice that. A run with 1 000 000 iterations at 0.5 us takes one second, not half of
//!   one: that is the check.
//! * **Its median is of the end.** `ucx_perftest` takes percentiles over its last 2048 trips, while
//!   its mean covers the whole run; the table therefore shows both.
//! * **No silent path.** `UCX_TLS` names the transports, every other `UCX_*` variable is taken out
//!   of the environment, and UCX must say in its own log which transports it selected; a run that
//!   used another one is an error. The second row adds CMA on purpose: long messages are then
//!   copied by the kernel, once, and where the two processors share no cache that is UCX at its
//!   best.

use std::process::Command;

use anyhow::{Context, bail, ensure};

use super::Peer;
use super::floor::WARM_UP_PART;
use super::spinwire::Spinwire;
use crate::process::{self, LIMIT, Running, last_lines};
use crate::sample::{Rtt, Sample, Stream};
use crate::schedule::Plan;
use crate::work::{Kind, Work};

const TOOL: &str = "ucx_perftest";

/// A UCX row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ucx {
    /// POSIX shared memory and nothing else.
    Posix,
    /// POSIX shared memory, and CMA (`process_vm_readv`) for long messages.
    PosixAndCma,
}

impl Ucx {
    /// The value of `UCX_TLS`. `self` is only for a process that talks to itself, but UCX wants it.
    const fn transports(self) -> &'static str {
        match self {
            Self::Posix => "posix,self",
            Self::PosixAndCma => "posix,cma,self",
        }
    }

    /// The transports that the selected lanes must consist of, each of them.
    const fn lanes(self) -> &'static [&'static str] {
        match self {
            Self::Posix => &["posix"],
            Self::PosixAndCma => &["posix", "cma"],
        }
    }

    /// `ucx_perftest` on one processor, in a clean environment.
    fn command(self, cpu: usize, port: u16) -> Command {
        let mut command = Command::new(TOOL);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("UCX_") {
                command.env_remove(name);
            }
        }
        command.env("UCX_TLS", self.transports()).env("UCX_LOG_LEVEL", "info");
        command.args(["-c", &cpu.to_string(), "-p", &port.to_string()]);
        command
    }

    /// One server and one client; the client's last figures.
    fn run(self, plan: &Plan, test: &[&str]) -> anyhow::Result<Figures> {
        let port = process::free_port()?;
        let server = Running::start(self.command(plan.cpus.far, port), None)?;
        process::await_listener(port)?;
        let mut client = self.command(plan.cpus.near, port);
        client.arg("127.0.0.1").args(["-f", "-v"]).args(test);
        let said = process::run(client, None)?;
        server.finish(LIMIT).context("the server side")?;
        let all = said.stdout + &said.stderr;
        check_lanes(&all, self.lanes())?;
        Figures::parse(&all)
    }
}

impl Peer for Ucx {
    fn name(&self) -> &'static str {
        match self {
            Self::Posix => "ucx",
            Self::PosixAndCma => "ucx with cma",
        }
    }

    fn word(&self) -> &'static str {
        "ucx"
    }

    fn measures(&self, work: Work) -> bool {
        match self {
            Self::Posix => work.is_copied(),
            Self::PosixAndCma => work.is_copied() && work.size >= 65536,
        }
    }

    fn rival(&self) -> Option<&'static str> {
        Some(Spinwire::Tagged.name())
    }

    fn probe(&self, _plan: &Plan) -> Result<String, String> {
        if !process::is_installed(TOOL) {
            return Err(format!("{TOOL} is not installed; benches/peers/install does it"));
        }
        let info = |what: &str| {
            let mut command = Command::new("ucx_info");
            command.arg(what);
            process::run(command, None)
                .map(|said| said.stdout)
                .map_err(|error| format!("{error:#}"))
        };
        let devices = info("-d")?;
        for lane in self.lanes() {
            if !devices.contains(&format!("Transport: {lane}")) {
                return Err(format!("this UCX has no `{lane}` transport here (ucx_info -d)"));
            }
        }
        let version = info("-v")?;
        let version = version
            .lines()
            .find_map(|line| line.split_once("ersion").map(|(_, number)| number.trim().to_owned()))
            .unwrap_or_else(|| "of unknown version".to_owned());
        Ok(format!("UCX {version}, two processes, UCX_TLS={}", self.transports()))
    }

    fn measure(&self, work: Work, plan: &Plan) -> anyhow::Result<Sample> {
        let size = work.size.to_string();
        let count = match work.kind {
            Kind::Rtt => plan.effort.trips(work.size),
            Kind::Stream => plan.effort.messages(work.size),
        };
        let (warm_up, count) = ((count / WARM_UP_PART).to_string(), count.to_string());
        let common = ["-s", &size, "-n", &count, "-w", &warm_up];
        match work.kind {
            Kind::Rtt => {
                let figures = self.run(plan, &[&["-t", "tag_lat"][..], &common].concat())?;
                Ok(Sample::Rtt(figures.round_trip()))
            }
            Kind::Stream => {
                let figures = self.run(plan, &[&["-t", "tag_bw"][..], &common].concat())?;
                Ok(Sample::Stream(Stream {
                    messages_per_s: figures.messages_per_s,
                    ..Stream::default()
                }))
            }
        }
    }
}

/// The last row of `ucx_perftest -f -v`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Figures {
    p50_one_way_us: f64,
    mean_one_way_us: f64,
    messages_per_s: f64,
}

impl Figures {
    /// Finds the CSV header, then the columns by their names, then the last row that is all
    /// numbers: log lines may stand between, and other versions have other columns.
    fn parse(output: &str) -> anyhow::Result<Self> {
        let mut lines = output.lines().map(str::trim);
        let header = lines.find(|line| line.starts_with("iterations,")).with_context(|| {
            format!("{TOOL} printed no CSV header; its last words: {}", last_lines(output))
        })?;
        let columns: Vec<&str> = header.split(',').collect();
        let row: Vec<f64> = lines
            .filter_map(|line| line.split(',').map(|word| word.parse().ok()).collect())
            .rfind(|row: &Vec<f64>| row.len() == columns.len())
            .with_context(|| {
                format!("{TOOL} printed no figures; its last words: {}", last_lines(output))
            })?;
        let column = |wanted: &str| {
            columns
                .iter()
                .position(|name| name.ends_with(wanted))
                .and_then(|at| row.get(at).copied())
                .with_context(|| format!("{TOOL} has no column `{wanted}` in `{header}`"))
        };
        let figures = Self {
            p50_one_way_us: column("percentile_lat")?,
            mean_one_way_us: column("overall_lat")?,
            messages_per_s: column("overall_mr")?,
        };
        ensure!(
            figures.mean_one_way_us > 0.0 && figures.messages_per_s > 0.0,
            "{TOOL} measured nothing: {figures:?}"
        );
        Ok(figures)
    }

    /// One way in microseconds, twice: a round trip in nanoseconds.
    fn round_trip(self) -> Rtt {
        Rtt {
            p50_ns: Some(2.0 * self.p50_one_way_us * 1e3),
            mean_ns: 2.0 * self.mean_one_way_us * 1e3,
            ..Rtt::default()
        }
    }
}

/// Checks that UCX selected the wanted transports, all of them and no other.
///
/// UCX logs its lanes as `... tag(posix/memory cma/memory)`.
fn check_lanes(log: &str, wanted: &[&str]) -> anyhow::Result<()> {
    let Some((_, lanes)) = log.lines().find_map(|line| line.split_once(" tag(")) else {
        bail!("UCX did not say which transports it selected: {}", last_lines(log));
    };
    let lanes = lanes.split(')').next().unwrap_or(lanes);
    let used: Vec<&str> =
        lanes.split_whitespace().map(|lane| lane.split('/').next().unwrap_or(lane)).collect();
    if let Some(stranger) = used.iter().find(|name| !wanted.contains(name)) {
        bail!("UCX selected `{stranger}`, which was not asked for: {lanes}");
    }
    if let Some(missing) = wanted.iter().find(|name| !used.contains(name)) {
        bail!("UCX did not select `{missing}`: {lanes}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
iterations,50.0_percentile_lat,avg_lat,overall_lat,avg_bw,overall_bw,avg_mr,overall_mr
[1795220683.545679] [host:8316 :0]  parser.c:1916 UCX  INFO  UCX_* env variables: UCX_TLS=posix,self
[1795220683.546072] [host:8316 :0]  ucp_worker.c:1763 UCX  INFO    ep_cfg[0]: tag(posix/memory)
20000,0.484,0.510,0.512,119.62,119.62,1959841,1959842
";

    #[test]
    fn figures_are_found_between_log_lines() {
        let figures = Figures::parse(OUTPUT).unwrap();
        assert_eq!(figures.messages_per_s, 1_959_842.0);
        let trip = figures.round_trip();
        assert!((trip.p50_ns.unwrap() - 968.0).abs() < 1e-6, "twice one way");
        assert!((trip.mean_ns - 1024.0).abs() < 1e-6);
    }

    #[test]
    fn output_without_figures_is_quoted() {
        let error = Figures::parse("client failed. connect() failed").unwrap_err().to_string();
        assert!(error.contains("connect() failed"), "{error}");
        let header = OUTPUT.lines().next().unwrap();
        assert!(Figures::parse(header).is_err());
    }

    #[test]
    fn a_transport_that_was_not_asked_for_is_refused() {
        check_lanes(OUTPUT, &["posix"]).unwrap();
        let with_cma = OUTPUT.replace("posix/memory)", "posix/memory cma/memory)");
        assert!(check_lanes(&with_cma, &["posix"]).unwrap_err().to_string().contains("cma"));
        check_lanes(&with_cma, &["posix", "cma"]).unwrap();
        assert!(check_lanes(OUTPUT, &["posix", "cma"]).is_err(), "and one that is missing");
        assert!(check_lanes("", &["posix"]).is_err(), "and silence");
    }
}
