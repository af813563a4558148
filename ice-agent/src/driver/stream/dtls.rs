//! DTLS 1.2 to a TURN server, whose certificate has to bear its name.

use std::sync::Arc;
use std::time::Instant;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use thirl_common::dtls::{Connector, Output, ServerCertificates, Session};
use tokio::net::UdpSocket;

use super::super::queue::Queue;
use super::super::{now, sleep_until};
use super::datagrams::{MAX_DATAGRAM, open};
use super::{Outward, Reporter, StreamEvent, Target, server_name};

/// Shakes hands, and passes datagrams on until either side closes. An error says why there is no session.
pub(super) async fn run(
    target: &Target,
    outward: &Outward,
    outgoing: &Queue,
    reporter: &Reporter,
) -> Result<(), String> {
    let name = server_name(&target.host)?;
    let verifier = outward.trust.verifier().await?;
    let socket = open(target).await.map_err(|error| error.to_string())?;
    let session = connector()?.connect(now()).map_err(|error| error.to_string())?;
    let mut connection = Connection {
        socket,
        session,
        server: Server { name, verifier, own: None, all: ServerCertificates::default() },
        established: false,
        sent: vec![0; MAX_DATAGRAM],
    };
    match connection.run(outgoing, reporter).await {
        Err(reason) if !connection.established => Err(reason),
        _ => Ok(()),
    }
}

/// As nobody in particular: servers ask for no client's certificate, but the library wants one.
fn connector() -> Result<Connector, String> {
    let key = rcgen::KeyPair::generate().map_err(|error| error.to_string())?;
    let certificate =
        rcgen::CertificateParams::default().self_signed(&key).map_err(|error| error.to_string())?;
    Connector::new(certificate.der(), &key.serialize_der()).ok_or_else(|| "no key for DTLS".to_owned())
}

struct Connection {
    socket: UdpSocket,
    session: Session,
    server: Server,
    /// The server has shown who it is.
    established: bool,
    /// Room for what the session says.
    sent: Vec<u8>,
}

/// How the time after a turn is spent.
enum Next {
    Wait(Instant),
    /// The server has said its last, or nobody listens here any more.
    End,
}

impl Connection {
    async fn run(&mut self, outgoing: &Queue, reporter: &Reporter) -> Result<(), String> {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            let Next::Wait(until) = self.turn(reporter).await? else { return Ok(()) };
            let done = tokio::select! {
                received = self.socket.recv(&mut buffer) => {
                    let len = received.map_err(|error| error.to_string())?;
                    if !self.established {
                        self.server.all.handle_datagram(&buffer[..len]);
                    }
                    self.session.handle_datagram(now(), &buffer[..len])
                }
                bytes = outgoing.pop(), if self.established => match bytes {
                    Some(bytes) => self.session.send(&bytes),
                    None => {
                        self.session.close().map_err(|error| error.to_string())?;
                        self.turn(reporter).await?;
                        return Ok(());
                    }
                },
                () = sleep_until(until) => self.session.handle_timeout(now()),
            };
            done.map_err(|error| error.to_string())?;
        }
    }

    /// Does what the session wants done.
    async fn turn(&mut self, reporter: &Reporter) -> Result<Next, String> {
        loop {
            match self.session.poll_output(&mut self.sent).map_err(|error| error.to_string())? {
                // What does not leave is lost, as any datagram may be.
                Output::Transmit(datagram) => drop(self.socket.send(datagram).await),
                Output::Certificate(own) => self.server.own = Some(own.to_vec()),
                Output::Established => {
                    self.server.verify()?;
                    self.established = true;
                    let local = self.socket.local_addr().map_err(|error| error.to_string())?;
                    reporter.connected(Ok(local)).await;
                }
                Output::Data(data) => {
                    let data = data.to_vec();
                    if self.established && !reporter.tell(StreamEvent::Frame(data)).await {
                        return Ok(Next::End);
                    }
                }
                Output::Closed => return Ok(Next::End),
                Output::Nothing => {}
                Output::Wait(until) => return Ok(Next::Wait(until)),
            }
        }
    }
}

/// Who the server is to be, and what it shows.
struct Server {
    name: ServerName<'static>,
    verifier: Arc<WebPkiServerVerifier>,
    own: Option<Vec<u8>>,
    all: ServerCertificates,
}

impl Server {
    /// Checks the certificate whose key the server has shown to have. The others only show the way to an authority.
    fn verify(&self) -> Result<(), String> {
        let own = self.own.as_ref().ok_or("the server has no certificate")?;
        let others = self.all.chain().unwrap_or_default();
        let others: Vec<_> =
            others.into_iter().filter(|other| other != own).map(CertificateDer::from).collect();
        let own = CertificateDer::from(own.as_slice());
        self.verifier
            .verify_server_cert(&own, &others, &self.name, &[], UnixTime::now())
            .map(drop)
            .map_err(|error| format!("DTLS: {error}"))
    }
}
