//! How long a policy change takes to become a change set, in a large cluster.
//!
//! `cargo run --release -p axoneme-compile --example compile_scale [policies] [identities] [changes]`
//! prints one JSON object a line. All of the work is done in one thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use axoneme_compile::{Compiler, Event};
use axoneme_model::{
    Action, DirectedRule, Identity, Kind, LabelKey, ObjectRef, Peer, Peers, Policy, PortMatch, Ports, Protocol,
    Requirement, Rule, Selector, Subject, Tier,
    labels::names,
    policy::CidrScope,
    world::{ClusterConfig, Namespace, Node, Pod},
};

const PODS_A_NAMESPACE: u32 = 100;
const NODES: u32 = 1000;

fn main() {
    let arguments: Vec<u32> = std::env::args().skip(1).map(|a| a.parse().expect("a number")).collect();
    let policies = arguments.first().copied().unwrap_or(10_000);
    let identities = arguments.get(1).copied().unwrap_or(65_000).min(65_000);
    let changes = arguments.get(2).copied().unwrap_or(2_000);
    let namespaces = identities.div_ceil(PODS_A_NAMESPACE);

    let start = Instant::now();
    let mut compiler = Compiler::new(ClusterConfig::default());
    let mut events: Vec<Event> = (0..NODES).map(node).collect();
    events.extend((0..namespaces).map(namespace));
    events.extend((0..identities).map(pod));
    events.extend((0..policies).map(|i| upsert(&policy(i, namespaces, 0))));
    compiler.apply(events);
    let numbers = compiler.unnumbered().into_iter().zip(256..);
    let numbers: Vec<Event> = numbers.map(|(labels, n)| Event::Assignment(labels, Some(Identity(n)))).collect();
    compiler.apply(numbers);
    let compiled = start.elapsed();
    let resident = resident_mib();
    let rows = compiler.compiled().rows;
    let entries: usize = rows.tables.values().map(|t| t.entries.len()).sum();
    eprintln!(
        "{policies} policies, {} identities, {} tables with {entries} entries, {} prefixes",
        rows.identities.len(),
        rows.tables.len(),
        rows.ips.len(),
    );
    drop(rows);
    print("compile from nothing", "ms", milliseconds(compiled), "one run");
    print("compiler resident memory", "MiB", resident, "one run");

    let mut edit = Samples::default();
    let mut add = Samples::default();
    let mut remove = Samples::default();
    for i in 0..changes {
        let which = i.wrapping_mul(7919) % policies;
        edit.measure(&mut compiler, upsert(&policy(which, namespaces, 1 + i)));
        let object = policy(which, namespaces, 0).object;
        remove.measure(&mut compiler, Event::Policy(object, None));
        add.measure(&mut compiler, upsert(&policy(which, namespaces, 1 + i)));
    }
    edit.report("policy edit to change set");
    remove.report("policy removal to change set");
    add.report("policy creation to change set");
}

#[derive(Default)]
struct Samples {
    times: Vec<Duration>,
    empty: usize,
}

impl Samples {
    fn measure(&mut self, compiler: &mut Compiler, event: Event) {
        let start = Instant::now();
        let changes = compiler.apply([event]);
        self.times.push(start.elapsed());
        self.empty += usize::from(changes.is_empty());
    }

    fn report(mut self, name: &str) {
        self.times.sort_unstable();
        let at = |share: usize| self.times.get(self.times.len() * share / 100).copied().unwrap_or_default();
        let (min, max) = (milliseconds(at(0)), milliseconds(self.times.last().copied().unwrap_or_default()));
        let spread = format!("n={} min={min:.3} max={max:.3} without effect={}", self.times.len(), self.empty);
        print(&format!("{name} p50"), "ms", milliseconds(at(50)), &spread);
        print(&format!("{name} p99"), "ms", milliseconds(at(99)), &spread);
    }
}

fn print(name: &str, unit: &str, ours: f64, spread: &str) {
    println!(
        r#"{{"name":"{name}","unit":"{unit}","ours":{ours:.3},"floor":null,"floor_name":null,"peer":null,"peer_name":null,"ratio_to_floor":null,"ratio_to_peer":null,"spread":"{spread}"}}"#
    );
}

fn milliseconds(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
    let kib = line.split_whitespace().next().and_then(|n| n.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}

fn upsert(policy: &Policy) -> Event {
    Event::Policy(policy.object.clone(), Some(policy.clone()))
}

fn node(i: u32) -> Event {
    let name: Arc<str> = format!("node-{i}").into();
    let address = IpAddr::from(Ipv4Addr::from(0xC0A8_0000 + i + 1));
    Event::Node(name.clone(), Some(Node { name, addresses: vec![address], ..Node::default() }))
}

fn namespace(i: u32) -> Event {
    let labels = BTreeMap::from([("team".into(), format!("team-{}", i % 50).into())]);
    Event::Namespace(format!("ns-{i}").into(), Some(Namespace { labels, annotations: BTreeMap::new() }))
}

fn pod(i: u32) -> Event {
    let (namespace, app) = (i / PODS_A_NAMESPACE, i % PODS_A_NAMESPACE);
    let key: (Arc<str>, Arc<str>) = (format!("ns-{namespace}").into(), format!("pod-{app}").into());
    let labels =
        [("app", format!("app-{app}")), ("tier", format!("tier-{}", app % 5)), ("pod-template-hash", format!("{i:x}"))];
    let pod = Pod {
        namespace: key.0.clone(),
        name: key.1.clone(),
        uid: format!("uid-{i}").into(),
        labels: labels.into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
        annotations: BTreeMap::new(),
        service_account: "default".into(),
        node: format!("node-{}", i % NODES).into(),
        addresses: BTreeSet::from([IpAddr::from(Ipv4Addr::from(0x0A00_0000 + i))]),
        named_ports: BTreeMap::from([("http".into(), BTreeSet::from([(Protocol::TCP, 8080)]))]),
    };
    Event::Pod(key, Some(pod))
}

/// One of a mix: app to app, tier to app by named port, a team's namespaces, an address block with an exception, a
/// namespace-wide default-deny with DNS.
fn policy(i: u32, namespaces: u32, version: u32) -> Policy {
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
        rules: vec![Rule {
            subject: Subject::Endpoints(Selector::new(subject)),
            isolates_ingress: ingress,
            isolates_egress: !ingress,
            ingress: if ingress { vec![entry("ingress")] } else { vec![] },
            egress: if ingress { vec![] } else { vec![entry("egress")] },
        }],
    }
}
