//! The networks of the reach matrix, judged by instruments of their own: each does what its name says, on either side, so
//! that no cell of the matrix can lie.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use thirl_common::net::Nat64Prefix;
use thirl_tests::behaviour::combinations;
use thirl_tests::harness::Program;
use thirl_tests::natlab::{Node, SRV, SRV_ALTERNATE, SRV_ALTERNATE_V6, SRV_V6, Site};
use thirl_tests::reach::kernel::{Place, is_here};
use thirl_tests::reach::{Pair, Shared, Situation};
use thirl_tests::requires;

const PROBER: &str = env!("CARGO_BIN_EXE_lab-prober");
const MAPPER: &str = env!("CARGO_BIN_EXE_lab-mapper");
const LIMIT: Duration = Duration::from_secs(60);

/// The networks of a pair with the prober's servers in them.
struct Probed {
    place: Place,
    _servers: [Program; 2],
}

impl Probed {
    fn new(pair: Pair) -> Self {
        let place = Place::build(pair).unwrap();
        let servers = [
            [SRV.to_string(), SRV_ALTERNATE.to_string()],
            [SRV_V6.to_string(), SRV_ALTERNATE_V6.to_string()],
        ];
        let servers = servers.map(|pair| {
            let mut command = place.lab.command(Node::Srv, PROBER);
            command.arg("server").args(pair);
            let mut server = Program::spawn(command).unwrap();
            server.wait_for_line("ready", LIMIT).unwrap();
            server
        });
        Self { place, _servers: servers }
    }

    /// Two networks of one kind.
    fn twice(situation: Situation) -> Self {
        Self::new(Pair::Apart(situation, situation))
    }

    fn prober(&self, node: Node, arguments: &[&str]) -> Value {
        let mut command = self.place.lab.command(node, PROBER);
        command.args(arguments);
        Program::spawn(command).unwrap().wait_for_json(LIMIT).unwrap()
    }

    /// Mapping and filtering of UDP, as the prober names them, and all that it says.
    fn udp(&self, node: Node, servers: [IpAddr; 2]) -> ([String; 2], Value) {
        let [first, second] = servers.map(|ip| ip.to_string());
        let found = self.prober(node, &["client", &first, &second]);
        (["mapping", "filtering"].map(|name| found[name].as_str().unwrap().to_owned()), found)
    }

    fn udp_v4(&self, node: Node) -> ([String; 2], Value) {
        self.udp(node, [SRV.into(), SRV_ALTERNATE.into()])
    }

    fn udp_v6(&self, node: Node) -> [String; 2] {
        self.udp(node, [SRV_V6.into(), SRV_ALTERNATE_V6.into()]).0
    }

    /// The ports that both addresses of the server saw over TCP from one local port, after that.
    fn tcp_ports(&self, node: Node) -> [u16; 3] {
        let servers = [SRV, SRV_ALTERNATE].map(|ip| format!("{ip}:7000"));
        let said = self.prober(node, &["tcp", &servers[0], &servers[1]]);
        let seen = |n: usize| said["outcomes"][n].as_str().unwrap().parse::<SocketAddr>().unwrap().port();
        [u16::try_from(said["local"].as_u64().unwrap()).unwrap(), seen(0), seen(1)]
    }

    /// What becomes of TCP to two ports at which nothing listens: only a refusal shows that it is let out.
    fn tcp(&self, node: Node, ports: [u16; 2]) -> [String; 2] {
        let servers = ports.map(|port| format!("{SRV}:{port}"));
        let said = self.prober(node, &["tcp", &servers[0], &servers[1]]);
        [0, 1].map(|n| said["outcomes"][n].as_str().unwrap().to_owned())
    }

