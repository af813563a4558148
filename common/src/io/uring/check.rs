//! Whether io_uring can be used here, and if not, why.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::Uring;
use crate::io::backend::{Technique, is_fatal};
use crate::io::batch::Route;
use crate::io::datagram::BindOptions;
use crate::io::shard::{IoOptions, ShardIo};

/// Whether this kernel, and what guards it, lets us do all that is needed: tries it on a socket of its own.
pub(in crate::io) fn check() -> io::Result<()> {
    let options = IoOptions {
        slots: 4,
        max_datagram: 64,
        per_socket: 1,
        trains: false,
        technique: Some(Technique::IoUring),
    };
    let mut io = ShardIo::over(Box::new(Uring::new(&options)?), &options)?;
    let any: [SocketAddr; 2] = [(Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv6Addr::UNSPECIFIED, 0).into()];
    let Some(socket) = any.iter().find_map(|any| BindOptions::default().bind(*any).ok()) else {
        return Ok(());
    };
    let to = match socket.local_addr()? {
        SocketAddr::V4(addr) => SocketAddr::from((Ipv4Addr::LOCALHOST, addr.port())),
        SocketAddr::V6(addr) => SocketAddr::from((Ipv6Addr::LOCALHOST, addr.port())),
    };
    let socket = io.add(socket, 0)?;
    io.send(Route { socket, to, source: None }, b"");
    io.turn(Some(Duration::ZERO), &mut Vec::new())?;
    // There may be no loopback, but there must be such a request.
    if let Some(failure) = io.failures().iter().find(|failure| is_fatal(failure.errno)) {
        return Err(io::Error::from_raw_os_error(failure.errno));
    }
    io.remove(socket);
    Ok(())
}

/// Says why there is no io_uring, and what would help.
pub(in crate::io) fn explain(error: &io::Error) -> io::Error {
    let why = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "forbidden here: by kernel.io_uring_disabled or a container's seccomp rules"
        }
        Some(libc::ENOSYS) => "this kernel has none, or a container's seccomp rules hide it",
        Some(libc::EINVAL | libc::EOPNOTSUPP) => "this kernel's lacks what is needed, which Linux 6.1 has",
        Some(libc::ENOMEM) => {
            "no memory for it: see the limits of locked memory (ulimit -l) and of the control group"
        }
        _ => "refused",
    };
    io::Error::new(error.kind(), format!("io_uring cannot be used: {why} ({error})"))
}
