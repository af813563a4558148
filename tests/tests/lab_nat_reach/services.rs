//! What runs in the lab beside the diagnosis: a web server and a DNS server of others, our STUN server, and a certificate.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use thirl_common::net::Nat64Prefix;
use thirl_tests::harness::{self, Program};
use thirl_tests::natlab::{
    Lab, Node, SRV, SRV_ALTERNATE, SRV_ALTERNATE_V6, SRV_V6, Unavailable, availability,
};

/// A program starts within moments; the rest is for a busy machine.
const LIMIT: Duration = Duration::from_secs(40);

/// The public web server, and STUN server.
pub(crate) const WEB: &str = "web.test";

/// Where the lab keeps the certificate of [`WEB`]; everything else in it goes into this directory as well.
pub(crate) const CERTIFICATE: &str = "/run/services/web.pem";

pub(crate) fn are_here() -> Result<(), Unavailable> {
    availability()?;
    harness::installed("caddy", "caddy", "is the web server, with TLS and QUIC, behind the firewalls")?;
    harness::installed("named", "bind9", "is the DNS server, with DNS64")?;
    harness::installed("tayga", "tayga", "is the NAT64").map(drop)
}

/// Our STUN server on the public server's addresses, IPv4 and IPv6, and these ports.
pub(crate) fn stun(lab: &Lab, port: u16, alternate: u16) -> [Program; 2] {
    let pairs: [[IpAddr; 2]; 2] =
        [[SRV.into(), SRV_ALTERNATE.into()], [SRV_V6.into(), SRV_ALTERNATE_V6.into()]];
    pairs.map(|pair| {
        let mut command = lab.command(Node::Srv, harness::stun_server());
        command.args(["--listening-port", &port.to_string(), "--alt-listening-port", &alternate.to_string()]);
        pair.iter().for_each(|ip| _ = command.args(["--listening-ip", &ip.to_string()]));
        let mut server = Program::spawn(command).unwrap().named("stun-server");
        server.wait_for_line("stun:", LIMIT).unwrap();
        server
    })
}

/// A DNS server on `node` at `address`, which everybody asks from now on: it knows [`WEB`] at its IPv4 address, and
/// `both.test` that has IPv6 as well. With a prefix it is a DNS64.
pub(crate) fn dns(lab: &Lab, node: Node, address: impl Into<IpAddr>, dns64: Option<Nat64Prefix>) -> Program {
    let dns64 = dns64.map_or(String::new(), |prefix| format!("dns64 {prefix} {{ clients {{ any; }}; }};"));
    let settings = format!(
        "options {{ directory \"/run/services\"; pid-file none; session-keyfile none; recursion no;
         dnssec-validation no; listen-on {{ any; }}; listen-on-v6 {{ any; }}; {dns64} }};
         controls {{ }};
         zone \"test\" {{ type primary; file \"test.zone\"; }};"
    );
    let zone = format!(
        "$TTL 60\n@ SOA ns.test. root.test. 1 60 60 60 60\n@ NS ns.test.\nns A {SRV}
web A {SRV}\nboth A {SRV}\nboth AAAA {SRV_V6}\n"
    );
    write(lab, "named.conf", &settings);
    write(lab, "test.zone", &zone);
    lab.set_name_server(address.into()).unwrap();
    let mut command = lab.command(node, "named");
    command.args(["-f", "-g", "-c", "/run/services/named.conf"]);
    let mut named = Program::spawn(command).unwrap().named("named");
    named.wait_for_line("running", LIMIT).unwrap();
    named
}

/// A web server on `node` that answers plain requests as `answer` says (in Caddy's words) and has a certificate for
/// `name`, over TLS and QUIC.
pub(crate) fn web(lab: &Lab, node: Node, name: &str, answer: &str) -> Program {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let [certificate, key, settings] = ["pem", "key", "caddy"].map(|kind| format!("{node}.{kind}"));
    write(lab, &certificate, &cert.pem());
    write(lab, &key, &signing_key.serialize_pem());
    if name == WEB {
        write(lab, "web.pem", &cert.pem());
    }
    let site = format!(
        "{{
            admin off
            auto_https disable_redirects
            storage file_system /run/services
            default_sni {name}
        }}
        http:// {{
            {answer}
        }}
        https:// {{
            tls /run/services/{certificate} /run/services/{key}
            respond hello
        }}"
    );
    write(lab, &settings, &site);
    let mut command = lab.command(node, "caddy");
    for directory in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
        command.env(directory, "/run/services");
    }
    command.args(["run", "--adapter", "caddyfile", "--config", &format!("/run/services/{settings}")]);
    let mut caddy = Program::spawn(command).unwrap().named("caddy");
    caddy.wait_for_line("serving initial configuration", LIMIT).unwrap();
    caddy
}

/// A file of the lab's own.
fn write(lab: &Lab, file: &str, text: &str) {
    let script = "mkdir -p /run/services && printf %s \"$1\" >\"/run/services/$0\"";
    let written = lab.command(Node::Srv, "sh").args(["-c", script, file, text]).status().unwrap();
    assert!(written.success(), "{file}");
}

/// The router of site A as its clients know it.
pub(crate) const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
