//! Arguments that `lat` and `bw` share.

use core::cell::OnceCell;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
#[cfg(feature = "libfabric")]
use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::provider::Info;
use spinwire_hostshim::affinity::{self, CpuList};
use spinwire_hostshim::mlx5::is_linked;
use spinwire_hostshim::uri::{Part, Place, Transport, Uri};
use spinwire_layouts::wire::datagram::DATAGRAM_LENGTH_MAX;

use super::order::Marking;
use crate::arguments;
use crate::report::Failure;

/// How messages travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum ProviderName {
    /// Shared memory between two processes of this machine.
    Shm,
    /// TCP, through io_uring, between two machines or two processes of this one.
    Tcp,
    /// UDP, through io_uring, a datagram for each message; what is lost is counted.
    Udp,
    /// RDMA devices through libibverbs, between two machines or two processes of this one. In builds with `--features verbs`; run on
    /// Soft-RoCE only.
    Verbs,
    /// The same on the queues of mlx5 devices (ConnectX, BlueField), without a library between. In builds with `--features mlx5`; unverified on
    /// hardware.
    Mlx5,
    /// A provider of libfabric, between two machines or two processes of this one. In builds with `--features libfabric`.
    Ofi,
}

/// What endpoints of libfabric are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum FabricType {
    /// Reliable, and not connected.
    Rdm,
    /// Connected.
    Msg,
}

impl FabricType {
    /// As `fi_pingpong -e` takes it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Rdm => "rdm",
            Self::Msg => "msg",
        }
    }

    #[cfg(feature = "libfabric")]
    pub(crate) const fn endpoint_type(self) -> EndpointType {
        match self {
            Self::Rdm => EndpointType::Rdm,
            Self::Msg => EndpointType::Msg,
        }
    }
}

impl ProviderName {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Shm => "shm",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Verbs => "verbs",
            Self::Mlx5 => "mlx5",
            Self::Ofi => "ofi",
        }
    }
}

/// Where the two ends run.
#[derive(Clone, Copy, Debug)]
struct Placed {
    cpus: (u32, u32),
    is_shared: bool,
}

/// What is measured, and between whom.
#[derive(Clone, Debug, Args)]
pub(crate) struct PairOptions {
    /// Message sizes in bytes: one or a list, each with an optional k or m ("64,4k,1m").
    #[arg(long, value_name = "BYTES", default_value = "64", value_delimiter = ',', value_parser = arguments::size)]
    pub(crate) size: Vec<usize>,

    /// All powers of two from 8 bytes to 64 KiB; over UDP to 32 KiB, with --datagrams to 512 bytes.
    #[arg(long, conflicts_with = "size")]
    pub(crate) all_sizes: bool,

    /// Messages to measure per size.
    #[arg(long, value_name = "N", conflicts_with = "seconds", value_parser = arguments::count)]
    pub(crate) iters: Option<u64>,

    /// Seconds to measure per size (default: about 1).
    #[arg(long, value_name = "S", value_parser = arguments::some_seconds)]
    pub(crate) seconds: Option<f64>,

    /// Rounds in which floor and measurement take turns; each ratio is of one round, the result is their median.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = arguments::whole(1..=1000_u32))]
    pub(crate) rounds: u32,

    /// CPUs of the two ends, "A,B": A for this end, B for the other. One is for both, which then take turns on it; with --listen or --connect, for
    /// this end. Default: two
    /// cores close to each other.
    #[arg(long, value_name = "A,B", value_delimiter = ',', value_parser = arguments::cpu)]
    pub(crate) cpus: Vec<u32>,

    /// Where the two ends run, as it was found before this one was pinned: from then on it may run on one CPU alone.
    #[arg(skip)]
    placed: OnceCell<Placed>,

    /// Send tagged messages and match them by tag.
    #[arg(long)]
    pub(crate) tagged: bool,

    /// Hand over buffers of a pool, uncopied; they are written and checked in place. Sizes are multiples of 8. With --listen and
    /// --connect, on both sides.
    #[arg(long)]
    pub(crate) zero_copy: bool,

    /// Write into memory of the other end, which receives nothing: round trips of writes, each end looking at its memory, or a stream
    /// of writes to one place. With --provider verbs. Sizes are multiples of 8.
    #[arg(long, conflicts_with_all = ["zero_copy", "tagged"])]
    pub(crate) one_sided: bool,

