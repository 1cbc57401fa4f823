//! Messages over UDP. So far: [`datagram`], what a packet looks like.

pub mod datagram;
