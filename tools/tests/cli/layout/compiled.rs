//! Programs in C with padding, bit fields, unions, arrays without a length, packed and aligned structures, members without a
//! name and nested arrays: our readers against a program that asks its compiler, and against `pahole`.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use super::{Bench, has, named, not_run, place};

/// What makes a layout hard. Nothing in it is `_Atomic`, which the pahole of Debian 12 does not know.
const ZOO: &str = "\
#include <stdint.h>
#include <linux/types.h>
enum colour { RED = 1, BLUE = 0x80000000u };
struct inner { char c; int i; };
struct zoo {
    char a; int b:3; unsigned c:7; unsigned long d:40; short e; unsigned :0; unsigned f:1;
    union { int u1; char u2[7]; struct { short s1; long s2; }; };
    struct { int x; char y; struct { long deep; } z; } named, row[2];
    struct inner in, ins[3]; int matrix[3][4];
    volatile int shared; void (*call)(int); const char *text; struct zoo *next;
    enum colour colour; long double wide; _Bool flag; double real; __be32 net; __le16 disk;
    unsigned char odd __attribute__((aligned(32)));
    char tail[];
};
struct __attribute__((packed)) packed { char a; int b; short c:5; short d:11; long e; };
struct __attribute__((packed, aligned(4))) half { char a; long b; };
struct aligned { char a; int b __attribute__((aligned(64))); } __attribute__((aligned(128)));
struct straddler { char head[60]; uint64_t over __attribute__((packed)); };
struct empty {};
struct zero { int n; int none[0]; };
typedef struct { int first; struct zoo *next; } plain_t;
union box { int a; double b; char c[13]; struct { int p, q; } pair; };
struct zoo v1; struct packed v2; struct half v3; struct aligned v4; struct straddler v5; struct empty v6; struct zero v7;
plain_t v8; union box v9; enum colour v10;
";

/// Every type of it, as C names it, with the members that have an address.
const ASKED: &[(&str, &[&str])] = &[
    ("struct inner", &["c", "i"]),
    (
        "struct zoo",
        &[
            "a",
            "e",
            "u1",
            "u2",
            "s1",
            "s2",
            "named",
            "named.x",
            "named.y",
            "named.z",
            "named.z.deep",
            "row",
            "in",
            "ins",
            "matrix",
            "shared",
            "call",
            "text",
            "next",
            "colour",
            "wide",
            "flag",
            "real",
            "net",
            "disk",
            "odd",
        ],
    ),
    ("struct packed", &["a", "b", "e"]),
    ("struct half", &["a", "b"]),
    ("struct aligned", &["a", "b"]),
    ("struct straddler", &["head", "over"]),
    ("struct empty", &[]),
    ("struct zero", &["n", "none"]),
    ("plain_t", &["first", "next"]),
    ("union box", &["a", "b", "c", "pair", "pair.p", "pair.q"]),
];

/// Name without the word before it.
fn bare(name: &str) -> &str {
    name.rsplit(' ').next().unwrap()
}

/// What a program says that asks its compiler: size, alignment, offset and size of members.
fn by_program(bench: &Bench) -> BTreeMap<String, u64> {
    let mut asks = String::new();
    for (ty, members) in ASKED {
        asks += &format!("p(\"{0}\", sizeof({1})); p(\"{0}!\", _Alignof({1}));\n", bare(ty), ty);
        for member in *members {
            let key = format!("{}.{member}", bare(ty));
            asks += &format!(
                "p(\"{key}\", offsetof({ty}, {member})); p(\"{key}#\", sizeof((({ty} *)0)->{member}));\n"
            );
        }
    }
    let program = format!(
        "{ZOO}#include <stdio.h>\n#include <stddef.h>\n\
         static void p(const char *n, unsigned long v) {{ printf(\"%s %lu\\n\", n, v); }}\nint main(void) {{ {asks} return 0; }}\n"
    );
    bench.write("ask.c", program);
    bench.tool("cc", &["-w", "-o", "ask", "ask.c"]);
    let said = bench.tool("./ask", &[]);
    let line = |line: &str| {
        let (name, value) = line.split_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    said.lines().map(line).collect()
}

/// The same of what `dump` says.
fn by_dump(types: &[Value]) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (ty, members) in ASKED {
        let name = bare(ty);
        let found = named(types, name);
        all.insert(name.to_owned(), found["size"].as_u64().unwrap());
        for member in *members {
            let list = found["members"].as_array().unwrap();
            let found = list.iter().find(|m| m["name"] == *member);
            let (offset, size) = place(found.unwrap_or_else(|| panic!("{name}.{member}")));
            all.insert(format!("{name}.{member}"), offset / 8);
            all.insert(format!("{name}.{member}#"), size / 8);
        }
    }
    all
}

