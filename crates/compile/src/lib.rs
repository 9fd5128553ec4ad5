//! From what the cluster says to what the nodes obey.
//!
//! ```text
//!  World ──▶ rules ─────────────┐   which rules apply to whom, what they read
//!    │                          ▼
//!    ├─▶ identities ─▶ peers (classes) ─▶ tables ─▶ rows::TableRow, EndpointRow
//!    │                          └───────────────▶ rows::IpRow
//!    └─▶ nodes, services ───────────────────────▶ rows::NodeRow, ServiceRow
//! ```
//!
//! - *identity*: the labels of a pod that rules read, with its namespace, service account and cluster. Its number comes
//!   from outside ([`Assignments`]).
//! - *feature*: what else rules read about an address (CIDRs, being a backend, named ports).
//! - *class*: identity and those features that set addresses of one identity apart. Tables are keyed by it.
//! - *table*: all verdicts of one distinct set of rules, precedence resolved.
//!
//! Invariants: the result is a function of the inputs, byte for byte, whatever the order of events; every entry names
//! the rule that made it; `compile` and table lookup equal `axoneme_model::verdict` (property-tested). No IO, no clock.

#[cfg(test)]
extern crate self as axoneme_compile;

mod changes;
#[cfg(test)]
mod collisions;
#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod common;
mod digest;
mod engine;
mod feature;
mod few;
mod identity;
mod ids;
pub mod needs;
mod number;
mod peer;
mod ports;
mod resolve;
mod row;
mod rules;
mod scratch;
mod service;
mod spec;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use axoneme_model::{
    Cidr, Identity, Labels, PeerClass,
    rows::{GuardRow, RowSet},
};

pub use changes::{Change, ChangeSet, Changes, NodeChanges, TableChange, TablePatch};
pub use engine::{Closure, Compiler, Event, Excess, Fit, GroupExcess, Misfits, events};
pub use scratch::{compile, hosts};

/// Namespace and name.
pub type PodKey = (Arc<str>, Arc<str>);

/// The number of each set of identity labels, as CiliumIdentity objects give them. Two sets never share a number.
pub type Assignments = BTreeMap<Labels, Identity>;

/// Identities that pods keep while the one that their labels ask for has no number yet.
pub type Held = BTreeMap<PodKey, (Identity, Labels)>;

/// All rows of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// Rows of all nodes; `config` is none.
    pub rows: RowSet,
    /// Identity labels that pods ask for. Those without a number in [`Assignments`] are for the leader to allocate.
    pub wanted: BTreeSet<Labels>,
    /// What guards nodes themselves, by node.
    pub guards: BTreeMap<Arc<str>, GuardRow>,
}

impl Compiled {
    /// The rows that a node needs: its endpoints with their tables, the table that guards it, and the rules that these name; addresses,
    /// identities, nodes and services of all.
    #[must_use]
    pub fn for_node(&self, node: &str) -> RowSet {
        let all = &self.rows;
        let endpoints: BTreeMap<_, _> =
            all.endpoints.iter().filter(|(_, e)| &*e.node == node).map(|(k, e)| (k.clone(), e.clone())).collect();
        let guard = self.guards.get(node).map(|g| g.table);
        let ids: BTreeSet<_> = endpoints.values().map(|e| e.table).chain(guard).collect();
        let tables: BTreeMap<_, _> =
            ids.iter().filter_map(|id| all.tables.get(id)).map(|t| (t.id, t.clone())).collect();
        let named: BTreeSet<_> = tables
            .values()
            .flat_map(|t| t.entries.values().map(|e| e.rule).chain([t.ingress_default.rule, t.egress_default.rule]))
            .collect();
        let rules = named.iter().filter_map(|id| all.rules.get(id)).map(|r| (r.id, r.clone())).collect();
        RowSet {
            config: None,
            nodes: all.nodes.clone(),
            identities: all.identities.clone(),
            rules,
            tables,
            endpoints,
            ips: all.ips.clone(),
            services: all.services.clone(),
        }
    }
}

/// `0.0.0.0/0` and `::/0`.
pub(crate) fn everywhere() -> [Cidr; 2] {
    let v4 = Cidr::new(Ipv4Addr::UNSPECIFIED.into(), 0).expect("0 is a prefix length");
    let v6 = Cidr::new(Ipv6Addr::UNSPECIFIED.into(), 0).expect("0 is a prefix length");
    [v4, v6]
}

/// Numbers of composed classes.
pub(crate) fn class_ids() -> ids::Ids<peer::ClassKey> {
    let first = u64::from(PeerClass::FIRST_COMPOSED);
    ids::Ids::new("class", first..=u64::from(u32::MAX))
}

/// The identity's number, or the class's own.
pub(crate) fn class_id(ids: &ids::Ids<peer::ClassKey>, key: &peer::ClassKey) -> PeerClass {
    key.plain().unwrap_or_else(|| PeerClass(ids.get(key).unwrap_or(0) as u32))
}
