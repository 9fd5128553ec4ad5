//! Whether what was applied runs.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{
    NAMESPACE,
    manifests::{AGENT, OPERATOR},
};
use crate::{
    cluster::{Cluster, Fault},
    failure::Failure,
    kinds::{Resource, metadata},
    progress::Progress,
};

const POLL: Duration = Duration::from_millis(500);

/// What has to run.
const WORKLOADS: [(&str, &str, &str); 3] = [
    ("DaemonSet", "daemonsets", AGENT),
    ("Deployment", "deployments", OPERATOR),
    ("Deployment", "deployments", "hubble-relay"),
];

/// Waits until agents, operator and relay run as they are wanted.
pub(super) fn wait(cluster: &Cluster, patience: Duration) -> Result<(), Failure> {
    wait_for(cluster, &WORKLOADS, patience)
}

/// Waits for workloads: kind, resource, name. What does not run after that is named, with what its pods say.
pub(super) fn wait_for(cluster: &Cluster, workloads: &[(&str, &str, &str)], patience: Duration) -> Result<(), Failure> {
    let progress = Progress::start("waiting for the pods");
    let deadline = Instant::now() + patience;
    loop {
        let mut open = Vec::new();
        for (kind, plural, name) in workloads {
            let resource = Resource::named("apps/v1", kind, plural, true);
            let why = match cluster.get(&resource, NAMESPACE, name) {
                Ok(Some(object)) => unfinished(&object),
                Ok(None) => Some("it is not there".to_owned()),
                // the API server may be away while its node's network comes up
                Err(Fault::Away(why)) => Some(why),
                Err(fault) => return Err(cluster.failed(name, &fault)),
            };
            open.extend(why.map(|why| format!("{kind} {name}: {why}")));
        }
        let Some(first) = open.first() else { return Ok(()) };
        progress.say(first.clone());
        if Instant::now() >= deadline {
            drop(progress);
            let pods = troubles(cluster).unwrap_or_default();
            let lines: Vec<String> = open.into_iter().chain(pods).map(|line| format!("\n  {line}")).collect();
            eprintln!("axoneme: not ready after {} s:{}", patience.as_secs(), lines.concat());
            return Err(Failure::Unwell);
        }
        std::thread::sleep(POLL);
    }
}

/// What a workload still lacks; none: nothing.
fn unfinished(object: &Value) -> Option<String> {
    let number = |path: &str| object.pointer(path).and_then(Value::as_i64);
    let status = |key: &str| number(&format!("/status/{key}")).unwrap_or_default();
    if status("observedGeneration") < number("/metadata/generation").unwrap_or_default() {
        return Some("its controller has not looked at it yet".to_owned());
    }
    let (wanted, updated, ready) = if object.get("kind").and_then(Value::as_str) == Some("DaemonSet") {
        (status("desiredNumberScheduled"), status("updatedNumberScheduled"), status("numberReady"))
    } else {
        (number("/spec/replicas").unwrap_or(1), status("updatedReplicas"), status("availableReplicas"))
    };
    (updated < wanted || ready < wanted)
        .then(|| format!("{ready} of {wanted} pods are ready, {updated} are up to date"))
}

/// What keeps the product's pods from running, a line each.
fn troubles(cluster: &Cluster) -> Result<Vec<String>, Fault> {
    let pods = Resource::named("v1", "Pod", "pods", true);
    let mut lines = Vec::new();
    for pod in cluster.list(&pods, NAMESPACE, "")? {
        let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or("no node yet");
        let name = metadata(&pod, "name");
        let lists = ["/status/initContainerStatuses", "/status/containerStatuses"];
        let all = lists.into_iter().filter_map(|path| pod.pointer(path)?.as_array()).flatten();
        for state in all {
            let text = |path: &str| state.pointer(path).and_then(Value::as_str).unwrap_or_default();
            let (reason, message) = (text("/state/waiting/reason"), text("/state/waiting/message"));
            if !reason.is_empty() && reason != "PodInitializing" {
                let last = text("/lastState/terminated/message").trim();
                lines.push(format!("pod {name} ({node}): {}: {reason}: {message}{last}", text("/name")));
            }
        }
        if pod.pointer("/spec/nodeName").is_none() {
            lines.push(format!("pod {name}: no node takes it: kubectl -n {NAMESPACE} describe pod {name}"));
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::unfinished;

    #[test]
    fn a_workload_runs_when_all_its_pods_are_new_and_ready() {
        let daemon = |observed: i64, updated: i64, ready: i64| {
            json!({"kind": "DaemonSet", "metadata": {"generation": 2}, "status": {"observedGeneration": observed,
                "desiredNumberScheduled": 3, "updatedNumberScheduled": updated, "numberReady": ready}})
        };
        assert_eq!(unfinished(&daemon(2, 3, 3)), None);
        assert!(unfinished(&daemon(1, 3, 3)).unwrap().contains("not looked at"));
        assert!(unfinished(&daemon(2, 2, 3)).unwrap().contains("2 are up to date"));
        assert!(unfinished(&daemon(2, 3, 2)).unwrap().starts_with("2 of 3"));
        let deployment = |available: i64| {
            json!({"kind": "Deployment", "metadata": {"generation": 1}, "spec": {"replicas": 2},
                "status": {"observedGeneration": 1, "updatedReplicas": 2, "availableReplicas": available}})
        };
        assert_eq!(unfinished(&deployment(2)), None);
        assert!(unfinished(&deployment(1)).is_some());
    }
}
