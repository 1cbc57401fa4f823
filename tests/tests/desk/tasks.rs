//! Operations as futures, under an executor of a few lines: a task runs when it was woken, and at no other time.

use core::cell::RefCell;
use core::future::Future;
use core::mem::MaybeUninit;
use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};
use std::sync::Arc;

use std::task::Wake;

use spinwire_dataplane::msg::{Kind, RecvFrom, SendTo, Target};
use spinwire_dataplane::provider::{Access, Status};
use spinwire_dataplane::sync::{AtomicU64, Ordering};
use spinwire_hostshim::desk::{Desk, Operation, Wait};

use super::end::{Scene, Stubborn, scene, with_scene};

/// How often a task was woken.
#[derive(Default)]
struct Bell(AtomicU64);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs tasks until all are over; `drive` is the plane's loop. Returns how often they were polled.
fn run(mut tasks: Vec<Pin<&mut dyn Future<Output = ()>>>, drive: impl Fn()) -> u64 {
    let bells: Vec<Arc<Bell>> = tasks.iter().map(|_| Arc::default()).collect();
    let mut heard: Vec<Option<u64>> = vec![Some(u64::MAX); tasks.len()];
    let mut polls = 0;
    for _ in 0..10_000 {
        for ((task, bell), heard) in tasks.iter_mut().zip(&bells).zip(&mut heard) {
            let rung = bell.0.load(Ordering::Relaxed);
            if heard.is_some_and(|heard| heard != rung) {
                *heard = Some(rung);
                polls += 1;
                let waker = Waker::from(Arc::clone(bell));
                if task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                    *heard = None;
                }
            }
        }
        if heard.iter().all(Option::is_none) {
            return polls;
        }
        drive();
    }
    panic!("a task was not woken");
}

#[test]
fn two_tasks_talk_and_are_polled_only_when_something_has_come() {
    with_scene(|scene| {
        let at_a = Desk::open(&scene.a, scene.pool, || scene.now()).unwrap();
        let at_b = Desk::open(&scene.b, scene.pool, || scene.now()).unwrap();
        let asks = pin!(async {
            for number in 0..20_u64 {
                let mut loan = scene.pool.lend().unwrap();
                loan.fill(&number.to_le_bytes()).unwrap();
                let answer = at_a.recv_later(RecvFrom::any().tag(2), scene.pool.lend().unwrap());
                let sent = at_a.send_later(SendTo::peer(scene.to_b).tag(1), loan).unwrap().await;
                assert_eq!((sent.kind, sent.status), (Kind::Sent, Status::Success));
                let answer = answer.unwrap().await;
                assert_eq!(answer.bytes(), Some(&(number * 2).to_le_bytes()[..]));
            }
        });
        let answers = pin!(async {
            for _ in 0..20 {
                let loan = scene.pool.lend().unwrap();
                let asked = at_b.recv_later(RecvFrom::any().tag(1), loan).unwrap().await;
                let number = u64::from_le_bytes(asked.bytes().unwrap().try_into().unwrap());
                let mut loan = asked.loan.unwrap();
                loan.fill(&(number * 2).to_le_bytes()).unwrap();
                let to = SendTo::peer(asked.source.unwrap()).tag(2);
                at_b.send_later(to, loan).unwrap().await;
            }
        });
        let polls = run(vec![asks, answers], || {
            let _outcomes = (at_a.drive(), at_b.drive());
        });
        // Each is polled once to begin with, and once for each of its two operations a round.
        assert!(polls <= 2 + 2 * 40, "{polls} polls");
        assert!(scene.is_at_rest());
        assert_eq!((at_a.counts().letters, at_b.counts().letters), (0, 0));
    });
}