    /// How messages travel. Default: shm, or what the address of --listen or --connect says.
    #[arg(long, value_enum)]
    provider: Option<ProviderName>,

    /// With --provider verbs or mlx5: the RDMA devices of the two ends, "A,B", or one for both. Default: the first whose port is up and has an
    /// address of RoCE v2.
    #[arg(long, value_name = "A[,B]", value_delimiter = ',')]
    pub(crate) device: Vec<String>,
    /// With --provider ofi: the provider of libfabric, as fi_info -l names it.
    #[arg(long, value_name = "NAME", default_value = "tcp")]
    pub(crate) fabric_provider: String,

    /// With --provider ofi: what its endpoints are.
    #[arg(long, value_enum, default_value = "rdm")]
    pub(crate) fabric_type: FabricType,

    /// With --provider verbs or mlx5: a datagram for each message, of unconnected queue pairs (UD), instead of connections. What is lost is counted. With --listen
    /// and --connect, on both sides.
    #[arg(long, conflicts_with = "one_sided")]
    pub(crate) datagrams: bool,

    /// Over UDP and with --datagrams: after so many milliseconds without an answer a message is lost, and what was ordered is said again.
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = arguments::whole(1..=5000_u64))]
    pub(crate) lost_after: u64,

    /// Both ends by the transport and at the place of this URI: shm://DOMAIN, tcp://HOST:PORT, udp://HOST:PORT, verbs://DEVICE/HOST:PORT or mlx5://DEVICE/HOST:PORT; port 0 is
    /// any that is free. ofi://PROVIDER/127.0.0.1:0 goes over a provider of libfabric.
    #[arg(long, value_name = "URI", conflicts_with_all = ["provider", "listen", "connect"])]
    pub(crate) uri: Option<Uri>,

    /// Be the other end only: make the segment NAME or shm://NAME, or listen at tcp://HOST:PORT, udp://HOST:PORT,
    /// verbs://DEVICE/HOST:PORT, mlx5://DEVICE/HOST:PORT or ofi://PROVIDER/HOST:PORT; wait for --connect, serve it, end.
    #[arg(long, value_name = "NAME|URI", conflicts_with = "connect")]
    pub(crate) listen: Option<String>,

    /// As the second process of a measurement: with --listen, end with the standard input, too.
    #[arg(long, hide = true, requires = "listen")]
    pub(crate) until_input_ends: bool,

    /// Be the measuring end only, against a --listen that runs already: its NAME or shm://NAME, or tcp://HOST:PORT, udp://HOST:PORT,
    /// verbs://DEVICE/HOST:PORT or mlx5://DEVICE/HOST:PORT with the device of this end, or ofi://PROVIDER/HOST:PORT.
    #[arg(long, value_name = "NAME|URI")]
    pub(crate) connect: Option<String>,

    /// Print JSON for machines: an object, or a list of them where several sizes are asked for.
    #[arg(long)]
    pub(crate) json: bool,

    /// Write a plot to this file.
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
}

/// Whether an argument names an end over libfabric.
fn is_of_fabric(text: &str) -> bool {
    text.starts_with("ofi:")
}

fn is_local(host: &str) -> bool {
    matches!(host, "127.0.0.1" | "localhost")
}

/// The name of the domain or the address in a URI.
fn place(uri: &Uri) -> Result<String, Failure> {
    if let Some(name) = uri.endpoint() {
        return Err(format!("{uri}: the ends have names of their own; leave out /{name}").into());
    }
    match uri.place() {
        Place::Shm { domain } => Ok(domain.to_string()),
        Place::Socket(address) => Ok(address.to_string()),
        // Where the other end listens, on the same device.
        Place::Device { .. } => Ok(uri.to_string()),
        // Both ends are processes of this machine.
        Place::Fabric { node, .. } if node.as_ref().is_none_or(|node| is_local(node.host())) => {
            Ok(uri.to_string())
        }
        Place::Fabric { .. } => Err(format!(
            "{uri}: both ends are processes of this machine; write 127.0.0.1, or --listen {uri} there and --connect here"
        )
        .into()),
    }
}

