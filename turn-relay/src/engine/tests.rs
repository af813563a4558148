//! Tests of the engine as a whole, by subject.

mod authentication;
mod credentials;
mod data;
mod forbidden_peers;
mod icmp;
mod lifecycle;
mod mobility;
mod peers;
mod realms;
mod redirect;
mod tcp;
