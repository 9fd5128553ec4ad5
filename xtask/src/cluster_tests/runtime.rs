//! What is done to pods and to the product by their node's own container runtime: the API server has no part in it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::image;
use crate::lab::{Lab, Outcome, Pod, SYSTEM, outcomes};
use crate::settings;

/// A container as the runtime of its node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Container {
    node: String,
    id: String,
}

impl Container {
    /// The first container of a pod.
    pub(super) fn of(lab: &Lab, pod: &Pod) -> Result<Self> {
        let object = lab.get(&["-n", &pod.namespace, "pod", &pod.name])?;
        let id = object.pointer("/status/containerStatuses/0/containerID").and_then(Value::as_str);
        let id = id.and_then(|id| id.strip_prefix("containerd://"));
        let id = id.with_context(|| format!("{} has no container that runs", pod.name))?;
        Ok(Self { node: pod.node.clone(), id: id.to_owned() })
    }

    /// The container that holds a pod's namespaces open.
    pub(super) fn sandbox(lab: &Lab, pod: &Pod) -> Result<Self> {
        let (name, namespace) = (&pod.name, &pod.namespace);
        let filter = format!(
            "labels.\"io.kubernetes.pod.name\"=={name},labels.\"io.kubernetes.pod.namespace\"=={namespace},\
             labels.\"io.cri-containerd.kind\"==sandbox"
        );
        let found =
            lab.cluster.node_exec(&pod.node, &["ctr", "--namespace=k8s.io", "containers", "ls", "-q", &filter])?;
        for id in found.split_whitespace() {
            let one = Self { node: pod.node.clone(), id: id.to_owned() };
            // what a former sandbox has left has no task
            if one.pid(lab).is_ok() {
                return Ok(one);
            }
        }
        anyhow::bail!("{namespace}/{name} has no sandbox that runs on {}", pod.node)
    }

    /// Sends a signal to its first process: `SIGKILL`, `SIGSTOP`, `SIGCONT`.
    pub(super) fn signal(&self, lab: &Lab, signal: &str) -> Result<()> {
        let words = ["ctr", "--namespace=k8s.io", "tasks", "kill", "--signal", signal, &self.id];
        lab.cluster.node_exec(&self.node, &words).map(drop)
    }

    /// Its first process, as the node numbers it.
    fn pid(&self, lab: &Lab) -> Result<String> {
        let tasks = lab.cluster.node_exec(&self.node, &["ctr", "--namespace=k8s.io", "tasks", "ls"])?;
        let line = tasks.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
        let mut found = line.filter_map(|l| match l.as_slice() {
            [id, pid, "RUNNING"] if *id == self.id => Some((*pid).to_owned()),
            _ => None,
        });
        found.next().with_context(|| format!("container {} does not run on {}", self.id, self.node))
    }

    /// The workload, in the network namespace of the container; it outlives the API server's absence.
    pub(super) fn workload(&self, lab: &Lab, words: &[&str]) -> Result<Command> {
        let net = format!("--net=/proc/{}/ns/net", self.pid(lab)?);
        let program = image::binary("axoneme-workload").display().to_string();
        let mut all = vec!["nsenter", &net, &program];
        all.extend(words);
        Ok(lab.cluster.command_in(&self.node, &all))
    }

    /// Probes all targets at once, as [`Lab::probe`] does.
    pub(super) fn probe(&self, lab: &Lab, targets: &[String], timeout: Duration) -> Result<Vec<Outcome>> {
        let timeout = timeout.as_millis().to_string();
        let mut words = vec!["probe", "--timeout-ms", &timeout];
        words.extend(targets.iter().map(String::as_str));
        let done = self.workload(lab, &words)?.output().context("probe")?;
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        outcomes(&out, targets.len()).with_context(|| format!("probe on {}: {err}", self.node))
    }
}

