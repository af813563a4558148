//! Hard NATs: those whose mapping depends on the destination (RFC 4787, section 4.1), so that the address that a STUN server
//! sees is not the one from which packets reach the peer. Standard ICE finds no direct path if the other side's NAT lets in
//! only whom it was sent to. Here both sides work together, and none of it is done with a peer that does not say that it
//! knows how.
//!
//! 1. `behaviour`: what the NAT was seen to do, and how the sides tell each other.
//! 2. `guess`: candidates that nobody saw: the next ports of a sequence, and this host's port at the public address.
//! 3. `filter`: whether what comes from another port of a known address comes in here.
//! 4. `plan`: which of the following is worth while between two sides, and why if none is.
//! 5. `open`: the hard side has very many mappings made to the one address of the peer's, each by a socket of its own.
//! 6. `probe`: the other side sends checks to ports at the address of the hard side: first to those near to one that is
//!    known, then to any. With 256 ports open, one in 252 is hit: the paradox of the birthdays.
//! 7. `mutual`: two sequences. Each side looks at where it stands, tells the other over the relayed path, and has mappings
//!    made for one of the ports that the other is about to have.
//!
//! `ports` counts in sequences.
//!
//! A check that comes in on one of the many sockets makes it a base like others; from then on all is ICE. It begins when
//! ordinary checks have had their chance, while data flows over a relay if there is one, and ends when a direct pair works.

mod behaviour;
mod filter;
mod guess;
mod mutual;
mod open;
mod plan;
mod ports;
mod probe;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use thirl_common::wire::NatMapping;

use super::event::{Action, PathKind, Route, SocketId};
use super::pair::{Realm, is_no_hosts, realm_v4};
use super::{Agent, Timer, message};
use crate::candidate::{CandidateKind, ComponentId, priority};

pub(super) use behaviour::{EXTENSION, MappingBehaviour};
pub(super) use guess::Guess;

use behaviour::{PREDICTED, is_predicted};
use mutual::Mutual;
use open::Opened;
use plan::{Off, Plan};
use probe::{Budget, Probing};

/// Ordinary checks have had their chance after so long.
const AFTER_CHECKS: Duration = Duration::from_secs(2);
/// The same once a relayed pair is selected, which took its time.
const AFTER_RELAY: Duration = Duration::from_millis(200);
/// A pair on which the peer was heard gets so long to work before the search goes on.
const PAUSE: Duration = Duration::from_millis(1500);
/// What was tried in vain is not tried again sooner.
const REST: Duration = Duration::from_secs(600);

/// What an agent does about hard NATs.
#[derive(Debug, Default)]
pub(super) struct HardNat {
    search: Option<Search>,
    /// What came of the last search, in words.
    outcome: Option<String>,
    /// What was tried in vain, and when.
    tried: Option<(Plan, Instant)>,
    /// What may be sent to ports that are guessed, and from sockets that were opened.
    probes: Budget,
    openings: Budget,
    /// What was asked of the filter before this side.
    filter: Option<filter::Question>,
    /// What the peer's checks said of its NAT, in this session.
    told: Option<NatMapping>,
}

/// A search for a direct pair.
#[derive(Debug)]
struct Search {
    component: ComponentId,
    plan: Plan,
    begun: Instant,
    /// The peer was heard: it waits for what comes of that.
    paused: Option<Instant>,
    work: Work,
}

/// What is being done.
#[derive(Debug)]
enum Work {
    Open(Opened),
    Probe(Probing),
    Mutual(Mutual),
}

impl Work {
    fn as_mutual(&mut self) -> Option<&mut Mutual> {
        match self {
            Work::Mutual(mutual) => Some(mutual),
            Work::Open(_) | Work::Probe(_) => None,
        }
    }
}

impl Search {
    /// The sockets that it has opened, if it does.
    fn opened(&self) -> Option<&Opened> {
        match &self.work {
            Work::Open(opened) => Some(opened),
            Work::Mutual(mutual) => Some(&mutual.opened),
            Work::Probe(_) => None,
        }
    }

    fn opened_mut(&mut self) -> Option<&mut Opened> {
        match &mut self.work {
            Work::Open(opened) => Some(opened),
            Work::Mutual(mutual) => Some(&mut mutual.opened),
            Work::Probe(_) => None,
        }
    }
}

impl Agent {
    fn search(&self) -> Option<&Search> {
        self.hard_nat.as_ref()?.search.as_ref()
    }

    fn search_mut(&mut self) -> Option<&mut Search> {
        self.hard_nat.as_mut()?.search.as_mut()
    }

    /// What the peer's checks said of its NAT, if they did.
    fn told(&self) -> Option<NatMapping> {
        self.hard_nat.as_ref()?.told
    }

    fn hard_nat(&mut self) -> &mut HardNat {
        self.hard_nat.get_or_insert_default()
    }

