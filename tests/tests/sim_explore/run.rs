//! A run of a scenario, and what is wrong with it.

use std::net::IpAddr;
use std::time::Duration;

use thirl_ice_agent::candidate::CandidateKind;
use thirl_tests::reach::{Expectation, Mode, Path, model, simulated};
use thirl_tests::sim::{
    BoxId, Layer, Link, Mapping, Middlebox, Pair, Placed, PortAllocation, Side, Topology,
};

use super::scenario::{Fault, Scenario, Which};

/// How often each side sends.
const EVERY: Duration = Duration::from_millis(100);
/// Connected after so long, at the worst: a tenth lost, and a relay that only the third way leads to.
const CONNECTED: Duration = Duration::from_secs(20);
/// Connected again so long after the last fault: consent expires after 30 s (RFC 7675), and the application restarts. At the
/// worst two pairs over TCP die before one is nominated, each of which is asked for 39.5 s (RFC 8489, section 6.2.2).
const RECOVERED: Duration = Duration::from_secs(180);
/// No host sends more in a second: a transaction every 5 ms (RFC 8445, section 14.2), an answer to each of the peer's, and ten
/// datagrams of data, each with what the relay and TCP add.
const MOST_A_SECOND: u64 = 200 + 200 + 50;

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) expectation: Expectation,
    pub(crate) direct: bool,
}

/// Runs a scenario. What is wrong, in words, if something is.
pub(crate) fn run(seed: u64, scenario: &Scenario) -> Result<Report, String> {
    let expectation = model::expectation(&scenario.topology);
    let certain = model::is_certain(&scenario.topology);
    let (pair, placed) = simulated::agents(&scenario.topology, Mode::Thirl, seed);
    let mut run = Run { pair, placed, scenario, busiest: Default::default() };
    run.pair.signalling = scenario.signalling;
    run.pair.start();
    let result = run.all(expectation, certain);
    let describe = |why: String| {
        let reports = [&run.pair.a, &run.pair.b].map(|peer| peer.agent.report().to_string());
        let elapsed = run.pair.elapsed();
        format!(
            "{why}, after {elapsed:?}; expected: {expectation}\n{scenario:?}\n{}\n{}",
            reports[0], reports[1]
        )
    };
    let direct = result.map_err(describe)?;
    Ok(Report { expectation, direct })
}

/// Whether a direct path is to be found each time: luck is not asked for.
fn is_demanded(expectation: Expectation) -> bool {
    matches!(expectation, Expectation::Punch | Expectation::Mapping | Expectation::Tcp)
}

/// Whether the port of a dependent mapping is not just any, by itself or by what a NAT further out makes of it: an agent may
/// guess it where the model promises nothing.
fn may_be_guessed(topology: &Topology) -> bool {
    let sites = topology.sites.iter().flat_map(|site| &site.layers);
    let nats: Vec<_> = sites.chain(&topology.shared).filter_map(Layer::nat).collect();
    nats.iter().any(|nat| nat.mapping != Mapping::EndpointIndependent)
        && nats.iter().any(|nat| nat.allocation != PortAllocation::Random)
}

struct Run<'a> {
    pair: Pair,
    placed: Placed,
    scenario: &'a Scenario,
    /// The most that a side has sent in a second, which side, and when that was.
    busiest: (u64, usize, Duration),
}

