//! The way of a datagram: from the socket that received it, or from another shard, to the service, and on.

use std::net::SocketAddr;
use std::ops::Range;

use thirl_common::io::{Route, ShardIo, SocketId};
use thirl_common::net::{ClientAddr, FiveTuple, ServerAddr, Transmit, Transport, Undelivered};

use super::dtls::DtlsSessions;
use super::parcel::Parcel;
use super::proxied::Client;
use super::{Clock, Outcome, SERVICE_TOKEN_LIMIT, Service, Shard};

impl<S: Service> Shard<S> {
    #[inline]
    pub(super) fn handle_datagram(&mut self, clock: Clock, index: usize) {
        let Some(token) = self.io.received(index).map(|received| received.token) else { return };
        match token.checked_sub(SERVICE_TOKEN_LIMIT).map(usize::try_from) {
            None => self.handle_socket(clock, index),
            Some(Ok(listener)) => self.handle_client(clock, index, listener),
            Some(Err(_)) => {}
        }
    }

    /// A datagram that came to a socket of the service's.
    #[inline]
    fn handle_socket(&mut self, clock: Clock, index: usize) {
        let Shard { service, io, .. } = self;
        let Some(received) = io.received(index) else { return };
        match service.handle_socket(clock, received.token, received.from, received.payload) {
            Outcome::ToClient { five_tuple, prefix, range, padding } => {
                self.forward_to_client(clock, index, five_tuple, &prefix, range, padding);
            }
            Outcome::ToSocket { socket, to, range, whole } => {
                let route = Route { socket, to, source: None };
                send_by_socket(io, socket, whole, |io| io.forward(index, range, &[], 0, route));
            }
            Outcome::Reply(_)
            | Outcome::Send { .. }
            | Outcome::Inside { .. }
            | Outcome::Hold
            | Outcome::Nothing => {}
        }
    }

    /// A part of the datagram received at `index` goes to a service of this server: in place, if it is this shard's.
    fn forward_inside(
        &mut self,
        clock: Clock,
        index: usize,
        shard: usize,
        [from, to]: [SocketAddr; 2],
        range: Range<usize>,
    ) {
        let Shard { service, io, outbox, .. } = self;
        let Some(datagram) = io.received(index).and_then(|it| it.payload.get(range.clone())) else { return };
        if shard != self.number {
            outbox.push(shard, from, to, datagram);
        } else if let Outcome::ToClient { five_tuple, prefix, range: part, padding } =
            service.handle_inside(clock, from, to, datagram)
        {
            let part = range.start + part.start..range.start + part.end;
            self.forward_to_client(clock, index, five_tuple, &prefix, part, padding);
        }
    }

    /// A part of the datagram received at `index` goes to a client.
    #[inline]
    fn forward_to_client(
        &mut self,
        clock: Clock,
        index: usize,
        five_tuple: FiveTuple,
        prefix: &S::Prefix,
        range: Range<usize>,
        padding: usize,
    ) {
        let Shard { service, io, ways, streams, dtls, outbox, .. } = self;
        if let Some(route) = ways.route(&five_tuple) {
            io.forward(index, range, prefix.as_ref(), padding, route);
            return;
        }
        let Some(data) = io.received(index).and_then(|it| it.payload.get(range)) else { return };
        let parts = [prefix.as_ref(), data, zeros(padding)];
        match dtls {
            Some(dtls) if five_tuple.transport == Transport::Dtls => {
                dtls.write(clock, five_tuple, &parts, service);
                dtls.advance(clock, five_tuple, service, io, outbox);
            }
            _ => streams.write_data(io, &five_tuple, &parts),
        }
    }

    /// An error that a datagram of the service's met with.
    pub(super) fn handle_undelivered(&mut self, clock: Clock, token: u64, error: &Undelivered) {
        let Some(notice) = self.service.handle_undelivered(clock, token, error) else { return };
        let five_tuple = five_tuple_of(&notice);
        match self.ways.route(&five_tuple) {
            Some(route) => self.io.send(route, &notice.payload),
            None => self.write_data(clock, five_tuple, &[&notice.payload]),
        }
    }

