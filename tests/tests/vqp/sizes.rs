//! Sizes are proved to fit together before anything is posted; the answer names the relation that does not hold.

use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::verbs::Limits;
use spinwire_dataplane::vqp::sequence::SequenceCodec;
use spinwire_dataplane::vqp::{
    PlanError, Regions, Scheme, Setup, Spread, VirtualCq, VirtualQp, Visibility, VqpConfig,
};
use spinwire_tests::sim::fabric::{Fabric, Links, SimQp};

use crate::manual::{block, keys};

pub(crate) const LIMITS: Limits = Limits {
    send_depth: 128,
    recv_depth: 128,
    sge_max: 4,
    message_bytes_max: 1 << 31,
    inline_bytes_max: 0,
};
pub(crate) const DQPLB: VqpConfig =
    VqpConfig { scheme: Scheme::Dqplb(SequenceCodec::Clean), ..BASE };
pub(crate) const BASE: VqpConfig = base();

/// The defaults, where a constant needs them.
const fn base() -> VqpConfig {
    use spinwire_dataplane::time::Nanos;
    VqpConfig {
        scheme: Scheme::Spray(Visibility::OneDevice),
        spread: Spread::Pinned(0),
        replay: spinwire_dataplane::vqp::Replay::Never,
        max_message: 1 << 20,
        sge_max: 4,
        sends: 16,
        recvs: 16,
        send_depth: 8,
        recv_depth: 8,
        window: 64,
        first_sequence: 0,
        post_burst: 16,
        suspect_after: Nanos::from_millis(1),
        silent_after: Nanos::from_millis(10),
        flush_after: Nanos::from_millis(1),
    }
}

/// What comes of `data` paths and perhaps one for notifications, on those devices.
pub(crate) fn plan(
    (data, notify): (&[u32], Option<u32>),
    config: &VqpConfig,
    cq_depth: u32,
) -> Result<(), PlanError> {
    let fabric = Fabric::new(4, 64, Links::QUIET, 0);
    let connect = |device: u32| -> (SimQp<'_>, u32) {
        (fabric.connect(usize::try_from(device).unwrap() % 4, LIMITS).0, device)
    };
    let paths: Vec<_> = data.iter().copied().map(connect).collect();
    let mut memory = block(8 << 20);
    let bump = Bump::new(&mut memory);
    let local = &*bump.value(Regions::place(&bump, 2, 4)?)?;
    let remote = &*bump.value(Regions::place(&bump, 2, 4)?)?;
    let setup = Setup { paths: &paths, notify: notify.map(connect), local, remote };
    let vqp = VirtualQp::place(&bump, &setup, config)?;
    let cqs: Vec<_> = (0..2).map(|device| (fabric.cq(0, device, cq_depth), device)).collect();
    let cqs: Vec<_> = cqs.into_iter().map(|(cq, d)| (cq, u32::try_from(d).unwrap())).collect();
    let vcq = VirtualCq::place(&bump, &cqs, 2)?;
    vcq.attach(vqp)?;
    assert_eq!(vcq.attach(vqp), Err(PlanError::Attached));
    Ok(())
}

fn says(error: PlanError, words: &str) {
    let text = error.to_string();
    assert!(text.contains(words), "{text}");
}

#[test]
fn the_default_fragment_is_1_mib() {
    assert_eq!(VqpConfig::default().max_message, 1 << 20);
    assert_eq!(plan((&[0, 0], Some(0)), &VqpConfig::default(), 1024), Ok(()));
}

#[test]
fn a_completion_queue_that_could_overflow_is_refused() {
    // 3 paths of 8 + 8 on device 0.
    assert_eq!(plan((&[0, 0], Some(0)), &BASE, 48), Ok(()));
    let error = plan((&[0, 0], Some(0)), &BASE, 47).unwrap_err();
    assert_eq!(error, PlanError::CqTooSmall { device: 0, wanted: 48, depth: 47 });
    says(error, "sum of send_depth + recv_depth over all paths <= depth of the completion queue");
    let error = plan((&[0, 3], None), &DQPLB, 1000).unwrap_err();
    assert_eq!(error, PlanError::NoCq { device: 3 });
}

