//! Leaves out what nobody here reads, before an object is kept.

use axoneme_model::{Kind, audit, bandwidth};
use serde_json::{Map, Value};

/// Annotations that repeat the object.
const NOISE: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];

/// Drops managed fields always, and of pods and nodes all but what is read.
pub fn slim(kind: Kind, object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.retain(|k, _| !NOISE.contains(&k.as_str()));
        }
    }
    match kind {
        Kind::Pod => {
            slim_annotations(object);
            slim_pod(object);
        }
        Kind::Node => slim_node(object),
        Kind::Namespace => {
            slim_annotations(object);
            drop_field(object, "status");
        }
        Kind::Service => drop_field(object, "status"),
        _ => {}
    }
}

/// Annotations of pods are many, large, and of others: only those that choose pools are read, that of static pods, whether
/// policy is enforced, and how much of their traffic passes.
fn slim_annotations(object: &mut Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else { return };
    let own = |k: &str| k == "kubernetes.io/config.mirror" || k == audit::MODE || bandwidth::is_read(k);
    let read = |k: &str| k.starts_with("ipam.cilium.io/") || own(k);
    annotations.retain(|k, _| read(k));
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
}

fn slim_pod(pod: &mut Value) {
    keep(pod, "spec", &["nodeName", "hostNetwork", "serviceAccountName", "containers", "initContainers"]);
    keep(pod, "status", &["phase", "podIP", "podIPs"]);
    for list in ["containers", "initContainers"] {
        let containers = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
        for c in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            retain(c, &["name", "ports", "restartPolicy"]);
        }
    }
}

fn slim_node(node: &mut Value) {
    keep(node, "spec", &["podCIDR", "podCIDRs", "taints"]);
    keep(node, "status", &["addresses", "conditions"]);
    if let Some(conditions) = node.pointer_mut("/status/conditions").and_then(Value::as_array_mut) {
        // the kubelet renews the others all the time
        conditions.retain(|c| c.get("type").is_some_and(|t| t == "NetworkUnavailable"));
    }
}

fn keep(object: &mut Value, section: &str, fields: &[&str]) {
    if let Some(section) = object.get_mut(section).and_then(Value::as_object_mut) {
        retain(section, fields);
    }
}

fn retain(map: &mut Map<String, Value>, fields: &[&str]) {
    map.retain(|k, _| fields.contains(&k.as_str()));
}

fn drop_field(object: &mut Value, field: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(field);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_slim_pod_reads_as_the_whole_pod() {
        let whole = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "namespace": "ns", "uid": "u", "labels": {"app": "a"}, "managedFields": [{"x": 1}],
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "ipam.cilium.io/ip-pool": "p",
                    "checksum/config": "x", "policy.axoneme.io/mode": "Enforce", "kubernetes.io/egress-bandwidth": "1M",
                    "bandwidth.cilium.io/priority": "guaranteed"}},
            "spec": {"nodeName": "n", "volumes": [1, 2], "containers": [
                {"name": "c", "image": "i", "env": [{"name": "A"}], "ports": [{"name": "http", "containerPort": 80}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "containerStatuses": [{"name": "c"}]}});
        let mut slimmed = whole.clone();
        slim(Kind::Pod, &mut slimmed);
        let mut expected = axoneme_intake::pod(&whole).unwrap().unwrap();
        expected.annotations = expected
            .annotations
            .filtered(|k, _| k.starts_with("ipam.") || &**k == audit::MODE || bandwidth::is_read(k));
        assert_eq!(expected.annotations.len(), 4);
        assert_eq!(axoneme_intake::pod(&slimmed).unwrap().unwrap(), expected);
        let text = slimmed.to_string();
        for gone in ["volumes", "image", "env", "containerStatuses", "managedFields", "last-applied", "checksum"] {
            assert!(!text.contains(gone), "{gone} is still in {text}");
        }
    }
}
