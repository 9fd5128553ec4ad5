//! Two replicas of the operator: whoever ends, stands still or loses the Lease, nothing is lost and nothing is handed
//! out twice.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Scenario;
use super::audit;
use super::fixture::{ANSWER, Fixture, PATIENCE, SOON};
use super::runtime::{self, Container};
use super::traffic::under_traffic;
use crate::lab::{Lab, Pod, SYSTEM};
use crate::settings;

/// A Lease of 8 s that nobody renews, looked at every second, and a busy machine.
const TURN: Duration = Duration::from_mins(2);
/// Until agents have noticed that nobody answers (15 s) and have found the other replica.
const RECONNECT: Duration = Duration::from_mins(3);

pub(super) fn scenarios() -> Vec<Scenario> {
    let named: &[super::Named] = &[
        ("killed_leader_is_followed_by_the_other_replica", killed),
        ("leader_that_stands_still_writes_nothing_when_it_goes_on", stopped),
        ("killed_follower_is_not_missed", follower),
    ];
    super::boxed(named)
}

fn overlay(lab: &Lab, name: &str) -> Result<()> {
    let path = settings::repository().join("deploy/overlays").join(name).display().to_string();
    lab.cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-k", &path])?;
    lab.rollout(SYSTEM, "deployment/axoneme-operator")?;
    lab.rollout(SYSTEM, "daemonset/axoneme-agent")
}

/// Two replicas from here on: what comes after these scenarios has them too.
fn with_two(lab: &Lab, work: impl FnOnce() -> Result<()>) -> Result<()> {
    overlay(lab, "ha")?;
    work()
}

/// The Lease's holder, and since when.
fn leader(lab: &Lab) -> Result<(String, String)> {
    let lease = lab.get(&["-n", SYSTEM, "lease", "axoneme-operator"])?;
    let text = |path: &str| lease.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok((text("/spec/holderIdentity"), text("/spec/acquireTime")))
}

fn leading(lab: &Lab) -> Result<Pod> {
    let (name, _) = leader(lab)?;
    let found = runtime::product(lab, "axoneme-operator")?.into_iter().find(|p| p.name == name);
    found.with_context(|| format!("the Lease's holder {name:?} is no pod"))
}

fn another_leads(lab: &Lab, than: &str) -> Result<Duration> {
    let ask = || leader(lab).map(|(name, _)| name);
    Lab::eventually("another leader", TURN, ask, |name| !name.is_empty() && name != than)
}

/// Pods come, and policies with labels that no selector has read so far: identities are handed out.
fn churn(lab: &Lab, round: u32) -> Result<()> {
    let (name, policy) = (format!("churn-{round}"), format!("turn-{round}"));
    lab.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: other}}\nspec:\n  replicas: 6\n  \
         selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}, round: \"{round}\"}}}}\n    \
         spec:\n      terminationGracePeriodSeconds: 0\n      automountServiceAccountToken: false\n      containers: \
         [{{name: c, image: \"{}\"}}]\n---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {policy}, \
         namespace: lab}}\nspec:\n  endpointSelector: {{matchLabels: {{app: server}}}}\n  ingress:\n    - fromEndpoints: \
         [{{matchLabels: {{app: client}}}}]\n    - fromEndpoints: [{{matchLabels: {{\"k8s:io.kubernetes.pod.namespace\": other, \
         round: \"{round}\"}}}}]\n",
        crate::setup::images::PAUSE
    ))
}

/// Both have come through.
fn settled(lab: &Lab, round: u32) -> Result<()> {
    lab.rollout("other", &format!("deployment/churn-{round}"))?;
    let name = format!("turn-{round}");
    let enforced = || {
        let object = lab.get(&["-n", "lab", "ciliumnetworkpolicy", &name])?;
        let all = object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let text = |c: &Value, key: &str| c.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let found = all.iter().find(|c| text(c, "type") == "Enforced");
        Ok(found.map(|c| (text(c, "status"), text(c, "message"))))
    };
    let good = |c: &Option<(String, String)>| {
        c.as_ref().is_some_and(|(status, message)| status == "True" && message.contains("2/2 nodes"))
    };
    Lab::eventually(&format!("{name} enforced"), RECONNECT, enforced, good).map(drop)
}

