//! Names in the form in which flows show them, made once and shared by all flows that show them.
//!
//! Making the texts of a flow's two ends costs more than all the rest of the flow, and an end is the same in millions of
//! flows. What is kept here is bounded: an entry's text comes and goes with the entry, an end of an address by [`ENDS`].

use std::{
    borrow::Cow,
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use axoneme_model::{Identity, Labels, RuleRef, rows::RuleRow};

use super::{NameBook, Tenure};
use crate::{
    flow::{Endpoint, Logs, Policies, PolicyRef, RuleName, TrafficDirection},
    time::Time,
    workload,
};

/// Ends of addresses that are kept: some 300 bytes each. Those beyond are made anew for each flow until others go.
pub(super) const ENDS: usize = 16_384;

/// Labels of a pod or an identity.
#[derive(Debug)]
pub(super) struct Labelled {
    pub(super) labels: Labels,
    texts: OnceLock<Arc<[String]>>,
    /// An end with this identity that is no pod of which more is known.
    nameless: OnceLock<Arc<Endpoint>>,
}

impl Labelled {
    pub(super) const fn new(labels: Labels) -> Self {
        Self { labels, texts: OnceLock::new(), nameless: OnceLock::new() }
    }

    fn texts(&self) -> Arc<[String]> {
        self.texts.get_or_init(|| self.labels.to_strings().into()).clone()
    }

    fn nameless(&self, identity: Identity) -> Arc<Endpoint> {
        let of = || Endpoint { identity: identity.0, labels: self.texts(), ..Endpoint::default() };
        self.nameless.get_or_init(|| of().into()).clone()
    }
}

/// A rule, and how flows name it and its policy.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) of: RuleRef,
    log: Option<Arc<str>>,
    shown: OnceLock<ShownRule>,
}

/// How flows name a rule, and the policy that it is of.
#[derive(Clone, Debug)]
pub(crate) struct ShownRule {
    /// Whose rule it is, as its path tells.
    pub(crate) direction: Option<TrafficDirection>,
    pub(crate) rule: Arc<RuleName>,
    pub(crate) policies: Policies,
    pub(crate) log: Logs,
}

impl Rule {
    pub(super) fn new(row: &RuleRow) -> Self {
        Self { of: row.rule.clone(), log: row.log.clone(), shown: OnceLock::new() }
    }

    pub(super) fn shown(&self) -> &ShownRule {
        self.shown.get_or_init(|| {
            let RuleRef { object, path } = &self.of;
            let kind = Cow::Borrowed(object.kind.as_str());
            let (namespace, name) = (object.namespace.clone(), object.name.clone());
            let policy = PolicyRef { name: name.clone(), namespace: namespace.clone(), kind: kind.clone() };
            let rule = RuleName { kind, namespace, name, path: path.clone() }.into();
            let log = self.log.iter().cloned().collect::<Vec<_>>().into();
            ShownRule { direction: rule_direction(path), rule, policies: vec![policy].into(), log }
        })
    }
}

/// `spec.ingress[0]`, `specs[1].egressDeny[0].toPorts[2]`: the first field that says so.
fn rule_direction(path: &str) -> Option<TrafficDirection> {
    path.split('.').find_map(|field| {
        let starts = |with: &str| field.get(..with.len()).is_some_and(|f| f.eq_ignore_ascii_case(with));
        if starts("ingress") {
            Some(TrafficDirection::Ingress)
        } else if starts("egress") {
            Some(TrafficDirection::Egress)
        } else {
            None
        }
    })
}

/// The end that a holder of an address was last shown as, and what it was made of.
#[derive(Debug)]
struct End {
    version: u64,
    identity: Identity,
    cluster: Arc<str>,
    endpoint: Arc<Endpoint>,
}

/// Place for the end of one tenure.
#[derive(Debug, Default)]
pub(super) struct Kept(ArcSwapOption<End>);

#[cfg(test)]
impl Kept {
    pub(super) fn is_some(&self) -> bool {
        self.0.load().is_some()
    }
}

