//! By what two processes know that they mean the same memory: magic, version, and a hash over every
//! layout.
//!
//! A join compares, in this order: [`MAGIC`] (is it ours at all), [`READY`] (is it finished),
//! [`ABI_VERSION`] (is it of the same protocol), [`LAYOUT_HASH`] (do all structures and numbers
//! agree). The version is raised by hand where the meaning changes although no layout does; the
//! hash changes by itself with any layout.
//!
//! Hosts that talk over a network compare [`WIRE_VERSION`] and [`WIRE_HASH`] instead, over what
//! travels between them and nothing else: they need not agree on what their memory looks like.

use crate::describe::{HASH_START, Number, Room, StructLayout, hash_word};
use crate::shm::{
    AccessMode, BELL_ARMED, BufferMeta, ClassLive, Counter, DType, EndpointEntry, EndpointKind,
    HistogramHeader, HistogramId, LaneCell, LaneHeader, LaneState, LeaseState, Orphans, ParcelBody,
    PathHealth, PathRow, PoolHeader, ProcessEntry, SegmentHeader, SegmentKind, SizeClass, SlotHome,
    StatsHeader, StorageType, Unit, lane, pool, stats,
};
use crate::wire::{ControlKind, DatagramHeader, Hello, MessageHeader, datagram, hello, message};
use crate::word::widen;

/// First word of every segment: the bytes `SPINWIRE`.
pub const MAGIC: u64 = u64::from_le_bytes(*b"SPINWIRE");

/// Version of the protocol that is spoken in the shared memory.
pub const ABI_VERSION: u32 = 1;

/// Value of the `ready` word of a segment whose creation is finished: the bytes `SW-READY`. Stored
/// last, with Release.
pub const READY: u64 = u64::from_le_bytes(*b"SW-READY");

/// Version of the protocol that is spoken between hosts.
pub const WIRE_VERSION: u32 = 2;

/// Every structure that another process or host sees, in a fixed order.
pub const MANIFEST: &[&StructLayout] = &[
    &SegmentHeader::LAYOUT,
    &ProcessEntry::LAYOUT,
    &EndpointEntry::LAYOUT,
    &LaneHeader::LAYOUT,
    &LaneCell::LAYOUT,
    &StatsHeader::LAYOUT,
    &HistogramHeader::LAYOUT,
    &PathRow::LAYOUT,
    &MessageHeader::LAYOUT,
    &PoolHeader::LAYOUT,
    &SizeClass::LAYOUT,
    &ClassLive::LAYOUT,
    &BufferMeta::LAYOUT,
    &ParcelBody::LAYOUT,
    &Hello::LAYOUT,
    &DatagramHeader::LAYOUT,
];

/// The structures that travel between hosts, in a fixed order.
pub const WIRE_MANIFEST: &[&StructLayout] =
    &[&MessageHeader::LAYOUT, &Hello::LAYOUT, &DatagramHeader::LAYOUT];

/// The structures of [`MANIFEST`] that lie in shared memory, by themselves.
const SHM_LAYOUTS: &[&StructLayout] = &[
    &SegmentHeader::LAYOUT,
    &ProcessEntry::LAYOUT,
    &EndpointEntry::LAYOUT,
    &LaneHeader::LAYOUT,
    &LaneCell::LAYOUT,
    &StatsHeader::LAYOUT,
    &HistogramHeader::LAYOUT,
    &PathRow::LAYOUT,
    &PoolHeader::LAYOUT,
    &SizeClass::LAYOUT,
    &ClassLive::LAYOUT,
    &BufferMeta::LAYOUT,
    &ParcelBody::LAYOUT,
];

/// What processes of one machine share.
pub const SHM_ROOM: Room = Room::own("shm", "what processes of one machine share", SHM_LAYOUTS)
    .with_numbers(&[&[
        Number { name: "SPINWIRE_MAGIC", value: MAGIC },
        Number { name: "SPINWIRE_READY", value: READY },
        Number { name: "SPINWIRE_ABI_VERSION", value: widen(ABI_VERSION) },
        Number { name: "SPINWIRE_LAYOUT_HASH", value: LAYOUT_HASH },
    ]]);

