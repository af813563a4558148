//! A network with IPv6 only, whose NAT64 (RFC 6146) leads to IPv4 hosts.
//!
//! Within the agent an IPv4 host has its IPv4 address, whatever socket it is reached from: what leaves by an IPv6 socket is
//! addressed under the NAT64's prefix (RFC 6052), and what comes from there is the IPv4 host's. So candidates, pairs, servers
//! and what either side is told of its mapping are those that the IPv4 host knows; an IPv6 base has an IPv4 mapping.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use thirl_common::net::{Nat64Prefix, canonical};

use super::Agent;
use super::event::{ListenerId, Route, SocketId, Via};
use super::pair::{Realm, is_no_hosts, realm_v4};
use crate::candidate::{ComponentId, TcpType};

/// Where packets leave this host: at a UDP socket, or a TCP port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vantage {
    /// Its own address, with its scope, if it is link-local.
    pub(super) local: SocketAddr,
    /// The NAT64 by which it reaches IPv4 hosts, if it is one of IPv6.
    nat64: Option<Nat64Prefix>,
}

impl Vantage {
    /// Without a NAT64.
    pub(super) fn new(local: SocketAddr) -> Vantage {
        Vantage { local, nat64: None }
    }

    /// Uses a NAT64, if packets of this one's leave the link. `false` if nothing is new.
    pub(super) fn take_nat64(&mut self, prefix: Option<Nat64Prefix>) -> bool {
        let leaves =
            matches!(self.local.ip(), IpAddr::V6(ip) if !ip.is_loopback() && !ip.is_unicast_link_local());
        if !leaves || prefix.is_none() || self.nat64 == prefix {
            return false;
        }
        self.nat64 = prefix;
        true
    }

    /// Who it is that a packet came from, or that is to be reached.
    pub(super) fn host_at(&self, address: SocketAddr) -> SocketAddr {
        let address = canonical(address);
        self.nat64.map_or(address, |prefix| prefix.to_ipv4(address))
    }

    /// Where packets to a host are sent: under the prefix, or with this one's scope, without which a link-local address
    /// means nothing.
    pub(super) fn address_of(&self, host: SocketAddr) -> SocketAddr {
        match (host, self.local, self.nat64) {
            (SocketAddr::V4(_), SocketAddr::V6(_), Some(prefix)) => prefix.to_ipv6(host),
            (SocketAddr::V6(mut to), SocketAddr::V6(local), _) if to.ip().is_unicast_link_local() => {
                to.set_scope_id(local.scope_id());
                to.into()
            }
            _ => host,
        }
    }

    /// Whether packets can pass from here to a host at all: families and scopes must be the same, unless there is a NAT64.
    pub(super) fn reaches(&self, host: IpAddr) -> bool {
        match (canonical(self.local).ip(), host, self.nat64) {
            (IpAddr::V6(_), IpAddr::V4(host), Some(prefix)) => leads_to(prefix, host),
            (local, host, _) => can_reach(local, host),
        }
    }

    /// The same for a server, which may be on this host: then it is reached at a loopback address from any of the same family.
    pub(super) fn reaches_server(&self, server: IpAddr) -> bool {
        let on_this_host = server.is_loopback() && canonical(self.local).is_ipv4() == server.is_ipv4();
        on_this_host || self.reaches(server)
    }

    /// Whether others may know this one by such an address: a translator stands before IPv6 hosts only.
    pub(super) fn can_be_known_as(&self, address: SocketAddr) -> bool {
        self.local.is_ipv6() || address.is_ipv4()
    }
}