    /// A datagram that a client sent to a listening address.
    #[inline]
    fn handle_client(&mut self, clock: Clock, index: usize, listener: usize) {
        let Shard { service, io, ways, dtls, outbox, .. } = self;
        let (Some(received), Some(listener)) = (io.received(index), ways.listeners.get(listener)) else {
            return;
        };
        let server = listener.server_addr(received.local);
        let (client, start) = match ways.proxied.client(received.from, received.payload) {
            Client::Direct => (ClientAddr(received.from), 0),
            Client::Proxied { client, header } => (client, header),
            Client::Unknown => return,
        };
        let Some(payload) = received.payload.get(start..) else { return };
        // A proxy passes on what comes back, without a header.
        let route = listener.route(server, ClientAddr(received.from));
        if let Some(dtls) = dtls
            && DtlsSessions::concerns(payload)
        {
            let five_tuple = FiveTuple { transport: Transport::Dtls, client, server };
            let Some(route) = route else { return };
            match dtls.handle_datagram(clock, five_tuple, route, payload, service) {
                Some(answer) => answer.datagram().into_iter().for_each(|datagram| io.send(route, datagram)),
                None => dtls.advance(clock, five_tuple, service, io, outbox),
            }
            return;
        }
        let five_tuple = FiveTuple { transport: Transport::Udp, client, server };
        if let (true, Some(route)) = (start > 0, route) {
            ways.proxied.remember(five_tuple, route);
        }
        match service.handle_client(clock, five_tuple, payload) {
            Outcome::ToSocket { socket, to, range, whole } => {
                let route = Route { socket, to, source: None };
                let range = start + range.start..start + range.end;
                send_by_socket(io, socket, whole, |io| io.forward(index, range, &[], 0, route));
            }
            Outcome::Reply(reply) => {
                if let Some(route) = route {
                    io.send(route, reply);
                }
            }
            // What a client behind a proxy asks to be sent from another address would not find back to it.
            Outcome::Send { from, to, datagram } if start == 0 => {
                let five_tuple = FiveTuple { transport: Transport::Udp, client: to, server: from };
                if let Some(route) = ways.route(&five_tuple) {
                    io.send(route, datagram);
                }
            }
            Outcome::Inside { shard, from, to, range } => {
                let range = start + range.start..start + range.end;
                self.forward_inside(clock, index, shard, [from, to], range);
            }
            Outcome::Send { .. } | Outcome::ToClient { .. } | Outcome::Hold | Outcome::Nothing => {}
        }
    }

    pub(super) fn transmit(&mut self, clock: Clock, transmit: &Transmit) {
        let five_tuple = five_tuple_of(transmit);
        let payload = &transmit.payload;
        match self.ways.route(&five_tuple) {
            Some(route) => self.io.send(route, payload),
            None if five_tuple.transport == Transport::Dtls => self.write_data(clock, five_tuple, &[payload]),
            None => {
                let Shard { service, io, streams, .. } = self;
                streams.write_control(clock, &five_tuple, payload, service, io);
            }
        }
    }

    /// Datagrams of services of this server.
    pub(super) fn unpack(&mut self, clock: Clock, parcel: &Parcel) {
        for (from, to, datagram) in parcel.iter() {
            if let Outcome::ToClient { five_tuple, prefix, range, padding } =
                self.service.handle_inside(clock, from, to, datagram)
                && let Some(data) = datagram.get(range)
            {
                let parts = [prefix.as_ref(), data, zeros(padding)];
                match self.ways.route(&five_tuple) {
                    Some(route) => self.io.send_parts(route, &parts),
                    None => self.write_data(clock, five_tuple, &parts),
                }
            }
        }
    }

    /// Data for a client with a stream or a session.
    fn write_data(&mut self, clock: Clock, five_tuple: FiveTuple, parts: &[&[u8]]) {
        let Shard { service, io, streams, dtls, outbox, .. } = self;
        match dtls {
            Some(dtls) if five_tuple.transport == Transport::Dtls => {
                dtls.write(clock, five_tuple, parts, service);
                dtls.advance(clock, five_tuple, service, io, outbox);
            }
            _ => streams.write_data(io, &five_tuple, parts),
        }
    }
}

fn five_tuple_of(transmit: &Transmit) -> FiveTuple {
    let Transmit { transport, from, to, .. } = *transmit;
    FiveTuple { transport, client: ClientAddr(to), server: ServerAddr(from) }
}

/// Queues a datagram for one of the service's own sockets.
#[inline]
pub(super) fn send_by_socket(
    io: &mut ShardIo,
    socket: SocketId,
    whole: bool,
    queue: impl FnOnce(&mut ShardIo),
) {
    if whole { io.send_whole(socket, queue) } else { queue(io) }
}

/// Padding, of 3 bytes at the most.
fn zeros(count: usize) -> &'static [u8] {
    const ZEROS: &[u8] = &[0; 3];
    ZEROS.get(..count).unwrap_or_default()
}
