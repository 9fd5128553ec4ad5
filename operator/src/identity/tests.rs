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
    i.collect(|_, _| false, GRACE, t);
    assert_eq!(i.collect(|_, _| false, GRACE, t + GRACE), [Identity(300)]);
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
    i.collect(|_, _| true, GRACE, t);
    assert_eq!(i.collect(|_, _| true, GRACE, t + GRACE * 2), []);
    // unused, used again, unused: the grace starts over
    i.collect(|_, _| false, GRACE, t + GRACE * 3);
    i.want(labels("a"), true);
    i.collect(|_, _| false, GRACE, t + GRACE * 4);
    i.want(labels("a"), false);
    i.collect(|_, _| false, GRACE, t + GRACE * 5);
    assert_eq!(i.collect(|_, _| false, GRACE, t + GRACE * 5 + GRACE / 2), []);
    assert_eq!(i.collect(|_, _| false, GRACE, t + GRACE * 6), [Identity(300)]);
}

#[test]
fn an_announcement_that_nobody_waits_for_any_more_is_withdrawn_once() {
    let (mut ids, now) = (Identities::default(), Instant::now());
    let (a, b) = (labels("a"), labels("b"));
    for (l, id) in [(&a, Identity(300)), (&b, Identity(301))] {
        ids.want(l.clone(), true);
        ids.observed(id, l.clone());
        ids.announced(id, l.clone(), 7, now + Duration::from_secs(3));
    }
    assert_eq!(ids.take_withdrawn(), []);
    // the pod got other labels; the other identity's object is gone
    ids.want(a.clone(), false);
    ids.removed(Identity(301));
    assert_eq!(ids.take_withdrawn(), [Identity(300), Identity(301)]);
    assert_eq!(ids.take_withdrawn(), []);
    // gone while it was being told
    ids.announced(Identity(300), a.clone(), 8, now);
    assert_eq!(ids.take_withdrawn(), [Identity(300)]);
    // one that pods use by now stays
    ids.want(a.clone(), true);
    ids.announced(Identity(300), a.clone(), 9, now);
    ids.want(a.clone(), false);
    ids.want(a.clone(), true);
    ids.advance(&BTreeSet::new(), 0, now);
    assert_eq!(ids.take_withdrawn(), []);
}

#[test]
fn an_object_keeps_its_labels_in_the_memory_of_those_who_want_them() {
    let one = |l: &Labels| l.shared().next().map(|(_, v)| std::sync::Arc::as_ptr(v));
    let (mut i, early, late) = (Identities::default(), labels("a"), labels("b"));
    i.observed(Identity(300), labels("a"));
    i.want(early.clone(), true);
    i.want(late.clone(), true);
    i.observed(Identity(301), labels("b"));
    i.advance(&none(), 0, Instant::now());
    for (id, wanted) in [(Identity(300), &early), (Identity(301), &late)] {
        assert_eq!(one(&i.objects[&id]), one(wanted));
        assert_eq!(i.by_labels.get_key_value(wanted).map(|(l, _)| one(l)), Some(one(wanted)));
        assert_eq!(i.active[wanted], id);
    }
}

