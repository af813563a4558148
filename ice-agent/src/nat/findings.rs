//! What the tests of one address family have learnt so far; they write it, the report reads it.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::probe::Response;
use super::servers::{FaultyServer, ServerFault};

/// One server's answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// Who was asked.
    pub server: SocketAddr,
    /// Where the packet seemed to come from: the reflexive transport address.
    pub reflexive: SocketAddr,
    /// Round trip in milliseconds.
    pub rtt_ms: Option<f64>,
}

impl Answer {
    pub(super) fn of(response: &Response) -> Answer {
        let rtt_ms = Some((response.rtt.as_secs_f64() * 1e6).round() / 1e3);
        Answer { server: response.from, reflexive: response.reflexive, rtt_ms }
    }
}

/// How a fresh socket appeared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Observation {
    pub(super) local: SocketAddr,
    pub(super) server: SocketAddr,
    pub(super) reflexive: SocketAddr,
}

impl Observation {
    pub(super) fn of(local: Option<SocketAddr>, response: &Response) -> Option<Observation> {
        Some(Observation { local: local?, server: response.from, reflexive: response.reflexive })
    }
}

#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) local: Option<SocketAddr>,
    /// The first answers of servers that can be believed.
    pub(super) sound: Vec<Response>,
    pub(super) silent: Vec<SocketAddr>,
    pub(super) faulty: Vec<FaultyServer>,
    /// Each fresh socket, in the order in which they sent.
    pub(super) observations: Vec<Observation>,
}

impl Findings {
    pub(super) fn blame(&mut self, server: SocketAddr, fault: ServerFault) {
        if !self.faulty.iter().any(|faulty| faulty.server == server) {
            self.faulty.push(FaultyServer { server, fault });
        }
        // The address that it was asked on first stands for the whole server.
        self.sound.retain(|sound| sound.from != server);
        self.observations.retain(|seen| seen.server != server);
    }

    pub(super) fn observe(&mut self, observation: Option<Observation>) {
        self.observations.extend(observation);
    }

    /// The servers beyond all NATs that have another address, with it.
    pub(super) fn with_other_address(&self) -> impl Iterator<Item = (SocketAddr, SocketAddr)> {
        self.beyond_all_nats().filter_map(|sound| Some((sound.from, sound.other?)))
    }

    /// What a server saw of the first socket that asked it.
    pub(super) fn first_seen_by(&self, server: SocketAddr) -> Option<SocketAddr> {
        self.sound.iter().find(|sound| sound.from == server).map(|sound| sound.reflexive)
    }

    /// A server on the far side of every NAT: the one to measure all else with.
    pub(super) fn outermost(&self) -> Option<SocketAddr> {
        self.beyond_all_nats().next().map(|sound| sound.from)
    }

    fn beyond_all_nats(&self) -> impl Iterator<Item = &Response> {
        let scope = |sound: &Response| Scope::of(sound.reflexive.ip());
        let outermost = self.sound.iter().map(scope).max();
        self.sound.iter().filter(move |sound| Some(scope(sound)) == outermost)
    }
}

/// Whose addresses they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Of a network of one's own (RFC 1918, RFC 4193) or a link (RFC 3927).
    Private,
    /// Between a carrier and its customers: 100.64.0.0/10 (RFC 6598).
    Shared,
    /// Of everybody.
    Global,
}

impl Scope {
    pub(super) fn of(ip: IpAddr) -> Scope {
        match ip.to_canonical() {
            IpAddr::V4(ip) if ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64 => Scope::Shared,
            IpAddr::V4(ip) if ip.is_private() || ip.is_link_local() || ip.is_loopback() => Scope::Private,
            IpAddr::V6(ip) if ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback() => {
                Scope::Private
            }
            _ => Scope::Global,
        }
    }
}

/// The answers of servers beyond the outermost NAT: those on this side of it see an inner address.
pub(super) fn beyond_all_nats(answers: &[Answer]) -> Vec<Answer> {
    let outermost = answers.iter().map(|answer| Scope::of(answer.reflexive.ip())).max();
    answers.iter().filter(|answer| Some(Scope::of(answer.reflexive.ip())) == outermost).copied().collect()
}
