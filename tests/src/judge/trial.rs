//! One run of `thirl nat` in the lab of a case.

use std::time::Duration;

use serde_json::Value;

use super::cases::{Case, Place};
use super::servers::{Software, serve, serve_partners};
use crate::harness::{self, Program};
use crate::natlab::{Lab, Node, SRV, SRV_ALTERNATE, SRV_ALTERNATE_V6, SRV_V6, SRV2, SRV2_V6, Site};

/// A diagnosis takes less than ten seconds; the rest is for a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// The provider's end of the line to site A.
const PROVIDER: &str = "100.64.255.5";

/// What a run comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Judgement {
    /// Every value is as expected.
    Right,
    /// Some were not measurable, none was wrong: which.
    Unknown(Vec<String>),
    /// Some were wrong: each with what was found.
    Wrong(Vec<String>),
}

impl Case {
    /// Runs it once, with so much loss on the site's line; the judgement, and all that `thirl nat` said.
    ///
    /// # Errors
    /// If the lab or a program in it failed, in words.
    pub fn run(&self, software: Software, loss_per_mille: u16) -> Result<(Judgement, Value), String> {
        let said = self.diagnose(software, loss_per_mille).map_err(|error| error.to_string())?;
        Ok((self.judge(&said), said))
    }

    fn diagnose(&self, software: Software, loss: u16) -> Result<Value, Box<dyn std::error::Error>> {
        let mut builder = Lab::builder().site(Site::A, self.network.loss_per_mille(loss));
        if let Some(cgn) = self.cgn {
            builder = builder.cgn(cgn);
        }
        if software == Software::Partners {
            builder = builder.second_server();
        }
        let lab = builder.build()?;
        let (mut uris, mut running) = (Vec::new(), Vec::new());
        for place in &self.servers {
            let (node, ips, second) = match place {
                Place::Public => {
                    (Node::Srv, vec![SRV.to_string(), SRV_ALTERNATE.to_string()], SRV2.to_string())
                }
                Place::PublicV6 => {
                    (Node::Srv, vec![SRV_V6.to_string(), SRV_ALTERNATE_V6.to_string()], SRV2_V6.to_string())
                }
                Place::Provider => (Node::Cgn, vec![PROVIDER.to_owned()], String::new()),
            };
            match (software, node) {
                (Software::Partners, Node::Srv) => {
                    running.extend(serve_partners(&lab, [(node, ips[0].clone()), (Node::Srv2, second)])?);
                }
                _ => running.push(serve(&lab, software, node, &ips)?),
            }
            uris.push(match place {
                Place::PublicV6 => format!("stun:[{}]", ips[0]),
                Place::Public | Place::Provider => format!("stun:{}", ips[0]),
            });
        }
        if self.neighbour {
            let mut command = lab.command(Node::A2, harness::lab_prober());
            command.args(["traffic", &SRV.to_string()]);
            let mut neighbour = Program::spawn(command)?;
            neighbour.wait_for_line("ready", LIMIT)?;
            running.push(neighbour);
        }
        let mut arguments: Vec<&str> = self.arguments.clone();
        uris.iter().for_each(|uri| arguments.extend(["--server", uri]));
        diagnose(&lab, self.client, &arguments)
    }

    fn judge(&self, said: &Value) -> Judgement {
        let (mut unknown, mut wrong) = (Vec::new(), Vec::new());
        for (field, expected) in &self.expected {
            let found = said.pointer(&format!("/{}", field.replace('.', "/"))).unwrap_or(&Value::Null);
            if found == expected {
                continue;
            }
            match found {
                Value::Null => unknown.push(field.clone()),
                _ => wrong.push(format!("{field} is {found}, not {expected}")),
            }
        }
        match (wrong.is_empty(), unknown.is_empty()) {
            (false, _) => Judgement::Wrong(wrong),
            (true, false) => Judgement::Unknown(unknown),
            (true, true) => Judgement::Right,
        }
    }
}

/// What `thirl nat --json` says on a node.
///
/// # Errors
/// If it says nothing.
pub fn diagnose(lab: &Lab, node: Node, arguments: &[&str]) -> Result<Value, Box<dyn std::error::Error>> {
    let mut command = lab.command(node, harness::thirl());
    command.args(["nat", "--json"]).args(arguments);
    Ok(Program::spawn(command)?.named("thirl nat").wait_for_json(LIMIT)?)
}
