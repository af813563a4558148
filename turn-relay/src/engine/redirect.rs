//! Other servers that clients are sent to: 300, ALTERNATE-SERVER and ALTERNATE-DOMAIN (RFC 8489, section 10).
//!
//! Only who is authenticated is sent elsewhere, in a response that carries MESSAGE-INTEGRITY: nobody on the way can send
//! clients to a server of its own, and strangers draw no longer response than the challenge.

use std::hash::{BuildHasher, Hash};
use std::net::{IpAddr, SocketAddr};

use thirl_common::net::{ExternalIp, FiveTuple, ServerAddr, Transport, source_prefix};

use super::Engine;
use super::output::BindError;
use super::refusal::Refusal;

/// Another server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Alternate {
    /// Where it is, for clients of that address family (RFC 8489, section 14.15).
    pub addr: SocketAddr,
    /// The name that its certificate bears, of 255 bytes at most, if that is not the name of this server (RFC 8489, section
    /// 14.16).
    pub domain: Option<String>,
}

/// Where clients are sent, and when.
#[derive(Clone, Debug, Default)]
pub struct Redirects {
    /// `alternate-server`: for clients over UDP and TCP.
    pub plain: Vec<Alternate>,
    /// `tls-alternate-server`: for clients over TLS and DTLS.
    pub secure: Vec<Alternate>,
    /// When.
    pub when: RedirectWhen,
    /// What this server's addresses are outside, so that it knows itself among the others.
    pub external: Vec<ExternalIp>,
}

/// When clients are sent to other servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedirectWhen {
    /// Each client to the server whose turn it is, which may be this one if it is listed too.
    #[default]
    Always,
    /// When this server has no room, or drains.
    Full,
}

impl Redirects {
    /// The server whose turn it is to serve a client, if that is another one.
    ///
    /// Each server's hash with the client's address is its lot, and the highest one is drawn: a client that comes again is
    /// sent the same way, by every server that has the same list; and when a server is taken off the list, only its own
    /// clients are sent elsewhere than before.
    fn by_turn(&self, five_tuple: &FiveTuple) -> Option<&Alternate> {
        let drawn = self.drawn(five_tuple, |_| true)?;
        (self.when == RedirectWhen::Always && !self.is_self(drawn, five_tuple.server)).then_some(drawn)
    }

    /// The same among the others.
    fn another(&self, five_tuple: &FiveTuple) -> Option<&Alternate> {
        self.drawn(five_tuple, |alternate| !self.is_self(alternate, five_tuple.server))
    }

    fn drawn(&self, five_tuple: &FiveTuple, admits: impl Fn(&Alternate) -> bool) -> Option<&Alternate> {
        let client = five_tuple.client.ip();
        let alternates = match five_tuple.transport {
            Transport::Udp | Transport::Tcp => &self.plain,
            Transport::Tls | Transport::Dtls => &self.secure,
        };
        let of_family = alternates.iter().filter(|alternate| alternate.addr.is_ipv4() == client.is_ipv4());
        of_family.filter(|alternate| admits(alternate)).max_by_key(|alternate| lot(client, alternate.addr))
    }

    fn is_self(&self, alternate: &Alternate, server: ServerAddr) -> bool {
        let outside = ExternalIp::outside(&self.external, server.ip());
        alternate.addr.port() == server.port() && [server.ip(), outside].contains(&alternate.addr.ip())
    }
}

/// The same on every server.
fn lot(client: IpAddr, alternate: SocketAddr) -> u64 {
    foldhash::fast::FixedState::with_seed(0).hash_one((source_prefix(client), alternate))
}

impl Engine {
    /// Refuses a new allocation that another server is to have: while this one drains, or when it is that one's turn.
    pub(super) fn check_turn(&self, five_tuple: &FiveTuple) -> Result<(), Refusal> {
        if self.shared.is_draining() {
            return Err(Refusal::Draining);
        }
        match self.config.redirects.by_turn(five_tuple) {
            Some(alternate) => Err(Refusal::TryAlternate(alternate.clone())),
            None => Ok(()),
        }
    }

    /// What to say in place of "no room here", if there is a server that may have some.
    pub(super) fn or_elsewhere(&self, refusal: Refusal, five_tuple: &FiveTuple) -> Refusal {
        let no_room = matches!(
            refusal,
            Refusal::Draining
                | Refusal::TotalQuotaReached
                | Refusal::NotBound(BindError::PortsExhausted | BindError::System(_))
        );
        match self.config.redirects.another(five_tuple).filter(|_| no_room) {
            Some(alternate) => Refusal::TryAlternate(alternate.clone()),
            None => refusal,
        }
    }
}
