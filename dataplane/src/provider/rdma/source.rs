//! Who has sent a datagram: 40 bytes in front of it, written by the device (`ibv_post_recv(3)`, `ibv_init_ah_from_wc(3)`).
//!
//! ```text
//!   routed by IPv6, or within InfiniBand   | 6 .. | lengths | source 16 | destination 16 |
//!   routed by IPv4 (RoCE)                  | undefined 20 | IPv4 header: 0x45 .. checksum .. source 4 | destination 4 |
//! ```

/// Bytes of that header.
pub(super) const ROUTE_BYTES: usize = 40;

/// The address of a port of a device: an IPv6 address, one of IPv4 as such a one, or an identifier of InfiniBand.
pub type Gid = [u8; 16];

/// Who has sent it; `None` where the header is none that is known, as of datagrams within one InfiniBand subnet that carry none.
pub(super) fn source(header: &[u8; ROUTE_BYTES]) -> Option<Gid> {
    let (first, v4) = header.split_first_chunk::<20>()?;
    let v4 = v4.first_chunk::<20>()?;
    let is_v6 = first.first()? >> 4 == 6;
    let is_v4 = *v4.first()? == 0x45 && (!is_v6 || sum(v4) == 0xffff);
    if is_v4 {
        let mut gid = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
        let from = v4.get(12..16)?;
        gid.get_mut(12..)?.copy_from_slice(from);
        return Some(gid);
    }
    let gid = header.get(8..24)?.first_chunk().copied();
    gid.filter(|_| is_v6)
}

/// The sum of RFC 1071 over a header with its checksum: all ones where it is right.
fn sum(header: &[u8; 20]) -> u32 {
    let words = header.as_chunks::<2>().0.iter().map(|word| u32::from(u16::from_be_bytes(*word)));
    let sum = words.fold(0_u32, u32::wrapping_add);
    (sum & 0xffff).wrapping_add(sum >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_found_in_either_header() {
        let mut header = [0; ROUTE_BYTES];
        assert_eq!(source(&header), None);
        header[0] = 0x60;
        let gid: Gid = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 2, 3, 4, 5, 6, 7, 8, 9];
        header[8..24].copy_from_slice(&gid);
        header[24] = 0x77;
        assert_eq!(source(&header), Some(gid));
        // The header of RFC 1071's kind of example: 0x45 .. with its checksum.
        let v4 = [
            0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8,
            0, 0xc7,
        ];
        header[20..].copy_from_slice(&v4);
        let mapped: Gid = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xc0, 0xa8, 0, 1];
        assert_eq!(source(&header), Some(mapped));
        header[39] ^= 1;
        let found = source(&header).unwrap();
        assert_eq!(found[..12], gid[..12], "a wrong checksum: it is of IPv6");
        header[0] = 0;
        assert_eq!(source(&header), Some(mapped), "what is not of IPv6 has no checksum to go by");
    }
}
