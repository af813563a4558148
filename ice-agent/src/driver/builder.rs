//! What an agent is told before it starts.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rand::TryRngCore;
use thirl_common::net::{Nat64Prefix, Transport};
use thirl_common::uri::ServerUri;

use super::handle::IceAgent;
use super::interfaces::LocalAddress;
use super::mdns::Published;
use super::mux::UdpMux;
use super::nat64::Nat64;
use super::networks::Networks;
use super::resolve::resolve;
use super::shared::Shared;
use super::stream::{HttpProxy, Outward, Streams};
use super::trust::Trust;
use super::watch::{self, Host, HostAddresses};
use super::{mappings, now, task};
use crate::agent::{
    Agent, AgentConfig, CandidateFilter, Credentials, ExternalAddress, HardNats, Policy, Role, SharedPace,
    Timings, TurnServer,
};
use crate::candidate::Candidate;
use crate::mux::UfragTaken;
use crate::turn::{Families, TurnCredentials};

/// The agent cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The system did not tell this host's addresses.
    #[error("cannot list this host's addresses: {0}")]
    Addresses(#[source] io::Error),
    /// No socket could be bound on any address.
    #[error("no UDP socket can be bound on any of this host's addresses: {0}")]
    Bind(#[source] io::Error),
    /// The system gave no randomness.
    #[error("the system's random number generator fails: {0}")]
    Random(#[from] rand::rand_core::OsError),
    /// The credentials that were given are another agent's on the same port.
    #[error(transparent)]
    UfragTaken(#[from] UfragTaken),
    /// STUN over TLS tells of nothing that a peer could use.
    #[error(
        "{0} would see the address of a connection, to which no peer can send datagrams: use stun:, or turns: for a relay"
    )]
    SecureStun(ServerUri),
    /// A relay was given as a STUN server, or the other way about.
    #[error("{0} is the wrong scheme here: stun: has no credentials, turn: needs them")]
    WrongScheme(ServerUri),
}

/// Whether the peers may reach each other by TCP where UDP does not get through (RFC 6544).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TcpPolicy {
    /// They may not.
    Off,
    /// This side connects and does not listen: it reaches peers that can be connected to.
    Outgoing,
    /// This side connects, and listens beside each of its UDP sockets on the same port, if that is free.
    #[default]
    Both,
}

/// In the order in which to decide:
///
/// 1. the role: [`controlling`](Builder::controlling) or [`controlled`](Builder::controlled), by default the latter;
/// 2. servers: [`stun`](Builder::stun), [`turn`](Builder::turn), any number of each;
/// 3. if wanted, which candidates there are: [`policy`](Builder::policy), [`filter`](Builder::filter),
///    [`networks`](Builder::networks), [`addresses`](Builder::addresses) or [`mux`](Builder::mux),
///    [`external_address`](Builder::external_address), [`port_mapping`](Builder::port_mapping), [`mdns`](Builder::mdns),
///    [`nat64`](Builder::nat64), [`tcp`](Builder::tcp);
/// 4. if wanted, [`hard_nats`](Builder::hard_nats), [`timings`](Builder::timings), [`shared_pace`](Builder::shared_pace),
///    [`credentials`](Builder::credentials);
/// 5. [`gather`](Builder::gather) for a description with all candidates in it, or [`start`](Builder::start) to tell them
///    one by one.
#[derive(Debug)]
pub struct Builder {
    config: AgentConfig,
    stun: Vec<ServerUri>,
    turn: Vec<(ServerUri, TurnCredentials)>,
    addresses: Option<Vec<LocalAddress>>,
    mux: Option<UdpMux>,
    networks: Networks,
    port_mapping: bool,
    mdns: bool,
    nat64: Nat64,
    tcp: Option<TcpPolicy>,
    outward: Outward,
}

impl Default for Builder {
    fn default() -> Self {
        let config = AgentConfig::new(Role::Controlled);
        Builder {
            config,
            stun: Vec::new(),
            turn: Vec::new(),
            addresses: None,
            mux: None,
            networks: Networks::default(),
            port_mapping: true,
            mdns: false,
            nat64: Nat64::default(),
            tcp: None,
            outward: Outward::default(),
        }
    }
}

