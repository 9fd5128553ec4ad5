//! Random worlds of every feature, small enough that features meet.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use axoneme_compile::{Assignments, Compiled};
use axoneme_model::{
    Action, Cidr, DirectedRule, Identity, Kind, LabelKey, Labels, ObjectRef, Operator, Peer, Peers, Policy, PortMatch,
    Ports, Protocol, Requirement, Rule, Selector, Source, Subject, Tier, Traffic, World, audit,
    labels::names,
    policy::{CidrScope, Entity, ServiceSelector},
    world::{
        CidrGroup, ClusterConfig, Enforcement, Namespace, Node, PlainLabels, Pod, Service, ServiceEndpoint, ServicePort,
    },
};

/// SplitMix64: the same sequence for a seed on every machine.
#[derive(Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    pub fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
    pub fn some<T: Clone>(&mut self, of: &[T], max: u64) -> Vec<T> {
        (0..self.below(max + 1)).map(|_| self.pick(of).clone()).collect()
    }
}

pub const NAMESPACES: [&str; 4] = ["shop", "data", "web", "ops"];
pub const NODES: [&str; 3] = ["n1", "n2", "n3"];
const CIDRS: [&str; 18] = [
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/8",
    "10.0.1.0/24",
    "10.0.1.4/30",
    "10.0.2.9/16",
    "192.168.0.0/24",
    "192.168.0.2/32",
    "203.0.113.0/24",
    "203.0.113.8/29",
    "203.0.113.10/32",
    "198.51.100.0/25",
    "128.0.0.0/1",
    "fd00::/16",
    "fd00::1:0/112",
    "fd01::/64",
    "2001:db8::/32",
    "2001:db8::5/128",
];
const OUTSIDE: [&str; 9] = [
    "203.0.113.10",
    "203.0.113.7",
    "198.51.100.7",
    "198.51.100.128",
    "8.8.8.8",
    "10.0.1.77",
    "2001:db8::5",
    "2001:db8::6",
    "fd00::1:ffff",
];
const PROTOCOLS: [Protocol; 6] =
    [Protocol::TCP, Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP, Protocol::ICMPV6];
const PORTS: [u16; 10] = [0, 53, 80, 443, 8080, 8081, 1023, 1024, 32767, 65535];
const PORT_NAMES: [&str; 3] = ["http", "dns", "admin"];

fn cidr(text: &str) -> Cidr {
    text.parse().expect("a prefix")
}
fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub fn world(rng: &mut Rng) -> World {
    let mut world = World { config: config(rng), ..World::default() };
    for name in NAMESPACES {
        // now and then the namespace object is not there (yet), but its pods are
        if !rng.percent(5) {
            world.namespaces.insert(name.into(), namespace(rng));
        }
    }
    for (i, name) in (1u8..).zip(NODES) {
        if i == 1 || rng.percent(85) {
            world.nodes.insert(name.into(), node(rng, name, i));
        }
    }
    for i in 0..4 + rng.below(8) {
        let pod = pod(rng, i as u8);
        world.pods.insert((pod.namespace.clone(), pod.name.clone()), pod);
    }
    for name in ["partners", "mirrors"] {
        if rng.percent(80) {
            world.cidr_groups.insert(name.into(), cidr_group(rng));
        }
    }
    for name in ["front", "back", "outer"] {
        if rng.percent(80) {
            let service = service(rng, name, &world);
            world.services.insert((service.namespace.clone(), service.name.clone()), service);
        }
    }
    world.apiserver_addresses = apiserver(rng, &world);
    for i in 0..rng.below(8) {
        let policy = policy(rng, i);
        world.policies.insert(policy.object.clone(), policy);
    }
    world
}

pub fn config(rng: &mut Rng) -> ClusterConfig {
    ClusterConfig {
        cluster_name: "default".into(),
        enforcement: match rng.below(10) {
            0 => Enforcement::Always,
            1 if rng.percent(30) => Enforcement::Never,
            _ => Enforcement::Default,
        },
        always_allow_own_host: rng.percent(70),
        dual_stack_world: rng.percent(40),
        audit: rng.percent(8),
        host: axoneme_model::safe::HostSettings::default(),
    }
}

fn plain(pairs: &[(&str, &str)]) -> PlainLabels {
    pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
}

