//! Joining a segment that somebody damaged, and walking through everything in it.
//!
//! The input is a list of damages: to the header before the join, to the tables after it. Joining answers with an error, or
//! with a segment whose parts all lie in the mapping; after that nothing that stands in the tables may cause a
//! panic, a loop without end or an access out of bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::shm::lease::Joiner;
use spinwire_dataplane::shm::segment::attach_stats;
use spinwire_dataplane::shm::{Segment, copy_header};
use spinwire_dataplane::shm::{directory, lane_table, lease, reclaim};
use spinwire_fuzz::{Input, format, lines, name, scribble};
use spinwire_layouts::abi::{ABI_VERSION, LAYOUT_HASH, MAGIC};
use spinwire_layouts::shm::{EndpointId, EndpointKind};

/// Words of the header.
const HEADER_WORDS: usize = 32;

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let memory = lines();
    format(&memory);
    let mut mapped: &[Line] = &memory;
    let damages = input.byte() % 4;
    for _ in 0..damages {
        if input.byte() == 0 {
            mapped = &memory[..input.below(memory.len() + 1)];
        }
        let at = input.below(HEADER_WORDS);
        scribble(mapped, at, &mut input);
    }
    if let Ok(page) = attach_stats(mapped) {
        assert!(page.len() * 64 <= size_of_val(mapped));
    }
    let Ok(segment) = Segment::attach(mapped) else {
        return;
    };
    check_identity(&segment, mapped);
    check_bounds(&segment, mapped);
    for _ in 0..32 {
        if input.is_empty() {
            break;
        }
        act(&segment, mapped, &mut input);
    }
});

/// Only a header of this build gets through.
fn check_identity(segment: &Segment<'_>, mapped: &[Line]) {
    let header = copy_header(mapped).expect("it was read a moment ago");
    assert_eq!(
        (header.magic, header.abi_version, header.layout_hash),
        (MAGIC, ABI_VERSION, LAYOUT_HASH)
    );
    let geometry = segment.geometry();
    assert_eq!(geometry.segment_bytes(), Ok(header.segment_bytes));
    assert!(header.segment_bytes <= u64::try_from(size_of_val(mapped)).unwrap());
    assert!(geometry.lane_count >= 1 && geometry.lane_cell_count.is_power_of_two());
}

fn check_bounds(segment: &Segment<'_>, mapped: &[Line]) {
    let inside = mapped.as_ptr_range();
    let geometry = *segment.geometry();
    for lane in 0..geometry.lane_count {
        let memory = segment.lane_memory(lane).expect("every lane of the geometry has memory");
        for part in [memory.cells, memory.spill, std::slice::from_ref(memory.credit)] {
            let range = part.as_ptr_range();
            assert!(inside.start <= range.start && range.end <= inside.end, "lane {lane}");
        }
        assert_eq!(memory.cells.len(), usize::try_from(geometry.lane_cell_count).unwrap());
    }
    assert!(segment.lane_memory(geometry.lane_count).is_none());
}

fn act(segment: &Segment<'_>, mapped: &[Line], input: &mut Input<'_>) {
    let slot = u32::from(input.byte() % 6);
    let process = u16::from(input.byte() % 5);
    let joiner = Joiner { pid: 7, start_time: 7, joined_unix_ns: 7, command: [b'x'; 64] };
    match input.byte() % 8 {
        0..=2 => {
            // Everything before the rings: header, process table, directory, lane table.
            let at = input.below(64 * 8);
            scribble(mapped, at, input);
        }
        3 => {
            let Ok(lease) = lease::join(segment, &joiner) else {
                return;
            };
            let own = name(["a", "b", "c"][usize::from(input.byte() % 3)]);
            let Ok(id) = directory::register(segment, &lease, &own, EndpointKind::Rdm) else {
                return;
            };
            if let Some(target) = directory::lookup(segment, &own)
                && let Ok(end) = lane_table::open(segment, id, lease.slot(), &target, 0)
            {
                assert!(end.lane < segment.geometry().lane_count);
            }
        }
        4 => {
            for row in lease::rows(segment) {
                let _ = lease::mark_dead(segment, row.slot, row.lease);
            }
            let _ = reclaim::reclaim(segment, process);
        }
        5 => {
            for row in directory::rows(segment) {
                let _ = (row.name.as_str(), directory::is_gone(segment, row.id));
                directory::unregister(segment, row.id);
            }
        }
        6 => {
            if let Some(id) = EndpointId::unpack(input.word())
                && let Some((end, _)) = lane_table::inbound(segment, slot, id)
            {
                assert!(end.lane < segment.geometry().lane_count);
            }
        }
        _ => {
            lane_table::announce(segment, slot, u32::from(input.half()));
            for (side, other) in [
                (lane_table::Side::Sender, lane_table::OtherEnd::Present),
                (lane_table::Side::Receiver, lane_table::OtherEnd::Gone),
            ] {
                lane_table::leave(segment, slot, u32::from(input.byte()), side, other);
            }
            let _ = lane_table::state_of(segment, slot);
        }
    }
}
