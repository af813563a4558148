//! What CI looks at besides tests, cheap things first.

use std::io;
use std::process::Command;
use std::time::Duration;

use crate::report::{Report, Row};
use crate::shell::{self, Ended, Watch};
use crate::workspace::Workspace;

/// A compilation from nothing on two cores takes a third of it.
const LIMIT: Duration = Duration::from_secs(600);

/// The crates whose cores are free of runtime and system calls, each with the features that keep them so.
const CORES: [(&str, &str); 6] = [
    ("thirl-common", ""),
    ("thirl-common", "std"),
    ("thirl-stun-server", ""),
    ("thirl-turn-relay", ""),
    ("thirl-ice-agent", ""),
    ("thirl-overlay", ""),
];
const FORBIDDEN: [&str; 2] = ["tokio", "libc"];

/// Adds a row for each check.
pub(crate) fn run(workspace: &Workspace, report: &mut Report) {
    step(report, "formatting", &mut workspace.cargo(&["fmt", "--all", "--check"]));
    for (package, features) in CORES {
        let watch = Watch::start();
        let name = if features.is_empty() {
            format!("core of {package}")
        } else {
            format!("core of {package}, {features}")
        };
        report.add(match core_tree(workspace, package, features) {
            Ok(()) => Row::passed(&name, watch.time()),
            Err(reason) => Row::failed(&name, watch.time(), reason),
        });
    }
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    step(report, "lints", &mut workspace.cargo(&clippy));
    let mut docs = workspace.cargo(&["doc", "--workspace", "--no-deps"]);
    step(report, "docs", docs.env("RUSTDOCFLAGS", "--deny warnings"));
    deny(workspace, report);
}

fn step(report: &mut Report, name: &str, command: &mut Command) {
    let watch = Watch::start();
    let mut last_error = None;
    let ended = shell::run(command, LIMIT, |line| {
        if line.starts_with("error") && last_error.is_none() {
            last_error = Some(line.to_owned());
        }
    });
    report.add(match ended {
        Ok(Ended::Success) => Row::passed(name, watch.time()),
        Ok(Ended::Failure(status)) => Row::failed(name, watch.time(), last_error.unwrap_or(status)),
        Ok(Ended::TooLate(limit)) => Row::failed(name, watch.time(), format!("not finished after {limit:?}")),
        Err(error) => Row::failed(name, watch.time(), error.to_string()),
    });
}

/// Checks that a core compiles alone and that nothing forbidden is among its dependencies.
fn core_tree(workspace: &Workspace, package: &str, features: &str) -> Result<(), String> {
    let selection = ["-p", package, "--no-default-features", "--features", features];
    let mut check = workspace.cargo(&["check"]);
    match shell::run(check.args(selection), LIMIT, |_| {}).map_err(|error| error.to_string())? {
        Ended::Success => {}
        _ => return Err("does not compile without its drivers".into()),
    }
    let tree = |more: &[&str]| -> io::Result<String> {
        let output = workspace.cargo(&["tree", "--edges", "normal"]).args(selection).args(more).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let dependencies = tree(&["--prefix", "none", "--format", "{p}"]).map_err(|error| error.to_string())?;
    if !dependencies.starts_with(package) {
        return Err(format!("cargo tree shows no {package}"));
    }
    for forbidden in FORBIDDEN {
        if dependencies.lines().any(|line| line.split(' ').next() == Some(forbidden)) {
            let path = tree(&["--invert", forbidden]).unwrap_or_default();
            println!("{package}: the core may not depend on {forbidden}, but does:\n{path}");
            let path: Vec<_> =
                path.lines().map(|line| line.trim_start_matches([' ', '│', '└', '├', '─'])).collect();
            return Err(format!("depends on {forbidden}: {}", path.join(" ← ")));
        }
    }
    Ok(())
}

fn deny(workspace: &Workspace, report: &mut Report) {
    if shell::succeeds(&mut workspace.cargo(&["deny", "--version"])) {
        step(report, "licences and advisories", &mut workspace.cargo(&["deny", "check"]));
    } else {
        let reason =
            "no cargo-deny, which checks licences and known vulnerabilities: cargo install cargo-deny";
        report.add(Row::could_not("licences and advisories", Duration::ZERO, reason));
    }
}
