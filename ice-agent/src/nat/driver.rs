//! Runs the diagnosis on real sockets, both families at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use rand::TryRngCore;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use thirl_common::io::{Fragmentation, local_address_towards, report_errors, set_fragmentation, take_error};
use thirl_common::net::{Nat64Prefix, Obstacle, Transmit, Transport, Undelivered};
use thirl_common::wire::{FrameLen, frame_len};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::diagnosis::{Diagnosis, Event, Options};
use super::gateway::{GatewayReport, GatewayTest};
use super::probe::{Action, SocketId, Travel};
use super::report::{FamilyReport, Report};
use crate::port_mapping::driver::{PortMappings, default_gateway};

/// What arrives and is not taken is dropped, as a kernel would.
const QUEUE: usize = 256;

/// An answer is not longer: bytes.
const MAX_FRAME: usize = 2048;

/// So much shorter than that of IPv6 is an IPv4 header, bytes (RFC 7915, section 1.2).
const SHORTER_HEADER: u32 = 20;

/// The diagnosis could not begin: this machine's fault, not the network's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiagnoseError {
    /// The system gave no randomness.
    #[error("the system's random number generator fails: {0}")]
    Random(#[from] rand::rand_core::OsError),
}

/// Asks `servers`, each in its own family. Takes some three seconds, with [`Options::lifetime`] minutes; `progress` is
/// told what is waited for. Without IPv4 on this machine, IPv4 servers are asked through [`Options::nat64`]. When `stop`
/// turns true or its sender is gone, it ends with what was found so far.
pub async fn diagnose(
    servers: &[SocketAddr],
    options: Options,
    progress: impl Fn(Event),
    stop: &watch::Receiver<bool>,
) -> Result<Report, DiagnoseError> {
    let mut seeds = [[0; 32]; 2];
    seeds.iter_mut().try_for_each(|seed| rand::rngs::OsRng.try_fill_bytes(seed))?;
    // What DNS64 made of an IPv4 server is that server.
    let own = |addr: &SocketAddr| options.nat64.map_or(*addr, |prefix| prefix.to_ipv4(*addr));
    let servers: BTreeSet<_> = servers.iter().map(own).collect();
    let of_family =
        |ipv4: bool| servers.iter().copied().filter(|addr| addr.is_ipv4() == ipv4).collect::<Vec<_>>();
    let (ipv4, ipv6) = (of_family(true), of_family(false));
    let (ipv4, ipv6) = tokio::join!(
        family(&ipv4, options, seeds[0], &progress, stop.clone()),
        family(&ipv6, options, seeds[1], &progress, stop.clone())
    );
    Ok(Report::new(ipv4, ipv6))
}

async fn family(
    servers: &[SocketAddr],
    options: Options,
    seed: [u8; 32],
    progress: &impl Fn(Event),
    mut stop: watch::Receiver<bool>,
) -> FamilyReport {
    let Some(first) = servers.first() else {
        return FamilyReport::unavailable("no server with an address of this family");
    };
    let (local_ip, nat64) = match route(*first, options.nat64) {
        Ok(route) => route,
        Err(error) => return FamilyReport::unavailable(&format!("not available on this machine: {error}")),
    };
    let diagnosis = Diagnosis::new(now(), servers, options, seed);
    let sockets = Sockets::new(local_ip, nat64);
    let mut stopped = stop.clone();
    let gateway = async {
        if nat64.is_some() {
            return GatewayReport::unknown("IPv4 is reached through NAT64");
        }
        tokio::select! {
            gateway = ask_gateway(local_ip, options.gateway) => gateway,
            // A port that was opened closes by itself when its short lifetime is over.
            _ = stopped.wait_for(|stop| *stop) => GatewayReport::unknown("stopped before the gateway had answered"),
        }
    };
    let (report, gateway) = tokio::join!(measure(diagnosis, sockets, nat64, progress, &mut stop), gateway);
    FamilyReport { gateway, ..report }
}

