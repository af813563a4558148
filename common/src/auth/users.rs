//! Users that do not expire: coturn's `user=name:password`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use super::key::{KeyAlgorithm, LongTermKey, userhash};
use super::prepare::{forms, opaque_string};
use super::store::{Claim, Credential, CredentialQuery, CredentialStore, Finding, Identity};
use crate::wire::IntegrityKey;

/// Users with passwords, or with keys of theirs, that do not expire.
#[derive(Clone, Default)]
pub struct StaticUsers {
    secrets: BTreeMap<String, UserSecret>,
    /// USERHASH to username, for the realm given to [`StaticUsers::index_userhashes`].
    hashes: Option<(String, BTreeMap<[u8; 32], String>)>,
}

/// What a user proves to know.
#[derive(Clone, PartialEq, Eq)]
pub enum UserSecret {
    /// A password. A client that prepared it as RFC 8489 or RFC 5389 says, or not at all, is known by it.
    Password(String),
    /// A key that was derived before, which serves for its realm and its algorithm only.
    Key(LongTermKey),
}

impl UserSecret {
    /// Reads what stands behind the colon of coturn's `user=`: `0x` and 32 or 64 hexadecimal digits are a key, anything
    /// else is a password.
    pub fn from_setting(text: &str) -> UserSecret {
        text.parse().map_or_else(|_| UserSecret::Password(text.to_owned()), UserSecret::Key)
    }

    /// The keys by `algorithm` that this secret may have become at the client's.
    pub fn keys<'s>(
        &'s self,
        algorithm: KeyAlgorithm,
        username: &'s str,
        realm: &'s str,
    ) -> Box<dyn Iterator<Item = LongTermKey> + 's> {
        match self {
            UserSecret::Password(password) => Box::new(
                forms(password)
                    .map(move |password| LongTermKey::with_algorithm(algorithm, username, realm, &password)),
            ),
            UserSecret::Key(key) => {
                Box::new(Some(key.clone()).into_iter().filter(move |key| key.algorithm() == algorithm))
            }
        }
    }
}

impl fmt::Debug for UserSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UserSecret::Password(_) => "Password(redacted)",
            UserSecret::Key(_) => "Key(redacted)",
        })
    }
}

impl StaticUsers {
    /// Adds a user, or changes its password.
    pub fn insert(&mut self, username: impl Into<String>, password: impl Into<String>) {
        self.insert_secret(username, UserSecret::Password(password.into()));
    }

    /// Adds a user, or changes what it proves to know.
    pub fn insert_secret(&mut self, username: impl Into<String>, secret: UserSecret) {
        let username = username.into();
        // A name that may not stand in USERNAME is kept as it is: there are clients that send it so.
        let username = opaque_string(&username).map_or(username.clone(), Cow::into_owned);
        if let Some((realm, hashes)) = &mut self.hashes {
            hashes.insert(userhash(&username, realm), username.clone());
        }
        self.secrets.insert(username, secret);
    }

    /// Lets users be found by USERHASH, which is over the realm too. Until then none is.
    pub fn index_userhashes(&mut self, realm: &str) {
        let hashes = self.secrets.keys().map(|name| (userhash(name, realm), name.clone())).collect();
        self.hashes = Some((realm.to_owned(), hashes));
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    fn credential(
        &self,
        claim: &Claim<'_>,
        proves: &mut dyn FnMut(&IntegrityKey) -> bool,
    ) -> Option<Credential> {
        if claim.access_token.is_some() {
            return None;
        }
        let username = match claim.identity {
            Identity::Username(username) => username,
            Identity::UserHash(hash) => {
                let (_, hashes) = self.hashes.as_ref().filter(|(realm, _)| realm == claim.realm)?;
                hashes.get(&hash)?
            }
        };
        let secret =
            self.secrets.get(username).or_else(|| self.secrets.get(&*opaque_string(username).ok()?))?;
        let key = secret
            .keys(claim.algorithm, username, claim.realm)
            .map(|key| key.integrity_key())
            .find(|key| proves(key))?;
        let key = Box::new(key);
        Some(Credential { username: username.to_owned(), key, account: None, expires: None })
    }
}

impl fmt::Debug for StaticUsers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticUsers({} of them, passwords redacted)", self.secrets.len())
    }
}

