//! A peer in another process, which is killed in the middle of everything.

use core::net::SocketAddr;

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::msg::{Kind, SendTo};
use spinwire_dataplane::provider::{EndpointType, Event};
use spinwire_tests::rng::pattern;

use crate::host_process::{again, lines, role, say, signal};
use crate::station::{self, Station, name, until};

const NAME: &str = "killed::the_killed_take_nobody_with_them";

fn length(number: u64) -> usize {
    usize::try_from(number % 7).unwrap() * 9000 + 1
}

/// Sends for ever, and takes what comes.
fn child(role: &str) {
    let (text, hub) = role.split_once('@').unwrap();
    let hub: SocketAddr = hub.parse().unwrap();
    station::with(text, EndpointType::Rdm, &station::config(), |me| {
        let to = me.know("hub", hub);
        let mut number = 0;
        (0..8).for_each(|_| me.recv(0));
        loop {
            me.turn();
            while let Some(got) = me.poll() {
                if got.kind == Kind::Received {
                    drop(got);
                    me.recv(0);
                }
            }
            match me
                .endpoint
                .inject(SendTo::peer(to).immediate(number), &pattern(number, length(number)))
            {
                Ok(()) => number += 1,
                Err(PostError::Retry(_)) => {}
                Err(e) => panic!("{e}"),
            }
            if number == 20 {
                say("running");
            }
        }
    });
}

/// Takes what comes, in order, and answers.
fn serve(hub: &Station<'_>, next: &mut std::collections::BTreeMap<u64, u64>) {
    while let Some(got) = hub.poll() {
        if got.kind != Kind::Received {
            continue;
        }
        let source = got.source.unwrap();
        let key = u64::from(source.slot()) << 32 | u64::from(source.generation().as_raw());
        let number = next.entry(key).or_default();
        assert_eq!(got.immediate, Some(*number), "in order, none missing");
        assert!(got.loan.as_deref() == Some(&pattern(*number, length(*number))[..]));
        *number += 1;
        drop(got);
        let _gone_perhaps = hub.endpoint.inject(SendTo::peer(source), b"answer");
        hub.recv(0);
    }
}

#[test]
fn the_killed_take_nobody_with_them() {
    if let Some(role) = role() {
        child(&role);
        return;
    }
    station::with("hub", EndpointType::Rdm, &station::config(), |hub| {
        let mut next = std::collections::BTreeMap::new();
        (0..16).for_each(|_| hub.recv(0));
        let start = |text: &str| {
            let mut process = again(NAME, &format!("{text}@{}", hub.local())).spawn().unwrap();
            let mut out = lines(&mut process);
            let ready = std::thread::spawn(move || out.next().map(|line| (line, out)));
            (process, ready)
        };
        let (mut witness, witness_ready) = start("witness");
        for round in 0..6 {
            let text = format!("victim-{round}");
            let (mut victim, ready) = start(&text);
            until("it runs", &[hub], || {
                serve(hub, &mut next);
                ready.is_finished() && (round > 0 || witness_ready.is_finished())
            });
            let addr = hub.endpoint.connect(&name(&text)).unwrap();
            let witness = hub.endpoint.connect(&name("witness")).unwrap();
            signal(victim.id(), "KILL");
            let mut end = None;
            until("its end is told", &[hub], || {
                serve(hub, &mut next);
                end = hub.event();
                end.is_some_and(|e| !matches!(e, Event::Connected(_)))
            });
            assert_eq!(end, Some(Event::PeerGone(addr)));
            victim.wait().unwrap();
            let key = u64::from(witness.slot()) << 32 | u64::from(witness.generation().as_raw());
            let before = next[&key];
            until("the other goes on", &[hub], || {
                serve(hub, &mut next);
                next[&key] > before + 10
            });
        }
        signal(witness.id(), "KILL");
        witness.wait().unwrap();
        let mut last = None;
        until("its end is told", &[hub], || {
            serve(hub, &mut next);
            last = hub.event();
            last.is_some()
        });
        assert!(matches!(last, Some(Event::PeerGone(_))));
        assert_eq!(hub.port().counters().corrupt, 0, "{:?}", hub.port().last_fault());
    });
}
