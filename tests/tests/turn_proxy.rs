//! Our TURN client behind HTTP proxies: Debian's tinyproxy, in front of our relay.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use thirl_tests::harness::{self, Program, Relay};
use thirl_tests::requires;
use thirl_tests::scripted::connect;

const LIMIT: Duration = Duration::from_secs(30);

/// A proxy on loopback that lets CONNECT through to these ports, for one user.
struct Proxy {
    program: Program,
    configuration: PathBuf,
    port: u16,
}

impl Proxy {
    fn start(ports: &[u16]) -> Proxy {
        let port = harness::free_tcp_port().unwrap();
        let configuration =
            std::env::temp_dir().join(format!("thirl-tinyproxy-{}-{port}.conf", std::process::id()));
        let allowed: String = ports.iter().map(|port| format!("ConnectPort {port}\n")).collect();
        let text = format!("Port {port}\nListen 127.0.0.1\nBasicAuth bob proxy-secret\n{allowed}");
        fs::write(&configuration, text).unwrap();
        let mut command = Command::new("tinyproxy");
        command.arg("-d").arg("-c").arg(&configuration);
        let mut program = Program::spawn(command).unwrap().named("tinyproxy");
        program.wait_for_line("Accepting connections", LIMIT).unwrap();
        Proxy { program, configuration, port }
    }

    fn url(&self, user: &str) -> String {
        format!("http://{user}@127.0.0.1:{}", self.port)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.configuration);
    }
}

/// HAProxy before a proxy, so that one speaks TLS to it.
fn over_tls(proxy: &Proxy, relay: &Relay) -> (Program, u16) {
    let port = harness::free_tcp_port().unwrap();
    let [certificate, configuration] = ["pem", "cfg"]
        .map(|kind| std::env::temp_dir().join(format!("thirl-haproxy-{}-{port}.{kind}", std::process::id())));
    let pem = [relay.certificate.path(), relay.certificate.key_path()].map(|path| fs::read(path).unwrap());
    fs::write(&certificate, pem.concat()).unwrap();
    let (inner, certificate) = (proxy.port, certificate.display());
    let text = format!(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
         listen proxy\n bind 127.0.0.1:{port} ssl crt {certificate} alpn http/1.1\n server s 127.0.0.1:{inner}\n"
    );
    fs::write(&configuration, text).unwrap();
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&configuration);
    let program = Program::spawn(command).unwrap().named("haproxy");
    let deadline = harness::Deadline::after(LIMIT);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(!deadline.has_passed(), "haproxy does not listen: {}", program.output());
        std::thread::park_timeout(Duration::from_millis(20));
    }
    fs::remove_file(configuration).unwrap();
    fs::remove_file(certificate.to_string()).unwrap();
    (program, port)
}

fn agent(role: &str, relay: &Relay, uri: &str, proxy: &str) -> Program {
    Program::spawn(agent_command(role, relay, uri, proxy)).unwrap().named(&format!("thirl ice, {role}"))
}

fn agent_command(role: &str, relay: &Relay, uri: &str, proxy: &str) -> Command {
    let mut command = Command::new(harness::thirl());
    command.args(["ice", "--role", role, "--policy", "relay", "--turn", uri]);
    command.args(["--user", "alice", "--password", "secret", "--ca"]).arg(relay.certificate.authority_path());
    command.env("https_proxy", proxy).args(["--send", if role == "controlling" { "5" } else { "0" }]);
    command
}

#[test]
fn through_a_proxy_over_tls_and_tcp() {
    requires!(harness::installed("tinyproxy", "tinyproxy", "is the HTTP proxy of others"));
    let relay = Relay::start(&["--allowed-peer-ip", "127.0.0.1"]).unwrap();
    let mut proxy = Proxy::start(&[relay.tls_port, relay.addr.port()]);
    let url = proxy.url("bob:proxy-secret");
    let over_tls = format!("turns:localhost:{}", relay.tls_port);
    let over_tcp = format!("turn:localhost:{}?transport=tcp", relay.addr.port());
    let mut first = agent("controlling", &relay, &over_tls, &url);
    let mut second = agent("controlled", &relay, &over_tcp, &url);
    let said = connect(&mut first, &mut second).unwrap();
    assert_eq!((&said.first["path"], &said.second["path"]), (&"relayed".into(), &"relayed".into()));
    first.wait_for_line("{\"echoed\":5}", LIMIT).unwrap();
    assert!(first.wait_for_end(LIMIT).unwrap().success(), "{}", first.output());
    // Both went through it, in whatever order.
    let mut left = vec![relay.tls_port, relay.addr.port()];
    let both = proxy.program.wait_for("two connections", LIMIT, |line| {
        left.retain(|port| !line.text().contains(&format!("CONNECT localhost:{port}")));
        left.is_empty().then_some(())
    });
    both.unwrap();
}

