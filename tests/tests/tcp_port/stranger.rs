//! A plain socket at the other end.

use std::io::{Read, Write};
use std::net::TcpStream;

use spinwire_dataplane::error::{PostError, Retry};
use spinwire_dataplane::msg::{RecvFrom, SendTo};
use spinwire_dataplane::provider::tcp::FrameFault;
use spinwire_dataplane::provider::tcp::frame::{Envelope, Framing, Greeting, Limits};
use spinwire_dataplane::provider::{EndpointType, Event, Status};
use spinwire_layouts::abi::WIRE_VERSION;
use spinwire_layouts::shm::EndpointKind;

use crate::station::{self, Station, insist, name, next_end, until};

const LIMITS: Limits =
    Limits { message_bytes_max: 1 << 20, credit_messages: 1000, credit_bytes: 64 << 20 };

/// Somebody who speaks the protocol by hand.
pub(crate) struct Stranger {
    pub(crate) stream: TcpStream,
    framing: Framing,
}

impl Stranger {
    pub(crate) fn connect(to: &Station<'_>) -> Self {
        let stream = TcpStream::connect(to.local()).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, framing: Framing::new(LIMITS).unwrap() }
    }

    fn hello(text: &str) -> [u8; 128] {
        Self::hello_with(text, (0, 0))
    }

    pub(crate) fn hello_with(text: &str, (token, number): (u64, u64)) -> [u8; 128] {
        Greeting { name: name(text), kind: EndpointKind::Rdm, limits: LIMITS, token, number }
            .to_wire()
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Says hello and waits for the answer.
    pub(crate) fn greet(&mut self, text: &str, station: &Station<'_>) {
        let _token = self.greet_as((text, (0, 0)), station);
    }

    /// The same with a token. Returns that of the answer.
    pub(crate) fn greet_as(
        &mut self,
        (text, said): (&str, (u64, u64)),
        station: &Station<'_>,
    ) -> u64 {
        self.write(&Self::hello_with(text, said));
        self.hear_hello(station)
    }

    pub(crate) fn hear_hello(&mut self, station: &Station<'_>) -> u64 {
        let mut answer = [0; 128];
        let mut had = 0;
        self.stream.set_nonblocking(true).unwrap();
        until("it answers", &[station], || {
            had += self.stream.read(&mut answer[had..]).unwrap_or(0);
            had == 128
        });
        self.stream.set_nonblocking(false).unwrap();
        self.framing.next(&mut &answer[..]).unwrap();
        self.framing.greeting().unwrap().token
    }

    pub(crate) fn message(&self, bytes: &[u8]) -> Vec<u8> {
        let header = self.framing.message(bytes.len(), Envelope::default()).unwrap();
        [&header[..], bytes].concat()
    }

    /// Whether the other end has closed or reset the connection.
    pub(crate) fn is_cut(&mut self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        loop {
            match self.stream.read(&mut [0; 256]) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) => return e.kind() != std::io::ErrorKind::WouldBlock,
            }
        }
    }
}

