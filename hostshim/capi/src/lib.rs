//! `libspinwire`: buffer pools for C, C++ and whatever else can call C.
//!
//! ```text
//!   C program         spinwire.h                    generated from this crate; `tests/header.rs` compares
//!      |
//!   pool, buffer, describe                          one function of the header each: check, look up, call, translate
//!      |
//!   desk              the tables of one thread:     handle -> open pool, handle -> guard
//!   handle            thread | slot | serial        a word that is looked up and never followed
//!   status            why not: number and text
//!   types             what C sees
//!   process           what the threads share: each pool is mapped once
//!   opened            an open pool and what it borrows  \
//!   foreign           the pointers of the caller        /  the only `unsafe`
//!      |
//!   hostshim::pool
//! ```
//!
//! Invariants: (1) no handle is a pointer: every word that a caller may pass off as one is looked up in the tables of its
//! thread, and a wrong one is an error; (2) no panic crosses the boundary: every function runs in [`desk::call`], which
//! catches; (3) an out parameter is written on success only.
//!
//! There is no Rust library of this crate, so the functions are safe to the compiler although they take pointers: nobody can
//! call them but C, and what C promises stands in the header.
#![allow(
    non_camel_case_types,
    reason = "names are those of the header, where C programmers read them"
)]
#![allow(
    clippy::arithmetic_side_effects,
    reason = "counters of this process only; they do not come near the ends of their types"
)]
#![allow(unreachable_pub, reason = "reached by C, and read by cbindgen, which looks for `pub`")]
#![deny(unsafe_code)]

mod buffer;
mod describe;
mod desk;
#[allow(unsafe_code, reason = "the fenced yard")]
mod foreign;
mod handle;
#[allow(unsafe_code, reason = "the fenced yard")]
mod opened;
mod pool;
mod process;
mod status;
mod types;
