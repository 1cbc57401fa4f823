//! Endpoints of datagrams: addresses packet by packet, what is cut, what is lost. Over the providers that the environment names.
//!
//! ```text
//!   SPINWIRE_TEST_DGRAM_PROVIDERS=udp,ofi                                  which; udp where it says nothing
//!   SPINWIRE_TEST_DGRAM_HINTS='udp:cq_size=64,av_count=8;ofi:cq_format=data'   how, in the words of fi_cq(3) and fi_av(3)
//! ```
//!
//! | hint | values | what it does here |
//! |---|---|---|
//! | `cq_format` | `context` `msg` `data` `tagged` | so much of each completion is looked at |
//! | `cq_wait` | `none` `yield` | between two turns |
//! | `cq_size` | a number | receives that can be posted |
//! | `av_type` | `table` | addresses are rows of a table |
//! | `av_count` | a number | rows of it |
//!
//! `ofi` is its provider `udp`. That does not say what the kernel has dropped: there losses are not looked for.

use std::collections::BTreeMap;

use spinwire_dataplane::msg::{RecvFrom, SendTo};
use spinwire_dataplane::provider::{Caps, EndpointType, Status};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_hostshim::clock::TscClock;
use spinwire_hostshim::discover::{Hints, Sizes, Transport, discover};
use spinwire_hostshim::open::{AnyPort, Host, OpenConfig, Seat};
use spinwire_hostshim::uri::Uri;

use crate::{Any, message, send, until};

/// How much of a completion is looked at: each format has what those before it have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Format {
    Context,
    Msg,
    Data,
    Tagged,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DgramHints {
    format: Format,
    cq_size: u32,
    av_count: u32,
}

impl DgramHints {
    const DEFAULT: Self = Self { format: Format::Tagged, cq_size: 64, av_count: 8 };

    /// `key=value,key=value`.
    fn read(text: &str) -> Result<Self, String> {
        let mut hints = Self::DEFAULT;
        for hint in text.split(',').filter(|hint| !hint.is_empty()) {
            let (key, value) =
                hint.split_once('=').ok_or_else(|| format!("{hint:?}: write KEY=VALUE"))?;
            let number = || match value.parse() {
                Ok(number @ 1..=65_536) => Ok(number),
                _ => Err(format!("{key}: {value:?} is no number from 1 to 65536")),
            };
            match (key, value) {
                ("cq_format", "context") => hints.format = Format::Context,
                ("cq_format", "msg") => hints.format = Format::Msg,
                ("cq_format", "data") => hints.format = Format::Data,
                ("cq_format", "tagged") => hints.format = Format::Tagged,
                ("cq_wait", "none" | "yield") | ("av_type", "table") => {}
                ("cq_size", _) => hints.cq_size = number()?,
                ("av_count", _) => hints.av_count = number()?,
                ("cq_format", _) => {
                    return Err(format!("cq_format: {value:?}; take context, msg, data or tagged"));
                }
                ("cq_wait", _) => {
                    return Err(format!(
                        "cq_wait: {value:?}; these endpoints are polled: take none or yield"
                    ));
                }
                ("av_type", _) => {
                    return Err(format!("av_type: {value:?}; addresses are rows: take table"));
                }
                _ => {
                    return Err(format!(
                        "{key:?}: take cq_format, cq_wait, cq_size, av_type or av_count"
                    ));
                }
            }
        }
        Ok(hints)
    }

    const fn sizes(&self, message_bytes: usize) -> Sizes {
        Sizes {
            message_bytes: Some(message_bytes),
            peers: Some(self.av_count),
            send_depth: None,
            recv_depth: Some(self.cq_size),
        }
    }
}

/// The providers, with a hint each. What is not understood ends the tests: nobody should believe that it was run.
fn read(providers: &str, hints: &str) -> Result<Vec<(Transport, DgramHints)>, String> {
    let mut of = BTreeMap::new();
    for each in hints.split(';').filter(|each| !each.is_empty()) {
        let (provider, hints) =
            each.split_once(':').ok_or_else(|| format!("{each:?}: write PROVIDER:KEY=VALUE"))?;
        of.insert(provider, DgramHints::read(hints).map_err(|e| format!("{provider}: {e}"))?);
    }
    let names = if providers.is_empty() { "udp" } else { providers };
    let read = names.split(',').map(|name| match Transport::of_name(name) {
        Some(transport) => Ok((transport, of.remove(name).unwrap_or(DgramHints::DEFAULT))),
        None => Err(format!("{name:?} is no provider; take of udp, verbs, ofi")),
    });
    let read = read.collect::<Result<Vec<_>, _>>()?;
    match of.keys().next() {
        Some(other) => Err(format!("{other:?} has hints and is not among the providers")),
        None => Ok(read),
    }
}

