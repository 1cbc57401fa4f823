//! What the stats page shows of paths, to readers outside.

use spinwire_dataplane::id::Name;
use spinwire_dataplane::poll::{PathHealth, PathStats, PlaneIdentity, StatsReader, StatsWriter};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_dataplane::verbs::WcStatus;
use spinwire_dataplane::vqp::{Op, VqpConfig};

use crate::manual::Bench;

const INTERVAL: Nanos = Nanos::from_millis(1);
const ROWS: u64 = 64;

#[test]
fn every_path_has_a_row_with_its_figures() {
    let page: Vec<Line> = (0..1024).map(|_| Line::zeroed()).collect();
    // Left over from somebody else.
    page.iter().flat_map(Line::words).for_each(|word| {
        word.store(u64::MAX, spinwire_dataplane::sync::Ordering::Relaxed);
    });
    let plane = PlaneIdentity {
        name: Name::new("paths").unwrap(),
        pid: 1,
        start_time: 1,
        created_unix_ns: 1,
        tsc_hz: 0,
        cpu: None,
    };
    let writer = StatsWriter::new(&page, &plane, INTERVAL).unwrap();
    let reader = StatsReader::new(&page).unwrap();
    assert_eq!(reader.paths().count(), 0, "a new page shows none");
    let config = VqpConfig { max_message: 1000, ..VqpConfig::default() };
    Bench::with((&[0, 0], Some(0)), &config, |bench| {
        bench.post(1, Op::Write, 3000);
        bench.complete(0, WcStatus::SUCCESS);
        bench.complete(1, WcStatus::RETRY_EXCEEDED);
        bench.drain();
        for round in 0..2 {
            for step in 0..ROWS {
                let now = Instant::from_nanos(round * 2_000_000 + step);
                bench.vcq.publish(&writer, now);
            }
        }
        let row = |path, device, qp_num| PathStats {
            vqp: bench.vqp.slot(),
            path,
            device,
            qp_num,
            health: PathHealth::Ok,
            in_flight: 0,
            fragments: 0,
            bytes: 0,
            errors: 0,
            stale: 0,
        };
        let expected = [
            PathStats { in_flight: 1, fragments: 1, bytes: 1000, ..row(0, 0, 7) },
            PathStats { health: PathHealth::Down, errors: 1, ..row(1, 0, 8) },
            row(2, 0, 9),
        ];
        assert_eq!(reader.paths().collect::<Vec<_>>(), expected);
        // Once it is gone, so are its rows; and not before the next round is due.
        bench.vqp.close();
        bench.drain_after(3_000_000_000);
        bench.vcq.detach(bench.vqp).unwrap();
        let show = |at| {
            for step in 0..ROWS {
                bench.vcq.publish(&writer, Instant::from_nanos(at + step));
            }
            reader.paths().count()
        };
        assert_eq!(show(2_000_100), 3);
        assert_eq!(show(4_000_000), 0);
    });
}