/// A station, and a neighbour that is not to notice anything: after `work` it still gets through.
fn beside_a_neighbour(work: impl FnOnce(&Station<'_>)) {
    station::with_two(["hub", "neighbour"], EndpointType::Rdm, |hub, neighbour| {
        let to = neighbour.know("hub", hub.local());
        let pass = |number: u64| {
            hub.recv(7);
            let inject = || neighbour.endpoint.inject(SendTo::peer(to).immediate(number), b"hello");
            insist("a neighbour sends", &[hub, neighbour], inject);
            let mut got = None;
            until("it is there", &[hub, neighbour], || {
                got = hub.poll();
                got.is_some()
            });
            assert_eq!(got.unwrap().immediate, Some(number));
        };
        pass(1);
        work(hub);
        pass(2);
        assert_eq!(neighbour.event(), None);
    });
}

#[test]
fn frames_may_come_byte_by_byte() {
    beside_a_neighbour(|hub| {
        let mut stranger = Stranger::connect(hub);
        for byte in Stranger::hello("slow") {
            stranger.write(&[byte]);
            hub.turn();
        }
        stranger.hear_hello(hub);
        hub.recv(1);
        let body: Vec<u8> = (0..200).collect();
        let bytes = [stranger.message(&body), stranger.message(b"second")].concat();
        for byte in bytes {
            stranger.write(&[byte]);
            hub.turn();
        }
        let mut got = None;
        until("it is there", &[hub], || {
            got = hub.poll();
            got.is_some()
        });
        assert_eq!(got.unwrap().loan.as_deref(), Some(&body[..]));
        until("the second waits", &[hub], || hub.endpoint.peek(RecvFrom::any()).is_some());
        hub.recv(2);
        until("it is there", &[hub], || hub.poll().is_some());
        drop(stranger);
        assert!(matches!(next_end(hub), Event::PeerGone(_)));
    });
}

/// What is no hello ends that connection, and says what was wrong with it.
#[test]
fn what_is_no_hello_is_named() {
    beside_a_neighbour(|hub| {
        let hello = Stranger::hello("odd");
        let cases: [(&[usize], FrameFault); 5] = [
            (&[0], FrameFault::Magic),
            (&[8], FrameFault::Version { theirs: WIRE_VERSION ^ 0x40 }),
            (&[12], FrameFault::Reserved),
            (&[16], FrameFault::Hash),
            (&[36], FrameFault::Kind),
        ];
        for (at, fault) in cases {
            let mut bytes = hello;
            for at in at {
                bytes[*at] ^= 0x40;
            }
            let before = hub.port().counters().corrupt;
            let mut stranger = Stranger::connect(hub);
            stranger.write(&bytes);
            until("it is cut off", &[hub], || stranger.is_cut());
            assert_eq!(hub.port().counters().corrupt, before + 1);
            assert_eq!(hub.port().last_fault(), Some(fault));
        }
        let mut browser = Stranger::connect(hub);
        browser.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n");
        until("it is cut off", &[hub], || browser.is_cut());
        assert_eq!(hub.port().last_fault(), Some(FrameFault::Magic));
        assert_eq!(
            hub.event(),
            Some(Event::Connected(hub.endpoint.connect(&name("neighbour")).unwrap()))
        );
        assert_eq!(hub.event(), None, "nobody was there of whom anything could be said");
    });
}

/// Sends `bytes` behind a hello: the peer is cut off for `fault`, and what it had sent before stays.
fn is_corrupt(make: impl Fn(&mut Stranger) -> Vec<u8>, fault: FrameFault) {
    beside_a_neighbour(|hub| {
        let mut stranger = Stranger::connect(hub);
        stranger.greet("bad", hub);
        let good = stranger.message(b"good");
        stranger.write(&good);
        let bytes = make(&mut stranger);
        stranger.write(&bytes);
        until("it is cut off", &[hub], || stranger.is_cut());
        assert_eq!(hub.port().last_fault(), Some(fault));
        let bad = hub.endpoint.connect(&name("bad"));
        assert!(bad.is_err(), "{bad:?}: its row is lost");
        assert_eq!(hub.endpoint.peek(RecvFrom::any()).map(|w| w.length), Some(4));
        let end = next_end(hub);
        let Event::PeerCorrupt(addr) = end else { panic!("{end:?}") };
        assert_eq!(hub.endpoint.peek(RecvFrom::any()).map(|w| w.source), Some(addr));
        hub.recv(1);
        let mut got = None;
        until("it is there", &[hub], || {
            got = hub.poll();
            got.is_some()
        });
        assert_eq!(got.unwrap().loan.as_deref(), Some(&b"good"[..]));
    });
}

#[test]
fn garbage_cuts_off_its_writer_alone() {
    is_corrupt(|_| vec![0xA5; 4096], FrameFault::Flags);
}

#[test]
fn an_oversize_message_cuts_off_its_writer_alone() {
    let longer = usize::try_from(station::LONGEST).unwrap() + 1;
    is_corrupt(
        |stranger| {
            let header = {
                // A header by hand: nothing that the framing would make.
                let mut bytes = stranger.message(&[])[..32].to_vec();
                bytes[4..7].copy_from_slice(&u32::try_from(longer).unwrap().to_le_bytes()[..3]);
                bytes
            };
            [header, vec![0; 1000]].concat()
        },
        FrameFault::Length,
    );
}

#[test]
fn a_wrong_sequence_cuts_off_its_writer_alone() {
    is_corrupt(
        |stranger| {
            let mut bytes = stranger.message(b"late");
            bytes[0] ^= 1;
            bytes
        },
        FrameFault::Sequence,
    );
}

/// Who sends more than it was allowed to is cut off before it fills anything.
#[test]
fn who_ignores_credit_is_cut_off() {
    beside_a_neighbour(|hub| {
        let config = station::config().port;
        // More than the matcher keeps, so that nothing is released any more.
        let free = config.matching.unexpected_depth + config.credit_messages;
        let mut stranger = Stranger::connect(hub);
        stranger.greet("greedy", hub);
        let mut bytes = Vec::new();
        // By hand: the framing would not make them.
        for number in 0..=free {
            let mut header = [0; 32];
            header[..4].copy_from_slice(&number.to_le_bytes());
            header[4] = 100;
            header[7] = 1;
            bytes.extend(header);
            bytes.extend([7; 100]);
        }
        stranger.stream.set_nonblocking(false).unwrap();
        let _it_may_be_cut_off_before = stranger.stream.write_all(&bytes);
        until("it is cut off", &[hub], || stranger.is_cut());
        assert_eq!(hub.port().last_fault(), Some(FrameFault::Overrun));
        // What the matcher had kept by then can be had; nothing more. How much that is depends on when credit was given back.
        let mut kept = 0;
        while hub.endpoint.peek(RecvFrom::any()).is_some() {
            hub.recv(0);
            until("it is there", &[hub], || hub.poll().is_some());
            kept += 1;
        }
        let allowed = config.credit_messages..=config.matching.unexpected_depth;
        assert!(allowed.contains(&kept), "{kept} were kept");
    });
}

/// One who takes nothing is sent what its credit allows and the network holds; then the sender is told, and others go on.
#[test]
fn who_never_reads_costs_a_bounded_amount_of_memory() {
    beside_a_neighbour(|hub| {
        let mut stranger = Stranger::connect(hub);
        stranger.greet("deaf", hub);
        let mut deaf = None;
        until("it is known", &[hub], || {
            deaf = hub.endpoint.connect(&name("deaf")).ok();
            deaf.is_some()
        });
        let deaf = deaf.unwrap();
        let long = vec![9; 100_000];
        let (mut sent, mut refused, mut why) = (0_u64, 0, None);
        while refused < 2000 {
            match hub.endpoint.inject(SendTo::peer(deaf), &long) {
                Ok(()) => {
                    sent += 1;
                    refused = 0;
                }
                Err(e) => {
                    refused += 1;
                    why = Some(e);
                }
            }
            hub.turn();
        }
        let limit = u64::from(station::config().port.credit_messages);
        assert!(sent <= limit, "{sent} messages of 100 kB");
        let retry = [Retry::NoCredit, Retry::NoSendRoom].map(PostError::Retry);
        assert!(why.is_some_and(|why| retry.contains(&why)), "{why:?}");
    });
}

#[test]
fn who_says_nothing_is_let_go_of() {
    let mut config = station::config();
    config.port.greeting_timeout = spinwire_dataplane::time::Nanos::from_millis(50);
    station::with("hub", EndpointType::Rdm, &config, |hub| {
        let mut silent: Vec<Stranger> = (0..5).map(|_| Stranger::connect(hub)).collect();
        until("all are cut off", &[hub], || silent.iter_mut().all(Stranger::is_cut));
        assert_eq!(hub.port().counters().expired, 5);
        assert_eq!(hub.event(), None);
        let mut late = Stranger::connect(hub);
        late.greet("late", hub);
    });
}

/// One who greets and is reset; and one who resets in the middle of a message that streams into a receive.
#[test]
fn a_reset_in_a_message_leaves_the_receive_posted() {
    beside_a_neighbour(|hub| {
        let mut stranger = Stranger::connect(hub);
        stranger.greet("breaks", hub);
        hub.recv(1);
        let half = stranger.message(&vec![5; 300_000]);
        stranger.write(&half[..100_000]);
        until("it streams in", &[hub], || {
            hub.endpoint.peek(RecvFrom::any()).is_none() && hub.turns.get() > 2000
        });
        assert!(hub.poll().is_none());
        // Closed with something unread: a reset.
        drop(stranger);
        assert!(matches!(next_end(hub), Event::PeerGone(_)));
        assert_eq!(hub.endpoint.posted_count(), 1);
        let mut stranger = Stranger::connect(hub);
        stranger.greet("whole", hub);
        let whole = stranger.message(&[6; 1000]);
        stranger.write(&whole);
        let mut got = None;
        until("it is there", &[hub], || {
            got = hub.poll();
            got.is_some()
        });
        let got = got.unwrap();
        assert_eq!((got.context, got.status, got.length), (1, Status::Success, 1000));
    });
}

/// A receive into which a message streams takes no other meanwhile, cannot be cancelled, and keeps its place.
#[test]
fn a_receive_that_is_being_filled_takes_nothing_else() {
    station::with_two(["hub", "other"], EndpointType::Rdm, |hub, other| {
        let to = other.know("hub", hub.local());
        let mut stranger = Stranger::connect(hub);
        stranger.greet("long", hub);
        // For many: what comes next goes behind the long one.
        let loan = hub.pool.lend().unwrap();
        let id = hub.endpoint.post_multi_recv(RecvFrom::any(), loan, 64, 1).map_err(|r| r.error);
        let long = stranger.message(&vec![5; 100_000]);
        stranger.write(&long[..60_000]);
        let turns = hub.turns.get();
        until("it streams in", &[hub], || hub.turns.get() > turns + 500);
        assert!(hub.endpoint.cancel(id.unwrap()).is_err(), "a message is streaming into it");
        insist("it is sent", &[hub, other], || other.endpoint.inject(SendTo::peer(to), b"short"));
        let waits = || hub.endpoint.peek(RecvFrom::any()).map(|waiting| waiting.length);
        until("the short one waits", &[hub, other], || waits() == Some(5));
        assert!(hub.poll().is_none());
        stranger.write(&long[60_000..]);
        let mut seen = Vec::new();
        until("both are there", &[hub, other], || {
            while let Some(got) = hub.poll() {
                let good = hub.endpoint.read(&got, |bytes| match bytes.len() {
                    5 => bytes == b"short",
                    length => length == 100_000 && bytes.iter().all(|byte| *byte == 5),
                });
                assert_eq!((got.context, good), (1, Some(true)));
                seen.push((got.offset, got.length));
            }
            seen.len() == 2
        });
        assert_eq!(seen, [(0, 100_000), (100_000, 5)]);
        assert_eq!(waits(), None);
    });
}

/// A send that fails because the other end is gone does not take along what that had sent before.
#[test]
fn what_the_gone_had_sent_is_there_though_a_send_fails_first() {
    beside_a_neighbour(|hub| {
        let mut stranger = Stranger::connect(hub);
        stranger.greet("dying", hub);
        let dying = hub.endpoint.connect(&name("dying")).unwrap();
        hub.endpoint.inject(SendTo::peer(dying), b"not read").unwrap();
        let queued = || hub.port().streams().counters().sent_bytes;
        let before = queued();
        until("it is sent", &[hub], || queued() > before);
        let last = [stranger.message(b"one"), stranger.message(b"two")].concat();
        stranger.write(&last);
        // With something unread: a reset.
        drop(stranger);
        hub.endpoint.inject(SendTo::peer(dying), b"fails").unwrap();
        hub.endpoint.flush();
        for text in [b"one", b"two"] {
            hub.recv(0);
            let mut got = None;
            until("it is there", &[hub], || {
                got = hub.poll();
                got.is_some()
            });
            assert_eq!(got.unwrap().loan.as_deref(), Some(&text[..]));
        }
        assert_eq!(next_end(hub), Event::PeerGone(dying));
    });
}
