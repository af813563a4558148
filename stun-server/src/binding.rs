//! Everything that a server does about Binding requests, for whatever serves them: the STUN server, and the relay beside
//! its allocations.

use thirl_common::net::{FiveTuple, Transport};

use crate::shard::{Clock, Listen, Outcome};
use crate::{Counters, Discovery, Limit, Limiter, MAX_DISCOVERY_RESPONSE_LEN, Responder, Response};

/// What a response costs that goes another way than the request, in requests: it is the one that might be wanted for
/// somebody else's sake (RFC 5780, section 9).
const REDIRECTED_COST: u32 = 8;

/// What a server is told of Binding requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingConfig {
    /// The second address and port, for RFC 5780.
    pub discovery: Discovery,
    /// How much a source may ask by UDP, of all shards together. `None`: as much as it likes.
    pub limit: Option<Limit>,
}

impl Default for BindingConfig {
    fn default() -> Self {
        BindingConfig { discovery: Discovery::default(), limit: Some(Limit::default()) }
    }
}

impl BindingConfig {
    /// Adds the addresses of `discovery`. Streams come to all of them too, for their mapping to be measured (RFC 5780,
    /// section 4.3).
    pub fn complete(&self, listen: &mut Listen) {
        for addr in self.discovery.addrs() {
            for addrs in [&mut listen.udp, &mut listen.tcp] {
                if !addrs.contains(&addr) {
                    addrs.push(addr);
                }
            }
        }
    }
}

/// One shard's share of it.
#[derive(Debug)]
pub struct Binding {
    responder: Responder,
    reply: [u8; MAX_DISCOVERY_RESPONSE_LEN],
    limited: u64,
}

impl Binding {
    /// Of a server that is told this.
    pub fn new(config: &BindingConfig) -> Binding {
        Binding {
            responder: Responder::with_discovery(config.discovery),
            reply: [0; MAX_DISCOVERY_RESPONSE_LEN],
            limited: 0,
        }
    }

    /// Whether a datagram or frame is for [`Binding::handle_client`] rather than for another user of the same port.
    #[inline]
    pub fn concerns(datagram: &[u8]) -> bool {
        Responder::concerns(datagram)
    }

    /// What is to be done about a client's datagram or frame of a stream, as far as the limiter lets it.
    #[inline]
    pub fn handle_client<P>(
        &mut self,
        clock: Clock,
        five_tuple: FiveTuple,
        message: &[u8],
        limiter: Option<&mut Limiter>,
    ) -> Outcome<'_, P> {
        let client = five_tuple.client;
        // The address of a stream's client is not forged, and it waits for its answers.
        let mut limiter = limiter.filter(|_| five_tuple.transport == Transport::Udp);
        let mut admit =
            |cost| limiter.as_mut().is_none_or(|limiter| limiter.admit(clock.now, client.ip(), cost));
        if !admit(1) {
            self.limited += 1;
            return Outcome::Nothing;
        }
        let Some(response) = self.responder.handle_request(five_tuple, message, &mut self.reply) else {
            return Outcome::Nothing;
        };
        let Response { from, to, bytes } = response;
        if (from, to) == (five_tuple.server, client) {
            return Outcome::Reply(bytes);
        }
        if !admit(REDIRECTED_COST - 1) {
            self.limited += 1;
            return Outcome::Nothing;
        }
        Outcome::Send { from, to, datagram: bytes }
    }

    /// What it did so far.
    pub fn counters(&self) -> Counters {
        Counters { limited: self.limited, ..self.responder.counters() }
    }
}
