//! The example that speaks the protocol of Redis: its replies against those of a plain model, however the stream is cut; what
//! it refuses; and its store against a map.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]

use std::collections::HashMap;

use proptest::prelude::*;

#[path = "../../tools/examples/resp/protocol.rs"]
mod protocol;
#[path = "../../tools/examples/resp/service.rs"]
mod service;
#[path = "../../tools/examples/resp/store.rs"]
mod store;

use protocol::{ARGS_MAX, LINE_BYTES_MAX, Limits, ProtocolError, Replies};
use service::{Client, Next};
use store::{Capacity, Full, Store};

const LIMITS: Limits = Limits::of_arguments(1000);
const CAPACITY: Capacity = Capacity { keys: 100, bytes: 64 << 10 };

fn request(arguments: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        bytes.extend(format!("${}\r\n", argument.len()).into_bytes());
        bytes.extend(*argument);
        bytes.extend(b"\r\n");
    }
    bytes
}

/// All replies to a stream that comes in pieces that end at `cuts`, sent through a buffer of `room` bytes; and whether the
/// connection was closed.
fn talk_through(stream: &[u8], cuts: &[usize], room: usize) -> (Vec<u8>, bool) {
    let mut store = Store::new(CAPACITY, 7);
    let mut client = Client::new(LIMITS);
    let (mut sent, mut room) = (Vec::new(), vec![0; room]);
    let mut from = 0;
    let mut is_closed = false;
    for to in cuts.iter().copied().chain([stream.len()]) {
        let mut piece = &stream[from..to];
        from = to;
        loop {
            let mut replies = Replies::new(&mut room);
            let fed = client.feed(piece, &mut store, &mut replies);
            sent.extend_from_slice(replies.written());
            assert!(!is_closed || replies.written().is_empty(), "a reply behind the end");
            piece = &piece[fed.taken..];
            is_closed |= fed.next == Next::Close;
            match fed.next {
                Next::Room => assert!(!replies.written().is_empty(), "no room from the start"),
                Next::More | Next::Close => break,
            }
        }
        assert!(piece.is_empty(), "{} bytes are left", piece.len());
    }
    (sent, is_closed)
}

fn talk(stream: &[u8]) -> (String, bool) {
    let (sent, is_closed) = talk_through(stream, &[], 1 << 20);
    (String::from_utf8(sent).unwrap(), is_closed)
}

// ---------------------------------------------------------------- the model

/// What a client asks for.
#[derive(Clone, Debug)]
enum Ask {
    Ping,
    Echo(Vec<u8>),
    Get(u8),
    Set(u8, Vec<u8>),
    SetIf(u8, Vec<u8>, bool),
    SetGet(u8, Vec<u8>),
    Delete(Vec<u8>),
    Exists(Vec<u8>),
    Size,
    Clear,
    Line,
    Nothing,
}

fn key(number: u8) -> Vec<u8> {
    format!("key:{:0>1$}", number, 1 + usize::from(number) % 30).into_bytes()
}

impl Ask {
    fn to_wire(&self) -> Vec<u8> {
        match self {
            Self::Ping => request(&[b"PING"]),
            Self::Echo(text) => request(&[b"echo", text]),
            Self::Get(k) => request(&[b"GET", &key(*k)]),
            Self::Set(k, value) => request(&[b"set", &key(*k), value]),
            Self::SetIf(k, value, is_new) => {
                request(&[b"SET", &key(*k), value, if *is_new { b"nx" } else { b"XX" }])
            }
            Self::SetGet(k, value) => request(&[b"SET", &key(*k), value, b"GET"]),
            Self::Delete(keys) | Self::Exists(keys) => {
                let keys: Vec<Vec<u8>> = keys.iter().map(|k| key(*k)).collect();
                let mut arguments: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
                arguments
                    .insert(0, if matches!(self, Self::Delete(_)) { b"DEL" } else { b"EXISTS" });
                request(&arguments)
            }
            Self::Size => request(&[b"DBSIZE"]),
            Self::Clear => request(&[b"FLUSHALL"]),
            Self::Line => b"  get  'key:0' \r\n".to_vec(),
            Self::Nothing => b"*0\r\n*-1\r\n\r\n\n".to_vec(),
        }
    }