fn clean(lab: &Lab, rounds: std::ops::RangeInclusive<u32>) -> Result<()> {
    for round in rounds {
        lab.cluster.kubectl(&["-n", "lab", "delete", "--ignore-not-found", "cnp", &format!("turn-{round}")])?;
        let name = format!("churn-{round}");
        lab.cluster.kubectl(&["-n", "other", "delete", "--ignore-not-found", "--wait=false", "deployment", &name])?;
    }
    Ok(())
}

/// Addresses of pods, label sets of identities, ranges of nodes: each one once.
fn nothing_twice(lab: &Lab) -> Result<()> {
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut note = |thing: String, of: &Value| {
        let text = |path: &str| of.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        seen.entry(thing).or_default().push(format!("{}/{}", text("/metadata/namespace"), text("/metadata/name")));
    };
    let items = |words: &[&str]| -> Result<Vec<Value>> {
        Ok(lab.get(words)?.get("items").and_then(Value::as_array).cloned().unwrap_or_default())
    };
    for pod in items(&["-A", "pods"])? {
        let networked = pod.pointer("/spec/hostNetwork").is_none();
        let ended = pod.pointer("/status/phase").is_some_and(|p| p == "Succeeded" || p == "Failed");
        let addresses = pod.pointer("/status/podIPs").and_then(Value::as_array).cloned().unwrap_or_default();
        for address in addresses.iter().filter(|_| networked && !ended) {
            note(format!("address {address}"), &pod);
        }
    }
    for identity in items(&["ciliumidentities"])? {
        let labels = identity.get("security-labels").map(Value::to_string).unwrap_or_default();
        note(format!("labels {labels}"), &identity);
    }
    for node in items(&["ciliumnodes"])? {
        for range in node.pointer("/spec/ipam/podCIDRs").and_then(Value::as_array).cloned().unwrap_or_default() {
            note(format!("range {range}"), &node);
        }
    }
    let twice: Vec<_> = seen.iter().filter(|(_, of)| of.len() > 1).collect();
    ensure!(twice.is_empty(), "handed out twice: {twice:?}");
    ensure!(seen.keys().any(|k| k.starts_with("labels")) && seen.keys().any(|k| k.starts_with("address")), "{seen:?}");
    Ok(())
}

/// The policies of [`churn`] let clients in and strangers not.
fn verdicts_hold(lab: &Lab, f: &Fixture) -> Result<()> {
    for server in &f.server {
        let target = server.target("tcp", 0, 8080)?;
        ensure!(!lab.passes(&f.stranger, &target, PATIENCE)?, "a stranger reached {}", server.name);
        ensure!(lab.passes(&f.client[0], &target, ANSWER)?, "a client did not reach {}", server.name);
    }
    Ok(())
}

fn streams_go_to(lab: &Lab, leader: &Pod) -> Result<()> {
    let own = leader.addresses.first().context("a replica has an address")?;
    let ask = || lab.cluster.nodes().iter().map(|n| stream_address(lab, n)).collect::<Result<Vec<_>>>();
    Lab::eventually("agents at the leader", RECONNECT, ask, |all| all.iter().all(|a| a.contains(own.as_str())))
        .map(drop)
}

fn stream_address(lab: &Lab, node: &str) -> Result<String> {
    let status = runtime::status(lab, node)?;
    let connected = status.pointer("/stream/connected").and_then(Value::as_bool) == Some(true);
    let address = status.pointer("/stream/address").and_then(Value::as_str).unwrap_or_default();
    Ok(if connected { address.to_owned() } else { String::new() })
}

