//! The STUN server: [`Binding`] behind listeners on every core.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use thirl_common::io::ShardIo;
use thirl_common::net::{FiveTuple, Transmit, Transport};
use thirl_common::tls::Certificates;

use crate::binding::{Binding, BindingConfig};
use crate::operation::{Figures, Observed};
use crate::shard::{self, Clock, Listen, Outcome, Post, Service};
use crate::{Counters, Limit, Limiter, metrics};

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
        shard::start(&listen, |shard, _| {
            let seed = bytes_of([random.hash_one((shard, 0)), random.hash_one((shard, 1))]);
            let limiter = limit.map(|limit| Limiter::new(limit, seed));
            BindingService { binding: shard_binding(shard), limit, limiter, seed }
        })
        .map(|shards| Running { shards, listen })
    }
}

/// A server that runs. Dropped, it is shut down.
#[derive(Debug)]
pub struct Running {
    shards: shard::Running<BindingService>,
    listen: Listen,
}

impl Running {
    /// Where it listens: a port that was given as 0 is the one that the system chose.
    pub fn local_addrs(&self) -> &[(Transport, SocketAddr)] {
        self.shards.local_addrs()
    }

    /// As [`shard::Running::renew_certificates`].
    pub fn renew_certificates(&self) {
        self.shards.renew_certificates();
    }

    /// Whether every shard answers.
    pub fn is_healthy(&self) -> bool {
        self.shards.post().figures().is_some()
    }

    /// Asks the server to end.
    pub fn shutdown(&self) {
        self.shards.shutdown();
    }

    /// What shows its figures, as long as it runs.
    pub fn observed(&self) -> Arc<dyn Observed> {
        let certificates = self.listen.secure.as_ref().map(|secure| secure.certificates.clone());
        Arc::new(Observation { post: self.shards.post().clone(), certificates })
    }

    /// Takes the limit and the certificates of another configuration. False: a shard does not answer.
    pub fn reconfigure(&self, config: &Config) -> bool {
        shard::replace_certificates(&self.listen, &config.listen);
        let limit = config.binding.limit.map(|limit| limit.share(self.listen.shard_count()));
        self.shards.post().ask(|done| Letter::Limit(limit, done)).is_some()
    }

    /// Waits until it has ended, and says what it did.
    pub fn join(self) -> Counters {
        let mut counters = Counters::default();
        self.shards.join().iter().for_each(|service| counters.add(&service.binding.counters()));
        counters
    }
}

struct Observation {
    post: Post<Letter>,
    certificates: Option<Certificates>,
}

impl Observed for Observation {
    fn figures(&self) -> Option<Figures> {
        let mut counters = Counters::default();
        self.post.ask(Letter::Report)?.iter().for_each(|shard| counters.add(shard));
        let mut figures = Figures::default();
        metrics::of_binding(&counters, &mut figures);
        metrics::of_shards(&self.post.figures()?, &mut figures);
        metrics::of_certificates(self.certificates.as_ref(), &mut figures);
        Some(figures)
    }

    fn is_ready(&self) -> bool {
        true
    }
}

/// What a shard is told.
enum Letter {
    /// How much a source may ask from now on, and to say so.
    Limit(Option<Limit>, Sender<()>),
    /// To say what it did so far.
    Report(Sender<Counters>),
}

/// What a shard serves.
struct BindingService {
    binding: Binding,
    limit: Option<Limit>,
    limiter: Option<Limiter>,
    seed: [u8; 16],
}

impl Service for BindingService {
    type Prefix = [u8; 0];
    type Letter = Letter;

    fn handle_client(&mut self, clock: Clock, five_tuple: FiveTuple, message: &[u8]) -> Outcome<'_, [u8; 0]> {
        self.binding.handle_client(clock, five_tuple, message, self.limiter.as_mut())
    }

    fn handle_letter(&mut self, _clock: Clock, letter: Letter, _io: &mut ShardIo) {
        // Whoever asked may have gone.
        match letter {
            Letter::Limit(limit, done) => {
                if limit != self.limit {
                    self.limit = limit;
                    self.limiter = limit.map(|limit| Limiter::new(limit, self.seed));
                }
                let _ = done.send(());
            }
            Letter::Report(answer) => {
                let _ = answer.send(self.binding.counters());
            }
        }
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
