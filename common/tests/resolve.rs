//! The driver of `resolve`, against a name server of our own on loopback.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread::{self, JoinHandle};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, NAPTR, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use thirl_common::net::Transport;
use thirl_common::resolve::{ResolvedServer, Resolver, ResolverError};

/// Answers from its zone until an empty datagram comes.
struct NameServer {
    addr: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

#[expect(clippy::unwrap_used, reason = "a test's helper")]
impl NameServer {
    fn start() -> NameServer {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = socket.local_addr().unwrap();
        let thread = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((len @ 1.., client)) = socket.recv_from(&mut buffer) {
                let query = Message::from_vec(&buffer[..len]).unwrap();
                socket.send_to(&answer(&query).to_vec().unwrap(), client).unwrap();
            }
        });
        NameServer { addr, thread: Some(thread) }
    }

    fn resolver(&self) -> Resolver {
        let mut connection = ConnectionConfig::udp();
        connection.port = self.addr.port();
        let server = NameServerConfig::new(self.addr.ip(), true, vec![connection]);
        let config = ResolverConfig::from_name_servers(vec![server]);
        let dns = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        Resolver::new(dns.build().unwrap())
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let sent =
            UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.send_to(&[], self.addr));
        if let (Ok(_), Some(thread)) = (sent, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

#[expect(clippy::unwrap_used, reason = "a test's helper")]
fn answer(query: &Message) -> Message {
    let name = |text: &str| Name::from_ascii(text).unwrap();
    let question = &query.queries[0];
    let asked = question.name().to_ascii().to_ascii_lowercase();
    let relay = name("_turn._udp.relay.example.");
    let data = match (asked.as_str(), question.query_type()) {
        ("relay.example.", RecordType::NAPTR) => Some(RData::NAPTR(NAPTR::new(
            1,
            1,
            b"S".as_slice().into(),
            b"RELAY:turn.udp".as_slice().into(),
            b"".as_slice().into(),
            relay,
        ))),
        ("_turn._udp.relay.example.", RecordType::SRV) => {
            Some(RData::SRV(SRV::new(0, 0, 4000, name("a.relay.example."))))
        }
        ("a.relay.example.", RecordType::A) => Some(RData::A(A::new(192, 0, 2, 9))),
        _ => None,
    };
    let mut response = query.clone().into_response();
    match data {
        Some(data) => {
            response.add_answer(Record::from_rdata(question.name().clone(), 60, data));
        }
        None => response.metadata.response_code = ResponseCode::NXDomain,
    }
    response
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    #[expect(clippy::expect_used, reason = "a test's helper")]
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

#[test]
fn naptr_srv_and_addresses_are_asked_for() {
    let server = NameServer::start();
    let target = "turn:relay.example".parse().unwrap();
    let found = block_on(server.resolver().resolve(&target, &[Transport::Udp, Transport::Tcp], 1));
    let expected = ResolvedServer { transport: Transport::Udp, addr: "192.0.2.9:4000".parse().unwrap() };
    assert_eq!(found.unwrap(), [expected]);
}

#[test]
fn what_there_is_not_is_said_so() {
    let server = NameServer::start();
    let target = "stun:nowhere.example".parse().unwrap();
    let found = block_on(server.resolver().resolve(&target, &[Transport::Udp], 1));
    assert!(matches!(found, Err(ResolverError::NoServer { host }) if host == "nowhere.example"));
    let target = "turns:relay.example".parse().unwrap();
    let found = block_on(server.resolver().resolve(&target, &[Transport::Udp], 1));
    assert!(matches!(found, Err(ResolverError::UnsupportedTransport(_))));
}
