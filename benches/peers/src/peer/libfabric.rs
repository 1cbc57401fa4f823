//! libfabric: `fi_pingpong -p shm -e rdm` between two processes.
//!
//! `fi_pingpong` prints microseconds per transfer and counts two transfers to a trip, so a round
//! trip is twice its figure. It knows only means, with two decimals. It has no option for pinning;
//! both sides inherit the pin of the thread that starts them.

use std::process::Command;

use anyhow::{Context, ensure};

use super::Peer;
use super::spinwire::Spinwire;
use crate::process::{self, LIMIT, Running, last_lines};
use crate::sample::{Rtt, Sample};
use crate::schedule::Plan;
use crate::work::Work;

const TOOL: &str = "fi_pingpong";

/// The libfabric row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Libfabric;

impl Peer for Libfabric {
    fn name(&self) -> &'static str {
        "libfabric shm"
    }

    fn word(&self) -> &'static str {
        "libfabric"
    }

    fn measures(&self, work: Work) -> bool {
        work == Work::rtt(64)
    }

    fn rival(&self) -> Option<&'static str> {
        Some(Spinwire::Tagged.name())
    }

    fn probe(&self, _plan: &Plan) -> Result<String, String> {
        if !process::is_installed(TOOL) {
            return Err(format!("{TOOL} is not installed; benches/peers/install does it"));
        }
        let mut info = Command::new("fi_info");
        info.args(["-p", "shm", "-t", "FI_EP_RDM"]);
        process::run(info, None)
            .map_err(|error| format!("libfabric has no shm provider here: {error:#}"))?;
        let mut version = Command::new("fi_info");
        version.arg("--version");
        let said = process::run(version, None).map_err(|error| format!("{error:#}"))?;
        let version = said.stdout.lines().find_map(|line| line.strip_prefix("libfabric: "));
        Ok(format!(
            "libfabric {}, two processes, tagged, only a mean",
            version.unwrap_or("of unknown version")
        ))
    }

    fn measure(&self, work: Work, plan: &Plan) -> anyhow::Result<Sample> {
        let (size, trips) = (work.size.to_string(), plan.effort.trips(work.size).to_string());
        let port = process::free_port()?.to_string();
        let command = |port_flag: &str| {
            let mut command = Command::new(TOOL);
            command.args(["-p", "shm", "-e", "rdm", "-m", "tagged"]);
            command.args(["-S", &size, "-I", &trips, port_flag, &port]);
            command
        };
        let server = Running::start(command("-B"), Some(plan.cpus.far))?;
        process::await_listener(port.parse()?)?;
        let mut client = command("-P");
        client.arg("127.0.0.1");
        let said = process::run(client, Some(plan.cpus.near))?;
        server.finish(LIMIT).context("the server side")?;
        let mean_ns = 2.0 * one_way_us(&said.stdout)? * 1e3;
        Ok(Sample::Rtt(Rtt { mean_ns, ..Rtt::default() }))
    }
}

/// Reads the column `usec/xfer` of the last row.
fn one_way_us(output: &str) -> anyhow::Result<f64> {
    let mut lines = output.lines();
    let at = lines
        .find_map(|line| line.split_whitespace().position(|word| word == "usec/xfer"))
        .with_context(|| format!("{TOOL} printed no table: {}", last_lines(output)))?;
    let figure = lines
        .filter_map(|line| line.split_whitespace().nth(at)?.parse::<f64>().ok())
        .next_back()
        .with_context(|| format!("{TOOL} printed no figures: {}", last_lines(output)))?;
    ensure!(figure > 0.0, "{TOOL} measured nothing: {}", last_lines(output));
    Ok(figure)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
bytes   #sent   #ack     total       time     MB/sec    usec/xfer   Mxfers/sec
64      100k    =100k    12m         0.21s     59.54       1.07       0.93
";

    #[test]
    fn the_column_is_found_by_its_name() {
        assert_eq!(one_way_us(OUTPUT).unwrap(), 1.07);
    }

    #[test]
    fn output_without_a_table_is_quoted() {
        assert!(one_way_us("fi_getinfo: -61").unwrap_err().to_string().contains("-61"));
    }
}
