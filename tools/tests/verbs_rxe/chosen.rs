//! Endpoints over devices, chosen and opened like those of any transport.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::rig;

fn spinwire(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spinwire"));
    command.args(args).stdin(Stdio::null());
    command
}

#[test]
fn devices_are_offered_and_endpoints_over_them_answer() {
    if rig::devices().is_none() {
        return;
    }
    let offered = spinwire(&["providers", "--only", "verbs", "--need", "rdm,tagged", "--json"])
        .output()
        .unwrap();
    let offered: Value = serde_json::from_slice(&offered.stdout).unwrap();
    let names: Vec<&Value> =
        offered["plan"].as_array().unwrap().iter().map(|row| &row["device"]).collect();
    assert_eq!(names, ["rxe0/1", "rxe1/1"], "{offered}");
    let serve = ["serve", "verbs://rxe1/10.77.0.2:0/echo", "--json", "--nap"];
    let mut service = spinwire(&serve).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(service.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let said: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
    // The device in a URI is that of this end.
    let uri = said["serving"][0].as_str().unwrap().replace("rxe1", "rxe0");
    let args = [
        "ping",
        "shm://nobody",
        &uri,
        "--json",
        "--count",
        "20",
        "--interval",
        "0",
        "--timeout",
        "30",
    ];
    let ping = spinwire(&args).output().unwrap();
    let answered = String::from_utf8_lossy(&ping.stdout).into_owned();
    service.kill().unwrap();
    service.wait().unwrap();
    let told: Value = serde_json::from_str(&answered).unwrap_or_else(|e| panic!("{e}: {ping:?}"));
    assert_eq!((&told["received"], &told["provider"]), (&20.into(), &"rdma".into()), "{told}");
    assert!(told["passed_over"][0].as_str().unwrap().starts_with("shm rdm shm://nobody"), "{told}");
}
