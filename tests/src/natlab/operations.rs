//! What happens to a network while programs run in it.

use std::net::{IpAddr, Ipv4Addr};

use super::ruleset::ruleset;
use super::spec::{Node, Site};
use super::topology::{client_addresses, ip_batch, lan_address, on_node};
use super::{Lab, LabError};

/// An address that a client still has beside a new one.
#[derive(Debug)]
#[must_use = "the client has two addresses until it is dropped"]
pub struct OldAddress {
    client: Node,
    site: Site,
    address: Ipv4Addr,
}

impl Lab {
    /// The NAT forgets every mapping, as after a power cut.
    ///
    /// # Errors
    /// [`LabError::Spec`] if `nat` is no NAT of this lab.
    pub fn reboot_nat(&mut self, nat: Node) -> Result<(), LabError> {
        self.tree.run(&on_node(nat, &self.fresh_ruleset(nat)?))
    }

    /// The NAT gets another public address (DHCP, PPPoE) and forgets every mapping.
    ///
    /// # Errors
    /// [`LabError::Spec`] if `nat` is no NAT of this lab.
    pub fn set_public_address(&mut self, nat: Node, address: Ipv4Addr) -> Result<(), LabError> {
        if !self.topology.external.contains_key(&nat) {
            return Err(not_a_nat(nat));
        }
        let old = self.topology.externals(nat);
        self.topology.external.insert(nat, address);
        let uplink = self.topology.uplink(nat);
        let gone = old.iter().map(|old| format!("route del {old}/32"));
        let new = self.topology.externals(nat).into_iter();
        let new = new.map(|new| format!("route add {new}/32 via {}", uplink.own));
        let routes = ip_batch(&gone.chain(new).collect::<Vec<_>>());
        self.tree.run(&on_node(uplink.router, &routes))?;
        self.reboot_nat(nat)
    }

    /// Moves a client's cable to the LAN of `site` and gives it an address there.
    ///
    /// # Errors
    /// [`LabError::Spec`] if the client or the site is not in this lab, the client is there already, or one of the two
    /// networks is a public one.
    pub fn roam(&mut self, client: Node, site: Site) -> Result<(), LabError> {
        let Some(&(from, address)) = self.topology.clients.get(&client) else {
            return Err(LabError::Spec(format!("{client} is no client of this lab")));
        };
        let impossible = !self.topology.sites.contains_key(&site)
            || [from, site].iter().any(|it| self.topology.is_public(*it));
        if from == site || impossible {
            return Err(LabError::Spec(format!("{client} cannot go from site {from:?} to site {site:?}")));
        }
        // Ten apart: a guest never has the number of a client that is at home there.
        let host = address.octets()[3];
        let address = lan_address(site, if host < 10 { host + 10 } else { host - 10 });
        let unplug = ip_batch(&[format!("link set p-{client} netns {}", site.nat())]);
        let plug = ip_batch(&[format!("link set p-{client} master br0 up")]);
        let ipv6 = self.topology.has_ipv6(site);
        let mut renumber = vec!["addr flush dev eth0".to_owned()];
        renumber.extend(client_addresses(site, address, self.topology.has_ipv4(site), ipv6));
        let renumber = format!(
            "for i in /proc/sys/net/ipv6/conf/*; do echo {} >$i/disable_ipv6; done\n{}",
            u8::from(!ipv6),
            ip_batch(&renumber)
        );
        self.tree.run(
            &(on_node(from.nat(), &unplug) + &on_node(site.nat(), &plug) + &on_node(client, &renumber)),
        )?;
        self.topology.clients.insert(client, (site, address));
        Ok(())
    }

    /// Gives a client another address in its LAN, beside the one that it has until [`Lab::drop_old_address`].
    ///
    /// # Errors
    /// [`LabError::Spec`] if the client is not in this lab, or in a public network.
    pub fn renumber(&mut self, client: Node) -> Result<OldAddress, LabError> {
        let Some((site, old)) = self.topology.clients.get(&client).copied() else {
            return Err(LabError::Spec(format!("{client} is no client of this lab")));
        };
        if self.topology.is_public(site) {
            return Err(LabError::Spec(format!("{client} has a public address, which stays")));
        }
        // Twenty apart: nobody else has the number.
        let host = old.octets()[3];
        let new = lan_address(site, if host < 20 { host + 20 } else { host - 20 });
        self.tree.run(&on_node(client, &ip_batch(&[format!("addr add {new}/24 dev eth0")])))?;
        self.topology.clients.insert(client, (site, new));
        Ok(OldAddress { client, site, address: old })
    }

    /// Takes away what a client had before it was renumbered.
    ///
    /// # Errors
    /// If it has not got it any more.
    pub fn drop_old_address(&self, old: &OldAddress) -> Result<(), LabError> {
        let &OldAddress { client, site, address } = old;
        // Else the new address, which is a second one of the same network, would go too.
        let promote = "echo 1 >/proc/sys/net/ipv4/conf/eth0/promote_secondaries";
        let router = lan_address(site, 1);
        let change = ip_batch(&[
            format!("addr del {address}/24 dev eth0"),
            format!("route replace default via {router}"),
        ]);
        self.tree.run(&on_node(client, &format!("{promote}\n{change}")))
    }

    /// What every node asks for names from now on.
    ///
    /// # Errors
    /// If this machine cannot mount anything on its `/etc/resolv.conf`.
    pub fn set_name_server(&self, address: IpAddr) -> Result<(), LabError> {
        self.tree.run(&format!(
            "echo nameserver {address} >/run/resolv.conf\nmount --bind /run/resolv.conf /etc/resolv.conf"
        ))
    }

    /// Flows are stopped while conntrack is emptied: under traffic it learns the old mappings again within
    /// milliseconds.
    fn fresh_ruleset(&self, nat: Node) -> Result<String, LabError> {
        let network = self.topology.network(nat).ok_or_else(|| not_a_nat(nat))?;
        Ok(format!(
            "nft 'add table inet off; add chain inet off inbound {{ type filter hook prerouting priority -400; policy drop; }}'
conntrack -F
nft -f - <<'NFT'
{}table inet off {{}}
delete table inet off
NFT",
            ruleset(network, &self.topology.externals(nat))
        ))
    }
}

fn not_a_nat(node: Node) -> LabError {
    LabError::Spec(format!("{node} is no NAT of this lab"))
}