/// What is common to all ends that are kept.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// Counts changes of labels: an end of another version is made anew.
    version: u64,
    kept: AtomicUsize,
}

impl Ends {
    /// Labels of a pod or an identity have changed.
    pub(super) const fn outdate(&mut self) {
        self.version += 1;
    }

    /// Whether there is no room left.
    pub(super) fn full(&mut self) -> bool {
        *self.kept.get_mut() >= ENDS
    }
}

impl NameBook {
    /// Makes room when there is none.
    pub(super) fn make_room(&mut self) {
        if self.ends.full() {
            for tenure in self.prefixes.values_mut().flatten() {
                tenure.end = Kept::default();
            }
            self.ends.kept = AtomicUsize::new(0);
        }
    }

    /// The end with that address and identity, and the node that holds it (empty where unknown). Identity zero: the
    /// address's own. `cluster` counts for pods, and while no row has named the cluster.
    pub(crate) fn end(
        &self,
        address: Option<IpAddr>,
        identity: Identity,
        at: Time,
        cluster: &Arc<str>,
    ) -> (Arc<Endpoint>, Arc<str>) {
        let Some((tenure, peer)) = address.and_then(|a| self.tenure(a, at)) else {
            return (self.nameless(identity), Arc::default());
        };
        let identity = if identity == Identity::UNKNOWN { peer.identity } else { identity };
        if peer.pod.is_empty() {
            return (self.nameless(identity), peer.node.clone());
        }
        let cluster = if self.cluster.is_empty() { cluster } else { &self.cluster };
        let kept = tenure.end.0.load();
        if let Some(end) = &*kept
            && (end.version, end.identity) == (self.ends.version, identity)
            && Arc::ptr_eq(&end.cluster, cluster)
        {
            return (end.endpoint.clone(), peer.node.clone());
        }
        let endpoint = Arc::new(self.pod_end(&peer.pod, identity, cluster));
        if kept.is_some() || self.ends.kept.fetch_add(1, Ordering::Relaxed) < ENDS {
            let (version, cluster) = (self.ends.version, cluster.clone());
            tenure.end.0.store(Some(Arc::new(End { version, identity, cluster, endpoint: endpoint.clone() })));
        }
        (endpoint, peer.node.clone())
    }

    fn pod_end(&self, pod: &str, identity: Identity, cluster: &Arc<str>) -> Endpoint {
        let labelled = self.pods.get(pod).or_else(|| self.labelled(identity));
        let (namespace, pod_name) = pod.split_once('/').unwrap_or_default();
        Endpoint {
            identity: identity.0,
            cluster_name: cluster.clone(),
            namespace: namespace.into(),
            labels: labelled.map(Labelled::texts).unwrap_or_default(),
            pod_name: pod_name.into(),
            workloads: labelled.and_then(|l| workload::of(pod_name, &l.labels)).into_iter().collect(),
        }
    }

    fn labelled(&self, identity: Identity) -> Option<&Labelled> {
        self.identities.get(&identity).or_else(|| self.reserved.get(&identity))
    }

    fn nameless(&self, identity: Identity) -> Arc<Endpoint> {
        match self.labelled(identity) {
            Some(labelled) => labelled.nameless(identity),
            None if identity == Identity::UNKNOWN => self.nobody.clone(),
            None => Endpoint { identity: identity.0, ..Endpoint::default() }.into(),
        }
    }

    fn tenure(&self, address: IpAddr, at: Time) -> Option<(&Tenure, &super::Peer)> {
        let lengths = if address.is_ipv4() { &self.lengths_v4 } else { &self.lengths_v6 };
        lengths.iter().find_map(|&length| {
            let prefix = super::prefix(address, length)?;
            let tenure = self.prefixes.get(&prefix)?.iter().rev().find(|t| t.since <= at)?;
            Some((tenure, tenure.peer.as_ref()?))
        })
    }

    pub(super) fn holder(&self, address: IpAddr, at: Time) -> Option<&super::Peer> {
        self.tenure(address, at).map(|t| t.1)
    }
}
