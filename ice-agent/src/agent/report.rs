//! What was gathered, what was tried, and why it came out as it did: as data, and in words.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use super::event::{PathKind, State};
use super::pair::{Pair, PairId, PairState, PairStats};
use super::{Agent, Policy, Role};
use crate::candidate::{Candidate, CandidateKind, ComponentId, TcpType};

/// The story of an agent so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// How far it has come.
    pub state: State,
    /// How often it was restarted, by either side. What follows is about the session since.
    pub restarts: u32,
    /// Its role, after any conflict.
    pub role: Role,
    /// Why it failed, if it did.
    pub failure: Option<String>,
    /// Why there is no direct path, in so many reasons, if there is none.
    pub why_not_direct: Vec<String>,
    /// Why the selected pair was nominated; of several components the first that has one.
    pub why_selected: Option<String>,
    /// This side's candidates.
    pub local_candidates: Vec<CandidateReport>,
    /// The peer's.
    pub remote_candidates: Vec<CandidateReport>,
    /// The peer's candidates that could not be used, and why.
    pub skipped: Vec<String>,
    /// What the driver met with.
    pub notes: Vec<String>,
    /// The prefix of the NAT64 through which IPv4 is reached, if it is.
    pub nat64: Option<String>,
    /// How the servers answered.
    pub servers: Vec<ServerReport>,
    /// All pairs, the best first.
    pub pairs: Vec<PairReport>,
    /// Whether this side's mapping depends on the destination, if that is known.
    pub mapping_depends_on_destination: Option<bool>,
    /// Whether the peer's does, if it told.
    pub remote_mapping_depends_on_destination: Option<bool>,
    /// What was done beyond standard ICE to find a direct path through hard NATs, or why nothing was; none if there was no
    /// need.
    pub hard_nats: Option<String>,
    /// Whether UDP to the servers gets no answer, if that is known.
    pub udp_blocked: Option<bool>,
    /// Datagrams that came from where no peer had proved itself.
    pub dropped_unknown_sender: u64,
    /// Checks that were refused.
    pub rejected_checks: u64,
}

/// A candidate, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CandidateReport {
    /// `host`, `srflx`, `prflx` or `relay`.
    pub kind: &'static str,
    /// `udp` or `tcp`.
    pub transport: &'static str,
    /// `active`, `passive` or `so` over TCP: which side opens the connection (RFC 6544, section 4.5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_type: Option<&'static str>,
    /// Where it is.
    pub address: String,
    /// Its priority.
    pub priority: u32,
    /// The server that gave or saw it.
    pub server: Option<SocketAddr>,
}

/// How a server answered on one socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerReport {
    /// `stun` or `turn`.
    pub kind: &'static str,
    /// Where it is.
    pub server: SocketAddr,
    /// `udp` or `tcp`.
    pub transport: String,
    /// The socket's address; none for a stream.
    pub local: Option<SocketAddr>,
    /// The address that it gave.
    pub address: Option<SocketAddr>,
    /// Why it gave none.
    pub error: Option<String>,
}

/// A pair and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PairReport {
    /// Which data stream; the first is 0.
    pub stream: u8,
    /// Which component of it.
    pub component: u16,
    /// This side, as the peer sees it.
    pub local: CandidateReport,
    /// The peer's side.
    pub remote: CandidateReport,
    /// Whether it goes through a relay.
    pub path: PathKind,
    /// What became of it.
    pub state: PairState,
    /// Whether it is the selected one.
    pub selected: bool,
    /// Why it was nominated, if it is the selected one.
    pub why_selected: Option<String>,
    /// Why it failed, if it did.
    pub failure: Option<String>,
    /// The last round-trip time that was measured, in microseconds.
    pub rtt_us: Option<u64>,
    /// Counts.
    #[serde(flatten)]
    pub stats: PairStats,
}

