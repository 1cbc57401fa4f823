//! A datagram has an address before it has anything else.

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::wqe::{Av, RoceUdSqWqe, UdSqWqe, WqeFlags};

fn send(wqe: UdSqWqe<'_, '_, u32, Device>) -> Result<(), PostError> {
    wqe.send(WqeFlags::NONE).inline(b"x").finish_signaled(1)
}

fn send_over_roce(wqe: RoceUdSqWqe<'_, '_, u32, Device>) -> Result<(), PostError> {
    wqe.send_imm(WqeFlags::NONE, 1).inline(b"x").finish_signaled(1)
}

fn write(wqe: UdSqWqe<'_, '_, u32, Device>, to: &Av) -> Result<(), PostError> {
    wqe.av(to).write(WqeFlags::NONE, 1, 2).inline(b"x").finish_signaled(1)
}

fn main() {}
