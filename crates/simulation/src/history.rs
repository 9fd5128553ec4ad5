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
        let policies: Vec<Vec<&Said>> =
            self.objects.keys().filter(|o| policy(o.kind)).map(|o| self.since(o, from)).collect();
        let own_pods: Vec<&Said> = self.since(own, from).into_iter().filter(|s| **s != Said::Nothing).collect();
        for peer in peers {
            let (peer_pods, peer_namespace) = match peer {
                Holder::Nobody => (vec![&Said::Nothing], None),
                Holder::Pod(p) => (self.since(p, from), Some(namespace(p))),
            };
            let mut choices = policies.clone();
            choices.push(own_pods.clone());
            choices.push(peer_pods);
            let own_namespace = namespace(own);
            choices.push(self.since(&own_namespace, from));
            let other = peer_namespace.filter(|p| *p != own_namespace);
            choices.extend(other.iter().map(|p| self.since(p, from)));
            let count = choices.iter().try_fold(1usize, |n, c| n.checked_mul(c.len()));
            if count.is_none_or(|n| n > COMBINATIONS) {
                return Says::TooMany;
            }
            // the newest first: mostly it is that
            for versions in &mut choices {
                versions.reverse();
            }
            let names = (own_namespace.name.clone(), other.as_ref().map(|o| o.name.clone()));
            let found = any(&choices, &mut |chosen| {
                let says = judge(chosen, policies.len(), half, &names);
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

/// Whether some way to choose one of each is such.
fn any<'a>(choices: &[Vec<&'a Said>], such: &mut impl FnMut(&[&'a Said]) -> bool) -> bool {
    fn go<'a>(left: &[Vec<&'a Said>], chosen: &mut Vec<&'a Said>, such: &mut impl FnMut(&[&'a Said]) -> bool) -> bool {
        let Some((first, rest)) = left.split_first() else { return such(chosen) };
        first.iter().any(|choice| {
            chosen.push(choice);
            let found = go(rest, chosen, such);
            chosen.pop();
            found
        })
    }
    go(choices, &mut Vec::new(), such)
}

/// The oracle about a world of the policies, the two pods and their namespaces: nothing else has a say.
fn judge(chosen: &[&Said], policies: usize, half: &Half, names: &(Arc<str>, Option<Arc<str>>)) -> Option<bool> {
    let mut world = World::default();
    for said in &chosen[..policies] {
        if let Said::Policy(p) = said {
            world.policies.insert(p.object.clone(), (**p).clone());
        }
    }
    let pods = [(chosen[policies], half.own), (chosen[policies + 1], half.peer)];
    for (said, address) in pods {
        if let Said::Pod(p) = said {
            let pod = Pod { addresses: [address].into(), ..(**p).clone() };
            world.pods.insert((pod.namespace.clone(), pod.name.clone()), pod);
        }
    }
    for (said, name) in chosen[policies + 2..].iter().zip(std::iter::once(&names.0).chain(&names.1)) {
        if let Said::Namespace(n) = said {
            world.namespaces.insert(name.clone(), n.clone());
        }
    }
    oracle(&world, half)
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
