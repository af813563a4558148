//! The relay as a server: sockets, threads, and what they are told.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::rngs::{OsRng, StdRng};
use rand::{RngCore, SeedableRng, TryRngCore};
use thirl_common::auth::NonceKey;
use thirl_common::net::Transport;
use thirl_common::tls::Certificates;
use thirl_stun_server::binding::{Binding, BindingConfig};
use thirl_stun_server::metrics::{of_binding, of_certificates, of_shards};
use thirl_stun_server::operation::{Figures, Observed};
use thirl_stun_server::shard::{self, Post};

use crate::engine::{Counters, DENIED_BY_DEFAULT, Engine, EngineConfig, PeerPolicy, Shared};
use crate::inside::Inside;
use crate::metrics;
use crate::ports::Ports;
use crate::service::{Letter, RelayService};

pub use crate::ports::RelayAddresses;
pub use thirl_common::net::ExternalIp;
pub use thirl_stun_server::shard::{Listen, Secure, StartError};

/// What a relay is told.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Where clients find it.
    pub listen: Listen,
    /// Where peers find its clients.
    pub relay: RelayAddresses,
    /// Binding requests. [`Server::start`] adds the addresses of its `discovery` to `listen`.
    pub binding: BindingConfig,
    /// Whom it serves, and how. [`Server::start`] adds what it knows of the server's own addresses to `engine.peers`, each
    /// shard's share of `binding.limit`, and a nonce key for all shards if there is none.
    pub engine: EngineConfig,
}

/// Starts relays.
///
/// ```
/// use std::sync::Arc;
/// use thirl_common::auth::Credentials;
/// use thirl_turn_relay::server::{Config, Server};
///
/// let mut credentials = Credentials::default();
/// credentials.users.insert("alice", "secret");
/// let mut config = Config::default();
/// config.listen.udp = vec!["127.0.0.1:0".parse().unwrap()];
/// config.listen.tcp = vec!["127.0.0.1:0".parse().unwrap()];
/// config.engine.credentials = Arc::new(credentials);
/// let running = Server::start(config)?;
/// assert_eq!(running.local_addrs().len(), 2);
/// running.shutdown();
/// assert_eq!(running.join().engine.allocations_created, 0);
/// # Ok::<(), thirl_turn_relay::server::StartError>(())
/// ```
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Binds all listening sockets, and serves from then on: STUN Binding and TURN, on a thread for each shard.
    pub fn start(config: Config) -> Result<Running, StartError> {
        let Config { mut listen, relay, binding, mut engine } = config;
        let shard_binding = Binding::for_shards(&binding, &mut listen);
        let ports = Arc::new(Ports::new(relay.clone()));
        let mut seed = [0; 32];
        OsRng.try_fill_bytes(&mut seed).map_err(|error| StartError::System(std::io::Error::other(error)))?;
        let mut rng = StdRng::from_seed(seed);
        complete_policy(&mut engine.peers, &listen, &relay, &ports);
        let mut key = [0; 32];
        rng.fill_bytes(&mut key);
        engine.nonce_key.get_or_insert_with(|| NonceKey::new(&key));
        engine.stranger_limit = binding.limit.map(|limit| limit.share(listen.shard_count()));
        let engine = Arc::new(engine);
        let inside = Arc::new(Inside::default());
        let shared = Shared::default();
        let running = shard::start(&listen, |shard, post| {
            let mut seed = [0; 32];
            rng.fill_bytes(&mut seed);
            let own = StdRng::from_rng(&mut rng);
            let number = u16::try_from(shard).unwrap_or(u16::MAX);
            let engine = Engine::with_shared(engine.clone(), shared.clone(), seed).numbered(number);
            let ports = (ports.clone(), inside.clone());
            RelayService::new((shard, post.clone()), engine, shard_binding(shard), ports, own)
        })?;
        Ok(Running { shards: running, shared, ports, listen })
    }
}

/// A relay that runs. Dropped, it is shut down.
#[derive(Debug)]
pub struct Running {
    shards: shard::Running<RelayService>,
    shared: Shared,
    ports: Arc<Ports>,
    listen: Listen,
}

