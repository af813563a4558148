//! `stun-server`: tells clients which address their packets come from.

use std::process::ExitCode;

use clap::Command;
use thirl_common::config::{Flags, Values};
use thirl_common::net::Transport;
use thirl_stun_server::server::Server;
use thirl_stun_server::{program, settings};

fn main() -> ExitCode {
    let command = Command::new("stun-server")
        .version(env!("CARGO_PKG_VERSION"))
        .about("STUN server (RFC 8489, RFC 5780): tells clients which address their packets come from");
    let matches = Flags::augment(command, settings::KEYS).get_matches();
    program::log_to_stderr();
    program::raise_open_files_limit();
    program::exit_code("stun-server", run(&Flags::from_matches(&matches, settings::KEYS)))
}

fn run(flags: &Flags) -> Result<(), program::Failure> {
    let values = Values::load(settings::KEYS, flags, |name| std::env::var(name).ok())?;
    let config = settings::config(&values)?;
    program::log_security(&config.listen);
    let signals = program::Signals::catch()?;
    let running = Server::start(&config)?;
    for (transport, addr) in running.local_addrs() {
        let (scheme, remark) = match transport {
            Transport::Udp => ("stun", ""),
            Transport::Tcp => ("stun", "  (TCP)"),
            Transport::Tls => ("stuns", ""),
            Transport::Dtls => ("stuns", "  (DTLS)"),
        };
        program::print_line(&format!("{scheme}:{addr}{remark}"));
    }
    let signal = signals.wait(|| running.renew_certificates());
    tracing::info!("{signal}: ending");
    running.shutdown();
    let counters = running.join();
    tracing::info!(
        answered = counters.answered,
        redirected = counters.redirected,
        refused = counters.unknown_attributes + counters.bad_requests,
        dropped = counters.dropped,
        limited = counters.limited,
        "ended"
    );
    Ok(())
}