    fn answer(&self, map: &mut HashMap<Vec<u8>, Vec<u8>>) -> Vec<u8> {
        let bulk = |value: Option<&Vec<u8>>| {
            let Some(value) = value else { return b"$-1\r\n".to_vec() };
            [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
        };
        let ok = || b"+OK\r\n".to_vec();
        match self {
            Self::Ping => b"+PONG\r\n".to_vec(),
            Self::Echo(text) => bulk(Some(text)),
            Self::Get(k) => bulk(map.get(&key(*k))),
            Self::Set(k, value) => {
                map.insert(key(*k), value.clone());
                ok()
            }
            Self::SetIf(k, value, is_new) => {
                if map.contains_key(&key(*k)) == *is_new {
                    return bulk(None);
                }
                map.insert(key(*k), value.clone());
                ok()
            }
            Self::SetGet(k, value) => bulk(map.insert(key(*k), value.clone()).as_ref()),
            Self::Delete(keys) => {
                let count = keys.iter().filter(|k| map.remove(&key(**k)).is_some()).count();
                format!(":{count}\r\n").into_bytes()
            }
            Self::Exists(keys) => {
                let count = keys.iter().filter(|k| map.contains_key(&key(**k))).count();
                format!(":{count}\r\n").into_bytes()
            }
            Self::Size => format!(":{}\r\n", map.len()).into_bytes(),
            Self::Clear => {
                map.clear();
                ok()
            }
            Self::Line => bulk(map.get(&b"key:0"[..])),
            Self::Nothing => Vec::new(),
        }
    }
}

fn values() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..20),
        1 => prop::collection::vec(any::<u8>(), 0..=1000),
    ]
}

