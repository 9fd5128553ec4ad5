//! The reference semantics of policy: may this packet pass?
//!
//! Written to be read, not to be fast. It sees only the [`World`] with its full labels, never identities, classes, rows
//! or tables, so it can judge the code that makes those.
//!
//! ```text
//! egress  of the source pod, seen from its node ─┐
//!                                                ├─ both must allow
//! ingress of the destination pod, seen from its ─┘    (a side that is no pod has no say)
//!
//! one side:  own host → admin tier → deny → allow → default-deny → baseline tier → allow
//! ```
//!
//! **Audit.** Some of the policies may be told instead of enforced: those that say so, and all of those that apply to a
//! pod that is audited ([`crate::audit`]). What is left is the *enforced set*, and it alone decides: where it denies, the
//! packet is dropped, whatever an audited policy allows; an audited policy isolates nobody, and does not lift what
//! another isolates. Where the enforced set lets a packet pass, the *whole set* is asked, audited policies among the
//! others as if they were enforced: if that denies, the packet passes and what would deny it is told ([`Side::audit`]).
//! Several audited policies are judged together, as they would be if all of them were enforced at once.
//!
//! **Nodes** are judged by [`host_verdict`], by the rules whose subject is nodes (Cilium's host policies: a
//! CiliumClusterwideNetworkPolicy with `nodeSelector`). They speak of the traffic of the node itself and of its pods on the
//! host network, never of what pods say to each other or to the outside. Differences from a pod:
//! - to itself a node may say anything; and the [safe set](crate::safe) passes before any policy is asked;
//! - it is in default-deny only by a rule that selects it: `policyEnforcementMode: always` means pods. A node that nobody
//!   knows (no Node object, no labels) is thereby left alone;
//! - it has no named ports; there is audit by policy and for the cluster, not by annotation of the node.
//!
//! [`verdict`] does not ask nodes yet: it will, once what it says of them is enforced.
//!
//! Who holds an address decides what it is to policy: a node's address is `host` on that node and `remote-node` on any
//! other; else a pod's address is that pod; anything else is outside. The addresses of the API server are
//! `kube-apiserver` on top of that, wherever they are.

use std::net::IpAddr;

use crate::{
    audit::is_audited,
    cidr,
    labels::{LabelKey, Labels, Source},
    object::{Kind, ObjectRef, RuleRef},
    policy::{
        Action, CidrScope, DirectedRule, Direction, Entity, Peer, Peers, Policy, PortMatch, Ports, Rule,
        ServiceSelector, Subject, Tier,
    },
    protocol::Protocol,
    safe::Safe,
    selector::Selector,
    world::{Enforcement, Node, Pod, Service, World, matches_plain},
};

/// The first packet of a connection, as policy sees it: after service translation, before masquerading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Traffic {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: Protocol,
    /// Destination port; the type for ICMP and ICMPv6; 0 for other protocols without ports.
    pub port: u16,
}

/// Whether a packet passes, and what each side said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub allow: bool,
    /// The source pod's side. None: the source is no pod.
    pub egress: Option<Side>,
    /// The destination pod's side. None: the destination is no pod.
    pub ingress: Option<Side>,
}

/// What one side said and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    pub allow: bool,
    pub reason: Reason,
    /// The rules that decided, in order of evaluation. More than one where the order does not matter: all matching
    /// denies, all matching allows, all rules that isolate. Empty for verdicts that no rule made.
    pub rules: Vec<RuleRef>,
    /// What would deny it if audited policies were enforced. Only where the side allows it.
    pub audit: Option<WouldDeny>,
}

/// What the whole set of policies says against a packet that the enforced set lets pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WouldDeny {
    pub reason: Reason,
    /// As [`Side::rules`].
    pub rules: Vec<RuleRef>,
}

/// Which step of the order of evaluation decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A pod talks to itself.
    SamePod,
    /// A node talks to itself.
    SameNode,
    /// Traffic of a node that policy cannot cut.
    Safe(Safe),
    /// `policyEnforcementMode: never`.
    NotEnforced,
    /// From the pod's own node, and `always_allow_own_host` is on.
    OwnHost,
    /// A ClusterNetworkPolicy of the tier Admin.
    Admin,
    /// A deny rule of the normal tier.
    Deny,
    /// An allow rule of the normal tier.
    Allow,
    /// No rule matched and the pod is in default-deny.
    Isolated,
    /// A ClusterNetworkPolicy of the tier Baseline.
    Baseline,
    /// Nothing has a say.
    Open,
}

