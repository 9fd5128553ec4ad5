//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy: what is accepted, and what it means.

use axoneme_intake::{Options, cilium_network_policy};
use axoneme_model::{Kind, ObjectRef, Tier, policy::CidrScope};
use serde_json::Value;

use crate::show::{entry, policy, subject, yaml};

fn cnp(spec: &str) -> Value {
    yaml(&format!(
        "{{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {{name: web, namespace: shop, generation: 7}}, \
         spec: {spec}}}"
    ))
}

fn ccnp(spec: &str) -> Value {
    yaml(&format!(
        "{{apiVersion: cilium.io/v2, kind: CiliumClusterwideNetworkPolicy, metadata: {{name: web}}, spec: {spec}}}"
    ))
}

/// The one entry of an `ingress` or `egress` list.
fn one(object: &Value, list: &str) -> String {
    let policy = policy(object);
    let rule = &policy.rules[0];
    let entries = if list.starts_with("ingress") { &rule.ingress } else { &rule.egress };
    assert_eq!(entries.len(), 1, "{entries:?}");
    entry(&entries[0])
}

fn in_list(list: &str, entry: &str) -> Value {
    cnp(&format!("{{endpointSelector: {{}}, {list}: [{entry}]}}"))
}

#[test]
fn object_becomes_one_rule_a_spec_with_its_provenance() {
    let object = yaml(
        "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop, generation: 7}
spec:
  endpointSelector: {matchLabels: {app: web}}
  description: the front
  labels: [{key: team, value: a}]
  log: {value: front}
  ingress: [{fromEntities: [world]}, {}]
specs:
- endpointSelector: {}
  egressDeny: [{toCIDR: [10.0.0.0/8]}]
  egress: [{toEntities: [all]}]
",
    );
    let policy = policy(&object);
    assert_eq!(policy.object, ObjectRef::new(Kind::CiliumNetworkPolicy, "shop", "web"));
    assert_eq!((policy.generation, policy.tier), (7, Tier::Normal));
    let [first, second] = policy.rules.as_slice() else { panic!("{policy:?}") };
    assert_eq!((first.log.as_deref(), second.log.as_deref()), (Some("front"), None), "each rule's own");
    assert_eq!(policy.log("spec.ingress[1]"), first.log.as_ref());
    assert_eq!((policy.log("spec"), policy.log("specs[0].egress[0]")), (first.log.as_ref(), None));
    assert_eq!(subject(first), "any:app=web,k8s:io.kubernetes.pod.namespace=shop");
    assert_eq!(subject(second), "k8s:io.kubernetes.pod.namespace=shop");
    let paths = |rules: &[axoneme_model::DirectedRule]| rules.iter().map(|r| r.path.to_string()).collect::<Vec<_>>();
    assert_eq!(paths(&first.ingress), ["spec.ingress[0]", "spec.ingress[1]"]);
    assert_eq!(paths(&second.egress), ["specs[0].egressDeny[0]", "specs[0].egress[0]"]);
}

#[test]
fn a_log_without_text_says_nothing() {
    for log in ["{}", "{value: ''}", "{value: null}"] {
        let object = cnp(&format!("{{endpointSelector: {{}}, ingress: [{{}}], log: {log}}}"));
        assert_eq!(policy(&object).rules[0].log, None, "{log}");
    }
    let longest = "ü".repeat(32);
    let object = cnp(&format!("{{endpointSelector: {{}}, ingress: [{{}}], log: {{value: {longest}}}}}"));
    assert_eq!(policy(&object).rules[0].log.as_deref(), Some(&*longest), "characters, not bytes");
}

