//! Why queues of a device cannot be had directly.

use core::fmt;

use spinwire_dataplane::cq::CqError;
use spinwire_dataplane::provider::mlx5::{BadPair, CompletionsError};
use spinwire_dataplane::wqe::BadQueue;

use crate::error::Errno;

/// Why there are no such queues.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Mlx5Error {
    /// This build is not linked with libmlx5.
    NotBuilt,
    /// The device is of another make.
    NotMlx5 {
        /// It.
        device: String,
        /// Those that are of mlx5.
        have: Vec<String>,
    },
    /// A function of the library refused.
    Refused {
        /// The function.
        call: &'static str,
        /// Why, as it says.
        errno: Errno,
    },
    /// What the library hands out cannot be used by this version.
    Memory {
        /// The field of `mlx5dv_qp`, `mlx5dv_cq` or another.
        field: &'static str,
        /// What it says.
        value: u64,
    },
    /// A queue is shorter than it was asked for.
    Short {
        /// Which.
        field: &'static str,
        /// What was asked for.
        asked: u32,
        /// What it holds.
        got: u32,
    },
    /// The send or receive queue.
    Queue(BadQueue),
    /// Sizes of a pair, or room for its tables.
    Pair(BadPair),
    /// The completion queue.
    Completion(CqError),
    /// A pair does not go with its completion queue.
    Completions(CompletionsError),
}

/// How this is built with it.
const BUILD: &str = "sudo apt-get install libibverbs-dev librdmacm-dev libclang-dev && cargo build --release -p spinwire --features mlx5";

impl Mlx5Error {
    /// The command that mends it, where there is one.
    #[must_use]
    pub const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::NotBuilt => Some(BUILD),
            Self::NotMlx5 { .. }
            | Self::Refused { .. }
            | Self::Memory { .. }
            | Self::Short { .. }
            | Self::Queue(_)
            | Self::Pair(_)
            | Self::Completion(_)
            | Self::Completions(_) => None,
        }
    }
}

impl fmt::Display for Mlx5Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBuilt => write!(f, "this build has no mlx5; remedy: {BUILD}"),
            Self::NotMlx5 { device, have } => {
                write!(f, "{device} is not an mlx5 device (ConnectX, BlueField); remedy: ")?;
                if !have.is_empty() {
                    write!(f, "name {}, or ", have.join(" or "))?;
                }
                f.write_str("use --provider verbs, or verbs://, which goes over any RDMA device")
            }
            Self::Refused { call, errno } => {
                write!(f, "{call}: {errno}")?;
                errno.remedy().map_or(Ok(()), |remedy| write!(f, "; remedy: {remedy}"))
            }
            Self::Memory { field, value } => write!(
                f,
                "libmlx5 says {field} = {value:#x}, which this version cannot use; remedy: without MLX5_ variables in the environment; \
                 else report it with the version of rdma-core"
            ),
            Self::Short { field, asked, got } => write!(
                f,
                "libmlx5 has made a {field} for {got} instead of {asked}; remedy: report it with the version of rdma-core"
            ),
            Self::Queue(e) => e.fmt(f),
            Self::Pair(e) => e.fmt(f),
            Self::Completion(e) => e.fmt(f),
            Self::Completions(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for Mlx5Error {}

macro_rules! from {
    ($($error:ty => $variant:ident),+ $(,)?) => {
        $(impl From<$error> for Mlx5Error {
            fn from(e: $error) -> Self {
                Self::$variant(e)
            }
        })+
    };
}

from! { BadQueue => Queue, BadPair => Pair, CqError => Completion, CompletionsError => Completions }