/// Who drives may be asleep: an operation goes out, and finds what has come, when it is looked at for the first time.
#[test]
fn what_is_awaited_does_not_wait_for_who_drives() {
    with_scene(|scene| {
        let at_a = Desk::open(&scene.a, scene.pool, || scene.now()).unwrap();
        let at_b = Desk::open(&scene.b, scene.pool, || scene.now()).unwrap();
        let bell = Arc::<Bell>::default();
        let waker = Waker::from(Arc::clone(&bell));
        let look = |operation: Pin<&mut dyn Future<Output = _>>| {
            operation.poll(&mut Context::from_waker(&waker))
        };
        let mut loan = scene.pool.lend().unwrap();
        loan.fill(b"to one who is not there yet").unwrap();
        let sent = pin!(at_a.send_later(SendTo::peer(scene.to_b).tag(1), loan).unwrap());
        let _done_or_not = look(sent);
        let _has_come = at_b.drive();
        let into = scene.pool.lend().unwrap();
        let mut heard = pin!(at_b.recv_later(RecvFrom::any().tag(1), into).unwrap());
        let rung = bell.0.load(Ordering::Relaxed);
        assert!(look(heard.as_mut()).is_pending(), "others come before it");
        assert_eq!(bell.0.load(Ordering::Relaxed), rung + 1);
        let Poll::Ready(heard) = look(heard) else { panic!("nobody drives any more") };
        assert_eq!(heard.bytes(), Some(&b"to one who is not there yet"[..]));
    });
}

/// Hears ten messages of a tag at a desk.
async fn hears<'m>(scene: &Scene<'m>, desk: &Desk<'_, 'm, Stubborn<'m>>, tag: u64) {
    for _ in 0..10 {
        let from = RecvFrom::any().tag(tag);
        let heard = desk.recv_later(from, scene.pool.lend().unwrap()).unwrap().await;
        assert_eq!(heard.tag, Some(tag));
    }
}

#[test]
fn futures_of_two_desks_are_woken_by_whichever_turns() {
    with_scene(|scene| {
        let (at_a, first) = (
            Desk::open(&scene.a, scene.pool, || scene.now()).unwrap(),
            Desk::open(&scene.b, scene.pool, || scene.now()).unwrap(),
        );
        let second = first.another();
        let (one, two) = (pin!(hears(scene, &first, 1)), pin!(hears(scene, &second, 2)));
        let tells = pin!(async {
            for _ in 0..10 {
                for tag in [2, 1] {
                    let to = SendTo::peer(scene.to_b).tag(tag);
                    at_a.send_later(to, scene.pool.lend().unwrap()).unwrap().await;
                }
            }
        });
        // The second desk is never turned.
        run(vec![one, two, tells], || {
            let _outcomes = (at_a.drive(), first.drive());
        });
        assert_eq!((first.counts().met, first.counts().letters), (20, 0));
        assert!(scene.is_at_rest());
    });
}

#[test]
fn an_operation_that_is_dropped_is_taken_back() {
    with_scene(|scene| {
        let at_b = Desk::open(&scene.b, scene.pool, || scene.now()).unwrap();
        let loan = || scene.pool.lend().unwrap();
        drop(at_b.recv_later(RecvFrom::any(), loan()).unwrap());
        scene.a.inject(SendTo::peer(scene.to_b), b"one").unwrap();
        scene.a.flush();
        let mut into = [0; 8];
        let received = at_b.recv(RecvFrom::any(), &mut into, Wait::FOREVER).unwrap();
        assert_eq!(&into[..received.length], b"one", "the dropped one took nothing");
        assert!(scene.is_at_rest());
        // One that is over when it is dropped: nobody has looked, and the message is a letter.
        let operation = at_b.recv_later(RecvFrom::any(), loan()).unwrap();
        scene.a.inject(SendTo::peer(scene.to_b), b"two").unwrap();
        scene.a.flush();
        while scene.b.posted_count() > 0 {
            let _outcome = at_b.drive();
        }
        drop(operation);
        assert_eq!(at_b.next_letter().unwrap().bytes(), Some(&b"two"[..]));
        // One that cannot be taken back.
        scene.b.provider().keeps_receives.set(true);
        drop(at_b.recv_later(RecvFrom::any(), loan()).unwrap());
        scene.a.inject(SendTo::peer(scene.to_b), b"three").unwrap();
        scene.a.flush();
        while scene.b.posted_count() > 0 {
            let _outcome = at_b.drive();
        }
        assert_eq!(at_b.next_letter().unwrap().bytes(), Some(&b"three"[..]));
        assert_eq!((at_b.counts().given_up, at_b.counts().late), (1, 1));
        assert!(scene.is_at_rest());
    });
}

