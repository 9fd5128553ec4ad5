//! Pods of the lab, and whether one reaches another.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

use super::Lab;
use crate::command::program;

/// A running pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) uid: String,
    /// First the cluster's first family.
    pub(crate) addresses: Vec<String>,
}

impl Pod {
    fn from_json(object: &Value) -> Option<Self> {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).map(str::to_owned);
        let addresses = object.pointer("/status/podIPs").and_then(Value::as_array)?;
        Some(Self {
            namespace: text("/metadata/namespace")?,
            name: text("/metadata/name")?,
            node: text("/spec/nodeName")?,
            uid: text("/metadata/uid")?,
            addresses: addresses.iter().filter_map(|a| a.get("ip")?.as_str().map(str::to_owned)).collect(),
        })
    }

    /// `tcp:ADDRESS:PORT` of the pod's n-th address.
    pub(crate) fn target(&self, protocol: &str, family: usize, port: u16) -> Result<String> {
        let address = self.addresses.get(family).with_context(|| format!("{} has no address {family}", self.name))?;
        Ok(target(protocol, address, port))
    }
}

/// `tcp:ADDRESS:PORT`, with brackets for IPv6.
pub(crate) fn target(protocol: &str, address: &str, port: u16) -> String {
    if address.contains(':') {
        format!("{protocol}:[{address}]:{port}")
    } else {
        format!("{protocol}:{address}:{port}")
    }
}

/// What became of a probe: the workload's own words.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase", tag = "result", content = "detail")]
pub(crate) enum Outcome {
    Ok(String),
    Timeout,
    Refused,
    Failed(String),
}

impl Outcome {
    /// Whether it answered.
    pub(crate) const fn passed(&self) -> bool {
        matches!(self, Self::Ok(_))
    }
}

#[derive(Deserialize)]
struct Line {
    outcome: Outcome,
}

impl Lab {
    /// Ready pods of a namespace that match a label selector, in order of their names.
    pub(crate) fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<Pod>> {
        let list = self.get(&["-n", namespace, "pods", "-l", selector])?;
        let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        let mut pods: Vec<Pod> = items
            .iter()
            .filter(|o| o.pointer("/metadata/deletionTimestamp").is_none())
            .filter_map(Pod::from_json)
            .collect();
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pods)
    }

    /// The first of [`Lab::pods`].
    pub(crate) fn pod(&self, namespace: &str, selector: &str) -> Result<Pod> {
        self.pods(namespace, selector)?.into_iter().next().with_context(|| format!("no pod {selector} in {namespace}"))
    }

    /// Probes all targets at once from inside a pod; outcomes in the order of the targets.
    pub(crate) fn probe(&self, from: &Pod, targets: &[String], timeout: Duration) -> Result<Vec<Outcome>> {
        let timeout = timeout.as_millis().to_string();
        let mut command = self.inside(from)?;
        command.args(["axoneme-workload", "probe", "--timeout-ms", &timeout]).args(targets);
        // status 1 just says that not all answered: the lines tell which
        let done = command.output().context("probe")?;
        outcomes(&String::from_utf8_lossy(&done.stdout), targets.len()).with_context(|| {
            format!("probe from {}/{}: {}", from.namespace, from.name, String::from_utf8_lossy(&done.stderr))
        })
    }

    /// One probe.
    pub(crate) fn passes(&self, from: &Pod, target: &str, timeout: Duration) -> Result<bool> {
        Ok(self.probe(from, &[target.to_owned()], timeout)?.iter().all(Outcome::passed))
    }

    /// Probes from a node (`node1`), `outside` or `router`, with the static workload binary of the checkout.
    pub(crate) fn probe_from(&self, place: &str, targets: &[String], timeout: Duration) -> Result<Vec<Outcome>> {
        let program = crate::image::binary("axoneme-workload").display().to_string();
        let timeout = timeout.as_millis().to_string();
        let mut words = vec![program.as_str(), "probe", "--timeout-ms", &timeout];
        words.extend(targets.iter().map(String::as_str));
        let done = self.cluster.command_in(place, &words).output().with_context(|| format!("probe from {place}"))?;
        outcomes(&String::from_utf8_lossy(&done.stdout), targets.len())
            .with_context(|| format!("probe from {place}: {}", String::from_utf8_lossy(&done.stderr)))
    }

    /// A command, given by what is appended, in a pod's namespaces and control groups. It goes there by itself: what
    /// `kubectl exec` asks of a client, an API server, a kubelet and a runtime costs more than what is run.
    pub(super) fn inside(&self, pod: &Pod) -> Result<Command> {
        let process = process_of(&pod.uid)?
            .with_context(|| format!("{}/{} has no process that runs", pod.namespace, pod.name))?;
        let mut command = program(self.cluster.xtask());
        command.args(["__inside", &process.to_string()]);
        Ok(command)
    }
}

/// A process of a pod's containers, as this machine numbers it: not the one that holds the namespaces open, and none
/// that a runtime has not made a container's yet.
fn process_of(uid: &str) -> Result<Option<i32>> {
    let own = |pid: &i32| {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let program = program.file_name().unwrap_or_default().to_string_lossy();
        groups.contains(uid) && program.starts_with("axoneme")
    };
    let all = fs::read_dir("/proc")?.flatten().filter_map(|e| e.file_name().to_string_lossy().parse::<i32>().ok());
    Ok(all.filter(own).min())
}

/// Reads what the workload's `probe` prints: one line a target.
pub(crate) fn outcomes(lines: &str, expected: usize) -> Result<Vec<Outcome>> {
    let found: Vec<Outcome> = lines
        .lines()
        .map(|l| serde_json::from_str::<Line>(l).map(|l| l.outcome))
        .collect::<Result<_, _>>()
        .with_context(|| format!("reading {lines:?}"))?;
    anyhow::ensure!(found.len() == expected, "{} of {expected} probes answered: {lines:?}", found.len());
    Ok(found)
}
