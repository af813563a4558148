//! A relay as those who operate it know it: started as settings say, reloaded and drained while it runs.

use thirl_common::config::ConfigError;
use thirl_stun_server::operation::{Configuration, Log, Monitor, Operated, Operation};
use thirl_stun_server::program::{self, Failure};
use thirl_stun_server::shard::Handed;

use crate::server::{Running, Server};
use crate::settings::Settings;

/// Starts a relay, at the sockets that were handed over if some were, and what serves its metrics if they are wanted.
pub fn start(settings: &Settings, handed: Handed) -> Result<(Running, Option<Monitor>), Failure> {
    let mut config = settings.config();
    config.listen.adopt(handed);
    program::log_security(&config.listen);
    let running = Server::start(config)?;
    let monitor = program::monitor(&settings.operation, || running.observed())?;
    Ok((running, monitor))
}

/// A relay that runs, where its settings are from, and what else is to know of new ones.
pub struct OperatedRelay<'r> {
    /// The relay.
    pub running: &'r Running,
    /// Its settings.
    pub configuration: Configuration,
    /// Its log.
    pub log: Log,
    /// Gives settings what they do not say: secrets that the program has made.
    pub complete: Box<dyn Fn(&mut Settings) + 'r>,
    /// Is told of settings that are taken up.
    pub notify: Box<dyn Fn(&Settings) + 'r>,
}

impl Operated for OperatedRelay<'_> {
    fn reload(&mut self) -> Option<Operation> {
        let read = |values: &_| -> Result<Settings, ConfigError> { Settings::from_values(values) };
        let mut settings = self.configuration.read_again(read)?;
        (self.complete)(&mut settings);
        self.log.set_level(&settings.operation.log);
        if !self.running.reconfigure(settings.config()) {
            tracing::error!("a shard does not take up the configuration");
            return None;
        }
        (self.notify)(&settings);
        tracing::info!("the configuration was read anew and is in use");
        Some(settings.operation)
    }

    fn is_healthy(&self) -> bool {
        self.running.is_healthy()
    }

    fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    fn drain(&mut self) {
        self.running.drain();
    }

    fn allocations(&self) -> usize {
        self.running.allocations()
    }
}
