//! The nodes, their addresses and links, as the script that makes them.
//!
//! The public address of a site is not assigned on its NAT: `inet` routes it over a transfer link. So a packet from
//! the LAN to the public address bounces back from `inet` and meets the filter that a stranger's would meet, which
//! is hairpinning as RFC 4787 (section 6) wants it, without a rule for it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::nat64;
use super::ruleset::ruleset;
use super::spec::{Ipv6, Nat, Network, Node, Site};
use super::{LabError, RESOLVER, SRV, SRV_ALTERNATE, SRV_ALTERNATE_V6, SRV_V6, SRV2, SRV2_V6};

/// A router neither checks the way back nor sends redirects: both would hide what the NAT does.
const ROUTER_SYSCTLS: &str =
    "for i in /proc/sys/net/ipv4/conf/*; do echo 0 >$i/rp_filter; echo 0 >$i/send_redirects; done
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding";
/// Duplicate address detection (RFC 4862, section 5.4) costs two seconds.
const COMMON_SYSCTLS: &str = "for i in /proc/sys/net/ipv6/conf/*; do echo 0 >$i/accept_dad; done";
const NO_IPV6: &str = "for i in /proc/sys/net/ipv6/conf/*; do echo 1 >$i/disable_ipv6; done";

/// Where everything is.
#[derive(Debug, Clone)]
pub(super) struct Topology {
    pub(super) sites: BTreeMap<Site, Network>,
    /// Those that a site is behind.
    pub(super) cgns: BTreeMap<Node, Network>,
    /// The first external address of each NAT.
    pub(super) external: BTreeMap<Node, Ipv4Addr>,
    /// Site and LAN address of each client.
    pub(super) clients: BTreeMap<Node, (Site, Ipv4Addr)>,
    /// The public servers that there are.
    servers: Vec<Server>,
}

impl Topology {
    pub(super) fn new(
        sites: BTreeMap<Site, Network>,
        cgn: Nat,
        second_server: bool,
    ) -> Result<Self, LabError> {
        let mut external = BTreeMap::new();
        let mut clients = BTreeMap::new();
        for (&site, network) in &sites {
            network.check().map_err(|reason| LabError::Spec(format!("site {site:?}: {reason}")))?;
            let number = number(site.nat());
            let address = match network.cgn {
                Some(_) => Ipv4Addr::new(100, 64, 0, number * 10),
                None => Ipv4Addr::new(198, 51, 100, number * 10),
            };
            external.insert(site.nat(), address);
            for (host, client) in (0..).zip(site.clients()).take(network.clients) {
                let own = if network.public { nth(address, host) } else { lan_address(site, host + 2) };
                clients.insert(client, (site, own));
            }
        }
        let mut cgns = BTreeMap::new();
        for node in sites.values().filter_map(|network| network.cgn) {
            cgn.check().map_err(|reason| LabError::Spec(format!("CGN: {reason}")))?;
            external.insert(node, Ipv4Addr::new(198, 51, 100, if node == Node::Cgn { 100 } else { 200 }));
            cgns.insert(node, Network::behind(cgn));
        }
        let servers = if second_server { vec![FIRST_SERVER, SECOND_SERVER] } else { vec![FIRST_SERVER] };
        Ok(Self { sites, cgns, external, clients, servers })
    }

    pub(super) fn public_address(&self, site: Site) -> Option<Ipv4Addr> {
        let node = self.sites.get(&site)?.cgn.unwrap_or(site.nat());
        self.external.get(&node).copied()
    }

    pub(super) fn client_address(&self, client: Node) -> Option<Ipv4Addr> {
        self.clients.get(&client).map(|&(_, address)| address)
    }

    /// The network that a NAT serves.
    pub(super) fn network(&self, nat: Node) -> Option<&Network> {
        let site = || self.sites.iter().find(|(site, _)| site.nat() == nat).map(|(_, network)| network);
        self.cgns.get(&nat).or_else(site)
    }

    /// The external addresses of a NAT.
    pub(super) fn externals(&self, nat: Node) -> Vec<Ipv4Addr> {
        let Some(&first) = self.external.get(&nat) else { return Vec::new() };
        let count = self.network(nat).map_or(1, |network| match network.public {
            true => u8::try_from(network.clients).unwrap_or(1),
            false => network.nat.addresses,
        });
        (0..count).map(|n| nth(first, n)).collect()
    }

