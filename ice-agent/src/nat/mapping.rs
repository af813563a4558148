//! The mapping test (RFC 5780, section 4.3): one socket, several destinations.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use thirl_common::net::{Transmit, Transport, canonical};
use thirl_common::request::{Due, Retransmission, Transaction};
use thirl_common::time::Deadlines;
use thirl_common::wire::{
    BufferTooSmall, Class, MappedAddress, Message, MessageWriter, Method, OtherAddress, TransactionId,
    XorMappedAddress,
};

use super::report::{Answer, MappingReport};

/// A person waits for the verdict: give up after 250 + 500 + 1000 + 2 · 250 ms, some two seconds.
const SCHEDULE: Retransmission = Retransmission {
    rto: Duration::from_millis(250),
    transmissions: 4,
    last_wait: 2,
    max_interval: Duration::from_secs(1),
};

/// More destinations are not asked, whatever servers claim of their other addresses.
const MAX_DESTINATIONS: usize = 16;

/// Asks servers what they see of one socket, and servers of RFC 5780 on their other address and port too.
///
/// - in: [`handle_datagram`](Self::handle_datagram), [`handle_timeout`](Self::handle_timeout);
/// - out: [`poll_transmit`](Self::poll_transmit) until `None`, then [`poll_timeout`](Self::poll_timeout); once that is
///   `None`, [`report`](Self::report).
///
/// ```
/// use std::time::Instant;
/// use thirl_ice_agent::nat::MappingTest;
///
/// # #[expect(clippy::disallowed_methods, reason = "an example's clock")]
/// let now = Instant::now();
/// let servers = ["203.0.113.10:3478".parse().unwrap()];
/// let mut test = MappingTest::new(now, "192.168.1.2:5000".parse().unwrap(), &servers, [1; 32]);
/// assert_eq!(test.poll_transmit().unwrap().to, servers[0]);
/// while let Some(deadline) = test.poll_timeout() {
///     test.handle_timeout(deadline); // nobody answers
/// }
/// assert!(test.report().is_blocked());
/// ```
#[derive(Debug)]
pub struct MappingTest {
    local: SocketAddr,
    rng: StdRng,
    pending: BTreeMap<TransactionId, Pending>,
    asked: BTreeSet<SocketAddr>,
    timers: Deadlines<TransactionId>,
    transmits: VecDeque<Transmit>,
    answers: Vec<Answer>,
    silent: Vec<SocketAddr>,
}

#[derive(Debug)]
struct Pending {
    server: SocketAddr,
    transaction: Transaction,
    request: Vec<u8>,
}

impl MappingTest {
    /// Asks `servers`, which must be of `local`'s family, from the socket whose address is `local`.
    pub fn new(now: Instant, local: SocketAddr, servers: &[SocketAddr], seed: [u8; 32]) -> MappingTest {
        let mut test = MappingTest {
            local,
            rng: StdRng::from_seed(seed),
            pending: BTreeMap::new(),
            asked: BTreeSet::new(),
            timers: Deadlines::default(),
            transmits: VecDeque::new(),
            answers: Vec::new(),
            silent: Vec::new(),
        };
        servers.iter().for_each(|server| test.ask(now, *server));
        test
    }

