//! Endpoints as tasks of tokio: whatever a plan has opened lies in the reactor by its descriptor, and is turned when that tells.

use core::cell::Cell;
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll as Ready;
use core::time::Duration;
use std::sync::mpsc;

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::msg::{Kind, RecvFrom, SendTo};
use spinwire_dataplane::provider::Caps;
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::sync::{AtomicU64, Ordering};
use spinwire_hostshim::desk::{Desk, Wait};
use spinwire_hostshim::discover::{Found, Hints, Transport, discover};
use spinwire_hostshim::negotiate::{Plan, Requirements, negotiate};
use spinwire_hostshim::open::{AnyPort, News, OpenConfig, OpenError, Opened, with};
use spinwire_hostshim::uri::Uri;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use crate::STUCK;
use crate::sleeps::{hints, place};

/// Questions that are asked.
const QUESTIONS: u64 = 20;

/// That alone, with a peer there.
fn plan(found: &Found, at: &Uri) -> Plan {
    // Who answers over a device calls over the other, where there are two.
    let transport = found.transport;
    let of_it = |its: &Found| its.transport == transport && its.offer == found.offer;
    let all = discover(&Hints::only(&[transport]));
    let all: Vec<Found> = all.into_iter().filter(of_it).collect();
    negotiate(&Requirements::anything().with_caps(Caps::DESCRIPTOR).for_peer_at([at]), &all)
}

/// Sends back what comes, each only after a while in which the other end falls asleep; ends after the last.
fn answer((found, at): (&Found, &Uri), tell: &mpsc::Sender<Uri>, is_over: &AtomicU64) {
    with(&plan(found, at), &OpenConfig::listen(), |end| {
        tell.send(end.uri.clone()).unwrap();
        let buffers = LoanPool::place(end.bump(), 4, 64).unwrap();
        let desk = Desk::open(&end.endpoint, buffers, || end.now()).unwrap();
        let mut bytes = [0; 64];
        for _ in 0..QUESTIONS {
            let asked = desk.recv(RecvFrom::any(), &mut bytes, Wait::within(STUCK)).unwrap();
            std::thread::sleep(Duration::from_millis(2));
            let to = SendTo::peer(asked.source.unwrap());
            desk.send(to, &bytes[..asked.length], Wait::within(STUCK)).unwrap();
        }
        // What was sent last leaves before this end does.
        while is_over.load(Ordering::Relaxed) == 0 {
            let _nothing = desk.recv(RecvFrom::any(), &mut bytes, Wait::within(STUCK / 10_000));
        }
    })
    .unwrap();
}

/// Turns an endpoint for ever. While there is nothing to turn for it sleeps in the reactor of the runtime.
#[expect(clippy::infinite_loop, reason = "it ends with the task that it stands beside")]
async fn attend(
    (end, desk): (&Opened<'_>, &Desk<'_, '_, AnyPort<'_>>),
    news: &AsyncFd<News<'_, '_>>,
    told: &Cell<u64>,
) {
    loop {
        let outcome = desk.drive();
        if outcome.is_busy() {
            // Who was woken by that goes on, and what it posts goes out with the next turn.
            tokio::task::yield_now().await;
        }
        if let Some(most) = news.get_ref().may_sleep(outcome, end.now())
            && let Ok(readable) = timeout(most.min(STUCK), news.readable()).await
        {
            readable.unwrap().clear_ready();
            told.set(told.get() + 1);
        }
    }
}

/// Asks one question after the other, by futures alone.
async fn ask<'a>(end: &Opened<'a>, desk: &Desk<'_, 'a, AnyPort<'a>>) {
    let buffers = LoanPool::place(end.bump(), 4, 64).unwrap();
    let to = SendTo::peer(end.peer.unwrap());
    for number in 0..QUESTIONS {
        let answer = desk.recv_later(RecvFrom::any(), buffers.lend().unwrap()).unwrap();
        let mut loan = buffers.lend().unwrap();
        loan.fill(&number.to_le_bytes()).unwrap();
        let sent = loop {
            match desk.send_later(to, loan) {
                Ok(sent) => break sent,
                Err(refused) => {
                    assert!(matches!(refused.error, PostError::Retry(_)), "{}", refused.error);
                    loan = refused.item;
                    tokio::task::yield_now().await;
                }
            }
        };
        assert_eq!(sent.await.kind, Kind::Sent);
        assert_eq!(answer.await.bytes(), Some(&number.to_le_bytes()[..]));
    }
}

