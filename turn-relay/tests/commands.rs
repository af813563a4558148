//! `turn-relay check-config` and `import-coturn`, as an operator runs them.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::PathBuf;
use std::process::{Command, Output};

/// A file that is gone when the test is.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, text: &str) -> TempFile {
        let path = std::env::temp_dir().join(format!("thirl-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        TempFile(path)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

fn turn_relay(arguments: &[&str]) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_turn-relay")).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, errors)
}

#[test]
fn settings_are_checked_without_a_server() {
    let good = TempFile::new("good.toml", "listening-port = 3478\nuser = [\"a:b\"]\n");
    let (output, errors) = turn_relay(&["check-config", "--config", good.0.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let bad = TempFile::new("bad.toml", "realm = \"x\"\nmin-port = 70000\n");
    let (output, errors) = turn_relay(&["check-config", "--config", bad.0.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("bad.toml:2: min-port:") && errors.contains("hint:"), "{errors}");
    let (output, errors) = turn_relay(&["check-config", "--max-port", "0"]);
    assert_eq!(output.status.code(), Some(2), "{errors}");
}

#[test]
fn what_is_imported_can_be_used() {
    let conf = TempFile::new(
        "turnserver.conf",
        "listening-port=3478\nuse-auth-secret\nstatic-auth-secret=north\nredis-userdb=x\n",
    );
    let (output, errors) = turn_relay(&["import-coturn", conf.0.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert!(errors.contains("turnserver.conf:4: redis-userdb:"), "{errors}");
    let toml = TempFile::new("imported.toml", &String::from_utf8(output.stdout).unwrap());
    let (output, errors) = turn_relay(&["check-config", "--config", toml.0.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{errors}");
}

#[test]
fn what_cannot_be_used_is_refused_after_it_is_printed() {
    let conf = TempFile::new("names.conf", "listening-ip=turn.example.org\n");
    let (output, errors) = turn_relay(&["import-coturn", conf.0.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stdout).contains("turn.example.org"));
    assert!(errors.contains("listening-ip") && errors.contains("hint:"), "{errors}");
    assert_eq!(turn_relay(&["import-coturn", "/nonexistent.conf"]).0.status.code(), Some(2));
}
