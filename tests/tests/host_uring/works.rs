//! Each path and each fallback carries bytes; flags do what their names say.

use core::time::Duration;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use spinwire_hostshim::uring;
use spinwire_hostshim::uring::{
    Feature, FeatureSet, NapiConfig, SqPoll, Uring, UringConfig, UringError, UseUp, Why,
};
use spinwire_layouts::pod::Pod as _;
use spinwire_layouts::uring::{
    IoVec, Sqe, Timespec, accept, cqe, nop as nop_flags, op, recvsend, setup, sqe, timeout,
};

use super::exchange::{Memory, Used, carries_bytes, nop, provide, receive, send};
use super::host_process::private::{done, not_run, run_to_the_end};
use super::host_process::{again, role};

/// A small ring with a table of files, without what `deny` has.
fn open(deny: FeatureSet) -> Uring {
    let config =
        UringConfig { entries: 16, completions: 64, files: 8, deny, ..UringConfig::default() };
    Uring::open(&config).unwrap()
}

/// A ring that has `feature`; says so where the kernel has it not.
fn open_with(test: &str, feature: Feature) -> Option<Uring> {
    let ring = open(FeatureSet::EMPTY);
    if !ring.features().has(feature) {
        not_run(test, &format!("{}", ring.features()));
        return None;
    }
    Some(ring)
}

#[test]
fn the_ring_is_as_the_kernel_that_runs_can_have_it() {
    let ring = open(FeatureSet::EMPTY);
    println!("{}", ring.features());
    carries_bytes(&Used::new(&ring));
    assert!(matches!(ring.ring(), Err(UringError::Taken)), "there is one owner of either queue");
    let Ok(known) = uring::query() else {
        return not_run(
            "the features of a ring against the kernel's own list",
            "no IORING_REGISTER_QUERY before Linux 6.18",
        );
    };
    // The kernel's own list is another witness of what was found by trying.
    for feature in Feature::ALL.iter().copied().filter(|feature| feature.setup_flag() != 0) {
        let asked = !matches!(feature, Feature::Clamp | Feature::SqPoll | Feature::CoopTaskrun);
        let knows = known.ring_setup_flags & u64::from(feature.setup_flag()) != 0;
        assert_eq!(ring.features().has(feature), asked && knows, "{feature}");
    }
    // And whatever kernel answers this question has all the rest; busy polling where its configuration has it.
    let later = Feature::ALL.iter().copied().filter(|feature| feature.setup_flag() == 0);
    for feature in later.filter(|feature| *feature != Feature::Napi) {
        assert!(ring.features().has(feature), "{feature}: {}", ring.features());
    }
    assert_eq!(
        ring.features().has(Feature::SendMsgZc),
        known.nr_request_opcodes > u32::from(op::SENDMSG_ZC)
    );
}

#[test]
fn every_combination_of_set_up_carries_bytes() {
    let optional = [
        Feature::CqSize,
        Feature::SubmitAll,
        Feature::TaskrunFlag,
        Feature::CoopTaskrun,
        Feature::SingleIssuer,
        Feature::DeferTaskrun,
        Feature::NoSqArray,
        Feature::RegisteredRing,
    ];
    let mut flags_seen = Vec::new();
    for bits in 0_u32..1 << optional.len() {
        let denied = optional.iter().enumerate().filter(|(n, _)| bits >> n & 1 == 1);
        let deny: FeatureSet = denied.map(|(_, feature)| *feature).collect();
        let ring = open(deny);
        for feature in deny.iter() {
            assert!(!ring.features().has(feature), "{feature}");
            assert!(ring.features().missing().contains(&(feature, Why::Denied)), "{feature}");
        }
        let completions = if deny.has(Feature::CqSize) { 32 } else { 64 };
        assert_eq!(ring.params().cq_entries, completions);
        carries_bytes(&Used::new(&ring));
        flags_seen.push(ring.params().flags);
    }
    flags_seen.sort_unstable();
    flags_seen.dedup();
    // CQSIZE, SUBMIT_ALL and NO_SQARRAY, each with or without; and of the others: nothing, COOP_TASKRUN, SINGLE_ISSUER, both,
    // SINGLE_ISSUER with DEFER_TASKRUN.
    let kinds = if open(FeatureSet::EMPTY).features().has(Feature::NoSqArray) { 40 } else { 20 };
    assert_eq!(flags_seen.len(), kinds, "{flags_seen:#x?}");
}

