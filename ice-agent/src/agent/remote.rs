//! The other side: its credentials and candidates, and the checks that came before either was known.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use thirl_common::net::canonical;
use thirl_common::wire::IntegrityKey;

use super::check_list::CheckList;
use super::config::{Capabilities, Credentials, CredentialsError};
use super::event::{Route, State};
use super::pair::PairOrigin;
use super::stream::Streams;
use super::{Agent, Timer};
use crate::candidate::{
    Candidate, CandidateAddress, CandidateKind, CandidateTransport, ComponentId, TcpType,
};

/// More candidates than this are no honest peer's.
const MAX_REMOTE_CANDIDATES: usize = 128;
/// Addresses that checks came from without being told: an address-dependent NAT makes a few, more are not kept.
const MAX_PEER_REFLEXIVE: usize = 64;
/// After so many answers from other ports, checks from new ports are answered but not followed.
const MAX_ASYMMETRIC: u32 = 8;
/// Checks kept until the peer's credentials are known.
const MAX_EARLY_CHECKS: usize = 32;
/// Candidates that were passed over, for the report.
const MAX_SKIPPED: usize = 16;

/// The index of a remote candidate. Remote candidates are never taken off their list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RemoteId(u16);

/// What checks to and from the peer are signed with.
#[derive(Debug)]
pub(super) struct RemoteCredentials {
    pub(super) credentials: Credentials,
    pub(super) key: IntegrityKey,
    /// "remote ufrag:local ufrag", for checks that are sent.
    pub(super) username: String,
}

/// What a check of the peer's says of its pair.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    /// The priority of the peer-reflexive candidate that it may discover.
    pub(super) priority: u32,
    pub(super) use_candidate: bool,
    /// How many times the peer has nominated, if it renominates.
    pub(super) nomination: Option<u32>,
}

/// A check that was answered before the peer's credentials were known, so that none could be sent back.
#[derive(Debug)]
pub(super) struct EarlyCheck {
    pub(super) route: Route,
    pub(super) from: SocketAddr,
    pub(super) claim: Claim,
    /// The sender's ufrag, as the username said.
    pub(super) ufrag: String,
}

/// What a restart makes anew (RFC 8445, section 9).
#[derive(Debug)]
pub(super) struct Session {
    pub(super) local: Credentials,
    pub(super) local_key: IntegrityKey,
    pub(super) streams: Streams,
    /// The peer's, each with an address that is canonical.
    pub(super) candidates: Vec<Candidate>,
    pub(super) skipped: Vec<String>,
    /// What the peer said that it can do.
    pub(super) capabilities: Capabilities,
    /// Whether the peer's mapping depends on the destination, if it told.
    pub(super) hint: Option<bool>,
    pub(super) early: VecDeque<EarlyCheck>,
    pub(super) list: CheckList,
    /// How many answers came from another port than was asked, without one that came from the same. If both sides'
    /// mappings depend on the other's port, each packet comes from a new one, for ever.
    pub(super) asymmetric: BTreeMap<(Route, IpAddr), u32>,
    /// Whether the PAC timer has run out (RFC 8863, section 4).
    pub(super) patience_over: bool,
    /// Whether the peer, controlling, has sent a check that nominates nothing: then a nomination of its is deliberate. One of
    /// RFC 5245 may nominate with every check (section 8.1.1.2 there).
    pub(super) nominates_deliberately: bool,
}

impl Session {
    pub(super) fn new(local: Credentials, streams: &[u16]) -> Session {
        Session {
            local_key: IntegrityKey::new(local.pwd.as_bytes()),
            local,
            streams: Streams::new(streams),
            candidates: Vec::new(),
            skipped: Vec::new(),
            capabilities: Capabilities::default(),
            hint: None,
            early: VecDeque::new(),
            list: CheckList::default(),
            asymmetric: BTreeMap::new(),
            patience_over: false,
            nominates_deliberately: false,
        }
    }

    /// The session that a restart makes after this one. What the peer is like is not forgotten.
    pub(super) fn after(before: &Session, local: Credentials, streams: &[u16]) -> Session {
        let fresh = Session::new(local, streams);
        let (hint, capabilities) = (before.hint, before.capabilities);
        Session { hint, capabilities, list: CheckList::after(&before.list), ..fresh }
    }

    /// Whether each component has a selected pair.
    pub(super) fn is_complete(&self) -> bool {
        self.streams.components().all(|(_, component)| component.path.selected.is_some())
    }

    pub(super) fn get(&self, id: RemoteId) -> Option<&Candidate> {
        self.candidates.get(usize::from(id.0))
    }

