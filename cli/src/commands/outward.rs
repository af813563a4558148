//! How servers are reached over TCP, TLS and DTLS: through which proxy, and whose certificates are believed.

use std::path::PathBuf;

use thirl_ice_agent::driver::{HttpProxy, Outward, Trust};

use crate::error::Failure;

/// Where other programs look for the proxy of connections that are not HTTP in the clear.
const VARIABLES: [&str; 2] = ["https_proxy", "HTTPS_PROXY"];
/// Where they look for the hosts that are reached without it.
const EXCEPT: [&str; 2] = ["no_proxy", "NO_PROXY"];

#[derive(clap::Args, Default)]
pub(crate) struct OutwardArguments {
    /// Believe the authorities whose certificates stand in this PEM file, and no others, when a TURN server over TLS or
    /// DTLS says who it is.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Reach servers over TCP and TLS through this HTTP proxy, `http://[USER:PASSWORD@]HOST[:PORT]`, or `https://` where the
    /// proxy itself is spoken to over TLS. Default: what `https_proxy` says. Not for the hosts that `no_proxy` names.
    #[arg(long, value_name = "URL")]
    proxy: Option<HttpProxy>,
}

impl OutwardArguments {
    /// Both.
    pub(crate) fn outward(&self) -> Result<Outward, Failure> {
        Ok(Outward { trust: self.trust()?, proxy: self.proxy()? })
    }

    /// Whose certificates are believed.
    fn trust(&self) -> Result<Trust, Failure> {
        let Some(path) = &self.ca else { return Ok(Trust::system()) };
        let wrong =
            |error: &dyn std::fmt::Display| Failure::Usage(format!("--ca {}: {error}", path.display()));
        let pem = std::fs::read(path).map_err(|error| wrong(&error))?;
        Trust::only(&pem).map_err(|error| wrong(&error))
    }

    /// Through what streams go.
    fn proxy(&self) -> Result<Option<HttpProxy>, Failure> {
        let proxy = match (&self.proxy, first_of(&VARIABLES)) {
            (Some(proxy), _) => proxy.clone(),
            (None, Some((name, value))) => {
                value.parse().map_err(|error| Failure::Usage(format!("{name}: {error}")))?
            }
            (None, None) => return Ok(None),
        };
        let except = first_of(&EXCEPT).map(|(_, hosts)| hosts).unwrap_or_default();
        Ok(Some(proxy.except(&except)))
    }
}

/// The first of these variables that says something.
fn first_of(variables: &[&'static str]) -> Option<(&'static str, String)> {
    variables.iter().find_map(|name| {
        let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
        Some((*name, value))
    })
}
