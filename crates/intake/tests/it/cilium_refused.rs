//! CiliumNetworkPolicy: what is refused, where, and why.

use axoneme_intake::Reason::{self, Invalid, Unsupported};
use serde_json::Value;

use crate::show::{assert_refused, refused, yaml};

fn cnp(kind: &str, spec: &str) -> Value {
    yaml(&format!("{{apiVersion: cilium.io/v2, kind: {kind}, metadata: {{name: web, namespace: shop}}, spec: {spec}}}"))
}

#[track_caller]
fn entry_refused(list: &str, entry: &str, path: &str, reason: Reason, words: &str) {
    let object = cnp("CiliumNetworkPolicy", &format!("{{endpointSelector: {{}}, {list}: [{entry}]}}"));
    let path = if path.is_empty() { format!("spec.{list}[0]") } else { format!("spec.{list}[0].{path}") };
    assert_refused(&object, &path, reason, words);
}

#[test]
fn what_is_not_enforced_yet_is_named() {
    let port = "ports: [{port: '443', protocol: TCP}]";
    let cases: [(&str, String, &str); 18] = [
        ("ingress", format!("{{toPorts: [{{{port}, rules: {{http: [{{method: GET}}]}}}}]}}"), "toPorts[0].rules.http"),
        ("ingress", format!("{{toPorts: [{{{port}, rules: {{http: []}}}}]}}"), "toPorts[0].rules.http"),
        ("egress", format!("{{toPorts: [{{{port}, rules: {{dns: [{{matchName: a.b}}]}}}}]}}"), "toPorts[0].rules.dns"),
        ("ingress", format!("{{toPorts: [{{{port}, rules: {{kafka: [{{topic: a}}]}}}}]}}"), "toPorts[0].rules.kafka"),
        ("ingress", format!("{{toPorts: [{{{port}, rules: {{l7proto: r2d2}}}}]}}"), "toPorts[0].rules.l7proto"),
        ("ingress", format!("{{toPorts: [{{{port}, rules: {{l7: [{{}}]}}}}]}}"), "toPorts[0].rules.l7"),
        ("egress", format!("{{toPorts: [{{{port}, serverNames: [a.b]}}]}}"), "toPorts[0].serverNames"),
        (
            "egress",
            format!("{{toPorts: [{{{port}, terminatingTLS: {{secret: {{name: a}}}}}}]}}"),
            "toPorts[0].terminatingTLS",
        ),
        (
            "egress",
            format!("{{toPorts: [{{{port}, originatingTLS: {{secret: {{name: a}}}}}}]}}"),
            "toPorts[0].originatingTLS",
        ),
        (
            "egress",
            format!("{{toPorts: [{{{port}, listener: {{name: a, envoyConfig: {{name: b}}}}}}]}}"),
            "toPorts[0].listener",
        ),
        ("egress", "{toFQDNs: [{matchName: a.b}]}".to_owned(), "toFQDNs"),
        ("egress", "{toGroups: [{aws: {region: a}}]}".to_owned(), "toGroups"),
        ("egressDeny", "{toGroups: [{aws: {region: a}}]}".to_owned(), "toGroups"),
        ("ingress", "{fromGroups: [{aws: {region: a}}]}".to_owned(), "fromGroups"),
        ("ingress", "{fromEntities: [all], authentication: {mode: required}}".to_owned(), "authentication.mode"),
        ("egress", "{toEntities: [all], authentication: {mode: test-always-fail}}".to_owned(), "authentication.mode"),
        (
            "ingress",
            "{fromEndpoints: [{matchLabels: {'cidr:10.0.0.0/8': ''}}]}".to_owned(),
            "fromEndpoints[0].matchLabels[cidr:10.0.0.0/8]",
        ),
        ("egress", "{toServices: [{k8sService: {serviceName: a}}]}".to_owned(), "toServices[0].k8sService"),
    ];
    for (list, entry, path) in cases {
        entry_refused(list, &entry, path, Unsupported, "not enforced");
    }
}

#[test]
fn subjects_other_than_pods_are_named() {
    let nodes = "{nodeSelector: {}, ingress: [{}]}";
    assert_refused(&cnp("CiliumNetworkPolicy", nodes), "spec.nodeSelector", Invalid, "CiliumClusterwideNetworkPolicy");
    let init = cnp(
        "CiliumClusterwideNetworkPolicy",
        "{endpointSelector: {matchLabels: {'reserved:init': ''}}, ingress: [{}]}",
    );
    assert_refused(&init, "spec.endpointSelector", Unsupported, "reserved:init");
}

