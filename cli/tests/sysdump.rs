//! `axoneme sysdump`, against an API server in memory whose every answer holds secrets.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests fail as tests do")]
#![allow(dead_code, reason = "what tests of other commands ask of the API server")]

mod apiserver;

use std::{
    collections::BTreeMap,
    io::Read,
    path::Path,
    process::{Command, Output},
};

use apiserver::ApiServer;
use serde_json::{Value, json};

/// Each as it would leak: what must not be in the archive, and the text that carries it.
const SEEDS: &[(&str, &str)] = &[
    ("MHcCAQEEseedPem", "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEseedPem\n-----END EC PRIVATE KEY-----"),
    ("LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0tseedB64", "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0tseedB64"),
    ("eyJhbGciOiJSUzI1NiJ9.eyJzZWVkIjoxfQ.seedJwt", "eyJhbGciOiJSUzI1NiJ9.eyJzZWVkIjoxfQ.seedJwt"),
    ("seedBearer77", "Authorization: Bearer seedBearer77"),
    ("seedUrl77", "https://admin:seedUrl77@registry.example.com/v2"),
    ("seedSaid77", "db_password=seedSaid77"),
];

fn seeded() -> String {
    SEEDS.iter().map(|(_, carrier)| *carrier).collect::<Vec<_>>().join(" | ")
}

fn run(api: &ApiServer, dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_axoneme"));
    command.current_dir(dir).args(args).arg("--kubeconfig").arg(&api.kubeconfig).output().unwrap()
}

/// Files of the archive by name, without its directory.
fn unpacked(path: &Path) -> BTreeMap<String, String> {
    let file = std::fs::File::open(path).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        files.insert(name.split_once('/').unwrap().1.to_owned(), text);
    }
    files
}

/// An object with secrets in every place that takes a text.
fn object(kind: &str, name: &str, namespace: Option<&str>) -> Value {
    let seeded = seeded();
    json!({
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": "web"},
            "annotations": {"note": seeded, "example.com/token": "seedOpaque77",
                "kubectl.kubernetes.io/last-applied-configuration": seeded},
            "managedFields": [{"manager": seeded}]},
        "data": {"plain": seeded, "password": "seedOpaque77", "mode": "fast"},
        "spec": {"nodeName": "worker-1", "text": seeded, "containers": [{"name": "agent",
            "args": [format!("--flag={seeded}")], "env": [{"name": "API_TOKEN", "value": "seedOpaque77"}]}]},
        "status": {"message": seeded, "list": [{"deep": {"deeper": seeded}}]},
        "message": seeded,
    })
}

fn full() -> ApiServer {
    let api = ApiServer::start();
    let own = "/api/v1/namespaces/axoneme-system";
    for (path, object) in [
        ("/version".to_owned(), json!({"gitVersion": "v1.37.0", "note": seeded()})),
        ("/api/v1/nodes/worker-1".to_owned(), object("Node", "worker-1", None)),
        (format!("{own}/pods/axoneme-agent-x"), object("Pod", "axoneme-agent-x", Some("axoneme-system"))),
        (format!("{own}/configmaps/settings"), object("ConfigMap", "settings", Some("axoneme-system"))),
        (format!("{own}/events/e1"), object("Event", "e1", Some("axoneme-system"))),
        (format!("{own}/secrets/axoneme-ca"), object("Secret", "axoneme-ca", Some("axoneme-system"))),
        (
            "/apis/cilium.io/v2/namespaces/shop/ciliumnetworkpolicies/p".to_owned(),
            object("CiliumNetworkPolicy", "p", Some("shop")),
        ),
        ("/apis/axoneme.io/v1alpha1/axonemeconfigs/default".to_owned(), object("AxonemeConfig", "default", None)),
        ("/apis/views.axoneme.io/v1alpha1/nodes/worker-1".to_owned(), object("Node", "worker-1", None)),
        (format!("{own}/pods/axoneme-agent-x/log"), Value::String(format!("started\n{}\nready", seeded()))),
    ] {
        api.put(&path, object);
    }
    api
}

