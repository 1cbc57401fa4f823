//! Which flags a ring is set up with: those that are wanted, as far as the kernel goes along.
//!
//! The kernel answers EINVAL where one flag of many is new to it, and does not say which. So all are tried at once, and
//! where that fails one step after the other, each on top of those that were taken. Nothing depends on a version, nor on
//! the order in which versions brought them.

use spinwire_layouts::uring::setup;

use super::feature::{Feature, FeatureSet};
use crate::error::Errno;

/// Steps by which flags are asked for: all of a step, or none. Work that is put off must be announced, or a thread that polls
/// would never hear of it; so those flags go together (io_uring_setup(2)).
const STEPS: [&[Feature]; 8] = [
    &[Feature::Clamp],
    &[Feature::CqSize],
    &[Feature::SqPoll],
    &[Feature::SubmitAll],
    &[Feature::SingleIssuer],
    &[Feature::TaskrunFlag, Feature::SingleIssuer, Feature::DeferTaskrun],
    &[Feature::TaskrunFlag, Feature::CoopTaskrun],
    &[Feature::NoSqArray],
];

/// Flags of features, and those that go with them.
fn flags_of(features: impl IntoIterator<Item = Feature>, others: u32) -> u32 {
    let flags = features.into_iter().fold(0, |flags, feature| flags | feature.setup_flag());
    if flags & setup::SQPOLL == 0 { flags } else { flags | (others & setup::SQ_AFF) }
}

/// Those of `step` that `wanted` has, where it can do without the others.
fn step(step: &[Feature], wanted: FeatureSet, have: FeatureSet) -> Option<FeatureSet> {
    let all = step.iter().all(|feature| wanted.has(*feature));
    let puts_off = |f: &Feature| matches!(f, Feature::DeferTaskrun | Feature::CoopTaskrun);
    let clash = (step.iter().any(puts_off))
        && (have.has(Feature::SqPoll) || have.has(Feature::DeferTaskrun));
    (all && !clash).then(|| step.iter().copied().fold(have, FeatureSet::with))
}

/// The best of `wanted` that goes together at all, whatever the kernel.
pub(super) fn compatible(wanted: FeatureSet) -> FeatureSet {
    let mut have = FeatureSet::EMPTY;
    for features in STEPS {
        have = step(features, wanted, have).unwrap_or(have);
    }
    have
}

/// Calls `attempt` with flags until it succeeds with as many of `wanted` as it takes. `others` are flags that go with
/// a feature and are none by themselves.
///
/// # Errors
/// Of the attempt, where it fails for another reason than an unknown flag, or without any.
pub(super) fn settle<T>(
    wanted: FeatureSet,
    others: u32,
    mut attempt: impl FnMut(u32) -> Result<T, Errno>,
) -> Result<(T, FeatureSet), Errno> {
    let all = compatible(wanted);
    let refused = match attempt(flags_of(all.iter(), others)) {
        Ok(ring) => return Ok((ring, all)),
        Err(e) if !is_about_flags(e, all) => return Err(e),
        Err(one_of_them) => one_of_them,
    };
    let mut have = FeatureSet::EMPTY;
    let mut best = match attempt(0) {
        Ok(ring) => Some(ring),
        // Sizes that are to be cut are refused where nothing says that they are.
        Err(e) if wanted.has(Feature::Clamp) && e.number() == libc::EINVAL => None,
        Err(e) => return Err(e),
    };
    for features in STEPS {
        let Some(more) = step(features, wanted, have) else { continue };
        match attempt(flags_of(more.iter(), others)) {
            Ok(ring) => (best, have) = (Some(ring), more),
            Err(e) if !is_about_flags(e, more) => return Err(e),
            Err(_unknown) => {}
        }
    }
    best.map(|ring| (ring, have)).ok_or(refused)
}

