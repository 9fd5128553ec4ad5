use std::collections::BTreeSet;

use proptest::{collection as many, prelude::*};

use super::*;
use crate::{
    kinds::{Node, PolicyTable},
    page::Token,
};

fn table(namespace: &str, id: u64, endpoints: u32) -> (Key, PolicyTable) {
    let view = PolicyTable {
        namespace: namespace.into(),
        id: axoneme_model::rows::TableId(id),
        endpoints,
        content: Arc::default(),
    };
    (view.key(), view)
}

fn put(store: &Store<PolicyTable>, namespace: &str, id: u64, endpoints: u32) {
    let (key, view) = table(namespace, id, endpoints);
    store.apply([(key, Some(view))]);
}

fn names(items: &[(PolicyTable, u64)]) -> Vec<String> {
    items.iter().map(|(t, _)| format!("{}/{}", t.namespace, t.id.0)).collect()
}

#[test]
fn pages_go_on_behind_the_last_one_and_stay_within_their_namespace() {
    let store = Store::default();
    for (namespace, id) in [("a", 1), ("b", 1), ("b", 2), ("b", 3), ("ba", 1)] {
        put(&store, namespace, id, 1);
    }
    let scope = Scope::Namespace("b".into());
    let first = store.batch(&scope, None, |_| true, 2);
    assert_eq!(names(&first.items), ["b/1", "b/2"]);
    let token = Token::new("policytables", first.version, &first.more.unwrap());
    let token = Token::parse(&token.text(), "policytables").unwrap();
    assert_eq!(token.version(), first.version);
    let second = store.batch(&scope, Some(&token.after()), |_| true, 2);
    assert_eq!((names(&second.items), second.more), (vec!["b/3".to_owned()], None));
    // a token of another namespace leads to no object outside of the scope
    let foreign = store.batch(&scope, Some(&("a".into(), "z".into())), |_| true, 9);
    assert_eq!(names(&foreign.items).len(), 3);
    assert!(store.batch(&scope, Some(&("c".into(), "".into())), |_| true, 9).items.is_empty());
    assert!(Token::parse(&token.text(), "endpoints").is_err(), "a token is good for one resource");
    for bad in ["", "x", "eyJ9", &"A".repeat(5000)] {
        assert!(Token::parse(bad, "policytables").is_err(), "{bad}");
    }
}

#[test]
fn one_look_is_bounded_however_little_is_kept() {
    let store = Store::default();
    store.apply((0..3 * LOOK as u64).map(|id| table("a", id, 1)).map(|(k, v)| (k, Some(v))));
    let batch = store.batch(&Scope::All, None, |_| false, 10);
    assert!(batch.items.is_empty() && batch.more.is_some());
}

#[test]
fn what_makes_no_difference_is_no_change() {
    let store = Store::default();
    put(&store, "a", 1, 1);
    let version = *store.newest().borrow();
    put(&store, "a", 1, 1);
    store.apply([(table("a", 9, 1).0, None)]);
    assert_eq!(*store.newest().borrow(), version);
    // a node that acknowledges one revision after the other is no news to those who watch, and yet shown as it is
    let nodes = Store::<Node>::default();
    let key: Key = ("".into(), "n".into());
    let node = |acknowledged| Node { name: "n".into(), acknowledged, ..Node::default() };
    nodes.apply([(key.clone(), Some(node(Some(1))))]);
    let version = *nodes.newest().borrow();
    nodes.apply([(key.clone(), Some(node(Some(2))))]);
    assert_eq!(nodes.get(&key).unwrap(), (node(Some(2)), version));
}

#[test]
fn a_version_of_another_store_or_from_before_the_log_is_gone() {
    let (store, other) = (Store::default(), Store::<PolicyTable>::default());
    put(&store, "a", 1, 1);
    let version = *store.newest().borrow();
    let all = |since| store.changes(&Scope::All, since, |_| true).map(|c| c.events.len());
    assert_eq!(all(version - 1), Ok(1));
    assert_eq!(all(version), Ok(0));
    assert_eq!(all(version + 1), Err(Gone), "of the future");
    assert_eq!(all(*other.newest().borrow()), Err(Gone));
    for id in 0..=LOG as u64 {
        put(&store, "b", id, 1);
    }
    assert_eq!(all(version - 1), Err(Gone));
    assert!(all(version).is_err() && all(*store.newest().borrow()).is_ok());
}

#[test]
fn a_store_that_has_counted_through_begins_anew_and_says_so() {
    let store = Store::<PolicyTable>::based_on((7 << COUNT_BITS) + (1 << COUNT_BITS) - 2);
    put(&store, "a", 1, 1);
    let last = *store.newest().borrow();
    put(&store, "a", 2, 1);
    assert!(store.changes(&Scope::All, last, |_| true).is_err());
    let now = *store.newest().borrow();
    assert_ne!(now >> COUNT_BITS, last >> COUNT_BITS);
    assert_eq!(store.changes(&Scope::All, now - 1, |_| true).unwrap().events.len(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8, u8),
    Remove(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let put = (0..3u8, 0..6u8, 0..4u8).prop_map(|(n, i, e)| Step::Put(n, i, e));
    prop_oneof![3 => put, 1 => (0..3u8, 0..6u8).prop_map(|(n, i)| Step::Remove(n, i))]
}

proptest! {
    /// Who lists by pages while things change, and then follows the changes since the list's version, ends with what is
    /// there: for every selection, whatever changed between two pages.
    #[test]
    fn pages_and_the_changes_since_the_first_make_what_is_there(
        steps in many::vec(step(), 1..60),
        page in 1..4usize,
        only in proptest::option::of(0..3u8),
    ) {
        let store = Store::default();
        let keep = |t: &PolicyTable| t.endpoints % 2 == 1;
        let scope = only.map_or(Scope::All, |n| Scope::Namespace(n.to_string().into()));
        let mut steps = steps.into_iter();
        let mut take = |n: usize| for step in steps.by_ref().take(n) {
            match step {
                Step::Put(n, i, e) => put(&store, &n.to_string(), i.into(), e.into()),
                Step::Remove(n, i) => store.apply([(table(&n.to_string(), i.into(), 0).0, None)]),
            }
        };
        take(10);
        let mut seen = BTreeMap::new();
        let (mut after, mut version) = (None, None);
        loop {
            let batch = store.batch(&scope, after.as_ref(), keep, page);
            version.get_or_insert(batch.version);
            seen.extend(batch.items.iter().map(|(t, _)| (t.key(), t.clone())));
            take(3);
            after = batch.more;
            if after.is_none() {
                break;
            }
        }
        take(usize::MAX);
        let mut since = version.unwrap();
        loop {
            let changes = store.changes(&scope, since, keep).unwrap();
            if changes.reached == since {
                break;
            }
            since = changes.reached;
            for (what, view, _) in changes.events {
                match what {
                    Happened::Deleted => drop(seen.remove(&view.key())),
                    Happened::Added | Happened::Modified => drop(seen.insert(view.key(), view)),
                }
            }
        }
        let now = store.batch(&scope, None, keep, usize::MAX);
        let now: BTreeSet<_> = now.items.iter().map(|(t, _)| (t.key(), t.endpoints)).collect();
        prop_assert_eq!(seen.values().map(|t| (t.key(), t.endpoints)).collect::<BTreeSet<_>>(), now);
    }
}
