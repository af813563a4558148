//! Binding all sockets of all shards, starting their threads, and ending them.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use thirl_common::io::{
    BindOptions, DatagramSocket, Fragmentation, IoOptions, ListenOptions, ShardIo, StreamLimits,
    StreamListener, Technique,
};
use thirl_common::net::Transport;
use thirl_common::proxy_protocol::TrustedProxies;
use thirl_common::tls::Certificates;

use super::dtls::{self, DtlsSessions};
use super::handed::Handed;
use super::parcel::Outbox;
use super::passed::{HttpsBackend, PassedOn};
use super::proxied::Proxied;
use super::renewal::Renewal;
use super::streams::{self, Streams};
use super::ways::{Listener, Ways};
use super::{Post, SERVICE_TOKEN_LIMIT, Service, Shard};

/// How long a TLS handshake, or the header of a proxy, may take by default.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The waker's token among those that are not datagram sockets'.
const WAKER: u64 = 0;

/// Where a server listens, and with how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// UDP addresses. A wildcard address answers from the address that was asked.
    pub udp: Vec<SocketAddr>,
    /// TCP addresses.
    pub tcp: Vec<SocketAddr>,
    /// How many threads serve, each with sockets of its own. `None`: as many as the process may run at once.
    pub shards: Option<NonZeroUsize>,
    /// TCP connections at most, of all shards together, and as many DTLS sessions.
    pub max_connections: usize,
    /// How long a TCP connection or DTLS session may be of no use: no message in whole, and nothing kept for its client.
    pub idle_timeout: Duration,
    /// The bounds of a TCP connection's buffers.
    pub stream_limits: StreamLimits,
    /// TLS and DTLS, which are told from plain STUN and TURN by their first byte, so that any of these addresses takes them.
    pub secure: Option<Secure>,
    /// Who says first which client it speaks for: what comes from these addresses, by TCP and in each datagram, begins with
    /// a header of the PROXY protocol, or is not taken.
    pub proxies: TrustedProxies,
    /// How datagrams are asked of the kernel. `None`: by io_uring where it can be used, otherwise by epoll.
    pub technique: Option<Technique>,
    /// The kernel's receive and send buffers of each UDP listener in bytes, as far as it allows: what a burst may hold.
    pub socket_buffer: usize,
    /// Sockets that are there already: see [`Listen::adopt`].
    pub handed: Handed,
}

/// TLS over TCP, DTLS over UDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secure {
    /// What the server proves itself with.
    pub certificates: Certificates,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Whether it speaks DTLS.
    pub dtls: bool,
    /// Addresses to listen on besides those of [`Listen`]: by TCP for TLS, by UDP for DTLS.
    pub addrs: Vec<SocketAddr>,
    /// How long a TLS handshake may take, once it has begun. (A DTLS handshake may take 10 s.)
    pub handshake_timeout: Duration,
    /// Where a connection by TLS goes whose client offers protocols (ALPN) of which none is ours; `None`: it is refused.
    pub https_backend: Option<HttpsBackend>,
}

impl Secure {
    /// Both, with 10 s for a handshake, and no addresses of their own.
    pub fn new(certificates: Certificates) -> Secure {
        Secure {
            certificates,
            tls: true,
            dtls: true,
            addrs: Vec::new(),
            handshake_timeout: HANDSHAKE_TIMEOUT,
            https_backend: None,
        }
    }
}

impl Default for Listen {
    /// Port 3478 (RFC 8489, section 18.6) on every address of both families, by UDP and TCP.
    fn default() -> Self {
        let everywhere = vec![(Ipv4Addr::UNSPECIFIED, 3478).into(), (Ipv6Addr::UNSPECIFIED, 3478).into()];
        Listen {
            udp: everywhere.clone(),
            tcp: everywhere,
            shards: None,
            max_connections: 10_000,
            idle_timeout: Duration::from_secs(60),
            stream_limits: StreamLimits::default(),
            secure: None,
            proxies: TrustedProxies::default(),
            technique: None,
            socket_buffer: 4 << 20,
            handed: Handed::default(),
        }
    }
}

