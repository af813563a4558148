//! The data streams of a session and their components (RFC 8445, section 4), and how far each has come.

use super::check_list::Ordinary;
use super::event::{PathKind, State};
use super::liveness::Liveness;
use super::nomination::Path;
use super::pair::{Pair, PairId, Rank};
use super::remote::RemoteCredentials;
use crate::candidate::ComponentId;

/// A data stream. Its check list is the part of the session's that holds pairs of its components.
#[derive(Debug)]
pub(super) struct Stream {
    /// The peer's credentials for this stream; most peers have the same for all.
    pub(super) remote: Option<RemoteCredentials>,
    pub(super) end_of_candidates: bool,
    /// Why it failed, if it did.
    pub(super) failure: Option<String>,
    components: Vec<Component>,
}

/// A component of a data stream.
#[derive(Debug)]
pub(super) struct Component {
    pub(super) state: State,
    pub(super) path: Path,
    /// Whether the pair that carries its data still answers.
    pub(super) liveness: Liveness,
    /// Which of its pairs get ordinary checks.
    pub(super) ordinary: Ordinary,
}

/// All data streams of a session.
#[derive(Debug)]
pub(super) struct Streams(Vec<Stream>);

impl Streams {
    pub(super) fn new(components: &[u16]) -> Streams {
        let component = || Component {
            state: State::New,
            path: Path::default(),
            liveness: Liveness::default(),
            ordinary: Ordinary::All,
        };
        let stream = |count: &u16| Stream {
            remote: None,
            end_of_candidates: false,
            failure: None,
            components: (0..*count).map(|_| component()).collect(),
        };
        Streams(components.iter().map(stream).collect())
    }

    pub(super) fn indices(&self) -> Vec<u8> {
        (0..=u8::MAX).take(self.0.len()).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.0.iter()
    }

    /// The stream that a component is in.
    pub(super) fn of(&self, id: ComponentId) -> Option<&Stream> {
        self.0.get(usize::from(id.stream()))
    }

    pub(super) fn get_mut(&mut self, stream: u8) -> Option<&mut Stream> {
        self.0.get_mut(usize::from(stream))
    }

    pub(super) fn component(&self, id: ComponentId) -> Option<&Component> {
        self.of(id)?.components.get(usize::from(id.get() - 1))
    }

    pub(super) fn component_mut(&mut self, id: ComponentId) -> Option<&mut Component> {
        self.get_mut(id.stream())?.components.get_mut(usize::from(id.get() - 1))
    }

    /// All components, in order.
    pub(super) fn components(&self) -> impl Iterator<Item = (ComponentId, &Component)> {
        self.0.iter().zip(0..=u8::MAX).flat_map(|(stream, index)| {
            let numbered = stream.components.iter().zip(1..);
            numbered.filter_map(move |(component, number)| {
                Some((ComponentId::new(number)?.in_stream(index), component))
            })
        })
    }

    pub(super) fn ids(&self) -> Vec<ComponentId> {
        self.components().map(|(id, _)| id).collect()
    }

    /// The path of a component.
    pub(super) fn path(&self, id: ComponentId) -> Option<&Path> {
        self.component(id).map(|component| &component.path)
    }

    pub(super) fn path_mut(&mut self, id: ComponentId) -> Option<&mut Path> {
        self.component_mut(id).map(|component| &mut component.path)
    }

    /// The pairs that carry data or are to.
    pub(super) fn pairs_in_use(&self) -> Vec<PairId> {
        let paths = self.components().map(|(_, component)| &component.path);
        paths
            .flat_map(|path| [path.selected, path.current, path.nominating, path.expired])
            .flatten()
            .collect()
    }

    pub(super) fn stop_nominating(&mut self) {
        for component in self.0.iter_mut().flat_map(|stream| &mut stream.components) {
            component.path.nominating = None;
        }
    }

    /// What the peer's side of a component signs with.
    pub(super) fn remote(&self, id: ComponentId) -> Option<&RemoteCredentials> {
        self.of(id)?.remote.as_ref()
    }

    /// Whether some component may have ordinary checks.
    pub(super) fn look_for_more(&self) -> bool {
        self.0.iter().any(|stream| stream.components.iter().any(|known| known.ordinary != Ordinary::Stopped))
    }

    /// Whether a pair may be checked when its turn comes.
    pub(super) fn may_check(&self, pair: &Pair) -> bool {
        let Some(stream) = self.of(pair.component) else { return false };
        let ordinary =
            self.component(pair.component).map_or(Ordinary::Stopped, |component| component.ordinary);
        stream.remote.is_some()
            && stream.failure.is_none()
            && match ordinary {
                _ if pair.wanted => true,
                Ordinary::All => true,
                Ordinary::DirectOnly => pair.path == PathKind::Direct,
                Ordinary::DatagramsOnly => pair.rank() == Rank::Direct,
                Ordinary::Stopped => false,
            }
    }

    /// How far all of them have come: the worst of those that have not failed, or failed if all have (RFC 8445, section
    /// 6.1.3; the names and their order are those of W3C's `RTCIceConnectionState`).
    pub(super) fn state(&self) -> State {
        let alive = self.0.iter().filter(|stream| stream.failure.is_none());
        let mut states = alive.flat_map(|stream| &stream.components).map(|component| component.state);
        let Some(first) = states.next() else { return State::Failed };
        states.fold(first, |all, one| match (all, one) {
            (State::Disconnected, _) | (_, State::Disconnected) => State::Disconnected,
            (State::New, State::New) => State::New,
            (State::New | State::Checking, _) | (_, State::New | State::Checking) => State::Checking,
            (State::Completed, State::Completed) => State::Completed,
            _ => State::Connected,
        })
    }
}

impl Stream {
    pub(super) fn components_mut(&mut self) -> impl Iterator<Item = &mut Component> {
        self.components.iter_mut()
    }
}

impl Component {
    /// Nothing is sent for it any more.
    pub(super) fn stop(&mut self) {
        self.state = State::Failed;
        self.path.current = None;
        self.path.nominating = None;
    }
}
