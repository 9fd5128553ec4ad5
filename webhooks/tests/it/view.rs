//! A cluster that is written down.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use axoneme_intake::{Options, Parsed, PodIpPool};
use axoneme_model::{
    Cidr, Policy, Selector,
    world::{CidrGroup, Namespace, Pod, matches_plain},
};
use axoneme_webhooks::View;
use serde_json::{Value, json};

#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) complete: bool,
    pub(crate) namespaces: BTreeMap<Arc<str>, Namespace>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) groups: BTreeMap<Arc<str>, CidrGroup>,
    /// `namespace/name`.
    pub(crate) services: Vec<&'static str>,
    pub(crate) policies: Vec<Policy>,
    pub(crate) pools: Vec<Arc<PodIpPool>>,
    /// Pool, node, block.
    pub(crate) blocks: Vec<(&'static str, &'static str, &'static str)>,
}

impl View for Cluster {
    fn options(&self) -> Options {
        Options::default()
    }

    fn is_complete(&self) -> bool {
        self.complete
    }

    fn cluster_name(&self) -> Arc<str> {
        "default".into()
    }

    fn pods(&self, namespace: Option<&str>, look: &mut dyn FnMut(&Pod, Option<&Namespace>) -> ControlFlow<()>) {
        for pod in self.pods.iter().filter(|p| namespace.is_none_or(|n| n == &*p.namespace)) {
            if look(pod, self.namespaces.get(&pod.namespace)).is_break() {
                return;
            }
        }
    }

    fn has_cidr_group(&self, name: &str) -> bool {
        self.groups.contains_key(name)
    }

    fn has_cidr_group_like(&self, selector: &Selector) -> bool {
        self.groups.values().any(|g| matches_plain(selector, &g.labels))
    }

    fn has_service(&self, namespace: &str, name: &str) -> bool {
        self.services.contains(&&*format!("{namespace}/{name}"))
    }

    fn policies(&self, namespace: Option<&str>, look: &mut dyn FnMut(&Policy) -> ControlFlow<()>) {
        let of = |p: &&Policy| p.object.namespace.is_empty() || namespace.is_none_or(|n| n == &*p.object.namespace);
        let _ = self.policies.iter().filter(of).try_for_each(look);
    }

    fn pools(&self) -> Vec<Arc<PodIpPool>> {
        self.pools.clone()
    }

    fn blocks(&self, pool: &str) -> Vec<(Arc<str>, Cidr)> {
        let of = self.blocks.iter().filter(|(p, ..)| *p == pool);
        of.map(|(_, node, block)| ((*node).into(), block.parse().unwrap())).collect()
    }
}

pub(crate) fn pod(namespace: &str, name: &str, labels: &Value) -> Pod {
    let object = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "uid": name, "labels": labels},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 80}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.10.129.7"}]}});
    axoneme_intake::pod(&object).unwrap().unwrap()
}

/// Two namespaces (`lab` and `other`, of team `a`), pods `web` in `lab`, group `known`, pool `default` of which nodes hold blocks.
pub(crate) fn small() -> Cluster {
    let namespace = |labels: Value| {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x", "labels": labels}});
        axoneme_intake::namespace(&object).unwrap().1
    };
    let group = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup",
        "metadata": {"name": "known", "labels": {"list": "good"}}, "spec": {"externalCIDRs": ["192.0.2.0/24"]}});
    let pool = json!({"apiVersion": "cilium.io/v2alpha1", "kind": "CiliumPodIPPool", "metadata": {"name": "default"},
        "spec": {"ipv4": {"cidrs": ["10.10.0.0/16"], "maskSize": 24}}});
    Cluster {
        complete: true,
        namespaces: [("lab".into(), namespace(json!({}))), ("other".into(), namespace(json!({"team": "a"})))].into(),
        pods: vec![pod("lab", "web-0", &json!({"app": "web"})), pod("other", "web-0", &json!({"app": "web"}))],
        groups: [axoneme_intake::cidr_group(&group).unwrap()].into(),
        services: vec!["lab/db"],
        policies: policies(),
        pools: vec![Arc::new(axoneme_intake::pod_ip_pool(&pool).unwrap())],
        blocks: vec![
            ("default", "n1", "10.10.0.0/24"),
            ("default", "n1", "10.10.128.0/24"),
            ("default", "n2", "10.10.129.0/24"),
            ("default", "n3", "10.10.130.0/24"),
            ("default", "n4", "10.10.131.0/24"),
        ],
    }
}

/// Namespace `closed` denies all that nothing allows; `lab` may not be reached from outside at 25; a rule of the admin tier
/// lets monitoring in everywhere; what is audited counts for nothing.
fn policies() -> Vec<Policy> {
    let read = |object: Value| match axoneme_intake::parse(&object).unwrap() {
        Parsed::Policy(policy) => policy,
        other => panic!("{other:?}"),
    };
    let cilium = |kind: &str, metadata: Value, spec: Value| {
        read(json!({"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata, "spec": spec}))
    };
    let ports = |port: &str| json!([{"ports": [{"port": port, "protocol": "TCP"}]}]);
    let audited =
        json!({"name": "audited", "namespace": "lab", "annotations": {"policy.axoneme.io/audit-mode": "enabled"}});
    let mut audited = cilium(
        "CiliumNetworkPolicy",
        audited,
        json!({"endpointSelector": {}, "ingressDeny": [{"fromEntities": ["all"]}]}),
    );
    audited.audit = true;
    vec![
        cilium(
            "CiliumClusterwideNetworkPolicy",
            json!({"name": "no-mail"}),
            json!({"endpointSelector": {}, "ingressDeny": [{"fromEntities": ["world"], "toPorts": ports("25")}]}),
        ),
        read(json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": {"name": "monitoring"}, "spec": {"tier": "Admin", "priority": 7,
            "subject": {"namespaces": {}}, "ingress": [{"name": "scrape", "action": "Accept",
                "from": [{"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]}]}})),
        read(json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "deny-all", "namespace": "closed"},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}})),
        cilium(
            "CiliumNetworkPolicy",
            json!({"name": "db-in", "namespace": "lab"}),
            json!({"endpointSelector": {"matchLabels": {"app": "db"}},
                "ingress": [{"fromEndpoints": [{"matchLabels": {"app": "web"}}], "toPorts": ports("5432")}]}),
        ),
        audited,
    ]
}