impl Listen {
    /// Listens on what a service manager has opened, if it did, and nowhere else. Each shard needs a UDP socket of its own
    /// for each address, so there are as many shards as the address with the fewest sockets has.
    pub fn adopt(&mut self, handed: Handed) {
        let Some((udp, tcp)) = handed.addrs() else { return };
        tracing::info!(?udp, ?tcp, "listening on the sockets that were handed over");
        (self.udp, self.tcp) = (udp, tcp);
        if let Some(secure) = &mut self.secure {
            secure.addrs.clear();
        }
        self.shards = handed.shards().or(self.shards);
        self.handed = handed;
    }

    /// How many shards there will be.
    pub fn shard_count(&self) -> usize {
        self.shards.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
    }
}

/// Why a server does not start. No thread was started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {transport} {addr}: {source}{}", hint(.source))]
    Bind {
        /// UDP or TCP, or what is over it.
        transport: Transport,
        /// Which address.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// There is nothing to listen on.
    #[error("no address to listen on; give at least one listening-ip")]
    NothingToListenOn,
    /// The system refused something else that is needed.
    #[error("cannot start a shard: {0}")]
    System(#[from] io::Error),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another program has it: stop that, or choose another listening-port)",
        io::ErrorKind::AddrNotAvailable => " (this host has no such address: see listening-ip)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need a privilege)",
        _ => "",
    }
}

/// Binds every socket, then starts a thread for each shard. `make` makes the services, of which it is given the shard's
/// number and what reaches the others.
pub fn start<S: Service>(
    listen: &Listen,
    mut make: impl FnMut(usize, &Post<S::Letter>) -> S,
) -> Result<Running<S>, StartError> {
    let count = listen.shard_count();
    let stop = Arc::new(AtomicBool::new(false));
    let mut addrs = Vec::new();
    let mut shards = Vec::new();
    let mut sockets = Sockets::bind(listen, count, &mut addrs)?;
    let options = IoOptions { technique: listen.technique, ..IoOptions::default() };
    let ios = (0..count).map(|_| ShardIo::new(options)).collect::<io::Result<Vec<_>>>()?;
    let wakers = ios.iter().map(|io| io.poller().waker(WAKER)).collect::<io::Result<_>>()?;
    let post = Post::new(wakers);
    for (number, mut io) in ios.into_iter().enumerate() {
        log_technique(number, &io);
        let mut listeners = Vec::new();
        for (token, (socket, addr)) in (SERVICE_TOKEN_LIMIT..).zip(sockets.udp.remove(0)) {
            listeners.push(Listener { socket: io.add(socket, token)?, addr });
        }
        let streams = streams(listen, count, sockets.tcp.remove(0), &io)?;
        let dtls = dtls_sessions(listen, count)?;
        let ways = Ways { listeners, proxied: Proxied::new(listen.proxies.clone()) };
        shards.push(Shard {
            number,
            post: post.clone(),
            outbox: Outbox::new(count),
            service: make(number, &post),
            io,
            ways,
            streams,
            dtls,
            stop: stop.clone(),
        });
    }
    let renewal = listen.secure.clone().map(Renewal::start).transpose()?;
    let mut running = Running { stop, post, threads: Vec::new(), renewal, addrs };
    for (number, shard) in shards.into_iter().enumerate() {
        // Should this fail, dropping `running` ends those that run.
        let thread = std::thread::Builder::new().name(format!("shard-{number}"));
        running.threads.push(thread.spawn(move || shard.run())?);
    }
    Ok(running)
}

fn streams(
    listen: &Listen,
    shards: usize,
    listeners: Vec<StreamListener>,
    io: &ShardIo,
) -> io::Result<Streams> {
    let secure = listen.secure.as_ref().filter(|secure| secure.tls);
    let limits = streams::Limits {
        max_connections: listen.max_connections.div_ceil(shards),
        idle_timeout: listen.idle_timeout,
        handshake_timeout: secure.map_or(HANDSHAKE_TIMEOUT, |secure| secure.handshake_timeout),
    };
    let certificates = secure.map(|secure| secure.certificates.clone());
    let passed = secure.and_then(|secure| secure.https_backend).map(PassedOn::new);
    Streams::new(listeners, limits, certificates, listen.proxies.clone(), passed, io)
}