#[expect(unsafe_code, reason = "a promise about a descriptor")]
fn in_reactor<'e, 'a>(news: News<'e, 'a>) -> AsyncFd<News<'e, 'a>> {
    // SAFETY: it owns its descriptor, shows that one and no other, and has it open for as long as it lives.
    let registered = unsafe { AsyncFd::register(news) };
    registered.unwrap()
}

/// Both in one task, until the first is over.
async fn beside<T>(first: impl Future<Output = T>, second: impl Future<Output = ()>) -> T {
    let (mut first, mut second) = (pin!(first), pin!(second));
    poll_fn(|cx| {
        if let Ready::Ready(it) = first.as_mut().poll(cx) {
            return Ready::Ready(it);
        }
        let _never_over = second.as_mut().poll(cx);
        Ready::Pending
    })
    .await
}

#[test]
fn an_endpoint_of_a_plan_is_a_task_of_tokio() {
    let found = discover(&hints());
    let places: Vec<_> = found.iter().filter_map(|found| Some((found, place(found)?.0))).collect();
    assert!(places.iter().any(|(found, _)| found.transport == Transport::Shm), "{found:?}");
    for (found, at) in places {
        let (tell, hear) = mpsc::channel();
        let is_over = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| answer((found, &at), &tell, &is_over));
            let uri = hear.recv_timeout(STUCK).unwrap();
            let uri: Uri = uri.to_string().replace("rxe1/", "rxe0/").parse().unwrap();
            with(&plan(found, &uri), &OpenConfig::connect().waiting(), |end| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let buffers = LoanPool::place(end.bump(), 1, 64).unwrap();
                let desk = Desk::open(&end.endpoint, buffers, || end.now()).unwrap();
                let told = Cell::new(0);
                runtime.unwrap().block_on(async {
                    let news = in_reactor(end.news().unwrap());
                    assert!(matches!(end.news(), Err(OpenError::Told)), "one a seat");
                    let all = beside(ask(&end, &desk), attend((&end, &desk), &news, &told));
                    timeout(STUCK, all).await.unwrap_or_else(|_| panic!("{found} stands still"));
                });
                is_over.store(1, Ordering::Relaxed);
                // Now and then, on a slow machine, the answer is there before it sleeps.
                assert!(told.get() >= QUESTIONS / 2, "{found}: told {} times", told.get());
                assert_eq!(desk.counts().letters, 0);
            })
            .unwrap();
        });
    }
}

#[test]
#[cfg(feature = "libfabric")]
fn where_no_descriptor_tells_of_news_that_is_said() {
    let said = |device: &str, config: &OpenConfig| {
        let all = discover(&Hints::only(&[Transport::Ofi]));
        let its = |found: &Found| found.device.as_deref() == Some(device);
        let all: Vec<Found> = all.into_iter().filter(its).collect();
        let plan = negotiate(&Requirements::default(), &all);
        let news = |end: Opened<'_>| end.news().unwrap_err().to_string();
        (with(&plan, config, news).unwrap(), plan.best().unwrap().found.info().unwrap().caps)
    };
    let (none, caps) = said("shm", &OpenConfig::listen().waiting());
    assert!(
        !caps.has(Caps::DESCRIPTOR) && none.contains("remedy: ask for the capability"),
        "{none}"
    );
    let (polled, caps) = said("sockets", &OpenConfig::listen());
    assert!(caps.has(Caps::DESCRIPTOR) && polled.contains("OpenConfig::waiting()"), "{polled}");
}
