//! Chromium against `turn-relay`: two connections of a page, both by the relay alone, exchange a megabyte each way over a
//! data channel. The page comes from loopback and posts its outcome there.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::net::Ipv4Addr;
use std::time::Duration;

use axum::Router;
use axum::response::Html;
use axum::routing::{get, post};
use serde_json::{Value, json};
use thirl_tests::harness::{self, Chromium, Relay};
use thirl_tests::requires;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Chromium takes some seconds to start on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);
const PAGE: &str = include_str!("../interop/relayed_page.html");
const IP: &str = "127.0.0.1";

/// A page on loopback, and what it posts.
struct Site {
    port: u16,
    outcomes: mpsc::Receiver<String>,
}

impl Site {
    async fn start() -> Site {
        let (sender, outcomes) = mpsc::channel(1);
        let take = move |body: String| async move {
            let _ = sender.send(body).await;
        };
        let router = Router::new().route("/", get(async || Html(PAGE))).route("/outcome", post(take));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async { axum::serve(listener, router).await });
        Site { port, outcomes }
    }
}

/// Lets the page use the relay at this URL, and asserts by which protocol Chromium says that it did.
async fn relays(url: impl FnOnce(&Relay) -> String, protocol: &str) {
    let chromium =
        requires!(harness::installed("chromium", "chromium", "is the browser that our relay is tested with"));
    let relay = Relay::start(&["--allowed-peer-ip", IP]).unwrap();
    let mut site = Site::start().await;
    let page = format!("http://{IP}:{}/?username=alice&credential=secret&url={}", site.port, url(&relay));
    // TURN over TLS heeds it too (seen with Chromium 156; without it the relay's certificate is refused).
    let mut chromium = Chromium::open(&chromium, IP, &page, &["--ignore-certificate-errors"]).unwrap();
    let outcome = tokio::time::timeout(LIMIT, site.outcomes.recv()).await;
    let Ok(Some(outcome)) = outcome else {
        panic!("the page said nothing within {LIMIT:?}: {}", chromium.end());
    };
    let outcome: Value = serde_json::from_str(&outcome).unwrap();
    assert_eq!(outcome, json!({ "messages": 100, "protocol": protocol, "types": ["relay", "relay"] }));
}

#[tokio::test]
async fn by_a_relay_over_udp() {
    relays(|relay| format!("turn:{IP}:{}?transport=udp", relay.addr.port()), "udp").await;
}

#[tokio::test]
async fn by_a_relay_over_tcp() {
    relays(|relay| format!("turn:{IP}:{}?transport=tcp", relay.addr.port()), "tcp").await;
}

#[tokio::test]
async fn by_a_relay_over_tls() {
    relays(|relay| format!("turns:{IP}:{}?transport=tcp", relay.tls_port), "tls").await;
}