/// What the gateway offers, at the time at which all else is measured.
async fn ask_gateway(local_ip: IpAddr, gateway: Option<IpAddr>) -> GatewayReport {
    let named = gateway.filter(|gateway| gateway.is_ipv4() == local_ip.is_ipv4());
    let gateway = named.map(|ip| SocketAddr::new(ip, 0)).or_else(|| default_gateway(local_ip.is_ipv4()));
    let Some(gateway) = gateway else { return GatewayReport::unknown("no default gateway is known") };
    let bound = PortMappings::bind(gateway, local_ip).and_then(|mappings| {
        let socket = || std::net::UdpSocket::bind((local_ip, 0));
        Ok((mappings, [socket()?, socket()?, socket()?]))
    });
    let (mut mappings, sockets) = match bound {
        Ok(bound) => bound,
        Err(error) => return GatewayReport::unknown(&format!("the gateway cannot be asked: {error}")),
    };
    let ports = sockets.each_ref().map(|socket| socket.local_addr().map_or(0, |addr| addr.port()));
    let (mapper, begin) = mappings.mapper();
    let mut test = GatewayTest::begin(begin, mapper, ports);
    while !test.is_over() {
        let event = mappings.next_event().await;
        let (mapper, now) = mappings.mapper();
        test.handle_event(now, mapper, &event);
    }
    test.report()
}

async fn measure(
    mut diagnosis: Diagnosis,
    mut sockets: Sockets,
    nat64: Option<Nat64Prefix>,
    progress: &impl Fn(Event),
    stop: &mut watch::Receiver<bool>,
) -> FamilyReport {
    while !diagnosis.is_over() {
        while let Some(action) = diagnosis.poll_action() {
            match action {
                Action::Bind { socket, transport } => {
                    let bound = sockets.bind(socket, transport).map_err(|error| error.to_string());
                    diagnosis.socket_bound(now(), socket, bound);
                }
                Action::Travel { socket, travel } => sockets.travel(socket, travel),
                Action::Close { socket } => sockets.close(socket),
            }
        }
        while let Some(transmit) = diagnosis.poll_transmit() {
            sockets.send(transmit).await;
        }
        while let Some(event) = diagnosis.poll_event() {
            progress(event);
        }
        let Some(deadline) = diagnosis.poll_timeout() else { continue };
        tokio::select! {
            Some(arrival) = sockets.arrivals.recv() => handle(&mut diagnosis, arrival.untranslated(nat64)),
            () = tokio::time::sleep_until(deadline.into()) => diagnosis.handle_timeout(now()),
            _ = stop.wait_for(|stop| *stop) => diagnosis.stop(),
        }
    }
    diagnosis.report()
}

/// The address that packets to a server leave from, and the prefix under which it is reached if that takes NAT64.
fn route(server: SocketAddr, nat64: Option<Nat64Prefix>) -> io::Result<(IpAddr, Option<Nat64Prefix>)> {
    let direct = local_address_towards(server).map(|local_ip| (local_ip, None));
    let through =
        |prefix: Nat64Prefix| Some((local_address_towards(prefix.to_ipv6(server)).ok()?, Some(prefix)));
    direct.or_else(|error| nat64.filter(|_| server.is_ipv4()).and_then(through).ok_or(error))
}

fn handle(diagnosis: &mut Diagnosis, arrival: Arrival) {
    let Arrival { transport, local, from, what } = arrival;
    match what {
        What::Bytes(bytes) => diagnosis.handle_datagram(now(), transport, local, from, &bytes),
        What::Undelivered(error) => diagnosis.handle_undelivered(now(), local, &error),
        What::Connected => diagnosis.stream_connected(now(), local, from),
        What::Failed(reason) => diagnosis.stream_failed(now(), local, from, &reason),
    }
}

/// What came, where to and from whom.
struct Arrival {
    transport: Transport,
    local: SocketAddr,
    from: SocketAddr,
    what: What,
}

