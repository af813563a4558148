//! The STUN server: a [`Responder`] behind UDP and TCP listeners on every core.

use std::net::SocketAddr;

use thirl_common::net::{FiveTuple, Transport};

use crate::shard::{self, Clock, Listen, Outcome, Service};
use crate::{Counters, MAX_RESPONSE_LEN, Responder};

pub use crate::shard::StartError;

/// What a STUN server is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Where it listens.
    pub listen: Listen,
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
        shard::start(&config.listen, |_| BindingService::default()).map(Running)
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
        self.0.join().iter().for_each(|service| counters.add(&service.responder.counters()));
        counters
    }
}

/// The responder as what a shard serves.
struct BindingService {
    responder: Responder,
    reply: [u8; MAX_RESPONSE_LEN],
}

impl Default for BindingService {
    fn default() -> Self {
        BindingService { responder: Responder::default(), reply: [0; MAX_RESPONSE_LEN] }
    }
}

impl Service for BindingService {
    type Prefix = [u8; 0];

    fn handle_client(&mut self, _: Clock, five_tuple: FiveTuple, message: &[u8]) -> Outcome<'_, [u8; 0]> {
        match self.responder.handle_datagram(five_tuple.client, message, &mut self.reply) {
            Some(reply) => Outcome::Reply(reply),
            None => Outcome::Nothing,
        }
    }
}
