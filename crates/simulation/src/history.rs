//! What the API's objects have said, version by version, and what the oracle says of it.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use axoneme_kernel::datapath::Direction;
use axoneme_model::{
    Kind, ObjectRef, Protocol,
    policy::Policy,
    verdict::{Traffic, verdict},
    world::{Namespace, Pod, World},
};
use axoneme_operator::{
    source::SourceEvent,
    state::{Cluster, WorldChange},
};

use crate::{api, kernel::Half};

/// More combinations than these are not judged.
const COMBINATIONS: usize = 512;

/// An object as the model sees it.
#[derive(Clone, Debug, PartialEq)]
enum Said {
    Nothing,
    Policy(Box<Policy>),
    Pod(Box<Pod>),
    Namespace(Namespace),
}

/// Versions of an object, each with the place of the log from which it holds.
type Versions = Vec<(usize, Said)>;

/// All versions of all objects that verdicts depend on.
#[derive(Debug, Default)]
pub struct History {
    read: usize,
    objects: BTreeMap<ObjectRef, Versions>,
}

/// The other end of a packet, as it may be known to a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    Nobody,
    Pod(ObjectRef),
}

/// What the oracle was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    So,
    /// In no state.
    Never,
    /// More states than can be tried, or none that has the pod.
    TooMany,
}

impl History {
    /// Reads on.
    pub fn read(&mut self, state: &api::State) {
        for (place, entry) in state.log.iter().enumerate().skip(self.read) {
            let object = match &entry.event {
                SourceEvent::Apply { kind, object } => axoneme_intake::object_ref(*kind, object).ok(),
                SourceEvent::Delete(o) => Some(o.clone()),
                _ => None,
            };
            let Some(object) = object.filter(|o| said_by(o.kind)) else { continue };
            let said = parse(&entry.event);
            let versions = self.objects.entry(object).or_default();
            // a status is no other version
            if versions.last().is_none_or(|(_, s)| *s != said) {
                versions.push((place, said));
            }
        }
        self.read = state.log.len();
    }

    /// What an object has said since a place of the log, with what held there.
    fn since<'a>(&'a self, object: &ObjectRef, from: usize) -> Vec<&'a Said> {
        let Some(versions) = self.objects.get(object) else { return vec![&Said::Nothing] };
        let first = versions.partition_point(|(place, _)| *place < from);
        let before = if first == 0 { &Said::Nothing } else { &versions[first - 1].1 };
        std::iter::once(before).chain(versions[first..].iter().map(|(_, s)| s)).collect()
    }

    /// The pod's newest version.
    #[must_use]
    pub fn pod(&self, object: &ObjectRef) -> Option<&Pod> {
        match self.objects.get(object)?.last()? {
            (_, Said::Pod(p)) => Some(p),
            _ => None,
        }
    }

    /// Whether the oracle says so of one end, for some choice of one version of each object among those since `from`, and
    /// some possible holder of the other address.
    #[must_use]
    pub fn says(&self, verdict: bool, half: &Half, own: &ObjectRef, peers: &[Holder], from: usize) -> Says {
        let mut tried = 0;
        let policies: Vec<Choice<'_>> = self
            .objects
            .keys()
            .filter(|o| policy(o.kind))
            .map(|o| Choice { of: Part::Policy(o), versions: self.since(o, from) })
            .collect();
        let own_pods: Vec<&Said> = self.since(own, from).into_iter().filter(|s| **s != Said::Nothing).collect();
        for peer in peers {
            let (peer_pods, peer_namespace) = match peer {
                Holder::Nobody => (vec![&Said::Nothing], None),
                Holder::Pod(p) => (self.since(p, from), Some(namespace(p))),
            };
            let own_namespace = namespace(own);
            let other = peer_namespace.filter(|p| *p != own_namespace);
            let mut choices = policies.clone();
            choices.push(Choice { of: Part::Pod(half.own), versions: own_pods.clone() });
            choices.push(Choice { of: Part::Pod(half.peer), versions: peer_pods });
            let namespaces = std::iter::once(&own_namespace).chain(&other);
            choices.extend(namespaces.map(|n| Choice { of: Part::Namespace(&n.name), versions: self.since(n, from) }));
            let count = choices.iter().try_fold(1usize, |n, c| n.checked_mul(c.versions.len()));
            if count.is_none_or(|n| n > COMBINATIONS) {
                return Says::TooMany;
            }
            // the newest first: mostly it is that
            for choice in &mut choices {
                choice.versions.reverse();
            }
            // what has one version only is put into the world once, and not with each choice of the others
            choices.sort_by_key(|c| c.versions.len());
            let found = any(&choices, &mut World::default(), &mut |world| {
                let says = oracle(world, half);
                tried += u32::from(says.is_some());
                says == Some(verdict)
            });
            if found {
                return Says::So;
            }
        }
        if tried == 0 { Says::TooMany } else { Says::Never }
    }
}

