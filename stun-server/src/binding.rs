//! Everything that a server does about Binding requests, for whatever serves them: the STUN server, and the relay beside
//! its allocations.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use thirl_common::net::{ClientAddr, FiveTuple, ServerAddr, Transmit, Transport};

use crate::partner::{Link, LinkAddrs, Links, MAX_PARTNER_MESSAGE_LEN, PartnerSecrets, PassedOn};
use crate::shard::{Clock, Listen, Outcome};
use crate::{Counters, Discovery, Limit, Limiter, MAX_DISCOVERY_RESPONSE_LEN, Responder, Response};

/// What a response costs that goes another way than the request, in requests: it is the one that might be wanted for
/// somebody else's sake (RFC 5780, section 9).
const REDIRECTED_COST: u32 = 8;

/// ChannelData begins with this byte or a greater one, STUN with a smaller one (RFC 8656, section 12).
const FIRST_CHANNEL_BYTE: u8 = 0x40;

/// A response, or a request that is passed on to the partner.
const MAX_LEN: usize = if MAX_PARTNER_MESSAGE_LEN > MAX_DISCOVERY_RESPONSE_LEN {
    MAX_PARTNER_MESSAGE_LEN
} else {
    MAX_DISCOVERY_RESPONSE_LEN
};

/// What a server is told of Binding requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingConfig {
    /// The second address and port, for RFC 5780.
    pub discovery: Discovery,
    /// What is shared with the partners that `discovery` names.
    pub partner_secrets: PartnerSecrets,
    /// How much a source may ask by UDP, of all shards together. `None`: as much as it likes.
    pub limit: Option<Limit>,
}

impl Default for BindingConfig {
    fn default() -> Self {
        let (discovery, partner_secrets) = (Discovery::default(), PartnerSecrets::default());
        BindingConfig { discovery, partner_secrets, limit: Some(Limit::default()) }
    }
}

/// One shard's share of it.
#[derive(Debug)]
pub struct Binding {
    responder: Responder,
    linked: Option<Linked>,
    reply: [u8; MAX_LEN],
    limited: u64,
}

/// What a shard has to do with partners.
#[derive(Debug)]
struct Linked {
    links: Arc<Links>,
    /// With all partners, whether they are up or not.
    discovery: Discovery,
    /// [`Links::changes`] when the responder was told which are up.
    seen: Option<u64>,
    /// When the links have something to do, if this shard keeps their time.
    timeout: Option<Instant>,
    transmits: Vec<Transmit>,
}

impl Binding {
    /// Starts the links to partners, adds the addresses of `discovery` to those that the server listens on, and makes what
    /// a shard has, its number given.
    pub fn for_shards(config: &BindingConfig, listen: &mut Listen) -> impl Fn(usize) -> Binding + use<> {
        for addr in config.discovery.addrs() {
            // Streams come to all of them too, for their mapping to be measured (RFC 5780, section 4.3).
            for addrs in [&mut listen.udp, &mut listen.tcp] {
                if !addrs.contains(&addr) {
                    addrs.push(addr);
                }
            }
        }
        let discovery = config.discovery;
        let links = Links::start(&discovery, &config.partner_secrets).map(Arc::new);
        move |shard| {
            let linked = links.clone().map(|links| Linked {
                discovery,
                seen: None,
                timeout: (shard == 0).then(|| links.started()),
                transmits: Vec::new(),
                links,
            });
            let responder = Responder::with_discovery(discovery);
            Binding { responder, linked, reply: [0; MAX_LEN], limited: 0 }
        }
    }

    /// Whether a datagram or frame is for [`Binding::handle_client`] rather than for another user of the same port.
    #[inline]
    pub fn concerns(datagram: &[u8]) -> bool {
        // One look at the first byte tells data of a relay, which is what most packets are.
        let first = datagram.first().copied().unwrap_or(u8::MAX);
        first < FIRST_CHANNEL_BYTE && (Responder::concerns(datagram) || Link::concerns(datagram))
    }

