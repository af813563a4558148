//! Listening sockets that a service manager has opened and hands over (sd_listen_fds(3)).

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

/// What was handed over, by address. They are taken once: by the server that starts.
#[derive(Clone, Default)]
pub struct Handed(Option<Arc<Inner>>);

struct Inner {
    /// How many UDP sockets each address has.
    udp: BTreeMap<SocketAddr, usize>,
    tcp: Vec<SocketAddr>,
    sockets: Mutex<Sockets>,
}

#[derive(Default)]
struct Sockets {
    udp: Vec<(SocketAddr, UdpSocket)>,
    tcp: Vec<(SocketAddr, TcpListener)>,
}

impl Handed {
    /// Takes those that the environment tells of (`LISTEN_FDS`); nothing is handed over to most programs.
    pub fn from_environment() -> io::Result<Handed> {
        let mut fds = listenfd::ListenFd::from_env();
        let mut sockets = Sockets::default();
        for index in 0..fds.len() {
            // Which of the two it is, only trying tells.
            if let Ok(Some(socket)) = fds.take_udp_socket(index) {
                sockets.udp.push((socket.local_addr()?, socket));
            } else if let Some(listener) = fds.take_tcp_listener(index)? {
                sockets.tcp.push((listener.local_addr()?, listener));
            }
        }
        Ok(Handed::of(sockets))
    }

    fn of(sockets: Sockets) -> Handed {
        if sockets.udp.is_empty() && sockets.tcp.is_empty() {
            return Handed(None);
        }
        let mut udp = BTreeMap::new();
        sockets.udp.iter().for_each(|(addr, _)| *udp.entry(*addr).or_default() += 1);
        let tcp = sockets.tcp.iter().map(|(addr, _)| *addr).collect();
        Handed(Some(Arc::new(Inner { udp, tcp, sockets: Mutex::new(sockets) })))
    }

    /// Takes those at this port for something else: UDP sockets for another server, and TCP listeners.
    pub fn split_off(&mut self, port: u16) -> (Handed, Vec<TcpListener>) {
        let Some(inner) = self.0.take() else { return (Handed(None), Vec::new()) };
        let mut rest = std::mem::take(&mut *inner.sockets.lock().unwrap_or_else(PoisonError::into_inner));
        let udp = rest.udp.extract_if(.., |(addr, _)| addr.port() == port).collect();
        let listeners = rest.tcp.extract_if(.., |(addr, _)| addr.port() == port);
        let listeners = listeners.map(|(_, listener)| listener).collect();
        *self = Handed::of(rest);
        (Handed::of(Sockets { udp, tcp: Vec::new() }), listeners)
    }

    /// Where they listen by UDP and by TCP; `None` if nothing was handed over.
    pub(super) fn addrs(&self) -> Option<(Vec<SocketAddr>, Vec<SocketAddr>)> {
        let inner = self.0.as_ref()?;
        Some((inner.udp.keys().copied().collect(), inner.tcp.clone()))
    }

    /// How many shards can have a UDP socket of their own at each address, which a five-tuple stays with.
    pub(super) fn shards(&self) -> Option<NonZeroUsize> {
        self.0.as_ref()?.udp.values().copied().min().and_then(NonZeroUsize::new)
    }

    /// All UDP sockets of this address.
    pub(super) fn take_udp(&self, addr: SocketAddr) -> Vec<UdpSocket> {
        self.take(|sockets| &mut sockets.udp, addr)
    }

    /// The TCP listeners of this address.
    pub(super) fn take_tcp(&self, addr: SocketAddr) -> Vec<TcpListener> {
        self.take(|sockets| &mut sockets.tcp, addr)
    }

    fn take<T>(&self, of: fn(&mut Sockets) -> &mut Vec<(SocketAddr, T)>, addr: SocketAddr) -> Vec<T> {
        let Some(inner) = &self.0 else { return Vec::new() };
        let mut sockets = inner.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        of(&mut sockets).extract_if(.., |(at, _)| *at == addr).map(|(_, socket)| socket).collect()
    }
}

impl PartialEq for Handed {
    fn eq(&self, other: &Handed) -> bool {
        self.addrs() == other.addrs()
    }
}

impl Eq for Handed {}

impl fmt::Debug for Handed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handed").field(&self.addrs()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn what_is_at_a_port_is_split_off() {
        let udp = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let tcp = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (one, other, listener) = (udp(), udp(), tcp());
        let [one_at, other_at, listens] =
            [one.local_addr(), other.local_addr(), listener.local_addr()].map(Result::unwrap);
        let mut handed = Handed::of(Sockets {
            udp: vec![(one_at, one), (other_at, other)],
            tcp: vec![(listens, listener)],
        });
        let (there, listeners) = handed.split_off(one_at.port());
        assert_eq!(there.addrs(), Some((vec![one_at], Vec::new())));
        assert_eq!((there.take_udp(one_at).len(), listeners.len()), (1, 0));
        assert_eq!(handed.addrs(), Some((vec![other_at], vec![listens])));
        let (nothing, listeners) = handed.split_off(listens.port());
        assert_eq!((nothing.addrs(), listeners.len()), (None, 1));
        drop(handed.split_off(other_at.port()));
        assert_eq!(handed.addrs(), None, "as if nothing had been handed over");
    }
}
