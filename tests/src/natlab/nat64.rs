//! A NAT64 (RFC 6146) in two steps: `tayga` gives each IPv6 host an IPv4 address of its own, and the NAT of the lab then
//! translates these as it does those of any LAN.

use thirl_common::net::Nat64Prefix;

use super::spec::Node;
use super::topology::ip_batch;

/// What `tayga` gives out, and its own addresses on the IPv4 and the IPv6 side.
const POOL: &str = "192.168.255.0/24";
const OWN: &str = "192.168.255.1";
const OWN_V6: &str = "2001:db8:64::1";

/// Starts it on `node`, to which the addresses under `prefix` are routed.
pub(super) fn script(node: Node, prefix: Nat64Prefix) -> String {
    let directory = format!("/run/tayga-{node}");
    let routes = ip_batch(&[
        "link set nat64 up".to_owned(),
        format!("route add {POOL} dev nat64"),
        format!("route add {prefix} dev nat64"),
    ]);
    format!(
        "
mkdir {directory}
cat >{directory}/tayga.conf <<'CONF'
tun-device nat64
ipv4-addr {OWN}
ipv6-addr {OWN_V6}
prefix {prefix}
dynamic-pool {POOL}
data-dir {directory}
CONF
tayga --config {directory}/tayga.conf --mktun >/dev/null
{routes}tayga --config {directory}/tayga.conf"
    )
}