impl Side {
    fn new(allow: bool, reason: Reason, rules: Vec<RuleRef>) -> Self {
        Self { allow, reason, rules, audit: None }
    }
}

/// Provenance of the verdict that [`Reason::OwnHost`] names.
#[must_use]
pub fn own_host_rule() -> RuleRef {
    RuleRef { object: ObjectRef::new(Kind::Builtin, "", "own-host"), path: "config.always_allow_own_host".into() }
}

/// Provenance of default-deny where no rule isolates but `policyEnforcementMode: always` does.
#[must_use]
pub fn always_rule() -> RuleRef {
    RuleRef { object: ObjectRef::new(Kind::Builtin, "", "policy-enforcement"), path: "config.enforcement".into() }
}

/// Provenance of what a direction of a policy table says that no map holds: nothing passes. No verdict of the model names
/// it, since the model's tables have no size.
#[must_use]
pub fn too_large_rule() -> RuleRef {
    RuleRef { object: ObjectRef::new(Kind::Builtin, "", "table-too-large"), path: "config.table_entries".into() }
}

impl Decision {
    /// It passes where no side denies it.
    fn of(egress: Option<Side>, ingress: Option<Side>) -> Self {
        let allow = [&egress, &ingress].into_iter().flatten().all(|s| s.allow);
        Self { allow, egress, ingress }
    }
}

/// May this packet pass?
#[must_use]
pub fn verdict(world: &World, traffic: &Traffic) -> Decision {
    let source = holder(world, traffic.source);
    let destination = holder(world, traffic.destination);
    let same = matches!((source, destination), (Holder::Pod(a), Holder::Pod(b)) if a.uid == b.uid);
    let side = |holder, direction| match holder {
        Holder::Pod(_) if same => Some(Side::new(true, Reason::SamePod, vec![])),
        Holder::Pod(subject) => {
            let audited = is_audited(&world.config, world.namespaces.get(&subject.namespace), subject);
            let subject = Judged::Pod(subject);
            Some(Judge { world, traffic, subject, direction, audited, whole: false }.side())
        }
        Holder::Node(_) | Holder::Outside => None,
    };
    Decision::of(side(source, Direction::Egress), side(destination, Direction::Ingress))
}

/// May this packet pass, as far as the nodes at its ends say? A side is none where no node is.
#[must_use]
pub fn host_verdict(world: &World, traffic: &Traffic) -> Decision {
    let source = holder(world, traffic.source);
    let destination = holder(world, traffic.destination);
    let same = matches!((source, destination), (Holder::Node(a), Holder::Node(b)) if a.name == b.name);
    let side = |holder, direction| match holder {
        Holder::Node(_) if same => Some(Side::new(true, Reason::SameNode, vec![])),
        Holder::Node(node) => Some(host_side(world, node, traffic, direction)),
        Holder::Pod(_) | Holder::Outside => None,
    };
    Decision::of(side(source, Direction::Egress), side(destination, Direction::Ingress))
}

/// What a node says to a packet that it gets from, or sends to, another end.
fn host_side(world: &World, node: &Node, traffic: &Traffic, direction: Direction) -> Side {
    if !world.config.host.enabled {
        return Side::new(true, Reason::Open, vec![]);
    }
    let to_apiserver = world.apiserver_addresses.contains(&traffic.destination);
    if let Some(safe) = world.config.host.safe(direction, traffic.protocol, traffic.port, to_apiserver) {
        return Side::new(true, Reason::Safe(safe), vec![safe.rule()]);
    }
    let (subject, audited) = (Judged::Node(node), world.config.audit);
    Judge { world, traffic, subject, direction, audited, whole: false }.side()
}

