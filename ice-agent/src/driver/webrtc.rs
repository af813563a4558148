//! A path as a `webrtc_util::Conn`, so that DTLS, SCTP and SRTP of webrtc-rs run over it.

use std::any::Any;
use std::net::SocketAddr;

use async_trait::async_trait;
use webrtc_util::{Conn, Error};

use super::path::Path;

/// A path has one peer, so that addresses which are given to it mean nothing.
#[async_trait]
impl Conn for Path {
    async fn connect(&self, _: SocketAddr) -> Result<(), Error> {
        Ok(())
    }

    async fn recv(&self, buffer: &mut [u8]) -> Result<usize, Error> {
        Path::recv(self, buffer).await.map_err(Error::from_std)
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> Result<(usize, SocketAddr), Error> {
        let len = Path::recv(self, buffer).await.map_err(Error::from_std)?;
        Ok((len, self.remote()))
    }

    async fn send(&self, data: &[u8]) -> Result<usize, Error> {
        Path::send(self, data).await.map_err(Error::from_std)?;
        Ok(data.len())
    }

    async fn send_to(&self, data: &[u8], _: SocketAddr) -> Result<usize, Error> {
        Conn::send(self, data).await
    }

    fn local_addr(&self) -> Result<SocketAddr, Error> {
        Ok(self.local())
    }

    fn remote_addr(&self) -> Option<SocketAddr> {
        Some(self.remote())
    }

    /// Closes the agent and all its paths.
    async fn close(&self) -> Result<(), Error> {
        Path::close(self).await;
        Ok(())
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }
}
