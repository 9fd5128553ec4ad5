//! Whom an entry sets apart from the rest of their kind.

use axoneme_model::{PeerClass, policy::CidrScope};

use super::super::{classes::Classes, sets::Sets};
use crate::{
    feature::{Feature, Property},
    peer::PeerKind,
    resolve::{Class, matches},
    spec::{Entry, covers, names_reserved},
};

/// The classes that an entry means otherwise than by meaning all of their kind, and those that it does not mean though it
/// means their kind: found by what it names instead of by asking all of them. For an entry that means whoever: those
/// whose ports matter to it. There may be some among them that it does not set apart. Sorted, each once.
pub(in crate::engine) fn candidates(entry: &Entry, classes: &Classes, sets: &Sets) -> Vec<PeerClass> {
    let peers = &entry.peers;
    let broad = peers.is_broad();
    let mut found = vec![];
    if broad && entry.ports.has_names() {
        found.extend(&classes.with_ports);
    }
    if peers.any {
        return found;
    }
    found.extend(peers.selectors.iter().flat_map(|s| sets.matched(s)).flat_map(|set| classes.of_set(set)));
    let covered = |f: &Feature, kinds: [PeerKind; 2]| kinds.into_iter().any(|k| covers(f, k));
    for feature in &peers.features {
        let outside_only = matches!(&**feature, Property::Cidr(b) if b.scope != CidrScope::Anyone);
        let pods = outside_only || covered(feature, [PeerKind::PodsV4, PeerKind::PodsV6]);
        // nodes aside, which are asked one by one, whoever has the feature is of a kind that is meant
        if !(pods && covered(feature, [PeerKind::WorldV4, PeerKind::WorldV6])) {
            found.extend(classes.of_feature(feature));
        }
    }
    for kind in PeerKind::ALL.into_iter().filter(|k| peers.excepts(*k)) {
        if kind.is_pods() {
            found.extend(&classes.waiting);
        } else {
            found.extend(classes.reserved.iter().filter(|(b, _)| b.is_world()).flat_map(|(_, ids)| ids));
        }
    }
    let by_labels = peers.selectors.iter().any(names_reserved);
    for (base, ids) in classes.reserved.iter().filter(|(b, _)| by_labels || !b.is_world()) {
        let matching =
            |id: &&PeerClass| classes.by_id.get(id).is_some_and(|c| peers.matches_reserved(*base, &c.features));
        found.extend(ids.iter().filter(matching));
    }
    // while identities move a class may have several label sets, of which the entry means some
    found.retain(|id| match classes.by_id.get(id) {
        Some(class) if class.sets.len() > 1 && !broad => {
            let labels = class.sets.iter().filter_map(|s| sets.labels(*s)).collect();
            let (base, families) = (class.base, class.families);
            matches(entry, &Class { id: *id, base, families, labels, features: &class.features })
        }
        class => class.is_some(),
    });
    found.sort_unstable();
    found.dedup();
    found
}
