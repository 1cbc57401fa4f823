//! What travels from host to host: little end first, whatever the machines are.
//!
//! ```text
//!  byte stream    Hello | frame | frame | ..         each direction, from its first byte
//!                   frame    = MessageHeader, then as many bytes as its head says
//!
//!  datagram       DatagramHeader | message           each for itself
//! ```
//!
//! Both ends of a byte stream send a [`Hello`] at once, without waiting for the other's, and read the
//! other's before they send anything else: it says how much may be sent.

pub mod datagram;
pub mod hello;
pub mod message;

pub use datagram::DatagramHeader;
pub use hello::Hello;
pub use message::{ControlKind, Head, MESSAGE_LENGTH_MAX, MessageHeader};
