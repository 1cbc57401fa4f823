//! How a virtual queue pair is to work, and the proof that its sizes fit together.

use core::fmt;

use super::region::{DEVICES_MAX, RegionId};
use super::request::SGE_MAX;
use super::sequence::{FRAGMENT_MAX, SequenceCodec};
use crate::raw::place::Exhausted;
use crate::table::NIL;
use crate::time::Nanos;
use crate::verbs::Limits;

/// Paths of one virtual queue pair at most, the one for notifications among them: the bits of a word.
pub const PATHS_MAX: u32 = 64;

/// How it is known that all data is in the peer's memory before the peer is notified over another queue pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Visibility {
    /// All paths are on one device at each end: its writes to memory, the one of the notification's completion too, are
    /// seen in their order, which is that of PCI Express. Memory that is registered for relaxed ordering has none.
    OneDevice,
    /// Paths are on several devices. After all data has completed, a byte is read back over each device that is not the
    /// notification's: the answer cannot overtake what that device wrote before. When all answers are there, the notification is
    /// posted. The byte goes to this region, which needs 8 bytes and a key for each device.
    FlushingRead(RegionId),
}

/// How a message is spread, and how the peer hears of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// Plain writes on all paths, then a write of no bytes with the immediate on the notify path.
    Spray(Visibility),
    /// Every fragment is a write with an immediate: 24 bits of sequence, and a bit for the last.
    Dqplb(SequenceCodec),
}

/// Where sends and atomics go, which are never cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spread {
    /// To one data path, so that they arrive in order.
    Pinned(u32),
    /// Sends to one data path after the other, and receives likewise, so that the n-th send meets the n-th receive: both ends
    /// choose this. A path that is down has its turn too, and fails what falls to it; what no device was given because of its
    /// memory (no key, misuse) has none. When a path is taken in again, turns begin anew, so that may be done only while
    /// nothing is posted, at both ends. Atomics go wherever there is room.
    Rotation,
}

/// What becomes of fragments of writes and reads whose path has failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replay {
    /// Their request fails.
    Never,
    /// They are posted on another path. A write may then arrive twice, the second time until the failed queue pair is
    /// known to be dead at both ends: a peer that uses the memory for something else as soon as it is notified must not choose this.
    Idempotent,
}

/// Sizes, times and policies of a virtual queue pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VqpConfig {
    /// How messages are spread.
    pub scheme: Scheme,
    /// Where sends and atomics go.
    pub spread: Spread,
    /// What becomes of fragments of a failed path.
    pub replay: Replay,
    /// Bytes of a fragment at most.
    pub max_message: u32,
    /// Segments of a request at most, up to [`SGE_MAX`].
    pub sge_max: u32,
    /// Send requests that may be posted and not yet reported.
    pub sends: u32,
    /// Receive requests that may be posted and not yet reported.
    pub recvs: u32,
    /// Sends on each path at once.
    pub send_depth: u32,
    /// Receives on each path at once.
    pub recv_depth: u32,
    /// DQPLB: how many numbers the next fragment may be ahead of the oldest that is not acknowledged. A power of two.
    pub window: u32,
    /// DQPLB: the number of the first fragment. Both ends choose the same; 0 but for tests.
    pub first_sequence: u32,
    /// Fragments that one post stages at most; the others are staged by turns.
    pub post_burst: u32,
    /// A path on which a send is on its way and none was completed for so long is used only where there is no other. This and
    /// the other times are counted in turns: of the time between two turns a quarter of the least of the three counts at most
    /// (and 100 us in any case), because in a pause of the caller nobody looks at what the device has done.
    pub suspect_after: Nanos,
    /// After so long it is down.
    pub silent_after: Nanos,
    /// So long after an error, what the device has not flushed is taken for flushed.
    pub flush_after: Nanos,
}

impl Default for VqpConfig {
    /// SPRAY on one device with fragments of 1 MiB: long enough that posting and completing one (some 100 ns) is a thousandth
    /// of its 84 us on a link of 100 Gb/s, short enough that a message of a few MiB occupies several paths, and far below the
    /// 2^31 bytes that devices allow.
    fn default() -> Self {
        Self {
            scheme: Scheme::Spray(Visibility::OneDevice),
            spread: Spread::Pinned(0),
            replay: Replay::Never,
            max_message: 1 << 20,
            sge_max: SGE_MAX,
            sends: 256,
            recvs: 256,
            send_depth: 128,
            recv_depth: 128,
            window: 1024,
            first_sequence: 0,
            post_burst: 64,
            suspect_after: Nanos::from_millis(100),
            silent_after: Nanos::from_millis(10_000),
            flush_after: Nanos::from_millis(1000),
        }
    }
}

