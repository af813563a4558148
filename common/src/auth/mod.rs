//! Credentials: keys, nonces, and where passwords come from (RFC 8489, section 9; RFC 7635; the REST convention).
//!
//! 1. [`LongTermKey`]: what a username, a realm and a password become, after [`opaque_string`] prepared them.
//! 2. [`NonceKey`]: nonces that the server can check without having kept them, and [`SecurityFeatures`] in them.
//! 3. [`Challenge`] and [`chosen_algorithm`]: how client and server agree on a key, and notice whoever interferes.
//! 4. [`CredentialStore`]: whom the server knows: [`Claim`] in, [`Finding`] out. [`StaticUsers`] and [`RestSecrets`], both
//!    in [`Credentials`]; [`AccessTokens`]; [`RemoteUsers`] who are looked up elsewhere; several in a [`Chain`].

mod challenge;
mod key;
mod nonce;
mod prepare;
mod remote;
mod rest;
mod store;
#[cfg(test)]
mod testing;
mod token;
mod users;

pub use challenge::{AlgorithmMismatch, Challenge, ChallengeError, chosen_algorithm};
pub use key::{KeyAlgorithm, KeyFormatError, LongTermKey, userhash};
pub use nonce::{NonceError, NonceKey, SecurityFeatures};
pub use prepare::{PrepareError, opaque_string, saslprep};
pub use remote::{Deferred, Lookup, RemoteIdentity, RemoteLimits, RemoteUser, RemoteUsers};
pub use rest::{EphemeralCredentials, RestSecrets};
pub use store::{
    Chain, Claim, Credential, CredentialQuery, CredentialStore, Credentials, Finding, Identity, LookupId,
};
pub use token::{AccessTokenContent, AccessTokens, TokenError, TokenKey};
pub use users::{StaticUsers, UserSecret};
