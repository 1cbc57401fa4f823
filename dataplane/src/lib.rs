//! The Spinwire data plane.
#![no_std]
#![deny(unsafe_code)]

#[cfg(any(test, loom))]
extern crate std;

pub mod error;
pub mod id;
pub mod msg;
pub mod poll;
pub mod provider;
#[expect(unsafe_code, reason = "the fenced yard")]
pub mod raw;
pub mod shm;
pub mod sync;
pub mod table;
pub mod time;
