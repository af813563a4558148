//! Which queries to make, in which order, and what their answers mean.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::order::by_priority_and_weight;
use super::{NaptrRecord, Query, Records, ResolvedServer, SrvRecord, Target};
use crate::net::Transport;
use crate::uri::{DEFAULT_PORT, DEFAULT_TLS_PORT, Host};

/// Queries for one target: more are a zone that leads us around.
const MAX_QUERIES: usize = 32;

/// Servers of one target.
const MAX_SERVERS: usize = 64;

/// Records of one answer that are looked at, and steps of one resolution: records that lead in circles are soon many.
const MAX_RECORDS: usize = 32;
const MAX_STEPS: usize = 256;

/// NAPTR records that lead to others, one after the other.
const MAX_NAPTR_DEPTH: u8 = 4;

/// The application service tag of TURN (RFC 5928, section 7).
const RELAY: &str = "RELAY";

/// The URI asks for a transport that the application does not speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the URI asks for a transport that is not supported here")]
pub struct UnsupportedTransport;

/// The resolution of one URI.
///
/// In the order of RFC 5928, section 3: an address is taken as it is; a name with a port has only its addresses looked
/// up; a name with a transport has SRV records; a name alone has NAPTR records that lead to those. Whatever has none falls
/// back to the next simpler. STUN has no NAPTR (RFC 8489, section 8.1).
#[derive(Clone, Debug)]
pub struct Resolution {
    /// What is still to do, the next one last.
    tasks: Vec<Task>,
    /// The task whose query was given out.
    waiting: Option<Task>,
    answers: BTreeMap<Query, Records>,
    servers: Vec<ResolvedServer>,
    seed: u64,
    steps: usize,
}

#[derive(Clone, Debug)]
enum Task {
    Naptr {
        name: String,
        transport: Transport,
        depth: u8,
    },
    Srv {
        name: String,
        transport: Transport,
    },
    Addresses {
        name: String,
        port: u16,
        transport: Transport,
    },
    /// To be done if there is no server yet.
    Otherwise(Vec<Task>),
}

impl Resolution {
    /// Starts a resolution. `supported` are the transports that the application speaks, the preferred first; `seed` is
    /// for the choice among SRV records of one priority.
    pub fn new(
        target: &Target,
        supported: &[Transport],
        seed: u64,
    ) -> Result<Resolution, UnsupportedTransport> {
        let uri = &target.uri;
        let mut resolution = Resolution {
            tasks: Vec::new(),
            waiting: None,
            answers: BTreeMap::new(),
            servers: Vec::new(),
            seed,
            steps: 0,
        };
        let only = |transport: Transport| {
            supported.contains(&transport).then_some(transport).ok_or(UnsupportedTransport)
        };
        let name = match &uri.host {
            Host::Ip(ip) => {
                let addr = SocketAddr::new(*ip, uri.port);
                resolution.servers.push(ResolvedServer { transport: only(uri.transport())?, addr });
                return Ok(resolution);
            }
            Host::Name(name) => without_dot(name),
        };
        if target.names_port {
            let transport = only(uri.transport())?;
            resolution.tasks.push(Task::Addresses { name, port: uri.port, transport });
            return Ok(resolution);
        }
        let transports = match uri.tcp {
            Some(_) => vec![only(uri.transport())?],
            None => supported.iter().copied().filter(|transport| target.may_use(*transport)).collect(),
        };
        if transports.is_empty() {
            return Err(UnsupportedTransport);
        }
        // The plain fallback is over the transport of the scheme, or the one there is.
        let plain = only(uri.transport()).unwrap_or(transports[0]);
        let addresses = Task::Addresses { name: name.clone(), port: default_port(plain), transport: plain };
        let srv =
            transports.iter().map(|&transport| Task::Srv { name: target.srv_name(transport), transport });
        let srv = srv.collect::<Vec<_>>();
        resolution.tasks.push(Task::Otherwise(vec![addresses]));
        if uri.scheme.is_turn() && uri.tcp.is_none() {
            resolution.tasks.push(Task::Otherwise(srv));
            let naptr =
                transports.iter().map(|&transport| Task::Naptr { name: name.clone(), transport, depth: 0 });
            resolution.do_next(naptr.collect());
        } else {
            resolution.do_next(srv);
        }
        Ok(resolution)
    }

    /// The next query; `None` when all is done. The same one again until it was answered.
    pub fn poll_query(&mut self) -> Option<Query> {
        loop {
            let task = match self.waiting.take() {
                Some(task) => task,
                None => self.tasks.pop()?,
            };
            let Some(query) = task.query() else {
                if let (Task::Otherwise(tasks), true) = (task, self.servers.is_empty()) {
                    self.do_next(tasks);
                }
                continue;
            };
            match self.answers.get(&query).cloned() {
                Some(records) => self.carry_on(task, records),
                None if self.answers.len() >= MAX_QUERIES => return None,
                None => {
                    self.waiting = Some(task);
                    return Some(query);
                }
            }
        }
    }