    fn get_mut(&mut self, id: RemoteId) -> Option<&mut Candidate> {
        self.candidates.get_mut(usize::from(id.0))
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = RemoteId> + use<> {
        (0..=u16::MAX).take(self.candidates.len()).map(RemoteId)
    }

    /// What the next candidate will be called.
    fn next_id(&self) -> Option<RemoteId> {
        u16::try_from(self.candidates.len()).ok().map(RemoteId)
    }

    /// The first candidate with the same foundation.
    pub(super) fn first_alike(&self, id: RemoteId) -> Option<RemoteId> {
        let foundation = &self.get(id)?.foundation;
        let mut all = self.ids().zip(&self.candidates);
        all.find(|(_, known)| known.foundation == *foundation).map(|(id, _)| id)
    }

    pub(super) fn find(
        &self,
        component: ComponentId,
        transport: &CandidateTransport,
        address: SocketAddr,
    ) -> Option<RemoteId> {
        let same = |known: &Candidate| {
            known.address == CandidateAddress::Ip(address)
                && known.component == component
                && known.transport == *transport
        };
        self.ids().zip(&self.candidates).find(|(_, known)| same(known)).map(|(id, _)| id)
    }

    /// Keeps a check for later; one for each way it can have come.
    pub(super) fn keep_early(&mut self, check: EarlyCheck) {
        self.early.retain(|known| (known.route, known.from) != (check.route, check.from));
        if self.early.len() == MAX_EARLY_CHECKS {
            self.early.pop_front();
        }
        self.early.push_back(check);
    }

    /// Puts a candidate into a free place, or into that of one of its sort which is of no use any more: peers move from network
    /// to network.
    fn insert(&mut self, candidate: Candidate) -> Option<RemoteId> {
        let is_learnt = |known: &Candidate| known.kind == CandidateKind::PeerReflexive;
        let learnt = is_learnt(&candidate);
        let most = if learnt { MAX_PEER_REFLEXIVE } else { MAX_REMOTE_CANDIDATES };
        if self.candidates.iter().filter(|known| is_learnt(known) == learnt).count() < most {
            let id = self.next_id()?;
            self.candidates.push(candidate);
            return Some(id);
        }
        let stale =
            |(id, known): &(RemoteId, &Candidate)| is_learnt(known) == learnt && !self.list.is_of_use(*id);
        let (stale, _) = self.ids().zip(&self.candidates).find(stale)?;
        self.list.remove_pairs_of(stale);
        *self.get_mut(stale)? = candidate;
        Some(stale)
    }

    fn skip(&mut self, candidate: &Candidate, why: &str) {
        if self.skipped.len() < MAX_SKIPPED {
            self.skipped.push(format!("{candidate}: {why}"));
        }
    }
}

impl Agent {
    /// The peer's username fragment and password, for all data streams. Checks start when a pair can be formed. If they are
    /// others than before, the peer has restarted; [`Event::RemoteRestarted`](super::Event::RemoteRestarted) asks for an
    /// answer.
    pub fn set_remote_credentials(
        &mut self,
        now: Instant,
        remote: Credentials,
    ) -> Result<(), CredentialsError> {
        let streams = self.session.streams.indices();
        for (remote, &stream) in std::iter::repeat_n(remote, streams.len()).zip(&streams) {
            self.set_remote_credentials_of(now, stream, remote)?;
        }
        Ok(())
    }

    /// The peer's username fragment and password for one data stream, as peers have them that describe each by itself
    /// (RFC 8839, section 5.4). A stream that this agent has not is passed over.
    pub fn set_remote_credentials_of(
        &mut self,
        now: Instant,
        stream: u8,
        remote: Credentials,
    ) -> Result<(), CredentialsError> {
        remote.check()?;
        if self.state == State::Closed || self.knows_remote(stream, &remote) {
            return Ok(());
        }
        if self.session.streams.get_mut(stream).is_some_and(|known| known.remote.is_some()) {
            self.follow_restart(now);
        }
        let username = format!("{}:{}", remote.ufrag, self.session.local.ufrag);
        let key = IntegrityKey::new(remote.pwd.as_bytes());
        let Some(known) = self.session.streams.get_mut(stream) else { return Ok(()) };
        known.remote = Some(RemoteCredentials { credentials: remote, key, username });
        for component in known.components_mut().filter(|component| component.state == State::New) {
            component.state = State::Checking;
        }
        self.timers.set(Timer::Patience, now + self.config.timings.patience);
        self.expect_hard_nat(now);
        self.refresh_state();
        self.follow_early_checks(now);
        self.select_between_lites(now);
        self.pump(now);
        self.consider_failure(now);
        Ok(())
    }

    /// Whether these are a stream's credentials already, or those that a restart has made obsolete.
    fn knows_remote(&self, stream: u8, remote: &Credentials) -> bool {
        let sessions = [Some(&self.session), self.former.as_deref()].into_iter().flatten();
        let id = ComponentId::ONE.in_stream(stream);
        let mut known = sessions.filter_map(|session| session.streams.remote(id));
        known.any(|known| known.credentials == *remote)
    }

