//! miniupnpd on the NAT of a site: a gateway of others that speaks UPnP IGD, NAT-PMP and PCP.

use super::spec::{Ipv6, Site};
use super::topology::on_node;
use super::{Lab, LabError};

/// Where its rules go, empty each time: the filter's before those of the site's firewall, which has the last word.
const CHAINS: &str = "table inet igd {}
delete table inet igd
table inet igd {
 chain prerouting_miniupnpd { }
 chain postrouting_miniupnpd { }
 chain prerouting { type nat hook prerouting priority -101; policy accept; jump prerouting_miniupnpd; }
 chain postrouting { type nat hook postrouting priority 99; policy accept; jump postrouting_miniupnpd; }
}
add chain inet fw miniupnpd
flush chain inet fw miniupnpd
insert rule inet fw forward jump miniupnpd";

/// What a gateway offers to those behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Igd {
    upnp: bool,
    pcp: bool,
    denies: bool,
}

impl Igd {
    /// Everything to everybody.
    pub fn new() -> Self {
        Self { upnp: true, pcp: true, denies: false }
    }

    /// Whether UPnP is switched on.
    #[must_use]
    pub fn upnp(mut self, upnp: bool) -> Self {
        self.upnp = upnp;
        self
    }

    /// Whether PCP and NAT-PMP are switched on: miniupnpd has one switch for both.
    #[must_use]
    pub fn pcp(mut self, pcp: bool) -> Self {
        self.pcp = pcp;
        self
    }

    /// Answers, and refuses every mapping.
    #[must_use]
    pub fn denying(mut self) -> Self {
        self.denies = true;
        self
    }
}

impl Default for Igd {
    fn default() -> Self {
        Self::new()
    }
}

impl Lab {
    /// Runs miniupnpd on the NAT of `site`, with no mapping; if it runs already, it is killed and begins anew. Needs
    /// Debian's `miniupnpd-nftables`. It claims the public address of the NAT, which has to be one that it takes for
    /// public: documentation addresses are not. Behind a CGN it sees for itself what it has outside.
    ///
    /// # Errors
    /// [`LabError::Spec`] if the site is not in this lab; [`LabError::Setup`] if miniupnpd does not start.
    pub fn start_igd(&self, site: Site, igd: Igd) -> Result<(), LabError> {
        let nat = site.nat();
        let Some(network) = self.topology.network(nat) else {
            return Err(LabError::Spec(format!("site {site:?} is not in this lab")));
        };
        let external = self.topology.external.get(&nat).filter(|_| network.cgn.is_none());
        let external = external.map_or(String::new(), |ip| format!("ext_ip={ip}\n"));
        let yes = |on: bool| if on { "yes" } else { "no" };
        let (upnp, pcp, no_ipv6) = (yes(igd.upnp), yes(igd.pcp), yes(network.ipv6 == Ipv6::None));
        let allow = if igd.denies { "" } else { "allow 1024-65535 192.168.0.0/16 1024-65535\n" };
        let settings = format!(
            "ext_ifname=wan
{external}listening_ip=br0
upnp_table_name=fw
upnp_nat_table_name=igd
enable_upnp={upnp}
enable_natpmp={pcp}
ipv6_disable={no_ipv6}
min_lifetime=2
max_lifetime=86400
secure_mode=yes
system_uptime=no
uuid=e6f5a754-0f31-4e90-888f-5421d5567d39
{allow}deny 0-65535 0.0.0.0/0 0-65535
"
        );
        let port = if igd.pcp { PCP_PORT } else { SSDP_PORT };
        self.tree.run(&on_node(nat, &script(&format!("/run/igd-{nat}"), &settings, port)))
    }
}

/// As `/proc/net/udp` writes them: 5351 and 1900.
const PCP_PORT: &str = ":14E7 ";
const SSDP_PORT: &str = ":076C ";

/// It runs in the background, and ends with the lab. In the foreground it would write a line for each of the 65535 ports
/// that it refuses at a time.
fn script(files: &str, settings: &str, port: &str) -> String {
    format!(
        "await() {{ for i in $(seq 1000); do \"$@\" && return; sleep 0.02; done; echo \"too late: $*\" >&2; exit 1; }}
listens() {{ grep -qs '{port}' /proc/net/udp /proc/net/udp6; }}
silent() {{ ! listens; }}
[ ! -e {files}.pid ] || kill -KILL $(cat {files}.pid)
await silent
rm -f {files}.pid
cat >{files}.conf <<'CONF'
{settings}CONF
nft -f - <<'NFT'
{CHAINS}
NFT
miniupnpd -f {files}.conf -P {files}.pid >/dev/null 2>&1 </dev/null
await listens
"
    )
}
