//! Where pods get their addresses from. One cluster tells the whole story in order: it begins with one pool for all
//! nodes, takes up several where it stands, and ends with addresses that somebody else lends.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ipnetwork::IpNetwork;
use serde_json::Value;

use super::Scenario;
use super::fixture::{Fixture, PATIENCE, SOON};
use crate::lab::{Lab, Pod};

/// Settings of suites that are about other things: what kube-controller-manager gives each node.
pub(super) const OF_THE_NODES: &str = "{mode: Kubernetes}";
/// The settings that the story begins with.
pub(super) const ONE_POOL: &str = "{mode: ClusterPool, clusterPool: {ipv4: {cidrs: [10.40.0.0/16], maskSize: 26}}}";

/// A released address rests for 30 s on its node before its block can go.
const RESTED: Duration = Duration::from_mins(1);

/// The part of the story in which the product has the pools.
pub(super) fn of_pools() -> Vec<Scenario> {
    let named: &[super::Named] = &[
        ("cluster_pool_gives_each_node_a_block_of_its_own", cluster_pool),
        ("multi_pool_takes_over_the_blocks_of_a_running_cluster", take_up_pools),
        ("annotations_and_selectors_choose_the_pool", choices),
        ("a_pod_that_must_match_waits_with_an_event_until_it_does", required),
        ("an_exhausted_pool_makes_pods_wait_with_an_event_until_it_grows", exhausted),
        ("an_overlapping_pool_is_refused_with_a_condition", overlapping),
        ("a_pool_edit_moves_no_address_in_use_and_the_block_goes_back_after", edited),
        ("blocks_that_nobody_needs_go_back_to_the_pool", given_back),
    ];
    super::boxed(named)
}

/// Its end, in which somebody else has them.
pub(super) fn of_others() -> Vec<Scenario> {
    super::boxed(&[("lent_addresses_are_used_reported_and_given_back", lent)])
}

fn pool(name: &str, cidrs: &str, mask: u8, selectors: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2alpha1\nkind: CiliumPodIPPool\nmetadata: {{name: {name}}}\nspec:\n  ipv4: {{cidrs: [{cidrs}], \
         maskSize: {mask}}}\n{selectors}"
    )
}

fn pod(name: &str, node: &str, labels: &str, annotations: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: pools, labels: {{app: {name}{labels}}}, annotations: \
         {{{annotations}}}}}\nspec:\n  nodeName: {node}\n  terminationGracePeriodSeconds: 0\n  containers:\n    - {{name: c, image: \
         \"ghcr.io/axoneme/workload:dev\", imagePullPolicy: IfNotPresent, args: [serve, --name, {name}, --tcp, \"8080\"]}}\n"
    )
}

fn delete(lab: &Lab, words: &[&str]) -> Result<()> {
    let mut all = vec!["delete", "--ignore-not-found", "--wait=true", "--timeout=180s"];
    all.extend(words);
    lab.cluster.kubectl(&all).map(drop)
}

fn wait_ready(lab: &Lab, name: &str) -> Result<Pod> {
    let target = format!("pod/{name}");
    lab.cluster
        .kubectl(&["-n", "pools", "wait", "--for=condition=Ready", &target, "--timeout=180s"])
        .with_context(|| lab.diagnosis())?;
    lab.pod("pools", &format!("app={name}"))
}

fn first_address(pod: &Pod) -> Result<IpAddr> {
    Ok(pod.addresses.first().context("the pod has an address")?.parse()?)
}

fn inside(pod: &Pod, prefix: &str) -> Result<()> {
    let (address, net) = (first_address(pod)?, prefix.parse::<IpNetwork>()?);
    ensure!(net.contains(address), "{} has {address}, which is not of {net}", pod.name);
    Ok(())
}

