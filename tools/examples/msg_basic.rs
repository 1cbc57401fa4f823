//! Two connected endpoints: a transport is chosen by what is needed, both are brought up, and a message goes there and back.
//!
//! `cargo run --release --example msg_basic`
#![allow(clippy::large_stack_frames, reason = "an example")]
#![allow(clippy::print_stdout, reason = "an example")]

use std::thread;

use spinwire_dataplane::msg::{Completion, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::{Caps, EndpointType};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_hostshim::discover::{Hints, discover};
use spinwire_hostshim::error::InWords;
use spinwire_hostshim::negotiate::{Requirements, negotiate};
use spinwire_hostshim::open::{OpenConfig, Opened, with};
use spinwire_hostshim::uri::Uri;

type Failure = InWords;

/// What this program asks of its transport: one peer, nothing lost, and the sender named.
fn need() -> Requirements {
    Requirements::default().of_types(&[EndpointType::Msg]).with_caps(Caps::SOURCE)
}

fn main() -> Result<(), Failure> {
    let found = discover(&Hints::default()); // nothing is opened by that
    let plan = negotiate(&need(), &found);
    print!("{plan}");
    let config = OpenConfig::listen(); // without a URI: somewhere on this machine
    with(&plan, &config, |server| {
        println!("server: {server}");
        let uri = server.uri.clone(); // told to the client in some way
        thread::scope(|scope| {
            let client = scope.spawn(move || ask(&uri));
            let served = serve(&server);
            served.and(client.join().map_err(|_panicked| "the client has panicked")?)
        })
    })?
}

/// The end that was connected to: it answers one message.
fn serve(server: &Opened<'_>) -> Result<(), Failure> {
    let buffers = LoanPool::place(server.bump(), 1, 64)?;
    let loan = buffers.lend().ok_or("no buffer")?;
    server.endpoint.post_recv(RecvFrom::any(), loan, 1).map_err(|r| r.error)?;
    let question = next(server);
    let client = question.source.ok_or("nobody has sent it")?;
    println!("server: {:?}", question.bytes().map(String::from_utf8_lossy));
    server.endpoint.inject(SendTo::peer(client), b"well, thanks")?;
    server.endpoint.flush(); // goes out now; else with the next turn
    Ok(())
}

/// The end that connects. It plans for itself: the URI says which transport is left.
fn ask(uri: &Uri) -> Result<(), Failure> {
    let plan = negotiate(&need().for_peer_at([uri]), &discover(&Hints::default()));
    with(&plan, &OpenConfig::connect(), |client| {
        println!("client: {client}");
        let server = client.peer.ok_or("connected to nobody")?;
        let buffers = LoanPool::place(client.bump(), 2, 64)?;
        let loan = buffers.lend().ok_or("no buffer")?;
        client.endpoint.post_recv(RecvFrom::any(), loan, 1).map_err(|r| r.error)?;
        // A buffer that is posted belongs to the operation until its completion gives it back.
        let mut loan = buffers.lend().ok_or("no buffer")?;
        loan.fill(b"how are you?")?;
        client.endpoint.post_send(SendTo::peer(server), loan, 2).map_err(|r| r.error)?;
        for _ in 0..2 {
            let completion = next(&client); // of the send, and of the receive, in any order
            if completion.context == 1 {
                println!("client: {:?}", completion.bytes().map(String::from_utf8_lossy));
            }
        }
        Ok(())
    })?
}

/// Turns until something has completed.
fn next<'a>(end: &Opened<'a>) -> Completion<'a> {
    loop {
        let is_busy = end.endpoint.turn(end.now(), Budget::DEFAULT).is_busy();
        if let Some(completion) = end.endpoint.poll() {
            return completion;
        }
        if !is_busy {
            thread::yield_now(); // not on a CPU of its own
        }
    }
}
