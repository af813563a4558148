//! Datagrams between services of one server, which need not go through the kernel.

use std::net::SocketAddr;

use super::Post;

/// The datagrams of a turn for one shard.
#[derive(Debug, Default)]
pub(super) struct Parcel {
    bytes: Vec<u8>,
    datagrams: Vec<Addressed>,
}

#[derive(Debug)]
struct Addressed {
    from: SocketAddr,
    to: SocketAddr,
    len: usize,
}

impl Parcel {
    fn push(&mut self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        self.bytes.extend_from_slice(datagram);
        self.datagrams.push(Addressed { from, to, len: datagram.len() });
    }

    /// Each datagram with its source and destination.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SocketAddr, SocketAddr, &[u8])> {
        let mut rest = self.bytes.as_slice();
        self.datagrams.iter().map(move |Addressed { from, to, len }| {
            let (datagram, after) = rest.split_at(*len);
            rest = after;
            (*from, *to, datagram)
        })
    }

    /// What it takes of memory, in bytes.
    pub(super) fn size(&self) -> usize {
        self.bytes.len() + self.datagrams.len() * size_of::<Addressed>()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }
}

/// What a shard has for the others, and for itself, until the end of its turn.
#[derive(Debug)]
pub(super) struct Outbox(Vec<Parcel>);

impl Outbox {
    pub(super) fn new(shards: usize) -> Outbox {
        Outbox((0..shards).map(|_| Parcel::default()).collect())
    }

    pub(super) fn push(&mut self, shard: usize, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        if let Some(parcel) = self.0.get_mut(shard) {
            parcel.push(from, to, datagram);
        }
    }

    /// What is for this shard.
    pub(super) fn take(&mut self, shard: usize) -> Parcel {
        self.0.get_mut(shard).map(std::mem::take).unwrap_or_default()
    }

    /// Sends all, and counts the datagrams for which there was no room.
    pub(super) fn send<L>(&mut self, post: &Post<L>) -> usize {
        let mut dropped = 0;
        for (shard, parcel) in self.0.iter_mut().enumerate().filter(|(_, parcel)| !parcel.is_empty()) {
            let parcel = std::mem::take(parcel);
            let count = parcel.datagrams.len();
            if !post.send_parcel(shard, parcel) {
                dropped += count;
            }
        }
        dropped
    }
}