/// Blocks of a node: of the one pool, or of a pool by name.
fn blocks(lab: &Lab, node: &str, pool: Option<&str>) -> Result<BTreeSet<IpNetwork>> {
    let object = lab.get(&["ciliumnode", node])?;
    let texts = |v: Option<&Value>| -> Vec<String> {
        let list = v.and_then(Value::as_array).cloned().unwrap_or_default();
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let all = match pool {
        None => texts(object.pointer("/spec/ipam/podCIDRs")),
        Some(pool) => {
            let allocated = object.pointer("/spec/ipam/pools/allocated").and_then(Value::as_array).cloned();
            let of = |a: &Value| a.get("pool").and_then(Value::as_str) == Some(pool);
            let of = allocated.unwrap_or_default().into_iter().filter(of).collect::<Vec<_>>();
            of.iter().flat_map(|a| texts(a.get("cidrs"))).collect()
        }
    };
    all.iter().map(|t| t.parse().with_context(|| format!("block {t}"))).collect()
}

/// Every node's blocks are its own.
fn disjoint(lab: &Lab) -> Result<()> {
    let mut seen: Vec<(String, IpNetwork)> = Vec::new();
    for object in lab.get(&["ciliumnodes"])?.get("items").and_then(Value::as_array).cloned().unwrap_or_default() {
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let allocated = object.pointer("/spec/ipam/pools/allocated").and_then(Value::as_array).cloned();
        let of_pools = allocated.unwrap_or_default();
        let of_pools = of_pools.iter().filter_map(|a| a.get("cidrs")).filter_map(Value::as_array).flatten();
        let own = object.pointer("/spec/ipam/podCIDRs").and_then(Value::as_array).cloned().unwrap_or_default();
        for block in of_pools.chain(&own).filter_map(Value::as_str) {
            let block: IpNetwork = block.parse()?;
            let other = seen.iter().find(|(_, b)| b.contains(block.network()) || block.contains(b.network()));
            ensure!(other.is_none(), "{block} of {name} and {other:?}");
            seen.push((name.clone(), block));
        }
    }
    ensure!(!seen.is_empty(), "no node holds a block");
    Ok(())
}

fn events_of(lab: &Lab, pod: &str) -> Result<String> {
    lab.cluster.kubectl(&["-n", "pools", "describe", "pod", pod])
}

/// Waits until `kubectl describe pod` shows an Event with this reason, and gives the text.
fn told(lab: &Lab, pod: &str, reason: &str) -> Result<String> {
    let mut last = String::new();
    let ask = || {
        last = events_of(lab, pod)?;
        Ok(last.contains(reason))
    };
    Lab::eventually(&format!("an Event {reason} of pod {pod}"), SOON, ask, |seen| *seen)?;
    Ok(last)
}

fn reaches(lab: &Lab, from: &Pod, to: &Pod) -> Result<()> {
    let ask = || lab.passes(from, &to.target("tcp", 0, 8080)?, PATIENCE);
    Lab::eventually(&format!("{} reaches {}", from.name, to.name), SOON, ask, |ok| *ok).map(drop)
}

fn cluster_pool(lab: &Lab, f: &Fixture) -> Result<()> {
    for (node, pods) in [("node1", [&f.client[0], &f.server[0]]), ("node2", [&f.client[1], &f.server[1]])] {
        let own = blocks(lab, node, None)?;
        ensure!(own.len() == 1, "{node} holds {own:?}");
        let block = own.first().context("a block")?;
        ensure!(block.prefix() == 26 && "10.40.0.0/16".parse::<IpNetwork>()?.contains(block.network()), "{block}");
        for pod in pods {
            inside(pod, &block.to_string())?;
        }
    }
    disjoint(lab)?;
    reaches(lab, &f.client[0], &f.server[1])
}

/// From the one pool of the settings to pools that are objects, with its addresses in the first.
pub(super) fn to_pools(lab: &Lab) -> Result<()> {
    lab.apply(&pool("default", "10.40.0.0/16", 26, ""))?;
    let mode = r#"{"spec":{"ipam":{"mode":"MultiPool"}}}"#;
    lab.cluster.kubectl(&["patch", "axonemeconfig", "default", "--type=merge", "-p", mode]).map(drop)
}

fn take_up_pools(lab: &Lab, f: &Fixture) -> Result<()> {
    let before = [blocks(lab, "node1", None)?, blocks(lab, "node2", None)?];
    lab.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: pools}\n")?;
    to_pools(lab)?;
    for (node, held) in ["node1", "node2"].into_iter().zip(&before) {
        let ask = || blocks(lab, node, Some("default"));
        Lab::eventually(&format!("{node} holds what it held"), SOON, ask, |now| held.is_subset(now))?;
        ensure!(blocks(lab, node, None)?.is_empty(), "{node} still has podCIDRs");
    }
    lab.condition(&["cpip", "default"], "Valid", "True")?;
    lab.apply(&pod("after", "node2", "", ""))?;
    let after = wait_ready(lab, "after")?;
    inside(&after, "10.40.0.0/16")?;
    reaches(lab, &f.client[0], &after)?;
    reaches(lab, &f.client[0], &f.server[1])?;
    delete(lab, &["-n", "pools", "pod", "after"])?;
    disjoint(lab)
}

