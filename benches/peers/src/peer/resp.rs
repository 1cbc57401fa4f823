//! Servers of the Redis protocol on the far processor, `redis-benchmark` on the near one: 50
//! connections, so many commands at once.
//!
//! The client is a program of one thread and can be the slower side. What it reaches against a
//! server that does next to nothing is its own row, and every row says how much of the time the
//! client kept its processor busy.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::Peer;
use crate::process::{self, LIMIT, Running};
use crate::sample::{Sample, Stream};
use crate::schedule::Plan;
use crate::server::{FarSide, Kind};
use crate::work::{self, Subject, Work};

/// The client.
const TOOL: &str = "redis-benchmark";

/// The peer.
const SERVER: &str = "redis-server";

/// Connections: what the tool does unasked.
const CONNECTIONS: &str = "50";

/// How long a server may think about a single command.
const PATIENCE: Duration = Duration::from_secs(10);

/// The key of the tool, and the value that it writes.
const KEY: &str = "key:__rand_int__";
const VALUE: &str = "xxx";

/// A server of the Redis protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resp {
    /// What `--resp-server` names.
    Spinwire,
    /// `redis-server`.
    Redis,
    /// Next to nothing: the client's own limit.
    Bare,
    /// The same without epoll.
    BareInTurn,
}

/// The row of the client's own limit.
pub(crate) const LIMIT_ROW: &str = "bare resp";

/// All rows of servers that do next to nothing.
pub(crate) const LIMIT_ROWS: [&str; 2] = [LIMIT_ROW, "bare resp in turn"];

impl Resp {
    fn command(self, plan: &Plan, port: u16) -> anyhow::Result<Command> {
        match self {
            Self::Spinwire => {
                let words = plan.resp_server.as_deref().unwrap_or_default();
                command_of(words, port, plan.cpus.far)
            }
            Self::Redis => {
                let mut command = Command::new(SERVER);
                command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
                // Nothing but memory, as the others.
                command.args(["--save", "", "--appendonly", "no", "--dir", "/tmp"]);
                Ok(command)
            }
            Self::Bare => FarSide::new(Kind::Resp, port, plan.cpus.far).command(),
            Self::BareInTurn => FarSide::new(Kind::RespInTurn, port, plan.cpus.far).command(),
        }
    }
}

impl Peer for Resp {
    fn name(&self) -> &'static str {
        match self {
            Self::Spinwire => "spinwire resp",
            Self::Redis => SERVER,
            Self::Bare => LIMIT_ROW,
            Self::BareInTurn => LIMIT_ROWS[1],
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Spinwire => "spinwire",
            Self::Redis | Self::Bare | Self::BareInTurn => "redis",
        }
    }

    fn measures(&self, work: Work) -> bool {
        matches!(work.subject, Subject::Resp { .. })
    }

    fn rival(&self) -> Option<&'static str> {
        (*self != Self::Spinwire).then_some(Self::Spinwire.name())
    }

    fn probe(&self, plan: &Plan) -> Result<String, String> {
        for tool in [Some(TOOL), (*self == Self::Redis).then_some(SERVER)].into_iter().flatten() {
            if !process::is_installed(tool) {
                return Err(format!("{tool} is not installed; benches/peers/install does it"));
            }
        }
        match self {
            Self::Spinwire => {
                let words = plan.resp_server.as_deref().ok_or(
                    "no server was named; --resp-server 'COMMAND' does, with {port} and {cpu}",
                )?;
                let command = command_of(words, 0, 0).map_err(|error| format!("{error:#}"))?;
                let program = command.get_program().to_string_lossy().into_owned();
                if !std::path::Path::new(&program).is_file() && !process::is_installed(&program) {
                    return Err(format!("there is no {program}"));
                }
                Ok(words.to_owned())
            }
            Self::Redis => {
                let mut command = Command::new(SERVER);
                command.arg("--version");
                let said = process::run(command, None).map_err(|error| format!("{error:#}"))?;
                let version =
                    said.stdout.split_whitespace().find_map(|word| word.strip_prefix("v="));
                let version = version.unwrap_or("of unknown version");
                Ok(format!("{version}, memory only; {TOOL} -c {CONNECTIONS}"))
            }
            Self::Bare | Self::BareInTurn => {
                Ok("answers at once and keeps nothing: the client's own limit".to_owned())
            }
        }
    }

    fn measure(&self, work: Work, plan: &Plan) -> anyhow::Result<Sample> {
        let Subject::Resp { command, pipeline } = work.subject else {
            bail!("{work} is no work of a server of the Redis protocol");
        };
        let port = process::free_port()?;
        let server = Running::start(self.command(plan, port)?, Some(plan.cpus.far))?;
        let measured = process::await_listener(port)
            .and_then(|()| greet(port).context("a single command"))
            .and_then(|()| {
                let before = process::ran_so_far_ns(server.id());
                let stream = ask(plan, port, (command, pipeline))?;
                let ran = process::ran_so_far_ns(server.id()).zip(before);
                // Who sleeps when there is nothing to do has run for as long as it needed.
                let ran =
                    ran.filter(|_| *self == Self::Redis).map(|(after, before)| after - before);
                let commands = f64::from(plan.effort.commands(pipeline));
                Ok(Stream { server_ns: ran.map(|ns| ns / commands), ..stream })
            });
        let said = server.stop();
        measured.map(Sample::Stream).with_context(|| format!("the server said: {said}"))
    }
}