#[test]
fn ingress_peers() {
    let cases = [
        // a selector without a namespace means the policy's own
        ("{fromEndpoints: [{matchLabels: {app: a}}]}", "[any:app=a,k8s:io.kubernetes.pod.namespace=shop]"),
        ("{fromEndpoints: [{}]}", "[k8s:io.kubernetes.pod.namespace=shop]"),
        (
            "{fromEndpoints: [{matchLabels: {'k8s:app': a}}, {matchLabels: {'any:app': b}}]}",
            "[k8s:app=a,k8s:io.kubernetes.pod.namespace=shop], [any:app=b,k8s:io.kubernetes.pod.namespace=shop]",
        ),
        // naming a namespace, in any way, lifts that
        (
            "{fromEndpoints: [{matchLabels: {'k8s:io.kubernetes.pod.namespace': other}}]}",
            "[k8s:io.kubernetes.pod.namespace=other]",
        ),
        (
            "{fromEndpoints: [{matchLabels: {io.kubernetes.pod.namespace: other}}]}",
            "[any:io.kubernetes.pod.namespace=other]",
        ),
        (
            "{fromEndpoints: [{matchExpressions: [{key: 'k8s:io.kubernetes.pod.namespace', operator: Exists}]}]}",
            "[k8s:io.kubernetes.pod.namespace]",
        ),
        (
            "{fromEndpoints: [{matchLabels: {'k8s:io.cilium.k8s.namespace.labels.team': red}}]}",
            "[k8s:io.cilium.k8s.namespace.labels.team=red]",
        ),
        (
            "{fromEndpoints: [{matchExpressions: [{key: io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name, \
             operator: NotIn, values: [a, b]}]}]}",
            "[any:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name notin (a,b)]",
        ),
        // a reserved label is not a pod's: no namespace either
        ("{fromEndpoints: [{matchLabels: {'reserved:host': ''}}]}", "[reserved:host=]"),
        ("{fromEndpoints: [{matchLabels: {reserved.host: ''}}]}", "[reserved:host=]"),
        ("{fromEndpoints: [{matchExpressions: [{key: $world, operator: Exists}]}]}", "[reserved:world]"),
        // a dot is part of the name, not a source
        (
            "{fromEndpoints: [{matchLabels: {k8s.v1.cni.cncf.io/net: a}}]}",
            "[any:k8s.v1.cni.cncf.io/net=a,k8s:io.kubernetes.pod.namespace=shop]",
        ),
        (
            "{fromEndpoints: [{matchExpressions: [{key: a, operator: In, values: [v, w]}, {key: b, operator: DoesNotExist}]}]}",
            "[any:a in (v,w),!any:b,k8s:io.kubernetes.pod.namespace=shop]",
        ),
        ("{fromCIDR: [10.1.2.3/8, '2001:db8::/32', 192.0.2.7]}", "10.0.0.0/8, 2001:db8::/32, 192.0.2.7/32"),
        ("{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]}", "10.0.0.0/8 but 10.1.0.0/16"),
        ("{fromCIDRSet: [{cidrGroupRef: vpn, except: [10.1.0.0/16]}]}", "group vpn but 10.1.0.0/16"),
        ("{fromCIDRSet: [{cidrGroupSelector: {matchLabels: {site: a}}}]}", "groups [k8s:site=a]"),
        (
            "{fromNodes: [{matchLabels: {node-role.kubernetes.io/control-plane: ''}}]}",
            "nodes [k8s:node-role.kubernetes.io/control-plane=]",
        ),
        ("{fromCIDR: [192.0.2.0/24], fromCIDRSet: [{cidr: 10.0.0.0/8}]}", "192.0.2.0/24, 10.0.0.0/8"),
        ("{fromNodes: [{}]}", "nodes [{}]"),
        ("{fromRequires: [], fromEntities: [host]}", "Host"),
        ("{fromEntities: [host], authentication: {mode: disabled}}", "Host"),
    ];
    for (fragment, peers) in cases {
        assert_eq!(one(&in_list("ingress", fragment), "ingress"), format!("allow {peers} on all ports"), "{fragment}");
    }
}

#[test]
fn every_entity_has_its_meaning() {
    let cases = [
        ("all", "All"),
        ("world", "World"),
        ("world-ipv4", "WorldIpv4"),
        ("world-ipv6", "WorldIpv6"),
        ("cluster", "Cluster"),
        ("cluster-mesh", "Cluster"),
        ("host", "Host"),
        ("remote-node", "RemoteNode"),
        ("kube-apiserver", "KubeApiserver"),
        ("init", "Init"),
        ("unmanaged", "Unmanaged"),
        ("health", "Health"),
        ("ingress", "Ingress"),
        ("none", "None"),
    ];
    for (name, entity) in cases {
        for (list, field) in [("ingress", "fromEntities"), ("egressDeny", "toEntities")] {
            let action = if list == "ingress" { "allow" } else { "deny" };
            let object = in_list(list, &format!("{{{field}: [{name}]}}"));
            assert_eq!(one(&object, list), format!("{action} {entity} on all ports"));
        }
    }
}

