//! One NAT as an nftables ruleset.
//!
//! Conntrack alone is an address- and port-dependent NAT. The other behaviours are learnt: `learn` sees each flow
//! after translation and records it in sets, `post` chooses the port by them, `pre` lets strangers in by them.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::behaviour::{Filtering, Mapping, PortAllocation};

use super::spec::{Firewall, Ipv6, Nat, Network};

/// Ports of [`PortAllocation::Sequential`]: the first, and after how many it begins again.
const SEQUENTIAL: (u16, u16) = (20_000, 2_000);

/// Stands before each rule about outbound UDP: nft takes the type of a port from the protocol named in the rule.
const UDP_OUT: &str = "oifname \"wan\" meta l4proto udp";

/// What routers say of packets that they drop.
const ICMP_ERRORS: [&str; 2] = [
    "icmp type { destination-unreachable, time-exceeded }",
    "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded }",
];

/// The whole ruleset of a NAT router with these external addresses, of which there is one at least; it replaces an earlier one.
pub(super) fn ruleset(network: &Network, external: &[Ipv4Addr]) -> String {
    let nat = if network.public { String::new() } else { nat_table(network, external) };
    let forward = forward_table(network, external);
    format!(
        "table ip nat {{}}\ndelete table ip nat\ntable inet fw {{}}\ndelete table inet fw\n{nat}{forward}"
    )
}

fn nat_table(network: &Network, external: &[Ipv4Addr]) -> String {
    let nat = &network.nat;
    let timeout = nat.udp_timeout.max(nat.stream_timeout());
    let set = format!("flags dynamic,timeout; timeout {}s; size 65535;", timeout.as_secs());
    let all = set_of(external);
    let let_in = |known: &str| {
        format!(
            "iifname \"wan\" ip daddr {all} meta l4proto udp {known}dnat ip to ip daddr . udp dport map @internal"
        )
    };
    let inbound = match nat.filtering {
        Filtering::EndpointIndependent => let_in(""),
        Filtering::AddressDependent => let_in("ip daddr . udp dport . ip saddr @peers "),
        Filtering::AddressAndPortDependent => String::new(),
    };
    let portal = match network.firewall {
        Firewall::CaptivePortal => "iifname != \"wan\" tcp dport { 80, 443 } redirect",
        _ => "",
    };
    let first = external.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED);
    let outbound = outbound_rules(nat, external);
    let udp = UDP_OUT;
    format!(
        r#"table ip nat {{
 map by_source      {{ type ipv4_addr . inet_service : ipv4_addr . inet_service; {set} }}
 map by_destination {{ type ipv4_addr . inet_service . ipv4_addr : ipv4_addr . inet_service; {set} }}
 map internal       {{ type ipv4_addr . inet_service : ipv4_addr . inet_service; {set} }}
 set peers          {{ type ipv4_addr . inet_service . ipv4_addr; {set} }}
 set used           {{ type inet_service; {set} }}
 chain pre {{ type nat hook prerouting priority -100;
  {inbound}
  {portal}
 }}
 chain post {{ type nat hook postrouting priority 100;
{outbound}  oifname "wan" snat ip to {first}
 }}
 chain learn {{ type filter hook postrouting priority 110;
  {udp} ct direction original update @by_source {{ ct original ip saddr . ct original proto-src : ip saddr . udp sport }}
  {udp} ct direction original update @by_destination {{ ct original ip saddr . ct original proto-src . ip daddr : ip saddr . udp sport }}
  {udp} ct direction original update @internal {{ ip saddr . udp sport : ct original ip saddr . ct original proto-src }}
  {udp} ct direction reply update @internal {{ ip saddr . udp sport : ct reply ip saddr . ct reply proto-src }}
  {udp} update @peers {{ ip saddr . udp sport . ip daddr }}
  {udp} update @used {{ udp sport }}
 }}
}}
"#
    )
}

/// Which address and port a UDP flow gets: that of the mapping it belongs to, else a new one. TCP connections of their own
/// ports each where the mapping depends on the destination, and else with those of the client.
fn outbound_rules(nat: &Nat, external: &[Ipv4Addr]) -> String {
    let udp = UDP_OUT;
    let known = match nat.mapping {
        Mapping::EndpointIndependent => {
            format!("  {udp} snat ip to ip saddr . udp sport map @by_source\n")
        }
        Mapping::AddressDependent => {
            format!("  {udp} snat ip to ip saddr . udp sport . ip daddr map @by_destination\n")
        }
        Mapping::AddressAndPortDependent => String::new(),
    };
    let address = any_of(external);
    let random = format!("snat ip to {address}:1024-65535 fully-random");
    let new = match nat.port_allocation() {
        // Source NAT alone would give one port to two clients with different destinations: not unique, so no EIM.
        PortAllocation::Preserving => {
            format!("  {udp} udp sport @used {random}\n  {udp} snat ip to {address}\n")
        }
        PortAllocation::Random => format!("  {udp} {random}\n"),
        PortAllocation::Sequential => {
            format!(
                "  {udp} snat ip to {address} : numgen inc mod {} map {{ {} }}\n",
                SEQUENTIAL.1,
                sequence()
            )
        }
    };
    let tcp = match nat.mapping {
        Mapping::EndpointIndependent => String::new(),
        Mapping::AddressDependent | Mapping::AddressAndPortDependent => {
            let first = external.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED);
            format!("  oifname \"wan\" meta l4proto tcp snat ip to {first}:1024-65535 fully-random\n")
        }
    };
    known + &new + &tcp
}

