//! `thirl serve`: STUN and TURN on one port, signalling on another, ready with no configuration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use clap::{ArgMatches, Command};
use rand::TryRngCore;
use serde::Serialize;
use thirl_common::config::{Flags, Key, parse};
use thirl_common::net::Transport;
use thirl_common::uri::{Host, ServerUri};
use thirl_overlay::NodeId;
use thirl_overlay::signalling::switchboard::{Config, IceServers};
use thirl_overlay::signalling::{DEFAULT_PORT, Hub, IceServer, Keepalive};
use thirl_stun_server::binding::BindingConfig;
use thirl_stun_server::operation::{self, Configuration, Log, Signals};
use thirl_stun_server::program::{self, raise_open_files_limit};
use thirl_stun_server::shard::{Handed, Listen};
use thirl_turn_relay::announce::{self, Announcement};
use thirl_turn_relay::operated::{self, OperatedRelay};
use thirl_turn_relay::server::Running;
use thirl_turn_relay::settings::{self, Settings};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::{print_json, print_line};
use crate::error::Failure;

/// What `serve` takes besides the relay's settings.
const OWN_KEYS: &[Key] = &[Key::single(
    "signalling-port",
    "PORT",
    "TCP port of the signalling endpoint (HTTP, WebSocket); 0 lets the system choose. Default: 3480",
)
.fixed()
.example("3480")];

/// How long the TURN credentials of a node are good for. A connected node gets new ones in time.
const NODE_CREDENTIALS: Duration = Duration::from_secs(3600);

/// Settings as flags: the table decides which there are.
pub(crate) struct Arguments {
    flags: Flags,
    json: bool,
}

