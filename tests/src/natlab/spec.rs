//! What a test asks for, in the terms of RFC 4787.

use std::fmt;
use std::time::Duration;

use thirl_common::net::Nat64Prefix;

use crate::behaviour::{Filtering, Mapping, PortAllocation};

/// What a site's firewall lets out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firewall {
    /// Everything.
    Open,
    /// Everything but UDP.
    NoUdp,
    /// Nothing but TCP to port 443.
    Tcp443Only,
    /// Nothing: what leaves goes by a program on the router, as [`Lab::start_proxy`](super::Lab::start_proxy) starts one.
    Closed,
    /// Nothing: TCP to ports 80 and 443 of any IPv4 address ends at the router itself, where a portal may listen.
    CaptivePortal,
}

/// What a site does with IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6 {
    /// The clients have none.
    None,
    /// Global addresses behind a stateful firewall that lets in what this says.
    Firewalled(Filtering),
    /// Global addresses, reachable from everywhere.
    Open,
}

/// A place where clients live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Site {
    /// 192.168.1.0/24 behind 198.51.100.10; 2001:db8:1::/64.
    A,
    /// 192.168.2.0/24 behind 198.51.100.20; 2001:db8:2::/64.
    B,
}

impl Site {
    /// The NAT of the site.
    pub fn nat(self) -> Node {
        match self {
            Self::A => Node::NatA,
            Self::B => Node::NatB,
        }
    }

    /// The clients that a site can have, the first one first.
    pub fn clients(self) -> [Node; 2] {
        match self {
            Self::A => [Node::A, Node::A2],
            Self::B => [Node::B, Node::B2],
        }
    }
}

/// A machine of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// The router in the middle.
    Inet,
    /// The public server.
    Srv,
    /// A second public server, in another network.
    Srv2,
    /// The NAT of [`Site::A`].
    NatA,
    /// The NAT of [`Site::B`].
    NatB,
    /// The carrier-grade NAT.
    Cgn,
    /// Another one.
    Cgn2,
    /// First client of [`Site::A`].
    A,
    /// Second client of [`Site::A`].
    A2,
    /// First client of [`Site::B`].
    B,
    /// Second client of [`Site::B`].
    B2,
}

impl Node {
    /// Its name in the lab: that of the network namespace.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Srv => "srv",
            Self::Srv2 => "srv2",
            Self::NatA => "natA",
            Self::NatB => "natB",
            Self::Cgn => "cgn",
            Self::Cgn2 => "cgn2",
            Self::A => "a",
            Self::A2 => "a2",
            Self::B => "b",
            Self::B2 => "b2",
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How one NAT behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nat {
    pub(super) mapping: Mapping,
    pub(super) filtering: Filtering,
    pub(super) allocation: Option<PortAllocation>,
    pub(super) hairpin: bool,
    pub(super) addresses: u8,
    pub(super) udp_timeout: Duration,
    pub(super) udp_stream_timeout: Option<Duration>,
}

impl Nat {
    /// Endpoint-independent mapping that preserves ports, address- and port-dependent filtering, no hairpinning,
    /// UDP mappings that last 120 s: the common home router.
    pub fn new() -> Self {
        Self {
            mapping: Mapping::EndpointIndependent,
            filtering: Filtering::AddressAndPortDependent,
            allocation: None,
            hairpin: false,
            addresses: 1,
            udp_timeout: Duration::from_secs(120),
            udp_stream_timeout: None,
        }
    }

    /// Address- and port-dependent mapping and filtering with random ports.
    pub fn symmetric() -> Self {
        Self::new().mapping(Mapping::AddressAndPortDependent)
    }

    /// Sets the mapping behaviour.
    #[must_use]
    pub fn mapping(mut self, mapping: Mapping) -> Self {
        self.mapping = mapping;
        self
    }

    /// Sets the filtering behaviour.
    #[must_use]
    pub fn filtering(mut self, filtering: Filtering) -> Self {
        self.filtering = filtering;
        self
    }

