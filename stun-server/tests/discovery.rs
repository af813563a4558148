//! RFC 5780: what a responder with two addresses answers, and a server with four sockets on loopback, which answers from
//! each of them whichever shard got the request.
#![cfg(feature = "driver")]
#![expect(clippy::unwrap_used, reason = "what a helper of a test cannot do, the test cannot")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::num::NonZeroUsize;
use std::time::Duration;

use thirl_common::net::{ClientAddr, FiveTuple, ServerAddr, Transport};
use thirl_common::wire::{
    AttributeType, ChangeRequest, Class, ErrorCode, MappedAddress, Message, MessageWriter, Method,
    OtherAddress, Padding, ResponseOrigin, ResponsePort, TransactionId, UnknownAttributes, XorMappedAddress,
};
use thirl_stun_server::binding::BindingConfig;
use thirl_stun_server::server::{Config, Running, Server, StartError};
use thirl_stun_server::{Discovery, Limit, MAX_DISCOVERY_RESPONSE_LEN, Responder};

const PATIENCE: Duration = Duration::from_secs(10);
const CLIENT: &str = "198.51.100.7:40000";
const ALL_CHANGES: [ChangeRequest; 4] = [
    ChangeRequest { ip: false, port: false },
    ChangeRequest { ip: false, port: true },
    ChangeRequest { ip: true, port: false },
    ChangeRequest { ip: true, port: true },
];

fn discovery(ips: [&str; 2], ports: [u16; 2]) -> Discovery {
    let ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
    Discovery::between(&ips, &[], ports)
}

fn request(write: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
    let mut buffer = vec![0; 4096];
    let mut writer =
        MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, TransactionId([9; 12])).unwrap();
    write(&mut writer);
    writer.finish().to_vec()
}

struct Answer {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

impl Answer {
    fn message(&self) -> Message<'_> {
        Message::parse(&self.bytes).unwrap()
    }

    fn code(&self) -> u16 {
        self.message().require::<ErrorCode<'_>>().unwrap().code
    }

    fn unknown(&self) -> Vec<AttributeType> {
        assert_eq!(self.code(), 420);
        self.message().require::<UnknownAttributes>().unwrap().iter().collect()
    }
}

/// What 192.0.2.1:3478, one of four, answers.
fn ask(transport: Transport, datagram: &[u8]) -> Answer {
    ask_at("192.0.2.1:3478", transport, datagram)
}

fn ask_at(server: &str, transport: Transport, datagram: &[u8]) -> Answer {
    let client = ClientAddr(CLIENT.parse().unwrap());
    let five_tuple = FiveTuple { transport, client, server: ServerAddr(server.parse().unwrap()) };
    let mut responder = Responder::with_discovery(discovery(["192.0.2.1", "192.0.2.2"], [3478, 3479]));
    let mut out = [0; MAX_DISCOVERY_RESPONSE_LEN];
    let response = responder.handle_request(five_tuple, datagram, &mut out).unwrap();
    Answer { from: response.from.0, to: response.to.0, bytes: response.bytes.to_vec() }
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn a_plain_request_learns_both_addresses() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let answer = ask(transport, &request(|_| {}));
        assert_eq!((answer.from, answer.to), (addr("192.0.2.1:3478"), addr(CLIENT)));
        assert_eq!(answer.bytes.len(), 68);
        let message = answer.message();
        assert_eq!(message.require::<XorMappedAddress>().unwrap().0, addr(CLIENT));
        assert_eq!(message.require::<MappedAddress>().unwrap().0, addr(CLIENT));
        assert_eq!(message.require::<ResponseOrigin>().unwrap().0, answer.from);
        assert_eq!(message.require::<OtherAddress>().unwrap().0, addr("192.0.2.2:3479"));
    }
}

#[test]
fn an_address_that_is_none_of_the_four_answers_as_the_only_one() {
    let change = |writer: &mut MessageWriter<'_>| {
        writer.attribute(&ChangeRequest { ip: true, port: true }).unwrap();
    };
    for strange in ["192.0.2.3:3478", "192.0.2.1:3480", "[2001:db8::1]:3478"] {
        assert_eq!(ask_at(strange, Transport::Udp, &request(|_| {})).bytes.len(), 32);
        assert_eq!(
            ask_at(strange, Transport::Udp, &request(change)).unknown(),
            [AttributeType::CHANGE_REQUEST]
        );
    }
}

