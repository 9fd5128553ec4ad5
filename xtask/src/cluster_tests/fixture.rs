//! The pods that scenarios probe, and a server outside.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::image;
use crate::lab::{Lab, Pod, target};

/// For what must not come through: each drop costs all of this. Probes between pods of one machine answer in a few
/// milliseconds.
pub(super) const PATIENCE: Duration = Duration::from_millis(700);
/// For what must answer: the answer ends the wait. On a busy machine a process may not run for seconds.
pub(super) const ANSWER: Duration = Duration::from_secs(15);
/// How long a change may take to reach every node before a scenario fails: no measure of how long it takes.
pub(super) const SOON: Duration = Duration::from_secs(90);

/// A server process that ends with the fixture.
pub(super) struct Server(pub(super) Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Everything that can be asked or answer.
pub(super) struct Fixture {
    pub(super) client: [Pod; 2],
    pub(super) server: [Pod; 2],
    pub(super) stranger: Pod,
    /// How many address families pods have.
    pub(super) families: usize,
    pub(super) outside: Vec<String>,
    pub(super) nodes: [Vec<String>; 2],
    /// ClusterIP of `default/kubernetes`.
    pub(super) api_server: String,
    _servers: Vec<Server>,
}

impl Fixture {
    /// Applies `tools/tests/fixture.yaml` and starts servers on the outside host and on node1.
    pub(super) fn make(lab: &Lab) -> Result<Self> {
        lab.apply_file("tools/tests/fixture.yaml")?;
        for namespace in ["lab", "other"] {
            lab.cluster
                .kubectl(&["-n", namespace, "wait", "--for=condition=Ready", "pods", "--all", "--timeout=180s"])
                .with_context(|| lab.diagnosis())?;
        }
        let one = |n: &str, s: &str| lab.pod(n, s);
        let client = [one("lab", "app=client,at=node1")?, one("lab", "app=client,at=node2")?];
        let families = client.first().map_or(0, |c| c.addresses.len());
        let texts = |node: &str| -> Result<Vec<String>> {
            Ok(lab.cluster.node_addresses(node)?.iter().map(ToString::to_string).collect())
        };
        Ok(Self {
            client,
            server: [one("lab", "app=server,at=node1")?, one("lab", "app=server,at=node2")?],
            stranger: one("other", "app=stranger")?,
            families,
            outside: lab.cluster.outside_addresses().iter().map(ToString::to_string).collect(),
            api_server: lab.cluster.layout().service_address(1),
            nodes: [texts("node1")?, texts("node2")?],
            _servers: vec![serve(lab, "outside")?, serve(lab, "node1")?, serve(lab, "node2")?],
        })
    }

    /// The n-th address of the outside server, for the workload's TCP port.
    pub(super) fn outside_target(&self, family: usize) -> Result<String> {
        Ok(target("tcp", self.outside.get(family).context("an outside address")?, 7000))
    }

    /// A node's server.
    pub(super) fn node_target(&self, node: usize, family: usize) -> Result<String> {
        let address = self.nodes.get(node).and_then(|a| a.get(family)).context("a node address")?;
        Ok(target("tcp", address, 7000))
    }
}

fn serve(lab: &Lab, place: &str) -> Result<Server> {
    let program = image::binary("axoneme-workload").display().to_string();
    let words = [program.as_str(), "serve", "--name", place, "--tcp", "7000", "--udp", "7001"];
    let child = lab.cluster.command_in(place, &words).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    Ok(Server(child))
}
