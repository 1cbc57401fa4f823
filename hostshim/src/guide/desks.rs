//! Chapter 6: helpers against polling.
//!
//! A loop that polls is the quickest way to use an endpoint, and the longest to write. Where a program does one thing after the other (in set-up, in tools and
//! tests, in services that have time), a [`Desk`](crate::desk::Desk) does the polling: it sends, receives and waits, and hands on what is not its own.
//!
//! | | polling | a desk | a desk with futures (feature `async`) |
//! |---|---|---|---|
//! | who turns the endpoint | your loop | each call, until it has what it waits for | your loop, by `drive()` |
//! | what is under way at once | anything | one operation for each call | a future for each operation |
//! | buffers | loans | borrowed slices, copied once more through loans of a pool | loans |
//! | heap | none after `seal` | yes | yes |
//! | what else completes | comes to you | is kept for you: `next_letter()` | the same |
//! | it costs | nothing more | some hundred nanoseconds, and the copy | the same, and your executor |
//!
//! ```
//! # use core::mem::MaybeUninit;
//! # use core::time::Duration;
//! use spinwire_dataplane::msg::{RecvFrom, SendTo};
//! # use spinwire_dataplane::msg::{Endpoint, EndpointConfig};
//! # use spinwire_dataplane::provider::{EndpointType, loopback::{Hub, HubConfig, Port, PortConfig}};
//! # use spinwire_dataplane::raw::{loan::LoanPool, place::Bump};
//! use spinwire_hostshim::desk::{Desk, Wait, WaitError};
//! # use spinwire_hostshim::clock::TscClock;
//!
//! # fn main() -> Result<(), Box<dyn core::error::Error>> {
//! # let mut block = vec![MaybeUninit::uninit(); 16 << 20];
//! # let bump = Bump::new(&mut block);
//! # let hub = Hub::place(&bump, &HubConfig::default())?;
//! # use spinwire_dataplane::id::Name;
//! # let (a, b) = (Name::new("a")?, Name::new("b")?);
//! # let end = |name| -> Result<_, Box<dyn core::error::Error>> {
//! #     let port = Port::open(&hub, &bump, (name, EndpointType::Rdm), &PortConfig::default())?;
//! #     Ok(Endpoint::new(port, &bump, &EndpointConfig::default())?)
//! # };
//! # let (client, server) = (end(&a)?, end(&b)?);
//! # let peer = client.connect(&b)?;
//! # let clock = TscClock::calibrate();
//! let buffers = LoanPool::place(&bump, 8, 256)?;
//! let desk = Desk::open(&client, buffers, || clock.now())?;
//! let other = Desk::open(&server, buffers, || clock.now())?;
//!
//! desk.send(SendTo::peer(peer).tag(7), b"bid 101.25", Wait::within(Duration::from_millis(100)))?;
//! let mut bytes = [0; 64]; // yours again at return, whatever comes of it
//! let got = other.recv(RecvFrom::any().tag(7), &mut bytes, Wait::FOREVER)?;
//! assert_eq!(&bytes[..got.length], b"bid 101.25");
//!
//! // Nothing more has come: one look, and the receive is taken back.
//! let nothing = other.recv(RecvFrom::any().tag(7), &mut bytes, Wait::ONCE);
//! assert_eq!(nothing, Err(WaitError::Timeout));
//! # Ok(())
//! # }
//! ```
//!
//! *How long.* `Wait::ONCE` looks once, `Wait::FOREVER` as long as it takes, `Wait::within(..)` so long. With `.unless(&token)` another thread can end the wait
//! ([`CancelToken`](crate::desk::CancelToken)).
//!
//! *After a timeout* there is no surprise. What was posted is taken back, and where the provider cannot do that (a send, say), its buffer stays with the desk until it
//! completes. A message that comes late is never written into the slice that you have back: it goes to the next receive, or is a letter. What a send that was given up means for the other end
//! is what it always means: the message may have arrived.
//!
//! *Others' completions.* Whatever a call finds that is not its own it keeps, in order. Two parts of a program have a desk each at one endpoint, the second by
//! [`desk.another()`](crate::desk::Desk::another): whichever turns, each gets what it waits for. (A second `Desk::open` is refused, as it would know nothing of the first.) And one endpoint can have a desk and a loop of its own: the loop takes
//! `desk.next_letter()` where it would have called `endpoint.poll()`, and `desk.drive()` for `turn`. What must not be done is to poll the endpoint itself beside a desk that somebody waits at:
//! the completion that you take is the one that it waits for.
//!
//! *While it waits* a desk spins, and yields now and then. [`Desk::resting`](crate::desk::Desk::resting) says otherwise: climb down the idle ladder, turn the other endpoints of the
//! thread (or they stand still for as long as the wait lasts), or sleep on a descriptor.
//!
//! *Under `epoll`, or an executor.* An endpoint that was opened by a plan or at a URI has a descriptor that tells when there is something to turn for: [`News`](crate::open::News), from
//! [`Opened::news`](crate::open::Opened::news). Put it into the interest list of your reactor, for reading, and ask [`may_sleep`](crate::open::News::may_sleep) after each turn (or `drive()`): it says
//! when there is nothing left to do, and for how long the descriptor may be waited for. In that order nothing is missed. The same loop does over shared memory, TCP, UDP, RDMA devices and libfabric; open with
//! [`OpenConfig::waiting`](crate::open::OpenConfig::waiting), which libfabric wants to know beforehand. What has no descriptor lacks the capability
//! [`DESCRIPTOR`](spinwire_dataplane::provider::Caps::DESCRIPTOR), so ask for that where you need it. A thread that turns several asks for all of them
//! together ([`may_sleep_on`](crate::open::News::may_sleep_on)): one by one they may never be ready after the same turn. (A plane without an endpoint by URI has what it stands on: `TcpPlane::news()`, `OfiPort::descriptors`.)
//!
//! As the task of a runtime:
//!
//! ```
//! # use core::time::Duration;
//! use spinwire_dataplane::poll::{Budget, Poll};
//! use spinwire_hostshim::open::{News, Opened};
//!
//! /// Turns an endpoint for ever, and sleeps while there is nothing. `readable` is the runtime's. With tokio, for one, `news` lives in an
//! /// `AsyncFd`, and this is `timeout(most, fd.readable()).await`, and `clear_ready()` of the guard that comes back; with futures of a
//! /// desk, `drive()` stands for `turn`, and after each that was busy the task lets others run (`yield_now().await`).
//! async fn attend(
//!     (end, news): (&Opened<'_>, &News<'_, '_>),
//!     readable: impl AsyncFn(Duration),
//!     take_completions: impl Fn(),
//! ) {
//!     loop {
//!         let outcome = end.endpoint.turn(end.now(), Budget::DEFAULT);
//!         take_completions(); // all of them, and events: what is left is work, and no sleep
//!         if let Some(most) = news.may_sleep(outcome, end.now()) {
//!             readable(most).await;
//!         }
//!     }
//! }
//! ```
//!
//! A task that awaits an operation need not know whether the one that drives is asleep: with its first look the operation goes out, and finds a message that
//! has come already. What is due by the clock alone (a peer that has been silent for too long) is seen when the driver wakes; let it sleep for as long as you can wait for that.
//!
//! *When to use which.* Count operations, not lines: with one thing under way at a time take a desk. With many, or where each microsecond counts, poll, and keep what belongs to an operation
//! under its context ([`Contexts`](spinwire_dataplane::msg::Contexts)).
//!
//! Next: [`datagrams`](super::datagrams).
