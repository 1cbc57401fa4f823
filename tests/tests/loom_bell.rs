//! Every interleaving of one who goes to sleep and one who publishes: whoever sleeps is woken, or has seen what was
//! published. Run with `RUSTFLAGS="--cfg loom"`, in release.
//!
//! The barrier that the sleeper has all CPUs pass (membarrier) is not known to loom. What it stands for is a full fence on
//! either side, and so it is modelled: one fence where the sleeper calls the kernel, and one where the publisher has but a
//! compiler barrier. That the kernel's barrier is as good as that is the kernel's word (membarrier(2)), not shown here.
//!
//! The last cases run mirrors of the protocol with a part left out. Each must be found to lose a wake-up.
#![cfg(loom)]
#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test stops at the first thing that is not as expected"
)]

use loom::sync::{Arc, Mutex};
use loom::thread;
use spinwire_dataplane::error::Retry;
use spinwire_dataplane::id::Name;
use spinwire_dataplane::poll::{Duty, Relay};
use spinwire_dataplane::raw::barrier::store_before_load;
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::shm::bell::{self, Waker};
use spinwire_dataplane::shm::lane::{Envelope, LaneRx, LaneTx};
use spinwire_dataplane::shm::lane_table;
use spinwire_dataplane::shm::lease::{self, Joiner};
use spinwire_dataplane::shm::{Geometry, Identity, Segment, directory};
use spinwire_dataplane::sync::{AtomicU64, Ordering, fence};
use spinwire_layouts::shm::{BELL_ARMED, EndpointKind};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn segment() -> Segment<'static> {
    let geometry = Geometry {
        process_count: 1,
        endpoint_count: 2,
        lane_count: 1,
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
    // Loom knows no futex. That the kernel wakes whoever waits on a word that has changed is its promise.
    let waker = Waker::new(|bell| assert_eq!(bell.load(Ordering::Relaxed), 0, "taken first"));
    Segment::format(lines.leak(), geometry, &identity).unwrap().with_waker(waker)
}

/// What the publisher does.
#[derive(Clone, Copy)]
enum Publish {
    /// A message in the lane, which is hot when the sleeper begins.
    Message,
    /// A lane that the sleeper has not met.
    Lane,
}

/// The code that ships: an endpoint that arms its lane and its bell and looks once more, against a sender.
fn sleep_against(publish: Publish) {
    let segment = segment();
    let joiner = Joiner { pid: 1, start_time: 1, joined_unix_ns: 1, command: [0; 64] };
    let lease = lease::join(&segment, &joiner).map_err(|_: Retry| ()).unwrap();
    let enter =
        |text| directory::register(&segment, &lease, &name(text), EndpointKind::Rdm).unwrap();
    let (sleeper, sender) = (enter("sleeper"), enter("sender"));
    let to = directory::endpoint_at(&segment, sleeper.slot).unwrap();
    let open = move || lane_table::open(&segment, sender, lease.slot(), &to, 0).unwrap();
    let news = directory::news(&segment, sleeper.slot).unwrap();
    let lane = match publish {
        Publish::Message => Some(open()),
        Publish::Lane => None,
    };
    let rx = lane.map(|lane| LaneRx::new(lane.memory, 128));
    if let Some(rx) = &rx {
        news[0].store(0, Ordering::Relaxed);
        rx.arm(false);
    }
    let publisher = thread::spawn(move || match lane {
        Some(lane) => {
            let tx = LaneTx::new(lane.memory);
            tx.stage(&[1], Envelope::default()).unwrap();
            tx.publish();
            if tx.is_armed() {
                lane_table::announce(&segment, sleeper.slot, lane.lane);
            }
        }
        None => drop(open()),
    });
    let bell = bell::bell(&segment, sleeper.slot).unwrap();
    if let Some(rx) = &rx {
        rx.arm(true);
    }
    bell.store(BELL_ARMED, Ordering::Relaxed);
    store_before_load();
    let seen =
        news[0].load(Ordering::Relaxed) != 0 || rx.is_some_and(|rx| rx.peek().unwrap().is_some());
    publisher.join().unwrap();
    let awake = bell.load(Ordering::Relaxed) != BELL_ARMED;
    assert!(seen || awake, "asleep for good");
}

#[test]
fn a_message_is_seen_or_wakes() {
    loom::model(|| sleep_against(Publish::Message));
}

#[test]
fn a_new_lane_is_seen_or_wakes() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 100_000;
    builder.check(|| sleep_against(Publish::Lane));
}

/// Several that publish at once: one of them wakes, and only one.
#[test]
fn one_of_two_rings() {
    loom::model(|| {
        let segment = segment();
        let bell = bell::bell(&segment, 0).unwrap();
        bell.store(BELL_ARMED, Ordering::Relaxed);
        let other = thread::spawn(move || bell::ring(&segment, 0));
        let here = bell::ring(&segment, 0);
        assert!(other.join().unwrap() != here, "both, or none");
    });
}

/// The protocol in small, with its two halves of the barrier, and the order of the marks, each to be left out.
#[derive(Clone, Copy)]
struct Mirror {
    publisher_fence: bool,
    sleeper_fence: bool,
    /// The publisher's look at the bell comes after the news, not before.
    news_first: bool,
    /// The sleeper knows the lane and looks into it. Else it is armed since it was opened, and only the news tell of it.
    lane_known: bool,
}

