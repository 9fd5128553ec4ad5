//! A new version rolls out under traffic; and when the product goes, nothing of it stays.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::fixture::{Fixture, PATIENCE, SOON};
use super::inventory::{self, Things};
use super::runtime;
use super::traffic::under_traffic;
use super::{Removal, Scenario, command_line};
use crate::image;
use crate::lab::{Lab, SYSTEM};
use crate::settings;

/// Tag of the images that the product is upgraded to.
const NEXT: &str = "next";

pub(super) fn scenarios() -> Vec<Scenario> {
    let named: &[super::Named] = &[("rollout_of_another_version_and_back_loses_no_packet", rollout)];
    super::boxed(named)
}

/// Images that the product's pods run.
fn running(lab: &Lab) -> Result<Vec<String>> {
    let mut images = Vec::new();
    for app in ["axoneme-agent", "axoneme-operator"] {
        for pod in runtime::product(lab, app)? {
            let object = lab.get(&["-n", SYSTEM, "pod", &pod.name])?;
            let image = object.pointer("/spec/containers/0/image").and_then(Value::as_str).unwrap_or_default();
            images.push(image.to_owned());
        }
    }
    Ok(images)
}

fn roll(lab: &Lab, tag: &str) -> Result<()> {
    let at = |name: &str| format!("{name}={}:{tag}", image::reference(name).trim_end_matches(":dev"));
    // the operator first, as its newer version serves older agents
    lab.cluster.kubectl(&["-n", SYSTEM, "set", "image", "deployment/axoneme-operator", &at("operator")])?;
    lab.rollout(SYSTEM, "deployment/axoneme-operator")?;
    lab.cluster.kubectl(&["-n", SYSTEM, "set", "image", "daemonset/axoneme-agent", &at("agent")])?;
    lab.rollout(SYSTEM, "daemonset/axoneme-agent")?;
    let images = running(lab)?;
    ensure!(images.iter().all(|i| i.ends_with(&format!(":{tag}"))), "after the rollout of {tag}: {images:?}");
    Ok(())
}

fn rollout(lab: &Lab, f: &Fixture) -> Result<()> {
    for node in lab.cluster.nodes() {
        for name in ["operator", "agent"] {
            let (from, to) = (image::reference(name), image::reference(name).replace(":dev", &format!(":{NEXT}")));
            lab.cluster.node_exec(&node, &["ctr", "--namespace=k8s.io", "images", "tag", "--force", &from, &to])?;
        }
    }
    let yaml = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: rolled, namespace: lab}\nspec: {podSelector: \
                {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]}\n";
    lab.apply(yaml)?;
    let denied = || lab.passes(&f.stranger, &f.server[1].target("tcp", 0, 8080)?, PATIENCE);
    let told = Lab::eventually("in force", SOON, denied, |ok| !*ok).and_then(|_| {
        under_traffic(lab, f, || {
            roll(lab, NEXT)?;
            ensure!(!denied()?, "the rollout let a stranger in");
            roll(lab, image::TAG)
        })?;
        ensure!(!denied()?, "the way back let a stranger in");
        Ok(())
    });
    lab.cluster.kubectl(&["-n", "lab", "delete", "networkpolicy", "rolled"])?;
    told
}

/// Everything of each node that a network product may change, before it is installed.
pub(super) fn before(lab: &Lab) -> Result<BTreeMap<String, Things>> {
    lab.cluster.nodes().into_iter().map(|node| Ok((node.clone(), inventory::of(lab, &node)?))).collect()
}

/// Takes the product away, and compares each node with what it was before.
pub(super) fn uninstalled(lab: &Lab, before: &BTreeMap<String, Things>, removal: Removal) -> Result<()> {
    // pods of the tests would lose their network under their feet
    let namespaces = lab.cluster.kubectl(&["get", "namespaces", "-o", "name"])?;
    let own = |n: &&str| !n.contains("/kube-") && !n.ends_with("/default") && !n.ends_with(SYSTEM);
    for namespace in namespaces.split_whitespace().filter(own) {
        lab.cluster.kubectl(&["delete", namespace, "--wait=false"])?;
    }
    lab.cluster.kubectl(&["-n", "kube-system", "delete", "deployment", "coredns", "--ignore-not-found"])?;
    lab.cluster.kubectl(&["-n", SYSTEM, "scale", "deployment", "hubble-relay", "--replicas=0"])?;
    let gone = || {
        let pods = lab.get(&["-A", "pods"])?;
        let all = pods.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        Ok(all.iter().filter(|p| p.pointer("/spec/hostNetwork").is_none()).count())
    };
    Lab::eventually("pods are gone", Duration::from_mins(3), gone, |n| *n == 0)?;
    // an agent that still runs is not pulled out from under its node
    let program = image::binary("axoneme-agent").display().to_string();
    for node in lab.cluster.nodes() {
        let refused = lab.cluster.node_exec(&node, &[&program, "uninstall"]);
        let why = refused.err().map(|e| format!("{e:#}")).unwrap_or_default();
        ensure!(why.contains("the agent is running"), "uninstall beside a running agent: {why:?}");
    }
    match removal {
        Removal::CommandLine => command_line::uninstalled(lab)?,
        Removal::Overlay | Removal::ByHand => taken_away(lab, removal, &program)?,
    }
    for (node, was) in before {
        let left = inventory::changes(was, &inventory::of(lab, node)?);
        ensure!(left.is_empty(), "{node} is not as it was:\n      {}", left.join("\n      "));
    }
    before.keys().next().map(drop).context("no node was looked at before")
}

fn taken_away(lab: &Lab, removal: Removal, program: &str) -> Result<()> {
    lab.cluster.kubectl(&["-n", SYSTEM, "delete", "daemonset/axoneme-agent", "deployment/axoneme-operator"])?;
    let gone = || lab.pods(SYSTEM, "app.kubernetes.io/part-of=axoneme").map(|p| p.len());
    Lab::eventually("the product's pods are gone", Duration::from_mins(3), gone, |n| *n == 0)?;
    if removal == Removal::ByHand {
        lab.cluster.stop_component("apiserver")?;
        return lab
            .cluster
            .nodes()
            .iter()
            .try_for_each(|n| lab.cluster.node_exec(n, &[program, "uninstall"]).map(drop));
    }
    let overlay = settings::repository().join("deploy/overlays/uninstall").display().to_string();
    lab.cluster.kubectl(&["apply", "-k", &overlay])?;
    lab.rollout(SYSTEM, "daemonset/axoneme-uninstall")?;
    lab.cluster.kubectl(&["delete", "-k", &overlay, "--timeout=180s"]).map(drop)
}
