//! One file a command.

pub(crate) mod bw;
pub(crate) mod lat;
