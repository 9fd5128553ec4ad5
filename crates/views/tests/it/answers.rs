//! `tests/cases/*.txt`: a request and the whole answer to it. `AXONEME_BLESS=1` writes them; read what changed.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use http::{StatusCode, header};
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};

use crate::rig::{Leaf, Rig};

const BASE: &str = "/apis/views.axoneme.io/v1alpha1";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// Name, path, Accept.
const CASES: &[(&str, &str, &str)] = &[
    ("apis", "/apis", "application/json"),
    ("apis-aggregated", "/apis", AGGREGATED),
    ("group", "/apis/views.axoneme.io", "application/json"),
    ("version", "$", "application/json"),
    ("openapi-v2", "/openapi/v2", "application/json"),
    ("openapi-v3", "/openapi/v3/apis/views.axoneme.io/v1alpha1", "application/json"),
    ("endpoints", "$/endpoints", "application/json"),
    ("endpoints-table", "$/endpoints", TABLE),
    ("endpoints-metadata", "$/endpoints", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"),
    ("endpoints-of-namespace", "$/namespaces/a/endpoints?labelSelector=app%3Ddb", TABLE),
    ("endpoints-by-field", "$/endpoints?fieldSelector=status.node%3Dn1%2Cmetadata.name!%3Ddb-1", TABLE),
    ("endpoints-first-page", "$/endpoints?limit=2", TABLE),
    ("endpoints-none", "$/namespaces/nowhere/endpoints", "application/json"),
    ("endpoint", "$/namespaces/a/endpoints/web-1", "application/json"),
    ("endpoint-table", "$/namespaces/a/endpoints/web-1?includeObject=Object", TABLE),
    ("endpoint-that-is-not", "$/namespaces/b/endpoints/web-9", "application/json"),
    ("endpoints-bad-field", "$/endpoints?fieldSelector=spec.nodeName%3Dn1", "application/json"),
    ("endpoints-bad-selector", "$/endpoints?labelSelector=app%20web", "application/json"),
    ("endpoints-old-version", "$/endpoints?resourceVersion=1&resourceVersionMatch=Exact", "application/json"),
    ("endpoints-protobuf", "$/endpoints", "application/vnd.kubernetes.protobuf"),
    ("identities-table", "$/identities?includeObject=None", TABLE),
    ("identity", "$/identities/4711", "application/json"),
    ("nodes-table", "$/nodes?includeObject=None", TABLE),
    ("node", "$/nodes/n2", "application/json"),
    ("policytables-table", "$/policytables?includeObject=None", TABLE),
    ("policytable", "$/namespaces/a/policytables/0000000000000abc", "application/json"),
    ("no-such-resource", "$/pods", "application/json"),
];

#[tokio::test]
async fn answers_are_as_they_were_read_in_review() {
    let rig = Rig::filled().await;
    let mut caller = rig.front_proxy().await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let bless = std::env::var_os("AXONEME_BLESS").is_some();
    let mut wrong = Vec::new();
    for (name, path, accept) in CASES {
        let path = path.replace('$', BASE);
        let (parts, body) = caller.get(&path, &[("x-remote-user", "admin"), ("accept", accept)]).await;
        let text = told(&path, accept, &parts, &body);
        let file = folder.join(format!("{name}.txt"));
        if bless {
            fs::write(&file, &text).unwrap();
        } else if fs::read_to_string(&file).unwrap_or_default() != text {
            wrong.push(format!("{}:\n{text}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let known: BTreeSet<String> = CASES.iter().map(|(name, ..)| format!("{name}.txt")).collect();
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(known.contains(&name), "{name} is of no case");
    }
}

fn told(path: &str, accept: &str, parts: &http::response::Parts, body: &str) -> String {
    let mut text = format!("GET {path}\nAccept: {accept}\n\n{}\n", parts.status);
    for name in [header::CONTENT_TYPE, header::RETRY_AFTER, header::VARY] {
        if let Some(value) = parts.headers.get(&name) {
            writeln!(text, "{name}: {}", value.to_str().unwrap()).unwrap();
        }
    }
    let mut value: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{path}: {e}: {body}"));
    let mut versions = BTreeSet::new();
    versions_of(&value, &mut versions);
    let versions: Vec<u64> = versions.into_iter().collect();
    rename(&mut value, &versions);
    writeln!(text, "\n{}", serde_json::to_string_pretty(&value).unwrap()).unwrap();
    text
}

/// Versions begin anywhere: in the golden files they are counted in their order.
fn versions_of(value: &serde_json::Value, found: &mut BTreeSet<u64>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                if key == "resourceVersion" {
                    found.extend(value.as_str().and_then(|v| v.parse::<u64>().ok()));
                }
                versions_of(value, found);
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|v| versions_of(v, found)),
        _ => {}
    }
}

fn rename(value: &mut serde_json::Value, versions: &[u64]) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                let at = value.as_str().and_then(|v| v.parse().ok()).and_then(|v| versions.binary_search(&v).ok());
                match (key.as_str(), at) {
                    ("resourceVersion", Some(at)) => *value = format!("version {}", at + 1).into(),
                    ("continue", _) if value.is_string() => *value = "token".into(),
                    _ => rename(value, versions),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(|v| rename(v, versions)),
        _ => {}
    }
}

#[tokio::test]
async fn documents_that_are_known_are_not_sent_again() {
    let rig = Rig::filled().await;
    let mut caller = rig.front_proxy().await;
    // as the aggregator's downloaders ask: with a user that comes with no groups
    let user = ("x-remote-user", "system:aggregator");
    for path in ["/openapi/v2", "/openapi/v3", "/openapi/v3/apis/views.axoneme.io/v1alpha1", "/apis"] {
        let (parts, body) = caller.get(path, &[user]).await;
        assert_eq!(parts.status, StatusCode::OK, "{path}: {body}");
        let tag = parts.headers[header::ETAG].to_str().unwrap().to_owned();
        let (parts, body) = caller.get(path, &[user, ("if-none-match", &tag)]).await;
        assert_eq!((parts.status, body.as_str()), (StatusCode::NOT_MODIFIED, ""), "{path}");
        let (parts, _) = caller.get(path, &[user, ("if-none-match", "\"other\"")]).await;
        assert_eq!(parts.status, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn a_user_is_believed_of_the_front_proxy_and_of_nobody_else() {
    let rig = Rig::filled().await;
    let admin = [("x-remote-user", "admin"), ("x-remote-group", "system:masters")];
    let path = format!("{BASE}/endpoints");
    let status = async |leaf: Option<&Leaf>, headers: &[(&str, &str)]| {
        rig.connect(leaf).await.unwrap().get(&path, headers).await.0.status
    };
    let proxy = rig.proxies.leaf("front-proxy-client", ClientAuth);
    assert_eq!(status(Some(&proxy), &admin).await, StatusCode::OK);
    assert_eq!(status(Some(&proxy), &[]).await, StatusCode::UNAUTHORIZED, "it names nobody");
    assert_eq!(status(None, &admin).await, StatusCode::UNAUTHORIZED, "headers alone");
    let other = rig.proxies.leaf("kubelet", ClientAuth);
    assert_eq!(status(Some(&other), &admin).await, StatusCode::UNAUTHORIZED, "a name that is not allowed");
    // signed by somebody else, or not for clients: there is no connection to ask on
    for (authority, usage) in [(&rig.authority, ClientAuth), (&rig.proxies, ServerAuth)] {
        let leaf = authority.leaf("front-proxy-client", usage);
        let refused = match rig.connect(Some(&leaf)).await {
            Err(_) => true,
            Ok(mut caller) => caller.send(crate::rig::request(&path, &admin)).await.is_err(),
        };
        assert!(refused);
    }
    // with a token, beside which headers are nothing
    assert_eq!(status(None, &[("authorization", "Bearer token-of-admin")]).await, StatusCode::OK);
    assert_eq!(status(None, &[("authorization", "Bearer nonsense"), admin[0]]).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(None, &[("authorization", "Basic YTpi")]).await, StatusCode::UNAUTHORIZED);
    let team = [("authorization", "Bearer token-of-team-a"), admin[0], admin[1]];
    assert_eq!(status(None, &team).await, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn an_app_team_sees_its_own_namespace_and_nothing_else() {
    let rig = Rig::filled().await;
    let mut caller = rig.front_proxy().await;
    let team = ("x-remote-user", "team-a");
    for (path, status) in [
        ("/namespaces/a/endpoints", StatusCode::OK),
        ("/namespaces/a/endpoints/web-1", StatusCode::OK),
        ("/namespaces/a/policytables", StatusCode::OK),
        ("/namespaces/b/endpoints", StatusCode::FORBIDDEN),
        ("/namespaces/b/endpoints/web-1", StatusCode::FORBIDDEN),
        ("/namespaces/b/endpoints?watch=true", StatusCode::FORBIDDEN),
        ("/endpoints", StatusCode::FORBIDDEN),
        ("/endpoints?fieldSelector=metadata.namespace%3Da", StatusCode::FORBIDDEN),
        ("/identities", StatusCode::FORBIDDEN),
        ("/nodes/n1", StatusCode::FORBIDDEN),
        // whether there is anything is not told either, nor what is wrong with the question
        ("/namespaces/b/endpoints/none", StatusCode::FORBIDDEN),
        ("/namespaces/b/endpoints?labelSelector=%2C", StatusCode::FORBIDDEN),
    ] {
        let (parts, body) = caller.get(&format!("{BASE}{path}"), &[team]).await;
        assert_eq!(parts.status, status, "{path}: {body}");
        let told: serde_json::Value = serde_json::from_str(&body).unwrap();
        if status == StatusCode::FORBIDDEN {
            let message = told["message"].as_str().unwrap();
            assert!(message.contains("is forbidden: User \"team-a\" cannot"), "{message}");
        } else {
            assert!(!body.contains("\"namespace\":\"b\""), "{body}");
        }
    }
    let asked = rig.says.asked.lock().unwrap();
    let verbs: BTreeSet<&str> = asked.iter().map(|(_, a)| a.verb).collect();
    assert_eq!(verbs, ["get", "list", "watch"].into());
    let named = asked.iter().find(|(_, a)| a.verb == "get" && a.resource == "nodes").unwrap();
    assert_eq!(&*named.1.name, "n1", "a right can be for one name");
}

#[tokio::test]
async fn what_can_not_be_answered_now_is_told_so_and_discovery_always_answers() {
    let rig = Rig::new().await;
    let mut caller = rig.front_proxy().await;
    let probe = [("x-remote-user", "system:kube-aggregator"), ("x-remote-group", "system:masters")];
    for path in ["/apis", BASE, "/healthz"] {
        assert_eq!(caller.get(path, &probe).await.0.status, StatusCode::OK, "{path}");
    }
    let (parts, body) = caller.get(&format!("{BASE}/endpoints"), &probe).await;
    assert_eq!(parts.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(parts.headers[header::RETRY_AFTER], "1");
    assert!(body.contains("has not read the whole cluster"), "{body}");
    crate::rig::fill(&rig.shelf);
    assert_eq!(caller.get(&format!("{BASE}/endpoints"), &probe).await.0.status, StatusCode::OK);
    // what nodes have in force is known to the leader alone
    rig.shelf.lead(false);
    let (parts, body) = caller.get(&format!("{BASE}/nodes"), &probe).await;
    assert_eq!(parts.status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    assert_eq!(caller.get(&format!("{BASE}/identities"), &probe).await.0.status, StatusCode::OK);
    rig.says.away.store(true, std::sync::atomic::Ordering::SeqCst);
    let (parts, body) = caller.get(&format!("{BASE}/identities"), &[("x-remote-user", "bob")]).await;
    assert_eq!(parts.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.contains("can't be asked who may see this"), "{body}");
}
