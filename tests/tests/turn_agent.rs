//! The agent's driver and our relay on loopback: redirected, and with credentials that are renewed.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use thirl_common::uri::{Host, ServerUri};
use thirl_ice_agent::agent::Policy;
use thirl_ice_agent::driver::{Builder, IceAgent, LocalAddress, Trust};
use thirl_tests::harness::Relay;

const LIMIT: Duration = Duration::from_secs(20);

/// An agent that uses this server alone.
fn agent(uri: &str, trust: Trust) -> Builder {
    let address = LocalAddress { address: "127.0.0.1:0".parse().unwrap(), preference: 255 };
    let builder = IceAgent::builder().controlling().policy(Policy::Relay).addresses([address]).trust(trust);
    builder.turn(uri.parse::<ServerUri>().unwrap(), "alice", "secret")
}

/// Both certificates, since each relay is its own authority.
fn trust(relays: [&Relay; 2]) -> Trust {
    let pem = relays.map(|relay| fs::read(relay.certificate.authority_path()).unwrap());
    Trust::only(&pem.concat()).unwrap()
}

/// The TURN servers that gave an address.
fn gave(agent: &IceAgent) -> Vec<SocketAddr> {
    let servers = agent.report().servers.into_iter();
    servers
        .filter(|server| server.kind == "turn" && server.address.is_some())
        .map(|server| server.server)
        .collect()
}

#[tokio::test]
async fn a_server_that_sends_us_elsewhere_is_obeyed() {
    let second = Relay::start(&[]).unwrap();
    let tls = SocketAddr::from(([127, 0, 0, 1], second.tls_port));
    let (plain, secure) = (second.addr.to_string(), format!("{tls}"));
    let first = Relay::start(&["--alternate-server", &plain, "--tls-alternate-server", &secure]).unwrap();
    for (uri, server) in [
        (format!("turn:localhost:{}?transport=udp", first.addr.port()), second.addr),
        (format!("turn:localhost:{}?transport=tcp", first.addr.port()), second.addr),
        // Nobody says another name, so the certificate has to bear the same.
        (format!("turns:localhost:{}?transport=tcp", first.tls_port), tls),
        (format!("turns:localhost:{}?transport=udp", first.tls_port), tls),
    ] {
        let agent = agent(&uri, trust([&first, &second])).gather().await.unwrap();
        assert_eq!(gave(&agent), [server], "{uri}: {}", agent.report());
        agent.close().await;
    }
}

#[tokio::test]
async fn new_credentials_make_another_allocation_over_every_transport() {
    let relay = Relay::start(&["--user", "bob:other"]).unwrap();
    for uri in [
        format!("turn:localhost:{}?transport=udp", relay.addr.port()),
        format!("turn:localhost:{}?transport=tcp", relay.addr.port()),
        format!("turns:localhost:{}?transport=udp", relay.tls_port),
    ] {
        let agent = agent(&uri, trust([&relay, &relay])).gather().await.unwrap();
        // One or two: this machine may have IPv6.
        let before = agent.description().candidates.len();
        assert!(before > 0, "{uri}: {}", agent.report());
        let mut events = agent.events();
        agent.set_turn_credentials(&Host::Name("localhost".into()), "bob", "other");
        let more = async {
            while agent.description().candidates.len() < 2 * before {
                events.recv().await.unwrap();
            }
        };
        let waited = tokio::time::timeout(LIMIT, more).await;
        assert!(waited.is_ok(), "{uri}: {}", agent.report());
        agent.close().await;
    }
}
