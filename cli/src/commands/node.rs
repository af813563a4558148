//! What `listen` and `ping` have in common: a node that is reachable through a server.

use std::path::PathBuf;

use rand::TryRngCore;
use thirl_ice_agent::agent::Policy;
use thirl_overlay::NodeKey;
use thirl_overlay::node::Node;
use thirl_overlay::signalling::{ServerUrl, WebSocketSignalling};

use super::outward::OutwardArguments;
use crate::error::Failure;

/// Who this node is, and how it lets itself be reached.
#[derive(clap::Args)]
pub(crate) struct NodeArguments {
    /// File with this node's key; made if it does not exist. Default: a new key each time.
    #[arg(long, value_name = "FILE", env = "THIRL_KEY")]
    pub(super) key: Option<PathBuf>,
    /// Which candidates may be used: `relay` hides this machine's addresses from the other side.
    #[arg(long, value_enum, default_value_t = PolicyArgument::All)]
    pub(super) policy: PolicyArgument,
    #[command(flatten)]
    pub(super) outward: OutwardArguments,
}

/// [`Policy`] as a flag.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum PolicyArgument {
    All,
    Relay,
}

impl From<PolicyArgument> for Policy {
    fn from(policy: PolicyArgument) -> Policy {
        match policy {
            PolicyArgument::All => Policy::All,
            PolicyArgument::Relay => Policy::Relay,
        }
    }
}

impl NodeArguments {
    /// Connects to the first of the servers that takes this node.
    pub(crate) async fn start(&self, servers: &[ServerUrl]) -> Result<Node, Failure> {
        let key = self.node_key()?;
        let outward = self.outward.outward()?;
        let mut problems = Vec::new();
        for server in servers {
            match WebSocketSignalling::connect_by(server.clone(), &key, outward.clone()).await {
                Ok(signalling) => {
                    let mut node = Node::start(key, signalling);
                    node.set_policy(self.policy.into());
                    node.set_outward(outward);
                    return Ok(node);
                }
                Err(error) => problems.push(error.to_string()),
            }
        }
        Err(Failure::Failed(problems.join("; ")))
    }

    fn node_key(&self) -> Result<NodeKey, Failure> {
        let mut seed = [0; 32];
        let filled = rand::rngs::OsRng.try_fill_bytes(&mut seed);
        filled.map_err(|error| Failure::of("the system's random number generator", error))?;
        match &self.key {
            None => Ok(NodeKey::from_seed(&seed)),
            Some(path) => {
                let loaded = NodeKey::load_or_create(path, &seed);
                loaded.map(|(key, _)| key).map_err(|error| Failure::Usage(error.to_string()))
            }
        }
    }
}
