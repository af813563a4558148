//! The largest packet that gets through in one piece, and whether larger ones vanish without an ICMP error: a path MTU
//! black hole, in which handshakes and video stall while everything small works.
//!
//! Requests are padded and must not be fragmented (DF); an answer proves that one of this size arrived. Where the network
//! says how large they may be (RFC 1191, RFC 8201), that is tried; where it keeps silent, sizes are searched. Silence is
//! no proof: the server may ignore large requests. So one that was not answered is sent once more, in fragments, which a
//! black hole lets through, and to other servers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use serde::Serialize;
use thirl_common::net::Transport;

use super::behaviour::Confidence;
use super::findings::Findings;
use super::probe::{Loss, Outcome, ProbeId, Prober, Question, SocketId, TRANSMISSIONS, Travel, packet_len};

/// Nothing larger is tried: a jumbo frame. Bytes, as all sizes here: of the IP packet.
const LARGEST: usize = 9000;

/// What an Ethernet takes.
const ETHERNET: usize = 1500;

/// What arrives everywhere: by RFC 791 and RFC 8200.
const SMALLEST: [usize; 2] = [576, 1280];

/// MTUs that are common, and why: PPPoE, tunnels in IPv4, DS-Lite, both, a tunnel in IPv6, WireGuard, VPNs and mobile
/// networks, IPv6's least.
const COMMON: [usize; 8] = [1492, 1480, 1460, 1452, 1440, 1420, 1400, 1280];

/// The length of a STUN message is a multiple of this (RFC 8489, section 5).
const STEP: usize = 4;

/// So many sizes are tried at a time.
const AT_ONCE: usize = 9;

/// The search ends after so many rounds, however a server answers.
const MAX_ROUNDS: u32 = 8;

/// How often the first sizes are sent: enough to see whether a search is needed.
const FIRST_TRANSMISSIONS: u32 = 2;

/// How often a size that was not answered is sent once more, when nothing else of ours fills the line.
const REPEATS: u32 = 4;

/// Other servers that are asked whether large packets arrive there.
const MAX_OTHERS: usize = 2;

/// Silence that chance explains more often than this is none.
const TOLERATED_ERROR: f64 = 1e-3;

/// What was learnt of packet sizes, on the way to the servers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PathMtuReport {
    /// The largest IP packet that gets through in one piece.
    pub bytes: Option<usize>,
    /// Whether larger ones vanish without an ICMP error.
    pub black_hole: Option<bool>,
    /// Whether larger ones arrive in fragments.
    pub fragments_arrive: Option<bool>,
    /// How sure that is.
    pub confidence: Option<Confidence>,
    /// What it rests on.
    pub reason: String,
}

#[derive(Debug)]
pub(super) struct PathMtuTest {
    server: SocketAddr,
    others: Vec<SocketAddr>,
    whole: SocketId,
    fragmented: SocketId,
    asked: BTreeMap<ProbeId, Sent>,
    stage: Stage,
    rounds: u32,
    /// The largest that was answered.
    passed: usize,
    /// Those that were not.
    silent: BTreeSet<usize>,
    /// Those that the network or this host refused.
    refused: BTreeSet<usize>,
    /// The least MTU that was told, and by whom.
    told: Option<(usize, Option<IpAddr>)>,
    /// What this machine's own interface takes, if that is less than was tried.
    interface: Option<usize>,
    check: Check,
}

/// One request.
#[derive(Clone, Copy, Debug)]
struct Sent {
    to: SocketAddr,
    packet: usize,
    whole: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// The sizes that a good path takes.
    First,
    Search,
    /// What was not answered, once more in other ways.
    Check,
    Over,
}

/// What came of a size that was not answered.
#[derive(Debug, Default)]
struct Check {
    /// The size.
    failed: Option<usize>,
    /// In fragments.
    fragments: Option<bool>,
    /// Of other servers, which got the largest that passes and the smallest that does not.
    others: BTreeMap<SocketAddr, [bool; 2]>,
}

impl PathMtuTest {
    pub(super) fn begin(
        now: Instant,
        prober: &mut Prober,
        found: &Findings,
        server: SocketAddr,
    ) -> PathMtuTest {
        let [whole, fragmented] = [Travel::Whole, Travel::InFragments].map(|travel| {
            let socket = prober.open(Transport::Udp);
            prober.travel(socket, travel);
            socket
        });
        // Another address of the same server tells nothing of servers.
        let same = found.with_other_address().find(|(one, _)| *one == server).map(|(_, other)| other.ip());
        let others = found.sound.iter().map(|sound| sound.from);
        let others = others.filter(|other| other.ip() != server.ip() && Some(other.ip()) != same);
        let mut test = PathMtuTest {
            server,
            others: others.take(MAX_OTHERS).collect(),
            whole,
            fragmented,
            asked: BTreeMap::new(),
            stage: Stage::First,
            rounds: 0,
            passed: 0,
            silent: BTreeSet::new(),
            refused: BTreeSet::new(),
            told: None,
            interface: None,
            check: Check::default(),
        };
        test.begin_search(now, prober);
        test
    }

