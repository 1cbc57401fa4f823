//! One builder a queue at a time: the flag falls on every exit, and a builder that is not finished has changed nothing.

use core::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::rc::Rc;

use spinwire_dataplane::error::{Misuse, PostError, Retry};
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::sync::Ordering;
use spinwire_dataplane::wqe::{Av, Grh, RecvConfig, RoceGrh, SqWqe, Transport, UdPeer, WqeFlags};

use super::{Memory, SHAPE, Shape, TestQp, bytes_of, open, sge};

const NONE: WqeFlags = WqeFlags::NONE;
const BLOCKED: PostError = PostError::Retry(Retry::WouldBlock);

type Queue = Rc<TestQp<Device>>;

fn queue() -> (Queue, Memory) {
    let recv = Some(RecvConfig { wqes: 4, sge_max: 4 });
    let (qp, memory) = open(Shape { recv, ..SHAPE }, Device);
    (Rc::new(qp), memory)
}

/// Everything that a builder could have changed.
fn state(qp: &Queue, memory: &Memory) -> (Vec<u8>, Vec<u8>, Vec<u8>, [u32; 2], u16, u16) {
    let record = memory.record.each_ref().map(|slot| slot.load(Ordering::Relaxed));
    let sq = qp.sq();
    let rings = (bytes_of(memory.sq), bytes_of(memory.rq), bytes_of(memory.uar));
    (rings.0, rings.1, rings.2, record, sq.tracker().pi(), sq.staged())
}

fn is_free(qp: &Queue) -> bool {
    !qp.sq().flag().is_borrowed() && !qp.rq().unwrap().flag().is_borrowed()
}

#[test]
fn a_second_builder_of_the_same_queue_is_refused() {
    let (qp, _memory) = queue();
    qp.with_sq_wqe(|wqe| {
        let nested = qp.with_sq_wqe(|wqe| wqe.nop(NONE).finish_unsignaled());
        assert_eq!(nested, Err(BLOCKED));
        assert_eq!(qp.sq_borrow().unwrap_err(), BLOCKED);
        assert_eq!(qp.sq().restart(), Err(Retry::WouldBlock));
        // The receive queue has a flag of its own.
        qp.with_rq_wqe(|wqe| {
            assert_eq!(qp.with_rq_wqe(|wqe| wqe.finish(2)), Err(BLOCKED));
            assert_eq!(qp.rq_borrow().unwrap_err(), BLOCKED);
            wqe.finish(1)
        })?;
        wqe.nop(NONE).finish_signaled(3)
    })
    .unwrap();
    assert!(is_free(&qp));
    assert_eq!((qp.sq().staged(), qp.rq().unwrap().staged()), (1, 1));

    let mut borrow = qp.sq_borrow().unwrap();
    assert_eq!(qp.with_sq_wqe(|wqe| wqe.nop(NONE).finish_unsignaled()), Err(BLOCKED));
    borrow.sq_wqe().unwrap().nop(NONE).finish_unsignaled().unwrap();
    borrow.sq_wqe().unwrap().nop(NONE).finish_unsignaled().unwrap();
    assert_eq!(borrow.ud_sq_wqe().unwrap_err(), Misuse::Unsupported.into());
    drop(borrow);
    let mut borrow = qp.rq_borrow().unwrap();
    borrow.rq_wqe().sge(sge(1, 1, 1)).finish(9).unwrap();
    drop(borrow);
    assert!(is_free(&qp));
    assert_eq!(qp.ring_doorbell(), 3);
}

