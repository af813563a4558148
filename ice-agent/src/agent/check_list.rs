//! The check list (RFC 8445, section 6.1.2): which pairs there are, and which is checked next. The lists of all data streams
//! are one here, since foundations, pace and the limit of pairs are the set's (sections 6.1.2.5, 6.1.2.6 and 6.1.4.2).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use thirl_common::index::Index;
use thirl_common::wire::TransactionId;

use super::event::Route;
use super::pair::{Asked, Foundation, Group, Pair, PairId, PairState, Rank};
use super::remote::RemoteId;
use super::sorted::SortedMap;
use crate::candidate::ComponentId;

/// "a default of 100" (RFC 8445, section 6.1.2.5).
const MAX_PAIRS: usize = 100;

/// After so long an answer to a check is not to be expected any more: longer than any round trip.
const IN_VAIN: Duration = Duration::from_secs(1);

/// So many transactions of one pair may still be answered: more than consent asks within its timeout.
const MAX_ASKED: usize = 10;

/// Which pairs of a component get ordinary checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Ordinary {
    /// All.
    #[default]
    All,
    /// Direct ones: a relayed pair is selected.
    DirectOnly,
    /// Direct ones over UDP: a direct one over TCP is selected.
    DatagramsOnly,
    /// None: a direct pair over UDP is selected.
    Stopped,
}

