//! Thirl's benchmarks: our servers side by side with their counterparts on the same machine.
//!
//! `cargo xtask bench relay`, `stun`, `codec` and `ice` run them. Reading order: `relay` (what is compared), `network` (what lies
//! between), `load` (the clients and peers), `server` (the processes under load and what they cost), `forwarder` (one of
//! them: what sockets alone cost), `plan` (how often and how long); `stun` (the same for Binding requests, with its own
//! load); apart from these, `codec` (the wire) and `ice` (the agent) beside other crates.
//!
//! The machine is noisy: the sides run in turn, the cost is CPU time and not wall time, and the median of the rounds'
//! ratios is what counts. All traffic stays on loopback or in namespaces of the bench's own, and ends by itself.

mod codec;
mod forwarder;
mod ice;
mod load;
mod network;
mod plan;
mod relay;
mod server;
mod stun;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Compares Thirl's servers with others.
#[derive(Parser)]
#[command(name = "thirl-bench")]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// CPU per relayed packet and allocation, beside Debian's coturn and a bare forwarder.
    Relay(relay::Options),
    /// Be the bare forwarder.
    #[command(hide = true)]
    Forward(forwarder::Options),
    /// Binding responses per CPU second, beside Debian's coturn and, where it is installed, stuntman.
    Stun(stun::Options),
    /// Instructions, time and allocations of reading and writing messages, beside other crates.
    Codec(codec::Options),
    /// How long connecting takes among candidates that lead nowhere, beside other agents.
    Ice(ice::Options),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().bench {
        Bench::Relay(options) => relay::run(&options),
        Bench::Forward(options) => forwarder::run(&options),
        Bench::Stun(options) => stun::run(&options),
        Bench::Codec(options) => codec::run(&options),
        Bench::Ice(options) => ice::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("thirl-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Why a benchmark gave no figures.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// The system refused something.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The figures are not there, or not as they should be.
    #[error("{0}")]
    Figures(String),
    /// A server did not do what it should.
    #[error("{server}: {what}")]
    Server {
        /// Which.
        server: String,
        /// What it did or did not do.
        what: String,
    },
}

/// Says what was tried when the system refuses it.
pub(crate) trait Context<T> {
    /// Attaches the attempt to the error.
    fn context(self, what: impl Into<String>) -> Result<T, BenchError>;
}

impl<T> Context<T> for std::io::Result<T> {
    fn context(self, what: impl Into<String>) -> Result<T, BenchError> {
        self.map_err(|error| BenchError::System { what: what.into(), error })
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
pub(crate) fn now() -> std::time::Instant {
    std::time::Instant::now()
}
