//! Nonblocking sockets for a shard: one thread, one engine, no runtime.
//!
//! # The way of a packet
//! 1. [`ShardIo::turn`] sends what is queued, waits, takes what came by any [`DatagramSocket`] into an arena allocated once,
//!    and lists the other descriptors that are ready (streams, listeners, wakers).
//! 2. The shard walks [`ShardIo::received`]; each datagram lies in the arena with [`HEADROOM`] before it.
//! 3. For a relayed datagram the shard calls [`ShardIo::forward`] with the range to send on and a prefix (a ChannelData
//!    or a Data indication header), which is written into the headroom: the payload is not copied. Control messages go by
//!    [`ShardIo::send`], which copies them.
//! 4. The next [`ShardIo::turn`] starts with sending the queue, or [`ShardIo::flush`] does it now. No part of the arena is
//!    filled anew while something queued still lies in it.
//!
//! A datagram that cannot be sent costs itself and no other: see [`ShardIo::failures`] and [`DatagramCounters`].
//! Streams are read and written by [`StreamConn`] when [`ShardIo::turn`] says that they are ready; `ClientConn` (feature `tls`)
//! does the same, with TLS in between if the client begins so; [`Splice`] passes on what two of them send each other.
//!
//! ```no_run
//! # use std::time::Duration;
//! use thirl_common::io::{BindOptions, IoOptions, Route, ShardIo};
//!
//! let mut io = ShardIo::new(IoOptions::default())?;
//! let server = io.add(BindOptions { packet_info: true, ..BindOptions::default() }.bind("0.0.0.0:3478".parse().unwrap())?, 0)?;
//! let mut events = Vec::new();
//! loop {
//!     io.turn(Some(Duration::from_secs(1)), &mut events)?;
//!     for index in 0..io.received_len() {
//!         let Some(datagram) = io.received(index) else { break };
//!         let answer = Route { socket: server, to: datagram.from, source: datagram.local };
//!         let all = 0..datagram.payload.len();
//!         io.forward(index, all, b"echo: ", 0, answer);
//!     }
//! }
//! # #[allow(unreachable_code)] Ok::<(), std::io::Error>(())
//! ```
//!
//! Beside that stands what measures a path: [`take_error`] reads the ICMP errors that a socket's datagrams met with, and
//! [`set_fragmentation`] says whether they may be cut, [`path_mtu`] what passes uncut as far as this host knows.
//!
//! # Ways to ask the kernel
//! [`ShardIo`] owns the sockets, and leaves arena, queue (`batch.rs`) and system calls to a back end (`backend.rs`):
//!
//! - `uring.rs`, the data path: multishot receives into buffers that are the arena's slots, and one system call a turn for
//!   receives and sends of all sockets. Streams and wakers stay on the poller, whose descriptor the ring watches.
//! - `epoll.rs`, where io_uring is missing or forbidden: a `recvmmsg` for each socket that is ready, and a `sendmmsg` for
//!   each run of datagrams by one socket.
//!
//! [`IoOptions::technique`] chooses, [`ShardIo::technique`] says which one it is.
//!
//! # Trains
//! Datagrams of one flow and one length may cross the kernel as one: because their sender sent them so (GSO), or because the
//! card or the driver joined them (GRO). Such a train arrives in one slot, and [`ShardIo::received`] lists its datagrams one
//! by one, so that nobody else need know. Sending, datagrams that follow each other in the queue with one [`Route`] and one
//! length leave as a train, whether they came as one or not. Between the datagrams of a train there is no headroom: a
//! prefix is kept aside, and the train leaves as pieces that the kernel gathers. A train that the system refuses, for its
//! datagrams are longer than the path takes, goes once more as single datagrams, which later ones may overtake.
//!
//! # Systems
//! Linux. `batch.rs` and `stream.rs` are portable; another Unix needs its own `sys.rs`, `poller.rs` and `mmsg.rs`, and goes
//! without `uring.rs`.

mod backend;
mod batch;
mod buffer;
mod datagram;
mod descriptors;
mod epoll;
mod error_queue;
mod memory;
mod mmsg;
mod poller;
mod shard;
#[cfg(feature = "tls")]
mod splice;
mod stream;
mod sys;
#[cfg(feature = "tls")]
mod tls;
mod uring;

pub use backend::{Technique, UnknownTechnique};
pub use batch::{HEADROOM, Received, Route};
pub use datagram::{BindOptions, DatagramSocket, internet_facing_ips, local_address_towards, path_mtu};
pub use descriptors::make_room_for_descriptors;
pub use error_queue::{Fragmentation, report_errors, set_fragmentation, take_error};
pub use memory::return_memory;
pub use poller::{Event, Interest, Poller, TOKEN_LIMIT, Waker};
pub use shard::{DatagramCounters, IoOptions, SendFailure, ShardIo, SocketId};
#[cfg(feature = "tls")]
pub use splice::{Side, Splice, Spliced};
pub use stream::{
    Accepted, Connecting, ListenOptions, ReadOutcome, StreamConn, StreamLimits, StreamListener, TakeError,
    WriteOutcome,
};
#[cfg(feature = "tls")]
pub use tls::ClientConn;

#[cfg(test)]
mod tests;
