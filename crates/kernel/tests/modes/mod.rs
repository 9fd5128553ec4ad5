//! The machinery of the mode table: a cell is one policy, compiled, in real maps, asked with a real datagram, and held
//! against the oracle. Shared by who writes the table and by who looks at its cells on other kernels.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

pub mod flows;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use crate::rig::{
    Namespace, Options, Pod,
    cluster::{Cluster, Mode, node_hops, pod_hops},
    frames::{Tap, udp},
    node_v4, node_v6, rows,
};
use axoneme_abi::{DropReason, FlowKind, event::audit_bit};
use axoneme_compile::{Compiled, Compiler, Event as Said};
use axoneme_kernel::{
    bpf::{Event, EventReader},
    datapath::{Datapath, EndpointEntry, IpEntry, ServiceEntry},
};
use axoneme_model::{
    Action, DirectedRule, Direction, Identity, Kind, LabelKey, ObjectRef, Peer, Peers, Policy, PortMatch, Ports,
    Protocol, Requirement, Rule, Selector, Subject, Tier, Traffic, World,
    policy::Entity,
    rows::RuleId,
    verdict::{Side, verdict},
    world::{Namespace as ModelNamespace, Node as ModelNode, Pod as ModelPod},
};

/// Everybody who asks or is asked. `Own`: the pod whose side most rows judge, on the first node; `Near` is beside it, `Far`
/// on the second node. `Node` is the first node itself, `Other` the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Own,
    Near,
    Far,
    Node,
    Other,
    Outside,
}

impl Who {
    fn address(self, v6: bool) -> IpAddr {
        let pod = |node: u16, n: u16| -> IpAddr {
            if v6 { [0xfd10, node, 0, 0, 0, 0, 0, n].into() } else { [10, node as u8, 0, n as u8].into() }
        };
        match self {
            Self::Own => pod(1, 1),
            Self::Near => pod(1, 3),
            Self::Far => pod(2, 2),
            Self::Node | Self::Other => {
                let n = if self == Self::Node { 1 } else { 2 };
                if v6 { node_v6(n).into() } else { node_v4(n).into() }
            }
            Self::Outside if v6 => [0xfd22, 0, 0, 0, 0, 0, 0, 2].into(),
            Self::Outside => [10, 202, 0, 2].into(),
        }
    }

    /// The label `app` of a pod; none for what is no pod.
    fn app(self) -> Option<&'static str> {
        match self {
            Self::Own => Some("own"),
            Self::Near => Some("near"),
            Self::Far => Some("far"),
            Self::Node | Self::Other | Self::Outside => None,
        }
    }

    /// The node that it is on: an index. Nobody's for the outside, which is reached through the first.
    fn node(self) -> usize {
        usize::from(matches!(self, Self::Far | Self::Other))
    }

    /// As a rule of a pod on the first node, or on the second, names it.
    fn peer(self, seen_from: usize) -> Peer {
        match self {
            Self::Outside => Peer::Entity(Entity::World),
            Self::Node | Self::Other if self.node() == seen_from => Peer::Entity(Entity::Host),
            Self::Node | Self::Other => Peer::Entity(Entity::RemoteNode),
            pod => Peer::Endpoints(labelled(pod)),
        }
    }
}

fn labelled(pod: Who) -> Selector {
    let app = pod.app().expect("a pod");
    Selector::new(vec![Requirement::equals(LabelKey::k8s("app"), app)])
}

/// A line of the table: who asks whom, how, and whose side is judged.
#[derive(Debug)]
pub struct Line {
    pub what: &'static str,
    pub from: Who,
    pub to: Who,
    pub by_service: bool,
    pub side: Direction,
}

impl Line {
    /// Whether its packets go from node to node.
    pub fn is_remote(&self) -> bool {
        self.from.node() != self.to.node()
    }
}

const fn line(what: &'static str, from: Who, to: Who, by_service: bool, side: Direction) -> Line {
    Line { what, from, to, by_service, side }
}