#[test]
fn a_proxy_that_refuses_is_reported_in_words() {
    requires!(harness::installed("tinyproxy", "tinyproxy", "is the HTTP proxy of others"));
    let relay = Relay::start(&[]).unwrap();
    let proxy = Proxy::start(&[443]);
    let uri = format!("turns:localhost:{}", relay.tls_port);
    let (none, wrong, right) =
        (format!("http://127.0.0.1:{}", proxy.port), proxy.url("bob:x"), proxy.url("bob:proxy-secret"));
    for (url, words) in [
        (none.as_str(), "wants a user and a password"),
        (&wrong, "refuses"),
        (&right, "it refuses to connect: 403"),
        ("http://127.0.0.1:9", "through the proxy http://127.0.0.1:9: no connection to it"),
    ] {
        let mut agent = agent("controlling", &relay, &uri, url);
        let description = agent.wait_for_json(LIMIT).unwrap();
        agent.write_line(&description.to_string()).unwrap();
        assert_eq!(agent.wait_for_end(LIMIT).unwrap().code(), Some(1));
        assert!(agent.output().contains(words), "{url}: {}", agent.output());
    }
    let mut refused = Command::new(harness::thirl());
    refused.args(["ice", "--role", "controlling", "--turn", &uri, "--user", "a", "--password", "b"]);
    let mut refused = Program::spawn({
        refused.env("https_proxy", "socks5://127.0.0.1:9");
        refused
    })
    .unwrap();
    assert_eq!(refused.wait_for_end(LIMIT).unwrap().code(), Some(2));
    assert!(refused.output().contains("https_proxy"), "{}", refused.output());
}

#[test]
fn through_a_proxy_that_is_spoken_to_over_tls_but_not_to_all_hosts() {
    requires!(harness::installed("tinyproxy", "tinyproxy", "is the HTTP proxy of others"));
    requires!(harness::installed("haproxy", "haproxy", "speaks TLS before it"));
    let relay = Relay::start(&["--allowed-peer-ip", "127.0.0.1"]).unwrap();
    let mut proxy = Proxy::start(&[relay.tls_port]);
    let (_haproxy, port) = over_tls(&proxy, &relay);
    let uri = format!("turns:localhost:{}", relay.tls_port);
    let mut first = agent("controlling", &relay, &uri, &format!("https://bob:proxy-secret@localhost:{port}"));
    // This one would get nowhere through it.
    let mut second = agent_command("controlled", &relay, &uri, "http://127.0.0.1:9");
    second.env("NO_PROXY", "10.0.0.0/8,localhost");
    let mut second = Program::spawn(second).unwrap().named("thirl ice, without the proxy");
    connect(&mut first, &mut second).unwrap();
    first.wait_for_line("{\"echoed\":5}", LIMIT).unwrap();
    let connected = format!("CONNECT localhost:{}", relay.tls_port);
    proxy.program.wait_for_line(&connected, LIMIT).unwrap();
}

/// Signalling too: where nothing else gets out, nobody could be told of anything otherwise.
#[test]
fn nodes_are_reached_through_a_proxy() {
    requires!(harness::installed("tinyproxy", "tinyproxy", "is the HTTP proxy of others"));
    let mut serve = Command::new(harness::thirl());
    serve.args(["serve", "--listening-ip", "127.0.0.1", "--listening-port", "0", "--signalling-port", "0"]);
    let mut serve = Program::spawn(serve).unwrap().named("serve");
    let line = serve.wait_for_line("thirl listen --server", LIMIT).unwrap();
    let server = line.split_whitespace().skip_while(|word| *word != "--server").nth(1).unwrap().to_owned();
    let port: u16 = server.rsplit_once(':').unwrap().1.trim_end_matches('/').parse().unwrap();
    let mut proxy = Proxy::start(&[port]);
    let url = proxy.url("bob:proxy-secret");
    let mut node = |arguments: &[&str]| {
        let mut command = Command::new(harness::thirl());
        command.args(arguments).env("https_proxy", &url);
        let program = Program::spawn(command).unwrap().named(arguments[0]);
        proxy.program.wait_for_line(&format!("CONNECT 127.0.0.1:{port}"), LIMIT).unwrap();
        program
    };
    let mut listen = node(&["listen", "--server", &server, "--json"]);
    let ticket = listen.wait_for_json(LIMIT).unwrap()["ticket"].as_str().unwrap().to_owned();
    let mut ping = node(&["ping", &ticket, "--count", "2", "--json"]);
    assert!(ping.wait_for_end(LIMIT).unwrap().success(), "{}", ping.output());
}