#[test]
fn a_stream_cannot_be_answered_another_way() {
    let all = request(|writer| {
        writer.attribute(&ChangeRequest { ip: true, port: false }).unwrap();
        writer.attribute(&ResponsePort(5000)).unwrap().attribute(&Padding(&[0; 4])).unwrap();
    });
    let expected = [AttributeType::CHANGE_REQUEST, AttributeType::RESPONSE_PORT, AttributeType::PADDING];
    assert_eq!(ask(Transport::Tcp, &all).unknown(), expected);
}

#[test]
fn response_port_is_followed_on_the_requesters_address_and_never_to_a_service() {
    let to_port = |port| {
        request(|writer| {
            writer.attribute(&ResponsePort(port)).unwrap();
        })
    };
    let answer = ask(Transport::Udp, &to_port(5000));
    assert_eq!((answer.from, answer.to), (addr("192.0.2.1:3478"), addr("198.51.100.7:5000")));
    assert_eq!(answer.message().require::<XorMappedAddress>().unwrap().0, addr(CLIENT));
    for port in [0, 53, 123, 1023] {
        let answer = ask(Transport::Udp, &to_port(port));
        assert_eq!((answer.code(), answer.to), (400, addr(CLIENT)), "{port}");
    }
    // Two bytes, as stuntman writes it.
    let short = request(|writer| {
        writer.raw(AttributeType::RESPONSE_PORT, &5000u16.to_be_bytes()).unwrap();
    });
    assert_eq!(ask(Transport::Udp, &short).to, addr("198.51.100.7:5000"));
    let malformed = request(|writer| {
        writer.raw(AttributeType::RESPONSE_PORT, &[1, 2, 3]).unwrap();
    });
    assert_eq!(ask(Transport::Udp, &malformed).code(), 400);
}

#[test]
fn padding_never_makes_the_response_longer_than_the_request() {
    for (len, fingerprint) in
        (0..200).step_by(4).chain([1500, 3000]).flat_map(|len| [(len, false), (len, true)])
    {
        let request = request(|writer| {
            writer.attribute(&Padding(&vec![7; len])).unwrap();
            if fingerprint {
                writer.fingerprint().unwrap();
            }
        });
        let answer = ask(Transport::Udp, &request);
        assert!(answer.bytes.len() <= request.len().max(68 + 8), "{len}");
        let padding = answer.message().get::<Padding<'_>>().unwrap().map(|padding| padding.0.len());
        match len {
            0..=44 => assert_eq!(padding, None, "{len}"),
            48..=200 => assert_eq!(answer.bytes.len(), request.len(), "{len}"),
            _ => {
                assert!(
                    padding.is_some_and(|padding| (1450..=1500).contains(&padding)),
                    "{len}: {padding:?}"
                );
            }
        }
        assert_eq!(answer.message().check_fingerprint(), Ok(fingerprint));
    }
}

#[test]
fn the_longest_response_fits_and_ipv6_has_a_pair_of_its_own() {
    let request = request(|writer| {
        writer.attribute(&ChangeRequest { ip: true, port: false }).unwrap();
        writer.attribute(&Padding(&[0; 3000])).unwrap().fingerprint().unwrap();
    });
    let client = ClientAddr(addr("[2001:db8::7]:40000"));
    let server = ServerAddr(addr("[2001:db8::1]:3478"));
    let mut responder = Responder::with_discovery(discovery(["2001:db8::1", "2001:db8::2"], [3478, 3479]));
    let mut out = [0; MAX_DISCOVERY_RESPONSE_LEN];
    let five_tuple = FiveTuple { transport: Transport::Udp, client, server };
    let response = responder.handle_request(five_tuple, &request, &mut out).unwrap();
    assert_eq!((response.from.0, response.to), (addr("[2001:db8::2]:3478"), client));
    assert_eq!(response.bytes.len(), MAX_DISCOVERY_RESPONSE_LEN);
}

#[test]
fn padding_is_ignored_beside_response_port() {
    let both = request(|writer| {
        writer.attribute(&ResponsePort(5000)).unwrap().attribute(&Padding(&[0; 1500])).unwrap();
    });
    assert_eq!(ask(Transport::Udp, &both).bytes.len(), 68);
}

