//! A policy that no table can hold is refused as a whole; what was in force stays, and a smaller one is taken again.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Scenario;
use super::fixture::{ANSWER, Fixture, PATIENCE, SOON};
use super::runtime;
use crate::lab::Lab;

/// Entries of rules that one table holds, which the message of a refusal names: `axoneme_abi::policy::TABLE_ENTRIES` but for
/// the defaults of both directions.
const TABLE_ENTRIES: usize = 16_382;
/// Prefixes that rules tell apart.
const PREFIXES: usize = 170;

pub(super) fn scenarios() -> Vec<Scenario> {
    let named: &[super::Named] = &[("policy_larger_than_a_table_is_refused_and_the_last_good_one_stays", too_large)];
    super::boxed(named)
}

/// Prefixes, each with a port of its own so that they differ, and `ports` ports to all of them; and the outside on one
/// port. Every second port, so that no two make a range. Stored past admission, which would refuse the large one.
fn policy(prefixes: usize, ports: usize, outside: (&str, u16)) -> String {
    let list: Vec<String> = (0..prefixes).map(|i| format!("198.{}.{}.0/24", 18 + i / 256, i % 256)).collect();
    let mut yaml =
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: large, namespace: lab, labels: \
                    {axoneme.io/admission: \"off\"}}\nspec:\n  \
                    endpointSelector: {matchLabels: {app: client}}\n  egress:\n"
            .to_owned();
    for (i, prefix) in list.iter().enumerate() {
        let port = 20_001 + 2 * i;
        // writing to a String can't fail
        let _ =
            writeln!(yaml, "    - {{toCIDR: [{prefix}], toPorts: [{{ports: [{{port: \"{port}\", protocol: TCP}}]}}]}}");
    }
    let numbers: Vec<String> = (0..ports).map(|i| format!("{{port: \"{}\", protocol: TCP}}", 30_001 + 2 * i)).collect();
    // the API takes forty ports at a time
    let parts: Vec<String> = numbers.chunks(40).map(|part| format!("{{ports: [{}]}}", part.join(", "))).collect();
    let _ = writeln!(yaml, "    - toCIDR: [{}]\n      toPorts: [{}]", list.join(", "), parts.join(", "));
    let (outside, port) = outside;
    let _ =
        writeln!(yaml, "    - {{toCIDR: [{outside}], toPorts: [{{ports: [{{port: \"{port}\", protocol: TCP}}]}}]}}");
    yaml
}

/// Whether the client reaches the outside, and the other server.
fn verdict(lab: &Lab, f: &Fixture) -> Result<[bool; 2]> {
    let targets = [f.outside_target(0)?, f.server[1].target("tcp", 0, 8080)?];
    let outcomes = lab.probe(&f.client[0], &targets, PATIENCE)?;
    let [outside, server] = outcomes.as_slice() else { anyhow::bail!("two outcomes: {outcomes:?}") };
    Ok([outside.passed(), server.passed()])
}

fn too_large(lab: &Lab, f: &Fixture) -> Result<()> {
    let told = refused_and_taken_again(lab, f);
    lab.cluster.kubectl(&["-n", "lab", "delete", "--ignore-not-found", "cnp", "large", "small"])?;
    told?;
    Lab::eventually("open again", SOON, || verdict(lab, f), |v| *v == [true, true]).map(drop)
}

fn refused_and_taken_again(lab: &Lab, f: &Fixture) -> Result<()> {
    let outside = f.outside.first().map(|a| format!("{a}/{}", if a.contains(':') { 128 } else { 32 }));
    let outside = outside.context("an outside address")?;
    let large = ["-n", "lab", "cnp", "large"];
    lab.apply(&policy(PREFIXES, 10, (&outside, 7000)))?;
    lab.condition(&large, "Enforced", "True")?;
    Lab::eventually("the small one is in force", SOON, || verdict(lab, f), |v| *v == [true, false])?;

    // too many entries; none of its rules names the address outside that the good version allows
    let ports = TABLE_ENTRIES / PREFIXES + 5;
    lab.apply(&policy(PREFIXES, ports, ("192.0.2.250/32", 7100)))?;
    let condition = lab.condition(&large, "Enforced", "False")?;
    let refused = || {
        let object = lab.get(&large)?;
        let all = object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let found = all.into_iter().find(|c| c.get("type").is_some_and(|t| t == "Enforced"));
        let text = |key: &str| found.as_ref().and_then(|c| c.get(key)?.as_str()).unwrap_or_default().to_owned();
        Ok((text("reason"), text("message")))
    };
    let limit = TABLE_ENTRIES.to_string();
    let names_the_limit = |(reason, message): &(String, String)| {
        reason == "TableTooLarge" && message.contains(&limit) && message.contains("generation 1 stays in force")
    };
    Lab::eventually("refused with the limit's name", SOON, refused, names_the_limit)
        .with_context(|| format!("first {condition}"))?;
    let kept = [
        lab.passes(&f.client[0], &f.outside_target(0)?, ANSWER)?,
        lab.passes(&f.client[0], &f.server[1].target("tcp", 0, 8080)?, PATIENCE)?,
    ];
    ensure!(kept == [true, false], "not the last good policy: {kept:?}");
    for (n, client) in f.client.iter().enumerate() {
        let status = runtime::status(lab, &client.node)?;
        let problems = status.get("problems").map(Value::to_string).unwrap_or_default();
        ensure!(!problems.contains(&limit), "node {} was sent what it can't hold: {problems}", n + 1);
    }
    // others are not held up by it
    lab.apply(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: small, namespace: lab}\nspec:\n  endpointSelector: \
         {matchLabels: {app: server}}\n  ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]\n",
    )?;
    lab.condition(&["-n", "lab", "cnp", "small"], "Enforced", "True")?;
    let stranger = || lab.passes(&f.stranger, &f.server[0].target("tcp", 0, 8080)?, PATIENCE);
    Lab::eventually("another policy is in force", SOON, stranger, |ok| !*ok)?;

    lab.apply(&policy(PREFIXES, 10, (&outside, 7100)))?;
    lab.condition(&large, "Enforced", "True")?;
    Lab::eventually("the reduced one is in force", SOON, || verdict(lab, f), |v| *v == [false, false])?;
    Ok(())
}
