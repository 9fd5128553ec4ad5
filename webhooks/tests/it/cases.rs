//! `tests/cases/*.yaml`: objects of one kind; `tests/cases/*.txt`: what is answered. `AXONEME_BLESS=1` writes the latter.

use std::{fmt::Write as _, fs, path::Path};

use axoneme_webhooks::{Operation, Request, Response, review};
use serde_json::Value;

use crate::view::{Cluster, small};

/// A request about the object: CREATE, or UPDATE where there is an old one.
pub(crate) fn request(object: &Value, old: &Value) -> Request {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (group, version) = match text("/apiVersion").split_once('/') {
        Some((g, v)) => (g.to_owned(), v.to_owned()),
        None => (String::new(), text("/apiVersion")),
    };
    Request {
        uid: "u".to_owned(),
        group,
        version,
        kind: text("/kind"),
        sub_resource: String::new(),
        name: text("/metadata/name"),
        namespace: text("/metadata/namespace"),
        operation: if old.is_null() { Operation::Create } else { Operation::Update },
        object: object.clone(),
        old_object: old.clone(),
    }
}

fn render(response: &Response) -> String {
    let mut out = String::new();
    match &response.denial {
        None => out.push_str("allowed\n"),
        Some(d) => {
            writeln!(out, "denied {} {}: {}", d.code, d.reason, d.message).unwrap();
            for c in &d.causes {
                let part = |key: &str| c[key].as_str().unwrap().to_owned();
                writeln!(out, "  {} {}: {}", part("reason"), part("field"), part("message")).unwrap();
            }
        }
    }
    for warning in &response.warnings {
        writeln!(out, "  warning: {warning}").unwrap();
    }
    out
}

/// A case without an operation creates its object, or updates `old` to it; `delete: true` deletes `old`.
fn answer(case: &Value, view: &Cluster) -> Response {
    let (object, old) = (&case["object"], &case["old"]);
    if case["delete"] == true {
        let deleted = Request { operation: Operation::Delete, object: Value::Null, ..request(old, old) };
        return review(&deleted, view);
    }
    let mut asked = request(object, old);
    if let Some(sub) = case["subResource"].as_str() {
        sub.clone_into(&mut asked.sub_resource);
    }
    if let Some(kind) = case["kind"].as_str() {
        kind.clone_into(&mut asked.kind);
    }
    review(&asked, view)
}

#[test]
fn each_kind_is_answered_as_written_down() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|f| f.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    assert_eq!(files.len(), 8, "a file a kind, and one of what is no such kind: {files:?}");
    for file in files {
        let cases: Vec<Value> = serde_saphyr::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let mut found = String::new();
        for case in &cases {
            let name = case["case"].as_str().unwrap();
            writeln!(found, "# {name}\n{}", render(&answer(case, &small()))).unwrap();
        }
        let golden = file.with_extension("txt");
        if option_env!("CI").is_none() && std::env::var_os("AXONEME_BLESS").is_some() {
            fs::write(&golden, &found).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(found, expected, "{}: AXONEME_BLESS=1 writes what is found", golden.display());
    }
}

#[test]
fn nothing_is_said_of_a_cluster_that_is_not_read_yet() {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/cilium-network-policy.yaml"));
    let cases: Vec<Value> = serde_saphyr::from_str(&text.unwrap()).unwrap();
    let case = cases.iter().find(|c| c["case"] == "names what is not there").unwrap();
    assert_eq!(answer(case, &small()).warnings.len(), 4);
    assert_eq!(answer(case, &Cluster { complete: false, ..small() }).warnings, Vec::<String>::new());
}

#[test]
fn what_is_too_much_to_look_at_is_not_judged() {
    let case: Value = serde_json::json!({"object": {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "x", "namespace": "lab"}, "spec": {"podSelector": {"matchLabels": {"app": "none"}}}}});
    let warned = |pods: usize| {
        let pod = crate::view::pod("lab", "p", &serde_json::json!({"app": "web"}));
        answer(&case, &Cluster { pods: vec![pod; pods], ..small() }).warnings.len()
    };
    assert_eq!((warned(0), warned(5_000), warned(5_001)), (1, 1, 0));
}

/// Prefixes, each with a port of its own, and all of them at so many ports more.
fn of_size(prefixes: usize, ports: usize) -> Value {
    let port = |n: usize| serde_json::json!({"port": (1 + 2 * n).to_string(), "protocol": "TCP"});
    let all: Vec<String> = (0..prefixes).map(|i| format!("198.{}.{}.0/24", 18 + i / 256, i % 256)).collect();
    let own = all
        .iter()
        .enumerate()
        .map(|(i, c)| serde_json::json!({"toCIDR": [c], "toPorts": [{"ports": [port(2000 + i)]}]}));
    let shared: Vec<Value> =
        (0..ports).map(port).collect::<Vec<_>>().chunks(40).map(|p| serde_json::json!({"ports": p})).collect();
    let mut egress: Vec<Value> = own.collect();
    egress.push(serde_json::json!({"toCIDR": all, "toPorts": shared}));
    serde_json::json!({"object": {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "large",
        "namespace": "lab"}, "spec": {"endpointSelector": {"matchLabels": {"app": "web"}}, "egress": egress}}})
}

#[test]
fn a_policy_that_no_table_holds_is_refused_and_a_smaller_one_is_not() {
    // of each prefix the shared ports and its own: 128 × 127 fit, 128 × 128 are two too many
    let (fits, not) = (answer(&of_size(128, 126), &small()), answer(&of_size(128, 127), &small()));
    assert!(fits.is_allowed() && fits.warnings.is_empty(), "{fits:?}");
    let told = not.denial.expect("too large").message;
    assert!(told.contains("16384 entries of a policy table") && told.contains("nodes hold 16382"), "{told}");
}

#[test]
fn a_policy_that_is_too_much_to_try_is_stored_with_a_warning() {
    let told = answer(&of_size(900, 250), &small());
    assert!(told.is_allowed(), "{told:?}");
    assert!(told.warnings.iter().any(|w| w.contains("too many to be tried here")), "{:?}", told.warnings);
}
