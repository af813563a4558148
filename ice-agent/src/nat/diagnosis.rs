//! The machine that puts the tests in order, for one address family.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use thirl_common::net::{Nat64Prefix, Transmit, Transport, Undelivered, canonical};

use super::allocation::AllocationTest;
use super::filtering::FilteringTest;
use super::findings::Findings;
use super::hairpin::HairpinTest;
use super::hops::HopsTest;
use super::lifetime::{LifetimeTest, Wait};
use super::mapping::{MappingTest, conclude};
use super::path_mtu::PathMtuTest;
use super::probe::{Action, Outcome, ProbeId, Prober, SocketId};
use super::report::{Conclusions, FamilyReport};
use super::servers::Discovery;

/// What to measure beside the usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Hairpinning, whose packets some firewalls take for an attack.
    pub hairpin: bool,
    /// The lifetime of mappings, which takes minutes.
    pub lifetime: bool,
    /// The prefix under which IPv4 servers are reached if this machine has no IPv4: for the driver.
    pub nat64: Option<Nat64Prefix>,
    /// Ask this gateway for its services, where the system does not tell the default gateway of its family.
    pub gateway: Option<IpAddr>,
}

/// Why a test that was under way has no result.
const STOPPED: &str = "it was stopped before that was measured";

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The test of the lifetime waits. Told anew whenever something else is waited for, or the time becomes clearer.
    Waiting {
        /// What for.
        what: Wait,
        /// How long the whole test has taken by now.
        elapsed: Duration,
        /// How long this wait takes yet, at the most.
        at_most: Duration,
    },
}

/// Diagnoses one address family: asks each server, then looks at the filters, the mapping, the allocation of ports, and
/// beside all that at TCP, the routers on the way and the path MTU.
///
/// - in: [`socket_bound`](Self::socket_bound), [`handle_datagram`](Self::handle_datagram),
///   [`handle_undelivered`](Self::handle_undelivered), [`stream_connected`](Self::stream_connected),
///   [`stream_failed`](Self::stream_failed), [`handle_timeout`](Self::handle_timeout);
/// - out: [`poll_action`](Self::poll_action), [`poll_transmit`](Self::poll_transmit) and
///   [`poll_event`](Self::poll_event) until `None`, then [`poll_timeout`](Self::poll_timeout); once
///   [`is_over`](Self::is_over), [`report`](Self::report).
///
/// ```
/// use std::time::Instant;
/// use thirl_ice_agent::nat::{Action, Diagnosis, Options};
///
/// # #[expect(clippy::disallowed_methods, reason = "an example's clock")]
/// let mut now = Instant::now();
/// let servers = ["203.0.113.10:3478".parse().unwrap()];
/// let mut diagnosis = Diagnosis::new(now, &servers, Options::default(), [1; 32]);
/// let mut port = 5000;
/// while !diagnosis.is_over() {
///     while let Some(action) = diagnosis.poll_action() {
///         if let Action::Bind { socket, .. } = action {
///             port += 1;
///             diagnosis.socket_bound(now, socket, Ok(([192, 168, 1, 2], port).into()));
///         }
///     }
///     while diagnosis.poll_transmit().is_some() {} // nobody answers
///     let Some(deadline) = diagnosis.poll_timeout() else { break };
///     now = deadline;
///     diagnosis.handle_timeout(now);
/// }
/// assert!(!diagnosis.report().udp.reachable);
/// ```
#[derive(Debug)]
pub struct Diagnosis {
    prober: Prober,
    options: Options,
    found: Findings,
    phase: Phase,
    discovery: Discovery,
    filtering: Option<FilteringTest>,
    mapping: Option<MappingTest>,
    allocation: Option<AllocationTest>,
    hairpin: Option<HairpinTest>,
    lifetime: Option<LifetimeTest>,
    /// When that began, and what was told of it.
    waiting: Option<(Instant, Wait, Instant)>,
    streams: MappingTest,
    hops: Option<HopsTest>,
    path_mtu: Option<PathMtuTest>,
    stopped: bool,
    event: Option<Event>,
}

/// What is being measured over UDP. The filters come before the mapping, whose requests open them (RFC 5780, erratum
/// 7971).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Discovery,
    Filtering,
    Mapping,
    Allocation,
    Hairpin,
    Lifetime,
    Over,
}

