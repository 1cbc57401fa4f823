//! The kernel that runs, its loopback interface, and a file of it.

use core::net::SocketAddr;
use core::time::Duration;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::thread;
use std::time::Instant as Clock;

use spinwire_dataplane::file::{FileConfig, Files};
use spinwire_dataplane::services::{Strays, StreamsAndFiles};
use spinwire_dataplane::time::Instant;
use spinwire_hostshim::file::{FileOptions, HostFile};
use spinwire_hostshim::socket::{self, SocketOptions};
use spinwire_hostshim::uring::{Uring, UringConfig};

use super::{CLIENTS, LoggedEcho, byte_of, file_config, of_client, stream_config};

/// Requests of each client, and the bytes of one.
const REQUESTS: usize = 40;
const BYTES: usize = 700;
/// How long all may take on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends its requests one after the other. When an answer is there, it is on the disk: the log is looked at from outside.
fn client(number: usize, at: SocketAddr, log: &std::path::Path) {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut all = Vec::new();
    for _ in 0..REQUESTS {
        let request: Vec<u8> = (0..BYTES).map(|at| byte_of(number, all.len() + at)).collect();
        stream.write_all(&request).unwrap();
        let mut answer = vec![0; BYTES];
        stream.read_exact(&mut answer).unwrap();
        assert!(answer == request);
        all.extend(answer);
        let logged = of_client(&fs::read(log).unwrap(), number);
        assert!(logged.starts_with(&all), "what is answered is in the log");
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "and is closed");
}

#[test]
fn an_echo_service_with_a_log_turns_on_one_ring_of_the_real_kernel() {
    let path = std::env::temp_dir().join(format!("one-ring-{}.log", std::process::id()));
    let options = FileOptions { truncate: true, direct: false, ..FileOptions::default() };
    let file = HostFile::open(&path, &options).unwrap();
    let (config, files) = (stream_config(), file_config());
    let uring = Uring::open(&UringConfig::for_streams_and_files(&config, &files)).unwrap();
    let ring = uring.ring().unwrap();
    let fixed_buffers = uring.register_arena().is_ok();
    let streams = uring.streams(&ring, 0, &config).unwrap();
    let files = Files::place(&ring, &FileConfig { fixed_buffers, ..files }).unwrap();
    let log = files.add(file.file_ref(), file.shape()).unwrap();
    let mut service = LoggedEcho::new(StreamsAndFiles::new(&streams, &files).unwrap(), log);
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let bound = socket::listen(local, 16, &SocketOptions::default()).unwrap();
    streams.listen(bound.fd.as_raw_fd()).unwrap();
    let began = Clock::now();
    thread::scope(|scope| {
        let (done, is_done) = mpsc::channel();
        for number in 0..CLIENTS {
            let (done, path) = (done.clone(), path.as_path());
            scope.spawn(move || {
                client(number, bound.local, path);
                done.send(number).unwrap();
            });
        }
        drop(done);
        let mut left = CLIENTS;
        while left > 0 {
            assert!(began.elapsed() < PATIENCE, "{left} clients wait still");
            let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap();
            service.turn(Instant::from_nanos(nanos));
            match is_done.try_recv() {
                Ok(_number) => left -= 1,
                Err(mpsc::TryRecvError::Empty) => {}
                Err(mpsc::TryRecvError::Disconnected) => panic!("a client has failed"),
            }
        }
    });
    assert!(service.is_at_rest());
    assert_eq!(service.both.strays(), Strays::default());
    assert_eq!((streams.counters().stale, files.counters().stale), (0, 0));
    let bytes = u64::try_from(CLIENTS * REQUESTS * BYTES).unwrap();
    assert_eq!(files.counters().written_bytes, bytes);
    assert_eq!(file.bytes().unwrap(), bytes);
    if fixed_buffers {
        assert!(files.counters().fixed > 0, "buffers that bytes came into are registered too");
    }
    fs::remove_file(&path).unwrap();
}
