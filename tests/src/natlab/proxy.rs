//! An HTTP proxy on the router of a site: Debian's tinyproxy, as offices have one where nothing else is let out.

use std::net::SocketAddr;

use super::spec::Site;
use super::topology::{lan_address, on_node};
use super::{Lab, LabError};

/// Where it listens in the LAN.
const PORT: u16 = 8888;

impl Lab {
    /// Runs tinyproxy on the router of `site`, which passes CONNECT to port 443 and to no other, and says where it listens.
    /// Needs Debian's `tinyproxy`.
    ///
    /// # Errors
    /// [`LabError::Spec`] if the site is not in this lab; [`LabError::Setup`] if tinyproxy does not start.
    pub fn start_proxy(&self, site: Site) -> Result<SocketAddr, LabError> {
        let nat = site.nat();
        if !self.topology.sites.contains_key(&site) {
            return Err(LabError::Spec(format!("site {site:?} is not in this lab")));
        }
        let address = lan_address(site, 1);
        let files = format!("/run/proxy-{nat}");
        // As `/proc/net/tcp` writes its port.
        let listens = format!(":{PORT:04X} 00000000:0000 0A");
        self.tree.run(&on_node(
            nat,
            &format!(
                "cat >{files}.conf <<'CONF'
Port {PORT}
Listen {address}
ConnectPort 443
LogFile \"{files}.log\"
PidFile \"{files}.pid\"
CONF
tinyproxy -c {files}.conf >/dev/null 2>&1 </dev/null
for i in $(seq 1000); do grep -qs '{listens}' /proc/net/tcp && exit; sleep 0.02; done
echo 'tinyproxy does not listen' >&2
exit 1
"
            ),
        ))?;
        Ok(SocketAddr::new(address.into(), PORT))
    }
}
