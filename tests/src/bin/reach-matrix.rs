//! Runs pairs of network situations on both instruments and prints the matrix: `cargo xtask reach`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::available_parallelism;

use clap::Parser;
use thirl_tests::reach::{
    Instrument, Job, Mode, Outcome, Pair, Plan, Shared, Situation, html, kernel, measure, picture, text,
};

/// Runs pairs of network situations, in the simulation and in the kernel lab, and prints who connects to whom.
///
/// Exits with 1 where a pair does not do what is required of it.
#[derive(Parser)]
#[command(name = "cargo xtask reach")]
struct Arguments {
    /// Only this pair, `A,B`, or all pairs of this situation; may be repeated
    #[arg(long, value_name = "A[,B]")]
    only: Vec<String>,
    /// Runs of each pair in the simulation
    #[arg(long, default_value_t = 50)]
    sim_runs: usize,
    /// Runs of each pair in the kernel lab
    #[arg(long, default_value_t = 5)]
    lab_runs: usize,
    /// Runs at the same time; by default four for each processor, since most of the time they wait
    #[arg(long)]
    jobs: Option<usize>,
    /// Ten runs of each pair in the simulation, and one in the kernel lab
    #[arg(long, conflicts_with_all = ["sim_runs", "lab_runs"])]
    quick: bool,
    /// Without the same matrix for standard ICE beside it
    #[arg(long)]
    no_standard: bool,
    /// With aioice at one end, and at both, in the kernel lab beside it
    #[arg(long)]
    aioice: bool,
    /// Write the matrix as a page here, with a picture
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the picture alone here
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print the names that `--only` takes, and what they mean
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        list();
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("reach: {error}");
            ExitCode::from(2)
        }
    }
}

fn list() {
    Situation::all().iter().for_each(|it| println!("{:20} {}", it.name(), it.description()));
    Shared::ALL.iter().for_each(|it| println!("{:20} {}", it.name(), it.description()));
}

/// Whether every pair does what is required.
fn run(arguments: &Arguments) -> Result<bool, String> {
    let plan = plan(arguments)?;
    if plan.runs.contains_key(&Instrument::Lab) {
        let missing = plan.pairs.iter().find_map(|pair| kernel::is_here(*pair).err());
        if let Some(missing) = missing {
            return Err(format!("{missing}\n  hint: --lab-runs 0 leaves the kernel lab out"));
        }
    }
    let matrix = measure(&plan, progress);
    print!("{}", text(&matrix));
    for (file, content) in [(&arguments.html, html as fn(&_) -> _), (&arguments.svg, picture)] {
        let Some(file) = file else { continue };
        fs::write(file, content(&matrix)).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(matrix.missed().is_empty())
}

fn plan(arguments: &Arguments) -> Result<Plan, String> {
    let (simulated, lab) = match arguments.quick {
        true => (10, 1),
        false => (arguments.sim_runs, arguments.lab_runs),
    };
    let runs = [(Instrument::Simulation, simulated), (Instrument::Lab, lab)];
    let modes = [
        (Mode::Thirl, true),
        (Mode::Standard, !arguments.no_standard),
        (Mode::Mixed, arguments.aioice),
        (Mode::Aioice, arguments.aioice),
    ];
    let processors = available_parallelism().map_or(1, usize::from);
    Ok(Plan {
        pairs: pairs(&arguments.only)?,
        modes: modes.into_iter().filter_map(|(mode, wanted)| wanted.then_some(mode)).collect(),
        runs: runs.into_iter().filter(|(_, runs)| *runs > 0).collect(),
        jobs: arguments.jobs.unwrap_or(4 * processors),
    })
}

fn pairs(only: &[String]) -> Result<Vec<Pair>, String> {
    let mut pairs = Pair::all();
    if only.is_empty() {
        return Ok(pairs);
    }
    let matches = |pair: &Pair, name: &str| Pair::named(name) == Some(*pair) || pair.involves(name);
    if let Some(unknown) = only.iter().find(|name| !pairs.iter().any(|pair| matches(pair, name))) {
        return Err(format!("there is no {unknown}: --list prints the names"));
    }
    pairs.retain(|pair| only.iter().any(|name| matches(pair, name)));
    Ok(pairs)
}

/// What came to less than expected is told at once; it may take an hour.
fn progress(job: &Job, outcome: &Result<Outcome, String>, left: usize) {
    let Job { pair, instrument, mode, run, .. } = job;
    let run = format!("{pair}, {}, {}, run {run}", instrument.name(), mode.name());
    match outcome {
        Err(why) => eprintln!("{run}: no outcome: {why}"),
        Ok(outcome) if !outcome.notes.is_empty() && *mode == Mode::Thirl => {
            eprintln!("{run}: {}", outcome.notes.join("\n  "));
        }
        Ok(_) if left.is_multiple_of(50) && *instrument == Instrument::Lab => eprintln!("{left} runs left"),
        Ok(_) => {}
    }
}
