//! What the gateway answers, and what that means for the mappings.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::Rng;
use thirl_common::net::Transport;

use super::{MAX_LIFETIME, MIN_RENEWAL, Offer, PortMapper, Timer};
use crate::port_mapping::error::{MappingError, Protocol, ResultCode};
use crate::port_mapping::event::{Event, MappingId};
use crate::port_mapping::mapping::Stage;
use crate::port_mapping::requests::{Asked, Pace};
use crate::port_mapping::wire::Map;

impl PortMapper {
    pub(super) fn handle_pcp(
        &mut self,
        now: Instant,
        result: ResultCode,
        lifetime: u32,
        epoch: u32,
        map: Option<Map>,
    ) {
        let Some(map) = map else {
            if self.requests.finish(Asked::Announce) {
                self.heard(now, Protocol::Pcp, epoch);
                // Whatever the server says of ANNOUNCE, it is one.
                self.found(now, Protocol::Pcp, None);
            }
            return;
        };
        let ours = self.mappings.iter().find(|(_, mapping)| mapping.is_meant_by(&map));
        let Some((id, stage)) = ours.map(|(id, mapping)| (*id, mapping.stage)) else { return };
        let asked = match stage {
            // A late answer to an earlier request.
            Stage::Removing(_) if result == ResultCode::Success && lifetime > 0 => return,
            Stage::Removing(_) => Asked::Remove(Protocol::Pcp, id),
            _ => Asked::Map(Protocol::Pcp, id),
        };
        if !self.requests.finish(asked) {
            return;
        }
        self.heard(now, Protocol::Pcp, epoch);
        let lifetime = Duration::from_secs(lifetime.into());
        if result != ResultCode::Success && !map.external_ip.is_unspecified() {
            // Not as RFC 6887, section 11.1, has it, but miniupnpd says so why it refuses: no public address.
            self.claimed(Protocol::Pcp, map.external_ip);
        }
        if result == ResultCode::Success && matches!(asked, Asked::Map(..)) {
            let external = SocketAddr::new(map.external_ip, map.external_port);
            self.granted(now, id, Protocol::Pcp, external, lifetime);
        } else {
            self.answered(now, asked, result, Some(lifetime));
        }
    }

    pub(super) fn handle_external_address(
        &mut self,
        now: Instant,
        epoch: u32,
        external: Result<IpAddr, ResultCode>,
    ) {
        if !self.requests.finish(Asked::ExternalAddress) {
            return;
        }
        self.heard(now, Protocol::NatPmp, epoch);
        let external = external.and_then(|ip| match ip.is_unspecified() {
            true => Err(ResultCode::NetworkFailure),
            false => Ok(ip),
        });
        match external {
            Ok(ip) => {
                self.found(now, Protocol::NatPmp, Some(ip));
                for (id, protocol) in self.mapped() {
                    let mapping = self.mappings.get(&id).and_then(|mapping| mapping.external);
                    if let Some(was) = mapping.filter(|_| protocol == Protocol::NatPmp) {
                        self.tell_mapped(now, id, protocol, SocketAddr::new(ip, was.port()));
                    }
                }
            }
            Err(code) if self.offer(Protocol::NatPmp) == Offer::Asking => {
                self.missing(now, Protocol::NatPmp, MappingError::Refused(code));
            }
            Err(_) => {}
        }
    }

    /// An error response without an internal port is about every request of its kind.
    pub(super) fn handle_nat_pmp_map(
        &mut self,
        now: Instant,
        epoch: u32,
        result: ResultCode,
        (transport, internal_port): (Transport, Option<u16>),
        (external_port, lifetime): (u16, u32),
    ) {
        let is_meant = |id: &MappingId| {
            self.mappings.get(id).is_some_and(|mapping| mapping.is_of(transport, internal_port))
        };
        let asked: Vec<_> = (self.requests.pending().into_iter())
            .filter(|asked| match asked {
                // RFC 6886, section 3.4: a deletion is confirmed with lifetime 0.
                Asked::Map(Protocol::NatPmp, id) => is_meant(id),
                Asked::Remove(Protocol::NatPmp, id) => is_meant(id) && lifetime == 0,
                _ => false,
            })
            .collect();
        if asked.is_empty() {
            return;
        }
        self.heard(now, Protocol::NatPmp, epoch);
        let ip = self.services.get(&Protocol::NatPmp).and_then(|service| service.external);
        for asked in asked {
            self.requests.finish(asked);
            match (asked, ip) {
                (Asked::Map(_, id), Some(ip)) if result == ResultCode::Success => {
                    let lifetime = Duration::from_secs(lifetime.into());
                    let external = SocketAddr::new(ip, external_port);
                    self.granted(now, id, Protocol::NatPmp, external, lifetime);
                }
                _ => self.answered(now, asked, result, None),
            }
        }
    }

    /// Notes the epoch of an answer; if the gateway has forgotten everything, all is asked for anew.
    pub(super) fn heard(&mut self, now: Instant, protocol: Protocol, epoch: u32) {
        let Some(service) = self.services.get_mut(&protocol) else { return };
        if service.epoch.is_reset_by(now, epoch, protocol) {
            for (id, _) in self.mapped().into_iter().filter(|(_, by)| *by == protocol) {
                self.ask_mapping(now, protocol, id, Pace::Quick);
            }
        }
    }

