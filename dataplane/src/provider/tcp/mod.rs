//! Messages over TCP. So far: [`frame`], what a connection speaks.

pub mod frame;