/// The sizes do not fit together. Each answer names the relation that does not hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlanError {
    /// The arena has too little room.
    Arena(Exhausted),
    /// `1 <= paths <= PATHS_MAX` does not hold.
    Paths {
        /// How many there are, the one for notifications among them.
        paths: u32,
    },
    /// `device < DEVICES_MAX` does not hold.
    Device {
        /// The number that was given.
        device: u32,
    },
    /// A number must be from 1 to some greatest one.
    OutOfRange {
        /// Name of the field of `VqpConfig`.
        field: &'static str,
        /// Its value.
        value: u32,
        /// The greatest value.
        most: u32,
    },
    /// A number must be a power of two.
    NotPowerOfTwo {
        /// Name of the field of `VqpConfig`.
        field: &'static str,
        /// Its value.
        value: u32,
    },
    /// A path's device allows less than is asked for: `VqpConfig::field <= Limits::field`.
    Limit {
        /// Name of both fields.
        field: &'static str,
        /// Number of the path.
        path: u32,
        /// What is asked for.
        wanted: u32,
        /// What the device allows.
        allowed: u32,
    },
    /// A time must not be zero.
    NoTime {
        /// Name of the field of `VqpConfig`.
        field: &'static str,
    },
    /// SPRAY over several data paths needs a path for notifications.
    NoNotifyPath,
    /// With one data path, or with DQPLB, a path for notifications would never be used.
    UnusedNotifyPath,
    /// Paths are on several devices: nothing orders the data before the notification but a flushing read.
    UnorderedDevices,
    /// The region for flushing reads lacks 8 bytes, or a key for a device.
    ScratchRegion,
    /// `2 * slots of the receive window <= sequence numbers` does not hold: numbers could be taken for each other after the wrap.
    WindowWraps {
        /// Slots that the receive window needs: 2 * (window + paths * `recv_depth`), as a power of two.
        slots: u64,
        /// Sequence numbers.
        modulus: u32,
    },
    /// There is no such data path to pin sends to.
    PinnedPath {
        /// The number that was given.
        path: u32,
    },
    /// `sum of send_depth + recv_depth over the paths of all virtual queue pairs <= depth of the completion queue`
    /// does not hold: it could overflow.
    CqTooSmall {
        /// Number of the device.
        device: u32,
        /// Completions that could be in it at once.
        wanted: u64,
        /// Its depth.
        depth: u32,
    },
    /// No completion queue was given for the device of a path.
    NoCq {
        /// Number of the device.
        device: u32,
    },
    /// It is attached already, or was closed.
    Attached,
    /// The virtual completion queue serves as many as it has room for.
    NoRoom,
}

impl From<Exhausted> for PlanError {
    fn from(error: Exhausted) -> Self {
        Self::Arena(error)
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Arena(error) => error.fmt(f),
            Self::Paths { paths } => {
                write!(f, "1 <= paths <= {PATHS_MAX} does not hold: {paths} paths")
            }
            Self::Device { device } => {
                write!(f, "device < {DEVICES_MAX} does not hold: device {device}")
            }
            Self::OutOfRange { field, value, most } => {
                write!(f, "1 <= {field} <= {most} does not hold: {field} is {value}")
            }
            Self::NotPowerOfTwo { field, value } => {
                write!(f, "{field} is {value}: give a power of two")
            }
            Self::Limit { field, path, wanted, allowed } => write!(
                f,
                "{field} <= what the device allows does not hold: {wanted} > {allowed} on path {path}"
            ),
            Self::NoTime { field } => write!(f, "{field} is zero: give a time"),
            Self::NoNotifyPath => f.write_str(
                "SPRAY over several data paths: give a path for notifications",
            ),
            Self::UnusedNotifyPath => f.write_str(
                "a path for notifications would not be used: leave it out with one data path, and with DQPLB",
            ),
            Self::UnorderedDevices => f.write_str(
                "paths on several devices: nothing orders data before the notification; give Visibility::FlushingRead",
            ),
            Self::ScratchRegion => f.write_str(
                "the region of Visibility::FlushingRead: give it 8 bytes and a key for the device of every path",
            ),
            Self::WindowWraps { slots, modulus } => write!(
                f,
                "2 * slots <= sequence numbers does not hold: {slots} slots, {modulus} numbers; make window or recv_depth less"
            ),
            Self::PinnedPath { path } => {
                write!(f, "Spread::Pinned({path}): there is no such data path")
            }
            Self::CqTooSmall { device, wanted, depth } => write!(
                f,
                "sum of send_depth + recv_depth over all paths <= depth of the completion queue does not hold on device {device}: {wanted} > {depth}"
            ),
            Self::NoCq { device } => {
                write!(f, "no completion queue was given for device {device}")
            }
            Self::Attached => f.write_str("attached already, or closed"),
            Self::NoRoom => f.write_str("the virtual completion queue is full: place it larger"),
        }
    }
}

