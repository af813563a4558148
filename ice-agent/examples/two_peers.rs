//! From two descriptions to a connected path.
//!
//! `cargo run --example two_peers` runs both peers in one process. To run one peer, and to be its signalling yourself:
//! `cargo run --example two_peers -- controlling [stun:HOST] [turn:HOST USER PASSWORD] [relay-only]` in one terminal and
//! the same with `controlled` in another; copy each side's line of JSON to the other.

use std::error::Error;

use thirl_ice_agent::agent::{Policy, Role};
use thirl_ice_agent::driver::{Builder, Description, IceAgent, Path};
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        None => both().await,
        Some("controlling") => one(with_servers(Role::Controlling, arguments)?).await,
        Some("controlled") => one(with_servers(Role::Controlled, arguments)?).await,
        Some(other) => Err(format!("{other:?} is no role: write controlling or controlled").into()),
    }
}

async fn both() -> Result<(), Box<dyn Error>> {
    let alice = IceAgent::builder().controlling().gather().await?;
    let bob = IceAgent::builder().controlled().gather().await?;
    alice.set_remote(&bob.description())?;
    bob.set_remote(&alice.description())?;
    let (alice, bob) = tokio::try_join!(alice.connect(), bob.connect())?;
    alice.send(b"hello from alice").await?;
    let received = bob.recv_datagram().await?;
    println!("{:?}: {}", bob.kind(), String::from_utf8_lossy(&received));
    Ok(())
}

async fn one(builder: Builder) -> Result<(), Box<dyn Error>> {
    let agent = builder.gather().await?;
    println!("{}", serde_json::to_string(&agent.description())?);
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let line = input.next_line().await?.ok_or("the other side's description is to come on standard input")?;
    agent.set_remote(&serde_json::from_str::<Description>(&line)?)?;
    let path = agent.connect().await?;
    eprintln!("connected, {:?}: {} ↔ {}", path.kind(), path.local(), path.remote());
    exchange(&path).await?;
    eprint!("{}", agent.report());
    Ok(())
}

/// Says hello until the other side has: what is sent too early may be lost.
async fn exchange(path: &Path) -> Result<(), Box<dyn Error>> {
    let mut beat = tokio::time::interval(std::time::Duration::from_millis(200));
    let mut left = 15;
    while left > 0 {
        tokio::select! {
            received = path.recv_datagram() => eprintln!("received {}", String::from_utf8_lossy(&received?)),
            _ = beat.tick() => {
                path.send(b"hello").await?;
                left -= 1;
            }
        }
    }
    Ok(())
}

fn with_servers(role: Role, mut arguments: impl Iterator<Item = String>) -> Result<Builder, Box<dyn Error>> {
    let mut builder = IceAgent::builder().role(role);
    while let Some(uri) = arguments.next() {
        builder = if uri == "relay-only" {
            builder.policy(Policy::Relay)
        } else if uri.starts_with("stun:") {
            builder.stun(uri.parse()?)
        } else {
            let mut credential = || arguments.next().ok_or("a turn: URI is followed by USER and PASSWORD");
            let (user, password) = (credential()?, credential()?);
            builder.turn(uri.parse()?, user, password)
        };
    }
    Ok(builder)
}
