//! What comes over a network: frames of a byte stream, in any pieces, and datagrams.

use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::provider::tcp::frame::{
    End, Envelope, Event, FrameFault, Framing, Greeting, Limits, LimitsError, NotHeld,
};
use spinwire_dataplane::provider::udp::datagram::{self, Datagram, DatagramFault};
use spinwire_layouts::wire::datagram::DATAGRAM_HEADER_BYTES;
use spinwire_layouts::wire::hello::HELLO_BYTES;
use spinwire_layouts::wire::message::HEADER_BYTES;

#[unsafe(no_mangle)]
pub extern "C" fn probe_framing_next<'b>(
    framing: &Framing,
    piece: &mut &'b [u8],
) -> Result<Option<Event<'b>>, FrameFault> {
    framing.next(piece)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_framing_message(
    framing: &Framing,
    length: usize,
    envelope: Envelope,
) -> Result<[u8; HEADER_BYTES], PostError> {
    framing.may_send(length)?;
    framing.message(length, envelope)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_framing_release(framing: &Framing, length: u32) -> Result<(), NotHeld> {
    framing.release(length)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_framing_credit_frame(framing: &Framing) -> Option<[u8; HEADER_BYTES]> {
    framing.credit_frame()
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_framing_goodbye(framing: &Framing) -> Option<[u8; HEADER_BYTES]> {
    framing.sign_of_life()?;
    framing.goodbye()
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_framing_body(framing: &Framing, count: u32) -> (u32, End) {
    (framing.body_taken(count), framing.end())
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_framing_new(limits: Limits) -> Result<Framing, LimitsError> {
    Framing::new(limits)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_greeting(greeting: &Greeting) -> Result<Greeting, FrameFault> {
    let bytes: [u8; HELLO_BYTES] = greeting.to_wire();
    Greeting::from_wire(&bytes)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_datagram_read(packet: &[u8]) -> Result<Datagram<'_>, DatagramFault> {
    Datagram::from_wire(packet)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_datagram_header(
    length: usize,
    envelope: Envelope,
) -> Result<[u8; DATAGRAM_HEADER_BYTES], Misuse> {
    datagram::header(length, envelope)
}