#[test]
fn what_is_denied_is_done_without() {
    let later = Feature::ALL.iter().copied().filter(|feature| feature.setup_flag() == 0);
    for feature in later {
        let ring = open(FeatureSet::EMPTY.with(feature));
        assert!(!ring.features().has(feature), "{feature}");
        carries_bytes(&Used::new(&ring));
        // Who asks for it all the same is told.
        let refused = match feature {
            Feature::Files => ring.set_file(0, None).err(),
            Feature::Buffers => ring.register_buffers(&[Memory::new(64).lines()]).err(),
            Feature::BufferRings => ring.provide_buffers(0, 8, UseUp::Whole).err(),
            Feature::IncrementalBuffers => ring.provide_buffers(0, 8, UseUp::Pieces).err(),
            // The others are no calls of the ring.
            other => Some(UringError::Without(other)),
        };
        assert_eq!(refused, Some(UringError::Without(feature)));
    }
    let all: FeatureSet = Feature::ALL.iter().copied().collect();
    let bare = open(all);
    assert_eq!(bare.features().active(), FeatureSet::EMPTY);
    assert_eq!(bare.params().flags & !setup::SQ_AFF, 0);
    carries_bytes(&Used::new(&bare));
}

#[test]
fn what_rests_on_what_is_denied_says_so() {
    let ring = open(FeatureSet::EMPTY.with(Feature::BufferRings));
    for feature in [Feature::IncrementalBuffers, Feature::MultishotReceive, Feature::Bundles] {
        let why = (feature, Why::Needs(Feature::BufferRings));
        assert!(ring.features().missing().contains(&why), "{}", ring.features());
    }
}

#[test]
fn a_thread_of_the_kernel_takes_entries() {
    for deny in [FeatureSet::EMPTY, FeatureSet::EMPTY.with(Feature::SqPoll)] {
        let poll = SqPoll { idle: Duration::from_millis(1), cpu: Some(0) };
        let config = UringConfig { sq_poll: Some(poll), deny, ..UringConfig::default() };
        let ring = Uring::open(&config).unwrap();
        let has = ring.features().has(Feature::SqPoll);
        assert!(!has || !ring.features().has(Feature::DeferTaskrun), "they do not go together");
        assert!(!(deny.has(Feature::SqPoll) && has));
        let used = Used::new(&ring);
        carries_bytes(&used);
        // It has gone to sleep meanwhile, and is woken.
        std::thread::sleep(Duration::from_millis(30));
        carries_bytes(&used);
    }
}

#[test]
fn network_queues_are_polled_where_that_is_asked_for() {
    let test = "network_queues_are_polled_where_that_is_asked_for";
    let Some(_ring) = open_with(test, Feature::Napi) else { return };
    let how = NapiConfig { busy_poll: Duration::from_micros(50), prefer: true };
    for deny in [FeatureSet::EMPTY, FeatureSet::EMPTY.with(Feature::Napi)] {
        let config = UringConfig { napi: Some(how), deny, ..UringConfig::default() };
        let ring = Uring::open(&config).unwrap();
        assert_eq!(ring.features().has(Feature::Napi), !deny.has(Feature::Napi));
        carries_bytes(&Used::new(&ring));
    }
}

#[test]
fn sizes_that_cannot_be_are_refused_or_cut() {
    let open = |entries, completions, clamp| {
        Uring::open(&UringConfig { entries, completions, clamp, ..UringConfig::default() })
    };
    let size = |result: Result<Uring, UringError>| match result {
        Err(UringError::Size { field, most, .. }) => (field, most),
        other => panic!("{other:?}"),
    };
    assert_eq!(size(open(0, 0, false)), ("entries", uring::ENTRIES_MAX));
    assert_eq!(size(open(uring::ENTRIES_MAX + 1, 0, false)), ("entries", uring::ENTRIES_MAX));
    assert_eq!(size(open(8, 4, true)), ("completions", uring::COMPLETIONS_MAX));
    let too_many = open(8, uring::COMPLETIONS_MAX + 1, false);
    assert!(
        too_many
            .as_ref()
            .unwrap_err()
            .to_string()
            .contains("remedy: set completions to 8 up to 65536")
    );
    assert_eq!(size(too_many), ("completions", uring::COMPLETIONS_MAX));
    let cut = open(1_000_000, 0, true).unwrap();
    assert_eq!(cut.params().sq_entries, uring::ENTRIES_MAX);
    assert_eq!(cut.params().cq_entries, uring::COMPLETIONS_MAX);
    carries_bytes(&Used::new(&cut));
    let rounded = open(5, 0, false).unwrap();
    assert_eq!((rounded.params().sq_entries, rounded.params().cq_entries), (8, 16));
}

