//! A session with one client or server, by `dimpl`.
//!
//! `dimpl` checks cookies too, with a secret of each session, so a session is begun before the client has shown where it
//! is. Ours are checked before: an [`Acceptor`] shows the new session the ClientHello that came before the cookie and throws
//! away what it answers, which the client has had from [`Cookies`](super::Cookies), and then the ClientHello with the
//! cookie. For these two the session's own cookie is made to be ours ([`CookieIsOurs`]), so the handshake goes on as if the
//! session had seen all of it. In DTLS 1.3 what it answers is in the transcript, so it has to be what the client has had, to
//! the byte.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dimpl::crypto::{CryptoProvider, Dtls13CipherSuite, HmacProvider, aws_lc_rs};
use dimpl::{Config, CryptoError, Dtls, DtlsCertificate, HashAlgorithm, NamedGroup};

use super::hello::{ClientHello, Version};
use super::retry::{CIPHER_SUITES, GROUPS, HelloRetryRequest, Retry};

/// What one record carries at most, in bytes (RFC 6347, section 4.1.1).
pub const MAX_DATA_LEN: usize = 1 << 14;

/// The longest datagram of a handshake in bytes: what every path with IPv6 carries, 1280 with its headers, and some room.
pub(super) const HANDSHAKE_MTU: usize = 1200;

/// How long a handshake may take in all.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The message that carries the cookie is the client's second.
const WITH_COOKIE: u16 = 1;

/// Begins sessions under one certificate.
///
/// `dimpl` signs with ECDSA alone, and sends the certificate without those that it was issued under: a client that checks
/// it has to know the issuer.
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<Config>,
    certificate: DtlsCertificate,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor(certificate and key)")
    }
}

/// The session is at its end: a fault of the other side's, or it took too long.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// What the other side did, or did not.
    #[error("{0}")]
    Failed(String),
    /// A fault in the library. The session is lost and nothing else.
    #[error("the DTLS library panicked")]
    Panicked,
    /// More data than a record carries.
    #[error("more data than the {MAX_DATA_LEN} bytes that a record carries")]
    TooLong,
    /// The cookie came in a message that cannot have it.
    #[error("the ClientHello with the cookie is not the second message")]
    OutOfOrder,
    /// A fault of ours or of the library. The session is lost and nothing else.
    #[error("the DTLS library asks for a cookie otherwise than the client was asked")]
    Astray,
}

