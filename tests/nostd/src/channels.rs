//! Reliable connections as byte streams: whatever the other end and the device say, and whatever is written.

use spinwire_dataplane::cq::Cqe;
use spinwire_dataplane::error::PostError;
use spinwire_dataplane::provider::mlx5::Channel;
use spinwire_dataplane::raw::mmio::Device;

type End<'q, 'm> = Channel<'q, 'm, Device>;

#[unsafe(no_mangle)]
pub extern "C" fn probe_channel_write(
    channel: &End<'_, '_>,
    header: &[u8],
    body: &[u8],
) -> Result<(), PostError> {
    channel.write(header, body)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_channel_take(channel: &End<'_, '_>, cqe: &Cqe<'_>) {
    channel.take(cqe);
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_channel_read(channel: &End<'_, '_>, piece: &mut [u8]) -> Option<usize> {
    channel.read(piece)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_channel_ring(channel: &End<'_, '_>) -> u16 {
    channel.ring_doorbell()
}
