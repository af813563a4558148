//! `thirl listen`: waits for peers and echoes what they send.

use serde::Serialize;
use thirl_overlay::node::{Connection, DialError, PathDescription};
use thirl_overlay::{NodeId, ServerUrl, Ticket};

use super::node::NodeArguments;
use super::{print_json, print_line};
use crate::error::Failure;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The server to be found at, as HOST, HOST:PORT or ws://…; may be repeated, the first that answers is used.
    #[arg(long = "server", value_name = "HOST", required = true, env = "THIRL_SERVER")]
    servers: Vec<ServerUrl>,
    #[command(flatten)]
    node: NodeArguments,
    /// Do not tell peers that ask what this machine's network does (`thirl nat --against`). Else it is measured for them,
    /// once a minute at the most, and they learn no addresses that a connection would not tell them.
    #[arg(long)]
    no_diagnosis: bool,
    /// Print JSON lines: first {"ticket"}, then one for each connection and each change of its path.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct TicketLine<'a> {
    ticket: &'a Ticket,
    node: NodeId,
}

/// What happened to a connection.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Happened {
    Connected,
    Moved,
    Closed,
    Failed,
}

#[derive(Serialize)]
struct ConnectionLine {
    event: Happened,
    peer: NodeId,
    #[serde(flatten)]
    path: Option<PathDescription>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl ConnectionLine {
    fn print(&self, json: bool) -> Result<(), Failure> {
        if json {
            return print_json(self);
        }
        let peer = self.peer.short();
        let path = self.path.as_ref().map(ToString::to_string).unwrap_or_default();
        let reason = self.reason.as_deref().unwrap_or_default();
        print_line(&match self.event {
            Happened::Connected => format!("{peer} connected: {path}"),
            Happened::Moved => format!("{peer} moved: {path}"),
            Happened::Closed => format!("{peer} closed: {reason}"),
            Happened::Failed => format!("{peer} did not connect: {reason}"),
        })
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let mut node = arguments.node.start(&arguments.servers).await?;
    node.set_diagnosis(!arguments.no_diagnosis);
    let ticket =
        Ticket::new(node.id(), arguments.servers).map_err(|error| Failure::Usage(error.to_string()))?;
    if arguments.json {
        print_json(&TicketLine { ticket: &ticket, node: node.id() })?;
    } else {
        print_line(&format!("Waiting for peers. On another machine:\n\n  thirl ping {ticket}\n"))?;
    }
    loop {
        tokio::select! {
            incoming = node.accept() => {
                let Some(incoming) = incoming else {
                    return Err(Failure::Failed("the server cannot be reached any more".to_owned()));
                };
                let (peer, acceptor) = (incoming.peer(), node.acceptor());
                tokio::spawn(async move { serve(peer, acceptor.answer(incoming).await, arguments.json).await });
            }
            signal = super::interrupted() => {
                tracing::info!("{signal}: ending");
                return Ok(());
            }
        }
    }
}

/// Echoes what the peer sends until the path is gone. Whoever reads our output may have gone away; that ends the echo too.
async fn serve(peer: NodeId, connection: Result<Connection, DialError>, json: bool) {
    let line = |event, path, reason| ConnectionLine { event, peer, path, reason };
    let connection = match connection {
        Ok(connection) => connection,
        Err(error) => {
            line(Happened::Failed, None, Some(error.to_string())).print(json).ok();
            return;
        }
    };
    let mut last = connection.describe();
    if line(Happened::Connected, Some(last.clone()), None).print(json).is_err() {
        return;
    }
    let closed = loop {
        let datagram = match connection.path().recv_datagram().await {
            Ok(datagram) => datagram,
            Err(closed) => break closed,
        };
        if let Err(closed) = connection.path().send(&datagram).await {
            break closed;
        }
        let now = connection.describe();
        if now.path != last.path || now.remote != last.remote {
            line(Happened::Moved, Some(now.clone()), None).print(json).ok();
            last = now;
        }
    };
    line(Happened::Closed, None, Some(closed.to_string())).print(json).ok();
}