/// Open descriptors, and mappings of rings.
fn traces() -> (usize, usize) {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    (fds, maps.lines().filter(|line| line.contains("io_uring")).count())
}

#[test]
fn a_closed_ring_leaves_nothing() {
    let test = "works::a_closed_ring_leaves_nothing";
    if role().is_none() {
        return run_to_the_end(again(test, "alone"));
    }
    let before = traces();
    for round in 0..100 {
        let ring = open(FeatureSet::EMPTY);
        assert!(traces().0 > before.0 && traces().1 == before.1 + 2, "two mappings");
        // A thread has 16 places for registered rings: one that stayed would be missed by the 17th.
        let registered = |ring: &Uring| ring.features().has(Feature::RegisteredRing);
        assert!(registered(&ring) || round == 0, "{}", ring.features());
        carries_bytes(&Used::new(&ring));
        if ring.features().has(Feature::BufferRings) {
            drop(ring.provide_buffers(3, 8, UseUp::Whole).unwrap());
            let again = ring.provide_buffers(3, 8, UseUp::Whole).unwrap();
            assert_eq!((again.group(), again.entries()), (3, 8));
        }
        let (near, _far) = UnixStream::pair().unwrap();
        ring.set_file(0, Some(near.as_fd())).unwrap();
        drop(ring);
    }
    // Rings that failed on the way too.
    for _ in 0..20 {
        Uring::open(&UringConfig { files: u32::MAX, ..UringConfig::default() }).unwrap_err();
    }
    assert_eq!(traces(), before);
    // More rings than a thread has places for.
    let many: Vec<_> = (0..20).map(|_| open(FeatureSet::EMPTY)).collect();
    for ring in &many {
        carries_bytes(&Used::new(ring));
    }
    assert!(!many[19].features().has(Feature::RegisteredRing), "16 places");
    drop(many);
    assert_eq!(traces(), before);
    done();
}

#[test]
fn a_file_is_found_by_its_slot() {
    let Some(ring) = open_with("a_file_is_found_by_its_slot", Feature::Files) else { return };
    assert_eq!(ring.file_slots(), 8);
    let (near, far) = UnixStream::pair().unwrap();
    ring.set_file(5, Some(near.as_fd())).unwrap();
    ring.set_file(6, Some(far.as_fd())).unwrap();
    // The table has its own references.
    drop((near, far));
    let used = Used::new(&ring);
    let (from, to) = (Memory::new(64), Memory::new(64));
    from.put(0, b"by slot");
    let fixed = |entry: Sqe| Sqe { flags: sqe::FIXED_FILE, ..entry };
    assert_eq!(used.one(fixed(send(5, &from, 7, 1))).res, 7);
    assert_eq!(used.one(fixed(receive(6, &to, 64, 2))).res, 7);
    assert_eq!(to.get(0, 7), b"by slot");
    ring.set_file(5, None).unwrap();
    assert_eq!(used.one(fixed(send(5, &from, 7, 3))).res, -libc::EBADF);
    assert_eq!(used.one(fixed(receive(6, &to, 64, 4))).res, 0, "the other end is closed");
    assert!(matches!(ring.set_file(8, None), Err(UringError::Size { asked: 8, most: 7, .. })));
}

#[test]
fn memory_is_found_by_its_index() {
    let Some(ring) = open_with("memory_is_found_by_its_index", Feature::Buffers) else { return };
    let (first, second) = (Memory::new(8192), Memory::new(4096));
    ring.register_buffers(&[first.lines(), second.lines()]).unwrap();
    let twice = ring.register_buffers(&[first.lines()]).unwrap_err();
    assert!(matches!(twice, UringError::Os(ref e) if e.errno().number() == libc::EBUSY), "{twice}");
    let (near, far) = UnixStream::pair().unwrap();
    second.put(0, b"by index");
    let used = Used::new(&ring);
    let fixed = |opcode, fd, addr, buf_index, user_data| Sqe {
        opcode,
        fd,
        addr,
        len: 8,
        buf_index,
        user_data,
        ..Sqe::ZERO
    };
    let write = fixed(op::WRITE_FIXED, near.as_raw_fd(), second.address(), 1, 1);
    assert_eq!(used.one(write).res, 8);
    let read = fixed(op::READ_FIXED, far.as_raw_fd(), first.address() + 4096, 0, 2);
    assert_eq!(used.one(read).res, 8);
    assert_eq!(first.get(4096, 8), b"by index");
    let outside = fixed(op::WRITE_FIXED, near.as_raw_fd(), first.address(), 1, 3);
    assert_eq!(used.one(outside).res, -libc::EFAULT);
    ring.forget_buffers().unwrap();
    assert_eq!(used.one(write).res, -libc::EFAULT, "there are none any more");
}

