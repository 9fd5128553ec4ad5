//! Mutated manifests: whatever is asked, the answer is a review, it says the same every time, and it agrees with intake.
//!
//! `AXONEME_FUZZ_CASES` sets how many; without it as many as take some seconds.

use std::{fs, path::Path};

use axoneme_intake::{Options, Reason, parse_with};
use axoneme_webhooks::{Malformed, Response, read, review};
use proptest::{
    prelude::Rng as _,
    test_runner::{RngAlgorithm, TestRng},
};
use serde_json::{Map, Value, json};

use crate::view::small;

/// All objects of the examples that the kinds are checked with.
fn examples() -> Vec<Value> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/tests/examples");
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    let read = |path| serde_saphyr::from_multiple::<Value>(&fs::read_to_string(path).unwrap()).unwrap();
    let all: Vec<Value> = files.into_iter().flat_map(read).filter(Value::is_object).collect();
    assert!(all.len() > 30, "only {} examples", all.len());
    all
}

struct Mutator {
    rng: TestRng,
    /// Values to put elsewhere.
    parts: Vec<Value>,
}

impl Mutator {
    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.rng.next_u64() % n.max(1) as u64).unwrap()
    }

    fn junk(&mut self) -> Value {
        let n = self.below(14);
        match n {
            0 => Value::Null,
            1 => json!(true),
            2 => json!(-1),
            3 => json!(u64::MAX),
            4 => json!(1.5e300),
            5 => json!(""),
            6 => json!("\u{0}\u{7f}é\u{10ffff}/%"),
            7 => json!("x".repeat(300)),
            8 => json!([]),
            9 => json!({}),
            10 => json!([[], {}, null, "a"]),
            _ => {
                let i = self.below(self.parts.len());
                self.parts[i].clone()
            }
        }
    }

    /// Changes one place of the value, at any depth.
    fn mutate(&mut self, value: &mut Value) {
        let (here, junk) = (self.below(5) == 0, self.junk());
        match value {
            Value::Object(map) if !here && !map.is_empty() => {
                let i = self.below(map.len());
                let key = map.keys().nth(i).unwrap().clone();
                match self.below(6) {
                    0 => drop(map.remove(&key)),
                    1 => rename(map, &key),
                    2 => drop(map.insert("extra".into(), junk)),
                    _ => self.mutate(&mut map[&key]),
                }
            }
            Value::Array(list) if !here && !list.is_empty() => {
                let i = self.below(list.len());
                match self.below(5) {
                    0 => drop(list.remove(i)),
                    1 => list.push(list[i].clone()),
                    2 => list.insert(i, junk),
                    _ => self.mutate(&mut list[i]),
                }
            }
            Value::String(text) if !here => {
                let at = text.char_indices().map(|(i, _)| i).nth(self.below(text.chars().count())).unwrap_or(0);
                match self.below(3) {
                    0 => text.truncate(at),
                    1 => text.insert(at, '9'),
                    _ => text.insert(at, '/'),
                }
            }
            other => *other = junk,
        }
    }
}

fn rename(map: &mut Map<String, Value>, key: &str) {
    let value = map.remove(key).unwrap();
    map.insert(key.chars().rev().collect(), value);
}

fn collect(value: &Value, out: &mut Vec<Value>) {
    out.push(value.clone());
    match value {
        Value::Object(map) => map.values().for_each(|v| collect(v, out)),
        Value::Array(list) => list.iter().for_each(|v| collect(v, out)),
        _ => {}
    }
}

fn cases() -> usize {
    std::env::var_os("AXONEME_FUZZ_CASES").and_then(|n| n.to_str()?.parse().ok()).unwrap_or(5_000)
}

fn mutator(seed: u8, examples: &[Value]) -> Mutator {
    let mut parts = Vec::new();
    for e in examples {
        collect(e, &mut parts);
    }
    Mutator { rng: TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]), parts }
}

