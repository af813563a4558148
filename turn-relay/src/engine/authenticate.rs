//! The long-term credential mechanism, from the server's side (RFC 8489, section 9.2.4; RFC 8656, section 5), and access
//! tokens (RFC 7635).
//!
//! A store that cannot answer at once makes the request wait: its bytes are kept in a bounded table, and handled once more
//! when the store knows. That is all that is ever kept of a stranger.

use std::sync::Arc;
use std::time::{Duration, Instant};

use thirl_common::auth::{
    Claim, Credential, Finding, Identity, KeyAlgorithm, LookupId, SecurityFeatures, chosen_algorithm,
    userhash,
};
use thirl_common::net::{FiveTuple, source_prefix};
use thirl_common::wire::{IntegrityKey, Message, Nonce, PasswordAlgorithm, PasswordAlgorithms, Realm};

use super::Engine;
use super::mobility;
use super::output::Action;
use super::realm::{self, Served};
use super::refusal::Refusal;
use super::request::{Request, Signing};

/// What this server offers where it offers a choice.
pub(super) const OFFERED: PasswordAlgorithms<'static> = PasswordAlgorithms::SHA256_AND_MD5;

/// Requests that wait for a store, of all clients together: 384 KB at most.
const MAX_WAITING: usize = 256;

/// Of those, of one source (an IPv4 address, an IPv6 /64): one that asks for many users must not keep out the others.
const MAX_WAITING_OF_ONE: usize = 16;

/// The longest request that is let wait: what Ethernet carries in one piece.
const MAX_WAITING_LEN: usize = 1500;

/// Who proved to have sent a request.
#[derive(Debug)]
pub(super) struct Authenticated {
    pub(super) username: Arc<str>,
    /// `None`: the server's own.
    pub(super) realm: Option<Arc<str>>,
    /// Whom quotas count.
    pub(super) account: Arc<str>,
    pub(super) signing: Signing,
    pub(super) key_of: KeyOf,
    /// When allocations must end, in Unix seconds: an access token's end, or that of other credentials if so set.
    pub(super) expires: Option<u64>,
}

/// Where a key is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyOf {
    /// A password, by this algorithm.
    Password(KeyAlgorithm),
    /// An access token, which comes with every request.
    Token,
}

/// What is known of who sent a request.
#[expect(clippy::large_enum_variant, reason = "one lives at a time, for the length of a request")]
pub(super) enum Sender {
    Known(Authenticated),
    /// Nothing until this look-up has ended.
    Later(LookupId),
    /// Nothing, and too many look-ups are under way.
    Overloaded,
}

/// A request that waits for a look-up.
#[derive(Debug)]
pub(super) struct Waiting {
    five_tuple: FiveTuple,
    datagram: Box<[u8]>,
}

/// Requests that wait.
pub(super) type Deferred = thirl_common::auth::Deferred<Waiting>;

pub(super) fn no_one_waits() -> Deferred {
    Deferred::new(MAX_WAITING)
}

/// Who made an allocation, and in which way.
#[derive(Debug)]
pub(super) struct Maker {
    pub(super) username: Arc<str>,
    /// `None`: the server's own.
    pub(super) realm: Option<Arc<str>>,
    pub(super) account: Arc<str>,
    /// When the credentials end that made it, in Unix seconds, if it ends with them.
    pub(super) expires: Option<u64>,
    pub(super) key: IntegrityKey,
    pub(super) key_of: KeyOf,
}

impl Maker {
    pub(super) fn is(&self, user: &Authenticated) -> bool {
        (&self.username, &self.realm) == (&user.username, &user.realm)
    }

    /// Whether the claim is to be it, in the same way. If it is, the key that made the allocation holds as long as it:
    /// ephemeral credentials may have expired meanwhile.
    fn claims(&self, claim: &Claim<'_>, served: &Served<'_>) -> bool {
        let same_way = claim.access_token.is_none() && self.key_of == KeyOf::Password(claim.algorithm);
        same_way
            && self.realm.as_ref() == served.other
            && match claim.identity {
                Identity::Username(claimed) => claimed == &*self.username,
                Identity::UserHash(hash) => hash == userhash(&self.username, claim.realm),
            }
    }
}

impl Authenticated {
    /// "The lifetime ... MUST be less than or equal to the lifetime of the token" (RFC 7635, section 8), but for the
    /// clocks' sake not nothing: a token is taken up to 5 s after its end. Other credentials end alike, if they do.
    pub(super) fn limit(&self, lifetime: Duration, unix_seconds: u64) -> Duration {
        let left = self.expires.map(|expires| expires.saturating_sub(unix_seconds).max(1));
        left.map_or(lifetime, |seconds| lifetime.min(Duration::from_secs(seconds)))
    }
}