/// May the same call succeed without one of its flags? Kernels before 5.11 let only root have a thread of the kernel.
const fn is_about_flags(e: Errno, asked: FeatureSet) -> bool {
    e.number() == libc::EINVAL || (e.number() == libc::EPERM && asked.has(Feature::SqPoll))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONAL: [Feature; 9] = [
        Feature::Clamp,
        Feature::CqSize,
        Feature::SubmitAll,
        Feature::TaskrunFlag,
        Feature::CoopTaskrun,
        Feature::SingleIssuer,
        Feature::DeferTaskrun,
        Feature::NoSqArray,
        Feature::SqPoll,
    ];

    fn sets() -> impl Iterator<Item = FeatureSet> {
        (0_u32..1 << OPTIONAL.len()).map(|bits| {
            let chosen = OPTIONAL.iter().enumerate().filter(move |(n, _)| bits >> n & 1 == 1);
            chosen.map(|(_, feature)| *feature).collect()
        })
    }

    /// A kernel that knows some flags, and the rules between them that Linux has.
    fn kernel(known: FeatureSet, flags: u32) -> Result<u32, Errno> {
        let has = |feature: Feature| flags & feature.setup_flag() != 0;
        let known = flags_of(known.iter(), 0) | setup::SQ_AFF;
        let put_off = has(Feature::CoopTaskrun) || has(Feature::DeferTaskrun);
        let wrong = flags & !known != 0
            || (has(Feature::SqPoll) && (put_off || has(Feature::TaskrunFlag)))
            || (flags & setup::SQ_AFF != 0 && !has(Feature::SqPoll))
            || (has(Feature::TaskrunFlag) && !put_off)
            || (has(Feature::DeferTaskrun) && !has(Feature::SingleIssuer));
        if wrong { Err(Errno::new(libc::EINVAL)) } else { Ok(flags) }
    }

    #[test]
    fn on_every_kernel_as_much_is_taken_as_goes() {
        let wanted: FeatureSet = OPTIONAL.into_iter().filter(|f| *f != Feature::SqPoll).collect();
        for known in sets() {
            let (flags, have) = settle(wanted, 0, |flags| kernel(known, flags)).unwrap();
            assert_eq!(flags, flags_of(have.iter(), 0), "what was set up is what is said");
            let knows = |feature| known.has(feature);
            for simple in [Feature::Clamp, Feature::CqSize, Feature::SubmitAll, Feature::NoSqArray]
            {
                assert_eq!(have.has(simple), knows(simple), "{simple} of {known}");
            }
            let defer = knows(Feature::DeferTaskrun)
                && knows(Feature::SingleIssuer)
                && knows(Feature::TaskrunFlag);
            assert_eq!(have.has(Feature::DeferTaskrun), defer, "{known}");
            let coop = knows(Feature::CoopTaskrun) && knows(Feature::TaskrunFlag) && !defer;
            assert_eq!(have.has(Feature::CoopTaskrun), coop, "{known}");
        }
    }

    #[test]
    fn sizes_that_are_to_be_cut_are_cut_on_every_kernel_that_does_so() {
        let wanted: FeatureSet = OPTIONAL.into_iter().collect();
        for known in sets() {
            let too_large = |flags| match kernel(known, flags) {
                Ok(flags) if flags & Feature::Clamp.setup_flag() == 0 => {
                    Err(Errno::new(libc::EINVAL))
                }
                other => other,
            };
            match settle(wanted, 0, too_large) {
                Ok((_flags, have)) => assert!(have.has(Feature::Clamp), "{known}"),
                Err(e) => {
                    assert_eq!(e, Errno::new(libc::EINVAL));
                    assert!(!known.has(Feature::Clamp), "{known}");
                }
            }
        }
    }

    #[test]
    fn whatever_is_wanted_never_clashes() {
        let all: FeatureSet = OPTIONAL.into_iter().collect();
        for wanted in sets() {
            let mut tries = 0;
            let (flags, have) = settle(wanted, setup::SQ_AFF, |flags| {
                tries += 1;
                kernel(all, flags)
            })
            .unwrap();
            assert_eq!(tries, 1, "a kernel that knows all is asked once: {wanted}");
            assert!(have.iter().all(|feature| wanted.has(feature)), "{have} of {wanted}");
            let announced = have.has(Feature::TaskrunFlag);
            let put_off = have.has(Feature::CoopTaskrun) || have.has(Feature::DeferTaskrun);
            assert_eq!(announced, put_off, "{have}");
            assert_eq!(flags & setup::SQ_AFF != 0, have.has(Feature::SqPoll));
            assert_eq!(have.has(Feature::SqPoll), wanted.has(Feature::SqPoll));
        }
    }

    #[test]
    fn other_answers_end_it() {
        for number in [libc::EPERM, libc::ENOMEM, libc::EMFILE, libc::ENOSYS] {
            let mut tries = 0;
            let refused = settle(OPTIONAL[..4].iter().copied().collect(), 0, |_flags| {
                tries += 1;
                Err::<(), _>(Errno::new(number))
            });
            assert_eq!((refused.unwrap_err().number(), tries), (number, 1));
        }
        let refused = settle(FeatureSet::EMPTY, 0, |_flags| Err::<(), _>(Errno::new(libc::EINVAL)));
        assert_eq!(refused.unwrap_err().number(), libc::EINVAL, "not for a flag, then");
    }

    #[test]
    fn a_thread_of_the_kernel_that_is_forbidden_is_done_without() {
        let wanted = FeatureSet::EMPTY.with(Feature::SqPoll).with(Feature::SubmitAll);
        let (_, have) = settle(wanted, 0, |flags| {
            if flags & setup::SQPOLL == 0 { Ok(()) } else { Err(Errno::new(libc::EPERM)) }
        })
        .unwrap();
        assert_eq!(have, FeatureSet::EMPTY.with(Feature::SubmitAll));
    }
}
