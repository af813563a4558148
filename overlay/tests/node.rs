//! Nodes that find each other through a real server on loopback and open a path.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use thirl_ice_agent::agent::PathKind;
use thirl_overlay::node::{DialError, Node};
use thirl_overlay::signalling::switchboard::{Config, IceServers};
use thirl_overlay::signalling::{Hub, IceServer, Keepalive, WebSocketSignalling, serve};
use thirl_overlay::{NodeId, NodeKey, ServerUrl};
use tokio::net::TcpListener;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

/// Nodes on one machine need no servers.
struct NoServers;

impl IceServers for NoServers {
    fn for_node(&self, _: NodeId, _: &str, _: u64) -> Vec<IceServer> {
        Vec::new()
    }
}

async fn server() -> ServerUrl {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = listener.local_addr().unwrap().to_string().parse().unwrap();
    let hub = Hub::start(Config::default(), Keepalive::default(), Box::new(NoServers));
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
    assert_eq!(timeout(LIMIT, connection.path().recv_datagram()).await.unwrap().unwrap(), b"hello");
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
            assert_eq!(timeout(LIMIT, connection.path().recv_datagram()).await.unwrap().unwrap(), [seed]);
        });
    }
    assert_eq!(dials.join_all().await.len(), 5);
}
