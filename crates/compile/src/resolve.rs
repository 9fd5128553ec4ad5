//! One direction of one policy table: from the rules that apply to entries whose first hit is final.

use axoneme_model::{Action, Direction, Labels, PeerClass, Protocol};

use crate::{
    feature::{Features, Property},
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
type Matched = Vec<(Colour, PortSet)>;

impl Side<'_> {
    /// Entries under [`PeerClass::ANY`].
    pub(crate) fn anyone(&self) -> Vec<Slot> {
        self.solve(&self.with_ports(&self.for_anyone(), &Features::default()), None)
    }

    /// The rules that mean whoever, by position. Of the ports that an egress rule names, what they stand for is the
    /// peer's affair: under any they stand for nothing.
    pub(crate) fn for_anyone(&self) -> Vec<Colour> {
        self.positions(|e| e.peers.any)
    }

    /// Entries under the peer's own class, given those under any.
    pub(crate) fn peer(&self, class: &Class<'_>, anyone: &[Slot]) -> Vec<Slot> {
        if self.owns(class.base) {
            return vec![(None, 0, 0, OWN_HOST)];
        }
        self.list(&self.matching(class), class.features, anyone)
    }

    /// The rules that mean the class, by position; empty if it does not take the peer to say which do.
    pub(crate) fn matching(&self, class: &Class<'_>) -> Vec<Colour> {
        let matching = self.positions(|e| matches(e, class));
        let depends = matching.iter().any(|c| self.entry(*c).is_some_and(|e| self.depends_on_peer(e)));
        if depends { matching } else { vec![] }
    }

    /// Entries under a class that exactly these rules match.
    pub(crate) fn list(&self, matching: &[Colour], features: &Features, anyone: &[Slot]) -> Vec<Slot> {
        if matching.is_empty() {
            return vec![];
        }
        self.solve(&self.with_ports(matching, features), Some(anyone))
    }

    /// Whether the base is the own host, to which the rules do not apply.
    pub(crate) fn owns(&self, base: Base) -> bool {
        self.own_host && base == Base::Host
    }

    /// Whether it takes the peer to say if the rule matches.
    pub(crate) fn depends_on_peer(&self, entry: &Entry) -> bool {
        !entry.peers.any || self.reads_peer_ports(entry)
    }

    pub(crate) fn reads_peer_ports(&self, entry: &Entry) -> bool {
        self.direction == Direction::Egress && entry.ports.has_names()
    }

    pub(crate) fn entry(&self, colour: Colour) -> Option<&Entry> {
        self.entries.get(colour as usize).copied()
    }

    fn positions(&self, keep: impl Fn(&Entry) -> bool) -> Vec<Colour> {
        self.entries.iter().zip(0..).filter(|(e, _)| keep(e)).map(|(_, colour)| colour).collect()
    }

    fn with_ports(&self, matching: &[Colour], features: &Features) -> Matched {
        let resolve = |ports: &PortSpec| match self.direction {
            Direction::Ingress => {
                ports.resolve(|name| self.named_ports.get(name).into_iter().flatten().copied().collect())
            }
            Direction::Egress => ports.resolve(|name| peer_ports(features, name)),
        };
        matching.iter().filter_map(|c| Some((*c, resolve(&self.entry(*c)?.ports)))).collect()
    }

    fn solve(&self, matched: &Matched, anyone: Option<&[Slot]>) -> Vec<Slot> {
        let items: Vec<Item<'_>> = matched
            .iter()
            .filter_map(|(colour, ports)| {
                let entry = self.entry(*colour)?;
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
    let bound = features.iter().filter_map(|f| match &**f {
        Property::Port { name: n, protocol, port } if &**n == name => Some((*protocol, *port)),
        _ => None,
    });
    bound.collect()
}
