//! Nothing that a user writes can panic, and every answer says where.

use axoneme_intake::{FieldError, parse};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::corpus;

/// Steps from the root to a value.
type Path = Vec<Step>;

#[derive(Clone, Debug)]
enum Step {
    Key(String),
    Index(usize),
}

/// Every place inside the object, parents first.
fn places(value: &Value, at: &mut Path, out: &mut Vec<Path>) {
    out.push(at.clone());
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                at.push(Step::Key(key.clone()));
                places(value, at, out);
                at.pop();
            }
        }
        Value::Array(items) => {
            for (i, value) in items.iter().enumerate() {
                at.push(Step::Index(i));
                places(value, at, out);
                at.pop();
            }
        }
        _ => {}
    }
}

fn at<'v>(value: &'v mut Value, path: &[Step]) -> Option<&'v mut Value> {
    path.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get_mut(key.as_str()),
        Step::Index(i) => value.get_mut(*i),
    })
}

#[derive(Clone, Debug)]
enum Change {
    Delete,
    Replace(Value),
    Duplicate,
    Rename(String),
    Insert(String, Value),
    /// The value of another place of the same object.
    Copy(prop::sample::Index),
}

fn scalar() -> impl Strategy<Value = Value> {
    let odd = [
        "",
        "0",
        "-1",
        "65536",
        "1e9",
        "10.0.0.0/8",
        "::/0",
        "10.0.0.0/33",
        "k8s:",
        "reserved:x",
        "$",
        ":",
        "a/b/c",
        "None",
        "world",
        "TCP",
        "*",
        "\u{0}",
        "ä",
        "🦀",
        "cidr:1/2",
        "[0]",
        "a.b[c]",
    ];
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e300_f64..1e300).prop_map(|f| json!(f)),
        prop::sample::select(odd.to_vec()).prop_map(Value::from),
        ".{0,70}".prop_map(Value::from),
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-zA-Z]{1,9}", inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        Just(Change::Delete),
        any_value().prop_map(Change::Replace),
        Just(Change::Duplicate),
        "[a-zA-Z]{1,9}".prop_map(Change::Rename),
        ("[a-zA-Z]{1,9}", any_value()).prop_map(|(k, v)| Change::Insert(k, v)),
        any::<prop::sample::Index>().prop_map(Change::Copy),
    ]
}

fn apply(object: &mut Value, place: prop::sample::Index, change: &Change) {
    let mut all = Vec::new();
    places(object, &mut Vec::new(), &mut all);
    let path = place.get(&all).clone();
    let source =
        if let Change::Copy(from) = change { at(object, from.get(all.as_slice()).as_slice()).cloned() } else { None };
    let Some((last, parents)) = path.split_last() else {
        if let Change::Replace(value) = change {
            *object = value.clone();
        }
        return;
    };
    let Some(parent) = at(object, parents) else { return };
    match (parent, last, change) {
        (Value::Object(map), Step::Key(key), Change::Delete) => drop(map.remove(key)),
        (Value::Object(map), Step::Key(key), Change::Rename(new)) => {
            let value = map.remove(key).unwrap_or_default();
            map.insert(new.clone(), value);
        }
        (Value::Object(map), _, Change::Insert(key, value)) => drop(map.insert(key.clone(), value.clone())),
        (Value::Array(items), Step::Index(i), Change::Delete) => drop(items.remove(*i)),
        (Value::Array(items), Step::Index(i), Change::Duplicate) => {
            let item = items[*i].clone();
            items.push(item);
        }
        (parent, last, Change::Replace(value)) => set(parent, last, value.clone()),
        (parent, last, Change::Copy(_)) => set(parent, last, source.unwrap_or_default()),
        _ => {}
    }
}

fn set(parent: &mut Value, step: &Step, new: Value) {
    if let Some(place) = at(parent, std::slice::from_ref(step)) {
        *place = new;
    }
}

