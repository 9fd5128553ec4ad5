use axoneme_model::LabelKey;
use proptest::{collection as many, prelude::*};

use super::*;

const GRACE: Duration = Duration::from_mins(1);

fn labels(app: &str) -> Labels {
    Labels::new().with(LabelKey::k8s("app"), app)
}

fn set(apps: &[&str]) -> BTreeSet<Labels> {
    apps.iter().map(|a| labels(a)).collect()
}

fn wanting(apps: &[&str]) -> Identities {
    let mut i = Identities::default();
    for a in apps {
        i.want(labels(a), true);
    }
    i
}

fn none() -> BTreeSet<Labels> {
    BTreeSet::new()
}

#[test]
fn a_set_gets_one_number_however_often_it_is_asked_for() {
    let mut i = wanting(&["a", "b"]);
    let first = i.create();
    assert_eq!(first.len(), 2);
    assert_eq!(i.create(), vec![], "they are under way");
    for (id, l) in first {
        assert!((Identity::FIRST..=Identity::LAST).contains(&id));
        i.observed(id, l);
    }
    assert_eq!(i.create(), vec![]);
    assert_eq!(i.advance(&none(), 0, Instant::now()), vec![]);
    assert_eq!((i.take_changes().len(), i.missing()), (2, 0));
}

#[test]
fn a_lost_race_takes_another_number() {
    let mut i = wanting(&["a"]);
    let (id, _) = i.create().remove(0);
    i.not_created(id);
    i.observed(id, labels("of somebody else"));
    let (other, l) = i.create().remove(0);
    assert_ne!(other, id);
    assert_eq!(l, labels("a"));
}

#[test]
fn of_two_objects_with_the_same_labels_the_lower_counts_and_the_other_goes() {
    let (mut i, t) = (wanting(&["a"]), Instant::now());
    i.observed(Identity(300), labels("a"));
    i.observed(Identity(299), labels("a"));
    i.advance(&none(), 0, t);
    assert_eq!(i.active()[&labels("a")], Identity(299));
    i.collect(|_| false, GRACE, t);
    assert_eq!(i.collect(|_| false, GRACE, t + GRACE), [Identity(300)]);
}

#[test]
fn pods_move_only_after_the_nodes_know_or_the_deadline() {
    let (mut i, t) = (wanting(&["a", "b"]), Instant::now());
    i.observed(Identity(300), labels("a"));
    assert_eq!(i.advance(&set(&["a"]), 0, t), vec![(Identity(300), labels("a"))]);
    i.announced(Identity(300), labels("a"), 7, t + GRACE);
    assert_eq!(i.advance(&set(&["a"]), 6, t), vec![]);
    assert_eq!(i.take_changes(), vec![]);
    i.advance(&set(&["a"]), 7, t);
    assert_eq!(i.take_changes(), vec![(labels("a"), Some(Identity(300)))]);

    i.observed(Identity(301), labels("b"));
    i.announced(Identity(301), labels("b"), 9, t + GRACE);
    i.advance(&set(&["b"]), 0, t);
    assert_eq!(i.take_changes(), vec![]);
    i.advance(&set(&["b"]), 0, t + GRACE);
    assert_eq!(i.take_changes(), vec![(labels("b"), Some(Identity(301)))]);
}

#[test]
fn an_object_that_goes_or_is_rewritten_takes_its_number_back() {
    let (mut i, t) = (wanting(&["a"]), Instant::now());
    i.observed(Identity(300), labels("a"));
    i.advance(&none(), 0, t);
    i.take_changes();
    i.observed(Identity(300), labels("forged"));
    assert_eq!(i.take_changes(), vec![(labels("a"), None)]);
    assert_eq!(i.missing(), 1);
    assert_eq!(i.create().len(), 1);
}

#[test]
fn a_number_in_use_is_never_collected() {
    let (mut i, t) = (Identities::default(), Instant::now());
    i.observed(Identity(300), labels("a"));
    i.collect(|_| true, GRACE, t);
    assert_eq!(i.collect(|_| true, GRACE, t + GRACE * 2), []);
    // unused, used again, unused: the grace starts over
    i.collect(|_| false, GRACE, t + GRACE * 3);
    i.want(labels("a"), true);
    i.collect(|_| false, GRACE, t + GRACE * 4);
    i.want(labels("a"), false);
    i.collect(|_| false, GRACE, t + GRACE * 5);
    assert_eq!(i.collect(|_| false, GRACE, t + GRACE * 5 + GRACE / 2), []);
    assert_eq!(i.collect(|_| false, GRACE, t + GRACE * 6), [Identity(300)]);
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
        for (which, app, hear) in steps {
            for r in &mut replicas {
                r.want(labels(&app), true);
            }
            for (id, l) in replicas[usize::from(which)].create() {
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
            r.advance(&none(), 0, now);
            for (l, id) in r.active() {
                prop_assert_eq!(&server[id], l);
            }
            actives.push(r.active().keys().cloned().collect::<BTreeSet<_>>());
        }
        prop_assert_eq!(&actives[0], &actives[1]);
    }
}