#[test]
fn a_receive_goes_on_into_provided_buffers_until_there_are_none() {
    let test = "a_receive_goes_on_into_provided_buffers_until_there_are_none";
    let Some(ring) = open_with(test, Feature::MultishotReceive) else { return };
    let places = ring.provide_buffers(9, 4, UseUp::Whole).unwrap();
    let memory = Memory::new(4 * 64);
    for index in 0..2 {
        provide(places.lines(), index, memory.address() + 64 * u64::from(index), 64, 2);
    }
    let (near, mut far) = UnixStream::pair().unwrap();
    let used = Used::new(&ring);
    let entry = Sqe {
        opcode: op::RECV,
        flags: sqe::BUFFER_SELECT,
        ioprio: recvsend::RECV_MULTISHOT,
        fd: near.as_raw_fd(),
        buf_index: 9,
        user_data: 1,
        ..Sqe::ZERO
    };
    used.push(&[entry]);
    for (index, text) in [b"one", b"two"].into_iter().enumerate() {
        far.write_all(text).unwrap();
        let came = used.next();
        assert_eq!(came.res, 3);
        assert_eq!(came.flags & (cqe::BUFFER | cqe::MORE), cqe::BUFFER | cqe::MORE);
        let bid = usize::try_from(came.flags >> cqe::BUFFER_SHIFT).unwrap();
        assert_eq!((bid, memory.get(64 * bid, 3)), (index, text.to_vec()));
    }
    far.write_all(b"too many").unwrap();
    let none = used.next();
    assert_eq!((none.res, none.flags & cqe::MORE), (-libc::ENOBUFS, 0));
}

#[test]
fn a_buffer_is_used_up_piece_by_piece() {
    let test = "a_buffer_is_used_up_piece_by_piece";
    let Some(ring) = open_with(test, Feature::IncrementalBuffers) else { return };
    let places = ring.provide_buffers(1, 2, UseUp::Pieces).unwrap();
    let memory = Memory::new(64);
    provide(places.lines(), 0, memory.address(), 8, 1);
    let (near, mut far) = UnixStream::pair().unwrap();
    let used = Used::new(&ring);
    let entry = Sqe {
        opcode: op::RECV,
        flags: sqe::BUFFER_SELECT,
        fd: near.as_raw_fd(),
        buf_index: 1,
        user_data: 1,
        ..Sqe::ZERO
    };
    far.write_all(b"abc").unwrap();
    let first = used.one(entry);
    assert_eq!((first.res, first.flags & cqe::BUF_MORE), (3, cqe::BUF_MORE));
    far.write_all(b"defgh").unwrap();
    let last = used.one(entry);
    assert_eq!((last.res, last.flags & cqe::BUF_MORE), (5, 0), "used up");
    assert_eq!(memory.get(0, 8), b"abcdefgh");
}

#[test]
fn a_bundle_is_one_completion_for_several_buffers() {
    let test = "a_bundle_is_one_completion_for_several_buffers";
    let Some(ring) = open_with(test, Feature::Bundles) else { return };
    let places = ring.provide_buffers(0, 4, UseUp::Whole).unwrap();
    let memory = Memory::new(4 * 64);
    for index in 0..4 {
        provide(places.lines(), index, memory.address() + 64 * u64::from(index), 64, 4);
    }
    let (near, mut far) = UnixStream::pair().unwrap();
    far.write_all(&[7; 150]).unwrap();
    let came = Used::new(&ring).one(Sqe {
        opcode: op::RECV,
        flags: sqe::BUFFER_SELECT,
        ioprio: recvsend::BUNDLE,
        fd: near.as_raw_fd(),
        user_data: 1,
        ..Sqe::ZERO
    });
    // How many it takes at once is the kernel's affair.
    assert!(came.res > 64 && came.flags >> cqe::BUFFER_SHIFT == 0, "more than one: {came:?}");
    let count = usize::try_from(came.res).unwrap();
    assert_eq!(memory.get(0, count), vec![7; count]);
}

