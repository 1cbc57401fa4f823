//! The trace ring.

use core::cell::Cell;

use spinwire_dataplane::poll::{TraceEvent, TraceRing};
use spinwire_dataplane::time::Instant;

#[test]
fn the_newest_events_are_kept_and_come_newest_first() {
    for capacity in 0..5 {
        let mut storage = vec![Cell::new(TraceEvent::NONE); capacity];
        let trace = TraceRing::new(&mut storage);
        let mut all = Vec::new();
        for number in 0..12u16 {
            let kept: Vec<_> = all.iter().rev().take(capacity).copied().collect();
            for count in 0..7 {
                let newest: Vec<_> = trace.newest(count).collect();
                let count = usize::try_from(count).unwrap().min(kept.len());
                assert_eq!(newest, kept[..count]);
            }
            assert_eq!(trace.recorded(), u64::from(number));
            let event = TraceEvent {
                at: Instant::from_nanos(number.into()),
                id: number,
                a: u64::from(number) << 40,
                b: !0,
            };
            trace.record(event.at, event.id, event.a, event.b);
            all.push(event);
        }
    }
}
