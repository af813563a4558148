//! `cargo xtask fuzz`: libFuzzer around the bodies in `tests/src/fuzz`, by cargo-fuzz on nightly.

use std::fs;
use std::io;
use std::process::Command;
use std::time::Duration;

use crate::report::{Report, Row};
use crate::shell::{self, Ended, Watch};
use crate::workspace::Workspace;

/// The longest that one target may take.
const LIMIT: Duration = Duration::from_secs(24 * 3600);

/// What to fuzz, and for how long.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only this target
    target: Option<String>,
    /// Executions for each target
    #[arg(long, default_value_t = 1_000_000)]
    runs: u64,
    /// The longest input, in bytes
    #[arg(long, default_value_t = 1024)]
    max_len: usize,
    /// Keep only the inputs in the corpus that reach something which no other does, and fuzz nothing
    #[arg(long)]
    minimise: bool,
}

/// Adds a row for each target. What is new goes to `target/fuzz/corpus`, so the corpus in the repository is only read.
pub(crate) fn run(workspace: &Workspace, options: &Options, report: &mut Report) -> io::Result<()> {
    if !shell::succeeds(Command::new("cargo").args(["+nightly", "fuzz", "--version"])) {
        let reason = "no cargo-fuzz on nightly: rustup toolchain install nightly && cargo install cargo-fuzz";
        report.add(Row::could_not("fuzz", Duration::ZERO, reason));
        return Ok(());
    }
    let mut targets: Vec<_> = fs::read_dir(workspace.root.join("fuzz/fuzz_targets"))?
        .filter_map(|file| Some(file.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .filter(|target| options.target.as_ref().is_none_or(|wanted| wanted == target))
        .collect();
    targets.sort();
    if targets.is_empty() {
        let reason = format!("there is no such target: ls {}/fuzz/fuzz_targets", workspace.root.display());
        report.add(Row::failed("fuzz", Duration::ZERO, reason));
    }
    for target in targets {
        let mut command =
            if options.minimise { minimise(&target) } else { fuzz(workspace, &target, options)? };
        command.current_dir(&workspace.root).env("CARGO_TARGET_DIR", workspace.target.join("fuzz"));
        let (watch, name) = (Watch::start(), format!("fuzz: {target}"));
        report.add(match shell::run(&mut command, LIMIT, |_| {})? {
            Ended::Success => Row::passed(&name, watch.time()),
            _ => Row::failed(&name, watch.time(), "see above; the input stands in fuzz/artifacts"),
        });
    }
    Ok(())
}

/// Without a sanitizer: what is fuzzed has no `unsafe`, and assertions and overflow checks are on.
fn fuzz(workspace: &Workspace, target: &str, options: &Options) -> io::Result<Command> {
    let found = workspace.target.join("fuzz/corpus").join(target);
    fs::create_dir_all(&found)?;
    let mut command = Command::new("cargo");
    command.args(["+nightly", "fuzz", "run", "--sanitizer", "none", target]).arg(found);
    command.arg(format!("fuzz/corpus/{target}")).arg("--");
    command.args([format!("-runs={}", options.runs), format!("-max_len={}", options.max_len)]);
    command.args(["-timeout=10", "-print_final_stats=1"]);
    Ok(command)
}

fn minimise(target: &str) -> Command {
    let mut command = Command::new("cargo");
    command.args(["+nightly", "fuzz", "cmin", "--sanitizer", "none", target]);
    command
}