/// Runs `test` over each provider that was asked for.
fn each(test: impl Fn(&Uri, &DgramHints)) {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let asked =
        read(&variable("SPINWIRE_TEST_DGRAM_PROVIDERS"), &variable("SPINWIRE_TEST_DGRAM_HINTS"));
    for (transport, hints) in asked.unwrap() {
        let found = discover(&Hints::only(&[transport]));
        if !found.iter().any(|found| found.supports_endpoint_type(EndpointType::Dgram)) {
            let why: Vec<String> = found
                .iter()
                .map(|it| match &it.offer {
                    Ok(_) => it.to_string(),
                    Err(absence) => format!("{it}: {absence}"),
                })
                .collect();
            println!("!! NOT RUN: datagrams over {transport}: {}", why.join("; "));
            continue;
        }
        let uri = match transport {
            Transport::Udp => "udp://127.0.0.1:0",
            Transport::Ofi => "ofi://udp/127.0.0.1:0/hub",
            Transport::Shm | Transport::Tcp | Transport::Verbs | Transport::Mlx5 => {
                panic!("a test over {transport} needs an address of it here")
            }
        };
        println!("datagrams over {uri}");
        test(&uri.parse().unwrap(), &hints);
    }
}

/// What goes with a packet, where the provider has such: a tag, immediate data.
const fn labelled(caps: Caps, to: SendTo, number: u64) -> SendTo {
    let to = if caps.has(Caps::TAGGED) { to.tag(number) } else { to };
    if caps.has(Caps::IMMEDIATE) { to.immediate(number + 7) } else { to }
}

/// A client beside the hub: asks, and is answered.
fn ask((seat, at): (&Seat<'_>, &Uri), number: u64) {
    let client = seat.endpoint().unwrap();
    let peer = seat.connect(&client, at, &TscClock::calibrate()).unwrap();
    let answers = LoanPool::place(seat.bump(), 1, 1024).unwrap();
    let (caps, from) = (client.info().caps, RecvFrom::any());
    let from = if caps.has(Caps::DIRECTED_RECV) { RecvFrom::peer(peer) } else { from };
    let from = if caps.has(Caps::TAGGED) { from.tag(number) } else { from };
    client.post_recv(from, answers.lend().unwrap(), 41).unwrap();
    send(&client, labelled(caps, SendTo::peer(peer), number), &[7; 100], &[&client]);
    let answer = message(&client, &[&client]);
    assert_eq!(
        (answer.context, answer.source, answer.bytes()),
        (41, Some(peer), Some(&b"answer"[..]))
    );
}

/// Each asks and is answered, so that loss would be seen as such: nothing is under way beside it.
#[test]
fn each_packet_names_its_sender_and_goes_where_it_is_sent() {
    each(|uri, hints| {
        let sizes = hints.sizes(1024);
        let mut hub =
            Host::open(uri, EndpointType::Dgram, &OpenConfig::listen().with_sizes(sizes)).unwrap();
        let at = hub.uri();
        let seat = hub.seat().unwrap();
        let server = seat.endpoint().unwrap();
        let caps = server.info().caps;
        let buffers = LoanPool::place(seat.bump(), hints.cq_size.min(4), 1024).unwrap();
        let any = RecvFrom::any();
        let any = if caps.has(Caps::TAGGED) { any.tag_ignoring(0, u64::MAX) } else { any };
        let mut sources = Vec::new();
        std::thread::scope(|scope| {
            // In one thread nobody turns the hub while somebody connects to it.
            let clients = scope.spawn(|| {
                let config = OpenConfig::connect().with_sizes(sizes);
                let open = || Host::open(&at, EndpointType::Dgram, &config).unwrap();
                let (mut one, mut two) = (open(), open());
                let seats = [one.seat().unwrap(), two.seat().unwrap()];
                // Both stay until both were answered.
                (1..).zip(&seats).for_each(|(number, seat)| ask((seat, &at), number));
            });
            for number in 1..=2 {
                server.post_recv(any, buffers.lend().unwrap(), 40).unwrap();
                let asked = message(&server, &[&server]);
                assert_eq!((asked.context, asked.status), (40, Status::Success));
                if hints.format >= Format::Msg {
                    assert_eq!(asked.bytes(), Some(&[7; 100][..]));
                }
                if hints.format >= Format::Data {
                    assert_eq!(asked.immediate, caps.has(Caps::IMMEDIATE).then_some(number + 7));
                }
                if hints.format >= Format::Tagged {
                    assert_eq!(asked.tag, caps.has(Caps::TAGGED).then_some(number));
                }
                let source = asked.source.unwrap();
                let to = labelled(caps, SendTo::peer(source), number);
                send(&server, to, b"answer", &[&server]);
                sources.push(source);
            }
            until("both were answered", &[&server], || clients.is_finished().then_some(()));
            clients.join().unwrap();
        });
        assert_ne!(sources[0], sources[1], "a row for each sender");
    });
}

#[test]
fn what_is_cut_and_what_is_lost_is_told() {
    each(|uri, hints| {
        let config = OpenConfig::listen().with_sizes(hints.sizes(1024));
        let mut hub = Host::open(uri, EndpointType::Dgram, &config).unwrap();
        let at = hub.uri();
        let seat = hub.seat().unwrap();
        let server = seat.endpoint().unwrap();
        let short = LoanPool::place(seat.bump(), 1, 64).unwrap();
        // More than the queue of unexpected messages holds, and nobody asks.
        let AnyPort::Udp(port) = server.provider() else {
            return is_cut((&server, short), &at, 0);
        };
        is_cut((&server, short), &at, server.info().limits.unexpected_depth * 2);
        until("losses are counted", &[&server], || {
            let counters = port.counters();
            (counters.unasked + counters.overflowed > 0).then_some(())
        });
    });
}

/// A packet that is longer than its receive, and behind it others that nobody asks for.
fn is_cut<'a>((server, short): (&Any<'a>, &'a LoanPool<'a>), at: &Uri, others: u32) {
    server.post_recv(RecvFrom::any(), short.lend().unwrap(), 1).unwrap();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut host = Host::open(at, EndpointType::Dgram, &OpenConfig::connect()).unwrap();
            let seat = host.seat().unwrap();
            let client = seat.endpoint().unwrap();
            let peer = seat.connect(&client, at, &TscClock::calibrate()).unwrap();
            send(&client, SendTo::peer(peer), &[9; 500], &[&client]);
            for _ in 0..others {
                send(&client, SendTo::peer(peer).tag(1), &[1; 16], &[&client]);
            }
        });
        let cut = message(server, &[server]);
        assert_eq!((cut.status, cut.length), (Status::Truncated, 64));
        until("all are sent", &[server], || client.is_finished().then_some(()));
        client.join().unwrap();
    });
}

