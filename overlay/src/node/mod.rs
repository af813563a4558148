//! A node: dials others by key and is dialled.
//!
//! The way of a dial, and the order to read it in:
//!
//! 1. [`Node`]: `dial` and `accept`.
//! 2. `switch`: one task between the node's sessions and [`Signalling`]: seals, opens, and knows whose a message is.
//! 3. `session`: one task for each session: descriptions and candidates to and fro, for as long as the path lives.
//! 4. [`Connection`]: the path, and why it is as it is.
//! 5. `inquiry`: what two nodes tell each other of their networks.

mod connection;
mod error;
mod inquiry;
mod session;
mod switch;

pub use connection::{Connection, PathDescription};
pub use error::{DialError, InquireError};

use std::net::SocketAddr;
use std::time::Duration;

use rand::TryRngCore;
use rand::rngs::OsRng;
use thirl_ice_agent::agent::{Policy, Role};
use thirl_ice_agent::driver::{IceAgent, Outward};
use thirl_ice_agent::nat::{DiagnoseError, Event, Facts, Options, Report};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::identity::{NodeId, NodeKey};
use crate::session::{Body, SessionId};
use crate::signalling::{IceServer, Signalling};
use inquiry::Manners;
use session::{Outcome, Pump};
use switch::{Control, Link, Offer, Opened};

/// Offers that wait to be accepted; more are refused as busy.
const WAITING_OFFERS: usize = 32;

/// How long a dialled node may take to answer the offer. Its own gathering is not waited for.
const ANSWER_DEADLINE: Duration = Duration::from_secs(15);

/// By which ways paths may go.
#[derive(Clone, Debug)]
struct Ways {
    policy: Policy,
    outward: Outward,
}

/// A node of the overlay that is reachable through some [`Signalling`]. When it is dropped, it can no longer be dialled;
/// connections live on.
#[derive(Debug)]
pub struct Node {
    id: NodeId,
    ways: Ways,
    manners: watch::Sender<Manners>,
    control: mpsc::Sender<Control>,
    offers: mpsc::Receiver<Offer>,
    ice_servers: watch::Receiver<Vec<IceServer>>,
}

impl Node {
    /// Starts the node. To be called within a tokio runtime.
    pub fn start<S: Signalling + 'static>(key: NodeKey, signalling: S) -> Node {
        let id = key.id();
        let (control, controls) = mpsc::channel(64);
        let (offered, offers) = mpsc::channel(WAITING_OFFERS);
        let (inquired, inquiries) = mpsc::channel(inquiry::WAITING);
        let opened = Opened { offers: offered, inquiries: inquired };
        let (servers, ice_servers) = watch::channel(signalling.ice_servers());
        let (manners, told_manners) = watch::channel(Manners::default());
        tokio::spawn(switch::run(key, signalling, controls, control.downgrade(), opened, servers));
        tokio::spawn(inquiry::answer(inquiries, told_manners, ice_servers.clone()));
        let ways = Ways { policy: Policy::All, outward: Outward::default() };
        Node { id, ways, manners, control, offers, ice_servers }
    }

    /// Who this is.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Which candidates may be used from now on.
    pub fn set_policy(&mut self, policy: Policy) {
        self.ways.policy = policy;
        self.manners.send_modify(|manners| manners.relay_only = policy == Policy::Relay);
    }

    /// How streams to relays leave this host from now on.
    pub fn set_outward(&mut self, outward: Outward) {
        self.ways.outward = outward;
    }

    /// Whether other nodes that ask are told what the network of this one does; it is measured for them, but not more than
    /// once a minute. Not unless it is set.
    pub fn set_diagnosis(&mut self, allowed: bool) {
        self.manners.send_modify(|manners| manners.tells = allowed);
    }

    /// Measures the network of this node with the STUN servers that signalling offers, and with `others`. The facts are
    /// what another node would be told.
    pub async fn diagnose(
        &self,
        others: &[SocketAddr],
        options: Options,
        progress: impl Fn(Event),
    ) -> Result<(Report, Facts), DiagnoseError> {
        let servers = self.ice_servers.borrow().clone();
        let relay_only = self.ways.policy == Policy::Relay;
        inquiry::measure(&servers, others, options, relay_only, progress).await
    }

    /// Asks another node what its network does, which it measures for that.
    pub async fn inquire(&self, of: NodeId) -> Result<Facts, InquireError> {
        let session = random().map_err(|_| InquireError::NoRandomness)?;
        let link = Link::open(&self.control, SessionId::from_bytes(session), of).await;
        inquiry::ask(link.ok_or(InquireError::SignallingEnded)?).await
    }

    /// Opens a path to another node.
    pub async fn dial(&self, to: NodeId) -> Result<Connection, DialError> {
        let session = SessionId::from_bytes(random()?);
        let link = Link::open(&self.control, session, to).await.ok_or(DialError::SignallingEnded)?;
        let servers = self.ice_servers.borrow().clone();
        open(link, to, Role::Controlling, None, &self.ways, &servers).await
    }

    /// Waits for another node's offer; `None` when signalling has ended. Cancel safe.
    pub async fn accept(&mut self) -> Option<Incoming> {
        self.offers.recv().await.map(Incoming)
    }

    /// Accepts an offer and opens the path.
    ///
    /// Takes as long as connecting takes; a node that serves many runs it in a task of its own, by [`Node::acceptor`].
    pub async fn answer(&self, incoming: Incoming) -> Result<Connection, DialError> {
        self.acceptor().answer(incoming).await
    }

    /// What accepts offers apart from the node, in other tasks.
    pub fn acceptor(&self) -> Acceptor {
        Acceptor { ways: self.ways.clone(), ice_servers: self.ice_servers.clone() }
    }
}

