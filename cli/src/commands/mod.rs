//! One file for each command.

pub(crate) mod ice;
pub(crate) mod listen;
pub(crate) mod nat;
pub(crate) mod node;
pub(crate) mod outward;
pub(crate) mod ping;
pub(crate) mod serve;
pub(crate) mod settings;

use std::future::Future;

use tokio::signal::unix::{SignalKind, signal};

use crate::error::Failure;

/// Runs a command that waits for the network.
pub(crate) fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|error| Failure::of("starting the runtime", error))?.block_on(command)
}

/// Prints one line of JSON.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let line = serde_json::to_string(value).map_err(|error| Failure::of("writing JSON", error))?;
    print_line(&line)
}

/// Prints a line and flushes it: whoever reads it by a pipe waits for it. A reader that went away ends the command.
pub(crate) fn print_line(line: &str) -> Result<(), Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|error| Failure::of("writing to standard output", error))
}

/// Waits for Ctrl-C or SIGTERM, and says which it was.
pub(crate) async fn interrupted() -> &'static str {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Then the signals end the process as they always do.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => "interrupted",
        _ = terminate.recv() => "told to terminate",
    }
}