fn asks() -> impl Strategy<Value = Ask> {
    let number = 0..12_u8;
    let numbers = prop::collection::vec(0..12_u8, 1..6);
    prop_oneof![
        1 => Just(Ask::Ping),
        1 => values().prop_map(Ask::Echo),
        6 => number.clone().prop_map(Ask::Get),
        6 => (number.clone(), values()).prop_map(|(k, value)| Ask::Set(k, value)),
        2 => (number.clone(), values(), any::<bool>()).prop_map(|(k, v, new)| Ask::SetIf(k, v, new)),
        2 => (number, values()).prop_map(|(k, value)| Ask::SetGet(k, value)),
        2 => numbers.clone().prop_map(Ask::Delete),
        1 => numbers.prop_map(Ask::Exists),
        1 => Just(Ask::Size),
        1 => Just(Ask::Clear),
        1 => Just(Ask::Line),
        1 => Just(Ask::Nothing),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn replies_are_those_of_the_model_wherever_the_stream_is_cut(
        asks in prop::collection::vec(asks(), 1..40),
        mut cuts in prop::collection::vec(0..20_000_usize, 0..20),
        spare in 0..600_usize,
    ) {
        let stream: Vec<u8> = asks.iter().flat_map(Ask::to_wire).collect();
        let mut map = HashMap::new();
        let wanted: Vec<u8> = asks.iter().flat_map(|ask| ask.answer(&mut map)).collect();
        cuts.iter_mut().for_each(|cut| *cut %= stream.len() + 1);
        cuts.sort_unstable();
        let room = Client::reply_bytes_max(LIMITS) + spare;
        let (sent, is_closed) = talk_through(&stream, &cuts, room);
        prop_assert_eq!(sent.escape_ascii().to_string(), wanted.escape_ascii().to_string());
        prop_assert!(!is_closed);
    }

    #[test]
    fn damaged_streams_are_answered_alike_wherever_they_are_cut(
        asks in prop::collection::vec(asks(), 1..10),
        damage in prop::collection::vec((0..3000_usize, any::<u8>()), 1..4),
        mut cuts in prop::collection::vec(0..3000_usize, 1..20),
    ) {
        let mut stream: Vec<u8> = asks.iter().flat_map(Ask::to_wire).collect();
        for (at, byte) in damage {
            let at = at % stream.len();
            stream[at] = byte;
        }
        cuts.iter_mut().for_each(|cut| *cut %= stream.len() + 1);
        cuts.sort_unstable();
        let room = Client::reply_bytes_max(LIMITS);
        prop_assert_eq!(talk_through(&stream, &cuts, room), talk_through(&stream, &[], room));
    }
}

#[test]
fn every_split_of_every_kind_of_request_is_answered_alike() {
    let asks = [
        Ask::Ping,
        Ask::Set(3, b"0123456789".to_vec()),
        Ask::Nothing,
        Ask::Get(3),
        Ask::Line,
        Ask::Set(40, vec![b'x'; 120]),
        Ask::Delete(vec![3, 4, 40]),
        Ask::Get(3),
    ];
    let mut stream: Vec<u8> = asks.iter().flat_map(Ask::to_wire).collect();
    stream.extend(b"*1\r\n$4\r\nQUIT\r\nPING\r\n");
    let whole = talk_through(&stream, &[], 4096);
    assert!(whole.1 && whole.0.ends_with(b":2\r\n$-1\r\n+OK\r\n"));
    for first in 0..=stream.len() {
        assert_eq!(talk_through(&stream, &[first], 4096), whole, "{first}");
        for width in [1, 2, 3, 9] {
            let cuts = [first, (first + width).min(stream.len())];
            assert_eq!(talk_through(&stream, &cuts, 4096), whole, "{cuts:?}");
        }
    }
    let each: Vec<usize> = (0..stream.len()).collect();
    assert_eq!(talk_through(&stream, &each, 4096), whole);
}

#[test]
fn one_that_comes_next_begins_anew() {
    let mut store = Store::new(CAPACITY, 7);
    let mut client = Client::new(LIMITS);
    for before in [&b"*1\r\n$4\r\nPI"[..], b"*2\r\n$4\r\n", b"QUIT\r\n", b"*x", b"PIN", b""] {
        let mut room = vec![0; 4096];
        let _ended = client.feed(before, &mut store, &mut Replies::new(&mut room));
        client.reset();
        let mut replies = Replies::new(&mut room);
        client.feed(b"*1\r\n$4\r\nPING\r\n", &mut store, &mut replies);
        assert_eq!(replies.written(), b"+PONG\r\n", "{}", before.escape_ascii());
    }
}

// ---------------------------------------------------------------- single requests

#[test]
fn requests_are_answered_as_redis_answers_them() {
    let arity = |name: &str| format!("-ERR wrong number of arguments for '{name}' command\r\n");
    let cases: &[(&[&[u8]], String)] = &[
        (&[b"ping", b"hi"], "$2\r\nhi\r\n".into()),
        (&[b"PING", b"a", b"b"], arity("ping")),
        (&[b"Echo"], arity("echo")),
        (&[b"GET"], arity("get")),
        (&[b"gEt", b"a", b"b"], arity("get")),
        (&[b"SET", b"a"], arity("set")),
        (&[b"DEL"], arity("del")),
        (&[b"SET", b"a", b"b", b"EX", b"10"], "-ERR syntax error\r\n".into()),
        (&[b"SET", b"a", b"b", b"NX", b"XX"], "-ERR syntax error\r\n".into()),
        (&[b"SET", b"a", b"b", b"KEEPTTL"], "+OK\r\n".into()),
        (&[b"CONFIG", b"GET", b"save"], "*2\r\n$4\r\nsave\r\n$0\r\n\r\n".into()),
        (&[b"config", b"get", b"appendonly"], "*2\r\n$10\r\nappendonly\r\n$2\r\nno\r\n".into()),
        (&[b"config", b"get", b"port"], "*0\r\n".into()),
        (&[b"COMMAND", b"DOCS"], "*0\r\n".into()),
        (&[b"SELECT", b"0"], "+OK\r\n".into()),
        (&[b"SELECT", b"1"], "-ERR DB index is out of range\r\n".into()),
        (&[b"HELLO", b"3"], "-NOPROTO unsupported protocol version\r\n".into()),
        (&[b"CLIENT", b"SETINFO", b"x", b"y"], "+OK\r\n".into()),
        (
            &[b"get\0", b"a"],
            "-ERR unknown command 'get', with args beginning with: 'a' \r\n".into(),
        ),
        (&[b"F\r\nx"], "-ERR unknown command 'F  x', with args beginning with: \r\n".into()),
        (&[b""], "-ERR unknown command '', with args beginning with: \r\n".into()),
    ];
    for (arguments, wanted) in cases {
        assert_eq!(talk(&request(arguments)), (wanted.clone(), false), "{arguments:?}");
    }
    let long = [b'x'; 900];
    let (reply, _) = talk(&request(&[&long, &long, &long]));
    assert_eq!(reply.len(), 22 + 128 + 29 + 2 + 128 + 1 + 2);
    let fifty = [b'y'; 50];
    let (reply, _) = talk(&request(&[b"x", &fifty, &fifty, &fifty, &fifty]));
    let [whole, part] = [50, 128 - 2 * 53].map(|length| "y".repeat(length));
    assert!(reply.ends_with(&format!(": '{whole}' '{whole}' '{part}' \r\n")), "{reply}");
}

#[test]
fn what_is_no_request_gets_an_error_and_an_end() {
    let deep = format!("*{}\r\n", ARGS_MAX + 1);
    let long_line = "x".repeat(LINE_BYTES_MAX);
    let many_words = "x ".repeat(ARGS_MAX + 1) + "\r\n";
    let cases: &[(&str, ProtocolError)] = &[
        ("*x\r\n", ProtocolError::Count),
        ("*\r\n", ProtocolError::Count),
        ("*01\r\n", ProtocolError::Count),
        ("*+1\r\n", ProtocolError::Count),
        ("*1 \r\n", ProtocolError::Count),
        ("*1\rx", ProtocolError::Count),
        ("*-0\r\n", ProtocolError::Count),
        ("*99999999999", ProtocolError::Count),
        (&deep, ProtocolError::Count),
        (&many_words, ProtocolError::Count),
        ("*1\r\n+PING\r\n", ProtocolError::NoDollar(b'+')),
        ("*1\r\n\0", ProtocolError::NoDollar(0)),
        ("*1\r\n$-1\r\n", ProtocolError::Length),
        ("*1\r\n$1001\r\n", ProtocolError::Length),
        ("*1\r\n$4294967296\r\n", ProtocolError::Length),
        ("*1\r\n$18446744073709551617\r\n", ProtocolError::Length),
        ("*1\r\n$4\r\nPINGx\n", ProtocolError::NoEnd),
        ("*1\r\n$4\r\nPING\n\n", ProtocolError::NoEnd),
        (&long_line, ProtocolError::Line),
        ("PING 'a\r\n", ProtocolError::Quotes),
        ("PING 'a'b\r\n", ProtocolError::Quotes),
        ("PING a'b\r\n", ProtocolError::Quotes),
        ("PING \"a\\\"\"\r\n", ProtocolError::Quotes),
        ("PING \"a\\n\"\r\n", ProtocolError::Quotes),
    ];
    for (stream, error) in cases {
        let wanted = (format!("+PONG\r\n-ERR Protocol error: {error}\r\n"), true);
        let before = "*1\r\n$4\r\nPING\r\n";
        assert_eq!(talk(format!("{before}{stream}").as_bytes()), wanted, "{stream:?}");
        let behind = format!("{before}{stream}\r\nPING\r\nPING\r\n");
        assert_eq!(talk(behind.as_bytes()), wanted, "{stream:?}");
    }
    let big = [b'x'; 1000];
    let (reply, is_closed) = talk(&request(&[b"DEL", &big, &big, &big, &big, &big, &big]));
    assert_eq!((reply.as_str(), is_closed), ("-ERR Protocol error: too big request\r\n", true));
    let (reply, is_closed) = talk(&request(&[b"DEL", &big, &big, &big, &big]));
    assert_eq!((reply.as_str(), is_closed), (":0\r\n", false));
}

#[test]
fn the_longest_of_everything_fits() {
    let names: Vec<String> = (0..ARGS_MAX - 1).map(|number| number.to_string()).collect();
    let mut arguments: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
    arguments.insert(0, b"EXISTS");
    assert_eq!(talk(&request(&arguments)).0, ":0\r\n");
    let line = format!("PING {}\n", "x".repeat(LINE_BYTES_MAX - 6));
    assert_eq!(talk(line.as_bytes()).0, format!("$1018\r\n{}\r\n", &line[5..1023]));
    let big = [b'x'; 1000];
    let stream = request(&[b"SET", &big, &big]);
    for cut in [1, 500, 1500, stream.len() - 1] {
        let room = Client::reply_bytes_max(LIMITS);
        assert_eq!(talk_through(&stream, &[cut], room), (b"+OK\r\n".to_vec(), false));
    }
}

#[test]
fn a_full_store_says_so_and_keeps_what_it_has() {
    let mut stream = Vec::new();
    for number in 0..101 {
        stream.extend(request(&[b"SET", format!("{number}").as_bytes(), b"v"]));
    }
    stream.extend(request(&[b"SET", b"new", b"v", b"GET"]));
    stream.extend(request(&[b"SET", b"99", b"w", b"GET"]));
    stream.extend(request(&[b"DBSIZE"]));
    let (replies, is_closed) = talk(&stream);
    let refused = "-OOM command not allowed when used memory > 'maxmemory'.\r\n";
    let wanted = "+OK\r\n".repeat(100) + refused + refused + "$1\r\nv\r\n:100\r\n";
    assert_eq!((replies, is_closed), (wanted, false));
}

// ---------------------------------------------------------------- the store

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Few places and little memory, so that everything collides, moves and runs out.
    #[test]
    fn a_store_is_a_map_until_it_is_full(
        seed in any::<u64>(),
        acts in prop::collection::vec((0..5_u8, 0..40_u8, 0..300_usize), 1..400),
    ) {
        let capacity = Capacity { keys: 24, bytes: 6 << 10 };
        let mut store = Store::new(capacity, seed);
        let mut map: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
        for (act, number, length) in acts {
            let key = key(number);
            let value = vec![number; length];
            match act {
                0..=2 => match store.set(&key, &value) {
                    Ok(is_new) => {
                        prop_assert_eq!(map.insert(key, value).is_none(), is_new);
                        prop_assert!(map.len() <= 24);
                    }
                    Err(Full) => {
                        let used: usize = map.values().map(|value| value.len() + 64 + 34).sum();
                        let is_full = map.len() == 24 || used + length > 1 << 10;
                        prop_assert!(is_full, "{} bytes of {}", used, capacity.bytes);
                    }
                },
                3 => prop_assert_eq!(store.remove(&key), map.remove(&key).is_some()),
                _ => prop_assert_eq!(store.contains(&key), map.contains_key(&key)),
            }
            prop_assert_eq!(store.len(), map.len());
            for number in 0..40 {
                let key = self::key(number);
                prop_assert_eq!(store.get(&key), map.get(&key).map(Vec::as_slice));
            }
        }
    }
}

