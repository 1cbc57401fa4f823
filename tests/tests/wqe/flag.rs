//! flag.
