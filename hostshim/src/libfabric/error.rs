//! Why something of libfabric cannot be had, and what it said of operations that have failed.

use core::fmt;

use spinwire_dataplane::id::WrId;
use spinwire_dataplane::raw::place::Exhausted;

use super::offer::SHARED_RECEIVES;
use crate::error::Errno;
use crate::raw::ofi::{self, Failed, Failure};

/// A number of `fi_errno(3)`, positive.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FiErrno(i32);

impl FiErrno {
    /// The number.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }

    /// What helps. The library's numbers of what the kernel refuses are the kernel's.
    const fn remedy(self) -> &'static str {
        match (self.0, Errno::new(self.0).remedy()) {
            (libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOSPC, Some(remedy)) => remedy,
            _ => "set FI_LOG_LEVEL=info in the environment, and the library says more",
        }
    }
}

impl fmt::Display for FiErrno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&ofi::text(self.0))
    }
}

impl fmt::Debug for FiErrno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FiErrno({}: {self})", self.0)
    }
}

/// Why there is no endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum OfiError {
    /// No provider offers that.
    NoOffer {
        /// The provider that was asked for.
        provider: Option<String>,
        /// What was asked for, in a few words.
        wanted: String,
    },
    /// Closing an endpoint of it crashes where a message comes in that was not read: `ofi_rxm` over anything but `tcp`, unless the environment has
    /// `FI_OFI_RXM_USE_SRX=1`.
    Crashes {
        /// The provider.
        provider: String,
    },
    /// The library is not on this machine, or not one that this build can use. It is loaded when it is first asked for something.
    Missing {
        /// What the loader says.
        why: String,
    },
    /// A call was refused.
    Refused {
        /// The function.
        call: &'static str,
        /// Why, as the library says.
        errno: FiErrno,
    },
    /// The provider does less than an endpoint of this house needs.
    Short {
        /// What it lacks.
        field: &'static str,
        /// What it says of itself.
        value: u64,
    },
    /// A text that is no address.
    Address {
        /// The text.
        given: String,
    },
    /// The arena is too small.
    Arena(Exhausted),
}

impl From<Failed> for OfiError {
    fn from(Failed { call, code }: Failed) -> Self {
        match ofi::why_missing() {
            Some(why) if call == ofi::LOADING => Self::Missing { why: why.to_owned() },
            _ => Self::Refused { call, errno: FiErrno(code) },
        }
    }
}

impl From<Exhausted> for OfiError {
    fn from(e: Exhausted) -> Self {
        Self::Arena(e)
    }
}

impl fmt::Display for OfiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoOffer { provider: Some(provider), wanted } => {
                write!(
                    f,
                    "the provider {provider:?} of libfabric offers no {wanted}; remedy: fi_info -p '{provider}' says what it has"
                )
            }
            Self::NoOffer { provider: None, wanted } => {
                write!(
                    f,
                    "no provider of libfabric offers {wanted}; remedy: fi_info says what there is"
                )
            }
            Self::Crashes { provider } => {
                write!(
                    f,
                    "an endpoint of the provider {provider:?} of libfabric crashes when it is closed with messages unread; remedy: set {SHARED_RECEIVES}=1 in the environment"
                )
            }
            Self::Missing { why } => {
                write!(f, "no libfabric: {why}; remedy: apt-get install libfabric1")
            }
            Self::Refused { call, errno } => {
                write!(f, "{call}: {errno}; remedy: {}", errno.remedy())
            }
            Self::Short { field, value } => {
                write!(
                    f,
                    "the provider's {field} is {value}, which is too little; remedy: choose another provider"
                )
            }
            Self::Address { given } => {
                write!(
                    f,
                    "{given:?} is no address; remedy: write FORMAT:HEX, as the other end shows it"
                )
            }
            Self::Arena(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for OfiError {}

/// What the library said of an operation that has failed: `struct fi_cq_err_entry` of `fi_cq(3)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OfiFailure {
    /// Which operation; nobody's for a message that was injected.
    pub wr_id: WrId,
    /// Why.
    pub errno: FiErrno,
    /// Why, in the provider's own numbers.
    pub provider_errno: i32,
    /// Flags of the completion, of `fi_cq(3)`.
    pub flags: u64,
    /// Bytes that were delivered.
    pub length: usize,
    /// Bytes that found no room.
    pub overflow: usize,
    /// The tag, where it has one.
    pub tag: u64,
}

impl OfiFailure {
    /// None.
    pub(super) const NONE: Self = Self {
        wr_id: WrId::from_raw(0),
        errno: FiErrno(0),
        provider_errno: 0,
        flags: 0,
        length: 0,
        overflow: 0,
        tag: 0,
    };

    pub(super) const fn new(wr_id: WrId, failure: &Failure) -> Self {
        Self {
            wr_id,
            errno: FiErrno(failure.code),
            provider_errno: failure.provider_code,
            flags: failure.flags,
            length: failure.entry.length,
            overflow: failure.overflow,
            tag: failure.entry.tag,
        }
    }
}

impl fmt::Display for OfiFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}: {} (of the provider: {}), {} bytes delivered, {} without room",
            self.wr_id, self.errno, self.provider_errno, self.length, self.overflow
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_was_refused_says_what_helps() {
        let told = |errno| OfiError::from(Failed { call: "fi_enable", code: errno }).to_string();
        assert!(told(libc::ENOMEM).ends_with("; remedy: free memory, or ask for less"));
        assert!(
            told(libc::EMFILE)
                .ends_with("; remedy: raise the limit of open files: ulimit -n 65536")
        );
        // That of a segment's folder is of no use here.
        assert!(told(libc::EACCES).contains("remedy: set FI_LOG_LEVEL=info"));
    }
}