fn choices(lab: &Lab, f: &Fixture) -> Result<()> {
    lab.apply(&pool("blue", "10.41.0.0/24", 28, ""))?;
    lab.apply(&pool("green", "10.42.0.0/24", 28, "  podSelector: {matchLabels: {color: green}}\n"))?;
    lab.apply(&pod("named", "node1", "", "ipam.cilium.io/ip-pool: blue"))?;
    lab.apply(&pod("chosen", "node2", ", color: green", ""))?;
    lab.apply(&pod("both", "node2", ", color: green", "ipam.cilium.io/ipv4-pool: blue"))?;
    let (named, chosen) = (wait_ready(lab, "named")?, wait_ready(lab, "chosen")?);
    inside(&named, "10.41.0.0/24")?;
    inside(&chosen, "10.42.0.0/24")?;
    inside(&wait_ready(lab, "both")?, "10.41.0.0/24").context("the annotation goes before selectors")?;
    lab.cluster.kubectl(&["annotate", "namespace", "pools", "ipam.cilium.io/ip-pool=blue"])?;
    lab.apply(&pod("spaced", "node2", "", ""))?;
    let spaced = wait_ready(lab, "spaced").and_then(|p| inside(&p, "10.41.0.0/24"));
    lab.cluster.kubectl(&["annotate", "namespace", "pools", "ipam.cilium.io/ip-pool-"])?;
    spaced.context("the namespace's annotation")?;
    reaches(lab, &f.client[0], &chosen)?;
    reaches(lab, &f.client[1], &named)?;
    disjoint(lab)?;
    delete(lab, &["-n", "pools", "pod", "named", "chosen", "both", "spaced"])
}

fn required(lab: &Lab, _: &Fixture) -> Result<()> {
    lab.apply(&pod("picky", "node1", ", color: red", "ipam.cilium.io/require-pool-match: 'true'"))?;
    let text = told(lab, "picky", "NoPoolMatches")?;
    ensure!(text.contains("forbids the default pool"), "{text}");
    lab.apply(&pool("red", "10.43.0.0/24", 28, "  podSelector: {matchLabels: {color: red}}\n"))?;
    inside(&wait_ready(lab, "picky")?, "10.43.0.0/24")?;
    delete(lab, &["-n", "pools", "pod", "picky"])
}