    /// Something is known now that may make a search worth while.
    pub(super) fn expect_hard_nat(&mut self, now: Instant) {
        let known = self.session.streams.iter().any(|stream| stream.remote.is_some());
        if !self.does_hard_nats() || !known {
            return;
        }
        if let Some(Search { component, plan, .. }) = self.search() {
            // What is known now may make another search worth while.
            if self.plan(*component).is_ok_and(|better| better != *plan) {
                self.end_search(now, false);
            }
            return;
        }
        let relayed = self.component_to_search().is_some_and(|component| {
            self.session.streams.path(component).is_some_and(|path| path.selected.is_some())
        });
        let at = now + if relayed { AFTER_RELAY } else { AFTER_CHECKS };
        if self.timers.get(Timer::HardNat).is_none_or(|set| relayed && at < set) {
            self.timers.set(Timer::HardNat, at);
        }
    }

    /// A component that works, but not directly, or does not work.
    fn component_to_search(&self) -> Option<ComponentId> {
        let mut ids = self.session.streams.ids().into_iter();
        ids.find(|id| {
            self.is_alive(*id) && self.session.streams.remote(*id).is_some() && !self.has_direct(*id)
        })
    }

    fn has_direct(&self, component: ComponentId) -> bool {
        let best = self.session.list.best_valid(component).and_then(|id| self.session.list.get(id));
        best.is_some_and(|pair| pair.path == PathKind::Direct)
    }

    fn has_relayed(&self, component: ComponentId) -> bool {
        self.session.list.best_valid(component).is_some()
    }

    pub(super) fn handle_hard_nat_timeout(&mut self, now: Instant) {
        match self.search() {
            None => self.begin_search(now),
            Some(search) if self.has_direct(search.component) => self.end_search(now, true),
            Some(Search { paused: Some(until), .. }) if now < *until => {
                self.timers.set(Timer::HardNat, *until);
            }
            Some(Search { plan, .. }) if self.local.sockets.get(&plan.socket()).is_none() => {
                self.end_search(now, false);
            }
            Some(Search { work: Work::Open(_), .. }) => self.go_on_opening(now),
            Some(Search { work: Work::Probe(_), .. }) => self.go_on_probing(now),
            Some(Search { work: Work::Mutual(_), .. }) => self.go_on_mutually(now),
        }
    }

    fn begin_search(&mut self, now: Instant) {
        let Some(component) = self.component_to_search() else { return };
        let plan = match self.plan(component) {
            Ok(plan) => plan,
            Err(Off::BothAreHard) => return self.ask_filter(now, component),
            Err(_) => return,
        };
        let rests = |(tried, at): (Plan, Instant)| tried == plan && now < at + REST;
        if !self.hard_nat().tried.is_some_and(rests) {
            self.begin(now, component, plan);
        }
    }

    fn begin(&mut self, now: Instant, component: ComponentId, plan: Plan) {
        let work = match plan {
            Plan::Open { beside, target } => Work::Open(self.new_opened(beside, target, now)),
            Plan::Probe { peer, .. } => Work::Probe(self.new_probing(peer)),
            Plan::Mutual { peer, .. } => Work::Mutual(self.new_mutual(now, component, peer)),
        };
        let search = Search { component, plan, begun: now, paused: None, work };
        self.hard_nat().search = Some(search);
        self.hard_nat().outcome = None;
        self.timers.set(Timer::HardNat, now);
    }

    /// A pair works directly, or all was done that is worth while.
    fn end_search(&mut self, now: Instant, found: bool) {
        let words = self.search_words();
        self.close_opened();
        self.timers.cancel(Timer::HardNat);
        let hard_nat = self.hard_nat();
        let Some(search) = hard_nat.search.take() else { return };
        let after = now.saturating_duration_since(search.begun).as_secs_f64();
        hard_nat.outcome = words.map(|words| match found {
            true => format!("{words}; a direct path was found after {after:.1} s"),
            false => format!("{words}; given up after {after:.1} s"),
        });
        hard_nat.tried = (!found).then_some((search.plan, now));
        // Another component may need one too.
        self.expect_hard_nat(now);
    }

    /// The session is over, or the agent.
    pub(super) fn stop_hard_nat(&mut self) {
        self.close_opened();
        self.timers.cancel(Timer::HardNat);
        if let Some(hard_nat) = &mut self.hard_nat {
            (hard_nat.search, hard_nat.told) = (None, None);
        }
    }

    /// A direct pair has come to work.
    pub(super) fn hard_nat_succeeded(&mut self, now: Instant, component: ComponentId) {
        if self.search().is_some_and(|search| search.component == component) && self.has_direct(component) {
            self.end_search(now, true);
        }
    }

    /// A check of the peer's came directly: what comes of it is waited for.
    pub(super) fn hard_nat_heard(&mut self, now: Instant, component: ComponentId) {
        if let Some(search) = self.search_mut().filter(|search| search.component == component) {
            search.paused = Some(now + PAUSE);
            self.timers.set(Timer::HardNat, now + PAUSE);
        }
    }