/// What a session wants done, until [`Output::Wait`].
#[derive(Debug, PartialEq, Eq)]
pub enum Output<'a> {
    /// Send this to the other side as one datagram.
    Transmit(&'a [u8]),
    /// The handshake is done.
    Established,
    /// The certificate that the other side has proved to be its own, in DER. Whether it is to be believed is not checked.
    Certificate(&'a [u8]),
    /// The other side says this.
    Data(&'a [u8]),
    /// The other side has said its last.
    Closed,
    /// What is of no interest here: poll again.
    Nothing,
    /// Nothing until then, if nothing comes: call [`Session::handle_timeout`].
    Wait(Instant),
}

impl Acceptor {
    /// With a certificate and its key in DER; `None` if the key is not ECDSA, P-256 or P-384.
    pub fn new(certificate: &[u8], private_key: &[u8]) -> Option<Acceptor> {
        let provider = CryptoProvider { hmac_provider: &CookieIsOurs, ..aws_lc_rs::default_provider() };
        provider.key_provider.load_private_key(private_key).ok()?;
        let config = Config::builder()
            .with_crypto_provider(provider)
            .mtu(HANDSHAKE_MTU)
            .require_client_certificate(false)
            .dtls13_cipher_suites(&CIPHER_SUITES.map(Dtls13CipherSuite::from_u16))
            .kx_groups(&GROUPS.map(NamedGroup::from_u16))
            .handshake_timeout(HANDSHAKE_TIMEOUT)
            .build()
            .ok()?;
        let certificate =
            DtlsCertificate { certificate: certificate.to_vec(), private_key: private_key.to_vec() };
        Some(Acceptor { config: Arc::new(config), certificate })
    }

    /// Begins a session with a client whose cookie was verified, by the `datagram` that `hello` stands in.
    pub fn accept(
        &self,
        now: Instant,
        hello: &ClientHello<'_>,
        datagram: &[u8],
    ) -> Result<Session, SessionError> {
        let Ok(cookie) = <[u8; 32]>::try_from(hello.cookie()) else { return Err(SessionError::OutOfOrder) };
        let Some(first) = hello.before_the_cookie().filter(|_| hello.message_sequence == WITH_COOKIE) else {
            return Err(SessionError::OutOfOrder);
        };
        let (config, certificate) = (self.config.clone(), self.certificate.clone());
        let (dtls, asked) = match hello.version() {
            Some(Version::Dtls13) => {
                let retry = ClientHello::parse(&first).and_then(|first| Retry::asked_by(&first));
                let retry = retry.ok_or(SessionError::OutOfOrder)?;
                (Dtls::new_13(config, certificate, now), Some(retry.request(&cookie)))
            }
            _ => (Dtls::new_12(config, certificate, now), None),
        };
        let mut session = Session { dtls: Box::new(dtls) };
        COOKIE.set(Some(cookie));
        let begun = session.handle_datagram(now, &first).and_then(|()| {
            session.pass_over(asked.as_ref().map(HelloRetryRequest::as_bytes))?;
            session.handle_datagram(now, datagram)
        });
        COOKIE.set(None);
        begun.map(|()| session)
    }
}

/// A session with one client or server. After each call, [`Session::poll_output`] until it says to wait; after an error, drop it.
pub struct Session {
    pub(super) dtls: Box<Dtls>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

impl Session {
    /// A datagram of the other side's. What is not of this session in it is passed over.
    pub fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) -> Result<(), SessionError> {
        self.call(|dtls| {
            dtls.handle_timeout(now)?;
            dtls.handle_packet(datagram)
        })
    }

    /// The time of [`Output::Wait`] has come.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), SessionError> {
        self.call(|dtls| dtls.handle_timeout(now))
    }

    /// Data for the other side, once the session is established: one record, one datagram.
    pub fn send(&mut self, data: &[u8]) -> Result<(), SessionError> {
        if data.len() > MAX_DATA_LEN {
            return Err(SessionError::TooLong);
        }
        self.call(|dtls| dtls.send_application_data(data).map(|_| ()))
    }

    /// Tells the other side that this is the end.
    pub fn close(&mut self) -> Result<(), SessionError> {
        self.call(Dtls::close)
    }

    /// What to do next. `buffer` has room for any datagram.
    pub fn poll_output<'a>(&mut self, buffer: &'a mut [u8]) -> Result<Output<'a>, SessionError> {
        let output = guarded(|| self.dtls.poll_output(buffer))?;
        Ok(match output {
            dimpl::Output::Packet(datagram) => Output::Transmit(datagram),
            dimpl::Output::Connected => Output::Established,
            dimpl::Output::PeerCert(certificate) => Output::Certificate(certificate),
            dimpl::Output::ApplicationData(data) => Output::Data(data),
            dimpl::Output::CloseNotify => Output::Closed,
            dimpl::Output::Timeout(at) => Output::Wait(at),
            dimpl::Output::BufferTooSmall { needed } => {
                return Err(SessionError::Failed(format!("a buffer of {needed} bytes is needed")));
            }
            // Keys for SRTP, which nobody asked for.
            _ => Output::Nothing,
        })
    }

    /// Throws away what asks the client for its cookie; `asked` is what it was asked with, if that matters.
    fn pass_over(&mut self, asked: Option<&[u8]>) -> Result<(), SessionError> {
        let mut buffer = [0; HANDSHAKE_MTU];
        loop {
            match (self.poll_output(&mut buffer)?, asked) {
                (Output::Wait(_), _) => return Ok(()),
                (Output::Transmit(request), Some(asked)) if request != asked => {
                    return Err(SessionError::Astray);
                }
                _ => {}
            }
        }
    }

    fn call(&mut self, act: impl FnOnce(&mut Dtls) -> Result<(), dimpl::Error>) -> Result<(), SessionError> {
        guarded(|| act(&mut self.dtls))?.map_err(|error| SessionError::Failed(error.to_string()))
    }
}

