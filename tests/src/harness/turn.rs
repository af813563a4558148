//! A TURN client of which a test decides every byte. It knows no timers and repeats nothing: loopback loses nothing, and a
//! test that expects no answer asks something else afterwards.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use rand::RngCore as _;
use thirl_common::auth::LongTermKey;
use thirl_common::wire::{
    Class, Data, ErrorCode, IntegrityAlgorithm, Lifetime, Message, MessageWriter, Method, Nonce, Realm,
    RequestedTransport, TransactionId, Username, XorPeerAddress, XorRelayedAddress,
};

/// How long a server on a busy machine may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who a client says it is, and what the server wants signed.
#[derive(Clone, Debug, Default)]
pub struct Login {
    /// USERNAME.
    pub username: String,
    /// Never sent.
    pub password: String,
    /// REALM.
    pub realm: String,
    /// NONCE.
    pub nonce: String,
}

impl Login {
    /// A signed request with what `write` puts before the credentials.
    pub fn sign(&self, method: Method, write: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
        message(Class::Request, method, |writer| {
            write(writer);
            let key = LongTermKey::new(&self.username, &self.realm, &self.password).integrity_key();
            let signed = writer
                .attribute(&Username(&self.username))
                .and_then(|writer| writer.attribute(&Realm(&self.realm)))
                .and_then(|writer| writer.attribute(&Nonce(&self.nonce)))
                .and_then(|writer| writer.integrity(IntegrityAlgorithm::Sha1, &key));
            drop(signed);
        })
    }
}

/// A message with a new transaction id and what `write` puts into it.
pub fn message(class: Class, method: Method, write: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
    let mut id = [0; 12];
    rand::rng().fill_bytes(&mut id);
    let mut buffer = [0; 2048];
    let Ok(mut writer) = MessageWriter::new(&mut buffer, class, method, TransactionId(id)) else {
        return Vec::new();
    };
    write(&mut writer);
    writer.finish().to_vec()
}

/// A Send indication (RFC 8656, section 11).
pub fn send_indication(to: SocketAddr, data: &[u8]) -> Vec<u8> {
    message(Class::Indication, Method::SEND, |writer| {
        drop(writer.attribute(&XorPeerAddress(to)));
        drop(writer.attribute(&Data(data)));
    })
}

/// A request of somebody who has no credentials.
pub fn stranger(method: Method, write: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
    message(Class::Request, method, write)
}

/// The error code of a response; 0 for a success.
pub fn code(response: &[u8]) -> u16 {
    match Message::parse(response) {
        Ok(message) if message.class() == Class::Success => 0,
        Ok(message) => message.require::<ErrorCode<'_>>().map_or(u16::MAX, |error| error.code),
        Err(_) => u16::MAX,
    }
}

/// A client at a UDP socket of its own.
#[derive(Debug)]
pub struct RawClient {
    /// Connected to the server.
    pub socket: UdpSocket,
    /// What it signs with.
    pub login: Login,
}

impl RawClient {
    /// At any port of an address.
    ///
    /// # Errors
    /// Those of the socket calls.
    pub fn new(ip: IpAddr, server: SocketAddr, username: &str, password: &str) -> io::Result<RawClient> {
        let socket = UdpSocket::bind((ip, 0))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let login =
            Login { username: username.to_owned(), password: password.to_owned(), ..Login::default() };
        Ok(RawClient { socket, login })
    }

    /// Sends.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send(&self, datagram: &[u8]) -> io::Result<()> {
        // Loopback has no room for a moment: what is sent next is meant to arrive too.
        self.socket.send(datagram).map(drop)
    }

    /// What comes next.
    ///
    /// # Errors
    /// If nothing does.
    pub fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; 65536];
        let len = self.socket.recv(&mut buffer)?;
        buffer.truncate(len);
        Ok(buffer)
    }

    /// Sends a request and waits for its response, past everything else that comes.
    ///
    /// # Errors
    /// If none comes.
    pub fn ask(&self, request: &[u8]) -> io::Result<Vec<u8>> {
        self.send(request)?;
        loop {
            let response = self.receive()?;
            if response.get(4..20) == request.get(4..20) {
                return Ok(response);
            }
        }
    }

    /// All that comes as an answer to this datagram, which may be nothing. The answer to another request marks the end: a
    /// server handles in their order the requests of one client that it need not look up a user for.
    ///
    /// # Errors
    /// If the server is silent for ever.
    pub fn answers(&self, datagram: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.send(datagram)?;
        let end = stranger(Method::REFRESH, |_| {});
        self.send(&end)?;
        let mut all = Vec::new();
        loop {
            let received = self.receive()?;
            if received.get(4..20) == end.get(4..20) {
                return Ok(all);
            }
            all.push(received);
        }
    }

    /// Takes realm and nonce of a challenge.
    ///
    /// # Errors
    /// If none comes.
    pub fn log_in(&mut self) -> io::Result<()> {
        let request = stranger(Method::ALLOCATE, |writer| drop(writer.attribute(&RequestedTransport::UDP)));
        let response = self.ask(&request)?;
        let message = Message::parse(&response).map_err(io::Error::other)?;
        message.require::<Realm<'_>>().map_err(io::Error::other)?.0.clone_into(&mut self.login.realm);
        message.require::<Nonce<'_>>().map_err(io::Error::other)?.0.clone_into(&mut self.login.nonce);
        Ok(())
    }

    /// The code with which a signed request is answered; 0 for a success.
    ///
    /// # Errors
    /// If no answer comes.
    pub fn request(&self, method: Method, write: impl FnOnce(&mut MessageWriter<'_>)) -> io::Result<u16> {
        Ok(code(&self.ask(&self.login.sign(method, write))?))
    }

    /// Makes an allocation, with this lifetime; its relayed transport address.
    ///
    /// # Errors
    /// If it is refused.
    pub fn allocate(&mut self, lifetime: u32) -> io::Result<SocketAddr> {
        self.log_in()?;
        let request = self.login.sign(Method::ALLOCATE, |writer| {
            drop(writer.attribute(&RequestedTransport::UDP));
            drop(writer.attribute(&Lifetime(lifetime)));
        });
        let response = self.ask(&request)?;
        let relayed = Message::parse(&response).ok().and_then(|it| it.get::<XorRelayedAddress>().ok()?);
        relayed.map(|it| it.0).ok_or_else(|| io::Error::other(format!("refused: {}", code(&response))))
    }

    /// Asks for a permission.
    ///
    /// # Errors
    /// If no answer comes.
    pub fn permit(&self, peer: SocketAddr) -> io::Result<u16> {
        self.request(Method::CREATE_PERMISSION, |writer| drop(writer.attribute(&XorPeerAddress(peer))))
    }
}
