//! Nodes and a real server on loopback.
#![cfg(feature = "driver")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed")]

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use thirl_overlay::signalling::protocol::{ErrorReason, MAX_PAYLOAD};
use thirl_overlay::signalling::switchboard::{Config, IceServers};
use thirl_overlay::signalling::{
    ConnectError, Hub, IceServer, Keepalive, SendError, UndeliverableReason, WebSocketSignalling, serve,
};
use thirl_overlay::{NodeId, NodeKey, ServerUrl, SignalEvent, Signalling};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// Longer than anything here takes; a test that reaches it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Credentials that differ each time, and a count of how often they were made.
struct Minted {
    ttl_seconds: u32,
    count: watch::Sender<usize>,
}

impl IceServers for Minted {
    fn for_node(&self, node: NodeId, _: &str, _: u64) -> Vec<IceServer> {
        self.count.send_modify(|count| *count += 1);
        vec![IceServer {
            urls: vec!["turn:127.0.0.1:3478".into()],
            username: Some(format!("{}:{node}", *self.count.borrow())),
            credential: Some("secret".into()),
            ttl_seconds: Some(self.ttl_seconds),
        }]
    }
}

/// A server of the test's own.
struct Server {
    address: SocketAddr,
    hub: Hub,
    minted: watch::Receiver<usize>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(address: &str, config: Config, keepalive: Keepalive, ttl_seconds: u32) -> Server {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (count, minted) = watch::channel(0);
        let hub = Hub::start(config, keepalive, Box::new(Minted { ttl_seconds, count }));
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let task = tokio::spawn(serve(vec![listener], hub.clone(), shutdown));
        Server { address, hub, minted, stop, task }
    }

    async fn plain() -> Server {
        Server::start("127.0.0.1:0", Config::default(), Keepalive::default(), 600).await
    }

    fn url(&self) -> ServerUrl {
        self.address.to_string().parse().unwrap()
    }

    async fn connect(&self, seed: u8) -> Result<WebSocketSignalling, ConnectError> {
        soon(WebSocketSignalling::connect(self.url(), &key(seed))).await
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        soon(self.task).await.unwrap();
    }
}

