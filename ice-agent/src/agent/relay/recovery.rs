//! What becomes of an allocation whose server sends it elsewhere, restarts or is full, whose socket or stream goes, or whose
//! credentials are replaced.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use thirl_common::net::canonical;
use thirl_common::uri::Host;

use super::super::config::TurnServer;
use super::super::event::{Action, Event, RelayId, SocketId, Via};
use super::super::{Agent, Timer};
use super::{Progress, Relay};
use crate::candidate::ComponentId;
use crate::turn::{TurnClient, TurnCredentials, TurnError};

/// Back-off doubles up to here.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// An allocation that stood for so long has done well: the next failure is the first.
const STEADY: Duration = Duration::from_secs(60);

/// How often the stream of an allocation that can be moved is asked for before the allocation is given up.
const MAX_RECONNECTS: u32 = 5;

impl Agent {
    /// New credentials for the TURN servers of this name or address, because the old ones expire or a token was
    /// [wanted](super::super::Event::TokenWanted). Where there is an
    /// allocation, another is made beside it, whose candidates are told as any others; the old one lives until the server
    /// refuses to refresh it.
    pub fn set_turn_credentials(&mut self, now: Instant, host: &Host, credentials: &TurnCredentials) {
        let named = |server: &TurnServer| {
            server.host.as_ref() == Some(host) || *host == Host::Ip(server.address.ip().to_canonical())
        };
        let mut renewed = Vec::new();
        for (index, server) in self.config.turn.iter_mut().enumerate().filter(|(_, server)| named(server)) {
            credentials.clone_into(&mut server.credentials);
            renewed.push(index);
        }
        let relays = self.gathering.relays.iter();
        let concerned = relays.filter(|(_, relay)| relay.owner.is_none() && renewed.contains(&relay.index));
        for id in concerned.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.take_credentials(id);
        }
        self.pump(now);
    }

    fn take_credentials(&mut self, id: RelayId) {
        let Some(relay) = self.gathering.relays.get_mut(&id).filter(|relay| !relay.replaced) else { return };
        let Some(server) = self.config.turn.get(relay.index).cloned() else { return };
        match relay.progress {
            Progress::Allocated(_) => {
                relay.replaced = true;
                let (component, index) = (relay.component, relay.index);
                // A five-tuple has one allocation, so this one needs another.
                let replacement = self.add_relay_by_stream(component, &server, index);
                if let Some(replacement) = self.gathering.relays.get_mut(&replacement) {
                    (replacement.stands_in, replacement.failures) = (true, 1);
                }
                self.connect_relay(replacement);
            }
            Progress::Over => self.renew_relay(id),
            Progress::Reserved => {
                relay.server.credentials = server.credentials;
            }
            // If the server refuses the old ones, the new ones are tried then.
            Progress::Pending => {}
        }
    }

    /// A component's path does not answer: its servers are asked whether they still have its allocations.
    pub(in crate::agent) fn check_relays(&mut self, now: Instant, component: ComponentId) {
        let of_it = self.gathering.relays.iter().filter(|(_, relay)| relay.component == component);
        for id in of_it.filter(|(_, relay)| relay.owner.is_none()).map(|(id, _)| *id).collect::<Vec<_>>() {
            self.with_client(now, id, |client| client.refresh(now));
        }
    }

    /// An allocation was refused, or is no more.
    pub(super) fn allocation_ended(&mut self, now: Instant, id: RelayId, reason: &TurnError) {
        let Some(relay) = self.gathering.relays.get(&id) else { return };
        let was_allocated = matches!(relay.progress, Progress::Allocated(_));
        match (reason, relay.carrier) {
            (TurnError::TryAlternate { to, domain }, _) if !was_allocated => {
                self.follow(now, id, *to, domain.as_deref(), reason);
            }
            // Somebody had this five-tuple before, and the server has not forgotten.
            (TurnError::AllocationMismatch, Via::Socket(socket)) if !was_allocated => {
                let server = relay.server.address;
                self.gathering.relay_by_server.remove(&(socket, server));
                self.queue_binding(socket, server);
                self.take_own_stream(id);
            }
            _ => {
                let full = matches!(reason, TurnError::QuotaReached | TurnError::InsufficientCapacity);
                let refused = matches!(
                    reason,
                    TurnError::CredentialsRefused
                        | TurnError::WrongCredentials
                        | TurnError::TokenWanted { .. }
                        | TurnError::NoTokens
                        | TurnError::NoCredentials
                );
                let known = self.config.turn.get(relay.index);
                let newer = known.is_some_and(|server| server.credentials != relay.server.credentials);
                if let (TurnError::TokenWanted { server }, Some(known), false) = (reason, known, newer) {
                    let host = known.host.clone().unwrap_or(Host::Ip(known.address.ip().to_canonical()));
                    self.out.events.push_back(Event::TokenWanted { host, server: server.clone() });
                }
                if let Some(relay) = self.gathering.relays.get_mut(&id) {
                    relay.stands_in |= was_allocated;
                }
                self.relay_failed(now, id, reason.to_string());
                match reason.retry_after() {
                    _ if refused && newer => self.retry_later(now, id, Duration::ZERO),
                    Some(wait) if full => self.retry_later(now, id, wait),
                    Some(wait) => self.try_again(now, id, wait),
                    None => {}
                }
            }
        }
    }

    /// Asks the server that was named in the place of the one before (RFC 8489, section 10).
    fn follow(
        &mut self,
        now: Instant,
        id: RelayId,
        to: SocketAddr,
        domain: Option<&str>,
        reason: &TurnError,
    ) {
        let Some(relay) = self.gathering.relays.get_mut(&id) else { return };
        if let Err(error) = relay.redirection.follow(to) {
            self.relay_failed(now, id, format!("{reason}: {error}"));
            return;
        }
        let before = std::mem::replace(&mut relay.server.address, to);
        // The certificate has to bear the same name as the first server's, unless there is another.
        relay.server.host = match domain {
            Some(domain) => Some(Host::Name(domain.to_owned())),
            None => relay.server.host.take().or(Some(Host::Ip(before.ip()))),
        };
        relay.client = None;
        match relay.carrier {
            Via::Socket(socket) if !self.gathering.relay_by_server.contains_key(&(socket, to)) => {
                self.gathering.relay_by_server.remove(&(socket, before));
                self.gathering.relay_by_server.insert((socket, to), id);
                self.start_relay(now, id);
            }
            _ => self.take_own_stream(id),
        }
    }

    /// Asks for another stream, or a socket of its own, for what was carried otherwise.
    fn take_own_stream(&mut self, id: RelayId) {
        let stream = self.new_stream();
        let Some(relay) = self.gathering.relays.get_mut(&id) else { return };
        if !matches!(relay.progress, Progress::Allocated(_)) {
            relay.client = None;
        }
        let before = std::mem::replace(&mut relay.carrier, Via::Stream(stream));
        if let Via::Stream(before) = before
            && self.gathering.relay_by_stream.remove(&before).is_some()
        {
            self.out.actions.push_back(Action::Close { stream: before });
        }
        self.gathering.relay_by_stream.insert(stream, id);
        self.connect_relay(id);
    }

    /// A socket is gone, and with it what it carried; and by its address what has sockets of its own.
    pub(in crate::agent) fn relays_lost_with(&mut self, now: Instant, socket: SocketId, ip: IpAddr) {
        let left_by = |client: &TurnClient| {
            // A TCP connection without a ticket may as well wait: it will say when it is closed.
            client.config().local.ip() == ip
                && (client.is_mobile() || !client.config().transport.is_reliable())
        };
        let gone = |relay: &Relay| match relay.carrier {
            Via::Socket(carrier) => carrier == socket,
            Via::Stream(_) => relay.client.as_ref().is_some_and(left_by),
        };
        let relays = self.gathering.relays.iter().filter(|(_, relay)| relay.owner.is_none() && gone(relay));
        let gone: Vec<_> = relays.map(|(id, _)| *id).collect();
        self.gathering.relay_by_server.retain(|(known, _), _| *known != socket);
        for id in gone {
            self.carrier_lost(now, id);
        }
    }

    /// What carried a relay is gone: the allocation moves to another, or is lost.
    pub(super) fn carrier_lost(&mut self, now: Instant, id: RelayId) {
        let Some(relay) = self.gathering.relays.get_mut(&id) else { return };
        match relay.client.as_mut() {
            Some(client) if client.is_mobile() => self.take_own_stream(id),
            Some(client) => {
                client.handle_disconnect();
                self.drain_relay(now, id);
            }
            None if relay.progress == Progress::Pending => {
                self.relay_failed(now, id, "the connection was closed".to_owned());
                self.try_again(now, id, Duration::from_secs(1));
            }
            None => {}
        }
    }

    /// Moves an allocation to the stream that was opened for it. `false` if there is none to move.
    pub(super) fn move_relay(&mut self, now: Instant, id: RelayId, local: SocketAddr) -> bool {
        let Some(relay) = self.gathering.relays.get_mut(&id) else { return false };
        let transport = relay.server.transport;
        let moved = relay.client.as_mut().is_some_and(|client| client.move_to(now, local, transport));
        if moved {
            relay.failures = 0;
            self.drain_relay(now, id);
        }
        moved
    }

    /// There is no stream. The network may be back in a moment, and the allocation still be there then.
    pub(super) fn stream_failed(&mut self, now: Instant, id: RelayId, reason: String) {
        let Some(relay) = self.gathering.relays.get_mut(&id) else { return };
        let mobile = relay.client.as_ref().is_some_and(TurnClient::is_mobile);
        if mobile && relay.failures < MAX_RECONNECTS {
            self.retry_later(now, id, Duration::from_secs(1));
            return;
        }
        relay.stands_in |= mobile;
        relay.client = None;
        self.timers.cancel(Timer::Relay(id));
        self.relay_failed(now, id, reason);
        self.try_again(now, id, Duration::from_secs(1));
    }

    /// What stands in for an allocation is to be had, sooner or later. Any other is tried again if it was the last way to its
    /// server and nothing is selected yet, with all ways there: the server may be restarting, or the network coming back.
    fn try_again(&mut self, now: Instant, id: RelayId, wait: Duration) {
        let Some(relay) = self.gathering.relays.get(&id) else { return };
        if relay.stands_in {
            return self.retry_later(now, id, wait);
        }
        let selected = self.session.streams.path(relay.component).is_none_or(|path| path.selected.is_some());
        if selected || self.has_way_beside(id) {
            return;
        }
        let idle = |other: &RelayId, way: &Relay| {
            way.progress == Progress::Over
                && way.owner.is_none()
                && self.timers.get(Timer::RelayTurn(*other)).is_none()
                && self.leads_to_the_same(relay, way)
        };
        let ways = self.gathering.relays.iter().filter(|(other, way)| idle(other, way));
        for way in ways.map(|(way, _)| *way).collect::<Vec<_>>() {
            self.retry_later(now, way, wait);
        }
    }

    /// Tries again, after a first failure at once unless the server wants more, then after `wait`, which doubles each time.
    fn retry_later(&mut self, now: Instant, id: RelayId, wait: Duration) {
        let Some(relay) = self.gathering.relays.get_mut(&id).filter(|relay| !relay.replaced) else { return };
        if relay.since.take().is_some_and(|since| now.saturating_duration_since(since) >= STEADY) {
            relay.failures = 0;
        }
        let wait = match relay.failures {
            0 if wait < MAX_WAIT => Duration::ZERO,
            failures => (wait * 2u32.pow(failures.saturating_sub(1).min(6))).min(MAX_WAIT.max(wait)),
        };
        relay.failures = relay.failures.saturating_add(1);
        self.timers.set(Timer::RelayTurn(id), now + wait);
    }

    /// Another allocation in the place of one that is over, with the credentials of now.
    pub(super) fn renew_relay(&mut self, id: RelayId) {
        let Some(relay) = self.gathering.relays.get(&id).filter(|relay| !relay.replaced) else { return };
        let (component, index, carrier) = (relay.component, relay.index, relay.carrier);
        let (stands_in, failures) = (relay.stands_in, relay.failures);
        if !self.is_alive(component) {
            return;
        }
        if let Some(relay) = self.gathering.relays.get_mut(&id) {
            relay.replaced = true;
        }
        let Some(server) = self.config.turn.get(index).cloned() else { return };
        let address = match carrier {
            Via::Socket(socket) => self.host_at(socket, server.address),
            Via::Stream(_) => canonical(server.address),
        };
        let server = TurnServer { address, ..server };
        let free = |socket: SocketId| {
            let lives = self.local.sockets.get(&socket).is_some();
            let holder = self.gathering.relay_by_server.get(&(socket, address));
            lives && holder.is_none_or(|holder| *holder == id)
        };
        let renewed = match carrier {
            Via::Socket(socket) if free(socket) => {
                let renewed = self.add_relay(Relay::new(component, &server, index, carrier));
                self.gathering.relay_by_server.insert((socket, address), renewed);
                renewed
            }
            // Another socket has taken the place of this one.
            Via::Socket(_) if self.has_way_beside(id) => return self.forget_relay(id),
            _ => self.add_relay_by_stream(component, &server, index),
        };
        if let Some(renewed) = self.gathering.relays.get_mut(&renewed) {
            (renewed.stands_in, renewed.failures) = (stands_in, failures.max(1));
        }
        self.forget_relay(id);
        match self.gathering.relays.get(&renewed).map(|relay| relay.carrier) {
            Some(Via::Socket(_)) => self.queue_allocation(renewed),
            _ => self.connect_relay(renewed),
        }
    }

    /// An allocation is of no use any more, and the server is told.
    pub(super) fn give_back(&mut self, now: Instant, id: RelayId) {
        self.with_client(now, id, |client| client.close(now));
        if let Some(relay) = self.gathering.relays.get_mut(&id) {
            relay.retire();
        }
        self.addresses_lost(now, id);
        self.forget_relay(id);
    }

    /// One that never had an address is of no interest any more.
    fn forget_relay(&mut self, id: RelayId) {
        let Some(relay) = self.gathering.relays.get_mut(&id) else { return };
        relay.client = None;
        self.timers.cancel(Timer::Relay(id));
        if let Via::Stream(stream) = relay.carrier
            && self.gathering.relay_by_stream.remove(&stream).is_some()
        {
            self.out.actions.push_back(Action::Close { stream });
        }
        self.forget_lost();
    }
}
