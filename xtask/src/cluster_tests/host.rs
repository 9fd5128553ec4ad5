//! Policy of nodes: what it denies is refused, what keeps a node alive goes on, and all of it is open again afterwards.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Scenario;
use super::fixture::{ANSWER, Fixture, PATIENCE, SOON, Server};
use crate::image;
use crate::lab::{Lab, target};

const NAME: &str = "nodes";

pub(super) fn scenarios() -> Vec<Scenario> {
    let named: &[super::Named] = &[("policy_of_a_node_is_enforced_and_never_cuts_it_off", host_policy)];
    super::boxed(named)
}

/// Only the cluster comes in; out it is only one port of the outside that is denied.
fn policy(f: &Fixture) -> String {
    let outside = |address: &String| format!("{address}/{}", if address.contains(':') { 128 } else { 32 });
    let outside: Vec<String> = f.outside.iter().map(outside).map(|a| format!("{a:?}")).collect();
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {{name: {NAME}}}\nspec:\n  \
         nodeSelector: {{matchLabels: {{kubernetes.io/hostname: node1}}}}\n  \
         enableDefaultDeny: {{egress: false}}\n  ingress: [{{fromEntities: [cluster]}}]\n  \
         egressDeny: [{{toCIDR: [{}], toPorts: [{{ports: [{{port: \"7000\", protocol: TCP}}]}}]}}]\n",
        outside.join(", ")
    )
}

fn host_policy(lab: &Lab, f: &Fixture) -> Result<()> {
    let _ssh = ssh(lab)?;
    let told = enforced(lab, f);
    lab.cluster.kubectl(&["delete", "--ignore-not-found", "ccnp", NAME])?;
    told?;
    Lab::eventually("open again", SOON, || verdict(lab, f), |v| *v == Verdict::OPEN).map(drop)
}

/// Something that answers on SSH's port of node1.
fn ssh(lab: &Lab) -> Result<Server> {
    let program = image::binary("axoneme-workload").display().to_string();
    let words = [program.as_str(), "serve", "--name", "ssh", "--tcp", "22", "--udp", "7022"];
    Ok(Server(lab.cluster.command_in("node1", &words).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?))
}

/// What passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verdict {
    /// From the outside to node1, and to node2, which nobody selects.
    into: [bool; 2],
    /// From node1 to the outside.
    out: bool,
    /// What nobody may cut: SSH from the outside.
    ssh: bool,
    /// From the other node, and from pods of both nodes.
    cluster: [bool; 3],
}

impl Verdict {
    const OPEN: Self = Self { into: [true; 2], out: true, ssh: true, cluster: [true; 3] };
    const GUARDED: Self = Self { into: [false, true], out: false, ..Self::OPEN };
}

fn verdict(lab: &Lab, f: &Fixture) -> Result<Verdict> {
    let asked = |place: &str, to: &str, patience: Duration| -> Result<bool> {
        let outcomes = lab.probe_from(place, &[to.to_owned()], patience)?;
        Ok(outcomes.first().context("an outcome")?.passed())
    };
    let node = f.node_target(0, 0)?;
    let address = f.nodes.first().and_then(|a| a.first()).context("node1's address")?;
    Ok(Verdict {
        into: [asked("outside", &node, PATIENCE)?, asked("outside", &f.node_target(1, 0)?, ANSWER)?],
        out: asked("node1", &f.outside_target(0)?, PATIENCE)?,
        ssh: asked("outside", &target("tcp", address, 22), ANSWER)?,
        cluster: [
            asked("node2", &node, ANSWER)?,
            lab.passes(&f.client[0], &node, ANSWER)?,
            lab.passes(&f.client[1], &node, ANSWER)?,
        ],
    })
}

fn enforced(lab: &Lab, f: &Fixture) -> Result<()> {
    Lab::eventually("open before", SOON, || verdict(lab, f), |v| *v == Verdict::OPEN)?;
    lab.apply(&policy(f))?;
    lab.condition(&["ccnp", NAME], "Enforced", "True")?;
    Lab::eventually("in force", SOON, || verdict(lab, f), |v| *v == Verdict::GUARDED)?;
    // The API server reaches the kubelet, and the kubelet the API server.
    let said = lab.cluster.kubectl(&["get", "--raw", "/api/v1/nodes/node1/proxy/healthz"])?;
    ensure!(said.trim() == "ok", "the kubelet of node1 says {said:?}");
    let renewed = || -> Result<String> {
        let lease = lab.get(&["-n", "kube-node-lease", "lease", "node1"])?;
        let time = lease.pointer("/spec/renewTime").and_then(serde_json::Value::as_str);
        Ok(time.context("a renewed Lease")?.to_owned())
    };
    let before = renewed()?;
    Lab::eventually("the kubelet renews its Lease", SOON, renewed, |now| *now != before)?;
    ensure!(verdict(lab, f)? == Verdict::GUARDED, "it stays so");
    Ok(())
}
