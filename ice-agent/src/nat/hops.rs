//! The routers on the way, by requests that are not let far: the router where the TTL runs out says so in an ICMP error.
//!
//! Whose addresses those are tells what networks the way leads through. It does not tell where addresses are translated:
//! many providers number routers privately that translate nothing, and an ICMP error is translated back on its way.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use serde::Serialize;
use thirl_common::net::Transport;

use super::findings::Scope;
use super::probe::{Outcome, ProbeId, Prober, Question, SocketId, Travel};

/// So far the NATs are to be looked for: one's own and the provider's are among the first.
const MAX_HOPS: u8 = 12;

/// A router on the way to the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// 1: the next router.
    pub distance: u8,
    /// Its address on our side, if it says it.
    pub address: Option<IpAddr>,
    /// Whose address that is.
    pub scope: Option<Scope>,
}

#[derive(Debug)]
pub(super) struct HopsTest {
    /// One socket for each distance, by which even an ICMP error that quotes nothing is told from the others.
    asked: Vec<Asked>,
}

#[derive(Debug)]
struct Asked {
    distance: u8,
    socket: SocketId,
    probe: ProbeId,
    outcome: Option<Outcome>,
}

impl HopsTest {
    pub(super) fn begin(now: Instant, prober: &mut Prober, server: SocketAddr) -> HopsTest {
        let ask = |distance| {
            let socket = prober.open(Transport::Udp);
            prober.travel(socket, Travel::Hops(distance));
            let probe = prober.ask(now, socket, Question::plain(server));
            Asked { distance, socket, probe, outcome: None }
        };
        HopsTest { asked: (1..=MAX_HOPS).map(ask).collect() }
    }

    pub(super) fn handle(&mut self, prober: &mut Prober, probe: ProbeId, outcome: &Outcome) {
        let Some(place) = self.asked.iter().position(|asked| asked.probe == probe) else { return };
        self.asked[place].outcome = Some(outcome.clone());
        prober.close(self.asked[place].socket);
        if matches!(outcome, Outcome::Answered(_)) {
            for beyond in self.asked.drain(place + 1..) {
                prober.forget(beyond.probe);
                prober.close(beyond.socket);
            }
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.asked.iter().all(|asked| asked.outcome.is_some())
    }

    /// The routers up to the server, or up to the last that could be learnt of; `None` if nothing came back.
    pub(super) fn report(&self) -> Option<Vec<Hop>> {
        let router = |asked: &Asked| match asked.outcome {
            Some(Outcome::Expired(router)) => Some(router),
            _ => None,
        };
        let answered = |asked: &Asked| matches!(asked.outcome, Some(Outcome::Answered(_)));
        let end = self.asked.iter().position(answered);
        let end = end.or_else(|| Some(self.asked.iter().rposition(|asked| router(asked).is_some())? + 1))?;
        let hop = |asked: &Asked| {
            let address = router(asked);
            Hop { distance: asked.distance, address, scope: address.map(Scope::of) }
        };
        Some(self.asked.iter().take(end).map(hop).collect())
    }
}
