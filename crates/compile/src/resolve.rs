//! One direction of one policy table: from the rules that apply to entries whose first hit is final.

use axoneme_model::{Action, Direction, Labels, PeerClass, Protocol};

use crate::{
    feature::{Features, Property},
    peer::{Base, Families, PeerKind},
    ports::{Below, Colour, Isolation, Item, PortSet, Slot, solve},
    spec::{Entry, NamedPorts, PortSpec},
};

/// Colour of the verdict for the pod's own node; the position of no rule.
pub(crate) const OWN_HOST: Colour = u32::MAX - 1;

/// A peer that tables can meet.
#[derive(Clone, Debug)]
pub(crate) struct Class<'a> {
    pub(crate) id: PeerClass,
    pub(crate) base: Base,
    pub(crate) families: Families,
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
    pub(crate) isolated: Isolation,
    /// No rule is enforced on the subject.
    pub(crate) audit: bool,
    /// Traffic from the own host passes.
    pub(crate) own_host: bool,
    /// Named ports of the subject.
    pub(crate) named_ports: &'a NamedPorts,
}

/// Rules with their ports for one peer: positions in [`Side::entries`].
type Matched = Vec<(Colour, PortSet)>;

/// What a table says about many at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Level {
    /// The rules that mean all of them, by position.
    pub(crate) rules: Vec<Colour>,
    pub(crate) slots: Vec<Slot>,
}

/// What lookups fall back to from a peer's class.
#[derive(Clone, Debug, Default)]
pub(crate) struct Levels {
    anyone: Level,
    /// By [`PeerKind`].
    kinds: [Level; 4],
}

impl Levels {
    /// The entries that they make: under a kind, and under any.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (PeerClass, &[Slot])> {
        let kinds = PeerKind::ALL.into_iter().zip(&self.kinds).map(|(k, l)| (k.class(), &*l.slots));
        kinds.chain([(PeerClass::ANY, &*self.anyone.slots)])
    }

    /// What a class falls back to: one level, or two if it has addresses of both families. A level with what is below it.
    pub(crate) fn below(&self, base: Base, families: Families) -> Vec<&Level> {
        let kinds: Vec<&Level> = families.kinds(base).filter_map(|k| self.kinds.get(k as usize)).collect();
        if kinds.is_empty() { vec![&self.anyone] } else { kinds }
    }
}

impl Side<'_> {
    /// What the table says about whoever and about each kind. Of the ports that an egress rule names, what they stand
    /// for is the peer's affair: here they stand for nothing.
    pub(crate) fn levels(&self) -> Levels {
        let rules = self.positions(|e| e.peers.any);
        let slots = self.solve(&self.with_ports(&rules, &Features::default()), &[&[]]);
        let anyone = Level { rules, slots };
        let kinds = PeerKind::ALL.map(|kind| {
            let rules = self.positions(|e| e.peers.is_wide(kind));
            if rules == anyone.rules {
                return Level { rules, slots: vec![] };
            }
            let slots = self.solve(&self.with_ports(&rules, &Features::default()), &[&[&anyone.slots]]);
            Level { rules, slots }
        });
        Levels { anyone, kinds }
    }

    /// Entries under the peer's own class.
    pub(crate) fn peer(&self, class: &Class<'_>, levels: &Levels) -> Vec<Slot> {
        if self.owns(class.base) {
            return vec![(None, 0, 0, OWN_HOST)];
        }
        self.list(&self.matching(class), class.features, &levels.below(class.base, class.families), levels)
    }

    /// The rules that match the class, by position.
    pub(crate) fn matching(&self, class: &Class<'_>) -> Vec<Colour> {
        self.positions(|e| matches(e, class))
    }

    /// Entries under a class that exactly these rules match, where they differ from what is below.
    pub(crate) fn list(
        &self,
        matching: &[Colour],
        features: &Features,
        below: &[&Level],
        levels: &Levels,
    ) -> Vec<Slot> {
        let reads_ports = matching.iter().any(|c| self.entry(*c).is_some_and(|e| self.reads_peer_ports(e)));
        if !reads_ports && below.iter().all(|level| level.rules == matching) {
            return vec![];
        }
        let chains: Vec<[&[Slot]; 2]> = below.iter().map(|l| [&*l.slots, &*levels.anyone.slots]).collect();
        let chains: Vec<&Below<'_>> = chains.iter().map(|c| &c[..]).collect();
        self.solve(&self.with_ports(matching, features), &chains)
    }

    /// Whether the base is the own host, to which the rules do not apply.
    pub(crate) fn owns(&self, base: Base) -> bool {
        self.own_host && base == Base::Host
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

    fn solve(&self, matched: &Matched, below: &[&Below<'_>]) -> Vec<Slot> {
        let items: Vec<Item<'_>> = matched
            .iter()
            .filter_map(|(colour, ports)| {
                let entry = self.entry(*colour)?;
                let audit = self.audit || entry.audit;
                Some(Item { colour: *colour, tier: entry.tier, action: entry.action, audit, ports })
            })
            .collect();
        solve(&items, self.isolated, below)
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
