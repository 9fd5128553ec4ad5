//! What policy of nodes means, from Cilium's documented behaviour ("Host Policies", "Host Firewall" and the examples there)
//! and the safe set, which is this project's own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::{net::IpAddr, slice::from_ref, sync::Arc};

use axoneme_model::{
    Action, Cidr, DirectedRule, Direction, Kind, LabelKey, ObjectRef, Peer, Peers, Policy, PortMatch, Ports, Protocol,
    Requirement, Rule, Selector, Subject, Tier, Traffic, World, host_verdict,
    labels::names,
    policy::{CidrScope, Entity},
    safe::Safe,
    verdict::{Reason, Side, verdict},
    world::{Enforcement, Node, Pod},
};

const WORKER: &str = "192.168.0.1";
const OTHER: &str = "192.168.0.2";
const OUTSIDE: &str = "203.0.113.9";
const LOCAL_POD: &str = "10.0.1.5";
const REMOTE_POD: &str = "10.0.2.5";
const APISERVER: &str = "198.51.100.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node(name: &str, role: &str, addresses: &[&str]) -> Node {
    Node {
        name: name.into(),
        labels: [("node-access".into(), role.into())].into(),
        addresses: addresses.iter().map(|a| ip(a)).collect(),
        internal_addresses: vec![],
        pod_cidrs: vec![],
    }
}

fn pod(name: &str, node: &str, address: &str) -> Pod {
    Pod {
        namespace: "shop".into(),
        name: name.into(),
        uid: name.into(),
        labels: [("app".into(), name.into())].into(),
        annotations: [].into(),
        service_account: "default".into(),
        node: node.into(),
        addresses: [ip(address)].into(),
        named_ports: [("ssh-alt".into(), [(Protocol::TCP, 2222)].into())].into(),
    }
}

/// Two nodes, of which the first has the label `node-access: ssh`; a pod on each; an API server outside of the cluster.
fn world(policies: &[Policy]) -> World {
    let mut world = World::default();
    for n in [node("worker", "ssh", &[WORKER, "fd01::1"]), node("other", "none", &[OTHER, "fd01::2"])] {
        world.nodes.insert(n.name.clone(), n);
    }
    for p in [pod("near", "worker", LOCAL_POD), pod("far", "other", REMOTE_POD)] {
        world.pods.insert((p.namespace.clone(), p.name.clone()), p);
    }
    world.apiserver_addresses.insert(ip(APISERVER));
    world.policies = policies.iter().map(|p| (p.object.clone(), p.clone())).collect();
    world
}

fn chosen() -> Selector {
    Selector::new(vec![Requirement::equals(LabelKey::parse("node-access"), "ssh")])
}

fn entry(path: &str, action: Action, peers: Peers, ports: Ports) -> DirectedRule {
    DirectedRule { path: path.into(), action, peers, ports }
}

fn from(entity: Entity) -> Peers {
    Peers::OneOf(vec![Peer::Entity(entity)])
}

fn tcp(port: u16) -> Ports {
    Ports::OneOf(vec![PortMatch::Range { protocol: Protocol::TCP, first: port, last: port }])
}

fn policy(name: &str, subject: Subject, ingress: &[DirectedRule], egress: &[DirectedRule]) -> Policy {
    let rule = Rule {
        subject,
        log: None,
        isolates_ingress: !ingress.is_empty(),
        isolates_egress: !egress.is_empty(),
        ingress: ingress.to_vec(),
        egress: egress.to_vec(),
    };
    Policy {
        object: ObjectRef::new(Kind::CiliumClusterwideNetworkPolicy, "", name),
        generation: 1,
        tier: Tier::Normal,
        audit: false,
        rules: vec![rule],
    }
}

/// Selects the first node and lets nothing in or out.
fn closed() -> Policy {
    let nobody = entry("spec.ingress[0]", Action::Allow, Peers::OneOf(vec![]), Ports::Any);
    let nowhere = DirectedRule { path: "spec.egress[0]".into(), ..nobody.clone() };
    policy("closed", Subject::Nodes(chosen()), &[nobody], &[nowhere])
}

fn packet(source: &str, destination: &str, protocol: Protocol, port: u16) -> Traffic {
    Traffic { source: ip(source), destination: ip(destination), protocol, port }
}

fn into(world: &World, source: &str, protocol: Protocol, port: u16) -> Side {
    host_verdict(world, &packet(source, WORKER, protocol, port)).ingress.unwrap()
}

fn out(world: &World, destination: &str, protocol: Protocol, port: u16) -> Side {
    host_verdict(world, &packet(WORKER, destination, protocol, port)).egress.unwrap()
}

