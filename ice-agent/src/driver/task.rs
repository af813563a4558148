//! The background task of an agent: it receives, keeps time, and ends when nobody holds the agent any more.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;

use super::networks::Networks;
use super::shared::{Core, Shared};
use super::socket::Socket;
use super::stream::{Happened, StreamEvent, StreamEvents};
use super::watch::{Host, HostAddresses};
use super::{now, sleep_until};
use crate::agent::{SocketId, State};

/// A socket that fails so often in a row is given up.
const MAX_ERRORS: u32 = 64;
/// Without a deadline the task waits for packets alone.
const FOREVER: Duration = Duration::from_secs(86_400);

/// A socket as the task sees it.
struct Receiver {
    id: SocketId,
    socket: Arc<Socket>,
    errors: u32,
}

/// What the system lists, whenever it changes, and which of it is wanted.
type Changes = (watch::Receiver<Arc<Host>>, Networks);

pub(super) async fn run(shared: Arc<Shared>, mut streams: StreamEvents, mut changes: Option<Changes>) {
    let mut receivers = Vec::new();
    let mut turn = 0;
    while let Some(deadline) = look_after(&shared, &mut receivers) {
        tokio::select! {
            (index, result) = poll_fn(|cx| receive(&shared, &mut receivers, &mut turn, cx)) => {
                if result.is_err() {
                    note_error(&shared, &mut receivers, index);
                }
            }
            Some(happened) = streams.recv() => take_stream(&shared, happened),
            addresses = changed(&mut changes) => shared.set_addresses(&addresses),
            () = shared.wake.notified() => {}
            () = sleep_until(deadline) => {}
        }
    }
    // Handles may outlive it; others can have its place on a port at once.
    let mut core = shared.lock();
    core.members.clear();
    core.listeners.clear();
}

/// Does what is due and says when to come again; `None` when the agent is closed.
fn look_after(shared: &Shared, receivers: &mut Vec<Receiver>) -> Option<Instant> {
    let now = now();
    let mut core = shared.lock();
    if shared.is_closing() {
        core.agent.close(now);
    }
    if core.agent.poll_timeout().is_some_and(|at| at <= now) {
        core.agent.handle_timeout(now);
    }
    // What a socket has no room for is lost: checks are repeated.
    drop(shared.flush(&mut core));
    follow_sockets(&core, receivers);
    (core.agent.state() != State::Closed).then(|| core.agent.poll_timeout().unwrap_or(now + FOREVER))
}

/// Sockets come and go; their names are never used again.
fn follow_sockets(core: &Core, receivers: &mut Vec<Receiver>) {
    receivers
        .retain(|receiver| core.sockets.contains_key(&receiver.id) || core.opened.get(receiver.id).is_some());
    if receivers.len() < core.sockets.len() + core.opened.len() {
        let known: BTreeSet<_> = receivers.iter().map(|receiver| receiver.id).collect();
        let all = core.sockets.iter().map(|(id, socket)| (*id, socket)).chain(core.opened.iter());
        let new = all.filter(|(id, _)| !known.contains(id));
        receivers.extend(new.map(|(id, socket)| Receiver { id, socket: Arc::clone(socket), errors: 0 }));
    }
}

/// The next change; never, if nobody tells.
async fn changed(changes: &mut Option<Changes>) -> HostAddresses {
    if let Some((receiver, networks)) = changes
        && receiver.changed().await.is_ok()
    {
        return receiver.borrow_and_update().addresses(networks);
    }
    std::future::pending().await
}

/// Takes what the first socket has that has something, beginning with another each time.
fn receive(
    shared: &Shared,
    receivers: &mut [Receiver],
    turn: &mut usize,
    cx: &mut Context<'_>,
) -> Poll<(usize, io::Result<()>)> {
    let count = receivers.len();
    for offset in 0..count {
        let index = (*turn + offset) % count;
        let receiver = &mut receivers[index];
        let id = receiver.id;
        if let Poll::Ready(result) = receiver.socket.poll_recv(cx, |datagrams| {
            take(shared, id, datagrams);
        }) {
            *turn = index + 1;
            if result.is_ok() {
                receiver.errors = 0;
            }
            return Poll::Ready((index, result));
        }
    }
    Poll::Pending
}

/// Gives the agent datagrams, sends its answers, and hands on what the peer sent. Says whether its deadline is another now.
pub(super) fn take(
    shared: &Shared,
    socket: SocketId,
    datagrams: &mut dyn Iterator<Item = (SocketAddr, &[u8])>,
) -> bool {
    let now = now();
    let mut data = Vec::new();
    let another_deadline = {
        let mut core = shared.lock();
        let deadline = core.agent.poll_timeout();
        for (from, datagram) in datagrams {
            let received = core.agent.handle_datagram(now, socket, from, datagram);
            data.extend(received.map(|received| Bytes::copy_from_slice(received.data)));
        }
        // What a socket has no room for is lost: checks are repeated.
        drop(shared.flush(&mut core));
        core.agent.poll_timeout() != deadline
    };
    if !data.is_empty() {
        shared.incoming.push(data);
    }
    another_deadline
}

fn take_stream(shared: &Shared, happened: Happened) {
    let mut core = shared.lock();
    match happened {
        Happened::On(stream, StreamEvent::Connected(result)) => {
            if result.is_err() {
                core.streams.close(stream);
            }
            core.agent.stream_connected(now(), stream, result);
        }
        Happened::On(stream, StreamEvent::Closed) => {
            core.streams.close(stream);
            core.agent.stream_closed(now(), stream);
        }
        Happened::On(stream, StreamEvent::Frame(frame)) => {
            let received = core.agent.handle_stream_frame(now(), stream, &frame);
            shared.incoming.push(received.map(|received| Bytes::copy_from_slice(received.data)));
        }
        Happened::Accepted(listener, connection, from) => {
            if let Some(stream) = core.agent.stream_accepted(now(), listener, from) {
                core.streams.take(stream, connection);
            }
        }
    }
}

/// An ICMP error that surfaces on a socket concerns one destination; a socket that only fails is gone.
fn note_error(shared: &Shared, receivers: &mut Vec<Receiver>, index: usize) {
    receivers[index].errors += 1;
    if receivers[index].errors >= MAX_ERRORS {
        let gone = receivers.swap_remove(index);
        let mut core = shared.lock();
        core.sockets.remove(&gone.id);
        core.opened.close(gone.id);
        core.agent.local_socket_lost(now(), gone.id);
    }
}
