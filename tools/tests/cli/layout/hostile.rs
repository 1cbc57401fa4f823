//! Files that are cut off, or have flipped bits: whatever they are, a reader answers, and soon.

use std::fs;
use std::time::{Duration, Instant};

use spinwire_hostshim::layout::{
    Catalog, Unreadable, Wanted, catalog_of, mirror, read_btf, read_elf, read_lock, table,
    write_lock,
};
use spinwire_layouts::ROOMS;

use super::{Bench, has, text};

/// Rounds for each file; `LAYOUT_ROUNDS` makes it more.
const ROUNDS: usize = 300;

fn rounds() -> usize {
    let set = std::env::var("LAYOUT_ROUNDS").ok().and_then(|n| n.parse().ok());
    set.unwrap_or(ROUNDS)
}

/// Gives `read` the file cut off at many places, and with bits flipped at many. Whatever comes out is compared and printed.
fn torment(name: &str, whole: &[u8], read: impl Fn(&[u8]) -> Result<Catalog, Unreadable>) {
    let good = read(whole).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(!good.types().is_empty(), "{name}");
    let (mut refused, mut same, mut other) = (0, 0, 0);
    let mut try_it = |bytes: &[u8]| {
        let begun = Instant::now();
        match read(bytes) {
            Err(e) => {
                assert!(e.to_string().contains("; remedy: "), "{name}: {e}");
                refused += 1;
            }
            Ok(catalog) => {
                let differs = !mirror(&good, &catalog, &[]).is_empty();
                let _text: usize = catalog.types().iter().map(|ty| table(ty).len()).sum();
                if differs { other += 1 } else { same += 1 }
            }
        }
        // No measure of speed: a walk without a bound would take hours.
        assert!(begun.elapsed() < Duration::from_secs(60), "{name}: it takes too long");
    };
    let rounds = rounds();
    for round in 0..rounds {
        try_it(&whole[..whole.len() * round / rounds]);
    }
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut roll = |sides: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 16).unwrap() % sides
    };
    for round in 0..2 * rounds {
        let mut bytes = whole.to_vec();
        for _flip in 0..=round % 8 {
            let at = roll(bytes.len());
            bytes[at] = if roll(2) == 0 {
                bytes[at] ^ 1 << roll(8)
            } else {
                u8::try_from(roll(256)).unwrap()
            };
        }
        try_it(&bytes);
    }
    assert!(refused > 0 && other > 0, "{name}: refused {refused}, same {same}, other {other}");
}

const CODE: &str = "\
struct a { int x:3; struct { long y; } in; union { char c[3]; struct a *next; }; } a; typedef struct { struct a row[4]; } b_t; b_t b;\n\
enum e { ONE, TWO = 7 } e; struct c { const volatile int *p; double d[2][3]; char tail[]; } *c;\n";

#[test]
fn damaged_debug_information() {
    let bench = Bench::new();
    bench.write("a.c", CODE);
    let manners: &[(&str, &[&str])] = &[
        ("v5", &["-gdwarf-5"]),
        ("v4", &["-gdwarf-4", "-fdebug-types-section"]),
        ("inflated", &["-g", "-gz=zlib"]),
        ("linked", &["-g", "-shared"]),
    ];
    for (name, flags) in manners {
        let out = if *name == "linked" { &["-nostdlib", "-o"][..] } else { &["-c", "-o"] };
        bench.tool("cc", &[*flags, out, &[name, "a.c"]].concat());
        let whole = fs::read(bench.path(name)).unwrap();
        torment(name, &whole, |bytes| read_elf("damaged", bytes, &Wanted::All));
    }
}

/// References that lead in circles: types that are their own members, as bytes say it that no compiler writes.
#[test]
fn types_that_contain_themselves() {
    // BTF: a struct with a nameless member of its own type, a typedef of itself, an array of itself.
    let word = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let strings = b"\0s\0t\0";
    let types = [
        word(&[1, 4 << 24 | 2, 8, 0, 1, 0, 0, 1, 64]), // 1: struct s { nameless s; nameless s; }
        word(&[3, 8 << 24, 2]),                        // 2: typedef of itself
        word(&[0, 3 << 24, 0, 3, 3, u32::MAX]),        // 3: array of itself
        word(&[3, 4 << 24 | 3, 8, 1, 2, 0, 1, 3, 0, 1, 4, 0]), // 4: struct t { typedef; array; itself }
    ]
    .concat();
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
    let mut file = vec![0x9f, 0xeb, 1, 0];
    file.extend(word(&[24, 0, length(&types), length(&types), length(strings)]));
    file.extend(types);
    file.extend(strings);
    let error = read_btf("circle", &file, None, &Wanted::All).unwrap_err();
    assert!(error.why.contains("contain themselves"), "{error}");
    // Whoever asks for a type that does not is answered.
    let none = Wanted::Named { types: vec!["u".to_owned()], numbers: Vec::new() };
    assert!(read_btf("circle", &file, None, &none).is_ok());
}

#[test]
fn damaged_btf() {
    if !has("pahole", "dwarves", "damaged BTF of a program") {
        return;
    }
    let bench = Bench::new();
    bench.write("a.c", CODE);
    bench.tool("cc", &["-g", "-c", "a.c"]);
    bench.tool("pahole", &["--btf_encode_detached", "a.btf", "a.o"]);
    let whole = fs::read(bench.path("a.btf")).unwrap();
    torment("a.btf", &whole, |bytes| read_btf("damaged", bytes, None, &Wanted::All));
}

#[test]
fn damaged_lock_files() {
    let whole = write_lock(&catalog_of(ROOMS));
    torment("lock", whole.as_bytes(), |bytes| {
        read_lock("damaged", &String::from_utf8_lossy(bytes))
    });
}

/// The command with damaged files: an exit code, never a signal.
#[test]
fn the_command_survives_damaged_files() {
    let bench = Bench::new();
    bench.write("a.c", CODE);
    bench.tool("cc", &["-g", "-c", "a.c"]);
    let elf = fs::read(bench.path("a.o")).unwrap();
    let lock = write_lock(&catalog_of(ROOMS)).into_bytes();
    for (name, whole) in [("a.o", &elf), ("a.lock", &lock)] {
        for part in [0, 3, 17, 64, 65, 500, whole.len() / 2, whole.len() - 1] {
            let path = bench.write(&format!("{part}-{name}"), &whole[..part]);
            for args in
                [["dump", text(&path)].as_slice(), &["diff", text(&path), "ours", "--common"]]
            {
                let ran = bench.layout(args);
                assert!((0..=2).contains(&ran.code), "{name} {part}: {ran:?}");
                assert_eq!(ran.code == 2, ran.err.contains("; remedy: "), "{name} {part}: {ran:?}");
            }
        }
    }
    // Names that would play with the terminal.
    let code = fs::read(bench.path("a.o")).unwrap();
    let at = code.windows(4).position(|w| w == b"ONE\0").map(|at| at + 4);
    assert!(at.is_some());
    let evil: Vec<u8> =
        String::from_utf8_lossy(&lock).replacen("LaneCell", "La\u{1b}[2J", 1).into_bytes();
    let path = bench.write("evil.lock", evil);
    let ran = bench.layout(&["dump", text(&path)]);
    assert!(!ran.out.contains('\u{1b}') && !ran.err.contains('\u{1b}'), "{ran:?}");
}
