//! Why not: the number that C gets, and the text for people.
//!
//! The text is made when it is asked for, so that a caller who polls a full pool formats nothing.

use core::ffi::{CStr, c_int};

use spinwire_dataplane::error::{Fatal, Retry};
use spinwire_dataplane::pool::PoolError;
use spinwire_hostshim::mem::{MapError, Problem};
use spinwire_hostshim::membership::MemberError;
use spinwire_hostshim::pool::{BufferPool, PoolOpenError};

use crate::handle::Wrong;
pub(crate) use crate::types::sw_status as Status;

/// Why a call did not do what was asked.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) status: Status,
    what: What,
}

#[derive(Debug)]
enum What {
    Argument(&'static str, &'static str),
    Handle(&'static str, Wrong),
    Pool(PoolError),
    Told(String),
}

impl Trouble {
    pub(crate) const fn argument(name: &'static str, why: &'static str) -> Self {
        Self { status: Status::SW_ARGUMENT, what: What::Argument(name, why) }
    }

    pub(crate) const fn handle(name: &'static str, wrong: Wrong) -> Self {
        let status = match wrong {
            Wrong::Never | Wrong::Gone => Status::SW_HANDLE,
            Wrong::Thread => Status::SW_THREAD,
            Wrong::Parent => Status::SW_FORKED,
        };
        Self { status, what: What::Handle(name, wrong) }
    }

    pub(crate) const fn told(status: Status, text: String) -> Self {
        Self { status, what: What::Told(text) }
    }

    /// With what the host knows about a buffer that could not be mapped.
    pub(crate) fn explained(self, pool: &BufferPool) -> Self {
        let What::Pool(PoolError::NotMapped { slot }) = self.what else { return self };
        match pool.why_not_mapped(slot) {
            Some(why) => Self::told(self.status, why.to_string()),
            None => self,
        }
    }

    /// The text, without the name of the function that was called.
    pub(crate) fn text(&self) -> String {
        match &self.what {
            What::Argument(name, why) => format!("{name}: {why}"),
            What::Handle(name, Wrong::Never) => {
                format!("{name}: no such handle; remedy: pass one that this library gave out")
            }
            What::Handle(name, Wrong::Gone) => {
                format!(
                    "{name}: it was released, detached or closed before; remedy: do so once only"
                )
            }
            What::Handle(name, Wrong::Thread) => format!(
                "{name}: it belongs to another thread, or is none; remedy: open the pool in each thread that uses it"
            ),
            What::Handle(name, Wrong::Parent) => format!(
                "{name}: it belongs to the process of which this one is a fork(); remedy: open the pool again"
            ),
            What::Pool(error) => error.to_string(),
            What::Told(text) => text.clone(),
        }
    }
}

impl From<PoolError> for Trouble {
    fn from(error: PoolError) -> Self {
        let status = match error {
            PoolError::Retry(Retry::PoolFull) => Status::SW_FULL,
            PoolError::Fatal(Fatal::Fenced) => Status::SW_FENCED,
            PoolError::Fatal(_) => Status::SW_CORRUPT,
            PoolError::Busy => Status::SW_BUSY,
            PoolError::Stale => Status::SW_STALE,
            PoolError::Foreign => Status::SW_FOREIGN,
            PoolError::NoReference => Status::SW_NO_REFERENCE,
            PoolError::TooManyReferences => Status::SW_TOO_MANY_REFERENCES,
            PoolError::TooLarge { .. } => Status::SW_TOO_LARGE,
            PoolError::NotMapped { .. } => Status::SW_NOT_MAPPED,
            PoolError::ReadOnly => Status::SW_READ_ONLY,
            PoolError::AlreadyForgotten => Status::SW_HANDLE,
            PoolError::TypeMismatch { .. } | PoolError::ElementMismatch { .. } => Status::SW_TYPE,
            PoolError::OutOfRange { .. } | PoolError::Misaligned => Status::SW_OUT_OF_RANGE,
            PoolError::BadShape => Status::SW_SHAPE,
            PoolError::NotDescribed => Status::SW_NOT_DESCRIBED,
            PoolError::Retry(_) | PoolError::NoPlainAccess => Status::SW_INTERNAL,
        };
        Self { status, what: What::Pool(error) }
    }
}

impl From<PoolOpenError> for Trouble {
    fn from(error: PoolOpenError) -> Self {
        if let PoolOpenError::Segment(MemberError::Full { process_count }) = error {
            let text = format!(
                "handle_count: all {process_count} handles of the pool are open in live processes; \
                 remedy: close some, or make the pool with more"
            );
            return Self::told(Status::SW_NO_SLOT, text);
        }
        let status = match &error {
            PoolOpenError::LongName { .. } => Status::SW_ARGUMENT,
            PoolOpenError::Arena(_) => Status::SW_INTERNAL,
            PoolOpenError::Large(_) => Status::SW_NOT_MAPPED,
            PoolOpenError::Segment(e) => match e {
                MemberError::Map(e) => return Self::told(of_map(e), e.to_string()),
                MemberError::Name(_) | MemberError::Geometry(_) => Status::SW_ARGUMENT,
                MemberError::Join { .. }
                | MemberError::OtherBoot { .. }
                | MemberError::OtherPidNamespace { .. } => Status::SW_UNUSABLE,
                MemberError::Full { .. } => Status::SW_NO_SLOT,
                MemberError::Os(_) => Status::SW_SYSTEM,
            },
        };
        Self::told(status, error.to_string())
    }
}

impl From<MapError> for Trouble {
    fn from(error: MapError) -> Self {
        Self::told(of_map(&error), error.to_string())
    }
}

const fn of_map(error: &MapError) -> Status {
    match error.problem() {
        Some(Problem::Exists) => Status::SW_EXISTS,
        Some(Problem::Missing) => Status::SW_MISSING,
        Some(_) => Status::SW_UNUSABLE,
        None if matches!(error, MapError::Name(_)) => Status::SW_ARGUMENT,
        None => Status::SW_SYSTEM,
    }
}

/// One line for each number.
pub(crate) fn line(status: c_int) -> &'static CStr {
    let known = Status::LINES.iter().find(|(known, _)| known.code() == status);
    known.map_or(c"no status of this library", |(_, line)| line)
}
