//! One direction of one policy table: from the rules that apply to entries whose first hit is final.

use axoneme_model::{Action, Direction, Labels, PeerClass, Protocol};

use crate::{
    feature::{Feature, Features},
    peer::Base,
    ports::{Colour, DEFAULT, Item, PortSet, Slot, look_up, solve},
    spec::{Entry, NamedPorts, PortSpec},
};

/// Colour of the verdict for the pod's own node; the position of no rule.
pub(crate) const OWN_HOST: Colour = u32::MAX - 1;

/// A peer that tables can meet.
#[derive(Clone, Debug)]
pub(crate) struct Class<'a> {
    pub(crate) id: PeerClass,
    pub(crate) base: Base,
    /// For pods: the labels of all pods of the class as far as rules read them. One set, except while identities move.
    pub(crate) labels: Vec<&'a Labels>,
    pub(crate) features: &'a Features,
}

/// One direction of a table.
#[derive(Clone, Debug)]
pub(crate) struct Side<'a> {
    pub(crate) direction: Direction,
    /// In order of evaluation.
    pub(crate) entries: Vec<&'a Entry>,
    pub(crate) isolated: bool,
    /// Traffic from the own host passes.
    pub(crate) own_host: bool,
    /// Named ports of the subject.
    pub(crate) named_ports: &'a NamedPorts,
}

/// Rules with their ports for one peer: positions in [`Side::entries`].
pub(crate) type Matched = Vec<(Colour, PortSet)>;

impl Side<'_> {
    /// Entries under [`PeerClass::ANY`].
    pub(crate) fn anyone(&self) -> Vec<Slot> {
        self.solve(&self.matched(|e| e.peers.any && !self.depends_on_peer(e), &|_| vec![]), None)
    }

    /// Entries under the peer's own class, given those under any.
    pub(crate) fn peer(&self, class: &Class<'_>, anyone: &[Slot]) -> Vec<Slot> {
        if self.own_host && class.base == Base::Host {
            return vec![(None, 0, 0, OWN_HOST)];
        }
        let concerned = |e: &&&Entry| !e.peers.any || self.depends_on_peer(e);
        if !self.entries.iter().filter(concerned).any(|e| matches(e, class)) {
            return vec![];
        }
        let bound = |name: &std::sync::Arc<str>| peer_ports(class.features, name);
        self.solve(&self.matched(|e| matches(e, class), &bound), Some(anyone))
    }

    fn depends_on_peer(&self, entry: &Entry) -> bool {
        self.direction == Direction::Egress && entry.ports.has_names()
    }

    fn matched(
        &self,
        applies: impl Fn(&Entry) -> bool,
        peer_ports: &dyn Fn(&std::sync::Arc<str>) -> Vec<(Protocol, u16)>,
    ) -> Matched {
        let resolve = |ports: &PortSpec| match self.direction {
            Direction::Ingress => {
                ports.resolve(|name| self.named_ports.get(name).into_iter().flatten().copied().collect())
            }
            Direction::Egress => ports.resolve(peer_ports),
        };
        let applying = self.entries.iter().zip(0..).filter(|(e, _)| applies(e));
        applying.map(|(e, colour)| (colour, resolve(&e.ports))).collect()
    }

    pub(crate) fn solve(&self, matched: &Matched, anyone: Option<&[Slot]>) -> Vec<Slot> {
        let items: Vec<Item<'_>> = matched
            .iter()
            .filter_map(|(colour, ports)| {
                let entry = self.entries.get(*colour as usize)?;
                Some(Item { colour: *colour, tier: entry.tier, action: entry.action, ports })
            })
            .collect();
        solve(&items, self.isolated, &|protocol, port| {
            anyone.and_then(|slots| look_up(slots, protocol, port)).unwrap_or(DEFAULT)
        })
    }
}

/// Whether an entry means the class. While pods of one class differ in labels that rules read (their new identities are
/// on the way), doubt is decided for safety: a deny means the class if it means any of its pods, an allow if it means all.
pub(crate) fn matches(entry: &Entry, class: &Class<'_>) -> bool {
    let one = |labels: &&Labels| entry.peers.matches_pod(labels, class.features);
    match (class.base, entry.action) {
        (Base::Pod(_), Action::Deny) => class.labels.iter().any(one),
        (Base::Pod(_), Action::Allow | Action::Pass) => !class.labels.is_empty() && class.labels.iter().all(one),
        (base, _) => entry.peers.matches_reserved(base, class.features),
    }
}

fn peer_ports(features: &Features, name: &str) -> Vec<(Protocol, u16)> {
    let bound = features.iter().filter_map(|f| match f {
        Feature::Port { name: n, protocol, port } if &**n == name => Some((*protocol, *port)),
        _ => None,
    });
    bound.collect()
}
