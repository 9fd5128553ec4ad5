//! Whatever strangers send: an answer or a closed connection, never a panic, never a fault of the server's.

use std::time::Duration;

use axoneme_views::server::Limits;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Empty};
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::{Rig, SERVER};

fn piece() -> impl Strategy<Value = String> {
    let known = [
        "apis",
        "views.axoneme.io",
        "v1alpha1",
        "namespaces",
        "a",
        "endpoints",
        "identities",
        "nodes",
        "policytables",
        "openapi",
        "v2",
        "v3",
        "%2e%2e",
        "%ff",
        "web-1",
        "",
        "watch",
        "..",
    ];
    prop_oneof![6 => proptest::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => "[!-~&&[^?# %]]{0,40}"]
}

fn parameter() -> impl Strategy<Value = String> {
    let names = [
        "watch",
        "limit",
        "continue",
        "labelSelector",
        "fieldSelector",
        "resourceVersion",
        "resourceVersionMatch",
        "timeoutSeconds",
        "allowWatchBookmarks",
        "sendInitialEvents",
        "includeObject",
        "x",
    ];
    let values = [
        "true",
        "1",
        "0",
        "-1",
        "99999999999999999999",
        "500",
        "app%3Dweb",
        "app%20in%20(a%2C",
        "status.node%3Dn1",
        "NotOlderThan",
        "Exact",
        "Object",
        "eyJvZiI6ImVuZHBvaW50cyJ9",
        "%00",
        "",
    ];
    let value =
        prop_oneof![5 => proptest::sample::select(values.to_vec()).prop_map(str::to_owned), 1 => "[a-z0-9%=]{0,30}"];
    (proptest::sample::select(names.to_vec()), value).prop_map(|(name, value)| format!("{name}={value}"))
}

fn accept() -> impl Strategy<Value = String> {
    let known = [
        "application/json",
        "*/*",
        "application/json;as=Table;v=v1;g=meta.k8s.io",
        "application/json;as=Odd",
        ";;;=,,",
        "application/json;q=NaN",
        "application/vnd.kubernetes.protobuf",
        "",
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
    ];
    prop_oneof![6 => proptest::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => "[ -~]{0,60}"]
}

fn asked() -> impl Strategy<Value = (String, Vec<String>, String, Method)> {
    let path = proptest::collection::vec(piece(), 1..8).prop_map(|p| format!("/{}", p.join("/")));
    let within = proptest::collection::vec(piece(), 1..4)
        .prop_map(|p| format!("/apis/views.axoneme.io/v1alpha1/{}", p.join("/")));
    let right = [
        "endpoints",
        "namespaces/a/endpoints",
        "namespaces/a/endpoints/web-1",
        "nodes",
        "identities/4711",
        "policytables",
    ];
    let right = proptest::sample::select(right.to_vec()).prop_map(|p| format!("/apis/views.axoneme.io/v1alpha1/{p}"));
    let methods =
        [Method::GET, Method::GET, Method::GET, Method::GET, Method::POST, Method::DELETE, Method::HEAD, Method::PATCH];
    let parameters = proptest::collection::vec(parameter(), 0..4);
    (prop_oneof![1 => path, 1 => within, 2 => right], parameters, accept(), proptest::sample::select(methods.to_vec()))
}