#[test]
fn a_window_that_could_wrap_is_refused() {
    let narrow = VqpConfig { window: 1 << 16, ..DQPLB };
    assert_eq!(plan((&[0, 0], None), &narrow, 1000), Ok(()));
    // 2 * (2^20 + 48 * 128 * ..) is more than half of all numbers only with very many receives.
    let wide = VqpConfig { window: 1 << 20, recv_depth: 1 << 16, ..DQPLB };
    let limits = PlanError::Limit { field: "recv_depth", path: 0, wanted: 1 << 16, allowed: 128 };
    assert_eq!(plan((&[0, 0], None), &wide, 1000), Err(limits));
    let many = vec![0; 64];
    let limits = Limits { recv_depth: 1 << 16, ..LIMITS };
    let error = place_on((&many, limits), &wide).unwrap_err();
    assert_eq!(error, PlanError::WindowWraps { slots: 1 << 24, modulus: 1 << 24 });
    says(error, "2 * slots <= sequence numbers does not hold");
    let odd = VqpConfig { window: 48, ..DQPLB };
    let expected = PlanError::NotPowerOfTwo { field: "window", value: 48 };
    assert_eq!(plan((&[0, 0], None), &odd, 1000), Err(expected));
    let compatible = Scheme::Dqplb(SequenceCodec::Compatible);
    let long = VqpConfig { max_message: (1 << 31) - 1, ..DQPLB };
    says(plan((&[0, 0], None), &long, 1000).unwrap_err(), "max_message");
    let far = VqpConfig { scheme: compatible, first_sequence: 0xFF_FFFF, ..DQPLB };
    says(plan((&[0, 0], None), &far, 1000).unwrap_err(), "first_sequence");
}

/// The same with devices that allow so much, as far as it is placed.
pub(crate) fn place_on(
    (devices, limits): (&[u32], Limits),
    config: &VqpConfig,
) -> Result<(), PlanError> {
    let fabric = Fabric::new(1, 64, Links::QUIET, 0);
    let paths: Vec<_> =
        devices.iter().map(|device| (fabric.connect(0, limits).0, *device)).collect();
    let mut memory = block(1 << 16);
    let bump = Bump::new(&mut memory);
    let local = &*bump.value(Regions::place(&bump, 2, 1)?)?;
    let remote = &*bump.value(Regions::place(&bump, 2, 1)?)?;
    let setup = Setup { paths: &paths, notify: None, local, remote };
    VirtualQp::place(&bump, &setup, config).map(|_placed| ())
}

#[test]
fn a_notify_path_that_would_not_be_used_is_refused() {
    assert_eq!(plan((&[0], Some(0)), &BASE, 1000), Err(PlanError::UnusedNotifyPath));
    assert_eq!(plan((&[0, 0], Some(0)), &DQPLB, 1000), Err(PlanError::UnusedNotifyPath));
    assert_eq!(plan((&[0, 0], None), &BASE, 1000), Err(PlanError::NoNotifyPath));
    assert_eq!(plan((&[0], None), &BASE, 1000), Ok(()));
}

/// All virtual queue pairs of a completion queue count, and it has room again when one has gone.
#[test]
fn those_that_are_attached_count_together() {
    let fabric = Fabric::new(1, 64, Links::QUIET, 0);
    let mut memory = block(8 << 20);
    let bump = Bump::new(&mut memory);
    let local = &*bump.value(Regions::place(&bump, 2, 1).unwrap()).unwrap();
    let remote = &*bump.value(Regions::place(&bump, 2, 1).unwrap()).unwrap();
    // One path each, of 8 + 8.
    let place = || {
        let paths = [(fabric.connect(0, LIMITS).0, 0)];
        let setup = Setup { paths: &paths, notify: None, local, remote };
        VirtualQp::place(&bump, &setup, &BASE).unwrap()
    };
    let (first, second, third) = (place(), place(), place());
    let vcq = VirtualCq::place(&bump, &[(fabric.cq(0, 0, 32), 0)], 3).unwrap();
    vcq.attach(first).unwrap();
    vcq.attach(second).unwrap();
    let small = PlanError::CqTooSmall { device: 0, wanted: 48, depth: 32 };
    assert_eq!(vcq.attach(third), Err(small));
    first.close();
    vcq.detach(first).unwrap();
    assert_eq!(vcq.attach(third), Ok(0));
}

