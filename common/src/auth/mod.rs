//! Credentials: keys, nonces, and where passwords come from (RFC 8489, section 9; the REST convention).
//!
//! 1. [`LongTermKey`]: what a username, a realm and a password become.
//! 2. [`NonceKey`]: nonces that the server can check without having kept them.
//! 3. [`CredentialStore`]: whom the server knows; [`StaticUsers`], [`RestSecrets`], and both in [`Credentials`].

mod key;
mod nonce;
mod store;

pub use key::{LongTermKey, userhash};
pub use nonce::{NonceError, NonceKey};
pub use store::{
    CredentialQuery, CredentialStore, Credentials, EphemeralCredentials, RestSecrets, StaticUsers,
};
