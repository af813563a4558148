//! QUIC over a path: quinn's endpoints at both ends of two of our agents.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thirl_ice_agent::agent::Role;
use thirl_ice_agent::driver::{IceAgent, LocalAddress, Path, QuicSocket};

const LIMIT: Duration = Duration::from_secs(60);
const BYTES: usize = 2_000_000;

#[tokio::test]
async fn a_stream_comes_back_whole() {
    tokio::time::timeout(LIMIT, exchange()).await.unwrap();
}

async fn exchange() {
    let (ours, theirs) = paths().await;
    let (client_config, server_config) = configs();
    let server = endpoint(theirs, Some(server_config)).0;
    let (client, peer) = endpoint(ours.clone(), None);
    let echo = tokio::spawn(async move {
        let connection = server.accept().await.unwrap().await.unwrap();
        let (mut send, mut receive) = connection.accept_bi().await.unwrap();
        tokio::io::copy(&mut receive, &mut send).await.unwrap();
        send.finish().unwrap();
        connection.closed().await
    });
    let connection = client.connect_with(client_config, peer, "localhost").unwrap().await.unwrap();
    assert_eq!(connection.remote_address(), ours.remote());
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    let sent: Vec<u8> = (0..BYTES).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let received = tokio::spawn(async move { receive.read_to_end(BYTES).await.unwrap() });
    send.write_all(&sent).await.unwrap();
    send.finish().unwrap();
    assert!(received.await.unwrap() == sent, "what came back differs");
    assert!(connection.stats().udp_tx.ios < connection.stats().udp_tx.datagrams, "nothing left in batches");
    connection.close(0u8.into(), b"");
    echo.await.unwrap();
}

async fn paths() -> (Path, Path) {
    let agent = |role| {
        let address = LocalAddress { address: "127.0.0.1:0".parse().unwrap(), preference: u8::MAX };
        IceAgent::builder().role(role).addresses([address]).gather()
    };
    let (a, b) = (agent(Role::Controlling).await.unwrap(), agent(Role::Controlled).await.unwrap());
    a.set_remote(&b.description()).unwrap();
    b.set_remote(&a.description()).unwrap();
    tokio::try_join!(a.connect(), b.connect()).unwrap()
}

/// An endpoint on a path, and the address by which it knows its peer.
fn endpoint(path: Path, server: Option<ServerConfig>) -> (Endpoint, std::net::SocketAddr) {
    let socket = QuicSocket::new(path);
    let peer = socket.remote();
    let runtime = Arc::new(TokioRuntime);
    let endpoint =
        Endpoint::new_with_abstract_socket(EndpointConfig::default(), server, Arc::new(socket), runtime);
    (endpoint.unwrap(), peer)
}

/// A certificate of the server's own, which the client knows.
fn configs() -> (ClientConfig, ServerConfig) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate: CertificateDer<'static> = params.self_signed(&key).unwrap().der().clone();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    (
        ClientConfig::new(Arc::new(QuicClientConfig::try_from(client).unwrap())),
        ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server).unwrap())),
    )
}
