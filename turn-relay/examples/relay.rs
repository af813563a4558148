//! A relay for tests and measurements: `relay ADDR [SHARDS]` listens on ADDR by UDP and TCP, knows `user` with the password
//! `pass`, and lets clients reach peers on loopback. Ends when its standard input does.

use std::io::Read;
use std::sync::Arc;

use thirl_common::auth::Credentials;
use thirl_turn_relay::server::{Config, Server};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let addr = args.next().ok_or("which address to listen on?")?.parse()?;
    let mut credentials = Credentials::default();
    credentials.users.insert("user", "pass");
    let mut config = Config::default();
    config.listen.udp = vec![addr];
    config.listen.tcp = vec![addr];
    config.listen.shards = args.next().map(|shards| shards.parse()).transpose()?;
    config.engine.credentials = Arc::new(credentials);
    config.engine.peers.allowed = vec!["127.0.0.0/8".parse()?, "::1".parse()?];
    let running = Server::start(config)?;
    eprintln!("{:?}", running.local_addrs());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    running.shutdown();
    eprintln!("{:#?}", running.join());
    Ok(())
}