#[test]
fn egress_peers() {
    let own = "k8s:io.kubernetes.pod.namespace=shop";
    let cases = [
        ("{toEndpoints: [{matchLabels: {app: a}}]}", format!("[any:app=a,{own}]")),
        ("{toCIDR: [0.0.0.0/0]}", "0.0.0.0/0".to_owned()),
        ("{toCIDRSet: [{cidr: '::/0', except: ['fd00::/8']}]}", "::/0 but fd00::/8".to_owned()),
        ("{toEntities: [kube-apiserver, world]}", "KubeApiserver, World".to_owned()),
        ("{toServices: [{k8sService: {serviceName: db, namespace: data}}]}", "service data/db".to_owned()),
        (
            "{toServices: [{k8sServiceSelector: {selector: {matchLabels: {tier: db}}, namespace: data}}]}",
            "services data/[k8s:tier=db]".to_owned(),
        ),
        (
            "{toServices: [{k8sServiceSelector: {selector: {matchLabels: {'k8s:tier': db}}}}]}",
            "services [k8s:tier=db]".to_owned(),
        ),
        (
            "{toNodes: [{matchExpressions: [{key: 'node:zone', operator: In, values: [a]}]}]}",
            "nodes [k8s:zone=a]".to_owned(),
        ),
    ];
    for (fragment, peers) in cases {
        assert_eq!(one(&in_list("egress", fragment), "egress"), format!("allow {peers} on all ports"), "{fragment}");
    }
}

#[test]
fn absent_empty_and_bare_entries() {
    let web = "{ports: [{port: '80', protocol: TCP}]}";
    let cases = [
        // neither peers nor ports: nothing passes, but the direction is in default-deny
        ("{}".to_owned(), "nobody on all ports"),
        // ports alone are for everybody
        (format!("{{toPorts: [{web}]}}"), "anybody on TCP 80"),
        ("{icmps: [{fields: [{type: 8}]}]}".to_owned(), "anybody on ICMP type 8"),
        // an empty list of peers is nobody, with ports or without
        ("{fromEndpoints: []}".to_owned(), "nobody on all ports"),
        (format!("{{fromEndpoints: [], toPorts: [{web}]}}"), "nobody on TCP 80"),
        (format!("{{fromCIDR: [], toPorts: [{web}]}}"), "nobody on TCP 80"),
        (format!("{{fromEntities: [], toPorts: [{web}]}}"), "nobody on TCP 80"),
        // and stays nobody beside a list that is not empty
        (format!("{{fromEndpoints: [], fromEntities: [world], toPorts: [{web}]}}"), "nobody on TCP 80"),
        // null is absent
        (format!("{{fromEndpoints: null, toPorts: [{web}]}}"), "anybody on TCP 80"),
        // an empty list of ports is absent
        ("{fromEntities: [host], toPorts: []}".to_owned(), "Host on all ports"),
        ("{fromEntities: [host], icmps: []}".to_owned(), "Host on all ports"),
    ];
    for (fragment, meaning) in cases {
        for (list, action) in [("ingress", "allow"), ("ingressDeny", "deny")] {
            let object = in_list(list, &fragment);
            assert_eq!(one(&object, list), format!("{action} {meaning}"), "{fragment}");
            let rule = &policy(&object).rules[0];
            assert_eq!((rule.isolates_ingress, rule.isolates_egress), (true, false), "{fragment}");
        }
    }
}

#[test]
fn ports_of_all_forms() {
    let cases = [
        ("{port: '80'}", "TCP 80, UDP 80, SCTP 80"),
        ("{port: '80', protocol: ANY}", "TCP 80, UDP 80, SCTP 80"),
        ("{port: '80', protocol: TCP}", "TCP 80"),
        ("{port: '53', protocol: UDP}", "UDP 53"),
        ("{port: '5000', protocol: SCTP}", "SCTP 5000"),
        ("{port: '65535', protocol: TCP}", "TCP 65535"),
        ("{port: '80', endPort: 90, protocol: TCP}", "TCP 80-90"),
        ("{port: '80', endPort: 80, protocol: TCP}", "TCP 80"),
        ("{port: '80', endPort: 0, protocol: TCP}", "TCP 80"),
        ("{port: '1', endPort: 65535}", "TCP 1-65535, UDP 1-65535, SCTP 1-65535"),
        ("{port: '0', protocol: TCP}", "TCP"),
        ("{protocol: UDP}", "UDP"),
        ("{port: '0'}", "TCP, UDP, SCTP"),
        ("{port: http}", "any http"),
        ("{port: HTTP-alt, protocol: TCP}", "TCP http-alt"),
        ("{protocol: VRRP}", "VRRP"),
        ("{protocol: IGMP, port: '0'}", "IGMP"),
        ("{protocol: GRE}", "protocol 47"),
        ("{protocol: IPIP}", "protocol 4"),
        ("{protocol: IPV6}", "protocol 41"),
        ("{protocol: ESP}", "protocol 50"),
        ("{protocol: AH}", "protocol 51"),
    ];
    for (fragment, ports) in cases {
        for (list, action) in [("egress", "allow"), ("egressDeny", "deny")] {
            let object = in_list(list, &format!("{{toEntities: [world], toPorts: [{{ports: [{fragment}]}}]}}"));
            assert_eq!(one(&object, list), format!("{action} World on {ports}"), "{fragment}");
        }
    }
    let several = "{toPorts: [{ports: [{port: '1', protocol: TCP}, {port: '2', protocol: TCP}]}, {ports: [{port: a}], rules: {}}]}";
    assert_eq!(one(&in_list("egress", several), "egress"), "allow anybody on TCP 1, TCP 2, any a");
}

