//! Where a server finds the key of whoever asks.

use std::collections::BTreeMap;
use std::fmt;

use data_encoding::BASE64;
use hmac::{Hmac, Mac};
use sha1::Sha1;

use super::key::LongTermKey;
use crate::wire::IntegrityKey;

/// Whose key is asked for.
#[derive(Clone, Copy, Debug)]
pub struct CredentialQuery<'a> {
    /// The USERNAME as it came.
    pub username: &'a str,
    /// The realm of the server.
    pub realm: &'a str,
    /// Wall clock, for credentials that expire.
    pub unix_seconds: u64,
}

/// Knows users and their keys.
pub trait CredentialStore {
    /// The user's key that `proves` says made the message's integrity.
    ///
    /// A user may have several keys while a secret is being changed, hence the question. `None` if there is no such
    /// user, the credentials have expired or none of the keys fits: the requester learns no more than that.
    fn find(
        &self,
        query: CredentialQuery<'_>,
        proves: &mut dyn FnMut(&IntegrityKey) -> bool,
    ) -> Option<IntegrityKey>;
}

/// Users with passwords that do not expire: coturn's `user=name:password`.
#[derive(Clone, Default)]
pub struct StaticUsers {
    passwords: BTreeMap<String, String>,
}

impl StaticUsers {
    /// Adds a user, or changes its password.
    pub fn insert(&mut self, username: impl Into<String>, password: impl Into<String>) {
        self.passwords.insert(username.into(), password.into());
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.passwords.is_empty()
    }
}

impl fmt::Debug for StaticUsers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticUsers({} of them, passwords redacted)", self.passwords.len())
    }
}

impl CredentialStore for StaticUsers {
    fn find(
        &self,
        query: CredentialQuery<'_>,
        proves: &mut dyn FnMut(&IntegrityKey) -> bool,
    ) -> Option<IntegrityKey> {
        let password = self.passwords.get(query.username)?;
        let key = LongTermKey::new(query.username, query.realm, password).integrity_key();
        proves(&key).then_some(key)
    }
}

/// Secrets shared with whoever hands out credentials that expire: coturn's `static-auth-secret`.
///
/// The username is `expiry[:user]` in Unix seconds, the password base64(HMAC-SHA1(secret, username)).
#[derive(Clone, Default)]
pub struct RestSecrets {
    secrets: Vec<String>,
}

/// A username and a password that hold until a time.
#[derive(Clone, PartialEq, Eq)]
pub struct EphemeralCredentials {
    /// `expiry:user`, or `expiry` alone.
    pub username: String,
    /// base64(HMAC-SHA1(secret, username)).
    pub password: String,
}

impl fmt::Debug for EphemeralCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EphemeralCredentials({}, password redacted)", self.username)
    }
}

impl RestSecrets {
    /// The first secret signs; all are taken, so that a secret can be changed without breaking anybody.
    pub fn new(secrets: Vec<String>) -> RestSecrets {
        RestSecrets { secrets }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// Credentials for `user` that hold until `expires_unix`; `None` without a secret.
    pub fn mint(&self, user: &str, expires_unix: u64) -> Option<EphemeralCredentials> {
        let secret = self.secrets.first()?;
        let username =
            if user.is_empty() { expires_unix.to_string() } else { format!("{expires_unix}:{user}") };
        let password = password(secret, &username);
        Some(EphemeralCredentials { username, password })
    }
}

impl CredentialStore for RestSecrets {
    fn find(
        &self,
        query: CredentialQuery<'_>,
        proves: &mut dyn FnMut(&IntegrityKey) -> bool,
    ) -> Option<IntegrityKey> {
        expiry(query.username).filter(|expires| *expires > query.unix_seconds)?;
        self.secrets
            .iter()
            .map(|secret| {
                let password = password(secret, query.username);
                LongTermKey::new(query.username, query.realm, &password).integrity_key()
            })
            .find(|key| proves(key))
    }
}

impl fmt::Debug for RestSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RestSecrets({} of them, redacted)", self.secrets.len())
    }
}