fn key(seed: u8) -> NodeKey {
    NodeKey::from_seed(&[seed; 32])
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

/// Both are online; what comes before the message is of no interest.
async fn assert_reaches(from: &mut WebSocketSignalling, to: &mut WebSocketSignalling, text: &str) {
    from.send(to.node(), text.into()).unwrap();
    let message = SignalEvent::Message { from: from.node(), payload: text.into() };
    while next(to).await != message {}
}

async fn next(signalling: &mut WebSocketSignalling) -> SignalEvent {
    soon(signalling.recv()).await.expect("signalling has not ended")
}

#[tokio::test]
async fn two_nodes_exchange_messages() {
    let server = Server::plain().await;
    let (mut a, mut b) = (server.connect(1).await.unwrap(), server.connect(2).await.unwrap());
    assert_reaches(&mut a, &mut b, "there").await;
    assert_reaches(&mut b, &mut a, "and back").await;

    let largest = vec![7; MAX_PAYLOAD];
    a.send(b.node(), largest.clone()).unwrap();
    assert_eq!(next(&mut b).await, SignalEvent::Message { from: a.node(), payload: largest });
    assert_eq!(
        a.send(b.node(), vec![7; MAX_PAYLOAD + 1]),
        Err(SendError::TooLarge { size: MAX_PAYLOAD + 1 })
    );

    let nobody = key(9).id();
    a.send(nobody, b"hello".into()).unwrap();
    let reason = UndeliverableReason::Offline;
    assert_eq!(next(&mut a).await, SignalEvent::Undeliverable { to: nobody, reason });

    let ice_servers = a.ice_servers();
    assert!(ice_servers[0].username.as_ref().unwrap().ends_with(&a.node().to_string()));
    server.stop().await;
}

#[tokio::test]
async fn nodes_come_back_after_the_server_was_restarted() {
    let server = Server::plain().await;
    let address = server.address.to_string();
    let (mut a, mut b) = (server.connect(1).await.unwrap(), server.connect(2).await.unwrap());
    assert_reaches(&mut a, &mut b, "before").await;

    server.stop().await;
    for signalling in [&mut a, &mut b] {
        let event = next(signalling).await;
        assert!(
            matches!(&event, SignalEvent::Offline { reason, .. } if reason.contains("ends")),
            "{event:?}"
        );
    }
    // What is sent now waits for the server.
    let node = a.node();
    a.send(node, b"meanwhile".into()).unwrap();

    let server = Server::start(&address, Config::default(), Keepalive::default(), 600).await;
    // What each is told before differs with who comes back first.
    while next(&mut a).await != SignalEvent::Online {}
    while next(&mut b).await != SignalEvent::Online {}
    assert_eq!(next(&mut a).await, SignalEvent::Message { from: node, payload: b"meanwhile".into() });
    assert_reaches(&mut b, &mut a, "after").await;
    assert_reaches(&mut a, &mut b, "and back").await;
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_vanishes_without_a_word_is_noticed() {
    // A server that is cut off from its network looks like this to the node, once the kernel reports it.
    let server = Server::plain().await;
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: ServerUrl = proxy.local_addr().unwrap().to_string().parse().unwrap();
    let upstream = server.address;
    let (cut, mut is_cut) = oneshot::channel::<()>();
    let forwarding = tokio::spawn(async move {
        let (mut near, _) = proxy.accept().await.unwrap();
        let mut far = TcpStream::connect(upstream).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
            _ = &mut is_cut => {}
        }
        drop((near, far));
        let (mut near, _) = proxy.accept().await.unwrap();
        let mut far = TcpStream::connect(upstream).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    });
    let mut a = soon(WebSocketSignalling::connect(url, &key(1))).await.unwrap();
    let mut b = server.connect(2).await.unwrap();
    assert_reaches(&mut b, &mut a, "before").await;
    cut.send(()).unwrap();
    assert!(matches!(next(&mut a).await, SignalEvent::Offline { .. }));
    assert_eq!(next(&mut a).await, SignalEvent::Online);
    assert_reaches(&mut b, &mut a, "after").await;
    a.close().await;
    soon(forwarding).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn what_waits_is_sent_before_closing() {
    let server = Server::plain().await;
    let (mut a, mut b) = (server.connect(1).await.unwrap(), server.connect(2).await.unwrap());
    for n in 0..20 {
        a.send(b.node(), vec![n]).unwrap();
    }
    let from = a.node();
    soon(a.close()).await;
    for n in 0..20 {
        assert_eq!(next(&mut b).await, SignalEvent::Message { from, payload: vec![n] });
    }
    server.stop().await;
}

#[tokio::test]
async fn a_node_that_connects_again_replaces_itself() {
    let server = Server::plain().await;
    let (mut older, mut other) = (server.connect(1).await.unwrap(), server.connect(2).await.unwrap());
    let mut newer = server.connect(1).await.unwrap();
    let SignalEvent::Offline { reason, retry_in } = next(&mut older).await else { panic!("not replaced") };
    assert!(reason.contains("connected again"), "{reason}");
    assert!(retry_in >= Duration::from_secs(10), "two programs with one key must not fight: {retry_in:?}");
    assert_reaches(&mut other, &mut newer, "to the newer").await;
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_knows_its_names_refuses_others() {
    let config = Config { names: vec!["example.org".parse().unwrap()], ..Config::default() };
    let server = Server::start("127.0.0.1:0", config, Keepalive::default(), 600).await;
    let error = server.connect(1).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { reason: ErrorReason::WrongServer, .. }), "{error}");
    server.stop().await;

    let config = Config { names: vec!["127.0.0.1".parse().unwrap()], ..Config::default() };
    let server = Server::start("127.0.0.1:0", config, Keepalive::default(), 600).await;
    server.connect(1).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn credentials_are_renewed_before_they_expire() {
    let mut server = Server::start("127.0.0.1:0", Config::default(), Keepalive::default(), 2).await;
    let mut a = server.connect(1).await.unwrap();
    let (node, first) = (a.node(), a.ice_servers());
    soon(server.minted.wait_for(|count| *count == 2)).await.unwrap();
    // Comes after the new credentials.
    a.send(node, b"now".into()).unwrap();
    assert_eq!(next(&mut a).await, SignalEvent::Message { from: node, payload: b"now".into() });
    assert_ne!(a.ice_servers(), first);
    assert_eq!(a.ice_servers().len(), 1, "renewed, not expired");
    server.stop().await;
}

#[tokio::test]
async fn silent_connections_are_closed_and_living_ones_are_kept() {
    let keepalive =
        Keepalive { ping_every: Duration::from_millis(100), close_after: Duration::from_millis(1500) };
    let server = Server::start("127.0.0.1:0", Config::default(), keepalive, 600).await;
    let mut living = server.connect(1).await.unwrap();
    // Upgrades, proves nothing and answers no ping.
    let mut dead = TcpStream::connect(server.address).await.unwrap();
    dead.write_all(
        b"GET /v1/signal HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
          Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .await
    .unwrap();
    let mut received = Vec::new();
    soon(dead.read_to_end(&mut received)).await.unwrap();
    assert!(received.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&received));
    assert_eq!(server.hub.stats().connections, 1);
    // By now the living one has been silent for as long, but for its pongs.
    let node = living.node();
    living.send(node, b"here".into()).unwrap();
    assert_eq!(next(&mut living).await, SignalEvent::Message { from: node, payload: b"here".into() });
    server.stop().await;
}

#[tokio::test]
async fn plain_http_is_answered() {
    let server = Server::plain().await;
    for (path, expected) in
        [("/", "Thirl signalling server"), ("/healthz", "ok"), ("/nothing", "404"), ("/v1/signal", "400")]
    {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        soon(stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.contains(expected), "{path}: {answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_server_is_told() {
    let tls = WebSocketSignalling::connect("wss://example.org".parse().unwrap(), &key(1)).await.unwrap_err();
    assert!(
        matches!(&tls, ConnectError::TlsUnsupported { .. }) && tls.to_string().contains("ws://"),
        "{tls}"
    );

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: ServerUrl = free.local_addr().unwrap().to_string().parse().unwrap();
    drop(free);
    let refused = soon(WebSocketSignalling::connect(url, &key(1))).await.unwrap_err();
    assert!(matches!(refused, ConnectError::Unreachable { .. }), "{refused}");

    let server = Server::plain().await;
    let url: ServerUrl = format!("ws://{}/healthz", server.address).parse().unwrap();
    let wrong = soon(WebSocketSignalling::connect(url, &key(1))).await.unwrap_err();
    assert!(matches!(wrong, ConnectError::NotSignalling { .. }), "{wrong}");
    server.stop().await;
}
