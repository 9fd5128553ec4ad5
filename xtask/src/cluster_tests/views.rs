//! What `kubectl` is told of the operator's state, who may see it, and that nothing suffers when nobody tells.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Scenario;
use super::fixture::{Fixture, SOON, Server};
use crate::lab::{Lab, SYSTEM};

pub(super) fn scenarios() -> Vec<Scenario> {
    let named: &[super::Named] = &[
        ("views_show_endpoints_identities_nodes_and_tables_as_kubectl_asks", shown),
        ("views_are_explained_and_paged_and_selected", asked),
        ("a_watched_view_tells_a_pod_that_comes_and_goes", watched),
        ("an_app_team_sees_the_views_of_its_namespace_only", team),
        ("a_namespace_is_deleted_while_no_operator_runs", away),
    ];
    super::boxed(named)
}

const API: &str = "v1alpha1.views.axoneme.io";
const TEAM: &str = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: team, namespace: lab}\n---\n\
    apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: team, namespace: lab}\n\
    roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}\n\
    subjects: [{kind: ServiceAccount, name: team, namespace: lab}]\n";

/// Until the API server has the views' word.
fn served(lab: &Lab) -> Result<()> {
    let available = || {
        let words = [
            "get",
            "apiservice",
            API,
            "--ignore-not-found",
            "-o",
            "jsonpath={.status.conditions[?(@.type==\"Available\")].status}",
        ];
        lab.cluster.kubectl(&words)
    };
    Lab::eventually("the views are available", SOON, available, |s| s == "True").map(drop)
}

fn table(lab: &Lab, words: &[&str]) -> Result<Vec<Vec<String>>> {
    let text = lab.cluster.kubectl(words)?;
    Ok(text.lines().map(|l| l.split_whitespace().map(str::to_owned).collect()).collect())
}

fn shown(lab: &Lab, fixture: &Fixture) -> Result<()> {
    served(lab)?;
    let [client, _] = &fixture.client;
    let name = client.name.as_str();
    let ready = || table(lab, &["get", "endpoints.views.axoneme.io", "-n", "lab", name, "--no-headers"]);
    let is_ready = |rows: &Vec<Vec<String>>| rows.first().and_then(|r| r.get(1)).is_some_and(|s| s == "Ready");
    Lab::eventually("the client's endpoint is ready", SOON, ready, is_ready)?;
    let object = lab.get(&["-n", "lab", "endpoints.views.axoneme.io", name])?;
    let addresses: Vec<&str> = object
        .pointer("/status/addresses")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    ensure!(addresses == client.addresses.iter().map(String::as_str).collect::<Vec<_>>(), "{addresses:?}: {object}");
    let pod = lab.get(&["-n", "lab", "pod", name])?;
    ensure!(object.pointer("/metadata/uid") == pod.pointer("/metadata/uid"), "another pod's uid: {object}");
    let all = lab.cluster.kubectl(&["get", "endpoints.views.axoneme.io", "-A", "-o", "wide"])?;
    for column in
        ["NAMESPACE", "STATE", "IDENTITY", "INGRESS", "ADDRESSES", "NODE", "TABLE", "SERVICE ACCOUNT", "LABELS"]
    {
        ensure!(all.contains(column), "no {column} in {all}");
    }
    ensure!(all.lines().any(|l| l.starts_with("kube-system")) && all.contains(name), "{all}");
    let identity = object.pointer("/status/identity").and_then(Value::as_u64).context("an identity")?.to_string();
    let told = lab.get(&["identities.views.axoneme.io", &identity])?;
    let stored = lab.get(&["ciliumidentity", &identity])?;
    let labels = told.pointer("/status/labels").and_then(Value::as_array).map_or(0, Vec::len);
    let of_object = stored.get("security-labels").and_then(Value::as_object).map_or(0, serde_json::Map::len);
    ensure!(labels == of_object && labels > 0, "{told} is not {stored}");
    let table_id = object.pointer("/status/policyTable").and_then(Value::as_str).context("a table")?;
    let tables = lab.get(&["-n", "lab", "policytables.views.axoneme.io", table_id])?;
    ensure!(tables.pointer("/status/endpoints").and_then(Value::as_u64) > Some(0), "{tables}");
    let nodes = || table(lab, &["get", "nodes.views.axoneme.io", "--no-headers"]);
    let all_ready =
        |rows: &Vec<Vec<String>>| rows.len() >= 2 && rows.iter().all(|r| r.get(1).is_some_and(|s| s == "Ready"));
    Lab::eventually("both nodes' datapaths are ready", SOON, nodes, all_ready).map(drop)
}

