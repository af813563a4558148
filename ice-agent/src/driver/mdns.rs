//! Names of mDNS (RFC 6762) in place of host addresses (draft-ietf-mmusic-mdns-ice-candidates), which browsers tell.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mdns_sd::{HostnameResolutionEvent, ServiceDaemon, ServiceInfo};
use rand::TryRngCore;

use super::now;
use super::shared::Shared;
use crate::candidate::{Candidate, CandidateAddress};

/// A machine in the same network answers sooner, or is asleep.
const PATIENCE: Duration = Duration::from_secs(4);
/// Under this a name is published: the library publishes services, and the addresses of their hosts with them.
const SERVICE: &str = "_thirl-ice._udp.local.";
/// The discard port: the service is but a name.
const DISCARD: u16 = 9;

/// A peer that tells more names has only so many looked up at a time.
pub(super) const MAX_LOOKUPS: usize = 16;

impl Shared {
    /// A candidate of the peer's, once its name is resolved if it has one.
    pub(super) fn add_remote_candidate(self: &Arc<Self>, candidate: Candidate) {
        let free = || Arc::clone(&self.lookups).try_acquire_owned().ok();
        match name_of(&candidate).and_then(|name| Some((name, free()?))) {
            Some(((name, port), permit)) => {
                let (shared, name) = (Arc::clone(self), name.to_owned());
                self.runtime.spawn(async move {
                    let found = resolve(&name).await;
                    shared.add_resolved(candidate, port, found);
                    drop(permit);
                });
            }
            None => self.with_agent(|agent| agent.add_remote_candidate(now(), candidate)),
        }
    }

    /// One without an address is passed over by the agent.
    fn add_resolved(&self, mut candidate: Candidate, port: u16, found: Result<IpAddr, String>) {
        self.with_agent(|agent| {
            match found {
                Ok(ip) => candidate.address = CandidateAddress::Ip(SocketAddr::new(ip, port)),
                Err(why) => agent.note(why),
            }
            agent.add_remote_candidate(now(), candidate);
        });
    }
}

/// The name that has to be looked up before a peer's candidate can be used: one label before `.local`, and no other, which
/// might be looked up elsewhere (section 3.2.1).
fn name_of(candidate: &Candidate) -> Option<(&str, u16)> {
    let CandidateAddress::Unresolved { name, port } = &candidate.address else { return None };
    let label = name.strip_suffix(".local")?;
    (!label.is_empty() && !label.contains('.')).then_some((name, *port))
}

/// The address of a name, or why there is none.
async fn resolve(name: &str) -> Result<IpAddr, String> {
    let daemon = daemon().ok_or("this machine does not let us speak mDNS")?;
    let millis = u64::try_from(PATIENCE.as_millis()).ok();
    let answers =
        daemon.resolve_hostname(&format!("{name}."), millis).map_err(|error| format!("{name}: {error}"))?;
    while let Ok(answer) = answers.recv_async().await {
        match answer {
            HostnameResolutionEvent::AddressesFound(_, found) => {
                // Without its scope a link-local address means nothing.
                let ips = found.into_iter().map(|found| found.to_ip_addr()).filter(|ip| !is_link_local(*ip));
                if let Some(ip) = ips.min() {
                    daemon.stop_resolve_hostname(&format!("{name}.")).ok();
                    return Ok(ip);
                }
            }
            HostnameResolutionEvent::SearchTimeout(_) | HostnameResolutionEvent::SearchStopped(_) => break,
            _ => {}
        }
    }
    Err(format!("{name}: nobody in this network answers to it"))
}

/// The names of an agent's addresses, published as long as this lives, and the addresses are there.
#[derive(Debug, Default)]
pub(super) struct Published(Vec<(IpAddr, String)>);

impl Published {
    /// A random name for an address: a UUID (section 3.1.1). If it cannot be published, it is one that nobody can resolve.
    pub(super) fn name(&mut self, ip: IpAddr) -> Result<String, rand::rand_core::OsError> {
        let label = uuid()?;
        let name = format!("{label}.local");
        let service = ServiceInfo::new(SERVICE, &label, &format!("{name}."), ip, DISCARD, None);
        if let (Some(daemon), Ok(service)) = (daemon(), service) {
            let full = service.get_fullname().to_owned();
            if daemon.register(service).is_ok() {
                self.0.push((ip, full));
            }
        }
        Ok(name)
    }

    /// Publishes the names of addresses that are gone no longer.
    pub(super) fn retract(&mut self, is_gone: impl Fn(IpAddr) -> bool) {
        for (_, service) in self.0.extract_if(.., |(ip, _)| is_gone(*ip)) {
            if let Some(daemon) = daemon() {
                // It says goodbye when it can.
                drop(daemon.unregister(&service));
            }
        }
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        self.retract(|_| true);
    }
}

/// One for all agents, in a thread of its own, once it is needed.
fn daemon() -> Option<&'static ServiceDaemon> {
    static DAEMON: OnceLock<Option<ServiceDaemon>> = OnceLock::new();
    DAEMON.get_or_init(|| ServiceDaemon::new().ok()).as_ref()
}

/// Version 4 (RFC 9562, section 5.4).
fn uuid() -> Result<String, rand::rand_core::OsError> {
    let mut bytes = [0; 16];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = u128::from_be_bytes(bytes);
    let hex = format!("{hex:032x}");
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_network_are_looked_up() {
        let name = |address: &str| {
            let line = format!("candidate:1 1 udp 2130706431 {address} 40000 typ host");
            name_of(&Candidate::parse(&line).unwrap()).map(|(name, _)| name.to_owned())
        };
        let label = uuid().unwrap();
        assert_eq!((label.len(), label.as_bytes()[14]), (36, b'4'), "{label}");
        let own = format!("{label}.local");
        assert_eq!(name(&own), Some(own));
        for other in ["192.0.2.1", "peer.example.org", "a.b.local", ".local", "local"] {
            assert_eq!(name(other), None, "{other}");
        }
    }
}