/// What a node's agent says of itself, asked on the node.
pub(super) fn status(lab: &Lab, node: &str) -> Result<Value> {
    let program = image::binary("axoneme").display().to_string();
    // status 1 says that the node is not ready; the document is there all the same
    let done = lab.cluster.command_in(node, &[&program, "status", "-o", "json"]).output()?;
    let text = String::from_utf8_lossy(&done.stdout);
    serde_json::from_str(&text).with_context(|| format!("{node}: {text}{}", String::from_utf8_lossy(&done.stderr)))
}

/// Addresses in use on a node, over all pools.
pub(super) fn used(lab: &Lab, node: &str) -> Result<u64> {
    let status = status(lab, node)?;
    let pools = status.pointer("/pools").and_then(Value::as_array).with_context(|| format!("no pools in {status}"))?;
    Ok(pools.iter().filter_map(|p| p.get("used")?.as_u64()).sum())
}

/// The addresses of a pod's endpoint by its agent's word; empty where it has none that is ready.
pub(super) fn endpoint(lab: &Lab, node: &str, namespace: &str, name: &str) -> Result<Vec<String>> {
    let status = status(lab, node)?;
    let all = status.pointer("/endpoints").and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |e: &Value, key: &str| e.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let own = all.iter().find(|e| {
        text(e, "namespace") == namespace
            && text(e, "name") == name
            && e.get("ready").and_then(Value::as_bool) == Some(true)
    });
    let addresses = own.and_then(|e| e.get("addresses")?.as_array().cloned()).unwrap_or_default();
    Ok(addresses.iter().filter_map(|a| a.as_str().map(str::to_owned)).collect())
}

/// The product's pods: `axoneme-agent` or `axoneme-operator`.
pub(super) fn product(lab: &Lab, app: &str) -> Result<Vec<Pod>> {
    lab.pods(SYSTEM, &format!("app.kubernetes.io/name={app}"))
}

/// Waits until other pods are in the place of these, as many and Ready. The status of a workload lags behind its pods.
pub(super) fn renewed(lab: &Lab, app: &str, old: &[Pod]) -> Result<Duration> {
    let selector = format!("app.kubernetes.io/name={app}");
    let ask = || {
        let list = lab.get(&["-n", SYSTEM, "pods", "-l", &selector])?;
        let all = list.pointer("/items").and_then(Value::as_array).cloned().unwrap_or_default();
        Ok(all.iter().map(state).collect::<Vec<_>>())
    };
    let fresh = |all: &Vec<(String, bool)>| {
        all.len() == old.len() && all.iter().all(|(name, ready)| *ready && old.iter().all(|o| o.name != *name))
    };
    Lab::eventually(&format!("other pods of {app}"), Duration::from_mins(3), ask, fresh)
}

/// A pod's name, and whether it is Ready.
fn state(pod: &Value) -> (String, bool) {
    let name = pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let is = |c: &Value, key: &str, value: &str| c.get(key).and_then(Value::as_str) == Some(value);
    (name, conditions.iter().any(|c| is(c, "type", "Ready") && is(c, "status", "True")))
}

/// Where a node's kubelet looks for static pods, as this machine sees it.
fn static_pods(lab: &Lab, node: &str) -> PathBuf {
    lab.cluster.directory().join("nodes").join(node).join("root/etc/kubernetes/manifests")
}

/// Gives a node's kubelet a static pod that runs the workload's server on TCP port 8080. Its name gets the node's behind.
pub(super) fn start_static_pod(lab: &Lab, node: &str, name: &str) -> Result<()> {
    let path = settings::repository().join("tools/tests/static-pod.yaml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let dir = static_pods(lab, node);
    ensure!(dir.is_dir(), "{node} has no directory for static pods: {}", dir.display());
    // in one step: kubelet reads what it finds
    let (fresh, at) = (dir.with_extension("fresh"), dir.join(format!("{name}.yaml")));
    std::fs::write(&fresh, text.replace("${NAME}", name))?;
    std::fs::rename(&fresh, &at).with_context(|| format!("writing {}", at.display()))
}

/// Takes a static pod away.
pub(super) fn end_static_pod(lab: &Lab, node: &str, name: &str) -> Result<()> {
    let path = static_pods(lab, node).join(format!("{name}.yaml"));
    std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))
}
