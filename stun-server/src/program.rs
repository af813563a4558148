//! What the server programs have in common: what they print, and how they end.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use thirl_common::config::ConfigError;
use thirl_common::io::make_room_for_descriptors;

use crate::operation::{Monitor, Observed, Operation};
use crate::shard::{Listen, StartError};

/// Why a server program ends before it was told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The configuration is refused: exit code 2, before any socket was opened.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A socket or a thread could not be had: exit code 1.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Metrics cannot be served: exit code 1.
    #[error("cannot listen on {addr} for metrics: {source} (see prometheus-address and prometheus-port)")]
    Monitor {
        /// Where.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The process cannot become the user that it shall: exit code 1.
    #[error("cannot become proc-user: {0} (start the program as root, or leave proc-user out)")]
    Privileges(#[source] io::Error),
    /// The system refused something else: exit code 1.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Says on standard error why the program ends, and with which code.
pub fn exit_code(program: &str, outcome: Result<(), Failure>) -> ExitCode {
    let Err(failure) = outcome else { return ExitCode::SUCCESS };
    // Nobody to tell is no reason to panic.
    let _ = writeln!(io::stderr(), "{program}: {failure}");
    match failure {
        Failure::Config(_) => ExitCode::from(2),
        _ => ExitCode::from(1),
    }
}

/// Room for so many descriptors is made at the start, if so many may be: as many as an address has ports.
const DESCRIPTORS: u64 = 1 << 16;

/// Takes as many open files as the system lets this process have: each allocation needs one, and the usual limit of 1024 is
/// for programs that use `select`. To be done before there are threads, which would wait for the room that is made.
pub fn raise_open_files_limit() {
    let limit = match rlimit::increase_nofile_limit(rlimit::INFINITY) {
        Ok(limit) => limit,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files cannot be raised");
            return;
        }
    };
    tracing::debug!(limit, "open files");
    let room = usize::try_from(limit.min(DESCRIPTORS)).unwrap_or(usize::MAX);
    if let Err(error) = make_room_for_descriptors(room) {
        tracing::debug!(%error, "no room was made for open files; it will be when they are there");
    }
}

/// Prints a line for whoever started the program, who may read it by a pipe.
pub fn print_line(line: &str) {
    let mut out = io::stdout().lock();
    // A server goes on serving when nobody reads.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Becomes the user that the settings name, which is to be done once all sockets are bound.
pub fn drop_privileges(operation: &Operation) -> Result<(), Failure> {
    let Some(user) = &operation.user else { return Ok(()) };
    user.assume().map_err(Failure::Privileges)
}

/// Serves metrics, if they are wanted.
pub fn monitor(
    operation: &Operation,
    observed: impl FnOnce() -> Arc<dyn Observed>,
) -> Result<Option<Monitor>, Failure> {
    let Some(addr) = operation.monitor else { return Ok(None) };
    let started = Monitor::start(addr, observed());
    started.map(Some).map_err(|source| Failure::Monitor { addr, source })
}

/// Says so if the server has no TLS and no DTLS, and what it takes.
pub fn log_security(listen: &Listen) {
    if listen.secure.is_none() {
        tracing::info!("TLS and DTLS are off: cert and pkey, the paths of PEM files, switch them on");
    }
}