    /// The router towards which a NAT's line goes, and the addresses of the line's two ends.
    pub(super) fn uplink(&self, nat: Node) -> Uplink {
        let net = number(nat) * 4;
        let (router, base) = match self.network(nat).and_then(|network| network.cgn) {
            Some(cgn) => (cgn, [100, 64, 255]),
            None => (Node::Inet, [192, 0, 2]),
        };
        let end = |host| Ipv4Addr::new(base[0], base[1], base[2], net + host);
        Uplink { router, gateway: end(1), own: end(2) }
    }

    /// The script that makes the lab, for `sh` in fresh namespaces.
    pub(super) fn script(&self) -> String {
        let nodes = self.nodes();
        let namespaces: Vec<_> = nodes.iter().map(|node| format!("netns add {node}")).collect();
        let mut script = format!(
            "mount -t tmpfs none /run\nmkdir /run/netns\n{}{}",
            ip_batch(&namespaces),
            ip_batch(&self.links())
        );
        for node in nodes {
            script += &self.node_script(node).to_string();
        }
        script
    }

    fn nodes(&self) -> Vec<Node> {
        let mut nodes = vec![Node::Inet];
        nodes.extend(self.servers.iter().map(|server| server.node));
        nodes.extend(self.external.keys());
        nodes.extend(self.clients.keys());
        nodes
    }

    fn links(&self) -> Vec<String> {
        let server =
            |node: Node| format!("link add wan netns {node} type veth peer name to-{node} netns inet");
        let mut links: Vec<_> = self.servers.iter().map(|it| server(it.node)).collect();
        links.extend(self.external.keys().map(|&nat| {
            format!("link add wan netns {nat} type veth peer name to-{nat} netns {}", self.uplink(nat).router)
        }));
        links.extend(self.clients.iter().map(|(client, (site, _))| {
            format!("link add eth0 netns {client} type veth peer name p-{client} netns {}", site.nat())
        }));
        links
    }

    fn node_script(&self, node: Node) -> NodeScript {
        match node {
            Node::Inet => self.inet(),
            Node::Srv => FIRST_SERVER.script(),
            Node::Srv2 => SECOND_SERVER.script(),
            Node::NatA | Node::NatB | Node::Cgn | Node::Cgn2 => self.nat(node),
            Node::A | Node::A2 | Node::B | Node::B2 => self.client(node),
        }
    }

    fn inet(&self) -> NodeScript {
        let mut ip: Vec<_> = self.servers.iter().flat_map(Server::line).collect();
        ip.extend(self.downlinks(Node::Inet));
        let mut script = NodeScript::router(Node::Inet, ip, String::new());
        script.shell += &self.downlink_rates(Node::Inet);
        script
    }

    fn nat(&self, node: Node) -> NodeScript {
        let uplink = self.uplink(node);
        let mut ip = vec![
            format!("addr add {}/30 dev wan", uplink.own),
            "link set wan up".to_owned(),
            format!("route add default via {}", uplink.gateway),
        ];
        let Some(network) = self.network(node) else { return NodeScript::router(node, ip, String::new()) };
        if let Some(mtu) = network.mtu {
            ip.push(format!("link set wan mtu {mtu}"));
        }
        if self.cgns.contains_key(&node) {
            ip.extend(self.downlinks(node));
        } else {
            ip.extend(self.lan(node));
        }
        if network.ipv6 != Ipv6::None {
            ip.push(format!("addr add {}/64 dev wan nodad", transfer_v6(node, 2)));
            ip.push(format!("addr add {RESOLVER}/128 dev lo nodad"));
            ip.push(format!("route add default via {}", transfer_v6(node, 1)));
        }
        let mut script = NodeScript::router(node, ip, ruleset(network, &self.externals(node)));
        let timeouts = [
            ("nf_conntrack_udp_timeout", network.nat.udp_timeout),
            ("nf_conntrack_udp_timeout_stream", network.nat.stream_timeout()),
        ];
        for (name, timeout) in timeouts {
            script.shell += &format!("\necho {} >/proc/sys/net/netfilter/{name}", timeout.as_secs());
        }
        script.shell += &network.rate_kbit.map_or(String::new(), |rate| limit("wan", rate));
        script.shell += &self.downlink_rates(node);
        if let Some(prefix) = network.nat64 {
            script.last = nat64::script(node, prefix);
        }
        script
    }

