//! What one side tells the other.

use std::fmt;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::agent::{Agent, Credentials};
use crate::sdp::IceDescription;

/// Credentials and candidates, as `{"ufrag": …, "pwd": …, "candidates": ["candidate:…", …]}` in JSON, and what this side can
/// do as SDP says it (RFC 8839): `"lite"`, `"options"` and `"pacing"`, each of which may be missing.
///
/// Whoever carries it to the peer must keep it from others: with the password one can take the peer's place.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The username fragment.
    pub ufrag: String,
    /// The password.
    pub pwd: String,
    /// Lines of RFC 8839, section 5.1, each beginning with `candidate:`.
    pub candidates: Vec<String>,
    /// `ice-lite`: it answers checks and sends none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lite: bool,
    /// The words of `ice-options`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// `ice-pacing`: Ta in milliseconds, if it is not 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pacing: Option<u32>,
}

impl Description {
    /// What an agent has to tell its peer, of its first data stream.
    pub(super) fn of(agent: &Agent) -> Description {
        let IceDescription { lite, options, pacing, .. } = IceDescription::of(agent);
        let Credentials { ufrag, pwd } = agent.local_credentials().clone();
        let candidates = agent.local_candidates().map(ToString::to_string).collect();
        Description { ufrag, pwd, candidates, lite, options, pacing }
    }

    /// Tells an agent what its peer can do, if that is said.
    pub(super) fn tell_capabilities(&self, agent: &mut Agent, now: Instant) {
        let Description { lite, options, pacing, .. } = self.clone();
        // Those of before 0.1 say nothing.
        if lite || !options.is_empty() || pacing.is_some() {
            IceDescription { lite, options, pacing, ..IceDescription::default() }.tell_session(agent, now);
        }
    }
}

impl fmt::Debug for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Description { ufrag, candidates, .. } = self;
        write!(f, "Description({ufrag}, pwd redacted, {candidates:?})")
    }
}
