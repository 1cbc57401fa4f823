//! Messages over reliable connections of mlx5 devices.
//!
//! | file | what it does |
//! |---|---|
//! | [`channel`] | a connection as a byte stream: eager copies into receives that are posted beforehand, and credit for them |
//!
//! What is spoken on a channel is what is spoken over TCP ([`frame`](super::tcp::frame)): a greeting, then frames with credit of their own for what
//! nobody has asked for yet. A port over channels is not there yet.

pub mod channel;

pub use channel::{BadChannel, Channel, ChannelConfig};
