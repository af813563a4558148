//! Two sequences. A pair works if the mapping that this side has made for the peer's port P gets port Q, and the mapping that
//! the peer has made for Q gets P. Each side knows what the other's next ports are if it has just been told where that stands.
//! So in each round
//!
//! 1. the controlling side looks: a new socket asks a server, which sees the newest port of the sequence. It tells that to the
//!    peer, in its checks on the relayed pair;
//! 2. the controlled side looks in its turn, tells it too, and at once has [`BATCH`] mappings made, each by a new socket, all
//!    for one port: one of those that the controlling side's NAT gives out next;
//! 3. the controlling side is told, and does the same.
//!
//! So each has that port of its own pointed at that of the other's, unless another host behind the same NAT
//! took just that one. Then the next round may do.
//!
//! Without a relayed pair there is one round, with what the candidates said, and more mappings.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use thirl_common::wire::{Message, NatMapping, TransactionId, XorMappedAddress};

use super::behaviour::{MAX_WIDTH, MappingBehaviour};
use super::open::Opened;
use super::ports::{port_ahead, steps_ahead};
use super::{Plan, Search, Work};
use crate::agent::config::Role;
use crate::agent::event::{Action, SocketId};
use crate::agent::{Agent, Timer, Timings, message};
use crate::candidate::ComponentId;

/// So many mappings are made in a round.
const BATCH: u8 = 40;
/// They are for the port so far ahead of the newest: by whichever of 1, 2, 3, 4, 6, 8 a NAT counts, it comes by, and others
/// behind it may have had mappings made meanwhile.
const AHEAD: i32 = 24;
/// The same where there is nothing but what candidates said.
const BLIND: u8 = 96;
const BLIND_AHEAD: i32 = 48;
/// Rounds of one search.
const ROUNDS: u8 = 8;
/// What was not answered is repeated after so long.
const AGAIN: Duration = Duration::from_millis(500);
/// And so often.
const TRIES: u8 = 6;
/// What was sent may be answered for so long before the next round.
const ROUND_LASTS: Duration = Duration::from_millis(1500);
/// The controlled side waits for the next round.
const PEER_LASTS: Duration = Duration::from_secs(8);
/// Without a relayed pair the peer may be late.
const BLIND_LASTS: Duration = Duration::from_secs(20);

/// A search by rounds.
#[derive(Debug)]
pub(super) struct Mutual {
    pub(super) round: u8,
    pub(super) opened: Opened,
    /// What this side saw in this round: the newest port.
    looked: Option<u16>,
    /// What it saw in the round before, and how many mappings it has had made since.
    before: Option<(u16, usize)>,
    stage: Stage,
    /// When the stage is over, or what it does is repeated.
    until: Instant,
    tries: u8,
}

#[derive(Debug)]
enum Stage {
    /// A server is asked.
    Look(Option<Look>),
    /// The peer is told, and asked.
    Tell,
    /// Mappings are made, and kept.
    Open,
    /// The peer is to begin.
    Wait,
}

#[derive(Debug)]
struct Look {
    socket: SocketId,
    id: TransactionId,
    server: SocketAddr,
}

impl Mutual {
    fn waiting(now: Instant, target: SocketAddr) -> Mutual {
        Mutual {
            round: 0,
            opened: Opened::brief(target, 0, now),
            looked: None,
            before: None,
            stage: Stage::Wait,
            until: now + PEER_LASTS,
            tries: 0,
        }
    }
}

