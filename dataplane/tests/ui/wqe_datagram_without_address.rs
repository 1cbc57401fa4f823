//! A datagram has an address before it has anything else.

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::wqe::{UdSqWqe, WqeFlags};

fn send(wqe: UdSqWqe<'_, '_, u32, Device>) -> Result<(), PostError> {
    wqe.send(WqeFlags::NONE).inline(b"x").finish_signaled(1)
}

fn main() {}
