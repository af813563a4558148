//! What one side tells the other.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Credentials and candidates, as `{"ufrag": …, "pwd": …, "candidates": ["candidate:…", …]}` in JSON.
///
/// Whoever carries it to the peer must keep it from others: with the password one can take the peer's place.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The username fragment.
    pub ufrag: String,
    /// The password.
    pub pwd: String,
    /// Lines of RFC 8839, section 5.1, each beginning with `candidate:`.
    pub candidates: Vec<String>,
}

impl fmt::Debug for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Description { ufrag, candidates, .. } = self;
        write!(f, "Description({ufrag}, pwd redacted, {candidates:?})")
    }
}
