//! Users whom a web service of the operator's knows: a [`RemoteUsers`], and the threads that ask for it.
//!
//! For each user whom the relay does not remember it sends a POST with JSON:
//!
//! ```json
//! {"realm": "example.org", "username": "alice", "algorithm": "md5"}
//! ```
//!
//! Where the client hides its name there is `"userhash"` in place of `"username"`: 64 hexadecimal digits, SHA-256 of
//! "username:realm" (RFC 8489, section 14.4). `"algorithm"` is `"md5"` or `"sha256"`. The service answers 200 with the
//! password or, lest it tell that, with keys by the algorithm, as `turnadmin -k` makes them, several while one is changed;
//! `"username"` may be left out where it was asked for:
//!
//! ```json
//! {"username": "alice", "password": "secret"}
//! {"username": "alice", "keys": ["0x8493fbc53ba582fb4c044c456bdc40eb"]}
//! ```
//!
//! 404 says that there is no such user. Anything else is a failure: it is logged, and the client is refused.

use std::fmt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use thirl_common::auth::{
    Claim, CredentialQuery, CredentialStore, Finding, KeyAlgorithm, Lookup, RemoteIdentity, RemoteLimits,
    RemoteUser, RemoteUsers, UserSecret,
};
use thirl_common::wire::IntegrityKey;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

/// Look-ups under way at the same time, each on a thread.
const THREADS: usize = 8;

/// How long the service may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 16 * 1024;

/// Where users are asked for.
#[derive(Clone, PartialEq, Eq)]
pub struct UserServiceConfig {
    /// An `http` or `https` URL.
    pub url: String,
    /// What is sent as `Authorization: Bearer`.
    pub token: Option<String>,
    /// For how long an answer is remembered, in seconds.
    pub lifetime: u64,
}

impl fmt::Debug for UserServiceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserServiceConfig({}, token redacted, {} s)", self.url, self.lifetime)
    }
}

/// A store that asks the service. Its threads start with the first question and end with the store.
pub struct UserService {
    config: UserServiceConfig,
    users: Arc<RemoteUsers>,
    /// Tells a thread that there is something to look up; `None`: there are no threads.
    wake: OnceLock<Option<SyncSender<()>>>,
}

impl UserService {
    /// Asks nothing yet.
    pub fn new(config: UserServiceConfig) -> UserService {
        let limits = RemoteLimits { lifetime: config.lifetime, ..RemoteLimits::default() };
        UserService { config, users: Arc::new(RemoteUsers::new(limits)), wake: OnceLock::new() }
    }

    /// If no thread listens, all are busy, and look for more when they are done.
    fn wake(&self) {
        let start = || {
            self.start()
                .inspect_err(|error| tracing::error!(%error, "no thread can be started to ask for users"))
                .ok()
        };
        if let Some(wake) = self.wake.get_or_init(start) {
            let _ = wake.try_send(());
        }
    }

    fn start(&self) -> std::io::Result<SyncSender<()>> {
        let (wake, woken) = sync_channel(THREADS);
        let woken = Arc::new(Mutex::new(woken));
        let agent = agent();
        for _ in 0..THREADS {
            let asker =
                Asker { config: self.config.clone(), agent: agent.clone(), users: self.users.clone() };
            let woken = woken.clone();
            std::thread::Builder::new().name("user-service".to_owned()).spawn(move || asker.run(&woken))?;
        }
        Ok(wake)
    }
}

impl fmt::Debug for UserService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UserService").field(&self.config).finish()
    }
}

impl CredentialStore for UserService {
    fn find(
        &self,
        query: CredentialQuery<'_>,
        proves: &mut dyn FnMut(&IntegrityKey) -> bool,
    ) -> Option<IntegrityKey> {
        self.users.find(query, proves)
    }

    fn authenticate(&self, claim: &Claim<'_>, proves: &mut dyn FnMut(&IntegrityKey) -> bool) -> Finding {
        let finding = self.users.authenticate(claim, proves);
        if matches!(finding, Finding::Later(_)) {
            self.wake();
        }
        finding
    }
}

/// What is trusted is what the system trusts.
fn agent() -> Agent {
    let trusted = rustls_native_certs::load_native_certs();
    let trusted: Vec<_> = trusted.certs.iter().map(|cert| Certificate::from_der(cert).to_owned()).collect();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(provider)
        .root_certs(RootCerts::new_with_certs(&trusted));
    let config = Agent::config_builder()
        .tls_config(tls.build())
        .timeout_global(Some(TIMEOUT))
        .max_redirects(0)
        .http_status_as_error(false);
    config.build().new_agent()
}

/// One thread.
struct Asker {
    config: UserServiceConfig,
    agent: Agent,
    users: Arc<RemoteUsers>,
}

impl Asker {
    fn run(&self, woken: &Mutex<Receiver<()>>) {
        // One listens, the others wait for its place.
        while woken.lock().unwrap_or_else(PoisonError::into_inner).recv().is_ok() {
            while let Some(lookup) = self.users.poll_lookup() {
                let user = self.look_up(&lookup).unwrap_or_else(|error| {
                    tracing::warn!(url = self.config.url, %error, "a user cannot be looked up");
                    None
                });
                self.users.answer(lookup.id, user, unix_seconds());
            }
        }
    }

    fn look_up(&self, lookup: &Lookup) -> Result<Option<RemoteUser>, AskError> {
        let mut request = self.agent.post(&self.config.url);
        if let Some(token) = &self.config.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let mut response = request.send_json(Question::of(lookup))?;
        match response.status().as_u16() {
            200 => {
                let body = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec()?;
                read_answer(&body, lookup).map(Some)
            }
            404 => Ok(None),
            status => Err(AskError::Status(status)),
        }
    }
}