/// Another node's wish for a path.
#[derive(Debug)]
pub struct Incoming(Offer);

impl Incoming {
    /// Who it is. Proved: the offer was sealed by this key.
    pub fn peer(&self) -> NodeId {
        self.0.link.peer
    }
}

/// Accepts offers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Acceptor {
    ways: Ways,
    ice_servers: watch::Receiver<Vec<IceServer>>,
}

impl Acceptor {
    /// As [`Node::answer`].
    pub async fn answer(&self, incoming: Incoming) -> Result<Connection, DialError> {
        let Incoming(Offer { link, body }) = incoming;
        let peer = link.peer;
        let servers = self.ice_servers.borrow().clone();
        open(link, peer, Role::Controlled, Some(body), &self.ways, &servers).await
    }
}

/// Starts an agent, tells the other side of it, and waits for the path. Meanwhile and afterwards the session's task carries
/// candidates to and fro.
async fn open(
    link: Link,
    peer: NodeId,
    role: Role,
    offer: Option<Body>,
    ways: &Ways,
    servers: &[IceServer],
) -> Result<Connection, DialError> {
    let agent = builder(role, ways, servers).start().await?;
    let (pump, mut outcome, guard) = Pump::new(link, agent.clone(), role);
    tokio::spawn(pump.run(offer));
    let answered = async {
        match outcome.wait_for(|outcome| *outcome != Outcome::Waiting).await.map(|outcome| outcome.clone()) {
            Ok(Outcome::Ended(why)) => Err(DialError::from(why)),
            _ => Ok(()),
        }
    };
    timeout(ANSWER_DEADLINE, answered).await.map_err(|_| DialError::NoAnswer { peer })??;
    let path = tokio::select! {
        path = agent.connect() => path?,
        ended = outcome.wait_for(|outcome| matches!(outcome, Outcome::Ended(_))) => match ended.map(|ended| ended.clone()) {
            Ok(Outcome::Ended(why)) => return Err(why.into()),
            _ => return Err(DialError::SignallingEnded),
        },
    };
    Ok(Connection::new(peer, agent, path, outcome, guard))
}

/// An agent's builder with the servers that signalling offers. What is no server's URI is passed over.
fn builder(role: Role, ways: &Ways, servers: &[IceServer]) -> thirl_ice_agent::driver::Builder {
    let mut builder = IceAgent::builder().role(role).policy(ways.policy).outward(ways.outward.clone());
    for server in servers {
        let uris = server.urls.iter().filter_map(|url| url.parse::<thirl_common::uri::ServerUri>().ok());
        for uri in uris {
            builder = match (&server.username, &server.credential) {
                (Some(username), Some(credential)) if uri.scheme.is_turn() => {
                    builder.turn(uri, username, credential)
                }
                _ if !uri.scheme.is_turn() && !uri.scheme.is_secure() => builder.stun(uri),
                _ => builder,
            };
        }
    }
    builder
}

fn random<const N: usize>() -> Result<[u8; N], DialError> {
    let mut bytes = [0; N];
    OsRng.try_fill_bytes(&mut bytes).map_err(|_| DialError::NoRandomness)?;
    Ok(bytes)
}