#[test]
fn rules_without_sense() {
    let cases = [
        ("{ingress: [{}]}", "spec.endpointSelector", "required"),
        ("{endpointSelector: {}, nodeSelector: {}, ingress: [{}]}", "spec", "both"),
        ("{endpointSelector: {}}", "spec", "default-deny"),
        ("{endpointSelector: {}, ingress: []}", "spec", "default-deny"),
        ("{endpointSelector: {}, ingres: [{}], egress: [{}]}", "spec.ingres", "did you mean ingress?"),
        ("{endpointSelector: {}, ingress: {}, egress: [{}]}", "spec.ingress", "must be a list"),
        ("{endpointSelector: {}, ingress: [null]}", "spec.ingress[0]", "must be an object"),
        ("{endpointSelector: [], ingress: [{}]}", "spec.endpointSelector", "must be an object"),
        (
            "{endpointSelector: {}, ingress: [{}], enableDefaultDeny: true}",
            "spec.enableDefaultDeny",
            "must be an object",
        ),
        (
            "{endpointSelector: {}, ingress: [{}], enableDefaultDeny: {ingress: 'no'}}",
            "spec.enableDefaultDeny.ingress",
            "true or false",
        ),
        (
            "{endpointSelector: {}, ingress: [{}], log: {value: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}}",
            "spec.log.value",
            "32",
        ),
        ("{endpointSelector: {}, ingress: [{}], description: 1}", "spec.description", "quotes"),
        ("[]", "spec", "must be an object"),
    ];
    for (spec, path, words) in cases {
        let errors = refused(&cnp("CiliumNetworkPolicy", spec));
        let found = errors.errors.iter().find(|e| e.path == path && e.message.contains(words));
        assert!(found.is_some(), "{spec}: want {path}: {words}, got\n{errors}");
    }
    let none = yaml("{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: a}}");
    assert_refused(&none, "spec", Invalid, "specs");
}

#[test]
fn peers_that_are_wrong() {
    let cases = [
        ("ingress", "{fromEntities: [wordl]}", "fromEntities[0]", "did you mean world?"),
        ("ingress", "{fromEntities: [mars]}", "fromEntities[0]", "kube-apiserver"),
        ("ingress", "{fromEntities: world}", "fromEntities", "must be a list"),
        ("ingress", "{fromCIDR: [10.0.0.0/33]}", "fromCIDR[0]", "prefix"),
        ("ingress", "{fromCIDR: [10.0.0.0/255.0.0.0]}", "fromCIDR[0]", "prefix"),
        ("ingress", "{fromCIDR: [10.0.0]}", "fromCIDR[0]", "prefix"),
        ("ingress", "{fromCIDRSet: [{cidr: 192.0.2.7}]}", "fromCIDRSet[0].cidr", "prefix"),
        (
            "ingress",
            "{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}]}",
            "fromCIDRSet[0].except[0]",
            "inside of 10.0.0.0/8",
        ),
        (
            "ingress",
            "{fromCIDRSet: [{cidr: 10.0.0.0/8, except: ['fd00::/16']}]}",
            "fromCIDRSet[0].except[0]",
            "inside of",
        ),
        ("ingress", "{fromCIDRSet: [{except: [10.0.0.0/8]}]}", "fromCIDRSet[0]", "exactly one of cidr"),
        ("ingress", "{fromCIDRSet: [{cidr: 10.0.0.0/8, cidrGroupRef: a}]}", "fromCIDRSet[0]", "exactly one of cidr"),
        ("ingress", "{fromCIDRSet: [{cidrGroupRef: ''}]}", "fromCIDRSet[0].cidrGroupRef", "CiliumCIDRGroup"),
        ("ingress", "{fromCIDR: [10.0.0.0/8], fromEntities: [host]}", "", "fromCIDR and fromEntities"),
        ("egress", "{toEndpoints: [{}], toNodes: [{}]}", "", "toEndpoints and toNodes"),
        ("ingress", "{fromRequires: [{}], fromEndpoints: [{}]}", "fromRequires", "was removed"),
        ("egress", "{toRequires: [{}], toEndpoints: [{}]}", "toRequires", "was removed"),
        ("ingress", "{fromEndpoint: [{}]}", "fromEndpoint", "did you mean fromEndpoints?"),
        ("ingress", "{toEndpoints: [{}]}", "toEndpoints", "no such field"),
        ("egressDeny", "{toFQDNs: [{matchName: a.b}]}", "toFQDNs", "cannot be denied"),
        ("ingressDeny", "{fromEntities: [all], authentication: {mode: disabled}}", "authentication", "no such field"),
        ("ingress", "{fromEntities: [all], authentication: {mode: 'off'}}", "authentication.mode", "disabled"),
        ("egress", "{toServices: [{}]}", "toServices[0]", "exactly one of k8sService"),
        ("egress", "{toServices: [{k8sService: {namespace: a}}]}", "toServices[0].k8sService.serviceName", "required"),
        (
            "egress",
            "{toServices: [{k8sServiceSelector: {namespace: a}}]}",
            "toServices[0].k8sServiceSelector.selector",
            "required",
        ),
    ];
    for (list, entry, path, words) in cases {
        entry_refused(list, entry, path, Invalid, words);
    }
}