pub fn namespace(rng: &mut Rng) -> Namespace {
    let mut labels = PlainLabels::new();
    for (key, values) in [("team", ["a", "b"]), ("env", ["prod", "dev"])] {
        if rng.percent(70) {
            labels.insert(key.into(), (*rng.pick(&values)).into());
        }
    }
    Namespace { labels, annotations: mode(rng, 25) }
}

/// Whether policy is to be told instead of enforced, where the object says anything about it.
fn mode(rng: &mut Rng, percent: u64) -> PlainLabels {
    if rng.percent(percent) {
        plain(&[(audit::MODE, *rng.pick(&["Audit", "Enforce", "PerPod", "audit"]))])
    } else {
        PlainLabels::new()
    }
}

pub fn node(rng: &mut Rng, name: &str, i: u8) -> Node {
    let mut addresses = vec![ip(&format!("192.168.0.{i}"))];
    if rng.percent(70) {
        addresses.push(ip(&format!("fd01::{i}")));
    }
    Node {
        name: name.into(),
        labels: plain(&[("role", *rng.pick(&["worker", "control"])), ("zone", *rng.pick(&["east", "west"]))]),
        addresses,
        internal_addresses: vec![ip(&format!("10.0.{i}.1")), ip(&format!("fd00::{i}:1"))],
        pod_cidrs: vec![cidr(&format!("10.0.{i}.0/24"))],
    }
}

pub fn pod(rng: &mut Rng, i: u8) -> Pod {
    let n = 1 + rng.below(3);
    let mut labels = plain(&[("noise", &format!("{i}"))]);
    for (key, values) in [("app", ["web", "db", "api"]), ("tier", ["1", "2", "1"])] {
        if rng.percent(75) {
            labels.insert(key.into(), (*rng.pick(&values)).into());
        }
    }
    let mut addresses = BTreeSet::new();
    if rng.percent(90) {
        addresses.insert(ip(&format!("10.0.{n}.{}", 2 + i)));
    }
    if rng.percent(50) {
        addresses.insert(ip(&format!("fd00::{n}:{}", 2 + i)));
    }
    let mut named_ports: BTreeMap<Arc<str>, BTreeSet<(Protocol, u16)>> = BTreeMap::new();
    for _ in 0..rng.below(3) {
        let protocol = *rng.pick(&[Protocol::TCP, Protocol::UDP]);
        let port = *rng.pick(&[53, 80, 8080]);
        named_ports.entry((*rng.pick(&PORT_NAMES)).into()).or_default().insert((protocol, port));
    }
    let bound = !rng.percent(8);
    let namespace = *rng.pick(&NAMESPACES);
    Pod {
        namespace: namespace.into(),
        name: format!("p{i}").into(),
        uid: format!("uid-{namespace}-{i}").into(),
        labels,
        annotations: mode(rng, 25),
        service_account: (*rng.pick(&["default", "robot"])).into(),
        node: if bound { format!("n{n}").into() } else { "".into() },
        addresses: if bound { addresses.into() } else { axoneme_model::PackedSet::new() },
        named_ports: named_ports.into_iter().map(|(name, ports)| (name, ports.into())).collect(),
    }
}

pub fn cidr_group(rng: &mut Rng) -> CidrGroup {
    CidrGroup {
        labels: plain(&[("kind", *rng.pick(&["good", "bad"]))]),
        cidrs: rng.some(&CIDRS, 3).into_iter().map(cidr).collect(),
    }
}

pub fn service(rng: &mut Rng, name: &str, world: &World) -> Service {
    let mut addresses: Vec<IpAddr> = world.pods.values().flat_map(|p| p.addresses.iter().copied()).collect();
    addresses.extend(world.nodes.values().flat_map(|n| n.addresses.iter().copied()));
    addresses.extend(OUTSIDE.map(ip));
    let endpoint = |address: IpAddr, bits: u64| ServiceEndpoint {
        address,
        ports: BTreeMap::from([("".into(), (Protocol::TCP, 8080)), ("dns".into(), (Protocol::UDP, 53))]),
        ready: bits & 1 == 0,
        serving: bits & 2 == 0,
        terminating: bits & 4 == 0,
        node: NODES[(bits % 3) as usize].into(),
        zone: "".into(),
    };
    Service {
        namespace: (*rng.pick(&NAMESPACES)).into(),
        name: name.into(),
        labels: plain(&[("kind", *rng.pick(&["good", "bad"]))]),
        selector: None,
        cluster_ips: rng.some(&[ip("172.20.0.1"), ip("fd02::1")], 2),
        ports: vec![
            ServicePort { name: "".into(), protocol: Protocol::TCP, port: 80 },
            ServicePort { name: "dns".into(), protocol: Protocol::UDP, port: 53 },
        ],
        endpoints: rng.some(&addresses, 4).into_iter().map(|a| endpoint(a, rng.next())).collect(),
        affinity_seconds: None,
        internal_local: rng.percent(20),
        publish_not_ready: rng.percent(20),
    }
}

