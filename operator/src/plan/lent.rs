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
    state::{Cluster, Key, NodeEntry},
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
    let raw = n.cilium_raw.read();
    let mut changes = Map::new();
    for (v4, used, releases) in [(true, "used", "release-ips"), (false, "ipv6-used", "release-ipv6s")] {
        let now = |field: &str| raw.pointer(&format!("/status/ipam/{field}"));
        let of_family = owners.iter().filter(|(a, _)| a.is_ipv4() == v4);
        let wanted = of_family.map(|(a, (ns, pod))| (a.to_string(), json!({"owner": format!("{ns}/{pod}")})));
        difference(&mut changes, used, now(used), &wanted.collect());
        let of_family = release.iter().filter(|(a, _)| a.is_ipv4() == v4);
        let wanted = of_family.map(|(a, s)| (a.to_string(), s.as_str().into()));
        difference(&mut changes, releases, now(releases), &wanted.collect());
    }
    if changes.is_empty() {
        return None;
    }
    let version = raw.pointer("/metadata/resourceVersion").cloned()?;
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

/// A merge patch of one map, entry by entry; nothing if it is as wanted.
fn difference(changes: &mut Map<String, Value>, field: &str, now: Option<&Value>, wanted: &BTreeMap<String, Value>) {
    let now = now.and_then(Value::as_object);
    let mut patch = Map::new();
    for (key, value) in wanted {
        if !now.and_then(|n| n.get(key)).is_some_and(|n| holds(n, value)) {
            patch.insert(key.clone(), value.clone());
        }
    }
    for key in now.into_iter().flat_map(Map::keys).filter(|k| !wanted.contains_key(*k)) {
        patch.insert(key.clone(), Value::Null);
    }
    if !patch.is_empty() {
        changes.insert(field.to_owned(), patch.into());
    }
}

/// Whether everything wanted is there; others may have written more.
fn holds(now: &Value, wanted: &Value) -> bool {
    match (now, wanted) {
        (Value::Object(now), Value::Object(wanted)) => wanted.iter().all(|(k, v)| now.get(k) == Some(v)),
        _ => now == wanted,
    }
}
