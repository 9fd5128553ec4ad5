//! `axoneme config`, against an API server in memory and on files.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests fail as tests do")]
#![allow(dead_code, reason = "what tests of other commands ask of the API server")]

mod apiserver;

use std::{
    fs,
    process::{Command, Output},
};

use apiserver::ApiServer;
use serde_json::{Value, json};

const CONFIG: &str = "/apis/axoneme.io/v1alpha1/axonemeconfigs/default";

fn run(api: &ApiServer, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_axoneme")).args(args).arg("--kubeconfig").arg(&api.kubeconfig).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn object(spec: &Value) -> Value {
    json!({"apiVersion": "axoneme.io/v1alpha1", "kind": "AxonemeConfig",
        "metadata": {"name": "default", "generation": 4, "resourceVersion": "9", "managedFields": [
            {"manager": "flux", "operation": "Apply", "fieldsV1": {"f:spec": {"f:routing": {"f:mode": {}}}}}]},
        "spec": spec, "status": {"observedGeneration": 4, "nodes": {"applied": 2, "total": 2}}})
}

fn with_nodes(api: &ApiServer) {
    for (name, overrides) in [
        ("worker-1", json!([{"setting": "spec.mtu", "value": "9000", "cluster": "", "from": "kube-system/jumbo"}])),
        ("worker-2", json!([])),
    ] {
        let node = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": name},
            "status": {"overrides": overrides}});
        api.put(&format!("/apis/cilium.io/v2/ciliumnodes/{name}"), node);
    }
}

#[test]
fn view_tells_each_setting_and_who_has_set_it() {
    let api = ApiServer::start();
    with_nodes(&api);
    api.put(CONFIG, object(&json!({"routing": {"mode": "Native"}})));
    let out = run(&api, &["config", "view", "--changed"]);
    assert!(out.status.success(), "{}", complaint(&out));
    assert_eq!(
        text(&out),
        "in force on 2 of 2 nodes\n\
         SETTING            VALUE   FROM\n\
         spec.mtu           -       default\n\
         \x20\x20on worker-1      9000    CiliumNodeConfig kube-system/jumbo\n\
         spec.routing.mode  Native  AxonemeConfig, set by flux\n"
    );
    let out = run(&api, &["config", "view", "-o", "json", "spec.routing"]);
    let report: Value = serde_json::from_str(&text(&out)).unwrap();
    let paths: Vec<_> = report["settings"].as_array().unwrap().iter().map(|s| s["path"].as_str().unwrap()).collect();
    assert!(paths.contains(&"spec.routing.overlay.protocol") && paths.iter().all(|p| p.starts_with("spec.routing.")));
    let out = run(&api, &["config", "view", "spec.routingg"]);
    assert_eq!((out.status.code(), complaint(&out).contains("no such setting")), (Some(2), true));
}

#[test]
fn view_of_a_cluster_without_settings_is_the_defaults() {
    let api = ApiServer::start();
    let out = run(&api, &["config", "view"]);
    assert!(out.status.success(), "{}", complaint(&out));
    let text = text(&out);
    assert!(text.starts_with("there is no AxonemeConfig") && text.contains("spec.conntrack.maxEntries"), "{text}");
    assert!(text.lines().skip(2).all(|line| line.ends_with("default")), "{text}");
}

#[test]
fn set_keeps_what_was_set_before_and_fights_nobody() {
    let api = ApiServer::start();
    api.put(CONFIG, object(&json!({"routing": {"mode": "Native"}})));
    let out = run(&api, &["config", "set", "spec.mtu=1400"]);
    assert!(out.status.success(), "{}", complaint(&out));
    assert!(text(&out).contains("spec.mtu: - → 1400  (live; "), "{}", text(&out));
    let out = run(&api, &["config", "set", "spec.policy.enforcement=Always", "spec.agent.devices=eth0,eth1"]);
    assert!(out.status.success(), "{}", complaint(&out));
    let spec = api.get(CONFIG).unwrap()["spec"].clone();
    let expected = json!({"routing": {"mode": "Native"}, "mtu": 1400, "policy": {"enforcement": "Always"},
        "agent": {"devices": ["eth0", "eth1"]}});
    assert_eq!(spec, expected);
    assert_eq!(api.writes().len(), 2);

    // the default again
    let out = run(&api, &["config", "set", "spec.mtu-"]);
    assert!(out.status.success(), "{}", complaint(&out));
    assert_eq!(api.get(CONFIG).unwrap()["spec"]["mtu"], Value::Null);

    // a field of another manager
    let out = run(&api, &["config", "set", "spec.routing.mode=Overlay"]);
    assert_eq!(out.status.code(), Some(4));
    assert!(complaint(&out).contains("spec.routing.mode is set by flux"), "{}", complaint(&out));
    assert_eq!(api.get(CONFIG).unwrap()["spec"]["routing"]["mode"], "Native");
    let out = run(&api, &["config", "set", "spec.routing.mode=Overlay", "--force-conflicts"]);
    assert!(out.status.success(), "{}", complaint(&out));
    assert_eq!(api.get(CONFIG).unwrap()["spec"]["routing"]["mode"], "Overlay");
}

