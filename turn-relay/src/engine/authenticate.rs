//! The long-term credential mechanism, from the server's side (RFC 8489, section 9.2.4; RFC 8656, section 5).

use thirl_common::auth::{CredentialQuery, NonceKey};
use thirl_common::wire::{Nonce, Realm, Username};

use super::allocation::Allocation;
use super::config::EngineConfig;
use super::refusal::Refusal;
use super::request::{Request, Signing};

/// Who proved to have sent a request.
pub(super) struct Authenticated<'m> {
    pub(super) username: &'m str,
    pub(super) signing: Signing,
}

/// Checks who sent a request, in the order of RFC 8489, section 9.2.4. `allocation` is that of the request's five-tuple.
///
/// Nothing is kept of a request that fails.
pub(super) fn authenticate<'m>(
    request: &Request<'m>,
    config: &EngineConfig,
    nonces: &NonceKey,
    allocation: Option<&Allocation>,
) -> Result<Authenticated<'m>, Refusal> {
    let message = &request.message;
    let algorithm = message.integrity_algorithm().ok_or(Refusal::Challenge)?;
    let incomplete = Refusal::IncompleteCredentials;
    let (Ok(Username(username)), Ok(Realm(_)), Ok(Nonce(nonce))) =
        (message.require(), message.require(), message.require())
    else {
        return Err(incomplete);
    };
    nonces
        .check(nonce, request.five_tuple.client.ip(), request.unix_seconds, config.nonce_lifetime.as_secs())
        .map_err(|_| Refusal::StaleNonce)?;

    // The key that made the allocation holds as long as it: ephemeral credentials may have expired meanwhile.
    let kept = allocation
        .filter(|allocation| &**allocation.username() == username)
        .map(Allocation::key)
        .filter(|key| message.verify_integrity(key).is_ok());
    let key = match kept {
        Some(key) => Some(key.clone()),
        None => config.credentials.find(
            CredentialQuery { username, realm: &config.realm, unix_seconds: request.unix_seconds },
            &mut |key| message.verify_integrity(key).is_ok(),
        ),
    };
    match key {
        Some(key) => Ok(Authenticated { username, signing: Signing { key, algorithm } }),
        None => Err(Refusal::WrongCredentials { username: username.to_owned() }),
    }
}
