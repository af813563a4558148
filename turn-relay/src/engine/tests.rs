//! Tests of the engine as a whole, by subject.

mod authentication;
mod credentials;
mod data;
mod lifecycle;
mod model;
mod peers;