/// What an object may have said.
#[derive(Clone, Debug)]
struct Choice<'a> {
    of: Part<'a>,
    versions: Vec<&'a Said>,
}

/// What of a world it is.
#[derive(Clone, Copy, Debug)]
enum Part<'a> {
    Policy(&'a ObjectRef),
    /// Whoever has the address.
    Pod(IpAddr),
    Namespace(&'a Arc<str>),
}

impl Part<'_> {
    /// Puts what it said in the place of what is there.
    fn put(self, said: &Said, world: &mut World) {
        match self {
            Self::Policy(object) => match said {
                Said::Policy(p) => drop(world.policies.insert(object.clone(), (**p).clone())),
                _ => drop(world.policies.remove(object)),
            },
            Self::Pod(address) => {
                world.pods.retain(|_, pod| !pod.addresses.contains(&address));
                if let Said::Pod(p) = said {
                    let pod = Pod { addresses: [address].into(), ..(**p).clone() };
                    world.pods.insert((pod.namespace.clone(), pod.name.clone()), pod);
                }
            }
            Self::Namespace(name) => match said {
                Said::Namespace(n) => drop(world.namespaces.insert(name.clone(), n.clone())),
                _ => drop(world.namespaces.remove(name)),
            },
        }
    }
}

fn policy(kind: Kind) -> bool {
    crate::replica::POLICY_KINDS.contains(&kind)
}

fn said_by(kind: Kind) -> bool {
    policy(kind) || matches!(kind, Kind::Pod | Kind::Namespace)
}

fn namespace(pod: &ObjectRef) -> ObjectRef {
    ObjectRef::new(Kind::Namespace, "", &pod.namespace)
}

fn parse(event: &SourceEvent) -> Said {
    let mut cluster = Cluster::new();
    cluster.take_changes();
    cluster.apply(event.clone());
    let said = cluster.take_changes().into_iter().map(|c| match c {
        WorldChange::Policy(_, Some(p)) => Said::Policy(p),
        WorldChange::Pod(_, Some(p)) => Said::Pod(Box::new(Pod::clone(&p))),
        WorldChange::Namespace(_, Some(n)) => Said::Namespace(n),
        _ => Said::Nothing,
    });
    said.last().unwrap_or(Said::Nothing)
}

/// Whether some way to choose one version of each makes a world that is such.
fn any(left: &[Choice<'_>], world: &mut World, such: &mut impl FnMut(&World) -> bool) -> bool {
    let Some((first, rest)) = left.split_first() else { return such(world) };
    first.versions.iter().any(|said| {
        first.of.put(said, world);
        any(rest, world, such)
    })
}

/// What the oracle says of one end; none: it is no pod.
#[must_use]
pub fn oracle(world: &World, half: &Half) -> Option<bool> {
    let (source, destination): (IpAddr, IpAddr) = match half.direction {
        Direction::Egress => (half.own, half.peer),
        Direction::Ingress => (half.peer, half.own),
    };
    let decision = verdict(world, &Traffic { source, destination, protocol: Protocol(half.protocol), port: half.port });
    let side = match half.direction {
        Direction::Egress => decision.egress,
        Direction::Ingress => decision.ingress,
    };
    side.map(|s| s.allow)
}