impl Agent {
    /// The prefix of the network's NAT64, as RFC 7050 lets a host find it: by the IPv6 sockets and TCP ports that there are,
    /// and those that are added, IPv4 hosts are reached under it from now on. With `None` those that are added do without;
    /// others keep what they have, since what they reached they may reach still.
    pub fn set_nat64(&mut self, now: Instant, prefix: Option<Nat64Prefix>) {
        self.config.nat64 = prefix;
        let sockets = self.local.sockets.iter_mut();
        let concerned: Vec<_> =
            sockets.filter_map(|(id, socket)| socket.at.take_nat64(prefix).then_some(*id)).collect();
        for &id in &concerned {
            self.rename_servers(id);
            if self.gathering.begun.is_some() && self.is_running() {
                self.ask_servers(id, SocketAddr::is_ipv4);
                self.form_pairs_on(now, Route::Socket(id));
            }
        }
        let listeners = self.local.listeners.iter_mut();
        let ports: Vec<_> =
            listeners.filter_map(|(id, listener)| listener.at.take_nat64(prefix).then_some(*id)).collect();
        for &id in &ports {
            if self.gathering.begun.is_some() && self.is_running() {
                self.ask_servers_over_tcp(id, SocketAddr::is_ipv4);
                for ty in [TcpType::Active, TcpType::SimultaneousOpen] {
                    self.form_pairs_on(now, Route::Tcp(id, ty));
                }
            }
        }
        if !concerned.is_empty() || !ports.is_empty() {
            self.pump(now);
        }
    }

    /// The prefix that sockets which are added use.
    pub fn nat64(&self) -> Option<Nat64Prefix> {
        self.config.nat64
    }

    /// Where the first component's data is sent, as this host's network knows it: the peer, or the TURN server whose relay it
    /// goes over; an IPv4 host behind a NAT64 by its IPv6 address.
    pub fn destination(&self) -> Option<SocketAddr> {
        let id = self.carrier(ComponentId::ONE)?;
        let pair = self.session_with(id).list.get(id)?;
        let (via, host) = match pair.route {
            Route::Socket(socket) => (Via::Socket(socket), pair.to),
            Route::Relay(relay) => {
                let relay = self.gathering.relays.get(&relay)?;
                (relay.carrier, relay.server.address)
            }
            Route::Tcp(id, _) => {
                return Some(
                    self.local.listeners.get(&id).map_or(pair.to, |port| port.at.address_of(pair.to)),
                );
            }
        };
        Some(self.wire_address(via, host))
    }

    /// Servers that a socket reached under the prefix before it was known for one, as DNS64 leads to them.
    fn rename_servers(&mut self, id: SocketId) {
        let Some(socket) = self.local.sockets.get(&id) else { return };
        self.gathering.rename_servers(id, |server| socket.at.host_at(server));
    }

    /// A new socket may use what the network has.
    pub(super) fn introduce_nat64(&mut self, id: SocketId) {
        if let Some(socket) = self.local.sockets.get_mut(&id) {
            socket.at.take_nat64(self.config.nat64);
        }
    }

    /// The same for a new TCP port.
    pub(super) fn introduce_nat64_to_listener(&mut self, id: ListenerId) {
        if let Some(listener) = self.local.listeners.get_mut(&id) {
            listener.at.take_nat64(self.config.nat64);
        }
    }

    /// Who sends to a socket from there.
    pub(super) fn host_at(&self, id: SocketId, address: SocketAddr) -> SocketAddr {
        self.local.sockets.get(&id).map_or_else(|| canonical(address), |socket| socket.at.host_at(address))
    }

    /// Who it is that the peer has told of, from where a route begins.
    pub(super) fn host_towards(&self, route: Route, address: SocketAddr) -> SocketAddr {
        match route {
            Route::Socket(id) => self.host_at(id, address),
            Route::Tcp(id, _) => {
                self.local.listeners.get(&id).map_or(address, |listener| listener.at.host_at(address))
            }
            Route::Relay(_) => address,
        }
    }

    fn wire_address(&self, via: Via, host: SocketAddr) -> SocketAddr {
        match via {
            Via::Socket(id) => self.local.sockets.get(&id).map_or(host, |socket| socket.at.address_of(host)),
            Via::Stream(_) => host,
        }
    }

