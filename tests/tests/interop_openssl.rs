//! OpenSSL's client against our servers on loopback: Binding requests over TLS and DTLS, IPv4 and IPv6, on the ordinary
//! port and the other.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use thirl_common::wire::{Class, Message, MessageWriter, Method, TransactionId, XorMappedAddress};
use thirl_tests::harness::{self, Certificate, Program};
use thirl_tests::requires;

const LIMIT: Duration = Duration::from_secs(60);

/// One of our servers on loopback, with a certificate.
struct Server {
    program: Program,
    certificate: Certificate,
    /// Of plain STUN, and of TLS and DTLS alone.
    ports: [u16; 2],
}

impl Server {
    fn start(program: &Path) -> Server {
        let certificate = Certificate::new().unwrap();
        let ports = [harness::free_udp_port().unwrap(), harness::free_udp_port().unwrap()];
        let mut command = Command::new(program);
        command.args(["--listening-ip", "127.0.0.1", "--listening-ip", "::1"]).args(certificate.flags());
        command.args([
            "--listening-port",
            &ports[0].to_string(),
            "--tls-listening-port",
            &ports[1].to_string(),
        ]);
        let mut program = Program::spawn(command).unwrap();
        program.wait_for_line(&format!("[::1]:{}", ports[1]), LIMIT).unwrap();
        Server { program, certificate, ports }
    }

    fn addrs(&self) -> Vec<SocketAddr> {
        let of = |port: &u16| {
            [SocketAddr::from(([127, 0, 0, 1], *port)), SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], *port))]
        };
        self.ports.iter().flat_map(of).collect()
    }
}

/// A client that is killed when the test is done with it.
struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Client {
    /// Connected, once the server's certificate was found to be this.
    fn connect(openssl: &Path, server: SocketAddr, flags: &[&str], certificate: &Certificate) -> Client {
        let mut command = Command::new(openssl);
        command.args([
            "s_client",
            "-quiet",
            "-verify_return_error",
            "-verify_hostname",
            "localhost",
            "-CAfile",
        ]);
        command.arg(certificate.path()).args(["-connect", &server.to_string()]).args(flags);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Client(command.spawn().unwrap())
    }

    /// A Binding request; what it is answered with has to be right.
    fn ask(&mut self, server: SocketAddr, id: u8) {
        let mut buffer = [0; 20];
        let id = TransactionId([id; 12]);
        let request = MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, id).unwrap().finish();
        let stdin = self.0.stdin.as_mut().unwrap();
        stdin.write_all(request).unwrap();
        stdin.flush().unwrap();
        let mut stdout = self.0.stdout.take().unwrap();
        let mut response = vec![0; if server.is_ipv4() { 32 } else { 44 }];
        let (done, result) = channel();
        thread::spawn(move || {
            let read = stdout.read_exact(&mut response);
            let _ = done.send((stdout, response, read));
        });
        let (stdout, response, read) = result.recv_timeout(LIMIT).unwrap();
        read.unwrap();
        self.0.stdout = Some(stdout);
        let response = Message::parse(&response).unwrap();
        assert_eq!((response.class(), response.transaction_id()), (Class::Success, id));
        let XorMappedAddress(mapped) = response.require().unwrap();
        assert_eq!(mapped.ip(), server.ip());
    }
}

fn bind_over(program: &Path, flags: &[&str]) {
    let purpose = "is the TLS and DTLS client of others";
    let openssl = requires!(harness::installed("openssl", "openssl", purpose));
    let server = Server::start(program);
    for addr in server.addrs() {
        let mut client = Client::connect(&openssl, addr, flags, &server.certificate);
        for id in 1..=3 {
            client.ask(addr, id);
        }
    }
}

macro_rules! openssl_tests {
    ($($name:ident: $program:ident, $flags:expr;)*) => {$(
        #[test]
        fn $name() {
            bind_over(&harness::$program(), &$flags);
        }
    )*};
}

openssl_tests! {
    stun_server_over_tls_1_2: stun_server, ["-tls1_2"];
    stun_server_over_tls_1_3: stun_server, ["-tls1_3", "-alpn", "stun.nat-discovery"];
    stun_server_over_dtls_1_2: stun_server, ["-dtls1_2"];
    turn_relay_over_tls_1_2: turn_relay, ["-tls1_2"];
    turn_relay_over_tls_1_3: turn_relay, ["-tls1_3", "-alpn", "stun.turn"];
    turn_relay_over_dtls_1_2: turn_relay, ["-dtls1_2"];
}

/// A client on its way with DTLS is not disturbed by others that speak nonsense, and a session ends when it says so.
#[test]
fn a_dtls_session_outlives_the_garbage_of_others() {
    let purpose = "is the DTLS client of others";
    let openssl = requires!(harness::installed("openssl", "openssl", purpose));
    let mut server = Server::start(&harness::turn_relay());
    let addr = server.addrs()[0];
    let mut client = Client::connect(&openssl, addr, &["-dtls1_2"], &server.certificate);
    client.ask(addr, 1);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for first in 20..64u8 {
        for len in [1, 13, 25, 60, 1_400, 60_000] {
            let mut datagram = vec![first; len];
            datagram.iter_mut().skip(3).take(8).for_each(|byte| *byte = 0);
            socket.send_to(&datagram, addr).unwrap();
        }
    }
    client.ask(addr, 2);
    drop(client);
    let mut again = Client::connect(&openssl, addr, &["-dtls1_2"], &server.certificate);
    again.ask(addr, 3);
    server.program.signal("HUP").unwrap();
    again.ask(addr, 4);
    server.program.signal("TERM").unwrap();
    assert!(server.program.wait_for_end(LIMIT).unwrap().success());
}
