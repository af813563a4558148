//! Where two hosts stand, as data: what is between each of them and the core, and what is between both and the core.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use thirl_common::net::Nat64Prefix;
use thirl_ice_agent::agent::AgentConfig;

use super::dual_stack::DualStack;
use super::firewall::{Firewall, FirewallSpec};
use super::gateway::{Gateway, Speaks};
use super::link::Link;
use super::middlebox::Middlebox;
use super::nat::{Nat, NatSpec};
use super::network::{Behind, BoxId, Network};
use super::peer::PeerSpec;

/// One middlebox on the way out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Layer {
    /// An IPv4 NAT that maps ports on request, if it has a gateway.
    Nat(NatSpec, Option<Speaks>),
    /// A firewall for both families.
    Firewall(FirewallSpec),
    /// An IPv4 NAT, and a firewall for IPv6.
    DualStack(NatSpec, FirewallSpec),
    /// A NAT64, and a firewall for IPv6.
    Nat64(NatSpec, FirewallSpec),
}

/// Which addresses a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// Both.
    Both,
}

/// Where one host stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// From the host outwards.
    pub layers: Vec<Layer>,
    /// What it has.
    pub addresses: Addresses,
    /// Its link.
    pub link: Link,
    /// Whether its streams go by the HTTP proxy [`PROXY`].
    pub proxied: bool,
}

impl Site {
    /// An IPv4 host behind these, 10 ms away from the first.
    pub fn behind(layers: &[Layer]) -> Site {
        let link = Link::delayed(Duration::from_millis(10));
        Site { layers: layers.to_vec(), addresses: Addresses::Ipv4, link, proxied: false }
    }
}

/// Where two hosts stand.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    /// What both are behind, from their common network outwards.
    pub shared: Vec<Layer>,
    /// What each is behind by itself.
    pub sites: [Site; 2],
}

/// Where the HTTP proxy is, if a site has one.
pub const PROXY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(9, 9, 9, 20)), 3128);

/// Under which each NAT64 lets reach IPv4 hosts, private ones too, which the well-known prefix may not (RFC 6052, section 3.1).
const NAT64: Ipv6Addr = Ipv6Addr::new(0x2a02, 0x64, 0, 0, 0, 0, 0, 0);

/// The prefix of each NAT64.
///
/// # Panics
/// Never: it is one of RFC 6052.
#[expect(clippy::expect_used, reason = "it is a constant")]
pub fn nat64_prefix() -> Nat64Prefix {
    Nat64Prefix::new(NAT64, 96).expect("a prefix of RFC 6052")
}

/// What a topology has become in a network.
#[derive(Clone, Debug)]
pub struct Placed {
    /// For each side; the configurations are those that were given.
    pub peers: [PeerSpec; 2],
    /// What both are behind, from the inside outwards.
    pub shared: Vec<BoxId>,
    /// What each is behind.
    pub boxes: [Vec<BoxId>; 2],
}

impl Topology {
    /// Two hosts, each with what it is behind.
    pub fn apart(a: &[Layer], b: &[Layer]) -> Topology {
        Topology { shared: Vec::new(), sites: [Site::behind(a), Site::behind(b)] }
    }

    /// Builds it.
    pub fn build(&self, network: &mut Network, configs: [AgentConfig; 2]) -> Placed {
        let mut behind = None;
        let mut shared = Vec::new();
        for (depth, layer) in (0..).zip(self.shared.iter().rev()) {
            behind = Some(layer.build(network, behind, Numbers { side: 0, depth }));
            shared.extend(behind);
        }
        shared.reverse();
        let mut boxes = [Vec::new(), Vec::new()];
        let mut side = 0;
        let peers = configs.map(|config| {
            let (site, place) = (&self.sites[side], &mut boxes[side]);
            side += 1;
            site.build(network, (behind, self.shared.len()), side, config, place, self.shared.first())
        });
        Placed { peers, shared, boxes }
    }
}

impl Site {
    fn build(
        &self,
        network: &mut Network,
        (mut behind, mut depth): (Behind, usize),
        side: usize,
        mut config: AgentConfig,
        boxes: &mut Vec<BoxId>,
        around: Option<&Layer>,
    ) -> PeerSpec {
        let numbers = |depth| Numbers {
            side: u8::try_from(side).unwrap_or(0),
            depth: u8::try_from(depth).unwrap_or(0),
        };
        for layer in self.layers.iter().rev() {
            behind = Some(layer.build(network, behind, numbers(depth)));
            depth += usize::from(layer.nat().is_some());
            boxes.extend(behind);
        }
        boxes.reverse();
        let nearest = self.layers.first().or(around);
        let ipv4 = numbers(depth).host();
        let ipv6 = numbers(depth).ipv6();
        let addresses = match self.addresses {
            Addresses::Ipv4 => vec![ipv4],
            Addresses::Ipv6 => vec![ipv6],
            Addresses::Both => vec![ipv4, ipv6],
        };
        let translated = matches!(nearest, Some(Layer::Nat64(..))) && self.addresses == Addresses::Ipv6;
        config.nat64 = translated.then(nat64_prefix);
        let gateway = matches!(nearest, Some(Layer::Nat(_, Some(_)))).then_some(GATEWAY);
        let proxy = self.proxied.then_some(PROXY);
        PeerSpec { behind, link: self.link, proxy, gateway, ..PeerSpec::new(config, &addresses) }
    }
}

/// Where gateways are asked: each in the network behind it.
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

/// Of which addresses are made.
#[derive(Clone, Copy)]
struct Numbers {
    /// 0 for what is shared.
    side: u8,
    /// How many NATs are further out.
    depth: u8,
}

impl Numbers {
    /// A NAT's external address: public in the core, private further in.
    fn external(self) -> IpAddr {
        match self.depth {
            0 => [5, 5, 5, 10 + self.side].into(),
            depth => [100, 64, depth, 10 + self.side].into(),
        }
    }

    fn host(self) -> IpAddr {
        match self.depth {
            0 => [5, 5, 5, 20 + self.side].into(),
            depth => [192, 168, depth, 20 + self.side].into(),
        }
    }

    fn ipv6(self) -> IpAddr {
        Ipv6Addr::new(0x2a01, self.side.into(), 0, 0, 0, 0, 0, 2).into()
    }
}

impl Layer {
    /// What it does to IPv4, if it is a NAT.
    pub fn nat(&self) -> Option<&NatSpec> {
        match self {
            Layer::Nat(spec, _) | Layer::DualStack(spec, _) | Layer::Nat64(spec, _) => Some(spec),
            Layer::Firewall(_) => None,
        }
    }

    fn build(&self, network: &mut Network, behind: Behind, numbers: Numbers) -> BoxId {
        let nat = |spec: NatSpec| Nat::new(spec, &[numbers.external()]);
        let dual = |spec: NatSpec, native: FirewallSpec, prefix| {
            let native = Firewall::new(native);
            Middlebox::DualStack(Box::new(DualStack { nat: nat(spec), prefix, native }))
        };
        let middlebox = match *self {
            Layer::Nat(spec, None) => Middlebox::Nat(nat(spec)),
            Layer::Nat(spec, Some(speaks)) => {
                Middlebox::Nat(nat(spec).with_gateway(Gateway::new(GATEWAY, speaks)))
            }
            Layer::Firewall(spec) => Middlebox::Firewall(Firewall::new(spec)),
            Layer::DualStack(spec, native) => dual(spec, native, None),
            Layer::Nat64(spec, native) => dual(spec, native, Some(nat64_prefix())),
        };
        network.add_box(middlebox, behind, Link::delayed(Duration::from_millis(2)))
    }
}
