//! Between the sessions of a node and its [`Signalling`].

use std::collections::{BTreeMap, VecDeque};

use rand::TryRngCore;
use rand::rngs::OsRng;
use tokio::sync::{mpsc, watch};

use crate::identity::{NodeId, NodeKey};
use crate::session::{Body, ByeReason, SessionId, SessionMessage};
use crate::signalling::{IceServer, SignalEvent, Signalling, UndeliverableReason};

/// Messages that wait for one session. A session reads at once what it gets; one that does not loses messages, as a
/// carrier may.
const WAITING: usize = 64;

/// Sessions at a time.
const MAX_SESSIONS: usize = 4096;

/// Ids that are remembered of sessions that have ended, so that a repeated offer opens nothing.
const REMEMBERED: usize = 4096;

/// What sessions ask of the switch.
#[derive(Debug)]
pub(super) enum Control {
    Open { session: SessionId, peer: NodeId, inbox: mpsc::Sender<Inbound> },
    Send { session: SessionId, body: Body },
    Close { session: SessionId },
}

/// What the switch tells a session.
#[derive(Debug)]
pub(super) enum Inbound {
    Message(Body),
    Undeliverable(UndeliverableReason),
}

/// A session's end of the switch. Dropped, the session is forgotten.
#[derive(Debug)]
pub(super) struct Link {
    session: SessionId,
    pub(super) peer: NodeId,
    control: mpsc::Sender<Control>,
    inbox: mpsc::Receiver<Inbound>,
}

impl Link {
    /// Opens a session of this node's own. `None` if the switch has ended.
    pub(super) async fn open(
        control: &mpsc::Sender<Control>,
        session: SessionId,
        peer: NodeId,
    ) -> Option<Link> {
        let (sender, inbox) = mpsc::channel(WAITING);
        control.send(Control::Open { session, peer, inbox: sender }).await.ok()?;
        Some(Link { session, peer, control: control.clone(), inbox })
    }

    /// Sends to the peer; best effort, as signalling is.
    pub(super) async fn send(&self, body: Body) {
        // When the switch has ended, `recv` says so.
        let _ = self.control.send(Control::Send { session: self.session, body }).await;
    }

    /// The next of the peer's messages; `None` if signalling has ended. Cancel safe.
    pub(super) async fn recv(&mut self) -> Option<Inbound> {
        self.inbox.recv().await
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let (control, session) = (self.control.clone(), self.session);
        if let Err(mpsc::error::TrySendError::Full(close)) = control.try_send(Control::Close { session })
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { control.send(close).await.ok() });
        }
    }
}

/// Another node's offer, and the link to answer by.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) link: Link,
    pub(super) body: Body,
}

/// Another node's wish to know of this node's network.
#[derive(Debug)]
pub(super) struct Inquiry {
    pub(super) link: Link,
}

/// What other nodes open.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) offers: mpsc::Sender<Offer>,
    pub(super) inquiries: mpsc::Sender<Inquiry>,
}

struct Switch<S> {
    key: NodeKey,
    signalling: S,
    control: mpsc::WeakSender<Control>,
    opened: Opened,
    sessions: BTreeMap<SessionId, (NodeId, mpsc::Sender<Inbound>)>,
    ended: VecDeque<SessionId>,
}

/// Runs until signalling has ended, or nobody is left who could use it.
pub(super) async fn run<S: Signalling>(
    key: NodeKey,
    signalling: S,
    mut controls: mpsc::Receiver<Control>,
    control: mpsc::WeakSender<Control>,
    opened: Opened,
    servers: watch::Sender<Vec<IceServer>>,
) {
    let mut switch =
        Switch { key, signalling, control, opened, sessions: BTreeMap::new(), ended: VecDeque::new() };
    loop {
        tokio::select! {
            event = switch.signalling.recv() => match event {
                Some(event) => switch.handle_event(event),
                None => return,
            },
            control = controls.recv() => match control {
                Some(control) => switch.handle_control(control),
                None => return,
            },
        }
        let latest = switch.signalling.ice_servers();
        servers.send_if_modified(|known| std::mem::replace(known, latest.clone()) != latest);
    }
}

impl<S: Signalling> Switch<S> {
    fn handle_control(&mut self, control: Control) {
        match control {
            Control::Open { session, peer, inbox } => {
                self.sessions.insert(session, (peer, inbox));
            }
            Control::Send { session, body } => {
                if let Some((peer, _)) = self.sessions.get(&session) {
                    self.send(*peer, session, body);
                }
            }
            Control::Close { session } => {
                if self.sessions.remove(&session).is_some() {
                    self.remember(session);
                }
            }
        }
    }

    fn handle_event(&mut self, event: SignalEvent) {
        match event {
            SignalEvent::Message { from, payload } => match SessionMessage::open(&self.key, from, &payload) {
                Ok(message) => self.handle_message(from, message),
                Err(error) => tracing::debug!(from = %from.short(), %error, "a message that cannot be read"),
            },
            SignalEvent::Undeliverable { to, reason } => {
                for (peer, inbox) in self.sessions.values() {
                    if *peer == to {
                        inbox.try_send(Inbound::Undeliverable(reason)).ok();
                    }
                }
            }
            SignalEvent::Online => tracing::info!("signalling works again"),
            SignalEvent::Offline { .. } => tracing::warn!("signalling is interrupted; trying to get it back"),
        }
    }

    fn handle_message(&mut self, from: NodeId, SessionMessage { session, body }: SessionMessage) {
        match self.sessions.get(&session) {
            Some((peer, inbox)) if *peer == from => {
                inbox.try_send(Inbound::Message(body)).ok();
            }
            Some(_) => tracing::debug!(from = %from.short(), "a message about another node's session"),
            None if matches!(body, Body::Offer { .. } | Body::Diagnose) => self.open(from, session, body),
            None => {}
        }
    }

    /// Opens a session that another node has begun.
    fn open(&mut self, from: NodeId, session: SessionId, body: Body) {
        let Some(control) = self.control.upgrade() else { return };
        if self.ended.contains(&session) {
            return;
        }
        let (sender, inbox) = mpsc::channel(WAITING);
        let link = Link { session, peer: from, control, inbox };
        let room = self.sessions.len() < MAX_SESSIONS;
        self.sessions.insert(session, (from, sender));
        let taken = room
            && match body {
                Body::Diagnose => self.opened.inquiries.try_send(Inquiry { link }).is_ok(),
                body => self.opened.offers.try_send(Offer { link, body }).is_ok(),
            };
        if !taken {
            self.send(from, session, Body::Bye { reason: ByeReason::Busy });
            self.sessions.remove(&session);
            self.remember(session);
        }
    }

    fn remember(&mut self, session: SessionId) {
        if self.ended.len() == REMEMBERED {
            self.ended.pop_front();
        }
        self.ended.push_back(session);
    }

    fn send(&mut self, to: NodeId, session: SessionId, body: Body) {
        let mut seed = [0; 32];
        if OsRng.try_fill_bytes(&mut seed).is_err() {
            tracing::error!("the system's random number generator fails");
            return;
        }
        match (SessionMessage { session, body }).seal(&self.key, to, &seed) {
            Ok(sealed) => {
                if let Err(error) = self.signalling.send(to, sealed) {
                    tracing::warn!(to = %to.short(), %error, "a message could not be sent");
                }
            }
            Err(error) => tracing::error!(%error, "a message of ours is not one"),
        }
    }
}
