//! Watches, frame by frame.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;

use crate::rig::{Caller, Rig, endpoint, keyed, request};

const PATH: &str = "/apis/views.axoneme.io/v1alpha1/endpoints";
const ADMIN: (&str, &str) = ("x-remote-user", "admin");

struct Frames {
    body: Incoming,
    rest: Vec<u8>,
}

impl Frames {
    async fn open(caller: &mut Caller, query: &str, accept: &str) -> Self {
        let answer = caller.send(request(&format!("{PATH}?watch=true&{query}"), &[ADMIN, ("accept", accept)])).await;
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 200);
        Self { body: answer.into_body(), rest: Vec::new() }
    }

    /// The next frame; none: the watch has ended.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let piece = tokio::time::timeout(Duration::from_secs(10), self.body.frame()).await.expect("a frame");
            self.rest.extend_from_slice(piece?.ok()?.data_ref()?);
        }
    }

    async fn told(&mut self) -> (String, String) {
        let frame = self.next().await.unwrap();
        let name = frame["object"]["metadata"]["name"].as_str().unwrap_or_default();
        (frame["type"].as_str().unwrap().to_owned(), name.to_owned())
    }
}

fn pair(what: &str, name: &str) -> (String, String) {
    (what.to_owned(), name.to_owned())
}

async fn version(caller: &mut Caller) -> String {
    let (_, body) = caller.get(&format!("{PATH}?limit=1"), &[ADMIN]).await;
    let list: Value = serde_json::from_str(&body).unwrap();
    list["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_enters_and_leaves_a_selection_is_added_and_deleted() {
    let rig = Rig::filled().await;
    let mut caller = rig.front_proxy().await;
    let since = version(&mut caller).await;
    let query = format!("resourceVersion={since}&fieldSelector=status.node%3Dn1");
    let mut frames = Frames::open(&mut caller, &query, "application/json").await;
    let put = |node: &str, address: &str| {
        rig.shelf.endpoints.apply([keyed(endpoint("a", "web-9", Some(4711), node, &[address]))]);
    };
    put("n2", "10.0.1.9");
    put("n1", "10.0.1.9");
    put("n1", "10.0.1.8");
    put("n2", "10.0.1.8");
    put("n1", "10.0.1.8");
    rig.shelf.endpoints.apply([(("a".into(), "web-9".into()), None)]);
    for what in ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"] {
        assert_eq!(frames.told().await, pair(what, "web-9"));
    }
}

#[tokio::test]
async fn a_watch_without_a_version_begins_with_what_is_there_and_a_bookmark_ends_that() {
    let rig = Rig::filled().await;
    let mut caller = rig.front_proxy().await;
    let mut frames = Frames::open(&mut caller, "labelSelector=app%3Dweb", "application/json").await;
    for name in ["web-1", "web-2", "web-1"] {
        assert_eq!(frames.told().await, pair("ADDED", name));
    }
    let query =
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&labelSelector=app%3Ddb";
    let mut frames = Frames::open(&mut caller, query, "application/json").await;
    assert_eq!(frames.told().await, pair("ADDED", "db-1"));
    let mark = frames.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    // and goes on behind it
    rig.shelf.endpoints.apply([keyed(endpoint("c", "db-2", None, "", &[]))]);
    assert_eq!(frames.told().await, pair("ADDED", "db-2"));
}

#[tokio::test]
async fn a_version_that_is_not_known_is_gone_in_the_stream() {
    let rig = Rig::filled().await;
    let mut caller = rig.front_proxy().await;
    for version in ["1", "18446744073709551615"] {
        let mut frames = Frames::open(&mut caller, &format!("resourceVersion={version}"), "application/json").await;
        let frame = frames.next().await.unwrap();
        assert_eq!((&frame["type"], &frame["object"]["code"]), (&"ERROR".into(), &410.into()), "{frame}");
        assert_eq!(frame["object"]["reason"], "Expired");
        assert!(frames.next().await.is_none(), "and the watch ends");
    }
}

#[tokio::test]
async fn a_reader_that_is_slower_than_the_log_is_long_is_told_and_holds_up_nobody() {
    let rig = Rig::filled().await;
    let mut caller = rig.front_proxy().await;
    let since = version(&mut caller).await;
    let mut frames = Frames::open(&mut caller, &format!("resourceVersion={since}"), "application/json").await;
    // more than the log holds and more than the connection takes while nobody reads
    for round in 0..4 * axoneme_views::store::LOG {
        let address = format!("10.1.{}.{}", round / 250 % 250, round % 250);
        rig.shelf.endpoints.apply([keyed(endpoint("a", "web-1", Some(4711), "n1", &[&address]))]);
    }
    loop {
        let frame = frames.next().await.unwrap();
        if frame["type"] == "ERROR" {
            assert_eq!(frame["object"]["code"], 410);
            break;
        }
    }
}

#[tokio::test]
async fn a_watched_table_names_its_columns_once() {
    let rig = Rig::filled().await;
    let mut caller = rig.front_proxy().await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let mut frames = Frames::open(&mut caller, "labelSelector=app%3Dweb", table).await;
    let (first, second) = (frames.next().await.unwrap(), frames.next().await.unwrap());
    assert_eq!(first["object"]["kind"], "Table");
    assert!(first["object"]["columnDefinitions"].as_array().unwrap().len() > 5);
    assert_eq!(second["object"]["columnDefinitions"].as_array().unwrap().len(), 0);
    assert_eq!(second["object"]["rows"][0]["cells"][0], "web-2");
    assert_eq!(second["object"]["rows"][0]["object"]["metadata"]["name"], "web-2");
}

#[tokio::test]
async fn a_watch_ends_in_time_with_a_bookmark_to_go_on_from_and_when_the_server_ends() {
    let rig = Rig::filled().await;
    let mut caller = rig.front_proxy().await;
    let since = version(&mut caller).await;
    let query = format!("resourceVersion={since}&timeoutSeconds=1&allowWatchBookmarks=true");
    let mut frames = Frames::open(&mut caller, &query, "application/json").await;
    let mark = frames.next().await.unwrap();
    assert_eq!((&mark["type"], &mark["object"]["metadata"]["resourceVersion"]), (&"BOOKMARK".into(), &since.into()));
    assert!(frames.next().await.is_none());
    let mut frames = Frames::open(&mut caller, "resourceVersion=0&labelSelector=app%3Ddb", "application/json").await;
    assert_eq!(frames.told().await, pair("ADDED", "db-1"));
    rig.stop();
    assert!(frames.next().await.is_none());
}