/// The bit fields of the zoo, by setting all bits of one and looking at the bytes.
fn bits_by_program(bench: &Bench) -> BTreeMap<String, (u64, u64)> {
    let fields =
        [("zoo", "b"), ("zoo", "c"), ("zoo", "d"), ("zoo", "f"), ("packed", "c"), ("packed", "d")];
    let ask = |(ty, field): &(&str, &str)| {
        format!(
            "{{ static struct {ty} v; v.{field} = -1; unsigned char *p = (void *)&v; unsigned long s = ~0ul, n = 0;\n\
             for (unsigned long i = 0; i < 8 * sizeof v; i++) if (p[i / 8] >> i % 8 & 1) {{ if (s == ~0ul) s = i; n++; }}\n\
             printf(\"{ty}.{field} %lu %lu\\n\", s, n); }}\n"
        )
    };
    let asks: String = fields.iter().map(ask).collect();
    bench.write(
        "bits.c",
        format!("{ZOO}#include <stdio.h>\nint main(void) {{ {asks} return 0; }}\n"),
    );
    bench.tool("cc", &["-w", "-o", "bits", "bits.c"]);
    let said = bench.tool("./bits", &[]);
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        (words[0].to_owned(), (words[1].parse().unwrap(), words[2].parse().unwrap()))
    };
    said.lines().map(line).collect()
}

/// How debug information can be written, and where it can lie.
const MANNERS: &[(&str, &[&str])] = &[
    ("v2.o", &["-c", "-gdwarf-2", "-gstrict-dwarf"]),
    ("v3.o", &["-c", "-gdwarf-3", "-gstrict-dwarf"]),
    ("v4.o", &["-c", "-gdwarf-4"]),
    ("types.o", &["-c", "-gdwarf-4", "-fdebug-types-section"]),
    ("v5.o", &["-c", "-gdwarf-5"]),
    ("types5.o", &["-c", "-gdwarf-5", "-fdebug-types-section"]),
    ("inflated.o", &["-c", "-g", "-gz=zlib"]),
    ("optimised.o", &["-c", "-g", "-O2", "-ffunction-sections"]),
    ("linked", &["-g", "-O1", "-x", "c", "main.c"]),
    ("shared.so", &["-g", "-shared", "-fPIC"]),
];

#[test]
fn every_manner_of_debug_information_says_what_the_compiler_says() {
    let bench = Bench::new();
    bench.write("zoo.c", ZOO);
    bench.write("main.c", "int main(void) { return 0; }\n");
    let mut truth = by_program(&bench);
    truth.retain(|name, _| !name.ends_with('!'));
    let bits = bits_by_program(&bench);
    assert_eq!(bits["zoo.d"], (2 * 8 + 2, 40), "the program tells bits apart");
    for (out, flags) in MANNERS {
        bench.tool(
            "cc",
            &[&["-w"], *flags, &["-fno-eliminate-unused-debug-types", "-o", out, "zoo.c"]].concat(),
        );
        let types = bench.dump(&[out]);
        assert_eq!(by_dump(&types), truth, "{out}");
        for (key, wanted) in &bits {
            let (ty, field) = key.split_once('.').unwrap();
            let members = named(&types, ty)["members"].as_array().unwrap();
            let member = members.iter().find(|m| m["name"] == field).unwrap();
            assert_eq!(place(member), *wanted, "{out}: {key}");
        }
        let line = 1 + ZOO.lines().position(|line| line.starts_with("struct zoo {")).unwrap();
        let at = &named(&types, "zoo")["at"];
        assert!(
            at["file"].as_str().unwrap().ends_with("zoo.c") && at["line"] == line,
            "{out}: {at}"
        );
    }
    facts_of_the_zoo(&bench.dump(&["v5.o"]));
    // All of them say the same to each other, as a user would ask.
    for (out, _) in MANNERS {
        let ran = bench.layout(&["diff", "v4.o", out, "--common"]);
        assert_eq!(ran.code, 0, "{out}: {ran:?}");
    }
}

