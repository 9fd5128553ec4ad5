//! Good objects of every kind, to be broken.

use std::path::PathBuf;

use serde_json::Value;

use crate::show::yaml;

/// The example manifests of the API types: file, position, object.
pub(crate) fn examples() -> Vec<(String, usize, Value)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../crds/tests/examples");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    let mut out = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("readable");
        let name = file.file_name().expect("name").to_string_lossy().into_owned();
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        out.extend(documents.into_iter().enumerate().map(|(i, object)| (name.clone(), i, object)));
    }
    out
}

const KUBERNETES: [&str; 6] = [
    "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: red}, annotations: {ipam.cilium.io/ip-pool: a}}}",
    "{apiVersion: v1, kind: Pod, metadata: {name: web-0, namespace: shop, uid: u, labels: {app: web}}, spec: {nodeName: n1,
      hostNetwork: false, serviceAccountName: a, containers: [{name: c, ports: [{name: http, containerPort: 80, protocol: TCP}]}],
      initContainers: [{name: i, restartPolicy: Always, ports: [{name: mesh, containerPort: 1}]}]},
      status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}}",
    "{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {a: b}}, spec: {podCIDRs: [10.0.0.0/24]},
      status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}}",
    "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIPs: [10.96.0.1], selector: {app: web},
      ports: [{name: http, port: 80, protocol: TCP}], sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}},
      internalTrafficPolicy: Local}}",
    "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web-1, namespace: shop, labels:
      {kubernetes.io/service-name: web}}, addressType: IPv4, ports: [{name: http, port: 8080, protocol: TCP}],
      endpoints: [{addresses: [10.0.0.1], conditions: {ready: true, serving: true, terminating: false}, nodeName: n1, zone: a}]}",
    "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: web, namespace: shop, generation: 2}, spec: {podSelector:
      {matchLabels: {app: web}, matchExpressions: [{key: a, operator: In, values: [b]}]}, policyTypes: [Ingress, Egress],
      ingress: [{from: [{podSelector: {}, namespaceSelector: {}}], ports: [{port: 80, endPort: 90, protocol: TCP}]}],
      egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: dns, protocol: UDP}]}]}}",
];

/// All examples, and a good object of each Kubernetes kind.
pub(crate) fn all() -> Vec<Value> {
    let kubernetes = KUBERNETES.iter().map(|text| yaml(text));
    examples().into_iter().map(|(_, _, object)| object).chain(kubernetes).collect()
}
