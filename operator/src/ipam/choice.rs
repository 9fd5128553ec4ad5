//! Which pool a pod takes its addresses from.

use std::{collections::BTreeMap, sync::Arc};

use axoneme_model::{
    rows::NO_POOL,
    world::{Namespace, PlainLabels, Pod},
};

use super::Pool;

/// Annotations of pods and namespaces: both families, or one.
const ANY: &str = "ipam.cilium.io/ip-pool";
const OF_FAMILY: [&str; 2] = ["ipam.cilium.io/ipv4-pool", "ipam.cilium.io/ipv6-pool"];
/// Annotation of pods and namespaces: never the default pool.
const REQUIRED: &str = "ipam.cilium.io/require-pool-match";

/// The pool of one address of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    Pool(Arc<str>),
    /// The selectors of several pools match: their author must say which is meant.
    Ambiguous(Vec<Arc<str>>),
    /// No selector matches, and the pod or its namespace does not want the default pool.
    NoMatch,
}

impl Choice {
    /// As a row names it.
    #[must_use]
    pub fn row(&self) -> Arc<str> {
        match self {
            Self::Pool(name) => name.clone(),
            other => format!("{NO_POOL}{}", other.problem().unwrap_or_default()).into(),
        }
    }

    /// Why there is none.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::Pool(_) => None,
            Self::Ambiguous(pools) => Some(format!(
                "the selectors of several CiliumPodIPPools match the pod ({}): narrow them, or name one with the \
                 annotation {ANY}",
                pools.join(", ")
            )),
            Self::NoMatch => Some(format!(
                "no CiliumPodIPPool matches the pod, and {REQUIRED} forbids the default pool: name one with the annotation \
                 {ANY}, or give a pool a selector that matches"
            )),
        }
    }
}

/// The pools of a pod, IPv4 and IPv6. In this order: the pod's annotation, its namespace's, the pools' selectors, the
/// default; the annotation for one family goes before that for both.
#[must_use]
pub fn choose(
    pod: &Pod,
    namespace: Option<&Namespace>,
    pools: &BTreeMap<Arc<str>, Pool>,
    default: &Arc<str>,
) -> [Choice; 2] {
    [0, 1].map(|family| of_family(pod, namespace, pools, default, family))
}

fn of_family(
    pod: &Pod,
    namespace: Option<&Namespace>,
    pools: &BTreeMap<Arc<str>, Pool>,
    default: &Arc<str>,
    family: usize,
) -> Choice {
    let lists = [Some(&pod.annotations), namespace.map(|n| &n.annotations)];
    let mut lists = lists.into_iter().flatten();
    let named = |a: &PlainLabels| {
        let own = OF_FAMILY.get(family).and_then(|k| a.get(*k)).or_else(|| a.get(ANY));
        own.filter(|name| !name.is_empty()).cloned()
    };
    if let Some(name) = lists.clone().find_map(named) {
        return Choice::Pool(name);
    }
    let labels = namespace.map(|n| n.labels.clone()).unwrap_or_default();
    let has_family = |p: &Pool| if family == 0 { p.spec.ipv4.is_some() } else { p.spec.ipv6.is_some() };
    let matching: Vec<Arc<str>> =
        pools.iter().filter(|(_, p)| has_family(p) && p.spec.selects(pod, &labels)).map(|(n, _)| n.clone()).collect();
    match matching.as_slice() {
        [one] => Choice::Pool(one.clone()),
        [] if lists.any(|a| a.get(REQUIRED).is_some_and(|v| &**v == "true")) => Choice::NoMatch,
        [] => Choice::Pool(default.clone()),
        _ => Choice::Ambiguous(matching),
    }
}
