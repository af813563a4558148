//! The networks of a pair, in a lab of their own, and the two hosts in them.

use std::net::Ipv4Addr;

use thirl_common::net::Nat64Prefix;

use crate::behaviour::{Filtering, Mapping, PortAllocation};
use crate::harness::installed;
use crate::natlab::{
    Firewall, Igd, Ipv6, Lab, LabError, Nat, Network, Node, Site, Unavailable, availability,
};
use crate::reach::{Pair, Shared, Situation};

/// Where a peer runs.
#[derive(Debug)]
pub struct Host {
    /// Its host.
    pub node: Node,
    /// What its network does, unless it is one that both are in.
    pub situation: Option<Situation>,
    /// The HTTP proxy that its user has been told of.
    pub proxy: Option<String>,
}

/// The networks of a pair.
#[derive(Debug)]
pub struct Place {
    /// All of them.
    pub lab: Lab,
    /// The two peers.
    pub hosts: [Host; 2],
}

impl Place {
    /// Builds them; see [`is_here`] for what the machine has to have.
    ///
    /// # Errors
    /// Those of the lab.
    pub fn build(pair: Pair) -> Result<Place, LabError> {
        match pair {
            Pair::Apart(a, b) => apart(a, b),
            Pair::Together(shared) => together(shared),
        }
    }
}

/// Whether this machine can build the networks of a pair.
///
/// # Errors
/// What is missing.
pub fn is_here(pair: Pair) -> Result<(), Unavailable> {
    availability()?;
    let Pair::Apart(a, b) = pair else { return Ok(()) };
    for situation in [a, b] {
        let (program, package, purpose) = match situation {
            Situation::HttpProxyOnly => ("tinyproxy", "tinyproxy", "is the HTTP proxy"),
            Situation::MappedGateway => ("miniupnpd", "miniupnpd-nftables", "is the gateway that maps ports"),
            Situation::Ipv6OnlyNat64 => {
                installed("named", "bind9", "is the DNS64")?;
                ("tayga", "tayga", "is the NAT64")
            }
            _ => continue,
        };
        installed(program, package, purpose)?;
    }
    Ok(())
}

fn apart(a: Situation, b: Situation) -> Result<Place, LabError> {
    let sites = [(Site::A, a, Node::A), (Site::B, b, Node::B)];
    let builder = sites.iter().fold(Lab::builder(), |builder, (site, situation, _)| {
        builder.site(*site, network(*situation, *site))
    });
    let mut lab = builder.cgn(home()).build()?;
    let mut host = |(site, situation, node)| {
        Ok(Host { node, situation: Some(situation), proxy: furnish(&mut lab, site, situation)? })
    };
    let hosts = [host(sites[0])?, host(sites[1])?];
    Ok(Place { lab, hosts })
}

fn together(shared: Shared) -> Result<Place, LabError> {
    let builder = Lab::builder();
    let (lab, nodes) = match shared {
        Shared::SameLan => {
            (builder.site(Site::A, Network::behind(Nat::symmetric()).clients(2)), [Node::A, Node::A2])
        }
        Shared::SameCgnat { hairpin } => {
            let site = Network::behind(home()).behind_cgn();
            (builder.site(Site::A, site).site(Site::B, site).cgn(home().hairpin(hairpin)), [Node::A, Node::B])
        }
    };
    Ok(Place { lab: lab.build()?, hosts: nodes.map(|node| Host { node, situation: None, proxy: None }) })
}

/// EIM/APDF, ports preserved.
fn home() -> Nat {
    Nat::new().mapping(Mapping::EndpointIndependent).filtering(Filtering::AddressAndPortDependent)
}

fn network(situation: Situation, site: Site) -> Network {
    let firewalled = |nat: Nat| {
        Network::behind(nat).ipv6(Ipv6::Firewalled(Filtering::AddressAndPortDependent)).without_ipv4()
    };
    match situation {
        Situation::Public => Network::public(),
        Situation::Nat(mapping, filtering) => Nat::new().mapping(mapping).filtering(filtering).into(),
        Situation::SymmetricSequential => Nat::symmetric().allocation(PortAllocation::Sequential).into(),
        Situation::CgnatOverNat if site == Site::A => Network::behind(home()).behind_cgn(),
        Situation::CgnatOverNat => Network::behind(home()).behind_second_cgn(),
        Situation::UdpBlocked => Network::behind(home()).firewall(Firewall::NoUdp),
        Situation::Tcp443Only => Network::behind(home()).firewall(Firewall::Tcp443Only),
        Situation::HttpProxyOnly => Network::behind(home()).firewall(Firewall::Closed),
        Situation::Ipv6OnlyNat64 => firewalled(home()).nat64(nat64_prefix(site)),
        Situation::Ipv6Firewalled => firewalled(home()),
        Situation::MappedGateway => Nat::symmetric().into(),
    }
}

/// What stands on the router beside its NAT. Returns the URL of a proxy.
fn furnish(lab: &mut Lab, site: Site, situation: Situation) -> Result<Option<String>, LabError> {
    match situation {
        Situation::HttpProxyOnly => return lab.start_proxy(site).map(|at| Some(format!("http://{at}"))),
        Situation::Ipv6OnlyNat64 => lab.start_dns64(site)?,
        Situation::MappedGateway => {
            lab.set_public_address(site.nat(), gateway_address(site))?;
            lab.start_igd(site, Igd::new())?;
        }
        _ => {}
    }
    Ok(None)
}

fn nat64_prefix(site: Site) -> Nat64Prefix {
    let number = if site == Site::A { 1 } else { 2 };
    let network = std::net::Ipv6Addr::new(0x2001, 0xdb8, number, 0x64, 0, 0, 0, 0);
    Nat64Prefix::new(network, 96).unwrap_or_else(|_| unreachable!("RFC 6052 has a length of 96"))
}

/// miniupnpd takes them for public, as it does no documentation address.
fn gateway_address(site: Site) -> Ipv4Addr {
    Ipv4Addr::new(11, 0, 0, if site == Site::A { 10 } else { 20 })
}
