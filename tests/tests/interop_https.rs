//! One port for TURN over TLS and HTTPS: Caddy behind our relay, curl, OpenSSL's client and coturn's in front of it.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use thirl_tests::harness::{self, Certificate, Program};
use thirl_tests::natlab::Unavailable;
use thirl_tests::requires;

const LIMIT: Duration = Duration::from_secs(60);

/// Caddy on loopback, which says hello over HTTP/1.1 and HTTP/2, with a certificate of its own.
struct Caddy {
    _program: Program,
    certificate: Certificate,
    port: u16,
}

impl Caddy {
    fn start() -> Result<Caddy, Unavailable> {
        let program = harness::installed("caddy", "caddy", "is the HTTPS server behind our relay")?;
        let (certificate, port) = (Certificate::new().unwrap(), harness::free_tcp_port().unwrap());
        let directory = certificate.path().parent().unwrap().to_owned();
        let settings = directory.join("Caddyfile");
        let (cert, key) = (certificate.path(), certificate.key_path());
        let site = format!(
            "{{\n admin off\n auto_https disable_redirects\n storage file_system {}\n}}\n\
             https://localhost:{port} {{\n bind 127.0.0.1\n tls {} {}\n respond \"hello from behind\"\n}}\n",
            directory.display(),
            cert.display(),
            key.display()
        );
        fs::write(&settings, site).unwrap();
        let mut command = Command::new(program);
        for variable in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
            command.env(variable, &directory);
        }
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(settings);
        let mut program = Program::spawn(command).unwrap().named("caddy");
        program.wait_for_line("serving initial configuration", LIMIT).unwrap();
        Ok(Caddy { _program: program, certificate, port })
    }
}

/// Our relay on loopback, with a certificate.
struct Relay {
    _program: Program,
    certificate: Certificate,
    port: u16,
}

impl Relay {
    fn start(flags: &[&str]) -> Relay {
        let certificate = Certificate::new().unwrap();
        let [plain, port] = [(); 2].map(|()| harness::free_udp_port().unwrap());
        let mut command = Command::new(harness::turn_relay());
        command.args(["--listening-ip", "127.0.0.1", "--user", "alice:secret", "--realm", "example.org"]);
        command.args(["--listening-port", &plain.to_string(), "--tls-listening-port", &port.to_string()]);
        command.args(["--allowed-peer-ip", "127.0.0.1"]).args(certificate.flags()).args(flags);
        let mut program = Program::spawn(command).unwrap().named("turn-relay");
        program.wait_for_line(&format!("127.0.0.1:{port}"), LIMIT).unwrap();
        Relay { _program: program, certificate, port }
    }
}

/// What curl gets of the server at this port, whose certificate must be this, and the version of HTTP.
fn curl(program: &Path, port: u16, trusted: &Certificate, version: &str) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "30", version, "--cacert"]);
    command.arg(trusted.path()).args(["--write-out", " %{http_version}"]);
    command.args([
        "--resolve",
        &format!("localhost:{port}:127.0.0.1"),
        &format!("https://localhost:{port}/"),
    ]);
    let output = command.output().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(String::from_utf8(output.stderr).unwrap()),
    }
}

/// What OpenSSL says of a handshake with the server at this port, in which it offers this.
fn handshake(openssl: &Path, port: u16, offered: &[&str]) -> String {
    let mut command = Command::new(openssl);
    command.args(["s_client", "-servername", "localhost", "-connect", &format!("127.0.0.1:{port}")]);
    command.args(offered);
    let output = command.stdin(Stdio::null()).output().unwrap();
    [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat()
}

#[test]
fn https_and_turn_share_a_port() {
    let curl_program = requires!(harness::installed("curl", "curl", "is the HTTPS client of others"));
    let openssl = requires!(harness::installed("openssl", "openssl", "is the TLS client of others"));
    let uclient =
        requires!(harness::installed("turnutils_uclient", "coturn", "is the TURN client of others"));
    let caddy = requires!(Caddy::start());
    let relay = Relay::start(&["--https-backend", &format!("127.0.0.1:{}", caddy.port)]);

    // TLS ends at Caddy: it is Caddy's certificate that curl sees.
    for (version, expected) in [("--http1.1", "hello from behind 1.1"), ("--http2", "hello from behind 2")] {
        assert_eq!(curl(&curl_program, relay.port, &caddy.certificate, version).unwrap(), expected);
    }
    let refused = curl(&curl_program, relay.port, &relay.certificate, "--http2").unwrap_err();
    assert!(refused.contains("certificate"), "{refused}");

    // And at the relay, for who asks for it.
    for (offered, agreed) in [
        (&["-alpn", "stun.turn"][..], "ALPN protocol: stun.turn"),
        (&["-alpn", "h2,stun.turn"], "ALPN protocol: stun.turn"),
        (&["-alpn", "h2"], "ALPN protocol: h2"),
        (&[], "No ALPN negotiated"),
    ] {
        let said = handshake(&openssl, relay.port, offered);
        assert!(said.contains(agreed), "{offered:?}: {said}");
    }
    let mut command = Command::new(uclient);
    command.args(["-S", "-t", "-v", "-m", "2", "-n", "20", "-c", "-y", "-u", "alice", "-w", "secret"]);
    command.args(["-p", &relay.port.to_string(), "127.0.0.1"]);
    let mut client = Program::spawn(command).unwrap().named("turnutils_uclient");
    let status = client.wait_for_end(LIMIT).unwrap();
    let output = client.output();
    assert!(status.success() && output.contains("tot_send_msgs=40, tot_recv_msgs=40"), "{output}");
}

#[test]
fn without_a_backend_https_is_refused_in_the_words_of_tls() {
    let openssl = requires!(harness::installed("openssl", "openssl", "is the TLS client of others"));
    let relay = Relay::start(&[]);
    let said = handshake(&openssl, relay.port, &["-alpn", "h2,http/1.1"]);
    assert!(said.contains("no application protocol"), "{said}");
}
