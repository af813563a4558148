//! One session: what goes to and fro between two nodes for as long as their path lives.

use std::time::Duration;

use thirl_ice_agent::agent::Role;
use thirl_ice_agent::driver::IceAgent;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, interval_at};

use super::switch::{Inbound, Link};
use crate::session::{Body, ByeReason, Description, NatHint};
use crate::signalling::UndeliverableReason;

/// An offer that is not answered is sent again after so long.
const REPEAT_OFFER: Duration = Duration::from_secs(3);

/// How far a session has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The peer has not answered.
    Waiting,
    /// The peer has told its description, and what it knows of its NAT.
    Answered(NatHint),
    /// It is over.
    Ended(Ended),
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The peer is not connected to the server.
    Offline,
    /// The peer said so.
    ByPeer(ByeReason),
    /// There is no way to the peer any more.
    WithSignalling,
}

/// As long as it lives, so does the session.
#[derive(Debug)]
pub(super) struct Guard {
    _alive: oneshot::Sender<()>,
}

/// Carries descriptions and candidates between an agent and the peer's.
pub(super) struct Pump {
    link: Link,
    agent: IceAgent,
    role: Role,
    /// Names our description in what follows it.
    ufrag: String,
    /// What the peer was told in the description and need not be told again.
    told: Vec<String>,
    outcome: watch::Sender<Outcome>,
    abandoned: oneshot::Receiver<()>,
}

impl Pump {
    pub(super) fn new(link: Link, agent: IceAgent, role: Role) -> (Pump, watch::Receiver<Outcome>, Guard) {
        let (outcome, progress) = watch::channel(Outcome::Waiting);
        let (alive, abandoned) = oneshot::channel();
        let ufrag = agent.description().ufrag;
        let pump = Pump { link, agent, role, ufrag, told: Vec::new(), outcome, abandoned };
        (pump, progress, Guard { _alive: alive })
    }

    /// Runs until the guard is dropped, the peer ends the session, or signalling ends. A path that is open survives the
    /// last.
    pub(super) async fn run(mut self, offer: Option<Body>) {
        let mut candidates = self.agent.local_candidates();
        if let Some(offer) = offer {
            self.handle(offer);
        }
        self.describe().await;
        let (mut gathering, mut ended) = (true, false);
        let mut repeat = interval_at(Instant::now() + REPEAT_OFFER, REPEAT_OFFER);
        loop {
            let offering = self.role == Role::Controlling && self.is_unanswered();
            tokio::select! {
                // Signalling may lose messages.
                _ = repeat.tick(), if offering => self.describe().await,
                _ = &mut self.abandoned => {
                    self.link.send(Body::Bye { reason: ByeReason::Done }).await;
                    return;
                }
                candidate = candidates.next(), if !ended => match candidate {
                    Some(candidate) => self.tell(candidate).await,
                    None if gathering => {
                        gathering = false;
                        self.tell_the_end().await;
                    }
                    None => ended = true,
                },
                inbound = self.link.recv() => match inbound {
                    Some(Inbound::Message(Body::Bye { reason })) => {
                        self.end(Ended::ByPeer(reason));
                        self.agent.close().await;
                        return;
                    }
                    Some(Inbound::Message(body)) => {
                        let repeated = matches!(body, Body::Offer { .. });
                        self.handle(body);
                        if repeated {
                            self.describe().await;
                        }
                    }
                    Some(Inbound::Undeliverable(reason)) => {
                        if self.is_unanswered() && reason == UndeliverableReason::Offline {
                            self.end(Ended::Offline);
                            return;
                        }
                    }
                    None => {
                        if self.is_unanswered() {
                            self.end(Ended::WithSignalling);
                        }
                        return;
                    }
                },
            }
        }
    }

    fn is_unanswered(&self) -> bool {
        *self.outcome.borrow() == Outcome::Waiting
    }

    fn end(&self, why: Ended) {
        self.outcome.send_replace(Outcome::Ended(why));
    }

    /// The offer or the answer, with the candidates that there are already: those of this host.
    async fn describe(&mut self) {
        let thirl_ice_agent::driver::Description { ufrag, pwd, mut candidates, .. } =
            self.agent.description();
        candidates.truncate(crate::session::MAX_CANDIDATES);
        self.told.clone_from(&candidates);
        let description = Description { ufrag, pwd, candidates };
        let nat = self.hint();
        let body = match self.role {
            Role::Controlling => Body::Offer { description, nat },
            Role::Controlled => Body::Answer { description, nat },
        };
        self.link.send(body).await;
    }

    async fn tell(&mut self, candidate: String) {
        if !self.told.contains(&candidate) {
            let ufrag = self.ufrag.clone();
            self.link.send(Body::Candidates { ufrag, candidates: vec![candidate] }).await;
        }
    }

    async fn tell_the_end(&mut self) {
        let body = Body::EndOfCandidates { ufrag: self.ufrag.clone(), nat: self.hint() };
        self.link.send(body).await;
    }

    fn hint(&self) -> NatHint {
        NatHint {
            mapping_depends_on_destination: self.agent.local_nat_hint(),
            udp_blocked: self.agent.report().udp_blocked,
        }
    }

    fn handle(&mut self, body: Body) {
        match body {
            Body::Offer { description, nat } | Body::Answer { description, nat } => {
                if let Err(error) = self.agent.set_remote_credentials(&description.ufrag, &description.pwd) {
                    tracing::debug!(peer = %self.link.peer.short(), %error, "the peer's description is not used");
                    return;
                }
                self.take_hint(nat);
                self.take_candidates(&description.candidates);
            }
            Body::Candidates { candidates, .. } => self.take_candidates(&candidates),
            Body::EndOfCandidates { nat, .. } => {
                self.take_hint(nat);
                self.agent.set_remote_end_of_candidates();
            }
            // A restart is answered by dialling anew; a later build's messages are not known, and questions have sessions
            // of their own.
            Body::Restart { .. }
            | Body::Bye { .. }
            | Body::Diagnose
            | Body::Diagnosing { .. }
            | Body::Diagnosis { .. }
            | Body::Unknown => {}
        }
    }

    fn take_hint(&self, nat: NatHint) {
        if let Some(depends) = nat.mapping_depends_on_destination {
            self.agent.set_remote_hint(depends);
        }
        self.outcome.send_modify(|outcome| match outcome {
            Outcome::Answered(known) => {
                known.mapping_depends_on_destination =
                    nat.mapping_depends_on_destination.or(known.mapping_depends_on_destination);
                known.udp_blocked = nat.udp_blocked.or(known.udp_blocked);
            }
            Outcome::Waiting => *outcome = Outcome::Answered(nat),
            Outcome::Ended(_) => {}
        });
    }

    fn take_candidates(&self, candidates: &[String]) {
        for candidate in candidates {
            if let Err(error) = self.agent.add_remote_candidate(candidate) {
                tracing::debug!(peer = %self.link.peer.short(), %error, "a candidate of the peer's is not used");
            }
        }
    }
}
