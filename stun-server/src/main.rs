//! `stun-server`: tells clients which address their packets come from.

use std::process::ExitCode;

use clap::Command;
use thirl_common::config::{Flags, Values};
use thirl_common::net::Transport;
use thirl_stun_server::operation::{self, Configuration, Log, Operated, Operation, Signals};
use thirl_stun_server::server::{Running, Server};
use thirl_stun_server::shard::Handed;
use thirl_stun_server::{program, settings};

fn main() -> ExitCode {
    let command = Command::new("stun-server")
        .version(env!("CARGO_PKG_VERSION"))
        .about("STUN server (RFC 8489, RFC 5780): tells clients which address their packets come from");
    let matches = Flags::augment(command, settings::KEYS).get_matches();
    program::exit_code("stun-server", run(Flags::from_matches(&matches, settings::KEYS)))
}

fn run(flags: Flags) -> Result<(), program::Failure> {
    let configuration = Configuration::read(settings::KEYS, flags)?;
    let mut config = settings::config(configuration.values())?;
    let operation = operation::settings(configuration.values())?;
    let log = Log::start(&operation.log, "info");
    program::raise_open_files_limit();
    config.listen.adopt(Handed::from_environment()?);
    program::log_security(&config.listen);
    operation::forgo_new_privileges();
    let signals = Signals::catch()?;
    let running = Server::start(&config)?;
    let _monitor = program::monitor(&operation, || running.observed())?;
    program::drop_privileges(&operation)?;
    for (transport, addr) in running.local_addrs() {
        let (scheme, remark) = match transport {
            Transport::Udp => ("stun", ""),
            Transport::Tcp => ("stun", "  (TCP)"),
            Transport::Tls => ("stuns", ""),
            Transport::Dtls => ("stuns", "  (DTLS)"),
        };
        program::print_line(&format!("{scheme}:{addr}{remark}"));
    }
    operation::run(&signals, operation, &mut OperatedServer { running: &running, configuration, log });
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

struct OperatedServer<'r> {
    running: &'r Running,
    configuration: Configuration,
    log: Log,
}

impl Operated for OperatedServer<'_> {
    fn reload(&mut self) -> Option<Operation> {
        let read = |values: &Values| Ok((settings::config(values)?, operation::settings(values)?));
        let (config, operation) = self.configuration.read_again(read)?;
        self.log.set_level(&operation.log);
        if !self.running.reconfigure(&config) {
            tracing::error!("a shard does not take up the configuration");
            return None;
        }
        tracing::info!("the configuration was read anew and is in use");
        Some(operation)
    }

    fn is_healthy(&self) -> bool {
        self.running.is_healthy()
    }

    fn configuration(&self) -> &Configuration {
        &self.configuration
    }
}