/// What a relay is and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Allocations that there are.
    pub allocations: usize,
    /// Sockets of relays that there are.
    pub relays: usize,
    /// The relay.
    pub engine: Counters,
    /// Binding requests.
    pub binding: thirl_stun_server::Counters,
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

    /// How many allocations and reserved ports there are.
    pub fn allocations(&self) -> usize {
        self.shared.seats()
    }

    /// Takes no new allocations from now on: clients are sent to another server if one is configured, and refused with 508
    /// otherwise. What there is stays.
    pub fn drain(&self) {
        self.shared.drain();
    }

    /// Goes by another configuration from now on, on all shards, and keeps every allocation: see [`Engine::reconfigure`].
    /// Certificates, if there are any, are those of `config`; of the rest of `listen`, and of `binding` what is not its
    /// limit, nothing changes. False: a shard does not answer.
    pub fn reconfigure(&self, config: Config) -> bool {
        let Config { listen, relay, binding, mut engine } = config;
        let ports = Arc::new(self.ports.at(relay.clone()));
        complete_policy(&mut engine.peers, &self.listen, &relay, &ports);
        engine.stranger_limit = binding.limit.map(|limit| limit.share(self.listen.shard_count()));
        shard::replace_certificates(&self.listen, &listen);
        let engine = Arc::new(engine);
        let taken = |done| Letter::Configure(engine.clone(), ports.clone(), done);
        self.shards.post().ask(taken).is_some()
    }

    /// Whether every shard answers.
    pub fn is_healthy(&self) -> bool {
        self.shards.post().figures().is_some()
    }

    /// Asks the server to end. Allocations end with it.
    pub fn shutdown(&self) {
        self.shards.shutdown();
    }

    /// Waits until it has ended, and says what it did.
    pub fn join(self) -> Report {
        let mut report = Report::default();
        self.shards.join().iter().for_each(|service| report.add(&service.report()));
        report
    }

    /// What shows its figures, as long as it runs.
    pub fn observed(&self) -> Arc<dyn Observed> {
        let certificates = self.listen.secure.as_ref().map(|secure| secure.certificates.clone());
        Arc::new(Observation { post: self.shards.post().clone(), shared: self.shared.clone(), certificates })
    }
}

impl Report {
    fn add(&mut self, other: &Report) {
        self.allocations += other.allocations;
        self.relays += other.relays;
        self.engine.add(&other.engine);
        self.binding.add(&other.binding);
    }
}

struct Observation {
    post: Post<Letter>,
    shared: Shared,
    certificates: Option<Certificates>,
}

impl Observed for Observation {
    fn figures(&self) -> Option<Figures> {
        let mut report = Report::default();
        self.post.ask(Letter::Report)?.iter().for_each(|shard| report.add(shard));
        let mut figures = Figures::default();
        metrics::of_relay(&report, &mut figures);
        of_binding(&report.binding, &mut figures);
        of_shards(&self.post.figures()?, &mut figures);
        of_certificates(self.certificates.as_ref(), &mut figures);
        Some(figures)
    }

    fn is_ready(&self) -> bool {
        !self.shared.is_draining()
    }
}

/// Tells the policy which addresses and ports are the server's own.
///
/// Where no `relay-ip` is configured, any address that clients may arrive at is relayed from. Of those, private ones are
/// left to the allocations that are there: a client that came from outside must not reach, say, loopback by its port.
fn complete_policy(policy: &mut PeerPolicy, listen: &Listen, relay: &RelayAddresses, ports: &Ports) {
    let secure = || listen.secure.iter().flat_map(|secure| &secure.addrs);
    let listening = || listen.udp.iter().chain(&listen.tcp).chain(secure());
    policy.relay_ports = relay.ports.clone();
    policy.listening_ports.extend(listening().map(SocketAddr::port));
    policy.relay_ips.extend(ports.configured_ips());
    let known = listening().map(SocketAddr::ip).chain(ports.default_ips()).chain(host_ips());
    for ip in known.filter(|ip| !ip.is_unspecified()) {
        let relayed_from = !relay.ips.iter().any(|relay_ip| relay_ip.is_ipv4() == ip.is_ipv4());
        if relayed_from && !DENIED_BY_DEFAULT.iter().any(|range| range.contains(ip)) {
            policy.relay_ips.push(ip);
        } else {
            policy.own_ips.push(ip);
        }
    }
}

/// The addresses of this host's interfaces.
fn host_ips() -> Vec<IpAddr> {
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => interfaces.iter().map(if_addrs::Interface::ip).collect(),
        Err(error) => {
            tracing::warn!(%error, "the host's addresses cannot be listed; public ones are not denied as peers");
            Vec::new()
        }
    }
}
