//! The STUN server: a [`Limiter`] and a [`Responder`] behind UDP and TCP listeners on every core.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;

use thirl_common::net::{FiveTuple, Transport};

use crate::shard::{self, Clock, Listen, Outcome, Service};
use crate::{Counters, Discovery, Limit, Limiter, MAX_DISCOVERY_RESPONSE_LEN, Responder, Response};

pub use crate::shard::StartError;

/// What a response costs that goes another way than the request, in requests: it is the one that might be wanted for
/// somebody else's sake (RFC 5780, section 9).
const REDIRECTED_COST: u32 = 8;

/// What a STUN server is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where it listens. [`Server::start`] adds the addresses of `discovery`.
    pub listen: Listen,
    /// The second address and port, for RFC 5780.
    pub discovery: Discovery,
    /// How much a source may ask by UDP, of all shards together. `None`: as much as it likes.
    pub limit: Option<Limit>,
}

impl Default for Config {
    fn default() -> Self {
        Config { listen: Listen::default(), discovery: Discovery::default(), limit: Some(Limit::default()) }
    }
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
        let mut listen = config.listen.clone();
        for addr in config.discovery.addrs() {
            // Streams come to all four addresses too, for their mapping to be measured (RFC 5780, section 4.3).
            let transports: [&mut Vec<_>; 2] = [&mut listen.udp, &mut listen.tcp];
            transports.into_iter().filter(|addrs| !addrs.contains(&addr)).for_each(|addrs| addrs.push(addr));
        }
        let limit = config.limit.map(|limit| limit.share(listen.shard_count()));
        let random = RandomState::new();
        shard::start(&listen, |shard| {
            let seed = [random.hash_one((shard, 0)), random.hash_one((shard, 1))];
            let limiter = limit.map(|limit| Limiter::new(limit, bytes_of(seed)));
            let responder = Responder::with_discovery(config.discovery);
            BindingService { responder, limiter, reply: [0; MAX_DISCOVERY_RESPONSE_LEN] }
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

    /// Asks the server to end.
    pub fn shutdown(&self) {
        self.0.shutdown();
    }

    /// Waits until it has ended, and says what it did.
    pub fn join(self) -> Counters {
        let mut counters = Counters::default();
        self.0.join().iter().for_each(|service| counters.add(&service.counters()));
        counters
    }
}

/// Limiter and responder as what a shard serves.
struct BindingService {
    limiter: Option<Limiter>,
    responder: Responder,
    reply: [u8; MAX_DISCOVERY_RESPONSE_LEN],
}

impl BindingService {
    fn counters(&self) -> Counters {
        let limited = self.limiter.as_ref().map_or(0, Limiter::limited);
        Counters { limited, ..self.responder.counters() }
    }
}

impl Service for BindingService {
    type Prefix = [u8; 0];

    fn handle_client(&mut self, clock: Clock, five_tuple: FiveTuple, message: &[u8]) -> Outcome<'_, [u8; 0]> {
        let client = five_tuple.client;
        // The address of a stream's client is not forged, and it waits for its answers.
        let mut limiter = self.limiter.as_mut().filter(|_| five_tuple.transport == Transport::Udp);
        let mut admit =
            |cost| limiter.as_mut().is_none_or(|limiter| limiter.admit(clock.now, client.ip(), cost));
        if !admit(1) {
            return Outcome::Nothing;
        }
        match self.responder.handle_request(five_tuple, message, &mut self.reply) {
            Some(Response { from, to, bytes }) if (from, to) == (five_tuple.server, client) => {
                Outcome::Reply(bytes)
            }
            Some(Response { from, to, bytes }) if admit(REDIRECTED_COST - 1) => {
                Outcome::Send { from, to, datagram: bytes }
            }
            _ => Outcome::Nothing,
        }
    }
}

fn bytes_of([low, high]: [u64; 2]) -> [u8; 16] {
    (u128::from(low) | u128::from(high) << 64).to_le_bytes()
}
