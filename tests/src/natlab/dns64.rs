//! DNS64 (RFC 6147) on the router of a site with a NAT64: Debian's BIND, from which clients learn the prefix (RFC 7050).

use super::spec::Site;
use super::topology::on_node;
use super::{Lab, LabError, RESOLVER};

/// "WKA [..] 192.0.0.170 and 192.0.0.171" (RFC 7050, section 2.2).
const WELL_KNOWN: &str = "$TTL 60
@ SOA ns.test. root.test. 1 60 60 60 60
@ NS ns.test.
@ A 192.0.0.170
@ A 192.0.0.171
";

impl Lab {
    /// Runs BIND on the router of `site`, at [`RESOLVER`], which each node asks from now on. It knows `ipv4only.arpa` and no
    /// other name. Needs Debian's `bind9`.
    ///
    /// # Errors
    /// [`LabError::Spec`] if the site has no NAT64; [`LabError::Setup`] if BIND does not start.
    pub fn start_dns64(&self, site: Site) -> Result<(), LabError> {
        let nat = site.nat();
        let prefix = self.topology.network(nat).and_then(|network| network.nat64);
        let Some(prefix) = prefix else {
            return Err(LabError::Spec(format!("site {site:?} has no NAT64")));
        };
        self.set_name_server(RESOLVER.into())?;
        let files = format!("/run/dns64-{nat}");
        self.tree.run(&on_node(
            nat,
            &format!(
                "mkdir {files}
cat >{files}/zone <<'ZONE'
{WELL_KNOWN}ZONE
cat >{files}/conf <<'CONF'
options {{ directory \"{files}\"; pid-file none; session-keyfile none; recursion no; dnssec-validation no;
 listen-on {{ none; }}; listen-on-v6 {{ {RESOLVER}; }}; dns64 {prefix} {{ clients {{ any; }}; }}; }};
controls {{ }};
zone \"ipv4only.arpa\" {{ type primary; file \"zone\"; }};
CONF
named -c {files}/conf -L {files}/log -n 1 >/dev/null 2>&1 </dev/null
for i in $(seq 1000); do grep -qs ' running$' {files}/log && exit; sleep 0.02; done
tail -n 5 {files}/log >&2
exit 1
"
            ),
        ))
    }
}