pub fn apiserver(rng: &mut Rng, world: &World) -> BTreeSet<IpAddr> {
    let mut pool = vec![ip("192.168.0.1"), ip("203.0.113.10"), ip("2001:db8::5")];
    pool.extend(world.pods.values().flat_map(|p| p.addresses.iter().copied()).take(1));
    rng.some(&pool, 2).into_iter().collect()
}

pub fn policy(rng: &mut Rng, i: u64) -> Policy {
    let (kind, tier) = match rng.below(10) {
        0 | 1 => (Kind::ClusterNetworkPolicy, Tier::Admin { priority: rng.below(3) as u32 }),
        2 | 3 => (Kind::ClusterNetworkPolicy, Tier::Baseline { priority: rng.below(3) as u32 }),
        4..=6 => (Kind::NetworkPolicy, Tier::Normal),
        7 | 8 => (Kind::CiliumNetworkPolicy, Tier::Normal),
        _ => (Kind::CiliumClusterwideNetworkPolicy, Tier::Normal),
    };
    let namespace = match kind {
        Kind::NetworkPolicy | Kind::CiliumNetworkPolicy => *rng.pick(&NAMESPACES),
        _ => "",
    };
    let count = 1 + rng.below(2);
    let rules = (0..count).map(|r| rule(rng, tier, namespace, if count > 1 { Some(r) } else { None })).collect();
    Policy {
        object: ObjectRef::new(kind, namespace, &format!("policy-{i}")),
        generation: i64::from(rng.below(3) as u32) + 1,
        tier,
        audit: rng.percent(25),
        rules,
    }
}

fn rule(rng: &mut Rng, tier: Tier, namespace: &str, index: Option<u64>) -> Rule {
    let mut subject = selector(rng, 2, false);
    if !namespace.is_empty() {
        subject = subject.and(Requirement::equals(LabelKey::k8s(names::NAMESPACE), namespace));
    }
    let spec = index.map_or("spec".to_owned(), |i| format!("specs[{i}]"));
    let normal = tier == Tier::Normal;
    let subject = if rng.percent(3) { Subject::Nodes(subject) } else { Subject::Endpoints(subject) };
    let list = |rng: &mut Rng, direction: &str| -> Vec<DirectedRule> {
        (0..rng.below(4)).map(|i| directed(rng, tier, format!("{spec}.{direction}[{i}]"))).collect()
    };
    Rule {
        subject,
        log: rng.percent(25).then(|| (*rng.pick(&["front", "audit 7"])).into()),
        isolates_ingress: normal && rng.percent(60),
        isolates_egress: normal && rng.percent(60),
        ingress: list(rng, "ingress"),
        egress: list(rng, "egress"),
    }
}

fn directed(rng: &mut Rng, tier: Tier, path: String) -> DirectedRule {
    let actions: &[Action] = match tier {
        Tier::Admin { .. } => &[Action::Allow, Action::Deny, Action::Pass],
        Tier::Normal => &[Action::Allow, Action::Allow, Action::Deny],
        Tier::Baseline { .. } => &[Action::Allow, Action::Deny],
    };
    let peers = match rng.below(6) {
        0 => Peers::Any,
        1 => Peers::OneOf((0..=rng.below(2)).map(|_| wide(rng)).collect()),
        _ => Peers::OneOf((0..rng.below(4)).map(|_| peer(rng)).collect()),
    };
    let ports = match rng.below(3) {
        0 => Ports::Any,
        _ => Ports::OneOf((0..rng.below(4)).map(|_| port(rng)).collect()),
    };
    DirectedRule { path: path.into(), action: *rng.pick(actions), peers, ports }
}

