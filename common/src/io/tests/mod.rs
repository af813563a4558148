//! On loopback, against sockets of the standard library.

/// Makes two tests of each function: `name::by_io_uring` and `name::by_epoll`.
macro_rules! on_each_technique {
    ($($name:ident)*) => {
        $(mod $name {
            use crate::io::Technique;

            #[test]
            fn by_io_uring() {
                crate::io::tests::by_io_uring(stringify!($name), super::$name);
            }

            #[test]
            fn by_epoll() {
                super::$name(Technique::Epoll);
            }
        })*
    };
}

mod datagrams;
mod errors;
mod reuse;
mod splice;
mod streams;
mod technique;
#[cfg(feature = "tls")]
mod tls;
mod trains;
mod waiting;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::*;

/// How many turns of [`TURN`] a test waits for what must come: 10 s.
const TURNS: usize = 1000;
const TURN: Duration = Duration::from_millis(10);

/// Runs a test by io_uring, or says why it does not.
fn by_io_uring(test: &str, run: fn(Technique)) {
    match ShardIo::new(options(Technique::IoUring)) {
        Ok(_) => run(Technique::IoUring),
        Err(error) => eprintln!("not run: {test}: {error}"),
    }
}

fn options(on: Technique) -> IoOptions {
    IoOptions { technique: Some(on), ..IoOptions::default() }
}

/// A datagram, kept past its turn.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    token: u64,
    from: SocketAddr,
    local: Option<IpAddr>,
    payload: Vec<u8>,
}

fn keep(io: &ShardIo) -> Vec<Kept> {
    (0..io.received_len())
        .map(|index| {
            let Received { token, from, local, payload, .. } = io.received(index).unwrap();
            Kept { token, from, local, payload: payload.to_vec() }
        })
        .collect()
}

/// Turns until `count` datagrams have come.
fn receive(io: &mut ShardIo, count: usize) -> Vec<Kept> {
    let mut kept = Vec::new();
    let mut events = Vec::new();
    for _ in 0..TURNS {
        io.turn(Some(TURN), &mut events).unwrap();
        kept.extend(keep(io));
        if kept.len() >= count {
            return kept;
        }
    }
    panic!("only {} of {count} datagrams came: {kept:?}", kept.len());
}

/// Turns until there is an event for `token`.
fn event(io: &mut ShardIo, token: u64) -> Event {
    let mut events = Vec::new();
    for _ in 0..TURNS {
        io.turn(Some(TURN), &mut events).unwrap();
        if let Some(event) = events.iter().find(|event| event.token == token) {
            return *event;
        }
    }
    panic!("no event for {token}");
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Says why a test did not run.
fn not_here(test: &str, error: &std::io::Error) {
    eprintln!("not run: {test}: no IPv6 loopback address here ({error})");
}
