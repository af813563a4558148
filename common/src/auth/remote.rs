//! Users that somebody else knows: a database, a webhook. The store answers at once from what it remembers, and later
//! from what its driver finds out.
//!
//! A server's engine asks [`CredentialStore::authenticate`]. At [`Finding::Later`] it puts the request aside in
//! [`Deferred`], or drops it. Its driver takes [`Lookup`]s from [`RemoteUsers::poll_lookup`], does the I/O, and gives the
//! result to [`RemoteUsers::answer`]; then the engine handles the requests that waited for it once more, as if they had
//! just arrived. They find the answer remembered, so nothing of a half-authenticated request is ever kept but its bytes.
//!
//! A request gets here only with a valid nonce, so its sender has received a packet at the address that it claims, and
//! the tables are bounded. That is all the state there is before authentication.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::key::{KeyAlgorithm, LongTermKey};
use super::store::{Claim, Credential, CredentialQuery, CredentialStore, Finding, Identity, LookupId};
use crate::wire::IntegrityKey;

/// How much a [`RemoteUsers`] keeps, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteLimits {
    /// Look-ups under way at the same time; more claims are [`Finding::Overloaded`].
    pub lookups: usize,
    /// Answers that are remembered; the oldest go first.
    pub answers: usize,
    /// Seconds for which an answer is remembered.
    pub lifetime: u64,
    /// Seconds for which it is remembered that there is no such user, or that the look-up failed.
    pub negative_lifetime: u64,
}

impl Default for RemoteLimits {
    fn default() -> Self {
        RemoteLimits { lookups: 256, answers: 4096, lifetime: 60, negative_lifetime: 5 }
    }
}

/// What has to be found out. Whoever takes one owes [`RemoteUsers::answer`], at the latest when it gives up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Names it in the answer.
    pub id: LookupId,
    /// Whose keys.
    pub user: RemoteIdentity,
    /// In which realm.
    pub realm: String,
    /// By which algorithm.
    pub algorithm: KeyAlgorithm,
}

/// A user as the request names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RemoteIdentity {
    /// The USERNAME as it came.
    Username(String),
    /// SHA-256 of "username:realm".
    UserHash([u8; 32]),
}

/// A user whom the look-up found.
#[derive(Clone, Debug)]
pub struct RemoteUser {
    /// Its name, also where USERHASH was asked for.
    pub username: String,
    /// Its key, or its keys while it is changing its password, by the algorithm that was asked for.
    pub keys: Vec<LongTermKey>,
}

/// A store whose users somebody else knows.
#[derive(Debug)]
pub struct RemoteUsers {
    limits: RemoteLimits,
    state: Mutex<State>,
}

/// What is remembered is remembered for this.
type Subject = (RemoteIdentity, String, KeyAlgorithm);

#[derive(Debug, Default)]
struct State {
    next: u64,
    to_do: VecDeque<Lookup>,
    under_way: BTreeMap<LookupId, Subject>,
    asked: BTreeMap<Subject, LookupId>,
    known: BTreeMap<Subject, Answer>,
    /// What is known, by the time of its end in Unix seconds.
    ends: BTreeSet<(u64, Subject)>,
}

#[derive(Debug)]
struct Answer {
    user: Option<RemoteUser>,
    ends: u64,
}

impl RemoteUsers {
    /// Knows nobody at first.
    pub fn new(limits: RemoteLimits) -> RemoteUsers {
        RemoteUsers { limits, state: Mutex::default() }
    }

    /// The next look-up to do.
    pub fn poll_lookup(&self) -> Option<Lookup> {
        self.state().to_do.pop_front()
    }

    /// The end of a look-up: the user, or `None` if there is none or nobody could be asked. Claims that waited for it are
    /// to be made again.
    pub fn answer(&self, id: LookupId, user: Option<RemoteUser>, unix_seconds: u64) {
        let mut state = self.state();
        let Some(subject) = state.under_way.remove(&id) else { return };
        state.asked.remove(&subject);
        let lifetime = if user.is_some() { self.limits.lifetime } else { self.limits.negative_lifetime };
        let ends = unix_seconds.saturating_add(lifetime);
        state.remember(subject, Answer { user, ends }, self.limits.answers);
    }

    /// Forgets every answer, as when passwords were changed in bulk.
    pub fn forget(&self) {
        let mut state = self.state();
        state.known.clear();
        state.ends.clear();
    }

