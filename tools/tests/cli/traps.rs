//! Files that are no segments, or not any more.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use crate::rig::Folder;

fn private(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// The beginning of a file, and whether the file is ours to remove.
fn contents() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let page = |start: &[u8]| {
        let mut page = start.to_vec();
        page.resize(4096, 0);
        page
    };
    vec![
        // Never finished: a segment has no name before its memory, but its header may be missing.
        ("nothing", Vec::new(), "removed"),
        ("zeros", page(b""), "removed"),
        ("half", page(b"SPINWIRE"), "removed"),
        ("cut", b"SPINWIRE\x01\0\0\0".to_vec(), "removed"),
        // A link of ours whose text was cut off.
        ("link-cut", b"spinwire-link 1\nkind hugetlbfs\n".to_vec(), "removed"),
        // Somebody else's.
        ("text", b"my notes\n".to_vec(), "kept"),
        ("page", page(b"my notes\n"), "kept"),
        ("almost", page(b"SPINWIRD"), "kept"),
    ]
}

#[test]
fn only_what_is_ours_is_removed() {
    let folder = Folder::new();
    for (name, bytes, _) in contents() {
        private(&folder.file(name), &bytes);
    }
    let ps = folder.run(&["ps", "--json"]);
    assert_eq!(ps.code, 0, "{ps:?}");
    for row in ps.json().as_array().unwrap() {
        assert_eq!(row["kind"], "broken", "{row}");
        assert!(!row["why"].as_str().unwrap().is_empty(), "{row}");
    }
    let ran = folder.run(&["rm", "--dead", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for (name, bytes, action) in contents() {
        assert_eq!(ran.action(name), action, "{name}");
        assert_eq!(folder.has(name), action == "kept", "{name}");
        if action == "kept" {
            assert_eq!(fs::read(folder.file(name)).unwrap(), bytes, "{name}");
            let by_name = folder.run(&["rm", name]);
            assert_eq!(by_name.code, 1, "{name}: {by_name:?}");
            assert!(by_name.out.contains("remedy: "), "{by_name:?}");
            assert!(folder.has(name), "{name}");
        }
    }
}

#[test]
fn links_are_not_followed() {
    let folder = Folder::new();
    let victim = folder.file("x").with_file_name("victim");
    let zeros = vec![0; 4096];
    private(&victim, &zeros);
    symlink(&victim, folder.file("to-zeros")).unwrap();
    symlink("/dev/null", folder.file("to-device")).unwrap();
    symlink("/nowhere/at/all", folder.file("to-nowhere")).unwrap();
    // A text of ours that leads to a file that is not ours.
    let text = format!("spinwire-link 1\nkind hugetlbfs\npath {}\n", victim.display());
    private(&folder.file("text-link"), text.as_bytes());
    let ran = folder.run(&["rm", "--dead", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for name in ["to-zeros", "to-device", "to-nowhere"] {
        assert_eq!(ran.action(name), "kept", "{name}");
        assert!(folder.has(name), "{name}");
        assert_eq!(folder.run(&["rm", name]).code, 1, "{name}");
    }
    assert_eq!(fs::read(&victim).unwrap(), zeros, "what a link leads to is not touched");
}

#[test]
fn things_that_are_no_files() {
    let folder = Folder::new();
    fs::create_dir(folder.file("folder")).unwrap();
    let fifo = folder.file("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let ps = folder.run(&["ps"]);
    assert_eq!(ps.code, 0, "{ps:?}");
    let ran = folder.run(&["rm", "--dead", "--json"]);
    for name in ["folder", "fifo"] {
        assert_eq!(ran.action(name), "kept", "{name}");
        assert!(folder.has(name), "{name}");
    }
}

#[test]
fn names_that_are_none_are_shown_harmlessly() {
    let folder = Folder::new();
    private(&folder.file("red \u{1b}[31m"), b"x");
    private(&folder.file(""), b"x");
    private(&folder.file(&"x".repeat(100)), b"x");
    let ps = folder.run(&["ps"]);
    assert_eq!(ps.code, 0, "{ps:?}");
    assert!(!ps.out.contains('\u{1b}'), "{ps:?}");
    assert_eq!(folder.run(&["ps", "--json"]).json().as_array().unwrap().len(), 3);
    // The second time as before, and both as was said they would be.
    for how in [&["rm", "--dead", "--dry-run"][..], &["rm", "--dead"], &["rm", "--dead"]] {
        let ran = folder.run(how);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(!ran.out.contains('\u{1b}') && ran.out.matches("kept ").count() == 3, "{ran:?}");
        assert_eq!(ran.out.matches("remedy: if you know what it is: rm /").count(), 3, "{ran:?}");
    }
}

#[test]
fn a_segment_that_lets_others_in_is_not_joined_and_can_be_removed() {
    let folder = Folder::new();
    folder.holder("domain quotes").kill();
    fs::set_permissions(folder.file("quotes"), Permissions::from_mode(0o666)).unwrap();
    let segment = folder.ps("quotes");
    assert!(segment["why"].as_str().unwrap().contains("mode 0666"), "{segment}");
    assert_eq!(folder.run(&["rm", "quotes"]).code, 0);
    assert!(!folder.has("quotes"));
}

/// A segment of another user is none that is broken: whose it is is said, with what would show it, and it is left alone.
#[test]
fn a_segment_of_another_user_is_said_to_be_his() {
    let folder = Folder::new();
    folder.holder("domain quotes").kill();
    let file = folder.file("quotes");
    if fs::metadata(&file).unwrap().uid() != 0 {
        println!("!! NOT RUN: a segment of another user: only root can give a file away");
        return;
    }
    chown(&file, Some(65534), None).unwrap();
    let segment = folder.ps("quotes");
    assert_eq!((&segment["kind"], &segment["uid"]), (&"private".into(), &65534.into()));
    let ps = folder.run(&["ps"]);
    let says = "quotes belongs to user 65534, who alone may look into it; remedy: sudo -u '#65534' spinwire ps quotes";
    assert!(ps.out.contains(says) && !ps.out.contains("broken"), "{ps:?}");
    let ran = folder.run(&["rm", "--dead", "--json"]);
    assert_eq!((ran.code, ran.action("quotes")), (0, "kept".to_owned()), "{ran:?}");
    let by_name = folder.run(&["rm", "quotes"]);
    assert!(by_name.code == 1 && by_name.out.contains("it belongs to user 65534"), "{by_name:?}");
    assert!(folder.has("quotes"));
}

#[test]
fn a_file_that_claims_more_than_there_is_takes_no_memory() {
    let folder = Folder::new();
    for (name, bytes) in [("huge", 1 << 50), ("quotes.stats", 16 << 20)] {
        private(&folder.file(name), b"");
        let file = fs::File::options().write(true).open(folder.file(name)).unwrap();
        file.set_len(bytes).unwrap();
    }
    let ps = folder.run(&["ps", "--json"]);
    assert_eq!(ps.code, 0, "{ps:?}");
    assert!(ps.json().as_array().unwrap().iter().all(|row| row["kind"] == "broken"), "{ps:?}");
    let top = folder.run(&["top", "--once"]);
    assert!(top.out.contains("quotes could not be read: "), "{top:?}");
    for name in ["huge", "quotes.stats"] {
        assert_eq!(fs::metadata(folder.file(name)).unwrap().blocks(), 0, "{name}");
    }
    // Zeros, as of a segment that was never finished.
    assert_eq!(folder.run(&["rm", "--dead", "--json"]).action("huge"), "removed");
}

#[test]
fn names_of_odd_bytes_are_shown_harmlessly_and_kept() {
    let folder = Folder::new();
    let odd = folder.file("x").with_file_name(OsStr::from_bytes(b"spinwire.\xff\n\x1b[2J\x80"));
    private(&odd, b"SPINWIRE");
    let ps = folder.run(&["ps"]);
    assert_eq!(ps.code, 0, "{ps:?}");
    assert!(ps.out.contains("\\n\\u{1b}[2J") && !ps.out.contains('\u{1b}'), "{ps:?}");
    assert_eq!(folder.run(&["ps", "--json"]).json().as_array().unwrap().len(), 1);
    let ran = folder.run(&["rm", "--dead"]);
    assert!(ran.out.starts_with("kept "), "{ran:?}");
    assert!(odd.exists());
}

/// On a hugetlbfs the name comes before the memory's own. Who has the memory mapped is about to give it one.
#[test]
fn a_segment_that_is_being_made_is_kept_while_its_maker_lives() {
    let folder = Folder::new();
    let maker = folder.holder("domain memory");
    let inode = fs::metadata(folder.file("memory")).unwrap().ino();
    let target = folder.file(&format!("new.{inode}"));
    let text = format!("spinwire-link 1\nkind hugetlbfs\npath {}\n", target.display());
    private(&folder.file("new"), text.as_bytes());
    let ran = folder.run(&["rm", "--dead", "--json"]);
    assert_eq!(ran.action("new"), "kept", "{ran:?}");
    assert!(ran.out.contains("may be making it"), "{ran:?}");
    maker.kill();
    assert_eq!(folder.run(&["rm", "--dead", "--json"]).action("new"), "removed");
}