/// The bytes of a review are one JSON object with what `admission.k8s.io/v1` demands.
fn well_formed(response: &Response, uid: &str) {
    let text = response.to_review().to_string();
    let review: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&review["apiVersion"], &review["kind"]), (&json!("admission.k8s.io/v1"), &json!("AdmissionReview")));
    let r = &review["response"];
    assert_eq!(r["uid"], uid);
    assert_eq!(r["allowed"].as_bool(), Some(response.is_allowed()), "{text}");
    assert_eq!(r.get("status").is_some(), !response.is_allowed(), "{text}");
    if let Some(status) = r.get("status") {
        assert!(status["code"].as_u64().is_some_and(|c| (400..500).contains(&c)), "{text}");
        assert!(status["message"].as_str().is_some_and(|m| !m.is_empty() && m.len() < 9000), "{text}");
        for cause in status["details"]["causes"].as_array().into_iter().flatten() {
            assert!(cause["field"].is_string() && cause["message"].as_str().is_some_and(|m| !m.is_empty()), "{text}");
        }
    }
    for w in r["warnings"].as_array().into_iter().flatten() {
        assert!(w.as_str().unwrap().chars().count() <= 256, "{text}");
    }
    assert!(text.len() < 256 * 1024, "{} bytes", text.len());
}

#[test]
fn mutated_objects_are_judged_as_intake_reads_them() {
    let examples = examples();
    let mut m = mutator(7, &examples);
    let view = small();
    let (mut denied, mut allowed, mut compared) = (0, 0, 0);
    for _ in 0..cases() {
        let i = m.below(examples.len());
        let mut object = examples[i].clone();
        for _ in 0..=m.below(3) {
            m.mutate(&mut object);
        }
        if !object.is_object() {
            continue;
        }
        let mut asked = crate::cases::request(&examples[i], &Value::Null);
        asked.object = object.clone();
        let response = review(&asked, &view);
        well_formed(&response, "u");
        assert_eq!(response, review(&asked, &view), "the same question has the same answer");
        let wrong = parse_with(&object, &Options::default()).err();
        let wrong = wrong.filter(|e| e.errors.iter().any(|e| e.reason == Reason::Invalid));
        // what the object does not say of itself is taken from the request
        let same = ["/apiVersion", "/kind", "/metadata/name"].map(|p| object.pointer(p) == examples[i].pointer(p));
        match wrong {
            Some(wrong) if judged(&asked.kind) && same == [true; 3] => {
                assert!(!response.is_allowed(), "intake can't read it: {wrong}\n{object}");
                compared += 1;
            }
            None if same == [true; 3] => assert!(response.is_allowed(), "intake reads it: {response:?}\n{object}"),
            _ => {}
        }
        *(if response.is_allowed() { &mut allowed } else { &mut denied }) += 1;
    }
    assert!(
        compared > cases() / 20 && allowed > cases() / 20,
        "{denied} denied ({compared} by content), {allowed} allowed"
    );
}

fn judged(kind: &str) -> bool {
    let kinds = ["NetworkPolicy", "ClusterNetworkPolicy", "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"];
    kinds.contains(&kind) || ["CiliumCIDRGroup", "CiliumPodIPPool", "AxonemeConfig"].contains(&kind)
}

#[test]
fn mutated_reviews_are_answered_or_told_to_be_none() {
    let examples = examples();
    let mut m = mutator(11, &examples);
    let view = small();
    let mut seen = [0usize; 3];
    for _ in 0..cases() {
        let (i, j) = (m.below(examples.len()), m.below(examples.len()));
        let object = &examples[i];
        let asked = crate::cases::request(object, &Value::Null);
        let operation = ["CREATE", "UPDATE", "DELETE", "CONNECT"][m.below(4)];
        let mut body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u", "kind": {"group": asked.group, "version": asked.version, "kind": asked.kind},
            "name": asked.name, "namespace": asked.namespace, "operation": operation, "object": object,
            "oldObject": if m.below(2) == 0 { object.clone() } else { examples[j].clone() }}});
        for _ in 0..m.below(4) {
            m.mutate(&mut body);
        }
        let mut bytes = body.to_string().into_bytes();
        if m.below(10) == 0 {
            let at = m.below(bytes.len());
            bytes[at] ^= 1 << m.below(8);
        }
        match read(&bytes) {
            Ok(request) => {
                well_formed(&review(&request, &view), &request.uid);
                seen[0] += 1;
            }
            Err(Malformed::BadRequest { uid: to, message }) => {
                assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap()["request"]["uid"], to);
                well_formed(&Response::bad_request(&to, &message), &to);
                seen[1] += 1;
            }
            Err(Malformed::NoReview(message)) => {
                assert!(!message.is_empty());
                seen[2] += 1;
            }
        }
    }
    assert!(seen.iter().all(|n| *n > cases() / 100), "{seen:?}: proves little");
}