    /// What a panic of another thread left is whole: nothing below panics between two changes that belong together.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remember(&mut self, subject: Subject, answer: Answer, capacity: usize) {
        self.forget(&subject);
        while self.known.len() >= capacity.max(1) {
            let Some((_, oldest)) = self.ends.pop_first() else { break };
            self.known.remove(&oldest);
        }
        self.ends.insert((answer.ends, subject.clone()));
        self.known.insert(subject, answer);
    }

    fn forget(&mut self, subject: &Subject) {
        if let Some(old) = self.known.remove(subject) {
            self.ends.remove(&(old.ends, subject.clone()));
        }
    }

    fn ask(&mut self, subject: Subject, limit: usize) -> Finding {
        if let Some(id) = self.asked.get(&subject) {
            return Finding::Later(*id);
        }
        if self.under_way.len() >= limit {
            return Finding::Overloaded;
        }
        let id = LookupId(self.next);
        self.next += 1;
        let (user, realm, algorithm) = subject.clone();
        self.to_do.push_back(Lookup { id, user, realm, algorithm });
        self.asked.insert(subject.clone(), id);
        self.under_way.insert(id, subject);
        Finding::Later(id)
    }
}

impl CredentialStore for RemoteUsers {
    /// Only what is remembered: this question cannot be answered later.
    fn find(
        &self,
        query: CredentialQuery<'_>,
        proves: &mut dyn FnMut(&IntegrityKey) -> bool,
    ) -> Option<IntegrityKey> {
        let user = RemoteIdentity::Username(query.username.to_owned());
        let subject = (user, query.realm.to_owned(), KeyAlgorithm::Md5);
        let state = self.state();
        let answer = state.known.get(&subject).filter(|answer| query.unix_seconds < answer.ends)?;
        let keys = answer.user.iter().flat_map(|user| &user.keys);
        keys.map(LongTermKey::integrity_key).find(|key| proves(key))
    }

    fn authenticate(&self, claim: &Claim<'_>, proves: &mut dyn FnMut(&IntegrityKey) -> bool) -> Finding {
        if claim.access_token.is_some() {
            return Finding::Unknown;
        }
        let user = match claim.identity {
            Identity::Username(username) => RemoteIdentity::Username(username.to_owned()),
            Identity::UserHash(hash) => RemoteIdentity::UserHash(hash),
        };
        let subject = (user, claim.realm.to_owned(), claim.algorithm);
        let mut state = self.state();
        let Some(answer) = state.known.get(&subject).filter(|answer| claim.unix_seconds < answer.ends) else {
            return state.ask(subject, self.limits.lookups);
        };
        let Some(user) = &answer.user else { return Finding::Unknown };
        let keys = user.keys.iter().map(LongTermKey::integrity_key);
        match keys.into_iter().find(|key| proves(key)) {
            Some(key) => {
                let (username, key) = (user.username.clone(), Box::new(key));
                Finding::Found(Credential { username, key, account: None, expires: None })
            }
            None => Finding::Unknown,
        }
    }
}

/// Requests that wait for look-ups: a bounded table, for an engine to put its `T` aside in.
#[derive(Debug)]
pub struct Deferred<T> {
    capacity: usize,
    len: usize,
    waiting: BTreeMap<LookupId, Vec<T>>,
}

impl<T> Deferred<T> {
    /// A table for so many requests in all.
    pub fn new(capacity: usize) -> Deferred<T> {
        Deferred { capacity, len: 0, waiting: BTreeMap::new() }
    }

    /// Puts a request aside; `false` if there is no more room, and the request is dropped.
    pub fn push(&mut self, id: LookupId, request: T) -> bool {
        let room = self.len < self.capacity;
        if room {
            self.len += 1;
            self.waiting.entry(id).or_default().push(request);
        }
        room
    }

    /// Takes the requests that waited for this look-up, in the order of their arrival.
    pub fn take(&mut self, id: LookupId) -> Vec<T> {
        let requests = self.waiting.remove(&id).unwrap_or_default();
        self.len -= requests.len();
        requests
    }