#[test]
fn icmp_by_number_and_by_every_name() {
    let v4 = [
        ("EchoReply", 0),
        ("DestinationUnreachable", 3),
        ("Redirect", 5),
        ("Echo", 8),
        ("EchoRequest", 8),
        ("RouterAdvertisement", 9),
        ("RouterSelection", 10),
        ("TimeExceeded", 11),
        ("ParameterProblem", 12),
        ("Timestamp", 13),
        ("TimestampReply", 14),
        ("Photuris", 40),
        ("ExtendedEchoRequest", 42),
        ("ExtendedEchoReply", 43),
        ("17", 17),
        ("255", 255),
    ];
    let v6 = [
        ("DestinationUnreachable", 1),
        ("PacketTooBig", 2),
        ("TimeExceeded", 3),
        ("ParameterProblem", 4),
        ("EchoRequest", 128),
        ("EchoReply", 129),
        ("MulticastListenerQuery", 130),
        ("MulticastListenerReport", 131),
        ("MulticastListenerDone", 132),
        ("RouterSolicitation", 133),
        ("RouterAdvertisement", 134),
        ("NeighborSolicitation", 135),
        ("NeighborAdvertisement", 136),
        ("RedirectMessage", 137),
        ("RouterRenumbering", 138),
        ("ICMPNodeInformationQuery", 139),
        ("ICMPNodeInformationResponse", 140),
        ("InverseNeighborDiscoverySolicitation", 141),
        ("InverseNeighborDiscoveryAdvertisement", 142),
        ("HomeAgentAddressDiscoveryRequest", 144),
        ("HomeAgentAddressDiscoveryReply", 145),
        ("MobilePrefixSolicitation", 146),
        ("MobilePrefixAdvertisement", 147),
        ("DuplicateAddressRequestCodeSuffix", 157),
        ("DuplicateAddressConfirmationCodeSuffix", 158),
        ("ExtendedEchoRequest", 160),
        ("ExtendedEchoReply", 161),
    ];
    let check = |field: String, meaning: String| {
        let object = in_list("ingress", &format!("{{icmps: [{{fields: [{field}]}}]}}"));
        assert_eq!(one(&object, "ingress"), format!("allow anybody on {meaning}"), "{field}");
    };
    for (name, number) in v4 {
        check(format!("{{type: '{name}'}}"), format!("ICMP type {number}"));
        check(format!("{{family: IPv4, type: {number}}}"), format!("ICMP type {number}"));
    }
    for (name, number) in v6 {
        check(format!("{{family: IPv6, type: {name}}}"), format!("ICMPv6 type {number}"));
    }
}

#[test]
fn default_deny_follows_the_lists_unless_it_is_set() {
    let cases = [
        ("ingress: [{}]", (true, false)),
        ("ingressDeny: [{fromEntities: [world]}]", (true, false)),
        ("egress: [{}]", (false, true)),
        ("egressDeny: [{toEntities: [world]}]", (false, true)),
        ("ingress: [{}], egress: [{}]", (true, true)),
        ("ingress: [], egress: [{}]", (false, true)),
        ("ingress: [{}], enableDefaultDeny: {ingress: false}", (false, false)),
        ("ingress: [{}], enableDefaultDeny: {egress: true}", (true, true)),
        ("ingress: [{}], enableDefaultDeny: {ingress: false, egress: true}", (false, true)),
        ("egress: [{}], enableDefaultDeny: {}", (false, true)),
    ];
    for (fields, isolates) in cases {
        let rule = &policy(&cnp(&format!("{{endpointSelector: {{}}, {fields}}}"))).rules[0];
        assert_eq!((rule.isolates_ingress, rule.isolates_egress), isolates, "{fields}");
    }
}