/// A fault in the library ends the session whose packet met it, not all that its thread serves.
pub(super) fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, SessionError> {
    // After a panic the session is dropped, so nobody sees what it left half done.
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| SessionError::Panicked)
}

thread_local! {
    /// The cookie that a session which begins on this thread takes for its own.
    static COOKIE: Cell<Option<[u8; 32]>> = const { Cell::new(None) };
}

/// HMAC as ever, but that `hmac_sha256`, with which `dimpl` makes cookies and nothing else, answers [`COOKIE`] while a
/// session begins.
#[derive(Debug)]
struct CookieIsOurs;

impl HmacProvider for CookieIsOurs {
    fn hmac_sha256(&self, key: &[u8], data: &[u8]) -> Result<[u8; 32], CryptoError> {
        match COOKIE.get() {
            Some(cookie) => Ok(cookie),
            None => aws_lc_rs::default_provider().hmac_provider.hmac_sha256(key, data),
        }
    }

    fn hmac(
        &self,
        hash: HashAlgorithm,
        key: &[u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, CryptoError> {
        aws_lc_rs::default_provider().hmac_provider.hmac(hash, key, data, out)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Answer, Cookies};
    use super::*;
    use crate::net::{ClientAddr, FiveTuple, ServerAddr, Transport};
    use crate::tls::Identity;
    use dimpl::ProtocolVersion;

    #[expect(clippy::disallowed_methods, reason = "any origin will do")]
    fn now() -> Instant {
        Instant::now()
    }

    /// A client of `dimpl`'s.
    struct Client {
        dtls: Dtls,
        sent: Vec<Vec<u8>>,
        received: Vec<Vec<u8>>,
        established: bool,
    }

    /// What a client of `dimpl`'s offers: 1.2 alone, 1.3 alone, or both.
    type Offer = fn(Arc<Config>, DtlsCertificate, Instant) -> Dtls;
    const OFFERS: [(Offer, ProtocolVersion); 3] = [
        (Dtls::new_12, ProtocolVersion::DTLS1_2),
        (Dtls::new_13, ProtocolVersion::DTLS1_3),
        (Dtls::new_auto, ProtocolVersion::DTLS1_3),
    ];

    impl Client {
        fn new(now: Instant, offer: Offer) -> Client {
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
            let certificate =
                DtlsCertificate { certificate: certificate.der().to_vec(), private_key: key.serialize_der() };
            let mut dtls = offer(Arc::new(Config::default()), certificate, now);
            dtls.set_active(true);
            let mut client = Client { dtls, sent: Vec::new(), received: Vec::new(), established: false };
            client.dtls.handle_timeout(now).unwrap();
            client.poll();
            client
        }

        fn handle(&mut self, datagram: &[u8]) {
            self.dtls.handle_packet(datagram).unwrap();
            self.poll();
        }

        fn poll(&mut self) {
            let mut buffer = vec![0; 1 << 16];
            loop {
                match self.dtls.poll_output(&mut buffer) {
                    dimpl::Output::Packet(packet) => self.sent.push(packet.to_vec()),
                    dimpl::Output::ApplicationData(data) => self.received.push(data.to_vec()),
                    dimpl::Output::Connected => self.established = true,
                    dimpl::Output::Timeout(_) => return,
                    _ => {}
                }
            }
        }
    }

    fn five_tuple() -> FiveTuple {
        let (client, server) = ("198.51.100.1:5000".parse().unwrap(), "192.0.2.1:3478".parse().unwrap());
        FiveTuple { transport: Transport::Dtls, client: ClientAddr(client), server: ServerAddr(server) }
    }

    /// Lets both talk until neither has anything to say; what the client said, and whether it closed.
    fn talk(now: Instant, client: &mut Client, session: &mut Session) -> (Vec<Vec<u8>>, bool) {
        let (mut said, mut closed) = (Vec::new(), false);
        let mut buffer = vec![0; 1 << 16];
        loop {
            for datagram in std::mem::take(&mut client.sent) {
                session.handle_datagram(now, &datagram).unwrap();
            }
            let mut quiet = true;
            loop {
                match session.poll_output(&mut buffer).unwrap() {
                    Output::Transmit(datagram) => {
                        quiet = false;
                        client.handle(datagram);
                    }
                    Output::Data(data) => said.push(data.to_vec()),
                    Output::Closed => closed = true,
                    Output::Wait(_) => break,
                    Output::Established | Output::Certificate(_) | Output::Nothing => {}
                }
            }
            if quiet && client.sent.is_empty() {
                return (said, closed);
            }
        }
    }

    fn begin(now: Instant, offer: Offer) -> (Client, Session) {
        let (certificate, key) = crate::tls::testing::pem(&rcgen::PKCS_ECDSA_P256_SHA256, (2020, 2030));
        let identity = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
        let cookies = Cookies::new(&[1; 32]);
        let mut client = Client::new(now, offer);
        let first = client.sent.remove(0);
        let answer = cookies.answer(0, &five_tuple(), &ClientHello::parse(&first).unwrap());
        assert!(matches!(answer, Answer::Verify(_) | Answer::Retry(_)), "it has no cookie");
        let request = answer.datagram().unwrap();
        assert!(request.len() < first.len(), "no amplification");
        client.handle(request);
        let second = client.sent.remove(0);
        let hello = ClientHello::parse(&second).unwrap();
        assert_eq!(cookies.answer(0, &five_tuple(), &hello), Answer::Verified);
        let session = identity.dtls().unwrap().accept(now, &hello, &second).unwrap();
        (client, session)
    }

    #[test]
    fn a_handshake_goes_on_where_the_cookie_exchange_ended() {
        OFFERS.into_iter().for_each(|(offer, version)| goes_on(offer, version));
    }

    fn goes_on(offer: Offer, version: ProtocolVersion) {
        let now = now();
        let (mut client, mut session) = begin(now, offer);
        talk(now, &mut client, &mut session);
        assert!(client.established);
        assert_eq!(client.dtls.protocol_version(), Some(version));
        client.dtls.send_application_data(b"ping").unwrap();
        client.poll();
        assert_eq!(talk(now, &mut client, &mut session).0, [b"ping"]);
        session.send(b"pong").unwrap();
        session.send(&[7; 1400]).unwrap();
        talk(now, &mut client, &mut session);
        assert_eq!(client.received, [b"pong".to_vec(), vec![7; 1400]]);
        assert_eq!(session.send(&vec![0; MAX_DATA_LEN + 1]), Err(SessionError::TooLong));
        client.dtls.close().unwrap();
        client.poll();
        assert!(talk(now, &mut client, &mut session).1);
    }

    #[test]
    fn garbage_does_not_end_a_session() {
        OFFERS.into_iter().for_each(|(offer, _)| outlives_garbage(offer));
    }

    fn outlives_garbage(offer: Offer) {
        let now = now();
        let (mut client, mut session) = begin(now, offer);
        talk(now, &mut client, &mut session);
        for len in 0..200u8 {
            let garbage: Vec<u8> = (0..len).map(|byte| 20 + byte.wrapping_mul(len) % 44).collect();
            session.handle_datagram(now, &garbage).unwrap();
        }
        client.dtls.send_application_data(b"still here").unwrap();
        client.poll();
        let sent = client.sent.clone();
        assert_eq!(talk(now, &mut client, &mut session).0, [b"still here"]);
        client.sent = sent;
        assert!(talk(now, &mut client, &mut session).0.is_empty(), "a replay says nothing");
    }

    #[test]
    fn a_handshake_is_repeated_and_then_given_up() {
        OFFERS.into_iter().for_each(|(offer, _)| is_given_up(offer));
    }

    fn is_given_up(offer: Offer) {
        let begun = now();
        let (_client, mut session) = begin(begun, offer);
        let mut buffer = vec![0; 1 << 16];
        let mut at = begun;
        let mut flights = 0;
        let given_up = loop {
            match session.poll_output(&mut buffer) {
                Ok(Output::Transmit(_)) => flights += 1,
                Ok(Output::Wait(until)) => {
                    at = until;
                    if let Err(error) = session.handle_timeout(at) {
                        break error;
                    }
                }
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(
            matches!(given_up, SessionError::Failed(_)) && flights >= 3,
            "{given_up}, {flights} datagrams"
        );
        assert!(at <= begun + HANDSHAKE_TIMEOUT);
    }
}
