//! Clients of the example that speaks the protocol of Redis: any bytes, in any pieces, with room for few replies.
//!
//! The same bytes fed at once are answered alike. A reply is never cut, nothing comes behind the end, and every client makes
//! progress: it takes bytes, or has replies to send. What the store holds is what a plain map holds that listens to the replies to
//! requests that the target makes itself.
#![no_main]
#![allow(dead_code, reason = "the target uses a part of the example")]

use std::collections::HashMap;

use libfuzzer_sys::fuzz_target;
use spinwire_fuzz::Input;

#[path = "../../../tools/examples/resp/protocol.rs"]
mod protocol;
#[path = "../../../tools/examples/resp/service.rs"]
mod service;
#[path = "../../../tools/examples/resp/store.rs"]
mod store;

use protocol::{Limits, Replies};
use service::{Client, Next};
use store::{Capacity, Store};

const LIMITS: Limits = Limits { argument_bytes_max: 300, request_bytes_max: 700 };
const CAPACITY: Capacity = Capacity { keys: 12, bytes: 2048 };

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let steps = input.byte();
    let cuts: Vec<usize> = (0..steps % 16).map(|_| usize::from(input.byte()) + 1).collect();
    if steps & 16 == 0 {
        let stream = input.bytes(usize::MAX);
        assert_eq!(talk(stream, &cuts, 1), talk(stream, &[], 4000));
    } else {
        known(&mut input, &cuts);
    }
});

/// What is said to `stream`, cut into pieces of those lengths over and over, and whether there was an end.
fn talk(stream: &[u8], cuts: &[usize], spare: usize) -> (Vec<u8>, bool) {
    let mut store = Store::new(CAPACITY, 3);
    let mut client = Client::new(LIMITS);
    let mut sent = Vec::new();
    let mut room = vec![0; Client::reply_bytes_max(LIMITS) + spare];
    let mut lengths = cuts.iter().copied().cycle();
    let mut rest = stream;
    let mut is_closed = false;
    while !rest.is_empty() {
        let length = lengths.next().unwrap_or(rest.len()).min(rest.len());
        let (mut piece, behind) = rest.split_at(length);
        rest = behind;
        while !piece.is_empty() {
            let mut replies = Replies::new(&mut room);
            let fed = client.feed(piece, &mut store, &mut replies);
            assert!(!replies.is_cut());
            assert!(fed.taken > 0 || !replies.written().is_empty(), "no progress");
            assert!(!is_closed || replies.written().is_empty(), "a reply behind the end");
            sent.extend_from_slice(replies.written());
            piece = &piece[fed.taken..];
            is_closed |= fed.next == Next::Close;
        }
    }
    (sent, is_closed)
}

/// Requests that are well made, and a map that knows the answers.
fn known(input: &mut Input<'_>, cuts: &[usize]) {
    let mut stream = Vec::new();
    let mut asked = Vec::new();
    while !input.is_empty() && asked.len() < 100 {
        let (act, number) = (input.byte(), input.byte() % 20);
        let length = usize::from(input.byte()).saturating_sub(40);
        let key = format!("{:0>1$}", number, usize::from(number));
        let value = "v".repeat(length);
        let words: Vec<&str> = match act % 4 {
            0 | 1 => vec!["SET", &key, &value],
            2 => vec!["GET", &key],
            _ => vec!["DEL", &key],
        };
        stream.extend(format!("*{}\r\n", words.len()).bytes());
        for word in words {
            stream.extend(format!("${}\r\n{word}\r\n", word.len()).bytes());
        }
        asked.push((act % 4, key.clone(), value));
    }
    let (sent, is_closed) = talk(&stream, cuts, 50);
    assert!(!is_closed);
    let mut sent = std::str::from_utf8(&sent).expect("ASCII");
    let mut map: HashMap<String, String> = HashMap::new();
    for (act, key, value) in asked {
        let wanted = match act {
            0 | 1 if sent.starts_with("-OOM ") => {
                sent = &sent[sent.find('\n').expect("an end") + 1..];
                assert!(map.len() > 5, "full too soon");
                continue;
            }
            0 | 1 => {
                map.insert(key, value);
                "+OK\r\n".to_owned()
            }
            2 => map
                .get(&key)
                .map_or("$-1\r\n".to_owned(), |value| format!("${}\r\n{value}\r\n", value.len())),
            _ => format!(":{}\r\n", u8::from(map.remove(&key).is_some())),
        };
        sent = sent.strip_prefix(&wanted).expect("the answer of the map");
    }
    assert_eq!(sent, "");
}