/// The time that a REST username carries. coturn's own order is `expiry:user`.
fn expiry(username: &str) -> Option<u64> {
    username.split_once(':').map_or(username, |(expiry, _)| expiry).parse().ok()
}

fn password(secret: &str, username: &str) -> String {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length (RFC 2104)")]
    let mut mac =
        <Hmac<Sha1> as Mac>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(username.as_bytes());
    BASE64.encode(&mac.finalize().into_bytes())
}

/// What a server's configuration names: users first, then secrets.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// `user=name:password`.
    pub users: StaticUsers,
    /// `static-auth-secret`.
    pub rest: RestSecrets,
}

impl CredentialStore for Credentials {
    fn find(
        &self,
        query: CredentialQuery<'_>,
        proves: &mut dyn FnMut(&IntegrityKey) -> bool,
    ) -> Option<IntegrityKey> {
        self.users.find(query, proves).or_else(|| self.rest.find(query, proves))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REALM: &str = "thirl";

    fn knows(store: &impl CredentialStore, username: &str, password: &str, unix_seconds: u64) -> bool {
        let theirs = LongTermKey::new(username, REALM, password).integrity_key();
        let message = message_signed_with(&theirs);
        let message = crate::wire::Message::parse(&message).unwrap();
        let query = CredentialQuery { username, realm: REALM, unix_seconds };
        store.find(query, &mut |key| message.verify_integrity(key).is_ok()).is_some()
    }

    fn message_signed_with(key: &IntegrityKey) -> Vec<u8> {
        use crate::wire::{Class, IntegrityAlgorithm, MessageWriter, Method, TransactionId};
        let mut buffer = [0; 64];
        let id = TransactionId([0; 12]);
        let mut writer = MessageWriter::new(&mut buffer, Class::Request, Method::ALLOCATE, id).unwrap();
        writer.integrity(IntegrityAlgorithm::Sha1, key).unwrap();
        writer.finish().to_vec()
    }

    #[test]
    fn rest_password_as_coturn_computes_it() {
        // printf %s 1893456000:alice | openssl dgst -sha1 -hmac north -binary | base64
        let credentials = RestSecrets::new(vec!["north".into()]).mint("alice", 1_893_456_000).unwrap();
        assert_eq!(credentials.username, "1893456000:alice");
        assert_eq!(credentials.password, "MME/7rvfb/gOjpkB59+7AxlCLvk=");
        assert!(!format!("{credentials:?}").contains(&credentials.password));
    }

    #[test]
    fn a_secret_is_changed_without_breaking_anybody() {
        let old = RestSecrets::new(vec!["old".into()]).mint("a", 2000).unwrap();
        let new = RestSecrets::new(vec!["new".into()]).mint("a", 2000).unwrap();
        let both = RestSecrets::new(vec!["new".into(), "old".into()]);
        assert!(knows(&both, &old.username, &old.password, 1000));
        assert!(knows(&both, &new.username, &new.password, 1000));
        let after = RestSecrets::new(vec!["new".into()]);
        assert!(!knows(&after, &old.username, &old.password, 1000));
    }

    #[test]
    fn ephemeral_credentials_expire() {
        let rest = RestSecrets::new(vec!["s".into()]);
        let credentials = rest.mint("", 2000).unwrap();
        assert_eq!(credentials.username, "2000");
        assert!(knows(&rest, "2000", &credentials.password, 1999));
        assert!(!knows(&rest, "2000", &credentials.password, 2000));
        assert!(!knows(&rest, "junk", &password("s", "junk"), 0));
    }

    #[test]
    fn users_and_secrets_side_by_side() {
        let mut store = Credentials { rest: RestSecrets::new(vec!["s".into()]), ..Credentials::default() };
        store.users.insert("bob", "builder");
        assert!(knows(&store, "bob", "builder", 0));
        assert!(!knows(&store, "bob", "wrong", 0));
        assert!(!knows(&store, "eve", "builder", 0));
    }
}
