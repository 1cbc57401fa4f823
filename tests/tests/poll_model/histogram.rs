//! Histograms against sorted lists of all that was recorded.

use core::cell::Cell;

use proptest::prelude::*;
use spinwire_dataplane::poll::{Histogram, HistogramSnapshot};

/// The upper end of the bucket of a value, said in another way: the five leading bits count.
const fn rounded_up(value: u64) -> u64 {
    let dropped = (64 - value.leading_zeros()).saturating_sub(5);
    value | ((1 << dropped) - 1)
}

fn snapshot_of(values: &[u64]) -> Box<HistogramSnapshot> {
    let mut storage = vec![Cell::new(9); Histogram::BUCKETS];
    let histogram = Histogram::new(&mut storage);
    let mut snapshot = Box::new(HistogramSnapshot::EMPTY);
    for value in values {
        histogram.record(*value);
    }
    histogram.copy_to(&mut snapshot);
    assert_eq!(histogram.count(), snapshot.count);
    snapshot
}

fn value() -> impl Strategy<Value = u64> {
    (0..40u32, any::<u64>()).prop_map(|(bits, noise)| (1 << bits) | (noise & ((1 << bits) - 1)))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn quantiles_are_those_of_the_sorted_values(
        mut values in prop::collection::vec(value(), 1..200),
        parts in prop_oneof![0..=1_000_000u32, Just(500_000), Just(999_000), any::<u32>()],
    ) {
        let snapshot = snapshot_of(&values);
        values.sort_unstable();
        let parts_in_all = u64::from(parts.min(1_000_000));
        let count = u64::try_from(values.len()).unwrap();
        let rank = (count * parts_in_all).div_ceil(1_000_000).max(1);
        let exact = values[usize::try_from(rank - 1).unwrap()];
        let max = *values.last().unwrap();
        prop_assert_eq!(snapshot.value_at(parts), Some(rounded_up(exact).min(max)));
        let sum: u64 = values.iter().sum();
        prop_assert_eq!((snapshot.count, snapshot.sum), (count, sum));
        prop_assert_eq!((snapshot.min, snapshot.max), (values[0], max));
        prop_assert_eq!((snapshot.mean(), snapshot.overflow), (Some(sum / count), 0));
    }
}

#[test]
fn nothing_recorded_is_no_value() {
    let snapshot = snapshot_of(&[]);
    assert_eq!((snapshot.mean(), snapshot.value_at(500_000)), (None, None));
    assert_eq!(*snapshot, HistogramSnapshot::EMPTY);
}

#[test]
fn what_is_too_great_is_counted_and_its_maximum_kept() {
    let snapshot = snapshot_of(&[1, (1 << 40) - 1, 1 << 40, u64::MAX]);
    assert_eq!((snapshot.overflow, snapshot.max), (2, u64::MAX));
    assert_eq!(snapshot.value_at(1_000_000), Some(u64::MAX));
    assert_eq!(snapshot.value_at(0), Some(1));
    assert_eq!(snapshot.sum, (2 << 40) - 1, "modulo 2^64");
}

#[test]
fn the_difference_of_two_copies_is_what_came_between() {
    let mut both = snapshot_of(&[5, 5, 1000, 70]);
    let earlier = snapshot_of(&[5, 1000]);
    both.subtract(&earlier);
    let between = snapshot_of(&[5, 70]);
    assert_eq!((both.count, both.sum, both.buckets), (2, 75, between.buckets));
    let mut copy = Box::new(HistogramSnapshot::EMPTY);
    copy.copy_from(&both);
    assert_eq!(copy, both);
}
