//! What is read from remote memory cannot land in the WQE.

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::wqe::{SqWqe, WqeFlags};

fn read(wqe: SqWqe<'_, '_, u32, Device>) -> Result<(), PostError> {
    wqe.read(WqeFlags::NONE, 1, 2).inline(b"x").finish_signaled(1)
}

fn main() {}
