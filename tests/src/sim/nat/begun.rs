//! What others have begun: by which mapping the answers leave.

use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Sessions that began with a packet from outside.
#[derive(Debug, Default)]
pub(super) struct Begun {
    /// By the internal endpoint and the remote one as that sees it: the external endpoint, and the remote one itself.
    ways: BTreeMap<(SocketAddr, SocketAddr), (SocketAddr, SocketAddr)>,
    /// By the external endpoint and the remote one: what the internal one sees in its place.
    seen: BTreeMap<(SocketAddr, SocketAddr), SocketAddr>,
}

impl Begun {
    /// The external endpoint that answers leave by, and where they go.
    pub(super) fn of(&self, internal: SocketAddr, seen: SocketAddr) -> Option<(SocketAddr, SocketAddr)> {
        self.ways.get(&(internal, seen)).copied()
    }

    /// What the internal endpoint sees in place of a remote one.
    pub(super) fn seen_as(&self, external: SocketAddr, remote: SocketAddr) -> Option<SocketAddr> {
        self.seen.get(&(external, remote)).copied()
    }

    /// Adds a session; one that clashes with another is seen under another port.
    pub(super) fn insert(
        &mut self,
        internal: SocketAddr,
        (external, remote): (SocketAddr, SocketAddr),
        clashes: bool,
    ) {
        let way = (external, remote);
        let is_taken = |seen| self.ways.get(&(internal, seen)).is_some_and(|other| *other != way);
        let mut seen = self.seen_as(external, remote).unwrap_or(remote);
        if clashes && seen == remote || is_taken(seen) {
            let others = (remote.port()..=u16::MAX).skip(1).chain(1024..remote.port());
            let mut places = others.map(|port| SocketAddr::new(remote.ip(), port));
            seen = places.find(|place| !is_taken(*place)).unwrap_or(remote);
        }
        self.ways.insert((internal, seen), way);
        self.seen.insert((external, remote), seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_session_has_a_way_back_of_its_own() {
        let at = |port| SocketAddr::from(([9, 9, 9, 9], port));
        let (internal, mut begun) = (at(1), Begun::default());
        let ways = [(at(10), at(100)), (at(11), at(100)), (at(10), at(101))];
        begun.insert(internal, ways[0], false);
        begun.insert(internal, ways[1], true);
        // The one before is seen as this already.
        begun.insert(internal, ways[2], false);
        for way in ways {
            let seen = begun.seen_as(way.0, way.1).unwrap_or(way.1);
            assert_eq!(begun.of(internal, seen), Some(way));
        }
    }
}
