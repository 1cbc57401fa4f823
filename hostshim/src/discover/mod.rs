//! Which endpoints this machine can open, asked before one is.
//!
//! ```text
//!   discover(&Hints) ─┬─ domain::found ── shm                 Found { transport, device, offer }
//!                     ├─ tcp::found, udp::found                                        |
//!                     ├─ rdma::found ── verbs, mlx5            Ok(Info): type, capabilities, limits, modes, ordering, latency
//!                     └─ fabric::found ── ofi                  Err(Absence): why not, and the remedy
//! ```
//!
//! Nothing is opened but RDMA devices that are ready, to ask for their atomics: folders are looked at, files of `/sys` are read, and io_uring is asked
//! by calls that it refuses. So an offer says
//! what an endpoint will be, and opening it may still fail; [`negotiate`](crate::negotiate) has the next best for that. What the kernel decides
//! when a ring is opened ([`Info::paths`]) is not in an offer. All else is what the endpoint says of itself afterwards.

mod fabric;
mod rdma;
mod sizes;

use core::fmt;
use std::path::{Path, PathBuf};

use spinwire_dataplane::provider::{EndpointType, Info};

pub use sizes::Sizes;

use crate::mem::SegmentDir;
pub use crate::uri::Transport;
use crate::{domain, tcp, udp};

/// What is asked for, and where to look.
#[derive(Clone, Debug)]
pub struct Hints {
    /// Only these; all where there are none. Libfabric is loaded only where it is named, or where what it offers is not known beforehand.
    pub transports: Vec<Transport>,
    /// How much endpoints are to hold.
    pub sizes: Sizes,
    /// The folder of segments.
    pub segments: SegmentDir,
    /// Where `/sys` and `/dev` are: `/`, but in tests.
    pub root: PathBuf,
}

impl Default for Hints {
    /// Everything, with its default sizes.
    fn default() -> Self {
        Self {
            transports: Vec::new(),
            sizes: Sizes::default(),
            segments: SegmentDir::from_env(),
            root: PathBuf::from("/"),
        }
    }
}

impl Hints {
    /// Only these transports.
    #[must_use]
    pub fn only(transports: &[Transport]) -> Self {
        Self { transports: transports.to_vec(), ..Self::default() }
    }

    /// The same, for endpoints that hold so much.
    #[must_use]
    pub fn with_sizes(self, sizes: Sizes) -> Self {
        Self { sizes, ..self }
    }

    fn asks_for(&self, transport: Transport) -> bool {
        self.transports.is_empty() || self.transports.contains(&transport)
    }

    /// The names in a folder below the root, sorted; none where it cannot be read.
    fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.root.join(folder)).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    fn text(&self, file: impl AsRef<Path>) -> Option<String> {
        std::fs::read_to_string(self.root.join(file)).ok()
    }
}

/// Why there is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Absence {
    /// What is the matter.
    pub why: String,
    /// What mends it, as a command where there is one.
    pub remedy: Option<String>,
}

impl Absence {
    /// For that reason, with that remedy.
    #[must_use]
    pub fn new(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { why: why.into(), remedy: Some(remedy.into()) }
    }

    /// For that reason, without a remedy.
    #[must_use]
    pub fn beyond_remedy(why: impl Into<String>) -> Self {
        Self { why: why.into(), remedy: None }
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)?;
        self.remedy.as_ref().map_or(Ok(()), |remedy| write!(f, "; remedy: {remedy}"))
    }
}

/// What can be opened, or why it cannot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// What carries the messages.
    pub transport: Transport,
    /// The device (`rxe0/1`: its first port) or the provider of libfabric, where there are such.
    pub device: Option<String>,
    /// What an endpoint of it will be, or why there is none.
    pub offer: Result<Info, Absence>,
}

impl Found {
    /// One that can be opened.
    #[must_use]
    pub const fn ready(transport: Transport, device: Option<String>, info: Info) -> Self {
        Self { transport, device, offer: Ok(info) }
    }

    /// One that cannot.
    #[must_use]
    pub const fn absent(transport: Transport, device: Option<String>, why: Absence) -> Self {
        Self { transport, device, offer: Err(why) }
    }

    /// What an endpoint of it will be.
    #[must_use]
    pub fn info(&self) -> Option<&Info> {
        self.offer.as_ref().ok()
    }

    /// Whether it can be opened, and has endpoints of that type.
    #[must_use]
    pub fn supports_endpoint_type(&self, wanted: EndpointType) -> bool {
        self.info().is_some_and(|info| info.supports_endpoint_type(wanted))
    }

    /// How a URI of it is written: [`Transport::form`], with its device or provider in the place of any.
    #[must_use]
    pub fn form(&self) -> String {
        let form = self.transport.form();
        let Some(device) = &self.device else { return form.to_owned() };
        match device.split_once('/') {
            Some((name, port)) => form.replace("DEVICE[:PORT]", &format!("{name}:{port}")),
            None => form.replace("PROVIDER[/HOST:PORT]", &format!("{device}/HOST:PORT")),
        }
    }
}

impl fmt::Display for Found {
    /// `shm rdm`, `verbs rxe0/1 msg`, `ofi`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.transport.as_str())?;
        if let Some(device) = &self.device {
            write!(f, " {device}")?;
        }
        self.info().map_or(Ok(()), |info| write!(f, " {}", info.endpoint_type))
    }
}

/// All that this machine has, an entry for each transport, device and type of endpoint; and an entry for each transport that it lacks. In the
/// order of [`Transport::ALL`].
#[must_use]
pub fn discover(hints: &Hints) -> Vec<Found> {
    let all = Transport::ALL.into_iter().filter(|transport| hints.asks_for(*transport));
    all.flat_map(|transport| match transport {
        Transport::Shm => domain::found(hints),
        Transport::Tcp => tcp::found(hints),
        Transport::Udp => udp::found(hints),
        Transport::Verbs | Transport::Mlx5 => rdma::found(transport, hints),
        Transport::Ofi => fabric::found(hints),
    })
    .collect()
}

#[cfg(test)]
mod tests;
