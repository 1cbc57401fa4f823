//! Every interleaving of those who claim lanes and names, who leave, and who take back from the dead. Run with
//! `RUSTFLAGS="--cfg loom"`, in release.
//!
//! The segments are real ones of the smallest geometry. At the end of each case everybody is gone, and whatever is not free
//! then has leaked.
#![cfg(loom)]
#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]

use loom::thread;
use spinwire_dataplane::error::Retry;
use spinwire_dataplane::id::Name;
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::shm::lane_table::{self, LaneEnd, OtherEnd, Side};
use spinwire_dataplane::shm::lease::{self, Joiner};
use spinwire_dataplane::shm::reclaim::reclaim;
use spinwire_dataplane::shm::{
    Geometry, Identity, ProcessLease, RegisterError, Segment, directory,
};
use spinwire_layouts::shm::{EndpointId, EndpointKind, LaneState};

/// Runs `case` for every interleaving with at most so many involuntary switches of threads.
fn model(switches: usize, case: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(switches);
    builder.max_branches = 100_000;
    builder.check(case);
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A segment for two processes. Threads outlive the call that starts them, so its memory is not given back.
fn segment(lane_count: u32) -> Segment<'static> {
    let geometry = Geometry {
        process_count: 2,
        endpoint_count: 2,
        lane_count,
        lane_cell_count: 8,
        lane_spill_bytes: 1024,
    };
    let count = usize::try_from(geometry.segment_bytes().unwrap()).unwrap() / 64;
    let lines: Vec<Line> = (0..count).map(|_| Line::zeroed()).collect();
    let identity = Identity {
        name: name("loom"),
        boot_id: [1; 16],
        created_unix_ns: 1,
        pid: 1,
        start_time: 1,
        pid_namespace: 1,
        page_bytes: 4096,
    };
    Segment::format(lines.leak(), geometry, &identity).unwrap()
}

/// A process with one endpoint.
#[derive(Clone, Copy)]
struct Process {
    lease: ProcessLease,
    endpoint: EndpointId,
}

fn join(segment: &Segment<'_>, pid: u32) -> Result<ProcessLease, Retry> {
    lease::join(segment, &Joiner { pid, start_time: 1, joined_unix_ns: 1, command: [0; 64] })
}

fn enter(segment: &Segment<'_>, pid: u32, text: &str) -> Process {
    let lease = join(segment, pid).unwrap();
    let endpoint = directory::register(segment, &lease, &name(text), EndpointKind::Rdm).unwrap();
    Process { lease, endpoint }
}

fn open(
    segment: &Segment<'static>,
    from: Process,
    to: EndpointId,
) -> Result<LaneEnd<'static>, Retry> {
    // The receiver was looked up before; it may be gone by now.
    let receiver = directory::EndpointRef {
        id: to,
        kind: EndpointKind::Rdm,
        process: 1,
        name: name("receiver"),
    };
    lane_table::open(segment, from.endpoint, from.lease.slot(), &receiver, 0)
}

/// What a survivor does who has found out that the process in `slot` is dead.
fn bury(segment: &Segment<'_>, slot: u16) -> bool {
    let row = lease::rows(segment).find(|row| row.slot == slot);
    row.is_some_and(|row| lease::mark_dead(segment, slot, row.lease) && reclaim(segment, slot))
}

fn states(segment: &Segment<'_>) -> Vec<LaneState> {
    let lanes = 0..segment.geometry().lane_count;
    lanes.map(|lane| lane_table::state_of(segment, lane).unwrap().state).collect()
}

fn assert_empty(segment: &Segment<'_>) {
    assert!(states(segment).iter().all(|state| *state == LaneState::Free), "{:?}", states(segment));
    assert_eq!(directory::rows(segment).count(), 0, "endpoints");
    assert_eq!(lease::rows(segment).count(), 0, "processes");
}