/// Whose an address is.
#[derive(Clone, Copy, Debug)]
pub enum Holder<'w> {
    Node(&'w Node),
    Pod(&'w Pod),
    Outside,
}

/// Whose an address is. A node's claim beats a pod's: a pod cannot take over what its node is. Of two pods that claim an
/// address (one of them is about to vanish) the first by namespace and name has it. A pod that is bound to no node holds
/// nothing.
#[must_use]
pub fn holder(world: &World, address: IpAddr) -> Holder<'_> {
    let of_node = |n: &&Node| n.addresses.contains(&address) || n.internal_addresses.contains(&address);
    if let Some(node) = world.nodes.values().find(of_node) {
        return Holder::Node(node);
    }
    match world.pods.values().find(|p| !p.node.is_empty() && p.addresses.contains(&address)) {
        Some(pod) => Holder::Pod(pod),
        None => Holder::Outside,
    }
}

/// Whose policy is asked.
#[derive(Clone, Copy, Debug)]
enum Judged<'w> {
    Pod(&'w Pod),
    Node(&'w Node),
}

impl Judged<'_> {
    /// The node that it runs on, or is.
    fn node(&self) -> &str {
        match self {
            Self::Pod(pod) => &pod.node,
            Self::Node(node) => &node.name,
        }
    }
}

/// One side of one packet.
struct Judge<'w> {
    world: &'w World,
    traffic: &'w Traffic,
    subject: Judged<'w>,
    direction: Direction,
    /// No policy is enforced on the subject.
    audited: bool,
    /// As if all policies were enforced.
    whole: bool,
}

impl<'w> Judge<'w> {
    /// What the enforced set says, with what the whole set has against it. Where no enforced rule had a say, the rules
    /// are those of the whole set.
    fn side(&self) -> Side {
        let enforced = self.say();
        if !enforced.allow {
            return enforced;
        }
        let whole = Self { whole: true, ..*self }.say();
        if !whole.allow {
            return Side { audit: Some(WouldDeny { reason: whole.reason, rules: whole.rules }), ..enforced };
        }
        if enforced.rules.is_empty() { whole } else { enforced }
    }

    fn say(&self) -> Side {
        let config = &self.world.config;
        if config.enforcement == Enforcement::Never {
            return Side::new(true, Reason::NotEnforced, vec![]);
        }
        if self.direction == Direction::Ingress && config.always_allow_own_host && self.peer_is_own_host() {
            return Side::new(true, Reason::OwnHost, vec![own_host_rule()]);
        }
        if let Some(side) = self.first_match(|t| matches!(t, Tier::Admin { .. }), Reason::Admin) {
            return side;
        }
        let denies = self.normal_matches(Action::Deny);
        if !denies.is_empty() {
            return Side::new(false, Reason::Deny, denies);
        }
        let allows = self.normal_matches(Action::Allow);
        if !allows.is_empty() {
            return Side::new(true, Reason::Allow, allows);
        }
        let isolating = self.isolating();
        if !isolating.is_empty() {
            return Side::new(false, Reason::Isolated, isolating);
        }
        self.first_match(|t| matches!(t, Tier::Baseline { .. }), Reason::Baseline)
            .unwrap_or_else(|| Side::new(true, Reason::Open, vec![]))
    }

