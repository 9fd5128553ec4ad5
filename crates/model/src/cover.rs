//! Whether one rule reaches all that another does, whatever the cluster holds.
//!
//! Read off the rules alone, so that the answer stays right as pods, groups and addresses come and go. *Guarantees*: where
//! it says yes, no packet in any world matches the narrow rule and not the wide one. *Caveats*: no means "not for certain".

use crate::{
    cidr::{self, Cidr},
    labels::{LabelKey, Source, names},
    policy::{CidrScope, DirectedRule, Entity, Peer, Peers, PortMatch, Ports, Subject},
    selector::{Operator, Requirement, Selector},
};

/// Whether `wide` selects everybody whom `narrow` selects.
#[must_use]
pub fn subject(wide: &Subject, narrow: &Subject) -> bool {
    match (wide, narrow) {
        (Subject::Endpoints(wide), Subject::Endpoints(narrow)) => selector(wide, narrow),
        // labels of nodes are those of pods: without a source, or `k8s`
        (Subject::Nodes(wide), Subject::Nodes(narrow)) => wide == narrow,
        (Subject::Endpoints(_), Subject::Nodes(_)) | (Subject::Nodes(_), Subject::Endpoints(_)) => false,
    }
}

/// Whether `wide` matches every pod that `narrow` matches; and every reserved peer, if `narrow` names any.
#[must_use]
pub fn selector(wide: &Selector, narrow: &Selector) -> bool {
    // beside reserved labels, which nobody has who has others, a label without a source is one of `k8s`
    let of_pods = !reads_reserved(wide) && !reads_reserved(narrow);
    let same_key = |a: &LabelKey, b: &LabelKey| if of_pods { same_of_pods(a, b) } else { a == b };
    wide.requirements().iter().all(|w| {
        let given = of_pods && w.operator == Operator::Exists && all_have(&w.key);
        given || narrow.requirements().iter().any(|n| same_key(&w.key, &n.key) && implies(n, w))
    })
}

/// Whether every pod has the label: namespace, account and cluster.
fn all_have(key: &LabelKey) -> bool {
    let always = [names::NAMESPACE, names::SERVICE_ACCOUNT, names::CLUSTER];
    matches!(key.source, Source::Any | Source::K8s) && always.contains(&&*key.name)
}

fn reads_reserved(selector: &Selector) -> bool {
    selector.keys().any(|k| k.source == Source::Reserved)
}

fn same_of_pods(a: &LabelKey, b: &LabelKey) -> bool {
    let of_pods = |k: &LabelKey| matches!(k.source, Source::Any | Source::K8s);
    a == b || (a.name == b.name && of_pods(a) && of_pods(b))
}

/// Of two conditions on the same label.
fn implies(narrow: &Requirement, wide: &Requirement) -> bool {
    use Operator::{DoesNotExist, Exists, In, NotIn};
    match (narrow.operator, wide.operator) {
        (In | Exists, Exists) | (DoesNotExist, DoesNotExist | NotIn) => true,
        (In, In) => narrow.values.iter().all(|v| wide.values.contains(v)),
        (In, NotIn) => !narrow.values.iter().any(|v| wide.values.contains(v)),
        (NotIn, NotIn) => wide.values.iter().all(|v| narrow.values.contains(v)),
        (Exists | NotIn | DoesNotExist, In)
        | (Exists, NotIn | DoesNotExist)
        | (In | NotIn, DoesNotExist)
        | (NotIn | DoesNotExist, Exists) => false,
    }
}

/// Whether every packet that `narrow` matches, of a subject of both in the same direction, is matched by `wide`.
#[must_use]
pub fn directed(wide: &DirectedRule, narrow: &DirectedRule) -> bool {
    peers(&wide.peers, &narrow.peers) && ports(&wide.ports, &narrow.ports)
}

fn peers(wide: &Peers, narrow: &Peers) -> bool {
    match (wide, narrow) {
        (Peers::Any, _) => true,
        (Peers::OneOf(wide), Peers::Any) => wide.contains(&Peer::Entity(Entity::All)),
        (Peers::OneOf(wide), Peers::OneOf(narrow)) => narrow.iter().all(|n| wide.iter().any(|w| peer(w, n))),
    }
}

fn peer(wide: &Peer, narrow: &Peer) -> bool {
    match (wide, narrow) {
        (Peer::Entity(wide), narrow) => entity(*wide, narrow),
        (_, Peer::Entity(narrow)) if is_nobody(*narrow) => true,
        (Peer::Endpoints(wide), Peer::Endpoints(narrow)) => {
            // without a reserved label a selector means pods alone
            (!reads_reserved(narrow) || reads_reserved(wide)) && selector(wide, narrow)
        }
        (
            Peer::Cidr { cidr: wide, except: without, scope: reach },
            Peer::Cidr { cidr: narrow, except, scope: its_reach },
        ) => reach >= its_reach && block((*wide, without), (*narrow, except)),
        _ => wide == narrow,
    }
}

