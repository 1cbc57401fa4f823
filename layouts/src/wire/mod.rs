//! What travels from host to host: little end first, whatever the machines are.

pub mod message;

pub use message::{Head, MESSAGE_LENGTH_MAX, MessageHeader};