#[test]
fn an_archive_holds_everything_but_secrets() {
    let api = full();
    let dir = tempfile::tempdir().unwrap();
    let out = run(&api, dir.path(), &["sysdump", "-o", "dump.tar.gz"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let files = unpacked(&dir.path().join("dump.tar.gz"));
    for (name, text) in &files {
        for (seed, _) in SEEDS.iter().copied().chain([("seedOpaque77", "")]) {
            assert!(!text.contains(seed), "{seed} is in {name}:\n{text}");
        }
    }
    let asked = api.state.lock().unwrap().asked.clone();
    assert!(!asked.iter().any(|a| a.contains("/secrets")), "{asked:?}");
    // one that is there is not written over, and nobody else reads it
    for n in 1..=2 {
        assert!(run(&api, dir.path(), &["sysdump"]).status.success());
        let mode = std::fs::metadata(dir.path().join(format!("axoneme-sysdump-{n}.tar.gz"))).unwrap().permissions();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
    }
    // what is not secret is there
    let line = |name: &str| serde_json::from_str::<Value>(files[name].lines().next().unwrap()).unwrap();
    assert_eq!(line("product/configmaps.jsonl")["data"]["mode"], "fast");
    assert_eq!(line("objects/ciliumnetworkpolicies.jsonl")["metadata"]["namespace"], "shop");
    assert_eq!(line("views/nodes.jsonl")["metadata"]["name"], "worker-1");
    assert_eq!(line("cluster/nodes.jsonl")["metadata"]["labels"]["app"], "web");
    assert!(files["cluster/version.json"].contains("v1.37.0"));
    let log = &files["logs/axoneme-agent-x/agent.log"];
    assert!(log.starts_with("started\n") && log.ends_with("\nready") && log.contains("[REDACTED]"), "{log}");
    let index: Value = serde_json::from_str(&files["index.json"]).unwrap();
    let parts = index["parts"].as_array().unwrap();
    assert!(parts.iter().all(|p| p["present"] == true), "{parts:#?}");
    assert_eq!(parts.len() + 1, files.len());
    let pods = parts.iter().find(|p| p["name"] == "product/pods.jsonl").unwrap();
    assert!(pods["redacted"].as_u64().unwrap() > 10 && pods["count"] == 1, "{pods}");
}

#[test]
fn what_cannot_be_had_is_named_and_the_rest_is_there() {
    let api = full();
    api.trap(|_, path| {
        if path.contains("views.axoneme.io") {
            return Some((404, "the server could not find the requested resource".to_owned()));
        }
        path.ends_with("/events").then(|| (403, "events is forbidden: token=seedSaid77".to_owned()))
    });
    let dir = tempfile::tempdir().unwrap();
    let out = run(&api, dir.path(), &["sysdump", "-o", "dump.tar.gz"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let told = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(told.contains("missing: product/events.jsonl: ") && told.contains("events is forbidden"), "{told}");
    assert!(!told.contains("seedSaid77"), "{told}");
    let files = unpacked(&dir.path().join("dump.tar.gz"));
    let index: Value = serde_json::from_str(&files["index.json"]).unwrap();
    let missing: Vec<_> = index["parts"].as_array().unwrap().iter().filter(|p| p["present"] == false).collect();
    assert_eq!(missing.len(), 5, "{missing:#?}");
    assert!(files.contains_key("product/pods.jsonl") && !files.contains_key("product/events.jsonl"));
    assert!(!files["index.json"].contains("seedSaid77"));

    // a server that does not answer at all leaves no archive
    let out = run(&api, dir.path(), &["sysdump", "-o", "none.tar.gz", "--context", "gone"]);
    assert_eq!(out.status.code(), Some(3));
    assert!(!dir.path().join("none.tar.gz").exists());
}
