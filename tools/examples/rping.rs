//! The game of `rping` of rdma-core, as either end of it: connected through librdmacm; who calls offers memory, which who listens reads and then writes.
//!
//! `cargo run --example rping --features verbs -- serve 10.77.0.1`, and at the other end `rping -c -a 10.77.0.1 -C 10 -V`; or
//! `rping -s -a 10.77.0.1`, and `.. -- call 10.77.0.1 [FROM]`.
#![allow(clippy::arithmetic_side_effects, clippy::print_stdout, reason = "an example")]

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::rc::Rc;
use std::{env, time::Instant};

use spinwire_dataplane::id::WrId;
use spinwire_dataplane::raw::line::{copy_in, copy_out};
use spinwire_dataplane::verbs::{
    CompletionQueue as _, QueuePair as _, RecvRequest, RemotePlace, Segment, SendRequest, Verb, Wc,
    WcStatus,
};
use spinwire_hostshim::error::InWords;
use spinwire_hostshim::verbs::{
    Access, CmChannel, CmNews, CompletionQueue, ConnectConfig, Link, LocalKey, Pair, PairConfig,
    PairKind, ProtectionDomain, Region,
};

const PORT: u16 = 7174;
const ROUNDS: u32 = 10;
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that who calls offers.
const BYTES: u32 = 64;
/// Bytes that who listens reads at most.
const BYTES_MAX: u32 = 65536;
const SEND: WrId = WrId::from_raw(1);
const RECV: WrId = WrId::from_raw(2);

// Where things lie in the region.
const SAID: u64 = 0;
const HEARD: u64 = 64;
const DATA: u64 = 4096;
const BACK: u64 = DATA + 65536;

type Answer<T> = Result<T, InWords>;

/// A pair, with what it works on.
struct End {
    cq: Rc<CompletionQueue>,
    pair: Pair,
    region: Region,
}

impl AsRef<Pair> for End {
    fn as_ref(&self) -> &Pair {
        &self.pair
    }
}

impl End {
    /// On the device of a connection, with its first receive posted.
    fn open(link: &Link) -> Answer<Self> {
        let device = link.open_device()?;
        let domain = ProtectionDomain::new(&device)?;
        let cq = CompletionQueue::new(&device, 32)?;
        let config = PairConfig {
            send_depth: 8,
            recv_depth: 2,
            port: link.port().unwrap_or(1),
            ..PairConfig::default()
        };
        let pair = Pair::new(&domain, PairKind::Rc, (&cq, &cq), &config)?;
        let region = domain.register(1 << 18, Access::REMOTE)?;
        link.prepare(&pair, &how())?;
        let end = Self { cq, pair, region };
        end.listen_for_one()?;
        Ok(end)
    }

    fn segment(&self, at: u64, length: u32) -> Answer<[Segment<LocalKey>; 1]> {
        Ok([self.region.segment(at, length).ok_or("not inside of the region")?])
    }

    fn put(&self, at: u64, bytes: &[u8]) -> Answer<()> {
        let fits = copy_in(self.region.lines(), usize::try_from(at)?, bytes);
        fits.then_some(()).ok_or_else(|| "not inside of the region".into())
    }

    fn get(&self, at: u64, bytes: &mut [u8]) -> Answer<()> {
        let fits = copy_out(self.region.lines(), usize::try_from(at)?, bytes);
        fits.then_some(()).ok_or_else(|| "not inside of the region".into())
    }

    fn listen_for_one(&self) -> Answer<()> {
        let segments = self.segment(HEARD, 16)?;
        self.pair.post_recv(&RecvRequest { wr_id: RECV, segments: &segments })?;
        let published = self.pair.ring_recv_doorbell();
        published.error.map_or(Ok(()), |e| Err(e.into()))
    }

    /// Posts one, and waits for it.
    fn run(&self, request: &SendRequest<'_, LocalKey>, heard: &mut u32) -> Answer<()> {
        self.pair.post_send(request)?;
        if let Some(e) = self.pair.ring_doorbell().error {
            return Err(e.into());
        }
        while self.turn(heard)? != Some(SEND) {}
        Ok(())
    }

    /// One completion, if there is one. Receives are counted, and posted anew when they have been read.
    fn turn(&self, heard: &mut u32) -> Answer<Option<WrId>> {
        let mut out: heapless::Vec<Wc, 1> = heapless::Vec::new();
        self.cq.poll_cq(&mut out);
        if let Some(e) = self.cq.take_error() {
            return Err(e.into());
        }
        let Some(wc) = out.pop() else { return Ok(None) };
        let came = match wc.outcome() {
            Err((WcStatus::FLUSHED, _)) => return Err("the other end has gone".into()),
            other => other.map_err(|(status, vendor)| format!("{status} ({vendor:#x})"))?,
        };
        if wc.wr_id() == RECV {
            if came.bytes != 16 {
                return Err(format!("{} bytes, where rping sends 16", came.bytes).into());
            }
            *heard += 1;
        }
        Ok(Some(wc.wr_id()))
    }

