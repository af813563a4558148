//! Chromium against `turn-relay`: two connections of a page, both by the relay alone, exchange a megabyte each way over a
//! data channel. The page comes from loopback and posts its outcome there.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::response::Html;
use axum::routing::{get, post};
use serde_json::{Value, json};
use thirl_tests::harness::{self, Program, Relay};
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

/// A profile of its own, which is removed with it.
struct Chromium {
    program: Program,
    profile: PathBuf,
}

impl Chromium {
    fn open(program: &Path, page: &str) -> Chromium {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("thirl-chromium-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let profile = std::env::temp_dir().join(name);
        let mut command = Command::new(program);
        // As root, as which CI runs, there is no sandbox. It is to speak to loopback only.
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]);
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
        command.arg(format!("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {IP}"));
        // TURN over TLS heeds it too (seen with Chromium 156; without it the relay's certificate is refused).
        command.arg("--ignore-certificate-errors");
        command.arg(format!("--user-data-dir={}", profile.display())).arg(page);
        Chromium { program: Program::spawn(command).unwrap().named("chromium"), profile }
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // Asked to, it ends its helpers and writes nothing more; else its end is that of `Program`.
        let _ = self.program.signal("TERM");
        let _ = self.program.wait_for_end(LIMIT);
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

/// Lets the page use the relay at this URL, and asserts by which protocol Chromium says that it did.
async fn relays(url: impl FnOnce(&Relay) -> String, protocol: &str) {
    let chromium =
        requires!(harness::installed("chromium", "chromium", "is the browser that our relay is tested with"));
    let relay = Relay::start(&["--allowed-peer-ip", IP]).unwrap();
    let mut site = Site::start().await;
    let page = format!("http://{IP}:{}/?username=alice&credential=secret&url={}", site.port, url(&relay));
    let mut chromium = Chromium::open(&chromium, &page);
    let outcome = tokio::time::timeout(LIMIT, site.outcomes.recv()).await;
    let Ok(Some(outcome)) = outcome else {
        let _ = chromium.program.signal("TERM");
        let _ = chromium.program.wait_for_end(LIMIT);
        panic!("the page said nothing within {LIMIT:?}: {}", chromium.program.output());
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
