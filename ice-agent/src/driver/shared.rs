//! What the task and the handles share: the agent, its sockets, and how far it has come.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, broadcast, watch};
use tokio::task::{AbortHandle, JoinHandle};

use super::addresses::Listener;
use super::builder::TcpPolicy;
use super::mdns::{MAX_LOOKUPS, Published};
use super::mux::Member;
use super::now;
use super::opened::Opened;
use super::queue::Queue;
use super::socket::Socket;
use super::stream::{Sent, Streams, Target};
use super::train::{Blocked, Outlet, Train};
use crate::agent::{Action, Agent, Event, ListenerId, Report, SelectedPair, SocketId, State, Via};

/// Events that a slow receiver may be behind.
const EVENTS: usize = 64;

/// The agent and what its packets leave by.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) agent: Agent,
    pub(super) sockets: BTreeMap<SocketId, Arc<Socket>>,
    /// Those that the agent has asked for, beside others.
    pub(super) opened: Opened,
    /// The names that the peer is told in place of addresses, if it is.
    pub(super) published: Option<Published>,
    /// Sockets that other agents use as well.
    pub(super) members: BTreeMap<SocketId, Member>,
    /// What had no room for data, for who wants to wait until it has.
    pub(super) full: Option<Outlet>,
    /// Whether the network is asked for the prefix of its NAT64 when it changes.
    pub(super) asks_nat64: bool,
    /// What asks it now.
    pub(super) nat64_search: Option<AbortHandle>,
    pub(super) streams: Streams,
    /// Where connections are made from and taken at.
    pub(super) tcp: TcpPolicy,
    pub(super) listeners: BTreeMap<ListenerId, Listener>,
}

/// How far the agent has come.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub(super) state: State,
    pub(super) gathered: bool,
    pub(super) selected: Option<SelectedPair>,
    pub(super) failure: Option<Arc<Report>>,
}

#[derive(Debug)]
pub(super) struct Shared {
    core: Mutex<Core>,
    /// Tells the task to look after the agent.
    pub(super) wake: Notify,
    /// Tells who asks routers for mappings that this host's addresses may be others.
    pub(super) addresses_changed: Notify,
    /// What the peer sent.
    pub(super) incoming: Queue,
    progress: watch::Sender<Progress>,
    /// Made for the first who listens: its room is three times an agent's.
    events: OnceLock<broadcast::Sender<Event>>,
    closing: Mutex<bool>,
    /// Where tasks for the agent run.
    pub(super) runtime: Handle,
    /// So many names of the peer's candidates may be looked up now.
    pub(super) lookups: Arc<Semaphore>,
    /// A task that ends some time after the agent is closed.
    beside: Mutex<Option<JoinHandle<()>>>,
}

/// The task ends when the last handle is gone.
#[derive(Debug)]
pub(super) struct Lifeline(pub(super) Arc<Shared>);

