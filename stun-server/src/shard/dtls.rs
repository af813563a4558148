//! The DTLS side of a shard: sessions by five-tuple, their number bounded, and their deadlines.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use thirl_common::dtls::{Answer, ClientHello, Cookies, MAX_DATA_LEN, Output, Session, SessionError};
use thirl_common::io::{Route, ShardIo};
use thirl_common::net::FiveTuple;
use thirl_common::time::Deadlines;
use thirl_common::tls::{Certificates, random_key};

use super::{Clock, Outcome, Service};

/// So many handshakes at once, in each shard. Beyond them a client is not answered, and tries again in a second.
const MAX_HANDSHAKES: usize = 512;

/// What any datagram fits.
const BUFFER_LEN: usize = 1 << 16;

/// All sessions of a shard.
pub(super) struct DtlsSessions {
    certificates: Certificates,
    cookies: Cookies,
    sessions: HashMap<FiveTuple, Entry, foldhash::fast::RandomState>,
    deadlines: Deadlines<FiveTuple>,
    handshakes: usize,
    limits: Limits,
    /// What a session decrypts into, or puts its datagrams in.
    output: Vec<u8>,
    /// Where data is put behind its prefix, since a session takes it in one piece.
    input: Vec<u8>,
}

/// The bounds of [`DtlsSessions`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_sessions: usize,
    pub(super) idle_timeout: Duration,
}

struct Entry {
    session: Session,
    route: Route,
    /// Of the ClientHello that it began with.
    random: [u8; 32],
    established: bool,
    /// When it was last good for anything.
    used: Instant,
    /// When it is looked at next, at the latest.
    due: Instant,
}

/// What comes after a session has done what it wanted.
enum Next {
    /// It is looked at then, if nothing comes before.
    At(Instant),
    /// Nothing: the client has ended it.
    End,
}

impl DtlsSessions {
    pub(super) fn new(certificates: Certificates, limits: Limits) -> io::Result<DtlsSessions> {
        Ok(DtlsSessions {
            certificates,
            cookies: Cookies::new(&random_key()?),
            sessions: HashMap::default(),
            deadlines: Deadlines::default(),
            handshakes: 0,
            limits,
            output: vec![0; BUFFER_LEN],
            input: Vec::new(),
        })
    }