    /// Sets the port allocation. Unset, it is preserving with endpoint-independent mapping and random otherwise; the
    /// other mappings need several ports for one internal port, so they refuse to preserve.
    #[must_use]
    pub fn allocation(mut self, allocation: PortAllocation) -> Self {
        self.allocation = Some(allocation);
        self
    }

    /// Whether clients reach each other by their public addresses (RFC 4787, section 6).
    #[must_use]
    pub fn hairpin(mut self, hairpin: bool) -> Self {
        self.hairpin = hairpin;
        self
    }

    /// How many external addresses there are, one after another. Each new UDP mapping gets any of them: "arbitrary"
    /// pooling (RFC 4787, section 4.1). TCP uses the first.
    #[must_use]
    pub fn addresses(mut self, addresses: u8) -> Self {
        self.addresses = addresses;
        self
    }

    /// How long an idle UDP mapping lasts (RFC 4787, section 4.3), in whole seconds.
    #[must_use]
    pub fn udp_timeout(mut self, timeout: Duration) -> Self {
        self.udp_timeout = timeout;
        self
    }

    /// The same for a mapping that has carried packets both ways for two seconds, as Linux has it. Unset, it is no other.
    #[must_use]
    pub fn udp_stream_timeout(mut self, timeout: Duration) -> Self {
        self.udp_stream_timeout = Some(timeout);
        self
    }

    pub(super) fn stream_timeout(&self) -> Duration {
        self.udp_stream_timeout.unwrap_or(self.udp_timeout)
    }

    pub(super) fn port_allocation(&self) -> PortAllocation {
        self.allocation.unwrap_or(match self.mapping {
            Mapping::EndpointIndependent => PortAllocation::Preserving,
            Mapping::AddressDependent | Mapping::AddressAndPortDependent => PortAllocation::Random,
        })
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.mapping != Mapping::EndpointIndependent && self.allocation == Some(PortAllocation::Preserving)
        {
            return Err(format!(
                "{:?} mapping cannot preserve ports: choose Random or Sequential",
                self.mapping
            ));
        }
        if !(1..=8).contains(&self.addresses) {
            return Err(format!("{} external addresses: 1 to 8 are possible", self.addresses));
        }
        let timeout = self.udp_timeout.min(self.stream_timeout());
        if timeout < Duration::from_secs(1) {
            return Err(format!("a UDP timeout of {timeout:?} is less than a second"));
        }
        Ok(())
    }
}

impl Default for Nat {
    fn default() -> Self {
        Self::new()
    }
}

/// A site: its NAT, its clients and the state of its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    pub(super) nat: Nat,
    pub(super) clients: usize,
    pub(super) firewall: Firewall,
    pub(super) ipv6: Ipv6,
    pub(super) loss_per_mille: u16,
    pub(super) mtu: Option<u16>,
    pub(super) icmp_errors: bool,
    pub(super) rate_kbit: Option<u32>,
    /// The carrier-grade NAT before the site's own.
    pub(super) cgn: Option<Node>,
    pub(super) nat64: Option<Nat64Prefix>,
    pub(super) ipv4: bool,
    /// Whether the clients have the site's public addresses themselves.
    pub(super) public: bool,
}

impl Network {
    /// A network behind `nat` with one client, no firewall of its own and no IPv6.
    pub fn behind(nat: Nat) -> Self {
        Self {
            nat,
            clients: 1,
            firewall: Firewall::Open,
            ipv6: Ipv6::None,
            loss_per_mille: 0,
            mtu: None,
            icmp_errors: true,
            rate_kbit: None,
            cgn: None,
            nat64: None,
            ipv4: true,
            public: false,
        }
    }

    /// A network without a NAT: its clients have the public IPv4 addresses of the site, and anybody may reach them.
    pub fn public() -> Self {
        Self { public: true, ..Self::behind(Nat::new()) }
    }

    /// How many clients are in the LAN: one or two.
    #[must_use]
    pub fn clients(mut self, clients: usize) -> Self {
        self.clients = clients;
        self
    }