#[test]
fn a_client_of_rfc_3489_changes_addresses_too() {
    for (flags, from) in
        [(0, "192.0.2.1:3478"), (2, "192.0.2.1:3479"), (4, "192.0.2.2:3478"), (6, "192.0.2.2:3479")]
    {
        let mut old = b"\x00\x01\x00\x08sixteen bytes id\x00\x03\x00\x04\x00\x00\x00".to_vec();
        old.push(flags);
        let answer = ask(Transport::Udp, &old);
        assert_eq!((answer.from, answer.to), (addr(from), addr(CLIENT)));
        let origin = [3478 + u16::from(flags & 2 != 0)].map(u16::to_be_bytes)[0];
        let expected = [
            &b"\x01\x01\x00\x24sixteen bytes id\x00\x01\x00\x08\x00\x01\x9c\x40\xc6\x33\x64\x07"[..],
            &[0, 4, 0, 8, 0, 1, origin[0], origin[1], 192, 0, 2, 1 + u8::from(flags & 4 != 0)],
            &[0, 5, 0, 8, 0, 1, 0x0d, 0x97, 192, 0, 2, 2],
        ];
        assert_eq!(answer.bytes, expected.concat());
    }
}

#[test]
fn no_prefix_and_no_changed_byte_of_a_request_does_harm() {
    let whole = request(|writer| {
        writer.attribute(&ChangeRequest { ip: true, port: true }).unwrap();
        writer.attribute(&ResponsePort(5000)).unwrap().attribute(&Padding(&[0; 8])).unwrap();
    });
    let client = ClientAddr(CLIENT.parse().unwrap());
    let five_tuple =
        FiveTuple { transport: Transport::Udp, client, server: ServerAddr(addr("192.0.2.1:3478")) };
    let mut responder = Responder::with_discovery(discovery(["192.0.2.1", "192.0.2.2"], [3478, 3479]));
    let mut out = [0; MAX_DISCOVERY_RESPONSE_LEN];
    for at in 0..whole.len() {
        responder.handle_request(five_tuple, &whole[..at], &mut out);
        for value in [0, 1, 0x7f, 0xff] {
            let mut changed = whole.clone();
            changed[at] = value;
            if let Some(response) = responder.handle_request(five_tuple, &changed, &mut out) {
                assert_eq!(response.to.ip(), client.ip(), "to nobody else");
                assert!(response.to.port() >= 1024);
            }
        }
    }
}