#[test]
fn what_was_posted_at_the_endpoint_can_be_awaited() {
    with_scene(|scene| {
        let at_a = Desk::open(&scene.a, scene.pool, || scene.now()).unwrap();
        let exposed = scene.b.expose(scene.pool.lend().unwrap(), Access::ALL).unwrap();
        let task = pin!(async {
            let target = Target::new(scene.to_b, exposed.region.place(0, 8).unwrap());
            let add = |add| {
                let loan = scene.pool.lend().unwrap();
                scene.a.post_fetch_add(target, loan, add, 0).unwrap()
            };
            let first = at_a.operation(add(40)).unwrap().await;
            let second = at_a.operation(add(2)).unwrap().await;
            assert_eq!((first.before(), second.before()), (Some(0), Some(40)));
            // One whose completion is among the letters already.
            let third = add(1);
            while scene.a.posted_count() > 0 {
                let _outcome = at_a.drive();
                scene.turn_b();
            }
            assert_eq!(at_a.operation(third).unwrap().await.before(), Some(42));
        });
        run(vec![task], || {
            let _outcome = at_a.drive();
            scene.turn_b();
        });
        assert!(at_a.next_letter().is_none());
    });
}

#[test]
fn a_task_hears_of_it_through_its_newest_waker() {
    with_scene(|scene| {
        let at_b = Desk::open(&scene.b, scene.pool, || scene.now()).unwrap();
        let mut operation =
            pin!(at_b.recv_later(RecvFrom::any(), scene.pool.lend().unwrap()).unwrap());
        let bells: [Arc<Bell>; 2] = [Arc::default(), Arc::default()];
        for bell in &bells {
            let waker = Waker::from(Arc::clone(bell));
            let polled = operation.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(matches!(polled, Poll::Pending));
        }
        scene.a.inject(SendTo::peer(scene.to_b), b"m").unwrap();
        scene.a.flush();
        while scene.b.posted_count() > 0 {
            let _outcome = at_b.drive();
        }
        assert_eq!(bells.map(|bell| bell.0.load(Ordering::Relaxed)), [0, 1]);
    });
}

thread_local! {
    /// What goes with the next waker of [`Last`] that is dropped.
    static LAST: RefCell<Option<Box<dyn FnOnce()>>> = RefCell::default();
}

/// A waker that is the last that holds a task, as with executors whose wakers own their tasks.
struct Last;

impl Wake for Last {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Last {
    fn drop(&mut self) {
        let task = LAST.with(|last| last.borrow_mut().take());
        if let Some(task) = task {
            task();
        }
    }
}

#[test]
fn the_last_waker_of_a_task_may_drop_another_operation() {
    let block: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(16 << 20);
    let scene: &'static Scene<'static> = Box::leak(Box::new(scene(Box::leak(block))));
    let desk: &'static Desk<'_, '_, _> =
        Box::leak(Box::new(Desk::open(&scene.b, scene.pool, || scene.now()).unwrap()));
    let receive = || desk.recv_later(RecvFrom::any(), scene.pool.lend().unwrap()).unwrap();
    let poll = |operation: Pin<&mut Operation<'_, '_, '_, _>>, waker: &Waker| {
        assert!(operation.poll(&mut Context::from_waker(waker)).is_pending());
    };
    // The first of them is polled by another task, and is dropped: either way its old waker goes.
    for is_dropped in [false, true] {
        let (mut first, second) = (Box::pin(receive()), receive());
        poll(first.as_mut(), &Waker::from(Arc::new(Last)));
        LAST.with(|last| *last.borrow_mut() = Some(Box::new(move || drop(second))));
        if !is_dropped {
            poll(first.as_mut(), Waker::noop());
        }
        drop(first);
        assert!(LAST.with(|last| last.borrow().is_none()), "the second is gone, too");
        for _ in 0..4 {
            let _outcome = desk.drive();
        }
    }
    assert!(scene.is_at_rest() && desk.next_letter().is_none());
}