pub const LINES: [Line; 14] = [
    line("pod → pod of the same node", Who::Own, Who::Near, false, Direction::Egress),
    line("pod → pod of the same node", Who::Own, Who::Near, false, Direction::Ingress),
    line("pod → pod of another node", Who::Own, Who::Far, false, Direction::Egress),
    line("pod → pod of another node", Who::Own, Who::Far, false, Direction::Ingress),
    line("pod → Service, backend on the same node", Who::Own, Who::Near, true, Direction::Egress),
    line("pod → Service, backend on the same node", Who::Own, Who::Near, true, Direction::Ingress),
    line("pod → Service, backend on another node", Who::Own, Who::Far, true, Direction::Egress),
    line("pod → Service, backend on another node", Who::Own, Who::Far, true, Direction::Ingress),
    line("pod → its own node", Who::Own, Who::Node, false, Direction::Egress),
    line("pod → another node", Who::Own, Who::Other, false, Direction::Egress),
    line("pod → outside", Who::Own, Who::Outside, false, Direction::Egress),
    line("own node → pod", Who::Node, Who::Own, false, Direction::Ingress),
    line("another node → pod", Who::Other, Who::Own, false, Direction::Ingress),
    line("outside → pod", Who::Outside, Who::Own, false, Direction::Ingress),
];

/// What the policy of a cell says about the one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Allow,
    Deny,
    Audit,
}

const SAYS: [Says; 3] = [Says::Allow, Says::Deny, Says::Audit];
const PORT: u16 = 53;
const UDP: Protocol = Protocol(17);

fn name(text: &str) -> Arc<str> {
    text.into()
}

fn world(line: &Line, says: Says) -> World {
    let mut world = World::default();
    world.namespaces.insert(name("shop"), ModelNamespace::default());
    for who in [Who::Node, Who::Other] {
        let node = name(["n1", "n2"][who.node()]);
        let addresses = vec![who.address(false), who.address(true)];
        world.nodes.insert(node.clone(), ModelNode { name: node, addresses, ..ModelNode::default() });
    }
    for who in [Who::Own, Who::Near, Who::Far] {
        let app = name(who.app().expect("a pod"));
        let pod = ModelPod {
            namespace: name("shop"),
            name: app.clone(),
            uid: app.clone(),
            labels: [(name("app"), app.clone())].into(),
            annotations: axoneme_model::PackedMap::new(),
            service_account: name("default"),
            node: name(["n1", "n2"][who.node()]),
            addresses: [who.address(false), who.address(true)].into(),
            named_ports: axoneme_model::PackedMap::new(),
        };
        world.pods.insert((pod.namespace.clone(), app), pod);
    }
    let policy = policy(line, says);
    world.policies.insert(policy.object.clone(), policy);
    world
}

/// The judged pod is isolated in its direction, and one rule says what becomes of the peer on the one port.
fn policy(line: &Line, says: Says) -> Policy {
    let egress = line.side == Direction::Egress;
    let (subject, peer) = if egress { (line.from, line.to) } else { (line.to, line.from) };
    let entry = DirectedRule {
        path: format!("spec.{}[0]", if egress { "egress" } else { "ingress" }).into(),
        action: if says == Says::Allow { Action::Allow } else { Action::Deny },
        peers: Peers::OneOf(vec![peer.peer(subject.node())]),
        ports: Ports::OneOf(vec![PortMatch::Range { protocol: UDP, first: PORT, last: PORT }]),
    };
    let (ingress, egress_rules) = if egress { (vec![], vec![entry]) } else { (vec![entry], vec![]) };
    Policy {
        object: ObjectRef::new(Kind::CiliumNetworkPolicy, "shop", "cell"),
        generation: 1,
        tier: Tier::Normal,
        audit: says == Says::Audit,
        rules: vec![Rule {
            subject: Subject::Endpoints(labelled(subject)),
            log: None,
            isolates_ingress: !egress,
            isolates_egress: egress,
            ingress,
            egress: egress_rules,
        }],
    }
}

fn compile(world: &World) -> Compiled {
    let mut compiler = Compiler::new(world.config.clone());
    compiler.apply(axoneme_compile::events(world.clone()));
    let numbers = compiler.unnumbered().into_iter().zip(256..);
    let numbers: Vec<Said> = numbers.map(|(labels, n)| Said::Assignment(labels, Some(Identity(n)))).collect();
    compiler.apply(numbers);
    compiler.compiled()
}

/// Two nodes in one mode with everybody on them.
struct Place {
    mode: Mode,
    cluster: Cluster,
    near: Pod,
    outside: Namespace,
    events: [EventReader; 2],
}

fn vip(v6: bool) -> IpAddr {
    if v6 { [0xfd96, 0, 0, 0, 0, 0, 0, 0x10].into() } else { [10, 96, 0, 10].into() }
}

/// The Service's port for a backend.
fn service_port(backend: Who) -> u16 {
    if backend == Who::Near { 1053 } else { 2053 }
}