    /// What is to be done about a client's datagram or frame of a stream, as far as the limiter lets it, or about a
    /// partner's.
    #[inline]
    pub fn handle_client<P>(
        &mut self,
        clock: Clock,
        five_tuple: FiveTuple,
        message: &[u8],
        limiter: Option<&mut Limiter>,
    ) -> Outcome<'_, P> {
        // The address of a stream's client is not forged, and it waits for its answers.
        let limiter = limiter.filter(|_| five_tuple.transport == Transport::Udp);
        let mut admission = Admission { limiter, now: clock.now };
        if self.linked.is_some() {
            if Link::concerns(message) {
                return self.handle_partner(clock, five_tuple, message, admission);
            }
            self.follow_links();
        }
        let client = five_tuple.client;
        if !admission.admit(client, 1) {
            self.limited += 1;
            return Outcome::Nothing;
        }
        let Some(response) = self.responder.handle_request(five_tuple, message, &mut self.reply) else {
            return Outcome::Nothing;
        };
        let Response { from, to, bytes } = response;
        let len = bytes.len();
        if (from, to) == (five_tuple.server, client) {
            return Outcome::Reply(&self.reply[..len]);
        }
        if !admission.admit(client, REDIRECTED_COST - 1) {
            self.limited += 1;
            return Outcome::Nothing;
        }
        let link = self.linked.as_ref().and_then(|linked| linked.links.to(from.ip()));
        let Some((LinkAddrs { local, partner, .. }, mut link)) = link else {
            return Outcome::Send { from, to, datagram: &self.reply[..len] };
        };
        let passed_on = PassedOn { client, server_port: five_tuple.server.port(), request: message };
        match link.pass_on(clock.now, passed_on, &mut self.reply) {
            Some(datagram) => Outcome::Send { from: ServerAddr(*local), to: ClientAddr(*partner), datagram },
            None => Outcome::Nothing,
        }
    }

    /// [`Binding::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, clock: Clock) {
        if let Some(linked) = self.linked.as_mut().filter(|linked| linked.timeout.is_some()) {
            linked.timeout = linked.links.handle_timeout(clock.now, &mut linked.transmits);
        }
    }

    /// When [`Binding::handle_timeout`] is due.
    #[inline]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.linked.as_ref()?.timeout
    }

    /// A message for a partner.
    #[inline]
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.linked.as_mut()?.transmits.pop()
    }

    /// What it did so far.
    pub fn counters(&self) -> Counters {
        Counters { limited: self.limited, ..self.responder.counters() }
    }

    /// A datagram that says it is a partner's. A request in it is handled as if this were the server that it came to; of
    /// that, what leaves from the address here is sent.
    #[cold]
    fn handle_partner<P>(
        &mut self,
        clock: Clock,
        five_tuple: FiveTuple,
        datagram: &[u8],
        mut admission: Admission<'_>,
    ) -> Outcome<'_, P> {
        let FiveTuple { transport, client: ClientAddr(sender), server } = five_tuple;
        let Some(linked) = &mut self.linked else { return Outcome::Nothing };
        let Some((addrs, mut link)) = linked.links.to(sender.ip()) else { return Outcome::Nothing };
        if (transport, sender, server.0) != (Transport::Udp, addrs.partner, addrs.local) {
            return Outcome::Nothing;
        }
        let passed_on = link.handle_datagram(clock.now, datagram);
        linked.links.collect(&mut link, &mut linked.transmits);
        drop(link);
        let (addrs, Some(PassedOn { client, server_port, request })) = (*addrs, passed_on) else {
            return Outcome::Nothing;
        };
        self.follow_links();
        if !admission.admit(client, REDIRECTED_COST) {
            self.limited += 1;
            return Outcome::Nothing;
        }
        let server = ServerAddr(SocketAddr::new(addrs.partner.ip(), server_port));
        let asked = FiveTuple { transport: Transport::Udp, client, server };
        match self.responder.handle_request(asked, request, &mut self.reply) {
            Some(Response { from, to, bytes }) if from.ip() == addrs.local.ip() => {
                Outcome::Send { from, to, datagram: bytes }
            }
            _ => Outcome::Nothing,
        }
    }

    /// Tells the responder which partners are up, if that has changed.
    fn follow_links(&mut self) {
        let Some(Linked { links, discovery, seen, .. }) = &mut self.linked else { return };
        let changes = links.changes();
        if *seen != Some(changes) {
            *seen = Some(changes);
            self.responder.set_discovery(links.reachable(*discovery));
        }
    }
}

/// The limiter at a time.
struct Admission<'l> {
    limiter: Option<&'l mut Limiter>,
    now: Instant,
}

impl Admission<'_> {
    #[inline]
    fn admit(&mut self, client: ClientAddr, cost: u32) -> bool {
        self.limiter.as_mut().is_none_or(|limiter| limiter.admit(self.now, client.ip(), cost))
    }
}
