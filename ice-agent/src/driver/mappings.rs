//! A way in through this host's routers: a mapping for each socket and TCP port that faces the internet, which becomes a
//! candidate. It is
//! renewed while the agent lives, and removed when it is closed.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use thirl_common::io::internet_facing_ips;
use thirl_common::net::Transport;

use super::now;
use super::shared::Shared;
use crate::agent::{ListenerId, SocketId, State};
use crate::port_mapping::driver::{PortMappings, default_gateway};
use crate::port_mapping::{Event, MappingId, MappingRequest};

/// A router that does not confirm a removal in that time lets the mapping expire.
const REMOVAL: Duration = Duration::from_secs(1);

/// Asks the routers until the agent is closed. Gathering does not wait for them: their candidates trickle in.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut progress = shared.progress();
    let [mut ipv4, mut ipv6] = [true, false].map(Router::new);
    loop {
        let bound = bound(&shared);
        ipv4.follow(&bound);
        ipv6.follow(&bound);
        let (place, external) = tokio::select! {
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
        shared.with_agent(|agent| match place {
            Place::Udp(socket) => agent.add_mapped_address(now(), socket, external),
            Place::Tcp(listener) => agent.add_mapped_tcp_address(now(), listener, external),
        });
    }
    tokio::time::timeout(REMOVAL, async { tokio::join!(ipv4.remove(), ipv6.remove()) }).await.ok();
}

/// What is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Udp(SocketId),
    Tcp(ListenerId),
}

impl Place {
    fn transport(self) -> Transport {
        match self {
            Place::Udp(_) => Transport::Udp,
            Place::Tcp(_) => Transport::Tcp,
        }
    }
}

/// All that is bound, and where.
fn bound(shared: &Shared) -> Vec<(Place, SocketAddr)> {
    let core = shared.lock();
    let sockets = core.locals().into_iter().map(|(id, local)| (Place::Udp(id), local));
    sockets.chain(core.ports().into_iter().map(|(id, local)| (Place::Tcp(id), local))).collect()
}

/// The router of one family, and what it maps.
struct Router {
    ipv4: bool,
    /// Where it is, and from which address packets go there.
    way: Option<(SocketAddr, IpAddr)>,
    /// In a box, since most agents of a process with many have none.
    mappings: Option<Box<PortMappings>>,
    places: BTreeMap<MappingId, Place>,
}

impl Router {
    fn new(ipv4: bool) -> Router {
        Router { ipv4, way: None, mappings: None, places: BTreeMap::new() }
    }

    /// Has what is bound now mapped, by the router that is there now. With another router, what the last one mapped is of
    /// no use and cannot be removed any more.
    fn follow(&mut self, bound: &[(Place, SocketAddr)]) {
        let is_bound = |ip: &IpAddr| bound.iter().any(|(_, local)| local.ip() == *ip);
        let mut facing = internet_facing_ips().into_iter().flatten().filter(is_bound);
        let facing = facing.find(|ip| ip.is_ipv4() == self.ipv4);
        let way = default_gateway(self.ipv4).zip(facing);
        if self.way != way {
            self.way = way;
            self.mappings =
                way.and_then(|(gateway, local)| PortMappings::bind(gateway, local).ok().map(Box::new));
            self.places.clear();
        }
        let (Some(mappings), Some((_, facing))) = (&mut self.mappings, way) else { return };
        self.places.retain(|mapping, place| {
            let stays = bound.iter().any(|(known, _)| known == place);
            if !stays {
                mappings.remove(*mapping);
            }
            stays
        });
        for (place, local) in bound.iter().filter(|(_, local)| local.ip() == facing) {
            if self.places.values().all(|known| known != place) {
                let request = MappingRequest::new(place.transport(), local.port());
                // A permanent mapping would outlive an application that crashes.
                self.places.insert(mappings.map(MappingRequest { permanent: false, ..request }), *place);
            }
        }
    }

    /// The next of them that has an external address; never, if there is no router.
    async fn mapped(&mut self) -> (Place, SocketAddr) {
        let Some(mappings) = &mut self.mappings else { return std::future::pending().await };
        loop {
            if let Event::Mapped { mapping, external, .. } = mappings.next_event().await
                && let Some(&place) = self.places.get(&mapping)
            {
                return (place, external);
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
        self.places.keys().for_each(|mapping| mappings.remove(*mapping));
        while !self.places.is_empty() {
            if let Event::Removed { mapping, .. } = mappings.next_event().await {
                self.places.remove(&mapping);
            }
        }
    }
}
