//! Runs `thirl nat` again and again behind the NATs of the kernel lab and counts its verdicts: `cargo xtask lab-nat`.

use std::process::ExitCode;

use clap::Parser;
use thirl_tests::judge::{self, Plan, Software};
use thirl_tests::natlab::availability;

/// Runs `thirl nat` behind NATs whose behaviour is known and counts its verdicts.
#[derive(Parser)]
#[command(name = "cargo xtask lab-nat")]
struct Arguments {
    /// Only the case with this name, or else those whose name contains it
    case: Option<String>,
    /// Runs of each case
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// Packets lost on the line, each way, in 1/1000
    #[arg(long, default_value_t = 0)]
    loss: u16,
    /// Ask our `stun-server` instead of coturn
    #[arg(long)]
    ours: bool,
    /// Ask two partners of our `stun-server`, with one address each
    #[arg(long, conflicts_with = "ours")]
    partners: bool,
    /// Labs at the same time
    #[arg(long, default_value_t = 8)]
    labs: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(reason) = availability() {
        eprintln!("nat-judge: {reason}");
        return ExitCode::FAILURE;
    }
    let mut cases = judge::cases();
    if let Some(name) = arguments.case {
        let exists = cases.iter().any(|case| case.name == name);
        cases.retain(|case| if exists { case.name == name } else { case.name.contains(&name) });
    }
    let plan = Plan {
        runs: arguments.runs,
        loss_per_mille: arguments.loss,
        software: match arguments {
            Arguments { ours: true, .. } => Software::Ours,
            Arguments { partners: true, .. } => Software::Partners,
            _ => Software::Coturn,
        },
        labs: arguments.labs,
    };
    let rows = judge::run(&cases, plan);
    for row in &rows {
        row.notes.iter().for_each(|note| println!("{}: {note}", row.name));
    }
    println!("{:44} {:>6} {:>8} {:>6} {:>7}", "case", "right", "unknown", "wrong", "failed");
    rows.iter().for_each(|row| println!("{row}"));
    let wrong =
        rows.iter().any(|row| row.wrong + row.failed > 0 || (plan.loss_per_mille == 0 && row.unknown > 0));
    if wrong || rows.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
