//! Reads libfabric's headers with bindgen. Its operations are static inline functions, which no library exports: bindgen writes a
//! function in C around each, and that is compiled here.
#![cfg_attr(
    feature = "headers",
    expect(clippy::large_stack_frames, reason = "the builder is moved at each step")
)]

#[cfg(not(feature = "headers"))]
const fn main() {}

#[cfg(feature = "headers")]
fn main() -> Result<(), Box<dyn core::error::Error>> {
    use std::io::Write as _;
    use std::path::PathBuf;

    const HEADER: &str = "src/fabric.h";
    writeln!(std::io::stdout(), "cargo::rerun-if-changed={HEADER}")?;
    // Not linked: the library is loaded when it is asked for something.
    let found =
        pkg_config::Config::new().atleast_version("1.17").cargo_metadata(false).probe("libfabric");
    let library = found.map_err(|e| {
        format!("the feature `libfabric` wants libfabric 1.17 or newer: apt-get install libfabric-dev libclang-dev pkg-config\n{e}")
    })?;
    let folder = pkg_config::get_variable("libfabric", "libdir")?;
    writeln!(std::io::stdout(), "cargo::rustc-env=LIBFABRIC_FOLDER={folder}")?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let wrappers = out.join("wrappers");
    let includes = library.include_paths.iter().map(|path| format!("-I{}", path.display()));
    let bindings = bindgen::Builder::default()
        .header(HEADER)
        .clang_args(includes)
        .allowlist_function("fi_.*")
        // The one that calls what the library exports.
        .blocklist_function("fi_allocinfo")
        .allowlist_type("fi_.*|fid.*")
        .allowlist_var("FI_.*")
        .use_core()
        .wrap_unsafe_ops(true)
        .wrap_static_fns(true)
        .wrap_static_fns_path(&wrappers)
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .derive_debug(false)
        .layout_tests(false)
        .generate_comments(false)
        .formatter(bindgen::Formatter::None)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .generate()?;
    bindings.write_to_file(out.join("bindings.rs"))?;
    let mut build = cc::Build::new();
    build.file(wrappers.with_extension("c")).include(".").includes(&library.include_paths);
    // A handle is the first member of its structure, and what lies in the library is no concern of this build.
    build.warnings(false).opt_level(2).try_compile("spinwire_ofi_wrappers")?;
    Ok(())
}