impl PairOptions {
    /// The sizes to measure, in order.
    pub(crate) fn sizes(&self) -> Vec<usize> {
        if !self.all_sizes {
            return self.size.clone();
        }
        let most = match (self.datagrams, self.provider() == ProviderName::Udp) {
            // In the smallest packets that are usual on Ethernet.
            (true, _) => 9,
            (false, true) => 15,
            (false, false) => 16,
        };
        (3..=most).map(|bits| 1 << bits).collect()
    }

    /// How messages travel.
    pub(crate) fn provider(&self) -> ProviderName {
        let told = match self.listen.as_ref().or(self.connect.as_ref()) {
            Some(text) if text.starts_with("tcp:") => Some(ProviderName::Tcp),
            Some(text) if text.starts_with("udp:") => Some(ProviderName::Udp),
            Some(text) if text.starts_with("verbs:") => Some(ProviderName::Verbs),
            Some(text) if text.starts_with("mlx5:") => Some(ProviderName::Mlx5),
            Some(text) if is_of_fabric(text) => Some(ProviderName::Ofi),
            _ => None,
        };
        let asked = self.uri.as_ref().and_then(|uri| match uri.transport() {
            Transport::Tcp => Some(ProviderName::Tcp),
            Transport::Udp => Some(ProviderName::Udp),
            Transport::Mlx5 => Some(ProviderName::Mlx5),
            Transport::Verbs => Some(ProviderName::Verbs),
            Transport::Ofi => Some(ProviderName::Ofi),
            Transport::Shm => None,
        });
        self.provider.or(told).or(asked).unwrap_or(ProviderName::Shm)
    }

    /// The same, with domains that are given as URIs by their names, as the ends know them.
    pub(crate) fn with_names_of_domains(&self) -> Result<Self, Failure> {
        let bare = |argument: &str, text: &Option<String>| match text {
            Some(text) if text.starts_with("shm:") || text.contains("://") => {
                match text.parse::<Uri>() {
                    Ok(uri) if uri.transport() == Transport::Shm => place(&uri).map(Some),
                    Err(e) if text.starts_with("shm:") || e.part() == Part::Scheme => {
                        Err(format!("{argument}: {e}").into())
                    }
                    // Who resolves it says what is wrong with it.
                    Ok(_) | Err(_) => Ok(Some(text.clone())),
                }
            }
            text => Ok(text.clone()),
        };
        let listen = bare("--listen", &self.listen)?;
        let connect = bare("--connect", &self.connect)?;
        self.uri.as_ref().map(place).transpose()?;
        let fabric_provider = match self.uri.as_ref().map(Uri::place) {
            Some(Place::Fabric { provider, .. }) => provider.clone(),
            _ => self.fabric_provider.clone(),
        };
        Ok(Self { listen, connect, fabric_provider, ..self.clone() })
    }

    /// Where both ends meet, where that was said: the name of a domain, or an address.
    pub(crate) fn meeting_place(&self) -> Result<Option<String>, Failure> {
        self.uri.as_ref().map(place).transpose()
    }