/// An object for another machine, which cannot be run here.
#[test]
fn an_object_of_32_bits_has_their_sizes() {
    let bench = Bench::new();
    bench.write("a.c", "struct a { char c; long l; void *p; int x:3; long long wide; } v;\n");
    bench.tool("cc", &["-m32", "-g", "-c", "a.c"]);
    let types = bench.dump(&["a.o"]);
    let members = named(&types, "a")["members"].as_array().unwrap();
    let places: Vec<_> = members.iter().map(place).collect();
    assert_eq!(places, [(0, 8), (32, 32), (64, 32), (96, 3), (128, 64)]);
}

/// Clang writes debug information in a manner of its own, and takes other flags.
#[test]
fn another_compiler_says_the_same() {
    if !has("clang", "clang", "layouts by another compiler") {
        return;
    }
    let bench = Bench::new();
    bench.write("zoo.c", ZOO);
    bench.tool("cc", &["-w", "-g", "-c", "zoo.c", "-o", "gcc.o"]);
    for (out, flags) in [("clang5.o", ["-gdwarf-5", "-O0"]), ("clang4.o", ["-gdwarf-4", "-O2"])] {
        bench.tool("clang", &[["-w", "-c", "zoo.c", "-o", out].as_slice(), &flags].concat());
        // Types that nothing uses are left out.
        let ran = bench.layout(&["diff", "gcc.o", out, "--common"]);
        assert_eq!(ran.code, 0, "{out}: {ran:?}");
        assert!(ran.out.contains("10 types compared: the same."), "{ran:?}");
    }
    bench.write("zoo.h", ZOO);
    let by_clang = bench.dump(&["./zoo.h", "--cc", "clang"]);
    assert_eq!(by_dump(&by_clang), by_dump(&bench.dump(&["./zoo.h"])));
    assert_eq!(named(&by_clang, "half")["align"], 4);
    bench.write("q.hpp", "struct Row { char c; long l; virtual ~Row(); };\n");
    let types = bench.dump(&["./q.hpp", "--cc", "clang"]);
    assert_eq!(
        (&named(&types, "Row")["size"], &named(&types, "Row")["align"]),
        (&24.into(), &8.into())
    );
}

/// Byte orders, lines, holes and who disturbs whom.
fn facts_of_the_zoo(types: &[Value]) {
    let zoo = named(types, "zoo");
    let member = |name: &str| {
        zoo["members"].as_array().unwrap().iter().find(|m| m["name"] == name).unwrap().clone()
    };
    assert_eq!(
        (&member("net")["order"], &member("disk")["order"]),
        (&"big".into(), &"little".into())
    );
    assert_eq!((&member("a")["order"], &member("e")["order"]), (&"-".into(), &"native".into()));
    assert_eq!(member("shared")["shared"], true);
    assert!(zoo["false_sharing"][0].as_str().unwrap().contains("shared"), "{zoo}");
    let over = &named(types, "straddler")["members"][1];
    assert_eq!((&over["straddles"], &over["lines"]), (&true.into(), &serde_json::json!([0, 1])));
    assert_eq!(named(types, "aligned")["align"], 128);
    let packed = named(types, "packed");
    assert_eq!(packed["holes"].as_array().unwrap().len(), 0, "{packed}");
}

#[test]
fn a_header_says_what_the_compiler_says() {
    let bench = Bench::new();
    bench.write("zoo.h", ZOO);
    let truth = by_program(&bench);
    let types = bench.dump(&["./zoo.h"]);
    let mut said = by_dump(&types);
    for (ty, _) in ASKED {
        let name = bare(ty);
        said.insert(format!("{name}!"), named(&types, name)["align"].as_u64().unwrap());
    }
    assert_eq!(said, truth);
    assert!(types.len() < 20, "only what stands in the header: {}", types.len());
    let at = &named(&types, "inner")["at"];
    assert!(at["file"].as_str().unwrap().ends_with("zoo.h") && at["line"] == 4, "{at}");
    // In C++ it is another language with the same layout, but for an empty structure, which has a byte.
    if has("c++", "g++", "a header in C++") {
        let cxx = "#include <cstdint>\nnamespace ns { class Queue { public: int a; private: long b; static int s; };\n\
                   struct Row : Queue { char c; struct Cell { short x; } cell; enum class E : char { One } e; virtual ~Row(); }; }\n";
        bench.write("q.hpp", cxx);
        let types = bench.dump(&["./q.hpp"]);
        let row = named(&types, "ns::Row");
        let members: Vec<_> = row["members"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| (m["name"].as_str().unwrap(), place(m).0 / 8))
            .collect();
        assert_eq!(
            members,
            [("(struct Queue)", 8), ("_vptr.Row", 0), ("c", 24), ("cell", 26), ("e", 28)]
        );
        assert_eq!(named(&types, "ns::Row::Cell")["size"], 2);
        assert_eq!(named(&types, "ns::Queue")["align"], 8);
    }
}

