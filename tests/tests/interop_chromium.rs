//! Chromium against `turn-relay`: two connections of a page, both by the relay alone, exchange a megabyte each way over a
//! data channel. The page comes from loopback and posts its outcome there.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use axum::Router;
use serde_json::json;
use thirl_tests::harness::{self, Chromium, Relay, Site};
use thirl_tests::requires;

/// Chromium takes some seconds to start on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);
const PAGE: &str = include_str!("../interop/relayed_page.html");
const IP: &str = Site::IP;

/// Lets the page use the relay at this URL, and asserts by which protocol Chromium says that it did.
async fn relays(url: impl FnOnce(&Relay) -> String, protocol: &str) {
    let chromium =
        requires!(harness::installed("chromium", "chromium", "is the browser that our relay is tested with"));
    let relay = Relay::start(&["--allowed-peer-ip", IP]).unwrap();
    let mut site = Site::start(PAGE, Router::new()).await.unwrap();
    let page = site.url(&format!("username=alice&credential=secret&url={}", url(&relay)));
    // TURN over TLS heeds it too (seen with Chromium 156; without it the relay's certificate is refused).
    let mut chromium = Chromium::open(&chromium, IP, &page, &["--ignore-certificate-errors"]).unwrap();
    let outcome = tokio::time::timeout(LIMIT, site.outcome()).await;
    let Ok(Some(outcome)) = outcome else {
        panic!("the page said nothing within {LIMIT:?}: {}", chromium.end());
    };
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