impl Arrival {
    /// As if it had come from the destination that the diagnosis sent to, and not through NAT64.
    fn untranslated(mut self, nat64: Option<Nat64Prefix>) -> Arrival {
        let Some(prefix) = nat64 else { return self };
        self.from = prefix.to_ipv4(self.from);
        if let What::Undelivered(error) = &mut self.what {
            error.to = prefix.to_ipv4(error.to);
            error.reporter = error.reporter.map(|ip| prefix.to_ipv4(SocketAddr::new(ip, 0)).ip());
            if let Obstacle::TooBig { mtu } = &mut error.obstacle {
                *mtu = mtu.saturating_sub(SHORTER_HEADER);
            }
        }
        self
    }
}

enum What {
    Bytes(Vec<u8>),
    Undelivered(Undelivered),
    Connected,
    Failed(String),
}

struct Sockets {
    local_ip: IpAddr,
    /// All destinations are reached under it, if there is one; the diagnosis knows them by their own addresses.
    nat64: Option<Nat64Prefix>,
    open: BTreeMap<SocketId, Open>,
    /// They end with this.
    tasks: JoinSet<()>,
    sender: mpsc::Sender<Arrival>,
    arrivals: mpsc::Receiver<Arrival>,
}

struct Open {
    local: SocketAddr,
    kind: Kind,
    tasks: Vec<AbortHandle>,
}

enum Kind {
    Udp(Arc<UdpSocket>),
    /// Holds the port.
    Tcp {
        _reserved: Socket,
    },
}

impl Sockets {
    fn new(local_ip: IpAddr, nat64: Option<Nat64Prefix>) -> Sockets {
        let (sender, arrivals) = mpsc::channel(QUEUE);
        Sockets { local_ip, nat64, open: BTreeMap::new(), tasks: JoinSet::new(), sender, arrivals }
    }

    /// The address that packets leave from: servers on other routes are answered from other addresses all the same.
    fn bind(&mut self, id: SocketId, transport: Transport) -> io::Result<SocketAddr> {
        let any = SocketAddr::new(unspecified(self.local_ip), 0);
        let (port, kind, tasks) = if transport.is_reliable() {
            let reserved = Socket::new(Domain::for_address(any), Type::STREAM, Some(Protocol::TCP))?;
            reserved.set_reuse_address(true)?;
            reserved.bind(&any.into())?;
            let port = reserved.local_addr()?.as_socket().map_or(0, |addr| addr.port());
            (port, Kind::Tcp { _reserved: reserved }, Vec::new())
        } else {
            let socket = std::net::UdpSocket::bind(any)?;
            socket.set_nonblocking(true)?;
            let socket = Arc::new(UdpSocket::from_std(socket)?);
            let port = socket.local_addr()?.port();
            let local = SocketAddr::new(self.local_ip, port);
            let task = self.tasks.spawn(receive(Arc::clone(&socket), local, self.sender.clone()));
            (port, Kind::Udp(socket), vec![task])
        };
        let local = SocketAddr::new(self.local_ip, port);
        self.open.insert(id, Open { local, kind, tasks });
        Ok(local)
    }

    /// Where the system cannot do it, nothing of its kind is measured: no errors come, or no larger packet passes.
    fn travel(&mut self, id: SocketId, travel: Travel) {
        let Some(Open { local, kind: Kind::Udp(socket), tasks }) = self.open.get_mut(&id) else { return };
        if let Err(error) = set_travel(socket, local.is_ipv4(), travel) {
            tracing::debug!(%error, ?travel, "a socket option is refused");
        }
        tasks.push(self.tasks.spawn(listen_to_errors(Arc::clone(socket), *local, self.sender.clone())));
    }

    fn close(&mut self, id: SocketId) {
        let Some(open) = self.open.remove(&id) else { return };
        open.tasks.iter().for_each(AbortHandle::abort);
    }