/// Every way out of a closure but the two exits, at each step of a builder.
#[test]
fn the_flag_falls_on_every_way_out_and_nothing_was_written() {
    type Step = fn(SqWqe<'_, 'static, u32, Device>);
    let steps: [Step; 6] = [
        |wqe| drop(wqe),
        |wqe| drop(wqe.nop(NONE)),
        |wqe| drop(wqe.send(NONE)),
        |wqe| drop(wqe.write(NONE, 1, 2).inline(&[7; 40])),
        |wqe| drop(wqe.read(NONE, 1, 2).sge(sge(1, 2, 3))),
        |wqe| drop(wqe.atomic_fa(NONE, (1, 2), 3).result(sge(1, 8, 3)).unwrap()),
    ];
    let (qp, memory) = queue();
    let before = state(&qp, &memory);
    for step in steps {
        let returned: Result<u8, PostError> = qp.with_sq_wqe(|wqe| {
            step(wqe);
            Ok(5)
        });
        assert_eq!(returned, Ok(5));
        assert!(is_free(&qp));
        let early: Result<(), PostError> = qp.with_sq_wqe(|wqe| {
            step(wqe);
            Err(Retry::NoSlot)?;
            Ok(())
        });
        assert_eq!(early, Err(Retry::NoSlot.into()));
        assert!(is_free(&qp));
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            qp.with_sq_wqe(|wqe| -> Result<(), PostError> {
                let _held = wqe.send(NONE);
                panic!("the caller's own")
            })
        }));
        assert!(unwound.is_err());
        assert!(is_free(&qp), "an unwind left the flag");
        assert_eq!(qp.ring_doorbell(), 0);
        assert_eq!(state(&qp, &memory), before);
    }
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let _borrow = qp.sq_borrow().unwrap();
        let _other = qp.rq_borrow().unwrap();
        panic!("the caller's own")
    }));
    assert!(unwound.is_err() && is_free(&qp));
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        qp.with_rq_wqe(|_wqe| -> Result<(), PostError> { panic!("the caller's own") })
    }));
    assert!(unwound.is_err() && is_free(&qp));
    assert_eq!(state(&qp, &memory), before);
}

/// Errors of the caller go through, and what is refused by the queue is, too.
#[test]
fn refusals_leave_the_queue_as_it_was() {
    #[derive(Debug, PartialEq)]
    enum Mine {
        Post(PostError),
        Other,
    }
    impl From<PostError> for Mine {
        fn from(error: PostError) -> Self {
            Self::Post(error)
        }
    }
    let (qp, memory) = queue();
    let before = state(&qp, &memory);
    let mine: Result<(), Mine> = qp.with_sq_wqe(|_wqe| Err(Mine::Other));
    assert_eq!(mine, Err(Mine::Other));
    let long = [0; 300];
    let refused: Result<(), Mine> =
        qp.with_sq_wqe(|wqe| Ok(wqe.send(NONE).inline(&long).finish_signaled(1)?));
    assert_eq!(refused, Err(Mine::Post(Misuse::WqeTooLong.into())));
    let range = [sge(1, 1, 1); 5];
    let refused = qp.with_rq_wqe(|wqe| wqe.sges(&range).finish(1));
    assert_eq!(refused, Err(Misuse::WqeTooLong.into()));
    let refused = qp.with_sq_wqe(|wqe| {
        wqe.atomic_fa(NONE, (1, 2), 3).result(sge(1, 4, 3))?.finish_unsignaled()
    });
    assert_eq!(refused, Err(Misuse::BadRange.into()));
    assert_eq!(state(&qp, &memory), before);
    assert!(is_free(&qp));
}

const GRH: RoceGrh = RoceGrh {
    grh: Grh { dgid: [7; 16], sgid_index: 1, flow_label: 2, traffic_class: 3, hop_limit: 64 },
    mac: [1; 6],
    priority: 0,
    static_rate: 0,
    udp_source_port: 0xc000,
};

