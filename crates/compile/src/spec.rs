//! Rules in the form that the compiler works on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axoneme_model::{
    Action, Cidr, DirectedRule, Direction, LabelKey, Labels, ObjectRef, Operator, Peer, Peers, Policy, PortMatch,
    Ports, Protocol, Rule, RuleRef, Selector, Source, Subject, Tier,
    labels::names,
    policy::{CidrScope, Entity},
    world::{CidrGroup, matches_plain},
};

use crate::{
    feature::{Block, Feature, Features, Property},
    identity::concerns_pods,
    peer::{Base, PeerKind},
    ports::PortSet,
};

/// Name → ports that it stands for.
pub(crate) use axoneme_model::world::NamedPorts;
pub(crate) type Groups = BTreeMap<Arc<str>, CidrGroup>;

/// Whom a list entry means: the union of everything here.
#[expect(clippy::struct_excessive_bools, reason = "a set of kinds of peers, each in or out")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerSpec {
    /// Whoever.
    pub(crate) any: bool,
    /// All pods.
    pub(crate) pods: bool,
    pub(crate) host: bool,
    pub(crate) remote_node: bool,
    pub(crate) world: bool,
    /// Pods by labels; reserved peers too, where the selector names a `reserved:` label.
    pub(crate) selectors: BTreeSet<Selector>,
    pub(crate) features: Features,
    /// A selector asks for `reserved:kube-apiserver`.
    reads_apiserver: bool,
}

impl PeerSpec {
    pub(crate) fn of(peers: &Peers, direction: Direction, groups: &Groups) -> Self {
        let mut spec = Self::default();
        match peers {
            Peers::Any => spec.any = true,
            Peers::OneOf(peers) => peers.iter().for_each(|p| spec.add(p, direction, groups)),
        }
        spec
    }

    fn add(&mut self, peer: &Peer, direction: Direction, groups: &Groups) {
        match peer {
            Peer::Endpoints(selector) if means_all_pods(selector) => self.pods = true,
            Peer::Endpoints(selector) => {
                self.reads_apiserver |= selector.keys().any(|k| *k == LabelKey::reserved("kube-apiserver"));
                self.selectors.insert(selector.clone());
            }
            Peer::Entity(entity) => self.add_entity(*entity),
            Peer::Cidr { cidr, except, scope } => self.add_block(*cidr, except, *scope),
            Peer::CidrGroup { name, except, scope } => {
                groups.get(name).into_iter().for_each(|g| self.add_group(g, except, *scope));
            }
            Peer::CidrGroups { selector, except, scope } => {
                let matching = groups.values().filter(|g| matches_plain(selector, &g.labels));
                matching.for_each(|g| self.add_group(g, except, *scope));
            }
            Peer::Nodes(selector) => self.add_feature(Property::Nodes(selector.clone())),
            Peer::Services(selector) if direction == Direction::Egress => {
                self.add_feature(Property::Service(selector.clone()));
            }
            Peer::Services(_) => {}
        }
    }

    fn add_group(&mut self, group: &CidrGroup, except: &[Cidr], scope: CidrScope) {
        group.cidrs.iter().for_each(|c| self.add_block(*c, except, scope));
    }

    fn add_block(&mut self, cidr: Cidr, except: &[Cidr], scope: CidrScope) {
        self.features.extend(Block::new(cidr, except, scope).map(Property::Cidr).map(Feature::from));
    }

    fn add_feature(&mut self, property: Property) {
        self.features.insert(property.into());
    }

    fn add_entity(&mut self, entity: Entity) {
        let [v4, v6] = crate::everywhere();
        match entity {
            Entity::All => self.any = true,
            Entity::World => self.world = true,
            Entity::WorldIpv4 => self.add_block(v4, &[], CidrScope::Outside),
            Entity::WorldIpv6 => self.add_block(v6, &[], CidrScope::Outside),
            Entity::Cluster => {
                (self.pods, self.host, self.remote_node) = (true, true, true);
                self.add_feature(Property::ApiServer);
            }
            Entity::Host => self.host = true,
            Entity::RemoteNode => self.remote_node = true,
            Entity::KubeApiserver => self.add_feature(Property::ApiServer),
            // identities that nothing gets yet
            Entity::Init | Entity::Unmanaged | Entity::Health | Entity::Ingress | Entity::None => {}
        }
    }

