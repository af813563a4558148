//! RFC 5780 across two servers with one address each: two processes on loopback, which find each other, answer for each
//! other, and are servers with a single address while they are alone.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use thirl_common::wire::{
    ChangeRequest, Class, ErrorCode, Message, MessageWriter, Method, OtherAddress, ResponseOrigin,
    TransactionId, XorMappedAddress,
};
use thirl_tests::harness::{self, Deadline, Program};

const LIMIT: Duration = Duration::from_secs(30);

/// How long an answer may take before the request is sent again.
const RETRANSMISSION: Duration = Duration::from_millis(500);

const IPS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2))];
const SECRET: &str = "a secret of these two";
const UP: &str = "the partner is up";

/// A server on one address whose partner has the other.
fn serve(program: PathBuf, [own, partner]: [IpAddr; 2], port: u16, secret: &str) -> Program {
    let mut command = Command::new(program);
    command.args(["--listening-ip", &own.to_string(), "--listening-port", &port.to_string()]);
    command.args(["--partner", &partner.to_string()]).env("THIRL_PARTNER_SECRET", secret);
    Program::spawn(command).unwrap().named(&format!("server on {own}"))
}

fn start(port: u16) -> [Program; 2] {
    let [a, b] = IPS;
    [serve(harness::stun_server(), [a, b], port, SECRET), serve(harness::stun_server(), [b, a], port, SECRET)]
}

struct Answer {
    from: SocketAddr,
    bytes: Vec<u8>,
}

impl Answer {
    fn message(&self) -> Message<'_> {
        Message::parse(&self.bytes).unwrap()
    }
}

/// A client that asks until it is answered.
struct Client {
    socket: UdpSocket,
    id: [u8; 12],
}

impl Client {
    fn new(ip: IpAddr) -> Client {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_read_timeout(Some(RETRANSMISSION)).unwrap();
        Client { socket, id: [0; 12] }
    }

    fn ask(&mut self, server: SocketAddr, change: Option<ChangeRequest>) -> Answer {
        // Late answers to the one before are not taken for answers to this.
        self.id[0] += 1;
        let mut buffer = [0; 64];
        let id = TransactionId(self.id);
        let mut writer = MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, id).unwrap();
        if let Some(change) = change {
            writer.attribute(&change).unwrap();
        }
        let request = writer.finish();
        let deadline = Deadline::after(LIMIT);
        while !deadline.has_passed() {
            self.socket.send_to(request, server).unwrap();
            let mut buffer = [0; 500];
            while let Ok((len, from)) = self.socket.recv_from(&mut buffer) {
                let answer = Answer { from, bytes: buffer[..len].to_vec() };
                if answer.message().transaction_id() == id {
                    return answer;
                }
            }
        }
        panic!("{server} does not answer {change:?}");
    }

    /// Asks both servers, on both ports, for every change, and checks where the answers come from and what they say.
    fn check_all(&mut self, ips: [IpAddr; 2], port: u16) {
        for (own, other) in [(ips[0], ips[1]), (ips[1], ips[0])] {
            for (asked, opposite) in [(port, port + 1), (port + 1, port)] {
                for (ip, change_port) in [(false, false), (false, true), (true, false), (true, true)] {
                    let change = ChangeRequest { ip, port: change_port };
                    let answer = self.ask(SocketAddr::new(own, asked), Some(change));
                    let expected = SocketAddr::new(
                        if ip { other } else { own },
                        if change_port { opposite } else { asked },
                    );
                    assert_eq!(answer.from, expected, "{own}:{asked} {change:?}");
                    let message = answer.message();
                    assert_eq!(message.require::<ResponseOrigin>().unwrap().0, expected);
                    assert_eq!(
                        message.require::<OtherAddress>().unwrap().0,
                        SocketAddr::new(other, opposite)
                    );
                    let mapped = message.require::<XorMappedAddress>().unwrap().0;
                    assert_eq!(mapped, self.socket.local_addr().unwrap());
                }
            }
        }
    }
}

/// A port that is free, and so is the next, on both addresses.
fn free_ports() -> u16 {
    let is_free = |port| IPS.iter().all(|ip| UdpSocket::bind((*ip, port)).is_ok());
    let mut ports = std::iter::repeat_with(|| harness::free_udp_port().unwrap());
    ports.find(|port| *port < u16::MAX && is_free(*port) && is_free(port + 1)).unwrap()
}

#[test]
fn two_servers_answer_for_each_other() {
    let port = free_ports();
    let mut servers = start(port);
    for server in &mut servers {
        server.wait_for_line(UP, LIMIT).unwrap();
    }
    Client::new(IPS[0]).check_all(IPS, port);
}

#[test]
fn a_server_alone_has_a_single_address_until_its_partner_is_back() {
    let port = free_ports();
    let [mut first, second] = start(port);
    first.wait_for_line(UP, LIMIT).unwrap();
    let mut client = Client::new(IPS[0]);
    let server = SocketAddr::new(IPS[0], port);
    let both = ChangeRequest { ip: true, port: true };
    assert_eq!(client.ask(server, Some(both)).from.ip(), IPS[1]);
    drop(second);
    first.wait_for_line("the partner is down", LIMIT).unwrap();
    let answer = client.ask(server, None);
    assert_eq!(answer.message().get::<OtherAddress>(), Ok(None));
    for change in [both, ChangeRequest { ip: false, port: true }] {
        let answer = client.ask(server, Some(change));
        assert_eq!(answer.message().require::<ErrorCode<'_>>().unwrap().code, 420);
    }
    let _second = serve(harness::stun_server(), [IPS[1], IPS[0]], port, SECRET);
    first.wait_for_line(UP, LIMIT).unwrap();
    assert_eq!(client.ask(server, Some(both)).from.ip(), IPS[1]);
}

#[test]
fn the_relay_is_a_partner_of_the_stun_server() {
    let port = free_ports();
    let ips = [IPS[0], IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3))];
    let mut servers = [
        serve(harness::stun_server(), ips, port, SECRET),
        serve(harness::turn_relay(), [ips[1], ips[0]], port, SECRET),
    ];
    for server in &mut servers {
        server.wait_for_line(UP, LIMIT).unwrap();
    }
    Client::new(ips[0]).check_all(ips, port);
}

#[test]
fn partners_that_share_no_secret_say_so() {
    let port = free_ports();
    let [a, b] = IPS;
    let mut first = serve(harness::stun_server(), [a, b], port, SECRET);
    let _second = serve(harness::stun_server(), [b, a], port, "a secret of another pair");
    let line = first.wait_for_line("the partner is down", LIMIT).unwrap();
    assert!(line.contains("partner-secret differs"), "{line}");
    assert!(!first.output().contains(SECRET));
}

#[test]
fn half_a_partner_is_refused_before_any_socket_opens() {
    for arguments in [&["--partner", "192.0.2.1"][..], &["--partner-secret", SECRET]] {
        for program in [harness::stun_server(), harness::turn_relay()] {
            let mut command = Command::new(program);
            command.args(arguments).args(["--listening-ip", "127.0.0.1"]);
            let mut server = Program::spawn(command).unwrap();
            assert_eq!(server.wait_for_end(LIMIT).unwrap().code(), Some(2));
            let said = server.output();
            assert!(said.contains("hint: ") && !said.contains(SECRET), "{said}");
        }
    }
}