#[test]
fn what_is_removed_can_be_stored_again() {
    let mut store = Store::new(Capacity { keys: 1000, bytes: 64 * 100 }, 1);
    for round in 0..50 {
        for number in 0..100_u32 {
            assert_eq!(store.set(&number.to_le_bytes(), &[0; 60]), Ok(true), "round {round}");
        }
        assert_eq!(store.set(b"more", b""), Err(Full));
        assert_eq!(store.set(&7_u32.to_le_bytes(), &[0; 61]), Err(Full), "it needs two");
        assert_eq!(store.get(&7_u32.to_le_bytes()), Some(&[0; 60][..]));
        if round % 7 == 0 {
            store.clear();
        }
        for number in 0..100_u32 {
            assert_eq!(store.remove(&number.to_le_bytes()), round % 7 != 0);
        }
    }
}

#[test]
fn a_value_that_changes_its_length_leaves_nothing_behind() {
    let mut store = Store::new(Capacity { keys: 4, bytes: 4096 }, 1);
    let value = [7; 1000];
    for round in 0..1000 {
        let length = round * 37 % 1000;
        assert_eq!(store.set(b"grows", &value[..length]), Ok(round == 0), "{round}");
        assert_eq!(store.get(b"grows"), Some(&value[..length]));
    }
}

