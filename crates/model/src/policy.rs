//! Policy in one normal form, whichever API kind it came from.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{cidr::Cidr, object::ObjectRef, protocol::Protocol, selector::Selector};

/// As the subject sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Direction {
    Ingress,
    Egress,
}

/// Where in the order of evaluation a policy stands. Lower priority numbers come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// ClusterNetworkPolicy, tier Admin: first match decides.
    Admin { priority: u32 },
    /// NetworkPolicy, CNP, CCNP: deny wins over allow over default-deny.
    Normal,
    /// ClusterNetworkPolicy, tier Baseline: first match decides, only where no Normal policy isolates the subject.
    Baseline { priority: u32 },
}

/// One policy object after parsing and validation. Two policies of the same tier and priority are ordered by
/// (kind, namespace, name), then rules by their position.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Policy {
    pub object: ObjectRef,
    /// `metadata.generation` of the object that this was parsed from.
    pub generation: i64,
    pub tier: Tier,
    /// Not enforced: only what it would deny is told. See [`crate::verdict`].
    #[serde(default)]
    pub audit: bool,
    pub rules: Vec<Rule>,
}

impl Policy {
    /// What holds where the policy can't be enforced and no earlier version of it could: its subjects are in default-deny
    /// for the directions that it speaks of, with no rule to let anything pass. Nodes are left alone: closed, nobody could
    /// mend what is wrong.
    #[must_use]
    pub fn fail_closed(&self) -> Self {
        let closed = |r: &Rule| Rule {
            subject: r.subject.clone(),
            log: r.log.clone(),
            isolates_ingress: r.isolates_ingress || !r.ingress.is_empty(),
            isolates_egress: r.isolates_egress || !r.egress.is_empty(),
            ingress: Vec::new(),
            egress: Vec::new(),
        };
        // the other tiers isolate nobody
        let rules = self.rules.iter().filter(|r| matches!(r.subject, Subject::Endpoints(_))).map(closed).collect();
        Self { object: self.object.clone(), generation: self.generation, tier: Tier::Normal, audit: self.audit, rules }
    }

    /// What flows say that the rule decided which a path names: an entry's, or a rule's own ([`Self::rule_path`]).
    #[must_use]
    pub fn log(&self, path: &str) -> Option<&Arc<str>> {
        let named = |(index, rule): &(usize, &Rule)| {
            rule.ingress.iter().chain(&rule.egress).any(|d| &*d.path == path) || &*self.rule_path(*index) == path
        };
        self.rules.iter().enumerate().filter(named).find_map(|(_, rule)| rule.log.as_ref())
    }

    /// Field path of a rule (`spec` or `specs[1]`), for provenance of default-deny: taken from the paths of its entries,
    /// and where it has none, from its position.
    #[must_use]
    pub fn rule_path(&self, index: usize) -> Arc<str> {
        let entries = self.rules.get(index).into_iter().flat_map(|r| r.ingress.iter().chain(&r.egress));
        let spec = entries.filter_map(|d| d.path.split_once('.')).map(|(spec, _)| spec).next();
        match spec {
            Some(spec) => spec.into(),
            None if self.rules.len() > 1 => format!("specs[{index}]").into(),
            None => "spec".into(),
        }
    }
}

/// What a rule applies to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Subject {
    /// Pods by their labels (namespace conditions included as derived labels).
    Endpoints(Selector),
    /// Nodes by their labels: host policy. Parsed and kept; refused as unsupported until the host firewall lands.
    Nodes(Selector),
}

/// One `spec` (or one of `specs`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rule {
    pub subject: Subject,
    /// What flows that the rule decided say beside its name (`log.value`); never empty, no part of any verdict.
    #[serde(default)]
    pub log: Option<Arc<str>>,
    /// Whether the rule puts its subjects in default-deny for the direction. Never set in Admin and Baseline tiers.
    pub isolates_ingress: bool,
    pub isolates_egress: bool,
    pub ingress: Vec<DirectedRule>,
    pub egress: Vec<DirectedRule>,
}

/// What a match does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Action {
    Allow,
    Deny,
    /// Admin tier only: leave the tier.
    Pass,
}

/// One entry of an ingress or egress list: matches when both a peer and a port match.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DirectedRule {
    /// Field path inside the object, for provenance.
    pub path: Arc<str>,
    pub action: Action,
    pub peers: Peers,
    pub ports: Ports,
}

/// `OneOf` with an empty list matches nobody: a rule that selects nothing allows nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Peers {
    Any,
    OneOf(Vec<Peer>),
}

/// Whom a CIDR means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CidrScope {
    /// Only addresses outside of the cluster: neither pods nor nodes (CNP `toCIDR`).
    Outside,
    /// Outside and nodes (CNP with `policyCIDRMatchMode: [nodes]`).
    OutsideAndNodes,
    /// The address, whoever holds it (NetworkPolicy `ipBlock`, ClusterNetworkPolicy `networks`).
    Anyone,
}

/// One way to name peers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Peer {
    /// Pods (and reserved identities, when the selector names `reserved:` labels) by their labels.
    Endpoints(Selector),
    Entity(Entity),
    Cidr {
        cidr: Cidr,
        except: Vec<Cidr>,
        scope: CidrScope,
    },
    /// The CIDRs of a CiliumCIDRGroup by name, minus `except`. A group that is missing matches nobody.
    CidrGroup {
        name: Arc<str>,
        except: Vec<Cidr>,
        scope: CidrScope,
    },
    /// The CIDRs of all CiliumCIDRGroups whose labels match.
    CidrGroups {
        selector: Selector,
        except: Vec<Cidr>,
        scope: CidrScope,
    },
    /// Nodes (their addresses) by the labels of the Node object.
    Nodes(Selector),
    /// Backends of Services (egress only). Ports are those of the rule, judged after translation.
    Services(ServiceSelector),
}

/// How a rule names Services.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ServiceSelector {
    Name {
        namespace: Arc<str>,
        name: Arc<str>,
    },
    /// By the Service's labels; `namespace` none means all namespaces.
    Labels {
        namespace: Option<Arc<str>>,
        selector: Selector,
    },
}

/// Cilium's entities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Entity {
    All,
    World,
    WorldIpv4,
    WorldIpv6,
    /// Every endpoint, node and reserved peer of this cluster.
    Cluster,
    Host,
    RemoteNode,
    KubeApiserver,
    Init,
    Unmanaged,
    Health,
    Ingress,
    /// Nobody.
    None,
}

/// `OneOf` with an empty list matches no port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Ports {
    Any,
    OneOf(Vec<PortMatch>),
}

/// One port condition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PortMatch {
    /// The whole protocol, ports or not.
    Protocol(Protocol),
    /// Destination ports `first..=last` of a protocol that has ports.
    Range { protocol: Protocol, first: u16, last: u16 },
    /// A named container port of the destination pod; it also fixes the protocol. An ingress rule reads the subject's
    /// ports, an egress rule the peer's.
    Named { protocol: Option<Protocol>, name: Arc<str> },
    /// An ICMP (protocol 1) or ICMPv6 (protocol 58) type.
    IcmpType { protocol: Protocol, icmp_type: u8 },
}
