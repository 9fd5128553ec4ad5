//! What the API shows: conditions, identities, bad objects one by one, and no write without a cause.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Scenario;
use super::fixture::{Fixture, PATIENCE, SOON};
use crate::lab::{Lab, SYSTEM};

pub(super) fn scenarios() -> Vec<Scenario> {
    let named: &[super::Named] = &[
        ("policy_shows_valid_and_enforced_on_all_nodes", enforced),
        ("unsupported_field_is_named_and_nothing_is_half_enforced", unsupported),
        ("broken_object_leaves_others_alone", broken),
        ("identities_carry_only_labels_that_a_selector_reads", identities),
        ("every_node_has_a_ciliumnode_with_addresses", cilium_nodes),
        ("nothing_is_written_when_nothing_changes", quiet),
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

/// A policy that the API server accepts and Axoneme can't: an invalid CIDR in a group, a port that is no number.
fn broken(lab: &Lab, f: &Fixture) -> Result<()> {
    lab.apply(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: broken, namespace: other}\nspec:\n  endpointSelector: \
         {matchLabels: {app: nobody}}\n  ingress: [{fromEndpoints: [{matchExpressions: [{key: a, operator: In, values: []}]}]}]\n",
    )?;
    lab.apply(ALLOW)?;
    lab.condition(&["-n", "lab", "cnp", "shown"], "Enforced", "True")?;
    let denied = || lab.passes(&f.stranger, &f.server[0].target("tcp", 0, 8080)?, PATIENCE);
    Lab::eventually("the good policy is in force", SOON, denied, |ok| !*ok)?;
    let told = lab.condition(&["-n", "other", "cnp", "broken"], "Valid", "False");
    delete(lab, &["-n", "lab", "cnp", "shown"])?;
    delete(lab, &["-n", "other", "cnp", "broken"])?;
    let condition = told?;
    let message = condition.get("message").and_then(Value::as_str).unwrap_or_default();
    ensure!(message.contains("values"), "message {message:?}");
    Ok(())
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

/// Resource versions of all that the product writes, and the kernel writes of the agents.
fn written(lab: &Lab) -> Result<BTreeMap<String, String>> {
    let mut seen = BTreeMap::new();
    for kind in [
        "ciliumnodes",
        "ciliumidentities",
        "ciliumnetworkpolicies",
        "ciliumclusterwidenetworkpolicies",
        "axonemeconfigs",
        "configmaps",
    ] {
        let list = lab.get(&["-A", kind])?;
        for item in list.get("items").and_then(Value::as_array).cloned().unwrap_or_default() {
            let part = |p: &str| item.pointer(p).and_then(Value::as_str).unwrap_or_default().to_owned();
            let key = format!("{kind} {}/{}", part("/metadata/namespace"), part("/metadata/name"));
            seen.insert(key, part("/metadata/resourceVersion"));
        }
    }
    for agent in lab.pods(SYSTEM, "app.kubernetes.io/name=axoneme-agent")? {
        let status: Value = serde_json::from_str(&lab.exec(&agent, &["axoneme", "status", "-o", "json"])?)?;
        let writes =
            status.pointer("/counters/kernel_writes").with_context(|| format!("no kernel_writes in {status}"))?;
        seen.insert(format!("kernel writes of {}", agent.node), writes.to_string());
    }
    Ok(seen)
}

fn quiet(lab: &Lab, _: &Fixture) -> Result<()> {
    // earlier scenarios' last changes may still be on their way
    let mut before = written(lab)?;
    let settle = || {
        let now = written(lab)?;
        let same = now == before;
        before = now;
        std::thread::sleep(Duration::from_secs(1));
        Ok(same)
    };
    Lab::eventually("quiet", Duration::from_secs(20), settle, |same| *same)?;
    std::thread::sleep(Duration::from_secs(10));
    let after = written(lab)?;
    let changed: Vec<&String> = after.iter().filter(|(k, v)| before.get(*k) != Some(*v)).map(|(k, _)| k).collect();
    ensure!(changed.is_empty(), "written within ten quiet seconds: {changed:?}");
    Ok(())
}
