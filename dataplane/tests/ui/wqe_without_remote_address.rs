//! A write names the remote memory.

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::wqe::{SqWqe, WqeFlags};

fn write(wqe: SqWqe<'_, '_, u32, Device>) -> Result<(), PostError> {
    wqe.write(WqeFlags::NONE).inline(b"x").finish_signaled(1)
}

fn main() {}
