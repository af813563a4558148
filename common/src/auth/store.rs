//! Where a server finds the key of whoever asks.

use std::sync::Arc;

use super::key::KeyAlgorithm;
use super::rest::RestSecrets;
use super::users::StaticUsers;
use crate::wire::{AccessToken, AttributeError, IntegrityKey, Message, UserHash, Username};

/// Whose key is asked for, by clients of RFC 5389: a username, and a key by MD5.
#[derive(Clone, Copy, Debug)]
pub struct CredentialQuery<'a> {
    /// The USERNAME as it came.
    pub username: &'a str,
    /// The realm of the server.
    pub realm: &'a str,
    /// Wall clock, for credentials that expire.
    pub unix_seconds: u64,
}

/// Who a request says that it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity<'a> {
    /// USERNAME as it came; with an access token the `kid` of who made that (RFC 7635, section 4.1).
    Username(&'a str),
    /// USERHASH (RFC 8489, section 14.4).
    UserHash([u8; 32]),
}

/// All that a request says of its sender (RFC 8489, section 9.2.4; RFC 7635, section 7).
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Who it is from.
    pub identity: Identity<'a>,
    /// ACCESS-TOKEN, if there is one.
    pub access_token: Option<&'a [u8]>,
    /// The realm of the server.
    pub realm: &'a str,
    /// How the key is to be derived, as [`chosen_algorithm`](super::chosen_algorithm) has found.
    pub algorithm: KeyAlgorithm,
    /// Wall clock, for credentials that expire.
    pub unix_seconds: u64,
}

impl<'a> Claim<'a> {
    /// Reads a request's USERNAME, or else USERHASH, and ACCESS-TOKEN. Without either of the first two it is to be
    /// answered with 400 (RFC 8489, section 9.2.4).
    pub fn read(
        message: &Message<'a>,
        realm: &'a str,
        algorithm: KeyAlgorithm,
        unix_seconds: u64,
    ) -> Result<Claim<'a>, AttributeError> {
        let identity = match message.get()? {
            Some(Username(username)) => Identity::Username(username),
            None => Identity::UserHash(message.require::<UserHash>()?.0),
        };
        let access_token = message.get()?.map(|AccessToken(token)| token);
        Ok(Claim { identity, access_token, realm, algorithm, unix_seconds })
    }

    /// The short form, if it says all that there is to say.
    fn query(&self) -> Option<CredentialQuery<'a>> {
        match *self {
            Claim {
                identity: Identity::Username(username),
                access_token: None,
                realm,
                algorithm: KeyAlgorithm::Md5,
                unix_seconds,
            } => Some(CredentialQuery { username, realm, unix_seconds }),
            _ => None,
        }
    }
}

/// Who a request was proved to be from.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The username, also where USERHASH stood for it; with an access token its `kid`.
    pub username: String,
    /// The key that the request was signed with, and the response is to be.
    pub key: Box<IntegrityKey>,
    /// Whom quotas count: the username, but of REST credentials without the expiry before it, lest new credentials make a
    /// new user. `None`: the username.
    pub account: Option<String>,
    /// When they end, in Unix seconds. An allocation must not outlive an access token (RFC 7635, section 8); REST
    /// credentials need only hold when it begins.
    pub expires: Option<u64>,
}

/// Names a look-up that a store has begun and not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LookupId(pub(super) u64);

/// What a store says to a claim.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Finding {
    /// It is true.
    Found(Credential),
    /// It is not: no such user, the credentials have expired, or no key fits. The requester learns no more than that.
    Unknown,
    /// Ask again with the same claim when this look-up has ended. Until then the request is put aside
    /// ([`Deferred`](super::Deferred)) or dropped, as the client sends it again over UDP.
    Later(LookupId),
    /// Too many look-ups are under way: drop the request without an answer.
    Overloaded,
}

/// Knows users and their keys.
///
/// A server asks [`CredentialStore::authenticate`]; stores that know only usernames and passwords need no more than
/// [`CredentialStore::find`].
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

    /// Whether the claim is true, of which `proves` says whether a key made the message's integrity.
    fn authenticate(&self, claim: &Claim<'_>, proves: &mut dyn FnMut(&IntegrityKey) -> bool) -> Finding {
        let found = claim.query().and_then(|query| {
            let key = self.find(query, proves)?;
            let (username, key) = (query.username.to_owned(), Box::new(key));
            Some(Credential { username, key, account: None, expires: None })
        });
        found.map_or(Finding::Unknown, Finding::Found)
    }
}

/// Several stores, asked in order until one finds.
///
/// If none does, but one will know later, so does the chain.
#[derive(Clone, Default)]
pub struct Chain {
    stores: Vec<Arc<dyn CredentialStore + Send + Sync>>,
}

impl Chain {
    /// Appends a store. Quick ones belong first.
    pub fn push(&mut self, store: Arc<dyn CredentialStore + Send + Sync>) {
        self.stores.push(store);
    }
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chain({} stores)", self.stores.len())
    }
}

impl CredentialStore for Chain {
    fn find(
        &self,
        query: CredentialQuery<'_>,
        proves: &mut dyn FnMut(&IntegrityKey) -> bool,
    ) -> Option<IntegrityKey> {
        self.stores.iter().find_map(|store| store.find(query, proves))
    }

    fn authenticate(&self, claim: &Claim<'_>, proves: &mut dyn FnMut(&IntegrityKey) -> bool) -> Finding {
        let mut finding = Finding::Unknown;
        for store in &self.stores {
            match (store.authenticate(claim, proves), &finding) {
                (found @ Finding::Found(_), _) => return found,
                (Finding::Unknown, _) => {}
                (later, Finding::Unknown) => finding = later,
                _ => {}
            }
        }
        finding
    }
}

