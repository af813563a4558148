//! Nodes that find each other through a real server on loopback and open a path.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use thirl_ice_agent::agent::{PathKind, Policy};
use thirl_ice_agent::nat::Options;
use thirl_overlay::node::{DialError, InquireError, Node};
use thirl_overlay::session::ByeReason;
use thirl_overlay::signalling::switchboard::{Config, IceServers};
use thirl_overlay::signalling::{Hub, IceServer, Keepalive, WebSocketSignalling, serve};
use thirl_overlay::{NodeId, NodeKey, ServerUrl};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

/// What nodes are told of: nothing, since on one machine they need none, or a STUN server.
struct Servers(Vec<String>);

impl IceServers for Servers {
    fn for_node(&self, _: NodeId, _: &str, _: u64) -> Vec<IceServer> {
        let urls = self.0.clone();
        vec![IceServer { urls, username: None, credential: None, ttl_seconds: None }]
    }
}

async fn server() -> ServerUrl {
    server_with(Vec::new()).await
}

async fn server_with(stun: Vec<String>) -> ServerUrl {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = listener.local_addr().unwrap().to_string().parse().unwrap();
    let hub = Hub::start(Config::default(), Keepalive::default(), Box::new(Servers(stun)));
    tokio::spawn(serve(vec![listener], hub, std::future::pending()));
    url
}

async fn node(server: &ServerUrl, seed: u8) -> Node {
    let key = NodeKey::from_seed(&[seed; 32]);
    let signalling = WebSocketSignalling::connect(server.clone(), &key).await.unwrap();
    Node::start(key, signalling)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dial_ends_in_a_path_and_closing_it_is_told() {
    let server = server().await;
    let (alice, mut bob) = (node(&server, 1).await, node(&server, 2).await);
    let (alice_id, bob_id) = (alice.id(), bob.id());
    let answered = tokio::spawn(async move {
        let incoming = bob.accept().await.unwrap();
        assert_eq!(incoming.peer(), alice_id);
        let connection = bob.answer(incoming).await.unwrap();
        let datagram = connection.path().recv_datagram().await.unwrap();
        connection.path().send(&datagram).await.unwrap();
        connection.path().closed().await;
        connection.peer()
    });
    let connection = timeout(LIMIT, alice.dial(bob_id)).await.unwrap().unwrap();
    assert_eq!((connection.peer(), connection.describe().path), (bob_id, PathKind::Direct));
    connection.path().send(b"hello").await.unwrap();
    assert_eq!(timeout(LIMIT, connection.path().recv_datagram()).await.unwrap().unwrap(), "hello");
    timeout(LIMIT, connection.close()).await.unwrap();
    assert_eq!(timeout(LIMIT, answered).await.unwrap().unwrap(), alice_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_away_is_said_to_be_away() {
    let server = server().await;
    let alice = node(&server, 1).await;
    let away = NodeKey::from_seed(&[9; 32]).id();
    let error = timeout(LIMIT, alice.dial(away)).await.unwrap().unwrap_err();
    assert!(matches!(error, DialError::Offline), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_takes_several_connections_at_once() {
    let server = server().await;
    let mut bob = node(&server, 2).await;
    let bob_id = bob.id();
    let acceptor = bob.acceptor();
    tokio::spawn(async move {
        while let Some(incoming) = bob.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let connection = acceptor.answer(incoming).await.unwrap();
                while let Ok(datagram) = connection.path().recv_datagram().await {
                    connection.path().send(&datagram).await.unwrap();
                }
            });
        }
    });
    let mut dials = tokio::task::JoinSet::new();
    for seed in 10..15 {
        let dialler = node(&server, seed).await;
        dials.spawn(async move {
            let connection = timeout(LIMIT, dialler.dial(bob_id)).await.unwrap().unwrap();
            connection.path().send(&[seed]).await.unwrap();
            assert_eq!(timeout(LIMIT, connection.path().recv_datagram()).await.unwrap().unwrap(), [seed][..]);
        });
    }
    assert_eq!(dials.join_all().await.len(), 5);
}

/// Requests that have come to a socket.
fn received(socket: &UdpSocket) -> usize {
    let mut buffer = [0; 100];
    std::iter::from_fn(|| socket.try_recv(&mut buffer).ok()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_may_measures_once_for_all_who_ask() {
    let stun = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = server_with(vec![format!("stun:{}", stun.local_addr().unwrap())]).await;
    let (alice, carol, mut bob) = (node(&server, 1).await, node(&server, 3).await, node(&server, 2).await);
    let bob_id = bob.id();
    bob.set_diagnosis(true);
    timeout(LIMIT, bob.diagnose(&[], Options::default(), |_| {})).await.unwrap().unwrap();
    let of_one_diagnosis = received(&stun);
    assert_ne!(of_one_diagnosis, 0);
    let both = async { tokio::join!(alice.inquire(bob_id), carol.inquire(bob_id)) };
    let (told_alice, told_carol) = timeout(LIMIT, both).await.unwrap();
    let facts = told_alice.unwrap();
    assert_eq!(facts.ipv4.as_ref().unwrap().udp, Some(false), "the server is silent: {facts:?}");
    assert_eq!(told_carol.unwrap(), facts);
    assert_eq!(received(&stun), of_one_diagnosis, "one for both");
    bob.set_policy(Policy::Relay);
    let again = timeout(LIMIT, alice.inquire(bob_id)).await.unwrap().unwrap();
    assert_eq!(again, facts.relay_only(), "a node that hides its addresses hides them here");
    assert_eq!(received(&stun), 0, "what is known is not measured again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_may_not_tells_nothing_and_one_that_is_away_is_said_to_be() {
    let server = server().await;
    let (alice, bob) = (node(&server, 1).await, node(&server, 2).await);
    let refused = timeout(LIMIT, alice.inquire(bob.id())).await.unwrap().unwrap_err();
    assert!(matches!(refused, InquireError::Refused(ByeReason::NotAllowed)), "{refused}");
    let away = NodeKey::from_seed(&[9; 32]).id();
    let offline = timeout(LIMIT, alice.inquire(away)).await.unwrap().unwrap_err();
    assert!(matches!(offline, InquireError::Offline), "{offline}");
}
