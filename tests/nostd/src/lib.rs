//! No-panic probe: one exported C function for each hot function of the data plane.
//!
//! The test `no_panic` builds this as a shared library and looks for what the panic handler would call. A probe takes its
//! tables and lanes by reference and its numbers as they come, so the optimiser knows nothing about them: a probe
//! without a panic path has none for any content of the tables, of shared memory, or of the arguments.
//!
//! To add a hot function, add a probe. `hot` probes carry messages; `cold` ones read what peers wrote while joining,
//! connecting and cleaning up; `streams` ones read what comes over a network,
//! `rings` ones what a kernel writes; `queues` ones build what a device reads, `completions` ones read what it writes,
//! `paths` ones what several devices complete, `connections` ones what a host answers to a port over them.
#![no_std]
#![allow(
    improper_ctypes_definitions,
    reason = "nobody calls these from C; they only have to stay in the library"
)]

mod cold;
mod completions;
mod connections;
mod endpoint;
mod files;
mod hot;
mod panic;
mod parcels;
mod paths;
mod queues;
mod rings;
mod streams;