    /// What may leave.
    #[must_use]
    pub fn firewall(mut self, firewall: Firewall) -> Self {
        self.firewall = firewall;
        self
    }

    /// Whether the clients have IPv6, and who may reach them.
    #[must_use]
    pub fn ipv6(mut self, ipv6: Ipv6) -> Self {
        self.ipv6 = ipv6;
        self
    }

    /// Random loss on the line, in each direction, in 1/1000.
    #[must_use]
    pub fn loss_per_mille(mut self, loss: u16) -> Self {
        self.loss_per_mille = loss;
        self
    }

    /// The MTU of the line between the NAT and the internet, in bytes; that of the LAN stays 1500.
    #[must_use]
    pub fn mtu(mut self, mtu: u16) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// The NAT neither sends nor lets through what routers say of packets that they drop (ICMP destination-unreachable,
    /// time-exceeded, packet-too-big). With an [`mtu`](Self::mtu) this is a black hole.
    #[must_use]
    pub fn without_icmp_errors(mut self) -> Self {
        self.icmp_errors = false;
        self
    }

    /// The rate of the line between the NAT and the internet, each way, in kbit/s; unset, as fast as the machine.
    #[must_use]
    pub fn rate_kbit(mut self, rate: u32) -> Self {
        self.rate_kbit = Some(rate);
        self
    }

    /// Puts a carrier-grade NAT (100.64.0.0/10, RFC 6598) between this site and the internet. IPv4 only.
    #[must_use]
    pub fn behind_cgn(mut self) -> Self {
        self.cgn = Some(Node::Cgn);
        self
    }

    /// The same, with a carrier-grade NAT other than that of [`behind_cgn`](Self::behind_cgn).
    #[must_use]
    pub fn behind_second_cgn(mut self) -> Self {
        self.cgn = Some(Node::Cgn2);
        self
    }

    /// The clients have no IPv4, and no other way to it than a [`nat64`](Self::nat64) if there is one.
    #[must_use]
    pub fn without_ipv4(mut self) -> Self {
        self.ipv4 = false;
        self
    }

    /// The clients have IPv6 only and reach IPv4 hosts under `prefix`, of 2001:db8:1::/48 for site A: `tayga` translates,
    /// and the NAT follows it.
    #[must_use]
    pub fn nat64(mut self, prefix: Nat64Prefix) -> Self {
        self.nat64 = Some(prefix);
        self.without_ipv4()
    }

    pub(super) fn check(&self) -> Result<(), String> {
        self.nat.check()?;
        if !(1..=2).contains(&self.clients) {
            return Err(format!("{} clients in a LAN: 1 or 2 are possible", self.clients));
        }
        if self.loss_per_mille > 1000 {
            return Err(format!("a loss of {} per mille is more than all", self.loss_per_mille));
        }
        if self.mtu.is_some_and(|mtu| mtu < 1280) && self.ipv6 != Ipv6::None {
            return Err("IPv6 needs an MTU of 1280 bytes (RFC 8200, section 5)".into());
        }
        if self.rate_kbit == Some(0) {
            return Err("a line of 0 kbit/s carries nothing".into());
        }
        if self.nat64.is_some() && self.ipv6 == Ipv6::None {
            return Err("NAT64 is for clients with IPv6".into());
        }
        if !self.ipv4 && self.ipv6 == Ipv6::None {
            return Err("clients without IPv4 need IPv6".into());
        }
        if self.public && (self.cgn.is_some() || self.ipv6 != Ipv6::None) {
            return Err("a public network of the lab has IPv4 only, and no NAT before it".into());
        }
        if self.cgn.is_some() && self.ipv6 != Ipv6::None {
            return Err("the carrier-grade NAT of the lab carries no IPv6".into());
        }
        Ok(())
    }
}

impl From<Nat> for Network {
    fn from(nat: Nat) -> Self {
        Self::behind(nat)
    }
}
