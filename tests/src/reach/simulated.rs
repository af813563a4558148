//! The simulated network as instrument: the real cores in virtual time, a run from one seed.
//!
//! 1. [`topology`]: the networks of a pair, as the simulation builds them.
//! 2. [`run`]: both agents, which send each other a datagram every 20 ms.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use thirl_common::net::Transport;
use thirl_ice_agent::agent::{AgentConfig, HardNats, Role, TurnServer};
use thirl_ice_agent::candidate::CandidateTransport;
use thirl_ice_agent::turn::TurnCredentials;

use super::{Expectation, Mode, Outcome, Pair, Path, Shared, Situation};
use crate::behaviour::{Filtering, Mapping, PortAllocation};
use crate::sim::{
    self, Addresses, FirewallSpec, Hairpin, Layer, NatSpec, PROXY, Peer, Placed, Proxy, Site, Speaks,
    TcpPolicy, Topology,
};

/// How often each side sends.
const EVERY: Duration = Duration::from_millis(20);
/// A direct path has to last so long.
const SETTLE: Duration = Duration::from_secs(1);
/// How long what was sent may be on its way.
const LATEST: Duration = Duration::from_secs(1);
/// How long signalling takes, at least and at most.
const SIGNALLING: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(60));

const EIM: Mapping = Mapping::EndpointIndependent;
const APDM: Mapping = Mapping::AddressAndPortDependent;
const APDF: Filtering = Filtering::AddressAndPortDependent;

/// The networks of a pair.
pub fn topology(pair: Pair) -> Topology {
    match pair {
        Pair::Apart(a, b) => Topology { shared: Vec::new(), sites: [site(a), site(b)] },
        Pair::Together(Shared::SameLan) => {
            let shared = vec![Layer::Nat(NatSpec::new(APDM, APDF), None)];
            Topology { shared, sites: [Site::behind(&[]), Site::behind(&[])] }
        }
        Pair::Together(Shared::SameCgnat { hairpin }) => {
            let hairpin = if hairpin { Hairpin::ExternalSource } else { Hairpin::None };
            let shared = vec![Layer::Nat(NatSpec { hairpin, ..home() }, None)];
            Topology { shared, sites: [(); 2].map(|()| Site::behind(&[Layer::Nat(home(), None)])) }
        }
    }
}

fn home() -> NatSpec {
    NatSpec { allocation: PortAllocation::Preserving, ..NatSpec::new(EIM, APDF) }
}

fn site(situation: Situation) -> Site {
    let nat = |spec| Site::behind(&[Layer::Nat(spec, None)]);
    let symmetric = NatSpec::new(APDM, APDF);
    let strict = |tcp| Layer::Firewall(FirewallSpec::tcp_only(tcp));
    let stateful = FirewallSpec::stateful(APDF);
    match situation {
        Situation::Public => Site::behind(&[]),
        Situation::Nat(EIM, filtering) => nat(NatSpec { filtering, ..home() }),
        Situation::Nat(mapping, filtering) => nat(NatSpec::new(mapping, filtering)),
        Situation::SymmetricSequential => {
            nat(NatSpec { allocation: PortAllocation::Sequential, ..symmetric })
        }
        Situation::CgnatOverNat => Site::behind(&[Layer::Nat(home(), None), Layer::Nat(home(), None)]),
        Situation::UdpBlocked => nat(NatSpec { blocks_udp: true, ..home() }),
        Situation::Tcp443Only => Site::behind(&[strict(TcpPolicy::Port(443)), Layer::Nat(home(), None)]),
        Situation::HttpProxyOnly => Site {
            proxied: true,
            ..Site::behind(&[strict(TcpPolicy::Only(PROXY)), Layer::Nat(home(), None)])
        },
        Situation::Ipv6OnlyNat64 => {
            Site { addresses: Addresses::Ipv6, ..Site::behind(&[Layer::Nat64(home(), stateful)]) }
        }
        Situation::Ipv6Firewalled => {
            Site { addresses: Addresses::Ipv6, ..Site::behind(&[Layer::Firewall(stateful)]) }
        }
        Situation::MappedGateway => Site::behind(&[Layer::Nat(symmetric, Some(Speaks::Pcp))]),
    }
}

/// Two agents in a topology, not started yet, with a TURN server that they reach in three ways.
pub fn agents(topology: &Topology, mode: Mode, seed: u64) -> (sim::Pair, Placed) {
    let mut placed = None;
    let mut pair = sim::Pair::build(seed, false, |network| {
        let mut built =
            topology.build(network, [Role::Controlling, Role::Controlled].map(|role| config(role, mode)));
        for peer in &mut built.peers {
            peer.tcp = true;
            let ipv6 = peer.addresses.iter().all(IpAddr::is_ipv6) && peer.config.nat64.is_none();
            peer.config.turn = turn_servers(ipv6);
        }
        placed.insert(built).peers.clone()
    });
    let host = pair.network.add_host(&[PROXY.ip()], None, sim::Link::delayed(Duration::from_millis(1)));
    let proxy = Proxy::new(&mut pair.network, host, PROXY, 443);
    pair.proxies.push(proxy);
    pair.servers[0].relays_ipv6 = true;
    pair.signalling = SIGNALLING;
    #[expect(clippy::expect_used, reason = "it was built")]
    (pair, placed.expect("the network was built"))
}

