//! Why another node could not be reached.

use thirl_ice_agent::driver::{ConnectError, StartError};

use super::session::Ended;
use crate::identity::NodeId;
use crate::session::ByeReason;

/// There is no path to the node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The node is not connected to its server.
    #[error("the node is not connected to the server: is `thirl listen` still running there?")]
    Offline,
    /// The node did not answer, though it seems to be there.
    #[error("{peer} did not answer")]
    NoAnswer {
        /// Which node.
        peer: NodeId,
    },
    /// The node refused, or ended the attempt.
    #[error("the node ended the attempt: {}", words(*.0))]
    Refused(ByeReason),
    /// No pair of candidates works; the report says why.
    #[error(transparent)]
    NoPath(#[from] ConnectError),
    /// The agent could not start: this machine's fault.
    #[error(transparent)]
    Start(#[from] StartError),
    /// There is no way to the node any more.
    #[error("signalling has ended")]
    SignallingEnded,
    /// The system gave no randomness.
    #[error("the system's random number generator fails")]
    NoRandomness,
}

impl From<Ended> for DialError {
    fn from(why: Ended) -> DialError {
        match why {
            Ended::Offline => DialError::Offline,
            Ended::ByPeer(reason) => DialError::Refused(reason),
            Ended::WithSignalling => DialError::SignallingEnded,
        }
    }
}

/// Why another node's facts are not to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InquireError {
    /// The node is not connected to the server.
    #[error("the node is not connected to the server: is `thirl listen` still running there?")]
    Offline,
    /// The node does not answer the question.
    #[error("the node does not answer the question: it may be of an earlier build")]
    NoAnswer,
    /// The node refuses.
    #[error("the node refuses: {}", refusal(*.0))]
    Refused(ByeReason),
    /// There is no way to the node any more.
    #[error("signalling has ended")]
    SignallingEnded,
    /// The system gave no randomness.
    #[error("the system's random number generator fails")]
    NoRandomness,
}

fn refusal(reason: ByeReason) -> &'static str {
    match reason {
        ByeReason::NotAllowed => "it was told not to say what its network does (--no-diagnosis)",
        other => words(other),
    }
}

fn words(reason: ByeReason) -> &'static str {
    match reason {
        ByeReason::Done => "it is done",
        ByeReason::NoPath => "it found no path",
        ByeReason::Busy => "it is busy",
        ByeReason::NotAllowed => "it does not talk to this node",
        ByeReason::UnknownSession => "it does not know the session any more",
        ByeReason::Unknown => "it did not say why",
    }
}