/// All pods, or all of the outside, now and then with exceptions: what tables say about a kind of peer at once.
fn wide(rng: &mut Rng) -> Peer {
    let always = [names::NAMESPACE, names::SERVICE_ACCOUNT, names::CLUSTER];
    match rng.below(10) {
        0 => Peer::Entity(Entity::World),
        1 => Peer::Entity(*rng.pick(&[Entity::WorldIpv4, Entity::WorldIpv6])),
        2 | 3 => Peer::Entity(Entity::Cluster),
        4 => Peer::Endpoints(Selector::all()),
        5 => Peer::Endpoints(Selector::new(vec![Requirement::exists(LabelKey::k8s(rng.pick::<&str>(&always)))])),
        _ => {
            let except = rng.some(&CIDRS, 2).into_iter().map(cidr).collect();
            let scope =
                *rng.pick(&[CidrScope::Outside, CidrScope::OutsideAndNodes, CidrScope::Anyone, CidrScope::Anyone]);
            Peer::Cidr { cidr: cidr(rng.pick::<&str>(&["0.0.0.0/0", "0.0.0.0/0", "::/0"])), except, scope }
        }
    }
}

fn peer(rng: &mut Rng) -> Peer {
    const ENTITIES: [Entity; 13] = [
        Entity::All,
        Entity::World,
        Entity::WorldIpv4,
        Entity::WorldIpv6,
        Entity::Cluster,
        Entity::Host,
        Entity::RemoteNode,
        Entity::KubeApiserver,
        Entity::Init,
        Entity::Unmanaged,
        Entity::Health,
        Entity::Ingress,
        Entity::None,
    ];
    let scope = *rng.pick(&[CidrScope::Outside, CidrScope::OutsideAndNodes, CidrScope::Anyone]);
    let except: Vec<Cidr> = rng.some(&CIDRS, 2).into_iter().map(cidr).collect();
    let kind = |rng: &mut Rng| Selector::new(vec![requirement(rng, LabelKey::parse("kind"), &["good", "bad"])]);
    match rng.below(14) {
        0..=4 => Peer::Endpoints(selector(rng, 2, true)),
        5 | 6 => Peer::Entity(*rng.pick(&ENTITIES)),
        7..=9 => Peer::Cidr { cidr: cidr(rng.pick::<&str>(&CIDRS)), except, scope },
        10 => Peer::CidrGroup { name: (*rng.pick(&["partners", "mirrors", "gone"])).into(), except, scope },
        11 => Peer::CidrGroups { selector: kind(rng), except, scope },
        12 => {
            let (key, values) = *rng.pick(&[("role", ["worker", "control"]), ("zone", ["east", "west"])]);
            Peer::Nodes(Selector::new(vec![requirement(rng, LabelKey::k8s(key), &values)]))
        }
        _ => Peer::Services(match rng.below(3) {
            0 => ServiceSelector::Labels { namespace: None, selector: kind(rng) },
            1 => ServiceSelector::Labels { namespace: Some((*rng.pick(&NAMESPACES)).into()), selector: kind(rng) },
            _ => ServiceSelector::Name {
                namespace: (*rng.pick(&NAMESPACES)).into(),
                name: (*rng.pick(&["front", "back", "outer"])).into(),
            },
        }),
    }
}

fn requirement(rng: &mut Rng, key: LabelKey, values: &[&str]) -> Requirement {
    let operator = *rng.pick(&[Operator::In, Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist]);
    let values = match operator {
        Operator::In | Operator::NotIn => (0..=rng.below(2)).map(|_| (*rng.pick(values)).into()).collect(),
        Operator::Exists | Operator::DoesNotExist => axoneme_model::PackedSet::new(),
    };
    Requirement { key, operator, values }
}

fn selector(rng: &mut Rng, max: u64, reserved: bool) -> Selector {
    let count = rng.below(max + 1);
    let keys: [(&str, &[&str]); 8] = [
        ("app", &["web", "db", "api"]),
        ("tier", &["1", "2"]),
        ("app", &["web", "db", "other"]),
        (names::NAMESPACE, &NAMESPACES),
        (names::SERVICE_ACCOUNT, &["default", "robot"]),
        ("io.cilium.k8s.namespace.labels.team", &["a", "b"]),
        ("io.cilium.k8s.namespace.labels.env", &["prod", "dev"]),
        (names::CLUSTER, &["default", "other"]),
    ];
    let mut requirements: Vec<Requirement> = (0..count)
        .map(|_| {
            let (name, values) = *rng.pick(&keys);
            let source = match rng.below(8) {
                0 => Source::Any,
                1 if rng.percent(20) => Source::Other("cni".into()),
                _ => Source::K8s,
            };
            requirement(rng, LabelKey { source, name: name.into() }, values)
        })
        .collect();
    if reserved && rng.percent(15) {
        let name = *rng.pick(&["host", "remote-node", "world", "world-ipv4", "world-ipv6", "kube-apiserver"]);
        requirements = vec![requirement(rng, LabelKey::reserved(name), &[""])];
    }
    Selector::new(requirements)
}

