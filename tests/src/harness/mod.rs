//! How a test runs programs: [`Program`] spawns and reads one, [`binaries`](thirl) finds ours, [`Relay`] starts one, [`Coturn`] that of others, [`Certificate`] is
//! what they prove themselves with, [`Deadline`] bounds every wait, and [`requires!`](crate::requires) says why a test could not run.
//! [`turn`] is a client that does as a test says, [`http_get`] one of HTTP, [`Chromium`] a browser, [`Site`] a page
//! for it.

mod allocation;
mod binaries;
mod certificate;
mod chromium;
mod coturn;
mod deadline;
mod http;
mod ports;
mod program;
mod relay;
mod requires;
mod site;
pub mod turn;

pub use allocation::{Allocation, Login};
pub use binaries::{c_library, lab_prober, python, stun_server, thirl, turn_relay};
pub use certificate::Certificate;
pub use chromium::Chromium;
pub use coturn::Coturn;
pub use deadline::Deadline;
pub use http::http_get;
pub use ports::{free_tcp_port, free_udp_port};
pub use program::{Line, Program, ProgramError};
pub use relay::Relay;
pub use requires::{could_not_run, installed};
pub use site::Site;
