//! Sockets that the agent asks for, beside others, to find a way through hard NATs: very many, for some seconds. All agents of
//! a process share the room that there is for them.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, getrlimit};

use super::now;
use super::shared::Core;
use super::socket::Socket;
use crate::agent::SocketId;

/// So many there may be in a process: two agents' searches at full width.
const MAX_OPENED: usize = 512;
/// And this part of the files that the process may open, so that enough are left for all else.
const SHARE_OF_FILES: u64 = 4;

static OPENED: AtomicUsize = AtomicUsize::new(0);

/// A place among the sockets of the process, which is given back when this is dropped.
#[derive(Debug)]
struct Place;

impl Place {
    fn take() -> io::Result<Place> {
        let files = getrlimit(Resource::Nofile).current.map_or(u64::MAX, |files| files / SHARE_OF_FILES);
        let most = MAX_OPENED.min(usize::try_from(files).unwrap_or(usize::MAX));
        let one_more = |taken| (taken < most).then_some(taken + 1);
        match OPENED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(Place),
            Err(_) => {
                Err(io::Error::other(format!("this process has {most} sockets open for such searches")))
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        OPENED.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The sockets of one agent.
#[derive(Debug, Default)]
pub(super) struct Opened(BTreeMap<SocketId, (Arc<Socket>, Place)>);

impl Opened {
    pub(super) fn get(&self, id: SocketId) -> Option<&Arc<Socket>> {
        self.0.get(&id).map(|(socket, _)| socket)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SocketId, &Arc<Socket>)> {
        self.0.iter().map(|(id, (socket, _))| (*id, socket))
    }

    pub(super) fn close(&mut self, id: SocketId) {
        self.0.remove(&id);
    }

    /// Closes those that are bound where `gone` says; says which.
    pub(super) fn close_where(&mut self, gone: impl Fn(SocketAddr) -> bool) -> Vec<SocketId> {
        let is_gone = |socket: &Socket| socket.local_addr().is_ok_and(&gone);
        let closed: Vec<_> = self.iter().filter(|(_, socket)| is_gone(socket)).map(|(id, _)| id).collect();
        closed.iter().for_each(|id| self.close(*id));
        closed
    }
}

impl Core {
    /// Binds one more socket on the address of another.
    pub(super) fn open_beside(&mut self, beside: SocketId) {
        let bound = self.bind_beside(beside);
        let local = bound.as_ref().map(|(_, local, _)| *local).map_err(ToString::to_string);
        if let (Some(id), Ok((socket, _, place))) = (self.agent.socket_opened(now(), local), bound) {
            self.opened.0.insert(id, (Arc::new(socket), place));
        }
    }

    fn bind_beside(&self, beside: SocketId) -> io::Result<(Socket, SocketAddr, Place)> {
        let place = Place::take()?;
        let other = self.socket(beside).ok_or(io::ErrorKind::NotFound)?;
        let mut address = other.local_addr()?;
        address.set_port(0);
        let socket = Socket::bind(address)?;
        let local = socket.local_addr()?;
        Ok((socket, local, place))
    }
}