#[test]
fn set_is_judged_before_anything_is_sent() {
    let api = ApiServer::start();
    api.put(CONFIG, object(&json!({})));
    let out = run(&api, &["config", "set", "spec.mtu=12", "spec.routing.mode=Magic"]);
    let told = complaint(&out);
    assert_eq!(out.status.code(), Some(2));
    assert!(told.contains("spec.mtu: 12: ") && told.contains("spec.routing.mode: \"Magic\": "), "{told}");
    assert_eq!(api.writes(), [""; 0]);

    let out = run(&api, &["config", "set", "spec.mtu=1400", "--dry-run"]);
    assert!(out.status.success() && text(&out).contains("nothing was stored"), "{}", text(&out));
    assert_eq!(api.writes(), [""; 0]);
}

#[test]
fn diff_and_plan_say_what_a_file_would_change_where_and_how() {
    let api = ApiServer::start();
    with_nodes(&api);
    api.put(CONFIG, object(&json!({"routing": {"mode": "Native"}})));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    fs::write(
        &file,
        "{apiVersion: axoneme.io/v1alpha1, kind: AxonemeConfig, metadata: {name: default}, \
         spec: {routing: {mode: Native}, mtu: 1400, podDevice: Netkit, ipam: {mode: CRD}}}",
    )
    .unwrap();
    let path = file.to_str().unwrap();
    let out = run(&api, &["config", "diff", "-f", path]);
    assert_eq!(out.status.code(), Some(1), "{}", complaint(&out));
    assert_eq!(
        text(&out),
        "SETTING         CLUSTER      FILE\n\
         spec.ipam.mode  ClusterPool  CRD\n\
         spec.mtu        -            1400\n\
         spec.podDevice  Veth         Netkit\n"
    );
    let out = run(&api, &["config", "plan", "-f", path, "-o", "json"]);
    assert_eq!(out.status.code(), Some(1), "the IPAM mode can't change");
    let plan: Value = serde_json::from_str(&text(&out)).unwrap();
    let step = |path: &str| plan["steps"].as_array().unwrap().iter().find(|s| s["path"] == path).unwrap().clone();
    assert_eq!((&step("spec.ipam.mode")["change"], &step("spec.ipam.mode")["nodes"]), (&json!("refused"), &json!([])));
    assert_eq!(step("spec.podDevice")["change"], "newPods");
    assert_eq!(step("spec.podDevice")["nodes"], json!(["worker-1", "worker-2"]));
    // a node with an MTU of its own keeps it
    assert_eq!(step("spec.mtu")["nodes"], json!(["worker-2"]));
    assert_eq!(step("spec.mtu")["unaffected"], json!(["worker-1"]));
    assert_eq!(api.writes(), [""; 0]);

    fs::write(
        &file,
        "{apiVersion: axoneme.io/v1alpha1, kind: AxonemeConfig, metadata: {name: default}, spec: {mtu: 1}}",
    )
    .unwrap();
    let out = run(&api, &["config", "plan", "-f", path]);
    assert_eq!(out.status.code(), Some(5));
    assert!(complaint(&out).contains("spec.mtu: 1: "), "{}", complaint(&out));
}

