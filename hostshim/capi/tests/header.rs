//! `spinwire.h` is what this crate says: generated anew, and compared.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::large_stack_frames,
    reason = "a test stops at the first thing that is not as expected"
)]

use std::fs;
use std::path::Path;

use cbindgen::{Config, DocumentationStyle, EnumConfig, Language, Style};

const ABOUT: &str = "\
/* Generated; change the comments and types in hostshim/capi/src, then: BLESS=1 cargo test -p spinwire-capi --test header
 *
 * libspinwire: pools of buffers that processes share, hand over by a 64-bit id, and lose none of when one of them is killed.
 * It needs C11 or C++11, Linux, 64 bits, little-endian. Link with -lspinwire.
 *
 *   sw_pool pool;  sw_buffer buffer;  void *to;  uint64_t id;
 *   if (sw_pool_open(\"frames\", NULL, &pool) != SW_OK) { fputs(sw_last_error(), stderr); exit(1); }
 *   sw_acquire(pool, 4096, 0, &buffer);         a free buffer, for this thread alone, to write
 *   sw_data_mut(buffer, &to, NULL);
 *   fill(to);
 *   sw_detach(buffer, &id);                     tell the id to anybody, by any way; it takes the buffer by sw_adopt()
 *   sw_pool_close(pool);
 *
 * Rules for all functions:
 *  - The answer is a sw_status: 0, or why nothing was done. Out parameters are written on SW_OK only.
 *  - Pointers point to what their type says, readable, and writable unless const, until the function returns; strings end with
 *    a zero. Null, and pointers that are not aligned, are SW_ARGUMENT where the comment does not allow them; others that point
 *    nowhere cannot be told, as anywhere in C.
 *  - Handles are words, no pointers. Those that are used twice after their end, belong to another thread or to the parent of a
 *    fork(), or never were any, are told: SW_HANDLE, SW_THREAD, SW_FORKED. (The handle in one place of the tables comes round
 *    after 2^28 - 1 uses of that place, the number of a thread after 65,535 others.) The memory that sw_data() gave is a pointer,
 *    and touching it after the end of its handle is not told.
 *  - A handle belongs to the thread that got it. Ids and names are for everybody.
 *  - Not for signal handlers; and no signal ends a wait. The library's thread takes none.
 */";

fn generated() -> String {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut config = Config {
        language: Language::C,
        style: Style::Both,
        cpp_compat: true,
        usize_is_size_t: true,
        include_guard: Some("SPINWIRE_H".to_owned()),
        header: Some(ABOUT.to_owned()),
        documentation_style: DocumentationStyle::C99,
        line_length: 130,
        tab_width: 4,
        no_includes: true,
        sys_includes: ["stddef.h", "stdint.h"].map(str::to_owned).to_vec(),
        enumeration: EnumConfig { enum_class: false, ..EnumConfig::default() },
        ..Config::default()
    };
    config.export.include = ["sw_status", "sw_dtype"].map(str::to_owned).to_vec();
    let mut builder = cbindgen::Builder::new().with_config(config);
    for file in ["types", "pool", "buffer", "describe"] {
        builder = builder.with_src(sources.join(format!("{file}.rs")));
    }
    let mut text = Vec::new();
    builder.generate().unwrap().write(&mut text);
    String::from_utf8(text).unwrap()
}

#[test]
fn header_is_what_the_crate_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/spinwire.h");
    let text = generated();
    if std::env::var_os("BLESS").is_some_and(|value| value == "1") {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        return;
    }
    let stored = fs::read_to_string(&path).unwrap_or_default();
    for (number, (now, was)) in text.lines().zip(stored.lines()).enumerate() {
        assert_eq!(
            was,
            now,
            "line {}: see the command in the first line of the header",
            number + 1
        );
    }
    assert_eq!(stored.lines().count(), text.lines().count(), "lines");
}
