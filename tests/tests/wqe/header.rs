//! Structures and numbers of `layouts::mlx5` against rdma-core's header: a C program prints what the compiler says of each.

use core::fmt::Write as _;

use spinwire_layouts::describe::StructLayout;
use spinwire_layouts::mlx5;

use super::host_process::Folder;
use super::host_process::private::{not_run, output};

/// How a structure is called in the header. `None`: it is in none (see `layouts::mlx5`, room `atomic`).
fn c_struct(layout: &StructLayout) -> Option<&'static str> {
    Some(match layout.name {
        "CtrlSeg" => "struct mlx5_wqe_ctrl_seg",
        "DataSeg" => "struct mlx5_wqe_data_seg",
        "InlineSeg" => "struct mlx5_wqe_inl_data_seg",
        "SrqNextSeg" => "struct mlx5_wqe_srq_next_seg",
        "RaddrSeg" => "struct mlx5_wqe_raddr_seg",
        "AtomicSeg" => "struct mlx5_wqe_atomic_seg",
        "AddressVector" => "struct mlx5_wqe_av",
        "UmrCtrlSeg" => "struct mlx5_wqe_umr_ctrl_seg",
        "MkeyContextSeg" => "struct mlx5_wqe_mkey_context_seg",
        "KlmSeg" => "struct mlx5_wqe_umr_klm_seg",
        name if name.starts_with("Masked") => return None,
        // Of other rooms' tests.
        _ => return None,
    })
}

fn c_field<'f>(layout: &StructLayout, field: &'f str) -> &'f str {
    match (layout.name, field) {
        ("AddressVector", "qkey") => "key.qkey.qkey",
        ("AddressVector", "reserved") => "key.qkey.reserved",
        (_, field) => field,
    }
}

#[test]
fn structures_and_numbers_are_those_of_the_header() {
    let mut source = "#include <infiniband/mlx5dv.h>\n#include <stddef.h>\n#include <stdio.h>\n\
                      #define SAY(x) printf(\"%llu\\n\", (unsigned long long)(x))\nint main(void) {\n"
        .to_owned();
    let mut ours: Vec<(String, u64)> = Vec::new();
    let mut say = |expression: String, value: u64| {
        writeln!(source, "SAY({expression});").unwrap();
        ours.push((expression, value));
    };
    let wide = |number: usize| u64::try_from(number).unwrap();
    let mut structures = 0;
    for layout in mlx5::LAYOUTS {
        let Some(name) = c_struct(layout) else { continue };
        structures += 1;
        say(format!("sizeof({name})"), wide(layout.size));
        for field in layout.fields {
            let place = c_field(layout, field.name);
            say(format!("offsetof({name}, {place})"), wide(field.offset));
            say(format!("sizeof((({name} *)0)->{place})"), wide(field.size));
        }
    }
    assert!(structures >= 10);
    for number in mlx5::NUMBERS.iter().copied().flatten() {
        // An enumerator of a bit 31 may be a negative int.
        let mask = if number.value >> 31 == 1 { " & 0xffffffff" } else { "" };
        say(format!("{}{mask}", number.name), number.value);
    }
    source.push_str("return 0; }\n");

    let folder = Folder::new();
    let (file, program) = (folder.path().join("header.c"), folder.path().join("header"));
    std::fs::write(&file, source).unwrap();
    let (file, program) = (file.to_str().unwrap(), program.to_str().unwrap());
    if let Err(why) = output("cc", &["-std=gnu11", "-w", "-o", program, file]) {
        let test = "structures_and_numbers_are_those_of_the_header";
        return not_run(test, &format!("{why}; remedy: apt-get install gcc libibverbs-dev"));
    }
    let said = output(program, &[]).unwrap();
    let theirs: Vec<u64> = said.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(theirs.len(), ours.len());
    for ((expression, value), theirs) in ours.iter().zip(theirs) {
        assert_eq!(*value, theirs, "{expression}");
    }
}