impl clap::FromArgMatches for Arguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Arguments { flags: Flags::from_matches(matches, &keys()), json: matches.get_flag("json") })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Arguments {
    fn augment_args(command: Command) -> Command {
        let json = clap::Arg::new("json")
            .long("json")
            .help("Print what was started as one JSON object")
            .action(clap::ArgAction::SetTrue);
        Flags::augment(command, &keys()).arg(json)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// Every setting.
pub(crate) fn keys() -> Vec<Key> {
    settings::KEYS.iter().chain(OWN_KEYS).copied().collect()
}

/// `level` is what is logged if nothing else says it.
pub(crate) fn run(arguments: &Arguments, level: &'static str) -> Result<(), Failure> {
    let configuration = Configuration::read(&keys(), arguments.flags.clone())?;
    let mut settings = Settings::from_values(configuration.values())?;
    let signalling_port =
        configuration.values().one("signalling-port", parse::listening_port)?.unwrap_or(DEFAULT_PORT);
    let secret = random()?;
    let made_secret = settings.ensure_credentials(secret).is_some();
    settings.ensure_secret(secret);

    let log = Log::start(&settings.operation.log, level);
    raise_open_files_limit();
    operation::forgo_new_privileges();
    let signals = Signals::catch().map_err(|error| Failure::of("catching signals", error))?;
    let mut handed = Handed::from_environment()
        .map_err(|error| Failure::of("taking the sockets that were handed over", error))?;
    let (beside_signalling, listeners) = handed.split_off(signalling_port);
    let (relay, _monitor) =
        operated::start(&settings, handed).map_err(|error| Failure::Failed(error.to_string()))?;
    let signalling = Signalling::start(&settings, &relay, signalling_port, listeners)?;
    let second_stun = start_second_stun(&settings, signalling.port, beside_signalling)?;
    announce(&settings, &relay, &signalling, made_secret, arguments.json)?;

    program::drop_privileges(&settings.operation).map_err(|error| Failure::Failed(error.to_string()))?;
    let mut operated = OperatedRelay {
        running: &relay,
        configuration,
        log,
        complete: Box::new(move |settings| drop(settings.ensure_secret(secret))),
        notify: Box::new(|settings| signalling.set(settings)),
    };
    operation::run(&signals, settings.operation.clone(), &mut operated);
    drop(operated);
    signalling.stop();
    second_stun.shutdown();
    second_stun.join();
    relay.shutdown();
    let report = relay.join();
    tracing::info!("{} allocations served", report.engine.allocations_created);
    Ok(())
}

/// STUN over UDP on the signalling port's number too: it takes two destinations to notice that a mapping depends on the
/// destination, which is how nodes can say why their path is relayed.
fn start_second_stun(
    settings: &Settings,
    port: u16,
    handed: Handed,
) -> Result<thirl_stun_server::server::Running, Failure> {
    let listen = thirl_stun_server::settings::listen(&settings.listening_ips, port);
    let mut listen = Listen { tcp: Vec::new(), shards: Some(NonZeroUsize::MIN), ..listen };
    listen.adopt(handed);
    let config = thirl_stun_server::server::Config {
        listen,
        // One port is no server of RFC 5780; the relay beside it is, if it has two addresses.
        binding: BindingConfig { limit: settings.binding.limit, ..BindingConfig::default() },
    };
    thirl_stun_server::server::Server::start(&config).map_err(|error| Failure::Failed(error.to_string()))
}

/// The signalling endpoint on a runtime of its own; the relay's shards need none.
struct Signalling {
    runtime: tokio::runtime::Runtime,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<()>,
    port: u16,
    /// What its nodes are told of.
    settings: Arc<RwLock<Settings>>,
}

impl Signalling {
    /// At the listeners that were handed over, or else at this port.
    fn start(
        settings: &Settings,
        relay: &Running,
        port: u16,
        handed: Vec<std::net::TcpListener>,
    ) -> Result<Signalling, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| Failure::of("starting the runtime", error))?;
        let listeners = runtime.block_on(async {
            match handed.is_empty() {
                true => listen(&settings.listening_ips, port),
                false => adopt(handed).map_err(|error| Failure::of("listening for signalling", error)),
            }
        })?;
        let bound = listeners
            .first()
            .and_then(|listener| listener.local_addr().ok())
            .map_or(port, |addr| addr.port());
        let settings = Arc::new(RwLock::new(settings.clone()));
        let local_addrs = relay.local_addrs().to_vec();
        let minter = NodeServers { settings: settings.clone(), local_addrs, second_stun: bound };
        let (stop, stopped) = oneshot::channel();
        let served = runtime.spawn(async move {
            let hub = Hub::start(Config::default(), Keepalive::default(), Box::new(minter));
            let stopped = async {
                // A sender that is gone says the same as one that sent.
                let _ = stopped.await;
            };
            thirl_overlay::signalling::serve(listeners, hub, stopped).await;
        });
        Ok(Signalling { runtime, stop, served, port: bound, settings })
    }

    /// From now on the nodes are told by these settings.
    fn set(&self, settings: &Settings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings.clone();
    }

    /// Tells the nodes, and waits until their connections are closed.
    fn stop(self) {
        let Signalling { runtime, stop, served, .. } = self;
        // If it has ended already, there is nobody to tell.
        let _ = stop.send(());
        let _ = runtime.block_on(served);
    }
}

fn adopt(handed: Vec<std::net::TcpListener>) -> std::io::Result<Vec<TcpListener>> {
    let adopt = |listener: std::net::TcpListener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    handed.into_iter().map(adopt).collect()
}

/// Listens on every address, or on all of both families. A family that the host does not have is passed over.
fn listen(ips: &[IpAddr], port: u16) -> Result<Vec<TcpListener>, Failure> {
    let everywhere = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let chosen = if ips.is_empty() { &everywhere[..] } else { ips };
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut port = port;
    let mut refused = None;
    for ip in chosen {
        let addr = SocketAddr::new(*ip, port);
        match bind(addr) {
            Ok(listener) => {
                port = listener.local_addr().map_or(port, |addr| addr.port());
                listeners.push(listener);
            }
            Err(error) if ips.is_empty() && error.kind() != std::io::ErrorKind::AddrInUse => {
                refused = Some((addr, error));
            }
            Err(error) => return Err(cannot_listen(addr, &error)),
        }
    }
    match (listeners.is_empty(), refused) {
        (true, Some((addr, error))) => Err(cannot_listen(addr, &error)),
        _ => Ok(listeners),
    }
}

