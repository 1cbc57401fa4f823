//! `spinwire providers`: what endpoints this machine can open, ranked by what a program asks for.

use std::time::Instant;

use serde::Serialize;
use spinwire_dataplane::provider::{Info, Order, Reliability};
use spinwire_hostshim::discover::{Found, Hints, Sizes, discover};
use spinwire_hostshim::negotiate::{Choice, Peer, Plan, Rejected, Requirements, negotiate};
use spinwire_hostshim::uri::{Transport, Uri};

use super::ps::table::{Lean, Table, bytes, json, plain, wrapped};
use crate::arguments;
use crate::report::{Failure, Verdict, emit};

/// What `spinwire providers` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A provider moves messages; an endpoint of it is of one type:
  rdm    any number of peers, nothing lost, each peer's messages in order
  msg    one peer, connected; else the same
  dgram  any number of peers, a packet a message, nothing promised
What else can be asked for is what it can do: message, tagged, inject, immediate, directed-recv, multi-recv, source, peek,
cancel, parcel (buffers of a pool, uncopied), .. and `ordered`.

Examples:
  spinwire providers
      everything, and what is absent for which reason
  spinwire providers --need tagged,rdm
      a ranked plan: what a program that asks for that gets
  spinwire providers --need rdm,msg --message 1m
      RDM where there is any, else MSG; messages of 1 MiB
  spinwire providers --peer tcp://otherhost:7000 --peer shm://market
  spinwire providers --need tagged --json | jq -r '.plan[0].provider'

The order is: the type, as asked for; then shared memory before devices before the kernel. A program that takes the same
way calls `negotiate(&requirements, &discover(&hints))` and goes along the plan until something opens. Nothing is opened
here. Libfabric (ofi), which takes 0.3 s to be loaded, is asked where --only names it; else what it is known to offer is told,
if that is known of the version that is here, and there is no device for it. Lengths are those of endpoints with default sizes, or made for --message.

Exit codes: 0 something fulfils all that was asked for, 1 nothing does, 2 the question was not understood.")]
pub(crate) struct Args {
    /// What a program needs, words with commas between them: types (the best first), capabilities, `ordered`.
    #[arg(long, value_name = "LIST", default_value = "")]
    need: Requirements,

    /// The longest message that it sends, in bytes, with an optional k or m.
    #[arg(long, value_name = "BYTES", value_parser = arguments::size)]
    message: Option<usize>,

    /// The longest message whose buffer has to be free at once, likewise.
    #[arg(long, value_name = "BYTES", value_parser = arguments::size)]
    inject: Option<usize>,

    /// Where the peer is found; several times for one that is found at several addresses.
    #[arg(long, value_name = "URI")]
    peer: Vec<Uri>,

    /// Look at these only: shm, tcp, udp, verbs, mlx5, ofi.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = transport)]
    only: Vec<Transport>,

    /// Print JSON for machines.
    #[arg(long)]
    json: bool,
}

fn transport(text: &str) -> Result<Transport, String> {
    Transport::of_name(text).ok_or_else(|| {
        let all = Transport::ALL.map(Transport::as_str).join(", ");
        format!("{text:?} is no transport; take of {all}")
    })
}

#[derive(Serialize)]
struct Report {
    /// Microseconds that discovery and negotiation have taken.
    took_us: u64,
    plan: Vec<Ranked>,
    rejected: Vec<Refused>,
    /// Addresses that lead to nothing here, each with what to do about it.
    unknown: Vec<String>,
}

#[derive(Serialize)]
struct Ranked {
    rank: usize,
    provider: &'static str,
    device: Option<String>,
    uri: Option<String>,
    #[serde(flatten)]
    info: Shown,
    reasons: Vec<String>,
}

#[derive(Serialize)]
struct Shown {
    endpoint_type: String,
    capabilities: Vec<&'static str>,
    modes: Vec<&'static str>,
    latency: &'static str,
    reliable: bool,
    ordered: bool,
    message_bytes_max: usize,
    inject_bytes_max: usize,
    immediate_bits: u8,
    parts_max: u32,
    send_depth: u32,
    recv_depth: u32,
    peers_max: u32,
}