impl Engine {
    /// Checks who sent a request, in the order of RFC 8489, section 9.2.4, but for the nonce, which comes before what takes
    /// longer.
    ///
    /// Nothing is kept of a request that fails.
    pub(super) fn authenticate(&self, request: &Request<'_>) -> Result<Sender, Refusal> {
        let Request { message, unix_seconds, five_tuple, .. } = request;
        let config = &*self.config;
        let algorithm = message.integrity_algorithm().ok_or(Refusal::Challenge)?;
        let served = config.realm_of(five_tuple.server, message);
        let claim = Claim::read(message, served.name, KeyAlgorithm::Md5, *unix_seconds);
        let (Ok(claim), Ok(Realm(_)), Ok(Nonce(nonce))) = (claim, message.require(), message.require())
        else {
            return Err(Refusal::IncompleteCredentials);
        };
        self.nonces
            .check(nonce, five_tuple.client.ip(), *unix_seconds, config.nonce_lifetime.as_secs())
            .map_err(|_| Refusal::StaleNonce)?;
        let claim = Claim { algorithm: key_algorithm(message, nonce)?, ..claim };

        let mut proves = |key: &IntegrityKey| message.verify_integrity(key).is_ok();
        let shown;
        let maker = match self.allocations.find(five_tuple) {
            Some((_, allocation)) => Some(&*allocation.owner.maker),
            None => match self.moves.maker(five_tuple) {
                Some(maker) => Some(maker),
                None => {
                    let ticket = mobility::shown(message);
                    shown = ticket.and_then(|ticket| self.shared.tickets.find(ticket));
                    shown.as_ref().map(|(_, home)| &*home.maker)
                }
            },
        };
        if let Some(maker) = maker.filter(|maker| maker.claims(&claim, &served))
            && proves(&maker.key)
        {
            return Ok(Sender::Known(Authenticated {
                username: maker.username.clone(),
                realm: served.other.cloned(),
                account: maker.account.clone(),
                signing: Signing { key: maker.key.clone(), algorithm },
                key_of: maker.key_of,
                expires: maker.expires,
            }));
        }
        if self.waits_for_enough(five_tuple) {
            return Ok(Sender::Overloaded);
        }
        match served.credentials.authenticate(&claim, &mut proves) {
            Finding::Found(Credential { username, key, account, expires }) => {
                let username: Arc<str> = username.into();
                let key_of = match claim.access_token {
                    Some(_) => KeyOf::Token,
                    None => KeyOf::Password(claim.algorithm),
                };
                let account = account.map_or_else(|| username.clone(), Arc::from);
                Ok(Sender::Known(Authenticated {
                    account: realm::account(account, served.other.map(|realm| &**realm)),
                    realm: served.other.cloned(),
                    username,
                    signing: Signing { key: *key, algorithm },
                    key_of,
                    expires: expires.filter(|_| key_of == KeyOf::Token || config.end_with_credentials),
                }))
            }
            Finding::Later(lookup) => Ok(Sender::Later(lookup)),
            Finding::Overloaded => Ok(Sender::Overloaded),
            _ => Err(Refusal::WrongCredentials { username: name(claim.identity) }),
        }
    }

    /// Puts a request aside until its look-up has ended, if there is room; if not, the client sends it again.
    pub(super) fn defer(&mut self, lookup: LookupId, request: &Request<'_>) -> bool {
        let datagram = request.message.as_bytes();
        let fits = datagram.len() <= MAX_WAITING_LEN;
        let waiting = || Waiting { five_tuple: request.five_tuple, datagram: datagram.into() };
        let waits = fits && self.deferred.push(lookup, waiting());
        if waits {
            self.actions.push_back(Action::AwaitCredentials { lookup });
        } else {
            self.counters.dropped.overloaded += 1;
        }
        waits
    }

    /// Whether so many requests of this source wait already that it is to wait for those.
    fn waits_for_enough(&self, five_tuple: &FiveTuple) -> bool {
        let source = |five_tuple: &FiveTuple| source_prefix(five_tuple.client.ip());
        let of_source =
            self.deferred.iter().filter(|waiting| source(&waiting.five_tuple) == source(five_tuple));
        of_source.count() >= MAX_WAITING_OF_ONE
    }

    /// Handles what waited for a look-up as if it had just arrived.
    pub(super) fn handle_deferred(&mut self, lookup: LookupId, now: Instant, unix_seconds: u64) {
        for Waiting { five_tuple, datagram } in self.deferred.take(lookup) {
            // A request: there is no data in it.
            let _ = self.handle_datagram(now, unix_seconds, five_tuple, &datagram);
        }
    }

    /// Forgets what a client asked for that is gone.
    pub(super) fn forget_deferred(&mut self, five_tuple: &FiveTuple) {
        self.deferred.retain(|waiting| waiting.five_tuple != *five_tuple);
    }
}

/// By which algorithm the key of a request is derived, whose nonce is one of ours.
///
/// Where the nonce says that there was a choice, the request has to repeat it (RFC 8489, section 9.2.4). Where there was
/// none, nobody can have taken anything away, and the request may name the algorithm by itself.
fn key_algorithm(message: &Message<'_>, nonce: &str) -> Result<KeyAlgorithm, Refusal> {
    if SecurityFeatures::of(nonce).password_algorithms {
        return chosen_algorithm(message, OFFERED).map_err(|_| Refusal::AlgorithmMismatch);
    }
    match message.get::<PasswordAlgorithm<'_>>() {
        Ok(None) => Ok(KeyAlgorithm::Md5),
        Ok(Some(choice)) => KeyAlgorithm::of(choice).ok_or(Refusal::AlgorithmMismatch),
        Err(_) => Err(Refusal::AlgorithmMismatch),
    }
}

/// For logs.
fn name(identity: Identity<'_>) -> String {
    match identity {
        Identity::Username(username) => username.to_owned(),
        Identity::UserHash(hash) => {
            hash.iter().fold("USERHASH ".to_owned(), |text, byte| format!("{text}{byte:02x}"))
        }
    }
}
