//! What is declared of libmlx5, against its headers: sizes, offsets, numbers, types of functions.

use core::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use spinwire_hostshim::mlx5::dv;

/// A C program that compiles only where everything is as declared.
fn probe() -> String {
    let mut text = String::from(
        "#include <stddef.h>\n#include <infiniband/verbs.h>\n#include <infiniband/mlx5dv.h>\n",
    );
    for layout in dv::STRUCTS {
        let relation = if layout.prefix { ">=" } else { "==" };
        writeln!(
            text,
            "_Static_assert(sizeof({}) {relation} {}, \"size\");",
            layout.name, layout.size
        )
        .unwrap();
        for (field, offset, size) in layout.fields {
            // The size that is declared may hold the padding behind `bf.size`, and nothing else.
            let name = layout.name;
            let at_most = if *field == "bf.size" { ">=" } else { "==" };
            writeln!(
                text,
                "_Static_assert(offsetof({name}, {field}) == {offset}, \"{field}\");\n\
                 _Static_assert({size} {at_most} sizeof((({name} *)0)->{field}), \"{field}\");"
            )
            .unwrap();
        }
    }
    for (name, value) in dv::NUMBERS {
        writeln!(text, "_Static_assert({name} == {value}, \"{name}\");").unwrap();
    }
    for (name, kind) in dv::FUNCTIONS {
        writeln!(
            text,
            "_Static_assert(__builtin_types_compatible_p(__typeof__({name}), {kind}), \"{name}\");"
        )
        .unwrap();
    }
    text
}

/// What the compiler says of the program; `None` where it is content.
fn compile(text: &str, name: &str) -> Option<String> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    let out =
        Command::new("cc").args(["-std=gnu11", "-fsyntax-only", "-x", "c"]).arg(&path).output();
    let out = out.unwrap();
    (!out.status.success()).then(|| String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn declarations_are_those_of_the_headers() {
    if !Path::new("/usr/include/infiniband/mlx5dv.h").exists() {
        println!(
            "!! NOT RUN: declarations of libmlx5: no infiniband/mlx5dv.h; remedy: apt-get install libibverbs-dev"
        );
        return;
    }
    let text = probe();
    assert_eq!(compile(&text, "dv_probe.c"), None);
    // One number, one offset and one type that are wrong are found.
    for (right, wrong) in [
        ("MLX5DV_OBJ_AH == 32", "MLX5DV_OBJ_AH == 16"),
        ("offsetof(struct mlx5dv_cq, cqn) == 32", "offsetof(struct mlx5dv_cq, cqn) == 36"),
        ("int(struct mlx5dv_obj *, uint64_t)", "int(struct mlx5dv_obj *, uint32_t)"),
    ] {
        let broken = text.replace(right, wrong);
        assert_ne!(broken, text, "{right}");
        assert!(compile(&broken, "dv_canary.c").is_some(), "{wrong}");
    }
}