#[test]
fn of_two_senders_one_gets_the_last_lane() {
    model(2, || {
        let segment = segment(1);
        let (a, b) = (enter(&segment, 1, "a"), enter(&segment, 2, "b"));
        let other = thread::spawn(move || open(&segment, a, b.endpoint).is_ok());
        let mine = open(&segment, b, b.endpoint).is_ok();
        assert!(other.join().unwrap() != mine, "one lane, one sender");
        assert_eq!(states(&segment), [LaneState::Open]);
    });
}

#[test]
fn two_senders_get_two_lanes() {
    model(2, || {
        let segment = segment(2);
        let (a, b) = (enter(&segment, 1, "a"), enter(&segment, 2, "b"));
        let other = thread::spawn(move || open(&segment, a, b.endpoint).unwrap().lane);
        let mine = open(&segment, b, b.endpoint).unwrap().lane;
        assert!(other.join().unwrap() != mine, "two senders on one lane");
        let (_, sender) = lane_table::inbound(&segment, mine, b.endpoint).unwrap();
        assert_eq!(sender, b.endpoint, "whose lane it is");
    });
}

/// Both ends let go at once: the last one frees the lane, and nobody frees it twice.
#[test]
fn both_ends_leave() {
    model(3, || {
        let segment = segment(1);
        let (a, b) = (enter(&segment, 1, "a"), enter(&segment, 2, "b"));
        let LaneEnd { lane, generation, .. } = open(&segment, a, b.endpoint).unwrap();
        let sender = thread::spawn(move || {
            lane_table::leave(&segment, lane, generation, Side::Sender, OtherEnd::Present);
        });
        lane_table::leave(&segment, lane, generation, Side::Receiver, OtherEnd::Present);
        sender.join().unwrap();
        assert_eq!(states(&segment), [LaneState::Free]);
    });
}

/// One end dies, and the other one lets go while it is taken back.
#[test]
fn one_end_leaves_while_the_other_is_taken_back() {
    model(3, || {
        let segment = segment(1);
        let (a, b) = (enter(&segment, 1, "a"), enter(&segment, 2, "b"));
        let LaneEnd { lane, generation, .. } = open(&segment, a, b.endpoint).unwrap();
        let survivor = thread::spawn(move || bury(&segment, a.lease.slot()));
        lane_table::leave(&segment, lane, generation, Side::Receiver, OtherEnd::Present);
        assert!(survivor.join().unwrap());
        assert_eq!(states(&segment), [LaneState::Free]);
    });
}

/// Both ends have died, and two survivors take back one each.
#[test]
fn both_ends_are_taken_back() {
    model(2, || {
        let segment = segment(1);
        let (a, b) = (enter(&segment, 1, "a"), enter(&segment, 2, "b"));
        open(&segment, a, b.endpoint).unwrap();
        let survivor = thread::spawn(move || bury(&segment, a.lease.slot()));
        assert!(bury(&segment, b.lease.slot()));
        assert!(survivor.join().unwrap());
        assert_empty(&segment);
    });
}

/// The receiver dies while a lane to it is opened, and then the sender dies, too, before it has noticed.
#[test]
fn the_receiver_dies_under_an_opening_lane() {
    model(2, || {
        let segment = segment(1);
        let (a, b) = (enter(&segment, 1, "a"), enter(&segment, 2, "b"));
        let survivor = thread::spawn(move || bury(&segment, b.lease.slot()));
        open(&segment, a, b.endpoint).unwrap();
        assert!(survivor.join().unwrap());
        assert!(bury(&segment, a.lease.slot()));
        assert_empty(&segment);
    });
}

/// An endpoint is closed before it has met a lane that leads to it, whose sender leaves at the same time.
#[test]
fn an_endpoint_closes_under_an_opening_lane() {
    model(3, || {
        let segment = segment(1);
        let (a, b) = (enter(&segment, 1, "a"), enter(&segment, 2, "b"));
        let receiver = thread::spawn(move || directory::unregister(&segment, b.endpoint));
        let LaneEnd { lane, generation, .. } = open(&segment, a, b.endpoint).unwrap();
        let other = if directory::is_gone(&segment, b.endpoint) {
            OtherEnd::Gone
        } else {
            OtherEnd::Present
        };
        lane_table::leave(&segment, lane, generation, Side::Sender, other);
        receiver.join().unwrap();
        assert_eq!(states(&segment), [LaneState::Free]);
    });
}