    /// Limits the lines of the NATs behind `router` on its side.
    fn downlink_rates(&self, router: Node) -> String {
        let behind = self.external.keys().filter(|nat| self.uplink(**nat).router == router);
        let rate = |nat: &Node| Some(limit(&format!("to-{nat}"), self.network(*nat)?.rate_kbit?));
        behind.filter_map(rate).collect()
    }

    /// What `router` says to the lines of the NATs behind it.
    fn downlinks(&self, router: Node) -> Vec<String> {
        let mut ip = Vec::new();
        for &nat in self.external.keys() {
            let uplink = self.uplink(nat);
            if uplink.router != router {
                continue;
            }
            ip.push(format!("addr add {}/30 dev to-{nat}", uplink.gateway));
            ip.push(format!("link set to-{nat} up"));
            let own = uplink.own;
            ip.extend(
                self.externals(nat).iter().map(|external| format!("route add {external}/32 via {own}")),
            );
            let Some(network) = self.network(nat) else { continue };
            if let Some(mtu) = network.mtu {
                ip.push(format!("link set to-{nat} mtu {mtu}"));
            }
            if network.ipv6 != Ipv6::None {
                ip.push(format!("addr add {}/64 dev to-{nat} nodad", transfer_v6(nat, 1)));
                ip.push(format!("route add 2001:db8:{}::/48 via {}", number(nat), transfer_v6(nat, 2)));
            }
        }
        ip
    }

    /// The LAN side of a site's NAT: one bridge for all clients.
    fn lan(&self, nat: Node) -> Vec<String> {
        let mut ip = vec![
            "link add br0 type bridge".to_owned(),
            "link set br0 up".to_owned(),
            format!("addr add 192.168.{}.1/24 dev br0", number(nat)),
        ];
        if self.network(nat).is_some_and(|network| network.public) {
            ip.extend(self.externals(nat).iter().map(|address| format!("route add {address}/32 dev br0")));
        }
        if self.network(nat).is_some_and(|network| network.ipv6 != Ipv6::None) {
            ip.push(format!("addr add 2001:db8:{}::1/64 dev br0 nodad", number(nat)));
        }
        for (client, _) in self.clients.iter().filter(|(_, (site, _))| site.nat() == nat) {
            ip.push(format!("link set p-{client} master br0 up"));
        }
        ip
    }

    fn client(&self, node: Node) -> NodeScript {
        let mut ip = vec!["link set eth0 up".to_owned()];
        let mut shell = COMMON_SYSCTLS.to_owned();
        if let Some(&(site, address)) = self.clients.get(&node) {
            ip.extend(match self.is_public(site) {
                true => public_client(site, address),
                false => client_addresses(site, address, self.has_ipv4(site), self.has_ipv6(site)),
            });
            if !self.has_ipv6(site) {
                shell = NO_IPV6.to_owned();
            }
        }
        NodeScript { node, shell, ip, ruleset: String::new(), last: String::new() }
    }

    pub(super) fn has_ipv4(&self, site: Site) -> bool {
        self.sites.get(&site).is_some_and(|network| network.ipv4)
    }

    pub(super) fn is_public(&self, site: Site) -> bool {
        self.sites.get(&site).is_some_and(|network| network.public)
    }

    pub(super) fn has_ipv6(&self, site: Site) -> bool {
        self.sites.get(&site).is_some_and(|network| network.ipv6 != Ipv6::None)
    }
}

/// The line of a NAT.
pub(super) struct Uplink {
    /// Where it leads.
    pub(super) router: Node,
    /// The router's end.
    pub(super) gateway: Ipv4Addr,
    /// The NAT's end.
    pub(super) own: Ipv4Addr,
}

/// What `ip` is told on a client of `site`.
pub(super) fn client_addresses(site: Site, address: Ipv4Addr, ipv4: bool, ipv6: bool) -> Vec<String> {
    let number = number(site.nat());
    let mut ip = Vec::new();
    if ipv4 {
        ip.push(format!("addr add {address}/24 dev eth0"));
        ip.push(format!("route add default via 192.168.{number}.1"));
    }
    if ipv6 {
        ip.push(format!("addr add 2001:db8:{number}::{}/64 dev eth0 nodad", address.octets()[3]));
        ip.push(format!("route add default via 2001:db8:{number}::1"));
    }
    ip
}

/// The same where the client's address is a public one of `site`: the router is on its link, and in no network of its own.
fn public_client(site: Site, address: Ipv4Addr) -> Vec<String> {
    let router = lan_address(site, 1);
    vec![
        format!("addr add {address}/32 dev eth0"),
        format!("route add {router} dev eth0"),
        format!("route add default via {router}"),
    ]
}