#[tokio::test]
async fn random_requests_are_answered_or_refused_and_never_a_fault() {
    let rig = Rig::filled().await;
    let mut caller = rig.front_proxy().await;
    let cases = std::env::var_os("AXONEME_FUZZ_CASES").and_then(|n| n.to_str()?.parse().ok()).unwrap_or(1500);
    let mut runner = TestRunner::new(Config::default());
    let (mut answered, strategy) = (0, asked());
    for case in 0..cases {
        let (path, parameters, accept, method) = strategy.new_tree(&mut runner).unwrap().current();
        let uri = format!("https://{SERVER}{path}?{}&timeoutSeconds=1", parameters.join("&"));
        let user = if case % 2 == 0 { "admin" } else { "team-a" };
        let request =
            Request::builder().method(method).uri(&uri).header("x-remote-user", user).header("accept", &accept);
        // what the library that sends refuses never comes to the server
        let Ok(request) = request.body(Empty::<Bytes>::new()) else { continue };
        let answer = caller.send(request).await.unwrap_or_else(|e| panic!("{uri}: {e}"));
        let status = answer.status().as_u16();
        assert!(status < 500, "{uri} {accept}: {status}");
        answered += usize::from(status == 200);
        let is_watch = parameters.iter().any(|p| p.starts_with("watch="));
        if !is_watch {
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            let is_text = body.is_empty() || &body[..] == b"ok";
            assert!(is_text || serde_json::from_slice::<serde_json::Value>(&body).is_ok(), "{uri}: {body:?}");
        }
    }
    assert!(answered > cases / 50, "the requests are too wild to find anything: {answered} of {cases} answered");
    assert_eq!(caller.get("/readyz", &[]).await.0.status, 200, "and it is still there");
}

#[tokio::test]
async fn bytes_that_are_no_handshake_are_a_closed_connection() {
    let rig = Rig::with(Limits { patience: Duration::from_millis(300), ..Limits::default() }).await;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff], &[0; 4096], b""] {
        let mut stream = tokio::net::TcpStream::connect(rig.address).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "{bytes:?}: still open");
    }
    assert_eq!(rig.front_proxy().await.get("/readyz", &[]).await.0.status, 200);
}

#[tokio::test]
async fn no_more_connections_and_watches_than_there_is_room_for() {
    let rig = Rig::with(Limits { connections: 2, watches: 1, ..Limits::default() }).await;
    crate::rig::fill(&rig.shelf);
    let (mut first, _second) = (rig.front_proxy().await, rig.front_proxy().await);
    let third = match rig.connect(None).await {
        Err(_) => true,
        Ok(mut caller) => caller.send(crate::rig::request("/readyz", &[])).await.is_err(),
    };
    assert!(third, "a third connection is served");
    let path = "/apis/views.axoneme.io/v1alpha1/nodes?watch=true";
    let admin = [("x-remote-user", "admin")];
    let open = first.send(crate::rig::request(path, &admin)).await.unwrap();
    let (parts, _) = first.get(path, &admin).await;
    assert_eq!((parts.status.as_u16(), &parts.headers["retry-after"]), (429, &"1".parse().unwrap()));
    drop(open);
    // the place is free again when the stream is gone
    let freed = async {
        while first.send(crate::rig::request(path, &admin)).await.unwrap().status() != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), freed).await.expect("a place");
}

#[tokio::test]
async fn certificates_are_exchanged_while_connections_are_open() {
    let rig = Rig::filled().await;
    let mut before = rig.front_proxy().await;
    let admin = [("x-remote-user", "admin")];
    let path = "/apis/views.axoneme.io/v1alpha1/nodes";
    assert_eq!(before.get(path, &admin).await.0.status, 200);
    let next = crate::rig::Authority::new();
    rig.certificates.trust(crate::rig::front_proxy(&next)).unwrap();
    assert!(rig.certificates.replace("no", "certificate").is_err(), "what can't be used changes nothing");
    let leaf = rig.authority.leaf(SERVER, rcgen::ExtendedKeyUsagePurpose::ServerAuth);
    rig.certificates.replace(&leaf.certificate, &leaf.key).unwrap();
    assert_eq!(before.get(path, &admin).await.0.status, 200, "what is open goes on");
    let leaf = next.leaf("front-proxy-client", rcgen::ExtendedKeyUsagePurpose::ClientAuth);
    assert_eq!(rig.connect(Some(&leaf)).await.unwrap().get(path, &admin).await.0.status, 200);
    let old = rig.proxies.leaf("front-proxy-client", rcgen::ExtendedKeyUsagePurpose::ClientAuth);
    let refused = match rig.connect(Some(&old)).await {
        Err(_) => true,
        Ok(mut caller) => caller.send(crate::rig::request(path, &admin)).await.is_err(),
    };
    assert!(refused, "the authority before is believed no more");
}
