//! Two processes that find each other by files, one of which is killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use spinwire_dataplane::error::{Fatal, PostError};
use spinwire_dataplane::msg::{RecvFrom, SendTo};
use spinwire_dataplane::provider::{EndpointType, Event};
use spinwire_dataplane::time::Nanos;
use spinwire_hostshim::libfabric::{Names, OfiConfig, remove_shm_left_by};
use spinwire_tests::conformance::OfiChoice;

use super::pair::{End, Ground, LONG, config, named, on_ground};
use super::{SHM, SOCKETS, SOCKETS_MSG, TCP, TCP_MSG, UDP};

/// Where a child finds what it is to be.
const ROLE: &str = "SPINWIRE_OFI_CHILD";

fn publish(folder: &Path, name: &str, end: &End<'_>) {
    let address = end.provider().address().unwrap();
    Names::publish(&folder.join(name), (&named(name), &address)).unwrap();
}

/// An end that finds the other one by files.
fn meet<'m>(
    ground: &Ground<'m>,
    (me, other): (&str, &str),
    folder: &Path,
    choice: &OfiChoice,
) -> End<'m> {
    let patience = Nanos::from_millis(1500);
    let end = ground.end(me, &OfiConfig { patience, ..config(choice) });
    publish(folder, me, &end);
    let met = ground.names.await_file(&folder.join(other), LONG).unwrap();
    assert_eq!(met, named(other));
    end
}

/// The child: sends back what it gets, until it is killed. Does nothing where it is run as a test.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let mut words = role.split(' ');
    let (provider, kind, folder) =
        (words.next().unwrap(), words.next().unwrap(), PathBuf::from(words.next().unwrap()));
    let all = [TCP, TCP_MSG, SOCKETS, SOCKETS_MSG, SHM, UDP];
    let is_it = |c: &&OfiChoice| c.provider == provider && c.endpoint_type.to_string() == kind;
    let choice = all.iter().find(is_it).unwrap();
    on_ground(|ground| {
        let end = meet(ground, ("child", "parent"), &folder, choice);
        let parent = (choice.endpoint_type != EndpointType::Msg)
            .then(|| end.connect(&named("parent")).unwrap());
        let from = std::time::Instant::now();
        while from.elapsed() < 2 * LONG {
            end.post_recv(RecvFrom::any(), ground.loan(), 1).unwrap();
            let got = ground.next(&end, &[&end]);
            let (bytes, to) = (got.bytes().unwrap(), parent.or(got.source).unwrap());
            ground.until("it is taken", &[&end], || end.inject(SendTo::peer(to), bytes).is_ok());
        }
    });
}

fn start(choice: &OfiChoice, folder: &Path) -> Child {
    let role = format!("{} {} {}", choice.provider, choice.endpoint_type, folder.display());
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::child", "--nocapture"])
        .env(ROLE, role)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Messages go between processes, and the end of one that is killed is found out: told where there are connections, else by sending.
#[test]
fn a_killed_process_is_missed() {
    for choice in [TCP, TCP_MSG, SOCKETS, SOCKETS_MSG, SHM, UDP] {
        let folder = std::env::temp_dir().join(format!(
            "spinwire-ofi-{}-{}-{}",
            std::process::id(),
            choice.provider,
            choice.endpoint_type
        ));
        std::fs::create_dir_all(&folder).unwrap();
        let mut child = start(&choice, &folder);
        on_ground(|ground| {
            let end = meet(ground, ("parent", "child"), &folder, &choice);
            let to = end.connect(&named("child")).unwrap();
            for round in 0..50_u64 {
                end.post_recv(RecvFrom::any(), ground.loan(), round).unwrap();
                let bytes = round.to_le_bytes();
                ground
                    .until("it is taken", &[&end], || end.inject(SendTo::peer(to), &bytes).is_ok());
                let got = ground.next(&end, &[&end]);
                assert_eq!(
                    (got.context, got.bytes(), got.source),
                    (round, Some(&bytes[..]), Some(to))
                );
            }
            while end.poll_event().is_some() {}
            child.kill().unwrap();
            child.wait().unwrap();
            if choice == SHM {
                // Its memory is still there, and takes messages as long as it has room.
                return;
            }
            let is_told = choice.endpoint_type == EndpointType::Msg;
            let mut event = None;
            ground.until("its end is told", &[&end], || {
                if !is_told {
                    let sent = end.inject(SendTo::peer(to), b"are you there");
                    assert!(!matches!(sent, Err(PostError::Fatal(e)) if e != Fatal::PeerGone));
                }
                event = end.poll_event();
                event.is_some()
            });
            assert_eq!(event, Some(Event::PeerGone(to)), "{choice:?}");
        });
        let left = remove_shm_left_by(child.id());
        assert_eq!(left, usize::from(choice == SHM), "{choice:?}: one file for its one endpoint");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

/// What a killed process of this one's number has left in `/dev/shm` is in nobody's way: here files that are no memory of the library's, which it
/// treats alike (`smr_retry_map`).
#[test]
fn names_that_were_left_behind_are_in_nobodys_way() {
    on_ground(|ground| {
        let first = ground.end("first", &config(&SHM));
        let address = first.provider().address().unwrap();
        let text = String::from_utf8(address.bytes().to_vec()).unwrap();
        let mut numbers = text.trim_end_matches('\0').rsplit(':');
        let (index, user) = (numbers.next().unwrap(), numbers.next().unwrap());
        let next = index.parse::<u32>().unwrap() + 1;
        // Other tests of this process open endpoints meanwhile. They come past them, too.
        let left: Vec<_> = (next..next + 40)
            .map(|index| PathBuf::from(format!("/dev/shm/{}:{user}:{index}", std::process::id())))
            .filter(|path| {
                let file = std::fs::File::create_new(path);
                file.and_then(|file| file.set_len(4096)).is_ok()
            })
            .collect();
        assert!(left.len() > 20, "{text}: {left:?}");
        let second = ground.end("second", &config(&SHM));
        assert_ne!(second.provider().address().unwrap().bytes(), address.bytes());
        assert!(left.iter().all(|path| !path.exists()), "the library removes what it comes upon");
    });
}