impl Agent {
    pub(super) fn new_mutual(&self, now: Instant, component: ComponentId, peer: IpAddr) -> Mutual {
        let Some(target) = self.port_to_come(peer, BLIND_AHEAD) else {
            return Mutual::waiting(now, SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0));
        };
        let waiting = Mutual::waiting(now, target);
        match (self.has_relayed(component), self.role) {
            (true, Role::Controlling) => looking(waiting, now),
            (true, Role::Controlled) => waiting,
            (false, _) => Mutual {
                opened: Opened::brief(target, usize::from(BLIND), now),
                stage: Stage::Open,
                until: now + BLIND_LASTS,
                ..waiting
            },
        }
    }

    fn mutual(&mut self) -> Option<&mut Mutual> {
        self.search_mut().and_then(|search| search.work.as_mutual())
    }

    /// What this side saw in this round, if it did.
    pub(super) fn mutual_view(&self) -> Option<NatMapping> {
        let search = self.search()?;
        let Work::Mutual(mutual) = &search.work else { return None };
        let behaviour = self.local.sockets.get(&search.plan.socket())?.behaviour();
        mutual.looked.map(|port| behaviour.attribute(mutual.round, port))
    }

    pub(super) fn go_on_mutually(&mut self, now: Instant) {
        let Some(Search { component, .. }) = self.search() else { return };
        let (component, role) = (*component, self.role);
        let relayed = self.has_relayed(component);
        let Some(mutual) = self.mutual() else { return };
        let over = now >= mutual.until;
        match (&mutual.stage, over) {
            (Stage::Look(None), false) if !mutual.opened.asked => self.open_to_look(now),
            (Stage::Look(_) | Stage::Tell, true) if mutual.tries < TRIES => {
                mutual.tries += 1;
                mutual.until = now + AGAIN;
                let tells = matches!(mutual.stage, Stage::Tell);
                self.timers.set(Timer::HardNat, now + AGAIN);
                if tells { self.tell_mapping(now, component) } else { self.ask_to_look(now) }
            }
            (Stage::Open, false) => {
                self.work_on_opened(now);
                let Some(mutual) = self.mutual() else { return };
                let until = mutual.until;
                if self.timers.get(Timer::HardNat).is_none_or(|at| until < at) {
                    self.timers.set(Timer::HardNat, until);
                }
            }
            (_, false) => {
                let until = mutual.until;
                self.timers.set(Timer::HardNat, until);
            }
            // A relayed pair has come to work meanwhile, or the peer tells nothing.
            (Stage::Open | Stage::Tell, true)
                if role == Role::Controlling && relayed && mutual.round < ROUNDS =>
            {
                self.next_round(now);
            }
            (Stage::Open, true) if role == Role::Controlled && relayed => {
                mutual.stage = Stage::Wait;
                mutual.until = now + PEER_LASTS;
                self.timers.set(Timer::HardNat, now + PEER_LASTS);
            }
            (_, true) => self.end_search(now, false),
        }
    }

    fn next_round(&mut self, now: Instant) {
        self.close_opened();
        let Some(mutual) = self.mutual() else { return };
        let (sent, made) = (mutual.opened.sent, mutual.opened.made);
        let before = mutual.looked.map(|looked| (looked, made));
        let fresh = Mutual { round: mutual.round, before, ..Mutual::waiting(now, mutual.opened.target) };
        *mutual = looking(fresh, now);
        mutual.opened.sent = sent;
        self.timers.set(Timer::HardNat, now);
    }

    fn open_to_look(&mut self, now: Instant) {
        let Some(search) = self.search_mut() else { return };
        let beside = search.plan.socket();
        if let Some(opened) = search.opened_mut() {
            opened.asked = true;
            self.out.actions.push_back(Action::OpenSocket { beside });
        }
        self.timers.set(Timer::HardNat, now + AGAIN);
    }

    /// A new socket is for a look, if that is the stage.
    pub(super) fn look_from(&mut self, now: Instant, socket: SocketId) -> bool {
        let Some(server) =
            self.search().map(|search| search.plan.socket()).and_then(|at| self.server_seen_from(at))
        else {
            return false;
        };
        let id = self.transaction_id();
        let Some(mutual) = self.mutual() else { return false };
        if !matches!(mutual.stage, Stage::Look(None)) {
            return false;
        }
        mutual.stage = Stage::Look(Some(Look { socket, id, server }));
        mutual.until = now + AGAIN;
        self.timers.set(Timer::HardNat, now + AGAIN);
        self.ask_to_look(now);
        true
    }

    fn ask_to_look(&mut self, now: Instant) {
        let Some(search) = self.search_mut() else { return };
        let beside = search.plan.socket();
        let Some(Mutual { stage: Stage::Look(Some(Look { socket, id, server })), .. }) =
            search.work.as_mutual()
        else {
            return;
        };
        let (socket, id, server) = (*socket, *id, *server);
        self.sent_beside(now);
        self.transmit_beside(beside, socket, server, message::binding_request(id));
    }

    /// A server that has seen a socket from beyond the NAT.
    fn server_seen_from(&self, socket: SocketId) -> Option<SocketAddr> {
        let mut seen = self.local.sockets.get(&socket)?.seen_outside();
        let is_server = |at: SocketAddr| {
            self.config.stun.contains(&at) || self.config.turn.iter().any(|server| server.address == at)
        };
        seen.find(|seen| is_server(seen.seen_by)).map(|seen| seen.seen_by)
    }

    /// A server's answer to a look: where the sequence stands.
    pub(super) fn take_look(
        &mut self,
        now: Instant,
        socket: SocketId,
        from: SocketAddr,
        answer: &Message<'_>,
    ) {
        let Some(Search { component, .. }) = self.search() else { return };
        let (component, role) = (*component, self.role);
        let Some(mutual) = self.mutual() else { return };
        let Stage::Look(Some(look)) = &mutual.stage else { return };
        if (look.socket, look.id, look.server) != (socket, answer.transaction_id(), from) {
            return;
        }
        let Ok(XorMappedAddress(mapped)) = answer.require::<XorMappedAddress>() else { return };
        if !self.is_in_sequence(mapped.port()) {
            return self.end_sequence(now, component);
        }
        let Some(mutual) = self.mutual() else { return };
        mutual.looked = Some(mapped.port());
        mutual.tries = 0;
        if role == Role::Controlling {
            mutual.stage = Stage::Tell;
            mutual.until = now + AGAIN;
            self.timers.set(Timer::HardNat, now + AGAIN);
        } else {
            self.open_batch(now, PEER_LASTS);
        }
        self.tell_mapping(now, component);
    }

    /// Whether a port that was seen now is one of those that come after the newest known before, and after the mappings that were
    /// made since; half of these may be lost.
    fn is_in_sequence(&self, port: u16) -> bool {
        let Some(Search { plan, work: Work::Mutual(mutual), .. }) = self.search() else { return true };
        let Some(socket) = self.local.sockets.get(&plan.socket()) else { return true };
        let first = socket.newest_mapping().map(|newest| (newest.mapped.port(), 0));
        match (socket.behaviour(), mutual.before.or(first)) {
            (MappingBehaviour::Sequential(step), Some((newest, made))) => {
                let ahead = steps_ahead(newest, step, port);
                ahead <= MAX_WIDTH && ahead as usize >= made / 2
            }
            _ => true,
        }
    }

    /// It was no sequence: two random ports were near by chance.
    fn end_sequence(&mut self, now: Instant, component: ComponentId) {
        let Some(beside) = self.search().map(|search| search.plan.socket()) else { return };
        if let Some(socket) = self.local.sockets.get_mut(&beside) {
            socket.erratic = true;
        }
        self.end_search(now, false);
        self.tell_mapping(now, component);
    }

    /// The peer has told what it saw in a round.
    pub(super) fn take_round(&mut self, now: Instant, told: NatMapping) {
        if self.search().is_none() {
            // The peer began a little sooner.
            let component = self.component_to_search().filter(|_| self.role == Role::Controlled);
            if let Some(component) = component
                && let Ok(plan @ Plan::Mutual { .. }) = self.plan(component)
            {
                self.begin(now, component, plan);
            }
        }
        let Some(Search { component, .. }) = self.search() else { return };
        let (component, role) = (*component, self.role);
        let Some(mutual) = self.mutual() else { return };
        match role {
            Role::Controlling if told.round == mutual.round && matches!(mutual.stage, Stage::Tell) => {
                self.open_batch(now, ROUND_LASTS + Timings::MIN_PACING * u32::from(BATCH));
            }
            Role::Controlled if told.round > mutual.round && told.round <= ROUNDS => {
                mutual.round = told.round - 1;
                self.next_round(now);
            }
            // It has not heard the answer.
            Role::Controlled if told.round == mutual.round && mutual.looked.is_some() => {
                self.tell_mapping(now, component);
            }
            _ => {}
        }
    }

    /// The port of the peer's sequence that is so far ahead of the newest which is known.
    fn port_to_come(&self, peer: IpAddr, ahead: i32) -> Option<SocketAddr> {
        let (newest, step) = self.remote_sequence(peer)?;
        Some(SocketAddr::new(peer, port_ahead(newest, step, ahead)?))
    }

    /// Has mappings made for one of the ports that the peer's NAT gives out next.
    fn open_batch(&mut self, now: Instant, lasts: Duration) {
        let Some(search) = self.search() else { return };
        let peer = search.plan.peer();
        let target = self.port_to_come(peer, AHEAD);
        let Some(mutual) = self.mutual() else { return };
        let Some(target) = target else { return self.end_search(now, false) };
        let before = std::mem::replace(&mut mutual.opened, Opened::brief(target, usize::from(BATCH), now));
        mutual.opened.sent = before.sent;
        mutual.opened.sockets = before.sockets;
        mutual.stage = Stage::Open;
        mutual.until = now + lasts;
        self.timers.set(Timer::HardNat, now);
    }
}

fn looking(mutual: Mutual, now: Instant) -> Mutual {
    Mutual { round: mutual.round + 1, stage: Stage::Look(None), until: now + AGAIN, ..mutual }
}
