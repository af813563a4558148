//! STUN over TCP to port 3478: an answer proves more than a connection, which a proxy can fake.

use std::net::SocketAddr;

use thirl_common::wire::TransactionId;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::{Came, LIMIT, connect};
use crate::nat::driver::read_frame;
use crate::nat::probe::{is_response, plain_request};
use crate::nat::surroundings::reach::Outcome;

pub(super) async fn attempt(to: SocketAddr, id: TransactionId) -> Came {
    let mut stream = match connect(to).await {
        Ok(stream) => stream,
        Err(came) => return came,
    };
    let answer = async {
        stream.write_all(&plain_request(id, to)).await?;
        read_frame(&mut stream).await
    };
    match timeout(LIMIT, answer).await {
        Ok(Ok(frame)) if is_response(&frame, id) => (Outcome::Open, "STUN answered".to_owned()),
        Ok(Ok(_)) => (Outcome::Intercepted, "something answered that is no answer to STUN".to_owned()),
        Ok(Err(error)) => {
            (Outcome::Accepted, format!("it was connected, but STUN was not answered: {error}"))
        }
        Err(_) => (Outcome::Accepted, "it was connected, but STUN was not answered".to_owned()),
    }
}
