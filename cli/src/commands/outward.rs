//! How TURN servers are reached over TCP, TLS and DTLS: through which proxy, and whose certificates are believed.

use std::path::PathBuf;

use thirl_ice_agent::driver::{HttpProxy, Trust};

use crate::error::Failure;

/// Where other programs look for the proxy of connections that are not HTTP in the clear.
const VARIABLES: [&str; 2] = ["https_proxy", "HTTPS_PROXY"];

#[derive(clap::Args)]
pub(crate) struct OutwardArguments {
    /// Believe the authorities whose certificates stand in this PEM file, and no others, when a TURN server over TLS or
    /// DTLS says who it is.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Reach TURN servers over TCP and TLS through this HTTP proxy, `http://[USER:PASSWORD@]HOST[:PORT]`. Default: what
    /// `https_proxy` says.
    #[arg(long, value_name = "URL")]
    proxy: Option<HttpProxy>,
}

impl OutwardArguments {
    /// Whose certificates are believed.
    pub(crate) fn trust(&self) -> Result<Trust, Failure> {
        let Some(path) = &self.ca else { return Ok(Trust::system()) };
        let wrong =
            |error: &dyn std::fmt::Display| Failure::Usage(format!("--ca {}: {error}", path.display()));
        let pem = std::fs::read(path).map_err(|error| wrong(&error))?;
        Trust::only(&pem).map_err(|error| wrong(&error))
    }

    /// Through what streams go.
    pub(crate) fn proxy(&self) -> Result<Option<HttpProxy>, Failure> {
        if self.proxy.is_some() {
            return Ok(self.proxy.clone());
        }
        let set = VARIABLES.iter().find_map(|name| {
            let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
            Some((name, value))
        });
        set.map(|(name, value)| value.parse().map_err(|error| Failure::Usage(format!("{name}: {error}"))))
            .transpose()
    }
}