    /// A check without a pair: for a port that may be none of the peer's, or to have a mapping made.
    fn write_bare_check(&mut self, component: ComponentId, socket: SocketId) -> Option<Vec<u8>> {
        let id = self.transaction_id();
        let remote = self.session.streams.remote(component)?;
        let local_preference = self.local.sockets.get(&socket)?.local_preference;
        let check = message::Check {
            id,
            username: &remote.username,
            priority: priority(CandidateKind::PeerReflexive, local_preference, component),
            role: self.role,
            tie_breaker: self.tie_breaker,
            nominate: false,
            nomination: None,
            mapping: None,
        };
        Some(check.write(&remote.key))
    }

    /// What a check tells the peer of this side's NAT, if it knows what that is.
    pub(super) fn mapping_to_tell(&self, component: ComponentId) -> Option<NatMapping> {
        if !self.does_hard_nats() || !self.peer_knows_hard_nats() {
            return None;
        }
        if let Some(view) = self.mutual_view() {
            return Some(view);
        }
        let ours = [true, false].into_iter().find_map(|ipv4| self.local_front(component, ipv4))?;
        let socket = self.local.sockets.get(&ours.socket)?;
        let port = socket.newest_mapping().map_or(0, |newest| newest.mapped.port());
        Some(self.with_filter(ours.socket, socket.behaviour().attribute(0, port)))
    }

    /// Tells it at once, by a check on the pair that works.
    fn tell_mapping(&mut self, now: Instant, component: ComponentId) {
        if let Some(pair) = self.session.list.best_valid(component) {
            self.session.list.trigger(pair);
            self.pump(now);
        }
    }

    /// A check of the peer's told of its NAT.
    pub(super) fn take_mapping(&mut self, now: Instant, told: NatMapping) {
        if !self.does_hard_nats() {
            return;
        }
        let news = self.hard_nat().told.replace(told) != Some(told);
        if told.round > 0 {
            self.take_round(now, told);
        }
        if news {
            self.expect_hard_nat(now);
        }
    }

    /// What the peer is told of a candidate's mapping.
    pub(super) fn mapping_extension(
        &self,
        id: super::local::LocalId,
        guess: Option<Guess>,
    ) -> Option<String> {
        let local = self.local.get(id).filter(|_| self.does_hard_nats())?;
        let Route::Socket(socket) = local.route else { return None };
        let reflexive = local.candidate.kind == CandidateKind::ServerReflexive;
        let public = local.candidate.address.ip().is_some_and(|address| is_public(address.ip()));
        match guess {
            Some(Guess::Predicted(_)) => Some(PREDICTED.to_owned()),
            _ if reflexive || public => Some(self.local.sockets.get(&socket)?.behaviour().to_string()),
            _ => None,
        }
    }

    /// Whether a pair is not worth a check: a port that was guessed for what comes directly, by whom every check moves on.
    pub(super) fn is_useless_guess(&self, route: Route, remote: super::remote::RemoteId) -> bool {
        let predicted = self.session.get(remote).is_some_and(is_predicted);
        predicted
            && match route {
                Route::Relay(_) | Route::Tcp(..) => true,
                Route::Socket(id) => {
                    self.local.sockets.get(&id).is_some_and(|socket| socket.behaviour().is_dependent())
                }
            }
    }

    /// What was done, is done or why nothing is.
    pub(super) fn hard_nat_words(&self) -> Option<String> {
        let hard_nat = self.hard_nat.as_ref();
        if let Some(words) = self.search_words() {
            return Some(words);
        }
        if let Some(outcome) = hard_nat.and_then(|hard_nat| hard_nat.outcome.clone()) {
            return Some(outcome);
        }
        let component = self.component_to_search()?;
        match self.plan(component) {
            Ok(plan) => {
                Some(format!("{}: it begins when ordinary checks have had their chance", plan.name()))
            }
            Err(why) => Some(why.to_string()),
        }
    }

    fn search_words(&self) -> Option<String> {
        let search = self.search()?;
        let name = search.plan.name();
        Some(match &search.work {
            Work::Open(opened) => {
                let refused =
                    opened.refused.as_ref().map_or(String::new(), |why| format!(" (no more: {why})"));
                format!(
                    "{name}: {} sockets opened here{refused}, {} checks sent to {}",
                    opened.made, opened.sent, opened.target
                )
            }
            Work::Probe(probing) => {
                format!("{name}: {} checks sent to ports of {}", probing.sent, search.plan.peer())
            }
            Work::Mutual(mutual) => {
                format!(
                    "{name}: round {}, {} checks sent to {}",
                    mutual.round,
                    mutual.opened.sent,
                    search.plan.peer()
                )
            }
        })
    }

    fn close_opened(&mut self) {
        let Some(opened) = self.search_mut().and_then(Search::opened_mut) else { return };
        let closed: Vec<_> = std::mem::take(&mut opened.sockets).into_keys().collect();
        self.out.actions.extend(closed.into_iter().map(|socket| Action::CloseSocket { socket }));
    }
}

/// Whether an address is one of the internet's: nothing else is ever probed. Those for documentation count as such, since
/// nobody is there to be harmed and networks for tests use them.
pub(super) fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => realm_v4(ip) == Realm::Global && !is_no_hosts(ip),
        IpAddr::V6(ip) => {
            let local = ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local();
            !(local || ip.is_unspecified() || ip.is_multicast())
        }
    }
}