impl Mirror {
    const WHOLE: Self =
        Self { publisher_fence: true, sleeper_fence: true, news_first: true, lane_known: true };

    fn run(self) {
        #[derive(Default)]
        struct Words {
            head: AtomicU64,
            armed: AtomicU64,
            news: AtomicU64,
            bell: AtomicU64,
        }
        let words = Arc::new(Words::default());
        words.armed.store(u64::from(!self.lane_known), Ordering::Relaxed);
        let publisher = {
            let words = Arc::clone(&words);
            thread::spawn(move || {
                let barrier = || {
                    if self.publisher_fence {
                        fence(Ordering::SeqCst);
                    }
                };
                words.head.store(1, Ordering::Release);
                barrier();
                if words.armed.load(Ordering::Relaxed) == 0 {
                    return;
                }
                let asleep = || words.bell.load(Ordering::Relaxed) == BELL_ARMED;
                let early = asleep();
                words.news.fetch_or(1, Ordering::Release);
                barrier();
                if if self.news_first { asleep() } else { early } {
                    words.bell.swap(0, Ordering::Release);
                }
            })
        };
        words.armed.store(1, Ordering::Relaxed);
        words.bell.store(BELL_ARMED, Ordering::Relaxed);
        if self.sleeper_fence {
            fence(Ordering::SeqCst);
        }
        let seen = self.lane_known && words.head.load(Ordering::Acquire) != 0
            || words.news.load(Ordering::Relaxed) != 0;
        publisher.join().unwrap();
        let awake = words.bell.load(Ordering::Relaxed) != BELL_ARMED;
        assert!(seen || awake, "asleep for good");
    }
}

#[test]
fn the_mirror_is_right_where_it_is_whole() {
    loom::model(|| Mirror::WHOLE.run());
    loom::model(|| Mirror { lane_known: false, ..Mirror::WHOLE }.run());
}

#[test]
#[should_panic(expected = "asleep for good")]
fn canary_without_the_publishers_half() {
    loom::model(|| Mirror { publisher_fence: false, ..Mirror::WHOLE }.run());
}

#[test]
#[should_panic(expected = "asleep for good")]
fn canary_without_the_sleepers_half() {
    loom::model(|| Mirror { sleeper_fence: false, ..Mirror::WHOLE }.run());
}

#[test]
#[should_panic(expected = "asleep for good")]
fn canary_the_bell_before_the_news() {
    loom::model(|| Mirror { news_first: false, lane_known: false, ..Mirror::WHOLE }.run());
}

/// An owner that sleeps on a descriptor, and the thread that waits at the bell for it: the [`Relay`] that ships. What the kernel has in turn, a write to the
/// descriptor and a read of it, is a lock here.
struct Relayed {
    relay: Relay,
    bell: AtomicU64,
    told: Mutex<bool>,
    /// The listener tells before it says that it has stopped. It must not.
    tells_first: bool,
}

impl Relayed {
    /// What the listener does where it finds the bell taken; where it does not it waits, and the kernel rouses it when the bell changes.
    fn listener(&self) {
        if self.relay.duty() != Duty::Listen || self.bell.load(Ordering::Relaxed) == BELL_ARMED {
            return;
        }
        if self.tells_first {
            *self.told.lock().unwrap() = true;
            let _goes_on = self.relay.stop();
        } else if self.relay.stop() {
            *self.told.lock().unwrap() = true;
        }
    }

    /// One that was awake, and whose listener has not noticed yet, goes to sleep again; somebody rings, or nobody does.
    fn run(tells_first: bool) {
        let (bell, told) = (AtomicU64::new(0), Mutex::new(false));
        let of = Arc::new(Self { relay: Relay::new(), bell, told, tells_first });
        assert!(of.relay.listen(), "it rests at first");
        let listener = {
            let of = Arc::clone(&of);
            thread::spawn(move || of.listener())
        };
        let publisher = {
            let of = Arc::clone(&of);
            thread::spawn(move || {
                if of.bell.load(Ordering::Relaxed) == BELL_ARMED {
                    of.bell.swap(0, Ordering::Release);
                }
            })
        };
        *of.told.lock().unwrap() = false;
        of.bell.store(BELL_ARMED, Ordering::Relaxed);
        let _roused = of.relay.listen();
        // Asleep.
        listener.join().unwrap();
        publisher.join().unwrap();
        of.listener();
        let is_told = *of.told.lock().unwrap();
        let is_rung = of.bell.load(Ordering::Relaxed) != BELL_ARMED;
        let is_heard = of.relay.duty() == Duty::Listen && !is_rung;
        assert!(is_told || is_heard, "asleep for good");
    }
}

#[test]
fn whoever_sleeps_on_a_descriptor_is_told_or_listened_for() {
    loom::model(|| Relayed::run(false));
}

#[test]
#[should_panic(expected = "asleep for good")]
fn canary_the_telling_before_the_end_of_listening() {
    loom::model(|| Relayed::run(true));
}
