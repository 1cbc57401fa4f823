//! Ports of this crate, and what they promise of posted memory.

use spinwire_dataplane::provider::KeepsPosted;

use crate::open::AnyPort;

// SAFETY: it hands everything on to the one port that it is, which has made this promise, and keeps nothing.
unsafe impl KeepsPosted for AnyPort<'_> {}
