//! What is wrong with a text that is no URI: which part of it, in what way, and how it is written.

use core::fmt;

use spinwire_dataplane::id::NameError;

use super::Transport;

/// A part of a URI.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Part {
    /// All of it.
    Whole,
    /// What stands before `://`.
    Scheme,
    /// The domain of shared memory.
    Domain,
    /// The host.
    Host,
    /// The port of the host.
    Port,
    /// The RDMA device.
    Device,
    /// The port of the device.
    DevicePort,
    /// The provider of libfabric.
    Provider,
    /// The name of the endpoint.
    Endpoint,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whole => "text",
            Self::Scheme => "scheme",
            Self::Domain => "domain",
            Self::Host => "host",
            Self::Port => "port",
            Self::Device => "device",
            Self::DevicePort => "port of the device",
            Self::Provider => "provider",
            Self::Endpoint => "name of the endpoint",
        })
    }
}

/// In what way it is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    Missing,
    Unknown,
    TooLong {
        most: usize,
    },
    Character {
        found: char,
    },
    Number {
        least: u16,
        most: u16,
    },
    Name(NameError),
    Brackets,
    /// It is right, and cannot be had here.
    Unwanted,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("is missing"),
            Self::Unknown => f.write_str("is none of shm, tcp, udp, verbs, mlx5, ofi"),
            Self::TooLong { most } => write!(f, "has more than {most} bytes"),
            Self::Character { found } => {
                write!(f, "holds '{}', which it may not", found.escape_default())
            }
            Self::Number { least, most } => write!(f, "is no number from {least} to {most}"),
            Self::Name(e) => write!(f, "is no name: {e}"),
            Self::Brackets => {
                f.write_str("is not right: a number of IPv6, and nothing else, stands in brackets")
            }
            Self::Unwanted => f.write_str("has no place here"),
        }
    }
}

/// Bytes of a refused text that are shown.
const SHOWN_BYTES: usize = 80;

/// A text that is no URI. Says which part is wrong, and how it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UriError {
    given: String,
    transport: Option<Transport>,
    part: Part,
    fault: Fault,
}

impl UriError {
    pub(super) fn new(given: &str, transport: Option<Transport>, part: Part, fault: Fault) -> Self {
        let shown = given.char_indices().take_while(|(at, _)| *at < SHOWN_BYTES);
        let mut text: String = shown.map(|(_, c)| c).collect();
        if text.len() < given.len() {
            text.push_str("..");
        }
        Self { given: text, transport, part, fault }
    }

    /// One that is right, with a part that cannot be had where it stands.
    pub(crate) fn unwanted(given: &str, transport: Transport, part: Part) -> Self {
        Self::new(given, Some(transport), part, Fault::Unwanted)
    }

    /// The first part that is wrong.
    #[must_use]
    pub const fn part(&self) -> Part {
        self.part
    }

    /// How it should be written.
    #[must_use]
    pub fn remedy(&self) -> String {
        match (self.transport, self.part) {
            (Some(transport), Part::Endpoint) if self.fault == Fault::Unwanted => {
                let form = transport.form().replace("[/NAME]", "");
                format!("leave it out: {form} is the one endpoint there")
            }
            (Some(_), Part::Scheme) if self.fault == Fault::Unwanted => {
                "write tcp://HOST:PORT or udp://HOST:PORT".to_owned()
            }
            (Some(transport), _) => format!("write {}", transport.form()),
            (None, _) => "write tcp://HOST:PORT, udp://HOST:PORT, shm://DOMAIN, verbs://DEVICE/HOST:PORT or \
                 ofi://PROVIDER/HOST:PORT, but for udp with /NAME behind it where the endpoint is not called \"server\""
                .to_owned(),
        }
    }
}

impl fmt::Display for UriError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { given, part, fault, .. } = self;
        write!(f, "{given:?}: the {part} {fault}; remedy: {}", self.remedy())
    }
}

impl core::error::Error for UriError {}
