//! Nothing changes, so nothing is written: neither to the API nor to a kernel, whoever starts anew.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Scenario;
use super::audit;
use super::fixture::{Fixture, SOON};
use super::runtime::{self, Container};
use crate::lab::{Lab, SYSTEM};
use crate::progress::say;

/// As long as the slowest loop of the operator, and then some.
const LONG: Duration = Duration::from_secs(12);
/// Until a killed process is back and all streams with it.
const BACK: Duration = Duration::from_mins(2);

pub(super) fn scenarios() -> Vec<Scenario> {
    let named: &[super::Named] = &[
        ("nothing_is_written_when_nothing_changes", idle),
        ("operator_that_starts_anew_writes_nothing", operator),
        ("agent_that_starts_anew_writes_nothing", agent),
    ];
    super::boxed(named)
}

/// Processes that print each change of links, addresses, routes, rules and nftables on a node.
struct Watch(Vec<(String, Child)>);

impl Watch {
    fn start(lab: &Lab) -> Result<Self> {
        let mut all = Vec::new();
        for node in lab.cluster.nodes() {
            for words in [&["ip", "monitor", "link", "address", "route", "rule"] as &[&str], &["nft", "monitor"]] {
                let mut command = lab.cluster.command_in(&node, words);
                let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("a watcher")?;
                all.push((node.clone(), child));
            }
        }
        Ok(Self(all))
    }

    fn finish(self) -> Result<Vec<String>> {
        let mut seen = Vec::new();
        for (node, mut child) in self.0 {
            child.kill()?;
            let mut text = String::new();
            if let Some(mut out) = child.stdout.take() {
                out.read_to_string(&mut text)?;
            }
            child.wait()?;
            seen.extend(text.lines().filter(|l| !l.trim().is_empty()).map(|l| format!("{node}: {l}")));
        }
        Ok(seen)
    }
}

/// Each agent's own count of what it wrote to its kernel, and who serves it.
fn counters(lab: &Lab) -> Result<BTreeMap<String, (u64, bool)>> {
    let one = |node: String| {
        let status = runtime::status(lab, &node)?;
        let writes = status.pointer("/counters/kernel_writes").and_then(Value::as_u64);
        let writes = writes.with_context(|| format!("no kernel_writes in {status}"))?;
        let serves = status.get("ready").and_then(Value::as_bool) == Some(true)
            && status.pointer("/stream/connected").and_then(Value::as_bool) == Some(true)
            && status.get("acknowledged") == status.get("revision");
        Ok((node, (writes, serves)))
    };
    lab.cluster.nodes().into_iter().map(one).collect()
}

/// Waits until earlier scenarios' last changes have come through.
fn settle(lab: &Lab) -> Result<()> {
    let mut last = counters(lab)?;
    let ask = || {
        let mark = audit::mark(lab)?;
        std::thread::sleep(Duration::from_secs(3));
        let now = counters(lab)?;
        let writes = audit::since(lab, mark)?;
        let same = writes.is_empty() && now == last;
        let seen = format!("{:?}, {last:?} then {now:?}", audit::summary(&writes));
        last = now;
        Ok(if same { None } else { Some(seen) })
    };
    Lab::eventually("quiet", SOON, ask, Option::is_none).map(drop)
}

/// How often the addresses behind the operator's own Service have changed: one that is away is not among them, which is a
/// change that nodes have to hear of.
fn own_endpoints(lab: &Lab) -> Result<u64> {
    let slices = lab.get(&["-n", SYSTEM, "endpointslices", "-l", "kubernetes.io/service-name=axoneme-webhooks"])?;
    let items = slices.pointer("/items").and_then(Value::as_array).context("no list")?;
    ensure!(!items.is_empty(), "no endpoints of axoneme-webhooks");
    Ok(items.iter().filter_map(|item| item.pointer("/metadata/generation")?.as_u64()).sum())
}