impl Run<'_> {
    fn all(&mut self, expectation: Expectation, certain: bool) -> Result<bool, String> {
        let connects = expectation != Expectation::Nothing;
        if connects && !self.flows_within(CONNECTED) {
            return Err("not connected".to_owned());
        }
        let direct = self.direct_within(expectation.patience());
        if !direct && certain && is_demanded(expectation) {
            return Err("not direct".to_owned());
        }
        if direct && !expectation.is_direct() && !may_be_guessed(&self.scenario.topology) {
            return Err("direct, which cannot be".to_owned());
        }
        for (after, fault) in &self.scenario.faults {
            self.talk_for(*after);
            self.suffer(*fault);
        }
        if connects && !self.flows_within(RECOVERED) {
            return Err("not connected again".to_owned());
        }
        let (most, side, at) = self.busiest;
        if most > MOST_A_SECOND {
            return Err(format!("side {side} sent {most} packets in the second after {at:?}"));
        }
        Ok(direct)
    }

    /// Lets both sides send for a time. Whoever has failed is restarted, as an application does.
    fn talk_for(&mut self, time: Duration) {
        self.talk_until(time, |_| false);
    }

    fn talk_until(&mut self, time: Duration, mut condition: impl FnMut(&Pair) -> bool) -> bool {
        let end = self.pair.elapsed() + time;
        let hosts = [self.pair.a.host, self.pair.b.host];
        let (mut second, mut sent) = (self.pair.elapsed(), hosts.map(|host| self.pair.network.sent_by(host)));
        while self.pair.elapsed() < end {
            let now = self.pair.network.now();
            for peer in [&mut self.pair.a, &mut self.pair.b] {
                peer.agent.send(now, b"data").ok();
            }
            self.pair.run_for(EVERY);
            if condition(&self.pair) {
                return true;
            }
            for side in [Side::A, Side::B] {
                if self.pair.peer(side).failure.take().is_some() {
                    self.pair.restart(side);
                }
            }
            if self.pair.elapsed() >= second + Duration::from_secs(1) {
                self.trace();
                let now = hosts.map(|host| self.pair.network.sent_by(host));
                for side in 0..2 {
                    let busy = (now[side] - sent[side], side, second);
                    self.busiest = self.busiest.max(busy);
                }
                (second, sent) = (self.pair.elapsed(), now);
            }
        }
        false
    }

    /// Says how both sides are, each second, if `THIRL_EXPLORE_TRACE` is set.
    fn trace(&self) {
        if std::env::var_os("THIRL_EXPLORE_TRACE").is_none() {
            return;
        }
        let sides = [&self.pair.a, &self.pair.b].map(|peer| {
            let relays = peer.agent.local_candidates().filter(|known| known.kind == CandidateKind::Relayed);
            let relays: Vec<_> = relays.map(|relay| relay.address.to_string()).collect();
            let state = peer.agent.state();
            format!(
                "{state:?} {:?}, {} received, relays {relays:?}",
                simulated::path(peer),
                peer.received.len()
            )
        });
        println!("{:?}: {}; {}", self.pair.elapsed(), sides[0], sides[1]);
    }

    /// Whether data comes both ways from now on.
    fn flows_within(&mut self, time: Duration) -> bool {
        let before = [self.pair.a.received.len(), self.pair.b.received.len()];
        // More than what was on its way.
        let more =
            |pair: &Pair| pair.a.received.len() > before[0] + 10 && pair.b.received.len() > before[1] + 10;
        self.talk_until(time, more)
    }

    fn direct_within(&mut self, time: Duration) -> bool {
        let direct = |pair: &Pair| {
            [&pair.a, &pair.b].iter().all(|peer| simulated::path(peer).is_some_and(Path::is_direct))
        };
        self.talk_until(time, direct)
    }

    fn suffer(&mut self, fault: Fault) {
        if std::env::var_os("THIRL_EXPLORE_TRACE").is_some() {
            println!("{:?}: {fault:?}", self.pair.elapsed());
        }
        let host = |pair: &Pair, side: usize| if side == 0 { pair.a.host } else { pair.b.host };
        let name = |side: usize| if side == 0 { Side::A } else { Side::B };
        match fault {
            Fault::Reboot(which) => {
                if let Some(of) = self.middlebox(which) {
                    self.pair.network.box_mut(of).reboot();
                }
            }
            Fault::Renumber(which) => self.renumber(which),
            Fault::Cut(which, time) => {
                let Some(of) = self.middlebox(which) else { return };
                self.pair.network.set_box_down(of, true);
                self.talk_for(time);
                self.pair.network.set_box_down(of, false);
            }
            Fault::Unplug(side, time) => {
                let host = host(&self.pair, side);
                self.pair.network.set_down(host, true);
                self.talk_for(time);
                self.pair.network.set_down(host, false);
            }
            Fault::Sleep(side, time) => {
                self.pair.set_asleep(name(side), true);
                self.talk_for(time);
                self.pair.set_asleep(name(side), false);
            }
            Fault::Noise(side, time) => {
                let (host, link) = (host(&self.pair, side), self.scenario.topology.sites[side].link);
                self.pair.network.set_link(host, Link { loss: 0.6, ..link });
                self.talk_for(time);
                self.pair.network.set_link(host, link);
            }
            Fault::RelayRestart(time) => {
                self.pair.servers[0].down = true;
                self.talk_for(time);
                self.pair.servers[0].restart();
                self.pair.servers[0].down = false;
            }
        }
    }

    fn middlebox(&self, which: Which) -> Option<BoxId> {
        let all = match which.side {
            Some(side) => &self.placed.boxes[side],
            None => &self.placed.shared,
        };
        all.get(which.number.checked_rem(all.len())?).copied()
    }

    fn renumber(&mut self, which: Which) {
        let Some(of) = self.middlebox(which) else { return };
        if matches!(self.pair.network.box_mut(of), Middlebox::Firewall(_)) {
            return;
        }
        let nat = self.pair.network.nat_mut(of);
        if let Some(IpAddr::V4(old)) = nat.externals().first() {
            let [a, b, c, d] = old.octets();
            nat.renumber(&[IpAddr::from([a, b, c, d.wrapping_add(100)])]);
        }
    }
}