/// The members that pahole shows of a type: name, first bit and bits, by rising place; and what it counts of holes.
fn by_pahole(text: &str) -> (Vec<(String, u64, u64)>, u64) {
    let mut members = Vec::new();
    let mut missing = 0;
    for line in text.lines() {
        let Some((code, note)) = line.split_once("/*") else {
            continue;
        };
        let note = note.trim_end_matches(['*', '/', ' ']);
        let numbers: Vec<u64> =
            note.split([' ', ':']).filter_map(|word| word.parse().ok()).collect();
        let code = code.trim_end();
        if let Some(sums) = note.trim().strip_prefix("sum members: ") {
            let after = |word: &str| -> u64 {
                sums.split(", ")
                    .find_map(|part| part.strip_prefix(word)?.split(' ').next()?.parse().ok())
                    .unwrap_or(0)
            };
            missing += 8 * after("sum holes: ");
        } else if let Some(bits) = note.split("sum bit holes: ").nth(1) {
            missing += bits.split(' ').next().unwrap().parse::<u64>().unwrap();
        } else if let Some(bytes) = note.trim().strip_prefix("padding: ") {
            missing += 8 * bytes.parse::<u64>().unwrap();
        } else if let Some(bits) = note.trim().strip_prefix("bit_padding: ") {
            missing += bits.split(' ').next().unwrap().parse::<u64>().unwrap();
        } else if code.ends_with(';') && numbers.len() >= 2 {
            let code = code.trim_end_matches(';');
            let code = code.split(" __attribute__").next().unwrap();
            let (code, width) = match code.rsplit_once(':') {
                Some((code, width)) => (code, width.trim().parse::<u64>().ok()),
                None => (code, None),
            };
            let code = match code.split_once("(*") {
                Some((_, name)) => name.split(')').next().unwrap(),
                None => code.split('[').next().unwrap(),
            };
            let name = code.rsplit([' ', '*', '}', '\t']).next().unwrap();
            let place = match width {
                Some(width) => (8 * numbers[0] + numbers[1], width),
                None => (8 * numbers[0], 8 * numbers[1]),
            };
            if !name.is_empty() {
                members.push((name.to_owned(), place.0, place.1));
            }
        }
    }
    members.sort();
    (members, missing)
}

/// Compares what `dump` says of a type with what pahole says of it.
pub(super) fn compare_with_pahole(ours: &Value, pahole: &str, are_holes_flat: bool) {
    let name = ours["name"].as_str().unwrap();
    let (theirs, missing) = by_pahole(pahole);
    let last = |m: &Value| m["name"].as_str().unwrap().rsplit('.').next().unwrap().to_owned();
    let members = ours["members"].as_array().unwrap();
    let mut said: Vec<_> = members.iter().map(|m| (last(m), place(m).0, place(m).1)).collect();
    said.sort();
    assert_eq!(said, theirs, "{name}: ours, pahole's\n{pahole}");
    let size = format!("/* size: {}, cachelines: {},", ours["size"], ours["lines"]);
    assert!(pahole.contains(&size) || ours["union"] == true, "{name}: no {size:?} in {pahole}");
    if are_holes_flat {
        let holes: u64 =
            ours["holes"].as_array().unwrap().iter().map(|h| h["bits"].as_u64().unwrap()).sum();
        assert_eq!(holes, missing, "{name}: bits that nobody has; pahole:\n{pahole}");
    }
}