/// Says to a child that it is one.
#[cfg(feature = "libfabric")]
const CHILD: &str = "SPINWIRE_TEST_DGRAM_CHILD";

/// What the environment names is run: `udp` of libfabric beside our own.
#[cfg(feature = "libfabric")]
#[test]
fn providers_that_the_environment_names_are_run() {
    if std::env::var_os(CHILD).is_some() {
        return;
    }
    let ran = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["datagrams::", "--nocapture"])
        .env(CHILD, "")
        .env("SPINWIRE_TEST_DGRAM_PROVIDERS", "ofi")
        .env("SPINWIRE_TEST_DGRAM_HINTS", "ofi:cq_size=32,av_count=4,cq_wait=yield,cq_format=data")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && !out.contains("NOT RUN: datagrams"), "{out}{err}");
    assert_eq!(out.matches("datagrams over ofi://udp/").count(), 2, "{out}");
}

#[test]
fn hints_are_read_and_what_is_none_is_named() {
    let hints =
        read("udp,ofi", "udp:cq_size=16,av_count=4,cq_wait=none;ofi:cq_format=data,av_type=table")
            .unwrap();
    assert_eq!(
        hints[0],
        (Transport::Udp, DgramHints { format: Format::Tagged, cq_size: 16, av_count: 4 })
    );
    assert_eq!(hints[1].1.format, Format::Data);
    assert_eq!(read("", "").unwrap(), [(Transport::Udp, DgramHints::DEFAULT)]);
    for (providers, hints, says) in [
        ("efa", "", "\"efa\" is no provider"),
        ("udp", "ofi:cq_size=1", "\"ofi\" has hints"),
        ("udp", "udp:cq_size=0", "udp: cq_size: \"0\""),
        ("udp", "udp:cq_format=all", "take context, msg, data or tagged"),
        ("udp", "udp:cq_wait=fd", "cq_wait: \"fd\""),
        ("udp", "udp:av_type=map", "take table"),
        ("udp", "udp:depth=1", "take cq_format, cq_wait, cq_size, av_type or av_count"),
        ("udp", "cq_size=1", "write PROVIDER:KEY=VALUE"),
    ] {
        let e = read(providers, hints).unwrap_err();
        assert!(e.contains(says), "{e}");
    }
}