impl Ordinary {
    /// What is still looked for beside a selected pair of this kind.
    pub(super) fn beside(selected: Rank) -> Ordinary {
        match selected {
            Rank::Direct => Ordinary::Stopped,
            Rank::DirectOverTcp => Ordinary::DatagramsOnly,
            Rank::Relayed => Ordinary::DirectOnly,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct CheckList {
    /// In boxes, so that the room that the map has to spare is small.
    pairs: SortedMap<PairId, Box<Pair>>,
    /// The numbers of pairs, by the way that their packets take.
    by_way: Index<foldhash::fast::RandomState>,
    triggered: VecDeque<PairId>,
    asked: SortedMap<TransactionId, Asked>,
    next: u32,
    /// How many pairs are [wanted](Pair::wanted).
    wanted: u32,
    /// How many ordinary checks each group has had.
    served: SortedMap<Group, u32>,
}

impl CheckList {
    /// An empty list whose pairs are named unlike those of the list before it.
    pub(super) fn after(before: &CheckList) -> CheckList {
        CheckList { next: before.next, ..CheckList::default() }
    }

    /// Stops all checks; says of which pairs.
    pub(super) fn rest(&mut self) -> Vec<PairId> {
        self.triggered.clear();
        for pair in self.pairs.values_mut() {
            pair.check = None;
            pair.nominate = false;
        }
        self.pairs.keys().copied().collect()
    }

    pub(super) fn get(&self, id: PairId) -> Option<&Pair> {
        self.pairs.get(&id).map(AsRef::as_ref)
    }

    pub(super) fn get_mut(&mut self, id: PairId) -> Option<&mut Pair> {
        self.pairs.get_mut(&id).map(AsMut::as_mut)
    }

    /// The pair whose packets leave by this route to this address. No two pairs share both, so that a server-reflexive
    /// candidate's pair is its base's (RFC 8445, section 6.1.2.4).
    pub(super) fn find(&self, route: Route, to: SocketAddr) -> Option<PairId> {
        let way = (route, to);
        let has_it = |id| self.get(PairId::from(id)).is_some_and(|pair| pair.way() == way);
        self.by_way.get(&way, has_it).map(PairId::from)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PairId, &Pair)> {
        self.pairs.iter().map(|(id, pair)| (*id, &**pair))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (PairId, &mut Pair)> {
        self.pairs.iter_mut().map(|(id, pair)| (*id, &mut **pair))
    }

    /// Whether a pair can only be added in the place of another.
    pub(super) fn is_full(&self) -> bool {
        self.pairs.len() >= MAX_PAIRS
    }

    /// Adds a pair, frozen if another of its foundation has yet to be answered. `None` if the list is full of better ones, which
    /// those in use always are.
    pub(super) fn insert(&mut self, now: Instant, mut pair: Pair, in_use: &[PairId]) -> Option<PairId> {
        if self.is_full() {
            self.remove(self.worst(now, &pair, in_use)?);
        }
        let alike = |wanted: &[PairState]| {
            let mut pairs = self.pairs.values();
            pairs.any(|other| other.foundation == pair.foundation && wanted.contains(&other.state))
        };
        let blocked = alike(&[PairState::Waiting, PairState::InProgress]);
        pair.state =
            if blocked && !alike(&[PairState::Succeeded]) { PairState::Frozen } else { PairState::Waiting };
        let id = PairId(self.next);
        self.next += 1;
        self.by_way.insert(&pair.way(), id.into());
        self.wanted += u32::from(pair.wanted);
        self.pairs.insert(id, Box::new(pair));
        Some(id)
    }

    /// The pair that is least worth keeping, if a new one is worth more. A peer that moves from network to network tells of ever
    /// others, while in a full list it takes minutes until a check fails (RFC 8445, section 14.3): so one that has gone without
    /// an answer for some time is as good as failed, and what worked once and is not in use may be gone.
    fn worst(&self, now: Instant, fresh: &Pair, in_use: &[PairId]) -> Option<PairId> {
        let in_vain = |pair: &Pair| {
            let asked = pair.check.as_ref().and_then(|check| self.asked(check.id));
            asked.is_none_or(|asked| now.saturating_duration_since(asked.sent) >= IN_VAIN)
        };
        let rank = |id: PairId, pair: &Pair| match pair.state {
            PairState::Failed => Some((0, pair.priority)),
            PairState::InProgress => in_vain(pair).then_some((1, id.0.into())),
            PairState::Frozen | PairState::Waiting => {
                (fresh.heard || pair.priority < fresh.priority).then_some((2, pair.priority))
            }
            PairState::Succeeded => Some((3, id.0.into())),
        };
        let mine = self.pairs.iter().filter(|(id, _)| !in_use.contains(id));
        mine.filter_map(|(id, pair)| Some((rank(*id, pair)?, *id))).min().map(|(_, id)| id)
    }

    fn remove(&mut self, id: PairId) {
        if let Some(pair) = self.pairs.remove(&id) {
            self.by_way.remove(&pair.way(), id.into());
            self.triggered.retain(|queued| *queued != id);
            self.wanted -= u32::from(pair.wanted);
            for transaction in pair.asked {
                self.asked.remove(&transaction);
            }
        }
    }

    /// Whether a pair of this remote candidate works or may yet work.
    pub(super) fn is_of_use(&self, remote: RemoteId) -> bool {
        self.pairs.values().any(|pair| pair.remote == remote && pair.state != PairState::Failed)
    }

    /// Forgets the pairs of a remote candidate, all of which have failed.
    pub(super) fn remove_pairs_of(&mut self, remote: RemoteId) {
        let of_it = self.iter().filter(|(_, pair)| pair.remote == remote).map(|(id, _)| id);
        for id in of_it.collect::<Vec<_>>() {
            self.remove(id);
        }
    }

    /// Puts a pair into the triggered-check queue (RFC 8445, section 6.1.4.1).
    pub(super) fn trigger(&mut self, id: PairId) {
        if self.get(id).is_some() && !self.triggered.contains(&id) {
            self.triggered.push_back(id);
        }
    }

    /// Whether some pair is [wanted](Pair::wanted).
    pub(super) fn wants_any(&self) -> bool {
        self.wanted > 0
    }

    /// The pair was checked: it is wanted no more. Whether it was.
    pub(super) fn take_wanted(&mut self, id: PairId) -> bool {
        let was = self.get_mut(id).is_some_and(|pair| std::mem::take(&mut pair.wanted));
        self.wanted -= u32::from(was);
        was
    }

    /// Whether a triggered check waits.
    pub(super) fn has_triggered(&self) -> bool {
        !self.triggered.is_empty()
    }

    /// The pair to check next: a triggered one, before all others.
    pub(super) fn next_triggered(&mut self) -> Option<PairId> {
        self.triggered.pop_front()
    }

    /// The pair to check next of those that wait for their turn and may be checked.
    ///
    /// RFC 8445, section 6.1.4.2, takes the highest priority. A peer's priorities rank its interfaces and say nothing of
    /// which can be reached, so dead candidates would hold up the live one. Here groups of pairs, by component, family,
    /// kinds and likelihood, take turns; within a group the best and the worst do. TCP has its turn when UDP needs none.
    pub(super) fn next_ordinary(&mut self, may_check: impl Fn(&Pair) -> bool) -> Option<PairId> {
        let over = |tcp: bool| move |pair: &Pair| pair.route.is_tcp() == tcp;
        self.next_of(|pair| over(false)(pair) && may_check(pair))
            .or_else(|| self.next_of(|pair| over(true)(pair) && may_check(pair)))
    }

    fn next_of(&mut self, may_check: impl Fn(&Pair) -> bool) -> Option<PairId> {
        let group = self.next_group(&may_check).or_else(|| {
            self.unfreeze_one(&may_check);
            self.next_group(&may_check)
        })?;
        let served = self.served(group) + 1;
        self.served.insert(group, served);
        let best_first = served % 2 == 1;
        let waiting =
            |pair: &Pair| pair.group == group && pair.state == PairState::Waiting && may_check(pair);
        let waiting = self.iter().filter(|(_, pair)| waiting(pair));
        let key = |(id, pair): &(PairId, &Pair)| (pair.priority, std::cmp::Reverse(*id));
        let chosen = if best_first { waiting.max_by_key(key) } else { waiting.min_by_key(key) };
        chosen.map(|(id, _)| id)
    }

    fn next_group(&self, may_check: &impl Fn(&Pair) -> bool) -> Option<Group> {
        let turn = |group: Group| (self.served(group) + 1) * group.likelihood.stride();
        self.pairs
            .values()
            .filter(|pair| pair.state == PairState::Waiting && may_check(pair))
            .min_by_key(|pair| (turn(pair.group), std::cmp::Reverse(pair.priority), pair.group))
            .map(|pair| pair.group)
    }

    fn served(&self, group: Group) -> u32 {
        self.served.get(&group).copied().unwrap_or(0)
    }

    /// With nothing else to do, thaws the best frozen pair whose foundation is not being tried for the first time.
    fn unfreeze_one(&mut self, may_check: &impl Fn(&Pair) -> bool) {
        let fresh = |pair: &Pair| {
            pair.state == PairState::InProgress
                && pair.check.as_ref().is_some_and(|check| check.transaction.transmissions() == 1)
        };
        let tried: Vec<_> =
            self.pairs.values().filter(|pair| fresh(pair)).map(|pair| pair.foundation).collect();
        let best = self
            .pairs
            .values_mut()
            .filter(|pair| pair.state == PairState::Frozen && may_check(pair))
            .filter(|pair| !tried.contains(&pair.foundation))
            .max_by_key(|pair| pair.priority);
        if let Some(pair) = best {
            pair.state = PairState::Waiting;
        }
    }

    /// A pair of this foundation works: the others are worth a check (RFC 8445, section 7.2.5.3.3).
    pub(super) fn unfreeze(&mut self, foundation: Foundation) {
        for pair in self.pairs.values_mut() {
            if pair.state == PairState::Frozen && pair.foundation == foundation {
                pair.state = PairState::Waiting;
            }
        }
    }

    /// How many pairs' checks share the pace (RFC 8445, section 14.3).
    pub(super) fn active(&self) -> u32 {
        // Over TCP no check is repeated.
        let active = |(_, pair): &(PairId, &Pair)| {
            matches!(pair.state, PairState::Waiting | PairState::InProgress) && !pair.route.is_tcp()
        };
        u32::try_from(self.iter().filter(active).count()).unwrap_or(u32::MAX)
    }

    /// Whether any pair of a component may yet work.
    pub(super) fn has_open(&self, component: ComponentId) -> bool {
        let triggered = self.triggered.iter().filter_map(|id| self.get(*id));
        let open = self.pairs.values().map(AsRef::as_ref).filter(|pair| pair.is_open());
        open.chain(triggered).any(|pair| pair.component == component)
    }

    /// The best pair of a component that works, by rank first.
    pub(super) fn best_valid(&self, component: ComponentId) -> Option<PairId> {
        let key = |(id, pair): &(PairId, &Pair)| (pair.rank(), pair.priority, std::cmp::Reverse(*id));
        let works = |pair: &Pair| pair.component == component && pair.is_valid();
        self.iter().filter(|(_, pair)| works(pair)).max_by_key(key).map(|(id, _)| id)
    }

    /// Notes what was asked on a pair, and forgets what was asked long ago.
    pub(super) fn note_asked(&mut self, transaction: TransactionId, asked: Asked) {
        let Some(pair) = self.pairs.get_mut(&asked.pair) else { return };
        if pair.asked.len() >= MAX_ASKED {
            self.asked.remove(&pair.asked.remove(0));
        }
        pair.asked.push(transaction);
        self.asked.insert(transaction, asked);
    }

    /// Nothing that was asked on a pair counts any more.
    pub(super) fn forget_all_asked(&mut self, id: PairId) {
        let asked = self.pairs.get_mut(&id).map(|pair| std::mem::take(&mut pair.asked));
        for transaction in asked.into_iter().flatten() {
            self.asked.remove(&transaction);
        }
    }

    /// What was asked had to wait until now.
    pub(super) fn sent_only_now(&mut self, transaction: TransactionId, now: Instant) {
        if let Some(asked) = self.asked(transaction) {
            self.asked.insert(transaction, Asked { sent: now, ..asked });
        }
    }

    pub(super) fn asked(&self, transaction: TransactionId) -> Option<Asked> {
        self.asked.get(&transaction).copied()
    }

    pub(super) fn forget_asked(&mut self, transaction: TransactionId) {
        if let Some(asked) = self.asked.remove(&transaction)
            && let Some(pair) = self.pairs.get_mut(&asked.pair)
        {
            pair.asked.retain(|known| *known != transaction);
        }
    }
}