/// Holds that nothing is written while `work` runs and for a while after it; with `anew`, agents have started anew and
/// count from zero.
fn silent(lab: &Lab, anew: bool, work: impl FnOnce() -> Result<()>) -> Result<()> {
    settle(lab)?;
    let (mark, before, watch) = (audit::mark(lab)?, counters(lab)?, Watch::start(lab)?);
    let endpoints = own_endpoints(lab)?;
    let done = work().and_then(|()| {
        Lab::eventually("agents serve", BACK, || counters(lab), |all| all.values().all(|(_, serves)| *serves))?;
        std::thread::sleep(LONG);
        counters(lab)
    });
    let changes = watch.finish()?;
    let writes = audit::since(lab, mark)?;
    let after = done?;
    ensure!(writes.is_empty(), "written to the API: {:?}", audit::summary(&writes));
    ensure!(changes.is_empty(), "changed in a kernel: {changes:?}");
    for (node, (count, _)) in &after {
        let was = if anew { 0 } else { before.get(node).map_or(0, |(n, _)| *n) };
        let told = if anew { 0 } else { own_endpoints(lab)?.saturating_sub(endpoints) };
        let wrote = count.saturating_sub(was);
        if wrote + told > 0 {
            say(format_args!("    {node}: {wrote} kernel writes, {told} changes of the operator's own endpoints"));
        }
        ensure!(wrote <= told, "{node}: {wrote} kernel writes, and {told} changes of the operator's own endpoints");
    }
    Ok(())
}

const CHANGE: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: noise, namespace: lab}\nspec:\n  \
    endpointSelector: {matchLabels: {app: server}}\n  ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]\n";

/// And what is written is seen, or silence would mean nothing.
fn idle(lab: &Lab, _: &Fixture) -> Result<()> {
    silent(lab, false, || Ok(()))?;
    let (mark, before) = (audit::mark(lab)?, counters(lab)?);
    lab.apply(CHANGE)?;
    let told = lab.condition(&["-n", "lab", "cnp", "noise"], "Enforced", "True");
    lab.cluster.kubectl(&["-n", "lab", "delete", "cnp", "noise"])?;
    told?;
    let seen = || Ok(audit::since(lab, mark)?.iter().any(|w| w.what.contains("ciliumnetworkpolicies/status")));
    Lab::eventually("the condition's write is in the record", SOON, seen, |ok| *ok)?;
    let after = counters(lab)?;
    ensure!(
        after.iter().all(|(node, (n, _))| before.get(node).is_some_and(|(b, _)| n > b)),
        "{before:?} then {after:?}"
    );
    Ok(())
}

/// All replicas, one after the other process: rows are compiled anew, streams begin with snapshots.
fn operator(lab: &Lab, _: &Fixture) -> Result<()> {
    silent(lab, false, || {
        for pod in runtime::product(lab, "axoneme-operator")? {
            Container::of(lab, &pod)?.signal(lab, "SIGKILL")?;
        }
        lab.rollout(SYSTEM, "deployment/axoneme-operator")
    })
}

/// All agents: what is in the kernel is adopted as it is. But for the health endpoint, which is the agent's own and ends with
/// it: there is none here.
fn agent(lab: &Lab, _: &Fixture) -> Result<()> {
    health_endpoints(lab, false)?;
    let done = silent(lab, true, || {
        for pod in runtime::product(lab, "axoneme-agent")? {
            Container::of(lab, &pod)?.signal(lab, "SIGKILL")?;
        }
        let anew = || Ok(counters(lab).is_ok());
        Lab::eventually("agents answer", BACK, anew, |ok| *ok)?;
        lab.rollout(SYSTEM, "daemonset/axoneme-agent")
    });
    health_endpoints(lab, true)?;
    done
}

/// Switches the nodes' health endpoints, and waits until nodes have them or have none.
fn health_endpoints(lab: &Lab, wanted: bool) -> Result<()> {
    let patch = format!(r#"{{"spec":{{"nodeHealth":{{"endpoints":{wanted}}}}}}}"#);
    lab.cluster.kubectl(&["patch", "axonemeconfig", "default", "--type=merge", "-p", &patch])?;
    for node in lab.cluster.nodes() {
        let there = || Ok(lab.cluster.node_exec(&node, &["ip", "link", "show", "axn_health"]).is_ok());
        Lab::eventually(&format!("health endpoint of {node}: {wanted}"), SOON, there, |there| *there == wanted)?;
    }
    Ok(())
}
