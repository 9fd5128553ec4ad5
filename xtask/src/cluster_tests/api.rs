//! What the API shows: conditions, identities, nodes.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::Scenario;
use super::fixture::{Fixture, PATIENCE, SOON};
use crate::lab::Lab;

pub(super) fn scenarios() -> Vec<Scenario> {
    let named: &[super::Named] = &[
        ("policy_shows_valid_and_enforced_on_all_nodes", enforced),
        ("unsupported_field_is_named_and_nothing_is_half_enforced", unsupported),
        ("identities_carry_only_labels_that_a_selector_reads", identities),
        ("every_node_has_a_ciliumnode_with_addresses", cilium_nodes),
    ];
    super::boxed(named)
}

const ALLOW: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: shown, namespace: lab}\nspec:\n  \
    endpointSelector: {matchLabels: {app: server}}\n  ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]\n";

fn delete(lab: &Lab, words: &[&str]) -> Result<()> {
    let mut all = vec!["delete", "--ignore-not-found"];
    all.extend(words);
    lab.cluster.kubectl(&all).map(drop)
}

fn enforced(lab: &Lab, _: &Fixture) -> Result<()> {
    lab.apply(ALLOW)?;
    lab.condition(&["-n", "lab", "cnp", "shown"], "Valid", "True")?;
    let condition = lab.condition(&["-n", "lab", "cnp", "shown"], "Enforced", "True")?;
    let message = condition.get("message").and_then(Value::as_str).unwrap_or_default().to_owned();
    delete(lab, &["-n", "lab", "cnp", "shown"])?;
    ensure!(message.contains("2/2 nodes"), "message {message:?}");
    Ok(())
}

fn unsupported(lab: &Lab, f: &Fixture) -> Result<()> {
    lab.apply(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: seven, namespace: lab}\nspec:\n  endpointSelector: \
         {matchLabels: {app: server}}\n  ingress:\n    - fromEndpoints: [{matchLabels: {app: client}}]\n      toPorts:\n        - \
         ports: [{port: \"8080\", protocol: TCP}]\n          rules: {http: [{method: GET}]}\n",
    )?;
    let condition = lab.condition(&["-n", "lab", "cnp", "seven"], "Valid", "False")?;
    delete(lab, &["-n", "lab", "cnp", "seven"])?;
    let text = |k: &str| condition.get(k).and_then(Value::as_str).unwrap_or_default().to_owned();
    ensure!(text("reason") == "Unsupported", "reason {:?}", text("reason"));
    ensure!(text("message").contains("spec.ingress[0].toPorts[0].rules"), "message {:?}", text("message"));
    let open = || lab.passes(&f.stranger, &f.server[0].target("tcp", 0, 8080)?, PATIENCE);
    Lab::eventually("open again after the policy was deleted", SOON, open, |ok| *ok).map(drop)
}

fn identities(lab: &Lab, _: &Fixture) -> Result<()> {
    lab.cluster.kubectl(&["-n", "lab", "label", "pod", "client-1", "noise=abc123", "--overwrite"])?;
    lab.apply(ALLOW)?;
    lab.condition(&["-n", "lab", "cnp", "shown"], "Enforced", "True")?;
    let list = lab.get(&["ciliumidentities"])?;
    delete(lab, &["-n", "lab", "cnp", "shown"])?;
    let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    let labels: Vec<&Value> = items.iter().filter_map(|i| i.get("security-labels")).collect();
    let has = |l: &Value, k: &str, v: &str| l.get(k).and_then(Value::as_str) == Some(v);
    ensure!(
        labels.iter().any(|l| has(l, "k8s:app", "client") && has(l, "k8s:io.kubernetes.pod.namespace", "lab")),
        "no identity for app=client in lab: {labels:?}"
    );
    ensure!(!labels.iter().any(|l| l.get("k8s:noise").is_some()), "label noise became an identity: {labels:?}");
    Ok(())
}

fn cilium_nodes(lab: &Lab, f: &Fixture) -> Result<()> {
    for (n, addresses) in f.nodes.iter().enumerate() {
        let name = format!("node{}", n + 1);
        let object = lab.get(&["ciliumnode", &name])?;
        let text = object.get("spec").map(Value::to_string).unwrap_or_default();
        for a in addresses {
            ensure!(text.contains(a), "CiliumNode {name} lacks {a}: {text}");
        }
        ensure!(object.pointer("/spec/ipam/podCIDRs/0").is_some(), "CiliumNode {name} has no pod CIDR: {text}");
    }
    Ok(())
}