#[test]
fn subject_never_leaves_the_namespace_of_the_policy() {
    let own = "k8s:io.kubernetes.pod.namespace=shop";
    let cases = [
        ("{}", own.to_owned()),
        ("{matchLabels: {app: web}}", format!("any:app=web,{own}")),
        // replaced, as upstream does
        ("{matchLabels: {'k8s:io.kubernetes.pod.namespace': other}}", own.to_owned()),
        // contradicts: selects nobody
        (
            "{matchExpressions: [{key: 'k8s:io.kubernetes.pod.namespace', operator: In, values: [other]}]}",
            format!("k8s:io.kubernetes.pod.namespace=other,{own}"),
        ),
    ];
    for (selector, expected) in cases {
        let rule = &policy(&cnp(&format!("{{endpointSelector: {selector}, ingress: [{{}}]}}"))).rules[0];
        let mut parts: Vec<String> = subject(rule).split(',').map(str::to_owned).collect();
        let mut wanted: Vec<String> = expected.split(',').map(str::to_owned).collect();
        parts.sort();
        wanted.sort();
        assert_eq!(parts, wanted, "{selector}");
    }
}

#[test]
fn clusterwide_selectors_have_no_namespace_and_peers_are_pods() {
    let object = ccnp(
        "{endpointSelector: {}, ingress: [{fromEndpoints: [{}, {matchLabels: {app: a}}, \
         {matchLabels: {'k8s:io.kubernetes.pod.namespace': x}}, {matchLabels: {'reserved:health': ''}}, \
         {matchLabels: {'k8s:io.cilium.k8s.namespace.labels.team': red}}]}]}",
    );
    let rule = &policy(&object).rules[0];
    assert_eq!(subject(rule), "{}");
    assert_eq!(
        entry(&rule.ingress[0]),
        "allow [k8s:io.kubernetes.pod.namespace], [any:app=a,k8s:io.kubernetes.pod.namespace], \
         [k8s:io.kubernetes.pod.namespace=x], [reserved:health=], \
         [k8s:io.cilium.k8s.namespace.labels.team=red,k8s:io.kubernetes.pod.namespace] on all ports"
    );
}

#[test]
fn clusterwide_subject_may_exclude_reserved_and_namespaces() {
    let object = ccnp(
        "{endpointSelector: {matchExpressions: [{key: 'reserved:health', operator: DoesNotExist}, \
         {key: io.kubernetes.pod.namespace, operator: NotIn, values: [kube-system]}]}, ingress: [{}]}",
    );
    let text = subject(&policy(&object).rules[0]);
    assert!(text.contains("!reserved:health") && text.contains("any:io.kubernetes.pod.namespace notin (kube-system)"));
}

#[test]
fn cidr_match_mode_changes_whom_cidr_rules_mean() {
    let object = cnp("{endpointSelector: {}, egress: [{toCIDR: [10.0.0.0/8]}, {toCIDRSet: [{cidrGroupRef: a}]}, \
         {toCIDRSet: [{cidrGroupSelector: {}}]}]}");
    let nodes = Options { cidr_scope: CidrScope::OutsideAndNodes };
    let read = |options: &Options| {
        let policy = cilium_network_policy(&object, options).expect("good");
        policy.rules[0].egress.iter().map(entry).collect::<Vec<_>>()
    };
    assert!(read(&Options::default()).iter().all(|e| !e.contains("node")));
    assert!(read(&nodes).iter().all(|e| e.contains("or node")), "{:?}", read(&nodes));
}

#[test]
fn nodes_are_a_subject_of_the_clusterwide_kind() {
    let policy = policy(&ccnp(
        "{nodeSelector: {matchLabels: {kubernetes.io/os: linux}, matchExpressions: [{key: role, operator: Exists}]}, \
         ingress: [{fromEntities: [cluster]}], egressDeny: [{}]}",
    ));
    let [rule] = policy.rules.as_slice() else { panic!("{policy:?}") };
    let axoneme_model::Subject::Nodes(selector) = &rule.subject else { panic!("{rule:?}") };
    let node = |labels: &[(&str, &str)]| axoneme_model::world::Node {
        labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        ..axoneme_model::world::Node::default()
    };
    let both = node(&[("kubernetes.io/os", "linux"), ("role", "worker"), ("other", "x")]);
    assert!(selector.matches(&both.host_labels()));
    assert!(!selector.matches(&node(&[("kubernetes.io/os", "linux")]).host_labels()));
    assert_eq!((rule.isolates_ingress, rule.isolates_egress), (true, true));
    assert_eq!((rule.ingress.len(), rule.egress.len()), (1, 1));
}