impl core::error::Error for PlanError {}

/// What the proof found out on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proof {
    /// Slots of the receive window; 0 where there is no sequence.
    pub slots: u32,
}

/// Shows that the sizes fit together, for `data` data paths and perhaps one for notifications.
pub(super) fn prove(
    config: &VqpConfig,
    paths: impl Iterator<Item = (Limits, u32)> + Clone,
    (data, has_notify): (u32, bool),
) -> Result<Proof, PlanError> {
    let total = data.saturating_add(u32::from(has_notify));
    if data == 0 || total > PATHS_MAX {
        return Err(PlanError::Paths { paths: total });
    }
    for (field, value, most) in [
        ("max_message", config.max_message, 1 << 31),
        ("sge_max", config.sge_max, SGE_MAX),
        ("sends", config.sends, 1 << 20),
        ("recvs", config.recvs, 1 << 20),
        ("send_depth", config.send_depth, 1 << 16),
        ("recv_depth", config.recv_depth, 1 << 16),
        ("post_burst", config.post_burst, 1 << 16),
        ("window", config.window, 1 << 20),
    ] {
        if value == 0 || value > most {
            return Err(PlanError::OutOfRange { field, value, most });
        }
    }
    for (field, time) in [
        ("suspect_after", config.suspect_after),
        ("silent_after", config.silent_after),
        ("flush_after", config.flush_after),
    ] {
        if time == Nanos::new(0) {
            return Err(PlanError::NoTime { field });
        }
    }
    for (path, (limits, device)) in (0..NIL).zip(paths.clone()) {
        if device >= DEVICES_MAX {
            return Err(PlanError::Device { device });
        }
        for (field, wanted, allowed) in [
            ("send_depth", config.send_depth, limits.send_depth),
            ("recv_depth", config.recv_depth, limits.recv_depth),
            ("sge_max", config.sge_max, limits.sge_max),
            ("max_message", config.max_message, limits.message_bytes_max),
        ] {
            if wanted > allowed {
                return Err(PlanError::Limit { field, path, wanted, allowed });
            }
        }
    }
    if let Spread::Pinned(path) = config.spread
        && path >= data
    {
        return Err(PlanError::PinnedPath { path });
    }
    let is_needed = data > 1 && matches!(config.scheme, Scheme::Spray(_));
    if has_notify != is_needed {
        let unused = PlanError::UnusedNotifyPath;
        return Err(if is_needed { PlanError::NoNotifyPath } else { unused });
    }
    match config.scheme {
        Scheme::Spray(visibility) => {
            let mut devices = paths.map(|(_, device)| device);
            let first = devices.next();
            let is_one = devices.all(|device| Some(device) == first);
            if !is_one && visibility == Visibility::OneDevice {
                return Err(PlanError::UnorderedDevices);
            }
            Ok(Proof { slots: 0 })
        }
        Scheme::Dqplb(codec) => prove_window(config, codec, data),
    }
}

/// See [`sequence`](super::sequence) for why this is enough.
fn prove_window(config: &VqpConfig, codec: SequenceCodec, data: u32) -> Result<Proof, PlanError> {
    if !config.window.is_power_of_two() {
        return Err(PlanError::NotPowerOfTwo { field: "window", value: config.window });
    }
    // A slot of the receive window holds the bytes plus one in 31 bits.
    if config.max_message > FRAGMENT_MAX {
        let (field, value) = ("max_message", config.max_message);
        return Err(PlanError::OutOfRange { field, value, most: FRAGMENT_MAX });
    }
    let modulus = codec.modulus();
    if config.first_sequence >= modulus {
        let (field, value) = ("first_sequence", config.first_sequence);
        return Err(PlanError::OutOfRange { field, value, most: modulus.wrapping_sub(1) });
    }
    let posted = u64::from(data).saturating_mul(u64::from(config.recv_depth));
    let reach = posted.saturating_add(u64::from(config.window)).saturating_mul(2);
    let slots = reach.next_power_of_two();
    let wraps = PlanError::WindowWraps { slots, modulus };
    if slots.saturating_mul(2) > u64::from(modulus) {
        return Err(wraps);
    }
    Ok(Proof { slots: u32::try_from(slots).map_err(|_wide| wraps)? })
}
