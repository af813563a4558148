//! Credentials that expire, by the REST convention (draft-uberti-behave-turn-rest): coturn's `static-auth-secret`.

use std::fmt;

use data_encoding::BASE64;
use hmac::{Hmac, Mac};
use sha1::Sha1;

use super::key::{KeyAlgorithm, LongTermKey};
use super::store::{Claim, Credential, CredentialQuery, CredentialStore, Finding, Identity};
use crate::wire::IntegrityKey;

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

impl RestSecrets {
    fn key(
        &self,
        algorithm: KeyAlgorithm,
        query: CredentialQuery<'_>,
        proves: &mut dyn FnMut(&IntegrityKey) -> bool,
    ) -> Option<IntegrityKey> {
        expiry(query.username).filter(|expires| *expires > query.unix_seconds)?;
        self.secrets
            .iter()
            .map(|secret| {
                let password = password(secret, query.username);
                let key = LongTermKey::with_algorithm(algorithm, query.username, query.realm, &password);
                key.integrity_key()
            })
            .find(|key| proves(key))
    }
}

impl CredentialStore for RestSecrets {
    fn find(
        &self,
        query: CredentialQuery<'_>,
        proves: &mut dyn FnMut(&IntegrityKey) -> bool,
    ) -> Option<IntegrityKey> {
        self.key(KeyAlgorithm::Md5, query, proves)
    }

    /// By either algorithm, but not by USERHASH: nobody can tell the time of expiry from it.
    fn authenticate(&self, claim: &Claim<'_>, proves: &mut dyn FnMut(&IntegrityKey) -> bool) -> Finding {
        let (Identity::Username(username), None) = (claim.identity, claim.access_token) else {
            return Finding::Unknown;
        };
        let query = CredentialQuery { username, realm: claim.realm, unix_seconds: claim.unix_seconds };
        match self.key(claim.algorithm, query, proves) {
            Some(key) => Finding::Found(Credential {
                username: username.to_owned(),
                key: Box::new(key),
                account: user(username).map(str::to_owned),
                expires: expiry(username),
            }),
            None => Finding::Unknown,
        }
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

/// Whom a REST username names, if it does.
fn user(username: &str) -> Option<&str> {
    username.split_once(':').map(|(_, user)| user).filter(|user| !user.is_empty())
}

fn password(secret: &str, username: &str) -> String {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length (RFC 2104)")]
    let mut mac =
        <Hmac<Sha1> as Mac>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(username.as_bytes());
    BASE64.encode(&mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::testing::{REALM, finds, knows};

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
    fn either_algorithm_but_no_userhash() {
        let rest = RestSecrets::new(vec!["s".into()]);
        let EphemeralCredentials { username, password } = rest.mint("a", 2000).unwrap();
        let key =
            LongTermKey::with_algorithm(KeyAlgorithm::Sha256, &username, REALM, &password).integrity_key();
        let claim = Claim {
            identity: Identity::Username(&username),
            access_token: None,
            realm: REALM,
            algorithm: KeyAlgorithm::Sha256,
            unix_seconds: 1000,
        };
        let Finding::Found(found) = finds(&rest, &claim, &key) else { panic!("it holds") };
        assert_eq!((found.account.as_deref(), found.expires), (Some("a"), Some(2000)));
        for other in [
            Claim { unix_seconds: 2000, ..claim },
            Claim { algorithm: KeyAlgorithm::Md5, ..claim },
            Claim { access_token: Some(b"x"), ..claim },
            Claim { identity: Identity::UserHash(crate::auth::userhash(&username, REALM)), ..claim },
        ] {
            assert!(matches!(finds(&rest, &other, &key), Finding::Unknown), "{other:?}");
        }
    }
}