fn asked(lab: &Lab, _: &Fixture) -> Result<()> {
    served(lab)?;
    let explained =
        lab.cluster.kubectl(&["explain", "endpoints.status.policyTable", "--api-version=views.axoneme.io/v1alpha1"])?;
    ensure!(
        explained.contains("KIND:       Endpoint") && explained.contains("policy table that is enforced"),
        "{explained}"
    );
    let resources =
        lab.cluster.kubectl(&["api-resources", "--api-group=views.axoneme.io", "--no-headers", "-o", "name"])?;
    ensure!(resources.lines().count() == 4, "{resources}");
    // its own names stay Kubernetes' own
    let own = lab.cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].apiVersion}"])?;
    ensure!(own == "v1", "kubectl get nodes means {own}");
    let all = table(lab, &["get", "endpoints.views.axoneme.io", "-A", "--no-headers"])?;
    let paged = table(lab, &["get", "endpoints.views.axoneme.io", "-A", "--no-headers", "--chunk-size=2"])?;
    ensure!(all == paged, "{all:?} by pages is {paged:?}");
    let there =
        table(lab, &["get", "endpoints.views.axoneme.io", "-A", "--no-headers", "--field-selector=status.node=node1"])?;
    let elsewhere = table(
        lab,
        &["get", "endpoints.views.axoneme.io", "-A", "--no-headers", "--field-selector=status.node!=node1"],
    )?;
    ensure!(
        !there.is_empty() && there.len() + elsewhere.len() == all.len(),
        "{there:?} and {elsewhere:?} are not {all:?}"
    );
    let labelled =
        table(lab, &["get", "endpoints.views.axoneme.io", "-n", "lab", "--no-headers", "-l", "app in (client)"])?;
    ensure!(labelled.len() == 2, "{labelled:?}");
    let refused = lab.cluster.kubectl(&["get", "endpoints.views.axoneme.io", "--field-selector=spec.x=y"]);
    let why = refused.err().map(|e| format!("{e:#}")).context("an unknown field selects")?;
    ensure!(why.contains("field label not supported") && why.contains("status.node"), "{why}");
    let deleted = lab.cluster.kubectl(&["-n", "lab", "delete", "endpoints.views.axoneme.io", "--all"]);
    ensure!(deleted.is_err(), "a view was deleted");
    Ok(())
}

fn watched(lab: &Lab, _: &Fixture) -> Result<()> {
    served(lab)?;
    let words = [
        "-n",
        "other",
        "get",
        "endpoints.views.axoneme.io",
        "--watch",
        "--output-watch-events",
        "--field-selector=metadata.name=watched",
    ];
    let child = lab.cluster.kubectl_command().args(words).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = Server(child.context("kubectl")?);
    let lines = BufReader::new(child.0.stdout.take().context("stdout")?).lines();
    let (told, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|l| told.send(l)));
    lab.cluster.kubectl(&[
        "-n",
        "other",
        "run",
        "watched",
        "--image=ghcr.io/axoneme/workload:dev",
        "--restart=Never",
    ])?;
    let next = |what: &str| -> Result<()> {
        while let Ok(line) = heard.recv_timeout(SOON) {
            if line.contains(what) {
                return Ok(());
            }
        }
        anyhow::bail!("the watch tells no {what}")
    };
    let came = next("ADDED");
    lab.cluster.kubectl(&["-n", "other", "delete", "pod", "watched", "--wait=false"])?;
    came.and_then(|()| next("DELETED"))
}

fn team(lab: &Lab, _: &Fixture) -> Result<()> {
    served(lab)?;
    lab.apply(TEAM)?;
    let user = "--as=system:serviceaccount:lab:team";
    let can = |words: &[&str]| {
        let all: Vec<&str> = ["auth", "can-i"].iter().chain(words).copied().chain([user]).collect();
        // it ends with an error where the answer is no
        lab.cluster.kubectl(&all).is_ok_and(|t| t.trim() == "yes")
    };
    // roles are put together by a controller
    let may = || Ok(can(&["list", "endpoints.views.axoneme.io", "-n", "lab"]));
    let outcome = Lab::eventually("the team may list its endpoints", SOON, may, |yes| *yes).and_then(|_| {
        for refused in [
            &["list", "endpoints.views.axoneme.io", "-n", "other"][..],
            &["list", "endpoints.views.axoneme.io", "-A"],
            &["list", "identities.views.axoneme.io"],
            &["list", "nodes.views.axoneme.io"],
        ] {
            ensure!(!can(refused), "the team may {refused:?}");
        }
        let own = lab.cluster.kubectl(&[
            "-n",
            "lab",
            "get",
            "endpoints.views.axoneme.io,policytables.views.axoneme.io",
            user,
        ])?;
        ensure!(own.contains("client"), "{own}");
        for words in [
            &["-n", "other", "get", "endpoints.views.axoneme.io", user][..],
            &["get", "endpoints.views.axoneme.io", "-A", user],
            &["get", "nodes.views.axoneme.io", user],
        ] {
            let why = lab.cluster.kubectl(words).err().map(|e| format!("{e:#}")).context("not refused")?;
            ensure!(why.contains("forbidden") && why.contains("system:serviceaccount:lab:team"), "{why}");
        }
        Ok(())
    });
    lab.cluster.kubectl(&["-n", "lab", "delete", "rolebinding/team", "serviceaccount/team"])?;
    outcome
}

fn away(lab: &Lab, _: &Fixture) -> Result<()> {
    served(lab)?;
    let namespace = "views-away";
    lab.cluster.kubectl(&["create", "namespace", namespace])?;
    lab.cluster.kubectl(&["-n", SYSTEM, "scale", "deployment/axoneme-operator", "--replicas=0"])?;
    let gone = || lab.pods(SYSTEM, "app.kubernetes.io/name=axoneme-operator").map(|p| p.len());
    let deleted = Lab::eventually("operators are gone", SOON, gone, |n| *n == 0).and_then(|_| {
        let left = lab.cluster.kubectl(&["get", "apiservice", API, "--ignore-not-found", "-o", "name"])?;
        ensure!(left.is_empty(), "{left} is there though nobody answers for it");
        lab.cluster.kubectl(&["delete", "namespace", namespace, "--timeout=60s"])
    });
    lab.cluster.kubectl(&["-n", SYSTEM, "scale", "deployment/axoneme-operator", "--replicas=1"])?;
    lab.rollout(SYSTEM, "deployment/axoneme-operator")?;
    deleted?;
    served(lab)
}