/// A connected queue pair has its route; a datagram wants one; neither does what the other does.
#[test]
fn each_transport_has_its_entry_points() {
    let peer = UdPeer { qpn: 1, qkey: 2 };
    let unsupported = Err(Misuse::Unsupported.into());
    let (rc, _memory) =
        open(Shape { transport: Transport::Rc { path: Some(GRH.grh) }, ..SHAPE }, Device);
    rc.with_sq_wqe_roce(&GRH, |wqe| wqe.send(NONE).empty().finish_unsignaled()).unwrap();
    // What the kernel has found out below the route, nobody here knows.
    let same = RoceGrh { udp_source_port: 0xc001, mac: [2; 6], ..GRH };
    rc.with_sq_wqe_roce(&same, |wqe| wqe.send(NONE).empty().finish_unsignaled()).unwrap();
    let other = RoceGrh { grh: Grh { dgid: [8; 16], ..GRH.grh }, ..GRH };
    let refused = rc.with_sq_wqe_roce(&other, |wqe| wqe.nop(NONE).finish_unsignaled());
    assert_eq!(refused, Err(Misuse::WrongPeer.into()));
    let refused = rc.with_ud_sq_wqe(|wqe| wqe.nop(NONE).finish_unsignaled());
    assert_eq!(refused, unsupported);
    let refused =
        rc.with_ud_sq_wqe_roce(&GRH, |wqe| wqe.to(peer).send(NONE).empty().finish_unsignaled());
    assert_eq!(refused, unsupported);
    assert_eq!(rc.with_rq_wqe(|wqe| wqe.finish(1)), unsupported);
    assert_eq!(rc.rq_borrow().unwrap_err(), Misuse::Unsupported.into());
    let (ib, _memory) = open(SHAPE, Device);
    let refused = ib.with_sq_wqe_roce(&GRH, |wqe| wqe.nop(NONE).finish_unsignaled());
    assert_eq!(refused, Err(Misuse::WrongPeer.into()));

    let (mut ud, _memory) = open(Shape { transport: Transport::Ud, ..SHAPE }, Device);
    let refused = ud.with_sq_wqe(|wqe| wqe.nop(NONE).finish_unsignaled());
    assert_eq!(refused, unsupported);
    let refused = ud.with_sq_wqe_roce(&GRH, |wqe| wqe.nop(NONE).finish_unsignaled());
    assert_eq!(refused, unsupported);
    assert_eq!(ud.sq_wqe().unwrap_err(), Misuse::Unsupported.into());
    let wqe = ud.ud_sq_wqe().unwrap();
    wqe.av(&Av::roce(&GRH, peer)).send(NONE).inline(b"x").finish_unsignaled().unwrap();
    assert_eq!(ud.sq().staged(), 1);
}

/// The forms by exclusive access, and those by the caller's word, write what the closures write.
#[test]
fn all_forms_write_the_same() {
    let form = |way: u8| {
        let recv = Some(RecvConfig { wqes: 4, sge_max: 4 });
        let (mut qp, memory) = open(Shape { recv, ..SHAPE }, Device);
        let range = sge(3, 4, 5);
        match way {
            0 => {
                qp.with_sq_wqe(|wqe| wqe.send(NONE).inline(b"abc").finish_signaled(1)).unwrap();
                qp.with_rq_wqe(|wqe| wqe.sge(range).finish(1)).unwrap();
            }
            1 => {
                qp.sq_wqe().unwrap().send(NONE).inline(b"abc").finish_signaled(1).unwrap();
                qp.rq_wqe().unwrap().sge(range).finish(1).unwrap();
            }
            _ => {
                // SAFETY: one builder after the other, on an RC queue pair.
                let wqe = unsafe { qp.sq_wqe_unchecked() };
                wqe.send(NONE).inline(b"abc").finish_signaled(1).unwrap();
                // SAFETY: as above.
                let wqe = unsafe { qp.rq_wqe_unchecked() };
                wqe.unwrap().sge(range).finish(1).unwrap();
            }
        }
        assert_eq!(qp.ring_doorbell(), 1);
        state(&Rc::new(qp), &memory)
    };
    assert_eq!(form(0), form(1));
    assert_eq!(form(0), form(2));
}
