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

/// Sizes of the entries of tables that lie without a gap.
fn strides(header: &SegmentHeader) -> Vec<Type> {
    let tables = [
        (
            "shm::ProcessEntry",
            header.process_table_offset,
            header.endpoint_table_offset,
            header.process_count,
        ),
        (
            "shm::EndpointEntry",
            header.endpoint_table_offset,
            header.lane_table_offset,
            header.endpoint_count,
        ),
        ("shm::LaneHeader", header.lane_table_offset, header.lane_ring_offset, header.lane_count),
    ];
    let stride = |(name, from, to, count): (&str, u64, u64, u32)| {
        let bytes = to.checked_sub(from)?;
        let size = bytes.checked_div(u64::from(count))?;
        (size > 0 && size.checked_mul(u64::from(count)) == Some(bytes)).then(|| Type {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::compare;

    const OURS: SegmentHeader = SegmentHeader {
        magic: abi::MAGIC,
        ready: abi::READY,
        abi_version: abi::ABI_VERSION,
        layout_hash: abi::LAYOUT_HASH,
        kind: 1,
        process_count: 4,
        endpoint_count: 4,
        lane_count: 2,
        process_table_offset: 256,
        endpoint_table_offset: 256 + 4 * 128,
        lane_table_offset: 256 + 4 * 128 + 4 * 256,
        lane_ring_offset: 256 + 4 * 128 + 4 * 256 + 2 * 256,
        ..SegmentHeader::ZERO
    };

    #[test]
    fn a_segment_of_another_build_tells_sizes_and_hash() {
        let ours = ours::catalog(&[abi::SHM_ROOM]);
        let same = of("shm:a", &OURS);
        assert_eq!(compare::mirror(&ours, &same, &[]), []);
        let other = SegmentHeader {
            layout_hash: 7,
            lane_ring_offset: OURS.lane_ring_offset + 2 * 64,
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
    fn wild_offsets_tell_nothing() {
        let wild = SegmentHeader { layout_hash: 1, process_count: 0, lane_count: 3, ..OURS };
        let wild = SegmentHeader { endpoint_table_offset: u64::MAX, ..wild };
        assert!(strides(&wild).is_empty(), "{:?}", strides(&wild));
    }
}
