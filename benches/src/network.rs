//! Between load and server: loopback, or a veth pair between two network namespaces of the bench's own.
//!
//! On loopback nearly all of the kernel's work for a packet is charged to its sender. Over a veth pair, as over a device, a
//! part of it is done by packet threads (NAPI), which are counted with whom they receive for. This process moves into the
//! one namespace by starting itself anew; the other is held by a child that ends with it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::server::{LOAD_CORE, SERVER_CORE};
use crate::{BenchError, Context};

/// Set for the process that was started anew.
const INSIDE: &str = "THIRL_BENCH_INSIDE";

/// Of the range for benchmarks (RFC 2544, appendix C.2.2).
const SERVER_IP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const LOAD_IP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

/// What load and server speak over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Over {
    /// The loopback interface.
    Loopback,
    /// A veth pair between two namespaces; needs root and `ethtool`.
    Veth,
}

/// Where load and server are.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) server_ip: IpAddr,
    pub(crate) load_ip: IpAddr,
    /// The first address of clients, of which all are the load's.
    pub(crate) clients: Ipv4Addr,
    /// The first address of peers.
    pub(crate) peers: Ipv4Addr,
    /// What they all, and the server, lie in.
    pub(crate) range: &'static str,
    /// Holds the server's namespace while it lives.
    holder: Option<Child>,
    /// The packet threads that receive for the server.
    packet_threads: BTreeSet<u32>,
}

impl Network {
    /// Makes it. For a veth pair, this process is replaced by one in a namespace of its own.
    pub(crate) fn new(over: Over) -> Result<Network, BenchError> {
        let here = IpAddr::from(Ipv4Addr::LOCALHOST);
        match over {
            Over::Loopback => Ok(Network {
                server_ip: here,
                load_ip: here,
                clients: Ipv4Addr::new(127, 1, 0, 1),
                peers: Ipv4Addr::new(127, 2, 0, 1),
                range: "127.0.0.0/8",
                holder: None,
                packet_threads: BTreeSet::new(),
            }),
            Over::Veth if std::env::var_os(INSIDE).is_none() => Err(start_anew()),
            Over::Veth => veth(),
        }
    }

    /// A command that runs where the server is.
    pub(crate) fn command(&self, program: &str) -> Command {
        let Some(holder) = &self.holder else { return Command::new(program) };
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", holder.id())).arg(program);
        command
    }

    /// CPU time that the packet threads spent receiving for the server, in nanoseconds.
    pub(crate) fn packet_nanoseconds(&self) -> u64 {
        self.packet_threads
            .iter()
            .map(|thread| run_time(Path::new(&format!("/proc/{thread}/schedstat"))))
            .sum()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(holder) = &mut self.holder {
            holder.kill().ok();
            holder.wait().ok();
        }
    }
}

/// CPU time in nanoseconds that the scheduler noted in a `schedstat`; 0 of a thread that ended.
pub(crate) fn run_time(path: &Path) -> u64 {
    let schedstat = fs::read_to_string(path).unwrap_or_default();
    schedstat.split(' ').next().and_then(|run| run.parse().ok()).unwrap_or(0)
}

/// This program again, in a network namespace whose devices its `/sys` shows.
fn start_anew() -> BenchError {
    let this = match std::env::current_exe().context("finding this program") {
        Ok(path) => path,
        Err(error) => return error,
    };
    let error = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", "mount -t sysfs sysfs /sys && exec \"$0\" \"$@\""])
        .arg(this)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    BenchError::System { what: "unshare(1), which makes namespaces".to_owned(), error }
}

fn veth() -> Result<Network, BenchError> {
    let holder = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", "mount -t sysfs sysfs /sys && echo ready && exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("unshare(1), which makes namespaces")?;
    let mut network = Network {
        server_ip: SERVER_IP.into(),
        load_ip: LOAD_IP.into(),
        clients: Ipv4Addr::new(198, 19, 1, 1),
        peers: Ipv4Addr::new(198, 19, 128, 1),
        range: "198.18.0.0/15",
        holder: Some(holder),
        packet_threads: BTreeSet::new(),
    };
    network.wait_for_the_holder()?;
    let pid = network.holder.as_ref().map_or(0, Child::id);
    let enter = format!("nsenter --target {pid} --net --mount");
    let before = packet_threads()?;
    for line in [
        "ip link set lo up".to_owned(),
        format!("ip link add load0 type veth peer name srv0 netns /proc/{pid}/ns/net"),
        format!("ip address add {LOAD_IP}/24 dev load0"),
        "ip link set load0 up".to_owned(),
        format!("{enter} ip link set lo up"),
        format!("{enter} ip address add {SERVER_IP}/24 dev srv0"),
        format!("{enter} ip link set srv0 up"),
        "ip route add local 198.19.0.0/16 dev lo".to_owned(),
        format!("{enter} ip route add 198.19.0.0/16 via {LOAD_IP}"),
        // Only with GRO does a veth have packet threads, and only without TSO do all packets go through them.
        "ethtool -K load0 gro on tso off".to_owned(),
        format!("{enter} ethtool -K srv0 gro on tso off"),
    ] {
        run(&line)?;
    }
    run_script("echo 1 > /sys/class/net/load0/threaded")?;
    run_script(&format!("{enter} sh -c 'echo 1 > /sys/class/net/srv0/threaded'"))?;
    for (thread, name) in packet_threads()?.difference(&before) {
        let of_the_server = name.starts_with("napi/srv0");
        let core = if of_the_server { SERVER_CORE } else { LOAD_CORE };
        run(&format!("taskset -cp {core} {thread}"))?;
        if of_the_server {
            network.packet_threads.insert(*thread);
        }
    }
    match network.packet_threads.is_empty() {
        true => Err(BenchError::Figures("the kernel made no packet threads for the veth pair".to_owned())),
        false => Ok(network),
    }
}

impl Network {
    fn wait_for_the_holder(&mut self) -> Result<(), BenchError> {
        use std::io::Read as _;
        let out = self.holder.as_mut().and_then(|holder| holder.stdout.take());
        let mut ready = [0; 6];
        out.map_or(Ok(()), |mut out| out.read_exact(&mut ready)).context("waiting for the server's namespace")
    }
}

/// All kernel threads that serve devices, by id and name.
fn packet_threads() -> Result<BTreeSet<(u32, String)>, BenchError> {
    let mut threads = BTreeSet::new();
    for process in fs::read_dir("/proc").context("looking for packet threads")?.flatten() {
        let Some(id) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        if name.starts_with("napi/") {
            threads.insert((id, name.trim().to_owned()));
        }
    }
    Ok(threads)
}

fn run(line: &str) -> Result<(), BenchError> {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    finish(line, command.args(words))
}

fn run_script(script: &str) -> Result<(), BenchError> {
    finish(script, Command::new("sh").args(["-c", script]))
}

fn finish(what: &str, command: &mut Command) -> Result<(), BenchError> {
    let output = command.output().context(what)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(BenchError::Figures(format!("`{what}` failed: {said}")))
}