impl Place {
    fn new(mode: Mode, options: &Options) -> Self {
        let (cluster, outside) = Cluster::with_outside(mode, options);
        let near = cluster.nodes[0].pod(3);
        let events = [0, 1].map(|n| cluster.nodes[n].datapath.events().unwrap());
        let place = Self { mode, cluster, near, outside, events };
        for who in [Who::Own, Who::Near, Who::Far, Who::Node, Who::Other, Who::Outside] {
            for v6 in [false, true] {
                echo(place.namespace(who), SocketAddr::new(who.address(v6), PORT));
            }
        }
        for (backend, v6) in [(Who::Near, false), (Who::Near, true), (Who::Far, false), (Who::Far, true)] {
            let backends = vec![(backend.address(v6), PORT)];
            let port = service_port(backend);
            let entry = ServiceEntry { address: vip(v6), protocol: UDP.0, port, backends, affinity_seconds: 0 };
            place.cluster.nodes[0].datapath.upsert_service(&entry).unwrap();
        }
        place
    }

    fn namespace(&self, who: Who) -> &Namespace {
        match who {
            Who::Own => &self.cluster.pods[0].ns,
            Who::Near => &self.near.ns,
            Who::Far => &self.cluster.pods[1].ns,
            Who::Node => &self.cluster.nodes[0].ns,
            Who::Other => &self.cluster.nodes[1].ns,
            Who::Outside => &self.outside,
        }
    }

    fn pod(&self, who: Who) -> &Pod {
        match who {
            Who::Near => &self.near,
            Who::Far => &self.cluster.pods[1],
            _ => &self.cluster.pods[0],
        }
    }

    /// Makes both nodes judge by the rows, in force at once.
    fn obey(&self, compiled: &Compiled) {
        for (n, node) in self.cluster.nodes.iter().enumerate() {
            let rows = compiled.for_node(["n1", "n2"][n]);
            for who in [Who::Own, Who::Near, Who::Far].into_iter().filter(|w| w.node() == n) {
                let row = &rows.endpoints[who.app().expect("a pod")];
                let slot = self.pod(who).slot;
                node.datapath.put_table(slot, &rows::whole(&rows.tables[&row.table])).unwrap();
                for address in [who.address(false), who.address(true)] {
                    let peer = rows.find_ip(address).expect("a pod's row").local_peer;
                    let (identity, peer) = (row.identity.0, peer.0);
                    let entry = EndpointEntry { identity, peer, ..self.pod(who).entry() };
                    node.datapath.stage_endpoint(address, Some(entry)).unwrap();
                }
            }
            for (prefix, row) in &rows.ips {
                let own = &*row.node == ["n1", "n2"][n];
                let (identity, peer) =
                    if own { (row.local_identity, row.local_peer) } else { (row.identity, row.peer) };
                let tunnel = if own { None } else { self.hop(n, prefix.network(), &row.pod) };
                let entry = IpEntry { identity: identity.0, peer: peer.0, tunnel, ..rows::ip(row) };
                node.datapath.stage_ip(*prefix, Some(entry)).unwrap();
            }
            node.datapath.commit().unwrap();
        }
    }

    /// Where the node sends what is for an address of the other.
    fn hop(&self, node: usize, address: IpAddr, pod: &str) -> Option<IpAddr> {
        let other = [2, 1][node];
        let family = usize::from(address.is_ipv6());
        match (pod.is_empty(), address.is_unspecified()) {
            (_, true) => None,
            (false, _) => pod_hops(other, self.mode, false)[family],
            (true, _) => node_hops(other, self.mode)[family],
        }
    }

    /// What was told since the last time, by both nodes.
    fn told(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for reader in &mut self.events {
            reader.read(10_000, &mut events);
        }
        events
    }
}

/// Answers datagrams at exactly this address with themselves.
fn echo(ns: &Namespace, at: SocketAddr) {
    let socket = ns.run(|| UdpSocket::bind(at)).unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 2048];
        while let Ok((n, from)) = socket.recv_from(&mut bytes) {
            let _answered = socket.send_to(&bytes[..n], from);
        }
    });
}

/// What became of one datagram.
#[derive(Debug, Default)]
struct Outcome {
    answered: bool,
    /// Port that it was sent from.
    port: u16,
    flow: Option<axoneme_abi::FlowEvent>,
    drop: Option<axoneme_abi::DropEvent>,
    /// As it came to the receiver's device, and between the nodes.
    arrived: Option<Vec<u8>>,
    between: Option<Vec<u8>>,
}

/// Nothing here takes a tenth of it on an idle machine.
const PATIENCE: Duration = Duration::from_secs(10);

