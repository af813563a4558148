//! A way in through this host's routers: a mapping for each socket that faces the internet, which becomes a candidate. It is
//! renewed while the agent lives, and removed when it is closed.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use thirl_common::io::internet_facing_ips;
use thirl_common::net::Transport;

use super::now;
use super::shared::Shared;
use crate::agent::{SocketId, State};
use crate::port_mapping::driver::{PortMappings, default_gateway};
use crate::port_mapping::{Event, MappingId, MappingRequest};

/// A router that does not confirm a removal in that time lets the mapping expire.
const REMOVAL: Duration = Duration::from_secs(1);

/// Asks the routers until the agent is closed. Gathering does not wait for them: their candidates trickle in.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut progress = shared.progress();
    let [mut ipv4, mut ipv6] = [true, false].map(Router::new);
    loop {
        let sockets = shared.lock().locals();
        ipv4.follow(&sockets);
        ipv6.follow(&sockets);
        let (socket, external) = tokio::select! {
            mapped = ipv4.mapped() => mapped,
            mapped = ipv6.mapped() => mapped,
            () = shared.addresses_changed.notified() => {
                ipv4.check();
                ipv6.check();
                continue;
            }
            changed = progress.wait_for(|progress| progress.state == State::Closed) => {
                debug_assert!(changed.is_ok(), "the sender lives as long as this task");
                break;
            }
        };
        shared.with_agent(|agent| agent.add_mapped_address(now(), socket, external));
    }
    tokio::time::timeout(REMOVAL, async { tokio::join!(ipv4.remove(), ipv6.remove()) }).await.ok();
}

/// The router of one family, and what it maps.
struct Router {
    ipv4: bool,
    /// Where it is, and from which address packets go there.
    place: Option<(SocketAddr, IpAddr)>,
    /// In a box, since most agents of a process with many have none.
    mappings: Option<Box<PortMappings>>,
    sockets: BTreeMap<MappingId, SocketId>,
}

impl Router {
    fn new(ipv4: bool) -> Router {
        Router { ipv4, place: None, mappings: None, sockets: BTreeMap::new() }
    }

    /// Has what is bound now mapped, by the router that is there now. With another router, what the last one mapped is of
    /// no use and cannot be removed any more.
    fn follow(&mut self, sockets: &[(SocketId, SocketAddr)]) {
        let bound = |ip: &IpAddr| sockets.iter().any(|(_, local)| local.ip() == *ip);
        let mut facing = internet_facing_ips().into_iter().flatten().filter(bound);
        let facing = facing.find(|ip| ip.is_ipv4() == self.ipv4);
        let place = default_gateway(self.ipv4).zip(facing);
        if self.place != place {
            self.place = place;
            self.mappings =
                place.and_then(|(gateway, local)| PortMappings::bind(gateway, local).ok().map(Box::new));
            self.sockets.clear();
        }
        let (Some(mappings), Some((_, facing))) = (&mut self.mappings, place) else { return };
        self.sockets.retain(|mapping, socket| {
            let stays = sockets.iter().any(|(id, _)| id == socket);
            if !stays {
                mappings.remove(*mapping);
            }
            stays
        });
        for (id, local) in sockets.iter().filter(|(_, local)| local.ip() == facing) {
            if self.sockets.values().all(|known| known != id) {
                // A permanent mapping would outlive an application that crashes.
                let request =
                    MappingRequest { permanent: false, ..MappingRequest::new(Transport::Udp, local.port()) };
                self.sockets.insert(mappings.map(request), *id);
            }
        }
    }

    /// The next socket that has an external address; never, if there is no router.
    async fn mapped(&mut self) -> (SocketId, SocketAddr) {
        let Some(mappings) = &mut self.mappings else { return std::future::pending().await };
        loop {
            if let Event::Mapped { mapping, external, .. } = mappings.next_event().await
                && let Some(&socket) = self.sockets.get(&mapping)
            {
                return (socket, external);
            }
        }
    }

    /// The network has changed: the router may be another, or may have begun anew.
    fn check(&mut self) {
        if let Some(mappings) = &mut self.mappings {
            mappings.check();
        }
    }

    async fn remove(&mut self) {
        let Some(mappings) = &mut self.mappings else { return };
        self.sockets.keys().for_each(|mapping| mappings.remove(*mapping));
        while !self.sockets.is_empty() {
            if let Event::Removed { mapping, .. } = mappings.next_event().await {
                self.sockets.remove(&mapping);
            }
        }
    }
}
