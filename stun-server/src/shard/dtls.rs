//! The DTLS side of a shard: sessions by five-tuple, their number bounded, and their deadlines.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use thirl_common::dtls::{Answer, ClientHello, Cookies, MAX_DATA_LEN, Output, Session, SessionError};
use thirl_common::io::{Route, ShardIo};
use thirl_common::net::FiveTuple;
use thirl_common::time::Deadlines;
use thirl_common::tls::{Certificates, random_key};

use super::datagram::send_by_socket;
use super::parcel::Outbox;
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

    /// How many there are, and how many of these have not ended their handshake.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.sessions.len(), self.handshakes)
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

    pub(super) fn handle_timeout<S: Service>(
        &mut self,
        clock: Clock,
        service: &mut S,
        io: &mut ShardIo,
        outbox: &mut Outbox,
    ) {
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
            self.advance(clock, five_tuple, service, io, outbox);
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
        outbox: &mut Outbox,
    ) {
        let Some(entry) = self.sessions.get_mut(&five_tuple) else { return };
        let was_established = entry.established;
        let next = entry.advance(clock, five_tuple, &mut self.output, service, io, outbox);
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
        outbox: &mut Outbox,
    ) -> Result<Next, SessionError> {
        let mut closed = false;
        loop {
            match self.session.poll_output(output)? {
                Output::Transmit(datagram) => io.send(self.route, datagram),
                Output::Established => self.established = true,
                Output::Data(data) => {
                    self.used = clock.now;
                    match service.handle_client(clock, five_tuple, data) {
                        Outcome::ToSocket { socket, to, range, whole } => {
                            if let Some(data) = data.get(range) {
                                let route = Route { socket, to, source: None };
                                send_by_socket(io, socket, whole, |io| io.send(route, data));
                            }
                        }
                        Outcome::Inside { shard, from, to, range } => {
                            if let Some(data) = data.get(range) {
                                outbox.push(shard, from, to, data);
                            }
                        }
                        Outcome::Reply(reply) => self.session.send(reply)?,
                        Outcome::ToClient { .. }
                        | Outcome::Send { .. }
                        | Outcome::Hold
                        | Outcome::Nothing => {}
                    }
                }
                Output::Closed => {
                    closed = true;
                    self.session.close()?;
                }
                Output::Certificate(_) | Output::Nothing => {}
                Output::Wait(_) if closed => return Ok(Next::End),
                Output::Wait(at) => return Ok(Next::At(at)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thirl_common::io::{IoOptions, SocketId};
    use thirl_common::net::{ClientAddr, ServerAddr, Transport};
    use thirl_common::tls::PemFiles;

    struct Nobody;

    impl Service for Nobody {
        type Prefix = [u8; 0];
        type Letter = ();

        fn handle_client(&mut self, _: Clock, _: FiveTuple, _: &[u8]) -> Outcome<'_, [u8; 0]> {
            Outcome::Nothing
        }
    }

    /// With room for two.
    fn sessions(name: &str) -> DtlsSessions {
        let directory = std::env::temp_dir().join(format!("thirl-dtls-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let files =
            PemFiles { certificate: directory.join("cert.pem"), private_key: directory.join("key.pem") };
        std::fs::write(&files.certificate, certificate.pem()).unwrap();
        std::fs::write(&files.private_key, key.serialize_pem()).unwrap();
        let certificates = Certificates::read(files).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        let limits = Limits { max_sessions: 2, idle_timeout: Duration::from_secs(60) };
        DtlsSessions::new(certificates, limits).unwrap()
    }

    /// A ClientHello with the extensions that a handshake needs: X25519, ECDSA, extended master secret.
    fn hello(random: u8, cookie: &[u8]) -> Vec<u8> {
        let mut body = vec![0xFE, 0xFD];
        body.extend([random; 32]);
        body.extend([0, u8::try_from(cookie.len()).unwrap()]);
        body.extend(cookie);
        body.extend([0, 2, 0xC0, 0x2B, 1, 0]);
        body.extend([0, 20, 0, 10, 0, 4, 0, 2, 0, 29, 0, 13, 0, 4, 0, 2, 4, 3, 0, 23, 0, 0]);
        let sequence = u8::from(!cookie.is_empty());
        let len = u8::try_from(body.len()).unwrap();
        let mut record = vec![22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, sequence, 0, len + 12];
        record.extend([1, 0, 0, len, 0, sequence, 0, 0, 0, 0, 0, len]);
        record.extend(body);
        record
    }

    /// A ClientHello of DTLS 1.3 and 1.2, as wolfSSL sends it.
    const HELLO_1_3: &[u8] = include_bytes!("../../../tests/interop/client_hello_1_3.bin");

    /// The same with a cookie, as the first extension.
    fn second_of(first: &[u8], cookie: &[u8]) -> Vec<u8> {
        let extensions = 105;
        let mut second = first.to_vec();
        let cookie = [&[0, 44, 0, 34, 0, 32], cookie].concat();
        second.splice(extensions..extensions, cookie);
        (second[10], second[18]) = (1, 1);
        for (field, start) in [(11, 13), (15, 25), (23, 25), (extensions - 2, extensions)] {
            let len = u16::try_from(second.len() - start).unwrap();
            second[field..field + 2].copy_from_slice(&len.to_be_bytes());
        }
        second
    }

    #[expect(clippy::disallowed_methods, reason = "any origin will do")]
    fn clock() -> Clock {
        Clock { now: Instant::now(), unix_seconds: 1_800_000_000 }
    }

    struct Bench {
        sessions: DtlsSessions,
        io: ShardIo,
        clock: Clock,
    }

    impl Bench {
        fn send(&mut self, client: u16, datagram: &[u8]) -> Option<Answer> {
            let to = ([198, 51, 100, 1], client).into();
            let server = ServerAddr(([192, 0, 2, 1], 3478).into());
            let five_tuple = FiveTuple { transport: Transport::Dtls, client: ClientAddr(to), server };
            let route = Route { socket: SocketId::default(), to, source: None };
            let Bench { sessions, io, clock } = self;
            let answer = sessions.handle_datagram(*clock, five_tuple, route, datagram, &mut Nobody);
            sessions.advance(*clock, five_tuple, &mut Nobody, io, &mut Outbox::new(1));
            answer
        }

        fn cookie(&mut self, client: u16, random: u8) -> Vec<u8> {
            let Some(Answer::Verify(request)) = self.send(client, &hello(random, &[])) else {
                panic!("it has no cookie")
            };
            request[request.len() - 32..].to_vec()
        }

        fn counts(&self) -> (usize, usize, usize) {
            (self.sessions.sessions.len(), self.sessions.handshakes, self.sessions.deadlines.len())
        }
    }

    #[test]
    fn nothing_is_kept_before_the_cookie_and_little_after_it() {
        let io = ShardIo::new(IoOptions::default()).unwrap();
        let clock = clock();
        let mut bench = Bench { sessions: sessions("cookie"), io, clock };
        for client in 1..=1_000 {
            assert!(matches!(bench.send(client, &hello(1, &[])), Some(Answer::Verify(_))));
            assert!(matches!(bench.send(client, &hello(1, &[9; 32])), Some(Answer::Verify(_))));
            assert_eq!(bench.send(client, &[23; 100]), None);
        }
        assert_eq!(bench.counts(), (0, 0, 0));

        let cookie = bench.cookie(1, 1);
        for _ in 0..3 {
            assert_eq!(bench.send(1, &hello(1, &cookie)), None);
            assert_eq!(bench.counts(), (1, 1, 1), "a repeated one is the same");
        }
        let cookie = bench.cookie(1, 2);
        assert_eq!(bench.counts(), (1, 1, 1), "one without a cookie changes nothing");
        assert_eq!(bench.send(1, &hello(2, &cookie)), None);
        assert_eq!(bench.counts(), (1, 1, 1), "another takes its place");
        for client in 2..=3 {
            let cookie = bench.cookie(client, 1);
            assert_eq!(bench.send(client, &hello(1, &cookie)), None);
        }
        assert_eq!(bench.counts(), (2, 2, 2), "no more than there is room for");

        // Each handshake is repeated some times, and then given up.
        let mut turns = 0;
        while let Some(at) = bench.sessions.poll_timeout() {
            bench.clock.now = at;
            bench.sessions.handle_timeout(bench.clock, &mut Nobody, &mut bench.io, &mut Outbox::new(1));
            turns += 1;
        }
        assert_eq!(bench.counts(), (0, 0, 0));
        assert!(turns < 50, "{turns} turns");
        assert!(bench.clock.now < clock.now + Duration::from_secs(11));
    }

    #[test]
    fn nothing_is_kept_before_the_cookie_of_1_3() {
        let io = ShardIo::new(IoOptions::default()).unwrap();
        let mut bench = Bench { sessions: sessions("retry"), io, clock: clock() };
        let mut cookies = Vec::new();
        for client in 1..=1_000 {
            let Some(Answer::Retry(request)) = bench.send(client, HELLO_1_3) else {
                panic!("it has no cookie")
            };
            cookies.push(request.as_bytes()[request.as_bytes().len() - 32..].to_vec());
        }
        let [own, other, ..] = &cookies[..] else { panic!("there are more") };
        assert!(matches!(bench.send(1, &second_of(HELLO_1_3, other)), Some(Answer::Refuse(_))));
        assert_eq!(bench.counts(), (0, 0, 0));
        for _ in 0..3 {
            assert_eq!(bench.send(1, &second_of(HELLO_1_3, own)), None);
            assert_eq!(bench.counts(), (1, 1, 1), "a repeated one is the same");
        }
        assert!(matches!(bench.send(1, HELLO_1_3), Some(Answer::Retry(_))));
        assert_eq!(bench.counts(), (1, 1, 1), "one without a cookie changes nothing");
    }

    #[test]
    fn a_handshake_that_cannot_be_is_refused() {
        let io = ShardIo::new(IoOptions::default()).unwrap();
        let clock = clock();
        let mut bench = Bench { sessions: sessions("refused"), io, clock };
        let cookie = bench.cookie(1, 1);
        let mut without = hello(1, &cookie);
        // Another extension in the place of extended_master_secret, which is the last.
        let kind = without.len() - 3;
        without[kind] = 99;
        assert_eq!(bench.send(1, &without), Some(Answer::HANDSHAKE_FAILURE));
        assert_eq!(bench.counts(), (0, 0, 0));
    }
}