fn ask(place: &mut Place, line: &Line, v6: bool, payload: &[u8]) -> Outcome {
    let target = if line.by_service {
        SocketAddr::new(vip(v6), service_port(line.to))
    } else {
        SocketAddr::new(line.to.address(v6), PORT)
    };
    let receiver = line.to.app().map(|_| Tap::open(place.namespace(line.to), "eth0"));
    let between =
        (line.from.node() != line.to.node()).then(|| Tap::open(&place.cluster.nodes[line.to.node()].ns, "up0"));
    place.told();
    let socket = place.namespace(line.from).run(|| UdpSocket::bind((line.from.address(v6), 0))).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    socket.connect(target).unwrap();
    let port = socket.local_addr().unwrap().port();
    socket.send(payload).unwrap();
    let mut outcome = Outcome { port, ..Outcome::default() };
    let end = Instant::now() + PATIENCE;
    // A dropped datagram is told of; one that passed is answered and told of.
    while outcome.drop.is_none() && !(outcome.answered && outcome.flow.is_some()) && Instant::now() < end {
        let mut answer = [0; 2048];
        outcome.answered |= socket.recv(&mut answer).is_ok_and(|n| answer[..n] == *payload);
        for event in place.told() {
            match event {
                Event::Drop(d) if d.source_port == port.to_be() => outcome.drop = Some(d),
                Event::Flow(f) if f.source_port == port.to_be() && f.kind == FlowKind::New as u8 => {
                    // the judging end's: where both ends are judged by different nodes, that which names a rule
                    let better = outcome.flow.is_none_or(|old| old.rule == 0 && old.egress_rule == 0);
                    outcome.flow = if better { Some(f) } else { outcome.flow };
                }
                _ => {}
            }
        }
    }
    let ours = |frame: &Vec<u8>| frame.windows(payload.len()).any(|w| w == payload);
    outcome.arrived = receiver.and_then(|tap| tap.all().into_iter().find(&ours));
    outcome.between = between.and_then(|tap| tap.all().into_iter().find(&ours));
    outcome
}

/// The UDP datagram behind an IP header without options, with its addresses. Its checksum is the sending device's work.
fn datagram(packet: &[u8]) -> (IpAddr, IpAddr, Vec<u8>) {
    let (source, destination, at) = if packet[0] >> 4 == 4 {
        let four = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
        assert_eq!((packet[0], packet[9]), (0x45, 17));
        (four(12), four(16), 20)
    } else {
        let sixteen = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
        assert_eq!((packet[0] >> 4, packet[6]), (6, 17));
        (sixteen(8), sixteen(24), 40)
    };
    let mut udp = packet[at..].to_vec();
    udp[6..8].fill(0);
    (source, destination, udp)
}

const ETHERNET: usize = 14;
const UDP_HEADER: usize = 8;
/// Of both protocols, without options.
const TUNNEL_HEADER: usize = 8;

/// Holds the bytes against what RFC 768 and, between nodes of an overlay, RFC 7348 or RFC 8926 say of them.
fn bytes_are_right(place: &Place, line: &Line, v6: bool, payload: &[u8], outcome: &Outcome, compiled: &Compiled) {
    let (source, destination) = (line.from.address(v6), line.to.address(v6));
    let mut expected = udp(source, destination, (outcome.port, PORT), payload);
    expected[6..8].fill(0);
    let plain = |packet: &[u8]| assert_eq!(datagram(packet), (source, destination, expected.clone()));
    if line.to.app().is_some() {
        plain(&outcome.arrived.as_ref().expect("it came to the receiver's device")[ETHERNET..]);
    }
    if line.from.node() == line.to.node() {
        return;
    }
    let frame = &outcome.between.as_ref().expect("it came between the nodes")[ETHERNET..];
    // a node's own address is reached by the stack's routes, without the tunnel
    let Some(outer6) = place.mode.overlay().filter(|_| line.to.app().is_some()).map(|_| place.mode.is_over_v6()) else {
        return plain(frame);
    };
    let (from, to, outer) = datagram(frame);
    let end = |node: usize| [Who::Node, Who::Other][node].address(outer6);
    assert_eq!((from, to), (end(line.from.node()), end(line.to.node())), "the tunnel's ends");
    let vni = u32::from_be_bytes([0, outer[12], outer[13], outer[14]]);
    let (port, header) = match place.mode {
        // version and no options, no flags, Ethernet within (RFC 8926, section 3.4)
        Mode::Geneve | Mode::Geneve6 => (6081u16, [0, 0, 0x65, 0x58]),
        // the flag of a valid VNI (RFC 7348, section 5)
        _ => (8472, [8, 0, 0, 0]),
    };
    assert_eq!(outer[2..4], port.to_be_bytes(), "the tunnel's port");
    assert_eq!(outer[UDP_HEADER..UDP_HEADER + 4], header, "what stands before the VNI");
    assert_eq!(outer[UDP_HEADER + 7], 0, "what stands behind the VNI");
    if let Some(app) = line.from.app() {
        assert_eq!(vni, compiled.rows.endpoints[app].identity.0, "the sender's identity");
    }
    plain(&outer[UDP_HEADER + TUNNEL_HEADER + ETHERNET..]);
}

