//! One-sided operations over providers that do not check rights: there where that is accepted, and nowhere else.

use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::msg::{Kind, Target};
use spinwire_dataplane::provider::{Access, CancelError, Caps, Status};
use spinwire_hostshim::libfabric::OfiConfig;

use super::pair::{config, on_ground};
use super::{SHM, TCP, TCP_MSG, UDP};

/// By default there is nothing of it.
#[test]
fn memory_that_nobody_guards_is_not_offered() {
    for choice in [TCP, TCP_MSG, SHM, UDP] {
        on_ground(|ground| {
            let end = ground.end("a", &OfiConfig { one_sided: true, ..config(&choice) });
            assert!(!end.info().caps.has(Caps::RMA) && !end.info().caps.has(Caps::EXPOSE));
            let refused = end.expose(ground.loan(), Access::ALL).unwrap_err();
            assert_eq!(refused.error, PostError::Misuse(Misuse::Unsupported));
        });
    }
}

/// Where it is accepted, bytes go there and come back, and what cannot be taken back is not.
#[test]
fn bytes_go_there_and_come_back_where_that_is_accepted() {
    for choice in [TCP, TCP_MSG, SHM, UDP] {
        on_ground(|ground| {
            let asked = OfiConfig { one_sided: true, accept_faults: true, ..config(&choice) };
            let (a, b, to_b, _) = ground.pair(&asked);
            assert!(a.info().caps.has(Caps::RMA.with(Caps::EXPOSE)), "{choice:?}");
            let exposed = b.expose(ground.loan(), Access::ALL).unwrap();
            for (offset, length) in [(0, 8), (64, 1), (100, 3000)] {
                let bytes = spinwire_tests::rng::pattern(offset, length);
                let target = Target::new(to_b, exposed.region.place(offset, length).unwrap());
                ground.until("it is taken", &[&a, &b], || {
                    let mut loan = ground.loan();
                    loan.fill(&bytes).unwrap();
                    a.post_write(target, loan, 1).is_ok()
                });
                let done = ground.next(&a, &[&a, &b]);
                assert_eq!(
                    (done.kind, done.status),
                    (Kind::Written, Status::Success),
                    "{choice:?}"
                );
                let read = || a.post_read(target, ground.loan(), length, 2).is_ok();
                ground.until("it is taken", &[&a, &b], read);
                let done = ground.next(&a, &[&a, &b]);
                assert_eq!((done.kind, done.status), (Kind::Read, Status::Success), "{choice:?}");
                assert_eq!(done.loan.as_deref(), Some(&bytes[..]), "{choice:?}");
            }
            let back = b.withdraw(exposed.id);
            assert_eq!(back.err(), (choice == SHM).then_some(CancelError::Unsupported));
        });
    }
}