/// One block of a /29 holds six addresses; the seventh pod waits.
fn exhausted(lab: &Lab, f: &Fixture) -> Result<()> {
    lab.apply(&pool("tiny", "10.44.0.0/29", 29, ""))?;
    let names: Vec<String> = (0..7).map(|i| format!("tiny-{i}")).collect();
    for name in &names {
        lab.apply(&pod(name, "node1", "", "ipam.cilium.io/ip-pool: tiny"))?;
    }
    let condition = lab.condition(&["cpip", "tiny"], "AddressesAvailable", "False")?;
    let text = condition.get("message").and_then(Value::as_str).unwrap_or_default().to_owned();
    ensure!(text.contains("no free /29 is left in 10.44.0.0/29"), "{text}");
    let ready = || {
        let pods = lab.get(&["-n", "pools", "pods"])?;
        let pods = pods.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        Ok(pods.into_iter().filter(|p| p.pointer("/status/phase").is_some_and(|s| s == "Running")).count())
    };
    Lab::eventually("six of seven run", SOON, ready, |n| *n == 6)?;
    let waiting: Vec<&String> =
        names.iter().filter(|n| events_of(lab, n).is_ok_and(|t| t.contains("Exhausted"))).collect();
    ensure!(!waiting.is_empty(), "no pod was told");
    lab.apply(&pool("tiny", "10.44.0.0/29, 10.44.1.0/29", 29, ""))?;
    for name in &names {
        wait_ready(lab, name)?;
    }
    lab.condition(&["cpip", "tiny"], "AddressesAvailable", "True")?;
    let mut addresses = BTreeSet::new();
    for name in &names {
        let pod = lab.pod("pools", &format!("app={name}"))?;
        ensure!(addresses.insert(first_address(&pod)?), "{} has an address that another has", pod.name);
        reaches(lab, &f.client[1], &pod)?;
    }
    let mut words = vec!["-n", "pools", "pod"];
    words.extend(names.iter().map(String::as_str));
    delete(lab, &words)
}

fn overlapping(lab: &Lab, _: &Fixture) -> Result<()> {
    lab.apply(&pool("inside", "10.40.128.0/24", 28, ""))?;
    let condition = lab.condition(&["cpip", "inside"], "Valid", "False")?;
    let text = |k: &str| condition.get(k).and_then(Value::as_str).unwrap_or_default().to_owned();
    ensure!(text("reason") == "Overlap", "{condition}");
    ensure!(text("message").contains("overlaps with 10.40.0.0/16 of CiliumPodIPPool default"), "{condition}");
    lab.condition(&["cpip", "default"], "Valid", "True")?;
    lab.apply(&pod("lost", "node1", "", "ipam.cilium.io/ip-pool: inside"))?;
    let told = told(lab, "lost", "Exhausted");
    delete(lab, &["-n", "pools", "pod", "lost"])?;
    delete(lab, &["cpip", "inside"])?;
    told?;
    lab.condition(&["cpip", "default"], "AddressesAvailable", "True").map(drop)
}

fn edited(lab: &Lab, f: &Fixture) -> Result<()> {
    lab.apply(&pool("moving", "10.45.0.0/24", 28, ""))?;
    lab.apply(&pod("stays", "node1", "", "ipam.cilium.io/ip-pool: moving"))?;
    let stays = wait_ready(lab, "stays")?;
    inside(&stays, "10.45.0.0/24")?;
    let moved = pool("moving", "10.46.0.0/24", 28, "");
    let address = first_address(&stays)?.to_string();
    let refused = lab.apply(&moved).err().map(|e| format!("{e:#}")).unwrap_or_default();
    ensure!(refused.contains(&address) && refused.contains("allow-release"), "an unmeant edit: {refused:?}");
    lab.cluster.kubectl(&["annotate", "ciliumpodippool", "moving", "axoneme.io/allow-release=true"])?;
    lab.apply(&moved)?;
    lab.apply(&pod("comes", "node1", "", "ipam.cilium.io/ip-pool: moving"))?;
    let comes = wait_ready(lab, "comes")?;
    inside(&comes, "10.46.0.0/24")?;
    ensure!(lab.pod("pools", "app=stays")?.addresses == stays.addresses, "the address moved");
    reaches(lab, &f.client[1], &stays)?;
    reaches(lab, &f.client[1], &comes)?;
    let old: IpNetwork = "10.45.0.0/24".parse()?;
    let held = || Ok(blocks(lab, "node1", Some("moving"))?.iter().any(|b| old.contains(b.network())));
    ensure!(held()?, "the block of an address in use was taken");
    delete(lab, &["-n", "pools", "pod", "stays"])?;
    Lab::eventually("the block goes back", RESTED, held, |held| !*held)?;
    reaches(lab, &f.client[1], &comes)?;
    delete(lab, &["-n", "pools", "pod", "comes"])
}

