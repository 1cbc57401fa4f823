//! Sends and receives of connected pairs.

use core::time::Duration;

use spinwire_dataplane::error::{Misuse, PostError, Retry};
use spinwire_dataplane::verbs::{QueuePair as _, RecvRequest, SendFlags, SendRequest, Verb};
use spinwire_hostshim::verbs::{
    ConnectConfig, GidKind, Mtu, PairConfig, PairState, PortState, devices as list,
};

use super::rig::{connected, devices, quick, wr};

#[test]
fn devices_say_what_they_are() {
    if devices().is_none() {
        return;
    }
    let found = list().unwrap();
    let rxe = found.iter().find(|device| device.name == "rxe0").unwrap();
    assert!(rxe.atomics && rxe.shared_receives && rxe.depth_max >= 1024 && rxe.sge_max >= 16);
    let [port] = rxe.ports.as_slice() else { panic!("{:?}", rxe.ports) };
    assert_eq!((port.state, port.mtu), (PortState::Active, Some(Mtu::B4096)));
    assert!(port.gids.iter().all(|entry| entry.kind == GidKind::RoceV2), "{:?}", port.gids);
    let [a, b] = devices().unwrap();
    assert_eq!(
        a.gid(1, None).unwrap().gid.to_string(),
        "::ffff:10.77.0.1",
        "IPv4 before link-local"
    );
    assert_eq!(b.gid(1, None).unwrap().gid.to_string(), "::ffff:10.77.0.2");
    assert!(a.gid(1, Some(200)).unwrap_err().to_string().contains("GID 200"));
    assert!(a.gid(2, None).unwrap_err().to_string().contains("no port 2"));
}

#[test]
fn messages_of_many_sizes_arrive_as_they_were() {
    let Some([a, b]) = connected(&PairConfig::default(), &quick()) else { return };
    for (id, length) in
        [0_u32, 1, 63, 64, 65, 512, 4095, 4096, 4097, 300_000].into_iter().enumerate()
    {
        let id = u32::try_from(id).unwrap();
        let bytes: Vec<u8> = (0..length).map(|at| (at * 7 + id) as u8).collect();
        a.write(0, &bytes);
        b.recv(id, &[b.segment(0, 1 << 19)]);
        a.send(&SendRequest::new(wr(id), Verb::Send, &[a.segment(0, length)]));
        let came = b.done(id);
        assert_eq!((came.bytes, came.immediate), (length, None));
        assert_eq!(b.read(0, bytes.len()), bytes, "{length} bytes");
        a.done(id);
    }
}

#[test]
fn immediates_and_parts_come_along() {
    let Some([a, b]) = connected(&PairConfig::default(), &quick()) else { return };
    a.write(0, b"gathered ");
    a.write(5000, b"from three ");
    a.write(100, b"places");
    b.recv(1, &[b.segment(64, 4), b.segment(1000, 600)]);
    let parts = [a.segment(0, 9), a.segment(5000, 11), a.segment(100, 6)];
    a.send(&SendRequest::new(wr(2), Verb::SendImm(0x1234_5678), &parts));
    let came = b.done(1);
    assert_eq!((came.bytes, came.immediate), (26, Some(0x1234_5678)));
    let whole = [b.read(64, 4), b.read(1000, 22)].concat();
    assert_eq!(whole, b"gathered from three places");
    a.done(2);
}

#[test]
fn an_inline_send_leaves_its_memory_at_the_doorbell() {
    let config = PairConfig { inline_bytes: 64, ..PairConfig::default() };
    let Some([a, b]) = connected(&config, &quick()) else { return };
    assert!(a.pair.limits().inline_bytes_max >= 64);
    b.recv(1, &[b.segment(0, 64)]);
    a.write(0, b"as it was");
    a.send(&SendRequest::new(wr(1), Verb::Send, &[a.segment(0, 9)]));
    a.write(0, b"and after");
    b.done(1);
    assert_eq!(b.read(0, 9), b"as it was");
    a.done(1);
}

