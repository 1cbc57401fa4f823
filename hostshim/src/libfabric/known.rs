//! What libfabric 1.17 offers on a machine without devices for it, known beforehand.
//!
//! Debian's takes 0.2 s to be loaded, and then 0.05 s to say what there is: its provider for RDMA devices reads all symbols of the kernel, twice, whether
//! there is such a device or not. Whoever asks for an endpoint of whatever transport should not wait for that. What its other providers offer is
//! written into it; so it is written here, too, and a test holds it against what the library says. An endpoint is opened by what the library says.

use std::path::Path;

use spinwire_dataplane::provider::EndpointType::{self, Dgram, Msg, Rdm};
use spinwire_dataplane::provider::{Caps, Info};
use spinwire_ofi_sys as sys;

use super::error::OfiError;
use super::offer::{can_be_closed, with_descriptor};
use super::setup::{Bounds, OfiConfig, sized};

/// The version that this was seen of: 1.17.0, by what its file is called.
const FILE: &str = "libfabric.so.1.20.0";
/// What the loader looks for.
const NAME: &str = "libfabric.so.1";
/// What begins so in the environment can change what the library offers.
const VARIABLES: &str = "FI_";

/// An endpoint that it offers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    /// The provider, as the library names it.
    pub(crate) provider: &'static str,
    /// What the endpoint is.
    pub(crate) endpoint_type: EndpointType,
    longest: usize,
    depths: (usize, usize),
    parts: u32,
    caps: Caps,
}

impl Known {
    /// What a port of `config` will be.
    ///
    /// # Errors
    /// [`OfiError::Crashes`].
    pub(crate) fn info(&self, config: &OfiConfig) -> Result<Info, OfiError> {
        let Self { provider, longest, depths, parts, .. } = *self;
        if !can_be_closed(provider) {
            return Err(OfiError::Crashes { provider: provider.to_owned() });
        }
        let caps = with_descriptor(provider, self.caps);
        Ok(sized(provider, Bounds { longest, depths, parts }, caps, config))
    }
}

const PLAIN: Caps = Caps::MESSAGE.with(Caps::INJECT).with(Caps::SOURCE).with(Caps::GATHER);
const DIRECTED: Caps = PLAIN.with(Caps::DIRECTED_RECV).with(Caps::CANCEL);
const TAGGED: Caps = DIRECTED.with(Caps::TAGGED);
const RELIABLE: Caps = TAGGED.with(Caps::IMMEDIATE).with(Caps::SCATTER);
const ONE_SIDED: Caps = TAGGED.with(Caps::RMA).with(Caps::ATOMIC).with(Caps::EXPOSE);

const fn of(
    provider: &'static str,
    endpoint_type: EndpointType,
    caps: Caps,
    depths: (usize, usize),
) -> Known {
    Known { provider, endpoint_type, longest: usize::MAX, depths, parts: 4, caps }
}

/// All that it offers, in its order.
pub(crate) const KNOWN: &[Known] = &[
    of("tcp;ofi_rxm", Rdm, RELIABLE, (2048, 2048)),
    of("net", Rdm, RELIABLE, (256, 256)),
    of("net;ofi_rxm", Rdm, RELIABLE, (2048, 2048)),
    Known { parts: 3, ..of("udp;ofi_rxd", Rdm, RELIABLE, (1024, 1024)) },
    Known { parts: 3, ..of("shm", Rdm, RELIABLE, (1024, 1024)) },
    Known { longest: 1472, parts: 3, ..of("udp", Dgram, PLAIN.with(Caps::SCATTER), (1024, 1024)) },
    of("tcp", Msg, DIRECTED.with(Caps::IMMEDIATE), (256, 256)),
    Known { parts: 8, ..of("sockets", Dgram, TAGGED.with(Caps::SCATTER), (256, 256)) },
    Known { parts: 8, ..of("sockets", Rdm, ONE_SIDED.with(Caps::SCATTER), (256, 256)) },
    Known { parts: 8, ..of("sockets", Msg, ONE_SIDED, (256, 256)) },
    of("net", Msg, DIRECTED.with(Caps::IMMEDIATE), (256, 256)),
];

/// Whether the library here is that one, and nobody has told it anything.
pub(crate) fn is_known_here() -> bool {
    let told = |name: &std::ffi::OsString| name.to_string_lossy().starts_with(VARIABLES);
    let link = Path::new(sys::FOLDER).join(NAME);
    let is_it = std::fs::read_link(link).is_ok_and(|file| file.ends_with(FILE));
    is_it && !elsewhere() && !std::env::vars_os().any(|(name, _)| told(&name))
}

/// Whether the loader finds another one first.
fn elsewhere() -> bool {
    let folders = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(NAME).exists())
}