/// The policy of Cilium's guide: "allows communications from outside the cluster only for TCP/22 and for ICMP echo
/// requests. All communications from the cluster to the hosts are allowed."
#[test]
fn the_guides_policy_means_what_the_guide_says() {
    let echo = Ports::OneOf(vec![PortMatch::IcmpType { protocol: Protocol::ICMP, icmp_type: 8 }]);
    let demo = policy(
        "demo-host-policy",
        Subject::Nodes(chosen()),
        &[
            entry("spec.ingress[0]", Action::Allow, from(Entity::Cluster), Ports::Any),
            entry("spec.ingress[1]", Action::Allow, Peers::Any, tcp(22)),
            entry("spec.ingress[2]", Action::Allow, Peers::Any, echo),
        ],
        &[],
    );
    let mut world = world(&[demo]);
    // as if there was no safe set
    world.config.host.unprotected = Safe::ALL.into();
    for (source, protocol, port, allow) in [
        (OTHER, Protocol::TCP, 2379, true),
        (LOCAL_POD, Protocol::TCP, 80, true),
        (REMOTE_POD, Protocol::UDP, 80, true),
        // "action deny … 10.0.2.2 → 10.0.2.15:21 tcp SYN"
        (OUTSIDE, Protocol::TCP, 21, false),
        (OUTSIDE, Protocol::TCP, 6443, false),
        (OUTSIDE, Protocol::TCP, 22, true),
        (OUTSIDE, Protocol::UDP, 22, false),
        (OUTSIDE, Protocol::ICMP, 8, true),
        (OUTSIDE, Protocol::ICMP, 13, false),
        ("2001:db8::9", Protocol::TCP, 22, true),
    ] {
        let destination = if source.contains(':') { "fd01::1" } else { WORKER };
        let side = host_verdict(&world, &packet(source, destination, protocol, port)).ingress.unwrap();
        assert_eq!(side.allow, allow, "{source} {protocol} {port}: {side:?}");
    }
    // "POLICY (ingress) ENFORCEMENT Enabled, POLICY (egress) ENFORCEMENT Disabled"
    assert_eq!(out(&world, OUTSIDE, Protocol::TCP, 9).reason, Reason::Open);
    // a node without the label
    let other = host_verdict(&world, &packet(OUTSIDE, OTHER, Protocol::TCP, 21));
    assert_eq!(other.ingress.unwrap().reason, Reason::Open);
}

#[test]
fn host_policies_do_not_apply_to_pods_nor_pod_policies_to_hosts() {
    let everyone = entry("spec.ingress[0]", Action::Deny, Peers::Any, Ports::Any);
    let of_pods = policy("pods", Subject::Endpoints(Selector::all()), from_ref(&everyone), from_ref(&everyone));
    let world_of_pods = world(&[of_pods]);
    assert_eq!(into(&world_of_pods, OUTSIDE, Protocol::TCP, 80).reason, Reason::Open);
    assert_eq!(out(&world_of_pods, OUTSIDE, Protocol::TCP, 80).reason, Reason::Open);

    let mut of_nodes = closed();
    of_nodes.rules[0].subject = Subject::Nodes(Selector::all());
    let world_of_nodes = world(&[of_nodes]);
    for (source, destination) in [(LOCAL_POD, OUTSIDE), (OUTSIDE, LOCAL_POD), (LOCAL_POD, REMOTE_POD)] {
        let t = packet(source, destination, Protocol::TCP, 80);
        let host = host_verdict(&world_of_nodes, &t);
        assert!(host.allow && host.egress.is_none() && host.ingress.is_none(), "{source} to {destination}");
        assert!(verdict(&world_of_nodes, &t).allow, "{source} to {destination}");
    }
    assert!(!into(&world_of_nodes, OUTSIDE, Protocol::TCP, 80).allow);
}

#[test]
fn each_end_that_is_a_node_judges_for_itself() {
    let world = world(&[closed()]);
    let there = host_verdict(&world, &packet(OTHER, WORKER, Protocol::TCP, 80));
    assert_eq!(there.egress.unwrap().reason, Reason::Open, "nothing selects the other node");
    assert_eq!(there.ingress.unwrap().reason, Reason::Isolated);
    assert!(!there.allow);
    let rule: Vec<Arc<str>> = out(&world, OTHER, Protocol::TCP, 80).rules.into_iter().map(|r| r.path).collect();
    assert_eq!(rule, ["spec".into()]);
}

#[test]
fn a_node_may_say_anything_to_itself() {
    let world = world(&[closed()]);
    for (source, destination) in [(WORKER, WORKER), ("fd01::1", "fd01::1")] {
        let d = host_verdict(&world, &packet(source, destination, Protocol::TCP, 80));
        assert!(d.allow);
        assert_eq!(d.egress.unwrap().reason, Reason::SameNode);
        assert_eq!(d.ingress.unwrap().reason, Reason::SameNode);
    }
}

