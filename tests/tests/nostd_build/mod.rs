//! Builds the package `tests/nostd`, which has its own profile, and reads what came out with binutils.

use std::path::{Path, PathBuf};
use std::process::Command;

/// One build of `tests/nostd`.
pub(crate) struct Build<'a> {
    /// `--lib`, `--bin=NAME` or `--example=NAME`.
    pub(crate) target: &'a str,
    /// `dev` keeps every call; `release` is what ships.
    pub(crate) profile: &'a str,
    /// Flags for rustc on the last crate.
    pub(crate) flags: &'a [&'a str],
}

impl Build<'_> {
    /// Builds, and returns the folder of the result.
    pub(crate) fn run(&self) -> PathBuf {
        // No two builds write the same file, so they share what is below them.
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nostd");
        let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("nostd");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.arg("rustc").arg("--locked").arg(self.target).current_dir(&package);
        command.args(["--profile", self.profile]);
        command.arg("--").args(self.flags);
        for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTC_WRAPPER"]
        {
            command.env_remove(name);
        }
        let output = command.env("CARGO_TARGET_DIR", &folder).output().expect("cargo runs");
        assert!(
            output.status.success(),
            "tests/nostd does not build ({}):\n{}",
            self.target,
            String::from_utf8_lossy(&output.stderr)
        );
        folder.join(if self.profile == "dev" { "debug" } else { self.profile })
    }
}

/// The output of a program of binutils.
pub(crate) fn read_object(program: &str, arguments: &[&str], object: &Path) -> String {
    let output = Command::new(program).args(arguments).arg(object).output();
    let output = output
        .unwrap_or_else(|error| panic!("{program}: {error}; remedy: apt-get install binutils"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