    /// Whether a datagram is DTLS by its first byte (RFC 7983, section 7).
    #[inline]
    pub(super) fn concerns(datagram: &[u8]) -> bool {
        matches!(datagram, [20..=63, ..])
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// A datagram that a client sent, to be answered by `route`: with what is returned, or else by
    /// [`DtlsSessions::advance`].
    pub(super) fn handle_datagram<S: Service>(
        &mut self,
        clock: Clock,
        five_tuple: FiveTuple,
        route: Route,
        datagram: &[u8],
        service: &mut S,
    ) -> Option<Answer> {
        if let Some(hello) = ClientHello::parse(datagram) {
            let answer = self.cookies.answer(clock.unix_seconds, &five_tuple, &hello);
            if answer != Answer::Verified {
                return Some(answer);
            }
            // One that the client repeats goes to the session that it began.
            let repeated = self.sessions.get(&five_tuple).is_some_and(|entry| entry.random == hello.random);
            if !repeated {
                // The client has forgotten the session that there may be (RFC 6347, section 4.2.8).
                self.end(clock, five_tuple, service);
                return self.begin(clock, five_tuple, route, &hello, datagram);
            }
        }
        self.act(clock, five_tuple, service, |session| session.handle_datagram(clock.now, datagram));
        None
    }

    /// Data for a client, in these parts, as one datagram; then [`DtlsSessions::advance`]. It is dropped if there is no
    /// session, or it is too long.
    #[inline]
    pub(super) fn write<S: Service>(
        &mut self,
        clock: Clock,
        five_tuple: FiveTuple,
        parts: &[&[u8]],
        service: &mut S,
    ) {
        let mut data = std::mem::take(&mut self.input);
        data.clear();
        parts.iter().for_each(|part| data.extend_from_slice(part));
        if data.len() <= MAX_DATA_LEN {
            self.act(clock, five_tuple, service, |session| session.send(&data));
        }
        self.input = data;
    }

    pub(super) fn handle_timeout<S: Service>(&mut self, clock: Clock, service: &mut S, io: &mut ShardIo) {
        while let Some(five_tuple) = self.deadlines.pop_due(clock.now) {
            let Some(entry) = self.sessions.get_mut(&five_tuple) else { continue };
            if service.keeps(&five_tuple) {
                entry.used = clock.now;
            }
            entry.due = entry.used + self.limits.idle_timeout;
            let idle = entry.due <= clock.now;
            if idle {
                self.act(clock, five_tuple, service, Session::close);
            } else {
                self.deadlines.set(five_tuple, entry.due);
                self.act(clock, five_tuple, service, |session| session.handle_timeout(clock.now));
            }
            self.advance(clock, five_tuple, service, io);
            if idle {
                self.end(clock, five_tuple, service);
            }
        }
    }

    /// Does all that a client's session wants done.
    #[inline]
    pub(super) fn advance<S: Service>(
        &mut self,
        clock: Clock,
        five_tuple: FiveTuple,
        service: &mut S,
        io: &mut ShardIo,
    ) {
        let Some(entry) = self.sessions.get_mut(&five_tuple) else { return };
        let was_established = entry.established;
        let next = entry.advance(clock, five_tuple, &mut self.output, service, io);
        if entry.established && !was_established {
            self.handshakes -= 1;
        }
        match next {
            Ok(Next::At(at)) if at < entry.due => {
                entry.due = at;
                self.deadlines.set(five_tuple, at);
            }
            Ok(Next::At(_)) => {}
            Ok(Next::End) => self.end(clock, five_tuple, service),
            Err(error) => self.fail(clock, five_tuple, &error, service),
        }
    }

    fn begin(
        &mut self,
        clock: Clock,
        five_tuple: FiveTuple,
        route: Route,
        hello: &ClientHello<'_>,
        datagram: &[u8],
    ) -> Option<Answer> {
        if self.sessions.len() >= self.limits.max_sessions || self.handshakes >= MAX_HANDSHAKES {
            return None;
        }
        let identity = self.certificates.current();
        let Some(acceptor) = identity.dtls() else { return Some(Answer::HANDSHAKE_FAILURE) };
        let session = match acceptor.accept(clock.now, hello, datagram) {
            Ok(session) => session,
            Err(error) => {
                tracing::debug!(client = %five_tuple, %error, "a DTLS session does not begin");
                return Some(Answer::HANDSHAKE_FAILURE);
            }
        };
        let due = clock.now + self.limits.idle_timeout;
        let (random, used) = (hello.random, clock.now);
        self.sessions.insert(five_tuple, Entry { session, route, random, established: false, used, due });
        self.deadlines.set(five_tuple, due);
        self.handshakes += 1;
        None
    }

    fn act<S: Service>(
        &mut self,
        clock: Clock,
        five_tuple: FiveTuple,
        service: &mut S,
        act: impl FnOnce(&mut Session) -> Result<(), SessionError>,
    ) {
        let Some(entry) = self.sessions.get_mut(&five_tuple) else { return };
        if let Err(error) = act(&mut entry.session) {
            self.fail(clock, five_tuple, &error, service);
        }
    }

    fn fail<S: Service>(
        &mut self,
        clock: Clock,
        five_tuple: FiveTuple,
        error: &SessionError,
        service: &mut S,
    ) {
        // Anybody can make a session and break it, which must not fill the log.
        tracing::debug!(client = %five_tuple, %error, "a DTLS session ends");
        self.end(clock, five_tuple, service);
    }

    fn end<S: Service>(&mut self, clock: Clock, five_tuple: FiveTuple, service: &mut S) {
        let Some(entry) = self.sessions.remove(&five_tuple) else { return };
        self.deadlines.cancel(five_tuple);
        if entry.established {
            service.handle_client_gone(clock, five_tuple);
        } else {
            self.handshakes -= 1;
        }
    }
}

impl Entry {
    fn advance<S: Service>(
        &mut self,
        clock: Clock,
        five_tuple: FiveTuple,
        output: &mut [u8],
        service: &mut S,
        io: &mut ShardIo,
    ) -> Result<Next, SessionError> {
        let mut closed = false;
        loop {
            match self.session.poll_output(output)? {
                Output::Transmit(datagram) => io.send(self.route, datagram),
                Output::Established => self.established = true,
                Output::Data(data) => {
                    self.used = clock.now;
                    match service.handle_client(clock, five_tuple, data) {
                        Outcome::ToSocket { socket, to, range } => {
                            if let Some(data) = data.get(range) {
                                io.send(Route { socket, to, source: None }, data);
                            }
                        }
                        Outcome::Reply(reply) => self.session.send(reply)?,
                        Outcome::ToClient { .. } | Outcome::Send { .. } | Outcome::Nothing => {}
                    }
                }
                Output::Closed => {
                    closed = true;
                    self.session.close()?;
                }
                Output::Nothing => {}
                Output::Wait(_) if closed => return Ok(Next::End),
                Output::Wait(at) => return Ok(Next::At(at)),
            }
        }
    }
}
