//! The STUN server: [`Binding`] behind listeners on every core.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::Instant;

use thirl_common::net::{FiveTuple, Transmit, Transport};

use crate::binding::{Binding, BindingConfig};
use crate::shard::{self, Clock, Listen, Outcome, Service};
use crate::{Counters, Limiter};

pub use crate::shard::StartError;

/// What a STUN server is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Where it listens. [`Server::start`] adds the addresses of `binding`.
    pub listen: Listen,
    /// What it answers.
    pub binding: BindingConfig,
}

/// Starts STUN servers.
///
/// ```
/// use thirl_common::net::Transport;
/// use thirl_stun_server::server::{Config, Server};
///
/// let mut config = Config::default();
/// config.listen.udp = vec!["127.0.0.1:0".parse().unwrap()];
/// config.listen.tcp = Vec::new();
/// let running = Server::start(&config)?;
/// assert_eq!(running.local_addrs()[0].0, Transport::Udp);
/// running.shutdown();
/// assert_eq!(running.join().answered, 0);
/// # Ok::<(), thirl_stun_server::server::StartError>(())
/// ```
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Binds all sockets, and serves from then on.
    pub fn start(config: &Config) -> Result<Running, StartError> {
        let Config { mut listen, binding } = config.clone();
        let shard_binding = Binding::for_shards(&binding, &mut listen);
        let limit = binding.limit.map(|limit| limit.share(listen.shard_count()));
        let random = RandomState::new();
        shard::start(&listen, |shard| {
            let seed = [random.hash_one((shard, 0)), random.hash_one((shard, 1))];
            let limiter = limit.map(|limit| Limiter::new(limit, bytes_of(seed)));
            BindingService { binding: shard_binding(shard), limiter }
        })
        .map(Running)
    }
}

/// A server that runs. Dropped, it is shut down.
#[derive(Debug)]
pub struct Running(shard::Running<BindingService>);

impl Running {
    /// Where it listens: a port that was given as 0 is the one that the system chose.
    pub fn local_addrs(&self) -> &[(Transport, SocketAddr)] {
        self.0.local_addrs()
    }

    /// As [`shard::Running::renew_certificates`].
    pub fn renew_certificates(&self) {
        self.0.renew_certificates();
    }

    /// Asks the server to end.
    pub fn shutdown(&self) {
        self.0.shutdown();
    }

    /// Waits until it has ended, and says what it did.
    pub fn join(self) -> Counters {
        let mut counters = Counters::default();
        self.0.join().iter().for_each(|service| counters.add(&service.binding.counters()));
        counters
    }
}

/// What a shard serves.
struct BindingService {
    binding: Binding,
    limiter: Option<Limiter>,
}

impl Service for BindingService {
    type Prefix = [u8; 0];

    fn handle_client(&mut self, clock: Clock, five_tuple: FiveTuple, message: &[u8]) -> Outcome<'_, [u8; 0]> {
        self.binding.handle_client(clock, five_tuple, message, self.limiter.as_mut())
    }

    fn handle_timeout(&mut self, clock: Clock) {
        self.binding.handle_timeout(clock);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.binding.poll_timeout()
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.binding.poll_transmit()
    }
}

fn bytes_of([low, high]: [u64; 2]) -> [u8; 16] {
    (u128::from(low) | u128::from(high) << 64).to_le_bytes()
}