/// Identities that nobody has, see [`crate::verdict`].
const fn is_nobody(entity: Entity) -> bool {
    matches!(entity, Entity::Init | Entity::Unmanaged | Entity::Health | Entity::Ingress | Entity::None)
}

fn entity(wide: Entity, narrow: &Peer) -> bool {
    if let Peer::Entity(narrow) = narrow {
        return wide == *narrow || wide == Entity::All || is_nobody(*narrow) || within(wide, *narrow);
    }
    let outside = |peer: &Peer| match peer {
        Peer::Cidr { cidr, scope: CidrScope::Outside, .. } => Some(Some(cidr.is_ipv4())),
        Peer::CidrGroup { scope: CidrScope::Outside, .. } | Peer::CidrGroups { scope: CidrScope::Outside, .. } => {
            Some(None)
        }
        _ => None,
    };
    match wide {
        Entity::All => true,
        Entity::World => outside(narrow).is_some(),
        Entity::WorldIpv4 => outside(narrow) == Some(Some(true)),
        Entity::WorldIpv6 => outside(narrow) == Some(Some(false)),
        Entity::Cluster => match narrow {
            Peer::Endpoints(selector) => !reads_reserved(selector),
            Peer::Nodes(_) => true,
            _ => false,
        },
        _ => false,
    }
}

const fn within(wide: Entity, narrow: Entity) -> bool {
    matches!(
        (wide, narrow),
        (Entity::World, Entity::WorldIpv4 | Entity::WorldIpv6)
            | (Entity::Cluster, Entity::Host | Entity::RemoteNode | Entity::KubeApiserver)
    )
}

fn block((wide, without): (Cidr, &[Cidr]), (narrow, except): (Cidr, &[Cidr])) -> bool {
    let left_out = |e: &Cidr| {
        let apart = !cidr::contains(*e, narrow) && !cidr::contains(narrow, *e);
        apart || except.iter().any(|own| cidr::contains(*own, *e))
    };
    cidr::contains(wide, narrow) && without.iter().all(left_out)
}

fn ports(wide: &Ports, narrow: &Ports) -> bool {
    match (wide, narrow) {
        (Ports::Any, _) => true,
        (Ports::OneOf(_), Ports::Any) => false,
        (Ports::OneOf(wide), Ports::OneOf(narrow)) => narrow.iter().all(|n| wide.iter().any(|w| port(w, n))),
    }
}

fn port(wide: &PortMatch, narrow: &PortMatch) -> bool {
    match (wide, narrow) {
        (
            PortMatch::Protocol(wide),
            PortMatch::Range { protocol, .. }
            | PortMatch::IcmpType { protocol, .. }
            | PortMatch::Named { protocol: Some(protocol), .. },
        ) => wide == protocol,
        (
            PortMatch::Range { protocol: wide, first, last },
            PortMatch::Range { protocol, first: its_first, last: its_last },
        ) => wide == protocol && first <= its_first && its_last <= last,
        (PortMatch::Named { protocol: None, name: wide }, PortMatch::Named { name, .. }) => wide == name,
        _ => wide == narrow,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(operator: Operator, values: &[&str]) -> Requirement {
        Requirement { key: LabelKey::k8s("a"), operator, values: values.iter().map(|v| (*v).into()).collect() }
    }

    /// Every pair of conditions on one label against every value that it can have: sound, and of conditions on one label
    /// also complete.
    #[test]
    fn a_condition_implies_another_where_no_value_tells_them_apart() {
        let sets: [&[&str]; 3] = [&["x"], &["y"], &["x", "y"]];
        let mut all = vec![requirement(Operator::Exists, &[]), requirement(Operator::DoesNotExist, &[])];
        all.extend(sets.iter().flat_map(|s| [requirement(Operator::In, s), requirement(Operator::NotIn, s)]));
        let labels = ["x", "y", "z"].map(|v| [(LabelKey::k8s("a"), v.into())].into_iter().collect());
        let labels: Vec<crate::Labels> = labels.into_iter().chain([crate::Labels::new()]).collect();
        for narrow in &all {
            for wide in &all {
                let holds = labels.iter().all(|l| !narrow.matches(l) || wide.matches(l));
                assert_eq!(implies(narrow, wide), holds, "{narrow:?} → {wide:?}");
            }
        }
    }

    #[test]
    fn an_exception_counts_unless_the_narrow_one_makes_it_too() {
        let c = |text: &str| text.parse::<Cidr>().unwrap();
        let all = (c("10.0.0.0/8"), [c("10.1.0.0/16")]);
        assert!(!block((all.0, &all.1), (c("10.0.0.0/8"), &[])));
        assert!(!block((all.0, &all.1), (c("10.1.2.0/24"), &[])));
        assert!(block((all.0, &all.1), (c("10.2.0.0/16"), &[])));
        assert!(block((all.0, &all.1), (c("10.0.0.0/8"), &[c("10.0.0.0/15")])));
        assert!(!block((all.0, &all.1), (c("fd00::/8"), &[])));
    }
}
