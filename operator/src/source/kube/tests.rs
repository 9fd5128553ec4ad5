//! Watches against an API server that plays a script.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

/// One answer to a watch or list.
enum Answer {
    /// A watch with these lines, which then ends.
    Watch(Vec<Value>),
    /// Any request: this status code.
    Status(u16),
    /// A plain list.
    List(Vec<Value>),
    /// Until then: 503 to everybody.
    Away(tokio::time::Instant),
}

/// Plays the answers one by one; then watches stay silent.
#[derive(Clone)]
struct Script(Arc<Mutex<(VecDeque<Answer>, Vec<String>)>>);

impl Script {
    fn new(answers: Vec<Answer>) -> Self {
        Self(Arc::new(Mutex::new((answers.into(), Vec::new()))))
    }

    fn client(&self) -> Client {
        let script = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let script = script.clone();
            let query = request.uri().query().unwrap_or_default().to_owned();
            async move { script.answer(query).await }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, query: String) -> Result<Response<Body>, std::convert::Infallible> {
        let next = {
            let mut s = self.0.lock().unwrap();
            s.1.push(query);
            let back = tokio::time::Instant::now();
            if matches!(s.0.front(), Some(Answer::Away(until)) if *until <= back) {
                s.0.pop_front();
            }
            match s.0.front() {
                Some(Answer::Away(_)) => Some(Answer::Status(503)),
                _ => s.0.pop_front(),
            }
        };
        let (code, body) = match next {
            None => std::future::pending().await,
            Some(Answer::Watch(lines)) => (200, lines.iter().map(|l| format!("{l}\n")).collect::<Vec<_>>().concat()),
            Some(Answer::List(items)) => (
                200,
                json!({"apiVersion": "v1", "kind": "NamespaceList", "metadata": {"resourceVersion": "50"}, "items": items})
                    .to_string(),
            ),
            Some(Answer::Away(_)) => unreachable!("answered with its status"),
            Some(Answer::Status(code)) => (
                code,
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": "no",
                    "code": code})
                .to_string(),
            ),
        };
        Ok(Response::builder().status(code).body(Body::from(body.into_bytes())).unwrap())
    }

    fn queries(&self) -> Vec<String> {
        self.0.lock().unwrap().1.clone()
    }
}

fn namespace(name: &str, version: u32) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "resourceVersion": version.to_string(),
        "managedFields": [{"manager": "m"}]}, "status": {"phase": "Active"}})
}

fn event(kind: &str, object: &Value) -> Value {
    json!({"type": kind, "object": object})
}

fn bookmark(version: u32) -> Value {
    event(
        "BOOKMARK",
        &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"resourceVersion": version.to_string(),
        "annotations": {"k8s.io/initial-events-end": "true"}}}),
    )
}

/// The first events that the source says, as `+name`, `-name` and `synced`.
async fn said(script: &Script, count: usize) -> Vec<String> {
    let (tx, mut rx) = mpsc::channel(64);
    let cancel = CancellationToken::new();
    let task = tokio::spawn(watch(script.client(), Kind::Namespace, tx, cancel.clone()));
    let mut out = Vec::new();
    while out.len() < count {
        let e = tokio::time::timeout(Duration::from_mins(10), rx.recv()).await.expect("an event").unwrap();
        out.push(match e {
            SourceEvent::Apply { object, .. } => {
                assert!(object["metadata"].get("managedFields").is_none(), "slim");
                format!("+{}", object["metadata"]["name"].as_str().unwrap())
            }
            SourceEvent::Delete(o) => format!("-{}", o.name),
            SourceEvent::Synced(_) => "synced".into(),
            SourceEvent::Broken { .. } => "broken".into(),
        });
    }
    cancel.cancel();
    task.await.unwrap();
    out
}

#[tokio::test(start_paused = true)]
async fn what_vanished_during_a_relist_is_deleted_after_all() {
    let (a, b, c) = (namespace("a", 1), namespace("b", 2), namespace("c", 20));
    let gone = json!({"kind": "Status", "apiVersion": "v1", "code": 410, "status": "Failure", "reason": "Expired", "message": "too old"});
    let script = Script::new(vec![
        Answer::Watch(vec![event("ADDED", &a), event("ADDED", &b), bookmark(5)]),
        Answer::Watch(vec![event("ERROR", &gone)]),
        Answer::Watch(vec![event("ADDED", &b), event("ADDED", &c), bookmark(30)]),
    ]);
    assert_eq!(said(&script, 6).await, ["+a", "+b", "synced", "+b", "+c", "-a"], "{:?}", script.queries());
}