impl Agent {
    /// What has happened so far, and why.
    pub fn report(&self) -> Report {
        let mut pairs: Vec<_> = self.session.list.iter().collect();
        pairs.sort_by_key(|(id, pair)| (std::cmp::Reverse(pair.priority), *id));
        Report {
            state: self.state,
            restarts: self.restarts,
            role: self.role,
            failure: self.failure(),
            why_not_direct: self.why_not_direct(),
            why_selected: self.why_selected(),
            local_candidates: self
                .local
                .candidates
                .values()
                .map(|l| candidate_report(&l.candidate, l.server))
                .collect(),
            remote_candidates: self.session.candidates.iter().map(|r| candidate_report(r, None)).collect(),
            skipped: self.session.skipped.clone(),
            notes: self.notes.clone(),
            nat64: self.config.nat64.map(|prefix| prefix.to_string()),
            servers: self.server_reports(),
            pairs: pairs.into_iter().filter_map(|(id, pair)| self.pair_report(id, pair)).collect(),
            mapping_depends_on_destination: self.local_nat_hint(),
            remote_mapping_depends_on_destination: self.remote_mapping_depends(),
            hard_nats: self.hard_nat_words(),
            udp_blocked: self.is_udp_blocked(),
            dropped_unknown_sender: self.counters.dropped_unknown_sender,
            rejected_checks: self.counters.rejected_checks,
        }
    }

    /// Why the agent failed, with all its streams.
    fn failure(&self) -> Option<String> {
        let failures = self.session.streams.iter().map(|stream| stream.failure.clone());
        failures.collect::<Option<Vec<_>>>().and_then(|failures| failures.into_iter().next())
    }

    fn why_nominated(&self, component: ComponentId) -> Option<String> {
        self.session.streams.path(component).and_then(|path| path.why).map(str::to_owned)
    }

    fn why_selected(&self) -> Option<String> {
        let paths = self.session.streams.components().map(|(_, component)| &component.path);
        paths.filter(|path| path.selected.is_some()).find_map(|path| path.why).map(str::to_owned)
    }

    fn pair_report(&self, id: PairId, pair: &Pair) -> Option<PairReport> {
        let local = self.local.get(pair.mapped.unwrap_or(pair.local))?;
        let remote = self.session.get(pair.remote)?;
        Some(PairReport {
            stream: pair.component.stream(),
            component: pair.component.get(),
            local: candidate_report(&local.candidate, local.server),
            remote: candidate_report(remote, None),
            path: pair.path,
            state: pair.state,
            selected: self.is_selected(id),
            why_selected: self.is_selected(id).then(|| self.why_nominated(pair.component)).flatten(),
            failure: pair.failure.as_deref().map(str::to_owned),
            rtt_us: pair.stats.rtt().map(micros),
            stats: pair.stats.all(),
        })
    }

    fn server_reports(&self) -> Vec<ServerReport> {
        let report = |outcome: &super::gather::ServerOutcome| ServerReport {
            kind: if outcome.turn { "turn" } else { "stun" },
            server: outcome.server,
            transport: outcome.transport.to_string(),
            local: outcome.socket.and_then(|id| self.local.sockets.get(&id)).map(|socket| socket.at.local),
            address: outcome.result.as_ref().ok().copied(),
            error: outcome.result.as_ref().err().cloned(),
        };
        self.gathering.outcomes.iter().map(report).collect()
    }

    fn why_not_direct(&self) -> Vec<String> {
        let direct = |pair: &Pair| pair.path == PathKind::Direct;
        let is_direct = |component: &super::stream::Component| {
            let path = &component.path;
            path.current.or(path.selected).and_then(|id| self.session.list.get(id)).is_some_and(direct)
        };
        if self.session.streams.components().all(|(_, component)| is_direct(component))
            || self.state == State::New
        {
            return Vec::new();
        }
        let mut why = Vec::new();
        if self.config.policy == Policy::Relay {
            why.push("this side's policy is to use relays only".to_owned());
        }
        match (self.local_nat_hint(), self.remote_mapping_depends()) {
            (Some(true), Some(true)) => why.push("both sides: mapping depends on destination".to_owned()),
            (Some(true), _) => why.push("this side: mapping depends on destination".to_owned()),
            (_, Some(true)) => why.push("the peer's side: mapping depends on destination".to_owned()),
            _ => {}
        }
        if self.is_udp_blocked() == Some(true) {
            why.push("this side: UDP to the servers gets no answer".to_owned());
        }
        let told = self.session.candidates.iter().map(|remote| remote.kind);
        if !told.clone().any(|kind| kind != CandidateKind::Relayed) {
            why.push("the peer told no candidate but relayed ones".to_owned());
        } else if !self.session.list.iter().any(|(_, pair)| direct(pair)) {
            why.push("no address of the peer's is of a family and scope that this side has".to_owned());
        }
        if why.is_empty() {
            let tried =
                self.session.list.iter().filter(|(_, pair)| direct(pair) && pair.stats.requests_sent > 0);
            let (tried, heard) = tried.fold((0, 0), |(tried, heard), (_, pair)| {
                (tried + 1, heard + u32::from(pair.stats.requests_received() > 0))
            });
            why.push(match (tried, heard) {
                (0, _) => "no direct pair has been tried yet".to_owned(),
                (tried, 0) => format!("none of {tried} direct pairs was answered, and no check of the peer's came in"),
                (tried, heard) => {
                    format!("none of {tried} direct pairs was answered, though the peer's checks came in on {heard}")
                }
            });
        }
        why
    }
}