impl Builder {
    /// This side nominates. Whoever makes the offer should.
    #[must_use]
    pub fn controlling(self) -> Self {
        self.role(Role::Controlling)
    }

    /// The other side nominates.
    #[must_use]
    pub fn controlled(self) -> Self {
        self.role(Role::Controlled)
    }

    /// Which side nominates. If both claim the same, the agents settle it.
    #[must_use]
    pub fn role(mut self, role: Role) -> Self {
        self.config.role = role;
        self
    }

    /// Adds a STUN server: `stun:host` or `stun:host:port`. One over TLS (`stuns:`) is refused when the agent starts, since it
    /// sees no address that a peer could send datagrams to.
    #[must_use]
    pub fn stun(mut self, uri: ServerUri) -> Self {
        self.stun.push(uri);
        self
    }

    /// Adds a TURN server: `turn:host`, `turn:host:port`, with `?transport=tcp` for TCP; `turns:` for TLS, with
    /// `?transport=udp` for DTLS. The certificate has to bear the host as it is written here.
    #[must_use]
    pub fn turn(self, uri: ServerUri, username: impl Into<String>, password: impl Into<String>) -> Self {
        self.turn_with(uri, TurnCredentials::password(username, password))
    }

    /// The same with any kind of credentials: an access token (RFC 7635), or none until
    /// [`Event::TokenWanted`](crate::agent::Event::TokenWanted) asks for one.
    #[must_use]
    pub fn turn_with(mut self, uri: ServerUri, credentials: impl Into<TurnCredentials>) -> Self {
        self.turn.push((uri, credentials.into()));
        self
    }

    /// Whose word is taken for who a TURN server is, over TLS and DTLS. By default [`Trust::system`].
    #[must_use]
    pub fn trust(mut self, trust: Trust) -> Self {
        self.outward.trust = trust;
        self
    }

    /// Through which proxy TURN servers are reached over TCP and TLS. The proxy has to let CONNECT through to their ports,
    /// which most do for 443 alone.
    #[must_use]
    pub fn proxy(mut self, proxy: HttpProxy) -> Self {
        self.outward.proxy = Some(proxy);
        self
    }

    /// Both of these at once.
    #[must_use]
    pub fn outward(mut self, outward: Outward) -> Self {
        self.outward = outward;
        self
    }