    pub(super) fn transmit_from(&mut self, via: Via, to: SocketAddr, payload: Vec<u8>) {
        let to = self.wire_address(via, to);
        self.out.transmits.push_back(super::Transmit { via, to, payload });
    }
}

/// Whether packets can pass from one address to the other at all.
pub(super) fn can_reach(local: IpAddr, remote: IpAddr) -> bool {
    let link_local = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    local.is_ipv4() == remote.is_ipv4()
        && local.is_loopback() == remote.is_loopback()
        && link_local(local) == link_local(remote)
}

/// Whether a NAT64 takes packets to a host. "The Well-Known Prefix MUST NOT be used to represent non-global IPv4 addresses"
/// (RFC 6052, section 3.1); a network's own may lead to private ones of its own.
fn leads_to(prefix: Nat64Prefix, host: Ipv4Addr) -> bool {
    let well_known = prefix.extract(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0)).is_some();
    match realm_v4(host) {
        _ if is_no_hosts(host) => false,
        Realm::Loopback | Realm::LinkLocal => false,
        Realm::Global => true,
        Realm::Ten | Realm::SeventeenTwo | Realm::OneNineTwo | Realm::SharedAddressSpace => !well_known,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use thirl_common::wire::{IntegrityKey, Message};

    use super::super::{AgentConfig, Event, Role, State, TurnServer, message};
    use super::*;
    use crate::candidate::Candidate;

    const STUN: &str = "203.0.113.5:3478";

    /// An agent with IPv6 only, its network's NAT64, which has one mapping, and an agent with IPv4 on the other side.
    struct Network {
        now: Instant,
        prefix: Nat64Prefix,
        inside: (Agent, SocketId, SocketAddr),
        outside: (Agent, SocketId, SocketAddr),
        mapped: SocketAddr,
        /// What the agent inside had from the one outside.
        received: Vec<(SocketAddr, Vec<u8>)>,
    }

    impl Network {
        fn new(prefix: &str, inside: impl FnOnce(AgentConfig) -> AgentConfig) -> Network {
            #[expect(clippy::disallowed_methods, reason = "a test's clock")]
            let now = Instant::now();
            let agent = |config: AgentConfig, local: &str| {
                let local = local.parse().unwrap();
                let mut agent = Agent::new(config, [local_seed(local); 32]);
                let socket = agent.add_local_socket(now, local, 255);
                (agent, socket, local)
            };
            let config =
                AgentConfig { stun: vec![STUN.parse().unwrap()], ..AgentConfig::new(Role::Controlling) };
            Network {
                now,
                prefix: prefix.parse().unwrap(),
                inside: agent(inside(config), "[2001:db8::2]:5000"),
                outside: agent(AgentConfig::new(Role::Controlled), "192.0.2.9:6000"),
                mapped: "198.51.100.1:7000".parse().unwrap(),
                received: Vec::new(),
            }
        }

        /// Carries packets and time for a while.
        fn run(&mut self, time: Duration) {
            let end = self.now + time;
            while self.now < end {
                self.carry();
                self.now += Duration::from_millis(5);
                self.inside.0.handle_timeout(self.now);
                self.outside.0.handle_timeout(self.now);
            }
        }

        fn carry(&mut self) {
            let Network { now, prefix, inside, outside, mapped, received } = self;
            while let Some(transmit) = inside.0.poll_transmit() {
                let to = prefix.to_ipv4(transmit.to);
                assert!(transmit.to.is_ipv6() && to.is_ipv4(), "{transmit:?}");
                if to == STUN.parse().unwrap() {
                    let id = Message::parse(&transmit.payload).unwrap().transaction_id();
                    let answer = message::success(id, *mapped, &IntegrityKey::new(b"none"));
                    inside.0.handle_datagram(*now, inside.1, transmit.to, &answer);
                } else if to == outside.2 {
                    outside.0.handle_datagram(*now, outside.1, *mapped, &transmit.payload);
                }
            }
            while let Some(transmit) = outside.0.poll_transmit() {
                assert_eq!(transmit.to, *mapped, "the agent outside knows of nothing else");
                let from = prefix.to_ipv6(outside.2);
                let data = inside.0.handle_datagram(*now, inside.1, from, &transmit.payload);
                received.extend(data.map(|received| (received.from, received.data.to_vec())));
            }
        }

        fn connect(&mut self) {
            let [inside, outside] = [&mut self.inside.0, &mut self.outside.0];
            inside.gather(self.now);
            outside.gather(self.now);
            inside.set_remote_credentials(self.now, outside.local_credentials().clone()).unwrap();
            outside.set_remote_credentials(self.now, inside.local_credentials().clone()).unwrap();
            self.run(Duration::from_millis(200));
            for candidate in self.outside.0.local_candidates().cloned().collect::<Vec<_>>() {
                self.inside.0.add_remote_candidate(self.now, candidate);
            }
            for candidate in told(&self.inside.0) {
                self.outside.0.add_remote_candidate(self.now, Candidate::parse(&candidate).unwrap());
            }
            self.run(Duration::from_secs(2));
        }

        fn assert_direct(&mut self) {
            let [inside, outside] = [&self.inside.0, &self.outside.0];
            assert_eq!([inside.state(), outside.state()], [State::Completed; 2], "{}", inside.report());
            assert_eq!(inside.destination(), Some(self.prefix.to_ipv6(self.outside.2)));
            let pair = |agent: &Agent| {
                agent.current().map(|pair| (pair.local.address, pair.remote.address)).unwrap()
            };
            let (local, remote) = pair(inside);
            assert_eq!(
                (remote.clone(), local.clone()),
                pair(outside),
                "both sides know both ends as the same"
            );
            assert_eq!([local.ip(), remote.ip()], [Some(self.mapped), Some(self.outside.2)]);
            self.inside.0.send(self.now, b"out").unwrap();
            self.outside.0.send(self.now, b"in").unwrap();
            self.carry();
            assert_eq!(self.received, [(self.outside.2, b"in".to_vec())]);
        }
    }

    fn local_seed(local: SocketAddr) -> u8 {
        u8::from(local.is_ipv4())
    }

    fn told(agent: &Agent) -> Vec<String> {
        agent.local_candidates().map(ToString::to_string).collect()
    }

    #[test]
    fn an_ipv6_host_and_an_ipv4_host_connect_directly() {
        for prefix in ["64:ff9b::/96", "2001:db8:64::/48"] {
            let nat64 = prefix.parse().ok();
            let mut network = Network::new(prefix, |config| AgentConfig { nat64, ..config });
            network.connect();
            let told = told(&network.inside.0);
            assert!(
                told[1].contains(" 198.51.100.1 7000 typ srflx raddr 2001:db8::2 rport 5000"),
                "{told:?}"
            );
            network.assert_direct();
        }
    }

    #[test]
    fn a_prefix_that_is_found_later_is_used_at_once() {
        let mut network = Network::new("64:ff9b::/96", |config| config);
        network.connect();
        assert_ne!(network.inside.0.state(), State::Completed);
        assert_eq!(told(&network.inside.0).len(), 1, "nobody answered who could tell more");
        network.inside.0.set_nat64(network.now, "64:ff9b::/96".parse().ok());
        network.run(Duration::from_millis(200));
        for candidate in told(&network.inside.0) {
            network.outside.0.add_remote_candidate(network.now, Candidate::parse(&candidate).unwrap());
        }
        network.run(Duration::from_secs(2));
        network.assert_direct();
        // What is reached stays so when the host no longer needs the NAT64 elsewhere.
        network.inside.0.set_nat64(network.now, None);
        network.received.clear();
        network.run(Duration::from_secs(60));
        network.assert_direct();
    }

    /// DNS64 leads to the server under the prefix, which the agent learns later.
    #[test]
    fn a_server_keeps_its_allocation_when_the_prefix_becomes_known() {
        let prefix: Nat64Prefix = "64:ff9b::/96".parse().unwrap();
        let server: SocketAddr = STUN.parse().unwrap();
        let translated = prefix.to_ipv6(server);
        let turn = |address| TurnServer {
            address,
            host: None,
            transport: thirl_common::net::Transport::Udp,
            credentials: crate::turn::TurnCredentials::password("u", "p"),
        };
        let mut network = Network::new("64:ff9b::/96", |config| AgentConfig {
            stun: vec![],
            turn: vec![turn(translated), turn(server)],
            ..config
        });
        let Network { now, inside: (agent, socket, _), .. } = &mut network;
        agent.gather(*now);
        let allocate = agent.poll_transmit().unwrap();
        assert_eq!(allocate.to, translated);
        agent.set_nat64(*now, Some(prefix));
        agent.handle_timeout(*now + Duration::from_secs(1));
        let id = Message::parse(&allocate.payload).unwrap().transaction_id();
        let again = std::iter::from_fn(|| agent.poll_transmit()).collect::<Vec<_>>();
        assert!(again.iter().all(|sent| sent.to == translated), "{again:?}");
        let ids: Vec<_> =
            again.iter().map(|sent| Message::parse(&sent.payload).unwrap().transaction_id()).collect();
        assert_eq!(ids, [id], "there is one allocation, whichever address was named");
        assert_eq!(agent.gathering.relay_by_server.keys().collect::<Vec<_>>(), [&(*socket, server)]);
    }

    #[test]
    fn what_a_nat64_leads_to() {
        let reaches = |local: &str, prefix: Option<&str>, host: &str| {
            let mut agent = Agent::new(AgentConfig::new(Role::Controlling), [1; 32]);
            #[expect(clippy::disallowed_methods, reason = "a test's clock")]
            let now = Instant::now();
            agent.set_nat64(now, prefix.map(|prefix| prefix.parse().unwrap()));
            let socket = agent.add_local_socket(now, local.parse().unwrap(), 255);
            agent.local.sockets.get(&socket).unwrap().at.reaches(host.parse().unwrap())
        };
        let (well_known, own) = (Some("64:ff9b::/96"), Some("2001:db8:1:64::/96"));
        assert!(reaches("[2001:db8::2]:1", well_known, "9.9.9.9") && reaches("[fd00::2]:1", own, "9.9.9.9"));
        assert!(!reaches("[2001:db8::2]:1", None, "9.9.9.9"));
        assert!(
            !reaches("[2001:db8::2]:1", well_known, "10.0.0.1")
                && reaches("[2001:db8::2]:1", own, "10.0.0.1")
        );
        assert!(!reaches("[2001:db8::2]:1", well_known, "100.64.0.1"));
        for host in ["127.0.0.1", "169.254.0.1", "0.0.0.1", "224.0.0.1", "255.255.255.255"] {
            assert!(!reaches("[2001:db8::2]:1", own, host), "{host}");
        }
        for local in ["[::1]:1", "[fe80::1]:1", "192.0.2.1:1"] {
            let beyond = if local.starts_with('[') { "9.9.9.9" } else { "2001:db8::9" };
            assert!(!reaches(local, own, beyond), "{local}");
        }
        assert!(reaches("192.0.2.1:1", own, "9.9.9.9") && reaches("[::1]:1", own, "::1"));
    }

    #[test]
    fn candidates_are_told_with_their_base() {
        let mut network = Network::new("64:ff9b::/96", |config| AgentConfig {
            nat64: "64:ff9b::/96".parse().ok(),
            policy: super::super::Policy::NoHost,
            ..config
        });
        network.inside.0.gather(network.now);
        network.run(Duration::from_millis(100));
        let events = std::iter::from_fn(|| network.inside.0.poll_event());
        let told: Vec<_> = events
            .filter_map(|event| match event {
                Event::LocalCandidate(candidate) => Some(candidate.to_string()),
                _ => None,
            })
            .collect();
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("198.51.100.1 7000 typ srflx raddr :: rport 9"), "{told:?}");
    }
}
