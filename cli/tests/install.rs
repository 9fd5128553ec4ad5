//! `axoneme install`, `upgrade` and `uninstall`, against an API server in memory.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests fail as tests do")]
#![allow(dead_code, reason = "what tests of other commands ask of the API server")]

mod apiserver;

use std::{
    fs,
    process::{Command, Output},
};

use apiserver::ApiServer;
use serde_json::{Value, json};

const AGENT: &str = "/apis/apps/v1/namespaces/axoneme-system/daemonsets/axoneme-agent";
const OPERATOR: &str = "/apis/apps/v1/namespaces/axoneme-system/deployments/axoneme-operator";
const UNINSTALLER: &str = "/apis/apps/v1/namespaces/axoneme-system/daemonsets/axoneme-uninstall";
const CONFIG: &str = "/apis/axoneme.io/v1alpha1/axonemeconfigs/default";
const CRD: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/";

fn run(api: &ApiServer, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_axoneme")).args(args).arg("--kubeconfig").arg(&api.kubeconfig).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn good(output: &Output) -> String {
    assert!(output.status.success(), "{}\n{}", text(output), complaint(output));
    text(output)
}

#[test]
fn a_second_installation_changes_nothing() {
    let api = ApiServer::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    let config = "{apiVersion: axoneme.io/v1alpha1, kind: AxonemeConfig, metadata: {name: default}, spec: {mtu: 1400}}";
    fs::write(&file, config).unwrap();
    let args = ["install", "-f", file.to_str().unwrap(), "--wait", "20"];
    let told = good(&run(&api, &args));
    assert!(told.contains("cluster: context lab (http://127.0.0.1:"), "{told}");
    assert!(told.contains("DaemonSet axoneme-system/axoneme-agent created") && told.contains("are ready"), "{told}");
    let writes = api.writes();
    let place = |path: &str| {
        writes.iter().position(|w| w == &format!("CREATE {path}")).unwrap_or_else(|| panic!("{path}: {writes:#?}"))
    };
    assert_eq!(place("/api/v1/namespaces/axoneme-system"), 0);
    let order = [
        format!("{CRD}axonemeconfigs.axoneme.io"),
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/axoneme-operator".to_owned(),
        CONFIG.to_owned(),
        AGENT.to_owned(),
        OPERATOR.to_owned(),
        "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/axoneme".to_owned(),
    ];
    assert!(order.windows(2).all(|pair| place(&pair[0]) < place(&pair[1])), "{writes:#?}");
    assert_eq!(api.get(CONFIG).unwrap()["spec"]["mtu"], 1400);

    let told = good(&run(&api, &args));
    assert!(told.contains("0 created, 0 changed, "), "{told}");
    assert_eq!(api.writes(), [""; 0]);
}

#[test]
fn an_installation_that_broke_off_is_finished_by_the_same_command() {
    let api = ApiServer::start();
    let mut left = 12;
    api.trap(move |method, _| {
        left -= i32::from(method == "PATCH");
        (method == "PATCH" && left < 0).then(|| (403, "the quota is used up".to_owned()))
    });
    let out = run(&api, &["install"]);
    assert_eq!(out.status.code(), Some(4));
    let told = complaint(&out);
    assert!(told.contains("the quota is used up") && told.contains("12 of "), "{told}");
    assert!(told.contains("the same command goes on from there"), "{told}");
    assert_eq!(api.writes().len(), 12);
    assert_eq!(api.get(AGENT), None);

    api.trap(|_, _| None);
    let told = good(&run(&api, &["install", "--wait"]));
    assert!(told.contains(", 0 changed, 12 unchanged"), "{told}");
    assert!(api.get(AGENT).is_some() && api.get(OPERATOR).is_some());
}

#[test]
fn a_server_that_is_busy_for_a_moment_is_asked_again() {
    let api = ApiServer::start();
    let mut failures = 2;
    api.trap(move |_, path| {
        if path == AGENT && failures > 0 {
            failures -= 1;
            return Some((503, "the server is currently unable to handle the request".to_owned()));
        }
        None
    });
    good(&run(&api, &["install"]));
    assert!(api.get(AGENT).is_some());
}

