//! Spinwire itself, as its users run it: `spinwire lat --json` and `spinwire bw --json` in a child
//! process.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Peer;
use crate::process::{self, last_lines};
use crate::sample::{Rtt, Sample, Stream};
use crate::schedule::Plan;
use crate::work::{Kind, Work};

/// A Spinwire row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spinwire {
    /// Plain messages.
    Plain,
    /// Tag matching, the same service that UCX and libfabric give.
    Tagged,
    /// Buffers of the pool, uncopied.
    Lent,
    /// Plain messages of [`SMALL`] bytes, beside [`Lent`](Self::Lent) ones.
    Small,
}

/// What a buffer that is handed over is held against.
const SMALL: u32 = 64;

impl Peer for Spinwire {
    fn name(&self) -> &'static str {
        match self {
            Self::Plain => "spinwire",
            Self::Tagged => "spinwire tagged",
            Self::Lent => "spinwire lent",
            Self::Small => "spinwire 64 B",
        }
    }

    fn word(&self) -> &'static str {
        "spinwire"
    }

    fn measures(&self, work: Work) -> bool {
        match self {
            Self::Plain => work.is_copied() && work.size <= 64,
            Self::Tagged => work.is_copied(),
            Self::Lent | Self::Small => work == Work::LEND,
        }
    }

    fn rival(&self) -> Option<&'static str> {
        matches!(self, Self::Small).then_some("spinwire lent")
    }

    fn probe(&self, plan: &Plan) -> Result<String, String> {
        let path = plan.spinwire.display();
        if plan.spinwire.is_file() {
            Ok(format!("{path}, over shared memory"))
        } else {
            Err(format!(
                "there is no {path}; `cargo build --release` makes it, `--spinwire PATH` names \
                 another"
            ))
        }
    }

    fn measure(&self, work: Work, plan: &Plan) -> anyhow::Result<Sample> {
        let mut command = Command::new(&plan.spinwire);
        // A buffer of any size takes as long as a short message.
        let size = if matches!(self, Self::Small) { SMALL } else { work.size };
        let trips = plan.effort.trips(if work == Work::LEND { SMALL } else { size });
        let (bytes, cpus) = (size.to_string(), plan.cpus.to_string());
        match work.kind {
            Kind::Rtt => command.args(["lat", "--iters", &trips.to_string()]),
            Kind::Stream => command.args(["bw", "--seconds", &plan.effort.seconds().to_string()]),
        };
        command.args(["--json", "--size", &bytes, "--cpus", &cpus]);
        match self {
            Self::Tagged => command.arg("--tagged"),
            Self::Lent => command.arg("--zero-copy"),
            Self::Plain | Self::Small => &mut command,
        };
        let said = process::run(command, None)?;
        match work.kind {
            Kind::Rtt => {
                let lat: Lat = one_of_size(&said.stdout, size)?;
                lat.into_sample(plan)
            }
            Kind::Stream => {
                let bw: Bw = one_of_size(&said.stdout, size)?;
                bw.into_sample()
            }
        }
    }
}

/// The default place of the command: the release build of the repository that this package was
/// built in.
pub(crate) fn default_path() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "..", "target", "release", "spinwire"].iter().collect()
}

/// What `spinwire lat --json` prints of a size, as far as it is needed here.
#[derive(Debug, Deserialize)]
struct Lat {
    provider: String,
    size: u32,
    cpus: [usize; 2],
    rtt_ns: Percentiles,
    floor_rtt_ns: FloorPercentiles,
}

#[derive(Debug, Deserialize)]
struct Percentiles {
    p50: f64,
    p99: f64,
    mean: f64,
}

#[derive(Debug, Deserialize)]
struct FloorPercentiles {
    p50: f64,
}

/// What `spinwire bw --json` prints of a size, as far as it is needed here.
#[derive(Debug, Deserialize)]
struct Bw {
    provider: String,
    size: u32,
    messages_per_s: f64,
}

impl Lat {
    fn into_sample(self, plan: &Plan) -> anyhow::Result<Sample> {
        check_provider(&self.provider)?;
        let wanted = [plan.cpus.near, plan.cpus.far];
        ensure!(
            self.cpus == wanted,
            "spinwire ran on processors {:?}, not on {wanted:?}",
            self.cpus
        );
        ensure!(self.rtt_ns.p50 > 0.0, "spinwire measured nothing: {:?}", self.rtt_ns);
        Ok(Sample::Rtt(Rtt {
            p50_ns: Some(self.rtt_ns.p50),
            p99_ns: Some(self.rtt_ns.p99),
            mean_ns: self.rtt_ns.mean,
            own_floor_ns: Some(self.floor_rtt_ns.p50),
            ..Rtt::default()
        }))
    }
}

impl Bw {
    fn into_sample(self) -> anyhow::Result<Sample> {
        check_provider(&self.provider)?;
        ensure!(self.messages_per_s > 0.0, "spinwire measured nothing");
        Ok(Sample::Stream(Stream { messages_per_s: self.messages_per_s, ..Stream::default() }))
    }
}

fn check_provider(provider: &str) -> anyhow::Result<()> {
    ensure!(provider == "shm", "spinwire measured its `{provider}` provider, not `shm`");
    Ok(())
}

/// A report that says which size it is about.
trait Report: DeserializeOwned {
    fn size(&self) -> u32;
}

impl Report for Lat {
    fn size(&self) -> u32 {
        self.size
    }
}

impl Report for Bw {
    fn size(&self) -> u32 {
        self.size
    }
}

/// The report about `size` in what Spinwire printed: one object, or a list where several sizes were
/// asked for.
fn one_of_size<T: Report>(output: &str, size: u32) -> anyhow::Result<T> {
    let value: serde_json::Value = serde_json::from_str(output)
        .with_context(|| format!("spinwire printed no JSON: {}", last_lines(output)))?;
    let reports = match value {
        serde_json::Value::Array(reports) => reports,
        report => vec![report],
    };
    for report in reports {
        let report: T = serde_json::from_value(report)
            .context("spinwire's JSON is not what this program was written for")?;
        if report.size() == size {
            return Ok(report);
        }
    }
    bail!("spinwire reported on no message of {size} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAT: &str = r#"{
        "provider":"shm", "size":64, "iters":1000, "cpus":[0,1], "page":"2M",
        "rtt_ns": {"min":90, "p50":110, "p90":120, "p99":150, "p99_9":900, "max":2e4, "mean":112.5},
        "floor_rtt_ns": {"p50":84, "p99":95}, "ratio_p50":1.31
    }"#;

    #[test]
    fn an_object_and_a_list_are_both_read() {
        let one: Lat = one_of_size(LAT, 64).unwrap();
        assert_eq!((one.rtt_ns.p50, one.rtt_ns.mean, one.floor_rtt_ns.p50), (110.0, 112.5, 84.0));
        let list = format!("[{},{LAT}]", LAT.replace("\"size\":64", "\"size\":32"));
        assert_eq!(one_of_size::<Lat>(&list, 64).unwrap().size, 64);
    }

    #[test]
    fn another_size_is_an_error() {
        assert!(one_of_size::<Lat>(LAT, 32).is_err());
    }

    #[test]
    fn a_missing_field_is_named() {
        let error = one_of_size::<Lat>(&LAT.replace("p50", "median"), 64).unwrap_err();
        assert!(format!("{error:#}").contains("p50"), "{error:#}");
    }

    #[test]
    fn words_instead_of_json_are_quoted() {
        let error = one_of_size::<Bw>("usage: spinwire", 64).unwrap_err();
        assert!(format!("{error:#}").contains("usage: spinwire"), "{error:#}");
    }
}
