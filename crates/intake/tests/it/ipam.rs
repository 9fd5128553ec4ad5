//! CiliumCIDRGroup, CiliumIdentity, CiliumNode, CiliumPodIPPool.

use std::collections::BTreeSet;

use axoneme_intake::{Reason::Invalid, cidr_group, cilium_identity, cilium_node, pod_ip_pool};
use axoneme_model::{Identity, LabelKey, world::PlainLabels, world::Pod};

use crate::show::{assert_refused, yaml};

#[test]
fn cidr_groups_of_both_versions() {
    for version in ["v2", "v2alpha1"] {
        let object = yaml(&format!(
            "{{apiVersion: cilium.io/{version}, kind: CiliumCIDRGroup, metadata: {{name: vpn, labels: {{site: a}}}}, \
             spec: {{externalCIDRs: [10.1.2.3/8, 'fd00::/8', 192.0.2.1]}}}}"
        ));
        let (name, group) = cidr_group(&object).expect("good");
        assert_eq!(&*name, "vpn");
        assert_eq!(group.labels.len(), 1);
        let cidrs: BTreeSet<String> = group.cidrs.iter().map(ToString::to_string).collect();
        assert_eq!(cidrs, ["10.0.0.0/8", "fd00::/8", "192.0.2.1/32"].map(String::from).into());
        assert!(axoneme_intake::parse(&object).is_ok());
    }
    let wrong =
        yaml("{apiVersion: cilium.io/v2, kind: CiliumCIDRGroup, metadata: {name: a}, spec: {externalCIDRs: [a]}}");
    assert_refused(&wrong, "spec.externalCIDRs[0]", Invalid, "prefix");
    let typo = yaml("{apiVersion: cilium.io/v2, kind: CiliumCIDRGroup, metadata: {name: a}, spec: {externalCIDR: []}}");
    assert_refused(&typo, "spec.externalCIDR", Invalid, "did you mean externalCIDRs?");
}

#[test]
fn identities() {
    let object = |name: &str| {
        yaml(&format!(
            "{{apiVersion: cilium.io/v2, kind: CiliumIdentity, metadata: {{name: '{name}'}}, security-labels: \
             {{'k8s:app': web, 'k8s:io.kubernetes.pod.namespace': shop, 'cni:x': '1'}}}}"
        ))
    };
    let (identity, labels) = cilium_identity(&object("4711")).expect("good");
    assert_eq!(identity, Identity(4711));
    assert_eq!(labels.get(&LabelKey::k8s("app")), Some("web"));
    assert_eq!(labels.namespace(), Some("shop"));
    assert_eq!(labels.to_strings().len(), 3);
    for name in ["255", "65536", "web"] {
        assert_refused(&object(name), "metadata.name", Invalid, "256 to 65535");
    }
    let bare = yaml("{apiVersion: cilium.io/v2, kind: CiliumIdentity, metadata: {name: '300'}}");
    assert_refused(&bare, "security-labels", Invalid, "required");
}

