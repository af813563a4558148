//! Tests that cannot run on a machine say so by name and reason; `cargo xtask test` collects the lines.

use std::env;
use std::io::Write as _;
use std::path::PathBuf;

use crate::natlab::Unavailable;

/// Returns from the test, saying so, if the expression is an `Err`; is its value otherwise.
///
/// ```no_run
/// # use thirl_tests::{harness, natlab, requires};
/// # fn test() {
/// requires!(natlab::availability());
/// let turnutils = requires!(harness::installed("turnutils_uclient", "coturn", "is the TURN client of others"));
/// # }
/// ```
#[macro_export]
macro_rules! requires {
    ($answer:expr) => {
        match $answer {
            Ok(value) => value,
            Err(reason) => {
                fn here() {}
                $crate::harness::could_not_run(std::any::type_name_of_val(&here), &reason);
                return;
            }
        }
    };
}

/// Reports a test that could not run; [`requires!`](crate::requires) calls it.
///
/// # Panics
/// With `THIRL_REQUIRE_ALL=1`, as `cargo xtask ci` sets it: then every test has to run.
#[track_caller]
pub fn could_not_run(place: &str, reason: &impl std::fmt::Display) {
    let test = place.trim_end_matches("::here").trim_end_matches("::{{closure}}");
    let test = test.split_once("::").map_or(test, |(_, name)| name);
    let reason = reason.to_string().replace('\n', " / ");
    // Written past libtest, which would swallow it since the test passes.
    let _ = writeln!(std::io::stderr().lock(), "\nCOULD NOT RUN {test}: {reason}");
    assert!(env::var_os("THIRL_REQUIRE_ALL").is_none_or(|v| v != "1"), "{test} has to run here: {reason}");
}

/// Finds a program of others.
///
/// # Errors
/// What is missing, the package to install, and what it `is wanted for` ("is the TURN client of others").
pub fn installed(program: &str, package: &str, purpose: &str) -> Result<PathBuf, Unavailable> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    directories.map(|directory| directory.join(program)).find(|file| file.is_file()).ok_or_else(|| {
        Unavailable { reason: format!("no program `{program}`, which {purpose}: apt-get install {package}") }
    })
}
