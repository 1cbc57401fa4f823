//! Stats pages.

use std::fs;

use crate::rig::Folder;

/// The page of the plane `quotes`.
const PAGE: &str = "quotes.stats";

#[test]
fn a_page_that_is_not_written_yet_is_kept_while_its_maker_lives() {
    let folder = Folder::new();
    let holder = folder.holder("page quotes");
    assert_eq!(folder.ps(PAGE)["kind"], "stats");
    let ran = folder.run(&["rm", "--dead", "--json"]);
    assert_eq!(ran.action(PAGE), "kept", "{ran:?}");
    let top = folder.run(&["top", "--once"]);
    assert_eq!(top.code, 0, "{top:?}");
    assert!(top.out.contains("quotes could not be read"), "{top:?}");
    holder.kill();
    let ran = folder.run(&["rm", "--dead", "--json"]);
    assert_eq!(ran.action(PAGE), "removed", "{ran:?}");
    assert!(!folder.has(PAGE));
}

#[test]
fn rates_of_a_live_plane() {
    let folder = Folder::new();
    let holder = folder.holder("plane quotes");
    let ran = folder.run(&["top", "--json", "--interval", "200"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let plane = &ran.json()[0];
    let number = |field: &str| plane[field].as_u64().unwrap_or_else(|| panic!("{field}: {plane}"));
    assert_eq!(plane["name"], "quotes", "{plane}");
    assert_eq!(plane["pid"], holder.pid(), "{plane}");
    assert_eq!((&plane["life"], &plane["path"]), (&"alive".into(), &"shm.rdm".into()), "{plane}");
    assert!(number("span_ns") > 0 && number("messages_sent_per_s") > 0, "{plane}");
    // Each turn is busy and sends one message of 32 bytes, whatever their number; rates are rounded.
    assert_eq!(number("busy_percent"), 100, "{plane}");
    assert_eq!(number("turns_per_s"), number("messages_sent_per_s"), "{plane}");
    assert!(
        number("bytes_sent_per_s").abs_diff(32 * number("messages_sent_per_s")) <= 16,
        "{plane}"
    );
    assert_eq!(number("messages_received_per_s"), 0, "{plane}");
    let words = folder.run(&["top", "--once", "--interval", "50", "quotes"]);
    assert!(
        ["quotes", "alive", "PATH", "shm.rdm"].iter().all(|word| words.out.contains(word)),
        "{words:?}"
    );
    let other = folder.run(&["top", "--json", "--interval", "10", "other", "quotes"]);
    assert_eq!((other.code, other.json().as_array().unwrap().len()), (1, 1), "{other:?}");
    assert!(
        other.err.contains("other: no such plane") && !other.err.contains("quotes"),
        "{other:?}"
    );
}

#[test]
fn a_plane_that_has_just_begun_has_no_rates_over_the_age_of_the_machine() {
    let folder = Folder::new();
    let _holder = folder.holder("late-plane quotes");
    // It first brings its page up to date between the two looks, or before, if this process is late.
    let plane = folder.run(&["top", "--json", "--interval", "500"]).json()[0].clone();
    assert!(plane["counters"].as_array().is_some_and(|list| !list.is_empty()), "{plane}");
    assert!(plane["span_ns"].as_u64().unwrap() < 60_000_000_000, "{plane}");
}

#[test]
fn a_plane_that_stands_still_or_died_says_so_and_has_no_rates() {
    let folder = Folder::new();
    let holder = folder.holder("plane quotes");
    holder.signal("STOP");
    let look = || folder.run(&["top", "--json", "--interval", "50"]).json()[0].clone();
    let plane = look();
    assert_eq!((&plane["life"], &plane["span_ns"]), (&"stopped".into(), &0.into()), "{plane}");
    assert_eq!(plane["messages_sent_per_s"], 0, "{plane}");
    assert_eq!(folder.run(&["rm", PAGE]).code, 1, "a stopped plane lives");
    holder.kill();
    let plane = look();
    assert_eq!(plane["life"], "dead", "{plane}");
    assert_eq!(folder.run(&["rm", PAGE]).code, 0);
    assert!(!folder.has(PAGE));
}

#[test]
fn a_plane_that_ends_takes_its_page_along() {
    let folder = Folder::new();
    let holder = folder.holder("plane quotes");
    assert!(folder.has(PAGE));
    assert_eq!(folder.ps(PAGE)["plane"]["name"], "quotes");
    holder.let_go();
    assert!(!folder.has(PAGE));
}

#[test]
fn a_page_of_nonsense_is_an_answer_and_no_crash() {
    let folder = Folder::new();
    folder.holder("plane quotes").kill();
    let whole = fs::read(folder.file(PAGE)).unwrap();
    for pattern in [0xff_u8, 0x01, 0x00] {
        // The whole stats page behind a good header of the segment, then the whole segment.
        for from in [4096, 0] {
            let mut page = whole.clone();
            page[from..].fill(pattern);
            fs::write(folder.file(PAGE), &page).unwrap();
            for args in [
                &["top", "--once", "--interval", "10"][..],
                &["top", "--json", "--interval", "10"],
                &["ps"],
            ] {
                let ran = folder.run(args);
                assert_eq!(ran.code, 0, "{pattern:#x} from {from}, {args:?}: {ran:?}");
            }
        }
    }
}