#[test]
fn nothing_is_done_in_a_wrong_cluster_or_with_wrong_settings() {
    let api = ApiServer::start();
    let out = run(&api, &["install", "--context", "prod"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(complaint(&out).contains("no such context in the kubeconfig; there are lab, gone"), "{}", complaint(&out));
    let out = run(&api, &["install", "--context", "gone"]);
    assert_eq!(out.status.code(), Some(3));
    assert!(complaint(&out).contains("0 of "), "{}", complaint(&out));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    fs::write(
        &file,
        "{apiVersion: axoneme.io/v1alpha1, kind: AxonemeConfig, metadata: {name: default}, spec: {mtu: 1}}",
    )
    .unwrap();
    let out = run(&api, &["install", "-f", file.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(5));
    assert!(complaint(&out).contains("spec.mtu: 1: "), "{}", complaint(&out));
    let out = run(&api, &["upgrade"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(complaint(&out).contains("to upgrade: axoneme install"), "{}", complaint(&out));
    assert_eq!(api.writes(), [""; 0]);
}

#[test]
fn a_dry_run_stores_nothing() {
    let api = ApiServer::start();
    let told = good(&run(&api, &["install", "--dry-run"]));
    assert!(told.contains("would be created") && told.contains("nothing was stored"), "{told}");
    good(&run(&api, &["install"]));
    api.writes();
    let told = good(&run(&api, &["install", "--dry-run", "--tag", "v2"]));
    assert!(told.contains("DaemonSet axoneme-system/axoneme-agent would be changed"), "{told}");
    let told = good(&run(&api, &["uninstall", "--dry-run", "-o", "json"]));
    let report: Value = serde_json::from_str(&told).unwrap();
    let removed: Vec<_> = report["removed"].as_array().unwrap().iter().map(|r| r.as_str().unwrap()).collect();
    assert!(removed.contains(&"DaemonSet axoneme-system/axoneme-agent"), "{removed:?}");
    assert_eq!(removed.iter().filter(|r| r.starts_with("Deployment")).count(), 2, "{removed:?}");
    assert_eq!(api.writes(), [""; 0]);
}

#[test]
fn an_upgrade_changes_what_differs_and_kinds_of_others_are_left_alone() {
    let api = ApiServer::start();
    let foreign = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "ciliumnetworkpolicies.cilium.io"}, "spec": {"group": "cilium.io"},
        "status": {"conditions": [{"type": "Established", "status": "True"}]}});
    let path = format!("{CRD}ciliumnetworkpolicies.cilium.io");
    api.put(&path, foreign.clone());
    let told = good(&run(&api, &["install"]));
    assert!(told.contains("ciliumnetworkpolicies.cilium.io left alone"), "{told}");
    api.writes();
    let told = good(&run(&api, &["upgrade", "--tag", "v2"]));
    assert!(told.contains("0 created, 3 changed"), "{told}");
    assert_eq!(api.writes().len(), 3);
    let image = &api.get(AGENT).unwrap()["spec"]["template"]["spec"]["containers"][0]["image"];
    assert_eq!(image, "ghcr.io/axoneme/agent:v2");
    assert_eq!(api.get(&path).unwrap(), foreign);
}

#[test]
fn a_field_that_another_manager_has_set_is_not_taken_unasked() {
    let api = ApiServer::start();
    good(&run(&api, &["install"]));
    let mut object = api.get(OPERATOR).unwrap();
    object["spec"]["replicas"] = json!(3);
    object["metadata"]["managedFields"] =
        json!([{"manager": "flux", "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}}]);
    api.put(OPERATOR, object);
    let out = run(&api, &["install"]);
    assert_eq!(out.status.code(), Some(4));
    let told = complaint(&out);
    assert!(told.contains("Deployment axoneme-system/axoneme-operator: ") && told.contains("flux"), "{told}");
    assert!(told.contains("--force-conflicts"), "{told}");
    assert_eq!(api.get(OPERATOR).unwrap()["spec"]["replicas"], 3);
    good(&run(&api, &["install", "--force-conflicts"]));
    assert_eq!(api.get(OPERATOR).unwrap()["spec"]["replicas"], 1);
}

#[test]
fn what_does_not_become_ready_is_named_with_what_its_pods_say() {
    let api = ApiServer::start();
    api.state.lock().unwrap().unready.push(AGENT.to_owned());
    api.put(
        "/api/v1/namespaces/axoneme-system/pods/axoneme-agent-x",
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "axoneme-agent-x", "namespace": "axoneme-system"},
            "spec": {"nodeName": "worker-2"}, "status": {"containerStatuses": [{"name": "agent",
                "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]}}),
    );
    let out = run(&api, &["install", "--wait", "0"]);
    assert_eq!(out.status.code(), Some(1), "{}", complaint(&out));
    let told = complaint(&out);
    assert!(told.contains("DaemonSet axoneme-agent: 1 of 2 pods are ready"), "{told}");
    assert!(told.contains("pod axoneme-agent-x (worker-2): agent: ImagePullBackOff: no such image"), "{told}");
}

#[test]
fn uninstall_cleans_the_nodes_first_and_says_what_it_leaves() {
    let api = ApiServer::start();
    good(&run(&api, &["install", "--tag", "v7"]));
    api.put(
        CONFIG,
        json!({"apiVersion": "axoneme.io/v1alpha1", "kind": "AxonemeConfig", "metadata": {"name": "default"}}),
    );
    let secret = "/api/v1/namespaces/axoneme-system/secrets/axoneme-ca";
    api.put(secret, json!({"kind": "Secret", "metadata": {"name": "axoneme-ca"}}));
    api.writes();
    let told = good(&run(&api, &["uninstall", "--wait"]));
    let writes = api.writes();
    let place = |what: &str| writes.iter().position(|w| w == what).unwrap_or_else(|| panic!("{what}: {writes:#?}"));
    let order = [
        "DELETE /apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/axoneme".to_owned(),
        format!("DELETE {OPERATOR}"),
        format!("DELETE {AGENT}"),
        format!("DELETE {UNINSTALLER}"),
        "DELETE /apis/rbac.authorization.k8s.io/v1/clusterroles/axoneme-operator".to_owned(),
        "DELETE /api/v1/namespaces/axoneme-system".to_owned(),
    ];
    assert!(order.windows(2).all(|pair| place(&pair[0]) < place(&pair[1])), "{writes:#?}");
    assert!(told.contains("left: kind axonemeconfigs.axoneme.io with 1 objects; --purge removes both"), "{told}");
    assert!(told.contains("removed DaemonSet axoneme-system/axoneme-agent"), "{told}");
    let state = api.state.lock().unwrap();
    let rest: Vec<_> = state.objects.keys().filter(|path| !path.starts_with(CRD)).collect();
    assert_eq!(rest, [CONFIG]);
    drop(state);

    good(&run(&api, &["uninstall", "--purge"]));
    let state = api.state.lock().unwrap();
    assert_eq!(state.objects.keys().filter(|path| path.starts_with(CRD)).count(), 0);
    drop(state);
    api.writes();
    let told = good(&run(&api, &["uninstall"]));
    assert!(told.contains("0 objects removed"), "{told}");
    assert_eq!(api.writes(), [""; 0]);
}

#[test]
fn nodes_that_are_not_clean_keep_what_cleans_them_and_the_next_run_goes_on() {
    let api = ApiServer::start();
    good(&run(&api, &["install", "--tag", "v7"]));
    api.state.lock().unwrap().unready.push(UNINSTALLER.to_owned());
    let out = run(&api, &["uninstall", "--timeout", "1"]);
    assert_eq!(out.status.code(), Some(1), "{}", complaint(&out));
    let told = complaint(&out);
    assert!(told.contains("DaemonSet axoneme-uninstall: 1 of 2 pods are ready"), "{told}");
    assert!(told.contains("the same command goes on"), "{told}");
    assert_eq!(api.get(AGENT), None);
    assert!(api.get("/apis/rbac.authorization.k8s.io/v1/clusterroles/axoneme-operator").is_some());
    api.state.lock().unwrap().unready.clear();
    // the agents are gone, their image is known all the same
    let object = api.get(UNINSTALLER).unwrap();
    assert_eq!(object["spec"]["template"]["spec"]["containers"][0]["image"], "ghcr.io/axoneme/agent:v7");
    api.trap(|method, path| {
        assert!(!(method == "DELETE" && path.contains("/customresourcedefinitions/")), "{path}");
        None
    });
    good(&run(&api, &["uninstall"]));
    assert_eq!(api.get("/api/v1/namespaces/axoneme-system"), None);
}
