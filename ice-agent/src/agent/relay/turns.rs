//! Which of several ways to one TURN server is tried when: UDP at once, and each stream only if what is better does not
//! answer in time.

use std::time::{Duration, Instant};

use thirl_common::net::Transport;

use super::super::config::TurnServer;
use super::super::event::{RelayId, Route, Via};
use super::super::{Agent, Timer};
use super::{Progress, Relay};

/// How long the better way to a server is given before the next is tried.
const TURN: Duration = Duration::from_millis(500);

impl Agent {
    /// Asks for a stream to each TURN server that is reached by one, for each component, or keeps it in reserve.
    pub(in crate::agent) fn connect_relays(&mut self, now: Instant) {
        let mut added = Vec::new();
        for (index, server) in self.config.turn.clone().iter().enumerate() {
            if server.transport != Transport::Udp {
                for component in self.session.streams.ids() {
                    added.push(self.add_relay_by_stream(component, server, index));
                }
            }
        }
        for id in added {
            match self.better_ways(id) {
                0 => self.connect_relay(id),
                better => {
                    if let Some(relay) = self.gathering.relays.get_mut(&id) {
                        relay.progress = Progress::Reserved;
                    }
                    self.timers.set(Timer::RelayTurn(id), now + TURN * better);
                }
            }
        }
    }

    /// Something was to be done about a relay at this time: its turn has come, or it is tried again.
    pub(in crate::agent) fn handle_relay_turn(&mut self, id: RelayId) {
        let Some(relay) = self.gathering.relays.get(&id) else { return };
        match relay.progress {
            Progress::Reserved => {
                let served =
                    self.ways_beside(id).any(|other| matches!(other.progress, Progress::Allocated(_)));
                if !served {
                    self.connect_relay(id);
                }
            }
            Progress::Over => self.renew_relay(id),
            // The stream that is to carry it from now on was not to be had.
            Progress::Allocated(_) => self.connect_relay(id),
            Progress::Pending => {}
        }
    }

    /// A way to a server has failed: the next is tried at once if no other is open.
    pub(super) fn call_reserve(&mut self, failed: RelayId) {
        if self.has_way_beside(failed) {
            return;
        }
        let Some(failed) = self.gathering.relays.get(&failed) else { return };
        let reserves = self.gathering.relays.iter().filter(|(_, relay)| relay.progress == Progress::Reserved);
        let mut alike =
            reserves.filter(|(_, relay)| self.leads_to_the_same(failed, relay)).map(|(id, _)| *id);
        if let Some(next) = alike.next() {
            self.timers.cancel(Timer::RelayTurn(next));
            self.connect_relay(next);
        }
    }

    /// Whether there is an allocation on the same server besides, or may soon be.
    pub(super) fn has_way_beside(&self, id: RelayId) -> bool {
        let open = |relay: &Relay| matches!(relay.progress, Progress::Pending | Progress::Allocated(_));
        self.ways_beside(id).any(open)
    }

    /// There is a new allocation on a server. Of those there that were moved from sockets which are gone, what carries data is
    /// kept, and the last, which the peer may be about to use: else a host that roams would have one more each time.
    pub(super) fn retire_moved(&mut self, now: Instant, fresh: RelayId) {
        let Some(this) = self.gathering.relays.get(&fresh) else { return };
        let moved = |relay: &Relay| {
            let by_stream = matches!(relay.carrier, Via::Stream(_)) && relay.owner.is_none();
            let allocated = matches!(relay.progress, Progress::Allocated(_));
            let server = self.config.turn.get(relay.index);
            by_stream && allocated && server.is_some_and(|server| server.transport == Transport::Udp)
        };
        let relays = self.gathering.relays.iter().filter(|(id, relay)| {
            **id != fresh
                && moved(relay)
                && self.leads_to_the_same(this, relay)
                && !self.carries_data(**id, relay)
        });
        let idle: Vec<_> = relays.map(|(id, _)| *id).collect();
        for id in idle.into_iter().rev().skip(1) {
            self.give_back(now, id);
        }
    }

    fn carries_data(&self, id: RelayId, relay: &Relay) -> bool {
        let routes = [Some(id), relay.other].map(|id| id.map(Route::Relay));
        let carrier = self.carrier(relay.component);
        let pair = carrier.and_then(|carrier| self.session_with(carrier).list.get(carrier));
        pair.is_some_and(|pair| routes.contains(&Some(pair.route)))
    }

    /// How many ways to the same server are tried before this one: UDP, from whatever sockets, and the streams named before.
    fn better_ways(&self, id: RelayId) -> u32 {
        let Some(relay) = self.gathering.relays.get(&id) else { return 0 };
        let live = || self.ways_beside(id).filter(|other| other.progress != Progress::Over);
        let udp = live().any(|other| other.server.transport == Transport::Udp);
        let before = |other: &&Relay| other.server.transport != Transport::Udp && other.index < relay.index;
        let streams = live().filter(before).count();
        u32::from(udp) + u32::try_from(streams).unwrap_or(u32::MAX)
    }

    /// The other relays for the same component that lead to the same server.
    fn ways_beside(&self, id: RelayId) -> impl Iterator<Item = &Relay> {
        let this = self.gathering.relays.get(&id);
        let others = self.gathering.relays.iter().filter(move |(other, relay)| {
            **other != id && relay.owner != Some(id) && this.is_some_and(|this| this.owner != Some(**other))
        });
        others
            .map(|(_, relay)| relay)
            .filter(move |other| this.is_some_and(|this| self.leads_to_the_same(this, other)))
    }

    /// By the servers as they were configured, wherever they have sent us since.
    pub(super) fn leads_to_the_same(&self, one: &Relay, other: &Relay) -> bool {
        let server = |relay: &Relay| self.config.turn.get(relay.index);
        one.component == other.component
            && matches!((server(one), server(other)), (Some(one), Some(other)) if is_same_server(one, other))
    }
}

fn is_same_server(one: &TurnServer, other: &TurnServer) -> bool {
    let (ip, other_ip) = (one.address.ip().to_canonical(), other.address.ip().to_canonical());
    (one.host.is_some() && one.host == other.host) || (ip == other_ip && !ip.is_unspecified())
}
