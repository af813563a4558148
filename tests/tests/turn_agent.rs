//! The agent's driver and our relay on loopback: redirected, and with credentials that are renewed.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64;
use thirl_common::auth::{AccessTokenContent, TokenKey};
use thirl_common::uri::{Host, ServerUri};
use thirl_ice_agent::agent::{Event, Policy};
use thirl_ice_agent::driver::{Builder, IceAgent, LocalAddress, Trust};
use thirl_ice_agent::turn::{AccessToken, TurnCredentials};
use thirl_tests::harness::Relay;

const LIMIT: Duration = Duration::from_secs(20);

/// An agent that uses this server alone.
fn agent(uri: &str, trust: Trust) -> Builder {
    agent_with(uri, trust, TurnCredentials::password("alice", "secret"))
}

fn agent_with(uri: &str, trust: Trust, credentials: TurnCredentials) -> Builder {
    let address = LocalAddress { address: "127.0.0.1:0".parse().unwrap(), preference: 255 };
    let builder = IceAgent::builder().controlling().policy(Policy::Relay).addresses([address]).trust(trust);
    builder.turn_with(uri.parse::<ServerUri>().unwrap(), credentials)
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
        agent.set_turn_credentials(
            &Host::Name("localhost".into()),
            &TurnCredentials::password("bob", "other"),
        );
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

/// What an authorization server gives a client for the relay that it knows as `turn.example.org`.
fn token(shared: &[u8]) -> AccessToken {
    #[expect(clippy::disallowed_methods, reason = "the relay has the same clock")]
    let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let content = AccessTokenContent { mac_key: vec![5; 20], timestamp, lifetime: 300 };
    let token = TokenKey::new(shared).unwrap().seal(&content, "turn.example.org", [1; 12]).unwrap();
    AccessToken { kid: "north".to_owned(), token, mac_key: content.mac_key }
}

#[tokio::test]
async fn access_tokens_are_used_or_asked_for() {
    let shared = [9; 32];
    let setting = format!("north:{}", BASE64.encode(&shared));
    let options = ["--server-name", "turn.example.org", "--oauth-key", &setting];
    for more in [&[][..], &["--sha256", "true"]] {
        let relay = Relay::start(&[&options[..], more].concat()).unwrap();
        for uri in [
            format!("turn:localhost:{}?transport=udp", relay.addr.port()),
            format!("turn:localhost:{}?transport=tcp", relay.addr.port()),
            format!("turns:localhost:{}?transport=udp", relay.tls_port),
        ] {
            let trust = || trust([&relay, &relay]);
            let given = agent_with(&uri, trust(), token(&shared).into()).gather().await.unwrap();
            assert!(!gave(&given).is_empty(), "{uri} {more:?}: {}", given.report());
            given.close().await;

            let asking = agent_with(&uri, trust(), TurnCredentials::None).start().await.unwrap();
            let mut events = asking.events();
            let wanted = async {
                loop {
                    if let Event::TokenWanted { host, server } = events.recv().await.unwrap() {
                        return (host, server);
                    }
                }
            };
            let (host, server) = tokio::time::timeout(LIMIT, wanted).await.unwrap();
            assert_eq!((&host, server.as_str()), (&Host::Name("localhost".into()), "turn.example.org"));
            asking.set_turn_credentials(&host, &token(&shared).into());
            let found = async {
                while asking.description().candidates.is_empty() {
                    events.recv().await.unwrap();
                }
            };
            let waited = tokio::time::timeout(LIMIT, found).await;
            assert!(waited.is_ok(), "{uri} {more:?}: {}", asking.report());
            asking.close().await;
        }
    }
}