/// Why a user could not be looked up: for the operator, whose service it is.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("{0}")]
    Http(#[from] ureq::Error),
    #[error("the service answers {0}: it is to answer 200, or 404 if there is no such user")]
    Status(u16),
    #[error("the service's answer is not the JSON that it is to be: {0}")]
    NotJson(serde_json::Error),
    #[error("the service's answer has neither a password nor keys by the algorithm that was asked for")]
    NoKey,
    #[error("the service's answer to a USERHASH does not say who that is")]
    NoName,
}

#[derive(Serialize)]
struct Question<'a> {
    realm: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    userhash: Option<String>,
    algorithm: &'static str,
}

impl Question<'_> {
    fn of(lookup: &Lookup) -> Question<'_> {
        let (username, userhash) = match &lookup.user {
            RemoteIdentity::Username(username) => (Some(username.as_str()), None),
            RemoteIdentity::UserHash(hash) => {
                (None, Some(hash.iter().map(|byte| format!("{byte:02x}")).collect()))
            }
        };
        let algorithm = match lookup.algorithm {
            KeyAlgorithm::Md5 => "md5",
            KeyAlgorithm::Sha256 => "sha256",
        };
        Question { realm: &lookup.realm, username, userhash, algorithm }
    }
}

#[derive(Deserialize)]
struct Answer {
    username: Option<String>,
    password: Option<String>,
    #[serde(default)]
    keys: Vec<String>,
}

fn read_answer(body: &[u8], lookup: &Lookup) -> Result<RemoteUser, AskError> {
    let Answer { username, password, keys } = serde_json::from_slice(body).map_err(AskError::NotJson)?;
    let username = match (username, &lookup.user) {
        (Some(username), _) => username,
        (None, RemoteIdentity::Username(asked)) => asked.clone(),
        (None, RemoteIdentity::UserHash(_)) => return Err(AskError::NoName),
    };
    let passwords = password.map(UserSecret::Password);
    let keys = keys.iter().filter_map(|key| key.parse().ok()).map(UserSecret::Key);
    let secrets: Vec<_> = passwords.into_iter().chain(keys).collect();
    let keys = secrets.iter().flat_map(|secret| secret.keys(lookup.algorithm, &username, &lookup.realm));
    let keys: Vec<_> = keys.collect();
    if keys.is_empty() { Err(AskError::NoKey) } else { Ok(RemoteUser { username, keys }) }
}

#[expect(clippy::disallowed_methods, reason = "what is remembered ends by the wall clock")]
fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use thirl_common::auth::{Identity, LongTermKey};

    /// What is looked up for a claim of alice, or of her hash.
    fn lookup(identity: Identity<'_>, algorithm: KeyAlgorithm) -> Lookup {
        let users = RemoteUsers::new(RemoteLimits::default());
        let claim = Claim { identity, access_token: None, realm: "r", algorithm, unix_seconds: 0 };
        assert!(matches!(users.authenticate(&claim, &mut |_| false), Finding::Later(_)));
        users.poll_lookup().unwrap()
    }

    #[test]
    fn questions_are_as_the_documentation_has_them() {
        let ask =
            |identity, algorithm| serde_json::to_string(&Question::of(&lookup(identity, algorithm))).unwrap();
        assert_eq!(
            ask(Identity::Username("alice"), KeyAlgorithm::Md5),
            r#"{"realm":"r","username":"alice","algorithm":"md5"}"#
        );
        let hash = "ab".repeat(32);
        assert_eq!(
            ask(Identity::UserHash([0xab; 32]), KeyAlgorithm::Sha256),
            format!(r#"{{"realm":"r","userhash":"{hash}","algorithm":"sha256"}}"#)
        );
    }

    #[test]
    fn answers_hold_a_password_or_keys() {
        let alice = lookup(Identity::Username("alice"), KeyAlgorithm::Md5);
        let hidden = lookup(Identity::UserHash([1; 32]), KeyAlgorithm::Md5);
        let key = LongTermKey::new("alice", "r", "secret");
        let (md5, sha256) = (format!("0x{}", "ab".repeat(16)), format!("0x{}", "ab".repeat(32)));
        let read =
            |body: &str, lookup| read_answer(body.as_bytes(), lookup).map(|user| (user.username, user.keys));
        for (body, lookup) in [
            (r#"{"password":"secret"}"#, &alice),
            (r#"{"username":"alice","password":"secret","since":1999}"#, &hidden),
        ] {
            let (username, keys) = read(body, lookup).unwrap();
            assert!(username == "alice" && keys.contains(&key), "{body}");
        }
        let (_, keys) = read(&format!(r#"{{"keys":["{md5}","{sha256}","x"]}}"#), &alice).unwrap();
        assert_eq!(keys.len(), 1);
        for (body, lookup) in [
            ("", &alice),
            ("[]", &alice),
            (r#"{"keys":"0xab"}"#, &alice),
            (r#"{"username":"alice"}"#, &alice),
            (r#"{"password":"secret"}"#, &hidden),
            (&format!(r#"{{"keys":["{sha256}"]}}"#), &alice),
        ] {
            assert!(read(body, lookup).is_err(), "{body}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_does_harm(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_answer(&body, &lookup(Identity::Username("alice"), KeyAlgorithm::Sha256));
        }
    }
}
