//! An agent as C knows it: calls that do not wait, and a task that calls back.

use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rand::SeedableRng;
use rand::rngs::StdRng;
use thirl_common::uri::ServerUri;
use thirl_ice_agent::agent::{Credentials, Event, Policy, Role, SelectedPair, State};
use thirl_ice_agent::driver::{Builder, IceAgent, LocalAddress, Path, PathClosed, TrySendError};
use thirl_ice_agent::sdp::{IceDescription, StreamDescription};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{oneshot, watch};

/// So many threads call back and look after all agents of the process.
const THREADS: usize = 2;

/// What went wrong, with the header's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Error {
    Invalid = -1,
    System = -2,
    NotYet = -3,
    Gone = -4,
    Again = -5,
    TooLarge = -6,
    NoRoom = -7,
}

/// A server as C names it.
pub(crate) struct Server {
    pub(crate) uri: String,
    pub(crate) login: Option<(String, String)>,
}

/// What the agent is told.
pub(crate) struct Config {
    pub(crate) role: Role,
    pub(crate) policy: Policy,
    pub(crate) bind_address: Option<String>,
    pub(crate) servers: Vec<Server>,
}

/// What the agent tells.
pub(crate) enum Told<'a> {
    State(State),
    Candidate(&'a str),
    Gathered,
    Received(&'a [u8]),
}

/// Who is told. Called from one task only.
pub(crate) trait Callbacks: Send + Sync + 'static {
    fn tell(&self, agent: &Agent, told: &Told<'_>);
}

pub(crate) struct Agent {
    credentials: Credentials,
    stage: Mutex<Stage>,
    path: OnceLock<Path>,
    gathered: OnceLock<()>,
    /// Says to the task that its time is over, and hears when it is.
    ending: watch::Sender<bool>,
    task: Mutex<Option<oneshot::Receiver<()>>>,
}

enum Stage {
    /// What the peer has told is kept until there is an agent.
    Before {
        builder: Box<Builder>,
        told: Vec<FromPeer>,
    },
    Running(IceAgent),
    Failed,
}

enum FromPeer {
    Description(IceDescription),
    Candidate(String),
    EndOfCandidates,
}

impl Agent {
    pub(crate) fn new(config: Config) -> Result<Agent, Error> {
        let credentials = Credentials::generate(&mut StdRng::try_from_os_rng().map_err(|_| Error::System)?);
        let mut builder =
            IceAgent::builder().role(config.role).policy(config.policy).credentials(credentials.clone());
        for Server { uri, login } in config.servers {
            let uri: ServerUri = uri.parse().map_err(|_| Error::Invalid)?;
            builder = match login {
                None => builder.stun(uri),
                Some((username, password)) => builder.turn(uri, username, password),
            };
        }
        if let Some(address) = config.bind_address {
            let address: IpAddr = address.parse().map_err(|_| Error::Invalid)?;
            builder = builder.addresses([LocalAddress { address: (address, 0).into(), preference: u8::MAX }]);
        }
        Ok(Agent {
            credentials,
            stage: Mutex::new(Stage::Before { builder: Box::new(builder), told: Vec::new() }),
            path: OnceLock::new(),
            gathered: OnceLock::new(),
            ending: watch::Sender::new(false),
            task: Mutex::new(None),
        })
    }

    /// Starts the agent and the task that calls back.
    pub(crate) fn gather(self: &Arc<Self>, callbacks: impl Callbacks) -> Result<(), Error> {
        let runtime = runtime()?;
        let mut stage = self.stage();
        let Stage::Before { builder, told } = std::mem::replace(&mut *stage, Stage::Failed) else {
            return Err(Error::Invalid);
        };
        let agent = wait(runtime, builder.start()).map_err(|_| Error::System)?;
        for told in told {
            tell_agent(&agent, told)?;
        }
        *stage = Stage::Running(agent.clone());
        drop(stage);
        let (ended, has_ended) = oneshot::channel();
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(has_ended);
        let (this, ending) = (Arc::clone(self), self.ending.subscribe());
        runtime.spawn(async move {
            this.call_back(agent, callbacks, ending).await;
            ended.send(()).ok();
        });
        Ok(())
    }

    /// Tells everything that happens until the end.
    async fn call_back(&self, agent: IceAgent, callbacks: impl Callbacks, mut ending: watch::Receiver<bool>) {
        let mut events = agent.events();
        let mut candidates = agent.local_candidates();
        let mut told = State::New;
        // What happened before there were events to listen to.
        let mut state = Some(agent.state());
        loop {
            if let Some(state) = state.take().filter(|state| *state != told) {
                told = state;
                if matches!(state, State::Connected | State::Completed)
                    && self.path.get().is_none()
                    && let Ok(path) = agent.connect_early().await
                {
                    self.path.set(path).ok();
                }
                callbacks.tell(self, &Told::State(state));
            }
            tokio::select! {
                biased;
                ended = ending.wait_for(|ending| *ending) => {
                    drop(ended);
                    break;
                }
                event = events.recv() => match event {
                    Ok(Event::StateChanged(next)) => state = Some(next),
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => state = Some(agent.state()),
                    Err(RecvError::Closed) => break,
                },
                candidate = candidates.next(), if self.gathered.get().is_none() => match candidate {
                    Some(candidate) => callbacks.tell(self, &Told::Candidate(&candidate)),
                    None => {
                        self.gathered.set(()).ok();
                        callbacks.tell(self, &Told::Gathered);
                    }
                },
                Some(datagram) = receive(self.path.get(), told) => callbacks.tell(self, &Told::Received(&datagram)),
            }
        }
        agent.close().await;
    }

    pub(crate) fn local_description(&self) -> String {
        let description = match &*self.stage() {
            Stage::Running(agent) => agent.sdp(),
            Stage::Before { .. } | Stage::Failed => IceDescription {
                options: ["ice2", "trickle"].map(str::to_owned).into(),
                streams: vec![StreamDescription {
                    credentials: Some(self.credentials.clone()),
                    ..StreamDescription::default()
                }],
                ..IceDescription::default()
            },
        };
        let streams = description.streams.iter().map(ToString::to_string);
        std::iter::once(description.session_lines()).chain(streams).collect()
    }

    pub(crate) fn set_remote_description(&self, text: &str) -> Result<(), Error> {
        let description = IceDescription::parse(text);
        match description.streams.first() {
            Some(stream) if stream.credentials.is_some() => self.told(FromPeer::Description(description)),
            _ => Err(Error::Invalid),
        }
    }

    pub(crate) fn add_remote_candidate(&self, line: &str) -> Result<(), Error> {
        let line = line.trim();
        self.told(FromPeer::Candidate(line.strip_prefix("a=").unwrap_or(line).to_owned()))
    }

    pub(crate) fn end_of_candidates(&self) -> Result<(), Error> {
        self.told(FromPeer::EndOfCandidates)
    }

    fn told(&self, from_peer: FromPeer) -> Result<(), Error> {
        match &mut *self.stage() {
            Stage::Before { told, .. } => {
                told.push(from_peer);
                Ok(())
            }
            Stage::Running(agent) => tell_agent(agent, from_peer),
            Stage::Failed => Err(Error::NotYet),
        }
    }

    pub(crate) fn send(&self, data: &[u8]) -> Result<(), Error> {
        let path = self.path.get().ok_or(Error::NotYet)?;
        path.try_send(data).map_err(|error| match error {
            TrySendError::Full => Error::Again,
            TrySendError::Closed(PathClosed::TooLarge) => Error::TooLarge,
            _ => Error::Gone,
        })
    }

    pub(crate) fn state(&self) -> State {
        match &*self.stage() {
            Stage::Running(agent) => agent.state(),
            Stage::Before { .. } | Stage::Failed => State::New,
        }
    }

    pub(crate) fn pair(&self) -> Result<SelectedPair, Error> {
        self.path.get().and_then(Path::pair).ok_or(Error::NotYet)
    }

    pub(crate) fn report(&self) -> Result<String, Error> {
        match &*self.stage() {
            Stage::Running(agent) => Ok(agent.report().to_string()),
            Stage::Before { .. } | Stage::Failed => Err(Error::NotYet),
        }
    }

    /// Ends the task that calls back, and waits until it has ended unless that would be in a callback of its own.
    pub(crate) fn end(&self, in_own_callback: bool) {
        self.ending.send_replace(true);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(task), Ok(runtime), false) = (task, runtime(), in_own_callback) {
            wait(runtime, task).ok();
        }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell_agent(agent: &IceAgent, told: FromPeer) -> Result<(), Error> {
    match told {
        FromPeer::Description(description) => agent.set_remote_sdp(&description).map_err(|_| Error::Invalid),
        FromPeer::Candidate(line) => agent.add_remote_candidate(&line).map_err(|_| Error::Invalid),
        FromPeer::EndOfCandidates => {
            agent.set_remote_end_of_candidates();
            Ok(())
        }
    }
}

/// The next datagram; never, if there is no path or none any more.
async fn receive(
    path: Option<&Path>,
    state: State,
) -> Option<impl AsRef<[u8]> + std::ops::Deref<Target = [u8]>> {
    match path {
        Some(path) if !matches!(state, State::Failed | State::Closed) => path.recv_datagram().await.ok(),
        _ => std::future::pending().await,
    }
}

/// One runtime for all agents of the process.
fn runtime() -> Result<&'static Runtime, Error> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let build = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(THREADS).thread_name("thirl-ice").enable_all().build().ok()
    };
    RUNTIME.get_or_init(build).as_ref().ok_or(Error::System)
}

/// Waits, in a callback as well: another thread takes over meanwhile.
fn wait<F: Future>(runtime: &Runtime, future: F) -> F::Output {
    match Handle::try_current() {
        Ok(handle) => tokio::task::block_in_place(|| handle.block_on(future)),
        Err(_) => runtime.block_on(future),
    }
}