#[test]
fn selectors_that_are_wrong() {
    let cases = [
        ("{matchLabels: {app: 1}}", ".matchLabels[app]", "quotes"),
        ("{matchLabels: {app: null}}", ".matchLabels[app]", "must be a string"),
        ("{matchLabels: {'k8s:': a}}", ".matchLabels[k8s:]", "label key"),
        ("{matchLabels: {'a b': a}}", ".matchLabels[a b]", "label key"),
        ("{matchLabels: {app: -a}}", ".matchLabels[app]", "label value"),
        ("{matchLabels: {'reserved:hots': ''}}", ".matchLabels[reserved:hots]", "did you mean host?"),
        ("{matchLabel: {app: a}}", ".matchLabel", "did you mean matchLabels?"),
        ("{matchExpressions: [{key: a, operator: In}]}", ".matchExpressions[0]", "at least one value"),
        ("{matchExpressions: [{key: a, operator: NotIn, values: []}]}", ".matchExpressions[0]", "at least one value"),
        ("{matchExpressions: [{key: a, operator: Exists, values: [b]}]}", ".matchExpressions[0]", "no values"),
        ("{matchExpressions: [{key: a, operator: Has}]}", ".matchExpressions[0].operator", "DoesNotExist"),
        ("{matchExpressions: [{operator: Exists}]}", ".matchExpressions[0].key", "required"),
        ("{matchExpressions: {key: a}}", ".matchExpressions", "must be a list"),
    ];
    for (selector, path, words) in cases {
        entry_refused(
            "ingress",
            &format!("{{fromEndpoints: [{selector}]}}"),
            &format!("fromEndpoints[0]{path}"),
            Invalid,
            words,
        );
    }
}

#[test]
fn ports_that_are_wrong() {
    let cases = [
        ("{port: 80}", ".port", "\"80\" in quotes"),
        ("{port: '65536'}", ".port", "65535"),
        ("{port: '080'}", ".port", "leading zeros"),
        ("{port: '-1'}", ".port", "port name"),
        ("{port: a_b}", ".port", "port name"),
        ("{port: abcdefghijklmnop}", ".port", "15 letters"),
        ("{port: 'a--b'}", ".port", "single hyphens"),
        ("{port: '80', protocol: tcp}", ".protocol", "did you mean TCP?"),
        ("{port: '80', protocol: ICMP}", ".protocol", "icmps"),
        ("{port: '80', protocol: GRE}", "", "no ports"),
        ("{port: http, protocol: VRRP}", "", "no ports"),
        ("{port: '90', endPort: 80}", "", "less than port 90"),
        ("{port: http, endPort: 80}", "", "port number"),
        ("{port: '0', endPort: 80}", "", "port number"),
        ("{port: '80', endPort: 65536}", ".endPort", "0 to 65535"),
        ("{port: '80', endPort: '90'}", ".endPort", "whole number"),
        ("{prt: '80'}", ".prt", "did you mean port?"),
        ("'80'", "", "must be an object"),
    ];
    for (port, path, words) in cases {
        for list in ["ingress", "ingressDeny"] {
            let entry = format!("{{toPorts: [{{ports: [{port}]}}]}}");
            entry_refused(list, &entry, &format!("toPorts[0].ports[0]{path}"), Invalid, words);
        }
    }
    entry_refused("ingress", "{toPorts: [{}]}", "toPorts[0].ports", Invalid, "at least one");
    entry_refused("ingress", "{toPorts: [{ports: []}]}", "toPorts[0].ports", Invalid, "1 to 40");
    let many = vec!["{port: '1'}"; 41].join(", ");
    entry_refused("ingress", &format!("{{toPorts: [{{ports: [{many}]}}]}}"), "toPorts[0].ports", Invalid, "1 to 40");
    entry_refused(
        "ingressDeny",
        "{toPorts: [{ports: [{port: '1'}], rules: {}}]}",
        "toPorts[0].rules",
        Invalid,
        "no such field",
    );
}

#[test]
fn icmp_that_is_wrong() {
    let cases = [
        ("{type: 256}", ".type", "0 to 255"),
        ("{type: '256'}", ".type", "EchoRequest"),
        ("{type: EchoRequst}", ".type", "did you mean EchoRequest?"),
        ("{family: IPv4, type: PacketTooBig}", ".type", "TimeExceeded"),
        ("{family: IPv6, type: Timestamp}", ".type", "PacketTooBig"),
        ("{family: ipv4, type: 1}", ".family", "did you mean IPv4?"),
        ("{family: IPv4}", ".type", "required"),
    ];
    for (field, path, words) in cases {
        let entry = format!("{{icmps: [{{fields: [{field}]}}]}}");
        entry_refused("egress", &entry, &format!("icmps[0].fields[0]{path}"), Invalid, words);
    }
    entry_refused("egress", "{icmps: [{}]}", "icmps[0].fields", Invalid, "at least one");
    let both = "{icmps: [{fields: [{type: 8}]}], toPorts: [{ports: [{port: '1'}]}]}";
    entry_refused("egress", both, "", Invalid, "toPorts and icmps");
}

#[test]
fn rules_of_nodes_are_refused_above_the_transport() {
    let l7 = "{nodeSelector: {}, ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]}]}";
    let path = "spec.ingress[0].toPorts[0].rules.http";
    assert_refused(&cnp("CiliumClusterwideNetworkPolicy", l7), path, Unsupported, "HTTP rules");
}