/// Whether the error's path leads to a value of the object, or to a field that is missing in an object that is there.
fn leads_somewhere(object: &Value, error: &FieldError) -> bool {
    fn walk(value: &Value, path: &str) -> bool {
        if path.is_empty() {
            return true;
        }
        match value {
            Value::Object(map) => map.iter().any(|(key, value)| {
                let dotted = path.strip_prefix('.').unwrap_or(path).strip_prefix(key.as_str());
                let bracketed = path.strip_prefix(format!("[{key}]").as_str());
                [dotted, bracketed].into_iter().flatten().any(|rest| walk(value, rest))
            }),
            Value::Array(items) => items
                .iter()
                .enumerate()
                .any(|(i, value)| path.strip_prefix(format!("[{i}]").as_str()).is_some_and(|rest| walk(value, rest))),
            _ => false,
        }
    }
    if error.value.is_some() {
        return walk(object, &error.path);
    }
    // missing, or a setting that another name took the place of
    let parent = error.path.rsplit_once('.').map_or("", |(parent, _)| parent);
    walk(object, parent)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(20_000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn broken_objects_are_refused_with_a_place_and_never_panic(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), change()), 1..5),
    ) {
        thread_local!(static CORPUS: Vec<Value> = corpus::all());
        let mut object = CORPUS.with(|all| which.get(all).clone());
        for (place, change) in &changes {
            apply(&mut object, *place, change);
        }
        if let Err(errors) = parse(&object) {
            prop_assert!(!errors.errors.is_empty());
            prop_assert!(!errors.to_string().is_empty());
            for error in &errors.errors {
                prop_assert!(!error.message.is_empty(), "{:?}", error);
                prop_assert!(leads_somewhere(&object, error), "{}\n{}", error, object);
            }
            if let Some(closed) = &errors.fail_closed {
                prop_assert!(closed.rules.iter().all(|r| r.ingress.is_empty() && r.egress.is_empty()));
            }
        }
        prop_assert_eq!(parse(&object), parse(&object));
    }
}

#[test]
fn corpus_covers_every_kind() {
    let kinds: std::collections::BTreeSet<String> =
        corpus::all().iter().filter_map(|o| Some(o.get("kind")?.as_str()?.to_owned())).collect();
    for kind in [
        "Namespace",
        "Pod",
        "Node",
        "Service",
        "EndpointSlice",
        "NetworkPolicy",
        "ClusterNetworkPolicy",
        "CiliumNetworkPolicy",
        "CiliumClusterwideNetworkPolicy",
        "CiliumCIDRGroup",
        "CiliumIdentity",
        "CiliumNode",
        "CiliumPodIPPool",
        "AxonemeConfig",
    ] {
        assert!(kinds.contains(kind), "{kind} is missing in {kinds:?}");
    }
}

/// Places of a policy where the user chooses the keys.
const FREE: [&str; 3] = ["matchLabels", "metadata", "status"];

#[test]
fn unknown_field_anywhere_in_a_policy_is_refused_at_its_place() {
    let mut checked = 0;
    for object in corpus::all() {
        let kind = object["kind"].as_str().unwrap_or_default();
        if !kind.ends_with("NetworkPolicy") || parse(&object).is_err() {
            continue;
        }
        let mut all = Vec::new();
        places(&object, &mut Vec::new(), &mut all);
        for path in all {
            let free = path.iter().any(|s| matches!(s, Step::Key(k) if FREE.contains(&k.as_str())));
            let mut broken = object.clone();
            let Some(Value::Object(map)) = at(&mut broken, &path).filter(|_| !free) else { continue };
            map.insert("zzzunknown".to_owned(), json!({}));
            checked += 1;
            let Err(errors) = parse(&broken) else { panic!("accepted at {path:?}: {broken}") };
            assert!(errors.errors.iter().any(|e| e.path.ends_with("zzzunknown")), "{path:?}\n{errors}");
        }
    }
    assert!(checked > 100, "only {checked} places");
}

#[test]
fn deep_nesting_is_refused_without_a_stack_overflow() {
    let mut deep = json!({});
    for _ in 0..100 {
        deep = json!([deep]);
    }
    for object in corpus::all() {
        let mut all = Vec::new();
        places(&object, &mut Vec::new(), &mut all);
        for path in all.iter().filter(|p| !p.is_empty()) {
            let mut broken = object.clone();
            if let Some(place) = at(&mut broken, path) {
                *place = deep.clone();
            }
            let _ = parse(&broken);
        }
    }
}