    /// The answer to the query that [`Resolution::poll_query`] gave; records of another kind are none.
    pub fn handle_answer(&mut self, records: Records) {
        let Some(task) = self.waiting.take() else { return };
        if let Some(query) = task.query() {
            self.answers.insert(query, records.clone());
        }
        self.carry_on(task, records);
    }

    /// The servers found so far, the one to try first at the front.
    pub fn servers(&self) -> &[ResolvedServer] {
        &self.servers
    }

    fn do_next(&mut self, tasks: Vec<Task>) {
        self.tasks.extend(tasks.into_iter().rev());
    }

    fn carry_on(&mut self, task: Task, records: Records) {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return self.tasks.clear();
        }
        match (task, records) {
            (Task::Naptr { transport, depth, .. }, Records::Naptr(records)) => {
                self.do_next(naptr_tasks(records, transport, depth));
            }
            (Task::Srv { transport, .. }, Records::Srv(records)) => {
                let ordered = by_priority_and_weight(records, self.seed).into_iter().take(MAX_RECORDS);
                let hosts = ordered.filter_map(|SrvRecord { port, target, .. }| {
                    let name = without_dot(&target);
                    (!name.is_empty()).then_some(Task::Addresses { name, port, transport })
                });
                self.do_next(hosts.collect());
            }
            (Task::Addresses { port, transport, .. }, Records::Addresses(ips)) => {
                for ip in ips {
                    let server = ResolvedServer { transport, addr: SocketAddr::new(ip, port) };
                    if self.servers.len() < MAX_SERVERS && !self.servers.contains(&server) {
                        self.servers.push(server);
                    }
                }
            }
            _ => {}
        }
    }
}

impl Task {
    fn query(&self) -> Option<Query> {
        match self {
            Task::Naptr { name, .. } => Some(Query::Naptr(name.clone())),
            Task::Srv { name, .. } => Some(Query::Srv(name.clone())),
            Task::Addresses { name, .. } => Some(Query::Addresses(name.clone())),
            Task::Otherwise(_) => None,
        }
    }
}

impl Target {
    /// Which transports a URI without `?transport=` leaves open: `turn:` all of them, as a relay over TLS is no less than
    /// what was asked for (RFC 5928, section 4.1); the secure schemes those with TLS or DTLS; `stun:` the others.
    fn may_use(&self, transport: Transport) -> bool {
        match self.uri.scheme {
            scheme if scheme.is_secure() => is_secure(transport),
            scheme => scheme.is_turn() || !is_secure(transport),
        }
    }

    /// `_turn._udp.example.org` (RFC 5928, section 3; RFC 8489, section 8.1; RFC 7350, section 4.6, for DTLS).
    fn srv_name(&self, transport: Transport) -> String {
        let service = match (self.uri.scheme.is_turn(), is_secure(transport)) {
            (true, false) => "turn",
            (true, true) => "turns",
            (false, false) => "stun",
            (false, true) => "stuns",
        };
        let protocol = if transport.is_reliable() { "tcp" } else { "udp" };
        format!("_{service}._{protocol}.{}", without_dot(&self.uri.host.to_string()))
    }
}

/// What NAPTR records say of one transport, in their order (RFC 3958, section 2.2).
fn naptr_tasks(mut records: Vec<NaptrRecord>, transport: Transport, depth: u8) -> Vec<Task> {
    records.sort_by_key(|record| (record.order, record.preference));
    let task = |record: NaptrRecord| {
        let name = without_dot(&record.replacement);
        if !offers(&record.services, transport) || !record.regexp.is_empty() || name.is_empty() {
            return None;
        }
        match record.flags.to_ascii_uppercase().as_str() {
            "S" => Some(Task::Srv { name, transport }),
            "A" => Some(Task::Addresses { name, port: default_port(transport), transport }),
            "" if depth < MAX_NAPTR_DEPTH => Some(Task::Naptr { name, transport, depth: depth + 1 }),
            _ => None,
        }
    };
    records.into_iter().filter_map(task).take(MAX_RECORDS).collect()
}