/// What travels between hosts.
pub const WIRE_ROOM: Room = Room::own("wire", "what travels between hosts", WIRE_MANIFEST)
    .with_numbers(&[&[
        Number { name: "SPINWIRE_WIRE_VERSION", value: widen(WIRE_VERSION) },
        Number { name: "SPINWIRE_WIRE_HASH", value: WIRE_HASH },
    ]]);

/// Hashes of the numbered states and kinds, and numbers that are part of the contract but of no
/// structure.
const NUMBERS: &[u64] = &[
    SegmentKind::HASH,
    LeaseState::HASH,
    LaneState::HASH,
    EndpointKind::HASH,
    Counter::HASH,
    HistogramId::HASH,
    Unit::HASH,
    PathHealth::HASH,
    DType::HASH,
    StorageType::HASH,
    AccessMode::HASH,
    Orphans::HASH,
    SlotHome::HASH,
    ControlKind::HASH,
    widen(lane::PARCELS_MAX),
    widen(pool::SLOT_BITS),
    widen(pool::TAG_BITS),
    widen(pool::DETACHED_MAX),
    widen(pool::POOL_PROCESS_COUNT_MAX),
    message::head_hash(),
    crate::word::from_usize(stats::COUNTER_SLOT_COUNT),
    crate::word::from_usize(stats::HISTOGRAM_SLOT_COUNT),
    crate::word::from_usize(stats::BUCKET_COUNT),
    widen(stats::SUB_BUCKET_BITS),
    crate::word::from_usize(stats::PATH_SLOT_COUNT),
    BELL_ARMED,
];

/// What else both ends of a wire agree on.
const WIRE_NUMBERS: &[u64] = &[
    ControlKind::HASH,
    EndpointKind::HASH,
    message::head_hash(),
    hello::HELLO_MAGIC,
    crate::word::from_usize(datagram::DATAGRAM_LENGTH_MAX),
];

/// Hash over [`MANIFEST`], the numbered states, and [`ABI_VERSION`]. Two builds with the same value
/// agree on every byte.
pub const LAYOUT_HASH: u64 = hash_all(ABI_VERSION, MANIFEST, NUMBERS);

/// Hash over [`WIRE_MANIFEST`], the numbers of the wire, and [`WIRE_VERSION`]. Two builds with the
/// same value understand each other over a network.
pub const WIRE_HASH: u64 = hash_all(WIRE_VERSION, WIRE_MANIFEST, WIRE_NUMBERS);

