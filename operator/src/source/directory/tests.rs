use axoneme_model::Kind;

use super::*;

fn files(list: &[(&str, &str)]) -> Files {
    list.iter().map(|(p, t)| (PathBuf::from(p), Ok((*t).to_owned()))).collect()
}

fn namespace(name: &str, label: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{a: {label}}}}}\n")
}

fn names(events: &[SourceEvent]) -> Vec<String> {
    let name = |e: &SourceEvent| match e {
        SourceEvent::Apply { object, .. } => Some(format!("+{}", object["metadata"]["name"].as_str().unwrap())),
        SourceEvent::Delete(o) => Some(format!("-{}", o.name)),
        SourceEvent::Broken { problem, .. } => Some(if problem.is_some() { "broken" } else { "mended" }.into()),
        SourceEvent::Synced(_) => None,
    };
    events.iter().filter_map(name).collect()
}

#[test]
fn files_that_come_change_and_go_are_objects_that_do() {
    let mut d = Directory::default();
    let (a, b, a2) = (namespace("a", "1"), namespace("b", "1"), namespace("a", "2"));
    let first = d.look(files(&[("x.yaml", &format!("{a}---\n{b}---\n"))]));
    assert_eq!(names(&first), ["+a", "+b"]);
    assert!(first.contains(&SourceEvent::Synced(Kind::Pod)));
    assert_eq!(d.look(files(&[("x.yaml", &format!("{a}---\n{b}---\n"))])), vec![], "nothing changed");
    assert_eq!(names(&d.look(files(&[("x.yaml", &a2)]))), ["-b", "+a"]);
    assert_eq!(names(&d.look(Files::new())), ["-a"]);
}

#[test]
fn a_broken_file_keeps_its_objects_and_stops_no_other() {
    let mut d = Directory::default();
    let (a, b) = (namespace("a", "1"), namespace("b", "1"));
    d.look(files(&[("x.yaml", &a)]));
    let events = d.look(files(&[("x.yaml", "a: [1,"), ("y.yaml", &b)]));
    assert_eq!(names(&events), ["broken", "+b"]);
    assert_eq!(names(&d.look(files(&[("x.yaml", "a: [1,"), ("y.yaml", &b)]))), [""; 0], "told once");
    assert_eq!(names(&d.look(files(&[("x.yaml", &namespace("a", "2")), ("y.yaml", &b)]))), ["mended", "+a"]);
    assert_eq!(names(&d.look(files(&[("y.yaml", &b)]))), ["-a"]);
}

#[test]
fn lists_are_opened_and_foreign_kinds_passed_over() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: a}\n\
                - apiVersion: apps/v1\n  kind: Deployment\n  metadata: {name: d}\n";
    assert_eq!(names(&Directory::default().look(files(&[("x.yaml", text)]))), ["+a"]);
}

#[test]
fn an_object_of_two_files_is_that_of_the_first_until_that_goes() {
    let mut d = Directory::default();
    let (one, two) = (namespace("a", "1"), namespace("a", "2"));
    let label = |e: &[SourceEvent]| match &e[0] {
        SourceEvent::Apply { object, .. } => object["metadata"]["labels"]["a"].clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(label(&d.look(files(&[("x.yaml", &one), ("y.yaml", &two)]))), 1);
    assert_eq!(label(&d.look(files(&[("y.yaml", &two)]))), 2);
}

#[tokio::test]
async fn a_change_on_disk_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x.yaml"), namespace("a", "x")).unwrap();
    let (tx, mut rx) = mpsc::channel(64);
    let cancel = CancellationToken::new();
    let task = tokio::spawn(watch(dir.path().to_owned(), tx, cancel.clone()));
    let next = async |rx: &mut mpsc::Receiver<SourceEvent>| loop {
        let event = tokio::time::timeout(Duration::from_secs(20), rx.recv()).await.unwrap().unwrap();
        if let [name] = &names(&[event])[..] {
            return name.clone();
        }
    };
    assert_eq!(next(&mut rx).await, "+a");
    std::fs::write(dir.path().join("y.yaml"), namespace("b", "x")).unwrap();
    assert_eq!(next(&mut rx).await, "+b");
    std::fs::remove_file(dir.path().join("x.yaml")).unwrap();
    assert_eq!(next(&mut rx).await, "-a");
    cancel.cancel();
    task.await.unwrap().unwrap();
}

/// As kubectl reads a manifest (sigs.k8s.io/yaml: YAML 1.1 words, `ParseInt` with base 0), not as YAML 1.2 has it.
#[test]
fn scalars_mean_what_they_mean_to_kubectl() {
    let read = |scalar: &str| {
        let text = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: a}}\nx: {scalar}\n");
        objects(&text).map_or_else(Value::from, |o| o.into_values().next().unwrap()["x"].clone())
    };
    let (t, f) = (Value::from(true), Value::from(false));
    let mut expected: Vec<(&str, Value)> = Vec::new();
    expected.extend(["y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"].map(|s| (s, t.clone())));
    expected
        .extend(["n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"].map(|s| (s, f.clone())));
    expected.extend(["~", "null", "Null", "NULL", ""].map(|s| (s, Value::Null)));
    expected.extend(["nope", "2001-01-01", "10.0.0.0/8", "1.2.3", "fd00::1", "12:30"].map(|s| (s, s.into())));
    expected.extend([("'yes'", "yes".into()), ("\"on\"", "on".into())]);
    let numbers = [("0777", 511), ("0o17", 15), ("0x1F", 31), ("1_000", 1000), ("0b11", 3), ("-7", -7), ("+7", 7)];
    expected.extend(numbers.map(|(s, n)| (s, n.into())));
    let wrong: Vec<_> = expected.iter().map(|(s, v)| (s, v, read(s))).filter(|(_, v, r)| *v != r).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}
