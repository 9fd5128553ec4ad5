//! A large cluster and its policies, for measurements.
#![allow(dead_code, unreachable_pub, reason = "each example uses its part")]

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use axoneme_compile::{ChangeSet, Compiler, Event};
use axoneme_model::{
    Action, DirectedRule, Identity, Kind, LabelKey, ObjectRef, Peer, Peers, Policy, PortMatch, Ports, Protocol,
    Requirement, Rule, Selector, Subject, Tier,
    labels::names,
    policy::CidrScope,
    world::{ClusterConfig, Namespace, Node, Pod},
};

pub const PODS_A_NAMESPACE: u32 = 100;
pub const NODES: u32 = 1000;

/// How large the cluster is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub policies: u32,
    pub identities: u32,
    pub namespaces: u32,
}

impl Size {
    pub fn new(policies: u32, identities: u32) -> Self {
        let identities = identities.min(65_000);
        Self { policies, identities, namespaces: identities.div_ceil(PODS_A_NAMESPACE) }
    }

    /// A compiler that knows all of the cluster, with numbers for all identities, and the rows that this made.
    pub fn compile(self) -> (Compiler, ChangeSet) {
        let mut compiler = Compiler::new(ClusterConfig::default());
        let mut events: Vec<Event> = (0..NODES).map(node).collect();
        events.extend((0..self.namespaces).map(namespace));
        events.extend((0..self.identities).map(pod));
        events.extend((0..self.policies).map(|i| upsert(&policy(i, self.namespaces, 0))));
        compiler.apply(events);
        let numbers = compiler.unnumbered().into_iter().zip(256..);
        let numbers: Vec<Event> = numbers.map(|(labels, n)| Event::Assignment(labels, Some(Identity(n)))).collect();
        let rows = compiler.apply(numbers);
        (compiler, rows)
    }
}

/// A pod that the policy applies to.
pub fn subject(i: u32, namespaces: u32) -> u32 {
    let app = match i % 20 {
        0..=8 => i / namespaces,
        9..=12 => i / 7,
        13..=15 => i / 3,
        16..=18 => i / 5,
        _ => 0,
    };
    (i % namespaces) * PODS_A_NAMESPACE + app % PODS_A_NAMESPACE
}

pub fn address(pod: u32) -> IpAddr {
    IpAddr::from(Ipv4Addr::from(0x0A00_0000 + pod))
}

pub fn print(name: &str, unit: &str, ours: f64, spread: &str) {
    println!(
        r#"{{"name":"{name}","unit":"{unit}","ours":{ours:.3},"floor":null,"floor_name":null,"peer":null,"peer_name":null,"ratio_to_floor":null,"ratio_to_peer":null,"spread":"{spread}"}}"#
    );
}

pub fn upsert(policy: &Policy) -> Event {
    Event::Policy(policy.object.clone(), Some(policy.clone()))
}

pub fn node(i: u32) -> Event {
    let name: Arc<str> = format!("node-{i}").into();
    let address = IpAddr::from(Ipv4Addr::from(0xC0A8_0000 + i + 1));
    Event::Node(name.clone(), Some(Node { name, addresses: vec![address], ..Node::default() }))
}

pub fn namespace(i: u32) -> Event {
    let labels = [("team".into(), format!("team-{}", i % 50).into())].into();
    Event::Namespace(format!("ns-{i}").into(), Some(Namespace { labels, annotations: axoneme_model::PackedMap::new() }))
}

pub fn pod(i: u32) -> Event {
    let (namespace, app) = (i / PODS_A_NAMESPACE, i % PODS_A_NAMESPACE);
    let key: (Arc<str>, Arc<str>) = (format!("ns-{namespace}").into(), format!("pod-{app}").into());
    let labels =
        [("app", format!("app-{app}")), ("tier", format!("tier-{}", app % 5)), ("pod-template-hash", format!("{i:x}"))];
    let pod = Pod {
        namespace: key.0.clone(),
        name: key.1.clone(),
        uid: format!("uid-{i}").into(),
        labels: labels.into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
        annotations: axoneme_model::PackedMap::new(),
        service_account: "default".into(),
        node: format!("node-{}", i % NODES).into(),
        addresses: [address(i)].into(),
        named_ports: [("http".into(), [(Protocol::TCP, 8080)].into())].into(),
    };
    Event::Pod(key, Some(pod.into()))
}

/// What of the mix a policy is.
pub fn kind(i: u32) -> &'static str {
    match i % 20 {
        0..=8 => "app to app",
        9..=12 => "tier by named port",
        13..=15 => "namespaces of a team",
        16..=18 => "outside with exceptions",
        _ => "whole namespace",
    }
}

/// One of a mix: app to app, tier to app by named port, a team's namespaces, an address block with an exception, a
/// namespace-wide default-deny with DNS.
pub fn policy(i: u32, namespaces: u32, version: u32) -> Policy {
    let own = i % namespaces;
    let own_name = format!("ns-{own}");
    let within = || Requirement::equals(LabelKey::k8s(names::NAMESPACE), &own_name);
    let app = |n: u32| Requirement::equals(LabelKey::k8s("app"), &format!("app-{}", n % PODS_A_NAMESPACE));
    let tier = |n: u32| Requirement::equals(LabelKey::k8s("tier"), &format!("tier-{}", n % 5));
    let team = Requirement::equals(
        LabelKey::k8s(&format!("{}team", names::NAMESPACE_LABEL_PREFIX)),
        &format!("team-{}", (i + version) % 50),
    );
    let block = format!("10.{}.0.0/16", (i + version) % 200);
    let cidr = |text: &str| text.parse().expect("a prefix");
    let port = PortMatch::Range { protocol: Protocol::TCP, first: 80 + (version % 100) as u16, last: 200 };
    let named = PortMatch::Named { protocol: Some(Protocol::TCP), name: "http".into() };
    let (subject, ingress, peers, port) = match i % 20 {
        0..=8 => (
            vec![within(), app(i / namespaces)],
            true,
            Peer::Endpoints(Selector::new(vec![within(), app(i + version)])),
            port,
        ),
        9..=12 => {
            (vec![within(), app(i / 7)], true, Peer::Endpoints(Selector::new(vec![within(), tier(i + version)])), named)
        }
        13..=15 => (vec![within(), app(i / 3)], true, Peer::Endpoints(Selector::new(vec![team, tier(i)])), port),
        16..=18 => {
            let except = vec![cidr("169.254.0.0/16"), cidr(&block)];
            let outside = Peer::Cidr { cidr: cidr("0.0.0.0/0"), except, scope: CidrScope::Outside };
            (vec![within(), app(i / 5)], false, outside, port)
        }
        _ => (vec![within()], true, Peer::Endpoints(Selector::new(vec![within()])), port),
    };
    let entry = |direction: &str| DirectedRule {
        path: format!("spec.{direction}[0]").into(),
        action: Action::Allow,
        peers: Peers::OneOf(vec![peers.clone()]),
        ports: Ports::OneOf(vec![port.clone()]),
    };
    Policy {
        object: ObjectRef::new(Kind::CiliumNetworkPolicy, &own_name, &format!("policy-{i}")),
        generation: i64::from(version) + 1,
        tier: Tier::Normal,
        audit: false,
        rules: vec![Rule {
            subject: Subject::Endpoints(Selector::new(subject)),
            log: None,
            isolates_ingress: ingress,
            isolates_egress: !ingress,
            ingress: if ingress { vec![entry("ingress")] } else { vec![] },
            egress: if ingress { vec![] } else { vec![entry("egress")] },
        }],
    }
}