const fn hash_all(version: u32, mut layouts: &[&StructLayout], mut numbers: &[u64]) -> u64 {
    let mut hash = hash_word(HASH_START, widen(version));
    while let [first, tail @ ..] = layouts {
        hash = hash_word(hash, first.hash);
        layouts = tail;
    }
    while let [first, tail @ ..] = numbers {
        hash = hash_word(hash, *first);
        numbers = tail;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;
    use std::vec::Vec;

    #[test]
    fn every_structure_has_a_name_and_a_hash_of_its_own() {
        for (index, layout) in MANIFEST.iter().enumerate() {
            assert!(layout.is_dense(), "{}", layout.name);
            assert_eq!(layout.size % 8, 0, "{} is no whole number of words", layout.name);
            assert!(!layout.doc.is_empty(), "{}", layout.name);
            for field in layout.fields {
                assert!(!field.doc.is_empty(), "{}.{}", layout.name, field.name);
            }
            for other in &MANIFEST[..index] {
                assert_ne!(layout.name, other.name);
                assert_ne!(layout.hash, other.hash);
            }
        }
    }

    #[test]
    fn every_structure_is_in_a_room() {
        let mut rooms: Vec<&str> =
            SHM_LAYOUTS.iter().chain(WIRE_MANIFEST).map(|layout| layout.name).collect();
        let mut manifest: Vec<&str> = MANIFEST.iter().map(|layout| layout.name).collect();
        rooms.sort_unstable();
        manifest.sort_unstable();
        assert_eq!(rooms, manifest);
    }

    /// The hashes of version 1. A difference means that builds from before and after your change
    /// cannot share memory. If that is what you want, say so in the changelog and put in the new
    /// numbers; raise `ABI_VERSION` where the meaning changed.
    const GOLDEN: &[(&str, u64)] = &[
        ("SegmentHeader", 0x9d43_de99_edab_7ff1),
        ("ProcessEntry", 0x6a08_12d3_07af_0be4),
        ("EndpointEntry", 0x60de_1e12_da65_e8c7),
        ("LaneHeader", 0xb6e9_23c3_5da9_18cd),
        ("LaneCell", 0x32d0_a49a_2c50_31dd),
        ("StatsHeader", 0xa943_5358_7b85_4192),
        ("HistogramHeader", 0x6767_9656_cff9_120a),
        ("PathRow", 0x8ecb_563a_3bc0_63c8),
        ("MessageHeader", 0x8512_402f_3b49_ac94),
        ("PoolHeader", 0x5c5a_440d_e3cb_696c),
        ("SizeClass", 0xef4e_080d_308a_371a),
        ("ClassLive", 0xe30a_67c6_1971_5d57),
        ("BufferMeta", 0x2c78_ca5d_71c2_aee0),
        ("ParcelBody", 0xb060_3129_c7c2_9d8e),
        ("Hello", 0x74a1_0c83_4635_e621),
        ("DatagramHeader", 0x4833_82d9_9778_7dc4),
    ];

    const GOLDEN_WIRE_HASH: u64 = 0xf592_b8c0_8f1b_b693;

    const GOLDEN_LAYOUT_HASH: u64 = 0xac07_a9b1_3ff7_bb2e;

    #[test]
    fn the_hashes_are_those_of_version_1() {
        let now: Vec<_> = MANIFEST.iter().map(|layout| (layout.name, layout.hash)).collect();
        assert_eq!(now, GOLDEN, "{now:#x?}");
        assert_eq!(LAYOUT_HASH, GOLDEN_LAYOUT_HASH, "{LAYOUT_HASH:#x}");
        assert_eq!(WIRE_HASH, GOLDEN_WIRE_HASH, "{WIRE_HASH:#x}");
    }

    #[test]
    fn the_words_read_as_text() {
        assert_eq!(&MAGIC.to_le_bytes(), b"SPINWIRE");
        assert_eq!(&READY.to_le_bytes(), b"SW-READY");
    }

    /// All sources of the two rooms whose structures others see.
    fn shared_sources() -> String {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut text = String::new();
        for room in ["shm", "wire"] {
            for entry in std::fs::read_dir(root.join(room)).unwrap() {
                text.push_str(&std::fs::read_to_string(entry.unwrap().path()).unwrap());
            }
        }
        text
    }

    fn names_after(text: &str, start: &str, end: char) -> Vec<String> {
        text.lines()
            .filter_map(|line| line.trim_start().strip_prefix(start))
            .filter_map(|rest| rest.split_once(end))
            .map(|(name, _)| name.into())
            .collect()
    }

    #[test]
    fn no_structure_is_missing_from_the_manifest() {
        let mut defined = names_after(&shared_sources(), "pub struct ", ',');
        let mut listed: Vec<String> = MANIFEST.iter().map(|l| l.name.into()).collect();
        defined.sort();
        listed.sort();
        assert_eq!(defined, listed);
    }

    #[test]
    fn what_travels_between_hosts_is_in_the_hash_of_the_wire() {
        let wire = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wire");
        let mut defined = Vec::new();
        for entry in std::fs::read_dir(wire).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            defined.extend(names_after(&text, "pub struct ", ','));
        }
        let mut listed: Vec<String> = WIRE_MANIFEST.iter().map(|l| l.name.into()).collect();
        defined.sort();
        listed.sort();
        assert_eq!(defined, listed);
    }

    #[test]
    fn the_rooms_hold_the_manifest() {
        let of_rooms = SHM_ROOM.layouts.iter().chain(WIRE_ROOM.layouts).map(|l| l.name);
        let mut of_rooms: Vec<_> = of_rooms.collect();
        let mut manifest: Vec<_> = MANIFEST.iter().map(|l| l.name).collect();
        of_rooms.sort_unstable();
        manifest.sort_unstable();
        assert_eq!(of_rooms, manifest);
    }

    #[test]
    fn no_enumeration_is_missing_from_the_hash() {
        let defined = names_after(&shared_sources(), "pub enum ", ':');
        assert_eq!(defined.len(), 14, "{defined:?}");
        let source = include_str!("abi.rs");
        for name in defined {
            assert!(source.contains(&std::format!("    {name}::HASH,\n")), "{name}");
        }
    }
}
