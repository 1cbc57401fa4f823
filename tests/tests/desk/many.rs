//! Endpoints, desks and contexts that come and go by the thousand, at one hub: what one of them leaves behind would be missing after so many.

use core::cell::Cell;
use core::mem::MaybeUninit;
use core::time::Duration;

use spinwire_dataplane::msg::matching::MatchingConfig;
use spinwire_dataplane::msg::{ContextError, Contexts, Endpoint, EndpointConfig, RecvFrom, SendTo};
use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::provider::loopback::{Hub, HubConfig, Port, PortConfig};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::Instant;
use spinwire_hostshim::desk::{Desk, Wait, WaitError};

use super::end::name;

/// How often.
const TIMES: u64 = 500;
/// Longer than a message takes, on a clock that goes on by 100 ns at each look.
const SHORT: Wait<'static> = Wait::within(Duration::from_micros(3));

#[test]
fn a_thousand_endpoints_with_desks_leave_no_buffer_no_row_no_context() {
    let mut block: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(64 << 20);
    let bump = Bump::new(&mut block);
    let two = HubConfig { ports_max: 2, messages_max: 8, link_depth: 4, ..HubConfig::default() };
    let hub = bump.value(Hub::place(&bump, &two).unwrap()).unwrap();
    let pool = LoanPool::place(&bump, 4, 64).unwrap();
    let contexts = Contexts::place(&bump, 1).unwrap();
    for time in 0..TIMES {
        let context = contexts.register(time).unwrap().as_raw();
        stay(hub, &bump, pool, context);
        assert_eq!(pool.free_count(), 4, "buffers, after {time}");
        assert_eq!((hub.messages_len(), hub.requests_len()), (0, 0), "after {time}");
        assert_eq!(contexts.release(context), Ok(time));
        assert_eq!(contexts.release(context), Err(ContextError::Expired));
    }
    assert!(contexts.is_empty());
    assert_eq!(contexts.counts().expired, TIMES);
}

/// Two ends come, talk, leave a receive, a wait that was given up and a message behind, and go.
fn stay<'m>(hub: &'m Hub<'m>, bump: &Bump<'m>, pool: &'m LoanPool<'m>, context: u64) {
    let clock = Cell::new(0);
    let now = || {
        clock.set(clock.get() + 100);
        Instant::from_nanos(clock.get())
    };
    let open = |called: &str| {
        let matching =
            MatchingConfig { recv_depth: 4, unexpected_depth: 2, unexpected_bytes_max: 64 };
        let config = PortConfig { peers_max: 2, send_depth: 2, matching, regions_max: 0 };
        let port = Port::open(hub, bump, (&name(called), EndpointType::Rdm), &config).unwrap();
        Endpoint::new(port, bump, &EndpointConfig { contexts_max: 8 }).unwrap()
    };
    let (a, b) = (open("a"), open("b"));
    let to_b = SendTo::peer(a.connect(&name("b")).unwrap());
    let desk = Desk::open(&b, pool, now).unwrap();
    let mut into = [0; 8];
    a.inject(to_b, b"asked").unwrap();
    a.flush();
    assert_eq!(desk.recv(RecvFrom::any(), &mut into, SHORT).unwrap().length, 5);
    assert_eq!(desk.recv(RecvFrom::any(), &mut into, SHORT), Err(WaitError::Timeout));
    b.post_recv(RecvFrom::any().tag(1), pool.lend().unwrap(), context).unwrap();
    a.post_send(to_b, pool.lend().unwrap(), context).unwrap();
    a.inject(to_b, b"not asked").unwrap();
    a.flush();
    let _outcome = desk.drive();
}