    /// Whether the spec means every member of the kind, but for exceptions that are listed in blocks of the outside:
    /// of addresses outside there are few classes, so it is cheaper to list those that are not meant.
    pub(crate) fn is_wide(&self, kind: PeerKind) -> bool {
        let whole = if kind.is_pods() { self.pods } else { self.world };
        self.any || whole || self.features.iter().any(|f| covers(f, kind))
    }

    /// Whether the spec is wide for some kind.
    pub(crate) fn is_broad(&self) -> bool {
        PeerKind::ALL.into_iter().any(|k| self.is_wide(k))
    }

    /// Whether there can be members of the kind that the spec does not mean, though it is wide for the kind.
    pub(crate) fn excepts(&self, kind: PeerKind) -> bool {
        let whole = if kind.is_pods() { self.pods } else { self.world };
        // pods that have no address yet are in no block
        let exact = |f: &Feature| !kind.is_pods() && covers(f, kind) && !excepts(f);
        self.is_wide(kind) && !self.any && !whole && !self.features.iter().any(exact)
    }

    /// What addresses have to be told apart by for this spec.
    pub(crate) fn reads(&self) -> impl Iterator<Item = Feature> {
        self.features.iter().cloned().chain(self.reads_apiserver.then(|| Property::ApiServer.into()))
    }

    pub(crate) fn matches_pod(&self, labels: &Labels, features: &Features) -> bool {
        self.any || self.pods || self.selectors.iter().any(|s| s.matches(labels)) || self.matches_features(features)
    }

    pub(crate) fn matches_reserved(&self, base: Base, features: &Features) -> bool {
        let by_base = match base {
            Base::Host => self.host,
            Base::RemoteNode => self.remote_node,
            _ => self.world && base.is_world(),
        };
        self.any || by_base || self.matches_features(features) || self.matches_labels(base, features)
    }

    pub(crate) fn matches_features(&self, features: &Features) -> bool {
        !features.is_empty() && self.features.iter().any(|f| features.contains(f))
    }

    fn matches_labels(&self, base: Base, features: &Features) -> bool {
        let mut reserved = self.selectors.iter().filter(|s| names_reserved(s)).peekable();
        reserved.peek().is_some()
            && base.reserved_labels(features).is_some_and(|labels| reserved.any(|s| s.matches(&labels)))
    }
}

/// Whether no pod can fail to match: namespace, service account and cluster are labels of every pod.
fn means_all_pods(selector: &Selector) -> bool {
    let always = [names::NAMESPACE, names::SERVICE_ACCOUNT, names::CLUSTER];
    selector
        .requirements()
        .iter()
        .all(|r| r.operator == Operator::Exists && concerns_pods(&r.key) && always.contains(&&*r.key.name))
}

/// Whether a block is all addresses of a kind, exceptions aside where the kind is that of the outside.
pub(crate) fn covers(feature: &Feature, kind: PeerKind) -> bool {
    let Property::Cidr(block) = &**feature else { return false };
    let reaches = if kind.is_pods() { block.scope == CidrScope::Anyone && block.except.is_empty() } else { true };
    block.cidr.prefix() == 0 && block.cidr.is_ipv6() == kind.is_v6() && reaches
}

fn excepts(feature: &Feature) -> bool {
    matches!(&**feature, Property::Cidr(block) if !block.except.is_empty())
}

pub(crate) fn names_reserved(selector: &Selector) -> bool {
    selector.keys().any(|k| k.source == Source::Reserved)
}

/// Ports of a list entry before names are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PortSpec {
    Any,
    OneOf { ranges: Vec<(Protocol, u16, u16)>, names: BTreeSet<(Arc<str>, Option<Protocol>)> },
}

impl PortSpec {
    fn of(ports: &Ports) -> Self {
        let Ports::OneOf(list) = ports else { return Self::Any };
        let mut ranges = vec![];
        let mut names = BTreeSet::new();
        for port in list {
            match port {
                PortMatch::Protocol(p) => ranges.push((*p, 0, u16::MAX)),
                PortMatch::Range { protocol, first, last } => ranges.push((*protocol, *first, *last)),
                PortMatch::IcmpType { protocol, icmp_type } => {
                    ranges.push((*protocol, u16::from(*icmp_type), u16::from(*icmp_type)));
                }
                PortMatch::Named { protocol, name } => drop(names.insert((name.clone(), *protocol))),
            }
        }
        Self::OneOf { ranges, names }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        let names = match self {
            Self::Any => None,
            Self::OneOf { names, .. } => Some(names),
        };
        names.into_iter().flatten().map(|(name, _)| name)
    }

