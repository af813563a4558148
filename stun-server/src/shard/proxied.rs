//! Clients behind a proxy that sends their datagrams on, each with a PROXY protocol header before it: who they are, and
//! which way answers go, which have no header.
//!
//! A client that has shown nothing yet is forgotten at the end of the turn: all that it is told then comes in the same.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use thirl_common::io::Route;
use thirl_common::net::{ClientAddr, FiveTuple};
use thirl_common::proxy_protocol::{self, Header, TrustedProxies};
use thirl_common::time::Deadlines;

/// How often it is asked whether a client is still worth remembering.
const REVIEW: Duration = Duration::from_secs(60);

/// Whom a datagram is from.
pub(super) enum Client {
    /// Whoever sent it.
    Direct,
    /// Whom the header says, which has so many bytes.
    Proxied { client: ClientAddr, header: usize },
    /// A proxy did not say.
    Unknown,
}

pub(super) struct Proxied {
    proxies: TrustedProxies,
    /// The way to each client that the service keeps something for, and to those of this turn.
    routes: HashMap<FiveTuple, Route, foldhash::fast::RandomState>,
    /// Those of this turn that are new.
    new: Vec<FiveTuple>,
    deadlines: Deadlines<FiveTuple>,
}

impl Proxied {
    pub(super) fn new(proxies: TrustedProxies) -> Proxied {
        Proxied { proxies, routes: HashMap::default(), new: Vec::new(), deadlines: Deadlines::default() }
    }

    #[inline]
    pub(super) fn client(&self, from: SocketAddr, datagram: &[u8]) -> Client {
        if !self.proxies.contains(from.ip()) {
            return Client::Direct;
        }
        match proxy_protocol::of_datagram(datagram) {
            Ok(Header { client, len }) => {
                Client::Proxied { client: ClientAddr(client.unwrap_or(from)), header: len }
            }
            Err(_) => Client::Unknown,
        }
    }

    /// What is sent to this client from now on goes this way.
    pub(super) fn remember(&mut self, five_tuple: FiveTuple, route: Route) {
        if self.routes.insert(five_tuple, route).is_none() {
            self.new.push(five_tuple);
        }
    }

    #[inline]
    pub(super) fn route(&self, five_tuple: &FiveTuple) -> Option<Route> {
        if self.routes.is_empty() { None } else { self.routes.get(five_tuple).copied() }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// Forgets the clients that nothing is kept for.
    #[inline]
    pub(super) fn settle(&mut self, now: Instant, keeps: impl Fn(&FiveTuple) -> bool) {
        while let Some(five_tuple) = self.new.pop().or_else(|| self.deadlines.pop_due(now)) {
            if keeps(&five_tuple) {
                self.deadlines.set(five_tuple, now + REVIEW);
            } else {
                self.routes.remove(&five_tuple);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thirl_common::io::SocketId;
    use thirl_common::net::{ServerAddr, Transport};

    #[test]
    fn clients_are_remembered_while_something_is_kept_for_them() {
        #[expect(clippy::disallowed_methods, reason = "any origin will do")]
        let t0 = Instant::now();
        let mut proxied = Proxied::new(TrustedProxies::default());
        let client = |port| FiveTuple {
            transport: Transport::Udp,
            client: ClientAddr(([192, 0, 2, 1], port).into()),
            server: ServerAddr(([198, 51, 100, 1], 3478).into()),
        };
        let route = Route { socket: SocketId::default(), to: ([10, 0, 0, 1], 9).into(), source: None };
        for port in 1..=100 {
            proxied.remember(client(port), route);
            assert_eq!(proxied.route(&client(port)), Some(route));
        }
        proxied.settle(t0, |five_tuple| five_tuple.client.port() <= 2);
        assert_eq!((proxied.routes.len(), proxied.deadlines.len()), (2, 2));
        let other = Route { to: ([10, 0, 0, 2], 9).into(), ..route };
        proxied.remember(client(1), other);
        assert_eq!(proxied.route(&client(1)), Some(other));
        proxied.settle(t0 + REVIEW, |five_tuple| five_tuple.client.port() == 1);
        assert_eq!((proxied.route(&client(1)), proxied.route(&client(2))), (Some(other), None));
        proxied.settle(t0 + 2 * REVIEW, |_| false);
        assert_eq!((proxied.routes.len(), proxied.poll_timeout()), (0, None));
    }
}