fn config(role: Role, mode: Mode) -> AgentConfig {
    let mut config = AgentConfig::new(role);
    if mode == Mode::Standard {
        config.hard_nats = HardNats::OFF;
    }
    config
}

fn turn_servers(ipv6: bool) -> Vec<TurnServer> {
    let ways = [(Transport::Udp, 3478), (Transport::Tcp, 3478), (Transport::Tls, 443)];
    let ip = sim::SERVERS[0][usize::from(ipv6)];
    ways.map(|(transport, port)| TurnServer {
        address: SocketAddr::new(ip, port),
        host: None,
        transport,
        credentials: TurnCredentials::password("user", "secret"),
    })
    .into()
}

/// Runs a pair once.
pub fn run(pair: Pair, mode: Mode, expectation: Expectation, seed: u64) -> Outcome {
    let (mut agents, _) = agents(&topology(pair), mode, seed);
    agents.start();
    let mut talk = Talk::default();
    while agents.elapsed() < expectation.patience() && !talk.is_over(&agents) {
        talk.send(&mut agents);
        agents.run_for(EVERY);
        talk.listen(&agents);
    }
    let end = agents.elapsed();
    let paths = [&agents.a, &agents.b].map(path);
    agents.run_for(LATEST);
    talk.listen(&agents);
    talk.outcome(&agents, paths, end, expectation)
}

/// What two agents send each other.
#[derive(Debug, Default)]
pub struct Talk {
    /// When each number was sent, by each side.
    sent: [Vec<Duration>; 2],
    /// Which came, of each side's.
    came: [BTreeSet<usize>; 2],
    read: [usize; 2],
    /// When each side first received something.
    first: [Option<Duration>; 2],
    /// Since when both have selected a direct pair.
    direct: Option<Duration>,
}

impl Talk {
    /// Sends a datagram of each side that can.
    pub fn send(&mut self, pair: &mut sim::Pair) {
        let (now, elapsed) = (pair.network.now(), pair.elapsed());
        for (peer, sent) in [&mut pair.a, &mut pair.b].into_iter().zip(&mut self.sent) {
            let number = u32::try_from(sent.len()).unwrap_or(0);
            if peer.agent.send(now, &number.to_be_bytes()).is_ok() {
                sent.push(elapsed);
            }
        }
    }

    /// Takes notice of what has come.
    pub fn listen(&mut self, pair: &sim::Pair) {
        let elapsed = pair.elapsed();
        for (n, peer) in [&pair.a, &pair.b].into_iter().enumerate() {
            for (data, _) in &peer.received[self.read[n]..] {
                let number = data.first_chunk().map_or(0, |number| u32::from_be_bytes(*number));
                self.came[1 - n].insert(number as usize);
                self.first[n].get_or_insert(elapsed);
            }
            self.read[n] = peer.received.len();
        }
        let direct = [&pair.a, &pair.b].iter().all(|peer| path(peer).is_some_and(Path::is_direct));
        self.direct = if direct { self.direct.or(Some(elapsed)) } else { None };
    }

    /// When both sides had received something.
    pub fn first_data(&self) -> Option<Duration> {
        self.first[0].zip(self.first[1]).map(|(one, other)| one.max(other))
    }

    /// How many were sent from `since` on and before `until`, and how many of these never came.
    pub fn lost(&self, since: Duration, until: Duration) -> (u64, u64) {
        let (mut sent, mut lost) = (0, 0);
        for (times, came) in self.sent.iter().zip(&self.came) {
            let in_time = times.iter().enumerate().filter(|(_, at)| (since..until).contains(*at));
            for (number, _) in in_time {
                sent += 1;
                lost += u64::from(!came.contains(&number));
            }
        }
        (sent, lost)
    }

    fn is_over(&self, pair: &sim::Pair) -> bool {
        let settled = self.direct.is_some_and(|since| pair.elapsed() >= since + SETTLE);
        settled && self.first_data().is_some()
    }

    fn outcome(
        &self,
        pair: &sim::Pair,
        paths: [Option<Path>; 2],
        end: Duration,
        expectation: Expectation,
    ) -> Outcome {
        let first_data = self.first_data();
        let path = paths[0].zip(paths[1]).map(|(one, other)| one.max(other)).filter(|_| first_data.is_some());
        let (sent, lost) = first_data.map_or((0, 0), |first| self.lost(first, end));
        let direct = self.direct.filter(|_| path.is_some_and(Path::is_direct));
        let disappoints = path.is_none() || expectation.is_direct() && direct.is_none() || lost > 0;
        let notes = match disappoints {
            true => [&pair.a, &pair.b].map(|peer| peer.agent.report().to_string()).into(),
            false => Vec::new(),
        };
        Outcome { path, first_data, direct, lost, sent, notes }
    }
}

/// The path that a side has selected.
pub fn path(peer: &Peer) -> Option<Path> {
    let selected = peer.agent.selected()?;
    let transport = match selected.local.transport {
        CandidateTransport::Udp => Transport::Udp,
        _ => Transport::Tcp,
    };
    Some(Path::of(selected.path, transport))
}
