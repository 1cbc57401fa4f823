//! To whom a datagram goes: over InfiniBand by LID, over RoCE by MAC and GID.
//!
//! An [`Av`] is the device's form of it, made once and used for many datagrams. Source of the fields: `mlx5_create_ah` of rdma-core.

use spinwire_layouts::endian::{Be16, Be32};
use spinwire_layouts::mlx5::{AddressVector, ud_av};

/// The queue pair that receives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UdPeer {
    /// Its number, 24 bits.
    pub qpn: u32,
    /// Its Q_Key.
    pub qkey: u32,
}

/// The global route header: where a packet goes beyond its subnet, and on every RoCE network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grh {
    /// GID of the receiver.
    pub dgid: [u8; 16],
    /// Index of the sender's GID in the table of its port.
    pub sgid_index: u8,
    /// Flow label, 20 bits.
    pub flow_label: u32,
    /// Traffic class; over RoCE version 2 the TOS of the IP header.
    pub traffic_class: u8,
    /// Hop limit.
    pub hop_limit: u8,
}

/// A route over InfiniBand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IbPath {
    /// LID of the receiver.
    pub dlid: u16,
    /// Service level, 4 bits.
    pub service_level: u8,
    /// Static rate in the device's numbers, 4 bits; 0 is the full one.
    pub static_rate: u8,
    /// Source path bits, 7 of them.
    pub path_bits: u8,
    /// To another subnet.
    pub grh: Option<Grh>,
}

/// A route over RoCE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoceGrh {
    /// The header that every packet has.
    pub grh: Grh,
    /// MAC of the receiver or of the next router.
    pub mac: [u8; 6],
    /// Priority, 3 bits.
    pub priority: u8,
    /// Static rate in the device's numbers, 4 bits; 0 is the full one.
    pub static_rate: u8,
    /// Source port of UDP, for RoCE version 2; 0 for version 1.
    pub udp_source_port: u16,
}

/// An address, in the device's form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Av(AddressVector);

/// Bit 30 of `grh_gid_fl`.
const GRH_PRESENT: u32 = 1 << 30;

impl Av {
    /// Over InfiniBand.
    #[must_use]
    pub fn ib(path: &IbPath, peer: UdPeer) -> Self {
        let mut av = toward(peer);
        av.stat_rate_sl = (path.static_rate & 0xf) << 4 | path.service_level & 0xf;
        av.fl_mlid = path.path_bits & 0x7f;
        av.rlid = Be16::new(path.dlid);
        if let Some(grh) = &path.grh {
            route(&mut av, grh, GRH_PRESENT);
        }
        Self(av)
    }

    /// Over RoCE.
    #[must_use]
    pub fn roce(path: &RoceGrh, peer: UdPeer) -> Self {
        let mut av = toward(peer);
        av.stat_rate_sl = (path.static_rate & 0xf) << 4 | (path.priority & 7) << 1;
        av.rlid = Be16::new(path.udp_source_port);
        av.rmac = path.mac;
        route(&mut av, &path.grh, 0);
        Self(av)
    }

    /// As it stands in a WQE.
    #[must_use]
    #[inline(always)]
    pub const fn segment(&self) -> &AddressVector {
        &self.0
    }
}

const fn toward(peer: UdPeer) -> AddressVector {
    AddressVector {
        qkey: Be32::new(peer.qkey),
        dqp_dct: Be32::new(peer.qpn & 0x00ff_ffff | ud_av::EXTENDED_UD_AV),
        ..AddressVector::ZERO
    }
}

fn route(av: &mut AddressVector, grh: &Grh, present: u32) {
    av.tclass = grh.traffic_class;
    av.hop_limit = grh.hop_limit;
    av.grh_gid_fl =
        Be32::new(present | u32::from(grh.sgid_index) << 20 | grh.flow_label & 0x000f_ffff);
    av.rgid = grh.dgid;
}