#[test]
fn a_wrong_context_a_dead_server_and_a_refusal_are_told_apart() {
    let api = ApiServer::start();
    let out = run(&api, &["config", "view", "--context", "prod"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(complaint(&out).contains("--context: \"prod\": no such context in the kubeconfig; there are lab, gone"));
    let out = run(&api, &["config", "view", "--context", "gone"]);
    assert_eq!(out.status.code(), Some(3), "{}", complaint(&out));
    assert!(complaint(&out).contains("context gone (http://127.0.0.1:9/)"), "{}", complaint(&out));
    api.trap(|_, _| Some((403, "axonemeconfigs.axoneme.io is forbidden: User \"me\" cannot get".to_owned())));
    let out = run(&api, &["config", "view"]);
    assert_eq!(out.status.code(), Some(4));
    assert!(complaint(&out).contains("forbidden"), "{}", complaint(&out));
}

#[test]
fn settings_of_cilium_become_an_axoneme_config_and_none_is_passed_over() {
    let api = ApiServer::start();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cilium-config"}, "data": {
        "routing-mode": "native", "ipv4-native-routing-cidr": "10.0.0.0/8", "enable-l7-proxy": "true",
        "enable-wireguard": "true", "enable-ipv7": "1"}});
    api.put("/api/v1/namespaces/kube-system/configmaps/cilium-config", map);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out.yaml");
    let args = ["config", "from-cilium", "--namespace", "kube-system", "--write", file.to_str().unwrap()];
    let out = run(&api, &args);
    assert_eq!(out.status.code(), Some(1));
    let lists = text(&out);
    for part in [
        "Maps (2)",
        "  ipv4-native-routing-cidr → spec.routing.native.ipv4CIDR = 10.0.0.0/8",
        "Has no meaning here (1)",
        "  enable-l7-proxy: \"true\": a parameter of the L7 proxy",
        "Unknown, removed, or not to be had (2)",
        "  ✗ enable-ipv7: \"1\": no setting of Cilium 1.20",
        "  ✗ enable-wireguard: \"true\": encryption between nodes is not there yet",
    ] {
        assert!(lists.contains(part), "{part:?} is not in\n{lists}");
    }
    let written: Value = serde_saphyr::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(written["spec"], json!({"routing": {"mode": "Native", "native": {"ipv4CIDR": "10.0.0.0/8"}}}));
    axoneme_intake::config(&written).unwrap();
    assert!(run(&api, &[&args[..], &["--allow-unknown"]].concat()).status.success());

    // and as the object alone, for a pipe
    let values = dir.path().join("values.yaml");
    fs::write(&values, "tunnelProtocol: geneve\nipv6: {enabled: true}\n").unwrap();
    let out = run(&api, &["config", "from-cilium", "-f", values.to_str().unwrap(), "--write", "-"]);
    assert!(out.status.success(), "{}", complaint(&out));
    let written: Value = serde_saphyr::from_str(&text(&out)).unwrap();
    assert_eq!(written["spec"]["routing"]["overlay"]["protocol"], "Geneve");
    let out = run(&api, &["config", "from-cilium", "--namespace", "nowhere"]);
    assert_eq!((out.status.code(), complaint(&out).contains("ConfigMap nowhere/cilium-config")), (Some(2), true));
}

#[test]
fn nodes_are_told_as_the_operator_sees_them() {
    let api = ApiServer::start();
    let out = run(&api, &["nodes"]);
    assert!(out.status.success() && text(&out).starts_with("NODE"), "{}", complaint(&out));
    let node = |name: &str, status: Value| {
        let object = json!({"apiVersion": "views.axoneme.io/v1alpha1", "kind": "Node", "metadata": {"name": name},
            "status": status});
        api.put(&format!("/apis/views.axoneme.io/v1alpha1/nodes/{name}"), object);
    };
    let ready = json!({"state": "Ready", "endpoints": 12, "revision": 412, "addresses": ["10.9.0.4"], "podCidrs": ["10.0.1.0/24"]});
    node("worker-1", ready);
    assert!(run(&api, &["nodes"]).status.success());
    node(
        "worker-2",
        json!({"state": "Drifted", "endpoints": 3, "addresses": [], "podCidrs": [], "drift": ["map full"]}),
    );
    let out = run(&api, &["nodes"]);
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(
        text(&out),
        "NODE      STATE    PODS  REVISION  DRIFT  ADDRESSES  POD CIDRS\n\
         worker-1  Ready    12    412       0      10.9.0.4   10.0.1.0/24\n\
         worker-2  Drifted  3     -         1\n  ✗ worker-2: map full\n"
    );
    assert!(run(&api, &["nodes", "worker-1"]).status.success());
    assert_eq!(run(&api, &["nodes", "worker-9"]).status.code(), Some(2));
    api.trap(|_, _| Some((404, "the server could not find the requested resource".to_owned())));
    let out = run(&api, &["nodes"]);
    assert_eq!(out.status.code(), Some(4));
    assert!(complaint(&out).contains("views.axoneme.io is not served: no operator leads"), "{}", complaint(&out));
}