    async fn send(&mut self, transmit: Transmit) {
        let reliable = transmit.transport.is_reliable();
        let ours = |open: &&mut Open| {
            open.local == transmit.from && matches!(open.kind, Kind::Tcp { .. }) == reliable
        };
        let Some(open) = self.open.values_mut().find(ours) else { return };
        let to = self.nat64.map_or(transmit.to, |prefix| prefix.to_ipv6(transmit.to));
        match &open.kind {
            // A server that cannot be reached counts as one that does not answer.
            Kind::Udp(socket) => {
                let sent = socket.send_to(&transmit.payload, to).await;
                // An ICMP error of an earlier datagram may have taken the place of this one.
                if sent.is_err() {
                    socket.send_to(&transmit.payload, to).await.ok();
                }
            }
            Kind::Tcp { .. } => {
                open.tasks.push(self.tasks.spawn(exchange(transmit, to, self.sender.clone())));
            }
        }
    }
}

async fn receive(socket: Arc<UdpSocket>, local: SocketAddr, arrivals: mpsc::Sender<Arrival>) {
    let mut buffer = [0; MAX_FRAME];
    loop {
        // An ICMP error of one destination surfaces here; the others may still answer.
        let Ok((len, from)) = socket.recv_from(&mut buffer).await else { continue };
        let what = What::Bytes(buffer[..len].to_vec());
        if arrivals.send(Arrival { transport: Transport::Udp, local, from, what }).await.is_err() {
            return;
        }
    }
}

fn set_travel(socket: &UdpSocket, ipv4: bool, travel: Travel) -> io::Result<()> {
    /// What Linux sends with.
    const USUAL_HOP_LIMIT: u32 = 64;
    report_errors(socket.as_fd(), ipv4)?;
    let set_hops = |hops| match ipv4 {
        true => SockRef::from(socket).set_ttl_v4(hops),
        false => SockRef::from(socket).set_unicast_hops_v6(hops),
    };
    match travel {
        Travel::Hops(hops) => set_hops(hops.into()),
        Travel::AnyDistance => set_hops(USUAL_HOP_LIMIT),
        Travel::Whole => set_fragmentation(socket.as_fd(), ipv4, Fragmentation::Never),
        Travel::InFragments => set_fragmentation(socket.as_fd(), ipv4, Fragmentation::Allowed),
    }
}

async fn listen_to_errors(socket: Arc<UdpSocket>, local: SocketAddr, arrivals: mpsc::Sender<Arrival>) {
    while let Ok(error) = socket.async_io(Interest::ERROR, || take_error(socket.as_fd())).await {
        let from = error.to;
        let arrival = Arrival { transport: Transport::Udp, local, from, what: What::Undelivered(error) };
        if arrivals.send(arrival).await.is_err() {
            return;
        }
    }
}

/// One request over a connection of its own, to where the destination is reached.
async fn exchange(transmit: Transmit, to: SocketAddr, arrivals: mpsc::Sender<Arrival>) {
    let Transmit { transport, from: local, to: from, payload } = transmit;
    let arrival = |what| Arrival { transport, local, from, what };
    let answer = async {
        let mut stream = connect(local, to).await?;
        arrivals.send(arrival(What::Connected)).await.ok();
        stream.write_all(&payload).await?;
        read_frame(&mut stream).await.map(|frame| (frame, stream))
    };
    match answer.await {
        Ok((frame, stream)) => {
            arrivals.send(arrival(What::Bytes(frame))).await.ok();
            // Open until the test is over: a closed connection's port may be mapped anew.
            std::future::pending::<()>().await;
            drop(stream);
        }
        Err(error) => {
            arrivals.send(arrival(What::Failed(error.to_string()))).await.ok();
        }
    }
}

async fn connect(local: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(unspecified(local.ip()), local.port()))?;
    socket.connect(to).await
}

pub(super) async fn read_frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut buffer = Vec::new();
    loop {
        if let FrameLen::Complete { frame, .. } = frame_len(&buffer).map_err(io::Error::other)? {
            buffer.truncate(frame);
            return Ok(buffer);
        }
        if buffer.len() > MAX_FRAME {
            return Err(io::Error::other("the answer is no STUN message"));
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

#[expect(clippy::disallowed_methods, reason = "a driver reads the clock")]
fn now() -> Instant {
    Instant::now()
}
