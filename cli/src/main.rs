//! `thirl`: serve, listen, ping, nat, ice.
//!
//! Answers go to standard output, logs and reports to standard error. Exit codes: 0 done, 1 it did not work, 2 the
//! command or the configuration is wrong.

mod commands;
mod error;
mod resolve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use thirl_stun_server::operation::{Log, LogSettings};

use commands::{ice, listen, nat, ping, serve, settings};

/// Direct paths between machines behind NATs, and a relay where there is none.
#[derive(Parser)]
#[command(name = "thirl", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// Say more on standard error: -v what happens, -vv every step. RUST_LOG goes before it.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Subcommand)]
enum Command {
    /// Run a server: STUN, TURN and signalling.
    Serve(serve::Arguments),
    /// Wait for peers: prints a ticket for them.
    Listen(listen::Arguments),
    /// Connect to the node of a ticket and measure round trips.
    Ping(ping::Arguments),
    /// Say what the network does to packets on their way out.
    Nat(nat::Arguments),
    /// An ICE end for scripts: JSON lines on standard input and output.
    Ice(ice::Arguments),
    /// Print the reference of all settings of the servers, as docs/settings.md has it.
    #[command(hide = true)]
    Settings,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let level = level(arguments.verbose);
    // A server has settings for its log.
    if !matches!(arguments.command, Command::Serve(_)) {
        Log::start(&LogSettings::default(), level);
    }
    let outcome = match arguments.command {
        Command::Serve(arguments) => serve::run(&arguments, level),
        Command::Listen(arguments) => commands::block_on(listen::run(arguments)),
        Command::Ping(arguments) => commands::block_on(ping::run(arguments)),
        Command::Nat(arguments) => commands::block_on(nat::run(arguments)),
        Command::Ice(arguments) => commands::block_on(ice::run(arguments)),
        Command::Settings => settings::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(words) = failure.words() {
                eprintln!("thirl: {words}");
            }
            failure.exit_code()
        }
    }
}

/// Logs are for whoever runs the command: warnings only, unless asked for more.
fn level(verbose: u8) -> &'static str {
    match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    }
}
