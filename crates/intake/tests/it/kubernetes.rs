//! Namespace, Pod, Node, Service, EndpointSlice.

use std::{collections::BTreeSet, net::IpAddr};

use axoneme_intake::{
    EndpointSlice, Parsed, Reason::Invalid, apiserver_addresses, endpoint_slice, merge, namespace, node, parse, pod,
    service,
};
use axoneme_model::{Protocol, world::ServiceEndpoint};
use k8s_openapi::{
    api::core::v1::{Container, ContainerPort, PodIP, PodSpec, PodStatus},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::{Value, json};

use crate::show::{assert_refused, yaml};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn pod_object() -> k8s_openapi::api::core::v1::Pod {
    let port = |name: &str, number, protocol: Option<&str>| ContainerPort {
        name: (!name.is_empty()).then(|| name.into()),
        container_port: number,
        protocol: protocol.map(Into::into),
        ..Default::default()
    };
    let container = |ports, restart: Option<&str>| Container {
        name: "c".into(),
        ports: Some(ports),
        restart_policy: restart.map(Into::into),
        ..Default::default()
    };
    k8s_openapi::api::core::v1::Pod {
        metadata: ObjectMeta {
            name: Some("web-0".into()),
            namespace: Some("shop".into()),
            uid: Some("u-1".into()),
            labels: Some([("app".to_owned(), "web".to_owned())].into()),
            annotations: Some(
                [("ipam.cilium.io/ip-pool", "red"), ("kubectl.kubernetes.io/last-applied-configuration", "{}")]
                    .map(|(k, v)| (k.to_owned(), v.to_owned()))
                    .into(),
            ),
            ..Default::default()
        },
        spec: Some(PodSpec {
            node_name: Some("n1".into()),
            service_account_name: Some("robot".into()),
            containers: vec![
                container(vec![port("http", 80, None), port("", 81, None), port("dns", 53, Some("UDP"))], None),
                container(vec![port("http", 8080, Some("TCP"))], None),
            ],
            init_containers: Some(vec![
                container(vec![port("mesh", 15001, None)], Some("Always")),
                container(vec![port("setup", 1, None)], None),
            ]),
            ..Default::default()
        }),
        status: Some(PodStatus {
            phase: Some("Running".into()),
            pod_ip: Some("10.0.0.1".into()),
            pod_ips: Some(vec![PodIP { ip: "10.0.0.1".into() }, PodIP { ip: "fd00::1".into() }]),
            ..Default::default()
        }),
    }
}

fn value(object: &impl serde::Serialize) -> Value {
    serde_json::to_value(object).expect("serialises")
}

#[test]
fn pod_is_reduced_to_what_matters() {
    let pod = pod(&value(&pod_object())).expect("good").expect("networked");
    assert_eq!((&*pod.namespace, &*pod.name, &*pod.uid), ("shop", "web-0", "u-1"));
    assert_eq!((&*pod.node, &*pod.service_account), ("n1", "robot"));
    assert_eq!(pod.addresses, [ip("10.0.0.1"), ip("fd00::1")].into());
    assert_eq!(pod.labels.len(), 1);
    assert_eq!(pod.annotations.keys().map(|k| &**k).collect::<Vec<_>>(), ["ipam.cilium.io/ip-pool"]);
    let ports: Vec<(&str, Vec<(Protocol, u16)>)> =
        pod.named_ports.iter().map(|(name, ports)| (&**name, ports.iter().copied().collect())).collect();
    assert_eq!(
        ports,
        [
            ("dns", vec![(Protocol::UDP, 53)]),
            ("http", vec![(Protocol::TCP, 80), (Protocol::TCP, 8080)]),
            ("mesh", vec![(Protocol::TCP, 15001)]),
        ]
    );
}

#[test]
fn a_static_pod_has_the_uid_that_its_kubelet_uses() {
    let uid = |mirror: &str| {
        let mut object = pod_object();
        let annotations = object.metadata.annotations.as_mut().expect("annotations");
        annotations.insert("kubernetes.io/config.mirror".into(), mirror.into());
        pod(&value(&object)).expect("good").expect("networked").uid.to_string()
    };
    assert_eq!(uid("0f1e2d3c4b5a69788796a5b4c3d2e1f0"), "0f1e2d3c4b5a69788796a5b4c3d2e1f0");
    for not_a_hash in ["", "5f0c7a52-8f0e-4a3a-9d59-0d1c9a6b7c11", "0F1E2D3C4B5A69788796A5B4C3D2E1F0", "u-2"] {
        assert_eq!(uid(not_a_hash), "u-1", "nobody takes another pod's uid with {not_a_hash:?}");
    }
}

#[test]
fn pod_without_status_waits_for_its_addresses() {
    let mut object = pod_object();
    object.status = None;
    object.spec.as_mut().expect("spec").node_name = None;
    object.spec.as_mut().expect("spec").service_account_name = None;
    let pod = pod(&value(&object)).expect("good").expect("networked");
    assert!(pod.addresses.is_empty() && pod.node.is_empty());
    assert_eq!(&*pod.service_account, "default");
}

#[test]
fn old_status_with_one_address() {
    let mut object = pod_object();
    object.status.as_mut().expect("status").pod_ips = None;
    let pod = pod(&value(&object)).expect("good").expect("networked");
    assert_eq!(pod.addresses, [ip("10.0.0.1")].into());
}

#[test]
fn only_pods_on_the_pod_network_count() {
    let check = |change: &dyn Fn(&mut k8s_openapi::api::core::v1::Pod)| {
        let mut object = pod_object();
        change(&mut object);
        pod(&value(&object)).expect("good").is_some()
    };
    assert!(!check(&|p| p.spec.as_mut().expect("spec").host_network = Some(true)));
    assert!(check(&|p| p.spec.as_mut().expect("spec").host_network = Some(false)));
    for (phase, networked) in
        [("Pending", true), ("Running", true), ("Unknown", true), ("Succeeded", false), ("Failed", false)]
    {
        assert_eq!(check(&|p| p.status.as_mut().expect("status").phase = Some(phase.into())), networked, "{phase}");
    }
    let mut deleting = value(&pod_object());
    deleting["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert!(pod(&deleting).expect("good").is_some(), "a pod that is being deleted still sends and receives");

    let mut host = value(&pod_object());
    host["spec"]["hostNetwork"] = json!(true);
    host["apiVersion"] = json!("v1");
    host["kind"] = json!("Pod");
    assert_eq!(parse(&host).expect("good"), Parsed::Pod(("shop".into(), "web-0".into()), None));
}

#[test]
fn broken_pods_are_refused_one_by_one() {
    let cases = [
        ("/status/podIPs/0/ip", json!("10.0.0"), "status.podIPs[0].ip", "address"),
        (
            "/spec/containers/0/ports/0/containerPort",
            json!(0),
            "spec.containers[0].ports[0].containerPort",
            "1 to 65535",
        ),
        ("/spec/containers/0/ports/2/protocol", json!("ICMP"), "spec.containers[0].ports[2].protocol", "SCTP"),
        ("/metadata/labels/app", json!(1), "metadata.labels[app]", "quotes"),
        ("/metadata/name", json!("a/b"), "metadata.name", "slash"),
        ("/spec", json!([]), "spec", "must be an object"),
    ];
    for (pointer, wrong, path, words) in cases {
        let mut object = value(&pod_object());
        *object.pointer_mut(pointer).expect("there") = wrong;
        object["apiVersion"] = json!("v1");
        object["kind"] = json!("Pod");
        assert_refused(&object, path, Invalid, words);
    }
}

#[test]
fn namespace_always_has_its_name_as_label() {
    let object =
        yaml("{metadata: {name: shop, labels: {team: red}, annotations: {ipam.cilium.io/ip-pool: a, other: b}}}");
    let (name, ns) = namespace(&object).expect("good");
    assert_eq!(&*name, "shop");
    let labels: Vec<(&str, &str)> = ns.labels.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(labels, [("kubernetes.io/metadata.name", "shop"), ("team", "red")]);
    assert_eq!(ns.annotations.len(), 1);
}

#[test]
fn node_addresses_are_internal_first() {
    let object = yaml(
        "metadata: {name: n1, labels: {zone: a}, annotations: {network.cilium.io/ipv4-cilium-host: 10.244.0.1}}
spec: {podCIDR: 10.244.0.0/24, podCIDRs: [10.244.0.0/24, 'fd00:1::/64']}
status:
  addresses:
  - {type: ExternalIP, address: 203.0.113.1}
  - {type: Hostname, address: n1}
  - {type: InternalIP, address: 192.168.0.1}
  - {type: InternalIP, address: 'fd01::1'}
  - {type: ExternalDNS, address: n1.example.org}
",
    );
    let node = node(&object).expect("good");
    assert_eq!(node.addresses, [ip("192.168.0.1"), ip("fd01::1"), ip("203.0.113.1")]);
    assert_eq!(node.internal_addresses, [ip("10.244.0.1")]);
    assert_eq!(node.pod_cidrs.len(), 2);
    assert_eq!(node.labels.get("zone").map(|v| &**v), Some("a"));
    let single = yaml("{metadata: {name: n1}, spec: {podCIDR: 10.244.0.0/24}}");
    assert_eq!(axoneme_intake::node(&single).expect("good").pod_cidrs.len(), 1);
}

#[test]
fn services_of_all_kinds() {
    let object = yaml(
        "metadata: {name: web, namespace: shop, labels: {tier: front}}
spec:
  type: ClusterIP
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, 'fd00:96::a']
  selector: {app: web}
  ports: [{port: 80, name: http, targetPort: web}, {port: 53, protocol: UDP, name: dns}, {port: 5000, protocol: SCTP, name: s}]
  sessionAffinity: ClientIP
  internalTrafficPolicy: Local
  publishNotReadyAddresses: true
",
    );
    let web = service(&object).expect("good");
    assert_eq!(web.cluster_ips, [ip("10.96.0.10"), ip("fd00:96::a")]);
    assert_eq!(web.selector.as_ref().map(axoneme_model::PackedMap::len), Some(1));
    assert_eq!(web.labels.len(), 1);
    let ports: Vec<(&str, Protocol, u16)> = web.ports.iter().map(|p| (&*p.name, p.protocol, p.port)).collect();
    assert_eq!(ports, [("http", Protocol::TCP, 80), ("dns", Protocol::UDP, 53), ("s", Protocol::SCTP, 5000)]);
    assert_eq!(web.affinity_seconds, Some(10_800));
    assert!(web.internal_local && web.publish_not_ready);

    let of = |spec: &str| service(&yaml(&format!("{{metadata: {{name: a}}, spec: {spec}}}"))).expect("good");
    let headless = of("{clusterIP: None, clusterIPs: [None], selector: {a: b}, ports: [{port: 80}]}");
    assert!(headless.cluster_ips.is_empty() && headless.ports.len() == 1);
    let external = of("{type: ExternalName, externalName: example.org, selector: {a: b}, ports: [{port: 80}]}");
    assert!(external.cluster_ips.is_empty() && external.ports.is_empty() && external.selector.is_none());
    let manual = of("{clusterIP: 10.96.0.1, ports: [{port: 443}]}");
    assert_eq!((manual.selector, manual.cluster_ips.len()), (None, 1));
    assert_eq!(of("{clusterIP: '', ports: []}").cluster_ips.len(), 0);
    let sticky = of("{sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}}");
    assert_eq!(sticky.affinity_seconds, Some(60));
    assert_eq!(of("{sessionAffinity: None}").affinity_seconds, None);
}

#[test]
fn broken_services_are_refused() {
    let cases = [
        ("{clusterIPs: [10.96.0]}", "spec.clusterIPs[0]"),
        ("{ports: [{port: 0}]}", "spec.ports[0].port"),
        ("{ports: [{port: 1, protocol: GRE}]}", "spec.ports[0].protocol"),
        ("{sessionAffinity: Cookie}", "spec.sessionAffinity"),
        ("{internalTrafficPolicy: Near}", "spec.internalTrafficPolicy"),
        ("{selector: {a: 1}}", "spec.selector[a]"),
        (
            "{sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}}",
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
        ),
    ];
    for (spec, path) in cases {
        let object = yaml(&format!("{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {spec}}}"));
        assert_refused(&object, path, Invalid, "must be");
    }
    let of = |spec: &str| yaml(&format!("{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {spec}}}"));
    assert_refused(&of("{ports: [{}]}"), "spec.ports[0].port", Invalid, "required");
    assert_refused(&of("null"), "spec", Invalid, "required");
}

fn slice(name: &str, rest: &str) -> EndpointSlice {
    let text = format!(
        "{{metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}, addressType: IPv4, {rest}}}"
    );
    endpoint_slice(&yaml(&text)).expect("good")
}

fn flags(e: &ServiceEndpoint) -> (bool, bool, bool) {
    (e.ready, e.serving, e.terminating)
}

#[test]
fn conditions_that_are_not_set_have_the_meaning_of_the_api() {
    let cases = [
        ("", (true, true, false)),
        (", conditions: {}", (true, true, false)),
        (", conditions: {ready: null, serving: null, terminating: null}", (true, true, false)),
        (", conditions: {ready: false}", (false, false, false)),
        (", conditions: {ready: true}", (true, true, false)),
        (", conditions: {ready: false, serving: true, terminating: true}", (false, true, true)),
        (", conditions: {ready: false, terminating: true}", (false, false, true)),
    ];
    for (conditions, expected) in cases {
        let slice = slice("a", &format!("endpoints: [{{addresses: [10.0.0.1]{conditions}}}]"));
        assert_eq!(flags(&slice.endpoints[0]), expected, "{conditions}");
    }
}

#[test]
fn slice_is_read_with_ports_by_name() {
    let slice = slice(
        "a",
        "ports: [{name: http, port: 8080}, {name: '', port: 53, protocol: UDP}, {name: any}], \
         endpoints: [{addresses: [10.0.0.1, 10.0.0.2], nodeName: n1, zone: z, hostname: x}]",
    );
    assert_eq!((&*slice.namespace, slice.service.as_deref()), ("shop", Some("web")));
    let [endpoint] = slice.endpoints.as_slice() else { panic!("{slice:?}") };
    assert_eq!((endpoint.address, &*endpoint.node, &*endpoint.zone), (ip("10.0.0.1"), "n1", "z"));
    let ports: Vec<(&str, Protocol, u16)> = endpoint.ports.iter().map(|(n, (p, number))| (&**n, *p, *number)).collect();
    assert_eq!(ports, [("", Protocol::UDP, 53), ("http", Protocol::TCP, 8080)]);
    let names = yaml("{metadata: {name: a}, addressType: FQDN, endpoints: [{addresses: [a.example.org]}]}");
    assert!(endpoint_slice(&names).expect("good").endpoints.is_empty());
}

#[test]
fn broken_slices_are_refused() {
    let cases = [
        ("addressType: IPv5", "addressType"),
        ("addressType: IPv4, endpoints: [{addresses: [10.0.0]}]", "endpoints[0].addresses[0]"),
        ("addressType: IPv4, ports: [{port: 70000}]", "ports[0].port"),
        (
            "addressType: IPv4, endpoints: [{addresses: [10.0.0.1], conditions: {ready: 'yes'}}]",
            "endpoints[0].conditions.ready",
        ),
    ];
    for (rest, path) in cases {
        let object =
            yaml(&format!("{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: a}}, {rest}}}"));
        assert_refused(&object, path, Invalid, "must be");
    }
}

#[test]
fn merging_slices_is_independent_of_order_and_counts_an_endpoint_once() {
    let ports = "ports: [{name: http, port: 80}]";
    let a = slice(
        "a",
        &format!(
            "{ports}, endpoints: [{{addresses: [10.0.0.1], conditions: {{ready: false}}}}, {{addresses: [10.0.0.2]}}]"
        ),
    );
    let b = slice(
        "b",
        &format!("{ports}, endpoints: [{{addresses: [10.0.0.1], nodeName: n1, conditions: {{ready: true}}}}]"),
    );
    let c = slice("c", "ports: [{name: metrics, port: 9090}], endpoints: [{addresses: [10.0.0.1]}]");
    let d = slice("d", "ports: [{name: http, port: 81}], endpoints: [{addresses: [10.0.0.2]}]");
    let all = [a, b, c, d];
    let merged = merge(&all);
    let summary: Vec<(String, Vec<u16>, bool)> =
        merged.iter().map(|e| (e.address.to_string(), e.ports.values().map(|(_, n)| *n).collect(), e.ready)).collect();
    assert_eq!(
        summary,
        [
            ("10.0.0.1".to_owned(), vec![80, 9090], true),
            ("10.0.0.2".to_owned(), vec![80], true),
            ("10.0.0.2".to_owned(), vec![81], true),
        ]
    );
    assert_eq!(&*merged[0].node, "n1");
    for shift in 1..all.len() {
        let mut other = all.to_vec();
        other.rotate_left(shift);
        assert_eq!(merge(&other), merged);
    }
    assert!(merge([]).is_empty());
}

#[test]
fn endpoint_that_moves_between_slices_is_not_terminating_by_its_old_entry() {
    let old = slice(
        "a",
        "endpoints: [{addresses: [10.0.0.1], conditions: {ready: false, serving: true, terminating: true}}]",
    );
    let new = slice(
        "b",
        "endpoints: [{addresses: [10.0.0.1], conditions: {ready: true, serving: true, terminating: false}}]",
    );
    assert_eq!(flags(&merge([&old, &new])[0]), (true, true, false));
    assert_eq!(flags(&merge([&old])[0]), (false, true, true));
}

#[test]
fn apiserver_is_known_by_the_slices_of_its_service() {
    let of = |namespace: &str, service: &str, ready: bool| {
        endpoint_slice(&yaml(&format!(
            "{{metadata: {{name: a, namespace: {namespace}, labels: {{kubernetes.io/service-name: {service}}}}}, \
             addressType: IPv4, endpoints: [{{addresses: [192.168.0.{}], conditions: {{ready: {ready}}}}}]}}",
            namespace.len() + service.len()
        )))
        .expect("good")
    };
    let slices = [of("default", "kubernetes", true), of("default", "kubernete", true), of("shop", "kubernetes", true)];
    assert_eq!(apiserver_addresses(&slices), BTreeSet::from([ip("192.168.0.17")]));
    assert!(apiserver_addresses(&[of("default", "kubernetes", false)]).is_empty());
}
