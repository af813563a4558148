//! What the relay does about Binding requests: RFC 5780 from two addresses, and the limit of strangers.
#![cfg(feature = "driver")]
#![expect(clippy::unwrap_used, reason = "what a helper of a test cannot do, the test cannot")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::time::Duration;

use thirl_common::wire::{
    ChangeRequest, Class, Message, MessageWriter, Method, OtherAddress, ResponseOrigin, TransactionId,
};
use thirl_stun_server::{Discovery, Limit};
use thirl_turn_relay::server::{Config, Running, Server, StartError};

const PATIENCE: Duration = Duration::from_secs(10);
const IPS: [&str; 2] = ["127.0.0.1", "127.0.0.2"];

/// A relay of one shard on two addresses. Between the look for a free port and its use another program may take it.
fn start(limit: Option<Limit>) -> (Running, [u16; 2]) {
    loop {
        let probes = [0, 1].map(|_| UdpSocket::bind((IPS[0], 0)).unwrap());
        let ports = probes.map(|probe| probe.local_addr().unwrap().port());
        let ips: Vec<IpAddr> = IPS.iter().map(|ip| ip.parse().unwrap()).collect();
        let mut config = Config::default();
        (config.listen.udp, config.listen.tcp) = (Vec::new(), Vec::new());
        config.listen.shards = NonZeroUsize::new(1);
        config.binding.discovery = Discovery::between(&ips, &[], ports);
        config.binding.limit = limit;
        match Server::start(config) {
            Ok(running) => return (running, ports),
            Err(StartError::Bind { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn request(method: Method, change: ChangeRequest) -> Vec<u8> {
    let mut buffer = [0; 100];
    let mut writer = MessageWriter::new(&mut buffer, Class::Request, method, TransactionId([9; 12])).unwrap();
    if change != ChangeRequest::default() {
        writer.attribute(&change).unwrap();
    }
    writer.finish().to_vec()
}

fn client(ip: &str) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

#[test]
fn it_answers_from_all_four_addresses() {
    let (running, [port, other_port]) = start(None);
    let client = client(IPS[0]);
    for (ip, change_port) in [(false, false), (false, true), (true, false), (true, true)] {
        let asked = request(Method::BINDING, ChangeRequest { ip, port: change_port });
        client.send_to(&asked, (IPS[0], port)).unwrap();
        let mut buffer = [0; 200];
        let (len, from) = client.recv_from(&mut buffer).unwrap();
        let expected = (IPS[usize::from(ip)], if change_port { other_port } else { port });
        assert_eq!((&*from.ip().to_string(), from.port()), expected);
        let message = Message::parse(&buffer[..len]).unwrap();
        assert_eq!(message.require::<ResponseOrigin>().unwrap().0, from);
        let opposite: SocketAddr = format!("{}:{other_port}", IPS[1]).parse().unwrap();
        assert_eq!(message.require::<OtherAddress>().unwrap().0, opposite);
    }
    running.shutdown();
    assert_eq!(running.join().binding.redirected, 3);
}

#[test]
fn a_source_has_one_limit_for_binding_requests_and_requests_without_credentials() {
    let (running, [port, _]) = start(Some(Limit { per_second: 1, burst: 20 }));
    let source = client(IPS[0]);
    for _ in 0..50 {
        source.send_to(&request(Method::BINDING, ChangeRequest::default()), (IPS[0], port)).unwrap();
        source.send_to(&request(Method::ALLOCATE, ChangeRequest::default()), (IPS[0], port)).unwrap();
    }
    // Another address has a limit of its own. Its requests wait behind all of the first.
    let other = client("127.0.0.3");
    for method in [Method::BINDING, Method::ALLOCATE] {
        other.send_to(&request(method, ChangeRequest::default()), (IPS[0], port)).unwrap();
        other.recv(&mut [0; 200]).unwrap();
    }
    running.shutdown();
    let report = running.join();
    let (answered, challenges) = (report.binding.answered - 1, report.engine.challenges - 1);
    let passed = answered + challenges;
    assert!((20..=20 + PATIENCE.as_secs()).contains(&passed), "{report:?}");
    assert!(answered >= 10 && challenges >= 10, "{report:?}");
    assert_eq!(report.binding.limited + report.engine.dropped.limited, 100 - passed, "{report:?}");
}
