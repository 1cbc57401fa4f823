//! Our own layouts before witnesses, a lock file, headers that are made of them, live segments; layouts of a user; refusals.

use std::fs;

use clap::Parser;
use spinwire_hostshim::layout::{Book, What, run};
use spinwire_layouts::describe::{Counterpart, Foreign, Room};
use spinwire_layouts::endian::Be32;
use spinwire_layouts::layout;
use spinwire_layouts::shm::SegmentHeader;

use super::{Bench, has, named, not_run, text};
use crate::arguments::refused;

#[test]
fn what_we_ship_is_what_others_say() {
    let bench = Bench::new();
    let ran = bench.layout(&["check", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let json = ran.json();
    for missing in json["not_checked"].as_array().unwrap() {
        not_run("layouts against headers and the kernel", missing.as_str().unwrap());
    }
    let (all, confirmed) =
        (json["properties"].as_u64().unwrap(), json["confirmed"].as_u64().unwrap());
    let unknown = json["unknown"].as_array().unwrap().len();
    println!("{confirmed} of {all} confirmed, {unknown} not known to anybody here");
    assert!(all > 500 && confirmed > all / 2, "{json}");
    assert_eq!(json["differences"], serde_json::json!([]));
    // In words: each witness has a line, and the end says what was found.
    let ran = bench.layout(&["check"]);
    assert!(
        ran.out.contains("layouts/layouts.lock\n") && ran.out.contains("none is gainsaid."),
        "{ran:?}"
    );
}

#[test]
fn every_structure_is_printed_with_what_follows_from_it() {
    let bench = Bench::new();
    let types = bench.dump(&[]);
    let shipped: usize = spinwire_layouts::ROOMS.iter().map(|room| room.layouts.len()).sum();
    assert_eq!(types.len(), shipped);
    let lane = named(&types, "shm::LaneHeader");
    assert_eq!(
        (&lane["size"], &lane["align"], &lane["lines"]),
        (&256.into(), &64.into(), &4.into())
    );
    assert!(lane["at"]["file"].as_str().unwrap().ends_with("lane.rs"), "{lane}");
    let credit =
        &lane["members"].as_array().unwrap().iter().find(|m| m["name"] == "credit_cells").unwrap();
    assert_eq!((&credit["writer"], &credit["lines"][0]), (&"receiver".into(), &1.into()));
    for ty in types.iter().filter(|ty| ty["name"].as_str().unwrap().starts_with("shm::")) {
        assert_eq!(ty["holes"], serde_json::json!([]), "{ty}");
        if ty["name"] != "shm::ParcelBody" {
            assert_eq!(ty["false_sharing"], serde_json::json!([]), "rule 3 of the layouts: {ty}");
        }
    }
    let ran = bench.layout(&["dump", "--only", "LaneHeader"]);
    assert!(ran.out.contains("WRITER") && ran.out.contains("receiver"), "{ran:?}");
}

#[test]
fn a_lock_file_makes_a_change_a_decision() {
    let bench = Bench::new();
    let missing = bench.layout(&["lock", "mine.lock"]);
    assert!(
        missing.code == 2 && missing.err.contains("spinwire layout lock --write"),
        "{missing:?}"
    );
    assert_eq!(bench.layout(&["lock", "mine.lock", "--write"]).code, 0);
    assert_eq!(bench.layout(&["lock", "mine.lock"]).code, 0);
    let whole = fs::read_to_string(bench.path("mine.lock")).unwrap();
    let stored = concat!(env!("CARGO_MANIFEST_DIR"), "/../layouts/layouts.lock");
    assert_eq!(
        whole,
        fs::read_to_string(stored).unwrap(),
        "the file of the repository; remedy: cargo run -- layout lock --write"
    );
    for (from, to, says) in [
        ("  8 8 native tag: u64", "  8 4 native tag: u64", "shm::LaneCell.tag: size differs"),
        ("  8 8 native tag: u64", "  8 8 native mark: u64", "shm::LaneCell.mark: presence differs"),
        ("shm::LaneCell size 64", "shm::LaneCell size 128", "shm::LaneCell: size differs"),
        ("native tag: u64", "big tag: u64", "shm::LaneCell.tag: byte order differs"),
        ("tag: u64", "tag: i64", "shm::LaneCell.tag: type differs"),
        (
            "number SPINWIRE_ABI_VERSION 0x1",
            "number SPINWIRE_ABI_VERSION 0x2",
            "SPINWIRE_ABI_VERSION: value differs",
        ),
        ("struct shm::LaneCell", "struct shm::Gone", "shm::Gone: presence differs"),
    ] {
        let (before, behind) = whole.split_at(whole.find("struct shm::LaneCell").unwrap());
        let changed = before.to_owned() + &behind.replacen(from, to, 1);
        assert_ne!(changed, whole, "{from}");
        bench.write("mine.lock", changed);
        let ran = bench.layout(&["lock", "mine.lock"]);
        assert!(ran.code == 1 && ran.out.contains(says), "{to}: {ran:?}");
        assert!(ran.out.contains("If it is meant: spinwire layout lock --write"), "{ran:?}");
        assert!(!to.contains(':') || ran.out.contains("mine.lock:"), "its line is named: {ran:?}");
    }
    assert_eq!(bench.layout(&["lock", "mine.lock", "--write"]).code, 0, "meant");
    assert_eq!(bench.layout(&["lock", "mine.lock"]).code, 0);
    bench.write("letter", "Dear reader\n");
    let ran = bench.layout(&["lock", "letter", "--write"]);
    assert_eq!(ran.code, 2, "what is no lock file is not written over: {ran:?}");
    assert_eq!(fs::read_to_string(bench.path("letter")).unwrap(), "Dear reader\n");
}

#[test]
fn headers_of_our_layouts_compile_and_are_confirmed() {
    let bench = Bench::new();
    let c = bench.layout(&["header"]);
    let cxx = bench.layout(&["header", "--lang", "c++"]);
    assert_eq!((c.code, cxx.code), (0, 0));
    bench.write("sw.h", &c.out);
    bench.write("sw.hpp", &cxx.out);
    let strict = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only"];
    bench.write(
        "use.c",
        "#include \"sw.h\"\nint main(void) { return sizeof(struct sw_lane_cell) == 64 ? 0 : 1; }\n",
    );
    bench.tool("cc", &[strict.as_slice(), &["-std=c11", "use.c"]].concat());
    if has("c++", "g++", "our layouts as a header of C++") {
        bench.tool("c++", &[strict.as_slice(), &["-std=c++17", "-x", "c++", "use.c"]].concat());
        bench.write("use.cc", "#include \"sw.hpp\"\nint main() { return spinwire::LaneCell{}.head + spinwire::SPINWIRE_ABI_VERSION == 1 ? 0 : 1; }\n");
        bench.tool("c++", &[strict.as_slice(), &["-std=c++17", "use.cc"]].concat());
        let ran = bench.layout(&["check", "--room", "shm,wire", "./sw.hpp", "--unknown", "pass"]);
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    let ran = bench.layout(&["check", "--room", "shm,wire", "--prefix", "sw_", "./sw.h"]);
    assert_eq!(ran.code, 0, "every property is confirmed: {ran:?}");
    // A header that somebody has changed: the compiler stops at it, and so do we, with the line.
    let without =
        c.out.lines().filter(|line| !line.starts_with("SW_ASSERT(")).collect::<Vec<_>>().join("\n");
    let swapped = without.replacen("uint64_t tag;", "uint32_t tag;", 1);
    assert_ne!(swapped, without);
    let line = 1 + swapped.lines().position(|line| line.contains("uint32_t tag;")).unwrap();
    bench.write("changed.h", &swapped);
    let ran = bench.layout(&["check", "--room", "shm,wire", "--prefix", "sw_", "./changed.h"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.contains("shm::LaneCell.tag: size differs"), "{ran:?}");
    assert!(
        ran.out.contains(&format!("changed.h:{line}\n")) && ran.out.contains("lane.rs:"),
        "{ran:?}"
    );
}

#[test]
fn a_live_segment_says_whether_an_equal_build_made_it() {
    let bench = Bench::new();
    let holder = bench.0.holder("domain market");
    let ran = bench.layout(&["check", "--room", "shm", "shm:market"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = bench.layout(&["diff", "shm:market", "ours", "--common"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    // As another build would have made it: another hash, another version.
    let mut bytes = fs::read(bench.0.file("market")).unwrap();
    bytes[core::mem::offset_of!(SegmentHeader, layout_hash)] ^= 1;
    bytes[core::mem::offset_of!(SegmentHeader, abi_version)] = 9;
    let other = bench.0.file("other");
    fs::copy(bench.0.file("market"), &other).unwrap();
    fs::write(&other, &bytes).unwrap();
    for args in [
        ["check", "--room", "shm", "shm:other"].as_slice(),
        &["diff", "ours", "shm:other"],
        &["diff", "shm:market", "shm:other"],
    ] {
        let ran = bench.layout(args);
        assert_eq!(ran.code, 1, "{args:?}: {ran:?}");
        assert!(ran.out.contains("SPINWIRE_LAYOUT_HASH: value differs"), "{ran:?}");
        assert!(
            ran.out.contains("SPINWIRE_ABI_VERSION: value differs") && ran.out.contains("0x9"),
            "{ran:?}"
        );
    }
    // Damaged in every word of its header: an answer, whatever it is.
    for word in 0..32 {
        let mut bytes = fs::read(bench.0.file("market")).unwrap();
        bytes[8 * word..8 * word + 8].fill(0xff);
        fs::write(&other, &bytes).unwrap();
        let ran = bench.layout(&["check", "--room", "shm", "shm:other", "--unknown", "pass"]);
        assert!((0..=2).contains(&ran.code), "word {word}: {ran:?}");
    }
    for bytes in [0, 63, 255] {
        fs::write(&other, vec![0; bytes]).unwrap();
        assert_eq!(bench.layout(&["check", "shm:other"]).code, 2, "{bytes} bytes");
    }
    let ran = bench.layout(&["check", "shm:ghost"]);
    assert!(ran.code == 2 && ran.err.contains("spinwire ps"), "{ran:?}");
    holder.let_go();
}

/// The debug information of a program in Rust, our own: there the structures have their names and the lines of their source.
#[test]
fn the_program_itself_has_the_layouts_that_it_prints() {
    let bench = Bench::new();
    let program = env!("CARGO_BIN_EXE_spinwire");
    let only = ["--only", "SegmentHeader", "--only", "PoolHeader", "--unknown", "pass", "--json"];
    let ran = bench.layout(&[["check", "--room", "shm", program].as_slice(), &only].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    let json = ran.json();
    assert!(json["confirmed"].as_u64().unwrap() > 20, "{json}");
    assert_eq!(json["properties"].as_u64().unwrap(), json["confirmed"].as_u64().unwrap(), "{json}");
}

layout! {
    /// What a user shares.
    pub struct Quote, size 24, align 8 {
        /// In ticks.
        pub price: u64 @ 0,
        /// Who asks.
        pub kind: u32 @ 8,
        /// As the exchange sends it.
        pub number: Be32 @ 12,
        /// Zero.
        pub unused: [u8; 8] @ 16,
    }
}

const MINE: &[Room] =
    &[Room::own("mine", "what a user shares", &[&Quote::LAYOUT]).known_to(Foreign {
        headers: &["./quote.h"],
        package: "libquote-dev",
        is_kernel: false,
        names: &[Counterpart::new("Quote", "struct quote")
            .members(&[("kind", "type")])
            .reserved(&["unused"])],
        unconfirmed: &[],
    })];

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

/// The checker as a part of a user's program, with layouts of its own.
#[test]
fn layouts_of_a_user_are_checked_as_ours_are() {
    let bench = Bench::new();
    let book = Book { rooms: MINE, lock: None, lock_path: "layouts.lock" };
    let ask =
        |args: &[&str]| run(&Cli::try_parse_from([&["mine"], args].concat()).unwrap().what, &book);
    let good = "#include <linux/types.h>\nstruct quote { __u64 price; __u32 type; __be32 number; __u8 unused[8]; };\n";
    let folder = format!("-I{}", text(bench.0.path()));
    let header = bench.write("quote.h", good);
    for args in [["check", text(&header)].as_slice(), &["check", &folder]] {
        let outcome = ask(args).unwrap();
        assert!(
            outcome.is_same && outcome.text.contains("5 of 5 properties are confirmed"),
            "{outcome:?}"
        );
    }
    for (from, to, says) in [
        ("__u64 price", "__u32 price", "mine::Quote.price: size differs"),
        ("__be32 number", "__le32 number", "mine::Quote.number: byte order differs"),
        ("__u32 type", "__be32 type", "mine::Quote.kind: byte order differs"),
        ("__u8 unused[8]", "__u8 unused[9]", "mine::Quote: size differs"),
        ("__u32 type", "__u32 sort", "no source knows 1 of 5: mine::Quote.kind"),
        ("__u32 type", "__u32 type:30", "mine::Quote.kind: bits differs"),
    ] {
        bench.write("quote.h", good.replace(from, to));
        let outcome = ask(&["check", text(&header)]).unwrap();
        assert!(!outcome.is_same && outcome.text.contains(says), "{to}: {outcome:?}");
    }
    bench.write("other.h", good.replace("struct quote", "struct quote_v2"));
    let other = bench.path("other.h");
    let error = ask(&["check", text(&other)]).unwrap_err().to_string();
    assert!(error.contains("--as OURS=THEIRS"), "{error}");
    bench.write(
        "plain.h",
        "struct quote_v2 { unsigned long price; unsigned kind, number; char unused[8]; };\n",
    );
    let plain = bench.path("plain.h");
    // Under another name, the members have ours only where the room does not say otherwise.
    let outcome = ask(&["check", "--as", "Quote=quote_v2", text(&plain)]).unwrap();
    assert!(outcome.text.contains("no source knows 1 of 5: mine::Quote.kind"), "{outcome:?}");
    // Debug information of a program in Rust or C that has it; here of C.
    bench.write("app.c", "#include \"quote.h\"\nstruct quote q;\n");
    bench.write("quote.h", good);
    bench.tool("cc", &["-g", "-c", "app.c"]);
    assert!(ask(&["check", text(&bench.path("app.o"))]).unwrap().is_same);
    let lock = bench.path("mine.lock");
    assert!(ask(&["lock", "--write", text(&lock)]).unwrap().is_same);
    assert!(ask(&["lock", text(&lock)]).unwrap().is_same);
}

#[test]
fn what_is_not_understood_is_refused_with_a_remedy() {
    refused(&["layout"], "Usage");
    refused(&["layout", "diff", "ours"], "SOURCE");
    refused(&["layout", "dump", "no/such/file"], "shm:NAME for a segment");
    refused(&["layout", "dump", "no/such.h"], "remedy");
    refused(&["layout", "dump", "header:a\"b.h"], "no name of a header");
    refused(&["layout", "dump", "--only", "Nobody"], "spinwire layout dump SOURCE");
    refused(&["layout", "dump", "lock:/dev/null"], "no lock file");
    refused(&["layout", "dump", "btf:/dev/null"], "no BTF");
    refused(&["layout", "dump", "elf:/dev/null"], "damaged");
    refused(&["layout", "dump", "/"], "no folder");
    refused(&["layout", "check", "--room", "attic"], "one of shm");
    refused(&["layout", "check", "--as", "Quote"], "OURS=THEIRS");
    refused(&["layout", "dump", "<stdio.h>", "--cc", "no-such-compiler"], "apt-get install gcc");
    refused(&["layout", "dump", "/bin/sh"], "-dbgsym");
    let bench = Bench::new();
    bench.write("s.c", "struct a { int x; } a;\n");
    bench.tool("cc", &["-g", "-gsplit-dwarf", "-c", "s.c"]);
    let ran = bench.layout(&["dump", "s.o"]);
    assert!(ran.code == 2 && ran.err.contains("-gsplit-dwarf"), "types in another file: {ran:?}");
    bench.write("bad.h", "struct a { nonsense x; };\n");
    let ran = bench.layout(&["dump", "./bad.h"]);
    assert!(ran.code == 2 && ran.err.contains("bad.h:1"), "the compiler's own words: {ran:?}");
    for help in
        [["--help"].as_slice(), &["diff", "--help"], &["check", "--help"], &["lock", "--help"]]
    {
        let ran = bench.layout(help);
        assert!(ran.code == 0 && ran.out.contains("layout"), "{ran:?}");
    }
    assert!(bench.layout(&["diff", "--help"]).out.contains("Exit code 0: the same. 1:"));
}