#[test]
fn peers_are_told_apart_as_for_pods() {
    let shop = Selector::new(vec![
        Requirement::equals(LabelKey::k8s(names::NAMESPACE), "shop"),
        Requirement::equals(LabelKey::parse("app"), "far"),
    ]);
    let cidr = |text: &str, scope| Peer::Cidr { cidr: text.parse::<Cidr>().unwrap(), except: vec![], scope };
    for (peer, allowed) in [
        (Peer::Entity(Entity::RemoteNode), vec![OTHER]),
        (Peer::Entity(Entity::Host), vec![]),
        (Peer::Entity(Entity::World), vec![OUTSIDE, APISERVER]),
        (Peer::Entity(Entity::Cluster), vec![OTHER, LOCAL_POD, REMOTE_POD, APISERVER]),
        (Peer::Entity(Entity::KubeApiserver), vec![APISERVER]),
        (Peer::Entity(Entity::All), vec![OTHER, LOCAL_POD, REMOTE_POD, OUTSIDE, APISERVER]),
        (Peer::Endpoints(Selector::all()), vec![LOCAL_POD, REMOTE_POD]),
        (Peer::Endpoints(shop), vec![REMOTE_POD]),
        (Peer::Nodes(Selector::new(vec![Requirement::equals(LabelKey::k8s("node-access"), "none")])), vec![OTHER]),
        (cidr("0.0.0.0/0", CidrScope::Outside), vec![OUTSIDE, APISERVER]),
        (cidr("192.168.0.0/24", CidrScope::Outside), vec![]),
        (cidr("192.168.0.0/24", CidrScope::OutsideAndNodes), vec![OTHER]),
    ] {
        let rule = entry("spec.ingress[0]", Action::Allow, Peers::OneOf(vec![peer.clone()]), tcp(80));
        let world = world(&[policy("peers", Subject::Nodes(Selector::all()), &[rule], &[])]);
        for source in [OTHER, LOCAL_POD, REMOTE_POD, OUTSIDE, APISERVER] {
            let side = into(&world, source, Protocol::TCP, 80);
            assert_eq!(side.allow, allowed.contains(&source), "{peer:?}: {source}");
            assert!(!into(&world, source, Protocol::TCP, 81).allow);
        }
    }
}

#[test]
fn egress_is_judged_by_who_is_spoken_to() {
    let rule = entry("spec.egress[0]", Action::Allow, from(Entity::RemoteNode), tcp(80));
    let no = entry("spec.egressDeny[0]", Action::Deny, from(Entity::All), tcp(80));
    let named = Ports::OneOf(vec![PortMatch::Named { protocol: None, name: "ssh-alt".into() }]);
    let pods = entry("spec.egress[1]", Action::Allow, Peers::OneOf(vec![Peer::Endpoints(Selector::all())]), named);
    let mut world = world(&[policy("out", Subject::Nodes(chosen()), &[], &[rule, pods])]);
    assert!(out(&world, OTHER, Protocol::TCP, 80).allow);
    assert!(!out(&world, OUTSIDE, Protocol::TCP, 80).allow);
    assert!(out(&world, REMOTE_POD, Protocol::TCP, 2222).allow, "the peer's named port");
    assert!(!out(&world, OTHER, Protocol::TCP, 2222).allow);
    assert_eq!(into(&world, OUTSIDE, Protocol::TCP, 80).reason, Reason::Open, "ingress is not spoken of");
    let deny = policy("no", Subject::Nodes(Selector::all()), &[], &[no]);
    world.policies.insert(deny.object.clone(), deny);
    assert_eq!(out(&world, OTHER, Protocol::TCP, 80).reason, Reason::Deny, "a deny wins");
}

#[test]
fn node_selectors_read_all_labels_of_the_node() {
    let key = |text: &str| Requirement::exists(LabelKey::parse(text));
    for (selector, chosen) in [
        (Selector::all(), true),
        (Selector::new(vec![key("node-access")]), true),
        (Selector::new(vec![key("k8s:node-access")]), true),
        (Selector::new(vec![key("kubernetes.io/os")]), true),
        (Selector::new(vec![key("reserved:host")]), true),
        (Selector::new(vec![key("reserved:remote-node")]), false),
        (Selector::new(vec![key("absent")]), false),
    ] {
        let mut policy = closed();
        policy.rules[0].subject = Subject::Nodes(selector.clone());
        let mut world = world(&[policy]);
        world.nodes.get_mut("worker").unwrap().labels.insert("kubernetes.io/os".into(), "linux".into());
        assert_eq!(into(&world, OUTSIDE, Protocol::TCP, 80).allow, !chosen, "{selector}");
    }
}