    pub(super) fn handle(&mut self, now: Instant, prober: &mut Prober, probe: ProbeId, outcome: &Outcome) {
        let Some(sent) = self.asked.remove(&probe) else { return };
        match (self.stage, outcome) {
            (Stage::Check, _) if !sent.whole || sent.to != self.server => self.handle_check(sent, outcome),
            // To be refused by the server, it has to arrive as well.
            (_, Outcome::Answered(_) | Outcome::Refused(_)) => self.passed = self.passed.max(sent.packet),
            (_, Outcome::TooBig { by, mtu }) => {
                self.refused.insert(sent.packet);
                let mtu = usize::try_from(*mtu).unwrap_or(usize::MAX);
                if by.is_none() {
                    self.interface = Some(mtu);
                }
                if self.told.is_none_or(|(known, _)| mtu < known) {
                    self.told = Some((mtu, *by));
                }
            }
            _ => _ = self.silent.insert(sent.packet),
        }
        if self.stage != Stage::Check {
            self.forget_smaller(prober);
        }
        if self.asked.is_empty() {
            self.go_on(now, prober);
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    pub(super) fn report(&self, loss: Loss) -> PathMtuReport {
        let unknown = |bytes, reason: String| PathMtuReport {
            bytes,
            black_hole: None,
            fragments_arrive: self.check.fragments.filter(|arrive| *arrive),
            confidence: None,
            reason,
        };
        if self.passed == 0 {
            return unknown(None, "not measurable: the server answers no padded requests".to_owned());
        }
        let known = |black_hole, confidence, reason| PathMtuReport {
            bytes: Some(self.bytes()),
            black_hole: Some(black_hole),
            confidence: Some(confidence),
            ..unknown(None, reason)
        };
        let bytes = self.bytes();
        match (self.failed(), self.told) {
            (None, _) => known(
                false,
                Confidence::High,
                format!("packets of {bytes} bytes, the largest tried, got through"),
            ),
            (Some(_), Some((mtu, by))) if self.is_told() => {
                let who = by
                    .map_or("the interface of this machine".to_owned(), |router| format!("{router} (ICMP)"));
                known(
                    false,
                    Confidence::High,
                    format!("{who} takes no more than {mtu} bytes, and such packets got through"),
                )
            }
            (Some(failed), _) if self.refused.contains(&failed) => {
                let reason =
                    format!("packets of {bytes} bytes got through, and larger ones are refused (ICMP)");
                known(false, Confidence::High, reason)
            }
            _ if loss.all_lost(TRANSMISSIONS) > TOLERATED_ERROR => {
                unknown(Some(bytes), "too many packets are lost to tell a black hole from loss".to_owned())
            }
            (Some(failed), _) => {
                let vanish = format!("packets of {failed} bytes vanish without an ICMP error");
                let others = self.check.others.values();
                let agree = others.filter(|arrived| **arrived == [true, false]).count();
                match (self.check.fragments, agree) {
                    (Some(true), _) => {
                        known(true, Confidence::High, format!("{vanish}, and arrive in fragments"))
                    }
                    (_, 1..) => {
                        known(true, Confidence::Medium, format!("{vanish}, whichever server they are for"))
                    }
                    _ => unknown(
                        Some(bytes),
                        format!(
                            "requests of {failed} bytes were not answered, neither whole nor in fragments: either they \
                             vanish, or {} ignores large requests; ask another server too",
                            self.server
                        ),
                    ),
                }
            }
        }
    }

    fn handle_check(&mut self, sent: Sent, outcome: &Outcome) {
        let arrived = matches!(outcome, Outcome::Answered(_) | Outcome::Refused(_));
        if sent.to == self.server {
            self.check.fragments = Some(arrived);
        } else if let Some(known) = self.check.others.get_mut(&sent.to) {
            known[usize::from(sent.packet > self.passed)] = arrived;
        }
    }

    fn begin_search(&mut self, now: Instant, prober: &mut Prober) {
        self.stage = Stage::First;
        let smallest = SMALLEST[usize::from(self.server.is_ipv6())];
        for packet in [LARGEST, ETHERNET, smallest] {
            self.ask(now, prober, packet);
        }
    }

    fn go_on(&mut self, now: Instant, prober: &mut Prober) {
        self.rounds += 1;
        if self.rounds > MAX_ROUNDS {
            return self.end(prober);
        }
        if self.stage == Stage::Check {
            return self.end_check(now, prober);
        }
        let next = self.next_sizes();
        self.stage = Stage::Search;
        for packet in &next {
            self.ask(now, prober, *packet);
        }
        if next.is_empty() {
            self.begin_check(now, prober);
        }
    }

    /// Another server got what this one did not answer: it, and not the path, is to blame. Then it goes on with the other.
    fn end_check(&mut self, now: Instant, prober: &mut Prober) {
        let failed = self.failed();
        let better = self.check.others.iter().find(|(_, arrived)| arrived[1]).map(|(server, _)| *server);
        if let (Some(server), Some(failed)) = (better, failed) {
            self.server = server;
            self.others.clear();
            self.silent.clear();
            self.passed = failed;
            return self.begin_search(now, prober);
        }
        // It may have been answered at last.
        if self.check.failed == failed {
            self.end(prober);
        } else {
            self.stage = Stage::Search;
            self.go_on(now, prober);
        }
    }

    fn begin_check(&mut self, now: Instant, prober: &mut Prober) {
        self.stage = Stage::Check;
        let failed = self.failed();
        let larger = self.to_be_cut() + STEP;
        if self.passed == 0 || larger > LARGEST {
            return self.end(prober);
        }
        self.check = Check { failed, ..Check::default() };
        self.send(now, prober, Sent { to: self.server, packet: larger, whole: false });
        let Some(failed) = failed.filter(|failed| !self.is_told() && self.silent.contains(failed)) else {
            return;
        };
        self.send(now, prober, Sent { to: self.server, packet: failed, whole: true });
        for other in self.others.clone() {
            self.check.others.insert(other, [false; 2]);
            for packet in [self.passed, failed] {
                self.send(now, prober, Sent { to: other, packet, whole: true });
            }
        }
    }

    /// What would narrow down the largest size that passes.
    fn next_sizes(&self) -> Vec<usize> {
        let Some(failed) = self.failed().filter(|_| self.passed > 0 && !self.is_told()) else {
            return Vec::new();
        };
        let open = |packet: &usize| *packet > self.passed && *packet < failed;
        if let Some(told) = self.told.map(|(mtu, _)| mtu / STEP * STEP).filter(open) {
            return vec![told];
        }
        let common: Vec<_> = COMMON.into_iter().filter(open).collect();
        // In the first round few are sent, and those not often.
        if self.stage == Stage::First && failed == ETHERNET {
            return [ETHERNET].into_iter().chain(common).collect();
        }
        let steps = (failed - self.passed) / STEP;
        let stride = steps.div_ceil(AT_ONCE + 1).max(1) * STEP;
        (1..).map(|n| self.passed + n * stride).take_while(|packet| *packet < failed).collect()
    }

    /// What is larger is fragmented: IPv6 does it only where the interface takes no more, but into smaller pieces then.
    fn to_be_cut(&self) -> usize {
        let interface = self.interface.filter(|_| self.server.is_ipv6());
        self.passed.max(interface.map_or(0, |mtu| mtu / STEP * STEP))
    }

    /// The smallest size that did not pass, above the largest that did.
    fn failed(&self) -> Option<usize> {
        self.silent.union(&self.refused).find(|packet| **packet > self.passed).copied()
    }

    /// Whether what passes is as much as the network says.
    fn is_told(&self) -> bool {
        self.told.is_some_and(|(mtu, _)| mtu / STEP * STEP == self.passed)
    }

    fn bytes(&self) -> usize {
        self.told.filter(|_| self.is_told()).map_or(self.passed, |(mtu, _)| mtu)
    }

    fn end(&mut self, prober: &mut Prober) {
        self.stage = Stage::Over;
        self.asked.keys().for_each(|probe| prober.forget(*probe));
        [self.whole, self.fragmented].into_iter().for_each(|socket| prober.close(socket));
    }

    fn forget_smaller(&mut self, prober: &mut Prober) {
        let passed = self.passed;
        self.asked.retain(|probe, sent| {
            let needed = sent.packet > passed;
            if !needed {
                prober.forget(*probe);
            }
            needed
        });
    }

    fn ask(&mut self, now: Instant, prober: &mut Prober, packet: usize) {
        self.send(now, prober, Sent { to: self.server, packet, whole: true });
    }

    fn send(&mut self, now: Instant, prober: &mut Prober, sent: Sent) {
        let socket = if sent.whole { self.whole } else { self.fragmented };
        let transmissions = match self.stage {
            Stage::First => FIRST_TRANSMISSIONS,
            Stage::Check if sent.whole && sent.to == self.server => REPEATS,
            _ => TRANSMISSIONS,
        };
        let len = sent.packet - packet_len(sent.to, 0);
        let question = Question { len: Some(len), transmissions, ..Question::plain(sent.to) };
        self.asked.insert(prober.ask(now, socket, question), sent);
    }
}
