//! Mode CRD: what nodes say of the addresses that somebody else lends them, in the status of their CiliumNodes.
//!
//! *Expected flow* of taking an address back: its giver marks it in `release-ips`; it is handed out no more; the node
//! says whether a pod has it; `ready-for-release` or `do-not-release` is written; the giver writes `released` and takes
//! the address out of the pool; the entry is removed. *Guarantees*: `ready-for-release` is written only onto the very
//! object in which the node has seen the mark.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use axoneme_crds::axoneme_config::IpamMode;
use axoneme_intake::{CiliumNode, Release};
use axoneme_model::{Cidr, Kind, ObjectRef, cidr::host};
use serde_json::{Map, Value, json};

use crate::{
    state::{Cluster, Key, NodeEntry, said::Lent},
    write::{Operation, Part, Write},
};

/// Writes that bring the status of CiliumNodes up to date.
#[must_use]
pub fn statuses(cluster: &Cluster) -> Vec<Write> {
    if cluster.settings.ipam.mode != IpamMode::CRD {
        return Vec::new();
    }
    let nodes = cluster.nodes.iter().filter(|(_, n)| n.node.is_some());
    nodes.filter_map(|(name, n)| status(name, n, &cluster.uses(name).owners)).collect()
}

fn status(name: &str, n: &NodeEntry, owners: &BTreeMap<IpAddr, Key>) -> Option<Write> {
    let cilium = n.cilium.as_ref()?;
    let release = answers(cilium, n.released(), owners);
    let none = Lent::default();
    let now = n.cilium_said.lent.as_deref().unwrap_or(&none);
    let mut changes = Map::new();
    for ((v4, now), field) in [true, false].into_iter().zip(&now.owners).zip(Lent::USED) {
        let of_family = owners.iter().filter(|(a, _)| a.is_ipv4() == v4);
        let wanted = of_family.map(|(a, (ns, pod))| (a.to_string(), format!("{ns}/{pod}")));
        difference(&mut changes, field, now, &wanted.collect(), |owner| json!({"owner": owner}));
    }
    for ((v4, now), field) in [true, false].into_iter().zip(&now.releases).zip(Lent::RELEASES) {
        let of_family = release.iter().filter(|(a, _)| a.is_ipv4() == v4);
        let wanted = of_family.map(|(a, s)| (a.to_string(), s.as_str().to_owned()));
        difference(&mut changes, field, now, &wanted.collect(), |state| state.into());
    }
    if changes.is_empty() {
        return None;
    }
    let version = n.cilium_said.version.as_deref()?;
    let body = json!({"metadata": {"resourceVersion": version}, "status": {"ipam": changes}});
    let object = ObjectRef::new(Kind::CiliumNode, "", name);
    Some(Write::new(object, Part::Status, Operation::Merge(body)))
}

/// The map of releases as it should be.
fn answers(
    cilium: &CiliumNode,
    released: Option<&BTreeSet<Cidr>>,
    owners: &BTreeMap<IpAddr, Key>,
) -> BTreeMap<IpAddr, Release> {
    let answer = |(address, state): (&IpAddr, &Release)| {
        let there = cilium.addresses_for_pods.contains(address);
        let state = match (*state, released) {
            // it went as it should: nothing is left to say
            (Release::Released, _) if !there => return None,
            (Release::MarkedForRelease, _) if owners.contains_key(address) => Release::DoNotRelease,
            (Release::MarkedForRelease, Some(free)) if free.contains(&host(*address)) => Release::ReadyForRelease,
            (Release::MarkedForRelease, Some(_)) => Release::DoNotRelease,
            (other, _) => other,
        };
        Some((*address, state))
    };
    cilium.release.iter().filter_map(answer).collect()
}

/// A merge patch of one map, entry by entry; nothing if it is as wanted. Others may have written more into an entry.
fn difference(
    changes: &mut Map<String, Value>,
    field: &str,
    now: &BTreeMap<Box<str>, Option<Box<str>>>,
    wanted: &BTreeMap<String, String>,
    entry: impl Fn(&str) -> Value,
) {
    let mut patch = Map::new();
    for (key, value) in wanted {
        if now.get(key.as_str()).and_then(Option::as_deref) != Some(value) {
            patch.insert(key.clone(), entry(value));
        }
    }
    for key in now.keys().filter(|k| !wanted.contains_key(&***k)) {
        patch.insert(key.to_string(), Value::Null);
    }
    if !patch.is_empty() {
        changes.insert(field.to_owned(), patch.into());
    }
}
