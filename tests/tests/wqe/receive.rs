//! receive.