#[test]
fn no_policy_cuts_the_safe_set() {
    let all = entry("spec.ingressDeny[0]", Action::Deny, Peers::Any, Ports::Any);
    let deny = policy("deny", Subject::Nodes(Selector::all()), from_ref(&all), from_ref(&all));
    let world = world(&[closed(), deny]);
    for (member, direction, protocol, port) in [
        (Safe::Ssh, Direction::Ingress, Protocol::TCP, 22),
        (Safe::Kubelet, Direction::Ingress, Protocol::TCP, 10250),
        (Safe::ApiServer, Direction::Ingress, Protocol::TCP, 6443),
        (Safe::ApiServer, Direction::Egress, Protocol::TCP, 6443),
        (Safe::Etcd, Direction::Ingress, Protocol::TCP, 2380),
        (Safe::Etcd, Direction::Egress, Protocol::TCP, 2379),
        (Safe::Dhcp, Direction::Ingress, Protocol::UDP, 68),
        (Safe::Dhcp, Direction::Egress, Protocol::UDP, 67),
        (Safe::Dns, Direction::Egress, Protocol::UDP, 53),
        (Safe::Dns, Direction::Egress, Protocol::TCP, 53),
        (Safe::Ntp, Direction::Egress, Protocol::UDP, 123),
        (Safe::Streams, Direction::Ingress, Protocol::UDP, 8472),
        (Safe::Streams, Direction::Egress, Protocol::TCP, 4250),
        (Safe::PathErrors, Direction::Ingress, Protocol::ICMP, 3),
    ] {
        let judge = |world: &World| match direction {
            Direction::Ingress => into(world, OUTSIDE, protocol, port),
            Direction::Egress => out(world, OUTSIDE, protocol, port),
        };
        let side = judge(&world);
        assert!(side.allow && side.reason == Reason::Safe(member), "{member:?} {direction:?}: {side:?}");
        assert_eq!(side.rules, [member.rule()]);
        let mut named = world.clone();
        named.config.host.unprotected.insert(member);
        assert_eq!(judge(&named).reason, Reason::Deny, "{member:?} {direction:?}, which the setting names");
    }
    let neighbour = host_verdict(&world, &packet("fd01::2", "fd01::1", Protocol::ICMPV6, 135));
    assert!(neighbour.allow, "{neighbour:?}");
    assert_eq!(out(&world, APISERVER, Protocol::TCP, 443).reason, Reason::Safe(Safe::ApiServer), "by its address");
    assert_eq!(out(&world, OUTSIDE, Protocol::TCP, 443).reason, Reason::Deny);
    assert_eq!(into(&world, OUTSIDE, Protocol::UDP, 53).reason, Reason::Deny, "a node is no resolver");
    assert_eq!(into(&world, OUTSIDE, Protocol::ICMP, 8).reason, Reason::Deny);
}

#[test]
fn what_is_not_known_leaves_a_node_alone() {
    let mut always = world(&[]);
    always.config.enforcement = Enforcement::Always;
    assert_eq!(into(&always, OUTSIDE, Protocol::TCP, 80).reason, Reason::Open, "`always` means pods");

    // the Node object is gone: its address is not known to be a node's, and no policy selects what has no labels
    let mut gone = world(&[closed()]);
    gone.nodes.remove("worker");
    assert!(host_verdict(&gone, &packet(OUTSIDE, WORKER, Protocol::TCP, 80)).allow);
    let mut bare = world(&[closed()]);
    bare.nodes.get_mut("worker").unwrap().labels = axoneme_model::PackedMap::new();
    assert_eq!(into(&bare, OUTSIDE, Protocol::TCP, 80).reason, Reason::Open);

    let mut never = world(&[closed()]);
    never.config.enforcement = Enforcement::Never;
    assert_eq!(into(&never, OUTSIDE, Protocol::TCP, 80).reason, Reason::NotEnforced);
}

#[test]
fn an_audited_host_policy_is_told() {
    let audited = Policy { audit: true, ..closed() };
    let side = into(&world(&[audited]), OUTSIDE, Protocol::TCP, 80);
    assert!(side.allow);
    assert_eq!(side.audit.unwrap().reason, Reason::Isolated);
    let mut all = world(&[closed()]);
    all.config.audit = true;
    let side = out(&all, OUTSIDE, Protocol::TCP, 80);
    assert!(side.allow && side.audit.is_some());
    assert_eq!(into(&all, OUTSIDE, Protocol::TCP, 22).audit, None, "the safe set is not asked about");
}
