//! A page for a browser, on loopback.

use std::io;
use std::net::Ipv4Addr;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::Html;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// What the pages have in common.
const ECHO: &str = include_str!("../../interop/echo.js");

/// A page with `echo.js` beside it, and what it posts to `/outcome`.
#[derive(Debug)]
pub struct Site {
    port: u16,
    outcomes: mpsc::Receiver<String>,
}

impl Site {
    /// The address that it is served on.
    pub const IP: &str = "127.0.0.1";

    /// Serves the page at `/`, and what else it needs.
    ///
    /// # Errors
    /// If there is no port for it.
    pub async fn start(page: &'static str, beside: Router) -> io::Result<Site> {
        let (sender, outcomes) = mpsc::channel(1);
        let take = move |body: String| async move {
            // Nobody waits for a second outcome.
            sender.send(body).await.ok();
        };
        let router = beside
            .route("/", get(move || async move { Html(page) }))
            .route("/echo.js", get(async || ([(CONTENT_TYPE, "text/javascript")], ECHO)))
            .route("/outcome", post(take));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        tokio::spawn(async { axum::serve(listener, router).await });
        Ok(Site { port, outcomes })
    }

    /// The page's URL with this query.
    pub fn url(&self, query: &str) -> String {
        format!("http://{}:{}/?{query}", Site::IP, self.port)
    }

    /// What became of it, in JSON.
    pub async fn outcome(&mut self) -> Option<serde_json::Value> {
        serde_json::from_str(&self.outcomes.recv().await?).ok()
    }
}