#[test]
fn short_values_go_where_long_ones_were() {
    let mut store = Store::new(Capacity { keys: 1000, bytes: 64 * 100 }, 1);
    for number in 0..25_u32 {
        assert_eq!(store.set(&number.to_le_bytes(), &[0; 250]), Ok(true));
    }
    assert_eq!(store.set(b"more", b""), Err(Full));
    for number in 0..25_u32 {
        assert!(store.remove(&number.to_le_bytes()));
    }
    for number in 0..25_u32 {
        assert_eq!(store.set(&number.to_le_bytes(), b"short"), Ok(true));
    }
    assert_eq!(store.set(b"more", b""), Err(Full));
    assert!((0..25_u32).all(|number| store.get(&number.to_le_bytes()) == Some(b"short")));
}

#[test]
fn other_seeds_spread_keys_otherwise() {
    let mut places = [0; 2];
    for (seed, place) in (1..).zip(&mut places) {
        let mut store = Store::new(Capacity { keys: 4000, bytes: 1 << 20 }, seed);
        for number in 0..4000_u32 {
            store.set(format!("key:{number:012}").as_bytes(), b"").unwrap();
        }
        // With three quarters of all places taken, a hash that spreads needs few steps.
        *place = store.steps();
        assert!(*place < 4 * 4000, "{place} steps for 4000 keys");
    }
    assert_ne!(places[0], places[1]);
}