#[test]
fn a_batch_goes_out_by_one_doorbell_and_the_unsignaled_are_silent() {
    let Some([a, b]) = connected(&PairConfig::default(), &quick()) else { return };
    for id in 0..16 {
        let segments = [b.segment(u64::from(id) * 64, 64)];
        b.pair.post_recv(&RecvRequest { wr_id: wr(id), segments: &segments }).unwrap();
    }
    assert_eq!(b.pair.ring_recv_doorbell().count, 16);
    for id in 0..16_u32 {
        a.write(id as usize * 64, &[id as u8; 64]);
        let flags = SendFlags { unsignaled: id != 15, ..SendFlags::default() };
        let segments = [a.segment(u64::from(id) * 64, 64)];
        a.pair.post_send(&SendRequest::new(wr(id), Verb::Send, &segments).with(flags)).unwrap();
    }
    assert_eq!(a.pair.ring_doorbell().count, 16);
    assert_eq!(a.pair.ring_doorbell().count, 0, "nothing was staged since");
    for id in 0..16 {
        assert_eq!(b.done(id).bytes, 64);
        assert_eq!(b.read(id as usize * 64, 64), [id as u8; 64]);
    }
    a.done(15);
}

#[test]
fn a_full_list_refuses_and_loses_nothing() {
    let config = PairConfig { send_depth: 4, recv_depth: 4, ..PairConfig::default() };
    let Some([a, b]) = connected(&config, &quick()) else { return };
    for id in 0..4 {
        b.recv(id, &[b.segment(0, 64)]);
    }
    let segments = [a.segment(0, 8)];
    for id in 0..4 {
        a.pair.post_send(&SendRequest::new(wr(id), Verb::Send, &segments)).unwrap();
    }
    let fifth = a.pair.post_send(&SendRequest::new(wr(4), Verb::Send, &segments));
    assert_eq!(fifth, Err(PostError::Retry(Retry::SqFull)));
    assert_eq!(a.pair.ring_doorbell().count, 4);
    for id in 0..4 {
        a.done(id);
        b.done(id);
    }
}

/// More than the library has room for: it takes a part of a list and names the first that it did not take. Those before it are under way, and those from it on are not.
#[test]
fn a_doorbell_that_is_taken_in_part_says_how_much() {
    let config = PairConfig { send_depth: 4, recv_depth: 64, ..PairConfig::default() };
    let how = ConnectConfig { rnr_retry: 7, ..quick() };
    let Some([a, b]) = connected(&config, &how) else { return };
    let segments = [a.segment(0, 8)];
    let list = |from: u32| {
        let ids = from..from + 2;
        ids.for_each(|id| {
            a.pair.post_send(&SendRequest::new(wr(id), Verb::Send, &segments)).unwrap();
        });
        a.pair.ring_doorbell()
    };
    // Nothing waits for them yet, so none of them goes.
    let mut taken = 0;
    let part = loop {
        let published = list(taken);
        assert_eq!(published.error, None, "there will be room later");
        let count = u32::try_from(published.count).unwrap();
        taken += count;
        assert!(taken < 64, "the library has room for more than it was made for");
        if count < 2 {
            break count;
        }
    };
    assert_ne!(part, 0, "Soft-RoCE has room for 2^n - 1, which is odd");
    for id in 0..taken {
        b.recv(id, &[b.segment(0, 64)]);
    }
    for id in 0..taken {
        a.done(id);
        b.done(id);
    }
    assert!(a.next_within(Duration::from_millis(20)).is_none(), "and none that was not taken");
    b.recv(90, &[b.segment(0, 64)]);
    a.send(&SendRequest::new(wr(taken), Verb::Send, &segments));
    a.done(taken);
    b.done(90);
}

#[test]
fn what_cannot_be_right_is_refused_before_it_is_posted() {
    let config = PairConfig { sge_max: 2, ..PairConfig::default() };
    let Some([a, b]) = connected(&config, &quick()) else { return };
    let send = |request: &SendRequest<'_, _>| a.pair.post_send(request).unwrap_err();
    let foreign = [b.segment(0, 8)];
    let foreign = SendRequest::new(wr(0), Verb::Send, &foreign);
    assert_eq!(send(&foreign), PostError::Misuse(Misuse::ForeignKey), "a key of another domain");
    let mut stretched = a.segment(0, 8);
    stretched.length = u32::MAX;
    let stretched = [stretched];
    let stretched = SendRequest::new(wr(0), Verb::Send, &stretched);
    assert_eq!(send(&stretched), PostError::Misuse(Misuse::ForeignKey), "beyond its region");
    let three = [a.segment(0, 1); 3];
    let three = SendRequest::new(wr(0), Verb::Send, &three);
    assert_eq!(send(&three), PostError::Misuse(Misuse::TooLong));
    let nowhere = SendRequest::new(wr(0), Verb::Write, &[]);
    assert_eq!(send(&nowhere), PostError::Misuse(Misuse::Unsupported), "a write without a place");
    assert_eq!(a.pair.ring_doorbell().count, 0, "none of them was staged");
    assert_eq!(a.pair.state().unwrap(), PairState::ReadyToSend);
}
