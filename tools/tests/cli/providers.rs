//! `spinwire providers`: what is asked for, and how that is answered.

use serde_json::Value;

use crate::arguments::refused;
use crate::rig::Folder;

fn names(plan: &Value) -> Vec<String> {
    let rows = plan.as_array().unwrap().iter();
    rows.map(|row| format!("{} {}", row["provider"], row["endpoint_type"]).replace('"', ""))
        .collect()
}

#[test]
fn everything_is_listed_and_what_is_absent_says_why() {
    let folder = Folder::new();
    let ran = folder.run(&["providers"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for word in ["shm", "rdm", "absent:", "nothing was opened"] {
        assert!(ran.out.contains(word), "{word}: {ran:?}");
    }
    let (table, _below) = ran.out.split_once("absent:").unwrap();
    assert!(table.contains("\n     rdm is preferred, shared memory"), "{ran:?}");
    assert!(table.contains("\n     tagged "), "{ran:?}");
    for line in table.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let all = folder.run(&["providers", "--json"]).json();
    let listed = |transport: &str| {
        let of =
            |list: &Value| list.as_array().unwrap().iter().any(|row| row["provider"] == transport);
        of(&all["plan"]) || of(&all["rejected"])
    };
    assert!(["shm", "tcp", "udp", "verbs", "mlx5", "ofi"].into_iter().all(listed), "{all}");
    assert!(all["took_us"].as_u64().is_some());
    let absent = all["rejected"].as_array().unwrap().iter().filter(|row| row["absent"] == true);
    assert!(absent.into_iter().all(|row| !row["unmet"][0].as_str().unwrap().is_empty()), "{all}");
}

#[test]
fn needs_rank_and_reject() {
    let folder = Folder::new();
    let json = |args: &[&str]| {
        let ran = folder.run(&[&["providers", "--json", "--only", "shm,tcp"], args].concat());
        (ran.code, ran.json())
    };
    let (code, both) = json(&["--need", "tagged,msg,rdm"]);
    assert_eq!(code, 0);
    // Where rings are forbidden there is no TCP.
    assert_eq!(names(&both["plan"])[0], "shm msg", "{both}");
    let (code, none) = json(&["--need", "dgram"]);
    assert_eq!((code, names(&none["plan"]).len()), (1, 0), "{none}");
    assert!(none.to_string().contains("type: has rdm, wanted dgram"), "{none}");
    let (code, far) = json(&["--need", "rdm", "--peer", "shm://market/quotes"]);
    assert_eq!((code, &far["plan"][0]["uri"]), (0, &"shm://market/quotes".into()), "{far}");
    assert!(far["rejected"].to_string().contains("the peer has no address tcp://"), "{far}");
    let (_, long) = json(&["--need", "rdm", "--message", "1m"]);
    assert!(long["plan"][0]["message_bytes_max"].as_u64().unwrap() >= 1 << 20, "{long}");
}

#[test]
fn questions_that_are_none() {
    refused(&["providers", "--need", "fast"], "directed-recv");
    refused(&["providers", "--only", "pigeon"], "take of shm, tcp, udp");
    refused(
        &["providers", "--peer", "tcp://host"],
        "the port is missing; remedy: write tcp://HOST:PORT",
    );
    refused(&["providers", "--message", "0"], "--message");
}
