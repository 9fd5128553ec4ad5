use axoneme_model::LabelKey;
use proptest::{collection as many, prelude::*};

use super::*;

const GRACE: Duration = Duration::from_secs(60);

fn labels(app: &str) -> Labels {
    Labels::new().with(LabelKey::k8s("app"), app)
}

fn set(apps: &[&str]) -> BTreeSet<Labels> {
    apps.iter().map(|a| labels(a)).collect()
}

fn none() -> BTreeSet<Identity> {
    BTreeSet::new()
}

#[test]
fn a_set_gets_one_number_however_often_it_is_asked_for() {
    let (mut i, now) = (Identities::default(), Instant::now());
    let first = i.plan(&set(&["a", "b"]), &none(), GRACE, now);
    assert_eq!(first.create.len(), 2);
    assert_eq!(i.plan(&set(&["a", "b"]), &none(), GRACE, now), Plan::default(), "they are under way");
    for (id, l) in first.create {
        assert!((Identity::FIRST..=Identity::LAST).contains(&id));
        i.observed(id, l);
    }
    assert_eq!(i.plan(&set(&["a", "b"]), &none(), GRACE, now), Plan::default());
}

#[test]
fn a_lost_race_takes_another_number() {
    let (mut i, now) = (Identities::default(), Instant::now());
    let (id, _) = i.plan(&set(&["a"]), &none(), GRACE, now).create.remove(0);
    i.not_created(id);
    i.observed(id, labels("of somebody else"));
    let (other, l) = i.plan(&set(&["a"]), &none(), GRACE, now).create.remove(0);
    assert_ne!(other, id);
    assert_eq!(l, labels("a"));
}

#[test]
fn of_two_objects_with_the_same_labels_the_lower_counts_and_the_other_goes() {
    let (mut i, t) = (Identities::default(), Instant::now());
    i.observed(Identity(300), labels("a"));
    i.observed(Identity(299), labels("a"));
    assert!(i.advance(&set(&["a"]), &BTreeSet::new(), 0, t).0);
    assert_eq!(i.active()[&labels("a")], Identity(299));
    i.plan(&set(&["a"]), &none(), GRACE, t);
    assert_eq!(i.plan(&set(&["a"]), &none(), GRACE, t + GRACE).delete, [Identity(300)]);
}

#[test]
fn pods_move_only_after_the_nodes_know_or_the_deadline() {
    let (mut i, t) = (Identities::default(), Instant::now());
    i.observed(Identity(300), labels("a"));
    let (changed, announce) = i.advance(&set(&["a"]), &set(&["a"]), 0, t);
    assert!(!changed);
    assert_eq!(announce, vec![(Identity(300), labels("a"))]);
    i.announced(Identity(300), labels("a"), 7, t + GRACE);
    assert_eq!(i.advance(&set(&["a"]), &set(&["a"]), 6, t), (false, vec![]));
    assert!(i.advance(&set(&["a"]), &set(&["a"]), 7, t).0);
    assert_eq!(i.active()[&labels("a")], Identity(300));

    i.observed(Identity(301), labels("b"));
    i.announced(Identity(301), labels("b"), 9, t + GRACE);
    assert!(!i.advance(&set(&["a", "b"]), &set(&["b"]), 0, t).0);
    assert!(i.advance(&set(&["a", "b"]), &set(&["b"]), 0, t + GRACE).0);
}

#[test]
fn a_number_in_use_is_never_collected() {
    let (mut i, t) = (Identities::default(), Instant::now());
    i.observed(Identity(300), labels("a"));
    let used = BTreeSet::from([Identity(300)]);
    i.plan(&set(&[]), &used, GRACE, t);
    assert_eq!(i.plan(&set(&[]), &used, GRACE, t + GRACE * 2).delete, []);
    // unused, used again, unused: the grace starts over
    i.plan(&set(&[]), &none(), GRACE, t + GRACE * 3);
    i.plan(&set(&["a"]), &none(), GRACE, t + GRACE * 4);
    i.plan(&set(&[]), &none(), GRACE, t + GRACE * 5);
    assert_eq!(i.plan(&set(&[]), &none(), GRACE, t + GRACE * 5 + GRACE / 2).delete, []);
    assert_eq!(i.plan(&set(&[]), &none(), GRACE, t + GRACE * 6).delete, [Identity(300)]);
}

proptest! {
    /// Two replicas that both believe to lead, against one API server that refuses a name that is taken: no number ever
    /// stands for two sets.
    #[test]
    fn two_allocators_never_give_a_number_two_meanings(
        steps in many::vec((any::<bool>(), "[a-f]{1,2}", any::<bool>()), 1..60)
    ) {
        let mut replicas = [Identities::default(), Identities::default()];
        let mut server: BTreeMap<Identity, Labels> = BTreeMap::new();
        let now = Instant::now();
        let mut wanted = BTreeSet::new();
        for (which, app, hear) in steps {
            wanted.insert(labels(&app));
            let plan = replicas[usize::from(which)].plan(&wanted, &none(), GRACE, now);
            for (id, l) in plan.create {
                match server.entry(id) {
                    std::collections::btree_map::Entry::Vacant(v) => drop(v.insert(l)),
                    std::collections::btree_map::Entry::Occupied(_) => replicas[usize::from(which)].not_created(id),
                }
            }
            for r in replicas.iter_mut().take(if hear { 2 } else { 0 }) {
                for (id, l) in &server {
                    r.observed(*id, l.clone());
                }
            }
        }
        let mut actives = Vec::new();
        for r in &mut replicas {
            for (id, l) in &server {
                r.observed(*id, l.clone());
            }
            r.advance(&wanted, &BTreeSet::new(), 0, now);
            for (l, id) in r.active() {
                prop_assert_eq!(&server[id], l);
            }
            actives.push(r.active().keys().cloned().collect::<BTreeSet<_>>());
        }
        prop_assert_eq!(&actives[0], &actives[1]);
    }
}
