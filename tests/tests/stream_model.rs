//! Byte streams over a fake kernel and a fake network: every byte arrives once and in order, every loan comes back once, who was
//! refused is told, and when all is over nothing is left.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]

use core::ops::Range;

use spinwire_dataplane::stream::StreamConfig;
use spinwire_tests::fake_kernel::FakeConfig;
use spinwire_tests::fake_net::plan::{Plan, Totals};

/// Says how to run it again. (`STREAM_SEEDS=100000` runs as many.)
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "again: STREAM_SEED={} cargo test -p spinwire-tests --test stream_model",
                self.0
            );
        }
    }
}

fn seeds(count: u64) -> Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let count = number("STREAM_SEEDS").unwrap_or(count);
    number("STREAM_SEED").map_or(0..count, |seed| seed..seed + 1)
}

fn run(plan: &Plan) -> Totals {
    let _replay = Replay(plan.seed);
    plan.run()
}

#[test]
fn everything_arrives_once_and_in_order_and_nothing_is_left() {
    let mut sum = Totals::default();
    let range = seeds(1_500);
    let all = range.end - range.start > 1;
    for seed in range {
        let totals = run(&Plan::any(seed));
        sum.closed += totals.closed;
        sum.heard_out += totals.heard_out;
        sum.failed += totals.failed;
        sum.sent.0 += totals.sent.0;
        sum.sent.1 += totals.sent.1;
        sum.taken_back += totals.taken_back;
        sum.late += totals.late;
        sum.writable += totals.writable;
        sum.cut += totals.cut;
        sum.overflows += totals.overflows;
        sum.not_accepted += totals.not_accepted;
        sum.counters.out_of_buffers += totals.counters.out_of_buffers;
        sum.counters.zero_copy += totals.counters.zero_copy;
        sum.counters.turned_away += totals.counters.turned_away;
    }
    println!("{sum:?}");
    let counts = [
        sum.closed,
        sum.heard_out,
        sum.failed,
        sum.sent.0,
        sum.sent.1,
        sum.taken_back,
        sum.late,
        sum.writable,
        sum.cut,
        sum.overflows,
        sum.not_accepted,
        sum.counters.out_of_buffers,
        sum.counters.zero_copy,
        sum.counters.turned_away,
    ];
    assert!(!all || counts.iter().all(|count| *count > 20), "something never happens: {sum:?}");
}

/// One row beside the listener, one buffer each way, one segment, queues of one entry.
#[test]
fn tables_of_one_are_enough() {
    let mut closed = 0;
    for seed in seeds(400) {
        let any = Plan::any(seed);
        let one = StreamConfig {
            conns: 2,
            recv_buffers: (1, 64),
            send_buffers: (1, 64),
            segments: 1,
            queue_high: 1,
            queue_low: 0,
            ..any.config
        };
        let kernel = FakeConfig { sq_entries: 1, cq_entries: 1, ..any.kernel };
        closed += run(&Plan { config: one, kernel, peers: 4, ..any }).closed;
    }
    assert!(closed > 0, "nothing comes to its end");
}

#[test]
fn the_oracle_sees_a_byte_that_is_wrong() {
    let found = (0..20).filter(|seed| {
        let plan = Plan { canary: Some(40), ..Plan::any(*seed) };
        std::panic::catch_unwind(|| plan.run()).is_err()
    });
    assert!(found.count() > 10, "a wrong byte goes unseen");
}
