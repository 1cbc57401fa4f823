//! A small service that speaks the protocol of Redis: GET, SET, DEL, PING and what its clients ask for before they begin.
//!
//! `cargo run --release --example resp tcp://127.0.0.1:7001`, and elsewhere: `redis-benchmark -p 7001 -c 50 -P 16 -t get,set`. Without an
//! address it serves a client of its own, and says how fast parser and store are.
#![allow(clippy::arithmetic_side_effects, reason = "an example")]
#![allow(clippy::large_stack_arrays, clippy::large_stack_frames, reason = "an example")]
#![allow(clippy::print_stdout, reason = "an example")]

use core::hash::BuildHasher as _;
use std::hash::RandomState;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::{env, thread, time::Instant};

mod protocol;
mod service;
mod store;
mod streams;

use protocol::{Limits, Replies};
use service::{Client, Next};
use spinwire_hostshim::error::InWords;
use store::{Capacity, Store};

/// Values of up to 16 KiB.
const LIMITS: Limits = Limits::of_arguments(16 << 10);
const CAPACITY: Capacity = Capacity { keys: 1 << 20, bytes: 128 << 20 };

fn main() -> Result<(), InWords> {
    let mut store = Store::new(CAPACITY, RandomState::new().hash_one(0));
    if let Some(address) = env::args().nth(1) {
        if let Some(cpu) = env::args().nth(2) {
            spinwire_hostshim::affinity::pin(cpu.parse()?)?;
        }
        match streams::serve(&address, &mut store)? {}
    }
    let mut client = Client::new(LIMITS);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let stream = TcpStream::connect(address)?; // before it is accepted: the kernel keeps it
    let asking = thread::spawn(move || ask(stream));
    serve(&listener.accept()?.0, &mut client, &mut store)?;
    println!(
        "client: {} answers",
        asking.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?
    );
    let pairs: Vec<u8> = (0..8).flat_map(pair).collect();
    let (begun, mut room) = (Instant::now(), vec![0; 64 << 10]);
    for _ in 0..20_000 {
        client.feed(&pairs, &mut store, &mut Replies::new(&mut room));
    }
    println!("service: {} ns a request, apart from the wire", begun.elapsed().as_nanos() / 320_000);
    Ok(())
}

/// Serves one client until it is gone.
fn serve(mut stream: &TcpStream, client: &mut Client, store: &mut Store) -> io::Result<()> {
    stream.set_nodelay(true)?;
    client.reset();
    let (mut bytes, mut room) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let count = stream.read(&mut bytes)?;
        let mut piece = bytes.get(..count).unwrap_or_default();
        let mut is_closed = piece.is_empty();
        while !piece.is_empty() && !is_closed {
            let mut replies = Replies::new(&mut room);
            let fed = client.feed(piece, store, &mut replies);
            stream.write_all(replies.written())?;
            piece = piece.get(fed.taken..).unwrap_or_default();
            is_closed = fed.next == Next::Close;
        }
        if is_closed {
            return Ok(());
        }
    }
}

/// A request to store something under a key, and one to get it.
fn pair(number: usize) -> Vec<u8> {
    let (key, value) = (format!("key:{number:012}"), format!("{number:03}"));
    let set = format!("*3\r\n$3\r\nSET\r\n$16\r\n{key}\r\n$3\r\n{value}\r\n");
    format!("{set}*2\r\n$3\r\nGET\r\n$16\r\n{key}\r\n").into_bytes()
}

/// Asks many things at once, and checks every answer.
fn ask(mut server: TcpStream) -> io::Result<usize> {
    for batch in 0..50 {
        let numbers = batch * 20..batch * 20 + 20;
        server.write_all(&numbers.clone().flat_map(pair).collect::<Vec<u8>>())?;
        let wanted: String = numbers.map(|n| format!("+OK\r\n$3\r\n{n:03}\r\n")).collect();
        let mut answers = vec![0; wanted.len()];
        server.read_exact(&mut answers)?;
        assert_eq!(answers, wanted.as_bytes());
    }
    Ok(2000)
}
