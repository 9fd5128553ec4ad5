//! What no table holds though no policy changed: CIDR groups that grew, and pods at which policies meet.
//!
//! A group is as it was for all policies until its new content fits. A pod whose policies do not fit into one table is
//! closed in the direction that is too large. Both are told by the policies' conditions and by Events.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axoneme_compile::{Closure, Excess, GroupExcess, Misfits};
use axoneme_model::{Kind, ObjectRef, rows::TableId, world::CidrGroup};
use tracing::{info, warn};

use super::{TABLE_TOO_LARGE, WorldChange, policy::COMBINATION_TOO_LARGE};
use crate::{plan::status::cut, write::Write};

/// A CIDR group whose newest content is held back.
#[derive(Clone, Debug)]
struct HeldGroup {
    wanted: CidrGroup,
    why: GroupExcess,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Crowded {
    groups: BTreeMap<Arc<str>, HeldGroup>,
    closed: BTreeMap<TableId, Closure>,
    /// Groups to tell of.
    fresh: BTreeSet<Arc<str>>,
}

/// What a policy's condition says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crowd {
    pub reason: &'static str,
    pub message: String,
}

/// The CIDR groups among changes, as they should be.
#[must_use]
pub fn groups(changes: &[WorldChange]) -> BTreeMap<Arc<str>, Option<CidrGroup>> {
    let group = |c: &WorldChange| match c {
        WorldChange::CidrGroup(name, group) => Some((name.clone(), group.clone())),
        _ => None,
    };
    changes.iter().filter_map(group).collect()
}

impl Crowded {
    /// Whether this content of a group is known not to fit: it is tried again when there may be room.
    #[must_use]
    pub fn holds(&self, name: &str, group: &CidrGroup) -> bool {
        self.groups.get(name).is_some_and(|held| held.wanted == *group)
    }

    /// How many groups are held back.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Groups as they should be.
    pub fn again(&self) -> impl Iterator<Item = WorldChange> {
        self.groups.iter().map(|(name, held)| WorldChange::CidrGroup(name.clone(), Some(held.wanted.clone())))
    }

    /// Takes in what became of `brought` groups, and which tables are closed. The policies whose conditions say something
    /// else now.
    pub fn update(&mut self, brought: BTreeMap<Arc<str>, Option<CidrGroup>>, misfits: &Misfits) -> BTreeSet<ObjectRef> {
        let mut concerned = BTreeSet::new();
        for (name, group) in brought {
            let old = self.groups.remove(&name);
            concerned.extend(old.iter().flat_map(|o| &o.why.policies).cloned());
            if let (Some(why), Some(wanted)) = (misfits.groups.get(&name), group) {
                concerned.extend(why.policies.iter().cloned());
                if old.as_ref().is_none_or(|o| o.wanted != wanted) {
                    let Excess { entries, limit, .. } = why.excess;
                    warn!(group = %name, entries, limit, "a policy table would be too large; the group stays as it was");
                    self.fresh.insert(name.clone());
                }
                self.groups.insert(name, HeldGroup { wanted, why: why.clone() });
            } else if old.is_some() {
                info!(group = %name, "the CIDR group fits again");
            }
        }
        concerned.extend(self.close(&misfits.closed));
        concerned
    }

    /// Sizes and pods are told as they were when a table was closed: a condition that follows every pod would be written
    /// with every pod.
    fn close(&mut self, closed: &BTreeMap<TableId, Closure>) -> BTreeSet<ObjectRef> {
        let mut concerned = BTreeSet::new();
        let alike = |a: &Closure, b: &Closure| (a.closed, &a.policies) == (b.closed, &b.policies);
        for (id, was) in self.closed.extract_if(.., |id, was| closed.get(id).is_none_or(|now| !alike(was, now))) {
            concerned.extend(was.policies);
            if !closed.contains_key(&id) {
                let (namespace, pod) = &was.excess.pod;
                info!(%namespace, %pod, "a pod's policies fit into a table again");
            }
        }
        for (id, now) in closed {
            if self.closed.contains_key(id) {
                continue;
            }
            let Excess { entries, limit, pod: (namespace, pod) } = &now.excess;
            let directions = directions(now.closed);
            if now.closed == [false; 2] {
                warn!(node = %pod, entries, limit, "a node's policies do not fit into a table: it is left alone");
            } else {
                warn!(%namespace, %pod, entries, limit, directions, "a pod's policies do not fit into a table: nothing passes");
            }
            concerned.extend(now.policies.iter().cloned());
            self.closed.insert(*id, now.clone());
        }
        concerned
    }

    /// Why a policy is not in force as it is, though it fits itself.
    #[must_use]
    pub fn about(&self, policy: &ObjectRef) -> Option<Crowd> {
        let group = self.groups.iter().find(|(_, held)| held.why.policies.contains(policy));
        if let Some((name, held)) = group {
            return Some(Crowd { reason: TABLE_TOO_LARGE, message: held.message(name) });
        }
        let (_, closure) = self.closed.iter().find(|(_, c)| c.policies.contains(policy))?;
        let Excess { entries, limit, pod: (namespace, pod) } = &closure.excess;
        if closure.closed == [false; 2] {
            let message = format!(
                "with {} policies that meet at node {pod} its policy table needs {entries} entries, the limit is {limit}: such \
                 nodes are left alone until fewer policies select them or their rules select fewer peers or ports",
                closure.policies.len(),
            );
            return Some(Crowd { reason: COMBINATION_TOO_LARGE, message });
        }
        let message = format!(
            "with {} policies that meet at pod {namespace}/{pod} its policy table needs {entries} entries, the limit is {limit}: \
             nothing passes in {} at such pods, but their own node, until fewer policies select them or their rules select \
             fewer peers or ports",
            closure.policies.len(),
            directions(closure.closed),
        );
        Some(Crowd { reason: COMBINATION_TOO_LARGE, message })
    }

    /// Events about groups that were held back since the last call.
    pub fn tell(&mut self, writes: &mut Vec<Write>) {
        for name in std::mem::take(&mut self.fresh) {
            let Some(held) = self.groups.get(&name) else { continue };
            let object = ObjectRef::new(Kind::CiliumCIDRGroup, "", &name);
            writes.push(Write::event(object, true, TABLE_TOO_LARGE, cut(held.message(&name))));
        }
    }
}

impl HeldGroup {
    fn message(&self, name: &str) -> String {
        let Excess { entries, limit, pod: (namespace, pod) } = &self.why.excess;
        format!(
            "with the {} CIDRs of CiliumCIDRGroup {name} the policy table of pod {namespace}/{pod} needs {entries} entries, the \
             limit is {limit}: what the group was before stays in force; let it have fewer CIDRs, or its policies fewer ports",
            self.wanted.cidrs.len()
        )
    }
}

fn directions(closed: [bool; 2]) -> &'static str {
    match closed {
        [true, false] => "ingress",
        [false, true] => "egress",
        _ => "ingress and egress",
    }
}
