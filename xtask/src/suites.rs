//! Builds everything once, runs each test executable by itself and reads what libtest prints.
//!
//! A suite is one test executable or the doc tests of one crate, so a new file in `tests/tests/` is a new row.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::report::{Report, Row};
use crate::shell::{self, Ended, Watch};
use crate::workspace::Workspace;

/// The longest that one suite may take.
const LIMIT: Duration = Duration::from_secs(300);
const INTEGRATION: &str = "thirl-tests";

/// Builds, then runs the suites whose name contains `filter` and adds a row for each that has tests.
pub(crate) fn run(
    workspace: &Workspace,
    filter: Option<&str>,
    require_all: bool,
    report: &mut Report,
) -> io::Result<()> {
    let environment = Environment { workspace, require_all };
    let mut suites = build(workspace, report)?;
    suites.sort_by(|a, b| (a.integration, &a.name).cmp(&(b.integration, &b.name)));
    for suite in suites.iter().filter(|suite| filter.is_none_or(|part| suite.name.contains(part))) {
        let mut command = Command::new(&suite.executable);
        environment.set(&mut command);
        command.current_dir(&suite.directory).env("CARGO_MANIFEST_DIR", &suite.directory);
        let watch = Watch::start();
        let mut tally = Tally::default();
        let ended = shell::run(&mut command, LIMIT, |line| tally.read(line))?;
        add(report, tally.row(&suite.name, &ended, watch.time()));
    }
    if filter.is_none_or(|part| "doc tests".contains(part)) {
        doc_tests(&environment, report)?;
    }
    Ok(())
}

struct Suite {
    name: String,
    integration: bool,
    executable: PathBuf,
    directory: PathBuf,
}

/// One command, so that everything agrees on features: programs, tests and examples.
fn build(workspace: &Workspace, report: &mut Report) -> io::Result<Vec<Suite>> {
    let watch = Watch::start();
    let mut cargo = workspace.cargo(&[
        "build",
        "--workspace",
        "--lib",
        "--bins",
        "--examples",
        "--tests",
        "--keep-going",
    ]);
    cargo.arg("--message-format=json-render-diagnostics").stdin(Stdio::null()).stderr(Stdio::inherit());
    println!("\n$ cargo build --workspace --lib --bins --examples --tests");
    let output = cargo.output()?;
    report.add(match output.status.success() {
        true => Row::passed("build", watch.time()),
        false => Row::failed("build", watch.time(), "does not compile: see the errors above"),
    });
    let messages = String::from_utf8_lossy(&output.stdout);
    Ok(messages.lines().filter_map(|line| suite(workspace, &serde_json::from_str(line).ok()?)).collect())
}

/// The suite of a message of cargo, if it is about a test executable.
fn suite(workspace: &Workspace, message: &Value) -> Option<Suite> {
    if message["profile"]["test"] != true {
        return None;
    }
    let executable = PathBuf::from(message["executable"].as_str()?);
    let manifest = PathBuf::from(message["manifest_path"].as_str()?);
    let package = workspace.package(&manifest);
    let target = message["target"]["name"].as_str()?;
    let integration = package == INTEGRATION && message["target"]["kind"][0] == "test";
    let name = match message["target"]["kind"][0].as_str()? {
        "test" if integration => target.to_owned(),
        "test" => format!("{package}: {target}"),
        "bin" => format!("{package}: unit tests of the program {target}"),
        _ => format!("{package}: unit tests"),
    };
    Some(Suite { name, integration, executable, directory: manifest.parent()?.to_owned() })
}

/// Cargo names the crate on a line before its doc tests.
fn doc_tests(environment: &Environment<'_>, report: &mut Report) -> io::Result<()> {
    let mut cargo = environment.workspace.cargo(&["test", "--workspace", "--doc", "--no-fail-fast"]);
    environment.set(&mut cargo);
    let watch = Watch::start();
    let mut suites: Vec<(String, Tally, Duration)> = Vec::new();
    let mut first_error = None;
    let ended = shell::run(&mut cargo, LIMIT, |line| {
        if let Some(name) = line.trim_start().strip_prefix("Doc-tests ") {
            suites.push((format!("{}: doc tests", name.replace('_', "-")), Tally::default(), watch.time()));
        } else if let Some((_, tally, _)) = suites.last_mut() {
            tally.read(line);
        } else if line.starts_with("error") && first_error.is_none() {
            first_error = Some(line.to_owned());
        }
    })?;
    let ends: Vec<Duration> = suites.iter().skip(1).map(|suite| suite.2).chain([watch.time()]).collect();
    let complete = ended == Ended::Success || suites.iter().any(|(_, tally, _)| tally.failed > 0);
    for ((name, tally, start), end) in suites.into_iter().zip(ends) {
        add(report, tally.row(&name, &Ended::Success, end.saturating_sub(start)));
    }
    if !complete {
        let reason = first_error.unwrap_or_else(|| format!("{ended:?}"));
        report.add(Row::failed("doc tests", watch.time(), reason));
    }
    Ok(())
}

