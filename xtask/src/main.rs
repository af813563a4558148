//! The project's own tasks: `cargo xtask test`, `ci`, `bench`, `lab-nat`, `reach`, `soak` and `fuzz`.
//!
//! A task is a list of steps, each of which adds rows to one table: `prepare` (what the tests need of the machine) →
//! `checks` (what CI looks at besides tests) → `suites` (build, run, read) → `report` (the table). `fuzz` stands apart.
//! `shell` runs the commands of all of them.

mod checks;
mod fuzz;
mod prepare;
mod report;
mod shell;
mod suites;
mod workspace;

use std::env;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};
use report::Report;
use workspace::Workspace;

/// The project's own tasks.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the tests need, run everything, and say what ran and what could not
    Test {
        /// Run only suites whose name contains this
        suite: Option<String>,
    },
    /// What CI runs: formatting, lints, docs, cores, licences, then every test; a test that cannot run fails
    Ci,
    /// Run the benchmarks (`cargo xtask bench -- --help`)
    Bench {
        /// Arguments of `thirl-bench`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Let the kernel's NATs judge `thirl nat`, again and again (`cargo xtask lab-nat -- --help`)
    LabNat {
        /// Arguments of `nat-judge`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run every pair of network situations and print who connects to whom, and how (`cargo xtask reach -- --help`)
    Reach {
        /// Arguments of `reach-matrix`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Let clients come, go, vanish, retransmit and lie for a while, and look at what is left of them at the relay
    Soak {
        /// How long
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// How many allocations there are at a time, 20000 at most
        #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u16).range(1..=20_000))]
        allocations: u16,
    },
    /// Fuzz what reads bytes of others, with the corpora in fuzz/corpus (needs nightly and cargo-fuzz)
    Fuzz(fuzz::Options),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Test { suite } => test(suite.as_deref()),
        Task::Ci => ci(),
        Task::Bench { arguments } => bench(&arguments),
        Task::LabNat { arguments } => judged("nat-judge", Profile::Dev, &arguments),
        Task::Reach { arguments } => judged("reach-matrix", Profile::Release, &arguments),
        Task::Soak { minutes, allocations } => soak(minutes, allocations),
        Task::Fuzz(options) => fuzz(&options),
    };
    match done {
        Ok(report) if report.succeeded() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn test(suite: Option<&str>) -> io::Result<Report> {
    let workspace = Workspace::find()?;
    let mut report = Report::default();
    prepare::prepare(&workspace, &mut report);
    suites::run(&workspace, suite, false, &mut report)?;
    report.print();
    Ok(report)
}

fn ci() -> io::Result<Report> {
    let workspace = Workspace::find()?;
    let mut report = Report::default();
    checks::run(&workspace, &mut report);
    prepare::prepare(&workspace, &mut report);
    suites::run(&workspace, None, true, &mut report)?;
    report.print();
    Ok(report)
}

fn fuzz(options: &fuzz::Options) -> io::Result<Report> {
    let mut report = Report::default();
    fuzz::run(&Workspace::find()?, options, &mut report)?;
    report.print();
    Ok(report)
}

/// How what is judged is built.
#[derive(Clone, Copy)]
enum Profile {
    /// Soon there.
    Dev,
    /// For very many runs.
    Release,
}

/// Runs a program of the tests that judges the others.
fn judged(program: &str, profile: Profile, arguments: &[String]) -> io::Result<Report> {
    let workspace = Workspace::find()?;
    let packages = ["thirl", "thirl-stun-server", "thirl-tests"].into_iter().flat_map(|name| ["-p", name]);
    let (options, directory) = match profile {
        Profile::Dev => (&["build", "--bins"][..], "debug"),
        Profile::Release => (&["build", "--bins", "--release"][..], "release"),
    };
    if !workspace.cargo(options).args(packages).status()?.success() {
        return Err(io::Error::other("what is to be judged does not build"));
    }
    let directory = workspace.target.join(directory);
    let mut command = Command::new(directory.join(program));
    command.args(arguments).env("THIRL_BIN_DIR", directory);
    Err(command.env("THIRL_PYTHON", workspace.venv().join("bin/python")).exec())
}

fn soak(minutes: u64, allocations: u16) -> io::Result<Report> {
    let workspace = Workspace::find()?;
    let arguments = ["test", "--release", "-p", "thirl-tests", "--test", "soak", "--", "--nocapture"];
    let mut cargo = workspace.cargo(&arguments);
    cargo.env("THIRL_SOAK_MINUTES", minutes.to_string());
    Err(cargo.env("THIRL_SOAK_ALLOCATIONS", allocations.to_string()).exec())
}

fn bench(arguments: &[String]) -> io::Result<Report> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The benchmarks start our servers from beside their own program.
    let servers = ["build", "--release", "-p", "thirl-turn-relay", "-p", "thirl-stun-server"];
    if !Command::new(&cargo).args(servers).status()?.success() {
        return Err(io::Error::other("our servers do not build"));
    }
    Err(Command::new(cargo)
        .args(["run", "--release", "-p", "thirl-bench", "--features", "peers", "--"])
        .args(arguments)
        .exec())
}