fn dtls_sessions(listen: &Listen, shards: usize) -> io::Result<Option<DtlsSessions>> {
    let Some(secure) = listen.secure.as_ref().filter(|secure| secure.dtls) else { return Ok(None) };
    let limits = dtls::Limits {
        max_sessions: listen.max_connections.div_ceil(shards),
        idle_timeout: listen.idle_timeout,
    };
    DtlsSessions::new(secure.certificates.clone(), limits).map(Some)
}

/// Once, since all shards will have the same; again for one that has not, for want of memory perhaps.
fn log_technique(shard: usize, io: &ShardIo) {
    match io.why_not_io_uring() {
        Some(reason) => tracing::warn!(shard, io = %io.technique(), %reason, "data path"),
        None if shard == 0 => tracing::info!(io = %io.technique(), "data path"),
        None => {}
    }
}

/// The listening sockets of each shard.
struct Sockets {
    udp: Vec<Vec<(DatagramSocket, SocketAddr)>>,
    tcp: Vec<Vec<StreamListener>>,
}

impl Sockets {
    fn bind(
        listen: &Listen,
        shards: usize,
        addrs: &mut Vec<(Transport, SocketAddr)>,
    ) -> Result<Sockets, StartError> {
        let mut sockets = Sockets {
            udp: (0..shards).map(|_| Vec::new()).collect(),
            tcp: (0..shards).map(|_| Vec::new()).collect(),
        };
        let mut skipped = None;
        let secure = |on: fn(&Secure) -> bool| {
            let secure = listen.secure.iter().filter(move |secure| on(secure));
            secure.flat_map(|secure| secure.addrs.iter().copied())
        };
        let udp = listen.udp.iter().map(|addr| (Transport::Udp, *addr));
        for (transport, addr) in udp.chain(secure(|secure| secure.dtls).map(|addr| (Transport::Dtls, addr))) {
            note(transport, addr, sockets.bind_udp(listen, addr), addrs, &mut skipped)?;
        }
        let tcp = listen.tcp.iter().map(|addr| (Transport::Tcp, *addr));
        for (transport, addr) in tcp.chain(secure(|secure| secure.tls).map(|addr| (Transport::Tls, addr))) {
            note(transport, addr, sockets.bind_tcp(listen, addr), addrs, &mut skipped)?;
        }
        match (addrs.is_empty(), skipped) {
            (false, _) => Ok(sockets),
            (true, Some(error)) => Err(error),
            (true, None) => Err(StartError::NothingToListenOn),
        }
    }

    /// A socket for each shard, or those that were handed over, one or more for each.
    fn bind_udp(&mut self, listen: &Listen, addr: SocketAddr) -> io::Result<SocketAddr> {
        let options = |reuse_port| BindOptions {
            reuse_port,
            packet_info: addr.ip().is_unspecified(),
            recv_buffer: Some(listen.socket_buffer),
            send_buffer: Some(listen.socket_buffer),
            // "Always assume the incoming DF bit is 0" (RFC 8656, section 14).
            fragmentation: Some(Fragmentation::AsNeeded),
            ..BindOptions::default()
        };
        let handed = listen.handed.take_udp(addr);
        if handed.is_empty() {
            return bind_all(addr, &mut self.udp, |addr, reuse_port| {
                let socket = options(reuse_port).bind(addr)?;
                let addr = socket.local_addr()?;
                Ok(((socket, addr), addr))
            });
        }
        let shards = self.udp.len();
        for (index, socket) in handed.into_iter().enumerate() {
            self.udp[index % shards].push((options(true).adopt(socket)?, addr));
        }
        Ok(addr)
    }