#[derive(Serialize)]
struct Refused {
    provider: &'static str,
    device: Option<String>,
    endpoint_type: Option<String>,
    absent: bool,
    unmet: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Shown {
    fn of(info: &Info) -> Self {
        let limits = &info.limits;
        Self {
            endpoint_type: info.endpoint_type.to_string(),
            capabilities: info.caps.names().collect(),
            modes: info.modes.names().collect(),
            latency: info.latency.as_str(),
            reliable: info.reliability == Reliability::Reliable,
            ordered: info.order == Order::PerPeer,
            message_bytes_max: limits.message_bytes_max,
            inject_bytes_max: limits.inject_bytes_max,
            immediate_bits: info.immediate_bits,
            parts_max: limits.sge_max,
            send_depth: limits.send_depth,
            recv_depth: limits.recv_depth,
            peers_max: limits.peers_max,
        }
    }
}

impl Ranked {
    fn of((index, choice): (usize, &Choice)) -> Option<Self> {
        Some(Self {
            rank: index + 1,
            provider: choice.found.transport.as_str(),
            device: choice.found.device.clone(),
            uri: choice.uri.as_ref().map(Uri::to_string),
            info: Shown::of(choice.found.info()?),
            reasons: choice.reasons.iter().map(ToString::to_string).collect(),
        })
    }
}

impl Refused {
    fn of(rejected: &Rejected) -> Self {
        let Rejected { found, unmet, remedies } = rejected;
        Self {
            provider: found.transport.as_str(),
            device: found.device.clone(),
            endpoint_type: found.info().map(|info| info.endpoint_type.to_string()),
            absent: found.offer.is_err(),
            unmet: unmet.iter().map(ToString::to_string).collect(),
            remedy: (!remedies.is_empty()).then(|| remedies.join("; and ")),
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<Verdict, Failure> {
    let mut wanted = args.need.clone();
    wanted.message_bytes = args.message.unwrap_or(0);
    wanted.inject_bytes = args.inject.unwrap_or(0);
    if !args.peer.is_empty() {
        wanted.peer = Peer::At(args.peer.clone());
    }
    let longest = args.message.max(args.inject);
    let sizes = Sizes { message_bytes: longest, ..Sizes::default() };
    let began = Instant::now();
    let mut only = args.only.clone();
    if only.is_empty() && wanted.excludes(Transport::Ofi) {
        // To be asked what it has takes libfabric longer than all others together.
        only = Transport::ALL.into_iter().filter(|it| *it != Transport::Ofi).collect();
    }
    let found = discover(&Hints::only(&only).with_sizes(sizes));
    let plan = negotiate(&wanted, &found);
    let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    if args.json {
        let report = Report {
            took_us,
            plan: plan.choices.iter().enumerate().filter_map(Ranked::of).collect(),
            rejected: plan.rejected.iter().map(Refused::of).collect(),
            unknown: plan.unknown.iter().map(ToString::to_string).collect(),
        };
        emit(&json(&report)?)?;
    } else {
        emit(&in_words(&plan, took_us))?;
    }
    Ok(if plan.choices.is_empty() { Verdict::NotWell } else { Verdict::Well })
}

/// Tables of what can be had and of what cannot.
fn in_words(plan: &Plan, took_us: u64) -> String {
    let mut text = String::new();
    if plan.choices.is_empty() {
        text += "nothing here fulfils that\n";
    } else {
        text += &ranked(plan);
    }
    let rejected = |is_absent: bool| {
        let those = plan.rejected.iter().filter(|it| it.found.offer.is_err() == is_absent);
        those.map(|it| format!("  {}\n", plain(&it.to_string()))).collect::<String>()
    };
    let unknown = plan.unknown.iter().map(|it| format!("  {}\n", plain(&it.to_string()))).collect();
    let parts = [("rejected", rejected(false)), ("absent", rejected(true)), ("unknown", unknown)];
    for (title, lines) in parts {
        if !lines.is_empty() {
            text += &format!("{title}:\n{lines}");
        }
    }
    text + &format!("found and ranked in {took_us} us; nothing was opened\n")
}

/// What stands below a line of figures.
const BELOW: &str = "     ";

/// A line of figures for each, and below it why it stands there and what it can do.
fn ranked(plan: &Plan) -> String {
    let mut table = Table::new(&[
        ("", Lean::Right),
        ("PROVIDER", Lean::Left),
        ("TYPE", Lean::Left),
        ("MESSAGE", Lean::Right),
        ("INJECT", Lean::Right),
        ("PEERS", Lean::Right),
    ]);
    let mut below = Vec::new();
    let length = |count: usize| bytes(u64::try_from(count).unwrap_or(u64::MAX));
    for (index, choice) in plan.choices.iter().enumerate() {
        let Some(info) = choice.found.info() else { continue };
        table.row([
            (index + 1).to_string(),
            name(&choice.found),
            info.endpoint_type.to_string(),
            length(info.limits.message_bytes_max),
            length(info.limits.inject_bytes_max),
            info.limits.peers_max.to_string(),
        ]);
        let mut reasons: Vec<String> = choice.reasons.iter().map(ToString::to_string).collect();
        reasons.extend(choice.uri.as_ref().map(|uri| format!("at {uri}")));
        below.push([reasons.join(", "), capabilities(info)]);
    }
    let mut text = String::new();
    let mut below = below.iter();
    for (at, line) in table.text("").lines().enumerate() {
        text += &format!("{line}\n");
        let words = if at == 0 { None } else { below.next() };
        words.into_iter().flatten().for_each(|words| text += &wrapped(BELOW, &plain(words)));
    }
    text
}

fn name(found: &Found) -> String {
    let device = found.device.as_ref().map_or_else(String::new, |device| format!(" {device}"));
    format!("{}{device}", found.transport)
}

/// All of them would be as wide as a screen.
fn capabilities(info: &Info) -> String {
    let usual = |name: &str| matches!(name, "message" | "inject" | "source" | "peek" | "cancel");
    let names: Vec<&str> = info.caps.names().filter(|name| !usual(name)).collect();
    names.join(" ")
}