    /// Says where memory of this end lies: address, key and size in network order.
    fn say(&self, at: u64, length: u32, heard: &mut u32) -> Answer<()> {
        let key = self.region.remote_key();
        let address = (key.address + at).to_be_bytes();
        let mut said = [0; 16];
        for (to, byte) in said
            .iter_mut()
            .zip(address.into_iter().chain(key.rkey.to_be_bytes()).chain(length.to_be_bytes()))
        {
            *to = byte;
        }
        self.put(SAID, &said)?;
        self.run(&SendRequest::new(SEND, Verb::Send, &self.segment(SAID, 16)?), heard)
    }

    /// What the other end has said.
    fn hear(&self) -> Answer<(RemotePlace, u32)> {
        let mut bytes = [0; 16];
        self.get(HEARD, &mut bytes)?;
        let number = u128::from_be_bytes(bytes);
        let address = u64::try_from(number >> 64)?;
        let (key, length) =
            (u32::try_from(number >> 32 & 0xffff_ffff)?, u32::try_from(number & 0xffff_ffff)?);
        Ok((RemotePlace { address, key }, length))
    }

    /// Waits for word of the other end; `None` where it has disconnected instead.
    fn wait(&self, channel: &CmChannel, heard: &mut u32) -> Answer<Option<(RemotePlace, u32)>> {
        let until = Instant::now() + PATIENCE;
        while *heard == 0 {
            if channel.next_event()?.is_some_and(|event| event.news == CmNews::Disconnected) {
                return Ok(None);
            }
            let _send = self.turn(heard)?;
            if Instant::now() > until {
                return Err("no word from the other end within a minute".into());
            }
        }
        *heard -= 1;
        let said = self.hear()?;
        self.listen_for_one()?;
        Ok(Some(said))
    }
}

fn how() -> ConnectConfig {
    ConnectConfig { reads: 1, retry_count: 7, ..ConnectConfig::default() }
}

/// Reads what the other end offers, and writes it back where it says.
fn serve(channel: &CmChannel, at: SocketAddr) -> Answer<()> {
    let listener = channel.listen(at, 1)?;
    println!("listening at {at}");
    let first = |link: &Link, _: &_| Answer::Ok((End::open(link)?, Vec::new()));
    let (link, end) = channel.answer(&listener, &how(), PATIENCE, first)?;
    let (mut heard, mut rounds) = (0, 0);
    while let Some((from, length)) = end.wait(channel, &mut heard)? {
        if length > BYTES_MAX {
            return Err(format!("{length} bytes are more than {BYTES_MAX}").into());
        }
        let data = end.segment(DATA, length)?;
        end.run(&SendRequest::new(SEND, Verb::Read, &data).at(from), &mut heard)?;
        end.say(DATA, length, &mut heard)?;
        let Some((to, _)) = end.wait(channel, &mut heard)? else { break };
        end.run(&SendRequest::new(SEND, Verb::Write, &data).at(to), &mut heard)?;
        end.say(DATA, length, &mut heard)?;
        rounds += 1;
    }
    link.disconnect(&end.pair)?;
    println!("{rounds} rounds served");
    Ok(())
}

/// Offers a text, and compares what comes back.
fn call(channel: &CmChannel, to: SocketAddr, from: Option<IpAddr>) -> Answer<()> {
    let (link, end, _data) = channel.call((from, to), (&how(), &[]), PATIENCE, End::open)?;
    let mut heard = 0;
    for round in 0..ROUNDS {
        // Text that ends with a zero: the other end writes back no more than that.
        let mut text = format!("rdma-ping-{round}: {}", "spinwire ".repeat(8)).into_bytes();
        text.truncate(usize::try_from(BYTES)? - 1);
        text.push(0);
        end.put(DATA, &text)?;
        end.say(DATA, BYTES, &mut heard)?;
        end.wait(channel, &mut heard)?.ok_or("disconnected")?;
        end.say(BACK, BYTES, &mut heard)?;
        end.wait(channel, &mut heard)?.ok_or("disconnected")?;
        let mut back = vec![0; text.len()];
        end.get(BACK, &mut back)?;
        if back != text {
            return Err(format!("round {round}: {back:?} has come back").into());
        }
    }
    link.disconnect(&end.pair)?;
    println!("{ROUNDS} rounds of {BYTES} bytes");
    Ok(())
}

fn main() -> Answer<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let channel = CmChannel::open()?;
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", at] => serve(&channel, SocketAddr::new(at.parse()?, PORT)),
        ["call", to] => call(&channel, SocketAddr::new(to.parse()?, PORT), None),
        ["call", to, from] => {
            call(&channel, SocketAddr::new(to.parse()?, PORT), Some(from.parse()?))
        }
        _ => Err("say `serve ADDRESS`, or `call ADDRESS [FROM]`".into()),
    }
}
