//! Our agent against Debian's libnice, in both roles: a small program of ours over libnice is built and run.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use thirl_ice_agent::agent::{PathKind, Role};
use thirl_ice_agent::candidate::TcpType;
use thirl_ice_agent::driver::{Description, IceAgent, LocalAddress};
use thirl_tests::harness::{self, Program};
use thirl_tests::natlab::Unavailable;
use thirl_tests::requires;

const LIMIT: Duration = Duration::from_secs(60);
const IP: &str = "127.0.0.1";
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/interop/libnice_peer.c");
const DATAGRAMS: u32 = 20;

/// The program, which is removed with it.
struct Peer(PathBuf);

impl Peer {
    fn build(name: &str) -> Result<Peer, Unavailable> {
        let compiler = harness::installed("cc", "gcc", "builds a program over libnice")?;
        let pkg_config = harness::installed("pkg-config", "pkg-config", "says how to build with libnice")?;
        let flags = Command::new(pkg_config).args(["--cflags", "--libs", "nice"]).output().unwrap();
        if !flags.status.success() {
            let reason =
                "libnice (package libnice-dev) is an ICE agent that ours is tested against".to_owned();
            return Err(Unavailable { reason });
        }
        let flags = String::from_utf8(flags.stdout).unwrap();
        let peer = Peer(std::env::temp_dir().join(format!("thirl-{name}-{}", std::process::id())));
        let mut command = Command::new(compiler);
        command.arg(SOURCE).arg("-o").arg(&peer.0).args(flags.split_whitespace());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(peer)
    }

    fn start(program: &Path, role: Role, datagrams: u32, over: &str) -> Program {
        let mut command = Command::new(program);
        let role = if role == Role::Controlling { "controlling" } else { "controlled" };
        command.args([role, IP, &datagrams.to_string(), over]);
        Program::spawn(command).unwrap().named("libnice_peer")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What libnice says of itself.
fn their_description(program: &mut Program) -> Description {
    program.wait_for_line("end-of-candidates", LIMIT).unwrap();
    let output = program.output();
    let lines = output.lines().filter_map(|line| line.split_once("| ").map(|(_, text)| text));
    let mut description = Description::default();
    for line in lines {
        match line.split_once(' ') {
            Some(("ufrag", ufrag)) => ufrag.clone_into(&mut description.ufrag),
            Some(("pwd", pwd)) => pwd.clone_into(&mut description.pwd),
            _ if line.starts_with("candidate:") => description.candidates.push(line.to_owned()),
            _ => {}
        }
    }
    description
}

fn our_description(agent: &IceAgent) -> String {
    let Description { ufrag, pwd, candidates, .. } = agent.description();
    format!("ufrag {ufrag}\npwd {pwd}\n{}\nend-of-candidates", candidates.join("\n"))
}

/// Datagrams go from one side to the other and back; over TCP our candidates are of one type only.
async fn connects(our_role: Role, we_send: bool, ours: Option<TcpType>) {
    let peer = requires!(Peer::build(&format!("libnice-{our_role:?}-{ours:?}")));
    let theirs = if we_send { 0 } else { DATAGRAMS };
    let over = if ours.is_some() { "tcp" } else { "udp" };
    let mut program = Peer::start(&peer.0, our_role.opposite(), theirs, over);
    let description = their_description(&mut program);
    let address = LocalAddress { address: format!("{IP}:0").parse().unwrap(), preference: u8::MAX };
    let builder = IceAgent::builder().filter(move |candidate| candidate.transport.tcp_type() == ours);
    let agent = builder.role(our_role).addresses([address]).gather().await.unwrap();
    agent.set_remote(&description).unwrap();
    program.write_line(&our_description(&agent)).unwrap();
    let path = tokio::time::timeout(LIMIT, agent.connect()).await.unwrap().unwrap();
    assert_eq!(path.kind(), PathKind::Direct);
    assert_eq!(path.pair().unwrap().local.transport.tcp_type(), ours);
    program.wait_for_line("connected", LIMIT).unwrap();
    for n in 0..DATAGRAMS {
        let receive = tokio::time::timeout(LIMIT, path.recv_datagram());
        if we_send {
            let datagram = format!("thirl {n}");
            path.send(datagram.as_bytes()).await.unwrap();
            assert_eq!(receive.await.unwrap().unwrap(), datagram.as_bytes());
        } else {
            let datagram = receive.await.unwrap().unwrap();
            path.send(&datagram).await.unwrap();
        }
    }
    if !we_send {
        program.wait_for_line(&format!("echoed {DATAGRAMS}"), LIMIT).unwrap();
    }
}

// Waiting for the program blocks a thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controlling() {
    connects(Role::Controlling, true, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controlled() {
    connects(Role::Controlled, false, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controlling_and_connecting_by_tcp() {
    connects(Role::Controlling, true, Some(TcpType::Active)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controlling_and_connected_to_by_tcp() {
    connects(Role::Controlling, false, Some(TcpType::Passive)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controlled_and_connecting_by_tcp() {
    connects(Role::Controlled, true, Some(TcpType::Active)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controlled_and_connected_to_by_tcp() {
    connects(Role::Controlled, false, Some(TcpType::Passive)).await;
}
