//! The loopback provider: ports of one thread that pass messages to each other through a hub, without foreign memory.
//!
//! ```text
//!   Port a --stage--> link a->b | m | m | m |  --take--> Port b        Hub: who is there, and one link for every
//!   Port b --stage--> link b->a | m |          --take--> Port a             ordered pair of ports
//! ```
//!
//! It is the simplest transport that there is, with everything that a [`Provider`](super::Provider) promises, and so the
//! reference for the others: services are tested on it, and the wrappers too. It has endpoints of all three types. A message
//! is copied into a fixed pool of the hub, and out of it.
//!
//! Published means here: counted in, so that the receiver sees it. What a port staged and did not publish is lost when it is
//! killed, and not when it is dropped in good order.
//!
//! One-sided operations of MSG and RDM ports go the same way: they are copied into the hub, done by the owner of the memory when it polls
//! ([`one_sided`](super::one_sided)), and answered. So the owner's thread is all that ever touches exposed memory.
//!
//! | refusal | what is full |
//! |---|---|
//! | `NoCredit` | the link to that peer |
//! | `NoSpill` | the hub's pool, which all links and one-sided operations share |
//! | `NoLane` | the link still holds messages of an earlier port in the same place |
//! | `CqFull`, `RqFull`, `AddressesFull` | the port's own tables |

mod hub;
mod link;
mod one_sided;
mod peers;
mod port;

use core::fmt;

use crate::msg::matching::MatchingConfig;
use crate::raw::place::Exhausted;

pub use hub::Hub;
pub use port::Port;

/// How much a hub holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HubConfig {
    /// Ports that can be open at once.
    pub ports_max: u32,
    /// Messages that may be under way from one port to one other.
    pub link_depth: u32,
    /// Messages that may be under way in all.
    pub messages_max: u32,
    /// Longest message, in bytes.
    pub message_bytes_max: usize,
}

impl Default for HubConfig {
    /// 16 ports, links of 64 messages, 256 messages of up to 4 KiB in all.
    fn default() -> Self {
        Self { ports_max: 16, link_depth: 64, messages_max: 256, message_bytes_max: 4096 }
    }
}

/// How much a port holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortConfig {
    /// Rows of the address table.
    pub peers_max: u32,
    /// Sends whose completions may be outstanding; rounded up to a power of two.
    pub send_depth: u32,
    /// Receives and unexpected messages.
    pub matching: MatchingConfig,
    /// Ranges of memory that may be exposed at once.
    pub regions_max: u32,
}

impl Default for PortConfig {
    /// 16 peers, 64 sends, 64 receives, 64 unexpected messages of up to 1 KiB, 8 exposed ranges.
    fn default() -> Self {
        Self {
            peers_max: 16,
            send_depth: 64,
            matching: MatchingConfig {
                recv_depth: 64,
                unexpected_depth: 64,
                unexpected_bytes_max: 1024,
            },
            regions_max: 8,
        }
    }
}

/// Why a port was not opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortOpenError {
    /// A port of the hub has that name.
    NameTaken,
    /// The hub has as many ports as it holds.
    HubFull,
    /// The arena is too small for its tables.
    Arena(Exhausted),
}

impl fmt::Display for PortOpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameTaken => f.write_str("name: a port of the hub has it; choose another"),
            Self::HubFull => f.write_str("ports_max: the hub is full; place it with more ports"),
            Self::Arena(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for PortOpenError {}