    pub(super) fn found(&mut self, now: Instant, protocol: Protocol, external: Option<IpAddr>) {
        if let Some(service) = self.services.get_mut(&protocol) {
            service.external = external;
        }
        if self.set_offer(protocol, Offer::Found) == Offer::Asking {
            self.events.push_back(Event::Found { protocol, external });
            self.choose_all(now);
        }
    }

    fn claimed(&mut self, protocol: Protocol, ip: IpAddr) {
        let Some(service) = self.services.get_mut(&protocol) else { return };
        if service.external.replace(ip) != Some(ip) {
            self.events.push_back(Event::Found { protocol, external: Some(ip) });
        }
    }

    pub(super) fn missing(&mut self, now: Instant, protocol: Protocol, reason: MappingError) {
        self.set_offer(protocol, Offer::Missing(reason.clone()));
        self.events.push_back(Event::Missing { protocol, reason });
        self.choose_all(now);
    }

    /// Everything that is being asked by this protocol is refused.
    pub(super) fn refuse_all(&mut self, now: Instant, protocol: Protocol, reason: &MappingError) {
        let asked = self.requests.pending().into_iter().filter(|asked| asked.protocol() == protocol);
        for asked in asked.collect::<Vec<_>>() {
            self.requests.finish(asked);
            self.not_done(now, asked, reason.clone());
        }
    }

    /// What was asked is not granted.
    fn answered(&mut self, now: Instant, asked: Asked, result: ResultCode, retry: Option<Duration>) {
        match asked {
            Asked::Map(protocol, id) if result.is_temporary() && self.is_mapped(id, protocol) => {
                self.renew_later(now, id, retry);
            }
            Asked::Remove(_, id) if result == ResultCode::Success => self.removed(id, Ok(())),
            asked => self.not_done(now, asked, MappingError::Refused(result)),
        }
    }

    pub(super) fn not_done(&mut self, now: Instant, asked: Asked, reason: MappingError) {
        match asked {
            Asked::Map(protocol, id) => self.refused(now, id, protocol, reason),
            Asked::Remove(_, id) => self.removed(id, Err(reason)),
            Asked::Announce | Asked::ExternalAddress => {
                let protocol = asked.protocol();
                // One that was found is only being checked; renewals will tell.
                if self.offer(protocol) == Offer::Asking {
                    self.missing(now, protocol, reason);
                }
            }
        }
    }

    pub(super) fn granted(
        &mut self,
        now: Instant,
        id: MappingId,
        by: Protocol,
        external: SocketAddr,
        lifetime: Duration,
    ) {
        if external.ip().is_unspecified() || external.port() == 0 || lifetime.is_zero() {
            return self.refused(now, id, by, MappingError::Nonsense);
        }
        let lifetime = lifetime.min(MAX_LIFETIME);
        if let Some(service) = self.services.get_mut(&by) {
            service.external = Some(external.ip());
        }
        let Some(mapping) = self.mappings.get_mut(&id) else { return };
        let renewed = mapping.external == Some(external);
        mapping.stage = Stage::Mapped(by);
        mapping.granted(external.port());
        // Between 1/2 and 5/8 of it (RFC 6887, section 11.2.1), so that clients do not all come at once.
        let renewal = lifetime.mul_f64(self.rng.random_range(0.5..=0.625)).max(MIN_RENEWAL);
        self.timers.set(Timer::Renew(id), now + renewal);
        self.timers.set(Timer::Expire(id), now + lifetime);
        match renewed {
            true => self.events.push_back(Event::Renewed { mapping: id, lifetime }),
            false => self.tell_mapped(now, id, by, external),
        }
    }

    fn tell_mapped(&mut self, now: Instant, id: MappingId, protocol: Protocol, external: SocketAddr) {
        let Some(mapping) = self.mappings.get_mut(&id) else { return };
        if mapping.external.replace(external) != Some(external) {
            let until = self.timers.get(Timer::Expire(id)).unwrap_or(now);
            let lifetime = until.saturating_duration_since(now);
            self.events.push_back(Event::Mapped { mapping: id, protocol, external, lifetime });
        }
    }

    /// This protocol does not do it; perhaps another does.
    pub(super) fn refused(&mut self, now: Instant, id: MappingId, protocol: Protocol, reason: MappingError) {
        let Some(mapping) = self.mappings.get_mut(&id) else { return };
        mapping.refused.push((protocol, reason));
        if mapping.external.is_some() {
            return self.lose(now, id);
        }
        mapping.stage = Stage::Choosing;
        self.choose(now, id);
    }

    pub(super) fn lose(&mut self, now: Instant, id: MappingId) {
        let Some(mapping) = self.mappings.get_mut(&id) else { return };
        let Stage::Mapped(protocol) = mapping.stage else { return };
        mapping.lost();
        self.timers.cancel(Timer::Renew(id));
        self.timers.cancel(Timer::Expire(id));
        self.requests.finish(Asked::Map(protocol, id));
        self.events.push_back(Event::Lost { mapping: id });
        self.discover(now);
        self.choose(now, id);
    }

    pub(super) fn removed(&mut self, id: MappingId, result: Result<(), MappingError>) {
        if self.mappings.remove(&id).is_some() {
            self.events.push_back(Event::Removed { mapping: id, result });
        }
    }
}