/// The words of a command with the port and the processor in their places.
fn command_of(words: &str, port: u16, cpu: usize) -> anyhow::Result<Command> {
    ensure!(words.contains("{port}"), "the server's command has no {{port}} in it: {words}");
    let filled = words.replace("{port}", &port.to_string()).replace("{cpu}", &cpu.to_string());
    let mut words = filled.split_whitespace();
    let mut command = Command::new(words.next().context("the server's command is empty")?);
    command.args(words);
    Ok(command)
}

/// Writes the value that is read later, and reads it: the tool believes every answer.
fn greet(port: u16) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let mut ask = |words: &[&str], wanted: &[&str]| {
        let mut command = format!("*{}\r\n", words.len());
        for word in words {
            command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.write_all(command.as_bytes())?;
        for wanted in wanted {
            let mut line = String::new();
            answers.read_line(&mut line)?;
            ensure!(line.trim_end() == *wanted, "{words:?} is answered with {line:?}");
        }
        Ok(())
    };
    ask(&["PING"], &["+PONG"])?;
    ask(&["SET", KEY, VALUE], &["+OK"])?;
    ask(&["GET", KEY], &["$3", VALUE])
}

/// The client's part.
fn ask(plan: &Plan, port: u16, (what, pipeline): (work::Command, u32)) -> anyhow::Result<Stream> {
    let count = plan.effort.commands(pipeline);
    let mut command = Command::new(TOOL);
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-c", CONNECTIONS, "--csv"]);
    command.args(["-P", &pipeline.to_string(), "-n", &count.to_string()]);
    command.args(match what {
        work::Command::Get => ["-t", "get"],
        work::Command::Set => ["-t", "set"],
    });
    let said = Running::start(command, Some(plan.cpus.near))?.finish(LIMIT)?;
    let mut stream = parse(&said.stdout)?;
    let ns = f64::from(count) / stream.messages_per_s * 1e9;
    stream.client_busy = said.ran_ns.map(|ran_ns| (ran_ns / ns).min(1.0));
    Ok(stream)
}

/// Reads the last line of the tool's table by the names of its columns.
fn parse(output: &str) -> anyhow::Result<Stream> {
    let cells = |line: &str| -> Vec<String> {
        line.split(',').map(|cell| cell.trim().trim_matches('"').to_owned()).collect()
    };
    let mut lines = output.lines().filter(|line| line.starts_with('"'));
    let names = cells(lines.next().context("no table")?);
    let figures = cells(lines.next_back().context("a table without a line")?);
    let figure = |name: &str| -> anyhow::Result<f64> {
        let at = names.iter().position(|column| column == name);
        let cell = at.and_then(|at| figures.get(at));
        let cell = cell.with_context(|| format!("{TOOL} has no column {name}: {output}"))?;
        cell.parse().with_context(|| format!("{name} is {cell}"))
    };
    let stream = Stream {
        messages_per_s: figure("rps")?,
        p50_ns: Some(figure("p50_latency_ms")? * 1e6),
        p99_ns: Some(figure("p99_latency_ms")? * 1e6),
        client_busy: None,
        server_ns: None,
    };
    ensure!(stream.messages_per_s > 0.0, "{TOOL} measured nothing: {output}");
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "WARNING: Could not fetch server CONFIG\n\
        \"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n\
        \"GET\",\"1052631.62\",\"0.699\",\"0.160\",\"0.687\",\"0.879\",\"0.999\",\"1.271\"\n";

    #[test]
    fn figures_are_found_by_their_columns() {
        let stream = parse(TABLE).unwrap();
        assert_eq!(stream.messages_per_s, 1_052_631.62);
        assert_eq!((stream.p50_ns, stream.p99_ns), (Some(687_000.0), Some(999_000.0)));
    }

    #[test]
    fn a_missing_column_is_named() {
        let error = parse(&TABLE.replace("p50_latency", "median")).unwrap_err();
        assert!(error.to_string().contains("p50_latency_ms"), "{error}");
    }

    #[test]
    fn port_and_processor_find_their_places() {
        let command =
            command_of("serve --listen tcp://127.0.0.1:{port} --cpus {cpu}", 77, 1).unwrap();
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        assert_eq!(words, ["--listen", "tcp://127.0.0.1:77", "--cpus", "1"]);
        assert!(command_of("serve", 77, 1).is_err());
    }
}