impl Drop for Lifeline {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Shared {
    /// Must be called within a tokio runtime.
    pub(super) fn new(agent: Agent, streams: Streams) -> Shared {
        let progress = Progress { state: agent.state(), gathered: false, selected: None, failure: None };
        Shared {
            core: Mutex::new(Core {
                agent,
                sockets: BTreeMap::new(),
                opened: Opened::default(),
                members: BTreeMap::new(),
                published: None,
                full: None,
                asks_nat64: false,
                nat64_search: None,
                streams,
                tcp: TcpPolicy::default(),
                listeners: BTreeMap::new(),
            }),
            wake: Notify::new(),
            addresses_changed: Notify::new(),
            incoming: Queue::default(),
            progress: watch::Sender::new(progress),
            events: OnceLock::new(),
            closing: Mutex::new(false),
            runtime: Handle::current(),
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
            beside: Mutex::new(None),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Core> {
        // An agent that panicked is as good as any other that misbehaves: its state machine goes on.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the agent do something, sends what comes of it, and wakes the task for the rest.
    pub(super) fn with_agent<R>(&self, act: impl FnOnce(&mut Agent) -> R) -> R {
        let result = {
            let mut core = self.lock();
            let result = act(&mut core.agent);
            let Core { agent, members, .. } = &mut *core;
            members.values_mut().for_each(|member| member.follow(&agent.local_credentials().ufrag));
            self.flush(&mut core);
            result
        };
        self.wake.notify_one();
        result
    }

    /// Sends what the agent has to send, does what it asks, and tells what happened. Hands back the datagrams for which
    /// their sockets have no room.
    pub(super) fn flush(&self, core: &mut Core) -> Vec<Blocked> {
        let mut blocked = Vec::new();
        loop {
            if let Some(transmit) = core.agent.poll_transmit() {
                let mut train = Train::new(transmit);
                let max_train = core.max_train(train.via);
                while let Some(transmit) = core.agent.poll_transmit() {
                    if let Some(other) = train.append(transmit, max_train) {
                        blocked.extend(send(core, std::mem::replace(&mut train, Train::new(other))));
                    }
                }
                blocked.extend(send(core, train));
            } else if let Some(action) = core.agent.poll_action() {
                act(core, &action);
            } else if let Some(event) = core.agent.poll_event() {
                self.tell(core, event);
            } else {
                return blocked;
            }
        }
    }

    fn tell(&self, core: &Core, event: Event) {
        self.progress.send_modify(|progress| match &event {
            // Who tells candidates looks whether there is another.
            Event::LocalCandidate(_) => {}
            Event::GatheringComplete => progress.gathered = true,
            // A failure is told with its report.
            Event::StateChanged(State::Failed)
            | Event::StreamFailed { .. }
            | Event::RemoteRestarted
            | Event::TokenWanted { .. }
            | Event::PathChanged { .. } => {}
            Event::StateChanged(state) => progress.state = *state,
            Event::Selected(selected) => progress.selected = Some(selected.clone()),
            Event::Failed(report) => {
                progress.state = State::Failed;
                progress.failure = Some(Arc::new((**report).clone()));
            }
        });
        if matches!(core.agent.state(), State::Failed | State::Closed) {
            self.incoming.close();
        }
        if let Some(events) = self.events.get() {
            // Nobody may listen any more.
            events.send(event).ok();
        }
    }

    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(super) fn events(&self) -> broadcast::Receiver<Event> {
        self.events.get_or_init(|| broadcast::Sender::new(EVENTS)).subscribe()
    }

    pub(super) fn close(&self) {
        *self.closing.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wake.notify_one();
    }

    /// A task of which [`Shared::ended`] waits for the end.
    pub(super) fn runs_beside(&self, task: JoinHandle<()>) {
        *self.beside.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    /// Waits until nothing runs any more, once the agent is closed.
    pub(super) async fn ended(&self) {
        let task = self.beside.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            // One that panicked has ended too.
            task.await.ok();
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        *self.closing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    /// The agent's own, or one that it shares.
    pub(super) fn socket(&self, id: SocketId) -> Option<&Arc<Socket>> {
        let own = self.sockets.get(&id).or_else(|| self.opened.get(id));
        own.or_else(|| self.members.get(&id).map(Member::socket))
    }

    /// So many datagrams may leave at one call.
    fn max_train(&self, via: Via) -> usize {
        match via {
            Via::Stream(_) => 1,
            Via::Socket(id) => self.socket(id).map_or(1, |socket| socket.max_train()),
        }
    }
}

fn send(core: &mut Core, train: Train) -> Option<Blocked> {
    match train.via {
        Via::Stream(stream) => match core.streams.send(stream, train.bytes) {
            Sent::Gone => None,
            Sent::Full(queue, bytes) => {
                Some(Blocked { outlet: Outlet::Stream(queue), train: Train { bytes, ..train } })
            }
        },
        Via::Socket(id) => {
            if let Some(member) = core.members.get(&id) {
                member.note_sent(train.to, &train.bytes, train.segment);
            }
            let socket = core.socket(id)?;
            match socket.try_send(train.to, &train.bytes, train.segment) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    Some(Blocked { outlet: Outlet::Socket(Arc::clone(socket)), train })
                }
                Err(error) if leads_nowhere(&error) => {
                    core.agent.transmit_failed(now(), train.via, train.to);
                    None
                }
                _ => None,
            }
        }
    }
}

/// Whether nothing sent from this socket to this address can ever arrive.
fn leads_nowhere(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, HostUnreachable, InvalidInput, NetworkUnreachable};
    matches!(error.kind(), AddrNotAvailable | HostUnreachable | InvalidInput | NetworkUnreachable)
}

fn act(core: &mut Core, action: &Action) {
    match action {
        Action::Connect { stream, server, host, by_name, transport, .. } => {
            let (server, transport, by_name) = (*server, *transport, *by_name);
            let nat64 = core.agent.nat64();
            let target = Target { server, host: host.clone(), by_name, transport, nat64 };
            core.streams.connect(*stream, target);
        }
        Action::ConnectTcp { stream, local, to, framing } => {
            core.streams.connect_from(*stream, *local, *to, *framing);
        }
        Action::Close { stream } => core.streams.close(*stream),
        Action::OpenSocket { beside } => core.open_beside(*beside),
        Action::CloseSocket { socket } => core.opened.close(*socket),
    }
}
