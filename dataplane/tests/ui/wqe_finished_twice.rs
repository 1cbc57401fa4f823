//! A WQE has two exits, and takes one of them, once.

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::wqe::{SqWqe, WqeFlags};

fn both(wqe: SqWqe<'_, '_, u32, Device>) -> Result<(), PostError> {
    let wqe = wqe.send(WqeFlags::NONE).inline(b"x");
    wqe.finish_unsignaled()?;
    wqe.finish_signaled(1)
}

fn main() {}