/// Whether `RELAY:turn.udp:turn.tcp` names the transport (RFC 5928, section 7; RFC 7350, section 4.6).
fn offers(services: &str, transport: Transport) -> bool {
    let tag = match transport {
        Transport::Udp => "turn.udp",
        Transport::Tcp => "turn.tcp",
        Transport::Tls => "turn.tls",
        Transport::Dtls => "turn.dtls",
    };
    let mut parts = services.split(':');
    let relay = parts.next().is_some_and(|service| service.eq_ignore_ascii_case(RELAY));
    relay && parts.any(|part| part.eq_ignore_ascii_case(tag))
}

fn is_secure(transport: Transport) -> bool {
    matches!(transport, Transport::Tls | Transport::Dtls)
}

fn default_port(transport: Transport) -> u16 {
    if is_secure(transport) { DEFAULT_TLS_PORT } else { DEFAULT_PORT }
}

fn without_dot(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Transport::{Dtls, Tcp, Tls, Udp};

    /// Answers from a zone of lines `name type data`, and counts the queries.
    fn resolve(target: &str, supported: &[Transport], zone: &str) -> (Vec<String>, Vec<String>) {
        let target: Target = target.parse().unwrap();
        let mut resolution = Resolution::new(&target, supported, 1).unwrap();
        let mut queries = Vec::new();
        while let Some(query) = resolution.poll_query() {
            assert_eq!(resolution.poll_query().as_ref(), Some(&query), "again until answered");
            let (name, ty) = match &query {
                Query::Naptr(name) => (name, "NAPTR"),
                Query::Srv(name) => (name, "SRV"),
                Query::Addresses(name) => (name, "A"),
            };
            queries.push(format!("{ty} {name}"));
            let lines: Vec<Vec<&str>> = zone
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>())
                .filter(|line| line.len() > 2 && line[0] == format!("{name}.") && line[1] == ty)
                .map(|line| line[2..].to_vec())
                .collect();
            resolution.handle_answer(match query {
                Query::Naptr(_) => Records::Naptr(lines.iter().map(|line| naptr(line)).collect()),
                Query::Srv(_) => Records::Srv(lines.iter().map(|line| srv(line)).collect()),
                Query::Addresses(_) => {
                    Records::Addresses(lines.iter().map(|line| line[0].parse().unwrap()).collect())
                }
            });
        }
        let servers = resolution.servers().iter();
        (servers.map(|server| format!("{} {}", server.transport, server.addr)).collect(), queries)
    }

    fn naptr(line: &[&str]) -> NaptrRecord {
        let text = |at: usize| line[at].trim_matches('"').to_owned();
        NaptrRecord {
            order: line[0].parse().unwrap(),
            preference: line[1].parse().unwrap(),
            flags: text(2),
            services: text(3),
            regexp: text(4),
            replacement: text(5),
        }
    }

    fn srv(line: &[&str]) -> SrvRecord {
        SrvRecord {
            priority: line[0].parse().unwrap(),
            weight: line[1].parse().unwrap(),
            port: line[2].parse().unwrap(),
            target: line[3].to_owned(),
        }
    }

    /// After RFC 5928, section 4.1.
    const ZONE: &str = r#"
        example.com.            NAPTR 100 10 ""  RELAY:turn.udp          "" datagram.example.com.
        example.com.            NAPTR 200 10 ""  RELAY:turn.tcp:turn.tls "" stream.example.com.
        datagram.example.com.   NAPTR 100 10 S   RELAY:turn.udp          "" _turn._udp.example.com.
        stream.example.com.     NAPTR 100 10 S   RELAY:turn.tcp          "" _turn._tcp.example.com.
        stream.example.com.     NAPTR 200 10 A   RELAY:turn.tls          "" a.example.com.
        _turn._udp.example.com. SRV   0 0 3478 a.example.com.
        _turn._tcp.example.com. SRV   0 0 5000 a.example.com.
        a.example.com.          A     192.0.2.1
    "#;

    #[test]
    fn naptr_leads_to_every_transport_in_the_order_of_preference() {
        let (servers, queries) = resolve("turn:example.com", &[Udp, Tls, Tcp], ZONE);
        assert_eq!(servers, ["udp 192.0.2.1:3478", "tls 192.0.2.1:5349", "tcp 192.0.2.1:5000"]);
        assert_eq!(queries.len(), 6, "none is asked twice: {queries:?}");
        let (servers, _) = resolve("turns:example.com", &[Udp, Tls, Tcp], ZONE);
        assert_eq!(servers, ["tls 192.0.2.1:5349"]);
        let (servers, queries) = resolve("turn:example.com?transport=tcp", &[Udp, Tls, Tcp], ZONE);
        assert_eq!(servers, ["tcp 192.0.2.1:5000"]);
        assert_eq!(queries, ["SRV _turn._tcp.example.com", "A a.example.com"]);
    }

    #[test]
    fn a_port_or_an_address_leaves_nothing_to_ask() {
        let (servers, queries) = resolve("turn:a.example.com:99", &[Udp], ZONE);
        assert_eq!((servers, queries), (vec!["udp 192.0.2.1:99".into()], vec!["A a.example.com".into()]));
        let (servers, queries) = resolve("turns:192.0.2.7?transport=udp", &[Dtls], ZONE);
        assert_eq!((servers, queries), (vec!["dtls 192.0.2.7:5349".into()], vec![]));
    }

    #[test]
    fn without_naptr_srv_and_without_srv_the_addresses() {
        let zone = "_turns._tcp.b.org. SRV 1 0 443 c.org.\nc.org. A 192.0.2.2\nc.org. A 2001:db8::2";
        let (servers, queries) = resolve("turn:B.org", &[Udp, Tls], zone);
        assert_eq!(servers, ["tls 192.0.2.2:443", "tls [2001:db8::2]:443"]);
        assert_eq!(queries, ["NAPTR b.org", "SRV _turn._udp.b.org", "SRV _turns._tcp.b.org", "A c.org"]);
        let (servers, _) = resolve("turn:c.org", &[Tls, Udp], zone);
        assert_eq!(servers, ["udp 192.0.2.2:3478", "udp [2001:db8::2]:3478"], "the scheme's own transport");
        let (servers, _) = resolve("turn:nowhere.org", &[Udp], zone);
        assert!(servers.is_empty());
    }

    #[test]
    fn stun_has_srv_but_no_naptr() {
        let zone = "_stun._udp.b.org. SRV 2 0 4000 d.org.\n_stun._udp.b.org. SRV 1 0 3000 c.org.
            c.org. A 192.0.2.2\nd.org. A 192.0.2.3";
        let (servers, queries) = resolve("stun:b.org", &[Udp, Tls], zone);
        assert_eq!(servers, ["udp 192.0.2.2:3000", "udp 192.0.2.3:4000"]);
        assert_eq!(queries, ["SRV _stun._udp.b.org", "A c.org", "A d.org"]);
        let (servers, queries) = resolve("stuns:c.org", &[Udp, Tls], zone);
        assert_eq!(servers, ["tls 192.0.2.2:5349"]);
        assert_eq!(queries, ["SRV _stuns._tcp.c.org", "A c.org"]);
    }

    #[test]
    fn a_transport_that_is_not_supported_is_said_so() {
        for (target, supported) in [
            ("turn:192.0.2.1?transport=tcp", &[Udp][..]),
            ("turn:192.0.2.1", &[Tcp]),
            ("turn:a.org:99", &[Tls]),
            ("turns:a.org?transport=udp", &[Udp, Tls]),
            ("turns:a.org", &[Udp, Tcp]),
            ("stun:a.org", &[Tls]),
        ] {
            let target = target.parse().unwrap();
            assert!(Resolution::new(&target, supported, 1).is_err(), "{target:?}");
        }
    }

    #[test]
    fn a_service_that_is_not_to_be_had_is_not_tried() {
        let zone = "_turn._udp.b.org. SRV 0 0 0 .\n_turn._tcp.b.org. SRV 0 0 5 c.org.\nc.org. A 192.0.2.2";
        let (servers, _) = resolve("turn:b.org", &[Udp, Tcp], zone);
        assert_eq!(servers, ["tcp 192.0.2.2:5"]);
    }

    #[test]
    fn a_zone_that_leads_around_comes_to_an_end() {
        let circle = "b.org. NAPTR 1 1 \"\" RELAY:turn.udp \"\" b.org.";
        let (servers, queries) = resolve("turn:b.org", &[Udp], circle);
        assert!(servers.is_empty());
        assert_eq!(queries, ["NAPTR b.org", "SRV _turn._udp.b.org", "A b.org"]);
        let mirrors = circle.repeat(100).replace("b.org.b.org.", "b.org.\nb.org.");
        let (servers, queries) = resolve("turn:b.org", &[Udp, Tcp], &mirrors);
        assert_eq!((servers.len(), queries.len()), (0, 1), "given up");
        let wide: String = (0..100)
            .map(|n| format!("_stun._udp.b.org. SRV 0 0 5 h{n}.org.\nh{n}.org. A 192.0.2.{n}\n"))
            .collect();
        let (servers, queries) = resolve("stun:b.org", &[Udp], &wide);
        assert_eq!((servers.len(), queries.len()), (MAX_QUERIES - 1, MAX_QUERIES));
        let many: String = (0..100).map(|n| format!("c.org. A 192.0.2.{n}\n")).collect();
        let (servers, _) = resolve("stun:c.org:5", &[Udp], &many);
        assert_eq!(servers.len(), MAX_SERVERS);
    }
}