    pub(crate) fn has_names(&self) -> bool {
        self.names().next().is_some()
    }

    /// With the names as `owner` binds them: `lookup` gives all ports of a name.
    pub(crate) fn resolve(&self, lookup: impl Fn(&Arc<str>) -> Vec<(Protocol, u16)>) -> PortSet {
        match self {
            Self::Any => PortSet::Any,
            Self::OneOf { ranges, names } => {
                let mut ranges = ranges.clone();
                for (name, protocol) in names {
                    let bound = lookup(name).into_iter().filter(|(p, _)| protocol.is_none_or(|q| q == *p));
                    ranges.extend(bound.map(|(p, port)| (p, port, port)));
                }
                PortSet::of(ranges)
            }
        }
    }
}

/// One entry of an ingress or egress list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) tier: Tier,
    pub(crate) action: Action,
    /// Of an audited policy.
    pub(crate) audit: bool,
    pub(crate) rule: RuleRef,
    pub(crate) peers: PeerSpec,
    pub(crate) ports: PortSpec,
}

impl Entry {
    fn of(policy: &Policy, rule: &DirectedRule, direction: Direction, groups: &Groups) -> Self {
        Self {
            tier: policy.tier,
            action: rule.action,
            audit: policy.audit,
            rule: RuleRef { object: policy.object.clone(), path: rule.path.clone() },
            peers: PeerSpec::of(&rule.peers, direction, groups),
            ports: PortSpec::of(&rule.ports),
        }
    }
}

/// One rule of one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleSpec {
    /// None: applies to no pod.
    pub(crate) subject: Option<Selector>,
    /// None: applies to no node.
    pub(crate) nodes: Option<Selector>,
    pub(crate) tier: Tier,
    pub(crate) object: ObjectRef,
    pub(crate) generation: i64,
    /// Not enforced, only told.
    pub(crate) audit: bool,
    /// For flows that the rule decided.
    pub(crate) log: Option<Arc<str>>,
    /// What default-deny is attributed to.
    pub(crate) isolation: RuleRef,
    pub(crate) isolates_ingress: bool,
    pub(crate) isolates_egress: bool,
    pub(crate) ingress: Vec<Entry>,
    pub(crate) egress: Vec<Entry>,
}

impl RuleSpec {
    pub(crate) fn of(policy: &Policy, index: usize, rule: &Rule, groups: &Groups) -> Self {
        let list = |entries: &[DirectedRule], direction| {
            entries.iter().map(|d| Entry::of(policy, d, direction, groups)).collect()
        };
        let normal = policy.tier == Tier::Normal;
        let (subject, nodes) = match &rule.subject {
            Subject::Endpoints(selector) => (Some(selector.clone()), None),
            Subject::Nodes(selector) => (None, Some(selector.clone())),
        };
        Self {
            subject,
            nodes,
            tier: policy.tier,
            object: policy.object.clone(),
            generation: policy.generation,
            audit: policy.audit,
            log: rule.log.clone(),
            isolation: RuleRef { object: policy.object.clone(), path: policy.rule_path(index) },
            isolates_ingress: normal && rule.isolates_ingress,
            isolates_egress: normal && rule.isolates_egress,
            ingress: list(&rule.ingress, Direction::Ingress),
            egress: list(&rule.egress, Direction::Egress),
        }
    }

    pub(crate) fn entries(&self, direction: Direction) -> &[Entry] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    pub(crate) fn isolates(&self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => self.isolates_ingress,
            Direction::Egress => self.isolates_egress,
        }
    }

    /// Every selector of pods in the rule: the keys of these are what identities are made of.
    pub(crate) fn selectors(&self) -> impl Iterator<Item = &Selector> {
        let peers = self.ingress.iter().chain(&self.egress).flat_map(|e| &e.peers.selectors);
        self.subject.iter().chain(peers)
    }

    /// What addresses have to be told apart by for this rule, named ports aside.
    pub(crate) fn reads(&self) -> impl Iterator<Item = Feature> {
        self.ingress.iter().chain(&self.egress).flat_map(|e| e.peers.reads())
    }

    /// The named ports of its subjects that the rule reads.
    pub(crate) fn own_ports(&self) -> impl Iterator<Item = &Arc<str>> {
        self.ingress.iter().flat_map(|e| e.ports.names())
    }

    /// The named ports of peers that the rule reads.
    pub(crate) fn peer_ports(&self) -> impl Iterator<Item = &Arc<str>> {
        self.egress.iter().flat_map(|e| e.ports.names())
    }
}
