//! The command as its users run it, with a stub in place of `spinwire`.
//!
//! These tests run real measurements, as short as they can be and one after the other, and need two
//! processors: 0 and 1.

#![expect(clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

const STUB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stub-spinwire");

fn peers(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peers"));
    command.args(["--smoke", "--spinwire", STUB]).args(arguments);
    command
}

/// Held by who measures: two pairs of spinning threads on two processors would wait for each other.
static PROCESSORS: Mutex<()> = Mutex::new(());

fn run(mut command: Command) -> (Output, String) {
    let _alone = PROCESSORS.lock().unwrap_or_else(PoisonError::into_inner);
    let output = command.output().expect("peers starts");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, stdout)
}

fn row<'a>(report: &'a Value, name: &str) -> &'a Value {
    let rows = report["rows"].as_array().expect("rows");
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no row `{name}`"))
}

#[test]
fn json_holds_figures_ratios_bars_and_readings() {
    let (output, stdout) =
        run(peers(&["--rounds", "3", "--only", "spinwire,rtrb,rtt64", "--json"]));
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_str(&stdout).expect("JSON");
    let tagged = row(&report, "spinwire tagged");
    assert_eq!(tagged["state"]["measured"]["p50_or_rate"], 110.0);
    assert_eq!(tagged["to_floor"]["rounds"], 3);
    assert_eq!(row(&report, "rtrb")["rival"]["name"], "spinwire");
    let bars = report["bars"].as_array().expect("bars");
    assert_eq!(bars.len(), 3, "the bars of a round trip of 64 bytes: {bars:?}");
    let series = report["series"].as_array().expect("series");
    assert!(series.iter().all(|series| series["readings"].as_array().map(Vec::len) == Some(3)));
}

