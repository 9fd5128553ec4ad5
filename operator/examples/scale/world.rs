//! The cluster, object by object: nothing is kept but what changes.

use serde_json::{Value, json};

use crate::Options;

/// Label sets of a namespace.
const SETS_A_NAMESPACE: u32 = 100;

/// What a pod has become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Pending,
    Bound,
    Running,
}

fn set_of(o: &Options, pod: u32) -> u32 {
    pod % o.identities
}

fn namespace_of(set: u32) -> String {
    format!("ns-{}", set / SETS_A_NAMESPACE)
}

pub(crate) fn pod_name(pod: u32, generation: u32) -> String {
    format!("app-{pod}-{generation:05x}")
}

pub(crate) fn namespaces(o: &Options) -> u32 {
    (o.identities - 1) / SETS_A_NAMESPACE + 1
}

fn managed() -> Value {
    json!([{"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}}}}}}])
}

/// `other`: with a label value that no pod has had before.
pub(crate) fn pod(o: &Options, i: u32, generation: u32, stage: Stage, other: bool) -> Value {
    let set = set_of(o, i);
    let app = if other { format!("app-{set}-{generation}") } else { format!("app-{set}") };
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
            "name": pod_name(i, generation), "namespace": namespace_of(set),
            "uid": format!("00000000-0000-0000-{:04x}-{i:012}", generation & 0xffff), "managedFields": managed(),
            "labels": {"app": app, "pod-template-hash": format!("{:x}", set.wrapping_mul(2_654_435_761)), "tier": "web"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "checksum/config": "e3b0c44298fc1c149afbf4c8996fb924"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("app-{set}"), "uid": "0", "controller": true}]},
        "spec": {"serviceAccountName": "default", "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{"name": "c", "image": "example.com/image:1", "env": [{"name": "A", "value": "b"}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
                "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Pending"}});
    if stage != Stage::Pending {
        pod["spec"]["nodeName"] = node_name(i % o.nodes).into();
    }
    if stage == Stage::Running {
        pod["status"] = json!({"phase": "Running", "podIPs": [{"ip": address(o, i, generation)}],
            "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [{"name": "c", "ready": true}]});
    }
    pod
}

/// Two addresses of a pod's place take turns, as its old and its new pod are there at once.
fn address(o: &Options, pod: u32, generation: u32) -> String {
    let place = pod / o.nodes * 2 + generation % 2;
    std::net::Ipv4Addr::from(0x0a00_0000 + (pod % o.nodes) * 256 + place + 1).to_string()
}

pub(crate) fn node_name(i: u32) -> String {
    format!("node-{i}")
}

pub(crate) fn node(i: u32) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node_name(i), "uid": format!("n-{i}"), "managedFields": managed(),
            "labels": {"kubernetes.io/hostname": node_name(i), "topology.kubernetes.io/zone": format!("zone-{}", i % 3)}},
        "spec": {}, "status": {"addresses": [{"type": "InternalIP", "address": node_address(i)}]}})
}

pub(crate) fn node_address(i: u32) -> String {
    std::net::Ipv4Addr::from(0xac10_0000 + i).to_string()
}

pub(crate) fn namespace(i: u32) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": format!("ns-{i}"), "uid": format!("ns-{i}"),
        "labels": {"kubernetes.io/metadata.name": format!("ns-{i}")}}})
}

/// The label set that a policy selects.
pub(crate) fn subject(o: &Options, policy: u32) -> u32 {
    policy * (o.identities / o.policies)
}

/// The policy that selects pods of that label set lets another set of the namespace in on one port.
pub(crate) fn policy(o: &Options, i: u32, generation: u32, port: u32) -> Value {
    let set = subject(o, i);
    let other = if (set + 1).is_multiple_of(SETS_A_NAMESPACE) || set + 1 >= o.identities { set } else { set + 1 };
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"name": format!("p-{i}"), "namespace": namespace_of(set), "uid": format!("p-{i}"), "generation": generation, "managedFields": managed()},
        "spec": {"endpointSelector": {"matchLabels": {"app": format!("app-{set}")}},
            "ingress": [{"fromEndpoints": [{"matchLabels": {"app": format!("app-{other}")}}],
                "toPorts": [{"ports": [{"port": port.to_string(), "protocol": "TCP"}]}]}]}})
}

/// The settings: addresses for all nodes.
pub(crate) fn config() -> Value {
    json!({"apiVersion": "axoneme.io/v1alpha1", "kind": "AxonemeConfig",
        "metadata": {"name": "default", "uid": "c", "generation": 1},
        "spec": {"ipFamilies": ["IPv4"], "ipam": {"mode": "ClusterPool", "clusterPool": {"ipv4": {"cidrs": ["10.0.0.0/8"], "maskSize": 24}}}}})
}

/// How many objects of a resource the cluster begins with.
pub(crate) fn count(o: &Options, plural: &str) -> u32 {
    match plural {
        "namespaces" => namespaces(o),
        "nodes" => o.nodes,
        "pods" => o.pods,
        "ciliumnetworkpolicies" => o.policies,
        "axonemeconfigs" => 1,
        _ => 0,
    }
}

/// One of those.
pub(crate) fn at(o: &Options, plural: &str, i: u32) -> Value {
    match plural {
        "namespaces" => namespace(i),
        "nodes" => node(i),
        "pods" => pod(o, i, 0, Stage::Running, false),
        "ciliumnetworkpolicies" => policy(o, i, 1, 8080),
        _ => config(),
    }
}

/// One of them by its name.
pub(crate) fn one(o: &Options, plural: &str, name: &str) -> Option<Value> {
    let number = || name.rsplit_once('-').and_then(|(_, n)| n.parse::<u32>().ok());
    match plural {
        "nodes" => number().filter(|n| *n < o.nodes).map(node),
        "ciliumnetworkpolicies" => number().filter(|n| *n < o.policies).map(|n| policy(o, n, 1, 8080)),
        "axonemeconfigs" => Some(config()),
        _ => None,
    }
}