fn add(report: &mut Report, row: Row) {
    if row.passed + row.failed + row.could_not > 0 {
        report.add(row);
    }
}

/// What the tests are told by environment variables; `thirl_tests::harness` reads them.
struct Environment<'a> {
    workspace: &'a Workspace,
    require_all: bool,
}

impl Environment<'_> {
    fn set(&self, command: &mut Command) {
        command.env("THIRL_BIN_DIR", self.workspace.target.join("debug"));
        command.env("THIRL_PYTHON", self.workspace.venv().join("bin/python"));
        if self.require_all {
            command.env("THIRL_REQUIRE_ALL", "1");
        }
    }
}

/// What libtest said so far.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
    ignored: usize,
    /// `test result` was printed.
    complete: bool,
    failed_tests: BTreeSet<String>,
    /// Test and reason.
    could_not: BTreeSet<(String, String)>,
}

impl Tally {
    fn read(&mut self, line: &str) {
        if let Some((_, rest)) = line.split_once("COULD NOT RUN ") {
            let (test, reason) = rest.split_once(": ").unwrap_or((rest, ""));
            self.could_not.insert((test.to_owned(), reason.to_owned()));
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            let count = |what: &str| {
                let words: Vec<&str> = counts.split([' ', ';']).filter(|word| !word.is_empty()).collect();
                let number =
                    words.iter().position(|&word| word == what).and_then(|at| words.get(at.checked_sub(1)?));
                number.and_then(|number| number.parse::<usize>().ok()).unwrap_or(0)
            };
            self.passed += count("passed");
            self.failed += count("failed");
            self.ignored += count("ignored");
            self.complete = true;
        } else if let Some(test) =
            line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failed_tests.insert(test.to_owned());
        }
    }

    fn row(self, name: &str, ended: &Ended, time: Duration) -> Row {
        let mut reasons = BTreeSet::new();
        let mut could_not = self.ignored;
        for (test, reason) in self.could_not {
            // A test that had to run has failed.
            if !self.failed_tests.contains(&test) {
                could_not += 1;
            }
            reasons.insert(reason);
        }
        reasons.extend(self.failed_tests.iter().map(|test| format!("{test} failed")));
        let mut failed = self.failed;
        match ended {
            Ended::TooLate(limit) => {
                failed += 1;
                reasons.insert(format!("not finished after {limit:?}"));
            }
            Ended::Failure(status) if !self.complete => {
                failed += 1;
                reasons.insert(format!("ended early: {status}"));
            }
            Ended::Failure(status) if failed == 0 => {
                failed += 1;
                reasons.insert(status.clone());
            }
            _ => {}
        }
        let passed = self.passed.saturating_sub(could_not - self.ignored);
        Row { name: name.into(), passed, failed, could_not, reasons, time }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(lines: &[&str], ended: &Ended) -> Row {
        let mut tally = Tally::default();
        lines.iter().for_each(|line| tally.read(line));
        tally.row("suite", ended, Duration::ZERO)
    }

    const SUCCESS: &str =
        "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s";
    const FAILURE: &str =
        "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";

    #[test]
    fn a_test_that_could_not_run_has_not_passed() {
        let row = row(&["test a ... COULD NOT RUN b: no nft: really", SUCCESS], &Ended::Success);
        assert_eq!((row.passed, row.failed, row.could_not), (2, 0, 2));
        assert_eq!(row.reasons, ["no nft: really".to_owned()].into());
    }

    #[test]
    fn a_test_that_had_to_run_is_counted_once() {
        let lines = ["COULD NOT RUN b: no nft", "test b ... FAILED", FAILURE];
        let row = row(&lines, &Ended::Failure("exit status: 101".into()));
        assert_eq!((row.passed, row.failed, row.could_not), (2, 1, 0));
        assert!(row.reasons.contains("b failed") && row.reasons.contains("no nft"), "{:?}", row.reasons);
    }

    #[test]
    fn an_executable_that_dies_or_hangs_has_failed() {
        for ended in [Ended::Failure("signal: 6".into()), Ended::TooLate(LIMIT)] {
            assert_eq!(row(&["running 3 tests"], &ended).failed, 1, "{ended:?}");
        }
        assert_eq!(row(&[SUCCESS], &Ended::Failure("exit status: 1".into())).failed, 1);
    }
}