#[test]
fn a_flushing_read_needs_8_bytes_with_a_key_for_each_device() {
    let fabric = Fabric::new(2, 64, Links::QUIET, 0);
    for (length, keys, fits) in [
        (8, &[Some(1), Some(2)][..], true),
        (7, &[Some(1), Some(2)], false),
        (8, &[Some(1)], false),
    ] {
        let mut memory = block(1 << 20);
        let bump = Bump::new(&mut memory);
        let local = &*bump.value(Regions::place(&bump, 2, 2).unwrap()).unwrap();
        let remote = &*bump.value(Regions::place(&bump, 2, 2).unwrap()).unwrap();
        let scratch = local.register(0, length, keys).unwrap();
        let scheme = Scheme::Spray(Visibility::FlushingRead(scratch));
        let paths =
            [0, 1].map(|device: u8| (fabric.connect(device.into(), LIMITS).0, device.into()));
        let notify = Some((fabric.connect(0, LIMITS).0, 0));
        let setup = Setup { paths: &paths, notify, local, remote };
        let placed = VirtualQp::place(&bump, &setup, &VqpConfig { scheme, ..BASE });
        match placed {
            Ok(_) => assert!(fits, "{length}, {keys:?}"),
            Err(error) => {
                assert_eq!((error, fits), (PlanError::ScratchRegion, false));
                says(error, "8 bytes and a key for the device of every path");
            }
        }
    }
}

#[test]
fn several_devices_need_a_flushing_read() {
    assert_eq!(plan((&[0, 1], Some(0)), &BASE, 1000), Err(PlanError::UnorderedDevices));
    assert_eq!(plan((&[0, 0], Some(1)), &BASE, 1000), Err(PlanError::UnorderedDevices));
    assert_eq!(plan((&[0, 1], None), &DQPLB, 1000), Ok(()), "there order is by number");
}

#[test]
fn every_depth_is_at_least_one() {
    for (field, config) in [
        ("recv_depth", VqpConfig { recv_depth: 0, ..DQPLB }),
        ("send_depth", VqpConfig { send_depth: 0, ..DQPLB }),
        ("max_message", VqpConfig { max_message: 0, ..DQPLB }),
        ("sends", VqpConfig { sends: 0, ..DQPLB }),
        ("recvs", VqpConfig { recvs: 0, ..DQPLB }),
        ("window", VqpConfig { window: 0, ..DQPLB }),
        ("sge_max", VqpConfig { sge_max: 5, ..DQPLB }),
        ("post_burst", VqpConfig { post_burst: 0, ..DQPLB }),
        ("send_depth", VqpConfig { send_depth: 129, ..DQPLB }),
    ] {
        says(plan((&[0, 0], None), &config, 10_000).unwrap_err(), field);
    }
    assert_eq!(plan((&[], None), &BASE, 1000), Err(PlanError::Paths { paths: 0 }));
    assert_eq!(plan((&[64], None), &BASE, 1000), Err(PlanError::Device { device: 64 }));
    let pinned = VqpConfig { spread: Spread::Pinned(2), ..DQPLB };
    assert_eq!(plan((&[0, 0], None), &pinned, 1000), Err(PlanError::PinnedPath { path: 2 }));
    assert_eq!(keys(7, 2), [Some(7), Some(8)]);
}
