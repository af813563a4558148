//! Our own programs, as built from this checkout, and the Python that has the counterparts from PyPI.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::natlab::Unavailable;

/// The `thirl` command.
///
/// # Panics
/// If our programs cannot be built: then nothing can be tested.
pub fn thirl() -> PathBuf {
    directory().join("thirl")
}

/// The `turn-relay` server.
///
/// # Panics
/// As [`thirl`].
pub fn turn_relay() -> PathBuf {
    directory().join("turn-relay")
}

/// The `stun-server`.
///
/// # Panics
/// As [`thirl`].
pub fn stun_server() -> PathBuf {
    directory().join("stun-server")
}

/// The prober of the NAT lab, a program of this crate.
///
/// # Panics
/// As [`thirl`].
pub fn lab_prober() -> PathBuf {
    directory().join("lab-prober")
}

/// The directory in which the library for C, `libthirl_ice`, is.
///
/// # Panics
/// As [`thirl`].
pub fn c_library() -> &'static Path {
    directory()
}

/// A Python with `tests/requirements.txt` installed: `cargo xtask test` makes it in `target/venv`.
///
/// # Errors
/// If there is none, or the packages are not in it.
pub fn python() -> Result<PathBuf, Unavailable> {
    static ANSWER: OnceLock<Result<PathBuf, Unavailable>> = OnceLock::new();
    ANSWER.get_or_init(find_python).clone()
}

/// Where our programs are: built by `cargo xtask`, which says where, or else built here, once per test process.
fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| env::var_os("THIRL_BIN_DIR").map_or_else(build, PathBuf::from))
}

#[expect(clippy::panic, reason = "documented: without our programs there is nothing to test")]
fn build() -> PathBuf {
    let profile = profile_directory();
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([
        "build",
        "--quiet",
        "--lib",
        "--bins",
        "-p",
        "thirl",
        "-p",
        "thirl-ice-agent-c",
        "-p",
        "thirl-turn-relay",
        "-p",
        "thirl-stun-server",
        "-p",
        "thirl-tests",
    ]);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    if let Some(target) = profile.parent() {
        cargo.env("CARGO_TARGET_DIR", target);
    }
    match cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).status() {
        Ok(status) if status.success() => profile,
        failed => panic!("cannot build the programs under test: {failed:?}"),
    }
}

/// A test is `target/<profile>/deps/<name>-<hash>`.
fn profile_directory() -> PathBuf {
    let own = env::current_exe().unwrap_or_default();
    own.ancestors().nth(2).map(Path::to_owned).unwrap_or_default()
}

fn find_python() -> Result<PathBuf, Unavailable> {
    let venv = profile_directory().parent().map(|target| target.join("venv/bin/python"));
    let python = env::var_os("THIRL_PYTHON").map(PathBuf::from).or(venv).unwrap_or_else(|| "python3".into());
    let found = Command::new(&python)
        .args(["-c", "import aioice, prometheus_client"])
        .output()
        .is_ok_and(|out| out.status.success());
    if found {
        return Ok(python);
    }
    let reason = format!(
        "no tests/requirements.txt in {}: aioice, the ICE agent of others: cargo xtask test",
        python.display()
    );
    Err(Unavailable { reason })
}
