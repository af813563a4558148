//! A TURN client with one allocation and one peer, to see that what was begun goes on.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use thirl_common::auth::LongTermKey;
use thirl_common::wire::{
    ChannelNumber, Class, ErrorCode, IntegrityAlgorithm, Lifetime, Message, MessageWriter, Method, Nonce,
    Realm, RequestedTransport, TransactionId, Username, XorPeerAddress, XorRelayedAddress,
};

/// How long an answer on loopback may take.
const PATIENCE: Duration = Duration::from_secs(20);

const CHANNEL: ChannelNumber = ChannelNumber::MIN;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    /// Username.
    pub username: &'a str,
    /// Password.
    pub password: &'a str,
}

/// An allocation by UDP on loopback, with a channel to a peer that the client has too.
#[derive(Debug)]
pub struct Allocation {
    socket: UdpSocket,
    peer: UdpSocket,
    relayed: SocketAddr,
    key: Option<LongTermKey>,
    username: String,
    realm: String,
    nonce: String,
    transactions: u32,
}

impl Allocation {
    /// Asks for one. Inside: the error code if it is refused.
    ///
    /// # Errors
    /// Those of the sockets: the server does not answer.
    pub fn new(server: SocketAddr, login: Login<'_>) -> io::Result<Result<Allocation, u16>> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        peer.set_read_timeout(Some(PATIENCE))?;
        let mut client = Allocation {
            socket,
            peer,
            relayed: server,
            key: None,
            username: login.username.to_owned(),
            realm: String::new(),
            nonce: String::new(),
            transactions: 0,
        };
        let ask = |client: &mut Allocation| {
            client.request(Method::ALLOCATE, |writer| {
                let _ = writer.attribute(&RequestedTransport::UDP);
            })
        };
        let challenge = ask(&mut client)?;
        let message = parse(&challenge)?;
        client.realm = message.require::<Realm<'_>>().map_err(io::Error::other)?.0.to_owned();
        client.nonce = message.require::<Nonce<'_>>().map_err(io::Error::other)?.0.to_owned();
        client.key = Some(LongTermKey::new(login.username, &client.realm, login.password));
        let response = ask(&mut client)?;
        let message = parse(&response)?;
        if let Some(code) = code(&message) {
            return Ok(Err(code));
        }
        client.relayed = message.require::<XorRelayedAddress>().map_err(io::Error::other)?.0;
        let peer = client.peer.local_addr()?;
        let bound = client.request(Method::CHANNEL_BIND, |writer| {
            let _ = writer.attribute(&CHANNEL).and_then(|writer| writer.attribute(&XorPeerAddress(peer)));
        })?;
        Ok(code(&parse(&bound)?).map_or(Ok(client), Err))
    }

    /// The relayed transport address.
    pub fn relayed(&self) -> SocketAddr {
        self.relayed
    }

    /// Sends to the peer and back again.
    ///
    /// # Errors
    /// If it does not arrive.
    pub fn echo(&mut self) -> io::Result<()> {
        self.transactions += 1;
        let data = self.transactions.to_be_bytes();
        let mut framed = CHANNEL.get().to_be_bytes().to_vec();
        framed.extend([0, 4]);
        framed.extend(data);
        self.socket.send(&framed)?;
        let mut buffer = [0; 64];
        let (len, from) = self.peer.recv_from(&mut buffer)?;
        if (buffer.get(..len), from) != (Some(&data[..]), self.relayed) {
            return Err(io::Error::other("the peer got something else"));
        }
        self.peer.send_to(&data, from)?;
        let len = self.socket.recv(&mut buffer)?;
        if buffer.get(..len) == Some(&framed[..]) {
            Ok(())
        } else {
            Err(io::Error::other("not what was sent"))
        }
    }

    /// Whether something sent to the peer arrives before something that is sent past the server right after it.
    pub fn try_echo(&mut self) -> bool {
        let after = [0xFF; 8];
        let sent = self.peer.local_addr().and_then(|peer| {
            self.transactions += 1;
            let [high, low] = CHANNEL.get().to_be_bytes();
            let data = self.transactions.to_be_bytes();
            self.socket.send(&[&[high, low, 0, 4], &data[..]].concat())?;
            // An answer comes after the server has dealt with the data.
            let _ = self.refresh(600)?;
            UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.send_to(&after, peer)
        });
        let mut buffer = [0; 64];
        let received = sent.and_then(|_| self.peer.recv(&mut buffer));
        let arrived = received.is_ok_and(|len| len == 4);
        if arrived {
            let _ = self.peer.recv(&mut buffer);
        }
        arrived
    }

    /// Refreshes it for `seconds`, and returns the error code if it is refused. 0 ends it.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn refresh(&mut self, seconds: u32) -> io::Result<Result<(), u16>> {
        let response = self.request(Method::REFRESH, |writer| {
            let _ = writer.attribute(&Lifetime(seconds));
        })?;
        Ok(code(&parse(&response)?).map_or(Ok(()), Err))
    }

    /// Asks for a permission for another peer, and returns the error code if it is refused.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn permit(&mut self, peer: SocketAddr) -> io::Result<Result<(), u16>> {
        let response = self.request(Method::CREATE_PERMISSION, |writer| {
            let _ = writer.attribute(&XorPeerAddress(peer));
        })?;
        Ok(code(&parse(&response)?).map_or(Ok(()), Err))
    }

    fn request(&mut self, method: Method, write: impl FnOnce(&mut MessageWriter<'_>)) -> io::Result<Vec<u8>> {
        self.transactions += 1;
        let mut id = TransactionId([0; 12]);
        id.0[..4].copy_from_slice(&self.transactions.to_be_bytes());
        let mut buffer = [0; 512];
        let mut writer =
            MessageWriter::new(&mut buffer, Class::Request, method, id).map_err(io::Error::other)?;
        write(&mut writer);
        if let Some(key) = &self.key {
            let login = writer
                .attribute(&Username(&self.username))
                .and_then(|writer| writer.attribute(&Realm(&self.realm)))
                .and_then(|writer| writer.attribute(&Nonce(&self.nonce)));
            login
                .and_then(|writer| writer.integrity(IntegrityAlgorithm::Sha1, &key.integrity_key()))
                .map_err(io::Error::other)?;
        }
        self.socket.send(writer.finish())?;
        let mut response = vec![0; 1500];
        let len = self.socket.recv(&mut response)?;
        response.truncate(len);
        Ok(response)
    }
}

fn parse(response: &[u8]) -> io::Result<Message<'_>> {
    Message::parse(response).map_err(io::Error::other)
}

fn code(message: &Message<'_>) -> Option<u16> {
    message.get::<ErrorCode<'_>>().ok().flatten().map(|error| error.code)
}
