//! A data channel between a page in Chromium and our agent.

use std::sync::Arc;

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use serde_json::{Value, json};
use thirl_ice_agent::agent::Role;
use thirl_ice_agent::candidate::{CandidateTransport, TcpType};
use thirl_ice_agent::driver::{Description, IceAgent};
use thirl_tests::harness::{self, Chromium, Site};
use thirl_tests::requires;
use tokio::sync::{mpsc, oneshot};
use webrtc_data::data_channel::{Config, DataChannel};

use crate::stack::{Identity, SCTP_PORT, Setup, associate};
use crate::{LIMIT, agent_over, within_limit};

const PAGE: &str = include_str!("../../interop/data_channel_page.html");
const MAX_MESSAGE: usize = 65_536;

/// What the page posts, and where the answer goes.
type Signal = (Value, oneshot::Sender<Value>);

/// The page, and the descriptions that it tells.
async fn start() -> (Site, mpsc::Receiver<Signal>) {
    let (signal, signals) = mpsc::channel(1);
    let exchange = move |body: String| async move {
        let (answer, answered) = oneshot::channel::<Value>();
        signal.send((serde_json::from_str(&body).unwrap(), answer)).await.unwrap();
        answered.await.unwrap().to_string()
    };
    let site = Site::start(PAGE, Router::new().route("/signal", post(exchange))).await.unwrap();
    (site, signals)
}

async fn next(signals: &mut mpsc::Receiver<Signal>) -> Signal {
    within_limit("a description of the page", signals.recv()).await.unwrap()
}

/// What Chromium's session description says of this one data channel.
struct TheirSession {
    description: Description,
    fingerprint: String,
}

impl TheirSession {
    fn parse(sdp: &str) -> TheirSession {
        let values = |name: &str| {
            let prefix = format!("a={name}:");
            sdp.lines().filter_map(move |line| line.strip_prefix(&prefix).map(str::to_owned))
        };
        let one = |name| values(name).next().unwrap_or_else(|| panic!("no {name} in {sdp}"));
        let candidates = values("candidate").map(|candidate| format!("candidate:{candidate}")).collect();
        TheirSession {
            description: Description {
                ufrag: one("ice-ufrag"),
                pwd: one("ice-pwd"),
                candidates,
                ..Description::default()
            },
            fingerprint: one("fingerprint").strip_prefix("sha-256 ").unwrap().to_owned(),
        }
    }
}

/// Our session description (RFC 8841) of one data channel.
fn our_session(agent: &IceAgent, identity: &Identity, setup: &str) -> String {
    let Description { ufrag, pwd, candidates, .. } = agent.description();
    let mut lines = vec![
        "v=0".to_owned(),
        "o=- 1 1 IN IP4 127.0.0.1".to_owned(),
        "s=-".to_owned(),
        "t=0 0".to_owned(),
        "a=group:BUNDLE 0".to_owned(),
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel".to_owned(),
        "c=IN IP4 0.0.0.0".to_owned(),
        "a=mid:0".to_owned(),
        format!("a=ice-ufrag:{ufrag}"),
        format!("a=ice-pwd:{pwd}"),
        format!("a=fingerprint:sha-256 {}", identity.fingerprint()),
        format!("a=setup:{setup}"),
        format!("a=sctp-port:{SCTP_PORT}"),
        format!("a=max-message-size:{MAX_MESSAGE}"),
    ];
    lines.extend(candidates.iter().map(|candidate| format!("a={candidate}")));
    lines.push("a=end-of-candidates".to_owned());
    lines.iter().map(|line| format!("{line}\r\n")).collect()
}

/// Echoes what comes over the first channel, as long as it comes.
async fn echo(agent: IceAgent, setup: Setup, identity: Identity, peer: String) {
    let path = within_limit("a path", agent.connect()).await.unwrap();
    let association = Arc::new(associate(path, setup, identity, peer).await);
    let channel = DataChannel::accept(&association, Config::default(), &[] as &[DataChannel]).await.unwrap();
    let mut buffer = vec![0; MAX_MESSAGE];
    while let Ok(len @ 1..) = channel.read(&mut buffer).await {
        channel.write(&Bytes::copy_from_slice(&buffer[..len])).await.unwrap();
    }
}

/// Connects to a page in which Chromium makes the offer, or the answer. Over TCP Chromium's candidates are active.
async fn connects(page_offers: bool, over: CandidateTransport) {
    let protocol = if over == CandidateTransport::Udp { "udp" } else { "tcp" };
    let program =
        requires!(harness::installed("chromium", "chromium", "is the browser that our agent is tested with"));
    let (mut site, mut signals) = start().await;
    let role = if page_offers { Role::Controlled } else { Role::Controlling };
    let (agent, identity) = (agent_over(role, over).await, Identity::new());
    let page = site.url(if page_offers { "role=offer" } else { "role=answer" });
    // There may be no other interface than loopback; and what mDNS would hide is resolved by nobody here.
    let arguments = ["--allow-loopback-in-peer-connection", "--disable-features=WebRtcHideLocalIpsWithMdns"];
    let mut chromium = Chromium::open(&program, Site::IP, &page, &arguments).unwrap();

    let (offer, answer) = next(&mut signals).await;
    let (theirs, setup) = if page_offers {
        let theirs = TheirSession::parse(offer["sdp"].as_str().unwrap());
        answer.send(json!({ "type": "answer", "sdp": our_session(&agent, &identity, "active") })).unwrap();
        (theirs, Setup::Active)
    } else {
        answer.send(json!({ "type": "offer", "sdp": our_session(&agent, &identity, "actpass") })).unwrap();
        let (answer, done) = next(&mut signals).await;
        done.send(json!(null)).unwrap();
        let sdp = answer["sdp"].as_str().unwrap();
        assert!(sdp.contains("a=setup:active"), "{sdp}");
        (TheirSession::parse(sdp), Setup::Passive)
    };
    agent.set_remote(&theirs.description).unwrap();
    let echo = tokio::spawn(echo(agent.clone(), setup, identity, theirs.fingerprint));
    let outcome = tokio::time::timeout(LIMIT, site.outcome()).await;
    let Ok(Some(outcome)) = outcome else {
        panic!("the page said nothing within {LIMIT:?}: {}\n{}", agent.report(), chromium.end());
    };
    assert_eq!(outcome, json!({ "messages": 100, "protocol": protocol }), "{}", agent.report());
    echo.abort();
}

#[tokio::test]
async fn chromium_offers() {
    connects(true, CandidateTransport::Udp).await;
}

#[tokio::test]
async fn chromium_answers() {
    connects(false, CandidateTransport::Udp).await;
}

#[tokio::test]
async fn chromium_offers_and_connects_by_tcp() {
    connects(true, CandidateTransport::Tcp(TcpType::Passive)).await;
}

#[tokio::test]
async fn chromium_answers_and_connects_by_tcp() {
    connects(false, CandidateTransport::Tcp(TcpType::Passive)).await;
}
