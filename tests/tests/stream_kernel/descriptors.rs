//! No descriptors left in the whole process: connections are plain descriptors, and the limit is real (`RLIMIT_NOFILE`).

use core::time::Duration;
use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::time::Instant;

use spinwire_dataplane::stream::{ConnId, StreamConfig, StreamEvent};

use super::world::{CONFIG, PATIENCE, World, no_table, open_files, play};

const NAME: &str =
    "descriptors::a_process_without_descriptors_says_so_and_goes_on_when_some_are_back";
/// Open files of the process that the test is in.
const LIMIT: usize = 48;

/// Clients until there are no descriptors; guests wait in the kernel. It is told, some times and not with every turn. Those that are
/// there go on, and with every descriptor that comes back one more comes in, until all were there.
#[test]
fn a_process_without_descriptors_says_so_and_goes_on_when_some_are_back() {
    if std::env::var_os("STREAM_FEW").is_none() {
        let this = std::env::current_exe().unwrap();
        let script = format!("ulimit -Sn {LIMIT} && exec \"$0\" --exact {NAME} --nocapture");
        let mut command = Command::new("sh");
        let ran = command.arg("-c").arg(script).arg(this).env("STREAM_FEW", "1").output().unwrap();
        let [said, why] = [&ran.stdout, &ran.stderr].map(|text| String::from_utf8_lossy(text));
        assert!(ran.status.success() && said.contains("1 passed"), "{said}{why}");
        return;
    }
    let before = open_files();
    let config = StreamConfig { conns: 64, backlog: 0, ..CONFIG };
    play((&config, no_table()), |world| {
        let mut clients = Vec::new();
        let refused = loop {
            match TcpStream::connect(world.address) {
                Ok(client) => clients.push(client),
                Err(e) => break e.raw_os_error(),
            }
        };
        assert_eq!(refused, Some(libc::EMFILE));
        let all = clients.len();
        assert!(all > 16, "{all}");
        // Tried every 10 ms, by the clock of the service, which is another than this one.
        let (mut last, mut told) = (None::<Instant>, 0);
        let deadline = Instant::now() + PATIENCE;
        while told < 4 {
            let begun = Instant::now();
            assert!(begun < deadline, "told {told} times");
            world.turn();
            let count = failures(world);
            let since = last.map_or(Duration::MAX, |last| last.elapsed());
            assert!(count == 0 || (count == 1 && since > Duration::from_millis(9)), "{since:?}");
            last = if count > 0 { Some(begun) } else { last };
            told += count;
        }
        // Two descriptors, for those who have waited for longest.
        drop(clients.split_off(all - 2));
        let mut here: Vec<ConnId> = (0..2).map(|_| accepted(world)).collect();
        // All of them, as guests need not come in in the order in which they have connected.
        clients.iter_mut().for_each(|client| client.write_all(b"here").unwrap());
        assert_eq!(world.receive(here[0], 4), b"here");
        let mut count = here.len();
        while count < all {
            let conn = here.remove(0);
            world.streams.abort(conn).unwrap();
            world.closed(conn);
            here.push(accepted(world));
            count += 1;
            let _told_now_and_then = failures(world);
        }
        clients.clear();
        for conn in here {
            world.streams.abort(conn).unwrap();
            world.closed(conn);
        }
        assert_eq!(world.streams.len(), 1, "the listener");
    });
    assert_eq!(open_files(), before);
}

/// How many failures were heard, all of them for want of descriptors.
fn failures(world: &mut World<'_, '_>) -> usize {
    let before = world.heard.len();
    world.heard.retain(|event| match event {
        StreamEvent::AcceptFailed { errno, .. } => {
            assert_eq!(*errno, libc::EMFILE);
            false
        }
        _ => true,
    });
    before - world.heard.len()
}

fn accepted(world: &mut World<'_, '_>) -> ConnId {
    world.event("a connection", |event| match event {
        StreamEvent::Accepted { conn, .. } => Some(*conn),
        _ => None,
    })
}