    /// Follows the checks that waited for credentials which have come.
    fn follow_early_checks(&mut self, now: Instant) {
        for check in std::mem::take(&mut self.session.early) {
            let component = self.local.component(check.route);
            match component.and_then(|component| self.session.streams.remote(component)) {
                None => self.session.keep_early(check),
                Some(remote) if remote.credentials.ufrag == check.ufrag => {
                    self.follow_check(now, check.route, check.from, check.claim);
                }
                Some(_) => {}
            }
        }
    }

    /// A candidate of the peer's, at any time. What this agent cannot use is passed over and stands in the report.
    pub fn add_remote_candidate(&mut self, now: Instant, mut candidate: Candidate) {
        let why = match (&candidate.address, &candidate.transport) {
            (CandidateAddress::Unresolved { .. }, _) => Some("its name is not resolved"),
            (_, CandidateTransport::Other(_)) => Some("its transport is not spoken here"),
            _ if self.session.streams.component(candidate.component).is_none() => {
                Some("there is no such component")
            }
            // The port of an active candidate says nothing (RFC 6544, section 4.5).
            (CandidateAddress::Ip(address), transport)
                if address.ip().is_unspecified()
                    || address.port() == 0 && transport.tcp_type() != Some(TcpType::Active) =>
            {
                Some("nothing can be there")
            }
            _ => None,
        };
        match (why, candidate.address.ip()) {
            (Some(why), _) => self.session.skip(&candidate, why),
            (None, Some(address)) => {
                let address = canonical(address);
                candidate.address = CandidateAddress::Ip(address);
                self.learn_remote(now, address, candidate);
            }
            (None, None) => {}
        }
        self.select_between_lites(now);
        self.pump(now);
    }

    /// The peer will tell no more candidates, of no data stream.
    pub fn set_remote_end_of_candidates(&mut self, now: Instant) {
        for stream in self.session.streams.indices() {
            self.set_remote_end_of_candidates_of(now, stream);
        }
    }

    /// The peer will tell no more candidates of one data stream.
    pub fn set_remote_end_of_candidates_of(&mut self, now: Instant, stream: u8) {
        if let Some(stream) = self.session.streams.get_mut(stream) {
            stream.end_of_candidates = true;
        }
        self.session.candidates.shrink_to_fit();
        self.evaluate_nomination(now);
        self.pump(now);
    }

    /// What the peer knows of its NAT: whether its mapping depends on the destination. With this side's own knowledge
    /// it tells whether waiting for a direct path is worth while, and says in the report why there was none.
    pub fn set_remote_hint(&mut self, now: Instant, mapping_depends_on_destination: bool) {
        self.session.hint = Some(mapping_depends_on_destination);
        self.evaluate_nomination(now);
        self.pump(now);
    }

    fn learn_remote(&mut self, now: Instant, address: SocketAddr, candidate: Candidate) {
        let known = self.session.find(candidate.component, &candidate.transport, address);
        let component = candidate.component;
        let remote = match known.and_then(|id| self.session.get_mut(id)) {
            // A peer-reflexive candidate turns out to be one that was on its way: its pairs stay as they are, only
            // their priority changes (RFC 8838, section 11.4). It may have been seen by a relay alone.
            Some(learnt) if learnt.kind == CandidateKind::PeerReflexive => {
                *learnt = candidate;
                self.reprioritise();
                self.refresh_selected(component);
                self.evaluate_nomination(now);
                known
            }
            // The same address a second time is redundant.
            Some(_) => None,
            None => {
                let inserted = self.session.insert(candidate.clone());
                if inserted.is_none() {
                    self.session.skip(&candidate, "there are too many");
                }
                inserted
            }
        };
        let Some(remote) = remote else { return };
        for route in self.routes(component) {
            self.form_pair(now, route, remote, PairOrigin::Candidates);
        }
        self.expect_hard_nat(now);
    }

    /// The candidate at an address that a check came from (RFC 8445, section 7.3.1.3).
    pub(super) fn peer_reflexive(
        &mut self,
        route: Route,
        from: SocketAddr,
        priority: u32,
    ) -> Option<RemoteId> {
        let component = self.local.component(route)?;
        if let Some(id) = self.session.find(component, &route.counterpart(), from) {
            return Some(id);
        }
        if self.session.asymmetric.get(&(route, from.ip())).is_some_and(|count| *count >= MAX_ASYMMETRIC) {
            return None;
        }
        let candidate = Candidate {
            foundation: String::new(),
            component,
            transport: route.counterpart(),
            priority,
            address: CandidateAddress::Ip(from),
            kind: CandidateKind::PeerReflexive,
            related: None,
            extensions: Vec::new(),
        };
        let id = self.session.insert(candidate)?;
        // "an arbitrary value, different from the foundations of all other remote candidates".
        self.session.get_mut(id)?.foundation = format!("prflx{}", id.0);
        Some(id)
    }
}