fn candidate_report(candidate: &Candidate, server: Option<SocketAddr>) -> CandidateReport {
    let (kind, address) = (candidate.kind.as_str(), candidate.address.to_string());
    let tcp_type = candidate.transport.tcp_type().map(TcpType::as_str);
    let transport = if tcp_type.is_some() { "tcp" } else { "udp" };
    CandidateReport { kind, transport, tcp_type, address, priority: candidate.priority, server }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let selected = self.pairs.iter().find(|pair| pair.selected);
        match (&self.failure, selected) {
            (Some(failure), _) => writeln!(f, "not connected: {failure}")?,
            (None, Some(pair)) => {
                let path = match pair.path {
                    PathKind::Direct => "direct",
                    PathKind::Relayed => "relayed",
                };
                let over = if pair.local.tcp_type.is_some() { " over TCP" } else { "" };
                writeln!(f, "connected, {path}{over}: {} ↔ {}", pair.local.address, pair.remote.address)?;
            }
            (None, None) => writeln!(f, "not connected yet")?,
        }
        if let Some(why) = &self.why_selected {
            writeln!(f, "  selected because: {why}")?;
        }
        for why in &self.why_not_direct {
            writeln!(f, "  not direct because: {why}")?;
        }
        self.hard_nats.iter().try_for_each(|hard_nats| writeln!(f, "  hard NATs: {hard_nats}"))?;
        self.notes.iter().try_for_each(|note| writeln!(f, "  {note}"))?;
        if let Some(prefix) = &self.nat64 {
            writeln!(f, "  IPv4 is reached through NAT64, under {prefix}")?;
        }
        for server in &self.servers {
            let ServerReport { kind, server, transport, address, error, .. } = server;
            match (address, error) {
                (Some(address), _) => writeln!(f, "  {kind} {server} over {transport} gave {address}")?,
                (None, error) => {
                    writeln!(
                        f,
                        "  {kind} {server} over {transport}: {}",
                        error.as_deref().unwrap_or("no answer")
                    )?;
                }
            }
        }
        write_candidates(f, "this side", &self.local_candidates)?;
        write_candidates(f, "the peer", &self.remote_candidates)?;
        self.skipped.iter().try_for_each(|skipped| writeln!(f, "  passed over {skipped}"))?;
        self.pairs.iter().try_for_each(|pair| write_pair(f, pair))
    }
}

fn write_candidates(f: &mut fmt::Formatter<'_>, whose: &str, candidates: &[CandidateReport]) -> fmt::Result {
    write!(f, "  {whose}:")?;
    if candidates.is_empty() {
        f.write_str(" no candidates")?;
    }
    for candidate in candidates {
        write!(f, " {} {}", candidate.kind, candidate.address)?;
        if let Some(ty) = candidate.tcp_type {
            write!(f, " tcp {ty}")?;
        }
    }
    writeln!(f)
}

fn write_pair(f: &mut fmt::Formatter<'_>, pair: &PairReport) -> fmt::Result {
    let state = match pair.state {
        PairState::Frozen | PairState::Waiting => "not checked",
        PairState::InProgress => "being checked",
        PairState::Succeeded => "works",
        PairState::Failed => "failed",
    };
    let over = if pair.local.tcp_type.is_some() { " over TCP" } else { "" };
    write!(f, "  pair {} ↔ {}{over}: {state}", pair.local.address, pair.remote.address)?;
    if let Some(failure) = &pair.failure {
        write!(f, " ({failure})")?;
    }
    let stats = &pair.stats;
    write!(f, ", {} checks sent, {} received", stats.requests_sent, stats.requests_received)?;
    if let Some(rtt) = pair.rtt_us {
        write!(f, ", {}.{:03} ms", rtt / 1000, rtt % 1000)?;
    }
    writeln!(f)
}
