//! The lifetime of mappings (RFC 5780, section 4.6), by search, and what keeps them (RFC 4787, section 4.3).
//!
//! A [`Search`] has sockets keep quiet for different times. There are two at the same time, since many NATs give a mapping
//! that carries a conversation longer than one that carried a single exchange. As soon as it is known, `refresh` sees
//! which packets keep a mapping beyond it.

mod refresh;
mod search;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::probe::{Outcome, ProbeId, Prober};
use refresh::Refresh;
use search::Search;

/// How long a mapping lasts without traffic, and what keeps it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LifetimeReport {
    /// Of a mapping that carried one request and its answer.
    #[serde(flatten)]
    pub single: Lifetime,
    /// Of a mapping that carried packets in both directions for some seconds, as that of a call.
    pub conversation: Lifetime,
    /// Whether packets from inside keep it, as RFC 4787 wants it (REQ-6).
    pub refreshed_by_outbound: Option<bool>,
    /// Whether packets from outside keep it, which RFC 4787 leaves to the NAT (REQ-6).
    pub refreshed_by_inbound: Option<bool>,
    /// What that rests on.
    pub refresh_reason: String,
}

/// A time of silence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lifetime {
    /// Seconds of silence after which the mapping still lived.
    pub at_least_s: Option<f64>,
    /// Seconds of silence after which it had gone; `None` if it outlived the test.
    pub at_most_s: Option<f64>,
    /// What that rests on.
    pub reason: String,
}

/// What takes its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// For mappings that are left alone to expire: first in coarse steps.
    CoarseSearch,
    /// And then in fine ones.
    FineSearch,
    /// Whether packets keep a mapping longer than it lives alone.
    Refresh,
}

impl Wait {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Wait::CoarseSearch => "which mappings expire, in coarse steps",
            Wait::FineSearch => "which mappings expire, in fine steps",
            Wait::Refresh => "whether packets keep a mapping",
        }
    }
}

#[derive(Debug)]
pub(super) struct LifetimeTest {
    server: SocketAddr,
    single: Search,
    conversation: Search,
    refresh: Option<Refresh>,
}

impl LifetimeTest {
    pub(super) fn begin(now: Instant, prober: &mut Prober, server: SocketAddr) -> LifetimeTest {
        LifetimeTest {
            server,
            single: Search::begin(now, prober, server, search::SINGLE),
            conversation: Search::begin(now, prober, server, search::CONVERSATION),
            refresh: None,
        }
    }

    pub(super) fn handle(&mut self, now: Instant, prober: &mut Prober, probe: ProbeId, outcome: &Outcome) {
        self.single.handle(now, prober, probe, outcome);
        self.conversation.handle(now, prober, probe, outcome);
        if let Some(refresh) = &mut self.refresh {
            refresh.handle(now, prober, probe, outcome);
        } else if let Some((alive, gone)) = self.single.found() {
            self.refresh = Refresh::begin(now, prober, self.server, alive, gone);
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, prober: &mut Prober) {
        self.single.handle_timeout(now, prober);
        self.conversation.handle_timeout(now, prober);
        if let Some(refresh) = &mut self.refresh {
            refresh.handle_timeout(now, prober);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let refresh = self.refresh.as_ref().and_then(Refresh::poll_timeout);
        [self.single.poll_timeout(), self.conversation.poll_timeout(), refresh].into_iter().flatten().min()
    }

    pub(super) fn is_over(&self) -> bool {
        self.single.is_over()
            && self.conversation.is_over()
            && self.refresh.as_ref().is_none_or(Refresh::is_over)
    }

    /// Keeps what is known; half of what a refreshed mapping does tells nothing.
    pub(super) fn stop(&mut self) {
        self.refresh.take_if(|refresh| !refresh.is_over());
    }

    /// What takes longest of what is under way, and when that will be over.
    pub(super) fn wait(&self, now: Instant) -> Option<(Wait, Instant)> {
        let search = |search: &Search| {
            let wait = if search.is_coarse() { Wait::CoarseSearch } else { Wait::FineSearch };
            Some((wait, search.ends_at(now)?))
        };
        let refresh = self.refresh.as_ref().and_then(|refresh| Some((Wait::Refresh, refresh.ends_at()?)));
        let waits = [search(&self.single), search(&self.conversation), refresh];
        waits.into_iter().flatten().max_by_key(|(_, end)| *end)
    }

    pub(super) fn report(&self) -> LifetimeReport {
        let single = self.single.report();
        let refresh = match &self.refresh {
            Some(refresh) => refresh.report(),
            None => {
                let reason =
                    "not measurable: for that the lifetime has to be known, and some seconds at least";
                (None, None, reason.to_owned())
            }
        };
        let (refreshed_by_outbound, refreshed_by_inbound, refresh_reason) = refresh;
        let conversation = self.conversation.report();
        LifetimeReport { single, conversation, refreshed_by_outbound, refreshed_by_inbound, refresh_reason }
    }
}

/// So long until it is clear that a request is not answered.
const ANSWER: Duration = Duration::from_millis(2250);
