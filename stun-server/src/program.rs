//! What the server programs have in common: logs, signals, and how they end.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals as Received;
use thirl_common::config::ConfigError;
use tracing_subscriber::EnvFilter;

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

/// Logs what `RUST_LOG` asks for, or what is worth knowing of a server.
pub fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colour).init();
}

/// Takes as many open files as the system lets this process have: each allocation needs one, and the usual limit of 1024 is
/// for programs that use `select`.
pub fn raise_open_files_limit() {
    match rlimit::increase_nofile_limit(rlimit::INFINITY) {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files cannot be raised"),
    }
}

/// Prints a line for whoever started the program, who may read it by a pipe.
pub fn print_line(line: &str) {
    let mut out = io::stdout().lock();
    // A server goes on serving when nobody reads.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Says so if the server has no TLS and no DTLS, and what it takes.
pub fn log_security(listen: &Listen) {
    if listen.secure.is_none() {
        tracing::info!("TLS and DTLS are off: cert and pkey, the paths of PEM files, switch them on");
    }
}

/// SIGHUP, SIGINT and SIGTERM, caught from the moment that this exists.
pub struct Signals(Received);

/// Which of them ends the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// The service manager.
    Terminate,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Signal::Interrupt => "interrupted",
            Signal::Terminate => "told to terminate",
        })
    }
}

impl Signals {
    /// From here on the signals do not end the process.
    pub fn catch() -> io::Result<Signals> {
        Received::new([SIGHUP, SIGINT, SIGTERM]).map(Signals)
    }

    /// Waits for one that ends the program. SIGHUP does not: it asks for what is on disk to be read anew.
    pub fn wait(mut self, mut read_anew: impl FnMut()) -> Signal {
        for signal in self.0.forever() {
            match signal {
                SIGHUP => read_anew(),
                SIGINT => return Signal::Interrupt,
                _ => break,
            }
        }
        Signal::Terminate
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signals")
    }
}
