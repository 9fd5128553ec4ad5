//! One promise each, by hand: what a policy of every feature does to a small cluster, by the oracle and by the tables.
//!
//! ```text
//!  n1 192.168.0.1   shop/web  10.0.1.2  app=web          n2 192.168.0.2   data/db    10.0.2.2  app=db, http=8080
//!                   shop/cart 10.0.1.3  app=cart                          ops/probe  10.0.2.3  app=probe
//!  outside: 8.8.8.8, 203.0.113.10; API server: 192.168.0.1 and 203.0.113.10
//! ```

#![allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use axoneme_model::{
    Action, Cidr, DirectedRule, Direction, Kind, LabelKey, ObjectRef, Operator, Peer, Peers, Policy, PortMatch, Ports,
    Protocol, Requirement, Rule, Selector, Subject, Tier, Traffic, World, audit,
    labels::names,
    policy::{CidrScope, Entity, ServiceSelector},
    verdict::{Reason, verdict},
    world::{CidrGroup, Enforcement, Namespace, Node, PlainLabels, Pod, Service, ServiceEndpoint},
};
use common::{
    judge::{Nodes, differs},
    random,
};

const WEB: &str = "10.0.1.2";
const CART: &str = "10.0.1.3";
const DB: &str = "10.0.2.2";
const PROBE: &str = "10.0.2.3";
const N1: &str = "192.168.0.1";
const N2: &str = "192.168.0.2";
const OUTSIDE: &str = "8.8.8.8";
const APISERVER: &str = "203.0.113.10";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn plain(text: &str) -> PlainLabels {
    text.split(',').filter_map(|l| l.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
}

fn pod(world: &mut World, namespace: &str, name: &str, address: &str, node: &str) {
    let pod = Pod {
        namespace: namespace.into(),
        name: name.into(),
        uid: name.into(),
        labels: plain(&format!("app={name}")),
        annotations: PlainLabels::new(),
        service_account: format!("{name}-account").into(),
        node: node.into(),
        addresses: [ip(address)].into(),
        named_ports: axoneme_model::PackedMap::new(),
    };
    world.pods.insert((namespace.into(), name.into()), pod);
}

fn cluster() -> World {
    let mut world = World::default();
    world.config.always_allow_own_host = true;
    for (name, team) in [("shop", "a"), ("data", "b"), ("ops", "b")] {
        let labels = plain(&format!("team={team}"));
        world.namespaces.insert(name.into(), Namespace { labels, annotations: PlainLabels::new() });
    }
    for (name, address, role) in [("n1", N1, "control"), ("n2", N2, "worker")] {
        let labels = plain(&format!("role={role}"));
        let node = Node { name: name.into(), labels, addresses: vec![ip(address)], ..Node::default() };
        world.nodes.insert(name.into(), node);
    }
    pod(&mut world, "shop", "web", WEB, "n1");
    pod(&mut world, "shop", "cart", CART, "n1");
    pod(&mut world, "data", "db", DB, "n2");
    pod(&mut world, "ops", "probe", PROBE, "n2");
    let db = world.pods.get_mut(&("data".into(), "db".into())).unwrap();
    db.named_ports.insert("http".into(), [(Protocol::TCP, 8080)].into());
    world.apiserver_addresses = BTreeSet::from([ip(N1), ip(APISERVER)]);
    world.cidr_groups.insert(
        "partners".into(),
        CidrGroup { labels: plain("kind=good"), cidrs: BTreeSet::from([cidr("203.0.113.0/24")]) },
    );
    let endpoint = ServiceEndpoint {
        address: ip(DB),
        ports: BTreeMap::new(),
        ready: true,
        serving: true,
        terminating: false,
        node: "n2".into(),
        zone: "".into(),
    };
    let service = Service {
        namespace: "data".into(),
        name: "db".into(),
        labels: plain("kind=store"),
        endpoints: vec![endpoint],
        ..Service::default()
    };
    world.services.insert(("data".into(), "db".into()), service);
    world
}

fn app(name: &str) -> Selector {
    Selector::new(vec![Requirement::equals(LabelKey::k8s("app"), name)])
}

fn key(key: &str, operator: Operator, values: &[&str]) -> Selector {
    let values = values.iter().map(|v| Arc::from(*v)).collect();
    Selector::new(vec![Requirement { key: LabelKey::parse(key), operator, values }])
}

fn tcp(first: u16, last: u16) -> Ports {
    Ports::OneOf(vec![PortMatch::Range { protocol: Protocol::TCP, first, last }])
}

/// A policy with one rule that selects `app` and has one entry.
fn policy(
    name: &str,
    tier: Tier,
    subject: &str,
    direction: Direction,
    action: Action,
    peers: Peers,
    ports: Ports,
) -> Policy {
    let kind = if tier == Tier::Normal { Kind::CiliumNetworkPolicy } else { Kind::ClusterNetworkPolicy };
    let ingress = direction == Direction::Ingress;
    let path = if ingress { "spec.ingress[0]" } else { "spec.egress[0]" };
    let entry = vec![DirectedRule { path: path.into(), action, peers, ports }];
    let normal = tier == Tier::Normal;
    let rule = Rule {
        subject: Subject::Endpoints(app(subject)),
        log: None,
        isolates_ingress: normal && ingress,
        isolates_egress: normal && !ingress,
        ingress: if ingress { entry.clone() } else { vec![] },
        egress: if ingress { vec![] } else { entry },
    };
    Policy { object: ObjectRef::new(kind, "", name), generation: 1, tier, audit: false, rules: vec![rule] }
}

/// A CNP about what may reach `subject`.
fn ingress(name: &str, subject: &str, peers: Vec<Peer>, ports: Ports) -> Policy {
    policy(name, Tier::Normal, subject, Direction::Ingress, Action::Allow, Peers::OneOf(peers), ports)
}

/// A CNP about what `subject` may reach.
fn egress(name: &str, subject: &str, peers: Vec<Peer>, ports: Ports) -> Policy {
    policy(name, Tier::Normal, subject, Direction::Egress, Action::Allow, Peers::OneOf(peers), ports)
}

fn with(policies: Vec<Policy>) -> World {
    let mut world = cluster();
    world.policies = policies.into_iter().map(|p| (p.object.clone(), p)).collect();
    world
}

/// Source, destination, destination port, whether it passes.
type Packet = (&'static str, &'static str, u16, bool);

#[track_caller]
fn holds(world: &World, packets: &[Packet]) {
    let all: Vec<(Traffic, bool)> = packets.iter().map(|p| (packet(p.0, p.1, Protocol::TCP, p.2), p.3)).collect();
    holds_for(world, &all);
}

fn packet(source: &str, destination: &str, protocol: Protocol, port: u16) -> Traffic {
    Traffic { source: ip(source), destination: ip(destination), protocol, port }
}

#[track_caller]
fn holds_for(world: &World, packets: &[(Traffic, bool)]) {
    let nodes = Nodes::of(&random::compile(world, 1).0);
    for (traffic, allow) in packets {
        let decision = verdict(world, traffic);
        assert_eq!(decision.allow, *allow, "{traffic:?}: the oracle says {decision:#?}");
        assert_eq!(differs(world, &nodes, traffic), None);
    }
}

#[test]
fn pods_that_no_policy_selects_are_open() {
    holds(
        &with(vec![]),
        &[(WEB, DB, 80, true), (OUTSIDE, WEB, 1, true), (WEB, OUTSIDE, 443, true), (N2, WEB, 22, true)],
    );
}

#[test]
fn a_selected_pod_is_reached_only_as_a_rule_allows() {
    let world = with(vec![ingress("p", "db", vec![Peer::Endpoints(app("web"))], tcp(5432, 5432))]);
    holds(&world, &[(WEB, DB, 5432, true), (WEB, DB, 5433, false), (CART, DB, 5432, false), (DB, WEB, 80, true)]);
}

#[test]
fn a_rule_without_peers_allows_nobody() {
    holds(&with(vec![ingress("p", "db", vec![], Ports::Any)]), &[(WEB, DB, 1, false), (N1, DB, 1, false)]);
    let no_ports = ingress("p", "db", vec![Peer::Endpoints(app("web"))], Ports::OneOf(vec![]));
    holds(&with(vec![no_ports]), &[(WEB, DB, 1, false)]);
}

#[test]
fn the_own_node_reaches_its_pods_whatever_the_policy_says() {
    let deny = |tier| policy("p", tier, "db", Direction::Ingress, Action::Deny, Peers::Any, Ports::Any);
    for tier in [Tier::Normal, Tier::Admin { priority: 0 }] {
        let mut world = with(vec![deny(tier)]);
        holds(&world, &[(N2, DB, 10250, true), (N1, DB, 10250, false)]);
        world.config.always_allow_own_host = false;
        holds(&world, &[(N2, DB, 10250, false)]);
    }
}

#[test]
fn deny_wins_over_allow() {
    let world = with(vec![
        ingress("allow", "db", vec![Peer::Entity(Entity::All)], Ports::Any),
        policy(
            "deny",
            Tier::Normal,
            "db",
            Direction::Ingress,
            Action::Deny,
            Peers::OneOf(vec![Peer::Endpoints(app("web"))]),
            tcp(80, 90),
        ),
    ]);
    holds(
        &world,
        &[(WEB, DB, 79, true), (WEB, DB, 80, false), (WEB, DB, 90, false), (WEB, DB, 91, true), (CART, DB, 85, true)],
    );
}

#[test]
fn the_first_match_of_the_admin_tier_decides_and_pass_leaves_it() {
    let admin = |name: &str, priority, action, ports| {
        let peers = Peers::OneOf(vec![Peer::Endpoints(app("web"))]);
        policy(name, Tier::Admin { priority }, "db", Direction::Ingress, action, peers, ports)
    };
    let world = with(vec![
        admin("a", 1, Action::Pass, tcp(1, 10)),
        admin("b", 2, Action::Allow, tcp(1, 20)),
        admin("c", 3, Action::Deny, Ports::Any),
        ingress("isolate", "db", vec![Peer::Endpoints(app("web"))], tcp(5, 5)),
    ]);
    holds(&world, &[(WEB, DB, 5, true), (WEB, DB, 6, false), (WEB, DB, 15, true), (WEB, DB, 25, false)]);
}

#[test]
fn equal_priorities_go_by_name() {
    let any = |name: &str, action| {
        policy(name, Tier::Admin { priority: 5 }, "db", Direction::Ingress, action, Peers::Any, Ports::Any)
    };
    holds(&with(vec![any("x", Action::Deny), any("y", Action::Allow)]), &[(WEB, DB, 1, false)]);
    holds(&with(vec![any("y", Action::Deny), any("x", Action::Allow)]), &[(WEB, DB, 1, true)]);
}

#[test]
fn the_baseline_tier_rules_where_nothing_isolates() {
    let tier = Tier::Baseline { priority: 0 };
    let base = policy("base", tier, "db", Direction::Ingress, Action::Deny, Peers::Any, tcp(80, 80));
    holds(&with(vec![base.clone()]), &[(WEB, DB, 80, false), (WEB, DB, 81, true)]);
    let normal = ingress("n", "db", vec![Peer::Endpoints(app("web"))], Ports::Any);
    let mut open = normal.clone();
    open.rules.iter_mut().for_each(|r| r.isolates_ingress = false);
    holds(&with(vec![base.clone(), open]), &[(WEB, DB, 80, true), (CART, DB, 80, false), (CART, DB, 81, true)]);
    holds(&with(vec![base, normal]), &[(WEB, DB, 80, true), (CART, DB, 80, false), (CART, DB, 81, false)]);
}

#[test]
fn enforcement_modes_open_and_close_everything() {
    let mut world = with(vec![ingress("p", "db", vec![Peer::Endpoints(app("web"))], Ports::Any)]);
    world.config.enforcement = Enforcement::Always;
    holds(&world, &[(WEB, DB, 1, false), (OUTSIDE, CART, 1, false), (OUTSIDE, DB, 1, false), (N1, WEB, 1, true)]);
    world.config.enforcement = Enforcement::Never;
    holds(&world, &[(CART, DB, 1, true), (OUTSIDE, DB, 1, true)]);
}

#[test]
fn entities_mean_what_their_names_say() {
    let reach = |entity| with(vec![ingress("p", "web", vec![Peer::Entity(entity)], Ports::Any)]);
    // sources: pod, own node, other node, outside, API server outside
    let expected: [(Entity, [bool; 5]); 9] = [
        (Entity::All, [true, true, true, true, true]),
        (Entity::World, [false, false, false, true, true]),
        (Entity::WorldIpv4, [false, false, false, true, true]),
        (Entity::WorldIpv6, [false, false, false, false, false]),
        (Entity::Cluster, [true, true, true, false, true]),
        (Entity::Host, [false, true, false, false, false]),
        (Entity::RemoteNode, [false, false, true, false, false]),
        (Entity::KubeApiserver, [false, true, false, false, true]),
        (Entity::None, [false, false, false, false, false]),
    ];
    for (entity, passes) in expected {
        let mut world = reach(entity);
        world.config.always_allow_own_host = false;
        let sources = [CART, N1, N2, OUTSIDE, APISERVER];
        let packets: Vec<Packet> = sources.into_iter().zip(passes).map(|(s, allow)| (s, WEB, 80, allow)).collect();
        holds(&world, &packets);
    }
}

#[test]
fn to_cidr_means_addresses_outside_and_ip_block_means_the_address() {
    let scoped = |scope| {
        let everywhere = Peer::Cidr { cidr: cidr("0.0.0.0/0"), except: vec![cidr("8.8.8.0/24")], scope };
        with(vec![egress("p", "web", vec![everywhere], Ports::Any)])
    };
    let packets =
        |nodes, pods| [(WEB, APISERVER, 1, true), (WEB, OUTSIDE, 1, false), (WEB, N2, 1, nodes), (WEB, DB, 1, pods)];
    holds(&scoped(CidrScope::Outside), &packets(false, false));
    holds(&scoped(CidrScope::OutsideAndNodes), &packets(true, false));
    holds(&scoped(CidrScope::Anyone), &packets(true, true));
}

#[test]
fn cidr_groups_are_found_by_name_and_by_labels() {
    let by_name = |name: &str| {
        let group =
            Peer::CidrGroup { name: name.into(), except: vec![cidr("203.0.113.10/32")], scope: CidrScope::Outside };
        with(vec![egress("p", "web", vec![group], Ports::Any)])
    };
    holds(&by_name("partners"), &[(WEB, "203.0.113.9", 1, true), (WEB, APISERVER, 1, false), (WEB, OUTSIDE, 1, false)]);
    holds(&by_name("gone"), &[(WEB, "203.0.113.9", 1, false)]);
    let labels = key("kind", Operator::In, &["good"]);
    let group = Peer::CidrGroups { selector: labels, except: vec![], scope: CidrScope::Outside };
    holds(
        &with(vec![egress("p", "web", vec![group], Ports::Any)]),
        &[(WEB, APISERVER, 1, true), (WEB, OUTSIDE, 1, false)],
    );
}

#[test]
fn named_ports_are_the_destinations() {
    let named = |protocol| Ports::OneOf(vec![PortMatch::Named { protocol, name: "http".into() }]);
    let world = with(vec![ingress("p", "db", vec![Peer::Entity(Entity::All)], named(None))]);
    holds(&world, &[(WEB, DB, 8080, true), (WEB, DB, 80, false)]);
    let world = with(vec![egress("p", "web", vec![Peer::Entity(Entity::All)], named(Some(Protocol::TCP)))]);
    holds(&world, &[(WEB, DB, 8080, true), (WEB, CART, 8080, false), (WEB, OUTSIDE, 8080, false)]);
    let world = with(vec![egress("p", "web", vec![Peer::Entity(Entity::All)], named(Some(Protocol::UDP)))]);
    holds(&world, &[(WEB, DB, 8080, false)]);
}

#[test]
fn services_stand_for_their_backends() {
    let name = ServiceSelector::Name { namespace: "data".into(), name: "db".into() };
    let selector = key("kind", Operator::In, &["store"]);
    let labels = |namespace: Option<&str>| ServiceSelector::Labels {
        namespace: namespace.map(Arc::from),
        selector: selector.clone(),
    };
    for (service, allow) in
        [(name, true), (labels(None), true), (labels(Some("data")), true), (labels(Some("ops")), false)]
    {
        let world = with(vec![egress("p", "web", vec![Peer::Services(service)], Ports::Any)]);
        holds(&world, &[(WEB, DB, 5432, allow), (WEB, PROBE, 5432, false), (WEB, OUTSIDE, 1, false)]);
    }
}

#[test]
fn nodes_are_selected_by_their_labels() {
    let workers = Peer::Nodes(key("k8s:role", Operator::In, &["worker"]));
    holds(
        &with(vec![egress("p", "web", vec![workers], Ports::Any)]),
        &[(WEB, N2, 1, true), (WEB, N1, 1, false), (WEB, DB, 1, false)],
    );
}

#[test]
fn selectors_know_all_operators_and_derived_labels() {
    let cases: [(Selector, [bool; 2]); 7] = [
        (key("app", Operator::In, &["web", "cart"]), [true, false]),
        (key("app", Operator::NotIn, &["web"]), [false, true]),
        (key("k8s:app", Operator::Exists, &[]), [true, true]),
        (key("k8s:gone", Operator::DoesNotExist, &[]), [true, true]),
        (key(&format!("k8s:{}", names::NAMESPACE), Operator::In, &["ops"]), [false, true]),
        (key("k8s:io.cilium.k8s.namespace.labels.team", Operator::In, &["a"]), [true, false]),
        (key(&format!("k8s:{}", names::SERVICE_ACCOUNT), Operator::In, &["probe-account"]), [false, true]),
    ];
    for (selector, [web, probe]) in cases {
        let world = with(vec![ingress("p", "db", vec![Peer::Endpoints(selector)], Ports::Any)]);
        holds(&world, &[(WEB, DB, 1, web), (PROBE, DB, 1, probe), (OUTSIDE, DB, 1, false), (N1, DB, 1, false)]);
    }
    let host = key("reserved:remote-node", Operator::Exists, &[]);
    holds(
        &with(vec![ingress("p", "db", vec![Peer::Endpoints(host)], Ports::Any)]),
        &[(N1, DB, 1, true), (WEB, DB, 1, false)],
    );
}

/// Whoever may create pods may not choose their namespace, their namespace's labels, account or cluster by labels of
/// those names. (CVE-2023-39347 and its kin.)
#[test]
fn labels_that_a_pod_forges_are_not_believed() {
    let trusted = format!("{}trusted", names::NAMESPACE_LABEL_PREFIX);
    let forged = [
        (names::NAMESPACE, "ops"),
        (trusted.as_str(), "yes"),
        (names::SERVICE_ACCOUNT, "probe-account"),
        (names::CLUSTER, "another"),
    ];
    for (name, value) in forged {
        let selector = key(&format!("k8s:{name}"), Operator::In, &[value]);
        let mut world = with(vec![ingress("p", "db", vec![Peer::Endpoints(selector)], Ports::Any)]);
        let web = world.pods.values_mut().find(|p| p.addresses.contains(&WEB.parse().unwrap())).unwrap();
        web.labels.insert(name.into(), value.into());
        holds(&world, &[(WEB, DB, 1, false)]);
    }
}

#[test]
fn icmp_types_and_protocols_are_told_apart() {
    let ping = Ports::OneOf(vec![
        PortMatch::IcmpType { protocol: Protocol::ICMP, icmp_type: 8 },
        PortMatch::Protocol(Protocol::VRRP),
        PortMatch::Protocol(Protocol::SCTP),
    ]);
    let world = with(vec![ingress("p", "db", vec![Peer::Entity(Entity::All)], ping)]);
    holds_for(
        &world,
        &[
            (packet(WEB, DB, Protocol::ICMP, 8), true),
            (packet(WEB, DB, Protocol::ICMP, 0), false),
            (packet(WEB, DB, Protocol::VRRP, 0), true),
            (packet(WEB, DB, Protocol::SCTP, 65535), true),
            (packet(WEB, DB, Protocol::UDP, 8), false),
        ],
    );
}

#[test]
fn every_verdict_names_its_rule() {
    let world = with(vec![ingress("p", "db", vec![Peer::Endpoints(app("web"))], tcp(80, 80))]);
    let side = |source: &str, port| verdict(&world, &packet(source, DB, Protocol::TCP, port)).ingress.unwrap();
    let allowed = side(WEB, 80);
    assert_eq!((allowed.reason, &*allowed.rules[0].path), (Reason::Allow, "spec.ingress[0]"));
    let dropped = side(CART, 80);
    assert_eq!((dropped.reason, &*dropped.rules[0].path), (Reason::Isolated, "spec"));
    let probed = side(N2, 80);
    assert_eq!((probed.reason, probed.rules[0].object.kind), (Reason::OwnHost, Kind::Builtin));
}

#[test]
fn a_range_takes_the_fewest_prefixes() {
    let count = |ports| {
        let world = with(vec![ingress("p", "db", vec![Peer::Endpoints(app("web"))], ports)]);
        let compiled = random::compile(&world, 1).0;
        let web = compiled.rows.find_ip(ip(WEB)).unwrap().peer;
        compiled.rows.tables.values().flat_map(|t| t.entries.keys()).filter(|k| k.peer == web).count()
    };
    // 1024-65535 is six prefixes, or the protocol and one exception; everything but 0 is sixteen, or two
    assert_eq!((count(tcp(80, 80)), count(tcp(0, 65535)), count(tcp(1024, 65535)), count(tcp(1, 65535))), (1, 1, 2, 2));
}

fn audited(policy: Policy) -> Policy {
    Policy { audit: true, ..policy }
}

/// That the packet passes, that the rows say the same, and what would deny it, as the destination sees it: the step and the
/// policies.
#[track_caller]
fn would(world: &World, (source, destination, port): (&str, &str, u16)) -> Option<(Reason, Vec<String>)> {
    let traffic = packet(source, destination, Protocol::TCP, port);
    let decision = verdict(world, &traffic);
    assert!(decision.allow, "{decision:#?}");
    assert_eq!(differs(world, &Nodes::of(&random::compile(world, 1).0), &traffic), None);
    let audit = decision.ingress?.audit?;
    Some((audit.reason, audit.rules.iter().map(|r| r.object.name.to_string()).collect()))
}

#[test]
fn an_audited_policy_is_told_and_not_enforced() {
    let world = with(vec![audited(ingress("p", "db", vec![Peer::Endpoints(app("web"))], tcp(5432, 5432)))]);
    assert_eq!(would(&world, (WEB, DB, 5432)), None);
    for packet in [(WEB, DB, 5433), (CART, DB, 5432), (OUTSIDE, DB, 5432)] {
        assert_eq!(would(&world, packet), Some((Reason::Isolated, vec!["p".to_owned()])), "{packet:?}");
    }
}

#[test]
fn an_audited_policy_neither_lifts_nor_widens_what_another_enforces() {
    let enforced = ingress("a", "db", vec![Peer::Endpoints(app("web"))], Ports::Any);
    let beside = audited(ingress("b", "db", vec![Peer::Endpoints(app("cart"))], Ports::Any));
    let deny = Peers::OneOf(vec![Peer::Endpoints(app("web"))]);
    let denying = policy("c", Tier::Normal, "db", Direction::Ingress, Action::Deny, deny, tcp(1, 99));
    let world = with(vec![enforced, beside, audited(denying)]);
    // the default-deny of the enforced one stays, and what only the audited one allows stays denied
    holds(&world, &[(WEB, DB, 5432, true), (CART, DB, 5432, false), (OUTSIDE, DB, 5432, false)]);
    // both allow, or the audited one has nothing to say: nothing would change
    assert_eq!(would(&world, (WEB, DB, 5432)), None);
    assert_eq!(would(&world, (WEB, DB, 80)), Some((Reason::Deny, vec!["c".to_owned()])));
}

#[test]
fn audited_policies_are_judged_together() {
    let world = with(vec![
        audited(ingress("a", "db", vec![Peer::Endpoints(app("web"))], Ports::Any)),
        audited(ingress("b", "db", vec![Peer::Endpoints(app("cart"))], Ports::Any)),
    ]);
    assert_eq!((would(&world, (WEB, DB, 1)), would(&world, (CART, DB, 1))), (None, None));
    assert_eq!(would(&world, (OUTSIDE, DB, 1)), Some((Reason::Isolated, vec!["a".to_owned(), "b".to_owned()])));
}

#[test]
fn an_audited_pass_may_lead_to_the_default_that_another_enforces() {
    let admin = |priority| Tier::Admin { priority };
    let all = || (Direction::Ingress, Peers::Any, Ports::Any);
    let of = |name, priority, action| {
        let (direction, peers, ports) = all();
        policy(name, admin(priority), "db", direction, action, peers, ports)
    };
    let isolating = ingress("normal", "db", vec![Peer::Endpoints(app("cart"))], Ports::Any);
    let world = with(vec![audited(of("pass", 1, Action::Pass)), of("accept", 2, Action::Allow), isolating]);
    assert_eq!(would(&world, (WEB, DB, 1)), Some((Reason::Isolated, vec!["normal".to_owned()])));
    assert_eq!(would(&world, (CART, DB, 1)), None);
}

#[test]
fn nothing_is_enforced_on_an_audited_pod_whoever_wants_it() {
    let closed = |w: &mut World| w.config.enforcement = Enforcement::Always;
    let mut world = with(vec![ingress("p", "db", vec![Peer::Endpoints(app("web"))], Ports::Any)]);
    holds(&world, &[(WEB, DB, 1, true), (CART, DB, 1, false)]);
    let mode = |value: &str| [(audit::MODE.into(), value.into())].into();
    world.namespaces.get_mut("data").unwrap().annotations = mode("Audit");
    assert_eq!(would(&world, (WEB, DB, 1)), None);
    assert_eq!(would(&world, (CART, DB, 1)), Some((Reason::Isolated, vec!["p".to_owned()])));
    // a pod may be stricter than its namespace, and lift policy only by its leave
    let key = world.pods.iter().find(|(_, p)| p.addresses.contains(&ip(DB))).unwrap().0.clone();
    world.pods.get_mut(&key).unwrap().annotations = mode("Enforce");
    holds(&world, &[(CART, DB, 1, false)]);
    world.pods.get_mut(&key).unwrap().annotations = mode("Audit");
    world.namespaces.get_mut("data").unwrap().annotations = PlainLabels::new();
    holds(&world, &[(CART, DB, 1, false)]);
    world.namespaces.get_mut("data").unwrap().annotations = mode("PerPod");
    assert_eq!(would(&world, (CART, DB, 1)), Some((Reason::Isolated, vec!["p".to_owned()])));
    // the whole cluster, in both directions
    world.policies.clear();
    closed(&mut world);
    world.config.audit = true;
    let always = would(&world, (WEB, DB, 1)).unwrap();
    assert_eq!(always, (Reason::Isolated, vec!["policy-enforcement".to_owned()]));
}