#[test]
fn a_spinwire_that_is_not_there_is_skipped_aloud() {
    let (output, stdout) = run({
        let mut command = Command::new(env!("CARGO_BIN_EXE_peers"));
        command.args(["--smoke", "--rounds", "1", "--check", "--only", "spinwire,rtt32"]);
        command.args(["--spinwire", "no-such-spinwire"]);
        command
    });
    assert!(stdout.contains("SKIPPED: there is no no-such-spinwire"), "{stdout}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("SKIPPED"));
    assert_eq!(output.status.code(), Some(1), "--check: a bar without a figure is not met");
}

#[test]
fn another_provider_than_shared_memory_is_refused() {
    let mut command = peers(&["--rounds", "2", "--only", "spinwire,stream64"]);
    command.env("STUB_PROVIDER", "tcp");
    let (output, stdout) = run(command);
    assert!(output.status.success(), "{output:?}");
    assert!(stdout.contains("FAILED: spinwire measured its `tcp` provider"), "{stdout}");
}

#[test]
fn iceoryx2_answers_from_its_own_process() {
    let (output, stdout) = run(peers(&["--rounds", "1", "--only", "iceoryx2", "--json"]));
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_str(&stdout).expect("JSON");
    let figure = &row(&report, "iceoryx2")["state"]["measured"]["p50_or_rate"];
    assert!(figure.as_f64().is_some_and(|ns| ns > 0.0), "{figure}");
}

#[test]
fn the_pool_is_measured_in_processes_of_its_own() {
    let works = "pool,iceoryx2,acquire4096,get4096,two4096";
    let (output, stdout) = run(peers(&["--rounds", "3", "--only", works, "--json"]));
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_str(&stdout).expect("JSON");
    for name in ["bare swaps", "spinwire pool", "iceoryx2 loan", "two processes", "one process"] {
        let figure = &row(&report, name)["state"]["measured"]["p50_or_rate"];
        assert!(figure.as_f64().is_some_and(|figure| figure > 0.0), "{name}: {figure}");
    }
    assert_eq!(row(&report, "iceoryx2 loan")["rival"]["name"], "spinwire pool");
    assert_eq!(row(&report, "one process")["rival"]["name"], "two processes");
    assert_eq!(report["bars"].as_array().map(Vec::len), Some(3), "{}", report["bars"]);
}

#[test]
fn a_lent_buffer_is_held_against_a_short_message() {
    let (output, stdout) =
        run(peers(&["--rounds", "3", "--only", "spinwire,lend1048576", "--json"]));
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_str(&stdout).expect("JSON");
    for (name, ns) in [("spinwire lent", 140.0), ("spinwire 64 B", 110.0)] {
        let figure = &row(&report, name)["state"]["measured"]["p50_or_rate"];
        assert_eq!(figure.as_f64(), Some(ns), "{name}: {figure}");
    }
    assert_eq!(row(&report, "spinwire 64 B")["rival"]["name"], "spinwire lent");
    assert_eq!(report["bars"].as_array().map(Vec::len), Some(1), "{}", report["bars"]);
}

#[test]
fn echo_servers_are_asked_by_one_client() {
    let only = "spinwire,ringline,monoio,tokio,floor,echo64,echo64x16,echo16384x16";
    let mut command = peers(&["--rounds", "3", "--only", only, "--json"]);
    command.env("STUB_ECHO", env!("CARGO_BIN_EXE_peers"));
    let (output, stdout) = run(command);
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_str(&stdout).expect("JSON");
    for name in ["bare sockets", "spinwire echo", "ringline", "monoio", "tokio", "bare epoll"] {
        let rows = report["rows"].as_array().expect("rows");
        let figures: Vec<Option<f64>> = rows
            .iter()
            .filter(|row| row["name"] == name)
            .map(|row| row["state"]["measured"]["p50_or_rate"].as_f64())
            .collect();
        assert_eq!(figures.len(), 3, "{name}");
        assert!(figures.iter().all(|figure| figure.is_some_and(|figure| figure > 0.0)), "{name}");
    }
    assert_eq!(row(&report, "tokio")["rival"]["name"], "spinwire echo");
    // A floor and three rivals; three rivals by rate and by p99; three rivals.
    assert_eq!(report["bars"].as_array().map(Vec::len), Some(13), "{}", report["bars"]);
}

#[test]
fn a_spinwire_without_a_server_is_not_measured_and_says_so() {
    let only = "spinwire,echo64,respget1";
    let (output, stdout) = run(peers(&["--rounds", "1", "--only", only]));
    assert!(output.status.success(), "{output:?}");
    let wanted = "NOT MEASURED: ".to_owned() + STUB + " has no `echo`: unknown command: echo";
    assert!(stdout.contains(&wanted), "{stdout}");
    assert!(stdout.contains("no server was named; --resp-server"), "{stdout}");
}

#[test]
fn servers_of_the_redis_protocol_are_asked_by_its_own_client() {
    let server = concat!(
        env!("CARGO_BIN_EXE_peers"),
        " socket-server --kind resp --port {port} --cpu {cpu} --request-bytes 0"
    );
    let only = "spinwire,redis,respget1,respset16";
    let (output, stdout) =
        run(peers(&["--rounds", "3", "--only", only, "--json", "--resp-server", server]));
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_str(&stdout).expect("JSON");
    if report["found"].to_string().contains("redis-benchmark is not installed") {
        panic!("redis-tools are missing: benches/peers/install installs them");
    }
    for name in ["spinwire resp", "redis-server", "bare resp"] {
        let figures = &row(&report, name)["state"]["measured"];
        assert!(
            figures["p50_or_rate"].as_f64().is_some_and(|rate| rate > 0.0),
            "{name}: {figures}"
        );
        assert!(
            figures["client_busy"].as_f64().is_some_and(|part| part > 0.0),
            "{name}: {figures}"
        );
    }
    assert_eq!(report["bars"].as_array().map(Vec::len), Some(4), "{}", report["bars"]);
}

#[test]
fn a_server_that_answers_wrongly_is_no_rival() {
    // An echo server sends the command itself.
    let server = concat!(
        env!("CARGO_BIN_EXE_peers"),
        " socket-server --kind epoll --port {port} --cpu {cpu} --request-bytes 0"
    );
    let (output, stdout) =
        run(peers(&["--rounds", "2", "--only", "spinwire,respget1", "--resp-server", server]));
    assert!(output.status.success(), "{output:?}");
    assert!(stdout.contains("FAILED: ") && stdout.contains("is answered with"), "{stdout}");
}

#[test]
fn a_wrong_word_is_answered_with_the_right_ones() {
    let (output, _) = run(peers(&["--only", "ucxx"]));
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("`ucxx`") && stderr.contains("stream4096"), "{stderr}");
}
