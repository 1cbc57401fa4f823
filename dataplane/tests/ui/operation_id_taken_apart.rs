//! An operation id is read through `parts`, which checks it; its bits are nobody's business.

use spinwire_dataplane::id::WrId;

fn slot(id: WrId) -> u64 {
    id.0
}

fn main() {}
