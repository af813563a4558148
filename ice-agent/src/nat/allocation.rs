//! How new mappings get their ports and addresses (RFC 4787, sections 4.1 and 4.2): several fresh sockets, one after
//! another, ask one server.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use serde::Serialize;
use thirl_common::net::Transport;

use super::behaviour::{Pooling, PortAllocation};
use super::findings::{Findings, Observation};
use super::probe::{Outcome, ProbeId, Prober, Question, SocketId};

/// A random port has the parity of the internal one every other time: with these and the sockets of the other tests,
/// all of them by chance once in a thousand times.
const SOCKETS: usize = 8;

/// Fewer sockets tell nothing.
const ENOUGH: usize = 4;

/// Between two of our sockets others may get ports too; random ports are so near to each other once in 500 times.
const MAX_STEP: i32 = 64;

/// What was learnt of the allocation of ports and addresses.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AllocationReport {
    /// How ports are chosen, or `None` where it cannot be told.
    pub ports: Option<PortAllocation>,
    /// From one port to the next, if they are sequential.
    pub step: Option<i32>,
    /// Whether an even port stays even and an odd one odd.
    pub parity_preserved: Option<bool>,
    /// How addresses are chosen.
    pub pooling: Option<Pooling>,
    /// The external addresses that were seen.
    pub addresses: Vec<IpAddr>,
    /// What it rests on.
    pub reason: String,
}

#[derive(Debug)]
pub(super) struct AllocationTest {
    server: Option<SocketAddr>,
    left: usize,
    current: Option<(ProbeId, SocketId)>,
    /// They stay open until the end, lest a port is given again.
    sockets: Vec<SocketId>,
    /// In the order in which they were given.
    given: Vec<Observation>,
}

impl AllocationTest {
    pub(super) fn begin(now: Instant, prober: &mut Prober, found: &Findings) -> AllocationTest {
        let mut test = AllocationTest {
            server: found.outermost(),
            left: SOCKETS,
            current: None,
            sockets: Vec::new(),
            given: Vec::new(),
        };
        test.ask_next(now, prober);
        test
    }

    pub(super) fn handle(
        &mut self,
        now: Instant,
        prober: &mut Prober,
        found: &mut Findings,
        probe: ProbeId,
        outcome: &Outcome,
    ) {
        let Some((_, socket)) = self.current.filter(|(current, _)| *current == probe) else { return };
        match outcome {
            Outcome::Answered(response) => {
                let observation = Observation::of(prober.local(socket), response);
                found.observe(observation);
                self.given.extend(observation);
                self.ask_next(now, prober);
            }
            _ => self.end(prober),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.current.is_none()
    }

    pub(super) fn report(&self, found: &Findings) -> AllocationReport {
        report(&found.observations, &self.given, self.server)
    }

    fn ask_next(&mut self, now: Instant, prober: &mut Prober) {
        let Some(server) = self.server.filter(|_| self.left > 0) else { return self.end(prober) };
        self.left -= 1;
        let socket = prober.open(Transport::Udp);
        self.sockets.push(socket);
        self.current = Some((prober.ask(now, socket, Question::plain(server)), socket));
    }

    fn end(&mut self, prober: &mut Prober) {
        self.current = None;
        self.sockets.drain(..).for_each(|socket| prober.close(socket));
    }
}

fn report(all: &[Observation], given: &[Observation], server: Option<SocketAddr>) -> AllocationReport {
    let of_server: Vec<_> = all.iter().filter(|seen| Some(seen.server) == server).collect();
    let addresses: BTreeSet<_> = of_server.iter().map(|seen| seen.reflexive.ip()).collect();
    let mut report = AllocationReport {
        ports: None,
        step: None,
        parity_preserved: None,
        pooling: match addresses.len() {
            0 => None,
            1 => Some(Pooling::Paired),
            _ => Some(Pooling::Arbitrary),
        },
        addresses: addresses.into_iter().collect(),
        reason: format!("{} fresh sockets answered, too few", of_server.len()),
    };
    if of_server.len() < ENOUGH || given.len() < ENOUGH {
        return report;
    }
    if of_server.iter().all(|seen| seen.local == seen.reflexive) {
        report.reason = "no address translation".to_owned();
        return report;
    }
    let count = |which: fn(&Observation) -> bool| of_server.iter().filter(|seen| which(seen)).count();
    let same_parity = count(|seen| seen.local.port() % 2 == seen.reflexive.port() % 2);
    report.parity_preserved = Some(same_parity == of_server.len());
    let preserved = count(|seen| seen.local.port() == seen.reflexive.port());
    let (ports, step) = match step(given) {
        // Where another host has the port already, a preserving NAT gives another one.
        _ if preserved * 2 > of_server.len() => (PortAllocation::Preserving, None),
        Some(step) => (PortAllocation::Sequential, Some(step)),
        None => (PortAllocation::Random, None),
    };
    report.ports = Some(ports);
    report.step = step;
    report.reason = format!("{} fresh sockets, {preserved} of which kept their port", of_server.len());
    report
}

/// The step from one port to the next, if there is one: other hosts may have got ports in between, and the NAT may have
/// begun again at its first port once.
fn step(given: &[Observation]) -> Option<i32> {
    let ports = given.iter().map(|seen| i32::from(seen.reflexive.port()));
    let steps: Vec<_> = ports.clone().zip(ports.skip(1)).map(|(one, next)| next - one).collect();
    let upwards = steps.iter().filter(|step| **step > 0).count() * 2 > steps.len();
    let small = |step: &&i32| **step != 0 && step.abs() <= MAX_STEP && (**step > 0) == upwards;
    let regular = steps.iter().filter(small).count();
    (regular + 1 >= steps.len()).then(|| steps.iter().filter(small).min_by_key(|step| step.abs()).copied())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(pairs: &[(u16, u16)]) -> AllocationReport {
        let server = "203.0.113.10:3478".parse().unwrap();
        let seen: Vec<_> = pairs
            .iter()
            .map(|(local, external)| Observation {
                local: SocketAddr::new("192.168.1.2".parse().unwrap(), *local),
                server,
                reflexive: SocketAddr::new("198.51.100.10".parse().unwrap(), *external),
            })
            .collect();
        report(&seen, &seen, Some(server))
    }

    #[test]
    fn conclusions() {
        let sequential = ports(&[(5, 20), (17, 22), (8, 26), (1, 28), (9, 30)]);
        assert_eq!((sequential.ports, sequential.step), (Some(PortAllocation::Sequential), Some(2)));
        let wrapped = ports(&[(5, 65534), (17, 65535), (8, 1024), (1, 1025), (9, 1026)]);
        assert_eq!((wrapped.ports, wrapped.step), (Some(PortAllocation::Sequential), Some(1)));
        let preserving = ports(&[(5, 5), (17, 17), (8, 40_000), (1, 1), (9, 9)]);
        assert_eq!(
            (preserving.ports, preserving.parity_preserved),
            (Some(PortAllocation::Preserving), Some(true))
        );
        let random = ports(&[(5, 50_001), (17, 2_000), (8, 40_000), (1, 61_001), (9, 1_234)]);
        assert_eq!((random.ports, random.parity_preserved), (Some(PortAllocation::Random), Some(false)));
        assert_eq!(ports(&[(5, 50_001)]).ports, None);
    }
}
