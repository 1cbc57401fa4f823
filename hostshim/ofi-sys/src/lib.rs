//! libfabric as its headers declare it, names and all: made by bindgen when this is built, from `rdma/fabric.h` and its neighbours.
//!
//! Operations that the headers define as static inline functions are functions here. Those that the library exports are declared and not linked:
//! whoever loads it finds them there. Nothing is added and nothing is checked: `spinwire_hostshim::libfabric` is what is meant to be used. Source: `fabric(7)` and the pages that it names.
#![no_std]
#![cfg_attr(
    feature = "headers",
    allow(
        missing_docs,
        missing_debug_implementations,
        non_camel_case_types,
        non_upper_case_globals,
        unsafe_code,
        unused_qualifications,
        clippy::as_conversions,
        clippy::missing_const_for_fn,
        clippy::missing_safety_doc,
        clippy::multiple_unsafe_ops_per_block,
        clippy::must_use_candidate,
        clippy::ptr_as_ptr,
        clippy::ref_as_ptr,
        clippy::borrow_as_ptr,
        clippy::type_complexity,
        clippy::undocumented_unsafe_blocks,
        clippy::use_self,
        reason = "generated"
    )
)]

#[cfg(feature = "headers")]
include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

/// The folder of the library whose headers were read.
#[cfg(feature = "headers")]
pub const FOLDER: &str = env!("LIBFABRIC_FOLDER");
