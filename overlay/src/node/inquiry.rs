//! What two nodes tell each other of their networks.
//!
//! Whoever has a ticket may ask, so asking must not make a node a source of traffic: it asks no servers but those of its
//! own signalling, runs one diagnosis at a time and at most one a minute, and all who ask meanwhile get its result.

use std::net::SocketAddr;
use std::time::Duration;

use thirl_common::uri::ServerUri;
use thirl_ice_agent::driver::{host_networks, resolve};
use thirl_ice_agent::nat::{DiagnoseError, Event, Facts, Options, Report, diagnose};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};

use super::error::InquireError;
use super::switch::{Inbound, Inquiry, Link};
use crate::session::{Body, ByeReason};
use crate::signalling::{IceServer, UndeliverableReason};

/// Nodes that wait for one diagnosis; more are refused as busy.
pub(super) const WAITING: usize = 8;

/// What was measured is told for so long.
const FRESH: Duration = Duration::from_secs(60);

/// A diagnosis ends by itself long before.
const DIAGNOSIS_DEADLINE: Duration = Duration::from_secs(45);

/// A node that knows the question says within this that it measures. It includes the way there and back.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// A question that nobody has answered is asked again after so long.
const REPEAT: Duration = Duration::from_secs(3);

/// How a node deals with those who ask.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Manners {
    /// Whether it tells anything.
    pub(super) tells: bool,
    /// Whether it hides its addresses.
    pub(super) relay_only: bool,
}

/// Measures this node's network.
pub(super) async fn measure(
    servers: &[IceServer],
    others: &[SocketAddr],
    options: Options,
    relay_only: bool,
    progress: impl Fn(Event),
) -> Result<(Report, Facts), DiagnoseError> {
    let urls = servers.iter().flat_map(|server| &server.urls);
    let uris = urls.filter_map(|url| url.parse::<ServerUri>().ok());
    let uris: Vec<_> = uris.filter(|uri| !uri.scheme.is_turn() && !uri.scheme.is_secure()).collect();
    let mut addresses: Vec<_> = resolve(&uris).await.into_iter().flatten().flatten().collect();
    addresses.extend(others);
    addresses.sort_unstable();
    addresses.dedup();
    // Whoever does not want to wait drops this.
    let (_go_on, stop) = watch::channel(false);
    let report = diagnose(&addresses, options, progress, &stop).await?;
    // Without them nothing tells whether two nodes are in one network.
    let networks = host_networks().unwrap_or_default();
    let facts = Facts::new(&report, &networks);
    Ok((report, if relay_only { facts.relay_only() } else { facts }))
}

/// Asks, and waits for the answer.
pub(super) async fn ask(mut link: Link) -> Result<Facts, InquireError> {
    let mut repeat = interval(REPEAT);
    let mut deadline = Instant::now() + FIRST_ANSWER;
    let mut heard = false;
    loop {
        tokio::select! {
            _ = repeat.tick(), if !heard => link.send(Body::Diagnose).await,
            () = tokio::time::sleep_until(deadline) => return Err(InquireError::NoAnswer),
            inbound = link.recv() => match inbound.ok_or(InquireError::SignallingEnded)? {
                Inbound::Message(Body::Diagnosing { at_most_s }) if !heard => {
                    heard = true;
                    deadline = Instant::now() + Duration::from_secs(at_most_s.into()).min(2 * DIAGNOSIS_DEADLINE);
                }
                Inbound::Message(Body::Diagnosis { facts }) => return Ok(*facts),
                Inbound::Message(Body::Bye { reason }) => return Err(InquireError::Refused(reason)),
                Inbound::Undeliverable(UndeliverableReason::Offline) => return Err(InquireError::Offline),
                Inbound::Message(_) | Inbound::Undeliverable(_) => {}
            },
        }
    }
}

/// Answers those who ask, until signalling has ended.
pub(super) async fn answer(
    mut inquiries: mpsc::Receiver<Inquiry>,
    manners: watch::Receiver<Manners>,
    servers: watch::Receiver<Vec<IceServer>>,
) {
    let mut desk = Desk { manners, servers, waiting: Vec::new(), running: JoinSet::new(), known: None };
    loop {
        tokio::select! {
            inquiry = inquiries.recv() => match inquiry {
                Some(Inquiry { link }) => desk.take(link).await,
                None => return,
            },
            Some(measured) = desk.running.join_next() => desk.finish(measured.ok().flatten()).await,
        }
    }
}

struct Desk {
    manners: watch::Receiver<Manners>,
    servers: watch::Receiver<Vec<IceServer>>,
    waiting: Vec<Link>,
    /// One diagnosis, or none.
    running: JoinSet<Option<Facts>>,
    /// What was measured last, and when.
    known: Option<(Instant, Option<Facts>)>,
}

impl Desk {
    async fn take(&mut self, link: Link) {
        let peer = link.peer.short();
        if !self.manners.borrow().tells {
            tracing::info!(%peer, "it asked what this network does and was not told");
            return link.send(Body::Bye { reason: ByeReason::NotAllowed }).await;
        }
        if let Some((at, facts)) = &self.known
            && at.elapsed() < FRESH
            && self.running.is_empty()
        {
            let facts = facts.clone();
            return self.tell(&link, facts).await;
        }
        if self.waiting.len() == WAITING {
            return link.send(Body::Bye { reason: ByeReason::Busy }).await;
        }
        let at_most_s = u16::try_from(DIAGNOSIS_DEADLINE.as_secs()).unwrap_or(u16::MAX) + 5;
        link.send(Body::Diagnosing { at_most_s }).await;
        self.waiting.push(link);
        if self.running.is_empty() {
            let servers = self.servers.borrow().clone();
            self.running.spawn(async move {
                let measured = measure(&servers, &[], Options::default(), false, |_| {});
                timeout(DIAGNOSIS_DEADLINE, measured).await.ok()?.ok().map(|(_, facts)| facts)
            });
        }
    }

    async fn finish(&mut self, measured: Option<Facts>) {
        self.known = Some((Instant::now(), measured.clone()));
        for link in std::mem::take(&mut self.waiting) {
            self.tell(&link, measured.clone()).await;
        }
    }

    async fn tell(&self, link: &Link, facts: Option<Facts>) {
        let Manners { tells, relay_only } = *self.manners.borrow();
        let body = match facts {
            _ if !tells => Body::Bye { reason: ByeReason::NotAllowed },
            None => Body::Bye { reason: ByeReason::Unknown },
            Some(facts) => {
                tracing::info!(peer = %link.peer.short(), "it asked what this network does and was told");
                Body::Diagnosis { facts: Box::new(if relay_only { facts.relay_only() } else { facts }) }
            }
        };
        link.send(body).await;
    }
}