/// Asks, and holds what happened against the oracle; a word for it.
fn cell(place: &mut Place, line: &Line, v6: bool, says: Says, compiled: &Compiled, world: &World) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let payload = format!("axoneme cell {:08}", NUMBER.fetch_add(1, Ordering::Relaxed)).into_bytes();
    let traffic =
        Traffic { source: line.from.address(v6), destination: line.to.address(v6), protocol: UDP, port: PORT };
    let decision = verdict(world, &traffic);
    let side = match line.side {
        Direction::Egress => decision.egress.as_ref(),
        Direction::Ingress => decision.ingress.as_ref(),
    };
    let side = side.expect("a pod's side is judged");
    let outcome = ask(place, line, v6, &payload);
    let context = format!("{:?} {} {:?} {says:?} v6={v6}\n{outcome:?}\n{decision:?}", place.mode, line.what, line.side);
    assert_eq!(outcome.answered, decision.allow, "{context}");
    assert_eq!(outcome.drop.is_some(), !decision.allow, "{context}");
    let named = |rule: u32| (rule != 0).then(|| &compiled.rows.rules[&RuleId(rule)].rule);
    if let Some(drop) = &outcome.drop {
        assert!(outcome.arrived.is_none(), "{context}");
        assert!(named(drop.rule).is_some_and(|r| side.rules.contains(r)), "{context}");
        let reason = DropReason::from_number(drop.reason).expect("a reason");
        return reason.name().to_owned();
    }
    let flow = outcome.flow.as_ref().unwrap_or_else(|| panic!("nothing was told: {context}"));
    let told = flow.audit & audit_bit(abi(line.side)) != 0;
    assert_eq!(told, side.audit.is_some(), "{context}");
    let rule = if flow.audit != 0 && line.side == Direction::Egress { flow.egress_rule } else { flow.rule };
    assert!(explained(side, named(rule)), "rule {:?}: {context}", named(rule));
    bytes_are_right(place, line, v6, &payload, &outcome, compiled);
    if told { "passes, told".to_owned() } else { "passes".to_owned() }
}

fn abi(direction: Direction) -> axoneme_abi::Direction {
    match direction {
        Direction::Egress => axoneme_abi::Direction::Egress,
        Direction::Ingress => axoneme_abi::Direction::Ingress,
    }
}

/// The event names a rule that the oracle accepts, or none where none decided.
fn explained(side: &Side, rule: Option<&axoneme_model::RuleRef>) -> bool {
    let accepted = side.audit.as_ref().map_or(&side.rules, |would| &would.rules);
    rule.map_or(accepted.is_empty(), |rule| accepted.contains(rule))
}

/// What each line's policies lead to, by the column of the mode. Both families and both ways of attaching must agree.
pub type Found = BTreeMap<(usize, &'static str), [String; 3]>;

/// The lines that are chosen, in one mode. The nodes are left as the last cell made them: nothing is denied.
pub fn find(
    mode: Mode,
    column: &'static str,
    options: &Options,
    found: &mut Found,
    chosen: impl Fn(&Line) -> bool,
) -> Cluster {
    let mut place = Place::new(mode, options);
    for (at, line) in LINES.iter().enumerate().filter(|(_, line)| chosen(line)) {
        for (says, place_of) in SAYS.into_iter().zip(0..) {
            let world = world(line, says);
            let compiled = compile(&world);
            place.obey(&compiled);
            for v6 in [false, true] {
                let word = cell(&mut place, line, v6, says, &compiled, &world);
                let cells = found.entry((at, column)).or_default();
                let cell: &mut String = &mut cells[place_of];
                assert!(cell.is_empty() || *cell == word, "{mode:?} {} {says:?}: {cell}, then {word}", line.what);
                *cell = word;
            }
        }
    }
    place.cluster
}