/// An API server that has compacted its history says 410 to whoever comes; asking without a pause would keep it down.
#[tokio::test(start_paused = true)]
async fn a_storm_of_410_is_met_with_pauses_and_deletes_nothing() {
    let gone = json!({"kind": "Status", "apiVersion": "v1", "code": 410, "status": "Failure", "reason": "Expired", "message": "too old"});
    let a = namespace("a", 1);
    let mut answers = vec![Answer::Watch(vec![event("ADDED", &a), bookmark(5)])];
    answers.extend((0..12).map(|_| Answer::Watch(vec![event("ERROR", &gone)])));
    answers.push(Answer::Watch(vec![event("ADDED", &a), event("ADDED", &namespace("b", 7)), bookmark(9)]));
    let (script, began) = (Script::new(answers), tokio::time::Instant::now());
    assert_eq!(said(&script, 4).await, ["+a", "synced", "+a", "+b"]);
    assert!(began.elapsed() > Duration::from_mins(1), "12 refusals in {:?}", began.elapsed());
}

/// A server that was away has forgotten the history, too. What is applied right after it is back must not wait for
/// pauses that grew while it was away.
#[tokio::test(start_paused = true)]
async fn an_outage_of_minutes_is_over_seconds_after_the_server_is_back() {
    let gone = json!({"kind": "Status", "apiVersion": "v1", "code": 410, "status": "Failure", "reason": "Expired", "message": "too old"});
    let began = tokio::time::Instant::now();
    let back = began + Duration::from_mins(5);
    let script = Script::new(vec![
        Answer::Watch(vec![event("ADDED", &namespace("a", 1)), bookmark(5)]),
        Answer::Away(back),
        Answer::Watch(vec![event("ERROR", &gone)]),
        Answer::Watch(vec![event("ADDED", &namespace("a", 1)), event("ADDED", &namespace("b", 9)), bookmark(9)]),
    ]);
    assert_eq!(said(&script, 4).await, ["+a", "synced", "+a", "+b"]);
    let late = tokio::time::Instant::now() - back;
    assert!(late < Duration::from_secs(6), "{late:?} after the server was back");
    let asked = script.queries().len();
    assert!((150..1000).contains(&asked), "{asked} requests in five minutes");
}

#[tokio::test(start_paused = true)]
async fn a_slow_start_is_waited_for() {
    let script = Script::new(vec![
        Answer::Status(500),
        Answer::Status(503),
        Answer::Watch(vec![event("ADDED", &namespace("a", 1)), bookmark(5)]),
    ]);
    assert_eq!(said(&script, 2).await, ["+a", "synced"]);
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_not_served_is_empty_until_it_is() {
    let script =
        Script::new(vec![Answer::Status(404), Answer::Watch(vec![event("ADDED", &namespace("a", 1)), bookmark(5)])]);
    assert_eq!(said(&script, 2).await, ["synced", "+a"]);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_without_streaming_lists_is_listed_in_pages() {
    let script = Script::new(vec![
        Answer::Status(422),
        Answer::List(vec![namespace("a", 1)]),
        Answer::Watch(vec![event("DELETED", &namespace("a", 60))]),
    ]);
    assert_eq!(said(&script, 3).await, ["+a", "synced", "-a"]);
    assert!(script.queries()[0].contains("sendInitialEvents=true"), "{:?}", script.queries());
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_no_object_costs_a_retry_and_nothing_else() {
    let script = Script::new(vec![
        Answer::Watch(vec![event("ADDED", &namespace("a", 1)), bookmark(5)]),
        Answer::Watch(vec![json!({"type": "ADDED", "object": {"metadata": "no"}})]),
        Answer::Watch(vec![event("ADDED", &namespace("b", 7))]),
    ]);
    assert_eq!(said(&script, 3).await, ["+a", "synced", "+b"]);
}
