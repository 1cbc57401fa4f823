//! Structures that a generator makes up, by a seed: what a compiled program says of them, against debug information, BTF and
//! `pahole`.

use super::compiled::compare_with_pahole;
use super::{Bench, has, named, place};

/// As many structures; `LAYOUT_STRUCTS` makes it more.
const STRUCTS: u64 = 60;

/// A generator of numbers: splitmix64.
struct Dice(u64);

impl Dice {
    const fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ x >> 31) % sides
    }
}

/// A structure in C; and its members, with whether they are bit fields.
struct Made {
    code: String,
    members: Vec<(String, bool)>,
    is_flat: bool,
}

fn make(number: u64, dice: &mut Dice) -> Made {
    const TYPES: &[(&str, u64)] = &[
        ("char", 8),
        ("unsigned char", 8),
        ("short", 16),
        ("unsigned short", 16),
        ("int", 32),
        ("unsigned", 32),
        ("long", 64),
        ("unsigned long", 64),
        ("float", 0),
        ("double", 0),
        ("void *", 0),
    ];
    let mut made =
        Made { code: format!("struct r{number} {{ "), members: Vec::new(), is_flat: true };
    let mut open = 0;
    for at in 0..2 + dice.roll(9) {
        if dice.roll(7) == 0 && open == 0 {
            made.code += ["struct { ", "union { "][usize::try_from(dice.roll(2)).unwrap()];
            open = 1 + dice.roll(3);
            made.is_flat = false;
        }
        let (ty, bits) = TYPES[usize::try_from(dice.roll(11)).unwrap()];
        let name = format!("m{at}");
        let is_bits = bits > 0 && dice.roll(3) == 0;
        made.code += &match dice.roll(5) {
            _ if is_bits => format!("{ty} {name}:{}; ", 1 + dice.roll(bits)),
            0 => format!("{ty} {name}[{}][2]; ", 1 + dice.roll(3)),
            1 => format!("{ty} {name} __attribute__((aligned({}))); ", 1 << dice.roll(6)),
            2 => format!("struct {{ char a; {ty} b; }} {name}; "),
            _ => format!("{ty} {name}; "),
        };
        // What lies in it is a member of its own to pahole, and no hole of the outer one.
        made.is_flat &= !made.code.contains("struct { char a;");
        made.members.push((name, is_bits));
        if open > 0 {
            open -= 1;
            if open == 0 {
                made.code += "}; ";
            }
        }
    }
    made.code += if open > 0 { "}; } " } else { "} " };
    made.code += ["", "", "__attribute__((packed))", "__attribute__((aligned(32)))"]
        [usize::try_from(dice.roll(4)).unwrap()];
    made.code += &format!(";\nstruct r{number} v{number};\n");
    made
}

/// What asks the compiler for the place of each member: of bit fields, by setting all bits.
fn question(number: u64, made: &Made) -> String {
    let mut code = format!("printf(\"r{number} - %lu 0\\n\", sizeof(struct r{number}));\n");
    for (name, is_bits) in &made.members {
        code += &if *is_bits {
            format!("B(r{number}, {name});\n")
        } else {
            format!(
                "printf(\"r{number} {name} %lu %lu\\n\", 8 * offsetof(struct r{number}, {name}), 8 * sizeof(v{number}.{name}));\n"
            )
        };
    }
    format!("static void ask{number}(void) {{\n{code}}}\n")
}

const HEAD: &str = "\
#include <stdio.h>
#include <stddef.h>
#define B(ty, field) do { static struct ty v; v.field = -1; unsigned char *p = (void *)&v; \\
    unsigned long s = 0, n = 0; for (unsigned long i = 0; i < 8 * sizeof v; i++) \\
    if (p[i / 8] >> i % 8 & 1) { if (n == 0) s = i; n++; } printf(#ty \" \" #field \" %lu %lu\\n\", s, n); } while (0)
";

#[test]
fn structures_that_are_made_up_lie_where_the_compiler_says() {
    let set = std::env::var("LAYOUT_STRUCTS").ok().and_then(|n| n.parse().ok());
    let count = set.unwrap_or(STRUCTS);
    let mut dice = Dice(count);
    let made: Vec<Made> = (0..count).map(|number| make(number, &mut dice)).collect();
    let bench = Bench::new();
    let code: String = made.iter().map(|made| made.code.as_str()).collect();
    bench.write("r.c", &code);
    let asks: String = made.iter().zip(0..).map(|(made, number)| question(number, made)).collect();
    let calls: String = (0..count).map(|number| format!("ask{number}();\n")).collect();
    bench.write("ask.c", format!("{HEAD}{code}{asks}int main(void) {{ {calls} return 0; }}\n"));
    bench.tool("cc", &["-w", "-o", "ask", "ask.c"]);
    bench.tool("cc", &["-w", "-g", "-c", "r.c"]);
    let types = bench.dump(&["r.o"]);
    let mut compared = 0;
    for line in bench.tool("./ask", &[]).lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (ty, member) = (named(&types, words[0]), words[1]);
        let wanted = (words[2].parse::<u64>().unwrap(), words[3].parse::<u64>().unwrap());
        if member == "-" {
            assert_eq!(ty["size"].as_u64().unwrap(), wanted.0, "{line}\n{code}");
            continue;
        }
        let found = ty["members"].as_array().unwrap().iter().find(|m| m["name"] == member).unwrap();
        assert_eq!(place(found), wanted, "{line}\n{code}");
        compared += 1;
    }
    assert!(compared > 3 * count, "{compared}");
    if !has("pahole", "dwarves", "layouts that are made up, against pahole") {
        return;
    }
    let names: Vec<String> = (0..count).map(|number| format!("r{number}")).collect();
    let shown = bench.tool("pahole", &["-C", &names.join(","), "r.o"]);
    let blocks: Vec<&str> = shown.split("\n}").collect();
    for (name, made) in names.iter().zip(&made) {
        let block = blocks.iter().find(|block| block.contains(&format!("struct {name} {{")));
        compare_with_pahole(
            named(&types, name),
            block.unwrap_or_else(|| panic!("{name}")),
            made.is_flat,
        );
    }
    bench.tool("pahole", &["--btf_gen_floats", "--btf_encode_detached", "r.btf", "r.o"]);
    let ran = bench.layout(&["diff", "r.o", "r.btf"]);
    assert_eq!(ran.code, 0, "{ran:?}");
}