    /// Takes a datagram. Only an answer to a request of ours from where it was sent to counts.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        let Ok(message) = Message::parse(bytes) else { return };
        let id = message.transaction_id();
        let ours = self.pending.get(&id).is_some_and(|pending| pending.server == canonical(from));
        if !ours || message.method() != Method::BINDING || message.check_fingerprint().is_err() {
            return;
        }
        let reflexive = match message.class() {
            Class::Success => reflexive_address(&message),
            Class::Error => None,
            Class::Request | Class::Indication => return,
        };
        let Some(pending) = self.pending.remove(&id) else { return };
        self.timers.cancel(id);
        let Some(reflexive) = reflexive else {
            self.silent.push(pending.server);
            return;
        };
        let once = pending.transaction.transmissions() == 1;
        let rtt_ms = once.then(|| (now - pending.transaction.started()).as_secs_f64() * 1000.0);
        self.answers.push(Answer { server: pending.server, reflexive, rtt_ms });
        if let Ok(Some(OtherAddress(other))) = message.get() {
            self.ask_other(now, pending.server, canonical(other));
        }
    }

    /// Repeats requests and gives servers up.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(id) = self.timers.pop_due(now) {
            let Some(pending) = self.pending.get_mut(&id) else { continue };
            match pending.transaction.handle_timeout(now) {
                Due::Nothing => {}
                Due::Retransmit => {
                    self.timers.set(id, pending.transaction.deadline());
                    let (to, payload) = (pending.server, pending.request.clone());
                    self.transmits.push_back(Transmit {
                        transport: Transport::Udp,
                        from: self.local,
                        to,
                        payload,
                    });
                }
                Due::TimedOut => {
                    self.silent.extend(self.pending.remove(&id).map(|pending| pending.server));
                }
            }
        }
    }

    /// A datagram to send from the socket.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// When [`MappingTest::handle_timeout`] is due; `None` when the test is over.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// What was learnt so far.
    pub fn report(&self) -> MappingReport {
        MappingReport::new(self.local, self.answers.clone(), self.silent.clone())
    }

    /// The server's other port and other address. One that gives its own address as the other one has none.
    fn ask_other(&mut self, now: Instant, server: SocketAddr, other: SocketAddr) {
        if other.is_ipv4() != server.is_ipv4() {
            return;
        }
        for destination in
            [SocketAddr::new(server.ip(), other.port()), SocketAddr::new(other.ip(), server.port())]
        {
            self.ask(now, destination);
        }
    }

    fn ask(&mut self, now: Instant, server: SocketAddr) {
        if self.asked.len() >= MAX_DESTINATIONS || !self.asked.insert(server) {
            return;
        }
        let mut id = TransactionId([0; 12]);
        self.rng.fill_bytes(&mut id.0);
        let Ok(request) = binding_request(id) else { return };
        let transaction = Transaction::start(SCHEDULE, Transport::Udp, now);
        self.timers.set(id, transaction.deadline());
        let payload = request.clone();
        self.transmits.push_back(Transmit {
            transport: Transport::Udp,
            from: self.local,
            to: server,
            payload,
        });
        self.pending.insert(id, Pending { server, transaction, request });
    }
}

fn binding_request(id: TransactionId) -> Result<Vec<u8>, BufferTooSmall> {
    let mut buffer = [0; 28];
    let mut writer = MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, id)?;
    writer.fingerprint()?;
    Ok(writer.finish().to_vec())
}

/// XOR-MAPPED-ADDRESS, or what servers of RFC 3489 send instead.
fn reflexive_address(message: &Message<'_>) -> Option<SocketAddr> {
    let xored = message.get::<XorMappedAddress>().ok()?.map(|mapped| mapped.0);
    let plain = || message.get::<MappedAddress>().ok().flatten().map(|mapped| mapped.0);
    xored.or_else(plain).map(canonical)
}

#[cfg(test)]
mod tests {
    use super::super::Mapping;
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any origin will do")]
    fn origin() -> Instant {
        Instant::now()
    }

    fn answer(request: &Transmit, mapped: &str, other: Option<&str>) -> Vec<u8> {
        let id = Message::parse(&request.payload).unwrap().transaction_id();
        let mut buffer = [0; 128];
        let mut writer = MessageWriter::new(&mut buffer, Class::Success, Method::BINDING, id).unwrap();
        writer.attribute(&XorMappedAddress(mapped.parse().unwrap())).unwrap();
        if let Some(other) = other {
            writer.attribute(&OtherAddress(other.parse().unwrap())).unwrap();
        }
        writer.finish().to_vec()
    }

    #[test]
    fn one_server_of_rfc_5780_is_enough() {
        let now = origin();
        let local = "192.168.1.2:5000".parse().unwrap();
        let mut test = MappingTest::new(now, local, &["203.0.113.10:3478".parse().unwrap()], [1; 32]);
        let mut port = 6000;
        while let Some(request) = test.poll_transmit() {
            port += 1;
            let bytes = answer(&request, &format!("198.51.100.10:{port}"), Some("203.0.113.11:3479"));
            test.handle_datagram(now, request.to, &bytes);
        }
        let report = test.report();
        assert_eq!((test.poll_timeout(), report.answers.len()), (None, 4));
        assert_eq!(report.mapping, Some(Mapping::AddressAndPortDependent));
    }

    #[test]
    fn an_answer_from_elsewhere_does_not_count() {
        let now = origin();
        let local = "192.168.1.2:5000".parse().unwrap();
        let mut test = MappingTest::new(now, local, &["203.0.113.10:3478".parse().unwrap()], [1; 32]);
        let request = test.poll_transmit().unwrap();
        let bytes = answer(&request, "198.51.100.10:1", None);
        test.handle_datagram(now, "203.0.113.66:3478".parse().unwrap(), &bytes);
        assert!(test.report().answers.is_empty());
        test.handle_datagram(now, request.to, &bytes);
        assert_eq!(test.report().answers.len(), 1);
        test.handle_datagram(now, request.to, &bytes);
        assert_eq!(test.report().answers.len(), 1, "a second answer is none");
    }
}
