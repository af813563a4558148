//! Who a client is to a TURN server.

use std::fmt;

/// Who a client is to a TURN server.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum TurnCredentials {
    /// A user, and the user's password as a person wrote it: it is prepared here (OpaqueString; RFC 8265, section 4.2).
    Password {
        /// The user.
        username: String,
        /// The password.
        password: String,
    },
    /// What an authorization server gave for this TURN server (RFC 7635).
    Token(AccessToken),
    /// None yet: the server is asked whose tokens it takes, see [`TurnError::TokenWanted`](super::TurnError::TokenWanted).
    #[default]
    None,
}

/// What an authorization server gives a client (RFC 7635, section 4.1 and appendix B).
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken {
    /// `kid`: which key the token is sealed with, sent as USERNAME.
    pub kid: String,
    /// The token, which the TURN server alone can open: 1 to 1,024 bytes.
    pub token: Vec<u8>,
    /// The key of MESSAGE-INTEGRITY, which is sealed in the token too: 20 bytes and more.
    pub mac_key: Vec<u8>,
}

impl TurnCredentials {
    /// A user and a password.
    pub fn password(username: impl Into<String>, password: impl Into<String>) -> TurnCredentials {
        TurnCredentials::Password { username: username.into(), password: password.into() }
    }
}

impl From<AccessToken> for TurnCredentials {
    fn from(token: AccessToken) -> TurnCredentials {
        TurnCredentials::Token(token)
    }
}

impl fmt::Debug for TurnCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TurnCredentials::Password { username, .. } => write!(f, "user {username}, password redacted"),
            TurnCredentials::Token(token) => token.fmt(f),
            TurnCredentials::None => f.write_str("no credentials"),
        }
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token of {}, redacted", self.kid)
    }
}
