//! The greeting with which each end opens a connection.

use spinwire_layouts::abi::{WIRE_HASH, WIRE_VERSION};
use spinwire_layouts::endian::{Le32, Le64};
use spinwire_layouts::pod::Pod;
use spinwire_layouts::shm::EndpointKind;
use spinwire_layouts::wire::hello::{HELLO_BYTES, HELLO_MAGIC, HELLO_PREFIX_BYTES};
use spinwire_layouts::wire::{Hello, MESSAGE_LENGTH_MAX};
use spinwire_layouts::word;

use super::fault::{FrameFault, LimitsError};
use crate::id::Name;
use crate::provider::secret::Secret;

/// Where the version begins.
const VERSION_AT: usize = core::mem::offset_of!(Hello, version);

/// How much an end takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of the longest message, at most 2^24 - 1.
    pub message_bytes_max: u32,
    /// Messages that may be on their way to it or held by it: at least 1.
    pub credit_messages: u32,
    /// Bytes of such messages: at least `message_bytes_max`.
    pub credit_bytes: u32,
}

impl Limits {
    /// Whether they can be.
    ///
    /// # Errors
    /// The first that cannot.
    pub fn check(self) -> Result<(), LimitsError> {
        if word::to_usize(u64::from(self.message_bytes_max)) > MESSAGE_LENGTH_MAX {
            return Err(LimitsError::MessageBytesMax);
        }
        if self.credit_messages == 0 {
            return Err(LimitsError::CreditMessages);
        }
        if self.credit_bytes < self.message_bytes_max {
            return Err(LimitsError::CreditBytes);
        }
        Ok(())
    }
}

/// Who is at an end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Greeting {
    /// Name of the endpoint.
    pub name: Name,
    /// What it is.
    pub kind: EndpointKind,
    /// How much it takes.
    pub limits: Limits,
    /// By what the reader knows it again ([`Secret::token_for`]); 0 for nothing.
    pub token: u64,
    /// How many hellos it has said before this one: of two connections the later one has the greater number, whichever comes first.
    pub number: u64,
}

/// What is the same in every hello of this build.
const fn opening() -> Hello {
    Hello {
        magic: Le64::new(HELLO_MAGIC),
        version: Le32::new(WIRE_VERSION),
        wire_hash: Le64::new(WIRE_HASH),
        ..Hello::ZERO
    }
}

/// Compares the start of a stream, as far as it is here, with the start of every hello of this build. The answer does not depend
/// on how much that is, once it has the first byte that differs.
pub(super) fn check_opening(bytes: impl Iterator<Item = u8>) -> Result<(), FrameFault> {
    let mut here = [0; HELLO_PREFIX_BYTES];
    let count = here.iter_mut().zip(bytes).map(|(to, byte)| *to = byte).count();
    let wanted = opening();
    let mut both = wanted.as_bytes().iter().zip(here.iter().take(count));
    let version = here.get(VERSION_AT..).and_then(<[u8]>::first_chunk).copied();
    match both.position(|(wanted, byte)| wanted != byte) {
        None => Ok(()),
        Some(0..8) => Err(FrameFault::Magic),
        // Which one is told, so all of it has to be here.
        Some(8..12) if count < VERSION_AT.saturating_add(size_of::<u32>()) => Ok(()),
        Some(8..12) => {
            Err(FrameFault::Version { theirs: u32::from_le_bytes(version.unwrap_or_default()) })
        }
        Some(12..16) => Err(FrameFault::Reserved),
        Some(_) => Err(FrameFault::Hash),
    }
}

impl Greeting {
    /// The same, as it is said to the peer of that name by an endpoint with that secret, which has said so many.
    #[must_use]
    pub fn for_peer(self, (secret, number): (&Secret, u64), peer: &Name) -> Self {
        Self { token: secret.token_for(peer), number, ..self }
    }

    /// Whether whoever says this is the endpoint that has said `before`, and not one that only has its name, and has said this later.
    #[must_use]
    pub const fn is_again(&self, before: &Self) -> bool {
        self.is_by_same(before) && self.number > before.number
    }

    /// Whether the same endpoint has said both.
    #[must_use]
    pub const fn is_by_same(&self, other: &Self) -> bool {
        self.token != 0 && self.token == other.token
    }

    /// The bytes with which this end opens a connection.
    #[must_use]
    pub fn to_wire(&self) -> [u8; HELLO_BYTES] {
        let hello = Hello {
            message_bytes_max: Le32::new(self.limits.message_bytes_max),
            credit_messages: Le32::new(self.limits.credit_messages),
            credit_bytes: Le32::new(self.limits.credit_bytes),
            kind: Le32::new(u32::from(self.kind.code())),
            token: Le64::new(self.token),
            number: Le64::new(self.number),
            name: *self.name.as_field(),
            ..opening()
        };
        // The length is that of the type, so there is such a chunk.
        hello.as_bytes().first_chunk().copied().unwrap_or([0; HELLO_BYTES])
    }

    /// What the other end opened with.
    ///
    /// # Errors
    /// The first field that is not as it has to be.
    pub fn from_wire(bytes: &[u8; HELLO_BYTES]) -> Result<Self, FrameFault> {
        check_opening(bytes.iter().copied())?;
        let hello = Hello::from_bytes(bytes).unwrap_or(Hello::ZERO);
        let limits = Limits {
            message_bytes_max: hello.message_bytes_max.get(),
            credit_messages: hello.credit_messages.get(),
            credit_bytes: hello.credit_bytes.get(),
        };
        limits.check().map_err(FrameFault::Limits)?;
        let code = u8::try_from(hello.kind.get()).ok();
        let kind = code.and_then(EndpointKind::from_code).ok_or(FrameFault::Kind)?;
        if hello.reserved_end.iter().any(|byte| *byte != 0) {
            return Err(FrameFault::Reserved);
        }
        // What is wrong with the name is for people who debug the peer; here it is enough that it is none.
        let name = Name::from_field(&hello.name).ok().ok_or(FrameFault::Name)?;
        Ok(Self { name, kind, limits, token: hello.token.get(), number: hello.number.get() })
    }
}
