//! The hairpinning test (RFC 5780, section 4.5): two sockets send to each other's reflexive addresses.
//!
//! Both send, since the filters apply to these packets too. To some firewalls they look like a LAND attack: only on
//! demand.

use std::net::SocketAddr;
use std::time::Instant;

use serde::Serialize;
use thirl_common::net::Transport;

use super::behaviour::{Filtering, Mapping};
use super::findings::Findings;
use super::probe::{Loss, Outcome, ProbeId, Prober, Question, SocketId, TOLERATED_ERROR, TRANSMISSIONS};

/// What was learnt of hairpinning.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HairpinReport {
    /// Whether two hosts behind this NAT reach each other by their external addresses; `None` if it cannot be told.
    pub works: Option<bool>,
    /// Whether such packets come from the external address, as RFC 4787 wants it (REQ-9a), or the internal one.
    pub from_external: Option<bool>,
    /// Why.
    pub reason: String,
}

#[derive(Debug)]
pub(super) struct HairpinTest {
    server: SocketAddr,
    sides: [Side; 2],
    /// Whether they send to each other by now.
    crossing: bool,
    over: bool,
}

#[derive(Debug)]
struct Side {
    socket: SocketId,
    probe: ProbeId,
    reflexive: Option<SocketAddr>,
    outcome: Option<Outcome>,
}

impl HairpinTest {
    pub(super) fn begin(now: Instant, prober: &mut Prober, server: SocketAddr) -> HairpinTest {
        let mut side = || {
            let socket = prober.open(Transport::Udp);
            let probe = prober.ask(now, socket, Question::plain(server));
            Side { socket, probe, reflexive: None, outcome: None }
        };
        HairpinTest { server, sides: [side(), side()], crossing: false, over: false }
    }

    pub(super) fn handle(&mut self, now: Instant, prober: &mut Prober, probe: ProbeId, outcome: &Outcome) {
        let Some(side) = self.sides.iter_mut().find(|side| side.probe == probe) else { return };
        match (outcome, side.reflexive) {
            (Outcome::Answered(response), None) => side.reflexive = Some(response.reflexive),
            // Somebody who sends our requests back is no hairpin.
            (Outcome::CameBack(from), _) if !self.crossing || from.ip() == self.server.ip() => {
                side.outcome = Some(Outcome::Silent { connected: false });
            }
            _ => side.outcome = Some(outcome.clone()),
        }
        let [one, two] = &mut self.sides;
        let came_back = [&*one, two].iter().any(|side| matches!(side.outcome, Some(Outcome::CameBack(_))));
        let lost = !self.crossing && (one.outcome.is_some() || two.outcome.is_some());
        if came_back || lost || (one.outcome.is_some() && two.outcome.is_some()) {
            self.over = true;
            [one.socket, two.socket].into_iter().for_each(|socket| prober.close(socket));
        } else if let (Some(first), Some(second), false) = (one.reflexive, two.reflexive, self.crossing) {
            self.crossing = true;
            let to = |address, socket| Question { answer_at: Some(socket), ..Question::plain(address) };
            one.probe = prober.ask(now, one.socket, to(second, two.socket));
            two.probe = prober.ask(now, two.socket, to(first, one.socket));
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    pub(super) fn report(
        &self,
        found: &Findings,
        mapping: Option<Mapping>,
        filtering: Option<Filtering>,
        loss: Loss,
    ) -> HairpinReport {
        let unknown =
            |reason: &str| HairpinReport { works: None, from_external: None, reason: reason.to_owned() };
        if found.observations.iter().all(|seen| seen.local == seen.reflexive) {
            return unknown("no address translation");
        }
        for side in &self.sides {
            if let Some(Outcome::CameBack(from)) = side.outcome {
                let external = side.reflexive.is_some_and(|reflexive| reflexive.ip() == from.ip());
                let reason = "a packet to our own external address came in".to_owned();
                return HairpinReport { works: Some(true), from_external: Some(external), reason };
            }
        }
        if self.sides.iter().any(|side| side.reflexive.is_none()) {
            return unknown("the server stopped answering");
        }
        let punched = mapping == Some(Mapping::EndpointIndependent)
            || filtering == Some(Filtering::EndpointIndependent);
        match punched {
            true if loss.all_lost(2 * TRANSMISSIONS) > TOLERATED_ERROR => {
                unknown("too many packets are lost to tell")
            }
            true => HairpinReport {
                works: Some(false),
                from_external: None,
                reason: "packets to our own external address did not come in".to_owned(),
            },
            false => unknown("with this mapping the filter would stop such packets in any case"),
        }
    }
}
