//! What a server program does while its server runs: it reloads, drains and ends it as it is told.

use std::time::{Duration, Instant};

use super::manager::Manager;
use super::signals::{Signal, Signals};
use super::{Configuration, Operation};

/// How often it is looked whether something has changed or ended.
const TICK: Duration = Duration::from_secs(1);
/// The same while the server is drained.
const DRAINING_TICK: Duration = Duration::from_millis(100);

/// A server that runs, as those who operate it know it.
pub trait Operated {
    /// Reads the configuration and all that it names anew, and takes up what it can: see [`Configuration::read_again`].
    /// Returns how it is operated from now on, or `None` if that is as before.
    fn reload(&mut self) -> Option<Operation>;

    /// Where it is configured.
    fn configuration(&self) -> &Configuration;

    /// Whether all of it answers.
    fn is_healthy(&self) -> bool;

    /// Takes no new allocations any more.
    fn drain(&mut self) {}

    /// How many allocations there are.
    fn allocations(&self) -> usize {
        0
    }
}

/// Returns when the server is to be shut down.
#[expect(clippy::disallowed_methods, reason = "a program has a clock")]
pub fn run(signals: &Signals, mut operation: Operation, server: &mut dyn Operated) {
    let mut drained_at: Option<Instant> = None;
    let mut manager = Manager::find();
    manager.ready();
    loop {
        manager.watch(Instant::now(), || server.is_healthy());
        let tick = if drained_at.is_some() { DRAINING_TICK } else { TICK };
        let signal = signals.next(manager.interval().map_or(tick, |interval| interval.min(tick)));
        let changed = operation.reload_on_change && server.configuration().file_changed();
        match signal {
            Some(Signal::Interrupt) => {
                manager.stopping("ending");
                return tracing::info!("{}: ending", Signal::Interrupt);
            }
            Some(Signal::Terminate) if drained_at.is_some() => {
                return tracing::info!("told to terminate again: ending");
            }
            Some(Signal::Terminate) => {
                server.drain();
                manager.stopping("waiting for allocations to end");
                drained_at = Some(Instant::now() + operation.drain_timeout);
                tracing::info!(
                    allocations = server.allocations(),
                    limit_s = operation.drain_timeout.as_secs(),
                    "told to terminate: no new allocations are made; a second signal ends it at once"
                );
            }
            Some(Signal::Reload) | None => {}
        }
        if changed || signal == Some(Signal::Reload) {
            manager.reloading();
            operation = server.reload().unwrap_or(operation);
            manager.ready();
        }
        if let Some(at) = drained_at {
            match server.allocations() {
                0 => return tracing::info!("no allocation is left: ending"),
                left if at <= Instant::now() => {
                    return tracing::info!(allocations = left, "drain-timeout is over: ending");
                }
                _ => {}
            }
        }
    }
}