    /// Keeps the requests of which `keep` says so, and forgets the others, as when their sender is gone.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        if self.is_empty() {
            return;
        }
        self.waiting.retain(|_, requests| {
            requests.retain(&mut keep);
            !requests.is_empty()
        });
        self.len = self.waiting.values().map(Vec::len).sum();
    }

    /// The requests that wait.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.waiting.values().flatten()
    }

    /// How many requests wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::testing::{REALM, finds, knows};
    use crate::auth::userhash;

    const LIMITS: RemoteLimits = RemoteLimits { lookups: 2, answers: 2, lifetime: 60, negative_lifetime: 5 };

    fn claim(username: &str, unix_seconds: u64) -> Claim<'_> {
        Claim {
            identity: Identity::Username(username),
            access_token: None,
            realm: REALM,
            algorithm: KeyAlgorithm::Sha256,
            unix_seconds,
        }
    }

    fn key(username: &str) -> LongTermKey {
        LongTermKey::with_algorithm(KeyAlgorithm::Sha256, username, REALM, "secret")
    }

    fn user(username: &str) -> Option<RemoteUser> {
        Some(RemoteUser { username: username.to_owned(), keys: vec![key(username)] })
    }

    fn asks(store: &RemoteUsers, username: &str, now: u64) -> Finding {
        finds(store, &claim(username, now), &key(username).integrity_key())
    }

    /// Does the next look-up.
    fn look_up(store: &RemoteUsers, answer: Option<RemoteUser>, now: u64) -> RemoteIdentity {
        let lookup = store.poll_lookup().unwrap();
        assert_eq!((lookup.realm.as_str(), lookup.algorithm), (REALM, KeyAlgorithm::Sha256));
        store.answer(lookup.id, answer, now);
        lookup.user
    }

    #[test]
    fn an_answer_comes_later_and_is_remembered_for_its_time() {
        let store = RemoteUsers::new(LIMITS);
        let Finding::Later(first) = asks(&store, "bob", 0) else { panic!("nobody can know yet") };
        assert!(matches!(asks(&store, "bob", 0), Finding::Later(again) if again == first), "asked once");
        assert_eq!(look_up(&store, user("bob"), 10), RemoteIdentity::Username("bob".into()));
        assert_eq!(store.poll_lookup(), None);
        assert!(matches!(asks(&store, "bob", 69), Finding::Found(found) if found.username == "bob"));
        let forged = finds(&store, &claim("bob", 69), &IntegrityKey::new(b"guess"));
        assert!(matches!(forged, Finding::Unknown));
        assert!(matches!(asks(&store, "bob", 70), Finding::Later(_)));
        store.answer(LookupId(99), user("bob"), 70);
        assert!(matches!(asks(&store, "bob", 70), Finding::Later(_)), "nobody asked for that");
    }

    #[test]
    fn that_there_is_no_such_user_is_remembered_shortly() {
        let store = RemoteUsers::new(LIMITS);
        asks(&store, "eve", 0);
        look_up(&store, None, 0);
        assert!(matches!(asks(&store, "eve", 4), Finding::Unknown));
        assert!(matches!(asks(&store, "eve", 5), Finding::Later(_)));
        let with_token = Claim { access_token: Some(b"x"), ..claim("x", 0) };
        assert!(matches!(finds(&store, &with_token, &IntegrityKey::new(b"")), Finding::Unknown));
    }

    #[test]
    fn look_ups_and_answers_are_bounded() {
        let store = RemoteUsers::new(LIMITS);
        for name in ["a", "b"] {
            assert!(matches!(asks(&store, name, 0), Finding::Later(_)));
        }
        assert!(matches!(asks(&store, "c", 0), Finding::Overloaded));
        look_up(&store, user("a"), 0);
        look_up(&store, user("b"), 1);
        asks(&store, "c", 2);
        look_up(&store, user("c"), 2);
        assert_eq!(store.state().known.len(), 2);
        assert_eq!(store.state().ends.len(), 2);
        assert!(matches!(asks(&store, "a", 2), Finding::Later(_)), "the oldest went");
        assert!(matches!(asks(&store, "c", 2), Finding::Found(_)));
        store.forget();
        assert!(matches!(asks(&store, "c", 2), Finding::Later(_)));
    }

    #[test]
    fn a_userhash_is_looked_up_as_it_is_and_answered_with_the_name() {
        let store = RemoteUsers::new(LIMITS);
        let hash = userhash("bob", REALM);
        let claim = Claim { identity: Identity::UserHash(hash), ..claim("", 0) };
        let bobs = key("bob").integrity_key();
        assert!(matches!(finds(&store, &claim, &bobs), Finding::Later(_)));
        assert_eq!(look_up(&store, user("bob"), 0), RemoteIdentity::UserHash(hash));
        assert!(matches!(finds(&store, &claim, &bobs), Finding::Found(found) if found.username == "bob"));
    }

    #[test]
    fn the_short_question_is_answered_from_memory_alone() {
        let store = RemoteUsers::new(LIMITS);
        assert!(!knows(&store, "bob", "secret", 0));
        let md5 = Claim { algorithm: KeyAlgorithm::Md5, ..claim("bob", 0) };
        finds(&store, &md5, &IntegrityKey::new(b""));
        let id = store.poll_lookup().unwrap().id;
        let keys = vec![LongTermKey::new("bob", REALM, "secret")];
        store.answer(id, Some(RemoteUser { username: "bob".into(), keys }), 0);
        assert!(knows(&store, "bob", "secret", 0));
        assert!(!knows(&store, "bob", "secret", 60));
    }

    #[test]
    fn what_waits_is_bounded_and_comes_back_in_order() {
        let mut deferred = Deferred::new(3);
        assert!(deferred.push(LookupId(1), 'a') && deferred.push(LookupId(2), 'b'));
        assert!(deferred.push(LookupId(1), 'c') && !deferred.push(LookupId(1), 'd'));
        assert_eq!((deferred.take(LookupId(1)), deferred.len()), (vec!['a', 'c'], 1));
        assert!(deferred.push(LookupId(3), 'e') && !deferred.is_empty());
        assert_eq!(deferred.iter().collect::<String>(), "be");
        assert!(deferred.take(LookupId(9)).is_empty());
        deferred.retain(|request| *request != 'b');
        assert_eq!(
            (deferred.len(), deferred.take(LookupId(2)), deferred.take(LookupId(3))),
            (1, vec![], vec!['e'])
        );
    }
}