/// Four sockets on each shard. Between the look for a free port and its use another program may take it.
fn start(shards: usize, ips: [&str; 2], limit: Option<Limit>) -> (Running, [u16; 2]) {
    loop {
        let probes = [0, 1].map(|_| UdpSocket::bind((ips[0], 0)).unwrap());
        let ports = probes.map(|probe| probe.local_addr().unwrap().port());
        let binding = BindingConfig { discovery: discovery(ips, ports), limit, ..BindingConfig::default() };
        let mut config = Config { binding, ..Config::default() };
        (config.listen.udp, config.listen.tcp) = (Vec::new(), Vec::new());
        config.listen.shards = NonZeroUsize::new(shards);
        match Server::start(&config) {
            Ok(running) => return (running, ports),
            Err(StartError::Bind { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn every_shard_answers_from_all_four_addresses() {
    for ips in [["127.0.0.1", "127.0.0.2"], ["127.0.0.7", "127.0.0.3"]] {
        let (running, ports) = start(2, ips, None);
        let servers: Vec<SocketAddr> = running
            .local_addrs()
            .iter()
            .filter(|(over, _)| *over == Transport::Udp)
            .map(|(_, addr)| *addr)
            .collect();
        assert_eq!(servers.len(), 4);
        // Enough clients for both shards to have some of each server address.
        for _ in 0..8 {
            let client = UdpSocket::bind((ips[0], 0)).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            for (server, change) in
                servers.iter().flat_map(|server| ALL_CHANGES.map(|change| (*server, change)))
            {
                let asked = request(|writer| {
                    writer.attribute(&change).unwrap();
                });
                client.send_to(&asked, server).unwrap();
                let mut buffer = [0; 200];
                let (len, from) = client.recv_from(&mut buffer).unwrap();
                let message = Message::parse(&buffer[..len]).unwrap();
                assert_eq!(message.require::<ResponseOrigin>().unwrap().0, from);
                assert_eq!(from.ip() != server.ip(), change.ip, "{server} {change:?} {from}");
                assert_eq!(from.port() != server.port(), change.port, "{server} {change:?} {from}");
                assert!(ips.contains(&&*from.ip().to_string()) && ports.contains(&from.port()));
                let other = message.require::<OtherAddress>().unwrap().0;
                assert!(other.ip() != server.ip() && other.port() != server.port());
            }
        }
        running.shutdown();
        let counters = running.join();
        assert_eq!((counters.answered, counters.redirected), (8 * 16, 8 * 12));
    }
}

#[test]
fn a_stream_to_each_of_the_four_learns_the_opposite_and_gets_its_answer_from_there() {
    let (running, [port, other_port]) = start(1, ["127.0.0.1", "127.0.0.2"], None);
    for (ip, other_ip) in [("127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.1")] {
        for (port, other_port) in [(port, other_port), (other_port, port)] {
            let server = addr(&format!("{ip}:{port}"));
            let mut stream = TcpStream::connect(server).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut ask = |asked: &[u8]| {
                stream.write_all(asked).unwrap();
                let mut answer = vec![0; 20];
                stream.read_exact(&mut answer).unwrap();
                answer.resize(20 + usize::from(u16::from_be_bytes([answer[2], answer[3]])), 0);
                stream.read_exact(&mut answer[20..]).unwrap();
                answer
            };
            let answer = ask(&request(|_| {}));
            let message = Message::parse(&answer).unwrap();
            assert_eq!(message.require::<ResponseOrigin>().unwrap().0, server);
            let opposite = addr(&format!("{other_ip}:{other_port}"));
            assert_eq!(message.require::<OtherAddress>().unwrap().0, opposite);
            let answer = ask(&request(|writer| {
                writer.attribute(&ChangeRequest { ip: true, port: true }).unwrap();
            }));
            let refused = Message::parse(&answer).unwrap();
            assert_eq!(refused.require::<ErrorCode<'_>>().unwrap().code, 420, "no other way for a stream");
        }
    }
    running.shutdown();
    let counters = running.join();
    assert_eq!((counters.answered, counters.redirected, counters.unknown_attributes), (4, 0, 4));
}

#[test]
fn the_limiter_stops_a_source_and_says_so() {
    let limit = Limit { per_second: 1, burst: 20 };
    let (running, [port, _]) = start(1, ["127.0.0.1", "127.0.0.2"], Some(limit));
    let client = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    for _ in 0..100 {
        client.send_to(&request(|_| {}), ("127.0.0.1", port)).unwrap();
    }
    // Another address has a limit of its own. Its request waits behind all of the first.
    let other = UdpSocket::bind(("127.0.0.3", 0)).unwrap();
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    other.send_to(&request(|_| {}), ("127.0.0.1", port)).unwrap();
    other.recv(&mut [0; 200]).unwrap();
    running.shutdown();
    let counters = running.join();
    let passed = counters.answered - 1;
    assert!((20..=20 + PATIENCE.as_secs()).contains(&passed), "{counters:?}");
    assert_eq!(counters.limited, 100 - passed, "{counters:?}");
}

#[test]
fn a_redirected_response_costs_as_much_as_eight() {
    let limit = Limit { per_second: 1, burst: 20 };
    let (running, [port, _]) = start(1, ["127.0.0.1", "127.0.0.2"], Some(limit));
    let client = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let redirected = request(|writer| {
        writer.attribute(&ChangeRequest { ip: true, port: true }).unwrap();
    });
    for _ in 0..5 {
        client.send_to(&redirected, ("127.0.0.1", port)).unwrap();
    }
    // Another address's request waits behind them.
    let other = UdpSocket::bind(("127.0.0.3", 0)).unwrap();
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    other.send_to(&request(|_| {}), ("127.0.0.1", port)).unwrap();
    other.recv(&mut [0; 200]).unwrap();
    client.set_nonblocking(true).unwrap();
    let got = (0..5).filter(|_| client.recv(&mut [0; 200]).is_ok()).count();
    // A third only if some four seconds have passed.
    assert!((2..=3).contains(&got), "{got}");
    running.shutdown();
    assert!(running.join().limited >= 2);
}