    /// What the parser cannot see: arguments that do not go together.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.provider() == ProviderName::Ofi && !cfg!(feature = "libfabric") {
            return Err("--provider ofi: this build is without libfabric; remedy: apt-get install libfabric-dev libclang-dev && cargo build --release -p \
                        spinwire --features libfabric"
                .into());
        }
        if self.provider() == ProviderName::Verbs && !cfg!(feature = "verbs") {
            return Err("--provider verbs: this build is without it; remedy: cargo build --release --features verbs (Debian: \
                        apt-get install libibverbs-dev librdmacm-dev libclang-dev)"
                .into());
        }
        if let (ProviderName::Mlx5, Err(e)) = (self.provider(), is_linked()) {
            return Err(format!("--provider mlx5: {e}").into());
        }
        let is_rdma = matches!(self.provider(), ProviderName::Verbs | ProviderName::Mlx5);
        if !is_rdma && !self.device.is_empty() {
            return Err("--device: names RDMA devices; use it with --provider verbs or mlx5".into());
        }
        if !is_rdma && self.datagrams {
            return Err("--datagrams: those of RDMA devices; use it with --provider verbs or mlx5, or --provider udp without it".into());
        }
        if self.provider() != ProviderName::Shm && self.zero_copy {
            return Err(
                "--zero-copy: hands over buffers of shared memory; use --provider shm".into()
            );
        }
        if self.one_sided && self.provider() != ProviderName::Verbs {
            return Err(
                "--one-sided: writes into memory of the other end; use --provider verbs".into()
            );
        }
        let largest = self.sizes().into_iter().max().unwrap_or(0);
        if self.provider() == ProviderName::Udp && largest > DATAGRAM_LENGTH_MAX {
            return Err(format!("--size: {largest} is more than a datagram carries, which is {DATAGRAM_LENGTH_MAX}; send less, or use --provider tcp").into());
        }
        match self.sizes().into_iter().find(|size| !size.is_multiple_of(8)) {
            Some(odd) if self.zero_copy || self.one_sided => {
                let how = if self.zero_copy { "--zero-copy" } else { "--one-sided" };
                Err(format!("--size: with {how} a multiple of 8, which {odd} is not").into())
            }
            _ => Ok(()),
        }
    }

    /// By which name a report calls the way that messages went.
    pub(crate) fn path_of(&self, info: &Info) -> &'static str {
        let provider = self.provider();
        if provider == ProviderName::Ofi { info.provider } else { provider.as_str() }
    }

    /// Whether round trips over libfabric are asked for as `fi_pingpong` measures them: by no URI, and without a floor.
    pub(crate) fn is_without_floor(&self) -> bool {
        let apart = self.listen.as_deref().or(self.connect.as_deref());
        self.uri.is_none() && !apart.is_some_and(is_of_fabric)
    }

    /// Seconds of each size: as was asked for, or `usual`; `None` where messages were asked for.
    pub(crate) fn seconds_to_measure(&self, usual: f64) -> Option<f64> {
        if self.iters.is_some() { None } else { Some(self.seconds.unwrap_or(usual)) }
    }

    /// How messages are marked.
    pub(crate) const fn marking(&self) -> Marking {
        if self.tagged { Marking::Tagged } else { Marking::Untagged }
    }

    /// The CPUs of this end and of the other one. The same whenever it is asked.
    pub(crate) fn placement(&self) -> Result<(u32, u32), Failure> {
        self.placed().map(|placed| placed.cpus)
    }

    /// Whether both ends run on one CPU, so that whoever has nothing to do must let the other run. The same whenever it is asked.
    pub(crate) fn shares_cpu(&self) -> Result<bool, Failure> {
        self.placed().map(|placed| placed.is_shared)
    }

    fn placed(&self) -> Result<Placed, Failure> {
        if let Some(placed) = self.placed.get() {
            return Ok(*placed);
        }
        let allowed = affinity::allowed_cpus()?;
        let cpus = self.place(&allowed)?;
        // Of ends that are started apart, one CPU is that of this end alone.
        let is_apart = self.listen.is_some() || self.connect.is_some();
        let knows_both = !is_apart || self.cpus.len() != 1;
        let is_shared = allowed.len() < 2 || (cpus.0 == cpus.1 && knows_both);
        Ok(*self.placed.get_or_init(|| Placed { cpus, is_shared }))
    }

    fn place(&self, allowed: &CpuList) -> Result<(u32, u32), Failure> {
        match self.cpus.as_slice() {
            [] => {
                let spread: Vec<u32> = affinity::spread(2.min(allowed.len()))?.cpus.to_vec();
                match spread.as_slice() {
                    [a, b, ..] => Ok((*a, *b)),
                    [only] => Ok((*only, *only)),
                    [] => Err("cpus: this process may run on none".into()),
                }
            }
            [one] => Self::may_run(allowed, *one, *one),
            [a, b] => Self::may_run(allowed, *a, *b),
            _ => Err("--cpus: give two, like 2,3".into()),
        }
    }

    fn may_run(allowed: &CpuList, a: u32, b: u32) -> Result<(u32, u32), Failure> {
        for cpu in [a, b] {
            if !allowed.contains(cpu) {
                return Err(format!("--cpus: CPU {cpu} is not among those that this process may use ({allowed}); choose from these, or widen the cpuset").into());
            }
        }
        Ok((a, b))
    }
}
