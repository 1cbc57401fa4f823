//! What a live segment says of its layouts: the hash that its maker has put into the header, and how far apart the entries of
//! its tables lie.
//!
//! A segment holds values, no names. Its hash is over every structure in it, so where that is ours, each of our structures is
//! confirmed. Where it is another, the sizes of entries can still be told, from the places and the lengths of the tables.

use spinwire_dataplane::shm::copy_header;
use spinwire_layouts::abi;
use spinwire_layouts::shm::{SegmentHeader, SegmentKind};

use super::error::Unreadable;
use super::model::{Catalog, Dialect, Kind, Type};
use super::ours;
use crate::mem::{Problem, SharedMapping};

/// What the segment `name` says.
///
/// # Errors
/// There is no such segment, it is not finished, or it is none of ours.
pub(super) fn read(name: &str) -> Result<Catalog, Unreadable> {
    let origin = format!("shm:{name}");
    let mapping = SharedMapping::look(name).map_err(|e| {
        let see = "see what segments there are: spinwire ps";
        let told = Unreadable::told(&origin, &e.to_string(), see);
        match e.problem() {
            // Nobody is about to start anything: whoever asks for a layout has a slip in the name.
            Some(Problem::Missing) => Unreadable { remedy: see.to_owned(), ..told },
            _ => told,
        }
    })?;
    let header = copy_header(mapping.lines()).map_err(|e| {
        Unreadable::told(&origin, &e.to_string(), &format!("see what it is: spinwire ps {name}"))
    })?;
    Ok(of(&origin, &header))
}

/// What a header says.
fn of(origin: &str, header: &SegmentHeader) -> Catalog {
    let kind = SegmentKind::from_code(header.kind).map_or("unknown", SegmentKind::name);
    let is_ours = header.layout_hash == abi::LAYOUT_HASH && header.abi_version == abi::ABI_VERSION;
    let mut catalog = if is_ours {
        let mut catalog = ours::catalog(&[abi::SHM_ROOM]);
        origin.clone_into(&mut catalog.origin);
        catalog
    } else {
        let mut catalog = Catalog::new(origin, Dialect::Ours);
        strides(header).into_iter().for_each(|ty| catalog.add(ty));
        catalog.remarks.push(format!(
            "a {kind} segment of another build: it can only be asked for its hash and for the sizes of entries of tables"
        ));
        catalog
    };
    catalog.is_whole = false;
    catalog.numbers.clear();
    for (name, value) in [
        ("SPINWIRE_MAGIC", header.magic),
        ("SPINWIRE_READY", header.ready),
        ("SPINWIRE_ABI_VERSION", u64::from(header.abi_version)),
        ("SPINWIRE_LAYOUT_HASH", header.layout_hash),
    ] {
        catalog.numbers.insert(name.to_owned(), value);
    }
    catalog
}

/// What there may be between the last lane and the rings of the lanes, which begin on a page.
const BEFORE_RINGS: u64 = 4096 - 1;

/// Sizes of the entries of tables, as far as the places of two tables tell: entries are whole lines, and there is one such size that leads
/// from the one table to the next.
fn strides(header: &SegmentHeader) -> Vec<Type> {
    let tables = [
        (
            "shm::ProcessEntry",
            (header.process_table_offset, header.endpoint_table_offset),
            header.process_count,
            0,
        ),
        (
            "shm::EndpointEntry",
            (header.endpoint_table_offset, header.lane_table_offset),
            header.endpoint_count,
            0,
        ),
        (
            "shm::LaneHeader",
            (header.lane_table_offset, header.lane_ring_offset),
            header.lane_count,
            BEFORE_RINGS,
        ),
    ];
    let stride = |(name, (from, to), count, gap_max): (&str, (u64, u64), u32, u64)| {
        let bytes: u64 = to.checked_sub(from)?;
        let most = bytes.checked_div(u64::from(count))?;
        let least = bytes.saturating_sub(gap_max).div_ceil(u64::from(count)).max(1);
        let size = most.checked_sub(most % LINE)?;
        let is_the_only_one = size >= least && size.saturating_sub(LINE) < least;
        is_the_only_one.then(|| Type {
            name: name.to_owned(),
            kind: Kind::Struct,
            size,
            align: None,
            members: Vec::new(),
            site: None,
            is_tagged: true,
        })
    };
    tables.into_iter().filter_map(stride).collect()
}

/// Bytes of a cache line.
const LINE: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::compare;

    const LANE_TABLE: u64 = 256 + 4 * 128 + 4 * 256;
    const OURS: SegmentHeader = SegmentHeader {
        magic: abi::MAGIC,
        ready: abi::READY,
        abi_version: abi::ABI_VERSION,
        layout_hash: abi::LAYOUT_HASH,
        kind: 1,
        process_count: 4,
        endpoint_count: 4,
        lane_count: 128,
        process_table_offset: 256,
        endpoint_table_offset: 256 + 4 * 128,
        lane_table_offset: LANE_TABLE,
        lane_ring_offset: (LANE_TABLE + 128 * 256).next_multiple_of(4096),
        ..SegmentHeader::ZERO
    };

    #[test]
    fn a_segment_of_another_build_tells_sizes_and_hash() {
        let ours = ours::catalog(&[abi::SHM_ROOM]);
        let same = of("shm:a", &OURS);
        assert_eq!(compare::mirror(&ours, &same, &[]), []);
        let other = SegmentHeader {
            layout_hash: 7,
            lane_ring_offset: (LANE_TABLE + 128 * 320).next_multiple_of(4096),
            ..OURS
        };
        let other = of("shm:b", &other);
        let found = compare::mirror(&ours, &other, &[]);
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("shm::LaneHeader") && found[0].contains("320"), "{found:?}");
        assert!(found[1].contains("SPINWIRE_LAYOUT_HASH") && found[1].contains("0x7"), "{found:?}");
    }

    #[test]
    fn what_lies_before_the_rings_is_none_of_the_lanes() {
        let ours = ours::catalog(&[abi::SHM_ROOM]);
        for lane_count in [1, 2, 64, 100, 128, 512] {
            let lane_ring_offset =
                (LANE_TABLE + u64::from(lane_count) * 256).next_multiple_of(4096);
            let other = SegmentHeader { layout_hash: 7, lane_count, lane_ring_offset, ..OURS };
            let found = compare::mirror(&ours, &of("shm:c", &other), &[]);
            assert_eq!(found.len(), 1, "the hash alone differs: {found:?}");
            // Of a few lanes many a size would do.
            let is_told = strides(&other).iter().any(|ty| ty.name == "shm::LaneHeader");
            assert_eq!(is_told, lane_count >= 64, "{lane_count}");
        }
    }

    #[test]
    fn wild_offsets_tell_nothing() {
        let wild = SegmentHeader { layout_hash: 1, process_count: 0, lane_count: 3, ..OURS };
        let wild = SegmentHeader { endpoint_table_offset: u64::MAX, ..wild };
        assert!(strides(&wild).is_empty(), "{:?}", strides(&wild));
    }
}