/// What a server's configuration names: users first, then secrets.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// `user=name:password`.
    pub users: StaticUsers,
    /// `static-auth-secret`.
    pub rest: RestSecrets,
}

impl Credentials {
    /// Whether nobody is known.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.rest.is_empty()
    }
}

impl CredentialStore for Credentials {
    fn find(
        &self,
        query: CredentialQuery<'_>,
        proves: &mut dyn FnMut(&IntegrityKey) -> bool,
    ) -> Option<IntegrityKey> {
        self.users.find(query, proves).or_else(|| self.rest.find(query, proves))
    }

    fn authenticate(&self, claim: &Claim<'_>, proves: &mut dyn FnMut(&IntegrityKey) -> bool) -> Finding {
        match self.users.authenticate(claim, proves) {
            Finding::Unknown => self.rest.authenticate(claim, proves),
            finding => finding,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::testing::{REALM, finds, knows};
    use crate::auth::{AccessTokens, LongTermKey};
    use crate::wire::{AttributeType, Class, MessageWriter, Method, TransactionId};

    /// Knows nobody yet.
    struct Slow(u64);

    impl CredentialStore for Slow {
        fn find(
            &self,
            _: CredentialQuery<'_>,
            _: &mut dyn FnMut(&IntegrityKey) -> bool,
        ) -> Option<IntegrityKey> {
            None
        }

        fn authenticate(&self, _: &Claim<'_>, _: &mut dyn FnMut(&IntegrityKey) -> bool) -> Finding {
            Finding::Later(LookupId(self.0))
        }
    }

    fn claim(username: &str) -> Claim<'_> {
        Claim {
            identity: Identity::Username(username),
            access_token: None,
            realm: REALM,
            algorithm: KeyAlgorithm::Md5,
            unix_seconds: 0,
        }
    }

    #[test]
    fn users_and_secrets_side_by_side() {
        let mut store = Credentials { rest: RestSecrets::new(vec!["s".into()]), ..Credentials::default() };
        store.users.insert("bob", "builder");
        let ephemeral = store.rest.mint("", 100).unwrap();
        assert!(knows(&store, "bob", "builder", 0));
        assert!(knows(&store, &ephemeral.username, &ephemeral.password, 0));
        assert!(!knows(&store, "bob", "wrong", 0));
        assert!(!knows(&store, "eve", "builder", 0));
    }

    #[test]
    fn a_chain_asks_until_one_finds_and_remembers_who_will_know_later() {
        let mut users = StaticUsers::default();
        users.insert("bob", "builder");
        let mut chain = Chain::default();
        chain.push(Arc::new(AccessTokens::new("server")));
        chain.push(Arc::new(Slow(7)));
        chain.push(Arc::new(Slow(8)));
        chain.push(Arc::new(users));
        let key = LongTermKey::new("bob", REALM, "builder").integrity_key();
        assert!(matches!(finds(&chain, &claim("bob"), &key), Finding::Found(_)));
        assert!(matches!(finds(&chain, &claim("eve"), &key), Finding::Later(LookupId(7))));
        assert!(knows(&chain, "bob", "builder", 0));
        assert!(matches!(finds(&Chain::default(), &claim("bob"), &key), Finding::Unknown));
    }

    #[test]
    fn a_store_that_knows_only_passwords_does_not_answer_for_anything_else() {
        struct Open;
        impl CredentialStore for Open {
            fn find(
                &self,
                _: CredentialQuery<'_>,
                _: &mut dyn FnMut(&IntegrityKey) -> bool,
            ) -> Option<IntegrityKey> {
                Some(IntegrityKey::new(b"anything"))
            }
        }
        let key = IntegrityKey::new(b"anything");
        assert!(matches!(finds(&Open, &claim("bob"), &key), Finding::Found(_)));
        for other in [
            Claim { algorithm: KeyAlgorithm::Sha256, ..claim("bob") },
            Claim { access_token: Some(b""), ..claim("bob") },
            Claim { identity: Identity::UserHash([0; 32]), ..claim("bob") },
        ] {
            assert!(matches!(finds(&Open, &other, &key), Finding::Unknown), "{other:?}");
        }
    }

    #[test]
    fn claims_are_read_from_requests() {
        let read = |write: &dyn Fn(&mut MessageWriter<'_>)| {
            let mut buffer = [0; 128];
            let id = TransactionId([0; 12]);
            let mut writer = MessageWriter::new(&mut buffer, Class::Request, Method::ALLOCATE, id).unwrap();
            write(&mut writer);
            let message = Message::parse(writer.finish()).unwrap();
            let claim =
                Claim::read(&message, REALM, KeyAlgorithm::Md5, 0).map_err(|error| error.attribute)?;
            let name = matches!(claim.identity, Identity::Username("bob"));
            Ok((name, claim.access_token.map(<[u8]>::to_vec)))
        };
        assert_eq!(
            read(&|writer| {
                writer.attribute(&Username("bob")).unwrap().attribute(&UserHash([1; 32])).unwrap();
                writer.attribute(&AccessToken(b"token")).unwrap();
            }),
            Ok((true, Some(b"token".to_vec())))
        );
        assert_eq!(
            read(&|writer| {
                writer.attribute(&UserHash([1; 32])).unwrap();
            }),
            Ok((false, None))
        );
        assert_eq!(read(&|_| {}), Err(AttributeType::USERHASH));
    }
}