#[test]
fn pahole_prints_the_same() {
    if !has("pahole", "dwarves", "layouts against pahole") {
        return;
    }
    let bench = Bench::new();
    bench.write("zoo.c", ZOO);
    bench.tool("cc", &["-w", "-g", "-c", "zoo.c"]);
    let types = bench.dump(&["zoo.o"]);
    for (ty, _) in ASKED {
        // Of an empty structure pahole prints no sizes, and unions it does not print alone.
        let name = bare(ty);
        if matches!(*ty, "struct empty" | "union box") {
            continue;
        }
        let text = bench.tool("pahole", &["-C", name, "zoo.o"]);
        compare_with_pahole(named(&types, name), &text, name != "zoo");
    }
    // The same types as BTF, which pahole writes; one in an ELF file, one by itself.
    bench.tool("pahole", &["--btf_gen_floats", "--btf_encode_detached", "zoo.btf", "zoo.o"]);
    let ran = bench.layout(&["diff", "zoo.o", "zoo.btf"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("10 types compared: the same."), "{ran:?}");
    bench.tool("pahole", &["--btf_gen_floats", "-J", "zoo.o"]);
    let ran = bench.layout(&["diff", "zoo.o", "btf:zoo.o"]);
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// Debug information that a distribution ships apart from its program: compressed, found by the build id. Debian's mirror of
/// -dbgsym packages is another archive; the C library has its own in a package of the main one.
#[test]
fn a_package_of_debug_information_says_what_pahole_says() {
    let what = "debug information of a Debian package";
    let bench = Bench::new();
    let ran = Command::new("ldd").arg("/bin/sh").output().unwrap();
    let libraries = String::from_utf8_lossy(&ran.stdout).into_owned();
    let libc =
        libraries.split_whitespace().find(|word| word.starts_with('/') && word.contains("libc.so"));
    let Some(libc) = libc else {
        return not_run(what, "ldd /bin/sh names no libc");
    };
    let ran = bench.layout(&["dump", libc, "--only", "_IO_FILE", "--json"]);
    if let Some((_, named)) = ran.err.split_once("nor at ") {
        let place = named.split([',', ';']).next().unwrap();
        assert!(place.contains("/.build-id/") && !std::path::Path::new(place).exists(), "{ran:?}");
        return not_run(what, "no debug information of libc; remedy: apt-get install libc6-dbg");
    }
    let note = &ran.json()["remarks"][0];
    let file = note.as_str().unwrap().rsplit(' ').next().unwrap().to_owned();
    assert!(file.ends_with(".debug"), "{note}");
    if !has("pahole", "dwarves", what) {
        return;
    }
    let names =
        ["_IO_FILE", "malloc_chunk", "malloc_state", "link_map", "pthread", "tm", "cpu_features"];
    let only: Vec<&str> = names.iter().flat_map(|name| ["--only", name]).collect();
    let types = bench.dump(&[&[libc], only.as_slice()].concat());
    let shown = bench.tool("pahole", &["-C", &names.join(","), &file]);
    let mut compared = 0;
    // One block a type; of several definitions of one name, the one of our size is meant.
    for block in shown.split("\n}") {
        let Some(name) = names.iter().find(|name| block.contains(&format!("struct {name} {{")))
        else {
            continue;
        };
        let ours = named(&types, name);
        if block.contains(&format!("/* size: {},", ours["size"])) {
            compare_with_pahole(ours, block, false);
            compared += 1;
        }
    }
    assert!(compared >= 5, "{compared} of {names:?} in {shown}");
}

#[test]
fn what_changed_is_named_with_both_lines() {
    let bench = Bench::new();
    bench.write("a.c", ZOO);
    let changes = [
        ("int b:3;", "int b:4;", "zoo.b: bits differs"),
        ("char tail[];", "char tail[2];", "zoo.tail: size differs"),
        ("__be32 net;", "__u32 net;", "zoo.net: byte order differs"),
        ("double real;", "long real;", "zoo.real: type differs"),
        ("packed { char a;", "packed { short a;", "packed.b: offset differs"),
        ("aligned(128)", "aligned(256)", "aligned: alignment differs"),
        (
            "typedef struct { int first;",
            "typedef struct { int erst;",
            "plain_t.erst: presence differs",
        ),
        ("struct { long deep; } z;", "struct { int deep; } z;", "zoo.named.z.deep: size differs"),
        ("char c[13];", "char c[17];", "box: size differs"),
    ];
    bench.tool("cc", &["-w", "-g", "-c", "a.c"]);
    for (number, (from, to, says)) in changes.iter().enumerate() {
        assert!(ZOO.contains(from), "{from}");
        let name = format!("b{number}.c");
        bench.write(&name, ZOO.replace(from, to));
        bench.tool("cc", &["-w", "-g", "-c", &name]);
        let ran = bench.layout(&["diff", "a.o", &name.replace(".c", ".o")]);
        assert_eq!(ran.code, 1, "{to}: {ran:?}");
        assert!(ran.out.contains(says), "{to}: {ran:?}");
        let line = 1 + ZOO.lines().position(|line| line.contains(from)).unwrap();
        for place in [format!("a.c:{line}"), format!("{name}:{line}")] {
            assert!(ran.out.contains(&place), "{to}: {place} in {ran:?}");
        }
    }
    let ran = bench.layout(&["diff", "a.o", "b1.o", "--only", "inner"]);
    assert_eq!(ran.code, 0, "another type has changed: {ran:?}");
}