/// The address `n` after the first one.
fn nth(first: Ipv4Addr, n: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(first.to_bits() + u32::from(n))
}

/// Host `host` in the LAN of `site`.
pub(super) fn lan_address(site: Site, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, number(site.nat()), host)
}

/// A batch for `ip` as a piece of script.
pub(super) fn ip_batch(lines: &[String]) -> String {
    format!("ip -batch - <<'IP'\n{}\nIP\n", lines.join("\n"))
}

/// A piece of script that runs `body` on `node`.
pub(super) fn on_node(node: Node, body: &str) -> String {
    format!("nsenter --net=/run/netns/{node} sh -e <<'NODE'\n{body}\nNODE\n")
}

/// A public server and its line to `inet`.
#[derive(Debug, Clone, Copy)]
struct Server {
    node: Node,
    /// The ends of the line in `inet`, with the lengths of their prefixes.
    gateways: (Ipv4Addr, u8, Ipv6Addr, u8),
    ipv4: &'static [Ipv4Addr],
    ipv6: &'static [Ipv6Addr],
}

const FIRST_SERVER: Server = Server {
    node: Node::Srv,
    gateways: (Ipv4Addr::new(203, 0, 113, 1), 24, Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 1), 64),
    ipv4: &[SRV, SRV_ALTERNATE],
    ipv6: &[SRV_V6, SRV_ALTERNATE_V6],
};

const SECOND_SERVER: Server = Server {
    node: Node::Srv2,
    gateways: (Ipv4Addr::new(192, 0, 2, 129), 25, Ipv6Addr::new(0x2001, 0xdb8, 0x54, 0, 0, 0, 0, 1), 64),
    ipv4: &[SRV2],
    ipv6: &[SRV2_V6],
};

impl Server {
    /// What `inet` says to its line.
    fn line(&self) -> [String; 3] {
        let Server { node, gateways: (v4, len, v6, len_v6), .. } = self;
        [
            format!("link set to-{node} up"),
            format!("addr add {v4}/{len} dev to-{node}"),
            format!("addr add {v6}/{len_v6} dev to-{node} nodad"),
        ]
    }

    fn script(&self) -> NodeScript {
        let Server { node, gateways: (gateway, len, gateway_v6, len_v6), ipv4, ipv6 } = self;
        let mut ip = vec!["link set wan up".to_owned()];
        ip.extend(ipv4.iter().map(|address| format!("addr add {address}/{len} dev wan")));
        ip.extend(ipv6.iter().map(|address| format!("addr add {address}/{len_v6} dev wan nodad")));
        ip.push(format!("route add default via {gateway}"));
        ip.push(format!("route add default via {gateway_v6}"));
        NodeScript {
            node: *node,
            shell: COMMON_SYSCTLS.into(),
            ip,
            ruleset: String::new(),
            last: String::new(),
        }
    }
}

/// A queue of 200 ms, as routers have.
fn limit(interface: &str, rate_kbit: u32) -> String {
    format!("\ntc qdisc add dev {interface} root tbf rate {rate_kbit}kbit burst 4k latency 200ms")
}

/// Numbers of the NATs: they are in every address that belongs to one.
fn number(nat: Node) -> u8 {
    match nat {
        Node::NatA => 1,
        Node::NatB => 2,
        Node::Cgn => 3,
        _ => 4,
    }
}

/// An end of a NAT's IPv6 line.
fn transfer_v6(nat: Node, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0xff, number(nat).into(), 0, 0, 0, host)
}

/// What is done on one node.
struct NodeScript {
    node: Node,
    /// Shell commands before all else: sysctls and rates.
    shell: String,
    ip: Vec<String>,
    ruleset: String,
    /// Shell commands after all else: programs.
    last: String,
}

impl NodeScript {
    fn router(node: Node, ip: Vec<String>, ruleset: String) -> Self {
        Self { node, shell: format!("{COMMON_SYSCTLS}\n{ROUTER_SYSCTLS}"), ip, ruleset, last: String::new() }
    }
}

impl fmt::Display for NodeScript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nft = match self.ruleset.as_str() {
            "" => String::new(),
            ruleset => format!("nft -f - <<'NFT'\n{ruleset}NFT\n"),
        };
        let body = format!("{}\nip link set lo up\n{}{nft}{}", self.shell, ip_batch(&self.ip), self.last);
        f.write_str(&on_node(self.node, &body))
    }
}
