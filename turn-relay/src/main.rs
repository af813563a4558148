//! `turn-relay`: a STUN server and TURN relay.

use std::process::ExitCode;

use clap::Command;
use rand::TryRngCore;
use thirl_common::config::{Flags, Values};
use thirl_stun_server::program;
use thirl_turn_relay::announce::Announcement;
use thirl_turn_relay::server::Server;
use thirl_turn_relay::settings::{KEYS, Settings};

fn main() -> ExitCode {
    let command = Command::new("turn-relay")
        .version(env!("CARGO_PKG_VERSION"))
        .about("STUN server and TURN relay (RFC 8489, RFC 8656)");
    let matches = Flags::augment(command, KEYS).get_matches();
    program::log_to_stderr();
    program::raise_open_files_limit();
    program::exit_code("turn-relay", run(&Flags::from_matches(&matches, KEYS)))
}

fn run(flags: &Flags) -> Result<(), program::Failure> {
    let values = Values::load(KEYS, flags, |name| std::env::var(name).ok())?;
    let mut settings = Settings::from_values(&values)?;
    let mut random = [0; 16];
    rand::rngs::OsRng.try_fill_bytes(&mut random).map_err(std::io::Error::other)?;
    let new_secret = settings.ensure_credentials(random);
    let signals = program::Signals::catch()?;
    let running = Server::start(settings.config())?;
    program::print_line(&Announcement::new(&settings, running.local_addrs()).to_string());
    if let Some(secret) = new_secret {
        program::print_line(&format!(
            "static-auth-secret: {secret}  (new; set one to keep credentials over a restart)"
        ));
    }
    let signal = signals.wait();
    tracing::info!("{signal}: ending");
    running.shutdown();
    let report = running.join();
    tracing::info!("{} allocations served", report.engine.allocations_created);
    Ok(())
}