    /// What a shell command prints on a host.
    fn shell(&self, node: Node, command: &str) -> String {
        let output =
            self.place.lab.command(node, "timeout").args(["10", "bash", "-c", command]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn addresses(found: &Value) -> Vec<SocketAddr> {
    let mapped = found["mapped"].as_array().unwrap().iter();
    mapped.map(|seen| seen.as_str().unwrap().parse().unwrap()).collect()
}

fn on_both_sides(probed: &Probed, check: impl Fn(&Probed, Site, Node)) {
    for (site, host) in [Site::A, Site::B].into_iter().zip(&probed.place.hosts) {
        check(probed, site, host.node);
    }
}

#[test]
fn public_hosts_are_reached_by_anybody() {
    requires!(is_here(Pair::Apart(Situation::Public, Situation::Public)));
    on_both_sides(&Probed::twice(Situation::Public), |probed, site, node| {
        let (udp, found) = probed.udp_v4(node);
        assert_eq!(udp, ["EIM", "EIF"], "{found}");
        let local = SocketAddr::new(
            probed.place.lab.client_address(node).unwrap().into(),
            u16::try_from(found["local"].as_u64().unwrap()).unwrap(),
        );
        assert!(addresses(&found).iter().all(|seen| *seen == local), "{found}");
        assert_eq!(probed.place.lab.public_address(site), probed.place.lab.client_address(node));
        let address = local.ip();
        // Of which nobody has heard: a refusal has come all the way.
        let from_outside =
            probed.prober(Node::Srv, &["tcp", &format!("{address}:9"), &format!("{address}:10")]);
        assert_eq!(from_outside["outcomes"], serde_json::json!(["refused", "refused"]));
    });
}

#[test]
fn nats_of_each_kind() {
    requires!(is_here(Pair::Apart(Situation::Public, Situation::Public)));
    thread::scope(|scope| {
        for (mapping, filtering) in combinations() {
            scope.spawn(move || {
                on_both_sides(&Probed::twice(Situation::Nat(mapping, filtering)), |probed, _, node| {
                    let (udp, found) = probed.udp_v4(node);
                    assert_eq!(udp, [mapping.name(), filtering.name()], "{found}");
                    let [local, first, second] = probed.tcp_ports(node);
                    let same = (first == local, first == second);
                    let preserves = mapping.name() == "EIM";
                    assert_eq!(same, (preserves, preserves), "TCP: {local}, {first}, {second}");
                    assert_eq!(probed.udp_v6(node)[0], "blocked");
                });
            });
        }
    });
}

#[test]
fn sequential_ports() {
    requires!(is_here(Pair::Apart(Situation::Public, Situation::Public)));
    on_both_sides(&Probed::twice(Situation::SymmetricSequential), |probed, _, node| {
        let (udp, found) = probed.udp_v4(node);
        assert_eq!(udp, ["APDM", "APDF"], "{found}");
        let ports: Vec<_> = addresses(&found).iter().map(SocketAddr::port).collect();
        assert!(ports.windows(2).all(|two| two[1] == two[0] + 1), "{ports:?}");
    });
}

#[test]
fn two_nats_one_behind_the_other() {
    requires!(is_here(Pair::Apart(Situation::Public, Situation::Public)));
    let probed = Probed::twice(Situation::CgnatOverNat);
    let mut public = Vec::new();
    for host in &probed.place.hosts {
        let (udp, found) = probed.udp_v4(host.node);
        assert_eq!(udp, ["EIM", "APDF"], "{found}");
        public.push(addresses(&found)[0].ip());
        // The router of the LAN, the carrier's, the internet's, and then the server.
        let hops = |n: u8| probed.shell(host.node, &format!("ping -c1 -W1 -t{n} {SRV}"));
        assert!(hops(3).contains("exceeded") && hops(4).contains(" 1 received"), "{}", hops(4));
        let [local, first, second] = probed.tcp_ports(host.node);
        assert_eq!([first, second], [local, local]);
    }
    assert_ne!(public[0], public[1], "each has a carrier of its own");
}

#[test]
fn firewalls_that_block_udp() {
    requires!(is_here(Pair::Apart(Situation::Public, Situation::Public)));
    for (situation, expected) in
        [(Situation::UdpBlocked, ["refused", "refused"]), (Situation::Tcp443Only, ["refused", "silent"])]
    {
        on_both_sides(&Probed::twice(situation), |probed, _, node| {
            assert_eq!(probed.udp_v4(node).0, ["blocked", "blocked"]);
            assert_eq!(probed.tcp(node, [443, 3478]), expected, "{situation}");
            assert_eq!(probed.tcp(node, [3478, 443]), [expected[1], expected[0]], "{situation}");
        });
    }
}

#[test]
fn nothing_but_a_proxy() {
    requires!(is_here(Pair::Apart(Situation::HttpProxyOnly, Situation::HttpProxyOnly)));
    let probed = Probed::twice(Situation::HttpProxyOnly);
    for host in &probed.place.hosts {
        assert_eq!(probed.udp_v4(host.node).0, ["blocked", "blocked"]);
        assert_eq!(probed.tcp(host.node, [443, 3478]), ["silent", "silent"]);
        let proxy = host.proxy.as_ref().unwrap().trim_start_matches("http://").replace(':', "/");
        let answer = |port: u16| {
            let ask = format!("printf 'CONNECT {SRV}:{port} HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3");
            probed.shell(host.node, &format!("exec 3<>/dev/tcp/{proxy}; {ask}"))
        };
        // Nothing listens there, which the proxy has found out.
        assert!(answer(443).contains(" 500 "), "{}", answer(443));
        assert!(answer(7000).contains(" 403 "), "{}", answer(7000));
    }
}

#[test]
fn ipv6_with_nat64() {
    requires!(is_here(Pair::Apart(Situation::Ipv6OnlyNat64, Situation::Ipv6OnlyNat64)));
    on_both_sides(&Probed::twice(Situation::Ipv6OnlyNat64), |probed, site, node| {
        let number = if site == Site::A { 1 } else { 2 };
        let prefix: Nat64Prefix = format!("2001:db8:{number}:64::/96").parse().unwrap();
        assert_eq!(probed.udp_v4(node).0[0], "blocked", "there is no IPv4");
        assert_eq!(probed.udp_v6(node), ["EIM", "APDF"]);
        let synthesized = [SRV, SRV_ALTERNATE].map(|ip| prefix.synthesize(ip).into());
        let (udp, found) = probed.udp(node, synthesized);
        assert_eq!(udp, ["EIM", "APDF"], "{found}");
        assert_eq!(addresses(&found)[0].ip(), IpAddr::V4(probed.place.lab.public_address(site).unwrap()));
        let told = probed.shell(node, "getent ahostsv6 ipv4only.arpa");
        assert!(told.contains(&format!("2001:db8:{number}:64::c000:aa")), "{told}");
    });
}

#[test]
fn ipv6_behind_a_firewall() {
    requires!(is_here(Pair::Apart(Situation::Public, Situation::Public)));
    on_both_sides(&Probed::twice(Situation::Ipv6Firewalled), |probed, _, node| {
        assert_eq!(probed.udp_v4(node).0[0], "blocked", "there is no IPv4");
        assert_eq!(probed.udp_v6(node), ["EIM", "APDF"]);
        assert_eq!(probed.shell(node, "getent ahostsv6 ipv4only.arpa"), "", "nor NAT64");
    });
}

#[test]
fn gateways_that_map_before_a_symmetric_nat() {
    requires!(is_here(Pair::Apart(Situation::MappedGateway, Situation::MappedGateway)));
    on_both_sides(&Probed::twice(Situation::MappedGateway), |probed, site, node| {
        let (udp, found) = probed.udp_v4(node);
        assert_eq!(udp, ["APDM", "APDF"], "{found}");
        let local = probed.place.lab.client_address(node).unwrap().to_string();
        for protocol in ["pcp", "upnp"] {
            let mut command = probed.place.lab.command(node, MAPPER);
            command.args([&local, protocol, "600"]);
            let mut mapper = Program::spawn(command).unwrap().named("lab-mapper");
            let external = mapper.wait_for("a mapping", LIMIT, |line| {
                let event: Value = serde_json::from_str(line.text()).ok()?;
                event["external"].as_str().filter(|_| event["event"] == "mapped").map(str::to_owned)
            });
            let external = external.unwrap();
            let public = probed.place.lab.public_address(site).unwrap().to_string();
            assert!(external.starts_with(&format!("{public}:")), "{external}");
            // Nothing was sent to whoever asks.
            let answer = probed.prober(Node::Srv, &["ask", &external, "1"]);
            assert!(!answer["seen"][0].is_null(), "{protocol}: {external} is closed");
            mapper.write_line("remove").unwrap();
            mapper.wait_for_line("removed", LIMIT).unwrap();
        }
    });
}

#[test]
fn networks_that_two_share() {
    requires!(is_here(Pair::Together(Shared::SameLan)));
    for (shared, mapping, hairpin) in [
        (Shared::SameLan, "APDM", "none"),
        (Shared::SameCgnat { hairpin: true }, "EIM", "external"),
        (Shared::SameCgnat { hairpin: false }, "EIM", "none"),
    ] {
        let probed = Probed::new(Pair::Together(shared));
        let [a, b] = [0, 1].map(|n| probed.place.hosts[n].node);
        let found = [a, b].map(|node| probed.udp_v4(node).1);
        for found in &found {
            assert_eq!([&found["mapping"], &found["hairpin"]], [mapping, hairpin], "{shared:?}: {found}");
        }
        assert_eq!(addresses(&found[0])[0].ip(), addresses(&found[1])[0].ip(), "one public address");
        let other = probed.place.lab.client_address(b).unwrap();
        let reached = probed.shell(a, &format!("ping -c1 -W1 {other}")).contains(" 1 received");
        assert_eq!(reached, shared == Shared::SameLan, "by its own address");
    }
}
