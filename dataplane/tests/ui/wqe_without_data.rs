//! A WQE without what its opcode needs cannot be finished.

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::wqe::{SqWqe, WqeFlags};

fn send(wqe: SqWqe<'_, '_, u32, Device>) -> Result<(), PostError> {
    wqe.send(WqeFlags::NONE).finish_signaled(1)
}

fn read(wqe: SqWqe<'_, '_, u32, Device>) -> Result<(), PostError> {
    wqe.read(WqeFlags::NONE, 1, 2).finish_unsignaled()
}

fn main() {}
