//! A guide to Spinwire, to be read from the first chapter to the last.
//!
//! | chapter | what it tells |
//! |---|---|
//! | [`model`] | endpoints, turns, completions: what a program sees, and a whole one |
//! | [`choosing`] | how a program asks for what it needs, and finds out what it got |
//! | [`buffers`] | who owns a buffer, from the pool to the completion and back |
//! | [`completions`] | how operations end, well or not, and what to do about each error |
//! | [`polling`] | spinning, resting, and waiting for one answer with a deadline |
//! | [`desks`] | one operation at a time, futures, descriptors: who does the polling for you, and what it costs |
//! | [`datagrams`] | messages that may get lost, and how to live with that |
//! | [`tuning`] | what makes it fast, in the order in which it pays |
//! | [`cluster`] | from two threads of one machine to many machines |
//!
//! The code in it is compiled and run with the documentation tests. ARCHITECTURE.md says how things work inside; the front page of
//! `spinwire-dataplane` has the model on one screen.

pub mod buffers;
pub mod choosing;
pub mod cluster;
pub mod completions;
pub mod datagrams;
pub mod desks;
pub mod model;
pub mod polling;
pub mod tuning;
