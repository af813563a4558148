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

/// With the sockets of the other tests, random ports all have the parity of the internal ones, or come from one address
/// of several, less than once in 10,000 times.
const SOCKETS: usize = 12;

/// Between two of our sockets others may get ports too. Ports that are random within a block so small go upwards one after
/// another less than once in a million times.
const MAX_STEP: i32 = 512;

/// What was learnt of the allocation of ports and addresses.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AllocationReport {
    /// How ports are chosen, or `None` where it cannot be told.
    pub ports: Option<PortAllocation>,
    /// From one port to the next, if they are sequential.
    pub step: Option<i32>,
    /// Whether an even port stays even and an odd one odd.
    pub parity_preserved: Option<bool>,
    /// How addresses are chosen; `None` where it cannot be told.
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
    let addresses: Vec<_> = of_server.iter().map(|seen| seen.reflexive.ip()).collect();
    let different: BTreeSet<_> = addresses.iter().copied().collect();
    let mut report = AllocationReport {
        ports: None,
        step: None,
        parity_preserved: None,
        pooling: None,
        addresses: different.iter().copied().collect(),
        reason: format!("{} fresh sockets answered, too few", of_server.len()),
    };
    if given.len() < SOCKETS || of_server.len() < SOCKETS {
        return report;
    }
    report.pooling = match different.len() {
        1 => Some(Pooling::Paired),
        _ if changed_for_good(&addresses) => None,
        _ => Some(Pooling::Arbitrary),
    };
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
    if report.pooling.is_none() {
        report.reason += "; the external address changed meanwhile";
    }
    report
}

/// Whether there is one address at first and another one from then on: no pool gives them out like that.
fn changed_for_good(addresses: &[IpAddr]) -> bool {
    addresses.windows(2).filter(|pair| pair[0] != pair[1]).count() == 1
}

/// The step from one port to the next, if there is one: all in one direction, but for once, where the NAT may have begun
/// again at its first port. Other hosts may have got ports in between: each step is a multiple of the NAT's.
fn step(given: &[Observation]) -> Option<i32> {
    let ports = given.iter().map(|seen| i32::from(seen.reflexive.port()));
    let steps: Vec<_> = ports.clone().zip(ports.skip(1)).map(|(one, next)| next - one).collect();
    let upwards = steps.iter().filter(|step| **step > 0).count() * 2 > steps.len();
    let small = |step: &&i32| **step != 0 && step.abs() <= MAX_STEP && (**step > 0) == upwards;
    let regular: Vec<_> = steps.iter().filter(small).copied().collect();
    let step = regular.iter().fold(0, |divisor, step| greatest_common_divisor(divisor, step.abs()));
    (regular.len() + 1 >= steps.len()).then_some(if upwards { step } else { -step })
}

fn greatest_common_divisor(a: i32, b: i32) -> i32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(external: &str, given: impl IntoIterator<Item = (u16, u16)>) -> Vec<Observation> {
        let seen = given.into_iter().map(|(local, port)| Observation {
            local: SocketAddr::new("192.168.1.2".parse().unwrap(), local),
            server: "203.0.113.10:3478".parse().unwrap(),
            reflexive: SocketAddr::new(external.parse().unwrap(), port),
        });
        seen.collect()
    }

    /// Of random internal ports, and these external ones.
    fn ports(external: [u16; SOCKETS]) -> AllocationReport {
        const LOCAL: [u16; SOCKETS] = [5005, 1017, 8, 1, 99, 6000, 4, 777, 31, 2, 9001, 7];
        let given = seen("198.51.100.10", LOCAL.into_iter().zip(external));
        report(&given, &given, given.first().map(|seen| seen.server))
    }

    #[test]
    fn sequences() {
        let sequential = |external| {
            let report = ports(external);
            assert_eq!(report.ports, Some(PortAllocation::Sequential), "{report:?}");
            report.step
        };
        assert_eq!(sequential([20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 42]), Some(2));
        assert_eq!(sequential([42, 41, 40, 39, 38, 37, 36, 35, 34, 33, 32, 31]), Some(-1));
        assert_eq!(
            sequential([20, 22, 25, 27, 30, 40, 42, 45, 99, 138, 240, 242]),
            Some(1),
            "others between"
        );
        let wrapped = [65532, 65533, 65534, 65535, 1024, 1025, 1026, 1027, 1028, 1029, 1030, 1031];
        assert_eq!(sequential(wrapped), Some(1));
    }

    #[test]
    fn no_sequences() {
        let random =
            ports([50_001, 2_000, 40_000, 61_001, 1_234, 9_999, 5_555, 32_000, 8, 64_000, 17, 30_000]);
        assert_eq!((random.ports, random.parity_preserved), (Some(PortAllocation::Random), Some(false)));
        // Within a block of 64 that a provider gave this customer.
        let block =
            ports([4_050, 4_032, 4_060, 4_033, 4_095, 4_040, 4_071, 4_035, 4_080, 4_090, 4_055, 4_099]);
        assert_eq!(block.ports, Some(PortAllocation::Random));
        let preserving = ports([5005, 1017, 40_000, 1, 99, 6000, 4, 777, 31, 2, 9001, 7]);
        assert_eq!(
            (preserving.ports, preserving.parity_preserved),
            (Some(PortAllocation::Preserving), Some(true))
        );
        let few = seen("198.51.100.10", [(5, 50_001), (6, 50_002)]);
        let few = report(&few, &few, Some(few[0].server));
        assert_eq!((few.ports, few.pooling), (None, None));
    }

    #[test]
    fn addresses_of_a_pool_and_a_new_one() {
        let one = seen("198.51.100.10", (0..6).map(|n| (5000 + n, 5000 + n)));
        let other = seen("198.51.100.11", (6..12).map(|n| (5000 + n, 5000 + n)));
        let changed = [one.clone(), other.clone()].concat();
        let found = report(&changed, &changed, Some(one[0].server));
        assert_eq!((found.pooling, found.addresses.len()), (None, 2));
        assert!(found.reason.contains("changed"), "{found:?}");
        let pool: Vec<_> = one.into_iter().zip(other).flat_map(|(one, other)| [one, other]).collect();
        assert_eq!(report(&pool, &pool, Some(pool[0].server)).pooling, Some(Pooling::Arbitrary));
    }
}
