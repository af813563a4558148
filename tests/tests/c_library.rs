//! The library for C: its example is built with the system's compiler against the header, and run.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use thirl_tests::harness::{self, Program};
use thirl_tests::requires;

const LIMIT: Duration = Duration::from_secs(60);
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../ice-agent-c");

/// Compiles as whoever wants no warnings would.
fn compile(compiler: &Path, arguments: &[&str]) {
    let mut command = Command::new(compiler);
    command.args(["-Wall", "-Wextra", "-Wpedantic", "-Werror"]).arg(format!("-I{SOURCES}/include"));
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A file that is removed with it.
struct Built(PathBuf);

impl Built {
    fn at(name: &str) -> Built {
        Built(std::env::temp_dir().join(format!("thirl-{name}-{}", std::process::id())))
    }
}

impl Drop for Built {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_example_connects_two_agents() {
    let compiler = requires!(harness::installed("cc", "gcc", "builds the example of our library for C"));
    let (library, example) = (harness::c_library(), Built::at("two-agents"));
    let (source, search) = (format!("{SOURCES}/examples/two_agents.c"), format!("-L{}", library.display()));
    let output = example.0.to_str().unwrap();
    compile(&compiler, &["-std=gnu99", &source, &search, "-lthirl_ice", "-lpthread", "-o", output]);
    let mut command = Command::new(&example.0);
    command.env("LD_LIBRARY_PATH", library);
    let mut program = Program::spawn(command).unwrap().named("two_agents");
    program.wait_for_line("100 datagrams each way", LIMIT).unwrap();
    let ended = program.wait_for_end(LIMIT).unwrap();
    let said = program.output();
    assert!(ended.success(), "{said}");
    assert!(said.contains("alice: completed") && said.contains("bob's candidate:"), "{said}");
}

#[test]
fn the_header_is_for_c_and_for_cpp() {
    let compiler = requires!(harness::installed("cc", "gcc", "compiles the header of our library for C"));
    let header = format!("{SOURCES}/include/thirl_ice.h");
    compile(&compiler, &["-std=c99", "-fsyntax-only", "-x", "c", &header]);
    compile(&compiler, &["-std=c++11", "-fsyntax-only", "-x", "c++", &header]);
}