fn port(rng: &mut Rng) -> PortMatch {
    let protocol = *rng.pick(&PROTOCOLS);
    match rng.below(8) {
        0 => PortMatch::Protocol(*rng.pick(&[Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol::VRRP])),
        1..=2 => {
            let port = *rng.pick(&PORTS);
            PortMatch::Range { protocol, first: port, last: port }
        }
        3 | 4 => {
            let (a, b) = (*rng.pick(&PORTS), *rng.pick(&PORTS));
            PortMatch::Range { protocol, first: a.min(b), last: a.max(b) }
        }
        5 | 6 => PortMatch::Named {
            protocol: rng.percent(50).then_some(Protocol::TCP),
            name: (*rng.pick(&PORT_NAMES)).into(),
        },
        _ => PortMatch::IcmpType {
            protocol: *rng.pick(&[Protocol::ICMP, Protocol::ICMPV6]),
            icmp_type: *rng.pick(&[0, 8, 128, 255]),
        },
    }
}

/// Numbers for all identities that are wanted, in an order that the seed chooses.
pub fn assign(wanted: &BTreeSet<Labels>, rng: &mut Rng) -> Assignments {
    let mut numbers: Vec<u32> = (0..wanted.len() as u32).map(|i| 256 + i * 7).collect();
    for i in (1..numbers.len()).rev() {
        numbers.swap(i, rng.below(i as u64 + 1) as usize);
    }
    wanted.iter().cloned().zip(numbers.into_iter().map(Identity)).collect()
}

/// Compiles with a number for everyone.
pub fn compile(world: &World, seed: u64) -> (Compiled, Assignments) {
    let none = BTreeMap::new();
    let wanted = axoneme_compile::compile(world, &Assignments::new(), &none).wanted;
    let assignments = assign(&wanted, &mut Rng(seed ^ 0xA551));
    (axoneme_compile::compile(world, &assignments, &none), assignments)
}

/// Addresses worth trying: everyone's, and those at the edges of every prefix that a rule names.
pub fn addresses(world: &World) -> Vec<IpAddr> {
    let mut pool: BTreeSet<IpAddr> = OUTSIDE.map(ip).into_iter().collect();
    pool.extend(world.pods.values().flat_map(|p| p.addresses.iter().copied()));
    pool.extend(world.nodes.values().flat_map(|n| n.addresses.iter().chain(&n.internal_addresses).copied()));
    pool.extend(&world.apiserver_addresses);
    for text in CIDRS {
        let c = cidr(text);
        pool.extend([c.network(), c.broadcast()]);
        pool.extend(after(c.broadcast()));
    }
    pool.into_iter().collect()
}

fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => u32::from(a).checked_add(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(a) => u128::from(a).checked_add(1).map(|n| IpAddr::V6(n.into())),
    }
}

pub fn traffic(rng: &mut Rng, pods: &[IpAddr], all: &[IpAddr]) -> Traffic {
    let own = *rng.pick(if pods.is_empty() { all } else { pods });
    let same_family: Vec<IpAddr> = all.iter().filter(|a| a.is_ipv4() == own.is_ipv4()).copied().collect();
    let other = if rng.percent(50) && !pods.is_empty() { *rng.pick(pods) } else { *rng.pick(&same_family) };
    let other = if other.is_ipv4() == own.is_ipv4() { other } else { own };
    let protocol = *rng.pick(&[
        Protocol::TCP,
        Protocol::TCP,
        Protocol::TCP,
        Protocol::UDP,
        Protocol::UDP,
        Protocol::SCTP,
        Protocol::ICMP,
        Protocol::ICMPV6,
        Protocol::VRRP,
    ]);
    let port = match protocol {
        Protocol::ICMP | Protocol::ICMPV6 => *rng.pick(&[0, 1, 8, 127, 128, 255]),
        Protocol::VRRP => 0,
        _ if rng.percent(10) => rng.next() as u16,
        _ => rng.pick(&PORTS).wrapping_add(*rng.pick(&[0, 0, 0, 1, 65535])),
    };
    let (source, destination) = if rng.percent(50) { (own, other) } else { (other, own) };
    Traffic { source, destination, protocol, port }
}