impl Diagnosis {
    /// Asks `servers`, which must be of one family.
    pub fn new(now: Instant, servers: &[SocketAddr], options: Options, seed: [u8; 32]) -> Diagnosis {
        let mut prober = Prober::new(seed);
        let servers: Vec<_> = servers.iter().copied().map(canonical).collect();
        let discovery = Discovery::begin(now, &mut prober, &servers);
        let over_tcp: Vec<_> = servers.iter().map(|server| (*server, None)).collect();
        let streams = MappingTest::begin(now, &mut prober, Transport::Tcp, &over_tcp);
        Diagnosis {
            prober,
            options,
            found: Findings::default(),
            phase: Phase::Discovery,
            discovery,
            filtering: None,
            mapping: None,
            allocation: None,
            hairpin: None,
            lifetime: None,
            waiting: None,
            streams,
            hops: None,
            path_mtu: None,
            stopped: false,
            event: None,
        }
    }

    /// A socket that [`Action::Bind`] asked for has this address, that from which packets leave; or why there is none.
    pub fn socket_bound(&mut self, now: Instant, socket: SocketId, bound: Result<SocketAddr, String>) {
        self.prober.socket_bound(now, socket, bound);
        self.go_on(now);
    }

    /// Takes a datagram, or a STUN message from a TCP connection, that came to `local`.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        transport: Transport,
        local: SocketAddr,
        from: SocketAddr,
        bytes: &[u8],
    ) {
        self.prober.handle_datagram(now, transport, local, from, bytes);
        self.go_on(now);
    }

    /// Takes what came of a datagram from `local` instead of an answer, as [`Action::Travel`] asked.
    pub fn handle_undelivered(&mut self, now: Instant, local: SocketAddr, error: &Undelivered) {
        self.prober.handle_undelivered(local, error);
        self.go_on(now);
    }

    /// A TCP connection that something was to be sent on stands.
    pub fn stream_connected(&mut self, now: Instant, local: SocketAddr, to: SocketAddr) {
        self.prober.stream_connected(local, to);
        self.go_on(now);
    }

    /// A TCP connection does not come about, or broke.
    pub fn stream_failed(&mut self, now: Instant, local: SocketAddr, to: SocketAddr, reason: &str) {
        self.prober.stream_failed(local, to, reason);
        self.go_on(now);
    }

    /// Repeats requests, gives them up, and goes on to the next test.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.prober.handle_timeout(now);
        if let Some(lifetime) = &mut self.lifetime {
            lifetime.handle_timeout(now, &mut self.prober);
        }
        self.go_on(now);
    }

    /// Ends it early: [`Diagnosis::report`] has what was found so far. A test under way counts for nothing, since half of
    /// its answers could tell the contrary of all; only the search for the lifetime keeps what it has.
    pub fn stop(&mut self) {
        match self.phase {
            Phase::Filtering => self.filtering = None,
            Phase::Mapping => self.mapping = None,
            Phase::Allocation => self.allocation = None,
            Phase::Hairpin => self.hairpin = None,
            Phase::Discovery | Phase::Lifetime | Phase::Over => {}
        }
        if let Some(test) = &mut self.lifetime {
            test.stop();
        }
        self.hops.take_if(|test| !test.is_over());
        self.path_mtu.take_if(|test| !test.is_over());
        self.stopped = true;
    }

    /// A datagram to send from the socket that has this address, or a message to send on a TCP connection from there.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.prober.poll_transmit()
    }

    /// A socket to bind or to close.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.prober.poll_action()
    }

    /// What happens, for people who wait.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.event.take()
    }

    /// When [`Diagnosis::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let lifetime = self.lifetime.as_ref().and_then(LifetimeTest::poll_timeout);
        [self.prober.poll_timeout(), lifetime].into_iter().flatten().min()
    }

    /// Whether everything has been measured.
    pub fn is_over(&self) -> bool {
        let finished = self.phase == Phase::Over
            && self.streams.is_over()
            && self.hops.as_ref().is_none_or(HopsTest::is_over)
            && self.path_mtu.as_ref().is_none_or(PathMtuTest::is_over);
        self.stopped || finished
    }

    /// What was found.
    pub fn report(&self) -> FamilyReport {
        let (answers, silent) = match &self.mapping {
            Some(mapping) => (mapping.answers(), mapping.silent.clone()),
            None => (Vec::new(), Vec::new()),
        };
        let loss = self.prober.loss();
        let filtering = self.filtering.as_ref().map(|test| test.conclude(&self.found, loss));
        let silent_at_all = self.found.silent.len();
        let mapping = match &self.mapping {
            Some(mapping) => mapping.conclude(silent_at_all),
            None => conclude(&[], silent_at_all),
        };
        let hairpin = self.hairpin.as_ref().map(|test| {
            test.report(
                &self.found,
                mapping.mapping,
                filtering.as_ref().and_then(|(filtering, ..)| *filtering),
                loss,
            )
        });
        let report = FamilyReport::new(Conclusions {
            found: &self.found,
            local: self.mapping.as_ref().and_then(|mapping| mapping.local).or(self.found.local),
            failure: self.discovery.failure.as_deref(),
            answers,
            silent,
            mapping,
            filtering,
            allocation: self.allocation.as_ref().map(|test| test.report(&self.found)),
            hairpin,
            lifetime: self.lifetime.as_ref().map(LifetimeTest::report),
            streams: &self.streams,
            hops: self.hops.as_ref().and_then(HopsTest::report),
            path_mtu: self.path_mtu.as_ref().map(|test| test.report(loss)),
        });
        if self.stopped && !self.streams.is_over() { report.without_tcp_mapping(STOPPED) } else { report }
    }

    fn go_on(&mut self, now: Instant) {
        loop {
            while let Some((probe, outcome)) = self.prober.poll_outcome() {
                self.handle_outcome(now, probe, &outcome);
            }
            if self.phase == Phase::Over || !self.phase_is_over() {
                return self.tell(now);
            }
            self.begin_next(now);
        }
    }

    fn handle_outcome(&mut self, now: Instant, probe: ProbeId, outcome: &Outcome) {
        let (prober, found) = (&mut self.prober, &mut self.found);
        self.discovery.handle(prober, found, probe, outcome);
        self.streams.handle(now, prober, &mut Findings::default(), probe, outcome);
        if let Some(test) = &mut self.hops {
            test.handle(prober, probe, outcome);
        }
        if let Some(test) = &mut self.path_mtu {
            test.handle(now, prober, probe, outcome);
        }
        if let Some(test) = &mut self.filtering {
            test.handle(now, prober, found, probe, outcome);
        }
        if let Some(test) = &mut self.mapping {
            test.handle(now, prober, found, probe, outcome);
        }
        if let Some(test) = &mut self.allocation {
            test.handle(now, prober, found, probe, outcome);
        }
        if let Some(test) = &mut self.hairpin {
            test.handle(now, prober, probe, outcome);
        }
        if let Some(test) = &mut self.lifetime {
            test.handle(now, prober, probe, outcome);
        }
    }

    fn tell(&mut self, now: Instant) {
        /// What becomes clearer by less is not worth telling.
        const CLEARER: Duration = Duration::from_secs(1);
        let Some((what, end)) = self.lifetime.as_ref().and_then(|test| test.wait(now)) else { return };
        let began = self.waiting.map_or(now, |(began, ..)| began);
        let same = |(_, told, until): (_, _, Instant)| {
            told == what && until.max(end).duration_since(until.min(end)) < CLEARER
        };
        if !self.waiting.is_some_and(same) {
            self.waiting = Some((began, what, end));
            let (elapsed, at_most) =
                (now.saturating_duration_since(began), end.saturating_duration_since(now));
            self.event = Some(Event::Waiting { what, elapsed, at_most });
        }
    }

    fn phase_is_over(&self) -> bool {
        match self.phase {
            Phase::Discovery => self.discovery.is_over(),
            Phase::Filtering => self.filtering.as_ref().is_none_or(FilteringTest::is_over),
            Phase::Mapping => self.mapping.as_ref().is_none_or(MappingTest::is_over),
            Phase::Allocation => self.allocation.as_ref().is_none_or(AllocationTest::is_over),
            Phase::Hairpin => self.hairpin.as_ref().is_none_or(HairpinTest::is_over),
            Phase::Lifetime => self.lifetime.as_ref().is_none_or(LifetimeTest::is_over),
            Phase::Over => false,
        }
    }

    fn begin_next(&mut self, now: Instant) {
        let (prober, found) = (&mut self.prober, &mut self.found);
        let Some(outermost) = found.outermost() else {
            self.phase = Phase::Over;
            return;
        };
        self.phase = match self.phase {
            Phase::Discovery => {
                self.filtering = Some(FilteringTest::begin(now, prober, found));
                self.hops = Some(HopsTest::begin(now, prober, outermost));
                self.path_mtu = Some(PathMtuTest::begin(now, prober, found, outermost));
                Phase::Filtering
            }
            Phase::Filtering => {
                let servers: Vec<_> = found.sound.iter().map(|sound| (sound.from, sound.other)).collect();
                self.mapping = Some(MappingTest::begin(now, prober, Transport::Udp, &servers));
                Phase::Mapping
            }
            Phase::Mapping => {
                self.allocation = Some(AllocationTest::begin(now, prober, found));
                Phase::Allocation
            }
            Phase::Allocation => {
                self.hairpin = self.options.hairpin.then(|| HairpinTest::begin(now, prober, outermost));
                Phase::Hairpin
            }
            Phase::Hairpin => {
                self.lifetime = self.options.lifetime.then(|| LifetimeTest::begin(now, prober, outermost));
                Phase::Lifetime
            }
            Phase::Lifetime | Phase::Over => Phase::Over,
        };
    }
}
