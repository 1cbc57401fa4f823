//! What a program asks for, and what of that something lacks.

use core::borrow::Borrow;
use core::fmt;
use core::str::FromStr;

use spinwire_dataplane::provider::{Caps, EndpointType};

use crate::discover::{Absence, Transport};
use crate::uri::Uri;

/// Where the peer is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Peer {
    /// Nothing is known.
    #[default]
    Anywhere,
    /// On this host.
    ThisHost,
    /// On another one: no shared memory.
    OtherHost,
    /// At one of these, whichever can be reached; the first is preferred where all else is equal.
    At(Vec<Uri>),
}

/// What a program asks of its transport.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Requirements {
    /// Types of endpoints that it can do with, the best first.
    pub types: Vec<EndpointType>,
    /// What the endpoint has to be able to do.
    pub caps: Caps,
    /// The longest message that it sends, in bytes.
    pub message_bytes: usize,
    /// The longest message that it injects, in bytes.
    pub inject_bytes: usize,
    /// To how many peers it talks.
    pub peers: usize,
    /// How many bits of immediate data it sends.
    pub immediate_bits: u8,
    /// Messages of one sender have to come in order.
    pub ordered: bool,
    /// Only these transports; any where there are none.
    pub transports: Vec<Transport>,
    /// Where the peer is.
    pub peer: Peer,
}

impl Default for Requirements {
    /// Messages that arrive: RDM, or else MSG. Nothing else.
    fn default() -> Self {
        Self {
            types: vec![EndpointType::Rdm, EndpointType::Msg],
            caps: Caps::MESSAGE,
            message_bytes: 0,
            inject_bytes: 0,
            peers: 1,
            immediate_bits: 0,
            ordered: false,
            transports: Vec::new(),
            peer: Peer::Anywhere,
        }
    }
}

impl Requirements {
    /// Datagrams, of which nothing is promised.
    #[must_use]
    pub fn datagrams() -> Self {
        Self { types: vec![EndpointType::Dgram], ..Self::default() }
    }

    /// Whatever there is.
    #[must_use]
    pub fn anything() -> Self {
        Self { types: EndpointType::ALL.to_vec(), caps: Caps::NONE, ..Self::default() }
    }

    /// The same, with these types alone, the best first.
    #[must_use]
    pub fn of_types(self, types: &[EndpointType]) -> Self {
        Self { types: types.to_vec(), ..self }
    }

    /// The same, with these capabilities too.
    #[must_use]
    pub fn with_caps(self, caps: Caps) -> Self {
        Self { caps: self.caps.with(caps), ..self }
    }

    /// The same, for messages of up to so many bytes.
    #[must_use]
    pub fn for_messages_of(self, bytes: usize) -> Self {
        Self { message_bytes: bytes, ..self }
    }

    /// Whether no endpoint over that transport can fulfil them, so that discovery need not ask for it ([`Hints`](crate::discover::Hints)).
    #[must_use]
    pub fn excludes(&self, transport: Transport) -> bool {
        let is_elsewhere = match &self.peer {
            Peer::At(uris) => uris.iter().all(|uri| uri.transport() != transport),
            Peer::OtherHost => transport == Transport::Shm,
            Peer::Anywhere | Peer::ThisHost => false,
        };
        is_elsewhere || !(self.transports.is_empty() || self.transports.contains(&transport))
    }

    /// The same, for a peer that is found at one of these.
    #[must_use]
    pub fn for_peer_at<U: Borrow<Uri>>(self, uris: impl IntoIterator<Item = U>) -> Self {
        Self { peer: Peer::At(uris.into_iter().map(|uri| uri.borrow().clone()).collect()), ..self }
    }
}

/// A word that asks for nothing that there is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownNeed(String);

impl fmt::Display for UnknownNeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is nothing that can be asked for; remedy: take of rdm, msg, dgram, ordered",
            self.0
        )?;
        Caps::all_names().try_for_each(|name| write!(f, ", {name}"))
    }
}

impl core::error::Error for UnknownNeed {}

impl FromStr for Requirements {
    type Err = UnknownNeed;

    /// Words with commas between them: types of endpoints, the best first; names of capabilities; `ordered`. Where there is no type, any
    /// will do.
    fn from_str(text: &str) -> Result<Self, UnknownNeed> {
        let mut wanted = Self { types: Vec::new(), ..Self::anything() };
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            if let Some(kind) = EndpointType::of_name(word) {
                wanted.types.push(kind);
            } else if let Some(cap) = Caps::of_name(word) {
                wanted.caps = wanted.caps.with(cap);
            } else if word == "ordered" {
                wanted.ordered = true;
            } else {
                return Err(UnknownNeed(word.to_owned()));
            }
        }
        if wanted.types.is_empty() {
            wanted.types = EndpointType::ALL.to_vec();
        }
        Ok(wanted)
    }
}

/// A requirement that is not fulfilled. What would help is said where it is known what else there is: [`Rejected::remedies`](super::Rejected::remedies).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unmet {
    /// It is not there.
    Absent(Absence),
    /// It is not among the transports that are wanted.
    Transport,
    /// Its endpoints are of another type.
    Type {
        /// Of which.
        has: EndpointType,
        /// Which were asked for.
        wants: Vec<EndpointType>,
    },
    /// It lacks these.
    Caps(Caps),
    /// It has too few of something.
    TooLittle {
        /// Of what.
        what: &'static str,
        /// How many it has.
        has: usize,
        /// How many it takes.
        wants: usize,
    },
    /// Messages may come in another order than they were sent.
    Order,
    /// The peer is on another host.
    OtherHost,
    /// Of the peer no address is known that leads there; what one would look like ([`Found::form`](crate::discover::Found::form)).
    NoAddress(String),
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(absence) => f.write_str(&absence.why),
            Self::Transport => f.write_str("is not among the transports that are wanted"),
            Self::Type { has, wants } => {
                write!(f, "type: has {has}, wanted ")?;
                let words: Vec<String> = wants.iter().map(EndpointType::to_string).collect();
                f.write_str(&words.join(" or "))
            }
            Self::Caps(missing) => {
                let names: Vec<&str> = missing.names().collect();
                write!(f, "capabilities: lacks {}", names.join(", "))
            }
            Self::TooLittle { what, has, wants } => write!(f, "{what}: has {has}, wanted {wants}"),
            Self::Order => f.write_str("order: messages may overtake each other"),
            Self::OtherHost => f.write_str("reaches this host alone, and the peer is on another"),
            Self::NoAddress(form) => write!(f, "the peer has no address {form}"),
        }
    }
}
