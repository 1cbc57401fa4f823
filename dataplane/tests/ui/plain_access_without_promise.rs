//! Plain slices of shared memory need a promise, which is unsafe to give.

use spinwire_dataplane::raw::payload::PlainAccess;

fn freely() -> PlainAccess {
    PlainAccess::promise()
}

fn main() {}
