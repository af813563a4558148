//! The verdict about a pair: what was predicted, what was tried, and whether they agree. The JSON that
//! `thirl nat --against` prints as `pair` is this: `docs/nat-json.md`.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::super::facts::Facts;
use super::{PairPath, Prediction, predict};
use crate::agent;

/// All about one pair.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairReport {
    /// The other side's name.
    pub peer: String,
    /// What is known of this side.
    pub you: Facts,
    /// What the other side told.
    pub they: Option<Facts>,
    /// Why it told nothing.
    pub they_reason: Option<String>,
    /// What was to be expected; `None` if the other side told nothing.
    pub prediction: Option<Prediction>,
    /// What came of it.
    pub tried: Trial,
    /// Whether that is what was expected; `None` if nothing could be.
    pub agrees: Option<bool>,
}

/// What came of dialling the other side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// How the two are connected: `direct`, `relay` or `none`.
    pub path: PairPath,
    /// This side's address, as the other side sees it.
    pub local: Option<SocketAddr>,
    /// The other side's.
    pub remote: Option<SocketAddr>,
    /// The relay's.
    pub relay: Option<IpAddr>,
    /// Why there is a relay, or no path.
    pub why: Option<String>,
    /// How long it took, in milliseconds.
    pub connect_ms: Option<f64>,
    /// The story of the ICE agent, if it got so far.
    pub ice: Option<agent::Report>,
}

impl PairReport {
    /// Predicts, and compares that with what was tried. `they` is what the other side told, or why it did not.
    pub fn new(peer: String, you: Facts, they: Result<Facts, String>, tried: Trial) -> PairReport {
        let (they, they_reason) = match they {
            Ok(facts) => (Some(facts), None),
            Err(reason) => (None, Some(reason)),
        };
        let prediction = they.as_ref().map(|they| predict(&you, they));
        let predicted = prediction.as_ref().map(|prediction| prediction.path);
        let agrees = predicted.filter(|path| *path != PairPath::Unknown).map(|path| path == tried.path);
        PairReport { peer, you, they, they_reason, prediction, tried, agrees }
    }

    /// Whether there is a path, whatever it goes through.
    pub fn is_connected(&self) -> bool {
        matches!(self.tried.path, PairPath::Direct | PairPath::Relay)
    }
}
