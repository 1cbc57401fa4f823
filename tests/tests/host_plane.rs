//! Stats pages and the names that they take: what a dead plane left is replaced, and nothing else is touched.
#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that is not as expected")]

mod host_process;

use host_process::{again, lines, role, say, wait_for_end_of_input};
use spinwire_dataplane::id::Name;
use spinwire_hostshim::domain::{Domain, DomainConfig};
use spinwire_hostshim::mem::Problem;
use spinwire_hostshim::plane::{PlaneError, StatsPage};

fn name(stem: &str) -> String {
    format!("host-plane-{stem}-{}", std::process::id())
}

/// Starts `test` again in `role`, and kills it when it has said that it is ready.
fn started_and_killed(test: &str, role: &str, meanwhile: impl FnOnce()) {
    let mut child = again(test, role).spawn().unwrap();
    assert_eq!(lines(&mut child).next().as_deref(), Some("ready"));
    meanwhile();
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_dead_plane_gives_its_name_back_and_a_live_one_does_not() {
    const TEST: &str = "a_dead_plane_gives_its_name_back_and_a_live_one_does_not";
    if let Some(plane) = role() {
        let _page = StatsPage::create(&Name::new(&plane).unwrap()).unwrap();
        say("ready");
        return wait_for_end_of_input();
    }
    let plane = name("dead");
    let own = Name::new(&plane).unwrap();
    started_and_killed(TEST, &plane, || {
        let taken = StatsPage::create(&own).unwrap_err();
        assert!(is_taken(&taken), "{taken}");
    });
    drop(StatsPage::create(&own).unwrap());
}

#[test]
fn a_domain_of_that_name_stays_though_its_maker_is_dead() {
    const TEST: &str = "a_domain_of_that_name_stays_though_its_maker_is_dead";
    let config = DomainConfig::default();
    if let Some(domain) = role() {
        let _domain = Domain::create(&domain, &config).unwrap();
        say("ready");
        return wait_for_end_of_input();
    }
    let plane = name("domain");
    let file = format!("{plane}.stats");
    let mut joined = None;
    started_and_killed(TEST, &file, || joined = Some(Domain::join(&file, &config).unwrap()));
    let taken = StatsPage::create(&Name::new(&plane).unwrap()).unwrap_err();
    assert!(is_taken(&taken), "{taken}");
    drop(Domain::join(&file, &config).unwrap());
    joined.unwrap().unlink().unwrap();
}

fn is_taken(refused: &PlaneError) -> bool {
    matches!(refused, PlaneError::Map(e) if e.problem() == Some(Problem::Exists))
}