    /// Which kinds of candidates may be used.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.config.policy = policy;
        self.networks.default_route_only = policy == Policy::NoHost;
        self
    }

    /// Which candidates may be used: those of this side for which `accepts` says so, such as those of IPv6 only.
    #[must_use]
    pub fn filter(mut self, accepts: impl Fn(&Candidate) -> bool + Send + Sync + 'static) -> Self {
        self.config.filter = CandidateFilter::new(accepts);
        self
    }

    /// Which networks may be used: those of interfaces, by name, and addresses for which `accepts` says so.
    #[must_use]
    pub fn networks(mut self, accepts: impl Fn(&str, IpAddr) -> bool + Send + Sync + 'static) -> Self {
        self.networks.filter = Some(Arc::new(accepts));
        self
    }

    /// Of which families relayed candidates are wanted: by default of both.
    #[must_use]
    pub fn relayed_families(mut self, families: Families) -> Self {
        self.config.relayed_families = families;
        self
    }

    /// Whether allocations are to be kept when this host's address changes, where the TURN server lets them be moved
    /// (RFC 8016): by default they are. A server that forbids it costs a round trip.
    #[must_use]
    pub fn mobility(mut self, mobility: bool) -> Self {
        self.config.mobility = mobility;
        self
    }

    /// What is done where a NAT's mapping depends on the destination: all of it, unless this says otherwise.
    #[must_use]
    pub fn hard_nats(mut self, hard_nats: HardNats) -> Self {
        self.config.hard_nats = hard_nats;
        self
    }

    /// A pace in common with other agents, beside this one's own. With it many agents that start at once, as they may on one
    /// port ([`mux`](Builder::mux)), are as gentle to a NAT as one is, and take as much longer.
    ///
    /// ```no_run
    /// use thirl_ice_agent::agent::{SharedPace, Timings};
    /// use thirl_ice_agent::driver::IceAgent;
    ///
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let pace = SharedPace::new(Timings::MIN_PACING);
    /// let one = IceAgent::builder().shared_pace(&pace).gather().await?;
    /// let another = IceAgent::builder().shared_pace(&pace).gather().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn shared_pace(mut self, pace: &SharedPace) -> Self {
        self.config.shared_pace = Some(pace.clone());
        self
    }

    /// How fast, and how patient.
    #[must_use]
    pub fn timings(mut self, timings: Timings) -> Self {
        self.config.timings = timings;
        self
    }

    /// The addresses to bind sockets on, in place of [`local_addresses`](super::local_addresses) and their changes: where
    /// the system does not tell them, as on Android, or where only some are wanted. When they change, tell
    /// [`IceAgent::set_addresses`].
    #[must_use]
    pub fn addresses(mut self, addresses: impl IntoIterator<Item = LocalAddress>) -> Self {
        self.addresses = Some(addresses.into_iter().collect());
        self
    }

    /// How one of this host's addresses is known outside, if it stands behind a 1:1 NAT. Any number of rules may be given.
    #[must_use]
    pub fn external_address(mut self, rule: ExternalAddress) -> Self {
        self.config.external_addresses.push(rule);
        self
    }

    /// Whether this host's router is asked for a way in, by PCP, NAT-PMP or UPnP: it is, unless this says no. Gathering does
    /// not wait for it, and what it maps is removed when the agent closes ([`IceAgent::close`] waits for that).
    #[must_use]
    pub fn port_mapping(mut self, wanted: bool) -> Self {
        self.port_mapping = wanted;
        self
    }

    /// Whether the peer is told names in place of this host's addresses, which only machines in the same network can resolve
    /// (mDNS, draft-ietf-mmusic-mdns-ice-candidates), as browsers do for web pages that may not use the camera.
    #[must_use]
    pub fn mdns(mut self, wanted: bool) -> Self {
        self.mdns = wanted;
        self
    }

    /// Under what the network's NAT64 lets this host reach IPv4, or that there is none. By default an agent whose host
    /// reaches the internet by IPv6 alone asks the DNS for it (RFC 7050), and again when the network changes.
    #[must_use]
    pub fn nat64(mut self, prefix: Option<Nat64Prefix>) -> Self {
        self.nat64 = Nat64::Given(prefix);
        self
    }

    /// Whether and how TCP is used where UDP does not get through: by default both ways, and for an agent that shares a UDP
    /// port with others (see [`mux`](Builder::mux)) not at all. Connections are tried after UDP, and left for it when it works.
    #[must_use]
    pub fn tcp(mut self, policy: TcpPolicy) -> Self {
        self.tcp = Some(policy);
        self
    }

    /// Shares a port with other agents, in place of sockets of its own; [`addresses`](Builder::addresses) adds such. An
    /// allocation on a TURN server by UDP needs a socket of its own, which is bound beside the port if there is such a server.
    /// The router is not asked to map a shared port.
    #[must_use]
    pub fn mux(mut self, mux: &UdpMux) -> Self {
        self.mux = Some(mux.clone());
        self
    }

    /// The username fragment and password, in place of random ones.
    #[must_use]
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.config.credentials = Some(credentials);
        self
    }

    /// Starts, and waits until all servers have answered or the time for it is over
    /// ([`Timings::gathering`]).
    pub async fn gather(self) -> Result<IceAgent, StartError> {
        let agent = self.start().await?;
        agent.gathered().await;
        Ok(agent)
    }

    /// Starts, without waiting for candidates. Must be called within a tokio runtime.
    pub async fn start(self) -> Result<IceAgent, StartError> {
        self.check()?;
        let ((mut config, notes), (prefix, search)) = tokio::join!(self.resolved(), self.nat64.at_start());
        config.nat64 = prefix;
        let policy = config.policy;
        let over_udp = |uri: &ServerUri| uri.transport() == Transport::Udp && !uri.scheme.is_secure();
        let turn_over_udp = self.turn.iter().any(|(uri, ..)| over_udp(uri));
        let (addresses, changes) = match (self.addresses, &self.mux) {
            (Some(addresses), _) => (HostAddresses::given(addresses), None),
            (None, Some(mux)) => (HostAddresses::given(mux.own_addresses().filter(|_| turn_over_udp)), None),
            // First the changes, so that none is missed.
            (None, None) => {
                let changes = watch::changes().map_err(StartError::Addresses)?;
                let host = Host::list().map_err(StartError::Addresses)?;
                (host.addresses(&self.networks), Some((changes, self.networks)))
            }
        };
        let mut seed = [0; 32];
        rand::rngs::OsRng.try_fill_bytes(&mut seed)?;
        let mut agent = Agent::new(config, seed);
        notes.into_iter().for_each(|note| agent.note(note));
        let (streams, stream_events) = Streams::new(self.outward);
        let shared = Arc::new(Shared::new(agent, streams));
        {
            let mut core = shared.lock();
            core.published = self.mdns.then(Published::default);
            core.asks_nat64 = matches!(self.nat64, Nat64::Asked);
            let tcp = self.tcp.unwrap_or(if self.mux.is_some() { TcpPolicy::Off } else { TcpPolicy::Both });
            core.tcp = if policy == Policy::Relay { TcpPolicy::Off } else { tcp };
        }
        if let Some(mux) = &self.mux {
            mux.join(&shared)?;
        }
        if self.mux.is_none() || !addresses.chosen.is_empty() {
            shared.lock().follow(&addresses).map_err(StartError::Bind)?;
        }
        shared.with_agent(|agent| agent.gather(now()));
        if search {
            shared.find_nat64();
        }
        tokio::spawn(task::run(Arc::clone(&shared), stream_events, changes));
        if self.port_mapping && self.mux.is_none() && policy != Policy::Relay {
            shared.runs_beside(tokio::spawn(mappings::run(Arc::clone(&shared))));
        }
        Ok(IceAgent::new(shared))
    }

    fn check(&self) -> Result<(), StartError> {
        if let Some(secure) = self.stun.iter().find(|uri| !uri.scheme.is_turn() && uri.scheme.is_secure()) {
            return Err(StartError::SecureStun(secure.clone()));
        }
        let wrong_stun = self.stun.iter().find(|uri| uri.scheme.is_turn());
        let wrong_turn = self.turn.iter().map(|(uri, ..)| uri).find(|uri| !uri.scheme.is_turn());
        match wrong_stun.or(wrong_turn) {
            Some(wrong) => Err(StartError::WrongScheme(wrong.clone())),
            None => Ok(()),
        }
    }

    /// The configuration with the servers' addresses, and what went wrong with those that have none.
    async fn resolved(&self) -> (AgentConfig, Vec<String>) {
        let mut config = self.config.clone();
        let mut notes = Vec::new();
        let turn: Vec<_> = self.turn.iter().map(|(uri, ..)| uri.clone()).collect();
        let (stun_found, turn_found) = tokio::join!(resolve(&self.stun), resolve(&turn));
        for found in stun_found {
            match found {
                Ok(addresses) => config.stun.extend(addresses),
                Err(why) => notes.push(why),
            }
        }
        for ((uri, credentials), found) in self.turn.iter().zip(turn_found) {
            let server = |address: SocketAddr| TurnServer {
                address,
                host: Some(uri.host.clone()),
                transport: uri.transport(),
                credentials: credentials.clone(),
            };
            let by_proxy = uri.transport().is_reliable() && self.outward.proxy_for(&uri.host).is_some();
            match found {
                // One connection is enough, and IPv4 is what most servers relay.
                Ok(addresses) if uri.transport() != Transport::Udp => {
                    config.turn.extend(addresses.last().copied().map(server));
                }
                // The proxy may know a name that is unknown here.
                Err(_) if by_proxy => config.turn.push(server((Ipv4Addr::UNSPECIFIED, uri.port).into())),
                Ok(addresses) => config.turn.extend(addresses.into_iter().map(server)),
                Err(why) => notes.push(why),
            }
        }
        (config, notes)
    }
}
