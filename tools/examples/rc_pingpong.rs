//! The game of `ibv_rc_pingpong` of rdma-core, as either end of it: cards over TCP in its format, then messages to and fro.
//!
//! `cargo run --example rc_pingpong --features verbs -- rxe0 [HOST]`, and at the other end `ibv_rc_pingpong -d rxe1 -g 1 [HOST]`.
#![allow(clippy::large_stack_frames, reason = "an example")]
#![allow(clippy::arithmetic_side_effects, clippy::print_stdout, reason = "an example")]

use core::time::Duration;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::{env, time::Instant};

use spinwire_dataplane::id::WrId;
use spinwire_dataplane::verbs::{
    CompletionQueue as _, QueuePair as _, RecvRequest, SendRequest, Verb, Wc,
};
use spinwire_hostshim::error::InWords;
use spinwire_hostshim::verbs::{
    Access, Card, CompletionQueue, ConnectConfig, Device, Gid, Mtu, Pair, PairConfig, PairKind,
    ProtectionDomain,
};

const PORT: u16 = 18515;
const BYTES: u32 = 4096;
const ROUNDS: u32 = 1000;
const SEND: WrId = WrId::from_raw(1);
const RECV: WrId = WrId::from_raw(2);

/// `lid:qpn:psn:gid`, in hexadecimal digits, and a zero: 52 bytes.
fn write_card(mut to: &TcpStream, card: &Card) -> Result<(), InWords> {
    let gid: String = card.gid.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!("{:04x}:{:06x}:{:06x}:{gid}\0", card.lid, card.qp_num, card.psn);
    Ok(to.write_all(text.as_bytes())?)
}

fn read_card(mut from: &TcpStream) -> Result<Card, InWords> {
    let mut bytes = [0; 52];
    from.read_exact(&mut bytes)?;
    let text = core::str::from_utf8(&bytes)?.trim_end_matches('\0');
    let parts: Vec<&str> = text.split(':').collect();
    let [lid, qp_num, psn, gid] = parts[..] else { return Err("no card of a pingpong".into()) };
    Ok(Card {
        lid: u16::from_str_radix(lid, 16)?,
        qp_num: u32::from_str_radix(qp_num, 16)?,
        psn: u32::from_str_radix(psn, 16)?,
        gid: Gid::from_bytes(u128::from_str_radix(gid, 16)?.to_be_bytes()),
        mtu: Mtu::B1024, // what the other end takes unless it is told otherwise
    })
}

fn main() -> Result<(), InWords> {
    let mut words = env::args().skip(1);
    let name = words.next().ok_or("say which device: spinwire devices lists them")?;
    let device = Device::open(&name)?;
    let domain = ProtectionDomain::new(&device)?;
    let cq = CompletionQueue::new(&device, 512)?;
    let pair = Pair::new(&domain, PairKind::Rc, (&cq, &cq), &PairConfig::default())?;
    let region = domain.register(1 << 16, Access::LOCAL)?;
    let segments = [region.segment(0, BYTES).ok_or("the region is too small")?];
    let (how, host) = (ConnectConfig { reads: 1, ..ConnectConfig::default() }, words.next());
    let post_recv = || pair.post_recv(&RecvRequest { wr_id: RECV, segments: &segments });
    let ready = |peer: &Card| {
        pair.connect(peer, &how)?;
        (0..64).try_for_each(|_| post_recv())?;
        let published = pair.ring_recv_doorbell();
        published.error.map_or(Ok::<(), InWords>(()), |e| Err(e.into()))
    };
    if let Some(host) = &host {
        let mut stream = TcpStream::connect((host.as_str(), PORT))?;
        write_card(&stream, pair.card())?;
        ready(&read_card(&stream)?)?;
        stream.write_all(b"done\0")?;
    } else {
        let mut stream = TcpListener::bind(("::", PORT))?.accept()?.0;
        ready(&read_card(&stream)?)?;
        write_card(&stream, pair.card())?;
        stream.read_exact(&mut [0; 5])?;
    }
    // Who has connected begins. Each end sends its next message when it has got one, and its last one is done.
    let (mut sent, mut done, mut got) = (0_u32, 0_u32, 0_u32);
    let mut out: heapless::Vec<Wc, 8> = heapless::Vec::new();
    let began = Instant::now();
    while done < ROUNDS || got < ROUNDS {
        let due = if host.is_some() { got + 1 } else { got };
        if sent < due.min(ROUNDS) && sent == done {
            pair.post_send(&SendRequest::new(SEND, Verb::Send, &segments))?;
            sent += u32::try_from(pair.ring_doorbell().count)?;
        }
        cq.poll_cq(&mut out);
        for wc in out.drain(..) {
            let _received =
                wc.outcome().map_err(|(status, vendor)| format!("{status} ({vendor:#x})"))?;
            (done, got) = if wc.wr_id() == SEND { (done + 1, got) } else { (done, got + 1) };
            if wc.wr_id() == RECV {
                post_recv()?;
                let _next = pair.ring_recv_doorbell();
            }
        }
        if began.elapsed() > Duration::from_secs(100) {
            return Err(format!("{got} of {ROUNDS} messages within 100 s").into());
        }
    }
    println!("{ROUNDS} rounds of {BYTES} bytes in {:?}", began.elapsed());
    Ok(())
}