fn bind(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let socket =
        if addr.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    if addr.is_ipv6() {
        socket2::SockRef::from(&socket).set_only_v6(true)?;
    }
    socket.bind(addr)?;
    socket.listen(1024)
}

fn cannot_listen(addr: SocketAddr, error: &std::io::Error) -> Failure {
    Failure::Failed(format!("cannot listen on tcp {addr} for signalling: {error} (see --signalling-port)"))
}

/// What nodes are told of the relay, with credentials of their own.
struct NodeServers {
    settings: Arc<RwLock<Settings>>,
    local_addrs: Vec<(Transport, SocketAddr)>,
    second_stun: u16,
}

impl NodeServers {
    /// What the operator says the server is called; else as the node calls it, which is right where this host's own
    /// addresses mean nothing outside.
    fn hosts(settings: &Settings, dialled: &str) -> Vec<Host> {
        match announce::configured_ips(settings) {
            ips if ips.is_empty() => host_of(dialled).into_iter().collect(),
            ips => ips.into_iter().map(Host::Ip).collect(),
        }
    }
}

/// The host of `host:port`.
fn host_of(authority: &str) -> Option<Host> {
    format!("stun:{authority}").parse::<ServerUri>().ok().map(|uri| uri.host)
}

impl IceServers for NodeServers {
    fn for_node(&self, node: NodeId, dialled: &str, now_unix: u64) -> Vec<IceServer> {
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
        let (mut stun, turn) = announce::uris(&NodeServers::hosts(&settings, dialled), &self.local_addrs);
        let second: Vec<_> =
            stun.iter().map(|uri| ServerUri { port: self.second_stun, ..uri.clone() }).collect();
        stun.extend(second);
        let text = |uris: Vec<ServerUri>| uris.iter().map(ToString::to_string).collect();
        let stun = IceServer { urls: text(stun), username: None, credential: None, ttl_seconds: None };
        let expires = now_unix + NODE_CREDENTIALS.as_secs();
        let turn = settings.credentials.rest.mint(&node.short(), expires).map(|credentials| IceServer {
            urls: text(turn),
            username: Some(credentials.username),
            credential: Some(credentials.password),
            ttl_seconds: u32::try_from(NODE_CREDENTIALS.as_secs()).ok(),
        });
        [stun].into_iter().chain(turn).filter(|server| !server.urls.is_empty()).collect()
    }
}

#[derive(Serialize)]
struct Started<'a> {
    #[serde(flatten)]
    relay: &'a Announcement,
    /// What `thirl listen --server` takes.
    server: &'a str,
}

fn announce(
    settings: &Settings,
    relay: &Running,
    signalling: &Signalling,
    made_secret: bool,
    json: bool,
) -> Result<(), Failure> {
    let announcement = Announcement::new(settings, relay.local_addrs());
    let host = announce::public_ips(settings)
        .first()
        .map_or_else(|| "localhost".to_owned(), |ip| Host::Ip(*ip).to_string());
    let server = if signalling.port == DEFAULT_PORT { host } else { format!("{host}:{}", signalling.port) };
    if json {
        return print_json(&Started { relay: &announcement, server: &server });
    }
    print_line("thirl serves. Any WebRTC app takes these:\n")?;
    for line in announcement.to_string().lines() {
        print_line(&format!("  {line}"))?;
    }
    if made_secret {
        print_line(
            "\nThe secret behind them is new. Set `static-auth-secret` to keep credentials over a restart.",
        )?;
    }
    print_line(&format!("\nNow, on a machine that others shall reach:\n\n  thirl listen --server {server}\n"))
}

fn random() -> Result<[u8; 16], Failure> {
    let mut random = [0; 16];
    let filled = rand::rngs::OsRng.try_fill_bytes(&mut random);
    filled.map_err(|error| Failure::of("the system's random number generator", error))?;
    Ok(random)
}