#[test]
fn many_sets_get_their_numbers_some_at_a_time_and_all_in_the_end() {
    let names: Vec<String> = (0..3 * CREATIONS).map(|n| n.to_string()).collect();
    let mut i = wanting(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let first = i.create();
    assert_eq!((first.len(), i.create().len()), (CREATIONS, 0), "the rest waits for these");
    let (id, l) = first[0].clone();
    i.not_created(id);
    assert_eq!(i.create(), [(id, l)], "an attempt that failed makes room for one");
    let (mut made, mut rounds) = (first, 0);
    while !made.is_empty() {
        made.drain(..).for_each(|(id, l)| i.observed(id, l));
        i.advance(&none(), 0, Instant::now());
        made = i.create();
        rounds += 1;
    }
    assert_eq!((i.missing(), i.active().len(), rounds), (0, names.len(), 3));
}

#[test]
fn the_last_number_is_found_from_wherever_the_search_begins() {
    let mut i = wanting(&["a"]);
    let (id, _) = i.create().remove(0);
    i.not_created(id);
    let left = Identity(if id == Identity::FIRST { Identity::FIRST.0 + 1 } else { id.0 - 1 });
    for taken in (Identity::FIRST.0..=Identity::LAST.0).map(Identity).filter(|t| *t != left) {
        i.observed(taken, labels(&taken.0.to_string()));
    }
    assert_eq!(i.create(), [(left, labels("a"))], "around the end");
    i.want(labels("b"), true);
    assert_eq!((i.create(), i.room()), (vec![], 0));
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

/// What can happen to one set of numbers.
#[derive(Clone, Debug)]
enum Step {
    Want(String, bool),
    Observed(u32, String),
    Removed(u32),
    /// Objects are made, and so many of the attempts fail.
    Create(usize),
    Advance(bool),
}

fn steps() -> impl Strategy<Value = Step> {
    let (app, id) = ("[a-d]", 256u32..262);
    prop_oneof![
        (app, any::<bool>()).prop_map(|(a, w)| Step::Want(a, w)),
        (id.clone(), app).prop_map(|(i, a)| Step::Observed(i, a)),
        id.prop_map(Step::Removed),
        (0usize..3).prop_map(Step::Create),
        any::<bool>().prop_map(Step::Advance),
    ]
}

proptest! {
    /// What is kept of what has something to come is what looking through everything would find.
    #[test]
    fn what_is_kept_is_what_a_search_would_find(steps in many::vec(steps(), 1..80)) {
        let (mut i, now) = (Identities::default(), Instant::now());
        for step in steps {
            match step {
                Step::Want(a, w) => i.want(labels(&a), w),
                Step::Observed(id, a) => i.observed(Identity(id), labels(&a)),
                Step::Removed(id) => i.removed(Identity(id)),
                Step::Create(fail) => {
                    let made = i.create();
                    made.iter().take(fail).for_each(|(id, _)| i.not_created(*id));
                }
                Step::Advance(moves) => {
                    let moves = if moves { set(&["a", "b", "c", "d"]) } else { none() };
                    for (id, l) in i.advance(&moves, 0, now) {
                        i.announced(id, l, 1, now + GRACE);
                    }
                }
            }
            let missing: BTreeSet<_> = i.wanted.iter().filter(|l| !i.active.contains_key(*l)).cloned().collect();
            let under_way: BTreeSet<_> = i.creating.values().cloned().collect();
            let (pending, objectless): (BTreeSet<_>, BTreeSet<_>) =
                missing.iter().cloned().partition(|l| i.by_labels.contains_key(l));
            prop_assert_eq!(i.missing(), missing.len());
            prop_assert_eq!(i.pending(), pending);
            prop_assert_eq!(&i.lacking, &objectless.difference(&under_way).cloned().collect());
            prop_assert_eq!(&i.under_way, &under_way);
            let first = |l: &Labels| i.by_labels.get(l).and_then(axoneme_model::PackedSet::first);
            let canonical = |id: &Identity, l: &Labels| i.wanted.contains(l) && first(l) == Some(id);
            let idle: BTreeSet<_> =
                i.objects.iter().filter(|(id, l)| !canonical(id, l)).map(|(id, _)| *id).collect();
            prop_assert_eq!(&i.idle, &idle);
            let given: BTreeSet<_> = i.objects.keys().chain(i.creating.keys()).collect();
            prop_assert_eq!(i.free.len() + given.len(), (Identity::LAST.0 - Identity::FIRST.0 + 1) as usize);
            prop_assert!(given.into_iter().all(|id| !i.free.contains(id)));
            let active: BTreeSet<_> = i.active.values().copied().collect();
            let usable: BTreeSet<_> = (256..262).map(Identity).filter(|id| i.is_active(*id)).collect();
            prop_assert_eq!(usable, active.into_iter().filter(|id| id.0 < 262).collect());
        }
    }
}