#[test]
fn connections_are_accepted_by_one_entry() {
    let test = "connections_are_accepted_by_one_entry";
    let Some(ring) = open_with(test, Feature::MultishotAccept) else { return };
    let options = spinwire_hostshim::socket::SocketOptions::default();
    let any = "127.0.0.1:0".parse().unwrap();
    let bound = spinwire_hostshim::socket::listen(any, 16, &options).unwrap();
    let used = Used::new(&ring);
    let entry = Sqe {
        opcode: op::ACCEPT,
        ioprio: accept::MULTISHOT,
        fd: bound.fd.as_raw_fd(),
        op_flags: u32::try_from(libc::SOCK_CLOEXEC).unwrap(),
        user_data: 1,
        ..Sqe::ZERO
    };
    used.push(&[entry]);
    used.ring.submit();
    assert!(used.is_quiet(), "nobody has come");
    let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(bound.local).unwrap()).collect();
    let accepted = clients.iter().map(|_client| {
        let came = used.next();
        assert!(came.res >= 0 && came.flags & cqe::MORE != 0, "{came:?}");
        came.res
    });
    let accepted: Vec<_> = accepted.collect();
    for fd in accepted {
        used.push(&[Sqe { opcode: op::CLOSE, fd, user_data: 2, ..Sqe::ZERO }]);
        let closed = used.next();
        assert_eq!((closed.user_data, closed.res), (2, 0));
    }
}

#[test]
fn sends_without_a_copy_are_notified() {
    let test = "sends_without_a_copy_are_notified";
    let Some(ring) = open_with(test, Feature::SendZc) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (_server, _) = listener.accept().unwrap();
    let from = Memory::new(4096);
    let used = Used::new(&ring);
    let entry = Sqe { opcode: op::SEND_ZC, ..send(client.as_raw_fd(), &from, 4096, 1) };
    let sent = used.one(entry);
    assert_eq!((sent.res, sent.flags & cqe::MORE), (4096, cqe::MORE));
    let back = used.next();
    assert_eq!((back.user_data, back.flags & (cqe::NOTIF | cqe::MORE)), (1, cqe::NOTIF));
}

/// Flags that no header of an old distribution knows, and no kernel keeps a record of: what they do.
#[test]
fn flags_of_younger_kernels_do_what_their_names_say() {
    let test = "flags_of_younger_kernels_do_what_their_names_say";
    let younger = uring::query().is_ok();
    if !younger {
        return not_run(test, "not all of them are in kernels before Linux 6.18");
    }
    let ring = open(FeatureSet::EMPTY);
    let used = Used::new(&ring);
    let flagged = |op_flags, fd| Sqe { op_flags, fd, len: 42, ..nop(1) };
    assert_eq!(used.one(flagged(nop_flags::INJECT_RESULT, 0)).res, 42);
    assert_eq!(used.one(flagged(nop_flags::INJECT_RESULT | nop_flags::TW, 0)).res, 42);
    assert_eq!(used.one(flagged(nop_flags::FILE, -1)).res, -libc::EBADF);
    assert_eq!(used.one(flagged(nop_flags::FIXED_BUFFER, 0)).res, -libc::EFAULT);
    assert_eq!(used.one(flagged(nop_flags::CQE32, 0)).res, -libc::EINVAL, "not in such a ring");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let entry = Sqe {
        opcode: op::ACCEPT,
        ioprio: accept::DONTWAIT,
        fd: listener.as_raw_fd(),
        user_data: 1,
        ..Sqe::ZERO
    };
    assert_eq!(used.one(entry).res, -libc::EAGAIN);

    let span = Memory::new(64);
    span.put(0, Timespec { tv_sec: 0, tv_nsec: 100_000 }.as_bytes());
    let entry = Sqe {
        opcode: op::TIMEOUT,
        addr: span.address(),
        len: 1,
        off: 2,
        op_flags: timeout::MULTISHOT,
        user_data: 1,
        ..Sqe::ZERO
    };
    let (first, last) = (used.one(entry), used.next());
    assert_eq!((first.flags & cqe::MORE, last.flags & cqe::MORE), (cqe::MORE, 0), "twice");

    let (near, far) = UnixStream::pair().unwrap();
    let (memory, to) = (Memory::new(128), Memory::new(64));
    memory.put(64, b"two pieces");
    let piece = |at: u64, iov_len| IoVec { iov_base: memory.address() + 64 + at, iov_len };
    memory.put(0, piece(4, 6).as_bytes());
    memory.put(16, piece(0, 4).as_bytes());
    let entry = Sqe { ioprio: recvsend::SEND_VECTORIZED, ..send(near.as_raw_fd(), &memory, 2, 1) };
    assert_eq!(used.one(entry).res, 10);
    assert_eq!(used.one(receive(far.as_raw_fd(), &to, 64, 2)).res, 10);
    assert_eq!(to.get(0, 10), b"piecestwo ");
}
