//! The handle of an agent that runs.

use std::sync::Arc;

use thirl_common::uri::Host;
use tokio::sync::{broadcast, watch};

use super::builder::Builder;
use super::description::Description;
use super::interfaces::LocalAddress;
use super::now;
use super::path::{Path, PathClosed};
use super::shared::{Lifeline, Progress, Shared};
use super::watch::HostAddresses;
use crate::agent::{Credentials, CredentialsError, Event, Report, State};
use crate::candidate::{Candidate, CandidateSyntaxError};
use crate::sdp::IceDescription;
use crate::turn::TurnCredentials;

/// There is no path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nothing worked; the report says why.
    #[error("{0}")]
    Failed(Arc<Report>),
    /// The agent was closed.
    #[error("the agent was closed")]
    Closed,
}

/// An agent that runs in a task of its own. When this handle and all its paths are dropped, allocations on TURN servers
/// are given back and the task ends.
#[derive(Clone, Debug)]
pub struct IceAgent {
    shared: Arc<Shared>,
    lifeline: Arc<Lifeline>,
}

impl IceAgent {
    /// Begins.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(super) fn new(shared: Arc<Shared>) -> IceAgent {
        let lifeline = Arc::new(Lifeline(Arc::clone(&shared)));
        IceAgent { shared, lifeline }
    }

    /// What to tell the peer: credentials, and the candidates that were found so far.
    pub fn description(&self) -> Description {
        Description::of(&self.shared.lock().agent)
    }

    /// Restarts ICE: the description is for the peer, which answers with its own as
    /// [`set_remote`](IceAgent::set_remote) takes it. Paths stay as they are until the new session has selected a pair. A peer
    /// that restarts is told by [`Event::RemoteRestarted`] after its description was set; it waits for this side's
    /// [`description`](IceAgent::description).
    pub fn restart(&self) -> Result<Description, PathClosed> {
        let over = self.shared.with_agent(|agent| {
            let over = is_over(agent.state());
            if !over {
                agent.restart(now());
            }
            over
        });
        if over { Err(super::path::closed_now(&self.shared)) } else { Ok(self.description()) }
    }

    /// Waits until gathering is complete.
    pub async fn gathered(&self) {
        self.wait(|progress| progress.gathered || progress.state == State::Closed).await;
    }

    /// The candidates one by one, from the first on, as they are found.
    pub fn local_candidates(&self) -> LocalCandidates {
        LocalCandidates {
            shared: Arc::clone(&self.shared),
            progress: self.shared.progress(),
            told: Vec::new(),
            complete: false,
        }
    }

    /// All that the peer has to tell: its credentials, and its candidates, after which there will be no more. Candidates
    /// that cannot be used are passed over, and stand in the report.
    pub fn set_remote(&self, description: &Description) -> Result<(), CredentialsError> {
        self.shared.with_agent(|agent| description.tell_capabilities(agent, now()));
        self.set_remote_credentials(&description.ufrag, &description.pwd)?;
        for line in &description.candidates {
            if let Err(error) = self.add_remote_candidate(line) {
                self.shared.with_agent(|agent| agent.note(format!("a candidate of the peer's: {error}")));
            }
        }
        self.set_remote_end_of_candidates();
        Ok(())
    }

    /// What to tell the peer in SDP: as [`description`](IceAgent::description), with what this side can do and whether
    /// there will be more candidates.
    pub fn sdp(&self) -> IceDescription {
        IceDescription::of(&self.shared.lock().agent)
    }

    /// What the peer has told in SDP, of its first data stream. There may be more candidates unless it says that there are
    /// not.
    pub fn set_remote_sdp(&self, description: &IceDescription) -> Result<(), CredentialsError> {
        self.shared.with_agent(|agent| agent.set_remote_capabilities(now(), description.capabilities()));
        let Some(stream) = description.streams.first() else { return Ok(()) };
        if let Some(Credentials { ufrag, pwd }) = &stream.credentials {
            self.set_remote_credentials(ufrag, pwd)?;
        }
        for candidate in &stream.candidates {
            self.shared.add_remote_candidate(candidate.clone());
        }
        if stream.end_of_candidates {
            self.set_remote_end_of_candidates();
        }
        Ok(())
    }

    /// The peer's credentials alone; its candidates come one by one.
    pub fn set_remote_credentials(&self, ufrag: &str, pwd: &str) -> Result<(), CredentialsError> {
        let credentials = Credentials { ufrag: ufrag.to_owned(), pwd: pwd.to_owned() };
        self.shared.with_agent(|agent| agent.set_remote_credentials(now(), credentials))
    }

    /// A candidate of the peer's, at any time. Names of mDNS (`.local`) are looked up first.
    pub fn add_remote_candidate(&self, line: &str) -> Result<(), CandidateSyntaxError> {
        let candidate = Candidate::parse(line)?;
        self.shared.add_remote_candidate(candidate);
        Ok(())
    }

    /// The peer will tell no more candidates.
    pub fn set_remote_end_of_candidates(&self) {
        self.shared.with_agent(|agent| agent.set_remote_end_of_candidates(now()));
    }

    /// Whether this side's mapping depends on the destination, for the peer's
    /// [`set_remote_hint`](IceAgent::set_remote_hint).
    pub fn local_nat_hint(&self) -> Option<bool> {
        self.shared.lock().agent.local_nat_hint()
    }

    /// What the peer's [`local_nat_hint`](IceAgent::local_nat_hint) said.
    pub fn set_remote_hint(&self, mapping_depends_on_destination: bool) {
        self.shared.with_agent(|agent| agent.set_remote_hint(now(), mapping_depends_on_destination));
    }

    /// New credentials for the TURN servers of this host, as it stands in their URIs, because the old ones expire. Other
    /// allocations are made with them, and those that there are live until the server refuses to refresh them.
    pub fn set_turn_credentials(&self, host: &Host, credentials: &TurnCredentials) {
        self.shared.with_agent(|agent| agent.set_turn_credentials(now(), host, credentials));
    }

    /// Waits until a pair is nominated, or nothing is left to try.
    pub async fn connect(&self) -> Result<Path, ConnectError> {
        let ready = |progress: &Progress| progress.selected.is_some() || is_over(progress.state);
        self.path_when(ready).await
    }

    /// Waits until some pair works, which may come before the nomination: data may flow at once, and the path follows to
    /// the pair that is nominated.
    pub async fn connect_early(&self) -> Result<Path, ConnectError> {
        let ready = |progress: &Progress| !matches!(progress.state, State::New | State::Checking);
        self.path_when(ready).await
    }

    /// This host's addresses are these from now on, for an agent that was given its
    /// [`addresses`](Builder::addresses): new ones become candidates, and what stood on others is given up.
    pub fn set_addresses(&self, addresses: impl IntoIterator<Item = LocalAddress>) {
        self.shared.set_addresses(&HostAddresses::given(addresses));
    }

    /// How far the agent has come.
    pub fn state(&self) -> State {
        self.shared.lock().agent.state()
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.events()
    }

    /// What has happened so far, and why.
    pub fn report(&self) -> Report {
        self.shared.lock().agent.report()
    }

    /// Closes the agent and its paths, whoever else holds them.
    pub async fn close(&self) {
        self.shared.close();
        self.wait(|progress| progress.state == State::Closed).await;
        self.shared.ended().await;
    }

    async fn path_when(&self, ready: impl FnMut(&Progress) -> bool) -> Result<Path, ConnectError> {
        let progress = self.wait(ready).await;
        match (progress.state, progress.failure) {
            (State::Failed, Some(report)) => Err(ConnectError::Failed(report)),
            (State::Failed | State::Closed, _) => Err(ConnectError::Closed),
            _ => Ok(Path::new(Arc::clone(&self.shared), Arc::clone(&self.lifeline))),
        }
    }

    async fn wait(&self, ready: impl FnMut(&Progress) -> bool) -> Progress {
        let mut progress = self.shared.progress();
        // The sender lives as long as this handle.
        match progress.wait_for(ready).await {
            Ok(progress) => progress.clone(),
            Err(_) => self.shared.progress().borrow().clone(),
        }
    }
}

fn is_over(state: State) -> bool {
    matches!(state, State::Failed | State::Closed)
}

/// Candidates to tell the peer, as they are found.
#[derive(Debug)]
pub struct LocalCandidates {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    told: Vec<String>,
    /// Whether it was said that gathering is complete.
    complete: bool,
}

impl LocalCandidates {
    /// The next one, as a line; `None` when gathering is complete. Asked on, it waits for those that come later, from routers
    /// and new networks, and returns `None` again when the agent has ended. May be dropped at any time and called again.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            let Progress { state, gathered, .. } = *self.progress.borrow_and_update();
            if let Some(line) = self.untold() {
                self.told.push(line.clone());
                return Some(line);
            }
            if is_over(state) || gathered && !std::mem::replace(&mut self.complete, true) {
                return None;
            }
            self.progress.changed().await.ok()?;
        }
    }

    fn untold(&self) -> Option<String> {
        let core = self.shared.lock();
        core.agent.local_candidates().map(ToString::to_string).find(|line| !self.told.contains(line))
    }
}