/// As an nftables expression: one of these, chosen anew for each flow.
fn any_of(addresses: &[Ipv4Addr]) -> String {
    match addresses {
        [only] => only.to_string(),
        several => {
            let numbered = several.iter().enumerate().map(|(n, address)| format!("{n} : {address}"));
            let numbered = numbered.collect::<Vec<_>>().join(", ");
            format!("numgen random mod {} map {{ {numbered} }}", several.len())
        }
    }
}

/// As an nftables set.
fn set_of(addresses: &[Ipv4Addr]) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    format!("{{ {} }}", addresses.join(", "))
}

/// `numgen` used as a port directly comes out byte-swapped; through a map it does not.
fn sequence() -> String {
    let (first, count) = SEQUENTIAL;
    (0..count).fold(String::new(), |mut map, i| {
        let _ = write!(map, "{i}:{},", first + i);
        map
    })
}

fn forward_table(network: &Network, external: &[Ipv4Addr]) -> String {
    let mut rules = Vec::new();
    if network.loss_per_mille > 0 {
        rules.push(format!("numgen random mod 1000 < {} drop", network.loss_per_mille));
    }
    if !network.icmp_errors {
        rules.extend(ICMP_ERRORS.map(|errors| format!("{errors} drop")));
    }
    if !network.public && !network.nat.hairpin {
        rules.push(format!("iifname != \"wan\" ip daddr {} drop", set_of(external)));
    }
    match network.firewall {
        Firewall::Open => {}
        Firewall::NoUdp => rules.push("meta l4proto udp drop".into()),
        Firewall::Tcp443Only => rules.extend([
            "iifname != \"wan\" tcp dport 443 accept".into(),
            "iifname \"wan\" meta l4proto tcp ct state established,related accept".into(),
            "drop".into(),
        ]),
        Firewall::Closed | Firewall::CaptivePortal => rules.push("drop".into()),
    }
    match network.ipv6 {
        Ipv6::None => rules.push("meta nfproto ipv6 drop".into()),
        Ipv6::Firewalled(filtering) => rules.extend(ipv6_rules(filtering)),
        Ipv6::Open => rules.push("meta nfproto ipv6 accept".into()),
    }
    if network.public {
        rules.push("accept".into());
    }
    rules.extend([
        "ct state established,related accept".into(),
        "iifname \"wan\" ct status dnat accept".into(),
        // Unsolicited UDP is dropped here: once in conntrack, it would take the port from a later outbound flow.
        "iifname \"wan\" drop".into(),
    ]);
    let rules = rules.join("\n  ");
    // What the NAT says itself is not forwarded.
    let own = match network.icmp_errors {
        true => String::new(),
        false => format!(
            " chain output {{ type filter hook output priority 0;\n  {} drop\n  {} drop\n }}\n",
            ICMP_ERRORS[0], ICMP_ERRORS[1]
        ),
    };
    let set = format!("flags dynamic,timeout; timeout {}s; size 65535;", network.nat.udp_timeout.as_secs());
    format!(
        "table inet fw {{
 set open6    {{ type ipv6_addr . inet_service; {set} }}
 set sent_to6 {{ type ipv6_addr . inet_service . ipv6_addr; {set} }}
 chain forward {{ type filter hook forward priority 0; policy accept;\n  {rules}\n }}\n{own}}}\n"
    )
}

/// What a stateful firewall does beyond conntrack, which alone lets in answers only.
fn ipv6_rules(filtering: Filtering) -> Vec<String> {
    let (learn, let_in) = match filtering {
        Filtering::EndpointIndependent => {
            ("@open6 { ip6 saddr . udp sport }", "ip6 daddr . udp dport @open6")
        }
        Filtering::AddressDependent => {
            ("@sent_to6 { ip6 saddr . udp sport . ip6 daddr }", "ip6 daddr . udp dport . ip6 saddr @sent_to6")
        }
        Filtering::AddressAndPortDependent => return Vec::new(),
    };
    vec![
        format!("iifname != \"wan\" meta l4proto udp update {learn}"),
        format!("iifname \"wan\" {let_in} accept"),
    ]
}
