//! One file a command.

pub(crate) mod bw;
pub(crate) mod devices;
pub(crate) mod doctor;
pub(crate) mod echo;
pub(crate) mod lat;
pub(crate) mod layout;
pub(crate) mod ping;
pub(crate) mod pool;
pub(crate) mod providers;
pub(crate) mod ps;
pub(crate) mod rm;
pub(crate) mod serve;
pub(crate) mod top;