    /// A listener for each shard, or all that were handed over for all.
    fn bind_tcp(&mut self, listen: &Listen, addr: SocketAddr) -> io::Result<SocketAddr> {
        let options = |reuse_port| ListenOptions {
            reuse_port,
            limits: listen.stream_limits,
            ..ListenOptions::default()
        };
        let handed = listen.handed.take_tcp(addr);
        if handed.is_empty() {
            return bind_all(addr, &mut self.tcp, |addr, reuse_port| {
                let listener = options(reuse_port).listen(addr)?;
                let addr = listener.local_addr()?;
                Ok((listener, addr))
            });
        }
        for listener in &handed {
            for listeners in &mut self.tcp {
                listeners.push(options(true).adopt(listener.try_clone()?)?);
            }
        }
        Ok(addr)
    }
}

/// Binds one address for every shard; port 0 becomes the one that the first got.
fn bind_all<T>(
    addr: SocketAddr,
    shards: &mut [Vec<T>],
    bind: impl Fn(SocketAddr, bool) -> io::Result<(T, SocketAddr)>,
) -> io::Result<SocketAddr> {
    if addr.port() != 0 {
        // Alone first: with SO_REUSEPORT, another server of this user would share the port, and nobody would notice.
        bind(addr, false)?;
    }
    let mut bound = addr;
    for shard in shards {
        let (socket, addr) = bind(bound, true)?;
        bound = addr;
        shard.push(socket);
    }
    Ok(bound)
}

/// Every host has IPv4 or IPv6, and some have one only: the wildcard of the other is passed over.
fn note(
    transport: Transport,
    addr: SocketAddr,
    bound: io::Result<SocketAddr>,
    addrs: &mut Vec<(Transport, SocketAddr)>,
    skipped: &mut Option<StartError>,
) -> Result<(), StartError> {
    match bound {
        Ok(addr) => addrs.push((transport, addr)),
        Err(source) => {
            let no_family =
                matches!(source.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
                    || source.raw_os_error() == Some(EAFNOSUPPORT);
            let error = StartError::Bind { transport, addr, source };
            if !(no_family && addr.ip().is_unspecified()) {
                return Err(error);
            }
            tracing::warn!("{error}; this host seems not to have the family");
            *skipped = Some(error);
        }
    }
    Ok(())
}

/// "Address family not supported by protocol" on Linux, which has no `io::ErrorKind` of its own.
const EAFNOSUPPORT: i32 = 97;

/// A server that runs. Dropped, it is shut down.
pub struct Running<S: Service> {
    stop: Arc<AtomicBool>,
    post: Post<S::Letter>,
    threads: Vec<JoinHandle<S>>,
    renewal: Option<Renewal>,
    addrs: Vec<(Transport, SocketAddr)>,
}

impl<S: Service> Running<S> {
    /// Where it listens: a port that was given as 0 is the one that the system chose.
    pub fn local_addrs(&self) -> &[(Transport, SocketAddr)] {
        &self.addrs
    }

    /// Has certificates that were renewed on disk taken up now, and not within a minute.
    pub fn renew_certificates(&self) {
        if let Some(renewal) = &self.renewal {
            renewal.hurry();
        }
    }

    /// Asks all shards to end after their turn. From any thread, any number of times.
    pub fn shutdown(&self) {
        self.stop.store(true, Ordering::Release);
        self.post.wake_all();
    }

    /// What reaches its shards.
    pub fn post(&self) -> &Post<S::Letter> {
        &self.post
    }

    /// Waits until all shards have ended, which [`Running::shutdown`] makes them, and returns their services.
    pub fn join(mut self) -> Vec<S> {
        self.join_threads()
    }

    fn join_threads(&mut self) -> Vec<S> {
        let ended: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        if ended.iter().any(Result::is_err) {
            tracing::error!("a shard had panicked; the others went on");
        }
        ended.into_iter().filter_map(Result::ok).collect()
    }
}

impl<S: Service> Drop for Running<S> {
    fn drop(&mut self) {
        self.shutdown();
        self.join_threads();
    }
}

impl<S: Service> fmt::Debug for Running<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("addrs", &self.addrs).finish_non_exhaustive()
    }
}
