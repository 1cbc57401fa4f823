//! An atomic operation has operands, and a place for what was there before.

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::wqe::{SqWqe, WqeFlags};

fn without_result(wqe: SqWqe<'_, '_, u32, Device>) -> Result<(), PostError> {
    wqe.atomic_cs(WqeFlags::NONE, (1, 2), 3, 4).finish_signaled(1)
}

fn without_operands(wqe: SqWqe<'_, '_, u32, Device>) -> Result<(), PostError> {
    wqe.atomic_cs(WqeFlags::NONE, (1, 2)).finish_signaled(1)
}

fn main() {}