impl CredentialStore for StaticUsers {
    fn find(
        &self,
        query: CredentialQuery<'_>,
        proves: &mut dyn FnMut(&IntegrityKey) -> bool,
    ) -> Option<IntegrityKey> {
        let claim = Claim {
            identity: Identity::Username(query.username),
            access_token: None,
            realm: query.realm,
            algorithm: KeyAlgorithm::Md5,
            unix_seconds: query.unix_seconds,
        };
        self.credential(&claim, proves).map(|credential| *credential.key)
    }

    fn authenticate(&self, claim: &Claim<'_>, proves: &mut dyn FnMut(&IntegrityKey) -> bool) -> Finding {
        self.credential(claim, proves).map_or(Finding::Unknown, Finding::Found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::testing::{REALM, finds, knows};

    fn claim(identity: Identity<'_>, algorithm: KeyAlgorithm) -> Claim<'_> {
        Claim { identity, access_token: None, realm: REALM, algorithm, unix_seconds: 0 }
    }

    fn found(users: &StaticUsers, claim: &Claim<'_>, key: &LongTermKey) -> Option<String> {
        match finds(users, claim, &key.integrity_key()) {
            Finding::Found(credential) => Some(credential.username),
            _ => None,
        }
    }

    #[test]
    fn a_key_serves_for_its_algorithm_only() {
        let mut users = StaticUsers::default();
        let (md5, sha256) = (KeyAlgorithm::Md5, KeyAlgorithm::Sha256);
        let keys = [md5, sha256].map(|a| LongTermKey::with_algorithm(a, "bob", REALM, "builder"));
        let bob = |algorithm| claim(Identity::Username("bob"), algorithm);
        users.insert("bob", "builder");
        assert_eq!(found(&users, &bob(md5), &keys[0]).as_deref(), Some("bob"));
        assert_eq!(found(&users, &bob(sha256), &keys[1]).as_deref(), Some("bob"));
        assert_eq!(found(&users, &bob(sha256), &keys[0]), None);
        users.insert_secret("bob", UserSecret::Key(keys[0].clone()));
        assert_eq!(found(&users, &bob(md5), &keys[0]).as_deref(), Some("bob"));
        assert_eq!(found(&users, &bob(sha256), &keys[1]), None);
        assert!(knows(&users, "bob", "builder", 0));
        let with_token = Claim { access_token: Some(b"x"), ..bob(md5) };
        assert_eq!(found(&users, &with_token, &keys[0]), None);
    }

    #[test]
    fn settings_as_coturn_takes_them() {
        let key = UserSecret::from_setting("0x8493fbc53ba582fb4c044c456bdc40eb");
        assert!(key == UserSecret::Key(LongTermKey::new("user", "realm", "pass")));
        for password in ["pass", "0x8493", "0xpass"] {
            assert!(UserSecret::from_setting(password) == UserSecret::Password(password.into()));
        }
        assert_eq!(format!("{key:?}"), "Key(redacted)");
    }

    #[test]
    fn userhash_stands_for_the_username_once_indexed() {
        let mut users = StaticUsers::default();
        users.insert("bob", "builder");
        let key = LongTermKey::new("bob", REALM, "builder");
        let by_hash = |realm| claim(Identity::UserHash(userhash("bob", realm)), KeyAlgorithm::Md5);
        assert_eq!(found(&users, &by_hash(REALM), &key), None);
        users.index_userhashes(REALM);
        assert_eq!(found(&users, &by_hash(REALM), &key).as_deref(), Some("bob"));
        assert_eq!(found(&users, &by_hash("other"), &key), None);
        users.insert("eve", "dropper");
        let eve = claim(Identity::UserHash(userhash("eve", REALM)), KeyAlgorithm::Md5);
        let key = LongTermKey::new("eve", REALM, "dropper");
        assert_eq!(found(&users, &eve, &key).as_deref(), Some("eve"));
    }

    #[test]
    fn every_way_of_preparing_a_password_is_known() {
        let mut users = StaticUsers::default();
        users.insert("bob\u{3000}x", "\u{3000}\u{2168}");
        for password in [" \u{2168}", " IX", "\u{3000}\u{2168}"] {
            assert!(knows(&users, "bob x", password, 0), "{password}");
            assert!(knows(&users, "bob\u{3000}x", password, 0), "{password}");
        }
        assert!(!knows(&users, "bob x", "IX", 0));
    }
}