#[test]
fn cilium_node_of_all_ipam_modes() {
    let object = yaml(
        "apiVersion: cilium.io/v2
kind: CiliumNode
metadata: {name: n1, annotations: {ipam.cilium.io/ignore: 'true'}}
spec:
  bootid: b-1
  addresses: [{type: CiliumInternalIP, ip: 10.244.0.1}, {type: ExternalIP, ip: 203.0.113.1}, {type: InternalIP, ip: 192.168.0.1}]
  eni: {instance-type: m5.large}
  ipam:
    podCIDRs: [10.244.0.0/24]
    pool: {10.9.0.1: {}, 10.9.0.2: {owner: x}}
    ipv6-pool: {'fd00::1': {}}
    pools:
      requested: [{pool: default, needed: {ipv4-addrs: 16, ipv6-addrs: 8}}]
      allocated: [{pool: default, cidrs: [10.10.0.0/27]}, {pool: red, cidrs: [10.20.0.0/27]}]
status: {ipam: {used: {10.9.0.1: {owner: shop/web-0}}, ipv6-used: {'fd00::1': {owner: shop/web-0}}}}
",
    );
    let node = cilium_node(&object).expect("good");
    assert!(node.ipam_ignored && &*node.boot_id == "b-1");
    assert_eq!(node.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.168.0.1", "203.0.113.1"]);
    assert_eq!(node.internal_addresses.len(), 1);
    assert_eq!((node.pod_cidrs.len(), node.addresses_for_pods.len(), node.used.len()), (1, 3, 2));
    let share = &node.pools["default"];
    assert_eq!((share.needed_ipv4, share.needed_ipv6, share.blocks.len()), (16, 8, 1));
    assert_eq!(node.pools["red"].needed_ipv4, 0);
    let wrong = |spec: &str| {
        yaml(&format!("{{apiVersion: cilium.io/v2, kind: CiliumNode, metadata: {{name: a}}, spec: {spec}}}"))
    };
    assert_refused(&wrong("{ipam: {pool: {a: {}}}}"), "spec.ipam.pool[a]", Invalid, "address");
    assert_refused(&wrong("{ipam: {podCIDRs: [1]}}"), "spec.ipam.podCIDRs[0]", Invalid, "string");
    assert_refused(&wrong("{addresses: [{type: InternalIP}]}"), "spec.addresses[0].ip", Invalid, "required");
}

fn pool_object(spec: &str) -> serde_json::Value {
    yaml(&format!("{{apiVersion: cilium.io/v2alpha1, kind: CiliumPodIPPool, metadata: {{name: red}}, spec: {spec}}}"))
}

fn pod(namespace: &str, app: &str) -> Pod {
    Pod {
        namespace: namespace.into(),
        name: "web-0".into(),
        uid: "u".into(),
        labels: [("app".into(), app.into())].into(),
        annotations: PlainLabels::new(),
        service_account: "default".into(),
        node: "".into(),
        addresses: axoneme_model::PackedSet::new(),
        named_ports: axoneme_model::PackedMap::new(),
    }
}

#[test]
fn pools_and_whom_they_select() {
    let pool = pod_ip_pool(&pool_object(
        "{ipv4: {cidrs: [10.0.0.0/16, 10.2.0.0/16], maskSize: 24}, ipv6: {cidrs: ['fd00::/104'], maskSize: 120}, \
         allowFirstIP: true, podSelector: {matchLabels: {app: web, io.kubernetes.pod.namespace: shop}}, \
         namespaceSelector: {matchLabels: {team: red}}}",
    ))
    .expect("good");
    assert_eq!(pool.ipv4.as_ref().map(|f| (f.cidrs.len(), f.mask_size)), Some((2, 24)));
    assert_eq!((pool.allow_first_address, pool.allow_last_address, pool.skip_masquerade), (true, false, false));
    let red: PlainLabels = [("team".into(), "red".into())].into();
    assert!(pool.selects(&pod("shop", "web"), &red));
    assert!(!pool.selects(&pod("shop", "db"), &red));
    assert!(!pool.selects(&pod("other", "web"), &red));
    assert!(!pool.selects(&pod("shop", "web"), &PlainLabels::new()));
    let by_name = pod_ip_pool(&pool_object("{ipv4: {cidrs: [10.0.0.0/16], maskSize: 24}}")).expect("good");
    assert!(!by_name.selects(&pod("shop", "web"), &red), "a pool without selectors is used by name only");
    let by_namespace = pod_ip_pool(&pool_object(
        "{ipv4: {cidrs: [10.0.0.0/16], maskSize: 24}, namespaceSelector: {matchLabels: {team: red}}}",
    ));
    assert!(by_namespace.expect("good").selects(&pod("any", "any"), &red));
}

#[test]
fn pools_that_cannot_work_are_refused() {
    let cases = [
        ("{}", "spec", "ipv4 or ipv6"),
        ("{ipv4: {cidrs: [], maskSize: 24}}", "spec.ipv4.cidrs", "at least one"),
        ("{ipv4: {cidrs: [10.0.0.0/16]}}", "spec.ipv4.maskSize", "required"),
        ("{ipv4: {maskSize: 24}}", "spec.ipv4.cidrs", "required"),
        ("{ipv4: {cidrs: [10.0.0.0/16], maskSize: 33}}", "spec.ipv4.maskSize", "1 to 32"),
        ("{ipv4: {cidrs: ['fd00::/64'], maskSize: 24}}", "spec.ipv4.cidrs[0]", "IPv4"),
        ("{ipv6: {cidrs: [10.0.0.0/16], maskSize: 120}}", "spec.ipv6.cidrs[0]", "IPv6"),
        ("{ipv4: {cidrs: [10.0.0.0/25], maskSize: 24}}", "spec.ipv4.cidrs[0]", "smaller than one block"),
        (
            "{ipv4: {cidrs: [10.0.0.0/16, 10.0.1.0/24], maskSize: 24}}",
            "spec.ipv4.cidrs[1]",
            "overlaps with 10.0.0.0/16",
        ),
        (
            "{ipv4: {cidrs: [10.0.1.0/24, 10.0.0.0/16], maskSize: 24}}",
            "spec.ipv4.cidrs[1]",
            "overlaps with 10.0.1.0/24",
        ),
    ];
    for (spec, path, words) in cases {
        assert_refused(&pool_object(spec), path, Invalid, words);
    }
}
