//! The harness itself: it waits for what it says, no longer than it says, and leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::env;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use thirl_tests::harness::{self, Deadline, Line, Program, ProgramError};
use thirl_tests::requires;

const LIMIT: Duration = Duration::from_secs(20);

fn shell(script: &str) -> Program {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    Program::spawn(command).unwrap()
}

#[test]
fn waits_pass_over_lines_once() {
    let mut program = shell("echo one 1; echo two; echo one 2; read line; echo \"$line\" >&2");
    assert_eq!(program.wait_for_line("one", LIMIT).unwrap(), "one 1");
    assert_eq!(program.wait_for_line("one", LIMIT).unwrap(), "one 2");
    program.write_line("three").unwrap();
    let is_error = |line: &Line| matches!(line, Line::Err(_)).then(|| line.text().to_owned());
    assert_eq!(program.wait_for("an error", LIMIT, is_error).unwrap(), "three");
    assert!(program.wait_for_end(LIMIT).unwrap().success());
    assert_eq!(program.output(), "  out| one 1\n  out| two\n  out| one 2\n  err| three\n");
}

#[test]
fn json_is_found_among_other_lines() {
    let mut program = shell(r#"echo '{"stream":"err"}' >&2; echo hello; echo '{"stream":"out"}'; cat"#);
    assert_eq!(program.wait_for_json(LIMIT).unwrap()["stream"], "out");
}

#[test]
fn a_line_that_does_not_come_is_an_error_with_all_that_did() {
    let mut program = shell("echo hello; cat");
    let limit = Duration::from_millis(200);
    let error = program.wait_for_line("world", limit).unwrap_err();
    assert!(matches!(&error, ProgramError::TooLate { output, .. } if output == "  out| hello\n"), "{error}");
    program.close_stdin();
    let error = program.wait_for_line("world", LIMIT).unwrap_err();
    assert!(matches!(error, ProgramError::Ended { .. }), "{error}");
    let error = shell("cat").wait_for_end(limit).unwrap_err();
    assert!(matches!(error, ProgramError::TooLate { .. }), "{error}");
}

#[test]
fn signals_and_status() {
    let mut program =
        shell("trap 'echo got it; exit 3' TERM; echo ready; while :; do read line || exit 4; done");
    program.wait_for_line("ready", LIMIT).unwrap();
    program.signal("TERM").unwrap();
    // A shell that was about to read needs a line to see the signal; one that has ended takes none.
    let _ = program.write_line("");
    assert_eq!(program.wait_for_end(LIMIT).unwrap().code(), Some(3));
    assert!(program.output().contains("got it"));
}

#[test]
fn a_dropped_program_is_killed() {
    let mut program = shell("echo ready; exec cat");
    program.wait_for_line("ready", LIMIT).unwrap();
    let process = format!("/proc/{}", program.id());
    assert!(Path::new(&process).exists());
    drop(program);
    assert!(!Path::new(&process).exists());
}

#[test]
fn deadlines_pass() {
    let deadline = Deadline::after(Duration::ZERO);
    assert!(deadline.has_passed());
    assert!(!Deadline::after(LIMIT).has_passed());
    assert_eq!(deadline.remaining(), Duration::ZERO);
}

#[test]
fn our_programs_are_there() {
    for program in [harness::thirl(), harness::turn_relay(), harness::stun_server()] {
        assert!(program.is_file(), "{}", program.display());
    }
}

/// It starts itself, as a test that cannot run.
#[test]
fn a_test_that_cannot_run_says_so_and_fails_where_all_have_to() {
    const CHILD: &str = "THIRL_HARNESS_CHILD";
    if env::var_os(CHILD).is_some() {
        requires!(Err::<(), _>("no moon\ntonight"));
        return;
    }
    let name = "a_test_that_cannot_run_says_so_and_fails_where_all_have_to";
    for (require_all, passes) in [("0", true), ("1", false)] {
        let mut test = Command::new(env::current_exe().unwrap());
        test.args(["--exact", name]).env(CHILD, "1").env("THIRL_REQUIRE_ALL", require_all);
        let output = test.output().unwrap();
        assert_eq!(output.status.success(), passes);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(&format!("COULD NOT RUN {name}: no moon / tonight\n")), "{said}");
    }
}