/// The process is killed in the middle of handing out, and its pod with it, as when a node goes.
fn killed(lab: &Lab, f: &Fixture) -> Result<()> {
    with_two(lab, || {
        churn(lab, 1)?;
        settled(lab, 1)?;
        let old = leading(lab)?;
        let process = Container::of(lab, &old)?;
        let done = under_traffic(lab, f, || {
            churn(lab, 2)?;
            process.signal(lab, "SIGKILL")?;
            lab.cluster.kubectl(&["-n", SYSTEM, "delete", "pod", &old.name, "--force", "--grace-period=0"])?;
            churn(lab, 3)?;
            let took = another_leads(lab, &old.name)?;
            verdicts_hold(lab, f)?;
            settled(lab, 2)?;
            settled(lab, 3)?;
            Ok(took)
        });
        let told = done.and_then(|took| {
            println!("    another replica leads {:.1} s after the kill", took.as_secs_f64());
            let new = leading(lab)?;
            ensure!(new.name != old.name, "{} leads again", new.name);
            nothing_twice(lab)?;
            verdicts_hold(lab, f)?;
            streams_go_to(lab, &new)
        });
        clean(lab, 1..=3)?;
        told
    })
}

/// The Lease is lost while the leader lives: it is stopped where it stands, and goes on when another one leads.
fn stopped(lab: &Lab, f: &Fixture) -> Result<()> {
    with_two(lab, || {
        churn(lab, 4)?;
        settled(lab, 4)?;
        let old = leading(lab)?;
        let process = Container::of(lab, &old)?;
        let mark = audit::mark(lab)?;
        let done = under_traffic(lab, f, || {
            churn(lab, 5)?;
            process.signal(lab, "SIGSTOP")?;
            let other = another_leads(lab, &old.name).and_then(|_| {
                churn(lab, 6)?;
                settled(lab, 6)
            });
            // whatever became of it: a stopped process would hold up all that follows
            process.signal(lab, "SIGCONT")?;
            other?;
            verdicts_hold(lab, f)?;
            churn(lab, 7)?;
            settled(lab, 7)?;
            // as long as its Lease would have lasted
            std::thread::sleep(Duration::from_secs(8));
            Ok(())
        });
        let told = done.and_then(|()| {
            let (new, since) = leader(lab)?;
            ensure!(new != old.name, "{new} leads again");
            let writes = audit::since(lab, mark)?;
            let (by_old, by_new): (Vec<_>, Vec<_>) =
                writes.into_iter().filter(|w| w.at > since).partition(|w| w.pod == old.name);
            ensure!(by_old.is_empty(), "the former leader wrote after {since}: {:?}", audit::summary(&by_old));
            ensure!(by_new.iter().any(|w| w.pod == new), "nothing by the new leader: {:?}", audit::summary(&by_new));
            nothing_twice(lab)?;
            streams_go_to(lab, &leading(lab)?)
        });
        clean(lab, 4..=7)?;
        told
    })
}

/// The other way round: the replica that does not lead is killed, and nobody takes the Lease.
fn follower(lab: &Lab, f: &Fixture) -> Result<()> {
    with_two(lab, || {
        let (before, since) = leader(lab)?;
        let replicas = runtime::product(lab, "axoneme-operator")?;
        let other = replicas.iter().find(|p| p.name != before).context("a replica that does not lead")?;
        let process = Container::of(lab, other)?;
        churn(lab, 8)?;
        settled(lab, 8)?;
        let done = under_traffic(lab, f, || {
            process.signal(lab, "SIGKILL")?;
            churn(lab, 9)?;
            settled(lab, 9)
        });
        let told = done.and_then(|()| {
            let now = leader(lab)?;
            ensure!(now == (before.clone(), since.clone()), "the Lease went from {before} to {now:?}");
            nothing_twice(lab)?;
            let open = || lab.passes(&f.client[0], &f.server[1].target("tcp", 0, 8080)?, PATIENCE);
            Lab::eventually("a client reaches the server", SOON, open, |ok| *ok).map(drop)
        });
        clean(lab, 8..=9)?;
        told
    })
}
