//! canaries