    /// The policies that are asked.
    fn policies(&self) -> impl Iterator<Item = &'w Policy> {
        let (whole, audited) = (self.whole, self.audited);
        self.world.policies.values().filter(move |p| whole || !(audited || p.audit))
    }

    /// Every rule list entry that applies to the subject in this direction and tier, in order of evaluation.
    fn entries(&self, tier: impl Fn(Tier) -> bool) -> Vec<(&'w Policy, &'w DirectedRule)> {
        let mut policies: Vec<&Policy> = self.policies().filter(|p| tier(p.tier)).collect();
        // the map is ordered by kind, namespace, name, and the sort keeps that order among equals
        policies.sort_by_key(|p| p.tier);
        let mut entries = vec![];
        for policy in policies {
            for rule in policy.rules.iter().filter(|r| self.selects_subject(r)) {
                let list = match self.direction {
                    Direction::Ingress => &rule.ingress,
                    Direction::Egress => &rule.egress,
                };
                entries.extend(list.iter().map(|d| (policy, d)));
            }
        }
        entries
    }

    fn first_match(&self, tier: impl Fn(Tier) -> bool, reason: Reason) -> Option<Side> {
        let (policy, rule) = self.entries(tier).into_iter().find(|(_, d)| self.matches(d))?;
        let allow = match rule.action {
            Action::Allow => true,
            Action::Deny => false,
            Action::Pass => return None,
        };
        Some(Side::new(allow, reason, vec![reference(policy, rule)]))
    }

    fn normal_matches(&self, action: Action) -> Vec<RuleRef> {
        let entries = self.entries(|t| t == Tier::Normal);
        let matching = entries.into_iter().filter(|(_, d)| d.action == action && self.matches(d));
        matching.map(|(p, d)| reference(p, d)).collect()
    }

    /// The rules that put the subject in default-deny. Of the setting that does so it is told only where no rule does, or
    /// where the rule might be one that is not enforced.
    fn isolating(&self) -> Vec<RuleRef> {
        let mut found = vec![];
        for policy in self.policies().filter(|p| p.tier == Tier::Normal) {
            for (index, rule) in policy.rules.iter().enumerate() {
                let isolates = match self.direction {
                    Direction::Ingress => rule.isolates_ingress,
                    Direction::Egress => rule.isolates_egress,
                };
                if isolates && self.selects_subject(rule) {
                    found.push(RuleRef { object: policy.object.clone(), path: policy.rule_path(index) });
                }
            }
        }
        let of_pods = matches!(self.subject, Judged::Pod(_)) && self.world.config.enforcement == Enforcement::Always;
        let always = of_pods && (self.whole || !self.audited);
        if always && (self.whole || found.is_empty()) {
            found.push(always_rule());
        }
        found
    }

    fn selects_subject(&self, rule: &Rule) -> bool {
        match (&rule.subject, self.subject) {
            (Subject::Endpoints(selector), Judged::Pod(pod)) => selector.matches(&self.labels_of(pod)),
            (Subject::Nodes(selector), Judged::Node(node)) => selector.matches(&node.host_labels()),
            (Subject::Endpoints(_), Judged::Node(_)) | (Subject::Nodes(_), Judged::Pod(_)) => false,
        }
    }

    fn matches(&self, rule: &DirectedRule) -> bool {
        let peer = match &rule.peers {
            Peers::Any => true,
            Peers::OneOf(peers) => peers.iter().any(|p| self.matches_peer(p)),
        };
        let port = match &rule.ports {
            Ports::Any => true,
            Ports::OneOf(ports) => ports.iter().any(|p| self.matches_port(p)),
        };
        peer && port
    }

    fn peer_address(&self) -> IpAddr {
        match self.direction {
            Direction::Ingress => self.traffic.source,
            Direction::Egress => self.traffic.destination,
        }
    }

    fn peer(&self) -> Holder<'w> {
        holder(self.world, self.peer_address())
    }

    fn peer_is_own_host(&self) -> bool {
        matches!(self.peer(), Holder::Node(n) if *n.name == *self.subject.node())
    }

    fn peer_is_apiserver(&self) -> bool {
        self.world.apiserver_addresses.contains(&self.peer_address())
    }

    fn labels_of(&self, pod: &Pod) -> Labels {
        pod.security_labels(self.world.namespaces.get(&pod.namespace), &self.world.config.cluster_name)
    }

    fn matches_peer(&self, peer: &Peer) -> bool {
        match peer {
            Peer::Endpoints(selector) => self.matches_endpoint(selector),
            Peer::Entity(entity) => self.matches_entity(*entity),
            Peer::Cidr { cidr, except, scope } => self.matches_cidr(*cidr, except, *scope),
            Peer::CidrGroup { name, except, scope } => self
                .world
                .cidr_groups
                .get(name)
                .is_some_and(|g| g.cidrs.iter().any(|c| self.matches_cidr(*c, except, *scope))),
            Peer::CidrGroups { selector, except, scope } => self
                .world
                .cidr_groups
                .values()
                .filter(|g| matches_plain(selector, &g.labels))
                .any(|g| g.cidrs.iter().any(|c| self.matches_cidr(*c, except, *scope))),
            Peer::Nodes(selector) => {
                matches!(self.peer(), Holder::Node(n) if matches_plain(selector, &n.labels))
            }
            Peer::Services(selector) => self.matches_service(selector),
        }
    }

    /// Pods by their labels. Reserved peers only where the selector asks for a `reserved:` label: an empty selector
    /// means every pod, not the world.
    fn matches_endpoint(&self, selector: &Selector) -> bool {
        let reserved = match self.peer() {
            Holder::Pod(pod) => return selector.matches(&self.labels_of(pod)),
            Holder::Node(_) if self.peer_is_own_host() => "host",
            Holder::Node(_) => "remote-node",
            Holder::Outside if !self.world.config.dual_stack_world => "world",
            Holder::Outside if self.peer_address().is_ipv4() => "world-ipv4",
            Holder::Outside => "world-ipv6",
        };
        let mut labels = Labels::new().with(LabelKey::reserved(reserved), "");
        if self.peer_is_apiserver() {
            labels.insert(LabelKey::reserved("kube-apiserver"), "");
        }
        selector.keys().any(|k| k.source == Source::Reserved) && selector.matches(&labels)
    }

    fn matches_entity(&self, entity: Entity) -> bool {
        let (pod, node, outside) = match self.peer() {
            Holder::Pod(_) => (true, false, false),
            Holder::Node(_) => (false, true, false),
            Holder::Outside => (false, false, true),
        };
        match entity {
            Entity::All => true,
            Entity::World => outside,
            Entity::WorldIpv4 => outside && self.peer_address().is_ipv4(),
            Entity::WorldIpv6 => outside && self.peer_address().is_ipv6(),
            // an API server outside of the cluster is a member too
            Entity::Cluster => pod || node || self.peer_is_apiserver(),
            Entity::Host => self.peer_is_own_host(),
            Entity::RemoteNode => node && !self.peer_is_own_host(),
            Entity::KubeApiserver => self.peer_is_apiserver(),
            // identities that nothing gets yet
            Entity::Init | Entity::Unmanaged | Entity::Health | Entity::Ingress | Entity::None => false,
        }
    }

    fn matches_cidr(&self, cidr: cidr::Cidr, except: &[cidr::Cidr], scope: CidrScope) -> bool {
        let address = self.peer_address();
        let in_scope = match (self.peer(), scope) {
            (Holder::Outside, _) | (_, CidrScope::Anyone) => true,
            (Holder::Node(_), s) => s == CidrScope::OutsideAndNodes,
            (Holder::Pod(_), _) => false,
        };
        in_scope && cidr.contains(address) && !except.iter().any(|e| e.contains(address))
    }

    fn matches_service(&self, selector: &ServiceSelector) -> bool {
        self.direction == Direction::Egress
            && self.world.services.values().filter(|s| selects_service(selector, s)).any(|s| {
                let address = self.peer_address();
                s.endpoints.iter().any(|e| e.address == address)
            })
    }

    fn matches_port(&self, port: &PortMatch) -> bool {
        let t = self.traffic;
        match port {
            PortMatch::Protocol(p) => *p == t.protocol,
            PortMatch::Range { protocol, first, last } => *protocol == t.protocol && (*first..=*last).contains(&t.port),
            PortMatch::IcmpType { protocol, icmp_type } => *protocol == t.protocol && u16::from(*icmp_type) == t.port,
            PortMatch::Named { protocol, name } => {
                let owner = match (self.direction, self.subject) {
                    (Direction::Ingress, Judged::Pod(pod)) => Some(pod),
                    (Direction::Ingress, Judged::Node(_)) => None,
                    (Direction::Egress, _) => match self.peer() {
                        Holder::Pod(pod) => Some(pod),
                        Holder::Node(_) | Holder::Outside => None,
                    },
                };
                protocol.is_none_or(|p| p == t.protocol)
                    && owner
                        .and_then(|pod| pod.named_ports.get(name))
                        .is_some_and(|bound| bound.contains(&(t.protocol, t.port)))
            }
        }
    }
}

/// Whether a rule that names Services means this one.
#[must_use]
pub fn selects_service(selector: &ServiceSelector, service: &Service) -> bool {
    match selector {
        ServiceSelector::Name { namespace, name } => service.namespace == *namespace && service.name == *name,
        ServiceSelector::Labels { namespace, selector } => {
            namespace.as_ref().is_none_or(|n| *n == service.namespace) && matches_plain(selector, &service.labels)
        }
    }
}

fn reference(policy: &Policy, rule: &DirectedRule) -> RuleRef {
    RuleRef { object: policy.object.clone(), path: rule.path.clone() }
}