/// Two survivors take back the same process: one of them frees the slot, and the lane is still read by its receiver.
#[test]
fn two_survivors_of_one_dead() {
    model(2, || {
        let segment = segment(1);
        let (a, b) = (enter(&segment, 1, "a"), enter(&segment, 2, "b"));
        let LaneEnd { lane, generation, .. } = open(&segment, a, b.endpoint).unwrap();
        let other = thread::spawn(move || bury(&segment, a.lease.slot()));
        let mine = bury(&segment, a.lease.slot());
        assert!(other.join().unwrap() != mine, "the slot is freed once");
        assert_eq!(states(&segment), [LaneState::SenderLeft]);
        lane_table::leave(&segment, lane, generation, Side::Receiver, OtherEnd::Gone);
        assert!(bury(&segment, b.lease.slot()));
        assert_empty(&segment);
    });
}

/// A survivor that is slow takes nothing from the successor, who has the same slots.
#[test]
fn a_slow_survivor_and_a_successor() {
    model(2, || {
        let segment = segment(1);
        let (a, b) = (enter(&segment, 1, "a"), enter(&segment, 2, "b"));
        let LaneEnd { lane, generation, .. } = open(&segment, a, b.endpoint).unwrap();
        lane_table::leave(&segment, lane, generation, Side::Receiver, OtherEnd::Present);
        let row = lease::rows(&segment).find(|row| row.slot == a.lease.slot()).unwrap();
        assert!(lease::mark_dead(&segment, a.lease.slot(), row.lease));
        let slow = thread::spawn(move || reclaim(&segment, a.lease.slot()));
        let _freed_by_whom = reclaim(&segment, a.lease.slot());
        let c = enter(&segment, 3, "a");
        assert_eq!(c.lease.slot(), a.lease.slot());
        open(&segment, c, b.endpoint).unwrap();
        slow.join().unwrap();
        assert!(lease::is_held(&segment, &c.lease), "the slot of a successor");
        assert!(!directory::is_gone(&segment, c.endpoint), "the endpoint of a successor");
        assert_eq!(states(&segment), [LaneState::Open], "the lane of a successor");
    });
}

#[test]
fn one_name_has_one_endpoint() {
    model(2, || {
        let segment = segment(1);
        let (a, b) = (join(&segment, 1).unwrap(), join(&segment, 2).unwrap());
        let register =
            move |lease| directory::register(&segment, &lease, &name("n"), EndpointKind::Rdm);
        let other = thread::spawn(move || register(a));
        let (mine, other) = (register(b), other.join().unwrap());
        assert!(mine.is_err() || other.is_err(), "two endpoints of one name");
        for lost in [mine, other].into_iter().filter_map(Result::err) {
            assert_eq!(lost, RegisterError::NameTaken);
        }
        let winners = directory::rows(&segment).count();
        assert_eq!(winners, [mine, other].iter().filter(|r| r.is_ok()).count());
    });
}

/// A free entry still bears the name of its last owner. Nobody is refused because somebody else is about to take that entry.
#[test]
fn the_name_of_an_earlier_stay_is_free() {
    model(2, || {
        let segment = segment(1);
        let (a, b) = (join(&segment, 1).unwrap(), join(&segment, 2).unwrap());
        let register =
            |lease, text| directory::register(&segment, &lease, &name(text), EndpointKind::Rdm);
        let earlier = register(a, "mine").unwrap();
        directory::unregister(&segment, earlier);
        let other = thread::spawn(move || {
            directory::register(&segment, &a, &name("other"), EndpointKind::Rdm).is_ok()
        });
        assert!(register(b, "mine").is_ok(), "refused because of a name that nobody has");
        assert!(other.join().unwrap());
    });
}