/// Eight pods need two blocks of six addresses; when they are gone both go back, and another node can have them.
fn given_back(lab: &Lab, f: &Fixture) -> Result<()> {
    lab.apply(&pool("shared", "10.47.0.0/28", 29, ""))?;
    let names: Vec<String> = (0..8).map(|i| format!("shared-{i}")).collect();
    for name in &names {
        lab.apply(&pod(name, "node1", "", "ipam.cilium.io/ip-pool: shared"))?;
    }
    for name in &names {
        wait_ready(lab, name)?;
    }
    let of = |node: &'static str| move || blocks(lab, node, Some("shared")).map(|b| b.len());
    ensure!(of("node1")()? == 2, "node1 holds {} blocks", of("node1")()?);
    let mut words = vec!["-n", "pools", "pod"];
    words.extend(names.iter().map(String::as_str));
    delete(lab, &words)?;
    lab.apply(&pod("elsewhere", "node2", "", "ipam.cilium.io/ip-pool: shared"))?;
    Lab::eventually("node1 gives blocks back", RESTED, of("node1"), |n| *n < 2)?;
    let elsewhere = wait_ready(lab, "elsewhere")?;
    inside(&elsewhere, "10.47.0.0/28")?;
    reaches(lab, &f.client[0], &elsewhere)?;
    disjoint(lab)?;
    delete(lab, &["-n", "pools", "pod", "elsewhere"])
}

fn lent(lab: &Lab, f: &Fixture) -> Result<()> {
    // another mode is another cluster: the object is made anew
    let now = lab.get(&["axonemeconfig", "default"])?;
    let mut spec = now.get("spec").cloned().context("the settings have a spec")?;
    spec.as_object_mut().context("the spec is an object")?.insert("ipam".into(), serde_json::json!({"mode": "CRD"}));
    let new = serde_json::json!({"apiVersion": "axoneme.io/v1alpha1", "kind": "AxonemeConfig",
        "metadata": {"name": "default"}, "spec": spec});
    lab.cluster.kubectl(&["annotate", "axonemeconfig", "default", "axoneme.io/allow-deletion=true"])?;
    delete(lab, &["axonemeconfig", "default"])?;
    lab.apply(&new.to_string())?;
    let lend = r#"{"spec":{"ipam":{"pool":{"10.48.0.7":{},"10.48.0.9":{}}}}}"#;
    lab.cluster.kubectl(&["patch", "ciliumnode", "node1", "--type=merge", "-p", lend])?;
    lab.apply(&pod("lent", "node1", "", ""))?;
    let lent = wait_ready(lab, "lent")?;
    let address = first_address(&lent)?.to_string();
    ensure!(["10.48.0.7", "10.48.0.9"].contains(&address.as_str()), "the pod has {address}");
    reaches(lab, &f.client[1], &lent)?;
    let status = |what: &str| -> Result<Value> {
        let object = lab.get(&["ciliumnode", "node1"])?;
        Ok(object.pointer(&format!("/status/ipam/{what}")).cloned().unwrap_or_default())
    };
    let owner = || Ok(status("used")?.get(&address).and_then(|u| u.get("owner")).cloned().unwrap_or_default());
    Lab::eventually("its use is reported", SOON, owner, |o| o == "pools/lent")?;
    let mark =
        r#"{"status":{"ipam":{"release-ips":{"10.48.0.7":"marked-for-release","10.48.0.9":"marked-for-release"}}}}"#;
    lab.cluster.kubectl(&["patch", "ciliumnode", "node1", "--subresource=status", "--type=merge", "-p", mark])?;
    let answered = |v: &Value| {
        let answer = |a: &str| v.get(a).and_then(Value::as_str).unwrap_or_default().to_owned();
        let other = if address == "10.48.0.7" { "10.48.0.9" } else { "10.48.0.7" };
        answer(&address) == "do-not-release" && answer(other) == "ready-for-release"
    };
    Lab::eventually("both are answered", SOON, || status("release-ips"), answered)?;
    delete(lab, &["-n", "pools", "pod", "lent"])?;
    delete(lab, &["namespace", "pools"])
}
